package jobs

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/pg"
)

// QueueCounts are the jobs by what becomes of them.
type QueueCounts struct {
	Pending   int `json:"pending"`   // due, and no worker has them yet
	Active    int `json:"active"`    // a worker has them
	Scheduled int `json:"scheduled"` // due later
	Retry     int `json:"retry"`     // tried, and due again later
	Failed    int `json:"failed"`    // asked for within a day, ended without success
}

// QueueCounts counts jobs.
func (s *Store) QueueCounts(ctx context.Context) (QueueCounts, error) {
	rows, _ := s.db.Pool.Query(ctx, `
		SELECT
			count(*) FILTER (WHERE state = 'queued' AND run_at <= now()) AS pending,
			count(*) FILTER (WHERE state = 'running') AS active,
			count(*) FILTER (WHERE state = 'queued' AND run_at > now() AND attempts = 0) AS scheduled,
			count(*) FILTER (WHERE state = 'queued' AND run_at > now() AND attempts > 0) AS retry,
			(SELECT count(*) FROM jobs WHERE state = 'failed' AND created_at > now() - interval '1 day') AS failed
		FROM jobs WHERE state IN ('queued', 'running')`)
	n, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[QueueCounts])
	if err != nil {
		return QueueCounts{}, fmt.Errorf("queue counts: %w", pg.Translate(err))
	}
	return n, nil
}

// A WorkerState is what one worker is doing.
type WorkerState struct {
	ID          string    `json:"id"`
	Concurrency int       `json:"concurrency"`
	Release     string    `json:"release"`
	StartedAt   time.Time `json:"started_at"`
	SeenAt      time.Time `json:"seen_at"`
	Jobs        []Doing   `json:"jobs" db:"-"`
}

// Doing is a job that a worker has.
type Doing struct {
	Job      string    `json:"job_id"`
	Worker   string    `json:"-"`
	Kind     string    `json:"kind"`
	Package  string    `json:"package,omitempty"`
	Progress Progress  `json:"progress"`
	Since    time.Time `json:"since"`
}

// Workers returns the workers that are alive.
func (s *Store) Workers(ctx context.Context) ([]WorkerState, error) {
	rows, _ := s.db.Pool.Query(ctx, `
		SELECT id, concurrency, release, started_at, seen_at FROM workers
		WHERE seen_at > now() - interval '30 seconds' ORDER BY id`)
	workers, err := pgx.CollectRows(rows, pgx.RowToStructByName[WorkerState])
	if err != nil {
		return nil, fmt.Errorf("workers: %w", pg.Translate(err))
	}
	rows, _ = s.db.Pool.Query(ctx, `
		SELECT id::text AS job, worker, kind, package, progress, started_at AS since FROM jobs
		WHERE state = 'running' AND lease_until IS NOT NULL AND seen_job(kind, package, $1) ORDER BY started_at`, access.SeesPrivate(ctx))
	doing, err := pgx.CollectRows(rows, pgx.RowToStructByName[Doing])
	if err != nil {
		return nil, fmt.Errorf("workers: %w", pg.Translate(err))
	}
	for i := range workers {
		workers[i].Jobs = []Doing{}
		for _, d := range doing {
			if d.Worker == workers[i].ID {
				workers[i].Jobs = append(workers[i].Jobs, d)
			}
		}
	}
	return workers, nil
}

// Heartbeat records that a worker is alive, and forgets those that are not.
func (s *Store) Heartbeat(ctx context.Context, id string, concurrency int, release string) error {
	_, err := s.db.Pool.Exec(ctx, `
		WITH gone AS (DELETE FROM workers WHERE seen_at < now() - interval '1 hour')
		INSERT INTO workers (id, concurrency, release) VALUES ($1, $2, $3)
		ON CONFLICT (id) DO UPDATE SET seen_at = now(), concurrency = EXCLUDED.concurrency`, id, concurrency, release)
	if err != nil {
		return fmt.Errorf("see worker %s: %w", id, pg.Translate(err))
	}
	return nil
}

// ForgetWorker removes a worker that stopped.
func (s *Store) ForgetWorker(ctx context.Context, id string) error {
	if _, err := s.db.Pool.Exec(ctx, `DELETE FROM workers WHERE id = $1`, id); err != nil {
		return fmt.Errorf("forget worker %s: %w", id, pg.Translate(err))
	}
	return nil
}

// A Count is how many jobs of a kind are in a state.
type Count struct {
	State, Kind string
	Count       int
}

// Counts counts open jobs, and those that were asked for within a day and ended.
func (s *Store) Counts(ctx context.Context) ([]Count, error) {
	rows, _ := s.db.Pool.Query(ctx, `
		SELECT state, kind, count(*) AS count FROM jobs
		WHERE state IN ('queued', 'running') OR created_at > now() - interval '1 day'
		GROUP BY state, kind ORDER BY state, kind`)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[Count])
	if err != nil {
		return nil, fmt.Errorf("job counts: %w", pg.Translate(err))
	}
	return all, nil
}
