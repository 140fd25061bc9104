package storage_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/storagetest"
)

// An update that goes back to the queue while another one waits there ends,
// and the other one has its work, its open children and its crashes.
func TestFoldedUpdate(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name       string
		goBack     func(f *fixture, c jobs.Claim) error
		code, said string
		crashes    int
		later      bool // than at once
	}{
		{"worker lost", func(f *fixture, c jobs.Claim) error {
			f.lose(c)
			lost, err := f.Jobs.Reap(f.ctx)
			if len(lost) != 1 || lost[0].ID != c.Job.ID || lost[0].State != jobs.Failed {
				t.Errorf("reaped %+v, want the update that folded", lost)
			}
			return err
		}, "worker_lost", "vanished", 1, false},
		{"worker stops", func(f *fixture, c jobs.Claim) error { return f.Jobs.Requeue(f.ctx, c, 0, false, "", "") },
			"superseded", "interrupted", 0, false},
		{"catalog away", func(f *fixture, c jobs.Claim) error {
			return f.Jobs.Requeue(f.ctx, c, time.Hour, true, "catalog_unreachable", "the catalog's server answers 503")
		}, "catalog_unreachable", "answers 503", 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.catalog(entry("1", "a", "t1"), entry("2", "b", "t1"))
			c := f.update()
			candidates, err := f.Catalog.Candidates(f.ctx, "rules")
			f.must(err)
			for _, cand := range candidates {
				_, _, err := f.AddChild(f.ctx, *c.Job.RunID, cand)
				f.must(err)
			}
			f.end(f.claim("a"), "")
			running := f.claim("b")
			next, created, err := f.Jobs.RequestUpdate(f.ctx, 0)
			f.must(err)
			if !created {
				t.Fatal("no update is queued behind the running one")
			}
			f.must(tt.goBack(f, c))

			old := f.job(c.Job)
			if old.State != jobs.Failed || old.ErrorCode != tt.code || !strings.Contains(old.ErrorMessage, tt.said) ||
				!strings.Contains(old.ErrorMessage, next.ID.String()) {
				t.Errorf("the old update: %s, %s, %q; want it failed with %s, naming %s", old.State, old.ErrorCode, old.ErrorMessage, tt.code, next.ID)
			}
			if now := f.job(next); now.State != jobs.Queued || now.Crashes != tt.crashes || now.RunAt.After(time.Now().Add(time.Minute)) != tt.later {
				t.Errorf("the next update: %s, %d crashes, at %v; want it queued with %d", now.State, now.Crashes, now.RunAt, tt.crashes)
			}
			f.must(f.Jobs.CloseRuns(f.ctx))
			if n := f.count(`SELECT count(*) FROM runs WHERE id = $1 AND state = 'failed' AND packages_synced = 1`, c.Job.RunID); n != 1 {
				t.Error("the old run is not closed as failed, with what it did")
			}
			f.end(running, "") // claimed for the old run
			if n := f.count(`SELECT packages_synced FROM runs WHERE id = $1`, next.RunID); n != 1 {
				t.Errorf("the next run counted %d packages, want the one that was open", n)
			}
			f.want("the old claim", f.Jobs.End(f.ctx, c, jobs.Outcome{State: jobs.Succeeded}), jobs.ErrLost)
			f.want("the old claim's run", f.Jobs.StartRun(f.ctx, c), jobs.ErrLost)
		})
	}
}

// An update that takes down its workers is quarantined, however many others
// are asked for meanwhile.
func TestFoldingQuarantines(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for range jobs.MaxCrashes {
		c := f.update()
		_, _, err := f.Jobs.RequestUpdate(f.ctx, 0)
		f.must(err)
		f.lose(c)
		_, err = f.Jobs.Reap(f.ctx)
		f.must(err)
	}
	if n := f.count(`SELECT count(*) FROM jobs WHERE state = 'failed' AND error_code = 'quarantined'`); n != 1 {
		t.Errorf("%d updates are quarantined, want the last one", n)
	}
}

// A row that cannot be taken, or that somebody holds, keeps no other waiting.
func TestReapOneByOne(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	bad, held := f.claim("bad"), f.claim("held")
	var good []jobs.Claim
	for i := range 3 {
		good = append(good, f.claim(fmt.Sprint("good-", i)))
	}
	f.must(f.exec(`UPDATE jobs SET lease_until = now() - interval '1 second'`))
	f.must(f.exec(`UPDATE jobs SET lease_until = now() - interval '1 hour' WHERE id IN ($1, $2)`, bad.Job.ID, held.Job.ID))
	f.must(f.exec(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'bad row'; END $$`))
	f.must(f.exec(fmt.Sprintf(`CREATE TRIGGER refuse BEFORE UPDATE ON jobs FOR EACH ROW WHEN (OLD.id = '%s') EXECUTE FUNCTION refuse()`, bad.Job.ID)))
	tx, err := f.sql.Begin(f.ctx)
	f.must(err)
	defer tx.Rollback(f.ctx)
	_, err = tx.Exec(f.ctx, `SELECT FROM jobs WHERE id = $1 FOR UPDATE`, held.Job.ID)
	f.must(err)

	lost, err := f.Jobs.Reap(f.ctx)
	if err == nil || !strings.Contains(err.Error(), "bad row") || !strings.Contains(err.Error(), bad.Job.ID.String()) {
		t.Errorf("reap: %v, want the error of the bad row", err)
	}
	if len(lost) != len(good) {
		t.Errorf("reaped %d, want %d", len(lost), len(good))
	}
	for _, c := range good {
		if got := f.job(c.Job); got.State != jobs.Queued {
			t.Errorf("%s is %s, want it queued", got.Package, got.State)
		}
	}
}

// However long a claim waited for a row that somebody held, its lease is whole
// when it gets it: else it is reaped as it begins, and three of those
// quarantine a healthy job.
func TestLeaseBeginsWhenHeld(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const lease = 3 * time.Second
	job := f.request("hello")
	var c jobs.Claim
	for _, step := range []struct {
		name, held string
		do         func() error
	}{
		{"claim", `SELECT FROM packages WHERE name = 'hello' FOR UPDATE`, func() (err error) {
			c, err = f.Jobs.Claim(f.ctx, job.ID, "tests", lease)
			return err
		}},
		{"extend", `SELECT FROM jobs FOR UPDATE`, func() error {
			_, err := f.Jobs.Extend(f.ctx, c, lease, jobs.Progress{})
			return err
		}},
	} {
		tx, err := f.sql.Begin(f.ctx)
		f.must(err)
		_, err = tx.Exec(f.ctx, step.held)
		f.must(err)
		time.AfterFunc(lease+time.Second, func() { _ = tx.Rollback(context.Background()) })
		f.must(step.do())
		var left time.Duration
		f.must(f.sql.QueryRow(f.ctx, `SELECT lease_until - now() FROM jobs`).Scan(&left))
		if left <= 0 {
			t.Errorf("%s: the lease ended %v ago, want it to begin when the row was had", step.name, -left)
		}
	}
}

// A job that is queued again between the statements of a claim is claimed
// with its package's fence: without, nothing that it does is ever published.
func TestClaimHasItsFence(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := f.claim("hello")
	f.must(f.exec(`CREATE FUNCTION requeue() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		UPDATE jobs SET state = 'queued', lease = NULL, lease_until = NULL WHERE state = 'running'; RETURN NULL; END $$`))
	f.must(f.exec(`CREATE TRIGGER requeue BEFORE UPDATE ON packages FOR EACH STATEMENT EXECUTE FUNCTION requeue()`))
	again, err := f.Jobs.Claim(f.ctx, c.Job.ID, "tests", time.Minute)
	f.must(err)
	if again.Fence != c.Fence+1 {
		t.Errorf("fence %d after %d, want the next", again.Fence, c.Fence)
	}
}

// A parked update is nobody's: what is still under way with its claim does not
// bring it back to life.
func TestParkedUpdateKeepsNoLease(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.catalog(entry("1", "a", "t1"))
	c := f.update()
	candidates, err := f.Catalog.Candidates(f.ctx, "rules")
	f.must(err)
	_, _, err = f.AddChild(f.ctx, *c.Job.RunID, candidates[0])
	f.must(err)
	f.must(f.Jobs.ParkRun(f.ctx, c, jobs.Counters{}))
	_, err = f.Jobs.Extend(f.ctx, c, time.Minute, jobs.Progress{})
	f.want("heartbeat under way", err, jobs.ErrLost)
	f.want("failure under way", f.Jobs.Requeue(f.ctx, c, 0, true, "internal", "x"), jobs.ErrLost)
	f.want("parked twice", f.Jobs.ParkRun(f.ctx, c, jobs.Counters{}), jobs.ErrLost)
	f.must(f.exec(`UPDATE jobs SET lease_until = lease_until - interval '1 hour'`))
	if lost, err := f.Jobs.Reap(f.ctx); err != nil || len(lost) > 0 {
		t.Errorf("reaped %+v, %v; want a parked update left alone", lost, err)
	}
	f.end(f.claim("a"), "")
	f.must(f.Jobs.CloseRuns(f.ctx))
	if got := f.job(c.Job); got.State != jobs.Succeeded || got.Attempts != 1 {
		t.Errorf("update %s after %d attempts, want it to succeed at the first", got.State, got.Attempts)
	}
}

// The update that waits is told of as soon as the one before it has ended,
// however that was.
func TestNextUpdateIsTold(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for name, end := range map[string]func(jobs.Claim) error{
		"closed": func(c jobs.Claim) error {
			return errors.Join(f.Jobs.ParkRun(f.ctx, c, jobs.Counters{}), f.Jobs.CloseRuns(f.ctx))
		},
		"failed": func(c jobs.Claim) error { return f.Jobs.End(f.ctx, c, jobs.Outcome{State: jobs.Failed}) },
		"cancelled": func(c jobs.Claim) error {
			err := f.Jobs.ParkRun(f.ctx, c, jobs.Counters{})
			_, cancelled := f.Jobs.Cancel(f.ctx, c.Job.ID)
			return errors.Join(err, cancelled)
		},
	} {
		c := f.update()
		next, _, err := f.Jobs.RequestUpdate(f.ctx, 0)
		f.must(err)
		f.enqueue(next)
		if due := f.due(time.Hour); len(due) > 0 {
			t.Errorf("%s: due %v, want nothing that the queue knows of", name, due)
		}
		f.must(end(c))
		if due := f.due(time.Hour); len(due) != 1 || due[0].ID != next.ID {
			t.Errorf("%s: due %v, want the next update", name, due)
		}
		f.must(f.exec(`DELETE FROM jobs`))
	}
}

// A clock is a fixture whose database has a clock that can be set.
func newClock(t *testing.T) (f *fixture, set func(ahead time.Duration)) {
	t.Helper()
	base := storagetest.NewURL(t)
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	// Names of the catalog's functions are looked for here first.
	q.Set("search_path", q.Get("search_path")+",pg_catalog")
	u.RawQuery = q.Encode()
	f = &fixture{t: t, ctx: t.Context(), url: u.String()}
	f.sql, err = pgxpool.New(t.Context(), u.String())
	f.must(err)
	t.Cleanup(f.sql.Close)
	f.must(f.exec(`CREATE TABLE clock AS SELECT interval '0' AS ahead`))
	f.must(f.exec(`CREATE FUNCTION now() RETURNS timestamptz STABLE LANGUAGE sql AS 'SELECT pg_catalog.now() + ahead FROM clock'`))
	f.must(f.exec(`CREATE FUNCTION clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT pg_catalog.clock_timestamp() + ahead FROM clock'`))
	f.DB, err = storage.Open(t.Context(), u.String())
	f.must(err)
	t.Cleanup(f.DB.Close)
	f.must(f.Migrate(t.Context()))
	return f, func(ahead time.Duration) { f.must(f.exec(`UPDATE clock SET ahead = $1`, ahead)) }
}

// The database's clock goes an hour forth and back: nobody is taken for
// vanished, and nothing waits for the hour to come again.
func TestClock(t *testing.T) {
	t.Parallel()
	f, set := newClock(t)
	const lease, quiet = 15 * time.Second, 8 * time.Second
	watch := func(reaped int) {
		t.Helper()
		f.must(f.Jobs.Watch(f.ctx, lease, quiet))
		if lost, err := f.Jobs.Reap(f.ctx); err != nil || len(lost) != reaped {
			t.Errorf("reaped %+v, %v; want %d", lost, err, reaped)
		}
	}
	claim := func(pkg string) jobs.Claim {
		t.Helper()
		c, err := f.Jobs.Claim(f.ctx, f.request(pkg).ID, "tests", lease)
		f.must(err)
		return c
	}
	watch(0)
	before := claim("before")
	set(time.Hour)
	watch(0)
	ahead := claim("ahead")
	told, retried := f.request("told"), claim("retried")
	f.enqueue(told)
	f.must(f.Jobs.Requeue(f.ctx, retried, time.Second, true, "busy", "later"))
	f.must(f.Jobs.PauseHost(f.ctx, "git.example", time.Second))
	update, _, err := f.Jobs.RequestDueUpdate(f.ctx, time.Minute, 0)
	f.must(err)
	watch(0)
	epoch, err := f.Access.Epoch(f.ctx)
	f.must(err)
	set(0)
	watch(0)
	now, err := f.Access.Epoch(f.ctx)
	f.must(err)
	if changed := f.count(`SELECT count(*) FROM packages WHERE changed_at > now() + interval '1 minute'`); now == epoch || changed > 0 {
		t.Errorf("epoch %s after %s, %d packages changed in the future; want apis to read anew", now, epoch, changed)
	}
	for _, c := range []jobs.Claim{before, ahead} {
		if _, err := f.Jobs.Extend(f.ctx, c, lease, jobs.Progress{}); err != nil {
			t.Errorf("heartbeat of %s: %v, want its claim to hold", c.Job.Package, err)
		}
	}
	soon := func(what, sql string, args ...any) {
		t.Helper()
		if n := f.count(`SELECT count(*) FROM (`+sql+`) AS s (at) WHERE at BETWEEN now() - interval '1 minute' AND now() + interval '2 minutes'`, args...); n != 1 {
			t.Errorf("%s is not due soon", what)
		}
	}
	soon("a job asked for meanwhile", `SELECT run_at FROM jobs WHERE id = $1`, told.ID)
	soon("a message sent meanwhile", `SELECT enqueued_at FROM jobs WHERE id = $1`, told.ID)
	soon("a job that failed meanwhile", `SELECT run_at FROM jobs WHERE id = $1`, retried.Job.ID)
	soon("a host", `SELECT next_at FROM upstream_hosts`)
	soon("a lease", `SELECT lease_until FROM jobs WHERE id = $1`, ahead.Job.ID)
	soon("an update", `SELECT run_at FROM jobs WHERE id = $1`, update.ID)
	soon("the update after it", `SELECT created_at FROM runs`)

	// Who is gone is found out all the same.
	f.lose(before)
	watch(1)
}

// A lease that ran out while Postgres was away is no crash. Whoever does not
// come back with it is taken for vanished later.
func TestAwayIsNoCrash(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := f.claim("hello")
	f.must(f.Jobs.Watch(f.ctx, time.Minute, 30*time.Second))
	// As after a minute and a half in which nobody could do anything.
	f.must(f.exec(`UPDATE watch SET at = at - interval '90 seconds'`))
	f.must(f.exec(`UPDATE jobs SET lease_until = lease_until - interval '90 seconds'`))
	f.must(f.Jobs.Watch(f.ctx, time.Minute, 30*time.Second))
	if lost, err := f.Jobs.Reap(f.ctx); err != nil || len(lost) > 0 {
		t.Errorf("reaped %+v, %v; want time for a sign of life", lost, err)
	}
	if n := f.count(`SELECT count(*) FROM jobs WHERE lease_until BETWEEN now() AND now() + interval '1 minute'`); n != 1 {
		t.Error("the lease is longer than a lease")
	}
	f.lose(c)
	f.must(f.Jobs.Watch(f.ctx, time.Minute, 30*time.Second))
	if lost, err := f.Jobs.Reap(f.ctx); err != nil || len(lost) != 1 {
		t.Errorf("reaped %+v, %v; want the job whose worker did not come back", lost, err)
	}
}
