package storage

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/feed"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/pg"
)

// AnnounceBranches tells edges of branches that are elsewhere than they were last told.
func (db *DB) AnnounceBranches(ctx context.Context) error {
	type moved struct {
		Package, Branch, Commit string
		Private, Aside          bool
	}
	err := db.Tx(ctx, func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, `
			SELECT b.package, b.branch, b.commit_oid, p.private, p.head_branch <> b.branch
			FROM branches b JOIN packages p ON p.name = b.package
			WHERE b.announced <> b.commit_oid AND EXISTS (
				SELECT FROM served_releases r WHERE r.package = b.package AND r.commit_oid = b.commit_oid)
			ORDER BY b.seen_at LIMIT 500 FOR UPDATE OF b SKIP LOCKED`)
		all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[moved])
		if err != nil {
			return err
		}
		for _, b := range all {
			if _, err := tx.Exec(ctx, `
				UPDATE branches SET announced = commit_oid WHERE package = $1 AND branch = $2`, b.Package, b.Branch); err != nil {
				return err
			}
			if err := feed.AddNews(ctx, tx, feed.Body{Package: b.Package, Branch: b.Branch, Commit: b.Commit, Aside: b.Aside}, b.Private); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("announce branches: %w", pg.Translate(err))
	}
	return nil
}

// FollowBranch notes where a branch is at the central of this edge, and tells edges of this one. HEAD goes with it unless it
// is aside. It returns fault.ErrNotFound if the commit is not here.
func (db *DB) FollowBranch(ctx context.Context, pkg string, b Branch, aside bool) error {
	err := db.Tx(ctx, func(tx pgx.Tx) error {
		var here bool
		err := tx.QueryRow(ctx, `
			SELECT EXISTS (SELECT FROM served_releases r WHERE r.package = p.name AND r.commit_oid = $2)
			FROM packages p WHERE name = $1 FOR UPDATE`, pkg, b.Commit).Scan(&here)
		if err == nil && !here {
			err = fault.ErrNotFound
		}
		if err != nil {
			return err
		}
		return jobs.RecordBranch(ctx, tx, pkg, b.Name, b.Commit, !aside)
	})
	if err == nil {
		err = db.AnnounceBranches(ctx)
	}
	if err != nil {
		return fmt.Errorf("branch %s of %s: %w", b.Name, pkg, pg.Translate(err))
	}
	return nil
}
