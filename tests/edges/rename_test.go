package edges

import (
	"net/http"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/tests/harness"
)

// A renamed package is cloned by git and fetched by zig under both names, at
// its central, on edges that were there and that come later, after a rebuild
// from the blobs, and the old URL gives the same hash for ever.
func TestRename(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	repo := up.Repo("hello")
	repo.Commit(harness.Files{"build.zig": "", "src/root.zig": "// hello\n"})
	repo.Release("v1.0.0")
	central := harness.Start(t)
	central.Fetch(repo.URL)
	edge := harness.StartEdge(t, central.URL)
	inStep(t, edge, central)
	refs, err := clone(t, central.URL, "hello")
	if err != nil {
		t.Fatal(err)
	}
	zig, hash := harness.Zigs(t)[0], ""
	answers := func(what string, s *harness.Server) {
		t.Helper()
		for _, name := range []string{"hello", "Greeting"} {
			harness.Eventually(t, what+" knows "+name, func() bool {
				return s.Do(http.MethodGet, "/p/"+name+"/tag/v1.0.0.tar.gz", "", nil).Status == http.StatusOK
			})
			if got, err := clone(t, s.URL, name); err != nil || got != refs {
				t.Errorf("%s: a clone of %s has %q, %v, want %q", what, name, got, err, refs)
			}
			for _, url := range []string{s.URL + "/p/" + name + "/tag/v1.0.0.tar.gz", "git+" + s.URL + "/" + name + "#v1.0.0"} {
				got, err := zig.For(t).Fetch(url)
				if hash == "" {
					hash = got
				}
				if err != nil || got != hash {
					t.Errorf("%s: zig fetch %s: %q, %v, want %q", what, url, got, err, hash)
				}
			}
			if info := s.Info(name); info.Package != "Greeting" {
				t.Errorf("%s: %s is shown as %s", what, name, info.Package)
			}
		}
	}
	env := append([]string{"PACKBASE_URL=" + central.URL}, central.Env...)
	if out, stderr, err := harness.Run(t, env, "rename", "hello", "Greeting"); err != nil || !strings.Contains(out, "hello, Greeting") {
		t.Fatalf("rename: %v\n%s%s", err, out, stderr)
	}
	answers("central", central)
	inStep(t, edge, central)
	answers("edge", edge)
	late := harness.StartEdge(t, central.URL)
	inStep(t, late, central)
	answers("an edge that begins now", late)
	if a := central.TryFetch(up.Repo("Greeting").URL); a.Code() != "name_conflict" {
		t.Errorf("another upstream takes the name: %d %s", a.Status, a.Body)
	}

	idle(t, central)
	central.Stop()
	clean(t, central)
	fresh := harness.Start(t, "PACKBASE_ROOT="+central.Root)
	if out, stderr, err := harness.Run(t, fresh.Env, "rebuild"); err != nil {
		t.Fatalf("rebuild: %v\n%s%s", err, out, stderr)
	}
	answers("rebuilt", fresh)
	repo.Release("v1.1.0")
	fresh.Fetch(repo.URL)
	if info := fresh.Info("Greeting"); info.LatestTag != "v1.1.0" {
		t.Errorf("the latest is %s, want v1.1.0", info.LatestTag)
	}
}
