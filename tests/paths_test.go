package tests_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/francescobianco/packbase/tests/harness"
)

// Whatever goes wrong with jobs, no public answer tells where anything lies on
// the server.
func TestNoPathIsPublic(t *testing.T) {
	t.Parallel()
	const telltale = "xyzzyplugh"
	place := filepath.Join(t.TempDir(), telltale)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	lay := func(name, content string) string {
		t.Helper()
		file := filepath.Join(place, name)
		must(os.MkdirAll(filepath.Dir(file), 0o755))
		must(os.WriteFile(file, []byte(content), 0o644))
		return file
	}
	zon := ".{ .name = .x, .version = \"1.0.0\", .fingerprint = 0x0102030405060708, .paths = .{\"\"} }"
	secret := lay("secret", "secret")
	// Fixtures that cannot be mirrored, each for another reason.
	for _, name := range []string{"absolute", "above", "fifo", "manifest", "fine"} {
		lay("fixtures/"+name+"/README", name)
	}
	must(os.Symlink(secret, filepath.Join(place, "fixtures/absolute/link")))
	must(os.Symlink("../../../"+telltale+"/secret", filepath.Join(place, "fixtures/above/link")))
	must(os.Symlink(secret, filepath.Join(place, "fixtures/outside")))
	must(syscall.Mkfifo(filepath.Join(place, "fixtures/fifo/fifo"), 0o600))
	must(os.Symlink(secret, filepath.Join(place, "fixtures/manifest/build.zig.zon")))
	lay("fixtures/bare.git/HEAD", "ref: refs/heads/main\n")
	lay("fixtures/bare.git/refs/tags/v1.0.0", strings.Repeat("1", 40)+"\n")
	lay("fixtures/bare.git/objects/info/alternates", place+"/elsewhere\n")
	lay("fixtures/broken.git/HEAD", "ref: "+place+"\n")
	lay("fixtures/broken.git/packed-refs", place)
	// A zig that says all that it knows.
	zig := lay("zig", "#!/bin/sh\necho \"error: $0 $PWD $*\" >&2; env >&2; exit 1\n")
	must(os.Chmod(zig, 0o755))

	s := harness.Start(t, "PACKBASE_ROOT="+place+"/root", "PACKBASE_FIXTURES="+place+"/fixtures", "PACKBASE_NETRC="+lay("netrc", "machine\n"),
		"PACKBASE_SOURCE=file://"+place+"/catalog.json", "PACKBASE_ZIG="+zig, "PACKBASE_UPDATE_COOLDOWN=0s", "PACKBASE_JOB_ATTEMPTS=1", "TMPDIR="+place)
	answers := 0
	wantSafe := func(what string, a *harness.Answer) {
		t.Helper()
		answers++
		for _, word := range []string{telltale, "/tmp/", "packbase-zig-"} {
			all := fmt.Sprint(a.Header, string(a.Body))
			if i := strings.Index(all, word); i >= 0 {
				t.Errorf("%s: %d: ...%.300q", what, a.Status, all[max(0, i-100):])
				break
			}
		}
	}
	ask := func(method, path, body string) *harness.Answer {
		t.Helper()
		if method == http.MethodGet { // the page, where there is one
			wantSafe("page "+path, s.Do(method, path, "", http.Header{"Accept": {"text/html"}}))
		}
		a := s.Do(method, path, body, nil)
		wantSafe(method+" "+path, a)
		return a
	}
	update := func() { ask(http.MethodPost, "/api/update?wait=120", "") }

	update() // without a catalog
	must(os.Mkdir(filepath.Join(place, "catalog.json"), 0o755))
	update() // with a folder in its place
	must(os.Remove(filepath.Join(place, "catalog.json")))
	lay("catalog.json", `{"protocol":"v1","packages":[{"id":"1","title":"local","repository":{"url":"file://`+secret+`"}},{"id":"2","title":"x","repository":{"url":"`+secret+`"}}]}`)
	update()
	must(os.Rename(filepath.Join(place, "fixtures"), filepath.Join(place, "gone")))
	update()
	must(os.Rename(filepath.Join(place, "gone"), filepath.Join(place, "fixtures")))

	up := harness.NewUpstream(t)
	for _, url := range []string{up.URL + "/nothing", "http://127.0.0.1:1/x/y", "fixture:/" + place, "fixture:absolute", "file://" + secret} {
		ask(http.MethodPost, "/api/fetch?wait=20", fmt.Sprintf(`{"url":%q}`, url))
	}
	ask(http.MethodPost, "/api/trees?wait=20", fmt.Sprintf(`{"name":"t","manifest":%q}`,
		strings.Replace(zon, ".paths", `.dependencies = .{ .a = .{ .url = "http://127.0.0.1:1/a.tar.gz", .hash = "1220`+strings.Repeat("ab", 32)+`" }, .b = .{ .path = "/`+secret[1:]+`" } }, .paths`, 1)))

	repo := up.Repo("damaged")
	repo.Commit(harness.Files{"a": "a"})
	repo.Release("v1.0.0")
	s.Fetch(repo.URL)
	root := filepath.Join(place, "root")
	must(os.Rename(filepath.Join(root, "blobs"), filepath.Join(root, "elsewhere")))
	ask(http.MethodGet, "/p/damaged/tag/v1.0.0.tar.gz", "")
	ask(http.MethodGet, "/readyz", "")
	ask(http.MethodPost, "/api/check?wait=10", `{"package":"damaged"}`)
	repo.Commit(harness.Files{"b": "b"})
	repo.Release("v2.0.0")
	ask(http.MethodPost, "/api/fetch?wait=20", fmt.Sprintf(`{"url":%q}`, repo.URL))
	must(os.Rename(filepath.Join(root, "elsewhere"), filepath.Join(root, "blobs")))
	must(os.RemoveAll(filepath.Join(root, "staging")))
	must(os.WriteFile(filepath.Join(root, "staging"), nil, 0o600))
	ask(http.MethodPost, "/api/fetch?wait=20", fmt.Sprintf(`{"url":%q}`, repo.URL))
	ask(http.MethodPost, "/api/check?wait=10", `{"package":"damaged"}`)

	for _, path := range []string{"/", "/jobs", "/trees", "/why", "/readyz", "/healthz", "/feed.atom", "/api/status", "/api/changes", "/api/list",
		"/api/search?q=a", "/api/trees", "/api/trees/t", "/trees/t", "/api/openapi.yaml", "/api/nothing", "/login", "/u/http/127.0.0.1:1/a.tar.gz"} {
		ask(http.MethodGet, path, "")
	}
	var list struct{ Packages []string }
	ask(http.MethodGet, "/api/list", "").Into(t, &list)
	var jobs struct {
		Jobs []struct {
			ID    string
			State string
		}
	}
	ask(http.MethodGet, "/api/jobs?limit=100", "").Into(t, &jobs)
	failed := 0
	for _, j := range jobs.Jobs {
		ask(http.MethodGet, "/api/jobs/"+j.ID, "")
		ask(http.MethodGet, "/jobs/"+j.ID, "")
		if j.State == "failed" {
			failed++
		}
	}
	rejected := 0
	for _, pkg := range append(list.Packages, "absolute", "above", "fifo", "manifest", "bare", "broken") {
		for _, path := range []string{"/" + pkg, "/api/info/" + pkg, "/api/check/" + pkg, "/" + pkg + ".git/info/refs?service=git-upload-pack", "/" + pkg + ".git/info/refs", "/p/" + pkg + "/badge.svg"} {
			ask(http.MethodGet, path, "")
		}
		info := s.Info(pkg)
		rejected += len(info.RejectedTags)
		for _, tarball := range info.Tarballs {
			ask(http.MethodGet, "/p/"+pkg+"/tag/"+tarball.Tag+".json", "")
		}
	}
	if failed < 5 || rejected < 2 || len(list.Packages) < 2 {
		t.Errorf("%d jobs failed, %d tags were rejected, of %d packages, in %d answers: too little went wrong", failed, rejected, len(list.Packages), answers)
	}
}
