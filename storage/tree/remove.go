package tree

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/feed"
	"github.com/francescobianco/packbase/storage/pg"
	"github.com/francescobianco/packbase/storage/strangejson"
)

// A Removal stands for what one URL answered, and is served to nobody any more. It is also the JSON blob from which its
// row can be made again.
type Removal struct {
	Format    int       `json:"packbase_archive_removal"` // 1
	URL       string    `json:"url"`
	Hashes    []string  `json:"hashes"` // of both forms
	Private   bool      `json:"private,omitempty"`
	Reason    string    `json:"reason"`
	RemovedAt time.Time `json:"removed_at"`
}

// IsRemoval tells a removal, as Encode writes it, from other documents.
func IsRemoval(raw []byte) bool {
	return bytes.HasPrefix(raw, []byte("{\n  \"packbase_archive_removal\": "))
}

// ParseRemoval reads a removal's bytes.
func ParseRemoval(raw []byte) (r Removal, err error) {
	if err := strangejson.Unmarshal(raw, &r); err != nil {
		return r, fmt.Errorf("read removal of archive: %w", err)
	}
	if r.Format != 1 || r.URL == "" || r.Reason == "" {
		return r, fmt.Errorf("read removal of archive: format %d, this packbase knows 1", r.Format)
	}
	return r, nil
}

// Encode returns the removal's bytes.
func (r *Removal) Encode() ([]byte, error) {
	r.Format = 1
	b, err := json.MarshalIndent(r, "", "  ")
	return append(b, '\n'), err
}

func (r *Removal) gone(what string) error {
	return &fault.GoneError{What: what, Reason: r.Reason, At: r.RemovedAt}
}

// Remove serves what a URL answered to nobody any more, and has nothing stored for it again. left is what still serves
// the same files. It returns fault.ErrNotFound if nothing is stored, fault.ErrGone if it was removed before.
func (s *Store) Remove(ctx context.Context, url, reason string) (left []string, err error) {
	err = s.db.Tx(ctx, func(tx pgx.Tx) error {
		if err := s.refuseRemoved(ctx, tx, url, nil); err != nil {
			return err
		}
		r := Removal{URL: url, Reason: reason, RemovedAt: time.Now()}
		err := tx.QueryRow(ctx, `
			SELECT array_remove(array_agg(zig_hash) || array_agg(zig_legacy_hash), ''), bool_and(private)
			FROM archives WHERE url = $1 HAVING count(*) > 0`, url).Scan(&r.Hashes, &r.Private)
		if err != nil {
			return err
		}
		if err := bury(ctx, tx, r); err != nil {
			return err
		}
		rows, _ := tx.Query(ctx, `
			SELECT DISTINCT CASE WHEN kind = 'archive' THEN url ELSE package || COALESCE('@' || NULLIF(tag, ''), '#' || commit_oid) END
			FROM sources WHERE zig_legacy_hash = ANY($1) ORDER BY 1 LIMIT 100`, r.Hashes)
		left, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("remove archive %s: %w", url, pg.Translate(err))
	}
	return left, nil
}

// Bury notes a removal of which a central or a record tells, also of what has never been here; record is the blob of it,
// if there is one.
func (s *Store) Bury(ctx context.Context, r Removal, record blob.Ref) error {
	err := s.db.Tx(ctx, func(tx pgx.Tx) error {
		err := s.refuseRemoved(ctx, tx, r.URL, nil)
		if errors.Is(err, fault.ErrGone) {
			return nil
		}
		if err == nil {
			err = bury(ctx, tx, r)
		}
		if err == nil && record.Digest != "" {
			err = keepRemoval(ctx, tx, r.URL, record)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("bury archive %s: %w", r.URL, pg.Translate(err))
	}
	return nil
}

func bury(ctx context.Context, tx pgx.Tx, r Removal) error {
	_, err := tx.Exec(ctx, `
		INSERT INTO archive_tombstones (url, hashes, private, reason, removed_at)
		SELECT $1, array(
			SELECT unnest($2::text[]) UNION SELECT unnest(ARRAY[zig_hash, zig_legacy_hash]) FROM archives WHERE url = $1
			EXCEPT SELECT ''), $3, $4, $5`, r.URL, r.Hashes, r.Private, r.Reason, r.RemovedAt)
	if err != nil {
		return err
	}
	return feed.AddNews(ctx, tx, feed.Body{Archive: &feed.Archive{URL: r.URL}, Decision: feed.DecisionRemoved, Reason: r.Reason}, r.Private)
}

const removalColumns = `1, url, hashes, private, reason, removed_at`

// refuseRemoved returns a GoneError if a URL was removed, or one of hashes was and nothing serves it any more. The URL is
// locked until the transaction ends.
func (s *Store) refuseRemoved(ctx context.Context, tx pgx.Tx, url string, hashes []string) error {
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtext('packbase archive ' || $1))`, url); err != nil {
		return err
	}
	rows, _ := tx.Query(ctx, `
		SELECT `+removalColumns+` FROM archive_tombstones t
		WHERE url = $1 OR hashes && $2::text[] AND NOT EXISTS (SELECT FROM sources s WHERE s.zig_legacy_hash = ANY($2))
		ORDER BY url <> $1 LIMIT 1`, url, hashes)
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Removal])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return r.gone(url)
}

// orGone returns the GoneError of an archive that was looked for in vain, by its URL or a hash, if it was removed; else err.
func (s *Store) orGone(ctx context.Context, err error, url, hash string) error {
	if !errors.Is(err, fault.ErrNotFound) {
		return err
	}
	rows, _ := s.db.Pool.Query(ctx, `
		SELECT `+removalColumns+` FROM archive_tombstones WHERE (url = $1 OR hashes @> ARRAY[$2]) AND ($3 OR NOT private) LIMIT 1`,
		url, hash, access.SeesPrivate(ctx))
	r, rerr := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Removal])
	if rerr == nil {
		what := url
		if url == "" {
			what = hash
		}
		return r.gone(what)
	}
	if rerr = pg.Translate(rerr); !errors.Is(rerr, fault.ErrNotFound) {
		return fmt.Errorf("look for tombstones: %w", rerr)
	}
	return err
}

// Unrecorded returns removals that no blob tells of yet.
func (s *Store) Unrecorded(ctx context.Context, limit int) ([]Removal, error) {
	rows, _ := s.db.Pool.Query(ctx, `
		SELECT `+removalColumns+` FROM archive_tombstones WHERE record_digest IS NULL ORDER BY removed_at LIMIT $1`, limit)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Removal])
	if err != nil {
		return nil, fmt.Errorf("removals without a record: %w", pg.Translate(err))
	}
	return all, nil
}

// KeepRemoval names the blob of a removal.
func (s *Store) KeepRemoval(ctx context.Context, url string, record blob.Ref) error {
	err := s.db.Tx(ctx, func(tx pgx.Tx) error { return keepRemoval(ctx, tx, url, record) })
	if err != nil {
		return fmt.Errorf("keep removal of %s: %w", url, pg.Translate(err))
	}
	return nil
}

func keepRemoval(ctx context.Context, tx pgx.Tx, url string, record blob.Ref) error {
	err := putBlob(ctx, tx, record)
	if err == nil {
		_, err = tx.Exec(ctx, `UPDATE archive_tombstones SET record_digest = $2 WHERE url = $1`, url, record.Digest)
	}
	return err
}
