package jobs

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/francescobianco/packbase/storage/pg"
)

// ReserveHost returns how long to wait before sending so many requests to the
// host, so that they keep spacing between them on average, and the host's own
// pace, whatever the number of workers. Nothing is reserved for who would have
// to wait longer than patience.
func (s *Store) ReserveHost(ctx context.Context, host string, requests int, spacing, patience time.Duration) (wait time.Duration, err error) {
	err = s.db.Pool.QueryRow(ctx, `
		INSERT INTO upstream_hosts AS h (host, next_at) VALUES ($1, now() + $2 * $3::interval)
		ON CONFLICT (host) DO UPDATE SET turn_at = GREATEST(h.next_at, now()),
			next_at = CASE WHEN h.next_at > now() + $4::interval THEN h.next_at
				ELSE GREATEST(h.next_at, now()) + $2 * (0.5 + random()) * GREATEST(h.pace, $3::interval) END,
			pace = CASE WHEN h.next_at > now() + $4::interval THEN h.pace ELSE power(0.9995, $2) * h.pace END
		RETURNING turn_at - now()`, strings.ToLower(host), requests, spacing, patience).Scan(&wait)
	if err != nil {
		return 0, fmt.Errorf("reserve %s: %w", host, pg.Translate(err))
	}
	return max(wait, 0), nil
}

// PauseHost keeps everybody from asking the host for wait, and has them ask it
// half as often from then on: once in a tenth of that at first, of a second at
// most. Of several that hear of one rest, the first counts.
func (s *Store) PauseHost(ctx context.Context, host string, wait time.Duration) error {
	_, err := s.db.Pool.Exec(ctx, `
		INSERT INTO upstream_hosts AS h (host, next_at, pace) VALUES ($1, now() + $2::interval, LEAST($2::interval / 10, '1s'))
		ON CONFLICT (host) DO UPDATE SET next_at = GREATEST(h.next_at, EXCLUDED.next_at),
			pace = CASE WHEN h.next_at > now() + $2::interval / 2 THEN h.pace ELSE LEAST(GREATEST(2 * h.pace, EXCLUDED.pace), $2::interval) END`,
		strings.ToLower(host), wait)
	if err != nil {
		return fmt.Errorf("pause %s: %w", host, pg.Translate(err))
	}
	return nil
}

// dialled is the URL that a job j, of a package p or of none, asks upstream for.
const dialled = `CASE WHEN j.kind = 'archive:fetch' THEN j.target ELSE COALESCE(p.clone_url, '') END`

// RunningAt returns the number of running jobs whose upstream is on host, of
// all workers and of the one.
func (s *Store) RunningAt(ctx context.Context, host, worker string) (all, one int, err error) {
	err = s.db.Pool.QueryRow(ctx, `
		SELECT count(*), count(*) FILTER (WHERE j.worker = $2)
		FROM jobs j LEFT JOIN packages p ON p.name = j.package
		WHERE j.state = 'running' AND split_part(`+dialled+`, '/', 3) = $1`, host, worker).Scan(&all, &one)
	if err != nil {
		return 0, 0, fmt.Errorf("running at %s: %w", host, pg.Translate(err))
	}
	return all, one, nil
}

// WaitingAt returns the number of queued jobs whose upstream is on host and
// that were there before job, and whether a job of another host is due.
func (s *Store) WaitingAt(ctx context.Context, host string, job uuid.UUID) (ahead int, others bool, err error) {
	err = s.db.Pool.QueryRow(ctx, `
		SELECT count(*) FILTER (WHERE at_host AND id < $2), COALESCE(bool_or(NOT at_host AND run_at <= now()), false)
		FROM (
			SELECT j.id, j.run_at, split_part(`+dialled+`, '/', 3) = $1 AS at_host
			FROM jobs j LEFT JOIN packages p ON p.name = j.package
			WHERE j.state = 'queued' AND j.kind IN ($3, $4)
		) waiting`, host, job, FetchPackage, FetchArchive).Scan(&ahead, &others)
	if err != nil {
		return 0, false, fmt.Errorf("waiting at %s: %w", host, pg.Translate(err))
	}
	return ahead, others, nil
}
