package api_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/api"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/jobs"
)

// makeToken has the server make a token.
func (g *registry) makeToken(name, scope, expires string) string {
	g.t.Helper()
	a := g.post("/api/tokens", fmt.Sprintf(`{"name":%q,"scope":%q,"expires":%q}`, name, scope, expires))
	var t struct{ Token string }
	a.into(g.t, &t)
	if a.StatusCode != http.StatusCreated || len(t.Token) < 28 {
		g.t.Fatalf("make token: status %d: %s", a.StatusCode, a.body)
	}
	return t.Token
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// traces are the words that tell of a release: nobody may read them who may not
// read the package.
func traces(r storage.Release) []string {
	return []string{r.Package, r.CommitOID, r.TreeOID, r.Digest, r.ManifestDigest, r.ZigHash, r.ZigLegacyHash, r.ContentDigest}
}

// paths returns a request for each route of the table, with a package's own
// words wherever there is room for some.
func (g *registry) paths(r storage.Release, job string) (paths []string) {
	g.t.Helper()
	rooms := map[string][]string{
		"{package}": {r.Package}, "{repo}": {r.Package, r.Package + ".git", r.Package + ".atom", r.Package + ".svg"},
		"{id}": {job}, "{digest}": {r.Digest, r.ManifestDigest}, "{hash}": {"x"}, "{name}": {"x"},
	}
	files := map[string][]string{
		"/p/{package}/tag/*":         {r.Tag + ".tar.gz", r.Tag + ".json"},
		"/p/{package}/commit/{file}": {r.CommitOID + ".tar.gz", r.CommitOID + ".json"},
		"/p/{package}/branch/*":      {"main.tar.gz"},
		"/z/{file}":                  {r.ZigHash + ".tar.gz", r.ZigLegacyHash + ".tar.gz"},
	}
	err := chi.Walk(g.server.Handler().(chi.Routes), func(method, pattern string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		if method != http.MethodGet {
			return nil
		}
		all := []string{pattern}
		for _, file := range files[pattern] {
			dir := pattern[:strings.LastIndex(pattern, "/")+1]
			all = append(all, dir+file)
		}
		for room, words := range rooms {
			var next []string
			for _, p := range all {
				for _, word := range words {
					next = append(next, strings.ReplaceAll(p, room, word))
				}
			}
			all = next
		}
		slices.Sort(all)
		for _, p := range slices.Compact(all) {
			p = strings.NewReplacer("*", "info/packs", "{file}", "x").Replace(p)
			paths = append(paths, p, p+"?q="+r.Package[:3]+"&package="+r.Package, p+"?service=git-upload-pack")
		}
		return nil
	})
	g.must(err)
	return paths
}

// silent fails if an answer tells of a release, but in words of the request.
func silent(t *testing.T, name, path string, a *answer, words []string) {
	t.Helper()
	head, err := json.Marshal(a.Header)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range words {
		if strings.Contains(path, word) || word == "" {
			continue
		}
		if bytes.Contains(a.body, []byte(word)) || bytes.Contains(head, []byte(word)) {
			t.Errorf("%s: %s answers %d and tells %q", name, path, a.StatusCode, word)
		}
	}
}

// The whole route table, anonymously, against a private package: no route
// tells of it, and a package that is there is answered like one that is not.
func TestPrivatePackage(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	g.publish("hello", tagged{tag: "v1.0.0", files: zon("hello", "1.0.0")})
	c := g.claim("secretive")
	g.must(g.db.MakePrivate(access.SeePrivate(t.Context()), c))
	g.must(g.db.Jobs.End(t.Context(), c, jobs.Outcome{State: jobs.Failed, Code: "x", Message: "secretive failed", Sync: &jobs.Sync{Code: "x", Message: "m"}}))
	all := g.publish("secretive", tagged{tag: "v1.0.0", annotated: true, branch: "main", files: zon("secretive", "1.0.0")},
		tagged{tag: "", branch: "main", files: zon("secretive", "2.0.0")})
	rel, job := all[0], c.Job.ID.String()
	for _, r := range all {
		for _, path := range g.paths(r, job) {
			for _, header := range [][]string{nil, {"Accept", "text/html"}, {"Authorization", basic("x", "no token of ours")}} {
				if strings.HasSuffix(strings.Split(path, "?")[0], "/events") {
					continue // below: it does not end for who may see it
				}
				silent(t, "private", path, g.get(path, header...), traces(r))
			}
		}
	}
	none := strings.NewReplacer("secretive", "nothing-xx", rel.CommitOID, strings.Repeat("0", 40))
	read := g.makeToken("ci", "read", "")
	for _, path := range []string{
		"/api/info/secretive", "/api/check/secretive", "/api/jobs/" + job, "/p/secretive/tag/v1.0.0.tar.gz", "/p/secretive/tag/v1.0.0.json",
		"/p/secretive/commit/" + rel.CommitOID + ".tar.gz", "/p/secretive/branch/main.tar.gz", "/p/secretive/tag/v1.0.0.manifest.json", "/z/" + rel.ZigHash + ".tar.gz", "/z/" + rel.ZigLegacyHash + ".tar.gz",
		"/api/blobs/" + rel.Digest, "/api/blobs/" + rel.ManifestDigest, "/secretive", "/secretive.atom", "/secretive.svg", "/git/secretive/HEAD",
		"/git/secretive/info/refs?service=git-upload-pack", "/secretive.git/info/refs", "/api/jobs/" + job + "/events",
	} {
		a, b := g.get(path), g.get(none.Replace(path))
		if strings.Contains(path, "/z/") || strings.Contains(path, "blobs") || strings.Contains(path, "jobs") {
			b = a
		}
		if a.StatusCode != b.StatusCode || none.Replace(string(a.body)) != string(b.body) && !strings.Contains(string(b.body), "request_id") {
			t.Errorf("%s: %d %.200s, and what is not there %d %.200s", path, a.StatusCode, a.body, b.StatusCode, b.body)
		}
		want := http.StatusNotFound
		if strings.Contains(path, "info/refs") || strings.Contains(path, "HEAD") {
			want = http.StatusUnauthorized
		}
		if a.StatusCode != want || strings.Contains(path, "info/refs?") && !strings.HasPrefix(a.Header.Get("WWW-Authenticate"), "Basic ") {
			t.Errorf("%s without a token: status %d %v, want %d", path, a.StatusCode, a.Header, want)
		}
		for _, auth := range []string{"Bearer " + token, "Bearer " + read, basic("x", read), basic(read, "")} {
			got := g.get(path, "Authorization", auth)
			history := strings.HasSuffix(path, "/HEAD") || strings.HasSuffix(path, ".git/info/refs") // 403 smart_http_only
			if got.StatusCode != http.StatusOK && !(history && got.code() == "smart_http_only") {
				t.Errorf("%s with a token: status %d: %.200s", path, got.StatusCode, got.body)
			}
			if cache := got.Header.Get("Cache-Control"); !strings.Contains(cache, "private") && cache != "no-store" {
				t.Errorf("%s: Cache-Control %q, want private, as docs/security.md says", path, cache)
			}
		}
		// What is in memory now is for those who may see it only.
		if again := g.get(path); again.StatusCode != want {
			t.Errorf("%s without a token, after one with: status %d, want %d", path, again.StatusCode, want)
		}
	}
	for _, path := range []string{"/api/list", "/api/search?q=secretive", "/api/jobs", "/api/status", "/api/changes", "/feed.atom", "/packages", "/jobs", "/"} {
		if a := g.get(path, "Authorization", "Bearer "+read, "Accept", "text/html"); path != "/api/status" && !bytes.Contains(a.body, []byte("secretive")) {
			t.Errorf("%s with a token does not tell of the package: %.300s", path, a.body)
		}
	}
	count := func(header ...string) (n struct {
		Total int `json:"packages_total"`
	}) {
		g.get("/api/status", header...).into(t, &n)
		return n
	}
	if a, b := count(), count("Authorization", "Bearer "+read); a.Total != 1 || b.Total != 2 {
		t.Errorf("status counts %d packages for strangers and %d with a token, want 1 and 2", a.Total, b.Total)
	}
}

// The whole route table against a removed package, and a removed release of
// another: nobody is given a byte of it, and all ways to the bytes say why.
func TestRemoved(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	other := g.serve()
	gone := g.publish("doomed", tagged{tag: "v1.0.0", annotated: true, branch: "main", files: zon("doomed", "1.0.0")})[0]
	live := g.publish("living", tagged{tag: "v1.0.0", files: zon("living", "1.0.0")},
		tagged{tag: "v2.0.0", annotated: true, branch: "main", files: files{"own.zig": "// 2\n", "build.zig": "", "build.zig.zon": zon("living", "2.0.0")["build.zig.zon"]}})
	ways := func(r storage.Release) []string {
		return []string{"/p/" + r.Package + "/tag/" + r.Tag + ".tar.gz", "/p/" + r.Package + "/tag/" + r.Tag + ".json",
			"/p/" + r.Package + "/commit/" + r.CommitOID + ".tar.gz", "/p/" + r.Package + "/branch/main.tar.gz",
			"/z/" + r.ZigHash + ".tar.gz", "/z/" + r.ZigLegacyHash + ".tar.gz", "/api/blobs/" + r.Digest, "/api/blobs/" + r.ManifestDigest}
	}
	want := func(oid string, header ...string) *answer {
		t.Helper()
		return other.do(http.MethodPost, "/git/living/git-upload-pack", pkt("command=fetch")+"0001"+pkt("want "+oid)+pkt("done")+"0000",
			append(header, "Content-Type", "application/x-git-upload-pack-request", "Git-Protocol", "version=2")...)
	}
	for _, r := range []storage.Release{gone, live[1]} { // so that all is in memory
		for _, path := range ways(r) {
			for _, on := range []*registry{g, other} {
				if a := on.get(path); a.StatusCode != http.StatusOK {
					t.Fatalf("before: %s: %d %s", path, a.StatusCode, a.body)
				}
			}
		}
	}
	if a := want(live[1].CommitOID); a.StatusCode != http.StatusOK || !bytes.Contains(a.body, []byte("PACK")) {
		t.Fatalf("before: want by id: %d %.200q", a.StatusCode, a.body)
	}
	for _, body := range []string{`{"package":"doomed","reason":"it held a key"}`, `{"package":"living","tag":"v2.0.0","reason":"it held a key"}`} {
		if a := g.post("/api/remove", body); a.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d %s", body, a.StatusCode, a.body)
		}
	}
	for _, r := range []storage.Release{gone, live[1]} {
		for _, path := range ways(r) {
			for _, on := range []*registry{g, other} {
				eventually(t, path, func() bool { return on.get(path).StatusCode != http.StatusOK })
				if a := on.get(path); a.StatusCode != http.StatusGone || a.code() != "removed" || !bytes.Contains(a.body, []byte("it held a key")) {
					t.Errorf("%s: %d %s, want 410 with the reason", path, a.StatusCode, a.body)
				}
			}
		}
	}
	for _, id := range []string{live[1].CommitOID, live[1].TagOID} {
		eventually(t, "want of "+id, func() bool { return want(id).StatusCode == http.StatusGone })
		if a := want(id); !bytes.Contains(a.body, []byte("it held a key")) {
			t.Errorf("want of %s: %d %s", id, a.StatusCode, a.body)
		}
	}
	if a := want(live[0].CommitOID); a.StatusCode != http.StatusOK || !bytes.Contains(a.body, []byte("PACK")) {
		t.Errorf("want of what is left: %d %.200q", a.StatusCode, a.body)
	}
	for _, path := range []string{"/git/doomed/info/refs?service=git-upload-pack", "/doomed/info/refs", "/git/doomed/HEAD", "/api/info/doomed", "/doomed", "/doomed.svg", "/doomed.atom"} {
		if a := g.get(path); a.StatusCode != http.StatusGone || !bytes.Contains(a.body, []byte("it held a key")) {
			t.Errorf("%s: %d %.200s, want 410 with the reason", path, a.StatusCode, a.body)
		}
	}
	// No route tells more than that there was something: the feed has the
	// digests, as what was said there cannot be unsaid.
	for r, secret := range map[*storage.Release][]string{&gone: {gone.TreeOID, gone.ContentDigest, gone.ZigHash}, &live[1]: {live[1].TreeOID, live[1].ContentDigest, live[1].ZigHash}} {
		for _, path := range g.paths(*r, "x") {
			for _, header := range [][]string{nil, {"Accept", "text/html"}, {"Authorization", "Bearer " + token}} {
				silent(t, "removed", path, g.get(path, header...), secret)
			}
		}
	}
	var info struct {
		Latest  string `json:"latest_tag"`
		Count   int    `json:"tarball_count"`
		Removed []struct{ Tag, Reason string }
	}
	g.get("/api/info/living").into(t, &info)
	if info.Latest != "v1.0.0" || info.Count != 1 {
		t.Errorf("info = %+v, want v1.0.0 alone", info)
	}
	// The name is never used again.
	if a := g.post("/api/fetch", `{"url":"https://git.example/owner/doomed"}`); a.StatusCode != http.StatusGone {
		t.Errorf("fetch of a removed package: %d %s", a.StatusCode, a.body)
	}
}

// What stays in memory of an api ends with the right to read it.
func TestVisibility(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	other := g.serve() // another api of the registry
	rel := g.publish("hello", tagged{tag: "v1.0.0", annotated: true, files: zon("hello", "1.0.0")})[0]
	paths := []string{"/p/hello/tag/v1.0.0.tar.gz", "/p/hello/commit/" + rel.CommitOID + ".json", "/z/" + rel.ZigHash + ".tar.gz",
		"/api/blobs/" + rel.Digest, "/api/info/hello", "/git/hello/info/refs?service=git-upload-pack"}
	serve := func(want bool) {
		t.Helper()
		for _, on := range []*registry{g, other} {
			for _, path := range paths {
				eventually(t, path, func() bool { return (on.get(path).StatusCode == http.StatusOK) == want })
				if on.get(path, "Authorization", "Bearer "+token).StatusCode != http.StatusOK {
					t.Errorf("%s with the token is not served", path)
				}
			}
			eventually(t, "list", func() bool { return bytes.Contains(on.get("/api/list").body, []byte("hello")) == want })
		}
	}
	serve(true)
	for _, v := range []string{"private", "public"} {
		if a := g.post("/api/visibility/hello", fmt.Sprintf(`{"visibility":%q}`, v)); a.StatusCode != http.StatusOK {
			t.Fatalf("%s: status %d: %s", v, a.StatusCode, a.body)
		}
		// The api that was told answers so at once.
		if a := g.get(paths[0]); (a.StatusCode == http.StatusOK) != (v == "public") {
			t.Errorf("%s: the next answer is %d", v, a.StatusCode)
		}
		serve(v == "public")
	}
	if a := g.post("/api/visibility/nope", `{"visibility":"public"}`); a.StatusCode != http.StatusNotFound {
		t.Errorf("visibility of nothing: status %d", a.StatusCode)
	}
}

// eventually polls: other apis learn of a decision within seconds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
	}
}

// Tokens do what their scope says, until they expire or are revoked.
func TestTokens(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	other := g.serve()
	tokens := map[string]string{"admin": token}
	for _, scope := range []string{"read", "write"} {
		tokens[scope] = g.makeToken(scope, scope, "")
	}
	tokens["second admin"] = g.makeToken("second", "admin", time.Now().Add(time.Hour).Format(time.RFC3339))
	tests := []struct {
		method, path, body string
		may                []string
	}{
		{"POST", "/api/fetch", `{"url":"https://git.example/owner/xx"}`, []string{"write", "admin", "second admin"}},
		{"GET", "/api/tokens", "", []string{"admin", "second admin"}},
		{"POST", "/api/visibility/xx", `{"visibility":"private"}`, []string{"admin", "second admin"}},
		{"POST", "/api/review/xx", `{"decision":"keep"}`, []string{"admin", "second admin"}},
	}
	for _, tt := range tests {
		for name, secret := range tokens {
			for _, auth := range []string{"Bearer " + secret, basic("x", secret), basic(secret, "")} {
				a := other.do(tt.method, tt.path, tt.body, "Authorization", auth)
				if refused := a.StatusCode == http.StatusForbidden; refused == slices.Contains(tt.may, name) || a.StatusCode == http.StatusUnauthorized {
					t.Errorf("%s %s as %s: status %d %s", tt.method, tt.path, name, a.StatusCode, a.body)
				}
			}
		}
	}
	list := g.post("/api/tokens", `{"name":"READ","scope":"read"}`)
	if list.StatusCode != http.StatusConflict {
		t.Errorf("a second token of a name: status %d", list.StatusCode)
	}
	for _, body := range []string{`{"name":"x","scope":"root"}`, `{"name":"","scope":"read"}`, `{"name":"a b","scope":"read"}`,
		`{"name":"x","scope":"read","expires":"90d"}`, `{"name":"x","scope":"read","expires":"2020-01-01T00:00:00Z"}`} {
		if a := g.post("/api/tokens", body); a.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: status %d, want 400", body, a.StatusCode)
		}
	}
	list = g.get("/api/tokens", "Authorization", "Bearer "+token)
	for name, secret := range tokens {
		if bytes.Contains(list.body, []byte(secret)) {
			t.Errorf("the list shows the token %s", name)
		}
	}
	if !bytes.Contains(list.body, []byte(`"name":"write","scope":"write"`)) || strings.Contains(string(list.body), `"name":"write","scope":"write","last_used_at":null`) {
		t.Errorf("tokens = %s, want write, and when it was used", list.body)
	}

	// Revoked, it opens nothing, on no api, and is not taken for a stranger's.
	if a := g.post("/api/tokens/write/revoke", ""); a.StatusCode != http.StatusOK {
		t.Fatalf("revoke: status %d: %s", a.StatusCode, a.body)
	}
	auth := []string{"Authorization", "Bearer " + tokens["write"]}
	if a := g.get("/api/list", auth...); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("revoked, on this api: status %d, want 401", a.StatusCode)
	}
	eventually(t, "the other api knows that the token is revoked", func() bool { return other.get("/api/list", auth...).StatusCode == http.StatusUnauthorized })
	if a := other.do("POST", "/api/fetch", tests[0].body, auth...); a.StatusCode != http.StatusForbidden {
		t.Errorf("revoked: fetch answers %d, want 403", a.StatusCode)
	}
	g.makeToken("write", "read", "")

	short := g.makeToken("short", "read", time.Now().Add(2*time.Second).Format(time.RFC3339Nano))
	if a := g.get("/api/list", "Authorization", basic("x", short)); a.StatusCode != http.StatusOK {
		t.Errorf("before it expires: status %d", a.StatusCode)
	}
	eventually(t, "the token expires", func() bool {
		return g.get("/api/list", "Authorization", basic("x", short)).StatusCode == http.StatusUnauthorized
	})
	if strings.Contains(g.log.String(), tokens["read"]) || strings.Contains(g.log.String(), short) {
		t.Error("a token is in the log")
	}
}

// Where writes need no token, private packages still do, and nobody gets
// round that.
func TestPrivateWithoutTokens(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	g.must(g.db.MakePrivate(t.Context(), g.claim("secretive")))
	open := g.serve(func(o *api.Options) { o.Token, o.Open = "", true })
	for _, c := range []struct{ method, path, body string }{
		{"POST", "/api/tokens", `{"name":"x","scope":"read"}`}, {"GET", "/api/tokens", ""}, {"POST", "/api/visibility/secretive", `{"visibility":"public"}`},
		{"GET", "/api/info/secretive", ""}, {"POST", "/api/review/secretive", `{"decision":"keep"}`}, {"POST", "/api/check", `{"package":"secretive"}`},
	} {
		if a := open.do(c.method, c.path, c.body); a.StatusCode != http.StatusNotFound && a.code() != "no_token_configured" {
			t.Errorf("%s %s: status %d: %s", c.method, c.path, a.StatusCode, a.body)
		}
	}
	a := open.do("POST", "/api/fetch", `{"url":"https://elsewhere.example/o/secretive"}`)
	if a.StatusCode != http.StatusConflict || bytes.Contains(a.body, []byte("git.example")) {
		t.Errorf("a name that is taken: %d %s, want a conflict that does not tell the owner", a.StatusCode, a.body)
	}
}

// One answer about a package has a limit, whatever upstream put into it; page
// by page it is all there.
func TestInfoIsBounded(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	var all []tagged
	for i := range 7 {
		all = append(all, tagged{tag: fmt.Sprintf("v1.%d.0", i), files: zon("many", fmt.Sprintf("1.%d.0", i))})
	}
	g.publish("many", all...)
	var tags []string
	pages := 0
	for path := "/api/info/many?limit=3"; path != ""; pages++ {
		var info struct {
			Count    int `json:"tarball_count"`
			Next     string
			Tarballs []struct{ Tag string }
		}
		g.get(path).into(t, &info)
		for _, r := range info.Tarballs {
			tags = append(tags, r.Tag)
		}
		if path = info.Next; info.Count != 7 {
			t.Fatalf("count = %d, want 7", info.Count)
		}
	}
	if pages != 3 || strings.Join(tags, " ") != "v1.6.0 v1.5.0 v1.4.0 v1.3.0 v1.2.0 v1.1.0 v1.0.0" {
		t.Errorf("%d pages of %q", pages, tags)
	}
	for _, bad := range []string{"limit=0", "limit=1001", "offset=-1", "limit=x"} {
		if a := g.get("/api/info/many?" + bad); a.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: status %d", bad, a.StatusCode)
		}
	}
	// 5000 releases whose manifests all have 30 KB of dependencies, as rows.
	g.exec(`ALTER TABLE releases DISABLE TRIGGER USER`)
	g.exec(`UPDATE releases SET zig = jsonb_set(zig, '{warnings}', to_jsonb(array[repeat('x', 30000)]))`)
	g.exec(`INSERT INTO releases (package, tag, commit_oid, tree_oid, commit_time, digest, size, content_digest, md5, crc32, manifest_digest, zig)
		SELECT package, 'w' || n, commit_oid, tree_oid, commit_time, digest, size, content_digest, md5, crc32, manifest_digest, zig
		FROM releases, generate_series(1, 700) n WHERE tag = 'v1.0.0'`)
	g.exec(`INSERT INTO rejected_tags (package, tag, oid, code, reason) SELECT 'many', 'r' || n, '', 'x', repeat('y', 300) FROM generate_series(1, 3000) n`)
	a := g.get("/api/info/many")
	if len(a.body) > 5<<20 {
		t.Errorf("the answer has %d bytes", len(a.body))
	}
	var info struct {
		Next     string
		Rejected []struct{} `json:"rejected_tags"`
		Counts   struct {
			Rejected int `json:"rejected_tags"`
		}
	}
	a.into(t, &info)
	if info.Next == "" || len(info.Rejected) != 1000 || info.Counts.Rejected != 3000 {
		t.Errorf("next %q, %d rejected of %d, want a next page, and 1000 of 3000", info.Next, len(info.Rejected), info.Counts.Rejected)
	}
}

// What is known to be removed is not served from memory when Postgres goes
// away; other packages are.
func TestRemovedWhilePostgresIsAway(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	for _, pkg := range []string{"doomed", "other"} {
		g.publish(pkg, tagged{tag: "v1.0.0", files: zon(pkg, "1.0.0")})
	}
	near, postgres := g.gated()
	refs := func(pkg string) *answer { return near.get("/git/" + pkg + "/info/refs?service=git-upload-pack") }
	for _, pkg := range []string{"doomed", "other"} {
		if a := refs(pkg); a.StatusCode != http.StatusOK {
			t.Fatalf("%s, before: %d %s", pkg, a.StatusCode, a.body)
		}
	}
	if a := near.post("/api/remove", `{"package":"doomed","reason":"it held a key"}`); a.StatusCode != http.StatusOK {
		t.Fatalf("remove: %d %s", a.StatusCode, a.body)
	}
	if a := refs("other"); a.StatusCode != http.StatusOK { // what is in memory is read anew
		t.Fatalf("other, after the removal: %d %s", a.StatusCode, a.body)
	}
	postgres.shut()
	if a := refs("doomed"); a.StatusCode == http.StatusOK || bytes.Contains(a.body, []byte("refs/tags/v1.0.0")) {
		t.Errorf("doomed, with Postgres away: %d %.200q, want a refusal", a.StatusCode, a.body)
	}
	if a := refs("other"); a.StatusCode != http.StatusOK {
		t.Errorf("other, with Postgres away: %d %s, want 200", a.StatusCode, a.body)
	}
}

// exec runs SQL that nothing of ours would.
func (g *registry) exec(sql string) {
	g.t.Helper()
	conn, err := pgx.Connect(g.t.Context(), g.dbURL)
	g.must(err)
	defer conn.Close(g.t.Context())
	_, err = conn.Exec(g.t.Context(), sql)
	g.must(err)
}
