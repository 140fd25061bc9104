// Package scrub is the SQL of what is known of stored bytes: which rows name a
// blob, when it was last read, what is damaged; and the locks of those who
// add, delete and mend blobs.
package scrub

import (
	"context"
	"fmt"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/pg"
)

// A Store reads and writes what is known of stored bytes. It is safe for concurrent use;
// each method is one transaction.
type Store struct {
	db     *pg.DB
	shares blobShares
}

func New(db *pg.DB) *Store {
	return &Store{db: db, shares: blobShares{turn: make(chan struct{}, 1)}}
}

// Named returns the size of every blob that a row names, by digest. What
// was removed names none.
func (s *Store) Named(ctx context.Context) (map[string]int64, error) {
	rows, _ := s.db.Pool.Query(ctx, `
		SELECT b.digest, b.size FROM blobs b WHERE b.digest IN (SELECT digest FROM blob_names)`)
	named := map[string]int64{}
	var digest string
	var size int64
	_, err := pgx.ForEachRow(rows, []any{&digest, &size}, func() error {
		named[digest] = size
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("named blobs: %w", pg.Translate(err))
	}
	return named, nil
}

// Unnamed returns blobs of at most so many bytes that no row names, of those that one has named.
func (s *Store) Unnamed(ctx context.Context, most int64) ([]string, error) {
	rows, _ := s.db.Pool.Query(ctx, `
		SELECT digest FROM blobs WHERE size <= $1 AND digest NOT IN (SELECT digest FROM blob_names) ORDER BY digest`, most)
	unnamed, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("unnamed blobs: %w", pg.Translate(err))
	}
	return unnamed, nil
}

// A Use is a row that names a blob.
type Use struct {
	Package string // "" for an archive
	Use     string // what the blob is there, as the view blob_names has it
}

func (u Use) String() string {
	if u.Package == "" {
		return u.Use
	}
	return u.Use + " of " + u.Package
}

// Uses returns what names a blob now; nothing if it may be swept.
func (s *Store) Uses(ctx context.Context, digest string) ([]Use, error) {
	rows, _ := s.db.Pool.Query(ctx, `SELECT DISTINCT package, use FROM blob_names WHERE digest = $1 ORDER BY package, use`, digest)
	uses, err := pgx.CollectRows(rows, pgx.RowToStructByName[Use])
	if err != nil {
		return nil, fmt.Errorf("uses of blob %s: %w", digest, pg.Translate(err))
	}
	return uses, nil
}

// Forget removes the rows of blobs that nothing names. Those of removed
// releases and archives stay with them.
func (s *Store) Forget(ctx context.Context) error {
	_, err := s.db.Pool.Exec(ctx, `
		DELETE FROM blobs b
		WHERE NOT EXISTS (SELECT FROM blob_names n WHERE n.digest = b.digest)
			AND NOT EXISTS (SELECT FROM releases r WHERE r.digest = b.digest OR r.manifest_digest = b.digest)
			AND NOT EXISTS (SELECT FROM archives a WHERE a.digest = b.digest OR a.tarball_digest = b.digest OR a.record_digest = b.digest)`)
	if err != nil {
		return fmt.Errorf("forget blobs: %w", pg.Translate(err))
	}
	return nil
}

// A Blob is a blob that a row names, and what is known of its bytes.
type Blob struct {
	Digest    string
	Size      int64
	CheckedAt time.Time  // when they were last read and found right, or else stored
	DamagedAt *time.Time // nil while all is well
	Problem   string
}

const columns = `b.digest, b.size, COALESCE(b.checked_at, b.created_at) AS checked_at, b.damaged_at, b.problem`

// OfPackage returns the blobs that the rows of pkg name.
func (s *Store) OfPackage(ctx context.Context, pkg string) ([]Blob, error) {
	return s.storedBlobs(ctx, `
		SELECT `+columns+` FROM blobs b
		WHERE b.digest IN (SELECT digest FROM blob_names WHERE package = $1)
		ORDER BY b.digest`, pkg)
}

// AnyDamaged reports whether one of the blobs is damaged or lost, and could not be mended yet.
func (s *Store) AnyDamaged(ctx context.Context, digests []string) (damaged bool, err error) {
	err = s.db.Pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM blobs WHERE digest = ANY($1) AND damaged_at IS NOT NULL)`, digests).Scan(&damaged)
	if err != nil {
		return false, fmt.Errorf("damaged blobs: %w", pg.Translate(err))
	}
	return damaged, nil
}

// Unchecked returns the named blobs that nobody has read for age, those
// first that were not for longest, without those that are to be mended.
func (s *Store) Unchecked(ctx context.Context, age time.Duration, limit int) ([]Blob, error) {
	return s.storedBlobs(ctx, `
		SELECT `+columns+` FROM blobs b
		WHERE COALESCE(b.checked_at, b.created_at) < now() - $1::interval AND b.mend_at IS NULL
			AND `+isNamed+`
		ORDER BY COALESCE(b.checked_at, b.created_at) LIMIT $2`, age, limit)
}

// Due returns the blobs that are due to be mended.
func (s *Store) Due(ctx context.Context, limit int) ([]Blob, error) {
	return s.storedBlobs(ctx, `
		SELECT `+columns+` FROM blobs b
		WHERE b.mend_at <= now()
		ORDER BY b.mend_at LIMIT $1`, limit)
}

func (s *Store) storedBlobs(ctx context.Context, sql string, args ...any) ([]Blob, error) {
	rows, _ := s.db.Pool.Query(ctx, sql, args...)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[Blob])
	if err != nil {
		return nil, fmt.Errorf("stored blobs: %w", pg.Translate(err))
	}
	return all, nil
}

// Suspect has a blob read, and mended if need be, as soon as may be.
func (s *Store) Suspect(ctx context.Context, digest string) error {
	_, err := s.db.Pool.Exec(ctx, `UPDATE blobs SET mend_at = now() WHERE digest = $1 AND mend_at IS NULL`, digest)
	if err != nil {
		return fmt.Errorf("suspect blob %s: %w", digest, pg.Translate(err))
	}
	return nil
}

// Checked records that the bytes of a blob were read and are right; the
// reading began at since, and what is written later has not been read.
func (s *Store) Checked(ctx context.Context, digest string, since time.Time) error {
	_, err := s.db.Pool.Exec(ctx, `
		UPDATE blobs SET checked_at = $2, damaged_at = NULL, mend_at = NULL, mend_tries = 0, problem = ''
		WHERE digest = $1`, digest, since)
	if err != nil {
		return fmt.Errorf("blob %s checked: %w", digest, pg.Translate(err))
	}
	return nil
}

// Damaged records that the bytes of a blob are wrong or lost, and could
// not be mended. The packages that need it are not healthy. It is tried again
// after a minute, and after twice as long each time, at most six hours.
func (s *Store) Damaged(ctx context.Context, digest, problem string) error {
	err := s.db.Tx(ctx, func(tx pgx.Tx) error {
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
		return fmt.Errorf("blob %s damaged: %w", digest, pg.Translate(err))
	}
	return nil
}

// A State says how far the reading of all blobs has come.
type State struct {
	Since   *time.Time // everything has been read since then; nil without blobs
	Behind  int        // blobs that nobody has read for longer than they may go unread, at most MaxBehind
	Damaged int        // blobs whose bytes are wrong or lost
}

// MaxBehind is how many blobs that are behind are counted: the state of a large registry is asked for often.
const MaxBehind = 10_000

// State returns how the reading of all blobs stands, when each is to be read
// once in period; with 0 none need be. It costs the same with a thousand and with a million.
func (s *Store) State(ctx context.Context, period time.Duration) (State, error) {
	rows, _ := s.db.Pool.Query(ctx, `
		SELECT
			(SELECT COALESCE(checked_at, created_at) FROM blobs b WHERE damaged_at IS NULL AND `+isNamed+`
				ORDER BY COALESCE(checked_at, created_at) LIMIT 1) AS since,
			(SELECT count(*)::int FROM (SELECT FROM blobs b
				WHERE $1::interval > '0' AND COALESCE(checked_at, created_at) < now() - $1::interval AND damaged_at IS NULL AND `+isNamed+`
				LIMIT $2) late) AS behind,
			(SELECT count(*)::int FROM blobs b WHERE mend_at IS NOT NULL AND damaged_at IS NOT NULL AND `+isNamed+`) AS damaged`,
		period, MaxBehind)
	state, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[State])
	if err != nil {
		return State{}, fmt.Errorf("scrub state: %w", pg.Translate(err))
	}
	return state, nil
}

const isNamed = `EXISTS (SELECT FROM blob_names n WHERE n.digest = b.digest)`

// After returns named blobs in the order of their digests, those after
// one.
func (s *Store) After(ctx context.Context, after string, limit int) ([]Blob, error) {
	return s.storedBlobs(ctx, `
		SELECT `+columns+` FROM blobs b
		WHERE b.digest > $1 AND `+isNamed+`
		ORDER BY b.digest LIMIT $2`, after, limit)
}

// TryLock makes the caller the one that scrubs and mends, until release is
// called; ok is false if there is one already.
func (s *Store) TryLock(ctx context.Context) (release func(), ok bool, err error) {
	conn, err := s.db.Connect(ctx)
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

type maxBytes struct{}

// WithMaxBytes bounds the blobs that rows name, in bytes, for what publishes under the context; 0 is no bound.
func WithMaxBytes(ctx context.Context, most int64) context.Context {
	return context.WithValue(ctx, maxBytes{}, most)
}

// CheckBytes ends a transaction that has added blobs. It returns a quota_bytes if there are more than the context allows.
// Others that end so wait until this one has ended: what goes on at once is counted together.
func CheckBytes(ctx context.Context, tx pgx.Tx) error {
	most, _ := ctx.Value(maxBytes{}).(int64)
	if most == 0 {
		return nil
	}
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtext('packbase bytes ' || current_schema()))`); err != nil {
		return err
	}
	var n int64
	if err := tx.QueryRow(ctx, sumOfBytes).Scan(&n); err != nil {
		return err
	}
	return CheckQuota(n, most)
}

// CheckQuota returns a quota_bytes if n bytes are more than most.
func CheckQuota(n, most int64) error {
	if n <= most {
		return nil
	}
	return fault.New("quota_bytes", fmt.Sprintf("the registry would have %s, and PACKBASE_MAX_BYTES allows %s",
		humanize.IBytes(uint64(n)), humanize.IBytes(uint64(most))))
}

const sumOfBytes = `SELECT COALESCE(sum(size), 0)::bigint FROM blobs`

// Bytes returns the size of all blobs that rows name.
func (s *Store) Bytes(ctx context.Context) (n int64, err error) {
	if err := s.db.Pool.QueryRow(ctx, sumOfBytes).Scan(&n); err != nil {
		return 0, fmt.Errorf("measure blobs: %w", pg.Translate(err))
	}
	return n, nil
}

// ManifestBytes returns the size of the manifests of pkg.
func (s *Store) ManifestBytes(ctx context.Context, pkg string) (n int64, err error) {
	err = s.db.Pool.QueryRow(ctx, sumOfBytes+` WHERE digest IN (SELECT manifest_digest FROM releases WHERE package = $1)`, pkg).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("measure manifests of %s: %w", pkg, pg.Translate(err))
	}
	return n, nil
}

// Behind reports whether a blob that is named has not been read for
// longer than period.
func (s *Store) Behind(ctx context.Context, period time.Duration) (behind bool, err error) {
	err = s.db.Pool.QueryRow(ctx, `
		SELECT EXISTS (
			SELECT FROM blobs b
			WHERE COALESCE(b.checked_at, b.created_at) < now() - $1::interval AND b.damaged_at IS NULL
				AND `+isNamed+`)`, period).Scan(&behind)
	if err != nil {
		return false, fmt.Errorf("scrub state: %w", pg.Translate(err))
	}
	return behind, nil
}

// Unrecorded returns some of the packages that are here and have no record.
func (s *Store) Unrecorded(ctx context.Context, most int) ([]string, error) {
	rows, _ := s.db.Pool.Query(ctx, `
		SELECT name FROM packages p WHERE record_digest IS NULL AND release_count + snapshot_count > 0
			AND NOT EXISTS (SELECT FROM jobs j WHERE j.package = p.name AND j.state = 'running')
		ORDER BY name LIMIT $1`, most)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("packages without a record: %w", pg.Translate(err))
	}
	return names, nil
}
