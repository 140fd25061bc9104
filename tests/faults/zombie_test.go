package faults

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/tests/harness"
)

// CR-17: a worker stands still until its lease is over and another one has
// done its job, and then goes on. What it still wants to publish is refused,
// also where upstream has changed in between.
func TestZombieWorker(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	g := newGate(t, up)
	s := harness.Start(t, quick...)
	c := newChecker(t, s)
	zombie, other := s.Worker, s.AddWorker("worker-2")
	for n := range rounds(3, 50) {
		other.Stop()
		name := fmt.Sprintf("zombie-%d", n)
		repo := up.Repo(name)
		tagReleases(t, repo, 0, 5, 100_000)
		stopped := make(chan struct{})
		g.afterPack(func(*http.Request) {
			g.afterPack(nil)
			_ = syscall.Kill(-zombie.PID(), syscall.SIGSTOP)
			close(stopped)
		})
		id := s.Ask(g.of(repo))
		<-stopped
		early := len(s.Info(name).Tarballs)
		// Upstream moves a tag that the zombie has in its hands.
		repo.Tag("v0.4.0", repo.Commit(harness.Files{"moved": "since"}))
		other.Start()
		c.settled(settleTime, id)
		if early == 0 {
			c.tags(repo) // as it is now
		}
		before := c.rows(s.DatabaseURL)
		zombie.SignalGroup(syscall.SIGCONT)
		harness.Within(t, recoveryTime, "the zombie has given up", func() bool {
			return gaveUp(zombie.Log(), id)
		})
		// On a busy machine the other one may need more than one.
		if job := s.Job(id); job.State != jobs.Succeeded || job.Attempts < 2 {
			t.Errorf("job = %+v, want success at a later attempt", job)
		}
		if after := c.rows(s.DatabaseURL); !slices.Equal(after, before) {
			t.Errorf("releases after the zombie: %q, want %q", after, before)
		}
		c.complete(repo)
		c.clean()
	}
}

// A worker stands still in the middle of a transaction. What it has locked is
// free in time, and its job is taken over (RQ-09).
func TestFrozenInTransaction(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	g := newGate(t, up)
	s := harness.Start(t, quick...)
	repo := up.Repo("frozen")
	tagReleases(t, repo, 0, 2, 1000)
	arrived, open := g.hold()
	id := s.Ask(g.of(repo))
	<-arrived
	conn, err := pgx.Connect(t.Context(), s.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	exec(`BEGIN`)
	exec(`SELECT FROM packages WHERE name = 'frozen' FOR UPDATE`)
	open()
	harness.Within(t, recoveryTime, "the worker waits for the package's row", func() bool {
		var waits bool
		err := conn.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid)))`).Scan(&waits)
		return err == nil && waits
	})
	s.Worker.SignalGroup(syscall.SIGSTOP)
	exec(`ROLLBACK`) // the row is the frozen worker's now
	s.AddWorker("worker-2")
	c := newChecker(t, s)
	c.settled(recoveryTime, id)
	s.Worker.SignalGroup(syscall.SIGCONT)
	harness.Within(t, recoveryTime, "the zombie has given up", func() bool { return gaveUp(s.Worker.Log(), id) })
	c.clean()
	c.tags(repo)
}

// gaveUp finds in a worker's log that it lost a job.
func gaveUp(log, job string) bool {
	for line := range strings.Lines(log) {
		if strings.Contains(line, job) && strings.Contains(line, "claim lost") {
			return true
		}
	}
	return false
}
