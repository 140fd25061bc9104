package storage

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// NamedBlobs returns the size of every blob that a row names, by digest. What
// was removed names none.
func (db *DB) NamedBlobs(ctx context.Context) (map[string]int64, error) {
	rows, _ := db.pool.Query(ctx, `
		SELECT b.digest, b.size FROM blobs b WHERE b.digest IN (SELECT digest FROM blob_names)`)
	named := map[string]int64{}
	var digest string
	var size int64
	_, err := pgx.ForEachRow(rows, []any{&digest, &size}, func() error {
		named[digest] = size
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("named blobs: %w", translate(err))
	}
	return named, nil
}

// A BlobUse is a row that names a blob.
type BlobUse struct {
	Package string
	Use     string // what the blob is there, as the view blob_names has it
}

// BlobUses returns what names a blob now; nothing if it may be swept.
func (db *DB) BlobUses(ctx context.Context, digest string) ([]BlobUse, error) {
	rows, _ := db.pool.Query(ctx, `SELECT DISTINCT package, use FROM blob_names WHERE digest = $1 ORDER BY package, use`, digest)
	uses, err := pgx.CollectRows(rows, pgx.RowToStructByName[BlobUse])
	if err != nil {
		return nil, fmt.Errorf("uses of blob %s: %w", digest, translate(err))
	}
	return uses, nil
}

// ForgetBlobs removes the rows of blobs that nothing names. Those of removed
// releases stay with them.
func (db *DB) ForgetBlobs(ctx context.Context) error {
	_, err := db.pool.Exec(ctx, `
		DELETE FROM blobs b
		WHERE NOT EXISTS (SELECT FROM blob_names n WHERE n.digest = b.digest)
			AND NOT EXISTS (SELECT FROM releases r WHERE r.digest = b.digest OR r.manifest_digest = b.digest)`)
	if err != nil {
		return fmt.Errorf("forget blobs: %w", translate(err))
	}
	return nil
}

// A StoredBlob is a blob that a row names, and what is known of its bytes.
type StoredBlob struct {
	Digest    string
	Size      int64
	CheckedAt time.Time  // when they were last read and found right, or else stored
	DamagedAt *time.Time // nil while all is well
	Problem   string
}

const storedBlobColumns = `b.digest, b.size, COALESCE(b.checked_at, b.created_at) AS checked_at, b.damaged_at, b.problem`

// PackageBlobs returns the blobs that the rows of pkg name.
func (db *DB) PackageBlobs(ctx context.Context, pkg string) ([]StoredBlob, error) {
	return db.storedBlobs(ctx, `
		SELECT `+storedBlobColumns+` FROM blobs b
		WHERE b.digest IN (SELECT digest FROM blob_names WHERE package = $1)
		ORDER BY b.digest`, pkg)
}

// UncheckedBlobs returns the named blobs that nobody has read for age, those
// first that were not for longest, without those that are to be mended.
func (db *DB) UncheckedBlobs(ctx context.Context, age time.Duration, limit int) ([]StoredBlob, error) {
	return db.storedBlobs(ctx, `
		SELECT `+storedBlobColumns+` FROM blobs b
		WHERE COALESCE(b.checked_at, b.created_at) < now() - $1::interval AND b.mend_at IS NULL
			AND EXISTS (SELECT FROM blob_names n WHERE n.digest = b.digest)
		ORDER BY COALESCE(b.checked_at, b.created_at) LIMIT $2`, age, limit)
}

// DueBlobs returns the blobs that are due to be mended.
func (db *DB) DueBlobs(ctx context.Context, limit int) ([]StoredBlob, error) {
	return db.storedBlobs(ctx, `
		SELECT `+storedBlobColumns+` FROM blobs b
		WHERE b.mend_at <= now()
		ORDER BY b.mend_at LIMIT $1`, limit)
}

func (db *DB) storedBlobs(ctx context.Context, sql string, args ...any) ([]StoredBlob, error) {
	rows, _ := db.pool.Query(ctx, sql, args...)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[StoredBlob])
	if err != nil {
		return nil, fmt.Errorf("stored blobs: %w", translate(err))
	}
	return all, nil
}

// SuspectBlob has a blob read, and mended if need be, as soon as may be.
func (db *DB) SuspectBlob(ctx context.Context, digest string) error {
	_, err := db.pool.Exec(ctx, `UPDATE blobs SET mend_at = now() WHERE digest = $1 AND mend_at IS NULL`, digest)
	if err != nil {
		return fmt.Errorf("suspect blob %s: %w", digest, translate(err))
	}
	return nil
}

// BlobChecked records that the bytes of a blob were read and are right; the
// reading began at since, and what is written later has not been read.
func (db *DB) BlobChecked(ctx context.Context, digest string, since time.Time) error {
	_, err := db.pool.Exec(ctx, `
		UPDATE blobs SET checked_at = $2, damaged_at = NULL, mend_at = NULL, mend_tries = 0, problem = ''
		WHERE digest = $1`, digest, since)
	if err != nil {
		return fmt.Errorf("blob %s checked: %w", digest, translate(err))
	}
	return nil
}

// BlobDamaged records that the bytes of a blob are wrong or lost, and could
// not be mended. The packages that need it are not healthy. It is tried again
// after a minute, and after twice as long each time, at most six hours.
func (db *DB) BlobDamaged(ctx context.Context, digest, problem string) error {
	err := db.tx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			UPDATE blobs SET damaged_at = COALESCE(damaged_at, now()), problem = $2, mend_tries = mend_tries + 1,
				mend_at = now() + LEAST(interval '1 minute' * power(2, LEAST(mend_tries, 10)), interval '6 hours')
			WHERE digest = $1`, digest, problem)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			UPDATE packages SET healthy = false, probe_error = $2
			WHERE name IN (SELECT package FROM blob_names WHERE digest = $1) AND (healthy OR probe_error <> $2)`, digest, problem)
		return err
	})
	if err != nil {
		return fmt.Errorf("blob %s damaged: %w", digest, translate(err))
	}
	return nil
}

// A ScrubState says how far the reading of all blobs has come.
type ScrubState struct {
	Since   *time.Time // everything has been read since then; nil without blobs
	Bytes   int64      // of all blobs
	Behind  int        // blobs that nobody has read for longer than they may go unread
	Damaged int        // blobs whose bytes are wrong or lost
}

// Scrub returns how the reading of all blobs stands, when each is to be read
// once in period; with 0 none need be.
func (db *DB) Scrub(ctx context.Context, period time.Duration) (ScrubState, error) {
	rows, _ := db.pool.Query(ctx, `
		SELECT min(COALESCE(checked_at, created_at)) FILTER (WHERE damaged_at IS NULL) AS since, COALESCE(sum(size), 0)::bigint AS bytes,
			count(*) FILTER (WHERE $1::interval > '0' AND COALESCE(checked_at, created_at) < now() - $1::interval AND damaged_at IS NULL)::int AS behind,
			count(*) FILTER (WHERE damaged_at IS NOT NULL)::int AS damaged
		FROM blobs WHERE digest IN (SELECT digest FROM blob_names)`, period)
	s, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[ScrubState])
	if err != nil {
		return ScrubState{}, fmt.Errorf("scrub state: %w", translate(err))
	}
	return s, nil
}

// StoredBlobs returns named blobs in the order of their digests, those after
// one.
func (db *DB) StoredBlobs(ctx context.Context, after string, limit int) ([]StoredBlob, error) {
	return db.storedBlobs(ctx, `
		SELECT `+storedBlobColumns+` FROM blobs b
		WHERE b.digest > $1 AND EXISTS (SELECT FROM blob_names n WHERE n.digest = b.digest)
		ORDER BY b.digest LIMIT $2`, after, limit)
}

// TryScrub makes the caller the one that scrubs and mends, until release is
// called; ok is false if there is one already.
func (db *DB) TryScrub(ctx context.Context) (release func(), ok bool, err error) {
	conn, err := db.Connect(ctx)
	if err != nil {
		return nil, false, fmt.Errorf("lock scrub: %w", err)
	}
	release = func() { closeConn(conn) }
	err = conn.QueryRow(ctx, `SELECT pg_try_advisory_lock(hashtext('packbase scrub ' || current_schema()))`).Scan(&ok)
	if err != nil || !ok {
		release()
		return nil, false, err
	}
	return release, true, nil
}
