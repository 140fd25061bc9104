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
	"time"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
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
	r.Must(a.Rebuild(access.SeePrivate(t.Context())))
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
		rec.Upstream, rec.CloneURL, rec.State = "https://git.example/"+rec.Package, "https://git.example/"+rec.Package, "active"
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
		"another name":                  {record(storage.PackageRecord{Package: "thief", Names: []string{"Hello"}}), 0, "not_rebuilt hello, not_rebuilt thief"},
		"nothing published":             {record(storage.PackageRecord{Package: "HELLO"}), 2, ""},
		"one claim, two commits":        {manifest(func(m *release.Manifest) { m.Commit = strings.Repeat("1", 40) }), 1, "release_lost hello@v1.0.0"},
		"a later claim, another commit": {manifest(func(m *release.Manifest) { m.Fence, m.Commit = m.Fence+10, strings.Repeat("1", 40) }), 1, "release_lost hello@v1.0.0"},
		"another upstream's releases":   {record(storage.PackageRecord{Package: "hello", Fence: 100, Releases: 2}), 0, "not_rebuilt hello"},
		"another upstream's claim":      {record(storage.PackageRecord{Package: "hello", Fence: 100}), 2, ""},
		"a branch that is a path": {record(storage.PackageRecord{Package: "hello", Fence: 100, Branches: map[string]string{"a/../b": strings.Repeat("1", 40)}}), 2,
			"release_lost "},
		"a branch that is a commit": {record(storage.PackageRecord{Package: "hello", Fence: 100,
			Branches: map[string]string{strings.Repeat("1", 40): strings.Repeat("2", 40)}}), 2, "release_lost "},
		"the same commit twice": {manifest(func(m *release.Manifest) { m.CreatedAt = m.CreatedAt.Add(1) }), 2, ""},
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

// What is private does not become public because a record is lost or forged, nor does what was removed come back: of two
// stories the one that shows less is taken, and told.
func TestRebuildShowsNoMore(t *testing.T) {
	t.Parallel()
	r := workertest.New(t)
	stop := r.Work()
	r.Mirror("hello", "v1.0.0")
	first := recordOf(t, r, "hello")
	r.Mirror("hello", "v2.0.0")
	all := access.SeePrivate(t.Context())
	hide := func(private bool) []byte { // and returns the record that says so
		r.Must(r.SetVisibility(all, "hello", private))
		if job := r.Fetch("hello"); job.State != jobs.Succeeded {
			t.Fatalf("fetch: %s", job.ErrorMessage)
		}
		return recordOf(t, r, "hello")
	}
	open := recordOf(t, r, "hello")
	hidden := hide(true)
	shown := hide(false)
	stop()
	later := func(raw []byte, change func(*storage.PackageRecord)) []byte {
		rec, err := storage.ParsePackageRecord(raw)
		r.Must(err)
		rec.Fence += 100
		change(rec)
		b, err := rec.Encode()
		r.Must(err)
		return b
	}
	nothing := func(*storage.PackageRecord) {}
	unproven := func(rec *storage.PackageRecord) { rec.Private, rec.StateReason = true, storage.Unproven }
	removed := later(shown, func(rec *storage.PackageRecord) {
		rec.Releases = 1
		rec.Removed = []storage.Tombstone{{Tag: "v1.0.0", CommitOID: strings.Repeat("1", 40), Reason: "asked for", RemovedAt: time.Now()}}
	})
	gone := later(shown, func(rec *storage.PackageRecord) {
		rec.State, rec.StateReason, rec.Releases = storage.Removed, "asked for", 0
	})
	for _, raw := range [][]byte{hidden, shown} { // the others went when it was hidden
		r.Spoil(digestOf(raw), nil)
	}
	for name, tt := range map[string]struct {
		records        [][]byte
		public         bool // what the operator says
		releases       int  // that strangers see
		found, settled string
	}{
		"a record that it is public":                 {[][]byte{shown}, false, 2, "", ""},
		"made private":                               {[][]byte{open, hidden}, false, 0, "", ""},
		"made private, and the operator is careless": {[][]byte{open, hidden}, true, 0, "", ""},
		"no record":                                  {nil, false, 0, "record_lost", storage.Unproven},
		"an earlier record":                          {[][]byte{first}, true, 0, "record_lost", ""},
		"no record, and the operator says it is so":  {nil, true, 2, "", ""},
		"a forged one of a later claim":              {[][]byte{hidden, later(open, nothing)}, false, 0, "record_contested", ""},
		"the same, and the operator is careless":     {[][]byte{hidden, later(open, nothing)}, true, 0, "record_contested", ""},
		"a forged one that nobody decided":           {[][]byte{hidden, later(open, unproven)}, true, 0, "record_lost", ""},
		"rebuilt before, and written down":           {[][]byte{later(open, unproven)}, false, 0, "record_lost", storage.Unproven},
		"rebuilt before, and decided":                {[][]byte{later(open, unproven)}, true, 2, "", ""},
		"a removal that a later one forgets":         {[][]byte{removed, later(removed, func(rec *storage.PackageRecord) { rec.Removed = nil })}, false, 1, "record_contested", ""},
		"a package's removal that a later one forgets": {[][]byte{gone, later(gone, func(rec *storage.PackageRecord) { rec.State = storage.Active })}, false, 0,
			"record_contested", "asked for"},
	} {
		for _, raw := range tt.records {
			r.Must(put(t, r, raw, digestOf(raw)))
		}
		db := storagetest.NewDB(t)
		var codes []string
		a := &upkeep.Auditor{DB: db, Blobs: r.Blobs, Staging: r.Staging, Public: tt.public, Report: func(f upkeep.Finding) {
			codes = append(codes, f.Code)
			if f.Code == "record_lost" && !strings.Contains(f.Problem, "packbase visibility hello public") {
				t.Errorf("%s: %s: it does not say what to do", name, f.Problem)
			}
		}}
		r.Must(a.Rebuild(all))
		seen, err := db.Releases(t.Context(), "hello")
		r.Must(err)
		if len(seen) != tt.releases || strings.Join(codes, " ") != tt.found {
			t.Errorf("%s: strangers see %d releases, want %d; found %q, want %q", name, len(seen), tt.releases, codes, tt.found)
		}
		var reason string
		r.Must(db.Pool.QueryRow(t.Context(), `SELECT state_reason FROM packages`).Scan(&reason))
		if reason != tt.settled {
			t.Errorf("%s: the reason is %q, want %q", name, reason, tt.settled)
		}
		for _, raw := range tt.records {
			r.Spoil(digestOf(raw), nil)
		}
	}
}

// withheld is a store that does not give one blob now.
type withheld struct {
	blob.Store
	digest string
}

func (w withheld) Open(ctx context.Context, digest string) (blob.Blob, error) {
	if digest == w.digest {
		return nil, blob.ErrUnavailable
	}
	return w.Store.Open(ctx, digest)
}

// A record that may show what is to be hidden, and cannot be read, is waited for.
func TestHiddenOnceReadable(t *testing.T) {
	t.Parallel()
	all := access.SeePrivate(t.Context())
	r := workertest.New(t)
	stop := r.Work()
	r.Mirror("hello", "v1.0.0")
	stop()
	before := digestOf(recordOf(t, r, "hello"))
	r.Must(r.SetVisibility(all, "hello", true))
	a, _ := auditor(r)
	a.Blobs = withheld{r.Blobs, before}
	if err := a.KeepRecord(all, "hello"); !errors.Is(err, blob.ErrUnavailable) {
		t.Errorf("without the record before: %v, want ErrUnavailable", err)
	}
	a.Blobs = r.Blobs
	r.Must(a.KeepRecord(all, "hello"))
	r.Spoil(digestOf(recordOf(t, r, "hello")), nil)
	db, lost := rebuild(t, r)
	if seen, err := db.Releases(t.Context(), "hello"); err != nil || len(seen) > 0 {
		t.Errorf("strangers see %d releases (%v), want none; found %v", len(seen), err, lost)
	}
}

// What hides a package, or a release of it, outlives what showed it: if the record that says so is lost, none is left that says
// otherwise, and a database that was restored to the time before is found out.
func TestHiddenStaysHidden(t *testing.T) {
	t.Parallel()
	all := access.SeePrivate(t.Context())
	remove := func(tag string) func(*workertest.Registry) error {
		return func(r *workertest.Registry) error {
			_, err := r.Remove(all, storage.Removal{Package: "hello", Tag: tag, Reason: "asked for"})
			return err
		}
	}
	for name, hide := range map[string]func(*workertest.Registry) error{
		"private":           func(r *workertest.Registry) error { return r.SetVisibility(all, "hello", true) },
		"a release removed": remove("v2.0.0"),
		"removed":           remove(""),
	} {
		for _, edge := range []bool{false, true} { // which has no jobs
			r := workertest.New(t)
			stop := r.Work()
			r.Mirror("hello", "v1.0.0", "v2.0.0")
			before := digestOf(recordOf(t, r, "hello"))
			dump, _ := rebuild(t, r)
			if edge {
				stop()
			}
			r.Must(hide(r))
			a, found := auditor(r)
			if edge {
				r.Must(a.KeepRecord(all, "hello"))
			} else {
				_, _, err := r.Jobs.RequestProbe(all, "hello")
				r.Must(err)
			}
			r.Eventually("there is another record", func() bool {
				_, held, err := r.PackageRecord(all, "hello")
				r.Must(err)
				return held != before
			})
			stop()

			a.DB = dump
			r.Must(a.Fsck(all))
			if !slices.ContainsFunc(*found, func(f upkeep.Finding) bool {
				return f.Code == "record_contested" && strings.HasPrefix(f.Subject, "hello")
			}) {
				t.Errorf("%s, edge %v: restored to the time before: found %v", name, edge, *found)
			}
			r.Spoil(digestOf(recordOf(t, r, "hello")), nil)
			db, lost := rebuild(t, r)
			if seen, err := db.Releases(t.Context(), "hello"); err != nil || len(seen) > 0 {
				t.Errorf("%s, edge %v: strangers see %d releases (%v), want none; found %v", name, edge, len(seen), err, lost)
			}
		}
	}
}

// A commit may have several tags, and one of them be removed: the others come back, unless they were refused because no
// release of the commit was left. What is left of such a one neither comes back nor hides the package.
func TestRebuildRemovedCommits(t *testing.T) {
	t.Parallel()
	all := access.SeePrivate(t.Context())
	r := workertest.New(t)
	defer r.Work()()
	remove := func(pkg, tag string) {
		_, err := r.Remove(all, storage.Removal{Package: pkg, Tag: tag, Reason: "asked for"})
		r.Must(err)
	}
	for _, pkg := range []string{"served", "refused"} {
		r.Mirror(pkg, "v1.0.0", "v2.0.0")
	}
	r.Also("served", "v2.0.0", "v2.0.1")
	r.Fetch("served")
	remove("served", "v2.0.0")
	remove("refused", "v2.0.0")
	r.Also("refused", "v2.0.0", "v2.0.1")
	for _, pkg := range []string{"served", "refused"} {
		r.Fetch(pkg)
	}
	want := map[string][]string{"served": {"v1.0.0", "v2.0.1"}, "refused": {"v1.0.0"}}
	check := func(db *storage.DB, found []upkeep.Finding) {
		t.Helper()
		for pkg, tags := range want {
			var got []string
			releases, err := db.Releases(t.Context(), pkg) // as a stranger sees them
			r.Must(err)
			for i := range releases {
				got = append(got, releases[i].Tag)
			}
			if slices.Sort(got); !slices.Equal(got, tags) {
				t.Errorf("%s has the releases %v, want %v; found %v", pkg, got, tags, found)
			}
		}
	}
	check(r.DB, nil)
	check(rebuild(t, r))
}

// A registry that was rebuilt without records is settled by one command, also when it has worked since; what an operator
// decided one by one stays as it is.
func TestRebuildPublicLater(t *testing.T) {
	t.Parallel()
	r := workertest.New(t)
	stop := r.Work()
	all := access.SeePrivate(t.Context())
	for _, pkg := range []string{"hello", "secret", "known", "hidden"} {
		r.Mirror(pkg, "v1.0.0")
		if pkg == "hidden" { // which its next manifest says, too
			r.Must(r.SetVisibility(all, pkg, true))
			r.Tag(pkg, "v2.0.0", map[string]string{"a": "b"})
			r.Fetch(pkg)
			r.Must(r.SetVisibility(all, pkg, false))
			r.Fetch(pkg)
		}
		if raw := recordOf(t, r, pkg); pkg != "known" {
			r.Spoil(digestOf(raw), nil)
		}
	}
	stop()
	a, _ := auditor(r)
	_, _, err := a.GC(all, 0, false)
	r.Must(err)
	strangers := func() (seen []string) {
		pkgs, err := r.Packages(t.Context())
		r.Must(err)
		for _, p := range pkgs {
			seen = append(seen, p.Name)
		}
		slices.Sort(seen)
		return seen
	}
	db := storagetest.NewDB(t)
	r.DB.Close()
	r.DB = db
	found := 0
	a = &upkeep.Auditor{DB: db, Blobs: r.Blobs, Staging: r.Staging, Report: func(upkeep.Finding) { found++ }}
	r.Must(a.Rebuild(all))
	if got := strangers(); found != 3 || !slices.Equal(got, []string{"known"}) {
		t.Errorf("strangers see %q, and %d findings", got, found)
	}
	r.Must(db.SetVisibility(all, "secret", true))
	r.Work()
	r.Eventually("all have records", func() bool {
		left, err := db.Scrub.Unrecorded(all, 10)
		r.Must(err)
		return len(left) == 0
	})
	again, _ := rebuild(t, r)
	if pkgs, err := again.Packages(t.Context()); err != nil || len(pkgs) != 1 {
		t.Errorf("rebuilt from the records that were written since: strangers see %d packages (%v), want 1", len(pkgs), err)
	}
	a.Public = true
	r.Must(a.Rebuild(all))
	if got := strangers(); !slices.Equal(got, []string{"hello", "known"}) {
		t.Errorf("after the command strangers see %q, want hello and known", got)
	}
	settled, left := rebuild(t, r)
	if pkgs, err := settled.Packages(t.Context()); err != nil || len(pkgs) != 2 || len(left) != 0 {
		t.Errorf("rebuilt after that: strangers see %d packages (%v), want 2; found %v", len(pkgs), err, left)
	}
}

// recordOf returns the record that is stored of a package.
func recordOf(t *testing.T, r *workertest.Registry, pkg string) []byte {
	t.Helper()
	_, held, err := r.PackageRecord(access.SeePrivate(t.Context()), pkg)
	r.Must(err)
	raw, err := os.ReadFile(r.Path(held))
	r.Must(err)
	return raw
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
