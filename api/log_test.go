package api_test

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/bundle"
	"github.com/francescobianco/packbase/storage/ledger"
	"github.com/francescobianco/packbase/storage/logbook"
)

// sequence gives what is published its numbers in the log.
func (g *registry) sequence() {
	g.t.Helper()
	_, err := ledger.NewSequencer(g.db.DB, ledger.Options{Folder: ledger.FolderBeside(g.dir), KeyFile: filepath.Join(g.dir, "log.key")}).Step(g.t.Context())
	g.must(err)
}

// The log is read from its files while the database is away, and from the database where there are no files; it is the same.
func TestLogFiles(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	g.publish("hello", tagged{tag: "v1.0.0", files: zon("hello", "1.0.0")})
	if a := g.get("/log/checkpoint"); a.StatusCode != 404 {
		t.Errorf("checkpoint of an empty log: status %d", a.StatusCode)
	}
	g.sequence()
	away := g.withoutPostgres()
	paths := []string{"/log/checkpoint", "/log/policy", "/log/tile/0/000.p/2", "/log/tile/entries/000.p/2"}
	files := map[string]string{}
	for _, path := range paths {
		a := away.get(path)
		if files[path] = string(a.body); a.StatusCode != 200 || len(a.body) == 0 {
			t.Errorf("%s without Postgres: status %d, %q", path, a.StatusCode, a.body)
		}
	}
	g.must(os.RemoveAll(filepath.Join(g.dir, "log")))
	for _, path := range paths {
		if a := g.get(path); a.StatusCode != 200 || string(a.body) != files[path] {
			t.Errorf("%s without files: status %d, %q, want %q", path, a.StatusCode, a.body, files[path])
		}
	}
}

// Where a release is in the log stands in info, beside its manifest and on its page: pending, then its index and the proof. A
// package that is private has none, and a registry that has no log says nothing.
func TestLogShown(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	rel := g.publish("hello", tagged{tag: "v1.0.0", files: zon("hello", "1.0.0")})[0]
	const manifest, short = "/p/hello/tag/v1.0.0.json", "/p/hello/tag/v1.0.0.manifest.json"
	shown := func(log, proof string) {
		t.Helper()
		var info wire.Package
		g.must(json.Unmarshal(g.get("/api/info/hello").body, &info))
		if got := info.Tarballs[0].Logged; got != (wire.Logged{Log: log, Proof: proof}) {
			t.Errorf("info: %+v, want %q, %q", got, log, proof)
		}
		if got := g.get(short).Header.Get("X-Packbase-Log"); got != log {
			t.Errorf("%s: %q, want %q", short, got, log)
		}
		a, link := g.get(manifest), ""
		if proof == "" {
			log = "" // it is cached for ever
		} else {
			link = "<" + proof + `>; rel="https://c2sp.org/tlog-proof"`
		}
		if got := a.Header.Get("X-Packbase-Log"); got != log || a.Header.Get("Link") != link || string(a.body) != string(g.get(short).body) {
			t.Errorf("%s: %q, %q, want %q, %q", manifest, got, a.Header.Get("Link"), log, link)
		}
	}
	page := func(want string) {
		t.Helper()
		if body := string(g.do("GET", "/hello", "", "Accept", "text/html").body); !strings.Contains(body, want) {
			t.Errorf("the page does not say %s", want)
		}
	}
	shown("", "")

	g.sequence()
	shown("index 1", "/p/hello/tag/v1.0.0.tlog-proof")
	page(`<dt>Log</dt><dd><a href="/p/hello/tag/v1.0.0.tlog-proof" title="The proof that it is in the log">index 1</a></dd>`)
	if a := g.get("/z/" + rel.ZigHash + ".tlog-proof"); a.StatusCode != 200 {
		t.Errorf("proof: %d", a.StatusCode)
	}
	behind, postgres := g.gated()
	behind.get(manifest)
	postgres.shut()
	if a := behind.get(manifest); a.StatusCode != 200 || a.Header.Get("X-Packbase-Log") != "index 1" {
		t.Errorf("a manifest that was asked for, while Postgres is away: %d, %q", a.StatusCode, a.Header.Get("X-Packbase-Log"))
	}
	g.publish("hello", tagged{tag: "v2.0.0", files: zon("hello", "2.0.0")})
	var info wire.Package
	g.must(json.Unmarshal(g.get("/api/info/hello").body, &info))
	if got := info.Tarballs[0].Logged; got.Log != "pending" || got.Proof != "" {
		t.Errorf("what is not signed yet: %+v", got)
	}
	page("<dt>Log</dt><dd>pending</dd>")
	if got := g.get("/p/hello/tag/v2.0.0.manifest.json").Header.Get("X-Packbase-Log"); got != "pending" {
		t.Errorf("manifest of what is not signed yet: %q", got)
	}
}

// What the log says of packages is in bundles, and answered by itself, the same: a proof under one checkpoint, and what was
// logged of it since. What is private or pending has none.
func TestProofsOfPackages(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	one := g.publish("one", tagged{tag: "v1.0.0", files: zon("one", "1.0.0")})[0]
	two := g.publish("two", tagged{tag: "v1.0.0", files: zon("two", "1.0.0")})[0]
	hidden := g.publish("hidden", tagged{tag: "v1.0.0", files: zon("hidden", "1.0.0")})[0]
	g.must(g.db.SetVisibility(access.SeePrivate(t.Context()), "hidden", true))
	g.sequence()
	moved := strings.Repeat("f", 40)
	g.exec(`INSERT INTO moved_tags (package, tag, old_oid, new_oid) VALUES ('two', 'v1.0.0', '` + two.CommitOID + `', '` + moved + `')`)
	late := g.publish("late", tagged{tag: "v1.0.0", files: zon("late", "1.0.0")})[0]
	hashes := []string{two.ZigLegacyHash, one.ZigHash, hidden.ZigHash, late.ZigHash, goneHash, one.ZigHash}
	policy := g.get("/log/policy").body
	ask := func() (p wire.Proofs) {
		t.Helper()
		a := g.do("POST", "/api/proofs", asBody(t, wire.WantProofs{Hashes: hashes}))
		a.into(t, &p)
		return p
	}
	holds := func(p wire.Proofs, i int, rel storage.Release, later ...string) {
		t.Helper()
		e, _, err := logbook.OpenProof([]byte(p.Proofs[i].Proof+p.Checkpoint), policy)
		if err != nil || e.Value("commit") != rel.CommitOID || p.Proofs[i].Hash != e.Value("zig") && p.Proofs[i].Hash != e.Value("zig-legacy") {
			t.Errorf("%s: %v, %v", p.Proofs[i].Hash, e, err)
		}
		var said []string
		for _, proof := range p.Proofs[i].Later {
			e, _, err := logbook.OpenProof([]byte(proof+p.Checkpoint), policy)
			g.must(err)
			said = append(said, e.Kind()+" "+e.Value("new"))
		}
		if !slices.Equal(said, later) {
			t.Errorf("%s: later the log says %q, want %q", p.Proofs[i].Hash, said, later)
		}
	}
	first := ask()
	if len(first.Proofs) != 2 {
		t.Fatalf("%+v", first)
	}
	holds(first, 0, two)
	holds(first, 1, one)
	g.sequence()
	all := ask()
	if len(all.Proofs) != 3 {
		t.Fatalf("%+v", all)
	}
	holds(all, 0, two, "moved "+moved)
	text := asManifest(one.ZigHash, one.ZigLegacyHash, two.ZigLegacyHash, late.ZigHash)
	a := g.do("POST", "/api/bundle", asBody(t, wire.WantBundle{Manifests: manifests(text)}))
	err := bundle.Read(bytes.NewReader(a.body), func(m bundle.Manifest) error {
		p := wire.Proofs{Checkpoint: m.Checkpoint}
		for _, pkg := range m.Packages {
			p.Proofs = append(p.Proofs, wire.Proof{Hash: pkg.Hash, Proof: pkg.Proof, Later: pkg.Later})
		}
		if len(p.Proofs) != 3 || p.Checkpoint != all.Checkpoint || !reflect.DeepEqual(p.Proofs[0], all.Proofs[0]) {
			t.Errorf("the bundle has %+v", p)
		}
		return nil
	}, func(bundle.Package, io.Reader) error { return nil })
	if err != nil || a.ContentLength != int64(len(a.body)) {
		t.Errorf("bundle: %v, %d of %d bytes", err, len(a.body), a.ContentLength)
	}
}
