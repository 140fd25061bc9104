package storage

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/pg"
	"github.com/francescobianco/packbase/storage/scrub"
)

// A History is all that a local bare repository holds, as one pack. Only such
// packages have one.
type History struct {
	Package     string
	Head        string            // the ref that HEAD names
	Refs        map[string]string // ids by full name
	PackName    string            // the pack's own SHA-1
	PackDigest  string
	IndexDigest string
}

// SetHistory stores the claimed package's history, in place of an older one.
// Its blobs must be durable. The pack is served whole: so there is none once
// something of the package was removed, and where upstream moved the tag of a
// release, the older one stays.
func (db *DB) SetHistory(ctx context.Context, c jobs.Claim, h History, pack, index blob.Ref) error {
	err := db.Tx(ctx, func(tx pgx.Tx) error {
		if err := jobs.HoldFence(ctx, tx, c); err != nil {
			return err
		}
		if ok, err := mayKeep(ctx, tx, c.Job.Package, h); err != nil || !ok {
			return err
		}
		for _, b := range []blob.Ref{pack, index} {
			if err := putBlobRow(ctx, tx, b); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, `
			INSERT INTO histories (package, head, refs, pack_name, pack_digest, index_digest) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (package) DO UPDATE
			SET head = EXCLUDED.head, refs = EXCLUDED.refs, pack_name = EXCLUDED.pack_name,
				pack_digest = EXCLUDED.pack_digest, index_digest = EXCLUDED.index_digest`,
			c.Job.Package, h.Head, h.Refs, h.PackName, pack.Digest, index.Digest)
		if err != nil {
			return err
		}
		return scrub.CheckBytes(ctx, tx)
	})
	if err != nil {
		return fmt.Errorf("keep history of %s: %w", c.Job.Package, pg.Translate(err))
	}
	return nil
}

// mayKeep reports whether a history shows nothing else than what is released.
func mayKeep(ctx context.Context, tx pgx.Tx, pkg string, h History) (ok bool, err error) {
	err = tx.QueryRow(ctx, `
		SELECT NOT EXISTS (SELECT FROM tombstones WHERE package = $1) AND NOT EXISTS (
			SELECT FROM releases r JOIN jsonb_each_text($2) AS ref (name, oid) ON ref.name = 'refs/tags/' || r.tag
			WHERE r.package = $1 AND ref.oid <> COALESCE(r.tag_oid, r.commit_oid))`, pkg, h.Refs).Scan(&ok)
	return ok, err
}

// HistoryOf returns the history of pkg, or ErrNotFound if it has none.
func (db *DB) HistoryOf(ctx context.Context, pkg string) (History, error) {
	rows, _ := db.Pool.Query(ctx, `
		SELECT package, head, refs, pack_name, pack_digest, index_digest FROM histories
		WHERE lower(package) = lower(first_name($1)) AND seen(package, $2)`, pkg, access.SeesPrivate(ctx))
	h, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[History])
	if err != nil {
		return History{}, fmt.Errorf("history of %q: %w", pkg, pg.Translate(err))
	}
	return h, nil
}
