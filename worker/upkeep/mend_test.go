package upkeep_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/worker/upkeep"
	"github.com/francescobianco/packbase/worker/workertest"
)

func TestMain(m *testing.M) { workertest.Main(m) }

// auditor returns one that keeps its findings.
func auditor(r *workertest.Registry) (a *upkeep.Auditor, found *[]upkeep.Finding) {
	found = &[]upkeep.Finding{}
	return &upkeep.Auditor{DB: r.DB, Blobs: r.Blobs, Staging: r.Staging, Report: func(f upkeep.Finding) { *found = append(*found, f) }}, found
}

// uses returns the digests of all named blobs, by what they are.
func uses(t *testing.T, r *workertest.Registry) map[string][]string {
	t.Helper()
	named, err := r.Scrub.Named(t.Context())
	r.Must(err)
	all := map[string][]string{}
	for digest := range named {
		list, err := r.Scrub.Uses(t.Context(), digest)
		r.Must(err)
		for _, u := range list {
			all[u.Use] = append(all[u.Use], digest)
		}
	}
	for _, list := range all {
		slices.Sort(list)
	}
	return all
}

// contents returns the bytes of all blobs.
func contents(t *testing.T, r *workertest.Registry) map[string][]byte {
	t.Helper()
	named, err := r.Scrub.Named(t.Context())
	r.Must(err)
	all := map[string][]byte{}
	for digest := range named {
		all[digest], err = os.ReadFile(r.Path(digest))
		r.Must(err)
	}
	return all
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func put(t *testing.T, r *workertest.Registry, raw []byte, digest string) error {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "blob")
	r.Must(err)
	defer f.Close()
	_, err = f.Write(raw)
	r.Must(err)
	return r.Blobs.Put(t.Context(), digest, f)
}

// A manifest says who published it and whether that was private, which no row does: it is made again also when others have
// worked since, and the package was hidden.
func TestMendManifest(t *testing.T) {
	t.Parallel()
	r := workertest.New(t)
	r.Work()
	all := access.SeePrivate(t.Context())
	r.Mirror("hello", "v1.0.0", "v2.0.0")
	r.Must(r.SetVisibility(all, "hello", true))
	r.Tag("hello", "v3.0.0", map[string]string{"build.zig": "// three\n"})
	if job := r.Fetch("hello"); job.State != jobs.Succeeded {
		t.Fatal(job.ErrorMessage)
	}
	manifests := uses(t, r)["manifest"]
	if len(manifests) != 3 {
		t.Errorf("%d manifests", len(manifests))
	}
	for _, digest := range manifests {
		a, found := auditor(r)
		r.Spoil(digest, nil)
		if ok, mended, err := a.Mend(all, digest); err != nil || !ok || !mended {
			t.Errorf("%s: ok %v, mended %v, %v: %v", digest, ok, mended, err, *found)
		}
	}
}

// Whatever happens to a blob that can be made again, it is made again, byte
// for byte, and what cannot is reported and makes its package unhealthy.
func TestMend(t *testing.T) {
	t.Parallel()
	r := workertest.New(t)
	stop := r.Work()
	r.Mirror("hello", "v1.0.0", "v1.1.0", "v2.0.0")
	stop()
	right := contents(t, r)
	r.Must(r.RecordProbe(t.Context(), "hello", storage.Probe{Healthy: true}))
	harms := map[string]func([]byte) []byte{"flip": workertest.Flip, "cut": func(b []byte) []byte { return b[:len(b)-1] }, "gone": nil}
	for use, digests := range uses(t, r) {
		for harm, change := range harms {
			a, found := auditor(r)
			before := r.Quarantined()
			r.Spoil(digests[0], change)
			ok, mended, err := a.Mend(t.Context(), digests[0])
			r.Must(err)
			name := use + ", " + harm
			switch use {
			case "tarball", "segment", "segment index", "manifest":
				if !ok || !mended || len(*found) != 1 || !(*found)[0].Mended {
					t.Errorf("%s: ok %v, mended %v, found %v", name, ok, mended, *found)
				}
				if err := blob.Verify(t.Context(), r.Blobs, digests[0]); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			case "record":
				if !ok || !mended {
					t.Errorf("%s: ok %v, mended %v, found %v", name, ok, mended, *found)
				}
				digests = uses(t, r)["record"]
				if err := blob.Verify(t.Context(), r.Blobs, digests[0]); err != nil {
					t.Errorf("%s: its successor: %v", name, err)
				}
			default: // nothing else here has the bytes of a history
				if ok || mended || len(*found) != 1 || (*found)[0].Mended {
					t.Errorf("%s: ok %v, mended %v, found %v", name, ok, mended, *found)
				}
				if p, err := r.PackageByName(t.Context(), "hello"); err != nil || p.Healthy || !strings.Contains(p.ProbeError, use) {
					t.Errorf("%s: healthy %v, because %q (%v)", name, p.Healthy, p.ProbeError, err)
				}
				a.Peer = func(ctx context.Context, b blob.Ref) error { return put(t, r, right[b.Digest], b.Digest) }
				if ok, mended, err := a.Mend(t.Context(), digests[0]); err != nil || !ok || !mended {
					t.Errorf("%s, from the peer: ok %v, mended %v (%v)", name, ok, mended, err)
				}
			}
			want := before + 1
			if harm == "gone" {
				want = before
			}
			if got := r.Quarantined(); got != want {
				t.Errorf("%s: %d files in quarantine, want %d", name, got, want)
			}
			if s, err := r.Scrub.State(t.Context(), time.Hour); err != nil || s.Damaged != 0 {
				t.Errorf("%s: %d blobs are damaged after (%v)", name, s.Damaged, err)
			}
		}
	}
	a, found := auditor(r)
	r.Must(a.Verify(t.Context(), false))
	r.Must(a.Fsck(t.Context()))
	if len(*found) != 0 {
		t.Errorf("findings after: %v", *found)
	}
}

// A segment and its index that are both lost are made again from the tarballs,
// whichever of them is looked at.
func TestMendSegmentWithItsIndex(t *testing.T) {
	t.Parallel()
	for _, use := range []string{"segment", "segment index"} {
		t.Run(use, func(t *testing.T) {
			t.Parallel()
			r := workertest.New(t)
			stop := r.Work()
			r.Mirror("hello", "v1.0.0", "v2.0.0")
			stop()
			all := uses(t, r)
			for _, digest := range append(all["segment"], all["segment index"]...) {
				r.Spoil(digest, workertest.Flip)
			}
			a, found := auditor(r)
			if ok, mended, err := a.Mend(t.Context(), all[use][0]); err != nil || !ok || !mended {
				t.Errorf("ok %v, mended %v, %v, found %v", ok, mended, err, *found)
			}
			segments, err := r.Segments(t.Context(), "hello")
			r.Must(err)
			for _, s := range segments {
				for _, digest := range []string{s.Digest, s.IndexDigest} {
					if err := blob.Verify(t.Context(), r.Blobs, digest); err != nil {
						t.Errorf("afterwards: %v", err)
					}
				}
			}
		})
	}
}

// Verify finds, and tells the workers of, all that is wrong; with repair it
// mends what it can, also what needs another blob that is wrong, too.
func TestVerify(t *testing.T) {
	t.Parallel()
	r := workertest.New(t)
	stop := r.Work()
	rel := r.Mirror("hello", "v1.0.0", "v2.0.0")
	stop()
	segments, err := r.Segments(t.Context(), "hello")
	r.Must(err)
	a, found := auditor(r)
	r.Must(a.Verify(t.Context(), false))
	if len(*found) != 0 {
		t.Fatalf("findings before: %v", *found)
	}
	// Neither the tarball nor the first segment can be made without the other.
	tarball := contents(t, r)[rel[0].Digest]
	r.Spoil(rel[0].Digest, nil)
	r.Spoil(segments[0].Digest, workertest.Flip)
	r.Must(a.Verify(t.Context(), false))
	if len(*found) != 2 || r.Quarantined() != 1 {
		t.Errorf("%d in quarantine, findings: %v", r.Quarantined(), *found)
	}
	if due, err := r.Scrub.Due(t.Context(), 10); err != nil || len(due) != 2 {
		t.Errorf("the workers were told of %d blobs, want 2 (%v)", len(due), err)
	}
	*found = nil
	r.Must(a.Verify(t.Context(), true))
	for _, f := range *found {
		if f.Mended {
			t.Errorf("mended out of nothing: %+v", f)
		}
	}
	if len(*found) != 2 {
		t.Errorf("findings: %v", *found)
	}
	r.Must(put(t, r, tarball, rel[0].Digest))
	*found = nil
	r.Must(a.Verify(t.Context(), true))
	for _, f := range *found {
		if !f.Mended {
			t.Errorf("not mended: %+v", f)
		}
	}
	*found = nil
	r.Must(a.Verify(t.Context(), false))
	if s, err := r.Scrub.State(t.Context(), time.Hour); err != nil || s.Damaged != 0 || len(*found) != 0 {
		t.Errorf("after: %+v, %v (%v)", s, *found, err)
	}
}

// A store that is away says nothing about its blobs.
func TestMendWithoutStore(t *testing.T) {
	t.Parallel()
	r := workertest.New(t)
	stop := r.Work()
	rel := r.Mirror("hello", "v1.0.0")
	stop()
	r.Must(os.Rename(r.Dir+"/blobs", r.Dir+"/away"))
	a, found := auditor(r)
	if ok, _, err := a.Mend(t.Context(), rel[0].Digest); ok || !errors.Is(err, blob.ErrUnavailable) {
		t.Errorf("mend: ok %v (%v), want that the store is away", ok, err)
	}
	if _, _, err := a.MendPackage(t.Context(), "hello"); !errors.Is(err, blob.ErrUnavailable) {
		t.Errorf("mend package: %v, want that the store is away", err)
	}
	if err := a.Verify(t.Context(), true); !errors.Is(err, blob.ErrUnavailable) {
		t.Errorf("verify: %v, want that the store is away", err)
	}
	if s, err := r.Scrub.State(t.Context(), time.Hour); err != nil || s.Damaged != 0 || len(*found) != 0 {
		t.Errorf("%d blobs are taken for damaged, %v (%v)", s.Damaged, *found, err)
	}
	r.Must(os.Rename(r.Dir+"/away", r.Dir+"/blobs"))
	if ok, mended, err := a.Mend(t.Context(), rel[0].Digest); err != nil || !ok || mended {
		t.Errorf("back again: ok %v, mended %v (%v)", ok, mended, err)
	}
}

// What a disk or a server gave wrong for a time, all copies at once, is had back once it gives it right.
func TestMendFromQuarantine(t *testing.T) {
	t.Parallel()
	r := workertest.New(t)
	stop := r.Work()
	r.Mirror("hello", "v1.0.0")
	stop()
	before := contents(t, r)
	for digest := range before {
		r.Must(os.Rename(r.Path(digest), filepath.Join(r.Dir, "quarantine", digest+".X")))
	}
	a, _ := auditor(r)
	for digest := range before {
		if right, mended, err := a.Mend(t.Context(), digest); !right || !mended || err != nil {
			t.Errorf("%s: right %v, mended %v, %v", digest, right, mended, err)
		}
	}
	if after := contents(t, r); !maps.EqualFunc(before, after, bytes.Equal) {
		t.Error("other bytes are there than before")
	}
}

// What is damaged is named, also where there is no room to look at the rest.
func TestVerifyWithoutRoom(t *testing.T) {
	t.Parallel()
	r := workertest.New(t)
	stop := r.Work()
	r.Mirror("hello", "v1.0.0", "v2.0.0")
	stop()
	damaged := uses(t, r)["tarball"][0]
	r.Spoil(damaged, func([]byte) []byte { return []byte("wrong") })
	a, found := auditor(r)
	dir := filepath.Join(t.TempDir(), "staging")
	staging, err := blob.OpenStaging(withheld{Store: r.Blobs}, dir)
	r.Must(err)
	r.Must(os.Remove(dir))
	r.Must(os.WriteFile(dir, nil, 0o600)) // nothing can be staged
	a.Staging = staging
	if err := a.Verify(t.Context(), true); err == nil {
		t.Error("no error, and no tree could be looked at")
	}
	if !slices.ContainsFunc(*found, func(f upkeep.Finding) bool { return f.Subject == damaged && f.Code == "blob_corrupt" }) {
		t.Errorf("found %v, want the damaged tarball", *found)
	}
}
