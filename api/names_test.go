package api_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/api"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/release"
)

// names yields package names, most of them almost valid.
func names(n int) func(yield func(int, string) bool) {
	return func(yield func(int, string) bool) {
		r := rand.New(rand.NewPCG(5, 6))
		parts := []string{"a", "B", "0", ".", "..", "_", "-", "hello", ".git", ".GIT", ".lock", ".atom", ".svg", ".tar.gz", "api", "p", "jobs", "/", " ", "%", "+", "é", "\x00",
			"\xff", "~", "@", ":", "\\", "\u202e", "http.zig", strings.Repeat("x", 60)}
		for i := range n {
			var b strings.Builder
			for range r.IntN(5) {
				b.WriteString(parts[min(r.IntN(len(parts)), r.IntN(len(parts)))])
			}
			if !yield(i, b.String()) {
				return
			}
		}
	}
}

// All that takes the name of a package takes the same ones (NM-01).
func TestEntriesAgreeOnNames(t *testing.T) {
	t.Parallel()
	const n, throughHTTP = 100_000, 250 // one of so many
	g := newRegistry(t)
	// Without a database, a name that is let through is 503 and none is stored.
	g.db.Close()
	handler := api.New(g.db, g.queue, g.blobs, api.Options{Token: token}, slog.New(slog.DiscardHandler)).Handler()
	ask := func(method, path, query, body string) int {
		r := httptest.NewRequest(method, "/", strings.NewReader(body))
		r.URL = &url.URL{Path: path, RawQuery: query}
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w.Code
	}
	valid := 0
	for i, called := range names(n) {
		want := name.ValidPackage(called) == nil
		if want {
			valid++
		}
		// By the URL of an upstream, as commands and catalogs give it.
		up, err := name.ParseUpstream("https://git.example/owner/" + called)
		if err == nil && up.Name == called && (name.ValidPackage(up.Name) == nil) != want {
			t.Fatalf("%q: by URL %v, want %v", called, !want, want)
		}
		if err != nil && want {
			t.Fatalf("%q is valid, and its URL is refused: %v", called, err)
		}
		if i%throughHTTP != 0 {
			continue
		}
		text, err := json.Marshal(called)
		if err != nil {
			t.Fatal(err)
		}
		entries := map[string]int{
			"body of /api/check": ask("POST", "/api/check", "", fmt.Sprintf(`{"package":%s}`, text)),
			"/api/info":          ask("GET", "/api/info/"+called, "", ""),
			"/p":                 ask("GET", "/p/"+called+"/tag/v1.tar.gz", "", ""),
			"/api/review":        ask("POST", "/api/review/"+called, "", `{"decision":"keep"}`),
		}
		if called != "" { // there it means none
			entries["query of /api/jobs"] = ask("GET", "/api/jobs", "package="+url.QueryEscape(called), "")
			entries["body of /api/fetch"] = ask("POST", "/api/fetch", "", fmt.Sprintf(`{"url":"https://git.example/o/r","name":%s}`, text))
		}
		if !strings.HasSuffix(called, ".git") { // which Git's URLs may have
			entries["/git"] = ask("GET", "/git/"+called+"/HEAD", "", "")
		}
		for entry, status := range entries {
			if got := status >= 500; got != want {
				t.Errorf("%q by %s: status %d, want it let through: %v", called, entry, status, want)
			}
		}
	}
	if valid < n/20 || valid > n*19/20 {
		t.Errorf("%d of %d names are valid, want a mixture", valid, n)
	}
}

// Names that look like others are others, or nobody's (NM-03).
func TestNamesAreApart(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	tests := []struct {
		url, name string
		status    int
		pkg       string // that the request is for
	}{
		{"https://git.example/a/foo", "", 202, "foo"},
		{"https://git.example/a/foo.git", "", 202, "foo"},
		{"https://git.example/a/foo/", "", 202, "foo"},
		{"git+https://GIT.example:443/a/foo#v1", "", 202, "foo"},
		{"https://git.example/a/foo", "FOO", 202, "foo"},
		{"https://git.example/b/foo", "", 409, ""},
		{"https://git.example/a/Foo", "", 409, ""}, // another upstream, as paths have a case
		{"https://git.example/b/foo", "Foo", 409, ""},
		{"https://git.example/a/a.b", "", 202, "a.b"},
		{"https://git.example/a/a-b", "", 202, "a-b"},
		{"https://git.example/a/a_b", "", 202, "a_b"},
		{"https://git.example/a/ab", "", 202, "ab"},
		{"https://git.example/a/foo", "foo2", 202, "foo2"}, // one upstream under two names
		{"https://git.example/a/f\u043e\u043e", "", 400, ""},
		{"https://git.example/a/x", "f\u043e\u043e", 400, ""},
		{"https://git.example/a/foo\u200b", "", 400, ""},
		{"https://git.example/a/foo.git.git", "", 400, ""},
		{"https://git.example/a/foo.", "", 400, ""},
		{"https://git.example/a/.foo", "", 400, ""},
		{"https://git.example/a/x", "foo/bar", 400, ""},
		{"https://git.example/a/x", "foo ", 400, ""},
		{"https://git.example/a/x", " foo", 400, ""},
	}
	for _, reserved := range []string{"api", "API", "p", "git", "z", "static", "assets", "favicon.ico", "robots.txt", "healthz", "readyz", "livez", "metrics", "debug",
		".well-known", "x.git", "x.lock", "x.atom", "x.svg", ".", "..", "feed.atom", "packages", "jobs", "u", "v", "x", "log", "trees", "why"} { // NM-02
		tests = append(tests, struct {
			url, name string
			status    int
			pkg       string
		}{"https://git.example/a/x", reserved, 400, ""})
	}
	for _, tt := range tests {
		body, err := json.Marshal(map[string]string{"url": tt.url, "name": tt.name})
		g.must(err)
		a := g.post("/api/fetch", string(body))
		var got struct{ Package, Message string }
		a.into(t, &got)
		if a.StatusCode != tt.status || got.Package != tt.pkg {
			t.Errorf("%s as %q: status %d for %q, want %d for %q: %s", tt.url, tt.name, a.StatusCode, got.Package, tt.status, tt.pkg, a.body)
		}
		if tt.status == http.StatusConflict && !strings.Contains(got.Message, "https://git.example/a/foo") {
			t.Errorf("%s as %q: message %q does not name the owner", tt.url, tt.name, got.Message)
		}
	}
}

// Tags that look like other tags' files each have their own (NM-04), also
// those that a shell, a page or a URL would read otherwise.
func TestTagsAreApart(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	tags := []string{"v1", "v1.tar.gz", "v1.json", "v1.manifest", "v1.manifest.json", "v1.tar.gz.json", "v1.tar.gz.tar.gz", "a/b", "a/tag/b",
		"v1+build", "v1%2b", "日本", `v1'"`, "<b>$(id)", "v1;x&y=z#"}
	var releases []tagged
	for _, tag := range tags {
		releases = append(releases, tagged{tag: tag, files: files{"tag": tag, "x": ""}})
	}
	for i, rel := range g.publish("hello", releases...) {
		path := (&url.URL{Path: "/p/hello/tag/" + tags[i]}).EscapedPath()
		tarball, manifest := g.get(path+".tar.gz"), g.get(path+".json")
		if got := fmt.Sprintf("%x", sha256.Sum256(tarball.body)); got != rel.Digest {
			t.Errorf("%s: status %d, bytes of %s, want %s", path, tarball.StatusCode, got, rel.Digest)
		}
		var man release.Manifest
		if manifest.into(t, &man); man.Tag != tags[i] {
			t.Errorf("%s: status %d, manifest of %q", path, manifest.StatusCode, man.Tag)
		}
	}
	var info struct {
		Tarballs []struct{ Tag, URL string }
	}
	g.get("/api/info/hello").into(t, &info)
	if len(info.Tarballs) != len(tags) {
		t.Errorf("info has %d releases, want %d", len(info.Tarballs), len(tags))
	}
	for _, rel := range info.Tarballs {
		if a := g.get(rel.URL); a.StatusCode != http.StatusOK || a.Header.Get("Content-Type") != "application/gzip" {
			t.Errorf("%q at %s: status %d, %s", rel.Tag, rel.URL, a.StatusCode, a.Header.Get("Content-Type"))
		}
	}
	for _, page := range []string{"/hello", "/hello.atom"} {
		a := g.get(page, "Accept", "text/html")
		if a.StatusCode != http.StatusOK || strings.Contains(string(a.body), "<b>") {
			t.Errorf("%s: status %d, and a tag may be markup", page, a.StatusCode)
		}
	}
}
