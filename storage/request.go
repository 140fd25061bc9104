package storage

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/catalog"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/pg"
)

// AddChild has a candidate fetched as part of a run. The package takes over
// what the catalog says of it. It returns a *BoundError if the name belongs to
// another upstream.
func (db *DB) AddChild(ctx context.Context, run int64, cand catalog.Candidate) (job jobs.Job, created bool, err error) {
	err = db.Tx(ctx, func(tx pgx.Tx) error {
		owner, err := claimName(ctx, tx, cand.Name, name.Upstream{Canonical: cand.Upstream, CloneURL: cand.CloneURL})
		if err != nil {
			return err
		}
		if cand.ID != "" {
			_, err = tx.Exec(ctx, `
				UPDATE packages SET registered = true, language = $2,
					description = CASE WHEN $3 <> '' THEN $3 ELSE description END
				WHERE name = $1 AND (NOT registered OR language <> $2 OR $3 <> '' AND description <> $3)`, owner, cand.Language, cand.Text)
			if err != nil {
				return err
			}
		}
		for {
			job, created, err = jobs.Add(ctx, tx, jobs.Job{Kind: jobs.FetchPackage, Package: owner, RunID: &run})
			if err != nil || created {
				return err
			}
			// The job that is open already counts for this run: no other one runs.
			tag, err := tx.Exec(ctx, `UPDATE jobs SET run_id = $2 WHERE id = $1 AND state IN ('queued', 'running')`, job.ID, run)
			if err != nil || tag.RowsAffected() == 1 {
				return err
			}
		}
	})
	if err != nil {
		return jobs.Job{}, false, fmt.Errorf("fetch %s: %w", cand.Name, pg.Translate(err))
	}
	return job, created, nil
}

// RequestFetch binds name to the upstream and returns the open job that will
// fetch it, a new one (created) or one that is open already.
// It returns a *BoundError if the name belongs to another upstream.
func (db *DB) RequestFetch(ctx context.Context, name string, up name.Upstream) (job jobs.Job, created bool, err error) {
	return db.requestFetch(ctx, name, up, false)
}

// RequestPull is RequestFetch for clients without a token.
func (db *DB) RequestPull(ctx context.Context, name string, up name.Upstream) (job jobs.Job, created bool, err error) {
	return db.requestFetch(ctx, name, up, true)
}

func (db *DB) requestFetch(ctx context.Context, name string, up name.Upstream, pull bool) (job jobs.Job, created bool, err error) {
	err = db.Tx(ctx, func(tx pgx.Tx) error {
		owner, err := claimName(ctx, tx, name, up)
		if err != nil {
			return err
		}
		job, created, err = jobs.Add(ctx, tx, jobs.Job{Kind: jobs.FetchPackage, Package: owner, Target: up.Target, Pull: pull})
		return err
	})
	if err != nil {
		return jobs.Job{}, false, fmt.Errorf("request fetch of %s: %w", up.Canonical, err)
	}
	return job, created, nil
}
