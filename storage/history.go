package storage

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
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

// KeepHistory stores the claimed package's history, in place of an older one.
// Its blobs must be durable.
func (db *DB) KeepHistory(ctx context.Context, c Claim, h History, pack, index Blob) error {
	err := db.tx(ctx, func(tx pgx.Tx) error {
		if err := holdFence(ctx, tx, c); err != nil {
			return err
		}
		for _, b := range []Blob{pack, index} {
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
		return err
	})
	if err != nil {
		return fmt.Errorf("keep history of %s: %w", c.Job.Package, translate(err))
	}
	return nil
}

// HistoryOf returns the history of pkg, or ErrNotFound if it has none.
func (db *DB) HistoryOf(ctx context.Context, pkg string) (History, error) {
	rows, _ := db.pool.Query(ctx, `
		SELECT package, head, refs, pack_name, pack_digest, index_digest FROM histories
		WHERE lower(package) = lower($1) AND seen(package, $2)`, pkg, SeesPrivate(ctx))
	h, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[History])
	if err != nil {
		return History{}, fmt.Errorf("history of %q: %w", pkg, translate(err))
	}
	return h, nil
}
