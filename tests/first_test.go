package tests_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/tests/harness"
)

// What the first packbase's scripts try of a server works with `packbase up`:
// a fetch with its counters, an update, a clone without /git by both protocols,
// zig fetch, zig build, both again, and ten packages in one project.
func TestFirstPackbase(t *testing.T) {
	t.Parallel()
	s := harness.Up(t, "PACKBASE_TOKEN=secret", "PACKBASE_MIN_TOKEN=16") // which is for listeners that others can reach
	s.Token = "secret"
	if !s.API.Said("so short that it can be guessed") {
		t.Error("a token of 6 characters is taken without a warning")
	}
	status := func() (st wire.Status) {
		if err := json.Unmarshal(s.Get("/api/status"), &st); err != nil {
			t.Fatal(err)
		}
		return st
	}
	release := status().Release
	if release == "" {
		t.Error("the status names no release")
	}

	up := harness.NewUpstream(t)
	for i := range 10 {
		repo := up.Repo(fmt.Sprintf("small%d", i))
		repo.Tag("v1.0.0", repo.Commit(harness.Files{"a.zig": fmt.Sprint("// ", i, "\n")}))
		got := s.Fetch(repo.URL)
		if got.Status != "ok" || got.Count != 1 || got.Created+got.Present != got.Count {
			t.Fatalf("fetch: %+v, want ok and counters that add up", got)
		}
	}
	var checked wire.Checked
	if err := json.Unmarshal(s.Get("/api/check/small0"), &checked); err != nil || checked.TarballCount != 1 || checked.LatestTag != "v1.0.0" {
		t.Errorf("check: %+v, %v", checked, err)
	}

	s.Do(http.MethodPost, "/api/update", "", nil)
	harness.Eventually(t, "the update is idle", func() bool { return status().Update.State == "idle" })
	if info := s.Info("hello"); !info.Healthy || info.TarballCount != 1 || info.SizeBytes == 0 || !status().Update.DefaultSeeded {
		t.Errorf("hello: healthy %v, %d tarballs of %d bytes", info.Healthy, info.TarballCount, info.SizeBytes)
	}
	s.Get("/hello/info/refs") // their way to ask whether a server is ready
	for _, smart := range []string{"0", "1"} {
		clone := filepath.Join(t.TempDir(), "clone")
		cmd := exec.CommandContext(t.Context(), "git", "clone", "-q", s.URL+"/hello", clone)
		cmd.Env = append(os.Environ(), "GIT_SMART_HTTP="+smart)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("clone with GIT_SMART_HTTP=%s: %v\n%s", smart, err, out)
		}
		if _, err := os.Stat(filepath.Join(clone, "build.zig.zon")); err != nil {
			t.Errorf("clone with GIT_SMART_HTTP=%s: %v", smart, err)
		}
	}

	var list wire.List
	if err := json.Unmarshal(s.Get("/api/list"), &list); err != nil || len(list.Local) != 11 || !slices.Contains(list.Local, "hello") {
		t.Errorf("list: %v, %v; want hello and ten more", list.Local, err)
	}
	for _, z := range harness.Zigs(t) {
		project := z.Project("app", "hello")
		for range 2 {
			// Of hello's manifest Zig 0.13 does not read the name; no manifest is one for it and for later ones.
			if _, err := z.Run(project, "fetch", "--save", "git+"+s.URL+"/hello"); (err != nil) != z.LegacyHash() {
				t.Fatalf("Zig %s: fetch: %v", z.Version, err)
			}
		}
		if _, err := z.Run(project, "build"); err != nil && !z.LegacyHash() {
			t.Errorf("Zig %s: build: %v", z.Version, err)
		}
		many := z.Project("many", "")
		for _, pkg := range list.Local {
			if pkg == "hello" {
				continue
			}
			if _, err := z.Run(many, "fetch", "--save="+pkg, "git+"+s.URL+"/"+pkg); err != nil {
				t.Errorf("Zig %s: fetch %s: %v", z.Version, pkg, err)
			}
		}
	}
	if got := status().Release; got != release {
		t.Errorf("release %q after all that, want %q", got, release)
	}
}

// A worker brings the package hello where there is none, as up does.
func TestWorkerSeeds(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, "PACKBASE_NO_HELLO=false")
	harness.Eventually(t, "hello is there", func() bool {
		return s.Do(http.MethodGet, "/p/hello/tag/v0.1.0.tar.gz", "", nil).Status == http.StatusOK
	})
}
