package harness_test

import (
	"net/http"
	"testing"

	"github.com/francescobianco/packbase/tests/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// The harness itself: what it starts works, and can be killed, restarted and
// told to misbehave.
func TestHarness(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	hello := up.Repo("hello")
	commit := hello.Commit(harness.Files{"a.txt": "a\n", "run.sh*": "#!/bin/sh\n", "link@": "a.txt"})
	hello.Tag("v1.0.0", commit)
	s := harness.Start(t)

	if f := s.Fetch(hello.URL); f.Tag != "v1.0.0" || f.Created != 1 {
		t.Errorf("fetched %+v, want v1.0.0 created", f)
	}
	info := s.Info("hello")
	if r := info.Release(t, "v1.0.0"); r.Commit != commit {
		t.Errorf("commit = %s, want %s", r.Commit, commit)
	}
	if up.Requests() == 0 {
		t.Error("upstream counted no request")
	}

	s.Kill9()
	if _, err := s.TryDo(http.MethodGet, "/healthz", "", nil); err == nil {
		t.Error("the api answers after it was killed")
	}
	s.Restart()
	up.Stop()
	if a := s.TryFetch(hello.URL); a.Code() != "upstream_unreachable" {
		t.Errorf("fetch without upstream: %d %s, want upstream_unreachable", a.Status, a.Body)
	}
	up.Start()
	up.Answer(harness.Status(http.StatusNotFound))
	if a := s.TryFetch(hello.URL); a.Code() != "upstream_not_found" {
		t.Errorf("fetch from upstream that answers 404: %d %s, want upstream_not_found", a.Status, a.Body)
	}
	up.Answer(nil)
	hello.Release("v1.1.0")
	if f := s.Fetch(hello.URL); f.Created != 1 || f.Count != 2 {
		t.Errorf("fetched %+v, want one more of two", f)
	}
}

// `packbase up` brings its own Postgres and Redis.
func TestUp(t *testing.T) {
	t.Parallel()
	s := harness.Up(t)
	if info := s.Info("hello"); info.LatestTag != "v0.1.0" {
		t.Errorf("hello is at %q, want v0.1.0", info.LatestTag)
	}
}
