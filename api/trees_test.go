package api_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/bundle"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/tree"
)

// asManifest is a build.zig.zon with one dependency for each hash.
func asManifest(hashes ...string) string {
	var b strings.Builder
	b.WriteString(".{ .name = .app, .version = \"1.0.0\", .fingerprint = 0x9b9b9b9b00000001, .paths = .{\"\"}, .dependencies = .{\n")
	for i, hash := range hashes {
		fmt.Fprintf(&b, "    .d%d = .{ .url = \"https://files.example/%d.tar.gz\", .hash = %q },\n", i, i, hash)
	}
	return strings.Replace(b.String()+"} }\n", "0x9b9b9b9b", fmt.Sprintf("0x%08x", crc32.ChecksumIEEE([]byte("app"))), 1)
}

// asBody is the JSON of a value.
func asBody(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func manifests(text string) []wire.TreeManifest {
	return []wire.TreeManifest{{File: "build.zig.zon", Text: text}}
}

const goneHash = "12207777777777777777777777777777777777777777777777777777777777777777"

// putArchive stores an archive whose bytes are those of a release's tarball.
func (g *registry) putArchive(at string, rel storage.Release, legacy string) {
	g.t.Helper()
	_, _, err := tree.New(g.db.DB).Publish(g.t.Context(), tree.Archive{URL: at, ZigLegacyHash: legacy, Digest: rel.Digest, Size: rel.Size,
		ContentType: "application/gzip", Format: "tar.gz", TarballDigest: rel.Digest, TarballSize: rel.Size, RecordDigest: rel.ManifestDigest,
		FinalURL: "https://cdn.example/x", Zig: release.Zig{MinimumZigVersion: "0.14.0"}}, false)
	g.must(err)
}

func (s *scene) treeCalls() []call {
	auth := []string{"Authorization", "Bearer " + token}
	get := func(on *registry, path string, status int) call {
		return call{on: on, method: "GET", path: path, status: status}
	}
	post := func(on *registry, path, body string, status int, header []string) call {
		return call{on: on, method: "POST", path: path, body: body, status: status, header: header}
	}
	whole, holes := asManifest(s.hello[0].ZigHash), asManifest(s.hello[0].ZigHash, goneHash)
	capture := func(name, text string) string { return asBody(s.t, wire.Capture{Name: name, Manifest: text}) }
	want := func(text string, partial bool) string {
		return asBody(s.t, wire.WantBundle{Manifests: manifests(text), Partial: partial})
	}
	long := asBody(s.t, wire.Capture{Name: "x", Manifest: strings.Repeat("x", 17<<20)})
	at := "https://files.example/stored.tar.gz"
	s.putArchive(at, s.hello[0], "1220"+strings.Repeat("6", 64))
	s.must(tree.New(s.db.DB).NoteMove(s.t.Context(), tree.Archive{URL: at, ZigLegacyHash: goneHash}))
	archives := func(url_ string) string { return "/api/archives?" + url.Values{"url": {url_}}.Encode() }
	return []call{
		post(s.registry, "/api/trees", capture("app", whole), 202, auth), post(s.registry, "/api/trees", capture("APP", whole), 202, auth),
		post(s.registry, "/api/trees", asBody(s.t, wire.Capture{Name: "holes", Manifests: manifests(holes)}), 202, auth),
		post(s.registry, "/api/trees", capture("-bad-", whole), 400, auth), post(s.registry, "/api/trees", capture("x", ".{ nonsense"), 400, auth),
		post(s.registry, "/api/trees", capture("x", ""), 400, auth), post(s.registry, "/api/trees?wait=x", capture("x", whole), 400, auth),
		post(s.registry, "/api/trees", `{"name":"app","release":"nope@v1"}`, 404, auth), post(s.registry, "/api/trees", `{"name":"app","release":"nope"}`, 400, auth),
		post(s.registry, "/api/trees", capture("app", whole), 401, nil), post(s.edge, "/api/trees", capture("app", whole), 403, auth),
		post(s.registry, "/api/trees", long, 413, auth), post(s.full, "/api/trees", capture("app", whole), 429, auth),
		post(s.away, "/api/trees", capture("app", whole), 503, auth),

		get(s.registry, "/api/trees", 200), get(s.edge, "/api/trees?limit=1", 200), get(s.registry, "/api/trees?limit=0", 400), get(s.away, "/api/trees", 503),
		get(s.registry, "/api/trees/app", 200), {on: s.registry, method: http.MethodGet, path: "/api/trees/app", status: 304, header: []string{"If-None-Match", "*"}}, get(s.registry, "/api/trees/holes", 200), get(s.registry, "/api/trees/nope", 404),
		get(s.registry, "/api/trees/%61pp", 400), get(s.away, "/api/trees/app", 503),
		post(s.registry, "/api/trees/app/retry", "", 202, auth), post(s.registry, "/api/trees/nope/retry", "", 404, auth),
		post(s.registry, "/api/trees/app/retry?wait=x", "", 400, auth), post(s.registry, "/api/trees/app/retry", "", 401, nil),
		post(s.edge, "/api/trees/app/retry", "", 403, auth), post(s.away, "/api/trees/app/retry", "", 503, auth),

		get(s.registry, "/api/trees/app/bundle", 200), get(s.registry, "/api/trees/holes/bundle", 409), get(s.edge, "/api/trees/holes/bundle?partial=1", 200),
		get(s.registry, "/api/trees/nope/bundle", 404), get(s.registry, "/api/trees/%61pp/bundle", 400), get(s.away, "/api/trees/app/bundle", 503),
		get(s.registry, "/api/trees/app/sbom", 200), get(s.registry, "/api/trees/nope/sbom", 404), get(s.registry, "/api/trees/%61pp/sbom", 400),
		get(s.away, "/api/trees/app/sbom", 503),
		post(s.registry, "/api/bundle", want(whole, false), 200, nil), post(s.edge, "/api/bundle", want(holes, true), 200, nil),
		post(s.registry, "/api/bundle", want(holes, false), 409, nil), post(s.registry, "/api/bundle", `{"manifests":[]}`, 400, nil),
		post(s.registry, "/api/bundle", strings.Replace(long, `"name":"x",`, "", 1), 413, nil),
		post(s.registry, "/api/bundle", want(whole, false), 403, []string{"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"}),
		post(s.away, "/api/bundle", want(whole, false), 503, nil),

		post(s.registry, "/api/proofs", asBody(s.t, wire.WantProofs{Hashes: []string{s.hello[0].ZigHash, goneHash}}), 200, nil),
		post(s.registry, "/api/proofs", `{"hashes":[]}`, 400, nil), post(s.registry, "/api/proofs", `{"hashes":["../x"]}`, 400, nil),
		post(s.registry, "/api/proofs", strings.Replace(long, `"name":"x",`, "", 1), 413, nil),
		post(s.registry, "/api/proofs", `{"hashes":["`+goneHash+`"]}`, 403, []string{"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"}),
		post(s.away, "/api/proofs", `{"hashes":["`+goneHash+`"]}`, 503, nil),

		get(s.registry, "/api/dependents/hello", 200), get(s.registry, "/api/dependents/nope", 404), get(s.registry, "/api/dependents/hello?limit=x", 400),
		get(s.away, "/api/dependents/hello", 503),
		get(s.registry, "/api/versions/hello", 200), get(s.registry, "/api/versions/nope", 404),
		{on: s.registry, method: http.MethodGet, path: "/api/versions/hello", status: 400, header: []string{"Host", "-no-host-"}},
		get(s.away, "/api/versions/hello", 503),
		get(s.registry, archives(at), 200), get(s.registry, archives("https://files.example/nope"), 404), get(s.registry, archives("nonsense"), 400),
		get(s.away, archives(at), 503),
	}
}

// captures are waited for: a worker is there by now.
func (s *scene) captures() []call {
	auth := []string{"Authorization", "Bearer " + token}
	body := asBody(s.t, wire.Capture{Name: "app", Manifest: asManifest(s.hello[0].ZigHash)})
	return []call{
		{on: s.registry, method: "POST", path: "/api/trees?wait=20", body: body, status: 200, header: auth},
		{on: s.registry, method: "POST", path: "/api/trees/app/retry?wait=20", status: 200, header: auth},
	}
}

// endCapture ends a capture that found one hole.
func (s *scene) endCapture(ctx context.Context, c jobs.Claim) error {
	revision, err := strconv.Atoi(c.Job.Pin)
	if err != nil {
		return err
	}
	err = tree.New(s.db.DB).Put(ctx, c.Job.Target, revision, tree.Holes, []tree.Node{{Hash: goneHash, URLs: []string{"https://files.example/1.tar.gz"},
		Parents: []string{""}, Depth: 1, State: tree.Hole, Code: "upstream_not_found", Reason: "it is gone",
		Tried: []tree.Try{{Kind: "archive", URL: "https://files.example/1.tar.gz", Code: "upstream_not_found", Message: "it is gone"}}}}, nil)
	if err != nil {
		return err
	}
	return s.db.Jobs.End(ctx, c, jobs.Outcome{State: jobs.Succeeded, Result: map[string]any{
		"tree": c.Job.Target, "revision": revision, "nodes": 1, "stored": 0, "holes": 1}})
}

// A bundle has each package of a tree once, whichever hash pins it, and is the same bytes from wherever one asks.
func TestBundle(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	rel := g.publish("hello", tagged{tag: "v1.0.0", files: zon("hello", "1.0.0")})[0]
	text := asManifest(rel.ZigHash, rel.ZigLegacyHash, goneHash)
	a := g.do("POST", "/api/bundle", asBody(t, wire.WantBundle{Manifests: manifests(text), Partial: true}))
	var listed bundle.Manifest
	var got []bundle.Package
	err := bundle.Read(bytes.NewReader(a.body), func(m bundle.Manifest) error { listed = m; return nil }, func(p bundle.Package, body io.Reader) error {
		got = append(got, p)
		return nil
	})
	if err != nil || a.ContentLength != int64(len(a.body)) {
		t.Fatalf("%d bytes, Content-Length %d: %v", len(a.body), a.ContentLength, err)
	}
	if len(got) != 1 || got[0].Hash != rel.ZigHash || len(got[0].Aliases) != 1 || got[0].Aliases[0] != rel.ZigLegacyHash || got[0].SHA256 != rel.Digest {
		t.Errorf("packages = %+v, want one with both hashes", got)
	}
	if len(listed.Holes) != 1 || listed.Holes[0].Hash != goneHash || listed.Holes[0].Code != "not_stored" {
		t.Errorf("holes = %+v", listed.Holes)
	}
	if again := g.do("POST", "/api/bundle", asBody(t, wire.WantBundle{Manifests: manifests(text), Partial: true})); !bytes.Equal(again.body, a.body) {
		t.Error("the same tree gives other bytes")
	}
	whole := g.do("POST", "/api/bundle", asBody(t, wire.WantBundle{Manifests: manifests(text)}))
	var holes wire.Holes
	whole.into(t, &holes)
	if whole.StatusCode != http.StatusConflict || holes.Code != "holes" || len(holes.Holes) != 1 || holes.Holes[0].URLs[0] != "https://files.example/2.tar.gz" {
		t.Errorf("with a hole: %d %s", whole.StatusCode, whole.body)
	}
	// What only lazy dependencies want is missed by no build that does not ask for it: it is told, and refuses nothing.
	lazy := strings.Replace(text, goneHash+`" }`, goneHash+`", .lazy = true }`, 1)
	listed = bundle.Manifest{}
	a = g.do("POST", "/api/bundle", asBody(t, wire.WantBundle{Manifests: manifests(lazy)}))
	err = bundle.Read(bytes.NewReader(a.body), func(m bundle.Manifest) error { listed = m; return nil }, func(bundle.Package, io.Reader) error { return nil })
	if a.StatusCode != http.StatusOK || err != nil || len(listed.Holes) != 1 || !listed.Holes[0].Lazy {
		t.Errorf("with a lazy hole: %d, %v, holes %+v", a.StatusCode, err, listed.Holes)
	}
}

// A bundle whose bytes are lost midway does not look whole.
func TestBundleBreaksOff(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	rel := g.publish("hello", tagged{tag: "v1.0.0", files: zon("hello", "1.0.0")})[0]
	g.must(os.Remove(filepath.Join(g.dir, "blobs", rel.Digest[:2], rel.Digest)))
	body := asBody(t, wire.WantBundle{Manifests: manifests(asManifest(rel.ZigHash))})
	resp, err := http.Post(g.url+"/api/bundle", "application/json", strings.NewReader(body))
	if err == nil { // else nothing came at all
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
	}
	if err == nil {
		t.Error("a bundle without a package's bytes was read to its end")
	}
	// Once that is known it is said.
	g.must(g.db.Scrub.Damaged(t.Context(), rel.Digest, "lost"))
	if a := g.do("POST", "/api/bundle", body); a.StatusCode != http.StatusServiceUnavailable || a.code() != "damaged" {
		t.Errorf("a bundle of what is known as lost: %d %s, want 503 and damaged", a.StatusCode, a.body)
	}
}

// A tree is not whole while the bytes of one of its packages are known as damaged or lost.
func TestTreeOfDamage(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	rel := g.publish("hello", tagged{tag: "v1.0.0", files: zon("hello", "1.0.0")})[0]
	trees := tree.New(g.db.DB)
	_, err := trees.Begin(t.Context(), "app", []tree.Root{{File: "build.zig.zon", Text: asManifest(rel.ZigHash)}}, false)
	g.must(err)
	g.must(trees.Put(t.Context(), "app", 1, tree.Whole, []tree.Node{{Hash: rel.ZigHash, URLs: []string{"https://h/x"}, Parents: []string{""}, Depth: 1, State: tree.Stored}}, nil))
	check := func(when, state, nodeState, code string, missing int) {
		t.Helper()
		var info wire.TreeInfo
		g.get("/api/trees/app").into(t, &info)
		if n := info.Packages[0]; info.State != state || info.Missing != missing || n.State != nodeState || n.Code != code || n.Source == nil {
			t.Errorf("%s: it is %s with %d missing, its package %s %q of %v", when, info.State, info.Missing, n.State, n.Code, n.Source)
		}
	}
	check("at first", tree.Whole, tree.Stored, "", 0)
	g.must(g.db.Scrub.Damaged(t.Context(), rel.Digest, "lost"))
	check("damaged", tree.Holes, tree.Hole, "damaged", 1)
	g.must(g.db.Scrub.Checked(t.Context(), rel.Digest, time.Now()))
	check("mended", tree.Whole, tree.Stored, "", 0)
}

// What is private is in no stranger's bundle, tree, list or answer.
// What a URL has of a user and a password is not kept with the manifest.
func TestTreeKeepsNoPassword(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	text := strings.Replace(asManifest(goneHash), "https://", "https://me:hunter2@", 1)
	capture := func(text string) int {
		return g.do("POST", "/api/trees", asBody(t, wire.Capture{Name: "app", Manifest: text}), "Authorization", "Bearer "+token).StatusCode
	}
	if got := capture(text); got != http.StatusAccepted {
		t.Fatalf("status = %d", got)
	}
	roots, err := tree.New(g.db.DB).Roots(t.Context(), "app", 1)
	g.must(err)
	if len(roots) != 1 || strings.Contains(roots[0].Text, "hunter2") || !strings.Contains(roots[0].Text, "\"https://files.example/0.tar.gz\"") {
		t.Errorf("kept: %+v", roots)
	}
	hidden := strings.Replace(text, "me:hunter2", `me:hunter\x32`, 1)
	if got := capture(hidden); got != http.StatusBadRequest {
		t.Errorf("a password behind an escape: status = %d, want 400", got)
	}
}

// A tree that is private for what is in it takes some time to be found so, which a stranger cannot tell from one that does not exist.
func TestNoTreeTakesItsTime(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	hello := g.publish("hello", tagged{tag: "v1.0.0", files: zon("hello", "1.0.0")})[0]
	trees := tree.New(g.db.DB)
	c, err := trees.Begin(t.Context(), "app", []tree.Root{{File: "build.zig.zon", Text: asManifest(hello.ZigHash)}}, false)
	g.must(err)
	g.must(trees.Put(t.Context(), "app", c.Revision, tree.Whole, []tree.Node{{Hash: hello.ZigHash, URLs: []string{"https://h/x"}, Parents: []string{""}, Depth: 1, State: tree.Stored}}, nil))
	g.must(g.db.SetVisibility(access.SeePrivate(t.Context()), "hello", true))
	for _, path := range []string{"/api/trees/%s", "/api/trees/%s/sbom", "/api/trees/%s/bundle", "/trees/%s"} {
		for _, name := range []string{"app", "none"} {
			for _, accept := range []string{"application/json", browser} {
				began := time.Now()
				a := g.get(fmt.Sprintf(path, name), "Accept", accept)
				if took := time.Since(began); a.StatusCode != http.StatusNotFound || took < 20*time.Millisecond {
					t.Errorf("%s of %s: %d after %v", path, name, a.StatusCode, took)
				}
			}
		}
	}
}

// Who reads a large tree slowly holds memory, as much as a client may have, and others are told to come again.
func TestTreesAreHeld(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	trees := tree.New(g.db.DB)
	for path, size := range map[string]int{"/api/trees/a": 5000, "/api/trees/b/sbom": 2500} {
		name := strings.Split(path, "/")[3]
		_, err := trees.Begin(t.Context(), name, []tree.Root{{File: "build.zig.zon", Text: asManifest(goneHash)}}, false)
		g.must(err)
		nodes := make([]tree.Node, size)
		for i := range nodes {
			at := fmt.Sprintf("https://files.example/%d/%s.tar.gz", i, strings.Repeat("x", 1500))
			nodes[i] = tree.Node{Hash: fmt.Sprintf("1220%064x", i), URLs: []string{at}, Parents: []string{""}, Depth: 1, State: tree.Hole, Code: "upstream_not_found", Reason: "gone"}
		}
		g.must(trees.Put(t.Context(), name, 1, tree.Holes, nodes, nil))
		conn := g.dial()
		g.must(conn.(*net.TCPConn).SetReadBuffer(64 << 10))
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, g.addr)
		status, err := bufio.NewReaderSize(conn, 16).ReadString('\n')
		if err != nil || !strings.Contains(status, " 200 ") {
			t.Fatalf("%s: %q, %v", path, status, err)
		}
		if a := g.get(path); a.StatusCode != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" || a.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s, while one reads it slowly: %d %v, %d bytes, want 503", path, a.StatusCode, a.Header, len(a.body))
		}
		conn.Close()
		eventually(t, path+" can be had when nobody reads it", func() bool { return g.get(path).StatusCode == http.StatusOK })
	}
}

func TestPrivateTrees(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	rel := g.publish("hello", tagged{tag: "v1.0.0", files: zon("hello", "1.0.0")})[0]
	legacy, at := "1220"+strings.Repeat("6", 64), "https://files.example/secret.tar.gz"
	trees := tree.New(g.db.DB)
	_, _, err := trees.Publish(t.Context(), tree.Archive{URL: at, ZigLegacyHash: legacy, Digest: rel.Digest, Size: rel.Size, ContentType: "application/gzip",
		Format: "tar.gz", TarballDigest: rel.Digest, TarballSize: rel.Size, RecordDigest: rel.ManifestDigest, Private: true}, false)
	g.must(err)
	c, err := trees.Begin(t.Context(), "app", []tree.Root{{File: "build.zig.zon", Text: asManifest(legacy)}}, false)
	g.must(err)
	g.must(trees.Put(t.Context(), "app", 1, tree.Whole, []tree.Node{{Hash: legacy, URLs: []string{at}, Parents: []string{""}, State: tree.Stored}}, nil))
	for path, want := range map[string]int{"/api/trees/app": 404, "/api/trees/app/bundle": 404, "/api/trees/app/sbom": 404, "/z/" + legacy + ".tar.gz": 404, "/api/jobs/" + c.Job.String(): 404,
		"/api/archives?" + url.Values{"url": {at}}.Encode(): 404, "/api/trees": 200, "/api/jobs": 200} {
		if a := g.get(path); a.StatusCode != want || bytes.Contains(a.body, []byte("secret.tar")) || bytes.Contains(a.body, []byte(`"app"`)) {
			t.Errorf("%s to a stranger: %d %s", path, a.StatusCode, a.body)
		}
		a := g.get(path, "Authorization", "Bearer "+token)
		if a.StatusCode != 200 || strings.Contains(a.Header.Get("Cache-Control"), "public") {
			t.Errorf("%s with a token: %d %v %.200s", path, a.StatusCode, a.Header, a.body)
		}
	}
	body := asBody(t, wire.WantBundle{Manifests: manifests(asManifest(legacy))})
	if a := g.do("POST", "/api/bundle", body); a.StatusCode != http.StatusConflict {
		t.Errorf("a stranger's bundle: %d", a.StatusCode)
	}
	if a := g.do("POST", "/api/bundle", body, "Authorization", "Bearer "+token); a.StatusCode != http.StatusOK {
		t.Errorf("a bundle with a token: %d %s", a.StatusCode, a.body)
	}
	// What was removed is still what the tree had.
	g.must(g.db.SetVisibility(access.SeePrivate(t.Context()), "hello", true))
	_, err = trees.Begin(t.Context(), "lib", []tree.Root{{File: "build.zig.zon", Text: asManifest(rel.ZigHash)}}, false)
	g.must(err)
	g.must(trees.Put(t.Context(), "lib", 1, tree.Whole, []tree.Node{{Hash: rel.ZigHash, URLs: []string{"git+https://files.example/secret"}, Parents: []string{""}, State: tree.Stored}}, nil))
	for _, what := range []string{`"archive":"` + at + `"`, `"package":"hello"`} {
		if a := g.post("/api/remove", `{`+what+`,"reason":"holds a key"}`); a.StatusCode != http.StatusOK {
			t.Fatalf("remove %s: %d %s", what, a.StatusCode, a.body)
		}
	}
	for path, want := range map[string]int{"/api/trees/app": 404, "/api/trees/lib": 404, "/trees/lib": 404, "/api/trees/app/sbom": 404, "/api/trees": 200, "/api/changes": 200} {
		if a := g.get(path); a.StatusCode != want || bytes.Contains(a.body, []byte("files.example")) || bytes.Contains(a.body, []byte(`"app"`)) || bytes.Contains(a.body, []byte(`"lib"`)) {
			t.Errorf("%s to a stranger once what is private was removed: %d %s", path, a.StatusCode, a.body)
		}
	}
	if a := g.get("/api/trees/lib", "Authorization", "Bearer "+token); a.StatusCode != http.StatusOK {
		t.Errorf("the tree with a token: %d %s", a.StatusCode, a.body)
	}
	for _, name := range []string{"app", "lib"} {
		if rec, err := trees.RevisionRecord(t.Context(), name, 1); err != nil || !rec.Private {
			t.Errorf("the record of %s: %+v, %v, want a private one", name, rec, err)
		}
	}
}

// An archive is served by its hash beside releases.
func TestArchiveByHash(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	rel := g.publish("hello", tagged{tag: "v1.0.0", files: zon("hello", "1.0.0")})[0]
	legacy := "1220" + strings.Repeat("6", 64)
	g.putArchive("https://files.example/x.tar.gz", rel, legacy)
	a := g.get("/z/" + legacy + ".tar.gz")
	if a.StatusCode != 200 || a.Header.Get("Content-Type") != "application/gzip" || a.Header.Get("ETag") != `"`+rel.Digest+`"` || int64(len(a.body)) != rel.Size {
		t.Errorf("by hash: %d %v, %d bytes", a.StatusCode, a.Header, len(a.body))
	}
}

// Who uses a package is told from captured trees, to those who may see these.
func TestDependents(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	hello := g.publish("hello", tagged{tag: "v1.0.0", files: zon("hello", "1.0.0")})[0]
	user := g.publish("user", tagged{tag: "v2.0.0", files: zon("user", "2.0.0")})[0]
	trees := tree.New(g.db.DB)
	put := func(name string, private bool, nodes ...tree.Node) {
		t.Helper()
		c, err := trees.Begin(t.Context(), name, []tree.Root{{File: "build.zig.zon", Text: asManifest(nodes[0].Hash)}}, private)
		g.must(err)
		g.must(trees.Put(t.Context(), name, c.Revision, tree.Whole, nodes, nil))
	}
	node := func(hash string, parents ...string) tree.Node {
		return tree.Node{Hash: hash, URLs: []string{"https://files.example/x"}, Parents: parents, Depth: 1, State: tree.Stored}
	}
	put("old", false, node(hello.ZigHash, ""))
	put("old", false, node(user.ZigHash, "")) // the newest revision counts
	put("app", false, node(user.ZigHash, ""), node(hello.ZigHash, user.ZigHash))
	put("Both", false, node(hello.ZigLegacyHash, "", user.ZigHash), node(user.ZigHash, ""))
	put("secret", true, node(hello.ZigHash, ""))
	get := func(path string, header ...string) (out wire.Dependents) {
		t.Helper()
		g.get(path, header...).into(t, &out)
		return out
	}
	first := get("/api/dependents/hello?limit=1")
	if len(first.Dependents) != 1 || first.Next == "" {
		t.Fatalf("the first page = %+v", first)
	}
	if d := first.Dependents[0]; d.Tree != "app" || d.Hash != hello.ZigHash || d.Tag != "v1.0.0" || d.Direct || len(d.By) != 1 || d.By[0].Name != "user" || d.By[0].Package != "user" || d.Named != 1 {
		t.Errorf("of app: %+v", d)
	}
	second := get(first.Next)
	if len(second.Dependents) != 1 || second.Dependents[0].Tree != "Both" || !second.Dependents[0].Direct || second.Dependents[0].Hash != hello.ZigLegacyHash {
		t.Errorf("the second page = %+v", second)
	}
	if all := get("/api/dependents/hello"); len(all.Dependents) != 2 {
		t.Errorf("a stranger sees %+v", all)
	}
	if all := get("/api/dependents/hello", "Authorization", "Bearer "+token); len(all.Dependents) != 3 || all.Dependents[2].Tree != "secret" {
		t.Errorf("with a token: %+v", all)
	}
	page := string(g.get("/hello", "Accept", browser).body)
	if !strings.Contains(page, `href="/trees/app"`) || strings.Contains(page, "secret") {
		t.Error("the package's page does not say who uses it, or tells of a private tree")
	}
}
