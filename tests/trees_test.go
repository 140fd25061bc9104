package tests_test

import (
	"archive/zip"
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/tests/harness"
	"github.com/francescobianco/packbase/tests/harness/archives"
)

// A project whose tree is made of a release asset, a commit by Git and a zip is captured as it is, and then builds with
// all upstreams dead, from the cache that `packbase warm` filled, by the server and from a bundle.
func TestTrees(t *testing.T) {
	t.Parallel()
	for _, z := range harness.Zigs(t) {
		t.Run(z.Version, func(t *testing.T) {
			t.Parallel()
			z := z.For(t)
			up, s := harness.NewUpstream(t), harness.Start(t)
			files := map[string][]byte{}
			web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, ok := files[r.URL.Path]
				if !ok {
					http.NotFound(w, r)
					return
				}
				w.Header().Set("Content-Type", "application/octet-stream")
				w.Write(body)
			}))
			defer web.Close()
			hashed := func(url string) string {
				hash, err := z.Fetch(url) // as upstream gives it, to Zig itself
				if err != nil {
					t.Fatal(err)
				}
				return fmt.Sprintf(".url = %q, .hash = %q", url, hash)
			}
			c := z.Package("c", "1.0.0", "c")
			files["/c.zip"] = zipped(t, c)
			repo := up.Repo("owner/b")
			b := hashed(repo.GitURL(repo.Commit(z.Package("b", "1.0.0", "b"))))
			a := z.Package("a", "1.0.0", "a")
			a["build.zig.zon"] = depending(a["build.zig.zon"], []string{".b = .{ " + b + " },", ".c = .{ " + hashed(web.URL+"/c.zip") + ", .lazy = true },"})
			files["/a-1.0.0.tar.gz"] = archives.TarGz(t, a)
			asset := ".a = .{ " + hashed(web.URL+"/a-1.0.0.tar.gz") + " },"

			dir := z.Project("project", "a")
			zon := filepath.Join(dir, "build.zig.zon")
			text, err := os.ReadFile(zon)
			if err == nil {
				err = os.WriteFile(zon, []byte(depending(string(text), []string{asset})), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			env := append(slices.Clone(s.Env), "PACKBASE_URL="+s.URL)
			run := func(args ...string) string {
				t.Helper()
				stdout, stderr, err := harness.Run(t, env, args...)
				if err != nil {
					t.Fatalf("%v\n%s%s", err, stdout, stderr)
				}
				return stdout
			}
			drawn := run("capture", "--wait", dir)
			for _, want := range []string{"3 packages", "└── a 1.0.0", "    ├── b 1.0.0", "    └── c 1.0.0"} {
				if !strings.Contains(drawn, want) {
					t.Errorf("capture draws\n%s, want %q", drawn, want)
				}
			}
			up.Stop()
			web.Close()
			builds := func(way string) {
				t.Helper()
				if _, err := z.Run(dir, "build"); err != nil {
					t.Errorf("%s: %v", way, err)
				}
			}
			z.Forget(dir)
			if _, err := z.Run(dir, "build"); err == nil {
				t.Fatal("the project builds without its dependencies")
			}
			z.Forget(dir)
			if said := run("warm", "--require-all", "--zig", z.Path, "--cache-dir", z.Cache, dir); !strings.Contains(said, "3 packages") || !strings.Contains(said, "3 of them new") {
				t.Errorf("warm says %q", said)
			}
			if said := run("warm", "--zig", z.Path, "--cache-dir", z.Cache, dir); !strings.Contains(said, "0 of them new") {
				t.Errorf("warm again says %q", said)
			}
			builds("warm")

			file := filepath.Join(t.TempDir(), "tree.tar")
			run("bundle", "-o", file, dir)
			s.Stop()
			z.Forget(dir)
			run("warm", "--from", file, "--zig", z.Path, "--cache-dir", z.Cache)
			builds("bundle")
		})
	}
}

// A package that two repositories have is stored once, and answered for under the Git URL of either.
func TestTreeOfTwins(t *testing.T) {
	t.Parallel()
	z := harness.Zigs(t)[0].For(t)
	up, s := harness.NewUpstream(t), harness.Start(t)
	var urls, deps []string
	for _, repo := range []*harness.Repo{up.Repo("owner/b"), up.Repo("renamed/c")} {
		urls = append(urls, repo.GitURL(repo.Commit(z.Package("b", "1.0.0", "b"))))
	}
	hash, err := z.Fetch(urls[0])
	if err != nil {
		t.Fatal(err)
	}
	for i, url := range urls {
		deps = append(deps, fmt.Sprintf(".d%d = .{ .url = %q, .hash = %q },", i, url, hash))
	}
	dir := z.Project("project", "")
	if err := os.WriteFile(filepath.Join(dir, "build.zig.zon"), []byte(depending(z.Manifest("project", "0.0.0"), deps)), 0o600); err != nil {
		t.Fatal(err)
	}
	env := append(slices.Clone(s.Env), "PACKBASE_URL="+s.URL)
	if stdout, stderr, err := harness.Run(t, env, "capture", "--wait", dir); err != nil || !strings.Contains(stdout, "1 package,") {
		t.Fatalf("%v\n%s%s", err, stdout, stderr)
	}
	before := up.Requests()
	if _, stderr, err := harness.Run(t, env, "capture", "--wait", dir); err != nil || up.Requests() != before {
		t.Errorf("a second capture asks upstream %d times: %v %s", up.Requests()-before, err, stderr)
	}
	up.Stop()
	z.Env = []string{"http_proxy=" + s.URL}
	for _, url := range urls {
		z.Forget(dir)
		if got, err := z.Fetch(url); err != nil || got != hash {
			t.Errorf("%s is %s, want %s: %v", url, got, hash, err)
		}
	}
}

func zipped(t *testing.T, files harness.Files) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		f, err := w.Create("x-1.0.0/" + name)
		if err == nil {
			_, err = f.Write([]byte(files[name]))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}
