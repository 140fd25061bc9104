package edges

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/francescobianco/packbase/api/route"
	"github.com/francescobianco/packbase/storage/feed"
	"github.com/francescobianco/packbase/tests/harness"
)

// stranger is another user, who may not write what belongs to us.
const stranger = 65534

// A reader runs packbase where it may read the folder of another one, and not write there.
type reader struct {
	root string
	env  []string
}

// newReader makes the folder: strangers may go there.
func newReader(t *testing.T) *reader {
	t.Helper()
	dir, err := os.MkdirTemp("", "packbase-shared-")
	if err != nil {
		t.Fatal(err)
	}
	r := &reader{root: filepath.Join(dir, "root")}
	t.Cleanup(func() {
		_ = os.Chmod(r.root, 0o755) // it may not be there
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	scratch := filepath.Join(dir, "tmp")
	for _, made := range []error{os.Chmod(dir, 0o755), os.Mkdir(r.root, 0o755), os.Mkdir(scratch, 0o755), os.Chmod(scratch, 0o777)} {
		if made != nil {
			t.Fatal(made)
		}
	}
	r.env = []string{"PACKBASE_ROOT=" + r.root, "TMPDIR=" + scratch, "HOME=" + scratch, "PACKBASE_TOKEN=", "PACKBASE_UPSTREAM_ALLOW="}
	return r
}

// up runs `packbase up` with no more than the root.
func (r *reader) up(t *testing.T) *harness.Server {
	t.Helper()
	s := harness.Up(t, r.onlyReads(t)...)
	s.Token = ""
	return s
}

// onlyReads returns the settings of one who may not write the root: somebody else, or if we cannot be that, ourselves.
func (r *reader) onlyReads(t *testing.T) (env []string) {
	t.Helper()
	env = r.env
	if os.Geteuid() == 0 {
		as := filepath.Join(filepath.Dir(r.root), "as-stranger")
		script := fmt.Sprintf("#!/bin/sh\nexec setpriv --reuid=%d --regid=%d --clear-groups %s \"$@\"\n", stranger, stranger, harness.Binary(t))
		if err := os.WriteFile(as, []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		env = append(env, "PACKBASE_TEST_BINARY="+as)
	} else if err := os.Chmod(r.root, 0o555); err != nil {
		t.Fatal(err)
	}
	return env
}

// Who has no more than the folder of another packbase, and may only read it, serves all that is public in it, follows what
// is published, hidden and removed, and goes on when the other one is dead.
func TestFolderEdge(t *testing.T) {
	t.Parallel()
	r := newReader(t)
	central := harness.Up(t, "PACKBASE_ROOT="+r.root)
	up := harness.NewUpstream(t)
	lib := up.Repo("lib")
	lib.Tag("v1.0.0", lib.Commit(harness.Files{"a.zig": "// one\n"}))
	central.Fetch(lib.URL)
	other := up.Repo("other")
	other.Tag("v1.0.0", other.Commit(harness.Files{"a.zig": ""}))
	secret := up.Repo("secret")
	secret.Tag("v1.0.0", secret.Commit(harness.Files{"secret.zig": ""}))
	for _, repo := range []*harness.Repo{other, secret} {
		central.Fetch(repo.URL)
	}
	hide := func(pkg string) {
		t.Helper()
		if a := central.Do(http.MethodPost, route.Path(route.Visibility, pkg), `{"visibility":"private"}`, nil); a.Status != http.StatusOK {
			t.Fatalf("hide %s: %d %s", pkg, a.Status, a.Body)
		}
	}
	hide("secret")
	edge := r.up(t)
	is := func(s *harness.Server, path string, status int) {
		t.Helper()
		harness.Eventually(t, fmt.Sprint(path, " answers ", status), func() bool { return asStranger(t, s, path) == status })
	}
	is(edge, "/p/lib/tag/v1.0.0.tar.gz", http.StatusOK)
	is(edge, "/p/other/tag/v1.0.0.tar.gz", http.StatusOK)
	if got := asStranger(t, edge, "/p/secret/tag/v1.0.0.tar.gz"); got != http.StatusNotFound {
		t.Errorf("a private tarball answers %d on the edge", got)
	}
	same := func(s *harness.Server, path string) {
		t.Helper()
		if got, want := string(s.Get(path)), string(central.Get(path)); got != want {
			t.Errorf("%s: the edge answers %d bytes, other ones than the %d of the central", path, len(got), len(want))
		}
	}
	fetches := func(s *harness.Server, tag string) {
		t.Helper()
		clone := filepath.Join(t.TempDir(), "clone")
		if out, err := exec.CommandContext(t.Context(), "git", "clone", "-q", "--branch", tag, s.URL+"/lib", clone).CombinedOutput(); err != nil {
			t.Errorf("clone: %v\n%s", err, out)
		}
		for _, z := range harness.Zigs(t) {
			want := z.Hash(central.Info("lib").Release(t, tag))
			for _, url := range []string{s.URL + "/p/lib/tag/" + tag + ".tar.gz", "git+" + s.URL + "/lib#" + tag} {
				if got, err := z.Fetch(url); err != nil || got != want {
					t.Errorf("Zig %s: fetch %s: %s, %v; want %s", z.Version, url, got, err, want)
				}
			}
		}
	}
	same(edge, "/p/lib/tag/v1.0.0.tar.gz")
	same(edge, "/p/lib/tag/v1.0.0.json")
	same(edge, "/z/"+central.Info("lib").Release(t, "v1.0.0").Zig.Hash+".tar.gz")
	fetches(edge, "v1.0.0")
	if a := edge.Do(http.MethodPost, route.Fetch, `{"url":"git+`+lib.URL+`"}`, nil); a.Status != http.StatusForbidden || a.Code() != "read_only" {
		t.Errorf("fetch on the edge: %d %s, want 403 read_only", a.Status, a.Body)
	}
	if info := edge.Info("lib"); !info.Local || info.TarballCount != 1 || info.LatestTag != "v1.0.0" {
		t.Errorf("the edge says of lib: %+v", info)
	}

	lib.Tag("v1.1.0", lib.Commit(harness.Files{"a.zig": "// two\n"}))
	central.Fetch(lib.URL)
	is(edge, "/p/lib/tag/v1.1.0.tar.gz", http.StatusOK)
	fetches(edge, "v1.1.0")
	if a := central.Do(http.MethodPost, route.Remove, `{"package":"lib","tag":"v1.0.0","reason":"holds a key"}`, nil); a.Status != http.StatusOK {
		t.Fatalf("remove: %d %s", a.Status, a.Body)
	}
	is(edge, "/p/lib/tag/v1.0.0.tar.gz", http.StatusGone)
	hide("other")
	is(edge, "/p/other/tag/v1.0.0.tar.gz", http.StatusNotFound)

	// Another one that has never met the central alive, nor what was removed meanwhile.
	central.Kill9()
	before := string(edge.Get("/p/lib/tag/v1.1.0.tar.gz"))
	edge.Stop()
	if err := os.RemoveAll(scratchOf(t, r)); err != nil {
		t.Fatal(err)
	}
	edge.API.Start()
	edge.AwaitReady()
	is(edge, "/p/lib/tag/v1.1.0.tar.gz", http.StatusOK)
	if string(edge.Get("/p/lib/tag/v1.1.0.tar.gz")) != before {
		t.Error("with the central dead and its own things lost the edge answers other bytes")
	}
	harness.Eventually(t, "the removal is known", func() bool { return asStranger(t, edge, "/p/lib/tag/v1.0.0.tar.gz") == http.StatusGone })
	for _, path := range []string{"/p/other/tag/v1.0.0.tar.gz", "/p/secret/tag/v1.0.0.tar.gz", "/secret/info/refs?service=git-upload-pack"} {
		if got := asStranger(t, edge, path); got != http.StatusNotFound {
			t.Errorf("%s answers %d", path, got)
		}
	}
	r.untouched(t)
}

// scratchOf returns the folder of what the edge keeps itself.
func scratchOf(t *testing.T, r *reader) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(filepath.Dir(r.root), "tmp", "packbase-edge-*"))
	if err != nil || len(found) != 1 {
		t.Fatalf("the edge keeps its things in %q, %v", found, err)
	}
	return found[0]
}

// untouched fails the test if the edge has written into the root, or if the index tells of what is private.
func (r *reader) untouched(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir(r.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && os.Geteuid() == 0 && info.Sys().(*syscall.Stat_t).Uid == stranger {
			t.Errorf("the edge made %s", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	page, err := feed.IndexIn(r.root).Changes(0, feed.MaxPage)
	if err != nil || len(page.Changes) == 0 {
		t.Fatalf("index: %d changes, %v", len(page.Changes), err)
	}
	for _, c := range page.Changes {
		if said := fmt.Sprintf("%s %s %s", c.Body, c.Secret, c.News); c.Secret != nil || strings.Contains(said, "secret") && !c.Withheld && !strings.Contains(said, "decision") {
			t.Errorf("the index tells of what is private: %s", said)
		}
	}
}

// A root that cannot be written is no mistake of an edge only if there is something to serve, and nobody who wants to write.
func TestFolderRefused(t *testing.T) {
	t.Parallel()
	r := newReader(t)
	up := func(want string, env ...string) {
		t.Helper()
		if _, stderr, err := harness.Run(t, append(r.onlyReads(t), env...), "up"); err == nil || !strings.Contains(stderr, want) {
			t.Errorf("up: %v\n%s", err, stderr)
		}
	}
	up("cannot be written")
	if err := errors.Join(os.Chmod(r.root, 0o755), os.Mkdir(filepath.Join(r.root, "blobs"), 0o755)); err != nil {
		t.Fatal(err)
	}
	up("set no PACKBASE_TOKEN", "PACKBASE_TOKEN=secret")
}
