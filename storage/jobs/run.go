package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/pg"
)

// A Run is one catalog update with its counters.
type Run struct {
	ID        int64
	State     string // Queued, Running, Succeeded or Failed
	CreatedAt time.Time
	StartedAt *time.Time
	UpdatedAt time.Time
	EndedAt   *time.Time
	Counters
}

// Counters say what an update found and did. With fixtures counted in,
// SourcePackages are SourceSkipped, ReposScanned and those of SourceRepoFailed
// whose name is another's, or which wait for their next try; each that was
// scanned ends as synced or failed.
type Counters struct {
	SourceChanged     bool `json:"source_changed"`
	SourcePackages    int  `json:"source_packages"`
	SourceAdded       int  `json:"source_added"`
	SourceUpdated     int  `json:"source_updated"`
	SourceRemoved     int  `json:"source_removed"`
	SourceSkipped     int  `json:"source_skipped"`      // entries that are not usable, and packages that are fresh, frozen, or of a host that is to be asked less
	SourceRepoFailed  int  `json:"source_repo_failed"`  // packages whose last sync failed, in this run or before
	SourceRepoCloned  int  `json:"source_repo_cloned"`  // packages that were synced for the first time
	SourceRepoUpdated int  `json:"source_repo_updated"` // the others that were synced
	ReposScanned      int  `json:"repos_scanned"`       // packages that were looked at
	PackagesTotal     int  `json:"packages_total"`
	PackagesSynced    int  `json:"packages_synced"`
	PackagesProbed    int  `json:"packages_probed"`
	TarballsCreated   int  `json:"tarballs_created"`
	TarballsPresent   int  `json:"tarballs_present"`
}

const runColumns = `
	id, state, created_at, started_at, updated_at, ended_at,
	source_changed, source_packages, source_added, source_updated, source_removed, source_skipped, source_repo_failed,
	source_repo_cloned, source_repo_updated, repos_scanned, packages_total, packages_synced, packages_probed, tarballs_created, tarballs_present`

// LastRun returns the newest run that has begun, or ErrNotFound.
func (s *Store) LastRun(ctx context.Context) (Run, error) {
	rows, _ := s.db.Pool.Query(ctx, `SELECT `+runColumns+` FROM runs WHERE started_at IS NOT NULL ORDER BY id DESC LIMIT 1`)
	run, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Run])
	if err != nil {
		return Run{}, fmt.Errorf("last run: %w", pg.Translate(err))
	}
	return run, nil
}

// Cooling returns how long it takes until cooldown has passed since the last
// run began; 0 or less if it has.
func (s *Store) Cooling(ctx context.Context, cooldown time.Duration) (left time.Duration, err error) {
	err = s.db.Pool.QueryRow(ctx, `
		SELECT started_at + $1::interval - now() FROM runs WHERE started_at IS NOT NULL ORDER BY id DESC LIMIT 1`, cooldown).Scan(&left)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return 0, fmt.Errorf("cooldown of updates: %w", pg.Translate(err))
	}
	return left, nil
}

// RequestUpdate returns the update that has not begun yet, a new one
// (created) if there is none. That does not begin until cooldown has passed
// since the one before began.
func (s *Store) RequestUpdate(ctx context.Context, cooldown time.Duration) (job Job, created bool, err error) {
	err = s.db.Tx(ctx, func(tx pgx.Tx) error {
		job, created, err = addUpdate(ctx, tx, cooldown)
		return err
	})
	if err != nil {
		return Job{}, false, fmt.Errorf("request update: %w", pg.Translate(err))
	}
	return job, created, nil
}

// RequestDueUpdate is RequestUpdate if none was requested within interval.
// Of many callers at once, one gets created.
func (s *Store) RequestDueUpdate(ctx context.Context, interval, cooldown time.Duration) (job Job, created bool, err error) {
	err = s.db.Tx(ctx, func(tx pgx.Tx) error {
		if err := lockUpdates(ctx, tx); err != nil {
			return err
		}
		var due bool
		err := tx.QueryRow(ctx, `SELECT NOT EXISTS (SELECT FROM runs WHERE created_at > now() - $1::interval)`, interval).Scan(&due)
		if err != nil || !due {
			return err
		}
		job, created, err = addUpdate(ctx, tx, cooldown)
		return err
	})
	if err != nil {
		return Job{}, false, fmt.Errorf("request due update: %w", pg.Translate(err))
	}
	return job, created, nil
}

// lockUpdates has callers add updates one by one. Two that did it at once
// would make two runs for one job.
func lockUpdates(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtext('packbase update ' || current_schema()))`)
	return err
}

func addUpdate(ctx context.Context, tx pgx.Tx, cooldown time.Duration) (Job, bool, error) {
	if err := lockUpdates(ctx, tx); err != nil {
		return Job{}, false, err
	}
	rows, _ := tx.Query(ctx, `SELECT `+columns+` FROM jobs WHERE kind = $1 AND state = 'queued' FOR UPDATE`, UpdateCatalog)
	job, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Job])
	if !errors.Is(err, pgx.ErrNoRows) {
		return job, false, err
	}
	var run int64
	if err := tx.QueryRow(ctx, `INSERT INTO runs DEFAULT VALUES RETURNING id`).Scan(&run); err != nil {
		return Job{}, false, err
	}
	job, created, err := Add(ctx, tx, Job{Kind: UpdateCatalog, RunID: &run})
	if err != nil || !created {
		return job, created, err
	}
	err = tx.QueryRow(ctx, `
		UPDATE jobs SET run_at = GREATEST(now(),
			(SELECT started_at + $2::interval FROM runs WHERE started_at IS NOT NULL ORDER BY id DESC LIMIT 1))
		WHERE id = $1 RETURNING run_at`, job.ID, cooldown).Scan(&job.RunAt)
	return job, true, err
}

// foldUpdate ends the claimed update, which would be queued again, if another
// one is queued already (there can be one): that one is to do the same, takes
// over the children that are open and the crashes, and waits at least as long.
// The run fails, as its update does, with the reason and the name of the other.
func foldUpdate(ctx context.Context, tx pgx.Tx, c Claim, wait time.Duration, code, reason string) (job Job, folded bool, err error) {
	if err := lockUpdates(ctx, tx); err != nil {
		return Job{}, false, err
	}
	var next Job
	err = tx.QueryRow(ctx, `
		UPDATE jobs SET run_at = GREATEST(run_at, now() + $2::interval), enqueued_at = NULL, crashes = GREATEST(crashes, $3)
		WHERE kind = $1 AND state = 'queued' RETURNING id, run_id`, UpdateCatalog, wait, c.Job.Crashes).Scan(&next.ID, &next.RunID)
	if errors.Is(err, pgx.ErrNoRows) {
		return Job{}, false, nil
	}
	if err != nil {
		return Job{}, false, err
	}
	if code == "" {
		code, reason = "superseded", "the update was interrupted"
	}
	rows, _ := tx.Query(ctx, `
		UPDATE jobs
		SET state = 'failed', ended_at = now(), lease = NULL, lease_until = NULL, error_code = @code, error_message = @message
		WHERE id = @id AND lease = @lease
		RETURNING `+columns, pgx.NamedArgs{"id": c.Job.ID, "lease": c.Lease, "code": code,
		"message": fmt.Sprintf("%s; the next update, job %s, does its work", reason, next.ID)})
	job, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Job])
	if errors.Is(err, pgx.ErrNoRows) {
		return Job{}, false, ErrLost
	}
	if err != nil {
		return Job{}, false, err
	}
	_, err = tx.Exec(ctx, `
		UPDATE jobs SET run_id = $2 WHERE run_id = $1 AND kind <> 'catalog:update' AND state IN ('queued', 'running')`, job.RunID, next.RunID)
	return job, true, err
}

// RunningUpdate returns the update that is under way, or ErrNotFound.
func (s *Store) RunningUpdate(ctx context.Context) (Job, error) {
	rows, _ := s.db.Pool.Query(ctx, `SELECT `+columns+` FROM jobs WHERE kind = $1 AND state = 'running'`, UpdateCatalog)
	job, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Job])
	if err != nil {
		return Job{}, fmt.Errorf("running update: %w", pg.Translate(err))
	}
	return job, nil
}

// OpenUpdate returns the update that is under way, else the one that is
// queued, or ErrNotFound.
func (s *Store) OpenUpdate(ctx context.Context) (Job, error) {
	rows, _ := s.db.Pool.Query(ctx, `
		SELECT `+columns+` FROM jobs
		WHERE kind = $1 AND state IN ('queued', 'running') ORDER BY state DESC LIMIT 1`, UpdateCatalog)
	job, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Job])
	if err != nil {
		return Job{}, fmt.Errorf("open update: %w", pg.Translate(err))
	}
	return job, nil
}

// UpdateQueued reports whether an update waits for its turn.
func (s *Store) UpdateQueued(ctx context.Context) (queued bool, err error) {
	err = s.db.Pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM jobs WHERE kind = $1 AND state = 'queued')`, UpdateCatalog).Scan(&queued)
	if err != nil {
		return false, fmt.Errorf("queued update: %w", pg.Translate(err))
	}
	return queued, nil
}

// StartRun notes that the claimed update has begun. It returns ErrLost if the
// claim was taken over.
func (s *Store) StartRun(ctx context.Context, c Claim) error {
	tag, err := s.db.Pool.Exec(ctx, `
		UPDATE runs SET state = 'running', started_at = COALESCE(started_at, now()), updated_at = now(), ended_at = NULL
		WHERE id = (SELECT run_id FROM jobs WHERE id = $1 AND lease = $2 FOR UPDATE)`, c.Job.ID, c.Lease)
	if err == nil && tag.RowsAffected() == 0 {
		err = ErrLost
	}
	if err != nil {
		return fmt.Errorf("start run: %w", pg.Translate(err))
	}
	return nil
}

// ParkRun stores what the claimed update counted itself, and lets it go on
// without a worker until its last child has ended.
func (s *Store) ParkRun(ctx context.Context, c Claim, n Counters) error {
	err := s.db.Tx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			UPDATE runs
			SET source_changed = @changed, source_packages = @packages, source_added = @added, source_updated = @updated,
				source_removed = @removed, source_skipped = @skipped, source_repo_failed = source_repo_failed + @failed,
				repos_scanned = @scanned, packages_total = @total, tarballs_present = tarballs_present + @present,
				source_repo_updated = source_repo_updated + @unchanged, packages_synced = packages_synced + @synced, updated_at = now()
			WHERE id = @id`,
			pgx.NamedArgs{"id": c.Job.RunID, "changed": n.SourceChanged, "packages": n.SourcePackages, "added": n.SourceAdded,
				"updated": n.SourceUpdated, "removed": n.SourceRemoved, "skipped": n.SourceSkipped, "failed": n.SourceRepoFailed,
				"scanned": n.ReposScanned, "unchanged": n.SourceRepoUpdated, "synced": n.PackagesSynced, "total": n.PackagesTotal, "present": n.TarballsPresent})
		if err != nil {
			return err
		}
		// The lease goes to nobody: what is still under way with the claim, a
		// heartbeat or a failure, must not bring its time back.
		tag, err := tx.Exec(ctx, `UPDATE jobs SET lease = gen_random_uuid(), lease_until = NULL WHERE id = $1 AND lease = $2`, c.Job.ID, c.Lease)
		if err == nil && tag.RowsAffected() == 0 {
			return ErrLost
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("park run: %w", pg.Translate(err))
	}
	return nil
}

// Inherit makes the last fetches of packages, which failed and are not due yet,
// part of a run: what it could not mirror.
func (s *Store) Inherit(ctx context.Context, run int64, packages []string) error {
	_, err := s.db.Pool.Exec(ctx, `
		UPDATE jobs SET run_id = $1 WHERE state = 'failed' AND id IN (
			SELECT DISTINCT ON (j.package) j.id FROM jobs j JOIN packages p ON p.name = j.package
			WHERE j.kind = $3 AND lower(p.name) IN (SELECT lower(first_name(n)) FROM unnest($2::text[]) n)
			ORDER BY j.package, j.created_at DESC, j.id DESC)`, run, packages, FetchPackage)
	if err != nil {
		return fmt.Errorf("what a run could not mirror: %w", pg.Translate(err))
	}
	return nil
}

// countChild adds a job that ended to its run.
func countChild(ctx context.Context, tx pgx.Tx, c Claim, o Outcome) error {
	if c.Job.RunID == nil || c.Job.Kind != FetchPackage {
		return nil
	}
	_, err := tx.Exec(ctx, `
		UPDATE runs
		SET packages_synced = packages_synced + CASE WHEN @ok THEN 1 ELSE 0 END,
			source_repo_failed = source_repo_failed + CASE WHEN @ok THEN 0 ELSE 1 END,
			packages_probed = packages_probed + CASE WHEN @ok THEN 1 ELSE 0 END,
			source_repo_cloned = source_repo_cloned + CASE WHEN @ok AND @present = 0 THEN 1 ELSE 0 END,
			source_repo_updated = source_repo_updated + CASE WHEN @ok AND @present > 0 THEN 1 ELSE 0 END,
			tarballs_created = tarballs_created + @created, tarballs_present = tarballs_present + @present, updated_at = now()
		WHERE id = @id`,
		pgx.NamedArgs{"id": c.Job.RunID, "ok": o.State == Succeeded, "created": o.Created, "present": o.Present})
	return err
}

// CloseRuns ends the runs whose update waits for children and has no open
// ones left, and those whose update has ended in another way.
func (s *Store) CloseRuns(ctx context.Context) error {
	err := s.db.Tx(ctx, func(tx pgx.Tx) error {
		closed, err := tx.Exec(ctx, `
			WITH done AS (
				UPDATE jobs j
				SET state = 'succeeded', ended_at = now(), lease = NULL, progress = '{}', error_code = '', error_message = '',
					result = (SELECT to_jsonb(r) - '{id,state,created_at,started_at,updated_at,ended_at}'::text[] FROM runs r WHERE r.id = j.run_id)
				WHERE j.kind = 'catalog:update' AND j.state = 'running' AND j.lease_until IS NULL
					AND NOT EXISTS (SELECT FROM jobs c WHERE c.run_id = j.run_id AND c.kind <> 'catalog:update' AND c.state IN ('queued', 'running'))
				RETURNING j.run_id)
			UPDATE runs SET state = 'succeeded', ended_at = now(), updated_at = now() FROM done WHERE runs.id = done.run_id`)
		if err == nil && closed.RowsAffected() > 0 {
			err = wakePackage(ctx, tx, "")
		}
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			UPDATE runs SET state = 'failed', ended_at = now(), updated_at = now()
			FROM jobs j
			WHERE runs.state IN ('queued', 'running') AND j.run_id = runs.id AND j.kind = 'catalog:update' AND j.state IN ('failed', 'cancelled')`)
		return err
	})
	if err != nil {
		return fmt.Errorf("close runs: %w", pg.Translate(err))
	}
	return nil
}

// RunProgress returns how many children of a run there are, and how many of
// them have ended.
func (s *Store) RunProgress(ctx context.Context, run int64) (done, total int, err error) {
	err = s.db.Pool.QueryRow(ctx, `
		SELECT count(*) FILTER (WHERE state NOT IN ('queued', 'running')), count(*)
		FROM jobs WHERE run_id = $1 AND kind <> 'catalog:update'`, run).Scan(&done, &total)
	if err != nil {
		return 0, 0, fmt.Errorf("run progress: %w", pg.Translate(err))
	}
	return done, total, nil
}
