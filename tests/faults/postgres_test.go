package faults

import (
	"bytes"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage/engines"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/tests/harness"
	"github.com/francescobianco/packbase/tests/harness/engine"
)

// DB-01: Postgres stops at once, at any time, while packages are mirrored and
// read, and comes back after a while. What was acknowledged ends well, what is
// served without it says so.
func TestPostgresStops(t *testing.T) {
	t.Parallel()
	rnd := random(t)
	e := engine.New(t, engines.Options{NoRedis: true})
	up := harness.NewUpstream(t)
	s := harness.Start(t, append(quick, e.Env()...)...)
	c := newChecker(t, s)
	pids := []int{s.API.PID(), s.Worker.PID()}
	k := &killing{t: t, c: c, up: up, rnd: rnd}
	first := up.Repo("first")
	tagReleases(t, first, 0, 2, 1000)
	s.Fetch(first.URL)
	c.tags(first)
	for n := range rounds(5, 50) {
		repos := k.repos(fmt.Sprint(n))
		asked := make(chan []string)
		go func() { asked <- k.askAnyhow(repos) }()
		<-time.After(upTo(rnd, time.Second))
		e.Crash("postgres")
		back := time.After(upTo(rnd, 3*time.Second))
		jobs := <-asked
		withoutPostgres(t, s, c)
		<-back
		e.Start()
		s.AwaitAPI()
		jobs = append(jobs, k.askAnyhow(repos)...)
		if len(jobs) < len(repos) {
			t.Errorf("round %d: %d jobs are acknowledged, want %d", n, len(jobs), len(repos))
		}
		c.settled(15*time.Second, jobs...)
		c.clean()
		c.tags(append(repos, first)...)
	}
	if !s.API.Running() || !s.Worker.Running() || s.API.PID() != pids[0] || s.Worker.PID() != pids[1] {
		t.Error("a process ended")
	}
}

// withoutPostgres checks what packbase answers while its database is away.
func withoutPostgres(t *testing.T, s *harness.Server, c *checker) {
	t.Helper()
	if a := s.Do(http.MethodGet, "/healthz", "", nil); a.Status != http.StatusOK {
		t.Errorf("healthz: %d, want 200", a.Status)
	}
	a := s.Do(http.MethodGet, "/readyz", "", nil)
	var ready struct{ Dependencies map[string]string }
	a.Into(t, &ready)
	if a.Status != http.StatusServiceUnavailable || ready.Dependencies["postgres"] != "down" || ready.Dependencies["blobs"] != "ok" {
		t.Errorf("readyz: %d %s, want 503 and postgres down", a.Status, a.Body)
	}
	for _, path := range []string{
		"/api/info/first", "/api/list", "/api/jobs", "/p/first/tag/v0.0.0.tar.gz", "/p/first/tag/v0.0.0.json", "/first/info/refs?service=git-upload-pack",
	} {
		a := s.Do(http.MethodGet, path, "", nil)
		switch {
		case a.Status == http.StatusOK && strings.HasSuffix(path, ".tar.gz"):
			c.observe(sum(a.Body), "tarball", "first", "v0.0.0") // it is remembered, and right
		case a.Status == http.StatusOK:
		case a.Status != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" || a.Header.Get("X-Packbase-Error") == "":
			t.Errorf("GET %s: %d %v, want 503, Retry-After and a code", path, a.Status, a.Header)
		case bytes.Contains(a.Body, []byte("postgres:")), bytes.Contains(a.Body, []byte(filepath.Dir(s.Root))):
			t.Errorf("GET %s: %s, want no insides", path, a.Body)
		}
	}
}

// A database that is away, and for longer than a lease, is no crash of a
// worker and no attempt at a job, however often; what a job comes to meanwhile
// is recorded when it is back.
func TestPostgresAwayIsNoCrash(t *testing.T) {
	t.Parallel()
	const lease = 3 * time.Second
	e := engine.New(t, engines.Options{NoRedis: true})
	up := harness.NewUpstream(t)
	g := newGate(t, up)
	s := harness.Start(t, append(append(quick, "PACKBASE_LEASE="+lease.String()), e.Env()...)...)
	repo := up.Repo("patient")
	tagReleases(t, repo, 0, 2, 1000)
	arrived, open := g.hold()
	id := s.Ask(g.of(repo))
	<-arrived
	for n := range jobs.MaxCrashes + 1 {
		e.Crash("postgres")
		<-time.After(lease + lease/2)
		if n == jobs.MaxCrashes {
			open() // the last time, the job goes on without a database
		}
		e.Start()
		s.AwaitAPI()
	}
	c := newChecker(t, s)
	c.settled(recoveryTime, id)
	if job := s.Job(id); job.Attempts != 1 {
		t.Errorf("%d attempts, want 1", job.Attempts)
	}
	if s.Worker.Said("worker vanished") {
		t.Error("a worker that lives is said to have vanished")
	}
	c.clean()
	c.tags(repo)
}
