package storage

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/pg"
)

// BlobByDigest returns a blob of a release, a history, an archive or a tree, or ErrNotFound.
func (db *DB) BlobByDigest(ctx context.Context, digest string) (blob.Ref, error) {
	b := blob.Ref{Digest: digest}
	err := db.Pool.QueryRow(ctx, `
		SELECT size FROM blobs
		WHERE digest = $1 AND EXISTS (SELECT FROM blob_names n WHERE n.digest = $1 AND 
			(n.served AND seen(n.package, $2) OR $2 AND (n.use LIKE 'archive%' OR n.use = 'tree record')))`, digest, access.SeesPrivate(ctx)).Scan(&b.Size)
	if err != nil {
		err = db.orGone(ctx, pg.Translate(err), `digest = $1 OR manifest_digest = $2`, digest, digest)
		return blob.Ref{}, fmt.Errorf("blob %s: %w", digest, err)
	}
	return b, nil
}

func putBlobRow(ctx context.Context, tx pgx.Tx, b blob.Ref) error {
	_, err := tx.Exec(ctx, `INSERT INTO blobs (digest, size) VALUES ($1, $2) ON CONFLICT (digest) DO NOTHING`, b.Digest, b.Size)
	return err
}
