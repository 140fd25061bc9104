package upkeep_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/storagetest"
	"github.com/francescobianco/packbase/storage/tarball"
	"github.com/francescobianco/packbase/worker/upkeep"
	"github.com/francescobianco/packbase/worker/workertest"
)

// rebuild makes the rows of a new database from the blobs of r.
func rebuild(t *testing.T, r *workertest.Registry) (db *storage.DB, found []upkeep.Finding) {
	t.Helper()
	db = storagetest.NewDB(t)
	a := &upkeep.Auditor{DB: db, Blobs: r.Blobs, Staging: r.Staging, Report: func(f upkeep.Finding) { found = append(found, f) }}
	r.Must(a.Rebuild(t.Context()))
	return db, found
}

// A rebuild gives the rows that there were, and names every release that it
// cannot make again, whatever its blobs have suffered; the others come back.
func TestRebuildLosesNothingInSilence(t *testing.T) {
	t.Parallel()
	r := workertest.New(t)
	stop := r.Work()
	rel := r.Mirror("hello", "v1.0.0", "v2.0.0", "v3.0.0")
	r.Mirror("other", "v1.0.0")
	stop()
	right := contents(t, r)
	same := func(db *storage.DB, want []storage.Release) {
		t.Helper()
		got, err := db.Releases(t.Context(), "hello")
		r.Must(err)
		digests := func(all []storage.Release) (d []string) {
			for _, x := range all {
				d = append(d, x.Tag+" "+x.CommitOID+" "+x.Digest+" "+x.ManifestDigest)
			}
			return d
		}
		if !slices.Equal(digests(got), digests(want)) {
			t.Errorf("releases: %q, want %q", digests(got), digests(want))
		}
		if other, err := db.Releases(t.Context(), "other"); err != nil || len(other) != 1 {
			t.Errorf("other has %d releases (%v)", len(other), err)
		}
	}
	db, found := rebuild(t, r)
	if len(found) != 0 {
		t.Errorf("nothing was wrong: %v", found)
	}
	same(db, rel)
	if p, err := db.PackageByName(t.Context(), "hello"); err != nil || p.CloneURL != "fixture:hello.git" || p.Upstream != "fixture:hello" {
		t.Errorf("package: %+v (%v)", p, err)
	}

	document := []byte("{\n  \"packbase_manifest\": ")
	for _, tt := range []struct {
		name, digest string
		change       func([]byte) []byte
		says         string
	}{
		{"tarball flipped", rel[1].Digest, workertest.Flip, "hello@v2.0.0"},
		{"tarball lost", rel[1].Digest, nil, "hello@v2.0.0"},
		{"manifest flipped", rel[1].ManifestDigest, workertest.Flip, rel[1].ManifestDigest},
		{"manifest flipped at its beginning", rel[1].ManifestDigest, func(b []byte) []byte { b[0] ^= 1; return b }, "hello"},
		{"manifest lost", rel[1].ManifestDigest, nil, "hello"},
		{"manifest of another version", rel[1].ManifestDigest, func([]byte) []byte { return append(document, "99}"...) }, rel[1].ManifestDigest},
		{"manifest too large", rel[1].ManifestDigest, func([]byte) []byte {
			return append(document, bytes.Repeat([]byte{' '}, release.MaxManifestSize)...)
		}, rel[1].ManifestDigest},
	} {
		r.Spoil(tt.digest, tt.change)
		db, found := rebuild(t, r)
		if !slices.ContainsFunc(found, func(f upkeep.Finding) bool { return f.Code == "release_lost" && f.Subject == tt.says }) {
			t.Errorf("%s: findings: %v, want one about %s", tt.name, found, tt.says)
		}
		same(db, slices.Concat(rel[:1], rel[2:]))
		if tt.change != nil {
			r.Spoil(tt.digest, nil)
		}
		r.Must(put(t, r, right[tt.digest], tt.digest))
	}
}

// What an odd manifest says is not believed, and takes nothing else with it; a
// manifest of somebody who had the name before and published nothing is none.
func TestRebuildOddManifests(t *testing.T) {
	t.Parallel()
	r := workertest.New(t)
	stop := r.Work()
	rel := r.Mirror("hello", "v1.0.0", "v2.0.0")
	stop()
	raw := contents(t, r)[rel[0].ManifestDigest]
	forge := func(change func(*release.Manifest)) {
		man, err := release.ParseManifest(raw)
		r.Must(err)
		change(man)
		odd, err := man.Encode()
		r.Must(err)
		r.Must(put(t, r, odd, digestOf(odd)))
	}
	forge(func(m *release.Manifest) { m.Tag, m.Fence, m.CloneURL = "v3.0.0", m.Fence+10, "fixture:/etc" })
	forge(func(m *release.Manifest) { m.Tag, m.Fence = "v4.0.0 ", m.Fence+10 })
	forge(func(m *release.Manifest) { m.Package = "../hello" })
	forge(func(m *release.Manifest) {
		m.Tag, m.Fence, m.Upstream, m.CloneURL = "v5.0.0", m.Fence-1, "https://git.example/hello", "https://git.example/hello"
	})
	db, found := rebuild(t, r)
	got, err := db.Releases(t.Context(), "hello")
	r.Must(err)
	if len(got) != 2 {
		t.Errorf("%d releases, want 2", len(got))
	}
	var lost []string
	for _, f := range found {
		if f.Code == "release_lost" {
			lost = append(lost, f.Subject)
		}
	}
	slices.Sort(lost)
	if len(found) != 3 || len(lost) != 3 || !slices.Contains(lost, "hello@v3.0.0") || !slices.Contains(lost, "hello@v4.0.0 ") || strings.Contains(strings.Join(lost, " "), "v5") {
		t.Errorf("findings: %v", found)
	}
}

// Where blobs contradict each other about a name or a tag, neither is believed; what is not published has no say.
func TestRebuildContested(t *testing.T) {
	t.Parallel()
	r := workertest.New(t)
	stop := r.Work()
	rel := r.Mirror("hello", "v1.0.0", "v2.0.0")
	stop()
	raw := contents(t, r)[rel[0].ManifestDigest]
	manifest := func(change func(*release.Manifest)) []byte {
		man, err := release.ParseManifest(raw)
		r.Must(err)
		change(man)
		b, err := man.Encode()
		r.Must(err)
		return b
	}
	record := func(rec storage.PackageRecord) []byte {
		rec.Version, rec.Upstream, rec.CloneURL, rec.State = storage.RecordVersion, "https://git.example/"+rec.Package, "https://git.example/"+rec.Package, "active"
		b, err := rec.Encode()
		r.Must(err)
		return b
	}
	for name, tt := range map[string]struct {
		odd      []byte
		releases int // of hello
		want     string
	}{
		"another case": {manifest(func(m *release.Manifest) {
			m.Package, m.Upstream, m.CloneURL = "Hello", "https://git.example/hello", "https://git.example/hello"
		}), 0, "not_rebuilt Hello, not_rebuilt hello"},
		"another name":           {record(storage.PackageRecord{Package: "thief", Names: []string{"Hello"}}), 0, "not_rebuilt hello, not_rebuilt thief"},
		"nothing published":      {record(storage.PackageRecord{Package: "HELLO"}), 2, ""},
		"one claim, two commits": {manifest(func(m *release.Manifest) { m.Commit = strings.Repeat("1", 40) }), 1, "release_lost hello@v1.0.0"},
		"the same commit twice":  {manifest(func(m *release.Manifest) { m.CreatedAt = m.CreatedAt.Add(1) }), 2, ""},
		"a claim after which no other can come": {manifest(func(m *release.Manifest) { m.Fence, m.Commit = math.MaxInt64, strings.Repeat("1", 40) }), 2,
			"release_lost "},
	} {
		r.Must(put(t, r, tt.odd, digestOf(tt.odd)))
		db, found := rebuild(t, r)
		var codes []string
		for _, f := range found {
			codes = append(codes, f.Code+" "+strings.ReplaceAll(f.Subject, digestOf(tt.odd), ""))
		}
		slices.Sort(codes)
		got, _ := db.Releases(t.Context(), "hello")
		if len(got) != tt.releases || strings.Join(codes, ", ") != tt.want {
			t.Errorf("%s: %d releases, want %d; findings: %v", name, len(got), tt.releases, found)
		}
		r.Spoil(digestOf(tt.odd), nil)
	}
}

// One release that cannot be held any more, for whatever its files or its
// manifest say, is set aside and named; the others of the package come back.
func TestRebuildOddRelease(t *testing.T) {
	t.Parallel()
	r := workertest.New(t)
	stop := r.Work()
	rel := r.Mirror("hello", "v1.0.0", "v2.0.0")
	stop()
	raw := contents(t, r)[rel[0].ManifestDigest]
	for name, change := range map[string]func(*release.Manifest){
		"a link that leaves the root": func(m *release.Manifest) { escape(t, r, m) },
		"text that Postgres refuses":  func(m *release.Manifest) { m.Description = "a\x00b" },
	} {
		man, err := release.ParseManifest(raw)
		r.Must(err)
		man.Tag, man.TagObject, man.Git.Tags = "v3.0.0", "", nil
		change(man)
		odd, err := man.Encode()
		r.Must(err)
		r.Must(put(t, r, odd, digestOf(odd)))
		db, found := rebuild(t, r)
		got, err := db.Releases(t.Context(), "hello")
		r.Must(err)
		if len(got) != 2 || len(found) != 1 || found[0].Code != "release_lost" || found[0].Subject != "hello@v3.0.0" {
			t.Errorf("%s: %d releases, want 2; findings: %v", name, len(got), found)
		}
		r.Spoil(digestOf(odd), nil)
	}
	man, err := release.ParseManifest(raw)
	r.Must(err)
	man.Fence++
	man.Git.Segment = math.MaxInt  // which is not to be counted up to
	man.Zig.Problem = "no\x00t so" // which the files do not say
	man.Zig.Warnings = []string{"a lie"}
	far, err := man.Encode()
	r.Must(err)
	r.Must(put(t, r, far, digestOf(far)))
	db, found := rebuild(t, r)
	if got, err := db.Releases(t.Context(), "hello"); err != nil || len(got) != 2 || len(found) != 0 {
		t.Errorf("a segment far away: %d releases, want 2 (%v); findings: %v", len(got), err, found)
	} else if i := slices.IndexFunc(got, func(x storage.Release) bool { return x.Tag == "v1.0.0" }); got[i].Zig.Problem != "" || len(got[i].Zig.Warnings) != 0 {
		t.Errorf("Zig says %+v, and never did", got[i].Zig)
	}
}

// escape makes m the manifest of a commit with a link that leaves the root, and
// puts its tarball into the store.
func escape(t *testing.T, r *workertest.Registry, m *release.Manifest) {
	t.Helper()
	dir := t.TempDir()
	spool, err := os.Create(filepath.Join(dir, "spool"))
	r.Must(err)
	defer spool.Close()
	objects := gitpack.NewObjects(spool)
	add := func(typ gitpack.Type, s string) gitpack.OID {
		id, err := objects.Add(typ, int64(len(s)), strings.NewReader(s))
		r.Must(err)
		return id
	}
	link := gitpack.File{Path: "link", Mode: gitpack.ModeSymlink, OID: add(gitpack.Blob, "../../etc")}
	tree, err := objects.WriteTree([]gitpack.File{link}, nil)
	r.Must(err)
	m.Git.Commit = regexp.MustCompile(`(?m)^tree .*$`).ReplaceAll(m.Git.Commit, []byte("tree "+tree.String()))
	m.Tree, m.Commit = tree.String(), add(gitpack.Commit, string(m.Git.Commit)).String()
	f, err := os.Create(filepath.Join(dir, "tarball"))
	r.Must(err)
	defer f.Close()
	scratch, err := os.Create(filepath.Join(dir, "scratch"))
	r.Must(err)
	defer scratch.Close()
	entries := func(yield func(tarball.Entry, error) bool) {
		yield(tarball.Entry{Path: link.Path, Mode: tarball.Symlink, Target: "../../etc", OID: link.OID.String()}, nil)
	}
	info, err := tarball.NewBuilder(scratch, tarball.Form(m.Tarball.Form), tarball.Limits{}).Build(t.Context(), f, tarball.Header{Commit: m.Commit, Time: m.CommitTime}, entries)
	r.Must(err)
	m.Tarball = release.Tarball{Digest: info.Digest, Size: info.Size, MD5: info.MD5, CRC32: info.CRC32,
		ContentDigest: info.ContentDigest, ContentSize: info.ContentSize, Form: m.Tarball.Form}
	r.Must(r.Blobs.Put(t.Context(), info.Digest, f))
}

// A store that cannot be read, and a database that cannot be written, end a
// rebuild: they say nothing of what is stored. Afterwards it can go on.
func TestRebuildStopsAtTheMachine(t *testing.T) {
	t.Parallel()
	r := workertest.New(t)
	stop := r.Work()
	rel := r.Mirror("hello", "v1.0.0", "v2.0.0")
	stop()
	for name, digest := range map[string]string{"manifest": rel[1].ManifestDigest, "tarball": rel[1].Digest} {
		db := storagetest.NewDB(t)
		var found []upkeep.Finding
		a := &upkeep.Auditor{DB: db, Blobs: &unreadable{r.Blobs, digest}, Staging: r.Staging, Report: func(f upkeep.Finding) { found = append(found, f) }}
		if err := a.Rebuild(t.Context()); !errors.Is(err, blob.ErrUnavailable) || !strings.Contains(err.Error(), digest) || len(found) != 0 {
			t.Errorf("%s: err = %v, want ErrUnavailable of %s; findings: %v", name, err, digest, found)
		}
		if got, err := db.Releases(t.Context(), "hello"); err != nil || len(got) != 0 {
			t.Errorf("%s: %d releases (%v), want none: the rest would never come back", name, len(got), err)
		}
	}
	db := storagetest.NewOwner(t)
	_, err := db.Pool.Exec(t.Context(), `ALTER TABLE packs RENAME TO gone`)
	r.Must(err)
	a := &upkeep.Auditor{DB: db, Blobs: r.Blobs, Staging: r.Staging, Report: func(f upkeep.Finding) { t.Errorf("found %v, and the database is broken", f) }}
	if err := a.Rebuild(t.Context()); err == nil {
		t.Error("no error, and hello was not rebuilt")
	}
}

// unreadable is a store whose disk fails within one blob.
type unreadable struct {
	blob.Store
	digest string
}

func (u *unreadable) Open(ctx context.Context, digest string) (blob.Blob, error) {
	b, err := u.Store.Open(ctx, digest)
	if err == nil && digest == u.digest {
		return failing{b}, nil
	}
	return b, err
}

type failing struct{ blob.Blob }

func (failing) Read([]byte) (int, error) {
	return 0, fmt.Errorf("%w: %w", blob.ErrUnavailable, syscall.EIO)
}

// A tree with more entries than the default allows was published under a
// setting that allowed it: it is mended, verified and rebuilt all the same.
func TestRaisedLimits(t *testing.T) {
	t.Parallel()
	r := workertest.New(t)
	const entries = 100_100
	r.Limits.Git.TreeEntries = 2 * entries
	stop := r.Work()
	r.TagEntries("wide", "v1.0.0", entries)
	if job := r.Fetch("wide"); job.State != jobs.Succeeded {
		t.Fatalf("fetch: %s %s", job.ErrorCode, job.ErrorMessage)
	}
	stop()
	rel, err := r.Releases(t.Context(), "wide")
	r.Must(err)
	if _, found := rebuild(t, r); len(found) != 0 || len(rel) != 1 {
		t.Errorf("%d releases; rebuild: %v", len(rel), found)
	}
	for _, digest := range []string{rel[0].Digest, uses(t, r)["segment"][0]} {
		r.Spoil(digest, workertest.Flip)
		a, found := auditor(r)
		if ok, mended, err := a.Mend(t.Context(), digest); err != nil || !ok || !mended {
			t.Errorf("mend %s: ok %v, mended %v, %v (%v)", digest, ok, mended, *found, err)
		}
		r.Must(blob.Verify(t.Context(), r.Blobs, digest))
	}
}
