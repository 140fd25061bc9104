package tests

import (
	"net/http"
	"testing"
	"time"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/tests/harness"
)

// A tag or commit that is here is answered from what is here: upstream is not
// asked, so it may be away. All tags are another question.
func TestHereNeedsNoUpstream(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	repo := up.Repo("hello")
	tagged := repo.Release("v1.0.0")
	repo.Annotate("v1.1.0", repo.Release("v1.1.0"))
	tip := repo.Commit(harness.Files{"src/new.zig": "const new = true;\n"})
	s := harness.Start(t, "PACKBASE_JOB_ATTEMPTS=1")
	s.Fetch(repo.URL)
	s.Fetch(repo.GitURL(tip))

	asked := up.Requests()
	if f := s.Fetch(repo.GitURL("main")); f.Commit != tip || up.Requests() != asked+1 {
		t.Errorf("the branch: commit %s after %d requests, want %s after one, for the refs", f.Commit, up.Requests()-asked, tip)
	}
	// A branch elsewhere that comes to a commit which is here as a release.
	repo.Git("update-ref", "refs/heads/old", tagged)
	asked = up.Requests()
	if f := s.Fetch(repo.GitURL("old")); f.Commit != tagged || up.Requests() != asked+1 {
		t.Errorf("the other branch: commit %s after %d requests, want %s after one, for the refs", f.Commit, up.Requests()-asked, tagged)
	}
	if a := s.Do(http.MethodGet, "/p/hello/branch/old.tar.gz", "", nil); a.Header.Get("X-Packbase-Commit") != tagged {
		t.Errorf("GET of the branch: %d %v, want its commit", a.Status, a.Header)
	}

	up.Stop()
	synced := s.Info("hello").LastSync
	for target, want := range map[string]wire.Fetched{
		"v1.0.0": {FetchResult: wire.FetchResult{Tag: "v1.0.0"}, URL: "/p/hello/tag/v1.0.0.tar.gz"},
		tagged:   {FetchResult: wire.FetchResult{Commit: tagged}, URL: "/p/hello/commit/" + tagged + ".tar.gz"},
		tip:      {FetchResult: wire.FetchResult{Commit: tip}, URL: "/p/hello/commit/" + tip + ".tar.gz"},
	} {
		began := time.Now()
		f := s.Fetch(repo.GitURL(target))
		if took := time.Since(began); took > harness.Slack(5*time.Second) {
			t.Errorf("#%s took %v without upstream, want no time", target, took)
		}
		want.Package, want.Count, want.Present, want.JobID, want.Status = "hello", 2, 2, f.JobID, "ok"
		if f != want {
			t.Errorf("#%s = %+v, want %+v", target, f, want)
		}
	}
	if now := s.Info("hello").LastSync; now == nil || !now.At.Equal(synced.At) {
		t.Errorf("last sync = %+v, was %+v: nobody looked at upstream", now, synced)
	}
	for _, target := range []string{"", "v9.9.9", "main"} {
		if a := s.TryFetch(repo.GitURL(target)); a.Status != http.StatusBadGateway || a.Code() != "upstream_unreachable" {
			t.Errorf("#%s without upstream: %d %s, want 502 upstream_unreachable", target, a.Status, a.Code())
		}
	}
	if now := s.Info("hello").LastSync; now == nil || now.OK {
		t.Errorf("last sync = %+v, want a failure", now)
	}
}

// A tag or commit that cannot be mirrored says nothing of what is here: no sync failed, and no update waits for it. Anybody
// could ask for one, where clients may pull.
func TestFailuresOfTargets(t *testing.T) {
	t.Parallel()
	repo := harness.NewUpstream(t).Repo("hello")
	held := repo.Release("v1.0.0")
	repo.Release("v1.1.0")
	s := harness.Start(t, "PACKBASE_JOB_ATTEMPTS=1")
	s.Fetch(repo.URL)
	s.Do(http.MethodPost, "/api/remove", `{"package":"hello","tag":"v1.0.0","reason":"holds a key"}`, nil)
	synced := s.Info("hello").LastSync
	for target, code := range map[string]string{
		"v1.0.0":                       "removed",
		held:                           "removed",
		repo.Git("rev-parse", "main:"): "tag_not_commit",
		repo.CommitTree("120000 blob " + repo.Blob("../../etc/passwd") + "\tout"):     "symlink_escape",
		repo.CommitTree("100644 blob 1234567890123456789012345678901234567890\tlost"): "upstream_refused",
	} {
		if a := s.TryFetch(repo.GitURL(target)); a.Code() != code {
			t.Errorf("#%s: %d %s, want %s", target, a.Status, a.Body, code)
		}
		if now := s.Info("hello").LastSync; !now.OK || !now.At.Equal(synced.At) || now.NextTryAt != nil {
			t.Errorf("last sync after #%s = %+v, was %+v", target, now, synced)
		}
	}
}
