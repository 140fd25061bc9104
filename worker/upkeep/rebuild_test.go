package upkeep_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/storagetest"
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
