package faults

import (
	"fmt"
	"net/http"
	"syscall"
	"testing"

	"packbase/storage"
	"packbase/tests/harness"
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
	for n := range rounds(3, 50) {
		name := fmt.Sprintf("zombie-%d", n)
		repo := up.Repo(name)
		release(t, repo, 0, 5, 300_000)
		zombie, done := s.Worker, make(chan struct{})
		g.afterPack(func(*http.Request) {
			g.afterPack(nil)
			_ = syscall.Kill(-zombie.PID(), syscall.SIGSTOP)
			close(done)
		})
		id := s.Ask(g.of(repo))
		<-done
		early := len(s.Info(name).Tarballs)
		// Upstream moves a tag that the zombie has in its hands.
		moved := repo.Commit(harness.Files{"moved": "since"})
		repo.Tag("v0.4.0", moved)
		other := s.AddWorker(fmt.Sprintf("worker-%d", n+2))
		c.settled(settleTime, id)
		if early == 0 {
			c.tags(repo) // as it is now
		}
		before := c.rows(s.DatabaseURL)
		zombie.SignalGroup(syscall.SIGCONT)
		harness.Within(t, recoveryTime, "the zombie has given up", func() bool { return zombie.Said("claim lost") })
		job := s.Job(id)
		if job.State != storage.Succeeded || job.Attempts != 2 {
			t.Errorf("job = %+v, want success at the second attempt", job)
		}
		if after := c.rows(s.DatabaseURL); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("releases after the zombie: %q, want %q", after, before)
		}
		c.complete(repo)
		s.Fetch(g.of(repo))
		other.Stop()
		zombie.Restart() // its log speaks of one round
		s.AwaitWorker(zombie)
		c.clean()
	}
}
