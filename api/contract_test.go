package api_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"

	"github.com/francescobianco/packbase/api"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/pktline"
)

// A scene is a registry in which every answer can be had.
type scene struct {
	*registry
	edge, open, noToken, away, noQueue, full *registry

	hello    []storage.Release // v1.0.0, v2.0.0 (annotated), a/b, then a snapshot of main
	ended    uuid.UUID         // a job that succeeded
	failed   uuid.UUID         // a job that failed
	queued   uuid.UUID         // a job that nobody takes
	digest   string            // of a tarball
	packName string            // of the package "kept", which has a history
	notThere string            // digest of a blob that is gone
	next     atomic.Value      // code with which the next update or probe ends, a string
}

func newScene(t *testing.T) *scene {
	g := newRegistry(t, func(o *api.Options) { o.Cooldown = 0 })
	s := &scene{registry: g}
	s.hello = g.publish("hello",
		tagged{tag: "v1.0.0", files: zon("hello", "1.0.0")},
		tagged{tag: "v2.0.0", annotated: true, files: zon("hello", "2.0.0")},
		tagged{tag: "a/b", files: zon("hello", "0.1.0")},
		tagged{branch: "main", files: files{"a.txt": "a commit", "b.txt": "of a branch"}})
	s.digest = s.hello[0].Digest
	g.publish("other", tagged{tag: "v0.1.0", files: zon("other", "0.1.0")})
	s.breakBlob()
	s.setHistory()
	s.describe()
	s.makeJobs()
	s.sequence()

	s.edge = g.serve(func(o *api.Options) { o.ReadOnly, o.Central = true, "https://central.example" })
	s.open = g.serve(func(o *api.Options) { o.Token, o.Open = "", true })
	s.noToken = g.serve(func(o *api.Options) { o.Token = "" })
	s.full = g.serve(func(o *api.Options) { o.MaxJobs = 1 })
	s.away, s.noQueue = g.withoutPostgres(), g.withoutRedis()
	return s
}

// breakBlob publishes a package whose bytes are lost afterwards.
func (s *scene) breakBlob() {
	s.t.Helper()
	rel := s.publish("broken", tagged{tag: "v1", branch: "main", files: files{"README": "soon gone", "LICENSE": "soon gone, too"}})[0]
	s.notThere = rel.Digest
	for _, digest := range []string{rel.Digest, rel.ManifestDigest} {
		s.must(os.Remove(filepath.Join(s.dir, "blobs", digest[:2], digest)))
	}
}

// describe has upstream do to hello and to frozen all that info shows.
func (s *scene) describe() {
	s.t.Helper()
	ctx := s.t.Context()
	oid := strings.Repeat("ab", 20)
	c := s.claim("hello")
	s.must(s.db.RejectTag(ctx, c, storage.RejectedTag{Tag: "bad", OID: oid, Code: "tree_name", Reason: "it has a file called .git"}, time.Hour, time.Hour))
	s.must(s.db.RecordMoves(ctx, c, []storage.MovedTag{{Tag: "v1.0.0", Old: s.hello[0].OID(), New: oid}, {Tag: "a/b", Old: s.hello[2].OID()}}))
	s.must(s.db.Jobs.End(ctx, c, jobs.Outcome{State: jobs.Failed, Code: "upstream_unreachable", Message: "it does not answer",
		Sync: &jobs.Sync{Code: "upstream_unreachable", Message: "it does not answer", Wait: time.Hour}}))
	s.failed = c.Job.ID
	s.must(s.db.RecordProbe(ctx, "hello", storage.Probe{SmartHTTPReady: true, PseudoGitFetchable: true, ProbeCommit: oid, Healthy: true}))

	s.publish("frozen", tagged{tag: "v1", files: zon("frozen", "1.0.0")})
	c = s.claim("frozen")
	s.must(s.db.Freeze(ctx, c, "all tags moved"))
	s.must(s.db.Jobs.End(ctx, c, jobs.Outcome{State: jobs.Succeeded}))
	s.ended = c.Job.ID
}

// makeJobs leaves a job that no worker will take, a worker that has one, and
// all else that status shows.
func (s *scene) makeJobs() {
	s.t.Helper()
	ctx := s.t.Context()
	s.must(s.db.Jobs.Heartbeat(ctx, "tests", 2, "test"))
	c := s.claim("running")
	_, err := s.db.Jobs.Extend(ctx, c, time.Minute, jobs.Progress{Step: "build", Done: 1, Total: 2, Unit: "tags"})
	s.must(err)
	job, _, err := s.db.RequestFetch(ctx, "waiting", upstreamOf(s.t, "waiting"))
	s.must(err)
	c, err = s.db.Jobs.Claim(ctx, job.ID, "tests", time.Minute)
	s.must(err)
	s.must(s.db.Jobs.Requeue(ctx, c, time.Hour, true, "upstream_busy", "it asks for a pause"))
	s.queued = job.ID
	_, err = s.db.Feed.Follow(ctx, "https://central.example", false)
	s.must(err)
}

// A call is one request, and the status it wants.
type call struct {
	on     *registry
	method string
	path   string
	body   string
	header []string // names and values
	status int
	before func() // done first, if not nil
}

// after returns the call as one that is made after f.
func (c call) after(f func()) call {
	c.before = f
	return c
}

func TestContract(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	c := readContract(t, s.get("/api/openapi.yaml").body)
	routes := s.server.Handler().(chi.Routes)
	run := func(calls []call) {
		t.Helper()
		for _, call := range calls {
			if call.before != nil {
				call.before()
			}
			a := call.on.do(call.method, call.path, call.body, call.header...)
			name := call.method + " " + call.path
			if a.StatusCode != call.status {
				t.Errorf("%s: status %d, want %d: %.300s", name, a.StatusCode, call.status, a.body)
			}
			path, _, _ := strings.Cut(call.path, "?")
			c.hold(name, call.method, patternOf(t, routes, call.method, path), a)
			checkCaching(t, name, a)
		}
	}
	run(s.reads())
	run(s.writes())
	run(s.treeCalls())
	run(s.updates())
	run(s.captures())
	run(s.git())
	run(s.pages())

	for key, op := range c.operations {
		for _, status := range slices.Sorted(maps.Keys(op.responses)) {
			if !c.reached[key+" "+status] && !unreached[status+" "+key] {
				t.Errorf("%s: no request here is answered %s, as the document says", key, status)
			}
		}
	}
}

// unreached are the documented answers that take longer than a test should.
// The tests of smarthttp reach them.
var unreached = map[string]bool{
	"408 POST /git/{repo}/git-upload-pack": true,
	"408 POST /{repo}/git-upload-pack":     true,
}

// patternOf returns the pattern of the route that takes a request.
func patternOf(t testing.TB, routes chi.Routes, method, path string) string {
	t.Helper()
	decoded, err := url.PathUnescape(path)
	if err != nil {
		t.Fatal(err)
	}
	rctx := chi.NewRouteContext()
	if !routes.Match(rctx, method, decoded) {
		t.Fatalf("%s %s is no route", method, path)
	}
	return rctx.RoutePattern()
}

// checkCaching holds an answer to HT-05: what may be kept for ever is kept
// under its digest, and what failed is kept by nobody.
func checkCaching(t testing.TB, name string, a *answer) {
	t.Helper()
	cache := a.Header.Get("Cache-Control")
	git := strings.Contains(name, "/info/refs") || strings.Contains(name, "/git-upload-pack")
	switch {
	case a.StatusCode >= 400 && git:
		if !strings.Contains(cache, "no-cache") && cache != "no-store" {
			t.Errorf("%s: status %d with Cache-Control %q, want no-cache", name, a.StatusCode, cache)
		}
	case a.StatusCode >= 400 && a.StatusCode != http.StatusRequestedRangeNotSatisfiable && a.StatusCode != http.StatusPreconditionFailed:
		if cache != "no-store" {
			t.Errorf("%s: status %d with Cache-Control %q, want no-store", name, a.StatusCode, cache)
		}
	case a.StatusCode >= 400:
		if strings.Contains(cache, "immutable") {
			t.Errorf("%s: status %d with Cache-Control %q, want it not kept", name, a.StatusCode, cache)
		}
	case strings.Contains(cache, "immutable"):
		if !strings.Contains(name, " /p/") && !strings.Contains(name, " /z/") && !strings.Contains(name, " /log/tile/") && !strings.Contains(name, " /api/blobs/") && !strings.Contains(name, " /assets/") &&
			!strings.Contains(name, "/objects/pack/") {
			t.Errorf("%s: Cache-Control %q, want immutable for what is named by tag, commit or hash only", name, cache)
		}
	}
	if id := a.Header.Get("X-Request-Id"); id == "" {
		t.Errorf("%s: no X-Request-Id", name)
	}
	if (a.StatusCode == http.StatusServiceUnavailable && !strings.Contains(name, "/readyz") && a.code() != "no_token_configured" && a.code() != "storage_full" ||
		a.StatusCode == http.StatusTooManyRequests) && a.Header.Get("Retry-After") == "" {
		t.Errorf("%s: status %d without Retry-After", name, a.StatusCode)
	}
}

func (s *scene) reads() []call {
	get := func(on *registry, path string, status int, header ...string) call {
		return call{on: on, method: http.MethodGet, path: path, status: status, header: header}
	}
	tag := "/p/hello/tag/v1.0.0.tar.gz"
	commit := "/p/hello/commit/" + s.hello[1].CommitOID
	calls := []call{
		get(s.registry, "/healthz", 200), get(s.away, "/healthz", 200),
		get(s.registry, "/readyz", 200), get(s.noQueue, "/readyz", 200), get(s.away, "/readyz", 503), get(s.edge, "/readyz", 200),
		get(s.registry, "/api/openapi.yaml", 200),
		get(s.registry, "/api/openapi.yaml", 206, "Range", "bytes=0-6"),
		get(s.registry, "/api/openapi.yaml", 416, "Range", "bytes=99999999-"),
		get(s.registry, "/api/openapi.yaml", 412, "If-Match", `"no"`),
		get(s.registry, "/api/openapi.yaml", 304, "If-None-Match", s.get("/api/openapi.yaml").Header.Get("ETag")),

		get(s.registry, "/api/list", 200), get(s.away, "/api/list", 503),
		get(s.registry, "/api/status", 200), get(s.edge, "/api/status", 200), get(s.open, "/api/status", 200), get(s.away, "/api/status", 503),
		get(s.registry, "/api/search?q=hello", 200), get(s.registry, "/api/search?q=%25", 200), get(s.registry, "/api/search?q=_&limit=1&offset=1", 200),
		get(s.registry, "/api/search", 400), get(s.registry, "/api/search?q=a&limit=0", 400), get(s.registry, "/api/search?q=a&offset=-1", 400),
		get(s.away, "/api/search?q=hello", 503),
		get(s.registry, "/api/changes", 200), get(s.registry, "/api/changes?since=2&limit=1", 200), get(s.registry, "/api/changes?since=999&wait=1", 200),
		get(s.registry, "/api/changes?private=1", 401), get(s.registry, "/login", 401), get(s.registry, "/login", 302, "Authorization", basic("x", token)),
		get(s.registry, "/api/changes?private=null", 400), get(s.registry, "/api/changes?since=x", 400), get(s.registry, "/api/changes?since=-1", 400), get(s.away, "/api/changes", 503),

		get(s.registry, "/api/jobs", 200), get(s.registry, "/api/jobs?state=failed&package=hello&limit=1", 200),
		get(s.registry, "/api/jobs?before="+s.ended.String(), 200), get(s.registry, "/api/jobs?before="+uuid.NewString(), 200),
		get(s.registry, "/api/jobs?state=no", 400), get(s.registry, "/api/jobs?package=..", 400), get(s.registry, "/api/jobs?before=x", 400),
		get(s.registry, "/api/jobs?run=9223372036854775807", 200), get(s.registry, "/api/jobs?run=9223372036854775808", 400),
		get(s.registry, "/api/jobs?limit=501", 400), get(s.away, "/api/jobs", 503),
		get(s.registry, "/api/jobs/"+s.queued.String(), 200), get(s.registry, "/api/jobs/"+uuid.NewString(), 404),
		get(s.registry, "/api/jobs/nonsense", 404), get(s.registry, "/api/jobs/%6e", 400), get(s.away, "/api/jobs/"+s.ended.String(), 503),
		get(s.registry, "/api/jobs/"+s.ended.String()+"/events", 200), get(s.registry, "/api/jobs/"+uuid.NewString()+"/events", 404),
		get(s.registry, "/api/jobs/%6e/events", 400), get(s.away, "/api/jobs/"+s.ended.String()+"/events", 503),

		// The tarball of every kind: whole, a part, known already, and not as presumed.
		get(s.registry, "/p/hello/tag/a/b.tar.gz", 200), get(s.registry, "/p/hello/tag/v2.0.0.json", 200),
		get(s.registry, "/p/nope/tag/v1.0.0.tar.gz", 404), get(s.registry, "/p/hello/tag/v1.0.0.zip", 404),
		get(s.registry, "/p/hello/commit/"+s.hello[3].CommitOID+".tar.gz", 200), get(s.registry, commit+".json", 200),
	}
	for _, path := range []string{"/api/info/hello", "/api/check/hello", "/api/versions/hello", "/api/dependents/hello",
		"/api/list", "/api/search?q=hello", "/api/jobs", "/api/trees", "/packages", "/jobs", "/trees"} {
		calls = append(calls, get(s.registry, path, 304, "If-None-Match", "*"))
	}
	for _, kind := range []string{"info", "check"} {
		p := "/api/" + kind + "/"
		calls = append(calls, get(s.registry, p+"hello", 200), get(s.edge, p+"frozen", 200), get(s.registry, p+"waiting", 200),
			get(s.registry, p+"nope", 404), get(s.registry, p+"-bad-", 404), get(s.registry, p+"hell%6f", 400), get(s.away, p+"hello", 503))
	}
	for _, f := range []struct{ good, etag, none, bad, lost string }{
		{tag, s.digest, "/p/hello/tag/v3.tar.gz", "/p/hello/tag/%76.tar.gz", "/p/broken/tag/v1.tar.gz"},
		{commit + ".tar.gz", s.hello[1].Digest, "/p/hello/commit/" + strings.Repeat("0", 40) + ".tar.gz", "/p/hello/commit/%30.json",
			"/p/broken/commit/" + s.brokenCommit() + ".tar.gz"},
		{"/p/hello/branch/main.tar.gz", s.hello[3].Digest, "/p/hello/branch/no.tar.gz", "/p/hello/branch/%6d.tar.gz", "/p/broken/branch/main.tar.gz"},
		{"/p/hello/tag?file=a/b.tar.gz", s.hello[2].Digest, "/p/hello/tag?file=v3.tar.gz", "/p/hello/tag?file=%00.tlog-proof", "/p/broken/tag?file=v1.tar.gz"},
		{"/p/hello/branch?file=main.tar.gz", s.hello[3].Digest, "/p/hello/branch", "/p/hello/branch?file=%FF.json", "/p/broken/branch?file=main.tar.gz"},
		{"/p/hello/branch/main.json", s.hello[3].ManifestDigest, "/p/hello/branch/no.json", "/p/hello/branch/%6d.json", "/p/broken/branch/main.tar.gz"},
		{"/z/" + s.hello[0].ZigHash + ".tar.gz", s.digest, "/z/" + strings.Replace(s.hello[0].ZigHash, "1.0.0", "9.9.9", 1) + ".tar.gz", "/z/%61.tar.gz",
			"/z/" + s.brokenZig() + ".tar.gz"},
		{"/api/blobs/" + s.digest, s.digest, "/api/blobs/" + strings.Repeat("0", 64), "/api/blobs/%30", "/api/blobs/" + s.notThere},
	} {
		calls = append(calls, get(s.registry, f.good, 200), get(s.edge, f.good, 206, "Range", "bytes=1-9"),
			get(s.registry, f.good, 304, "If-None-Match", `"`+f.etag+`"`), get(s.registry, f.good, 412, "If-Match", `"no"`),
			get(s.registry, f.good, 416, "Range", "bytes=99999999-"), get(s.registry, f.none, 404), get(s.registry, f.bad, 400),
			get(s.registry, f.lost, 503), get(s.away, f.good, 503))
	}
	return append(calls, get(s.registry, "/log/policy", 200), get(s.edge, "/log/checkpoint", 200),
		get(s.registry, tag[:len(tag)-len(".tar.gz")]+".tlog-proof", 200), get(s.registry, commit+".tlog-proof", 200),
		get(s.registry, "/z/"+s.hello[0].ZigHash+".tlog-proof", 200), get(s.registry, "/p/hello/tag/v3.tlog-proof", 404), get(s.registry, "/z/none.tlog-proof", 404),
		get(s.registry, "/log/tile/entries/000.p/1", 200),
		get(s.registry, "/log/tile/0/000.p/1", 206, "Range", "bytes=1-9"), get(s.registry, "/log/tile/0/000.p/1", 416, "Range", "bytes=99-"),
		get(s.registry, "/log/checkpoint", 304, "If-None-Match", s.get("/log/checkpoint").Header.Get("ETag")),
		get(s.registry, "/log/checkpoint", 412, "If-Match", `"no"`), get(s.registry, "/log/tile/0/999", 404), get(s.registry, "/log/log.key", 404),
		get(s.registry, "/log/%74ile/0/000", 400), get(s.away, "/log/tile/0/000.p/2", 503))
}

func (s *scene) brokenCommit() string { return s.releaseOf("broken").CommitOID }
func (s *scene) brokenZig() string    { return s.releaseOf("broken").ZigHash }

func (s *scene) releaseOf(pkg string) storage.Release {
	s.t.Helper()
	all, err := s.db.Releases(s.t.Context(), pkg)
	s.must(err)
	return all[0]
}

func (s *scene) writes() []call {
	auth := []string{"Authorization", "Bearer " + token}
	wrong := []string{"Authorization", "Bearer not-the-token-at-all"}
	post := func(on *registry, path, body string, status int, header []string) call {
		return call{on: on, method: http.MethodPost, path: path, body: body, status: status, header: header}
	}
	fetch := func(pkg string) string { return fmt.Sprintf(`{"url":"git+https://git.example/owner/%s"}`, pkg) }
	nobody := "/api/jobs/" + uuid.NewString()
	long := `{"package":"` + strings.Repeat("x", 70_000) + `"}`
	calls := []call{
		post(s.registry, "/api/fetch", fetch("queued"), 202, auth),
		post(s.noQueue, "/api/fetch", fetch("queued"), 202, auth),
		post(s.full, "/api/fetch", fetch("one-more"), 429, auth),
		post(s.registry, "/api/fetch", `{"url":"https://git.example/another/hello"}`, 409, auth),
		post(s.registry, "/api/fetch", `{}`, 400, auth), post(s.registry, "/api/fetch?wait=x", fetch("queued"), 400, auth),
		post(s.registry, "/api/fetch", strings.ReplaceAll(long, "package", "url"), 413, auth),
		post(s.open, "/api/fetch", fetch("queued"), 202, nil), post(s.noToken, "/api/fetch", fetch("queued"), 503, nil),
		post(s.away, "/api/fetch", fetch("queued"), 503, auth),

		post(s.registry, "/api/check", `{"package":"nope"}`, 404, auth), post(s.registry, "/api/check", `{"package":""}`, 400, auth),
		post(s.registry, "/api/check?wait=1", `{"package":"waiting"}`, 202, auth), post(s.registry, "/api/check?wait=0", `{"package":"hello"}`, 202, auth),
		post(s.registry, "/api/check", long, 413, auth), post(s.away, "/api/check", `{"package":"hello"}`, 503, auth),

		post(s.registry, "/api/review/hello", `{"decision":"accept"}`, 409, auth), post(s.registry, "/api/review/nope", `{"decision":"keep"}`, 404, auth),
		post(s.registry, "/api/review/frozen", `{"decision":"maybe"}`, 400, auth), post(s.registry, "/api/review/frozen", long, 413, auth),
		post(s.away, "/api/review/frozen", `{"decision":"keep"}`, 503, auth),
		post(s.registry, "/api/review/FROZEN", `{"decision":"keep"}`, 200, auth), post(s.registry, "/api/review/frozen", `{"decision":"accept"}`, 200, auth),

		post(s.registry, "/api/jobs/"+s.failed.String()+"/retry", "", 202, auth), post(s.registry, "/api/jobs/"+s.failed.String()+"/retry", "", 409, auth),
		post(s.registry, "/api/jobs/"+s.failed.String()+"/cancel", "", 202, auth), post(s.registry, "/api/jobs/"+s.ended.String()+"/cancel", "", 409, auth),
	}
	for _, action := range []string{"retry", "cancel"} {
		calls = append(calls, post(s.registry, nobody+"/"+action, "", 404, auth), post(s.registry, "/api/jobs/%6e/"+action, "", 400, auth),
			post(s.away, nobody+"/"+action, "", 503, auth))
	}
	calls = append(calls, s.renames(post, auth, long)...)
	calls = append(calls, s.removals(post, auth, long)...)
	calls = append(calls, s.tokenCalls(post, auth, wrong, long)...)
	for _, path := range []string{"/api/fetch", "/api/check", "/api/review/frozen", "/api/remove", "/api/rename", "/api/visibility/frozen", "/api/tokens", "/api/tokens/x/revoke", nobody + "/retry", nobody + "/cancel"} {
		calls = append(calls, post(s.registry, path, "{}", 401, nil), post(s.registry, path, "{}", 403, wrong), post(s.edge, path, "{}", 403, auth))
	}
	return calls
}

// renames rename a package that nothing else here asks for, and remove it.
func (s *scene) renames(post func(*registry, string, string, int, []string) call, auth []string, long string) []call {
	s.publish("owner.repo", tagged{tag: "v1", files: zon("renamed", "1.0.0")})
	rename := func(what string, status int) call { return post(s.registry, "/api/rename", what, status, auth) }
	return []call{
		rename(`{"package":"owner.repo","name":"repo"}`, 200), rename(`{"package":"repo","name":"trees"}`, 400), rename(`{"package":"repo"}`, 400),
		rename(`{"package":"nope","name":"any"}`, 404), rename(`{"package":"repo","name":"frozen"}`, 409), rename(long, 413),
		post(s.away, "/api/rename", `{"package":"repo","name":"any"}`, 503, auth),
		post(s.registry, "/api/remove", `{"package":"repo","reason":"x"}`, 200, auth), rename(`{"package":"repo","name":"any"}`, 410),
		post(s.registry, "/api/remove", `{"package":"hello","tag":"","reason":"a variable that is not set"}`, 400, auth),
		post(s.registry, "/api/check", `{"package":"repo"}`, 410, auth), post(s.registry, "/api/visibility/repo", `{"visibility":"public"}`, 410, auth),
		post(s.registry, "/api/review/repo", `{"decision":"accept"}`, 409, auth),
	}
}

// removals remove a release that nothing else here asks for, and the only one
// of another package.
func (s *scene) removals(post func(*registry, string, string, int, []string) call, auth []string, long string) (calls []call) {
	rel := s.publish("doomed", tagged{tag: "v1", branch: "main", files: zon("doomed", "1.0.0")})[0]
	doomedHash := "1220" + strings.Repeat("5", 64)
	s.putArchive("https://files.example/doomed.tar.gz", rel, doomedHash)
	remove := func(what string, status int) call { return post(s.registry, "/api/remove", what, status, auth) }
	calls = []call{
		remove(`{"package":"doomed","tag":"v1"}`, 400), remove(`{"package":"nope","reason":"x"}`, 404), remove(`{"package":"doomed","tag":"v9","reason":"x"}`, 404),
		remove(long, 413), post(s.away, "/api/remove", `{"package":"doomed","reason":"x"}`, 503, auth),
		remove(`{"package":"doomed","tag":"v1","reason":"it held a key"}`, 200), remove(`{"package":"doomed","tag":"v1","reason":"x"}`, 410),
		post(s.registry, "/api/trees", `{"name":"doomed","release":"doomed@v1"}`, 410, auth),
		remove(`{"archive":"https://files.example/doomed.tar.gz","reason":"x"}`, 200), remove(`{"archive":"https://files.example/doomed.tar.gz","reason":"x"}`, 410),
		remove(`{"archive":"https://files.example/nope.tar.gz","reason":"x"}`, 404), remove(`{"archive":"git+https://h/x","reason":"x"}`, 400),
		remove(`{"archive":"https://files.example/doomed.tar.gz"}`, 400),
		remove(`{"archive":"https://files.example/doomed.tar.gz","package":"hello","reason":"which of them?"}`, 400),
		remove(`{"archive":"https://files.example/doomed.tar.gz","tag":"v1.0.0","reason":"x"}`, 400),
		call{on: s.registry, method: http.MethodGet, path: "/api/archives?url=https://files.example/doomed.tar.gz", status: http.StatusGone},
		call{on: s.registry, method: http.MethodGet, path: "/z/" + doomedHash + ".tar.gz", status: http.StatusGone},
	}
	for _, path := range []string{"/p/doomed/tag/v1.tar.gz", "/p/doomed/commit/" + rel.CommitOID + ".json", "/p/doomed/branch/main.tar.gz", "/p/doomed/tag?file=v1.json", "/p/doomed/branch?file=main.json",
		"/z/" + rel.ZigHash + ".tar.gz", "/api/blobs/" + rel.Digest} {
		calls = append(calls, call{on: s.registry, method: http.MethodGet, path: path, status: http.StatusGone})
	}
	calls = append(calls, call{on: s.registry, method: http.MethodGet, path: "/api/info/doomed", status: 200},
		remove(`{"package":"doomed","reason":"all of it"}`, 200))
	for _, path := range []string{"/api/info/doomed", "/api/check/doomed"} {
		calls = append(calls, call{on: s.registry, method: http.MethodGet, path: path, status: http.StatusGone})
	}
	return calls
}

func (s *scene) tokenCalls(post func(*registry, string, string, int, []string) call, auth, wrong []string, long string) []call {
	get := func(on *registry, status int, header []string) call {
		return call{on: on, method: http.MethodGet, path: "/api/tokens", status: status, header: header}
	}
	ci := `{"name":"ci","scope":"read","expires":"` + time.Now().Add(time.Hour).Format(time.RFC3339) + `"}`
	return []call{
		post(s.registry, "/api/tokens", ci, 201, auth), post(s.registry, "/api/tokens", ci, 409, auth), post(s.registry, "/api/tokens", `{"name":"x"}`, 400, auth),
		post(s.registry, "/api/tokens", long, 413, auth), post(s.away, "/api/tokens", ci, 503, auth),
		get(s.registry, 200, auth), get(s.registry, 401, nil), get(s.registry, 403, wrong), get(s.edge, 403, auth), get(s.away, 503, auth),
		post(s.registry, "/api/tokens/ci/revoke", "", 200, auth), post(s.registry, "/api/tokens/ci/revoke", "", 404, auth),
		post(s.registry, "/api/tokens/%63i/revoke", "", 400, auth), post(s.away, "/api/tokens/ci/revoke", "", 503, auth),
		post(s.registry, "/api/visibility/frozen", `{"visibility":"private"}`, 200, auth), post(s.registry, "/api/visibility/frozen", `{"visibility":"public"}`, 200, auth),
		post(s.registry, "/api/visibility/nope", `{"visibility":"public"}`, 404, auth), post(s.registry, "/api/visibility/frozen", `{}`, 400, auth),
		post(s.registry, "/api/visibility/frozen", long, 413, auth), post(s.away, "/api/visibility/frozen", `{"visibility":"public"}`, 503, auth),
	}
}

// updates are requests that start updates or wait for jobs.
func (s *scene) updates() []call {
	auth := []string{"Authorization", "Bearer " + token, "Prefer", "respond-async, wait=20"}
	post := func(on *registry, path, body string, status int, header ...string) call {
		return call{on: on, method: http.MethodPost, path: path, body: body, status: status, header: header}
	}
	cooled := s.serve()
	var running jobs.Claim
	calls := []call{
		post(s.registry, "/api/update", "", 202), post(s.registry, "/api/update?wait=-1", "", 400), post(s.edge, "/api/update", "", 403),
		post(cooled, "/api/update", "", 202), post(cooled, "/api/update", "", 200),
		post(s.noQueue, "/api/update", "", 503), post(s.away, "/api/update", "", 503).after(func() { s.must(s.queue.Unlock(s.t.Context(), "update")) }),
		post(s.registry, "/api/update", "", 200).after(func() {
			job, err := s.db.Jobs.OpenUpdate(s.t.Context())
			s.must(err)
			running, err = s.db.Jobs.Claim(s.t.Context(), job.ID, "tests", time.Minute)
			s.must(err)
			s.must(s.db.Jobs.StartRun(s.t.Context(), running))
		}),
		{on: s.registry, method: http.MethodGet, path: "/api/status", status: 200},
	}
	first := len(calls)
	for _, end := range []struct {
		code   string
		status int
	}{{"", 200}, {"catalog_unreachable", 502}, {"timeout", 504}, {"internal", 500}, {"cancelled", 409}, {"storage_full", 503}} {
		calls = append(calls, post(s.registry, "/api/update?wait=20", "", end.status).after(func() { s.next.Store(end.code) }))
		if end.status != 502 {
			calls = append(calls, post(s.registry, "/api/check", `{"package":"hello"}`, end.status, auth...).after(func() { s.next.Store(end.code) }))
		}
	}
	calls[first] = calls[first].after(func() {
		s.must(s.db.Jobs.End(s.t.Context(), running, jobs.Outcome{State: jobs.Failed, Code: "internal", Message: "it is in the way"}))
		s.must(s.db.Jobs.CloseRuns(s.t.Context()))
		s.next.Store("")
		s.work(s.end)
	})
	for pkg, status := range map[string]int{"good": 200, "no-tags": 422, "upstream-url": 400, "upstream-address": 403, "package-frozen": 409,
		"upstream-unreachable": 502, "storage-full": 503, "timeout": 504, "internal": 500, "cancelled": 409} {
		calls = append(calls, post(s.registry, "/api/fetch", fmt.Sprintf(`{"url":"https://git.example/owner/%s"}`, pkg), status, auth...))
	}
	return calls
}

// end ends a fetch as its package is called, a probe and an update as s.next
// says.
func (s *scene) end(ctx context.Context, c jobs.Claim) error {
	if c.Job.Kind == jobs.CaptureTree {
		return s.endCapture(ctx, c)
	}
	code := strings.ReplaceAll(c.Job.Package, "-", "_")
	if c.Job.Kind != jobs.FetchPackage {
		code, _ = s.next.Load().(string)
	}
	o := jobs.Outcome{State: jobs.Failed, Code: code, Message: "the test wants it so"}
	switch code {
	case "no_tags", "upstream_url", "upstream_address", "package_frozen", "upstream_unreachable", "catalog_unreachable", "storage_full", "timeout", "internal":
	case "cancelled":
		o.State = jobs.Cancelled
	default:
		o = jobs.Outcome{State: jobs.Succeeded, Result: map[string]any{
			"package": c.Job.Package, "tag": "v1", "tarballs_created": 1, "tarballs_present": 0, "tarball_count": 1}}
		if c.Job.Kind == jobs.UpdateCatalog {
			return errors.Join(s.db.Jobs.StartRun(ctx, c), s.db.Jobs.ParkRun(ctx, c, jobs.Counters{SourcePackages: 1, ReposScanned: 1}), s.db.Jobs.CloseRuns(ctx))
		}
	}
	return s.db.Jobs.End(ctx, c, o)
}

func (s *scene) git() (calls []call) {
	v2 := []string{"Content-Type", "application/x-git-upload-pack-request", "Git-Protocol", "version=2"}
	list := pkt("command=ls-refs") + "0000"
	fetch := pkt("command=fetch") + "0001" + pkt("no-progress") + pkt("want "+s.hello[1].CommitOID) + pkt("done") + "0000"
	bomb := pkt("command=ls-refs") + "0001" + strings.Repeat(pkt("ref-prefix "+strings.Repeat("x", 65_000)), 300)
	for _, prefix := range []string{"/git/", "/"} {
		refs := func(on *registry, repo, query string, status int) call {
			return call{on: on, method: http.MethodGet, path: prefix + repo + "/info/refs" + query, status: status}
		}
		pack := func(on *registry, repo, body string, status int, header ...string) call {
			return call{on: on, method: http.MethodPost, path: prefix + repo + "/git-upload-pack", body: body, status: status, header: append(header, v2...)}
		}
		calls = append(calls,
			refs(s.registry, "hello", "?service=git-upload-pack", 200), refs(s.edge, "hello.git", "?service=git-upload-pack", 200),
			refs(s.registry, "hello", "?service=%zz", 400), refs(s.registry, "hello", "?service=git-receive-pack", 403),
			refs(s.registry, "nope", "?service=git-upload-pack", 404), refs(s.registry, "waiting", "?service=git-upload-pack", 404),
			refs(s.away, "hello", "?service=git-upload-pack", 503),
			refs(s.registry, "kept", "", 200), refs(s.registry, "hello", "", 403), refs(s.registry, "nope", "", 404), refs(s.registry, "hell%6f", "", 400),
			refs(s.away, "kept", "", 503),

			pack(s.registry, "hello", list, 200), pack(s.registry, "hello.git", fetch, 200),
			pack(s.registry, "hello", string(gzipped([]byte(fetch))), 200, "Content-Encoding", "gzip"),
			pack(s.registry, "hello", "nonsense", 400), pack(s.registry, "hello", string(gzipped([]byte(bomb))), 413, "Content-Encoding", "gzip"),
			pack(s.registry, "hello", fetch, 415, "Content-Encoding", "br"), pack(s.registry, "nope", fetch, 404), pack(s.away, "hello", fetch, 503),
			call{on: s.registry, method: http.MethodPost, path: prefix + "hello/git-upload-pack?service=git-receive-pack", status: 403, header: v2},
			refs(s.registry, "repo", "?service=git-upload-pack", 410), pack(s.registry, "repo", fetch, 410),
			call{on: s.registry, method: http.MethodPost, path: prefix + "hello/git-receive-pack", body: "0000", status: 403},
			call{on: s.registry, method: http.MethodPost, path: prefix + "hell%6f/git-receive-pack", status: 400},
		)
		for _, file := range []string{"HEAD", "objects/info/packs", "objects/pack/pack-" + s.packName + ".pack", "objects/pack/pack-" + s.packName + ".idx"} {
			get := func(on *registry, repo string, status int, header ...string) call {
				return call{on: on, method: http.MethodGet, path: prefix + repo + "/" + file, status: status, header: header}
			}
			calls = append(calls, get(s.registry, "kept", 200), get(s.registry, "hello", 403), get(s.registry, "nope", 404), get(s.registry, "-", 404),
				get(s.registry, "repo", 410), get(s.registry, "kep%74", 400), get(s.away, "kept", 503))
			if strings.HasSuffix(file, ".pack") {
				calls = append(calls, get(s.registry, "kept", 206, "Range", "bytes=0-3"), get(s.registry, "kept", 416, "Range", "bytes=999999-"),
					get(s.registry, "kept", 412, "If-Match", `"no"`), get(s.registry, "kept", 304, "If-None-Match", "*"))
			}
		}
	}
	return calls
}

// setHistory gives a package a history. Nobody here looks into its pack.
func (s *scene) setHistory() {
	s.t.Helper()
	commit := s.publish("kept", tagged{tag: "v1", files: zon("kept", "1.0.0")})[0].CommitOID
	c := s.claim("kept")
	pack, index := s.put([]byte("the pack")), s.put([]byte("its index"))
	s.packName = strings.Repeat("5", 40)
	s.must(s.db.SetHistory(s.t.Context(), c, storage.History{
		Package: "kept", Head: "refs/heads/main", Refs: map[string]string{"refs/heads/main": commit, "refs/tags/v1": commit},
		PackName: s.packName, PackDigest: pack.Digest, IndexDigest: index.Digest,
	}, pack, index))
	s.must(s.db.Jobs.End(s.t.Context(), c, jobs.Outcome{State: jobs.Succeeded}))
}

// pkt encodes a line.
func pkt(line string) string { return pktline.Lines(line + "\n") }

func gzipped(b []byte) []byte {
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	_, _ = z.Write(b) // to memory
	_ = z.Close()
	return buf.Bytes()
}

func (s *scene) pages() []call {
	get := func(on *registry, path string, status int, header ...string) call {
		return call{on: on, method: http.MethodGet, path: path, status: status, header: header}
	}
	browser := []string{"Accept", "text/html,application/xhtml+xml,*/*;q=0.8"}
	badHost := []string{"Accept", "text/html", "Host", "-no-host-"}
	page := s.get("/", browser...)
	asset := regexp.MustCompile(`/assets/[0-9a-f]+/`).FindString(string(page.body))
	job := "/jobs/" + s.ended.String()
	calls := []call{
		get(s.registry, "/hello.atom", 200), get(s.registry, "/hello.svg", 200), get(s.registry, "/repo", 410, browser...), get(s.registry, "/nope.svg", 404), get(s.registry, "/HELLO", 302, browser...),
		get(s.registry, "/hello.atom", 304, "If-None-Match", s.get("/hello.atom").Header.Get("ETag")),
		get(s.registry, "/feed.atom", 200), get(s.registry, "/feed.atom", 304, "If-None-Match", s.get("/feed.atom").Header.Get("ETag")),
		get(s.registry, "/feed.atom", 400, "Host", "-no-host-"), get(s.away, "/feed.atom", 503),
		get(s.registry, asset+"packbase.css", 200), get(s.registry, asset+"packbase.js", 200), get(s.registry, asset+"icon.svg", 200),
		get(s.registry, asset+"nope", 404), get(s.registry, asset+"%70", 400),
		get(s.registry, "/favicon.ico", 302), get(s.registry, "/robots.txt", 200), get(s.registry, "/why", 200),
	}
	_, revoked, err := s.db.Access.CreateToken(s.t.Context(), "revoked", access.ScopeRead, nil)
	s.must(err)
	s.must(s.db.Access.RevokeToken(s.t.Context(), "revoked"))
	for _, path := range []string{"/favicon.ico", "/robots.txt", "/why", "/healthz", "/readyz", "/api/list", "/api/status"} {
		calls = append(calls, get(s.registry, path, 401, "Authorization", "Bearer "+revoked))
	}
	for _, path := range []string{"/", "/packages", "/jobs", job, "/hello", "/trees", "/trees/app"} {
		calls = append(calls, get(s.registry, path, 200), get(s.registry, path, 200, browser...), get(s.registry, path, 400, badHost...),
			get(s.away, path, 503), get(s.away, path, 503, browser...))
	}
	for _, path := range []string{"/hello/files", "/hello/diff"} {
		calls = append(calls, get(s.registry, path, 200, browser...), get(s.registry, path, 400, badHost...), get(s.away, path, 503, browser...))
	}
	calls = append(calls, get(s.registry, "/hello/files?tag=v2.0.0&path=build.zig.zon", 200))
	for _, path := range []string{"/jobs/" + uuid.NewString(), "/nope", "/trees/nope", "/nope/files", "/nope/diff"} {
		calls = append(calls, get(s.registry, path, 404), get(s.registry, path, 404, browser...))
	}
	return calls
}
