package storage_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/pg"
	"github.com/francescobianco/packbase/storage/tree"
)

// What a claimed job may become, and what it is then.
func TestJobStates(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	cancel := func(c jobs.Claim) error { _, err := f.Jobs.Cancel(f.ctx, c.Job.ID); return err }
	retry := func(c jobs.Claim) error { _, err := f.Jobs.Retry(f.ctx, c.Job.ID); return err }
	extend := func(c jobs.Claim) error {
		_, err := f.Jobs.Extend(f.ctx, c, time.Minute, jobs.Progress{})
		return err
	}
	again := func(c jobs.Claim) error {
		_, err := f.Jobs.Claim(f.ctx, c.Job.ID, "another", time.Minute)
		return err
	}
	end := func(state string) func(jobs.Claim) error {
		return func(c jobs.Claim) error { return f.Jobs.End(f.ctx, c, jobs.Outcome{State: state, Code: "x"}) }
	}
	requeue := func(wait time.Duration) func(jobs.Claim) error {
		return func(c jobs.Claim) error { return f.Jobs.Requeue(f.ctx, c, wait, true, "busy", "later") }
	}
	type step struct {
		name string
		do   func(jobs.Claim) error
		want error
	}
	tests := []struct {
		name  string
		steps []step
		state string
	}{
		{"extended", []step{{"extend", extend, nil}, {"claim", again, jobs.ErrLost}, {"retry", retry, fault.ErrConflict}}, "running"},
		{"succeeded", []step{{"end", end("succeeded"), nil}, {"end again", end("failed"), jobs.ErrLost}, {"extend", extend, jobs.ErrLost},
			{"claim", again, jobs.ErrLost}, {"retry", retry, fault.ErrConflict}, {"cancel", cancel, fault.ErrConflict}}, "succeeded"},
		{"failed", []step{{"end", end("failed"), nil}, {"cancel", cancel, fault.ErrConflict}, {"claim", again, jobs.ErrLost}}, "failed"},
		{"retried", []step{{"end", end("failed"), nil}, {"retry", retry, nil}, {"retry again", retry, fault.ErrConflict}, {"end by the old claim", end("succeeded"), jobs.ErrLost}}, "queued"},
		{"cancelled", []step{{"end", end("cancelled"), nil}, {"retry", retry, nil}}, "queued"},
		{"asked to end", []step{{"cancel", cancel, nil}, {"cancel again", cancel, nil}, {"extend", extend, nil}}, "running"},
		{"given back", []step{{"requeue", requeue(0), nil}, {"requeue again", requeue(0), jobs.ErrLost}, {"claim", again, nil}, {"end by the old claim", end("succeeded"), jobs.ErrLost}}, "running"},
		{"given back for later", []step{{"requeue", requeue(time.Hour), nil}, {"claim", again, jobs.ErrLost}, {"cancel", cancel, nil}}, "cancelled"},
		{"lost", []step{{"lose", func(c jobs.Claim) error { f.lose(c); _, err := f.Jobs.Reap(f.ctx); return err }, nil}, {"end", end("succeeded"), jobs.ErrLost},
			{"extend", extend, jobs.ErrLost}, {"requeue", requeue(0), jobs.ErrLost}, {"claim", again, nil}}, "running"},
		{"lost while asked to end", []step{{"cancel", cancel, nil}, {"lose", func(c jobs.Claim) error { f.lose(c); _, err := f.Jobs.Reap(f.ctx); return err }, nil}}, "cancelled"},
	}
	for _, tt := range tests { // one after the other, as reaping is for all
		c := f.claim(strings.ReplaceAll(tt.name, " ", "-"))
		for _, s := range tt.steps {
			f.want(tt.name+": "+s.name, s.do(c), s.want)
		}
		if got := f.job(c.Job); got.State != tt.state || got.Open() != (got.EndedAt == nil) {
			t.Errorf("%s: state %s, ended at %v; want %s", tt.name, got.State, got.EndedAt, tt.state)
		}
		f.must(f.exec(`DELETE FROM jobs`))
	}
	nobody := jobs.Claim{Job: jobs.Job{ID: uuid.New()}, Lease: uuid.New()}
	for name, err := range map[string]error{"cancel": cancel(nobody), "retry": retry(nobody)} {
		f.want(name+" of no job", err, fault.ErrNotFound)
	}
	f.want("claim of no job", again(nobody), jobs.ErrLost)
}

// Attempts count what was tried, not what was interrupted.
func TestAttempts(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	job := f.request("hello")
	for i, spent := range []bool{true, false, false, true, true} {
		c, err := f.Jobs.Claim(f.ctx, job.ID, "tests", time.Minute)
		f.must(err)
		if want := []int{1, 2, 2, 2, 3}[i]; c.Job.Attempts != want {
			t.Errorf("claim %d: attempt %d, want %d", i, c.Job.Attempts, want)
		}
		f.must(f.Jobs.Requeue(f.ctx, c, 0, spent, "busy", "later"))
	}
	if got := f.job(job); got.ErrorCode != "busy" || got.ErrorMessage != "later" || got.State != jobs.Queued {
		t.Errorf("job %+v, want it queued with the reason of the last attempt", got)
	}
}

// A worker's progress and the wish to end it pass through the row.
func TestExtendJob(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := f.claim("hello")
	progress := jobs.Progress{Step: "build", Done: 3, Total: 5, Unit: "tags"}
	if cancelling, err := f.Jobs.Extend(f.ctx, c, time.Hour, progress); err != nil || cancelling {
		t.Errorf("extend: cancelling %v, %v", cancelling, err)
	}
	if got := f.job(c.Job).Progress; got != progress {
		t.Errorf("progress %+v, want %+v", got, progress)
	}
	if lost, err := f.Jobs.Reap(f.ctx); err != nil || len(lost) > 0 {
		t.Errorf("reaped %v, %v; want nothing while the lease holds", lost, err)
	}
	_, err := f.Jobs.Cancel(f.ctx, c.Job.ID)
	f.must(err)
	if cancelling, err := f.Jobs.Extend(f.ctx, c, time.Hour, progress); err != nil || !cancelling {
		t.Errorf("extend after cancel: cancelling %v, %v; want true", cancelling, err)
	}
}

// A job that takes its workers down is not given to a fourth one (RQ-10).
func TestQuarantine(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	job := f.request("hello")
	crash := func(i int) jobs.Job {
		t.Helper()
		c, err := f.Jobs.Claim(f.ctx, job.ID, fmt.Sprint("worker ", i), time.Minute)
		f.must(err)
		f.lose(c)
		lost, err := f.Jobs.Reap(f.ctx)
		if err != nil || len(lost) != 1 || lost[0].Worker != fmt.Sprint("worker ", i) {
			t.Fatalf("reaped %+v, %v; want the one job of worker %d", lost, err, i)
		}
		return f.job(job)
	}
	for i := 1; i < jobs.MaxCrashes; i++ {
		if got := crash(i); got.State != jobs.Queued || got.Crashes != i || got.ErrorCode != "worker_lost" {
			t.Errorf("after crash %d: %+v, want it queued", i, got)
		}
	}
	if got := crash(jobs.MaxCrashes); got.State != jobs.Failed || got.ErrorCode != "quarantined" || got.EndedAt == nil {
		t.Errorf("after the last crash: %+v, want it failed", got)
	}
	// It blocks nobody: a new request gets a new job.
	if next := f.request("hello"); next.ID == job.ID {
		t.Error("the next request got the quarantined job")
	}
	f.must(f.exec(`DELETE FROM jobs WHERE id <> $1`, job.ID))
	again, err := f.Jobs.Retry(f.ctx, job.ID)
	if err != nil || again.Crashes != 0 || again.Attempts != 0 || again.ErrorCode != "" || again.EndedAt != nil {
		t.Errorf("retried: %+v, %v; want it as new", again, err)
	}
	c, err := f.Jobs.Claim(f.ctx, job.ID, "tests", time.Minute)
	f.must(err)
	f.must(f.exec(`UPDATE jobs SET crashes = 2 WHERE id = $1`, job.ID))
	f.must(f.Jobs.ClearCrashes(f.ctx, c)) // it published something
	if got := f.job(job); got.Crashes != 0 {
		t.Errorf("%d crashes after it got somewhere, want 0", got.Crashes)
	}
}

// However many ask at once, there is one open job for the same thing, and one
// worker gets it.
func TestOneOpenJob(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const n = 30
	ids, created := make([]uuid.UUID, n), make([]bool, n)
	f.must(errors.Join(at(n, func(i int) error {
		job, isNew, err := f.RequestFetch(f.ctx, "hello", upstreamOf("hello"))
		ids[i], created[i] = job.ID, isNew
		return err
	})...))
	news := 0
	for i := range n {
		if created[i] {
			news++
		}
		if ids[i] != ids[0] {
			t.Errorf("job %s, want the same for all", ids[i])
		}
	}
	if news != 1 {
		t.Errorf("%d were told that the job is new, want 1", news)
	}
	winners := 0
	for _, err := range at(n, func(i int) error {
		_, err := f.Jobs.Claim(f.ctx, ids[0], fmt.Sprint("worker ", i), time.Minute)
		return err
	}) {
		if err == nil {
			winners++
		} else {
			f.want("claim", err, jobs.ErrLost)
		}
	}
	if winners != 1 {
		t.Errorf("%d workers have the job, want 1", winners)
	}
}

// Jobs for different things of a package wait for each other: each would
// fence the other off.
func TestOneRunningJobOfPackage(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	all := f.request("hello")
	up := upstreamOf("hello")
	up.Target = "v1"
	one, created, err := f.RequestFetch(f.ctx, "hello", up)
	f.must(err)
	probe, _, err := f.Jobs.RequestProbe(f.ctx, "HELLO")
	f.must(err)
	if !created || one.ID == all.ID || probe.ID == all.ID || probe.Package != "hello" {
		t.Errorf("jobs %s, %s (%s) and %s (%s), want three of hello", all.ID, one.ID, one.Target, probe.ID, probe.Package)
	}
	f.enqueue(all, one, probe)
	c, err := f.Jobs.Claim(f.ctx, all.ID, "tests", time.Minute)
	f.must(err)
	for _, other := range []jobs.Job{one, probe} {
		_, err := f.Jobs.Claim(f.ctx, other.ID, "tests", time.Minute)
		f.want("claim of a second job of the package", err, jobs.ErrLost)
	}
	if due := f.due(time.Hour); len(due) > 0 {
		t.Errorf("due %v, want nothing that the queue knows of", due)
	}
	f.end(c, "")
	if due := f.due(time.Hour); len(due) != 2 {
		t.Errorf("due %v, want both that waited, to be told of again", due)
	}
	_, err = f.Jobs.Claim(f.ctx, one.ID, "tests", time.Minute)
	f.want("claim afterwards", err, nil)
	_, _, err = f.Jobs.RequestProbe(f.ctx, "nope")
	f.want("probe of no package", err, fault.ErrNotFound)
}

// enqueue has a queue told of the jobs that nobody listens to.
func (f *fixture) enqueue(all ...jobs.Job) {
	f.t.Helper()
	for _, job := range all {
		f.must(f.Jobs.Enqueue(f.ctx, silent{}, job.Kind, job.ID, job.Pull))
	}
}

type silent struct{}

func (silent) Enqueue(context.Context, string, uuid.UUID, bool) error { return nil }

func (f *fixture) due(stale time.Duration) []jobs.DueJob {
	f.t.Helper()
	due, err := f.Jobs.Due(f.ctx, stale, 100)
	f.must(err)
	return due
}

// The reconciler sees what the queue was not told, or has forgotten.
func TestDueJobs(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	job := f.request("hello")
	for _, step := range []struct {
		name     string
		do       func()
		due      int
		repeated bool
	}{
		{"new", func() {}, 1, false},
		{"told", func() { f.enqueue(job) }, 0, false},
		{"told long ago", func() { f.must(f.exec(`UPDATE jobs SET enqueued_at = now() - interval '1 hour'`)) }, 1, true},
		{"told again", func() { f.enqueue(job) }, 0, false},
		{"running", func() { _, err := f.Jobs.Claim(f.ctx, job.ID, "tests", time.Minute); f.must(err) }, 0, false},
		{"lost", func() {
			f.must(f.exec(`UPDATE jobs SET lease_until = now() - interval '1 second'`))
			_, err := f.Jobs.Reap(f.ctx)
			f.must(err)
		}, 1, false},
		{"later", func() { f.must(f.exec(`UPDATE jobs SET run_at = now() + interval '1 hour'`)) }, 0, false},
		{"now", func() { f.must(f.exec(`UPDATE jobs SET run_at = now()`)) }, 1, false},
		{"cancelled", func() { _, err := f.Jobs.Cancel(f.ctx, job.ID); f.must(err) }, 0, false},
	} {
		step.do()
		due := f.due(time.Minute)
		if len(due) != step.due || len(due) > 0 && (due[0].Repeated != step.repeated || due[0].ID != job.ID) {
			t.Errorf("%s: due %+v, want %d, repeated %v", step.name, due, step.due, step.repeated)
		}
	}
}

func TestJobs(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var want []uuid.UUID // newest first
	for i := range 7 {
		job := f.request(fmt.Sprint("p", i%3, "-", i))
		want = append([]uuid.UUID{job.ID}, want...)
	}
	var got []uuid.UUID
	for before := uuid.Nil; ; {
		page, err := f.Jobs.List(f.ctx, jobs.Filter{Before: before, Limit: 3})
		f.must(err)
		for _, job := range page {
			got = append(got, job.ID)
			before = job.ID
		}
		if len(page) < 3 {
			break
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("pages %v, want %v", got, want)
	}
	for name, n := range map[string]int{"p0-0": 1, "p0-9": 0} {
		if jobs, err := f.Jobs.List(f.ctx, jobs.Filter{Package: name, Limit: 9}); err != nil || len(jobs) != n {
			t.Errorf("jobs of %s: %d, %v; want %d", name, len(jobs), err, n)
		}
	}
	if jobs, err := f.Jobs.List(f.ctx, jobs.Filter{State: jobs.Running, Limit: 9}); err != nil || len(jobs) != 0 {
		t.Errorf("running jobs: %d, %v; want none", len(jobs), err)
	}
	counts, err := f.Jobs.QueueCounts(f.ctx)
	if err != nil || counts != (jobs.QueueCounts{Pending: 7}) {
		t.Errorf("counts %+v, %v; want 7 pending", counts, err)
	}
}

func TestWorkers(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.must(f.Jobs.Heartbeat(f.ctx, "tests", 4, "1.0"))
	f.must(f.Jobs.Heartbeat(f.ctx, "idle", 2, "1.0"))
	f.must(f.Jobs.Heartbeat(f.ctx, "gone", 2, "1.0"))
	f.must(f.exec(`UPDATE workers SET seen_at = now() - interval '1 minute' WHERE id = 'gone'`))
	c := f.claim("hello")
	workers, err := f.Jobs.Workers(f.ctx)
	f.must(err)
	if len(workers) != 2 || workers[0].ID != "idle" || len(workers[0].Jobs) != 0 || len(workers[1].Jobs) != 1 || workers[1].Jobs[0].Job != c.Job.ID.String() {
		t.Errorf("workers %+v, want idle, and tests with the job", workers)
	}
	f.must(f.Jobs.ForgetWorker(f.ctx, "idle"))
	if workers, err = f.Jobs.Workers(f.ctx); err != nil || len(workers) != 1 {
		t.Errorf("workers %+v, %v; want 1", workers, err)
	}
}

// What a tree needs may be private: its jobs are for those who see that, in every list.
func TestJobsOfTreesAreHidden(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.must(f.Jobs.Heartbeat(f.ctx, "tests", 4, "1.0"))
	for i, kind := range []string{jobs.FetchArchive, jobs.CaptureTree} {
		f.must(f.exec(`INSERT INTO jobs (id, kind, target, state, error_code, ended_at) VALUES ($1, $2, 'https://h/secret', 'failed', 'upstream_auth', now())`, uuid.New(), kind))
		f.must(f.exec(`INSERT INTO jobs (id, kind, target, state, worker, lease, lease_until, started_at) VALUES ($1, $2, $3, 'running', 'tests', $1, now() + interval '1 minute', now())`,
			uuid.New(), kind, fmt.Sprint("https://h/running", i)))
	}
	for who, ctx := range map[string]context.Context{"a stranger": t.Context(), "who sees private": access.SeePrivate(t.Context())} {
		want := 0
		if access.SeesPrivate(ctx) {
			want = 2
		}
		failed, err := f.Jobs.Failures(ctx, 9)
		f.must(err)
		workers, err := f.Jobs.Workers(ctx)
		f.must(err)
		all, err := f.Jobs.List(ctx, jobs.Filter{Limit: 9})
		f.must(err)
		if len(failed) != want || len(workers[0].Jobs) != want || len(all) != 2*want {
			t.Errorf("%s: %d failures, %d running, want %d of each; %d jobs, want %d", who, len(failed), len(workers[0].Jobs), want, len(all), 2*want)
		}
	}
}

// A failure is of no interest any more once the same was asked for again, or
// what there is instead of tags was mirrored.
func TestStaleFailures(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for i, tt := range []struct {
		code, target, later, state string
		listed                     bool
	}{
		{"no_tags", "", "main", "succeeded", false},
		{"no_tags", "", "main", "failed", true},
		{"upstream_gone", "", "main", "succeeded", true},
		{"upstream_gone", "v1", "v1", "queued", false},
	} {
		pkg := fmt.Sprint("pkg", i)
		f.must(f.exec(`INSERT INTO packages (name, upstream, clone_url) VALUES ($1, 'https://h/' || $1, 'https://h/' || $1)`, pkg))
		f.must(f.exec(`INSERT INTO jobs (id, kind, package, target, state, error_code, ended_at, created_at) VALUES ($1, $2, $3, $4, 'failed', $5, now(), now() - interval '1 minute')`,
			uuid.New(), jobs.FetchPackage, pkg, tt.target, tt.code))
		f.must(f.exec(`INSERT INTO jobs (id, kind, package, target, state, ended_at) VALUES ($1, $2, $3, $4, $5, CASE WHEN $5 <> 'queued' THEN now() END)`,
			uuid.New(), jobs.FetchPackage, pkg, tt.later, tt.state))
		failed, err := f.Jobs.Failures(f.ctx, 99)
		f.must(err)
		listed := slices.ContainsFunc(failed, func(j jobs.Job) bool { return j.Package == pkg && j.ErrorCode == tt.code })
		if listed != tt.listed {
			t.Errorf("%s at %q, then %s at %q: listed %v, want %v", tt.code, tt.target, tt.state, tt.later, listed, tt.listed)
		}
	}
}

// Text that Postgres cannot hold is the caller's mistake, not ours.
func TestTextThatPostgresRefuses(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, text := range []string{"a\x00b", "\xff", "\xed\xa0\x80"} {
		_, err := f.PackageByName(f.ctx, text)
		f.want(fmt.Sprintf("package %q", text), err, fault.ErrInvalid)
		_, err = f.ReleaseByTag(f.ctx, "hello", text)
		f.want(fmt.Sprintf("tag %q", text), err, fault.ErrInvalid)
		_, _, err = f.RequestFetch(f.ctx, text, upstreamOf("hello"))
		f.want(fmt.Sprintf("fetch of %q", text), err, fault.ErrInvalid)
	}
	_, _, err := f.RequestFetch(f.ctx, "not/a/name", upstreamOf("hello"))
	f.want("fetch of a name that is none", err, fault.ErrInvalid)
}

func TestIsAway(t *testing.T) {
	t.Parallel()
	if _, err := storage.Open(t.Context(), "postgres://127.0.0.1:1/x?connect_timeout=1"); !pg.IsAway(err) {
		t.Errorf("nobody listens: %v, want it away", err)
	}
	if _, err := storage.Open(t.Context(), "postgres://user:s3cret@[::1/x"); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("bad URL: %v, want an error without the password", err)
	}
	f := newFixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, err := range map[string]error{"cancelled": f.Ping(ctx), "not found": fault.ErrNotFound, "": nil} {
		if pg.IsAway(err) {
			t.Errorf("%s: %v is taken for away", name, err)
		}
	}
	raise := func(code string) error {
		return f.exec(fmt.Sprintf("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '%s'; END $$", code))
	}
	for _, code := range []string{"57P01", "53300", "08006", "25006", "25P03"} {
		if err := raise(code); !pg.IsAway(err) || !errors.Is(pg.Translate(err), fault.ErrAway) {
			t.Errorf("%s: %v, want it away", code, err)
		}
	}
	// A statement that takes too long may do so each time, and so may one that others are in the way of: jobs must end.
	for _, code := range []string{"57014", "40001", "40P01"} {
		if err := raise(code); !pg.IsAway(err) || errors.Is(pg.Translate(err), fault.ErrAway) {
			t.Errorf("%s: %v, want it away for clients and not for jobs", code, err)
		}
	}
}

// A pull that somebody with a token asks for while a worker has it is not over when it fails: it had no credentials.
func TestPullIsAdopted(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	trees := tree.New(f.DB.DB)
	const url = "https://h.example/x.tar.gz"
	for what, ask := range map[string]struct{ pull, own func() (uuid.UUID, error) }{
		"Git": {
			func() (uuid.UUID, error) {
				j, _, err := f.RequestPull(f.ctx, "hello", upstreamOf("hello"))
				return j.ID, err
			},
			func() (uuid.UUID, error) {
				j, _, err := f.RequestFetch(f.ctx, "hello", upstreamOf("hello"))
				if j.Pull {
					t.Error("the job is a pull")
				}
				return j.ID, err
			},
		},
		"archive": {
			func() (uuid.UUID, error) { id, _, err := trees.RequestPull(f.ctx, url); return id, err },
			func() (uuid.UUID, error) { id, _, err := trees.RequestArchive(f.ctx, url, ""); return id, err },
		},
	} {
		id, err := ask.pull()
		f.must(err)
		failed := jobs.Outcome{State: jobs.Failed, Code: "upstream_auth", Message: "closed"}
		if what == "Git" {
			failed.Sync = &jobs.Sync{Code: "upstream_auth"}
		}
		c, err := f.Jobs.Claim(f.ctx, id, "w", time.Minute)
		f.must(err)
		joined, err := ask.own()
		f.must(err)
		if again, err := ask.pull(); err != nil || joined != id || again != id {
			t.Errorf("%s: jobs %s, %s and %s, %v, want one", what, id, joined, again, err)
		}
		f.must(f.Jobs.End(f.ctx, c, failed))
		job, err := f.Jobs.ByID(access.SeePrivate(f.ctx), id)
		if err != nil || job.State != jobs.Queued || job.Pull || job.Attempts != 0 || job.ErrorCode != "" {
			t.Errorf("%s: the job is %+v, %v, want that it is tried again", what, job, err)
		}
		if what == "Git" && f.pkg("hello").SyncAt != nil {
			t.Errorf("the package's sync is %q, want nothing of it", f.pkg("hello").SyncCode)
		}
		c, err = f.Jobs.Claim(f.ctx, id, "w", time.Minute)
		f.must(err)
		if c.Job.Pull {
			t.Errorf("%s: it is still a pull", what)
		}
		f.must(f.Jobs.End(f.ctx, c, failed))
		if job, err := f.Jobs.ByID(access.SeePrivate(f.ctx), id); err != nil || job.State != jobs.Failed {
			t.Errorf("%s: the job is %+v, %v, want that it failed", what, job, err)
		}
	}
}
