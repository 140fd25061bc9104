package edges

import (
	"archive/zip"
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/tests/harness"
)

// With the central and all upstreams gone, an edge answers Zig under the URLs of archives, as a proxy and below /u/, and
// for snapshots and branches; a bundle of a tree comes from it, and the tree itself, by its name.
func TestEdgeOfTrees(t *testing.T) {
	t.Parallel()
	up, central := harness.NewUpstream(t), harness.Start(t)
	var zipped bytes.Buffer
	w := zip.NewWriter(&zipped)
	for _, name := range []string{"x-1.0/a.txt", "x-1.0/b/c.txt"} {
		f, err := w.Create(name)
		if err == nil {
			_, err = f.Write([]byte(name))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	files := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/zip")
		w.Write(zipped.Bytes())
	}))
	defer files.Close()
	repo := up.Repo("o/lib")
	commit := repo.Commit(harness.Files{"a.zig": "a"})
	central.Fetch(repo.URL + "#main")
	var hash string
	for _, z := range harness.Zigs(t) {
		var err error
		if hash, err = z.Fetch(files.URL + "/x.zip"); err != nil {
			t.Fatal(err)
		}
		z.Forget(t.TempDir())
	}
	if hash == "" {
		t.Skip("no zig")
	}
	dir := t.TempDir()
	manifest := fmt.Sprintf(".{ .name = \"app\", .version = \"1.0.0\", .paths = .{\"\"}, .dependencies = .{ .x = .{ .url = %q, .hash = %q } } }", files.URL+"/x.zip", hash)
	if err := os.WriteFile(filepath.Join(dir, "build.zig.zon"), []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(s *harness.Server, args ...string) string {
		t.Helper()
		out, stderr, err := harness.Run(t, append(s.Env, "PACKBASE_URL="+s.URL), args...)
		if err != nil {
			t.Fatalf("%v\n%s%s", err, out, stderr)
		}
		return out
	}
	run(central, "capture", "--wait", "--name", "the-app", dir)
	edge := harness.StartEdge(t, central.URL)
	inStep(t, edge, central)
	harness.Eventually(t, "the edge knows the branch", func() bool {
		a, err := http.Get(edge.URL + "/p/lib/branch/main.tar.gz")
		if err != nil {
			return false
		}
		a.Body.Close()
		return a.StatusCode == http.StatusOK
	})
	harness.Eventually(t, "the edge knows the tree", func() bool {
		a, err := http.Get(edge.URL + "/api/trees/the-app")
		if err != nil {
			return false
		}
		a.Body.Close()
		return a.StatusCode == http.StatusOK
	})
	drawn := run(central, "tree", "the-app")
	central.Stop()
	up.Stop()
	files.Close()

	pinned := edge.Get("/p/lib/commit/" + commit + ".tar.gz")
	if !bytes.Equal(edge.Get("/p/lib/branch/main.tar.gz"), pinned) {
		t.Error("the branch is not its commit")
	}
	given := edge.Get("/z/" + hash + ".tar.gz")
	if got := edge.Get("/u/" + strings.Replace(files.URL, "://", "/", 1) + "/x.zip"); !bytes.Equal(got, zipped.Bytes()) {
		t.Errorf("below /u/ are %d bytes, want the %d that upstream sent", len(got), zipped.Len())
	}
	for _, z := range harness.Zigs(t) {
		z.Env = []string{"http_proxy=" + edge.URL, "https_proxy=" + edge.URL}
		for _, url := range []string{files.URL + "/x.zip", repo.GitURL(commit), edge.URL + "/u/" + strings.Replace(files.URL, "://", "/", 1) + "/x.zip"} {
			got, err := z.Fetch(url)
			if err != nil || strings.HasSuffix(url, "/x.zip") && got != hash && len(got) == len(hash) {
				t.Errorf("zig %s fetch %s: %q, %v; want %q", z.Version, url, got, err, hash)
			}
			z.Forget(t.TempDir())
		}
		if _, err := z.Fetch(files.URL + "/other.zip"); err == nil || !strings.Contains(err.Error(), "not mirrored here") {
			t.Errorf("zig %s of what is not here: %v", z.Version, err)
		}
	}
	if got := run(edge, "tree", "the-app"); got != drawn || !strings.Contains(got, "/x.zip") {
		t.Errorf("the edge draws\n%s, want\n%s", got, drawn)
	}
	if raw := edge.Get("/api/trees/the-app/bundle"); !bytes.Contains(raw, given) {
		t.Error("the bundle of the tree lacks the package")
	}
	file := filepath.Join(t.TempDir(), "tree.tar")
	run(edge, "bundle", "-o", file, dir)
	if raw, err := os.ReadFile(file); err != nil || !bytes.Contains(raw, given) {
		t.Errorf("the bundle of the edge lacks the package: %v", err)
	}
}
