package upkeep_test

import (
	"context"
	"iter"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/storagetest"
	"github.com/francescobianco/packbase/worker/upkeep"
	"github.com/francescobianco/packbase/worker/workertest"
)

// spoilSilently changes bytes as a disk does: no time tells of it.
func spoilSilently(t *testing.T, r *workertest.Registry, digest string) {
	t.Helper()
	info, err := os.Stat(r.Path(digest))
	r.Must(err)
	r.Spoil(digest, workertest.Flip)
	r.Must(os.Chtimes(r.Path(digest), info.ModTime(), info.ModTime()))
}

// A scrub reads everything within its period, finds what no time tells of, and
// mends it; of two keepers one works.
func TestScrub(t *testing.T) {
	t.Parallel()
	r := workertest.New(t)
	stop := r.Work()
	rel := r.Mirror("hello", "v1.0.0", "v2.0.0")
	stop()
	spoilSilently(t, r, rel[0].Digest)
	spoilSilently(t, r, uses(t, r)["segment"][1])

	const period = 2 * time.Second
	var mu sync.Mutex
	var probed []string
	var findings []upkeep.Finding
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	begun := time.Now()
	for range 2 {
		k := &upkeep.Keeper{Period: period, Log: slog.New(slog.DiscardHandler), Probe: func(_ context.Context, pkg string) {
			mu.Lock()
			defer mu.Unlock()
			probed = append(probed, pkg)
		}}
		k.Auditor = upkeep.Auditor{DB: r.DB, Blobs: r.Blobs, Staging: r.Staging, Report: func(f upkeep.Finding) {
			mu.Lock()
			defer mu.Unlock()
			findings = append(findings, f)
		}}
		wg.Go(func() { k.Run(ctx) })
	}
	r.Eventually("everything was read and mended", func() bool {
		mu.Lock()
		defer mu.Unlock()
		s, err := r.Scrub.State(t.Context(), period)
		r.Must(err)
		return len(findings) == 2 && s.Damaged == 0 && s.Since.After(begun)
	})
	cancel()
	wg.Wait()
	for _, f := range findings {
		if !f.Mended || f.Code != "blob_corrupt" {
			t.Errorf("finding: %+v", f)
		}
	}
	if !slices.Contains(probed, "hello") {
		t.Error("the package was not probed again")
	}
	a, found := auditor(r)
	r.Must(a.Verify(t.Context(), false))
	if len(*found) != 0 {
		t.Errorf("after: %v", *found)
	}
	var release func()
	var err error
	// Postgres may not know yet that the keeper is gone that had just asked for it.
	r.Eventually("the keepers have left their lock", func() (ok bool) {
		release, ok, err = r.Scrub.TryLock(t.Context())
		r.Must(err)
		return ok
	})
	defer release()
	if _, ok, err := r.Scrub.TryLock(t.Context()); err != nil || ok {
		t.Errorf("two hold the lock (%v)", err)
	}
	time.Sleep(time.Millisecond)
	if s, err := r.Scrub.State(t.Context(), time.Millisecond); err != nil || s.Behind == 0 {
		t.Errorf("nothing is behind a period of a millisecond (%v)", err)
	}
	if s, err := r.Scrub.State(t.Context(), 0); err != nil || s.Behind != 0 {
		t.Errorf("%d are behind without a period (%v)", s.Behind, err)
	}
}

// A hooked store does something once it has listed its blobs.
type hooked struct {
	blob.Store
	listed func()
}

func (h hooked) List(ctx context.Context) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) {
		h.Store.List(ctx)(yield)
		h.listed()
	}
}

// Fsck of a registry that publishes meanwhile finds nothing.
func TestFsckWhileLive(t *testing.T) {
	t.Parallel()
	r := workertest.New(t)
	r.Work()
	r.Mirror("hello", "v1.0.0")
	a, found := auditor(r)
	a.Blobs = hooked{r.Blobs, func() { r.Mirror("hello", "v2.0.0") }}
	r.Must(a.Fsck(t.Context()))
	a.Blobs = hooked{r.Blobs, func() { r.Mirror("other", "v1.0.0") }}
	if n, err := a.Notice(t.Context()); err != nil {
		t.Errorf("notice: %d (%v)", n, err)
	}
	r.Eventually("what was noticed was read", func() bool {
		due, err := r.Scrub.Due(t.Context(), 100)
		return err == nil && len(due) == 0
	})
	if s, err := r.Scrub.State(t.Context(), time.Hour); err != nil || s.Damaged != 0 {
		t.Errorf("%d blobs are taken for damaged (%v)", s.Damaged, err)
	}
	if len(*found) != 0 {
		t.Errorf("findings: %v", *found)
	}
}

// A check that is ended midway reports nothing that it did not see.
func TestFsckEnded(t *testing.T) {
	t.Parallel()
	r := workertest.New(t)
	stop := r.Work()
	r.Mirror("hello", "v1.0.0", "v2.0.0")
	stop()
	tx, err := r.Pool.Begin(t.Context())
	r.Must(err)
	defer tx.Rollback(context.Background())
	_, err = tx.Exec(t.Context(), `LOCK TABLE packs`) // where it waits until it is ended
	r.Must(err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	a, found := auditor(r)
	if err := a.Fsck(ctx); err == nil || len(*found) != 0 {
		t.Errorf("it ended with %v and the findings %v, want an error and none", err, *found)
	}
}

// Fsck tells of what is lost, cut or not named.
func TestFsckFinds(t *testing.T) {
	t.Parallel()
	r := workertest.New(t)
	stop := r.Work()
	rel := r.Mirror("hello", "v1.0.0", "v2.0.0")
	stop()
	r.Spoil(rel[0].Digest, nil)
	r.Spoil(rel[1].Digest, func(b []byte) []byte { return b[1:] })
	stray := "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	r.Must(put(t, r, nil, stray))
	old := time.Now().Add(-2 * upkeep.Grace)
	r.Must(os.Chtimes(r.Path(stray), old, old))
	a, found := auditor(r)
	r.Must(a.Fsck(t.Context()))
	got := map[string]string{}
	for _, f := range *found {
		got[f.Subject] = f.Code
	}
	want := map[string]string{rel[0].Digest: "blob_missing", rel[1].Digest: "blob_size", stray: "blob_unnamed"}
	if len(*found) != len(want) {
		t.Errorf("findings: %v", *found)
	}
	for subject, code := range want {
		if got[subject] != code {
			t.Errorf("%s: %q, want %q", subject, got[subject], code)
		}
	}
	if n, err := a.Notice(t.Context()); err != nil || n != 2 {
		t.Errorf("notice: %d suspects, want 2 (%v)", n, err)
	}
	n, _, err := a.GC(t.Context(), upkeep.Grace, false)
	if err != nil || n != 1 {
		t.Errorf("gc removed %d blobs, want the stray one (%v)", n, err)
	}
}

// Fsck tells which releases no Git client can fetch.
func TestFsckFindsPacks(t *testing.T) {
	t.Parallel()
	r := workertest.New(t)
	r.DB = storagetest.NewOwner(t)
	stop := r.Work()
	r.Mirror("hello", "v1.0.0", "v2.0.0", "v3.0.0", "v4.0.0")
	stop()
	_, err := r.Pool.Exec(t.Context(), `
		ALTER TABLE packs DISABLE TRIGGER USER;
		CREATE TABLE tagged AS SELECT tag, p.* FROM packs p JOIN releases r ON r.id = release_id;
		DELETE FROM packs WHERE release_id = (SELECT release_id FROM tagged WHERE tag = 'v1.0.0');
		UPDATE packs SET bitmap = 'no bitmap' WHERE release_id = (SELECT release_id FROM tagged WHERE tag = 'v2.0.0');
		UPDATE packs p SET bitmap = o.bitmap, objects = o.objects FROM tagged o, tagged own
			WHERE own.release_id = p.release_id AND own.tag = 'v3.0.0' AND o.tag = 'v4.0.0'`)
	r.Must(err)
	a, found := auditor(r)
	r.Must(a.Fsck(t.Context()))
	got := map[string]string{}
	for _, f := range *found {
		got[f.Subject] = f.Code
	}
	if want := map[string]string{"hello@v1.0.0": "pack_missing", "hello@v2.0.0": "pack_bitmap", "hello@v3.0.0": "pack_incomplete"}; !maps.Equal(got, want) {
		t.Errorf("findings: %v, want %v", *found, want)
	}
}

// A row that shows what its record hides, as in a dump that somebody changed, is found.
func TestFsckFindsWhatIsNoLongerPrivate(t *testing.T) {
	t.Parallel()
	r := workertest.New(t)
	stop := r.Work()
	r.Mirror("hello", "v1.0.0")
	all := access.SeePrivate(t.Context())
	r.Must(r.SetVisibility(all, "hello", true))
	a, found := auditor(r)
	r.Must(a.KeepRecord(all, "hello"))
	stop()
	for _, test := range []struct {
		private bool
		codes   []string
	}{{true, nil}, {false, []string{"record_contested"}}} {
		_, err := r.Pool.Exec(all, `UPDATE packages SET private = $1`, test.private)
		r.Must(err)
		*found = nil
		r.Must(a.Fsck(all))
		var codes []string
		for _, f := range *found {
			codes = append(codes, f.Code)
		}
		if !slices.Equal(codes, test.codes) {
			t.Errorf("private %v: found %v, want %q", test.private, *found, test.codes)
		}
	}
	job, _, err := r.Jobs.RequestProbe(all, "hello")
	r.Must(err)
	*found = nil
	if r.Must(a.Fsck(all)); len(*found) > 0 {
		t.Errorf("before job %s ended, which writes the record: %v", job.ID, *found)
	}
}

// What is written while a blob is being read has not been read.
func TestNoticeWhileReading(t *testing.T) {
	t.Parallel()
	r := workertest.New(t)
	stop := r.Work()
	rel := r.Mirror("hello", "v1.0.0")
	stop()
	a, _ := auditor(r)
	began := time.Now()
	time.Sleep(20 * time.Millisecond) // the clock of a file system goes in ticks
	r.Spoil(rel[0].Digest, workertest.Flip)
	r.Must(r.Scrub.Checked(t.Context(), rel[0].Digest, began))
	if n, err := a.Notice(t.Context()); err != nil || n == 0 {
		t.Errorf("notice: %d suspects, want one (%v)", n, err)
	}
}

// GC keeps everything that a row names, however old, histories included.
func TestGCKeepsWhatIsNamed(t *testing.T) {
	t.Parallel()
	r := workertest.New(t)
	stop := r.Work()
	r.Mirror("hello", "v1.0.0", "v2.0.0")
	stop()
	names := uses(t, r)
	for _, use := range []string{"tarball", "manifest", "segment", "segment index", "record", "history", "history index"} {
		if len(names[use]) == 0 {
			t.Errorf("the registry has no %s", use)
		}
	}
	a, _ := auditor(r)
	if _, _, err := a.GC(t.Context(), 0, false); err != nil {
		t.Fatal(err)
	}
	a, found := auditor(r)
	r.Must(a.Fsck(t.Context()))
	r.Must(a.Verify(t.Context(), false))
	if len(*found) != 0 {
		t.Errorf("after gc: %v", *found)
	}
	left := map[string]bool{}
	for info, err := range r.Blobs.List(t.Context()) {
		r.Must(err)
		left[info.Digest] = true
	}
	count := 0
	for _, digests := range names {
		count += len(digests)
	}
	if len(left) != count {
		t.Errorf("%d blobs are left, want the %d that are named", len(left), count)
	}
}
