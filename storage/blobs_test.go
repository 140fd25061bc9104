package storage_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/scrub"
	"github.com/francescobianco/packbase/storage/tree"
)

// Every foreign key to blobs is in the view of named blobs: what it forgets is
// neither read again nor mended, and swept.
func TestNamedBlobsHasEveryForeignKey(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	blob := func(name string) blob.Ref { return blob.Ref{Digest: hash(name, 64), Size: 1} }
	f.publish("hello", "v1.0.0")
	c := f.claim("hello")
	f.must(f.AppendSegment(f.ctx, c, release.Segment{Package: "hello", Objects: 1, Digest: hash("segment", 64), Size: 1}, blob("segment index")))
	f.must(f.SetRecord(f.ctx, c, blob("record")))
	f.must(f.SetHistory(f.ctx, c, storage.History{Refs: map[string]string{}, PackName: hash("history", 40)}, blob("history"), blob("history index")))

	_, _, err := tree.New(f.DB.DB).Publish(f.ctx, tree.Archive{URL: "https://h/x.zip", Format: "zip", ZigLegacyHash: "1220" + hash("files", 64),
		Digest: hash("body", 64), Size: 1, TarballDigest: hash("flat", 64), TarballSize: 1, RecordDigest: hash("its record", 64), RecordSize: 1}, false)
	f.must(err)

	f.must(tree.New(f.DB.DB).Bury(f.ctx, tree.Removal{URL: "https://h/y.zip", Reason: "x", RemovedAt: time.Now()}, blob("removal")))

	f.must(f.exec(`INSERT INTO trees (name, revision) VALUES ('app', 1)`))
	f.must(f.exec(`INSERT INTO tree_revisions (tree, revision, roots, roots_digest, record_digest) VALUES ('app', 1, '[]', $1, $1)`, hash("record", 64)))

	rows, err := f.sql.Query(f.ctx, `
		SELECT c.conrelid::regclass::text, a.attname::text
		FROM pg_constraint c JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)
		WHERE c.contype = 'f' AND c.confrelid = 'blobs'::regclass
		ORDER BY 1, 2`)
	f.must(err)
	type key struct{ table, column string }
	var keys []key
	for rows.Next() {
		var k key
		f.must(rows.Scan(&k.table, &k.column))
		keys = append(keys, k)
	}
	f.must(rows.Err())
	if len(keys) < 10 {
		t.Errorf("%d foreign keys: %v", len(keys), keys)
	}
	for _, k := range keys {
		if n := f.count(fmt.Sprintf(`SELECT count(%s) FROM %s`, k.column, k.table)); n == 0 {
			t.Errorf("%s.%s names no blob: have this test fill it", k.table, k.column)
		}
		unnamed := fmt.Sprintf(`SELECT count(*) FROM %[2]s WHERE %[1]s IS NOT NULL AND NOT EXISTS (
			SELECT FROM blob_names n WHERE n.digest = %[2]s.%[1]s)`, k.column, k.table)
		if n := f.count(unnamed); n != 0 {
			t.Errorf("%s.%s is not in the view blob_names", k.table, k.column)
		}
	}
	before := f.count(`SELECT count(*) FROM blobs`)
	f.must(f.exec(`INSERT INTO blobs (digest, size) VALUES ($1, 1)`, hash("stray", 64)))
	f.must(f.Scrub.Forget(f.ctx))
	named, err := f.Scrub.Named(f.ctx)
	f.must(err)
	if after := f.count(`SELECT count(*) FROM blobs`); after != before || len(named) != before {
		t.Errorf("%d blobs, %d named; want the %d that rows name", after, len(named), before)
	}
}

// A blob that cannot be mended is tried again later each time, makes its
// packages unhealthy, and is forgotten about once it is right.
func TestDamagedBlob(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.publish("hello", "v1.0.0")
	f.publish("other", "v1.0.0")
	for _, pkg := range []string{"hello", "other"} {
		f.must(f.RecordProbe(f.ctx, pkg, storage.Probe{Healthy: true}))
	}
	digest := publication("hello", "v1.0.0", "hellov1.0.0").Release.Digest
	due := func(want int) {
		t.Helper()
		if all, err := f.Scrub.Due(f.ctx, 10); err != nil || len(all) != want {
			t.Errorf("%d blobs are due, want %d (%v)", len(all), want, err)
		}
	}
	due(0)
	f.must(f.Scrub.Suspect(f.ctx, digest))
	due(1)
	if s, err := f.Scrub.State(f.ctx, time.Hour); err != nil || s.Damaged != 0 || s.Behind != 0 || s.Since == nil {
		t.Errorf("suspected only: %+v (%v)", s, err)
	}
	for try := range 12 {
		f.must(f.Scrub.Damaged(f.ctx, digest, "its tarball is lost"))
		due(0)
		wait := time.Duration(f.count(`SELECT extract(epoch FROM mend_at - now())::int FROM blobs WHERE digest = $1`, digest)) * time.Second
		if want := min(time.Minute<<try, 6*time.Hour); wait > want || wait < want-30*time.Second {
			t.Errorf("try %d: the next is in %s, want %s", try, wait, want)
		}
		f.must(f.Scrub.Suspect(f.ctx, digest)) // who asks for it does not hurry it
		due(0)
	}
	if p := f.pkg("hello"); p.Healthy || p.ProbeError != "its tarball is lost" {
		t.Errorf("hello: healthy %v, %q", p.Healthy, p.ProbeError)
	}
	if !f.pkg("other").Healthy {
		t.Error("a package that does not need it is not healthy")
	}
	if s, err := f.Scrub.State(f.ctx, time.Hour); err != nil || s.Damaged != 1 {
		t.Errorf("damaged: %+v (%v)", s, err)
	}
	blobs, err := f.Scrub.OfPackage(f.ctx, "hello")
	f.must(err)
	damaged := 0
	for _, b := range blobs {
		if b.DamagedAt != nil {
			damaged++
		}
	}
	if len(blobs) != 2 || damaged != 1 {
		t.Errorf("hello has %d blobs, %d damaged; want 2 and 1", len(blobs), damaged)
	}
	f.must(f.Scrub.Checked(f.ctx, digest, time.Now()))
	if s, err := f.Scrub.State(f.ctx, time.Hour); err != nil || s.Damaged != 0 {
		t.Errorf("mended: %+v (%v)", s, err)
	}

	// What was not read for longest comes first.
	f.must(f.exec(`UPDATE blobs SET created_at = now() - interval '2 hours'`))
	old, err := f.Scrub.Unchecked(f.ctx, time.Hour, 2)
	f.must(err)
	if len(old) != 2 {
		t.Fatalf("%d blobs are unread for an hour, want 2", len(old))
	}
	for _, b := range old {
		if b.Digest == digest {
			t.Error("what was just read is asked for")
		}
		f.must(f.Scrub.Checked(f.ctx, b.Digest, time.Now()))
	}
	if s, err := f.Scrub.State(f.ctx, time.Hour); err != nil || s.Behind != 1 {
		t.Errorf("behind: %+v, want 1 (%v)", s, err)
	}
}

// What is published at once is counted together: of eight that fit alone, as
// many are taken as fit, by every way in.
func TestBytesAtOnce(t *testing.T) {
	t.Parallel()
	const room, size, fit = 1000, 300, 3
	f := newFixture(t)
	claims := make([]jobs.Claim, 8)
	for i := range claims {
		claims[i] = f.claim(fmt.Sprint("p", i))
	}
	full := func(err error) bool {
		e := (*fault.Error)(nil)
		return errors.As(err, &e) && e.Code == "quota_bytes"
	}
	blob := func(text string, size int64) blob.Ref { return blob.Ref{Digest: hash(text, 64), Size: size} }
	for way, publish := range map[string]func(ctx context.Context, c jobs.Claim, pkg string) error{
		"release": func(ctx context.Context, c jobs.Claim, pkg string) error {
			p := publication(pkg, "v1", pkg)
			p.Release.Size = size
			_, err := f.Publish(ctx, c, p)
			return err
		},
		"segment": func(ctx context.Context, c jobs.Claim, pkg string) error {
			return f.AppendSegment(ctx, c, release.Segment{Package: pkg, Objects: 1, Digest: hash("segment "+pkg, 64), Size: size}, blob("index "+pkg, 10))
		},
		"history": func(ctx context.Context, c jobs.Claim, pkg string) error {
			return f.SetHistory(ctx, c, storage.History{Refs: map[string]string{}, PackName: hash(pkg, 40)}, blob("history "+pkg, size), blob("history index "+pkg, 10))
		},
	} {
		most := room + f.count(`SELECT COALESCE(sum(size), 0) FROM blobs`)
		ctx := scrub.WithMaxBytes(f.ctx, int64(most))
		taken := 0
		for i, err := range at(len(claims), func(i int) error { return publish(ctx, claims[i], fmt.Sprint("p", i)) }) {
			switch {
			case err == nil:
				taken++
			case !full(err):
				t.Errorf("%s of p%d: %v, want quota_bytes", way, i, err)
			}
		}
		if n := f.count(`SELECT sum(size) FROM blobs`); taken != fit || n > most {
			t.Errorf("%s: %d of them were taken, and %d bytes in all; want %d, and %d at most", way, taken, n, fit, most)
		}
	}
	if _, err := f.Publish(f.ctx, claims[0], publication("p0", "v2", "more")); err != nil {
		t.Errorf("without a limit: %v", err)
	}
}
