package worker

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/catalog"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/queue/queuetest"
	"github.com/francescobianco/packbase/storage/storagetest"
	"github.com/francescobianco/packbase/worker/upstream"
)

// A cutQueue is a worker whose connections to Postgres can be cut, and the
// same database seen by somebody whose connections hold.
type cutQueue struct {
	*storage.DB
	t   *testing.T
	sql *pgxpool.Pool
	cut *cutter
	w   *Worker
}

func newCutQueue(t *testing.T, source string) *cutQueue {
	t.Helper()
	url := storagetest.NewURL(t)
	c := &cutQueue{t: t, cut: newCutter(t, url)}
	open := func(url string) *storage.DB {
		db, err := storage.Open(t.Context(), url)
		c.must(err)
		t.Cleanup(db.Close)
		return db
	}
	c.DB = open(url)
	c.must(c.Migrate(t.Context()))
	var err error
	c.sql, err = pgxpool.New(t.Context(), url)
	c.must(err)
	t.Cleanup(c.sql.Close)
	blobs, err := blob.Open("file://" + t.TempDir())
	c.must(err)
	staging, err := blob.OpenStaging(blobs, t.TempDir())
	c.must(err)
	allow, err := upstream.ParseAllow("127.0.0.0/8")
	c.must(err)
	c.w = New(open(c.cut.url), queuetest.New(t), blobs, Options{
		ID: "tests", Concurrency: 1, Staging: staging, Lease: time.Minute, Reconcile: time.Second, JobTimeout: time.Minute,
		MaxAttempts: 2, Backoff: time.Millisecond, Source: source, Egress: upstream.Options{Allow: allow},
	}, slog.New(slog.DiscardHandler))
	return c
}

func (c *cutQueue) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *cutQueue) exec(sql string, args ...any) {
	c.t.Helper()
	_, err := c.sql.Exec(c.t.Context(), sql, args...)
	c.must(err)
}

func (c *cutQueue) count(sql string, args ...any) (n int) {
	c.t.Helper()
	c.must(c.sql.QueryRow(c.t.Context(), sql, args...).Scan(&n))
	return n
}

// forget makes the database as new.
func (c *cutQueue) forget() {
	c.t.Helper()
	for _, table := range []string{"jobs", "runs", "packages", "workers", "catalog", "upstream_hosts"} {
		c.exec("DELETE FROM " + table)
	}
	c.exec("UPDATE watch SET at = now()")
}

// fetch requests a fetch of a package that is under review, so that the job
// fails without upstream.
func (c *cutQueue) fetch(pkg string) jobs.Job {
	c.t.Helper()
	u := "https://git.example/owner/" + pkg
	job, _, err := c.RequestFetch(c.t.Context(), pkg, name.Upstream{Canonical: u, CloneURL: u, Name: pkg})
	c.must(err)
	c.exec("UPDATE packages SET state = 'frozen'")
	return job
}

// settle has the worker do all jobs. It reports whether they ended.
func (c *cutQueue) settle() bool {
	c.t.Helper()
	for range 30 {
		cut := c.w.reconcileOnce(c.t.Context()) // what was cut is done the next time
		open, err := c.Jobs.List(c.t.Context(), jobs.Filter{Limit: 100})
		c.must(err)
		left := 0
		for _, job := range open {
			if job.Open() {
				left++
				c.w.handle(c.t.Context(), job.Kind, job.ID, func() {})
			}
		}
		if left == 0 && cut == nil {
			return true
		}
		time.Sleep(time.Millisecond)
	}
	return false
}

// everyCut sets up and settles with a cut at the first, second, third ... call
// of the worker, before and after Postgres did what was asked, until a round
// has no such call; and checks each time what came of it.
func (c *cutQueue) everyCut(setUp, check func()) {
	for _, late := range []bool{false, true} {
		for n := 1; ; n++ {
			c.forget()
			setUp()
			c.cut.arm(n, late)
			settled, broke := c.settle(), c.cut.broke()
			c.cut.arm(0, false)
			if !settled {
				c.t.Error("jobs do not end")
			}
			check()
			if c.t.Failed() {
				c.t.Fatalf("with a cut at call %d, late %v", n, late)
			}
			if !broke {
				c.t.Logf("%d calls, late %v", n-1, late)
				break
			}
		}
	}
}

// ended checks how a job ended.
func (c *cutQueue) ended(what string, id uuid.UUID, state, code string, crashes int) jobs.Job {
	c.t.Helper()
	job, err := c.Jobs.ByID(c.t.Context(), id)
	c.must(err)
	if job.State != state || job.ErrorCode != code || job.Crashes != crashes {
		c.t.Errorf("%s: %s, %q %q, %d crashes; want %s, %q, %d", what, job.State, job.ErrorCode, job.ErrorMessage, job.Crashes, state, code, crashes)
	}
	return job
}

// A worker vanished with an update and a fetch in its hands, another update
// and another fetch wait, and a call to Postgres fails, whichever: each job
// ends, as it would have, and is counted once.
func TestVanishedUnderFaults(t *testing.T) {
	t.Parallel()
	c := newCutQueue(t, "")
	ctx := t.Context()
	var update, next, lost, other jobs.Job
	c.everyCut(func() {
		var err error
		update, _, err = c.Jobs.RequestUpdate(ctx, 0)
		c.must(err)
		claim, err := c.Jobs.Claim(ctx, update.ID, "gone", time.Minute)
		c.must(err)
		c.must(c.Jobs.StartRun(ctx, claim))
		lost, _, err = c.AddChild(ctx, *update.RunID, catalog.Candidate{
			Name: "lost", Upstream: "https://git.example/owner/lost", CloneURL: "https://git.example/owner/lost"})
		c.must(err)
		_, err = c.Jobs.Claim(ctx, lost.ID, "gone", time.Minute)
		c.must(err)
		next, _, err = c.Jobs.RequestUpdate(ctx, 0)
		c.must(err)
		other = c.fetch("other")
		c.exec("UPDATE jobs SET lease_until = now() - interval '1 second' WHERE state = 'running'")
	}, func() {
		if job := c.ended("the update", update.ID, jobs.Failed, "worker_lost", 0); !strings.Contains(job.ErrorMessage, next.ID.String()) {
			t.Errorf("the update says %q, want it to name %s", job.ErrorMessage, next.ID)
		}
		c.ended("the next update", next.ID, jobs.Succeeded, "", 1)
		c.ended("the lost fetch", lost.ID, jobs.Failed, "package_frozen", 1)
		if job := c.ended("the other fetch", other.ID, jobs.Failed, "package_frozen", 0); job.Attempts != 1 {
			t.Errorf("the other fetch had %d attempts, want 1: a database that was away is none", job.Attempts)
		}
		if n := c.count("SELECT count(*) FROM runs WHERE ended_at IS NULL"); n != 0 {
			t.Errorf("%d runs are open", n)
		}
		if n := c.count("SELECT sum(source_repo_failed) FROM runs"); n != 1 {
			t.Errorf("the lost fetch is counted %d times, want once", n)
		}
		if n := c.count("SELECT sync_failures FROM packages WHERE name = 'other'"); n != 1 {
			t.Errorf("the other fetch is recorded %d times, want once", n)
		}
	})
}

// An update finds the catalog away while another one is queued, and a call to
// Postgres fails, whichever.
func TestFailingUpdateUnderFaults(t *testing.T) {
	t.Parallel()
	var c *cutQueue
	var next jobs.Job
	catalog := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if next.ID == uuid.Nil {
			var err error
			if next, _, err = c.Jobs.RequestUpdate(context.Background(), 0); err != nil {
				t.Error(err)
			}
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer catalog.Close()
	c = newCutQueue(t, catalog.URL)
	var update jobs.Job
	c.everyCut(func() {
		var err error
		update, _, err = c.Jobs.RequestUpdate(t.Context(), 0)
		c.must(err)
		next = jobs.Job{}
	}, func() {
		c.ended("the update", update.ID, jobs.Failed, "catalog_unreachable", 0)
		if job := c.ended("the next update", next.ID, jobs.Failed, "catalog_unreachable", 0); job.Attempts != 2 {
			t.Errorf("the next update had %d attempts, want 2", job.Attempts)
		}
		if n := c.count("SELECT count(*) FROM runs WHERE state = 'failed' AND ended_at IS NOT NULL"); n != 2 {
			t.Errorf("%d runs failed, want 2", n)
		}
	})
}

// The reconciler's progress is what whole rounds left: one that fails at one
// thing every time gets nowhere, however often it runs.
func TestRoundsAreNoted(t *testing.T) {
	t.Parallel()
	c := newCutQueue(t, "")
	age := func() *time.Duration {
		t.Helper()
		p, err := c.Jobs.Pulse(t.Context())
		c.must(err)
		return p.Reconciled
	}
	c.exec(`ALTER TABLE runs RENAME TO gone`) // what closes runs fails
	if err := c.w.reconcileOnce(t.Context()); err == nil || age() != nil {
		t.Errorf("a round that failed (%v) is noted %v ago, want it not noted", err, age())
	}
	c.exec(`ALTER TABLE gone RENAME TO runs`)
	c.must(c.w.reconcileOnce(t.Context()))
	if got := age(); got == nil || *got > time.Minute {
		t.Errorf("a round that went well is noted %v ago, want just now", got)
	}
}
