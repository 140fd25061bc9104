package storage

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/feed"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/pg"
)

// MakePrivate hides the claimed package from all who have no token.
// Nothing may have been published under it: what was public stays so until
// somebody decides (see Freeze).
func (db *DB) MakePrivate(ctx context.Context, c jobs.Claim) error {
	err := db.Tx(ctx, func(tx pgx.Tx) error {
		if err := jobs.HoldFence(ctx, tx, c); err != nil {
			return err
		}
		return setPrivate(ctx, tx, c.Job.Package, true)
	})
	if err != nil {
		return fmt.Errorf("make %s private: %w", c.Job.Package, pg.Translate(err))
	}
	return nil
}

// SetVisibility makes a package private, or public. Edges do so, too; those
// that may not see private packages are given what is in it when it becomes
// public. It returns ErrNotFound if there is no such package.
func (db *DB) SetVisibility(ctx context.Context, pkg string, private bool) error {
	err := db.Tx(ctx, func(tx pgx.Tx) error {
		var name string
		var was bool
		err := tx.QueryRow(ctx, `
			SELECT name, private FROM packages WHERE lower(name) = lower(first_name($1)) AND ($2 OR NOT private) FOR UPDATE`, pkg, access.SeesPrivate(ctx)).Scan(&name, &was)
		if err == nil {
			_, err = tx.Exec(ctx, `UPDATE packages SET state_reason = '' WHERE name = $1 AND state_reason = $2`, name, Unproven)
		}
		if err != nil || was == private {
			return err
		}
		return changeVisibility(ctx, tx, name, private)
	})
	if err != nil {
		return fmt.Errorf("set visibility of %q: %w", pkg, pg.Translate(err))
	}
	return nil
}

func changeVisibility(ctx context.Context, tx pgx.Tx, pkg string, private bool) error {
	if private {
		// While it is public, so that every edge may know.
		if err := feed.Add(ctx, tx, feed.Body{Package: pkg, Decision: feed.DecisionPrivate}); err != nil {
			return err
		}
		return setPrivate(ctx, tx, pkg, true)
	}
	if err := setPrivate(ctx, tx, pkg, false); err != nil {
		return err
	}
	if err := feed.Add(ctx, tx, feed.Body{Package: pkg, Decision: feed.DecisionPublic}); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `UPDATE branches SET announced = '' WHERE package = $1`, pkg); err != nil {
		return err
	}
	releases, err := releasesOf(ctx, tx, pkg)
	if err != nil {
		return err
	}
	for _, r := range releases {
		c := feed.Body{Package: pkg, Tag: r.Tag, Commit: r.CommitOID, Tarball: blob.Ref{Digest: r.Digest, Size: r.Size}, Manifest: blob.Ref{Digest: r.ManifestDigest}}
		if err := tx.QueryRow(ctx, `SELECT size FROM blobs WHERE digest = $1`, r.ManifestDigest).Scan(&c.Manifest.Size); err != nil {
			return err
		}
		if err := feed.Add(ctx, tx, c); err != nil {
			return err
		}
	}
	return announceNames(ctx, tx, pkg)
}

func setPrivate(ctx context.Context, tx pgx.Tx, pkg string, private bool) error {
	_, err := tx.Exec(ctx, `UPDATE packages SET private = $2, revision = revision + 1 WHERE name = $1`, pkg, private)
	return err
}
