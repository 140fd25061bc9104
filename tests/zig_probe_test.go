package tests_test

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/tests/harness"
)

// A worker with a zig has it fetch what was published, shut in, and keeps
// nothing of a package in the cache.
func TestZigProbe(t *testing.T) {
	t.Parallel()
	for _, z := range harness.Zigs(t) {
		if z.Version >= "0.17" && os.Getenv("PACKBASE_TEST_ZIG_COMPILES") == "" {
			continue // it compiles its fetcher first, for minutes
		}
		t.Run(z.Version, func(t *testing.T) {
			t.Parallel()
			up := harness.NewUpstream(t)
			s := harness.Start(t, "PACKBASE_ZIG="+z.Path)
			for _, name := range []string{"one", "two"} {
				repo := up.Repo(name)
				repo.Tag("v1.2.3", repo.Commit(z.Package(name, "1.2.3", "hello")))
				a := s.TryFetch(repo.URL)
				for a.Status == http.StatusAccepted { // one that compiles first takes longer than anybody may wait
					a = s.TryFetch(repo.URL)
				}
				if a.Status != http.StatusOK {
					t.Fatalf("fetch %s: %d %s", name, a.Status, a.Body)
				}
				info := s.Info(name)
				if !info.Healthy || info.FetchProbeError != "" {
					t.Errorf("%s is healthy: %v, %q, want that zig took it", name, info.Healthy, info.FetchProbeError)
				}
			}
			caches, err := filepath.Glob(filepath.Join(s.Root, "zig-cache", "*"))
			if err != nil || len(caches) != 1 || !strings.HasPrefix(filepath.Base(caches[0]), "zig-") {
				t.Fatalf("the cache holds %q, %v, want that of one zig", caches, err)
			}
			for _, name := range []string{"p", "tmp"} {
				if _, err := os.Stat(filepath.Join(caches[0], name)); err == nil {
					t.Errorf("the kept cache has %s", name)
				}
			}
		})
	}
}

// What zig quotes of a package may be no text: that is told as far as it is one, and fails no job.
func TestZigPrintsBytes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	zig := filepath.Join(dir, "zig")
	if err := os.WriteFile(zig, []byte("#!/bin/sh\n[ \"$2\" = package ] && exit\nprintf 'a\\033[31m\\000b\\377c\\n\\td'; exit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	up := harness.NewUpstream(t)
	s := harness.Start(t, "PACKBASE_ZIG="+zig)
	repo := up.Repo("odd")
	repo.Release("v1.0.0")
	if a := s.TryFetch(repo.URL); a.Status != http.StatusOK {
		t.Fatalf("fetch: %d %s", a.Status, a.Body)
	}
	info := s.Info("odd")
	if want := "a\ufffd[31m\ufffdb\ufffdc\n\td"; info.Healthy || !strings.Contains(string(info.FetchProbeError), want) {
		t.Errorf("healthy %v, %q, want what zig printed, %q", info.Healthy, info.FetchProbeError, want)
	}
}

// A manifest that the worker's zig is too old for, as info says, makes no package unhealthy; one that it should take does.
func TestZigProbeTooOld(t *testing.T) {
	t.Parallel()
	zigs := harness.Zigs(t)
	old := slices.IndexFunc(zigs, func(z *harness.Zig) bool { return z.Version < "0.14" })
	if old < 0 {
		t.Skip("no zig before 0.14 in PACKBASE_TEST_ZIGS")
	}
	const manifest = `.{ .name = .young, .version = "1.0.0", .fingerprint = 0x2b378a9f00000001, .paths = .{""} }`
	for version, healthy := range map[string]bool{"0.13.0": true, "0.15.2": false} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			zig := zigs[old].Path
			if !healthy { // the same refusal, of a zig that says it is a newer one
				dir := t.TempDir()
				zig = filepath.Join(dir, "zig")
				script := "#!/bin/sh\n[ $1 = version ] && exec echo " + version + "\n[ $2 = package ] && exit\necho 'expected string literal'; exit 1\n"
				if err := os.WriteFile(zig, []byte(script), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			up := harness.NewUpstream(t)
			s := harness.Start(t, "PACKBASE_ZIG="+zig)
			repo := up.Repo("young")
			repo.Tag("v1.0.0", repo.Commit(harness.Files{"build.zig.zon": manifest}))
			if a := s.TryFetch(repo.URL); a.Status != http.StatusOK {
				t.Fatalf("fetch: %d %s", a.Status, a.Body)
			}
			info := s.Info("young")
			if info.Healthy != healthy || (info.FetchProbeError == "") != healthy {
				t.Errorf("healthy %v, %q, want %v", info.Healthy, info.FetchProbeError, healthy)
			}
		})
	}
}
