package api_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/api"
	"github.com/francescobianco/packbase/storage/tree"
)

// browser is what Firefox accepts.
const browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"

// A pageSite is a registry whose rows the test writes by itself.
type pageSite struct {
	*registry
	conn *pgx.Conn
}

func newPageSite(t *testing.T, change ...func(*api.Options)) *pageSite {
	t.Helper()
	g := newRegistry(t, change...)
	conn, err := pgx.Connect(t.Context(), g.dbURL)
	g.must(err)
	t.Cleanup(func() { conn.Close(context.WithoutCancel(t.Context())) })
	return &pageSite{g, conn}
}

// again starts another server on the same rows, which remembers nothing.
func (s *pageSite) again() *pageSite { return &pageSite{s.serve(), s.conn} }

func (s *pageSite) exec(sql string, args ...any) {
	s.t.Helper()
	_, err := s.conn.Exec(s.t.Context(), sql, args...)
	s.must(err)
}

// pkg adds a package that was mirrored and is well.
func (s *pageSite) pkg(name, description string, tags ...string) {
	s.t.Helper()
	s.exec(`INSERT INTO packages (name, upstream, clone_url, description, sync_at, sync_ok, synced_at, healthy, probed_at)
		VALUES ($1, 'https://github.com/owner/' || $1, 'https://github.com/owner/' || $1, $2, now(), true, now(), true, now())`, name, description)
	for _, tag := range tags {
		s.release(name, tag)
	}
}

const aDigest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// release adds a release; without a tag it is a snapshot.
func (s *pageSite) release(pkg, tag string) { s.t.Helper(); s.releaseWith(pkg, tag, aDigest) }

func (s *pageSite) releaseWith(pkg, tag, manifest string) {
	s.t.Helper()
	s.exec(`INSERT INTO blobs (digest, size) VALUES ($1, 1) ON CONFLICT DO NOTHING`, aDigest)
	s.exec(`INSERT INTO releases (package, tag, commit_oid, tree_oid, commit_time, digest, size, content_digest, md5, crc32, manifest_digest, zig)
		VALUES ($1, NULLIF($2, ''), substr($3, 1, 40), substr($3, 1, 40), now(), $3, 714, $3, substr($3, 1, 32), substr($3, 1, 8), $4,
			'{"hash": "hello-0.1.0-abc", "name": "hello", "usable_with": ["0.14", "0.15", "0.16"], "minimum_zig_version": "0.15.1"}')`, pkg, tag, aDigest, manifest)
	s.exec(`UPDATE packages SET release_count = release_count + 1, size_bytes = size_bytes + 714, latest_tag = NULLIF($2, '') WHERE name = $1`, pkg, tag)
}

// page asks as a browser does, and wants the status.
func (s *pageSite) page(path string, status int) string {
	s.t.Helper()
	a := s.ask(path, browser)
	if a.StatusCode != status {
		s.t.Fatalf("GET %s: status = %d, want %d\n%s", path, a.StatusCode, status, a.body)
	}
	return string(a.body)
}

func (s *pageSite) ask(path, accept string, header ...string) *answer {
	s.t.Helper()
	return s.get(path, append([]string{"Accept", accept, "X-Forwarded-Proto", "https"}, header...)...)
}

func (s *pageSite) wantIn(page string, parts ...string) {
	s.t.Helper()
	for _, part := range parts {
		if !strings.Contains(page, part) {
			s.t.Errorf("page has no %q", part)
		}
	}
}

func TestPagesAreSafe(t *testing.T) {
	t.Parallel()
	s := newPageSite(t)
	hostile := `</bdi><script>alert(1)</script><img src=x onerror=alert(2)>` + "\u202e\u2066\x1b[2J\u009bx\u200by\u2028z\u2060a\u200db\u00ad"
	s.pkg("hello", hostile, `v1<script>alert(3)</script>`, "v2$(reboot)'\"")
	s.exec(`UPDATE packages SET upstream = 'javascript:alert(4)', state = 'frozen', state_reason = $1`, hostile)
	s.exec(`INSERT INTO rejected_tags (package, tag, oid, code, reason) VALUES ('hello', $1, $2, 'tree', $1)`, hostile, aDigest[:40])
	s.exec(`INSERT INTO jobs (id, kind, package, target, state, ended_at, error_code, error_message)
		VALUES ('01a209eb-ed1d-78ef-a76b-0c15076207fe', 'package:fetch', 'hello', $1, 'failed', now(), 'x', $1)`, hostile)
	for _, path := range []string{
		"/", "/packages", "/packages?q=%3Cscript%3E", "/hello", "/hello?tag=v1%3Cscript%3Ealert(3)%3C%2Fscript%3E",
		"/jobs", "/jobs/01a209eb-ed1d-78ef-a76b-0c15076207fe", "/no%3Cscript%3E", "/hello?tag=%22%3E%3Cscript%3E",
		"/packages?q=%E2%80%AE", "/no%E2%80%AE",
	} {
		a := s.ask(path, browser)
		for _, bad := range []string{"<script>", "<img src=x", `="javascript:`, " style=", " onclick=", token, "\u202e", "\u2066", "\x1b", "\u009b", "\u200b", "\u2028", "\u2060", "\u200d", "\u00ad"} {
			if strings.Contains(string(a.body), bad) {
				t.Errorf("GET %s: page has %q", path, bad)
			}
		}
		for name, want := range map[string]string{
			"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
				"form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
			"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store", "Vary": "Accept",
			"Content-Type": "text/html; charset=utf-8",
		} {
			if got := a.Header.Get(name); got != want {
				t.Errorf("GET %s: %s = %q, want %q", path, name, got, want)
			}
		}
	}
	// What is pasted into a shell stays one word there.
	s.wantIn(s.page(`/hello?tag=v2$(reboot)'%22`, 200), `zig fetch --save &#39;https://`+s.addr+`/p/hello/tag/v2$%28reboot%29%27%22.tar.gz&#39;`)
}

func TestPackagePage(t *testing.T) {
	t.Parallel()
	s := newPageSite(t)
	s.pkg("hello", "A package to try", "v1.0.0", "v1.2.0", "v1.10.0", "v2.0.0-rc.1", "")
	s.exec(`UPDATE packages SET latest_tag = 'v1.10.0', moved_count = 1`)
	s.exec(`INSERT INTO moved_tags (package, tag, old_oid, new_oid) VALUES ('hello', 'v1.0.0', $1, $2)`, strings.Repeat("1", 40), strings.Repeat("2", 40))
	page := s.page("/hello", 200)
	s.wantIn(page,
		"A package to try", "zig fetch --save https://"+s.addr+"/p/hello/tag/v1.10.0.tar.gz",
		"zig fetch --save git&#43;https://"+s.addr+"/hello#v1.10.0",
		".hello = .{\n    .url = &#34;https://"+s.addr+"/p/hello/tag/v1.10.0.tar.gz&#34;,\n    .hash = &#34;hello-0.1.0-abc&#34;,\n},",
		"archive --worktree-attributes --format=tar "+aDigest[:40]+" | sha256sum", "git clone --bare https://github.com/owner/hello &amp;&amp; cd hello.git",
		"https://github.com/owner/hello/commit/"+aDigest[:40], "Moved tags", "111111111111", "Snapshots", "/hello.atom",
		"0.15\u2009–\u20090.16", "older than it wants",
	)
	var tags []string
	for _, m := range regexp.MustCompile(`<bdi class="name">(v[^<]*)`).FindAllStringSubmatch(page[strings.Index(page, `id="releases"`):], 4) {
		tags = append(tags, m[1])
	}
	if got, want := strings.Join(tags, " "), "v2.0.0-rc.1 v1.10.0 v1.2.0 v1.0.0"; got != want {
		t.Errorf("releases are %q, want %q", got, want)
	}
	s.wantIn(s.page("/hello?tag=v1.0.0", 200), "/p/hello/tag/v1.0.0.tar.gz")
	s.wantIn(s.page("/hello?commit="+aDigest[:40], 200), "/p/hello/commit/"+aDigest[:40]+".tar.gz")
	s.wantIn(s.page("/hello?tag=nope", 404), "There is no release “nope” of hello here.")
	for _, path := range []string{"/HELLO", "/hello.git"} {
		if a := s.ask(path, browser); a.StatusCode != http.StatusFound || a.Header.Get("Location") != "/hello" {
			t.Errorf("GET %s: %d to %q, want 302 to /hello", path, a.StatusCode, a.Header.Get("Location"))
		}
	}
}

// A wrapped tarball equals what git archive makes with the same prefix, so the
// page must tell the prefix.
func TestPackagePageOfWrappedTarball(t *testing.T) {
	t.Parallel()
	s := newPageSite(t)
	s.pkg("deep", "")
	manifest := s.put([]byte(`{"packbase_manifest": 1, "tarball": {"prefix": "deep-v1/"}}`))
	s.exec(`INSERT INTO blobs (digest, size) VALUES ($1, $2)`, manifest.Digest, manifest.Size)
	s.releaseWith("deep", "v1", manifest.Digest)
	s.wantIn(s.page("/deep", 200), "archive --worktree-attributes --format=tar --prefix=deep-v1/ ")
}

// Ten thousand tags make neither a slow nor a large page.
func TestPackagePageManyTags(t *testing.T) {
	t.Parallel()
	s := newPageSite(t)
	s.pkg("many", "", "v0.0.0")
	s.exec(`INSERT INTO releases (package, tag, commit_oid, tree_oid, commit_time, digest, size, content_digest, md5, crc32, manifest_digest)
		SELECT package, 'v1.' || n || '.0', commit_oid, tree_oid, commit_time, digest, size, content_digest, md5, crc32, manifest_digest
		FROM releases, generate_series(1, 9999) n`)
	s.exec(`INSERT INTO rejected_tags (package, tag, oid, code, reason)
		SELECT 'many', 'bad' || n, commit_oid, 'tree', 'no' FROM releases, generate_series(1, 5000) n WHERE tag = 'v0.0.0'`)
	page := s.page("/many", 200)
	if got, most := len(page), 150_000; got > most {
		t.Errorf("page has %d bytes, want at most %d", got, most)
	}
	s.wantIn(page, "v1.9999.0", "v1.9975.0", "Page 1 of 400", `href="/many?page=2#releases"`, "And 4\u202f980 more")
	s.wantIn(s.page("/many?page=400", 200), "v0.0.0", "Page 400 of 400")
	s.wantIn(s.page("/many?tag=v1.0004.0", 404))
	s.wantIn(s.page("/many?tag=v1.9900.0", 200), `<tr class="shown">`, "Page 4 of 400", `href="/many?page=5#releases"`)
	s.wantIn(s.page("/many?tag=v1.9900.0&page=2", 200), "Page 2 of 400")
	s.wantIn(s.page("/many?page=999999999999999999999", 200), "Page 1 of 400")
}

func TestPackageList(t *testing.T) {
	t.Parallel()
	s := newPageSite(t)
	s.wantIn(s.page("/packages", 200), "No packages yet", "packbase fetch https://")
	s.exec(`INSERT INTO packages (name, upstream, clone_url, release_count, healthy, probed_at, sync_ok, sync_at, registered, language, size_bytes)
		SELECT 'pkg' || lpad(n::text, 3, '0'), 'https://x.example/' || n, 'https://x.example/' || n, n, n <> 7, now(), true, now(), n % 2 = 0,
			CASE WHEN n < 10 THEN 'zig' ELSE 'c' END, n FROM generate_series(1, 120) n`)
	s = s.again()
	s.wantIn(s.page("/packages", 200), "Page 1 of 3", `href="/packages?page=2&amp;sort=name"`)
	for _, tt := range []struct{ name, path, has, lacks string }{
		{"page 1", "/packages", "pkg050", "pkg051"},
		{"page 3", "/packages?page=3", "pkg120", "pkg100"},
		{"search", "/packages?q=PKG00", "pkg009", "pkg010"},
		{"sort", "/packages?sort=size", "pkg120", "pkg001"},
		{"unhealthy", "/packages?filter=unhealthy", "pkg007", "pkg008"},
		{"registered", "/packages?filter=registered", "pkg002", "pkg001<"},
		{"language", "/packages?language=zig", "pkg009", "pkg010"},
		{"search for what all URLs have", "/packages?q=http", "Nothing matches", "pkg001"},
		{"search for a URL", "/packages?q=https://x.example/120", "pkg120", "pkg119"},
		{"nothing", "/packages?q=nothing", "Nothing matches", "pkg001"},
		{"unknown filter and sort", "/packages?filter=x&sort=y", "No package is so", "pkg001"},
	} {
		page := s.page(tt.path, 200)
		if !strings.Contains(page, tt.has) || strings.Contains(page, tt.lacks) {
			t.Errorf("%s: page has %s: %t, want true; has %s: %t, want false",
				tt.name, tt.has, strings.Contains(page, tt.has), tt.lacks, strings.Contains(page, tt.lacks))
		}
	}
}

func TestNotFoundPage(t *testing.T) {
	t.Parallel()
	s := newPageSite(t)
	for _, name := range []string{"http.zig", "zap", "serde.zig"} {
		s.pkg(name, "", "v1")
	}
	for path, want := range map[string]string{"/htpp.zig": "/http.zig", "/serde": "/serde.zig", "/zapp": "/zap", "/http.zig/wiki": "/http.zig"} {
		s.wantIn(s.page(path, 404), "Did you mean", `href="`+want+`"`)
	}
	if page := s.page("/completely-different", 404); strings.Contains(page, "Did you mean") {
		t.Error("page suggests something for a name that is like no other")
	}
	s.wantIn(s.page("/a/b/c", 404), "Nothing is at this address.")
}

// What a wrong address costs does not depend on what names strangers chose.
func TestNotFoundPageOfManyPackages(t *testing.T) {
	t.Parallel()
	const most = 1500 * time.Millisecond // with the race detector it took 2 s once on an idle machine, and takes 170 ms there
	s := newPageSite(t)
	s.exec(`
		INSERT INTO packages (name, upstream, clone_url, registered)
		SELECT 'x' || repeat('y', 48) || 'x' || repeat('z', 44) || lpad(n::text, 6, '0'), 'u', 'u', true
		FROM generate_series(1, 10000) n`)
	path := "/" + strings.Repeat("y", 49) + strings.Repeat("z", 45) + "000007"
	s.wantIn(s.page(path, 404), "Did you mean", "z000007")
	best := time.Hour
	for range 20 { // the best: the machine has other work
		start := time.Now()
		s.page(path, 404)
		best = min(best, time.Since(start))
	}
	t.Logf("at best %v", best)
	if best > most {
		t.Errorf("a page that suggests takes %v at best, want at most %v", best, most)
	}
}

// Who is not a browser gets JSON, also where browsers get pages.
func TestPagesAreForBrowsers(t *testing.T) {
	t.Parallel()
	s := newPageSite(t)
	s.pkg("hello", "", "v1")
	for _, tt := range []struct {
		path, accept string
		status       int
		html         bool
	}{
		{"/", browser, 200, true}, {"/", "*/*", 200, false}, {"/", "", 200, false}, {"/", "text/html;q=0", 200, false},
		{"/", "application/json, text/html;q=0.9", 200, false}, {"/", "TEXT/HTML ; q=0.5", 200, true},
		{"/hello", browser, 200, true}, {"/hello", "*/*", 200, false}, {"/nope", browser, 404, true}, {"/nope", "*/*", 404, false},
		{"/packages", "*/*", 200, false}, {"/jobs", "application/json", 200, false},
		{"/api/status", browser, 200, false}, {"/api/nope", browser, 404, false}, {"/a/b/c", browser, 404, true}, {"/a/b/c", "*/*", 404, false},
	} {
		a := s.ask(tt.path, tt.accept)
		want := "application/json"
		if tt.html {
			want = "text/html; charset=utf-8"
		}
		if got := a.Header.Get("Content-Type"); a.StatusCode != tt.status || got != want {
			t.Errorf("GET %s with Accept %q: %d %s, want %d %s", tt.path, tt.accept, a.StatusCode, got, tt.status, want)
		}
		if !tt.html {
			var body any
			a.into(t, &body)
		}
	}
}

// Pages hold URLs made from the Host header, so that must be a host.
func TestPagesRefuseStrangeHosts(t *testing.T) {
	t.Parallel()
	s := newPageSite(t)
	s.pkg("hello", "", "v1")
	for host, want := range map[string]int{
		"packages.example": 200, "packages.example:8080": 200, "[::1]:80": 200, "-x": 400, "a:b": 400, "a.example:123456": 400, "a'b": 400, "a_b": 200,
	} {
		got := s.raw("GET /hello HTTP/1.1\r\nHost: " + host + "\r\nAccept: text/html\r\nConnection: close\r\n\r\n")
		if statusOf(got) != want {
			t.Errorf("Host %q: status = %d, want %d", host, statusOf(got), want)
		}
		if want == 200 && !strings.Contains(got, "http://"+host+"/p/hello") {
			t.Errorf("Host %q: page has no URL with it", host)
		}
	}
	if page := string(s.get("/hello", "Accept", browser, "X-Forwarded-Proto", "javascript").body); !strings.Contains(page, "zig fetch --save http://") {
		t.Error("X-Forwarded-Proto may be anything, want http or https")
	}
}

func TestFeeds(t *testing.T) {
	t.Parallel()
	s := newPageSite(t)
	s.pkg("hello", "", "v1.0.0", "v2&<>\x01")
	s.pkg("gone", "", "v1.0.0")
	s.exec(`UPDATE packages SET state = 'removed' WHERE name = 'gone'`)
	for _, path := range []string{"/feed.atom", "/hello.atom"} {
		a := s.ask(path, "*/*")
		var feed struct {
			XMLName xml.Name `xml:"http://www.w3.org/2005/Atom feed"`
			ID      string   `xml:"id"`
			Title   string   `xml:"title"`
			Updated string   `xml:"updated"`
			Author  string   `xml:"author>name"`
			Entries []struct {
				ID      string `xml:"id"`
				Title   string `xml:"title"`
				Updated string `xml:"updated"`
				Links   []struct {
					Rel  string `xml:"rel,attr"`
					Href string `xml:"href,attr"`
				} `xml:"link"`
			} `xml:"entry"`
		}
		if err := xml.Unmarshal(a.body, &feed); err != nil {
			t.Fatalf("GET %s: %v\n%s", path, err, a.body)
		}
		if len(feed.Entries) != 2 || feed.ID == "" || feed.Title == "" || feed.Author == "" {
			t.Fatalf("GET %s: %+v, want an id, a title, an author and 2 entries", path, feed)
		}
		for _, at := range []string{feed.Updated, feed.Entries[0].Updated} {
			if _, err := time.Parse(time.RFC3339, at); err != nil {
				t.Errorf("GET %s: updated: %v", path, err)
			}
		}
		if feed.Entries[0].ID == feed.Entries[1].ID {
			t.Errorf("GET %s: two entries have the id %s", path, feed.Entries[0].ID)
		}
		if got, want := feed.Entries[1].Links[1].Href, "https://"+s.addr+"/p/hello/tag/v1.0.0.tar.gz"; got != want {
			t.Errorf("GET %s: enclosure = %q, want %q", path, got, want)
		}
		if got := a.Header.Get("Cache-Control"); !strings.Contains(got, "private") {
			t.Errorf("GET %s: Cache-Control = %q, want private: it holds the request's host", path, got)
		}
		if again := s.ask(path, "*/*", "If-None-Match", a.Header.Get("ETag")); again.StatusCode != http.StatusNotModified {
			t.Errorf("GET %s again: status = %d, want 304", path, again.StatusCode)
		}
	}
	for path, want := range map[string]int{"/gone.atom": http.StatusGone, "/nope.atom": http.StatusNotFound} {
		if a := s.ask(path, "*/*"); a.StatusCode != want {
			t.Errorf("GET %s: status = %d, want %d", path, a.StatusCode, want)
		}
	}
}

func TestBadge(t *testing.T) {
	t.Parallel()
	s := newPageSite(t)
	s.pkg("hello", "", `v1<&">`)
	s.pkg("empty", "")
	for path, want := range map[string]string{"/hello.svg": `v1<&">`, "/empty.svg": "no releases"} {
		a := s.ask(path, "image/*")
		dec := xml.NewDecoder(bytes.NewReader(a.body))
		var text strings.Builder
		for {
			token, err := dec.Token()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("GET %s: %v\n%s", path, err, a.body)
			}
			if chars, ok := token.(xml.CharData); ok {
				text.Write(chars)
			}
		}
		if !strings.Contains(text.String(), want) {
			t.Errorf("GET %s: text is %q, want %q in it", path, &text, want)
		}
		if got := a.Header.Get("Content-Type"); !strings.HasPrefix(got, "image/svg+xml") {
			t.Errorf("GET %s: Content-Type = %q", path, got)
		}
	}
	if a := s.ask("/nope.svg", "*/*"); a.StatusCode != 404 {
		t.Errorf("badge of no package: status = %d, want 404", a.StatusCode)
	}
}

func TestAssets(t *testing.T) {
	t.Parallel()
	s := newPageSite(t)
	paths := regexp.MustCompile(`/assets/[0-9a-f]{16}/[a-z.]+`).FindAllString(s.page("/", 200), -1)
	if len(paths) != 3 {
		t.Fatalf("page has the assets %q, want 3", paths)
	}
	for _, path := range paths {
		if a := s.ask(path, "*/*"); a.StatusCode != 200 || a.Header.Get("Cache-Control") != "public, max-age=31536000, immutable" {
			t.Errorf("GET %s: %d, Cache-Control %q, want 200 and immutable", path, a.StatusCode, a.Header.Get("Cache-Control"))
		}
		// A page of another release must not fix these bytes to its path.
		old := strings.Replace(path, "/assets/", "/assets/0", 1)
		if a := s.ask(old, "*/*"); a.Header.Get("Cache-Control") != "no-cache" {
			t.Errorf("GET %s: Cache-Control %q, want no-cache", old, a.Header.Get("Cache-Control"))
		}
	}
	for _, path := range []string{"/assets/x/../web.go", "/assets/x/nope.css", "/assets/x/layout.html", "/assets/x/assets"} {
		if a := s.ask(path, "*/*"); a.StatusCode < 400 {
			t.Errorf("GET %s: status = %d, want an error", path, a.StatusCode)
		}
	}
}

func TestDashboardNeeds(t *testing.T) {
	t.Parallel()
	const source = "https://catalog.example/packages.json"
	s := newPageSite(t)
	s.wantIn(s.page("/", 200), "No worker is running", "Mirror the first package")
	s.exec(`INSERT INTO workers (id, concurrency) VALUES ('w', 2)`)
	s.wantIn(s.again().page("/", 200), "Ready for the first package") // give it a minute
	s.exec(`UPDATE workers SET started_at = now() - interval '1 hour'`)
	s.wantIn(s.again().page("/", 200), "Nobody looks after the jobs")
	s.exec(`UPDATE watch SET reconciled_at = now()`)
	s.wantIn(s.again().page("/", 200), "Ready for the first package")
	s.pkg("hello", "", "v1")
	s.wantIn(s.again().page("/", 200), "All is well")

	s.exec(`INSERT INTO jobs (id, kind, package, state, ended_at, error_code, error_message)
		VALUES (gen_random_uuid(), 'package:fetch', 'hello', 'failed', now(), 'timeout', 'upstream was too slow')`)
	s.wantIn(s.again().page("/", 200), "One job failed", "Mirror hello: upstream was too slow.</span>", `data-post="/api/jobs/`)
	s.exec(`INSERT INTO jobs (id, kind, package, state, started_at, ended_at, created_at, result)
		VALUES (gen_random_uuid(), 'package:fetch', 'hello', 'succeeded', now(), now(), now() + interval '1 second', '{}')`)
	s.wantIn(s.again().page("/", 200), "All is well")

	s.must(s.db.Catalog.Failed(t.Context(), source, "timeout", "the catalog was too slow"))
	listed := &pageSite{s.serve(func(o *api.Options) { o.Source = source }), s.conn}
	s.wantIn(listed.page("/", 200), "The catalog could not be downloaded", "The catalog was too slow.<")

	s.exec(`UPDATE packages SET healthy = false`)
	s.exec(`INSERT INTO packages (name, upstream, clone_url, release_count, state, state_reason) VALUES ('ice', 'x', 'x', 1, 'frozen', 'half of its tags are gone')`)
	s.wantIn(s.again().page("/", 200), "2\u00a0things need you", "One package cannot be fetched", "One package is frozen")
	s.exec(`UPDATE packages SET state_reason = 'kept as it was by an operator' WHERE name = 'ice'`)
	s.wantIn(s.again().page("/", 200), "One package cannot be fetched")
}

func TestPagesWithoutEngines(t *testing.T) {
	t.Parallel()
	s := newPageSite(t)
	s.pkg("hello", "", "v1")
	redis := &pageSite{s.withoutRedis(), s.conn}
	s.wantIn(redis.page("/", 200), "The queue does not answer")
	s.wantIn(redis.page("/hello", 200), "zig fetch --save")

	postgres := &pageSite{s.withoutPostgres(), s.conn}
	for _, path := range []string{"/", "/packages", "/hello", "/jobs"} {
		a := postgres.ask(path, browser)
		if a.StatusCode != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" {
			t.Errorf("GET %s: %d, Retry-After %q, want 503 and some", path, a.StatusCode, a.Header.Get("Retry-After"))
		}
		s.wantIn(string(a.body), "The database does not answer", "</html>")
	}
}

// A tree's page begins with what is missing, and why, and draws the rest with what is stored for it.
func TestTreePages(t *testing.T) {
	t.Parallel()
	s := newPageSite(t)
	s.wantIn(s.page("/trees", 200), "No trees yet", "packbase capture --wait --url https://"+s.addr)
	rel := s.publish("hello", tagged{tag: "v1.0.0", files: zon("hello", "1.0.0")})[0]
	at, legacy := "https://files.example/stored.tar.gz", "1220"+strings.Repeat("6", 64)
	s.putArchive(at, rel, legacy)
	hostile := `https://files.example/x</bdi><script>alert(1)</script>`
	trees := tree.New(s.db.DB)
	for name, private := range map[string]bool{"app": false, "secret": true} {
		_, err := trees.Begin(t.Context(), name, []tree.Root{{File: "build.zig.zon", Text: asManifest(goneHash)}}, private)
		s.must(err)
	}
	s.wantIn(s.page("/trees/app", 200), "What it needs is not known yet")
	s.must(trees.Put(t.Context(), "app", 1, tree.Holes, []tree.Node{
		{Hash: rel.ZigHash, URLs: []string{"git+https://github.com/o/hello#" + rel.CommitOID}, Parents: []string{""}, Depth: 1, State: tree.Stored},
		{Hash: legacy, URLs: []string{at}, Parents: []string{"", rel.ZigHash}, Depth: 1, State: tree.Stored, Lazy: true},
		{Hash: goneHash, URLs: []string{hostile}, Parents: []string{rel.ZigHash}, Depth: 2, State: tree.Hole, Code: "upstream_not_found", Reason: "it is gone",
			Tried: []tree.Try{{Kind: "archive", URL: hostile, Code: "upstream_not_found", Message: "404 there"}}},
	}, []tree.Problem{{Name: "odd", Reason: "it has no hash"}}))
	list := s.page("/trees", 200)
	s.wantIn(list, `href="/trees/app"`, "1 missing")
	page := s.page("/trees/app", 200)
	s.wantIn(page, "It is gone.", "404 there", "for <bdi>hello</bdi>", "PACKBASE_FALLBACKS", "It has no hash.",
		`href="/hello?tag=v1.0.0"`, `href="https://github.com/o/hello"`, `href="/api/archives?url=https%3A%2F%2Ffiles.example%2Fstored.tar.gz"`,
		`href="/z/`+legacy+`.tar.gz"`, "as above", "packbase warm --url https://"+s.addr, "/api/trees/app/bundle?partial=1", "packbase warm --from app.tar",
		"/api/trees/app/sbom", `data-post="/api/trees/app/retry"`)
	if strings.Index(page, `id="holes"`) > strings.Index(page, `id="packages"`) {
		t.Error("what is missing does not come first")
	}
	for _, bad := range []string{"<script>alert", " style="} {
		if strings.Contains(page, bad) {
			t.Errorf("the page has %q", bad)
		}
	}
	a := s.ask("/trees/app", browser)
	if a.Header.Get("Content-Security-Policy") == "" || a.Header.Get("Cache-Control") != "no-store" || a.Header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Errorf("headers = %v", a.Header)
	}
	if a := s.ask("/trees/app", "application/json"); a.Header.Get("Content-Type") != "application/json" || !strings.Contains(string(a.body), goneHash) {
		t.Errorf("to a program: %v %.100s", a.Header, a.body)
	}

	// Private ones are shown to those who see private packages.
	s.wantIn(s.page("/trees/secret", 404), "There is no tree")
	if strings.Contains(list, "secret") {
		t.Error("a private tree is in a stranger's list")
	}
	for _, path := range []string{"/trees", "/trees/secret"} {
		if a := s.ask(path, browser, "Authorization", "Bearer "+token); a.StatusCode != 200 || !strings.Contains(string(a.body), "secret") {
			t.Errorf("%s with a token: %d", path, a.StatusCode)
		}
	}
}

// A page of a very large tree has an end, and counts among the answers of its client.
func TestTreePageOfMany(t *testing.T) {
	t.Parallel()
	s := newPageSite(t)
	trees := tree.New(s.db.DB)
	_, err := trees.Begin(t.Context(), "app", []tree.Root{{File: "build.zig.zon", Text: asManifest(goneHash)}}, false)
	s.must(err)
	nodes := make([]tree.Node, 3000)
	for i := range nodes {
		urls := make([]string, 20)
		for j := range urls {
			urls[j] = fmt.Sprintf("https://files.example/%d/%d/%s", i, j, strings.Repeat("x", 1000))
		}
		nodes[i] = tree.Node{Hash: fmt.Sprintf("1220%064x", i), URLs: urls, Parents: []string{""}, Depth: 1, State: tree.Hole, Code: "x", Reason: strings.Repeat("why ", 2000)}
	}
	s.must(trees.Put(t.Context(), "app", 1, tree.Holes, nodes, nil))
	page := s.page("/trees/app", 200)
	if len(page) > 5_000_000 {
		t.Errorf("the page has %d bytes", len(page))
	}
	s.wantIn(page, "And 2\u202f900 more", "And 2\u202f500 more", "and 16 more")
	for i := range 8 { // read slowly, they hold as much as a client may have
		conn := s.dial()
		defer conn.Close()
		s.must(conn.(*net.TCPConn).SetReadBuffer(64 << 10))
		fmt.Fprintf(conn, "GET /trees/app HTTP/1.1\r\nHost: %s\r\nAccept: text/html\r\n\r\n", s.addr)
		status, err := bufio.NewReaderSize(conn, 16).ReadString('\n')
		s.must(err)
		if strings.Contains(status, " 503 ") && i > 0 {
			return
		}
	}
	t.Error("eight large pages were held for one client")
}
