// Package jobs is the SQL of jobs, of runs of the catalog's update, of the
// workers that have them and the hosts that they ask, and of how a job left
// its package's upstream.
package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/pg"
)

// A Store reads and writes jobs, runs, workers and hosts. It is safe for concurrent use;
// each method is one transaction.
type Store struct {
	db *pg.DB
}

func New(db *pg.DB) *Store { return &Store{db} }

// Kinds of jobs.
const (
	FetchPackage  = "package:fetch"  // publish the upstream tags that are not yet releases
	ProbePackage  = "package:probe"  // fetch the newest release back, as a client would
	UpdateCatalog = "catalog:update" // download the catalog and fetch what changed
	FetchArchive  = "archive:fetch"  // store what a URL answers
	CaptureTree   = "tree:capture"   // bring what a project depends on, and what that does
	CheckTree     = "tree:check"     // ask upstream whether it still has that
)

// States of a job.
const (
	Queued    = "queued"
	Running   = "running"
	Succeeded = "succeeded"
	Failed    = "failed"
	Cancelled = "cancelled"
)

// MaxCrashes is how often a job's worker may vanish before the job is
// quarantined: ended as failed, so that it cannot take down more workers.
const MaxCrashes = 3

// A Job is our unit of work.
type Job struct {
	ID           uuid.UUID // in order of creation
	Kind         string
	Package      string // "" for UpdateCatalog, FetchArchive and CaptureTree
	Target       string // the one tag, branch or commit asked for, "" for all tags; the URL of an archive; the name of a tree
	Pin          string // the Zig hash that an archive has to have, "" for any; the revision of a tree
	State        string
	Attempts     int // claims so far
	Crashes      int // claims whose worker vanished
	Cancelling   bool
	Worker       string // who has or had it
	Progress     Progress
	ErrorCode    string // why it failed, or why the last attempt did
	ErrorMessage string
	Result       json.RawMessage // set when it succeeded
	RunID        *int64          // the catalog update it belongs to
	RunAt        time.Time       // not before
	CreatedAt    time.Time
	StartedAt    *time.Time
	EndedAt      *time.Time
	Pull         bool // clients without a token asked for it: others go first, and it is done as strangers may
}

// Open reports whether the job has not ended.
func (j *Job) Open() bool { return j.State == Queued || j.State == Running }

// Progress is how far a job is, in units that people understand.
type Progress struct {
	Step  string `json:"step,omitempty"`
	Done  int64  `json:"done"`
	Total int64  `json:"total"` // 0 if not known
	Unit  string `json:"unit,omitempty"`
}

// A Claim is a worker's hold on a running job.
type Claim struct {
	Job   Job
	Lease uuid.UUID
	Fence int64 // the package's fencing number; 0 without a package
}

const columns = `
	id, kind, package, target, pin, state, attempts, crashes, cancelling, worker, progress,
	error_code, error_message, result, run_id, run_at, created_at, started_at, ended_at, pull`

// RequestProbe returns the open job that probes pkg, a new one (created) or
// one that is open already. It returns ErrNotFound if there is no such package.
func (s *Store) RequestProbe(ctx context.Context, pkg string) (job Job, created bool, err error) {
	err = s.db.Tx(ctx, func(tx pgx.Tx) error {
		var name string
		err := tx.QueryRow(ctx, `
			SELECT name FROM packages WHERE lower(name) = lower(first_name($1)) AND ($2 OR NOT private)`, pkg, access.SeesPrivate(ctx)).Scan(&name)
		if err != nil {
			return pg.Translate(err)
		}
		job, created, err = Add(ctx, tx, Job{Kind: ProbePackage, Package: name})
		return err
	})
	if err != nil {
		return Job{}, false, fmt.Errorf("request probe of %q: %w", pkg, err)
	}
	return job, created, nil
}

// Add inserts j, or returns the open job that asks for the same. A pull that
// somebody with a token asks for, too, is a pull no more.
func Add(ctx context.Context, tx pgx.Tx, j Job) (job Job, created bool, err error) {
	id, err := uuid.NewV7()
	if err != nil {
		return Job{}, false, fmt.Errorf("make job id: %w", err)
	}
	for {
		rows, _ := tx.Query(ctx, `
			INSERT INTO jobs (id, kind, package, target, run_id, pull) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT DO NOTHING RETURNING `+columns, id, j.Kind, j.Package, j.Target, j.RunID, j.Pull)
		job, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Job])
		if err == nil {
			return job, true, nil
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return Job{}, false, fmt.Errorf("add job: %w", pg.Translate(err))
		}
		rows, _ = tx.Query(ctx, `
			SELECT `+columns+` FROM jobs
			WHERE kind = $1 AND package = $2 AND target = $3 AND state IN ('queued', 'running')
			ORDER BY state LIMIT 1`, j.Kind, j.Package, j.Target)
		job, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Job])
		if err == nil && !j.Pull && job.Pull {
			err = Adopt(ctx, tx, job.ID)
			job.Pull = false
		}
		if !errors.Is(err, pgx.ErrNoRows) { // else it has ended meanwhile
			break
		}
	}
	if err != nil {
		return Job{}, false, fmt.Errorf("find open job: %w", pg.Translate(err))
	}
	return job, false, nil
}

// Adopt makes an open pull the job of somebody with a token: the queue is told of it again, before pulls, and if a worker
// has it and it fails, it is not over. It returns pgx.ErrNoRows if it has ended.
func Adopt(ctx context.Context, tx pgx.Tx, id uuid.UUID) error {
	tag, err := tx.Exec(ctx, `UPDATE jobs SET pull = false, enqueued_at = NULL WHERE id = $1 AND state IN ('queued', 'running')`, id)
	if err == nil && tag.RowsAffected() == 0 {
		return pgx.ErrNoRows
	}
	return err
}

// ByID returns the job with the given id, or ErrNotFound.
func (s *Store) ByID(ctx context.Context, id uuid.UUID) (Job, error) {
	rows, _ := s.db.Pool.Query(ctx, `SELECT `+columns+` FROM jobs WHERE id = $1 AND seen_job(kind, package, $2)`, id, access.SeesPrivate(ctx))
	return oneJob(rows, id)
}

// ShortID is how many digits at the end of a job's id are as good as the whole of it. The index jobs_short has them.
const ShortID = 8

// ValidShortID reports whether text may be the end of a job's id: ShortID hex digits in lower case.
func ValidShortID(text string) bool {
	return len(text) == ShortID && strings.Trim(text, "0123456789abcdef") == ""
}

// ByShortID returns the job whose id ends in ShortID digits, or ErrNotFound; the code is not_found, too, if there are several.
func (s *Store) ByShortID(ctx context.Context, digits string) (Job, error) {
	rows, _ := s.db.Pool.Query(ctx, `
		SELECT `+columns+` FROM jobs WHERE right(id::text, 8) = $1 AND seen_job(kind, package, $2) LIMIT 2`, digits, access.SeesPrivate(ctx))
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[Job])
	switch {
	case err != nil:
		err = pg.Translate(err)
	case len(all) == 0:
		err = fault.ErrNotFound
	case len(all) > 1:
		return Job{}, fault.New("not_found", "the ids of several jobs end in "+digits+": give the whole of one; /api/jobs lists them")
	default:
		return all[0], nil
	}
	return Job{}, fmt.Errorf("job that ends in %s: %w", digits, err)
}

// ByIDs returns those jobs of the ids that there are.
func (s *Store) ByIDs(ctx context.Context, ids []uuid.UUID) ([]Job, error) {
	rows, _ := s.db.Pool.Query(ctx, `SELECT `+columns+` FROM jobs WHERE id = ANY($1) AND seen_job(kind, package, $2)`, ids, access.SeesPrivate(ctx))
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[Job])
	if err != nil {
		return nil, fmt.Errorf("jobs by id: %w", pg.Translate(err))
	}
	return all, nil
}

func oneJob(rows pgx.Rows, id uuid.UUID) (Job, error) {
	job, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Job])
	if err != nil {
		return Job{}, fmt.Errorf("job %s: %w", id, pg.Translate(err))
	}
	return job, nil
}

// A Filter selects jobs; its zero value selects all.
type Filter struct {
	State   string
	Package string
	Run     int64     // only what this update had done; 0 for all
	Before  uuid.UUID // only jobs created before this one; for paging
	Limit   int
}

// List returns jobs, newest first.
func (s *Store) List(ctx context.Context, f Filter) ([]Job, error) {
	rows, _ := s.db.Pool.Query(ctx, `
		SELECT `+columns+` FROM jobs
		WHERE (@state = '' OR state = @state)
			AND (@package = '' OR package = (SELECT CASE WHEN seen(name, @private) THEN name ELSE '/' END FROM first_name(@package) AS name))
			AND (@run::bigint = 0 OR run_id = @run)
			AND seen_job(kind, package, @private)
			AND (@first OR (created_at, id) < (SELECT created_at, id FROM jobs WHERE id = @before))
		ORDER BY created_at DESC, id DESC LIMIT @limit`,
		pgx.NamedArgs{"state": f.State, "package": f.Package, "run": f.Run, "private": access.SeesPrivate(ctx), "first": f.Before == uuid.Nil, "before": f.Before, "limit": f.Limit})
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[Job])
	if err != nil {
		return nil, fmt.Errorf("list jobs: %w", pg.Translate(err))
	}
	return all, nil
}

// Claim takes a job that is due for worker, until lease from now.
// It returns ErrLost if there is nothing to take: the job has ended, is not
// due, is running, or its package is busy with another job. After any other
// error the job may be claimed all the same: RequeueJob gives it back.
func (s *Store) Claim(ctx context.Context, id uuid.UUID, worker string, lease time.Duration) (Claim, error) {
	c := Claim{Job: Job{ID: id}, Lease: uuid.New()}
	err := s.db.Tx(ctx, func(tx pgx.Tx) error {
		// The package's row is locked before the job's, as everywhere: in two
		// orders, this and RequestFetch would deadlock. A frozen worker can hold
		// it for longer than a lease lasts, which therefore runs from when we
		// have it, not from now(), when we began to wait. It is locked whatever
		// the job's state: by the next statement it may be queued again.
		err := tx.QueryRow(ctx, `
			UPDATE packages SET fence = fence + 1
			WHERE name = (SELECT package FROM jobs WHERE id = $1)
			RETURNING fence`, id).Scan(&c.Fence)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		rows, _ := tx.Query(ctx, `
			UPDATE jobs
			SET state = 'running', attempts = attempts + 1, worker = $2, lease = $3, lease_until = clock_timestamp() + $4::interval,
				started_at = COALESCE(started_at, now()), progress = '{}'
			WHERE id = $1 AND state = 'queued' AND run_at <= now()
			RETURNING `+columns, id, worker, c.Lease, lease)
		job, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Job])
		if err != nil {
			return pg.Translate(err)
		}
		c.Job = job
		return nil
	})
	if errors.Is(err, fault.ErrNotFound) || errors.Is(err, fault.ErrConflict) {
		err = ErrLost
	}
	if err != nil {
		return c, fmt.Errorf("claim job %s: %w", id, pg.Translate(err))
	}
	return c, nil
}

// Extend renews the claim and stores the job's progress. cancelling says
// that somebody asked the job to end. It returns ErrLost if the claim was
// taken over.
func (s *Store) Extend(ctx context.Context, c Claim, lease time.Duration, p Progress) (cancelling bool, err error) {
	// The row is locked first, so that the time of waiting for it is none of the lease's.
	err = s.db.Pool.QueryRow(ctx, `
		WITH held AS MATERIALIZED (SELECT id FROM jobs WHERE id = $1 AND lease = $2 FOR UPDATE)
		UPDATE jobs SET lease_until = clock_timestamp() + $3::interval, progress = $4
		FROM held WHERE jobs.id = held.id AND lease = $2 RETURNING cancelling`, c.Job.ID, c.Lease, lease, p).Scan(&cancelling)
	if err = pg.Translate(err); errors.Is(err, fault.ErrNotFound) {
		err = ErrLost
	}
	if err != nil {
		return false, fmt.Errorf("extend job %s: %w", c.Job.ID, err)
	}
	return cancelling, nil
}

// An Outcome is how a claimed job ended.
type Outcome struct {
	State    string // Succeeded, Failed or Cancelled
	Code     string
	Message  string
	Result   any
	Progress Progress
	Created  int   // tarballs that a fetch made, counted in its run
	Present  int   // releases that were there already
	Sync     *Sync // recorded with it, for a package's job
}

// End ends the claimed job and counts it in its run.
// It returns ErrLost if the claim was taken over.
func (s *Store) End(ctx context.Context, c Claim, o Outcome) error {
	result, err := json.Marshal(o.Result)
	if err != nil {
		return fmt.Errorf("end job %s: %w", c.Job.ID, err)
	}
	adopted := false
	err = s.db.Tx(ctx, func(tx pgx.Tx) error {
		if o.Sync != nil {
			if err := HoldFence(ctx, tx, c); err != nil {
				return err
			}
			if err := recordSync(ctx, tx, c, *o.Sync); err != nil {
				return err
			}
		}
		// The run is the row's: an update that folds hands its children on.
		err := tx.QueryRow(ctx, `
			UPDATE jobs
			SET state = @state, error_code = @code, error_message = @message, result = @result, progress = @progress,
				ended_at = now(), lease = NULL, lease_until = NULL
			WHERE id = @id AND lease = @lease RETURNING run_id, @pull AND NOT pull`,
			pgx.NamedArgs{"id": c.Job.ID, "lease": c.Lease, "state": o.State, "code": o.Code, "message": o.Message,
				"result": result, "progress": o.Progress, "pull": c.Job.Pull}).Scan(&c.Job.RunID, &adopted)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return ErrLost
		case err != nil:
			return err
		case adopted && o.State == Failed:
			return errAdopted
		}
		if err := countChild(ctx, tx, c, o); err != nil {
			return err
		}
		return wakePackage(ctx, tx, c.Job.Package)
	})
	if errors.Is(err, errAdopted) {
		return s.Requeue(ctx, c, 0, false, "", "")
	}
	if err != nil {
		return fmt.Errorf("end job %s: %w", c.Job.ID, pg.Translate(err))
	}
	return nil
}

// errAdopted says that a pull failed which somebody with a token asked for meanwhile: what that
// may use was not tried.
var errAdopted = errors.New("adopted")

// wakePackage has the queue told again of jobs that waited for the package;
// updates wait for each other as if they had one, "".
func wakePackage(ctx context.Context, tx pgx.Tx, pkg string) error {
	_, err := tx.Exec(ctx, `UPDATE jobs SET enqueued_at = NULL WHERE package = $1 AND state = 'queued'`, pkg)
	return err
}

// Requeue gives the claimed job back, to run again after wait. An attempt
// that was spent counts; one that was only interrupted (spent is false) does
// not. An update folds into the one that is queued behind it, if there is one.
// It returns ErrLost if the claim was taken over.
func (s *Store) Requeue(ctx context.Context, c Claim, wait time.Duration, spent bool, code, message string) error {
	err := s.db.Tx(ctx, func(tx pgx.Tx) error {
		if c.Job.Kind == UpdateCatalog {
			if _, folded, err := foldUpdate(ctx, tx, c, wait, code, message); folded || err != nil {
				return err
			}
		}
		tag, err := tx.Exec(ctx, `
			UPDATE jobs
			SET state = 'queued', lease = NULL, lease_until = NULL, enqueued_at = NULL, run_at = now() + @wait::interval,
				attempts = attempts - CASE WHEN @spent THEN 0 ELSE 1 END,
				error_code = @code, error_message = @message
			WHERE id = @id AND lease = @lease`,
			pgx.NamedArgs{"id": c.Job.ID, "lease": c.Lease, "wait": wait, "spent": spent, "code": code, "message": message})
		if err == nil && tag.RowsAffected() == 0 {
			return ErrLost
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("requeue job %s: %w", c.Job.ID, pg.Translate(err))
	}
	return nil
}

// ClearCrashes forgets that the claimed job's workers vanished: it gets
// somewhere, so it is not what takes them down.
func (s *Store) ClearCrashes(ctx context.Context, c Claim) error {
	_, err := s.db.Pool.Exec(ctx, `UPDATE jobs SET crashes = 0 WHERE id = $1 AND lease = $2 AND crashes > 0`, c.Job.ID, c.Lease)
	if err != nil {
		return fmt.Errorf("clear crashes of job %s: %w", c.Job.ID, pg.Translate(err))
	}
	return nil
}

// Watch notes that somebody looks for lost jobs, which every worker does all
// the time. When nobody did for longer than quiet, Postgres was away or its
// clock was set: such time is not taken from the leases, and what a clock that
// went back left in the future is due when it would have been.
func (s *Store) Watch(ctx context.Context, lease, quiet time.Duration) error {
	err := s.db.Tx(ctx, func(tx pgx.Tx) error {
		var passed time.Duration
		err := tx.QueryRow(ctx, `
			UPDATE watch SET at = clock_timestamp() FROM (SELECT at FROM watch FOR UPDATE) last
			RETURNING watch.at - last.at`).Scan(&passed)
		if err != nil || passed.Abs() <= quiet {
			return err
		}
		if passed < 0 {
			if err := setBack(ctx, tx, -passed); err != nil {
				return err
			}
		}
		_, err = tx.Exec(ctx, `
			UPDATE jobs SET lease_until = LEAST(lease_until + GREATEST($1::interval, '0'), now() + $2::interval)
			WHERE state = 'running' AND lease_until IS NOT NULL`, passed, lease)
		return err
	})
	if err != nil {
		return fmt.Errorf("watch leases: %w", pg.Translate(err))
	}
	return nil
}

// setBack moves what is yet to come with a clock that went back. What apis
// keep in memory is read anew: they ask for later changes than they know.
func setBack(ctx context.Context, tx pgx.Tx, by time.Duration) error {
	batch := &pgx.Batch{}
	batch.Queue(`UPDATE packages SET next_sync_at = next_sync_at - $1::interval WHERE next_sync_at > now()`, by)
	batch.Queue(`UPDATE packages SET changed_at = now() WHERE changed_at > now()`)
	batch.Queue(`UPDATE access SET epoch = epoch + 1`)
	batch.Queue(`UPDATE upstream_hosts SET next_at = next_at - $1::interval WHERE next_at > now()`, by)
	batch.Queue(`UPDATE jobs SET run_at = run_at - $1::interval WHERE state = 'queued' AND run_at > now()`, by)
	batch.Queue(`UPDATE jobs SET enqueued_at = now() WHERE state = 'queued' AND enqueued_at > now()`)
	batch.Queue(`UPDATE runs SET created_at = now() WHERE created_at > now()`)
	batch.Queue(`UPDATE runs SET started_at = now() WHERE started_at > now()`)
	batch.Queue(`UPDATE workers SET seen_at = now() WHERE seen_at > now()`)
	return tx.SendBatch(ctx, batch).Close()
}

// Reap takes running jobs from workers that vanished. They are queued
// again, or ended when that happened MaxCrashes times; an update may fold.
// Each is taken by itself: one that cannot be is an error, and no hindrance.
func (s *Store) Reap(ctx context.Context) (all []Job, err error) {
	rows, _ := s.db.Pool.Query(ctx, `
		SELECT id, kind, lease FROM jobs WHERE state = 'running' AND lease_until < now() ORDER BY lease_until LIMIT 1000`)
	lost, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c Claim, err error) {
		return c, row.Scan(&c.Job.ID, &c.Job.Kind, &c.Lease)
	})
	if err != nil {
		return nil, fmt.Errorf("reap jobs: %w", pg.Translate(err))
	}
	var errs []error
	for _, c := range lost {
		switch job, err := s.reapJob(ctx, c); {
		case errors.Is(err, ErrLost): // its worker is back, or another one reaps
		case err != nil:
			errs = append(errs, fmt.Errorf("reap job %s: %w", c.Job.ID, pg.Translate(err)))
		default:
			all = append(all, job)
		}
	}
	return all, errors.Join(errs...)
}

func (s *Store) reapJob(ctx context.Context, c Claim) (job Job, err error) {
	err = s.db.Tx(ctx, func(tx pgx.Tx) error {
		if c.Job.Kind == UpdateCatalog {
			if err := lockUpdates(ctx, tx); err != nil {
				return err
			}
		}
		err := tx.QueryRow(ctx, `
			SELECT crashes, cancelling FROM jobs
			WHERE id = $1 AND lease = $2 AND lease_until < now() FOR UPDATE SKIP LOCKED`, c.Job.ID, c.Lease).Scan(&c.Job.Crashes, &c.Job.Cancelling)
		if errors.Is(err, pgx.ErrNoRows) {
			return ErrLost
		}
		if err != nil {
			return err
		}
		c.Job.Crashes++
		o := lostOutcome(c.Job)
		if o.State == Queued && c.Job.Kind == UpdateCatalog {
			folded := false
			if job, folded, err = foldUpdate(ctx, tx, c, 0, o.Code, "the worker vanished"); folded || err != nil {
				return err
			}
		}
		rows, _ := tx.Query(ctx, `
			UPDATE jobs
			SET crashes = @crashes, lease = NULL, lease_until = NULL, enqueued_at = NULL, run_at = now(),
				state = @state, ended_at = CASE WHEN @state <> 'queued' THEN now() END, error_code = @code, error_message = @message
			WHERE id = @id
			RETURNING `+columns, pgx.NamedArgs{"id": c.Job.ID, "crashes": c.Job.Crashes, "state": o.State, "code": o.Code, "message": o.Message})
		if job, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Job]); err != nil {
			return err
		}
		return countEnd(ctx, tx, job)
	})
	return job, err
}

// lostOutcome is what becomes of a job whose worker vanished once more.
func lostOutcome(job Job) Outcome {
	switch {
	case job.Cancelling:
		return Outcome{State: Cancelled, Code: "cancelled", Message: "cancelled on request"}
	case job.Crashes >= MaxCrashes:
		return Outcome{State: Failed, Code: "quarantined", Message: fmt.Sprintf(
			"the job took down its worker %d times and is not tried again by itself; retry it once the cause is known", job.Crashes)}
	}
	return Outcome{State: Queued, Code: "worker_lost", Message: "the worker vanished; the job starts again"}
}

// countEnd counts a job in its run that ended without its worker's word.
func countEnd(ctx context.Context, tx pgx.Tx, job Job) error {
	if job.Open() {
		return nil
	}
	if err := countChild(ctx, tx, Claim{Job: job}, Outcome{State: job.State}); err != nil {
		return err
	}
	return wakePackage(ctx, tx, job.Package)
}

// A DueJob is a queued job that the queue should be told of.
type DueJob struct {
	ID       uuid.UUID
	Kind     string
	Repeated bool // the queue was told before
	Pull     bool
}

// Due returns queued jobs that are due and that the queue was not told
// of, or was told of more than stale ago; the longest waiting first.
func (s *Store) Due(ctx context.Context, stale time.Duration, limit int) ([]DueJob, error) {
	rows, _ := s.db.Pool.Query(ctx, `
		SELECT id, kind, enqueued_at IS NOT NULL AS repeated, pull FROM jobs
		WHERE state = 'queued' AND run_at <= now() AND (enqueued_at IS NULL OR enqueued_at < now() - $1::interval)
		ORDER BY pull, run_at LIMIT $2`, stale, limit)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[DueJob])
	if err != nil {
		return nil, fmt.Errorf("due jobs: %w", pg.Translate(err))
	}
	return all, nil
}

// A Queue is told of jobs that are due.
type Queue interface {
	Enqueue(ctx context.Context, kind string, job uuid.UUID, pull bool) error
}

// Enqueue tells q of the job and notes that. A job whose queue is away is not
// lost: it stays [Store.Due].
func (s *Store) Enqueue(ctx context.Context, q Queue, kind string, job uuid.UUID, pull bool) error {
	if err := q.Enqueue(ctx, kind, job, pull); err != nil {
		return err
	}
	_, err := s.db.Pool.Exec(ctx, `UPDATE jobs SET enqueued_at = now() WHERE id = $1 AND state = 'queued'`, job)
	if err != nil {
		return fmt.Errorf("enqueue job %s: %w", job, pg.Translate(err))
	}
	return nil
}

// Retry queues a job again that ended without success.
// It returns ErrConflict if it has not ended, succeeded, or has a successor.
// An update begins its run again; other jobs leave theirs, which has ended.
func (s *Store) Retry(ctx context.Context, id uuid.UUID) (job Job, err error) {
	err = s.db.Tx(ctx, func(tx pgx.Tx) error {
		if err := lockUpdates(ctx, tx); err != nil {
			return err
		}
		rows, _ := tx.Query(ctx, `
			UPDATE jobs
			SET state = 'queued', attempts = 0, crashes = 0, cancelling = false, run_at = now(), enqueued_at = NULL,
				started_at = NULL, ended_at = NULL, error_code = '', error_message = '', result = NULL, progress = '{}', pull = false,
				run_id = CASE WHEN kind = 'catalog:update' THEN run_id END
			WHERE id = $1 AND state IN ('failed', 'cancelled')
			RETURNING `+columns, id)
		job, err = oneJob(rows, id)
		return err
	})
	if errors.Is(err, fault.ErrConflict) {
		return Job{}, fault.Conflict("job %s has a successor: an open job does the same", id)
	}
	return s.changed(ctx, id, job, err, "only one that failed or was cancelled can be tried again")
}

// Cancel ends a job that no worker has, and asks the worker of a running one to stop.
// It returns ErrConflict if the job has ended.
func (s *Store) Cancel(ctx context.Context, id uuid.UUID) (job Job, err error) {
	err = s.db.Tx(ctx, func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, `
			UPDATE jobs
			SET cancelling = true,
				state = CASE WHEN lease_until IS NULL THEN 'cancelled' ELSE state END,
				ended_at = CASE WHEN lease_until IS NULL THEN now() END,
				lease = CASE WHEN lease_until IS NULL THEN NULL ELSE lease END,
				error_code = CASE WHEN lease_until IS NULL THEN 'cancelled' ELSE error_code END,
				error_message = CASE WHEN lease_until IS NULL THEN 'cancelled on request' ELSE error_message END
			WHERE id = $1 AND state IN ('queued', 'running')
			RETURNING `+columns, id)
		if job, err = oneJob(rows, id); err != nil {
			return err
		}
		return countEnd(ctx, tx, job)
	})
	return s.changed(ctx, id, job, err, "only one that is queued or running can be cancelled")
}

// changed tells a job that is not there from one in the wrong state; right says which would be right.
func (s *Store) changed(ctx context.Context, id uuid.UUID, job Job, err error, right string) (Job, error) {
	if !errors.Is(err, fault.ErrNotFound) {
		return job, err
	}
	job, err = s.ByID(ctx, id)
	if err != nil {
		return Job{}, err
	}
	return Job{}, fault.Conflict("job %s has the state %s: %s", id, job.State, right)
}

// Prune removes jobs that ended longer than age ago.
func (s *Store) Prune(ctx context.Context, age time.Duration) error {
	_, err := s.db.Pool.Exec(ctx, `DELETE FROM jobs WHERE ended_at < now() - $1::interval`, age)
	if err != nil {
		return fmt.Errorf("prune jobs: %w", pg.Translate(err))
	}
	return nil
}

// ErrLost says that another worker has taken over: what this one holds
// is stale, and it must stop.
var ErrLost = errors.New("claim lost")

// Failures returns the jobs that failed within a week and that nobody has
// asked for again since, newest first. Who was told that there are no tags, and
// then had a branch or a commit mirrored, has what was wanted.
func (s *Store) Failures(ctx context.Context, limit int) ([]Job, error) {
	rows, _ := s.db.Pool.Query(ctx, `
		SELECT `+columns+` FROM jobs j
		WHERE state = 'failed' AND created_at > now() - interval '7 days' AND seen_job(kind, package, $2)
			AND NOT EXISTS (SELECT FROM jobs later
				WHERE later.package = j.package AND later.kind = j.kind
					AND (later.target = j.target OR j.error_code = 'no_tags' AND later.state = 'succeeded')
					AND (later.created_at, later.id) > (j.created_at, j.id))
		ORDER BY created_at DESC, id DESC LIMIT $1`, limit, access.SeesPrivate(ctx))
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[Job])
	if err != nil {
		return nil, fmt.Errorf("failures: %w", pg.Translate(err))
	}
	return all, nil
}
