package browser_test

import (
	"crypto/sha256"
	"fmt"
	"hash/crc32"
	"math"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/engines"
	"github.com/francescobianco/packbase/tests/harness"
	"github.com/francescobianco/packbase/tests/harness/engine"
)

// A slowForge is an upstream in front of another one: while it is shut, packs
// stop in the middle.
type slowForge struct {
	*harness.Upstream
	real *harness.Upstream
	shut atomic.Pointer[chan struct{}] // closed when it opens; nil while it is open
}

func newSlowForge(t *testing.T) *slowForge {
	t.Helper()
	f := &slowForge{Upstream: harness.NewUpstream(t), real: harness.NewUpstream(t)}
	target, err := url.Parse(f.real.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.FlushInterval = -1
	f.Answer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if shut := f.shut.Load(); shut != nil && r.Method == http.MethodPost {
			w = &stopping{w, *shut, 80_000}
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(f.open)
	return f
}

func (f *slowForge) close() { ch := make(chan struct{}); f.shut.Store(&ch) }

func (f *slowForge) open() {
	if ch := f.shut.Swap(nil); ch != nil {
		close(*ch)
	}
}

// url returns where packbase finds a repository.
func (f *slowForge) url(name string) string { return f.URL + "/" + name }

// A stopping answer waits after its first bytes: more than a list of refs and
// one packet of Git's have, and less than a pack.
type stopping struct {
	http.ResponseWriter
	shut chan struct{}
	left int
}

func (s *stopping) Write(b []byte) (int, error) {
	n, err := s.ResponseWriter.Write(b[:min(len(b), s.left)])
	s.left -= n
	if err != nil || n == len(b) {
		return n, err
	}
	if err := http.NewResponseController(s.ResponseWriter).Flush(); err != nil {
		return n, err
	}
	<-s.shut
	s.left = math.MaxInt
	m, err := s.ResponseWriter.Write(b[n:])
	return n + m, err
}

func (s *stopping) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// library fills a repository as a Zig library has it.
func library(r *harness.Repo, name string, tags ...string) {
	for _, tag := range tags {
		version := strings.TrimPrefix(tag, "v")
		r.Tag(tag, r.Commit(harness.Files{
			"README.md":    "# " + name + "\n\nA small library for command lines, with no surprises.\n",
			"src/root.zig": "pub const version = \"" + version + "\";\n" + noise(tag),
			"build.zig":    "pub fn build(_: *@import(\"std\").Build) void {}\n",
			"build.zig.zon": fmt.Sprintf(".{ .name = .%s, .version = \"%s\", .fingerprint = 0x%08x00000001, .minimum_zig_version = \"0.14.0\", .paths = .{\"\"},\n"+
				".dependencies = .{ .clap = .{ .url = \"https://example.org/clap.tar.gz\", .hash = \"clap-0.10.0-oBajB434AQBDh-Ei3YtoKIRxZacVPF1iSwp3IX_ZB8f0\" } } }\n",
				name, version, checksum(name)),
		}))
	}
}

// noise is text that does not compress well.
func noise(seed string) string {
	var b strings.Builder
	for i := range 4000 {
		fmt.Fprintf(&b, "// %x\n", sha256.Sum256(fmt.Append(nil, seed, i)))
	}
	return b.String()
}

// checksum is what Zig wants in the high half of a fingerprint.
func checksum(name string) uint32 { return crc32.ChecksumIEEE([]byte(name)) }

// TestWalk goes through packbase as somebody who has just started it.
func TestWalk(t *testing.T) {
	t.Parallel()
	e := engine.New(t, engines.Options{})
	s := harness.Start(t, e.Env()...)
	forge := newSlowForge(t)
	library(forge.real.Repo("args"), "args", "v0.1.0", "v0.2.0", "v0.9.0", "v0.10.0", "v1.0.0-rc.1")
	b := newTab(t, s.URL)
	b.mayCopy()

	// The first start.
	b.open("/")
	b.await("h1", "Ready for the first package")
	b.shoot("first-start")
	b.open("/packages")
	b.shoot("packages-none")
	b.open("/jobs")
	b.shoot("jobs-none")

	// A package is fetched from the page, with the token, while people watch.
	forge.close()
	b.open("/")
	b.write("#url", forge.url("args"))
	b.click("#mirror [type=submit]")
	b.write("#token", "wrong")
	b.click("#ask [value=go]")
	b.await("#ask-wrong", "not the token")
	b.shoot("token")
	b.write("#token", s.Token)
	b.click("#ask [value=go]")
	b.await("#job", "Downloading from upstream")
	b.shoot("job-running")
	job := eval[string](b, "location.pathname")
	b.open("/")
	b.await("#workers", "Downloading from upstream")
	b.shoot("dashboard-busy")
	b.open("/args")
	b.await("#about", "Mirror args")
	b.shoot("package-first-fetch")
	b.open(job)
	forge.open()
	b.await("#job", "5 new releases")
	b.shoot("job-done")
	if got := eval[string](b, "sessionStorage.getItem('packbase-token') + document.cookie"); got != s.Token {
		t.Errorf("token and cookies are %q, want the token and no cookie", got)
	}
	if html := eval[string](b, "document.documentElement.outerHTML"); strings.Contains(html, s.Token) {
		t.Error("the token is in the page")
	}

	// The package.
	b.click("#job .button")
	b.await("h1", "args")
	b.await("#release", "zig fetch --save "+s.URL+"/p/args/tag/v0.10.0.tar.gz")
	b.await("#releases", "v1.0.0-rc.1")
	b.shoot("package")
	b.click("#release .copy")
	b.await("#release .copy", "Copied")
	if got, want := eval[string](b, "navigator.clipboard.readText()"), "zig fetch --save "+s.URL+"/p/args/tag/v0.10.0.tar.gz"; got != want {
		t.Errorf("the clipboard has %q, want %q", got, want)
	}
	b.click("#release summary")
	b.click(`#release [aria-label="Copy: SHA-256"]`)
	digest := s.Info("args").Release(t, "v0.10.0").SHA256
	b.await(`#release [aria-label="Copy: SHA-256"]`, "Copied")
	if got := eval[string](b, "navigator.clipboard.readText()"); got != digest {
		t.Errorf("the clipboard has %q, want the digest %q", got, digest)
	}
	b.click("#releases tbody tr:nth-child(4) a")
	b.await("#release h2", "v0.2.0")
	b.click("#release summary")
	b.shoot("package-older-release")

	// Its files, and what changed.
	b.await("#readme", "with no surprises")
	b.click("#release .row a")
	b.await("#doc", "with no surprises")
	b.shoot("files")
	b.open("/args/files?path=build.zig")
	b.await("#text", "pub fn build")
	b.shoot("file")
	b.open("/args/diff")
	b.await("#changes", "src/root.zig")
	b.shoot("diff")

	// Search, from anywhere and as one types.
	library(forge.real.Repo("zig-toml"), "toml", "v0.3.0")
	library(forge.real.Repo("zig-regex"), "regex", "v0.1.1", "v0.1.2")
	s.Fetch(forge.url("zig-toml"))
	s.Fetch(forge.url("zig-regex"))
	eval[bool](b, `document.body.dispatchEvent(new KeyboardEvent("keydown", {key: "/", bubbles: true}))`)
	b.do(chromedp.KeyEvent("zig"), chromedp.KeyEvent("\r"))
	b.await("#results", "zig-regex")
	b.shoot("packages-search")
	b.write("#q", "tom")
	harness.Eventually(t, "only zig-toml is found", func() bool {
		found := b.text("#results")
		return strings.Contains(found, "zig-toml") && !strings.Contains(found, "zig-regex")
	})
	if got := eval[string](b, "location.search"); got != "?q=tom" {
		t.Errorf("the address has the query %q, want ?q=tom", got)
	}
	b.write("#q", "no such thing")
	b.await("#results", "Nothing matches")
	b.shoot("packages-nothing")
	b.open("/arg")
	b.await(".near", "args")
	b.shoot("not-found")

	// A job fails, its cause is mended, and it is tried again.
	b.open("/")
	b.await("h1", "All is well")
	b.shoot("dashboard-well")
	b.write("#url", forge.url("later"))
	b.click("#mirror [type=submit]")
	b.await("#job", "Upstream has no such repository")
	b.shoot("job-failed")
	b.open("/")
	b.await("h1", "One job failed")
	b.shoot("dashboard-failed")
	b.open("/jobs")
	b.shoot("jobs")
	library(forge.real.Repo("later"), "later", "v1.0.0")
	b.open("/")
	b.click("#failures button")
	b.await("h1", "All is well")
	b.await("#recent", "later")

	// An update, which has no catalog to read; tags that moved, and bad ones.
	args := forge.real.Repo("args")
	args.Tag("v0.2.0", args.Commit(harness.Files{"evil": "this was not here\n"}))
	args.Tag("v2.0.0", args.CommitTree("120000 blob "+args.Blob("../../../../etc/passwd")+"\tlink"))
	library(args, "args", "v1.0.0")
	b.click("#update-now")
	b.await("#update", "The last one ended")
	forge.close()
	s.Ask(forge.url("args"))
	b.open("/jobs")
	b.await("#main", "running")
	b.shoot("jobs-running")
	forge.open()
	b.open("/")
	b.await("h1", "All is well")
	b.open("/args")
	b.await("#moved", "v0.2.0")
	b.shoot("package-moved")

	// No worker.
	s.Worker.Stop()
	b.open("/")
	b.await("h1", "No worker is running")
	b.shoot("no-worker-idle")
	job = s.Ask(forge.url("args"))
	b.await("#headline", "One job waits")
	b.shoot("no-worker")
	b.open("/jobs/" + job)
	b.await("#job", "none is running")
	b.shoot("job-waiting")
	b.open("/")
	s.Worker.Start()
	b.await("h1", "All is well")

	// Redis, then Postgres stop, and come back.
	e.Signal("redis", syscall.SIGSTOP)
	b.await("h1", "The queue does not answer")
	b.shoot("queue-away")
	e.Signal("redis", syscall.SIGCONT)
	b.await("h1", "All is well")
	e.Stop()
	b.await("h1", "The database does not answer")
	b.shoot("database-away")
	b.open("/packages")
	b.await("#results", "args")
	b.shoot("packages-away")
	b.open("/args")
	b.await("h1", "Back in a moment")
	b.shoot("package-away")
	e.Start()
	b.await("h1", "args")
	b.open("/")
	b.await("h1", "All is well")

	// The server itself goes, and comes back.
	s.API.Stop()
	b.await("#offline", "cannot reach packbase")
	b.shoot("offline")
	s.API.Start()
	harness.Eventually(t, "the page is well again", func() bool { return b.text("#offline") == "" })
}

// TestHello shows what `packbase up` shows on its first start.
func TestHello(t *testing.T) {
	t.Parallel()
	s := harness.Up(t)
	b := newTab(t, s.URL)
	b.open("/")
	b.await("#start", "zig fetch --save git+"+s.URL+"/hello")
	b.shoot("hello")
	b.open("/hello")
	b.shoot("hello-package")

	// All that is to be read is there without scripts.
	b.withoutScripts()
	b.open("/")
	b.await("h1", "All is well")
	b.await("#mirror", "packbase fetch URL")
	b.shoot("hello-no-scripts")
	b.click("#start a")
	b.await("#release", "zig fetch --save "+s.URL+"/p/hello/tag/v0.1.0.tar.gz")
}

// A package of commits alone has a page like any other.
func TestUntagged(t *testing.T) {
	t.Parallel()
	s, up := harness.Start(t), harness.NewUpstream(t)
	repo := up.Repo("untagged")
	first := repo.Commit(harness.Files{"build.zig.zon": fmt.Sprintf(
		".{ .name = .untagged, .version = \"0.1.0\", .fingerprint = 0x%08x00000001, .paths = .{\"\"} }\n", checksum("untagged"))})
	s.Fetch(repo.GitURL(first))
	last := repo.Commit(harness.Files{"a.zig": "const a = 1;\n"})
	s.Fetch(repo.GitURL("main"))
	b := newTab(t, s.URL)
	b.open("/packages")
	b.await("#results", "2 snapshots")
	b.shoot("untagged-packages")
	b.click(`#results a.name`)
	b.await("#release", "git+"+s.URL+"/untagged#"+last)
	b.await("#release", "branch main")
	b.await("#snapshots", first[:7])
	b.shoot("untagged-package")
	b.open("/untagged?commit=" + first)
	b.await("#release", "git+"+s.URL+"/untagged#"+first)
	b.open("/")
	b.await("#numbers", "2 snapshots")
}

// TestCrowd shows what an old and large packbase shows.
func TestCrowd(t *testing.T) {
	t.Parallel()
	e := engine.New(t, engines.Options{})
	s := harness.Start(t, e.Env()...)
	crowd(t, s.DatabaseURL)
	b := newTab(t, s.URL)
	b.open("/")
	b.await("h1", "need you")
	b.shoot("crowd-dashboard")
	b.open("/packages")
	b.shoot("crowd-packages")
	b.open("/packages?filter=frozen")
	b.shoot("crowd-frozen")
	b.open("/pkg-00042")
	b.shoot("crowd-package")
	b.open("/pkg-00007")
	b.await("#about", "Frozen")
	b.shoot("crowd-package-frozen")
	b.open("/trees")
	b.await("#results", "editor")
	b.shoot("crowd-trees")
	b.open("/trees/editor")
	b.await("#holes", "PACKBASE_FALLBACKS")
	b.shoot("crowd-tree")
}

// crowd adds rows as years would.
func crowd(t *testing.T, databaseURL string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	_, err = conn.Exec(t.Context(), `
		INSERT INTO packages (name, upstream, clone_url, description, language, registered, sync_at, sync_ok, sync_code, sync_message, sync_failures,
			synced_at, healthy, probed_at, probe_error, state, state_reason, moved_count, release_count, latest_tag, latest_size, size_bytes)
		SELECT 'pkg-' || lpad(n::text, 5, '0'), 'https://github.com/somebody/pkg-' || n, 'https://github.com/somebody/pkg-' || n,
			(array['A fast parser for a format that nobody asked for', 'Bindings to a library that everybody has', '', 'Small, boring and tested'])[1 + n % 4],
			(array['Zig', 'Zig', 'Zig', 'C', 'C++', 'Zig', 'Rust', 'Assembly', ''])[1 + n % 9], n % 3 > 0, now() - n * interval '3 minutes', n % 200 > 0,
			CASE WHEN n % 200 = 0 THEN 'upstream_gone' ELSE '' END, CASE WHEN n % 200 = 0 THEN 'upstream answered with HTTP status 503' ELSE '' END,
			n % 7, now() - n * interval '1 hour', n % 333 > 0, now(), CASE WHEN n % 333 = 0 THEN 'the fetched tree differs' ELSE '' END,
			CASE WHEN n = 7 THEN 'frozen' ELSE 'active' END, CASE WHEN n = 7 THEN '12 of 14 tags moved or vanished at once' ELSE '' END,
			CASE WHEN n = 7 THEN 12 ELSE 0 END, 20, 'v0.20.0', 30000, 600000
		FROM generate_series(1, 1500) n;
		INSERT INTO blobs (digest, size) VALUES (repeat('ab', 32), 30000);
		INSERT INTO releases (package, tag, commit_oid, tree_oid, commit_time, digest, size, content_digest, md5, crc32, manifest_digest, zig, created_at)
		SELECT 'pkg-' || lpad(p::text, 5, '0'), 'v0.' || n || '.0', md5(p || '-' || n) || '01234567', repeat('c', 40), now() - (60 - n) * interval '20 days',
			repeat('ab', 32), 30000 + 97 * n, repeat('cd', 32), md5(n::text), 'deadbeef', repeat('ab', 32),
			'{"hash": "pkg-0.1.0-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "name": "pkg", "version": "0.1.0", "usable_with": ["0.13", "0.14", "0.15", "0.16"]}',
			now() - ((p * 7919 + n * n * 104729) % 900) * interval '14 hours' * ((p % 10)::float / 10)
		FROM generate_series(1, 1500) p, generate_series(1, 20) n WHERE p <> 42 OR n < 0;
		INSERT INTO releases (package, tag, commit_oid, tree_oid, commit_time, digest, size, content_digest, md5, crc32, manifest_digest, zig)
		SELECT 'pkg-00042', 'v0.' || n || '.0', md5(n::text) || '01234567', repeat('c', 40), now() - (3000 - n) * interval '1 day',
			repeat('ab', 32), 30000 + 97 * n, repeat('cd', 32), md5(n::text), 'deadbeef', repeat('ab', 32), '{"problem": "build.zig.zon has no name"}'
		FROM generate_series(1, 2000) n;
		INSERT INTO rejected_tags (package, tag, oid, code, reason)
		SELECT 'pkg-00042', 'nightly-' || n, repeat('d', 40), 'tree', 'src/aux.zig: no Windows can hold a file of this name' FROM generate_series(1, 60) n;
		INSERT INTO moved_tags (package, tag, old_oid, new_oid)
		SELECT 'pkg-00007', 'v0.' || n || '.0', repeat('1', 40), CASE WHEN n % 2 = 0 THEN '' ELSE repeat('2', 40) END FROM generate_series(1, 12) n;
		INSERT INTO archives (url, zig_hash, zig_legacy_hash, digest, size, content_type, format, tarball_digest, tarball_size, record_digest, zig, created_at)
		SELECT 'https://github.com/somebody/lib-' || n || '/archive/refs/tags/v1.' || n || '.0.tar.gz', '', '1220' || repeat(md5(n::text), 2), repeat('ab', 32), 30000,
			'application/gzip', 'tar.gz', repeat('ab', 32), 1000 * n * n * n, repeat('ab', 32), CASE WHEN n % 5 = 0 THEN '{}' ELSE
			jsonb_build_object('name', 'lib' || n, 'version', '1.' || n || '.0') END, now() FROM generate_series(1, 30) n;
		INSERT INTO trees (name, revision, updated_at, private) SELECT n, 1, now() - interval '3 days', false FROM unnest(array['editor', 'game', 'tool']) n;
		INSERT INTO tree_revisions (tree, revision, roots, roots_digest, state)
		SELECT name, 1, '[{"file": "build.zig.zon", "text": ""}, {"file": "examples/build.zig.zon", "text": ""}]', repeat('0', 64), CASE name WHEN 'editor' THEN 'holes' WHEN 'tool' THEN 'open' ELSE 'whole' END FROM trees;
		INSERT INTO tree_nodes (tree, revision, hash, urls, parents, lazy, depth, state)
		SELECT 'editor', 1, '1220' || repeat(md5(n::text), 2), array['https://github.com/somebody/lib-' || n || '/archive/refs/tags/v1.' || n || '.0.tar.gz'],
			CASE WHEN n < 8 THEN array[''] ELSE array['1220' || repeat(md5((n / 3)::text), 2), '1220' || repeat(md5((n / 4)::text), 2)] END, n % 6 = 0, 1 + n / 8, 'stored' FROM generate_series(1, 30) n;
		INSERT INTO tree_nodes (tree, revision, hash, urls, parents, lazy, depth, state, code, reason, tried)
		SELECT 'editor', 1, '1220' || repeat(md5('hole' || n), 2), array['https://files.example.org/vendored/some-library-with-a-long-name-' || n || '.0.0.tar.xz', 'git+https://codeberg.org/somebody/hole-' || n || '#' || repeat('e', 40)],
			array['', '1220' || repeat(md5('2'), 2)], false, 1, 'hole', (array['upstream_not_found', 'hash_mismatch', 'upstream_auth'])[n],
			(array['upstream answered with HTTP status 404', '1220aa is pinned, and the files of 1220bb have another hash', 'upstream wants credentials'])[n],
			'[{"kind": "archive", "url": "https://codeberg.org/somebody/hole", "code": "upstream_unreachable", "message": "upstream could not be reached: no such host"}]' FROM generate_series(1, 3) n`)
	if err != nil {
		t.Fatal(err)
	}
}
