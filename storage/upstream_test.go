package storage_test

import (
	"errors"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/release"
)

// What owns a name and what is dialled for it are the same place, whoever
// says so: a request, the catalog, a central or a manifest among the blobs.
func TestUpstreamAgrees(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const good = "https://git.example/owner/hello"
	for _, tt := range []struct {
		canonical, clone string
		ok               bool
	}{
		{good, good, true},
		{good, good + ".git", true},
		{"fixture:hello", "fixture:hello", true},
		{"fixture:hello", "fixture:hello.git", true},
		{good, "https://evil.example/owner/hello", false},
		{good, "http://git.example/owner/hello", false},
		{good, "git+" + good, false},
		{good, good + "#v1.0.0", false},
		{good, good + "/", false},
		{good, "ssh://git.example/owner/hello", false},
		{good, "file:///etc", false},
		{good, "", false},
		{"", "", false},
		{good, "fixture:hello", false},
		{"fixture:hello", good, false},
		{"fixture:hello", "fixture:other", false},
		{"fixture:hello", "fixture:/etc/hello", false},
		{"fixture:hello", "fixture:../hello", false},
		{"fixture:..", "fixture:..", false},
		{"fixture:", "fixture:", false},
		{"fixture:/etc", "fixture:/etc", false},
	} {
		up := name.Upstream{Canonical: tt.canonical, CloneURL: tt.clone}
		p := publication("hello", "v1.0.0", "hello")
		p.Upstream, p.CloneURL = tt.canonical, tt.clone
		record := &storage.PackageRecord{Package: "hello", Upstream: tt.canonical, CloneURL: tt.clone, State: storage.Active}
		_, _, requested := f.RequestFetch(f.ctx, "hello", up)
		for _, entry := range []struct {
			name string
			err  error
		}{
			{"request", requested},
			{"release", f.Adopt(f.ctx, "adopted", storage.Adoption{Publications: []storage.Publication{p}})},
			{"record", f.Adopt(f.ctx, "recorded", storage.Adoption{Record: record, RecordBlob: blob.Ref{Digest: hash("record", 64)}})},
		} {
			if tt.ok && errors.Is(entry.err, fault.ErrInvalid) || !tt.ok && !errors.Is(entry.err, fault.ErrInvalid) {
				t.Errorf("%s: %q for %q: %v, want ok %v", entry.name, tt.clone, tt.canonical, entry.err, tt.ok)
			}
		}
	}
	if n := f.count(`SELECT count(*) FROM packages WHERE upstream NOT IN ($1, 'fixture:hello')`, good); n != 0 {
		t.Errorf("%d packages have an upstream that was refused", n)
	}

	one, two := publication("two", "v1.0.0", "one"), publication("two", "v2.0.0", "two")
	one.Upstream, one.CloneURL = good, good
	two.Upstream, two.CloneURL = "fixture:two", "fixture:two"
	if err := f.Adopt(f.ctx, "two", storage.Adoption{Publications: []storage.Publication{one, two}}); !errors.Is(err, fault.ErrConflict) {
		t.Errorf("releases of two upstreams: %v, want a conflict", err)
	}
}

// Manifests and records that earlier releases wrote name a fixture's folder by
// its path. Only the name counts.
func TestHideFolder(t *testing.T) {
	t.Parallel()
	man := &release.Manifest{Version: release.ManifestVersion, Upstream: "fixture:hello", CloneURL: "fixture:/srv/fixtures/hello.git", CreatedAt: time.Now()}
	raw, err := man.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if man, err = release.ParseManifest(raw); err != nil || man.CloneURL != "fixture:hello.git" {
		t.Errorf("manifest: clone URL %q (%v)", man.CloneURL, err)
	}
	rec := &storage.PackageRecord{Upstream: "fixture:hello", CloneURL: "fixture:/srv/hello"}
	if raw, err = rec.Encode(); err != nil {
		t.Fatal(err)
	}
	if rec, err = storage.ParsePackageRecord(raw); err != nil || rec.CloneURL != "fixture:hello" {
		t.Errorf("record: clone URL %q (%v)", rec.CloneURL, err)
	}
}
