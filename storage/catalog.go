package storage

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// A CatalogEntry is one package as the catalog lists it.
type CatalogEntry struct {
	ID          string
	Name        string
	Upstream    string // canonical
	CloneURL    string
	Language    string
	Description string
	Updated     string `db:"source_updated"` // updated_at as the catalog writes it
	Problem     string // why the entry is not used; "" when it is
}

// A CatalogDiff is how a catalog differs from the one before.
type CatalogDiff struct{ Added, Updated, Removed int }

// StoreCatalog replaces the stored catalog by one that was downloaded whole.
// Entries are told apart by ID. A removed entry's package stays.
func (db *DB) StoreCatalog(ctx context.Context, source, digest string, entries []CatalogEntry) (diff CatalogDiff, err error) {
	err = db.tx(ctx, func(tx pgx.Tx) error {
		diff = CatalogDiff{}
		held, err := catalogEntries(ctx, tx)
		if err != nil {
			return err
		}
		known := make(map[string]CatalogEntry, len(held))
		for _, e := range held {
			known[e.ID] = e
		}
		// Names move between entries: all are cleared before any is set.
		batch := &pgx.Batch{}
		batch.Queue(`UPDATE catalog_entries SET problem = 'replaced'`)
		for _, e := range entries {
			switch old, ok := known[e.ID]; {
			case !ok:
				diff.Added++
			case old != e:
				diff.Updated++
			}
			delete(known, e.ID)
			queueEntry(batch, e)
		}
		for id := range known {
			diff.Removed++
			batch.Queue(`DELETE FROM catalog_entries WHERE id = $1`, id)
		}
		batch.Queue(`
			UPDATE packages p SET registered = c.id IS NOT NULL, language = COALESCE(c.language, p.language)
			FROM packages q LEFT JOIN catalog_entries c ON lower(c.name) = lower(q.name) AND c.upstream = q.upstream AND c.problem = ''
			WHERE q.name = p.name AND (p.registered <> (c.id IS NOT NULL) OR p.language <> COALESCE(c.language, p.language))`)
		batch.Queue(`
			INSERT INTO catalog (source, digest, fetched_at) VALUES ($1, $2, now())
			ON CONFLICT (one) DO UPDATE
			SET source = EXCLUDED.source, digest = EXCLUDED.digest, fetched_at = now(), error_code = '', error_message = ''`, source, digest)
		return tx.SendBatch(ctx, batch).Close()
	})
	if err != nil {
		return CatalogDiff{}, fmt.Errorf("store catalog: %w", translate(err))
	}
	return diff, nil
}

func queueEntry(batch *pgx.Batch, e CatalogEntry) {
	batch.Queue(`
		INSERT INTO catalog_entries (id, name, upstream, clone_url, language, description, source_updated, problem)
		VALUES (@id, @name, @upstream, @clone_url, @language, @description, @updated, @problem)
		ON CONFLICT (id) DO UPDATE
		SET name = EXCLUDED.name, upstream = EXCLUDED.upstream, clone_url = EXCLUDED.clone_url, language = EXCLUDED.language,
			description = EXCLUDED.description, source_updated = EXCLUDED.source_updated, problem = EXCLUDED.problem`,
		pgx.NamedArgs{"id": e.ID, "name": e.Name, "upstream": e.Upstream, "clone_url": e.CloneURL, "language": e.Language,
			"description": e.Description, "updated": e.Updated, "problem": e.Problem})
}

func catalogEntries(ctx context.Context, tx pgx.Tx) ([]CatalogEntry, error) {
	rows, _ := tx.Query(ctx, `
		SELECT id, name, upstream, clone_url, language, description, source_updated, problem FROM catalog_entries`)
	return pgx.CollectRows(rows, pgx.RowToStructByName[CatalogEntry])
}

// CatalogDigest returns the digest of the stored catalog, "" if there is none
// from that source.
func (db *DB) CatalogDigest(ctx context.Context, source string) (digest string, err error) {
	err = db.pool.QueryRow(ctx, `SELECT digest FROM catalog WHERE source = $1`, source).Scan(&digest)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return "", fmt.Errorf("catalog digest: %w", translate(err))
	}
	return digest, nil
}

// CatalogFailed records that the catalog could not be had. What is stored of
// it stays.
func (db *DB) CatalogFailed(ctx context.Context, source, code, message string) error {
	_, err := db.pool.Exec(ctx, `
		INSERT INTO catalog (source, error_code, error_message) VALUES ($1, $2, $3)
		ON CONFLICT (one) DO UPDATE SET error_code = EXCLUDED.error_code, error_message = EXCLUDED.error_message`,
		source, code, message)
	if err != nil {
		return fmt.Errorf("record catalog failure: %w", translate(err))
	}
	return nil
}

// CatalogUpdated returns what the catalog's entry for pkg says now.
func (db *DB) CatalogUpdated(ctx context.Context, pkg string) (updated string, err error) {
	err = db.pool.QueryRow(ctx, `
		SELECT source_updated FROM catalog_entries WHERE lower(name) = lower($1) AND problem = ''`, pkg).Scan(&updated)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return "", fmt.Errorf("catalog entry of %s: %w", pkg, translate(err))
	}
	return updated, nil
}

// A Candidate is a package that an update may have to look at.
type Candidate struct {
	ID       string // of the catalog's entry; "" for a fixture
	Name     string
	Upstream string
	CloneURL string
	Language string
	Text     string // the catalog's description
	Fresh    bool   // nothing changed since the last good sync
	Waiting  bool   // failed lately, so that its next try is later, or is not active
}

// Candidates returns all that the catalog lists and that can be used. What was
// mirrored on request alone is not for updates, which anybody may start.
//
// Fresh is what has an unchanged, non-empty updated_at in the catalog, a
// release, a last sync that succeeded, and no rejected tag that is to be tried
// again: its time has come, or it was judged by other rules.
func (db *DB) Candidates(ctx context.Context, rules string) ([]Candidate, error) {
	rows, _ := db.pool.Query(ctx, `
		SELECT c.id, c.name, c.upstream, c.clone_url, c.language, c.description AS text,
			COALESCE(c.source_updated <> '' AND c.synced_updated = c.source_updated
				AND p.release_count > 0 AND p.sync_ok AND p.upstream = c.upstream
				AND NOT EXISTS (SELECT FROM rejected_tags r WHERE r.package = p.name AND (r.rules <> $1 OR r.retry_at <= now())
					AND NOT EXISTS (SELECT FROM releases WHERE package = p.name AND tag = r.tag)), false) AS fresh,
			COALESCE(p.state <> 'active' OR p.next_sync_at > now() AND p.upstream = c.upstream, false) AS waiting
		FROM catalog_entries c LEFT JOIN packages p ON lower(p.name) = lower(c.name)
		WHERE c.problem = '' ORDER BY c.name`, rules)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[Candidate])
	if err != nil {
		return nil, fmt.Errorf("candidates: %w", translate(err))
	}
	return all, nil
}

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
// whose name is another's; each that was scanned ends as synced or failed.
type Counters struct {
	SourceChanged    bool `json:"source_changed"`
	SourcePackages   int  `json:"source_packages"`
	SourceAdded      int  `json:"source_added"`
	SourceUpdated    int  `json:"source_updated"`
	SourceRemoved    int  `json:"source_removed"`
	SourceSkipped    int  `json:"source_skipped"`     // entries that are not usable, and packages that are fresh, wait or are frozen
	SourceRepoFailed int  `json:"source_repo_failed"` // packages whose sync failed
	ReposScanned     int  `json:"repos_scanned"`      // packages with a job of this run
	PackagesTotal    int  `json:"packages_total"`
	PackagesSynced   int  `json:"packages_synced"`
	PackagesProbed   int  `json:"packages_probed"`
	TarballsCreated  int  `json:"tarballs_created"`
	TarballsPresent  int  `json:"tarballs_present"`
}

const runColumns = `
	id, state, created_at, started_at, updated_at, ended_at,
	source_changed, source_packages, source_added, source_updated, source_removed, source_skipped, source_repo_failed,
	repos_scanned, packages_total, packages_synced, packages_probed, tarballs_created, tarballs_present`

// LastRun returns the newest run that has begun, or ErrNotFound.
func (db *DB) LastRun(ctx context.Context) (Run, error) {
	rows, _ := db.pool.Query(ctx, `SELECT `+runColumns+` FROM runs WHERE started_at IS NOT NULL ORDER BY id DESC LIMIT 1`)
	run, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Run])
	if err != nil {
		return Run{}, fmt.Errorf("last run: %w", translate(err))
	}
	return run, nil
}

// Cooling returns how long it takes until cooldown has passed since the last
// run began; 0 or less if it has.
func (db *DB) Cooling(ctx context.Context, cooldown time.Duration) (left time.Duration, err error) {
	err = db.pool.QueryRow(ctx, `
		SELECT started_at + $1::interval - now() FROM runs WHERE started_at IS NOT NULL ORDER BY id DESC LIMIT 1`, cooldown).Scan(&left)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return 0, fmt.Errorf("cooldown of updates: %w", translate(err))
	}
	return left, nil
}

// RequestUpdate returns the update that has not begun yet, a new one
// (created) if there is none. That does not begin until cooldown has passed
// since the one before began.
func (db *DB) RequestUpdate(ctx context.Context, cooldown time.Duration) (job Job, created bool, err error) {
	err = db.tx(ctx, func(tx pgx.Tx) error {
		job, created, err = addUpdate(ctx, tx, cooldown)
		return err
	})
	if err != nil {
		return Job{}, false, fmt.Errorf("request update: %w", translate(err))
	}
	return job, created, nil
}

// RequestDueUpdate is RequestUpdate if none was requested within interval.
// Of many callers at once, one gets created.
func (db *DB) RequestDueUpdate(ctx context.Context, interval, cooldown time.Duration) (job Job, created bool, err error) {
	err = db.tx(ctx, func(tx pgx.Tx) error {
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
		return Job{}, false, fmt.Errorf("request due update: %w", translate(err))
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
	rows, _ := tx.Query(ctx, `SELECT `+jobColumns+` FROM jobs WHERE kind = $1 AND state = 'queued' FOR UPDATE`, UpdateCatalog)
	job, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Job])
	if !errors.Is(err, pgx.ErrNoRows) {
		return job, false, err
	}
	var run int64
	if err := tx.QueryRow(ctx, `INSERT INTO runs DEFAULT VALUES RETURNING id`).Scan(&run); err != nil {
		return Job{}, false, err
	}
	job, created, err := addJob(ctx, tx, Job{Kind: UpdateCatalog, RunID: &run})
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
		RETURNING `+jobColumns, pgx.NamedArgs{"id": c.Job.ID, "lease": c.Lease, "code": code,
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
func (db *DB) RunningUpdate(ctx context.Context) (Job, error) {
	rows, _ := db.pool.Query(ctx, `SELECT `+jobColumns+` FROM jobs WHERE kind = $1 AND state = 'running'`, UpdateCatalog)
	job, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Job])
	if err != nil {
		return Job{}, fmt.Errorf("running update: %w", translate(err))
	}
	return job, nil
}

// OpenUpdate returns the update that is under way, else the one that is
// queued, or ErrNotFound.
func (db *DB) OpenUpdate(ctx context.Context) (Job, error) {
	rows, _ := db.pool.Query(ctx, `
		SELECT `+jobColumns+` FROM jobs
		WHERE kind = $1 AND state IN ('queued', 'running') ORDER BY state DESC LIMIT 1`, UpdateCatalog)
	job, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Job])
	if err != nil {
		return Job{}, fmt.Errorf("open update: %w", translate(err))
	}
	return job, nil
}

// StartRun notes that the claimed update has begun. It returns ErrLost if the
// claim was taken over.
func (db *DB) StartRun(ctx context.Context, c Claim) error {
	tag, err := db.pool.Exec(ctx, `
		UPDATE runs SET state = 'running', started_at = COALESCE(started_at, now()), updated_at = now(), ended_at = NULL
		WHERE id = (SELECT run_id FROM jobs WHERE id = $1 AND lease = $2 FOR UPDATE)`, c.Job.ID, c.Lease)
	if err == nil && tag.RowsAffected() == 0 {
		err = ErrLost
	}
	if err != nil {
		return fmt.Errorf("start run: %w", translate(err))
	}
	return nil
}

// AddChild has a candidate fetched as part of a run. The package takes over
// what the catalog says of it. It returns a *BoundError if the name belongs to
// another upstream.
func (db *DB) AddChild(ctx context.Context, run int64, cand Candidate) (job Job, created bool, err error) {
	err = db.tx(ctx, func(tx pgx.Tx) error {
		owner, err := claimName(ctx, tx, cand.Name, Upstream{Canonical: cand.Upstream, CloneURL: cand.CloneURL})
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
			job, created, err = addJob(ctx, tx, Job{Kind: FetchPackage, Package: owner, RunID: &run})
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
		return Job{}, false, fmt.Errorf("fetch %s: %w", cand.Name, translate(err))
	}
	return job, created, nil
}

// MarkEntry records why a catalog entry cannot be used.
func (db *DB) MarkEntry(ctx context.Context, id, problem string) error {
	_, err := db.pool.Exec(ctx, `UPDATE catalog_entries SET problem = $2 WHERE id = $1`, id, problem)
	if err != nil {
		return fmt.Errorf("mark entry %s: %w", id, translate(err))
	}
	return nil
}

// CatalogProblems returns the entries that are not used, with the reason.
func (db *DB) CatalogProblems(ctx context.Context, limit int) ([]CatalogEntry, error) {
	rows, _ := db.pool.Query(ctx, `
		SELECT id, name, upstream, clone_url, language, description, source_updated, problem
		FROM catalog_entries WHERE problem <> '' ORDER BY id LIMIT $1`, limit)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[CatalogEntry])
	if err != nil {
		return nil, fmt.Errorf("catalog problems: %w", translate(err))
	}
	return all, nil
}

// ParkRun stores what the claimed update counted itself, and lets it go on
// without a worker until its last child has ended.
func (db *DB) ParkRun(ctx context.Context, c Claim, n Counters) error {
	err := db.tx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			UPDATE runs
			SET source_changed = @changed, source_packages = @packages, source_added = @added, source_updated = @updated,
				source_removed = @removed, source_skipped = @skipped, source_repo_failed = source_repo_failed + @failed,
				repos_scanned = @scanned, packages_total = @total, tarballs_present = tarballs_present + @present, updated_at = now()
			WHERE id = @id`,
			pgx.NamedArgs{"id": c.Job.RunID, "changed": n.SourceChanged, "packages": n.SourcePackages, "added": n.SourceAdded,
				"updated": n.SourceUpdated, "removed": n.SourceRemoved, "skipped": n.SourceSkipped, "failed": n.SourceRepoFailed,
				"scanned": n.ReposScanned, "total": n.PackagesTotal, "present": n.TarballsPresent})
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
		return fmt.Errorf("park run: %w", translate(err))
	}
	return nil
}

// countChild adds a job that ended to its run.
func countChild(ctx context.Context, tx pgx.Tx, c Claim, o Outcome) error {
	if c.Job.RunID == nil || c.Job.Kind != FetchPackage {
		return nil
	}
	created, present := 0, 0
	if r, ok := o.Result.(interface{ Tarballs() (created, present int) }); ok {
		created, present = r.Tarballs()
	}
	_, err := tx.Exec(ctx, `
		UPDATE runs
		SET packages_synced = packages_synced + CASE WHEN @ok THEN 1 ELSE 0 END,
			source_repo_failed = source_repo_failed + CASE WHEN @ok THEN 0 ELSE 1 END,
			packages_probed = packages_probed + CASE WHEN @ok THEN 1 ELSE 0 END,
			tarballs_created = tarballs_created + @created, tarballs_present = tarballs_present + @present, updated_at = now()
		WHERE id = @id`,
		pgx.NamedArgs{"id": c.Job.RunID, "ok": o.State == Succeeded, "created": created, "present": present})
	return err
}

// CloseRuns ends the runs whose update waits for children and has no open
// ones left, and those whose update has ended in another way.
func (db *DB) CloseRuns(ctx context.Context) error {
	err := db.tx(ctx, func(tx pgx.Tx) error {
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
		return fmt.Errorf("close runs: %w", translate(err))
	}
	return nil
}

// RunProgress returns how many children of a run there are, and how many of
// them have ended.
func (db *DB) RunProgress(ctx context.Context, run int64) (done, total int, err error) {
	err = db.pool.QueryRow(ctx, `
		SELECT count(*) FILTER (WHERE state NOT IN ('queued', 'running')), count(*)
		FROM jobs WHERE run_id = $1 AND kind <> 'catalog:update'`, run).Scan(&done, &total)
	if err != nil {
		return 0, 0, fmt.Errorf("run progress: %w", translate(err))
	}
	return done, total, nil
}

// ReserveHost returns how long to wait before asking the host, so that
// requests to it keep spacing between them, whatever the number of workers.
func (db *DB) ReserveHost(ctx context.Context, host string, spacing time.Duration) (wait time.Duration, err error) {
	err = db.pool.QueryRow(ctx, `
		INSERT INTO upstream_hosts AS h (host, next_at) VALUES ($1, now() + $2::interval)
		ON CONFLICT (host) DO UPDATE SET next_at = GREATEST(h.next_at, now()) + $2::interval
		RETURNING next_at - $2::interval - now()`, strings.ToLower(host), spacing).Scan(&wait)
	if err != nil {
		return 0, fmt.Errorf("reserve %s: %w", host, translate(err))
	}
	return max(wait, 0), nil
}

// PauseHost keeps everybody from asking the host for wait.
func (db *DB) PauseHost(ctx context.Context, host string, wait time.Duration) error {
	_, err := db.pool.Exec(ctx, `
		INSERT INTO upstream_hosts AS h (host, next_at) VALUES ($1, now() + $2::interval)
		ON CONFLICT (host) DO UPDATE SET next_at = GREATEST(h.next_at, EXCLUDED.next_at)`, strings.ToLower(host), wait)
	if err != nil {
		return fmt.Errorf("pause %s: %w", host, translate(err))
	}
	return nil
}

// dialled is the URL that a job j, of a package p or of none, asks upstream for.
const dialled = `CASE WHEN j.kind = 'archive:fetch' THEN j.target ELSE COALESCE(p.clone_url, '') END`

// RunningAt returns the number of running jobs whose upstream is on host, of
// all workers and of the one.
func (db *DB) RunningAt(ctx context.Context, host, worker string) (all, one int, err error) {
	err = db.pool.QueryRow(ctx, `
		SELECT count(*), count(*) FILTER (WHERE j.worker = $2)
		FROM jobs j LEFT JOIN packages p ON p.name = j.package
		WHERE j.state = 'running' AND split_part(`+dialled+`, '/', 3) = $1`, host, worker).Scan(&all, &one)
	if err != nil {
		return 0, 0, fmt.Errorf("running at %s: %w", host, translate(err))
	}
	return all, one, nil
}

// WaitingAt returns the number of queued jobs whose upstream is on host and
// that were there before job, and whether a job of another host is due.
func (db *DB) WaitingAt(ctx context.Context, host string, job uuid.UUID) (ahead int, others bool, err error) {
	err = db.pool.QueryRow(ctx, `
		SELECT count(*) FILTER (WHERE at_host AND id < $2), COALESCE(bool_or(NOT at_host AND run_at <= now()), false)
		FROM (
			SELECT j.id, j.run_at, split_part(`+dialled+`, '/', 3) = $1 AS at_host
			FROM jobs j LEFT JOIN packages p ON p.name = j.package
			WHERE j.state = 'queued' AND j.kind IN ($3, $4)
		) waiting`, host, job, FetchPackage, FetchArchive).Scan(&ahead, &others)
	if err != nil {
		return 0, false, fmt.Errorf("waiting at %s: %w", host, translate(err))
	}
	return ahead, others, nil
}

// QueueCounts are the jobs by what becomes of them.
type QueueCounts struct {
	Pending   int `json:"pending"`   // due, and no worker has them yet
	Active    int `json:"active"`    // a worker has them
	Scheduled int `json:"scheduled"` // due later
	Retry     int `json:"retry"`     // tried, and due again later
	Failed    int `json:"failed"`    // ended without success within a day
}

// QueueCounts counts jobs.
func (db *DB) QueueCounts(ctx context.Context) (QueueCounts, error) {
	rows, _ := db.pool.Query(ctx, `
		SELECT
			count(*) FILTER (WHERE state = 'queued' AND run_at <= now()) AS pending,
			count(*) FILTER (WHERE state = 'running') AS active,
			count(*) FILTER (WHERE state = 'queued' AND run_at > now() AND attempts = 0) AS scheduled,
			count(*) FILTER (WHERE state = 'queued' AND run_at > now() AND attempts > 0) AS retry,
			(SELECT count(*) FROM jobs WHERE state = 'failed' AND created_at > now() - interval '1 day') AS failed
		FROM jobs WHERE state IN ('queued', 'running')`)
	n, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[QueueCounts])
	if err != nil {
		return QueueCounts{}, fmt.Errorf("queue counts: %w", translate(err))
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
func (db *DB) Workers(ctx context.Context) ([]WorkerState, error) {
	rows, _ := db.pool.Query(ctx, `
		SELECT id, concurrency, release, started_at, seen_at FROM workers
		WHERE seen_at > now() - interval '30 seconds' ORDER BY id`)
	workers, err := pgx.CollectRows(rows, pgx.RowToStructByName[WorkerState])
	if err != nil {
		return nil, fmt.Errorf("workers: %w", translate(err))
	}
	rows, _ = db.pool.Query(ctx, `
		SELECT id::text AS job, worker, kind, package, progress, started_at AS since FROM jobs
		WHERE state = 'running' AND lease_until IS NOT NULL AND seen(package, $1) ORDER BY started_at`, SeesPrivate(ctx))
	doing, err := pgx.CollectRows(rows, pgx.RowToStructByName[Doing])
	if err != nil {
		return nil, fmt.Errorf("workers: %w", translate(err))
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
