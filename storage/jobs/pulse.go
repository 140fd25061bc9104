package jobs

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/pg"
)

// A Pulse says whether jobs get anywhere.
type Pulse struct {
	// How long ago a worker last looked after the jobs without an error; nil
	// if none ever did.
	Reconciled *time.Duration
	// How long the job that waits longest has been due, 0 if none is. One that
	// waits for another of its package, or an update for the one before, is not.
	OldestDue time.Duration
}

// Pulse returns the pulse of the jobs.
func (s *Store) Pulse(ctx context.Context) (Pulse, error) {
	rows, _ := s.db.Pool.Query(ctx, `
		SELECT
			(SELECT GREATEST(clock_timestamp() - reconciled_at, '0') FROM watch WHERE reconciled_at IS NOT NULL) AS reconciled,
			COALESCE((
				SELECT now() - j.run_at FROM jobs j
				WHERE j.state = 'queued' AND j.run_at <= now() AND NOT EXISTS (
					SELECT FROM jobs r WHERE r.state = 'running' AND r.package = j.package AND (r.package <> '' OR r.kind = j.kind))
				ORDER BY j.run_at LIMIT 1), '0') AS oldest_due`)
	p, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Pulse])
	if err != nil {
		return Pulse{}, fmt.Errorf("pulse of jobs: %w", pg.Translate(err))
	}
	return p, nil
}

// Reconciled notes that a worker looked after the jobs, and nothing failed.
func (s *Store) Reconciled(ctx context.Context) error {
	if _, err := s.db.Pool.Exec(ctx, `UPDATE watch SET reconciled_at = clock_timestamp()`); err != nil {
		return fmt.Errorf("note round: %w", pg.Translate(err))
	}
	return nil
}
