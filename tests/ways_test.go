package tests_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/tests/harness"
	"github.com/francescobianco/packbase/tests/harness/archives"
)

// What the URL of a manifest does not give, or gives with other bytes, is had in another way: the commit of a forge's
// archive by Git, or from another packbase by its hash. Bytes that have another hash than the pinned one are stored
// nowhere, whoever sends them. Zig is then answered under the URL that its manifest has.
func TestOtherWays(t *testing.T) {
	t.Parallel()
	body := func(text string) []byte {
		return archives.TarGz(t, harness.Files{"build.zig": text, "src/x.zig": text})
	}
	files := map[string][]byte{"/gone.tar.gz": body("gone"), "/poisoned.tar.gz": body("right"), "/lost.tar.gz": body("lost"), "/changed.tar.gz": body("first")}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/gzip")
		raw, ok := files[r.URL.Path]
		if strings.HasPrefix(r.URL.Path, "/z/") { // as a packbase that lies
			raw, ok = body("poison"), true
		}
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Write(raw)
	}))
	defer web.Close()
	pull := "PACKBASE_PULL=" + strings.TrimPrefix(web.URL, "http://")
	up, peer := harness.NewUpstream(t), harness.Start(t, pull)
	commit := up.Repo("o/r").Commit(harness.Files{"build.zig": "by git", "src/y.zig": "y"})
	s := harness.Start(t, pull, "PACKBASE_FALLBACKS="+web.URL+","+peer.URL+"/")

	capture := func(s *harness.Server, name string, deps ...string) wire.Captured {
		t.Helper()
		manifest := ".{ .name = \"app\", .version = \"1.0.0\", .paths = .{\"\"}, .dependencies = .{" + strings.Join(deps, "") + "} }"
		in, err := json.Marshal(wire.Capture{Name: name, Manifest: manifest})
		if err != nil {
			t.Fatal(err)
		}
		a := s.Do("POST", "/api/trees?wait=120", string(in), nil)
		var out wire.Captured
		if a.Status != http.StatusOK || json.Unmarshal([]byte(a.Body), &out) != nil {
			t.Fatalf("capture: %d %s", a.Status, a.Body)
		}
		return out
	}
	// The hashes are those that a packbase works out which knows no pin.
	hashes, deps := map[string]string{}, []string{}
	for path := range files {
		hashes[path] = hashOf(t, peer, web.URL+path)
		if path != "/lost.tar.gz" {
			deps = append(deps, fmt.Sprintf(".%s = .{ .url = %q, .hash = %q },", path[1:3], web.URL+path, hashes[path]))
		}
	}
	peer.Fetch(up.URL + "/o/r#" + commit)
	git := snapshotHash(t, peer, "r", commit)
	deps = append(deps, fmt.Sprintf(".git = .{ .url = %q, .hash = %q },", up.URL+"/o/r/archive/"+commit+".tar.gz", git))
	delete(files, "/gone.tar.gz")
	files["/poisoned.tar.gz"], files["/changed.tar.gz"] = body("poison"), body("second")

	if got := capture(s, "app", deps...); got.Nodes != 4 || got.Stored != 4 {
		t.Errorf("captured %+v, want 4 of 4; %s", got, s.Get("/api/trees/app"))
	}
	var tree wire.TreeInfo
	if err := json.Unmarshal(s.Get("/api/trees/app"), &tree); err != nil {
		t.Fatal(err)
	}
	for _, n := range tree.Packages {
		var tried []string
		for _, try := range n.Tried {
			tried = append(tried, try.Kind+" "+try.Code)
		}
		want := map[string][]string{
			hashes["/gone.tar.gz"]:     {"archive upstream_not_found", "peer hash_mismatch"},
			hashes["/poisoned.tar.gz"]: {"archive hash_mismatch", "peer hash_mismatch"},
			hashes["/changed.tar.gz"]:  {"archive hash_mismatch", "peer hash_mismatch"},
			git:                        {"archive upstream_not_found"},
		}[n.Hash]
		if !slices.Equal(tried, want) {
			t.Errorf("%s: tried %q, want %q", n.URLs, tried, want)
		}
	}
	if a := s.Do("GET", "/z/"+hashOf(t, peer, web.URL+"/z/x.tar.gz")+".tar.gz", "", nil); a.Status != http.StatusNotFound {
		t.Errorf("the poison is stored: %d", a.Status)
	}
	// Without a pin, what a URL answers now is taken for what it is; what was had for the pin stays.
	if second := hashOf(t, s, web.URL+"/changed.tar.gz"); second == hashes["/changed.tar.gz"] {
		t.Error("the URL answers what it did before")
	}
	// A release that is here has what it needs brought, too.
	repo := up.Repo("o/r")
	repo.Tag("v1.0.0", repo.Commit(harness.Files{"build.zig.zon": fmt.Sprintf(
		".{ .name = \"r\", .version = \"1.0.0\", .paths = .{\"\"}, .dependencies = .{ .lost = .{ .url = %q, .hash = %q } } }", web.URL+"/lost.tar.gz", hashes["/lost.tar.gz"])}))
	s.Fetch(repo.URL)
	drawn, stderr, err := harness.Run(t, append(slices.Clone(s.Env), "PACKBASE_URL="+s.URL), "capture", "--wait", "r@v1.0.0")
	if err != nil || !strings.Contains(drawn, "2 packages") || !strings.Contains(drawn, "r 1.0.0") {
		t.Errorf("capture of a release: %v\n%s%s", err, drawn, stderr)
	}
	if a := s.Do("GET", "/z/"+hashes["/lost.tar.gz"]+".tar.gz", "", nil); a.Status != http.StatusOK {
		t.Errorf("what a release needs: %d", a.Status)
	}
	for release, status := range map[string]int{"r@v2.0.0": 404, "r@": 400, "r#abc": 400, "nosuch@v1": 404, "hello@v0.1.0": 404} {
		in, err := json.Marshal(wire.Capture{Name: "other", Release: release})
		if err != nil {
			t.Fatal(err)
		}
		if a := s.Do("POST", "/api/trees", string(in), nil); a.Status != status {
			t.Errorf("capture of %s: %d %s, want %d", release, a.Status, a.Body, status)
		}
	}
	// What is removed answers nowhere.
	if out, stderr, err := harness.Run(t, append(slices.Clone(s.Env), "PACKBASE_URL="+s.URL), "remove", web.URL+"/changed.tar.gz", "--reason", "holds a key"); err != nil {
		t.Errorf("remove an archive: %v\n%s%s", err, out, stderr)
	}
	if a := s.Do("GET", "/u/"+strings.Replace(web.URL, "://", "/", 1)+"/changed.tar.gz", "", nil); a.Status != http.StatusGone || !strings.Contains(string(a.Body), "holds a key") {
		t.Errorf("what was removed: %d %s", a.Status, a.Body)
	}
	peer.Stop()
	up.Stop()
	web.Close()
	for _, z := range harness.Zigs(t) {
		z.Env = []string{"http_proxy=" + s.URL, "https_proxy=" + s.URL}
		for _, url := range []string{web.URL + "/gone.tar.gz", web.URL + "/poisoned.tar.gz", up.URL + "/o/r/archive/" + commit + ".tar.gz"} {
			if _, err := z.Fetch(url); err != nil {
				t.Errorf("zig %s fetch %s: %v", z.Version, url, err)
			}
		}
	}
	if a := s.Do("GET", "/z/"+hashes["/changed.tar.gz"]+".tar.gz", "", nil); a.Status != http.StatusOK {
		t.Errorf("the old hash of a URL that changed: %d", a.Status)
	}
}

// hashOf has a packbase store what a URL answers, and returns the old form of the hash.
func hashOf(t *testing.T, s *harness.Server, url string) string {
	t.Helper()
	s.Get("/u/" + strings.Replace(url, "://", "/", 1)) // it pulls
	var a wire.Archive
	if err := json.Unmarshal(s.Get("/api/archives?url="+url), &a); err != nil || a.ZigLegacyHash == "" {
		t.Fatalf("archive %s: %v", url, err)
	}
	return a.ZigLegacyHash
}

func snapshotHash(t *testing.T, s *harness.Server, pkg, commit string) string {
	t.Helper()
	var man struct {
		Zig struct {
			LegacyHash string `json:"legacy_hash"`
		} `json:"zig"`
	}
	if err := json.Unmarshal(s.Get("/p/"+pkg+"/commit/"+commit+".json"), &man); err != nil || man.Zig.LegacyHash == "" {
		t.Fatalf("manifest of the snapshot: %v", err)
	}
	return man.Zig.LegacyHash
}
