package edges

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/tests/harness"
)

// asStranger returns the status of a GET without a token.
func asStranger(t testing.TB, s *harness.Server, path string) int {
	t.Helper()
	resp, err := http.Get(s.URL + path)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// netrc writes a netrc file with a password for the upstream.
func netrc(t testing.TB, up *harness.Upstream, password string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "netrc")
	text := fmt.Sprintf("machine %s login x password %s\n", strings.TrimPrefix(up.URL, "http://"), password)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// What needed credentials upstream is read with a token only: here, on an edge
// that was given one, and nowhere on one that was not. What did not is public,
// although credentials were at hand.
func TestPrivateUpstream(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	hello, secret := up.Repo("hello"), up.Repo("secretive")
	hello.Release("v1.0.0")
	secret.Commit(harness.Files{"own.zig": "// nobody else has this\n"})
	secret.Release("v1.0.0")
	central := harness.Start(t, "PACKBASE_NETRC="+netrc(t, up, "s3cret"))
	central.Fetch(hello.URL)
	up.WantPassword("s3cret")
	central.Fetch(secret.URL)

	token := createToken(t, central, "edge", "read")
	stranger := harness.StartEdge(t, central.URL)
	trusted := harness.StartEdge(t, central.URL, "PACKBASE_CENTRAL_TOKEN="+token, "PACKBASE_TOKEN="+central.Token)
	hello2 := func(s *harness.Server) bool { return asStranger(t, s, "/p/hello/tag/v1.0.0.tar.gz") == http.StatusOK }
	inStep(t, stranger, central)
	inStep(t, trusted, central)
	path := "/p/secretive/tag/v1.0.0.tar.gz"
	for name, s := range map[string]*harness.Server{"central": central, "edge with a token": trusted} {
		if !hello2(s) || asStranger(t, s, path) != http.StatusNotFound {
			t.Errorf("%s: strangers get hello %v, and the private package with %d", name, hello2(s), asStranger(t, s, path))
		}
		s.Get(path)
		for _, program := range []string{"clone", "ls-remote"} {
			url := strings.Replace(s.URL, "http://", "http://x:"+central.Token+"@", 1) + "/secretive"
			if _, err := harness.Git(t, t.TempDir(), "", program, "--quiet", url); err != nil {
				t.Errorf("%s: git %s with the token: %v", name, program, err)
			}
			if _, err := harness.Git(t, t.TempDir(), "", "-c", "credential.helper=", program, "--quiet", s.URL+"/secretive"); err == nil {
				t.Errorf("%s: git %s without a token works", name, program)
			}
		}
	}
	if a := stranger.Do(http.MethodGet, path, "", nil); a.Status != http.StatusNotFound || !hello2(stranger) {
		t.Errorf("edge without a token: the private package answers %d, hello %v", a.Status, hello2(stranger))
	}

	// A release more, by way of the feed; then the package is made public.
	secret.Release("v1.1.0")
	central.Fetch(secret.URL)
	inStep(t, trusted, central)
	trusted.Get("/p/secretive/tag/v1.1.0.tar.gz")
	if a := central.Do(http.MethodPost, "/api/visibility/secretive", `{"visibility":"public"}`, nil); a.Status != http.StatusOK {
		t.Fatalf("make public: %d %s", a.Status, a.Body)
	}
	inStep(t, stranger, central)
	inStep(t, trusted, central)
	for name, s := range map[string]*harness.Server{"central": central, "edge with a token": trusted, "edge without": stranger} {
		harness.Eventually(t, name+" serves to all", func() bool { return asStranger(t, s, path) == http.StatusOK })
	}
	// And private again: edges do so, too.
	if a := central.Do(http.MethodPost, "/api/visibility/secretive", `{"visibility":"private"}`, nil); a.Status != http.StatusOK {
		t.Fatalf("make private: %d %s", a.Status, a.Body)
	}
	for name, s := range map[string]*harness.Server{"central": central, "edge with a token": trusted, "edge without": stranger} {
		harness.Eventually(t, name+" serves nobody without a token", func() bool { return asStranger(t, s, path) == http.StatusNotFound })
	}
	// An edge that begins now, without a token, is not held up by what it may not have.
	late := harness.StartEdge(t, central.URL)
	inStep(t, late, central)
	if !hello2(late) || asStranger(t, late, path) != http.StatusNotFound {
		t.Errorf("late edge: hello %v, private %d", hello2(late), asStranger(t, late, path))
	}

	for _, s := range []*harness.Server{central, trusted, stranger} {
		s.Stop()
		clean(t, s)
	}
}

// A public package whose upstream wants credentials now takes nothing more
// from there until an operator decides; then it is private.
func TestUpstreamBecomesPrivate(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	repo := up.Repo("hello")
	repo.Release("v1.0.0")
	s := harness.Start(t, "PACKBASE_NETRC="+netrc(t, up, "s3cret"))
	s.Fetch(repo.URL)
	up.WantPassword("s3cret")
	repo.Release("v2.0.0")
	a := s.TryFetch(repo.URL)
	if a.Status != http.StatusConflict || a.Code() != "package_frozen" {
		t.Fatalf("fetch: status %d %s", a.Status, a.Body)
	}
	if one, two := asStranger(t, s, "/p/hello/tag/v1.0.0.tar.gz"), s.Do(http.MethodGet, "/p/hello/tag/v2.0.0.tar.gz", "", nil).Status; one != 200 || two != 404 {
		t.Errorf("frozen: v1.0.0 answers strangers %d, v2.0.0 the token %d, want 200 and 404", one, two)
	}
	if a := s.Do(http.MethodPost, "/api/review/hello", `{"decision":"accept"}`, nil); a.Status != http.StatusOK {
		t.Fatalf("accept: %d %s", a.Status, a.Body)
	}
	s.Fetch(repo.URL)
	s.Get("/p/hello/tag/v2.0.0.tar.gz")
	for _, tag := range []string{"v1.0.0", "v2.0.0"} {
		if got := asStranger(t, s, "/p/hello/tag/"+tag+".tar.gz"); got != http.StatusNotFound {
			t.Errorf("accepted: %s answers strangers %d, want 404", tag, got)
		}
	}

	// From the blobs alone the package is private again.
	fresh := harness.Start(t, "PACKBASE_ROOT="+s.Root)
	if out, stderr, err := harness.Run(t, fresh.Env, "rebuild"); err != nil {
		t.Fatalf("rebuild: %v\n%s%s", err, out, stderr)
	}
	fresh.Get("/p/hello/tag/v2.0.0.tar.gz")
	if got := asStranger(t, fresh, "/p/hello/tag/v2.0.0.tar.gz"); got != http.StatusNotFound {
		t.Errorf("rebuilt: v2.0.0 answers strangers %d, want 404", got)
	}
}

// createToken makes a token by the command line.
func createToken(t testing.TB, s *harness.Server, name, scope string) string {
	t.Helper()
	env := append([]string{"PACKBASE_URL=" + s.URL}, s.Env...)
	out, stderr, err := harness.Run(t, env, "token", "create", "--name", name, "--scope", scope, "--expires", "90d")
	if err != nil {
		t.Fatalf("token create: %v\n%s", err, stderr)
	}
	return strings.TrimSpace(out)
}

// A removal reaches edges, outlives a rebuild from the blobs, and no later sync
// brings back what was removed. Its bytes go with gc.
func TestRemoval(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	repo, other := up.Repo("hello"), up.Repo("doomed")
	repo.Release("v1.0.0")
	repo.Release("v2.0.0")
	other.Commit(harness.Files{"own.zig": "// nobody else has this\n"})
	other.Release("v1.0.0")
	central := harness.Start(t)
	central.Fetch(repo.URL)
	central.Fetch(other.URL)
	edge := harness.StartEdge(t, central.URL)
	inStep(t, edge, central)
	digest := central.Info("hello").Release(t, "v2.0.0").SHA256
	env := append([]string{"PACKBASE_URL=" + central.URL}, central.Env...)
	for _, args := range [][]string{{"hello", "v2.0.0"}, {"doomed"}} {
		if out, stderr, err := harness.Run(t, env, append([]string{"remove", "--reason", "holds a key"}, args...)...); err != nil {
			t.Fatalf("remove %q: %v\n%s%s", args, err, out, stderr)
		}
	}
	gone := func(name string, s *harness.Server) {
		t.Helper()
		for _, path := range []string{"/p/hello/tag/v2.0.0.tar.gz", "/p/doomed/tag/v1.0.0.json", "/api/info/doomed", "/doomed/info/refs?service=git-upload-pack"} {
			harness.Eventually(t, name+" has removed "+path, func() bool {
				a := s.Do(http.MethodGet, path, "", nil)
				return a.Status == http.StatusGone && strings.Contains(string(a.Body), "holds a key")
			})
		}
		s.Get("/p/hello/tag/v1.0.0.tar.gz")
		if info := s.Info("hello"); info.LatestTag != "v1.0.0" || info.TarballCount != 1 {
			t.Errorf("%s: the latest is %s of %d, want v1.0.0 alone", name, info.LatestTag, info.TarballCount)
		}
	}
	gone("central", central)
	inStep(t, edge, central)
	gone("edge", edge)
	late := harness.StartEdge(t, central.URL)
	inStep(t, late, central)
	if a := late.Do(http.MethodGet, "/p/hello/tag/v2.0.0.tar.gz", "", nil); a.Status != http.StatusGone {
		t.Errorf("an edge that begins now answers %d, want 410", a.Status)
	}
	repo.Git("tag", "v2.0.1", "v2.0.0")
	central.Fetch(repo.URL)
	gone("after a sync", central)
	for target, want := range map[string]int{"#v2.0.0": http.StatusGone, "#" + strings.TrimSpace(repo.Git("rev-parse", "v2.0.0^{commit}")): http.StatusGone} {
		if a := central.TryFetch(repo.URL + target); a.Status != want {
			t.Errorf("fetch %s: %d %s", target, a.Status, a.Body)
		}
	}

	idle(t, central)
	for _, s := range []*harness.Server{central, edge} {
		s.Stop()
		clean(t, s)
		if out, stderr, err := harness.Run(t, s.Env, "gc", "--grace", "0s"); err != nil {
			t.Fatalf("gc: %v\n%s%s", err, out, stderr)
		}
		clean(t, s)
		found, err := filepath.Glob(filepath.Join(s.Root, "blobs", "*", "*"+digest[len(digest)-20:]+"*"))
		if deep, _ := filepath.Glob(filepath.Join(s.Root, "blobs", "*", "*", "*"+digest[len(digest)-20:]+"*")); err != nil || len(found)+len(deep) > 0 {
			t.Errorf("the tarball is still there: %v %v %v", found, deep, err)
		}
	}
	fresh := harness.Start(t, "PACKBASE_ROOT="+central.Root)
	if out, stderr, err := harness.Run(t, fresh.Env, "rebuild"); err != nil {
		t.Fatalf("rebuild: %v\n%s%s", err, out, stderr)
	}
	gone("rebuilt", fresh)
	fresh.Fetch(repo.URL)
	gone("rebuilt, after a sync", fresh)
}

// idle waits until no job is open: records are kept then.
func idle(t testing.TB, s *harness.Server) {
	t.Helper()
	harness.Eventually(t, "the record is kept", func() bool {
		var jobs struct{ Jobs []wire.Job }
		decode(t, s.Get("/api/jobs?state=queued"), &jobs)
		running := jobs
		decode(t, s.Get("/api/jobs?state=running"), &running)
		return len(jobs.Jobs)+len(running.Jobs) == 0
	})
}
