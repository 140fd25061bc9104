package upkeep_test

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/storagetest"
	"github.com/francescobianco/packbase/storage/tree"
	"github.com/francescobianco/packbase/worker/upkeep"
	"github.com/francescobianco/packbase/worker/workertest"
)

// zipped returns a package as a zip, of which Zig is given another form.
func zipped(t *testing.T, version string) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	for _, f := range [][2]string{
		{"build.zig.zon", `.{ .name = .a, .version = "` + version + `", .fingerprint = 0xe8b7be4300000001, .minimum_zig_version = "0.14.0",
			.paths = .{""}, .dependencies = .{ .b = .{ .url = "https://h.example/b.tar.gz", .hash = "1220` + strings.Repeat("0", 64) + `" } } }`},
		{"src/root.zig", "pub const x = 1;\n"},
	} {
		w, err := z.Create("a/" + f[0])
		if err == nil {
			_, err = w.Write([]byte(f[1]))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// archived returns a registry with archives of three URLs, the last of which answers what the first does.
func archived(t *testing.T) (*workertest.Registry, []tree.Archive) {
	t.Helper()
	r := workertest.New(t)
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/zip")
		w.Header().Set("Content-Disposition", "attachment; filename=x.zip")
		w.Write(zipped(t, strings.Trim(r.URL.Path, "/")))
	}))
	t.Cleanup(up.Close)
	defer r.Work(workertest.Loopback)()
	var all []tree.Archive
	for _, path := range []string{"/1.0.0", "/2.0.0", "/1.0.0?again"} {
		all = append(all, r.FetchArchive(up.URL+path))
	}
	return r, all
}

// The tarball and the record of an archive are made again, byte for byte, whatever happened to them; the bytes that
// upstream sent are nowhere else.
func TestMendArchive(t *testing.T) {
	t.Parallel()
	r, all := archived(t)
	for use, digest := range map[string]string{"tarball": all[0].TarballDigest, "record": all[1].RecordDigest, "body": all[1].Digest} {
		for harm, change := range map[string]func([]byte) []byte{"flip": workertest.Flip, "gone": nil} {
			right, err := os.ReadFile(r.Path(digest))
			r.Must(err)
			a, found := auditor(r)
			r.Spoil(digest, change)
			ok, mended, err := a.Mend(t.Context(), digest)
			r.Must(err)
			if want := use != "body"; ok != want || mended != want || len(*found) != 1 {
				t.Errorf("%s, %s: right %v, mended %v, %v", use, harm, ok, mended, *found)
			}
			if use == "body" {
				r.Must(put(t, r, right, digest))
			}
			r.Must(blob.Verify(t.Context(), r.Blobs, digest))
		}
	}
	// Nor without the tarball's own source.
	r.Spoil(all[0].Digest, nil)
	r.Spoil(all[0].TarballDigest, nil)
	a, found := auditor(r)
	if ok, _, err := a.Mend(t.Context(), all[0].TarballDigest); ok || err != nil || len(*found) != 1 {
		t.Errorf("without what it is made of: right %v, %v (%v)", ok, *found, err)
	}
}

// gc spares what trees and archives need, and fsck and verify have nothing to say of them, but of what is not so.
func TestAuditArchives(t *testing.T) {
	t.Parallel()
	r, all := archived(t)
	s := tree.New(r.DB.DB)
	c, err := s.Begin(t.Context(), "app", []tree.Root{{File: "build.zig.zon"}}, false)
	r.Must(err)
	r.Must(s.Put(t.Context(), "app", c.Revision, tree.Whole, []tree.Node{
		{Hash: all[1].ZigHash, URLs: []string{all[1].URL}, Parents: []string{""}, State: tree.Stored}}, nil))
	_, err = r.Jobs.Cancel(t.Context(), c.Job)
	r.Must(err)
	stray := []byte("nobody's")
	r.Must(put(t, r, stray, digestOf(stray)))
	a, found := auditor(r)
	if n, _, err := a.GC(t.Context(), 0, false); n != 1 || err != nil {
		t.Errorf("gc removed %d blobs (%v), want the stray one: %v", n, err, *found)
	}
	for _, row := range all {
		for _, digest := range []string{row.Digest, row.TarballDigest, row.RecordDigest} {
			r.Must(blob.Verify(t.Context(), r.Blobs, digest))
		}
	}
	a, found = auditor(r)
	r.Must(a.Fsck(t.Context()))
	r.Must(a.Verify(t.Context(), false))
	if len(*found) != 0 {
		t.Errorf("findings about what is right: %v", *found)
	}
	r.Spoil(all[0].TarballDigest, nil)
	r.Must(a.Fsck(t.Context()))
	if len(*found) != 1 || (*found)[0].Code != "blob_missing" {
		t.Errorf("fsck without a tarball: %v", *found)
	}
	a, found = auditor(r)
	r.Must(a.Verify(t.Context(), true))
	if len(*found) != 1 || !(*found)[0].Mended {
		t.Errorf("verify --repair: %v", *found)
	}
	// A row that says of an archive what its bytes belie.
	untrue := all[0]
	untrue.URL, untrue.ZigLegacyHash = "https://h.example/untrue.zip", "1220"+strings.Repeat("ab", 32)
	raw, err := untrue.Record().Encode()
	r.Must(err)
	untrue.RecordDigest, untrue.RecordSize = digestOf(raw), int64(len(raw))
	r.Must(put(t, r, raw, untrue.RecordDigest))
	_, _, err = s.Publish(t.Context(), untrue, true)
	r.Must(err)
	a, found = auditor(r)
	r.Must(a.Verify(t.Context(), false))
	if len(*found) != 1 || (*found)[0].Code != "archive_files" || (*found)[0].Subject != untrue.URL {
		t.Errorf("verify: %v, want what is untrue of %s", *found, untrue.URL)
	}
}

// Archives come back from their records, the same as they were; what a record claims is not believed.
func TestRebuildArchives(t *testing.T) {
	t.Parallel()
	r, all := archived(t)
	forge := func(change func(*tree.Record)) {
		rec := all[1].Record()
		change(rec)
		raw, err := rec.Encode()
		r.Must(err)
		r.Must(put(t, r, raw, digestOf(raw)))
	}
	for i, change := range []func(*tree.Record){
		func(rec *tree.Record) { rec.LegacyHash = all[0].ZigLegacyHash },
		func(rec *tree.Record) { rec.ZigHash = all[0].ZigHash },
		func(rec *tree.Record) { rec.Body.Digest = all[0].Digest },
		func(rec *tree.Record) {
			rec.Tarball = tree.RecordRef{Digest: all[0].TarballDigest, Size: all[0].TarballSize}
		},
		func(rec *tree.Record) { rec.Tarball = rec.Body },
		func(rec *tree.Record) { rec.Body.Size++ },
		func(rec *tree.Record) { rec.ContentType = "x\nSet-Cookie: y" },
		func(rec *tree.Record) { rec.URL = "https://user:secret@h.example/x.zip" },
	} {
		forge(func(rec *tree.Record) {
			rec.URL = fmt.Sprintf("https://h.example/%d.zip", i)
			change(rec)
		})
	}
	var found []upkeep.Finding
	db := storagetest.NewDB(t)
	a := &upkeep.Auditor{DB: db, Blobs: r.Blobs, Staging: r.Staging, Report: func(f upkeep.Finding) { found = append(found, f) }}
	for range 2 { // the second time all is there
		found = nil
		r.Must(a.Rebuild(t.Context()))
		lost := 0
		for _, f := range found {
			if f.Code == "archive_lost" {
				lost++
			}
		}
		if lost != 8 || len(found) != 8 {
			t.Errorf("findings: %v, want the 8 forged", found)
		}
		got, err := tree.New(db.DB).After(t.Context(), 0, 100)
		r.Must(err)
		if len(got) != len(all) {
			t.Fatalf("%d archives came back, want %d", len(got), len(all))
		}
		for i := range got {
			if g, w := same(t, got[i]), same(t, all[i]); g != w {
				t.Errorf("came back as\n%s, was\n%s", g, w)
			}
		}
	}
	// Without its bytes it is lost, and named.
	r.Spoil(all[1].Digest, workertest.Flip)
	_, found = rebuild(t, r)
	if !slices.ContainsFunc(found, func(f upkeep.Finding) bool { return f.Code == "archive_lost" && f.Subject == all[1].URL }) {
		t.Errorf("findings: %v, want one of %s", found, all[1].URL)
	}
}

// Of several records of one archive, or of one tree, the one that says that it is private is believed.
func TestRebuildShowsNoMoreArchives(t *testing.T) {
	t.Parallel()
	r, all := archived(t)
	raw, err := blob.ReadAll(t.Context(), r.Blobs, all[1].RecordDigest)
	r.Must(err)
	for _, by := range []time.Duration{-time.Hour, time.Hour} {
		rec, err := tree.ParseRecord(raw)
		r.Must(err)
		rec.Private, rec.CreatedAt = true, rec.CreatedAt.Add(by)
		odd, err := rec.Encode()
		r.Must(err)
		r.Must(put(t, r, odd, digestOf(odd)))
		db, found := rebuild(t, r)
		if _, err := tree.New(db.DB).ByURL(t.Context(), all[1].URL); !errors.Is(err, fault.ErrNotFound) || len(found) != 0 {
			t.Errorf("record dated %s: %v, want ErrNotFound; found %v", by, err, found)
		}
		r.Spoil(digestOf(odd), nil)
	}
	for _, private := range []bool{true, false} {
		rec := tree.RevisionRecord{Format: 1, Tree: "app", Revision: 1, Private: private, State: tree.Whole, Roots: []tree.Root{{File: "build.zig.zon", Text: ".{}"}},
			CreatedAt: time.Unix(1e9, 0), EndedAt: time.Unix(1e9, 0)}
		if !private {
			rec.EndedAt = rec.EndedAt.Add(time.Hour)
		}
		odd, err := rec.Encode()
		r.Must(err)
		r.Must(put(t, r, odd, digestOf(odd)))
	}
	db, found := rebuild(t, r)
	if _, err := tree.New(db.DB).ByName(t.Context(), "app"); !errors.Is(err, fault.ErrNotFound) || len(found) != 0 {
		t.Errorf("tree: %v, want ErrNotFound; found %v", err, found)
	}
}

// same returns what is the same of one archive in two databases.
func same(t *testing.T, row tree.Archive) string {
	t.Helper()
	row.ID, row.CreatedAt = 0, row.CreatedAt.UTC().Round(time.Microsecond)
	raw, err := json.Marshal(row)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// An older database that is restored beside the blobs serves what was removed since: fsck says so before anything is started.
func TestFsckFindsRemovedArchive(t *testing.T) {
	t.Parallel()
	r, all := archived(t)
	raw, err := (&tree.Removal{URL: all[0].URL, Hashes: []string{all[0].ZigHash, all[0].ZigLegacyHash}, Reason: "it holds a key", RemovedAt: time.Now()}).Encode()
	r.Must(err)
	r.Must(put(t, r, raw, fmt.Sprintf("%x", sha256.Sum256(raw))))
	a, found := auditor(r)
	r.Must(a.Fsck(t.Context()))
	if len(*found) != 1 || (*found)[0].Code != "record_contested" || (*found)[0].Subject != all[0].URL {
		t.Errorf("found %v", *found)
	}
	_, err = tree.New(r.DB.DB).Remove(access.SeePrivate(t.Context()), all[0].URL, "it holds a key")
	r.Must(err)
	*found = nil
	r.Must(a.Fsck(t.Context()))
	if len(*found) != 0 {
		t.Errorf("once it is removed again: %v", *found)
	}
}

// What an operator removed is served by no hash and no URL, its bytes go with gc, and neither a fetch nor a rebuild brings
// it back; other URLs of the same files keep them until they are removed, too.
func TestRemoveArchive(t *testing.T) {
	t.Parallel()
	r, all := archived(t)
	s, ctx := tree.New(r.DB.DB), access.SeePrivate(t.Context())
	left, err := s.Remove(ctx, all[0].URL, "it holds a key")
	if err != nil || !slices.Equal(left, []string{all[2].URL}) {
		t.Errorf("remove: %q, %v; want the other URL of the same files", left, err)
	}
	if _, err := s.ByURL(ctx, all[0].URL); !errors.Is(err, fault.ErrGone) || !strings.Contains(err.Error(), "it holds a key") {
		t.Errorf("by URL: %v, want ErrGone with the reason", err)
	}
	if src, err := s.ByHash(ctx, all[0].ZigHash); err != nil || src.URL != all[2].URL {
		t.Errorf("by hash: %+v, %v, want the other", src, err)
	}
	if left, err := s.Remove(ctx, all[2].URL, "this too"); err != nil || len(left) != 0 {
		t.Errorf("remove the other: %q, %v", left, err)
	}
	for _, hash := range []string{all[0].ZigHash, all[0].ZigLegacyHash} {
		if _, err := s.ByHash(ctx, hash); !errors.Is(err, fault.ErrGone) {
			t.Errorf("by hash: %v, want ErrGone", err)
		}
	}
	if _, err := s.Remove(ctx, all[0].URL, "again"); !errors.Is(err, fault.ErrGone) {
		t.Errorf("again: %v, want ErrGone", err)
	}
	if _, err := s.Remove(ctx, "https://h.example/none", "x"); !errors.Is(err, fault.ErrNotFound) {
		t.Errorf("nothing: %v, want ErrNotFound", err)
	}

	defer r.Work(workertest.Loopback)()
	for _, url := range []string{all[0].URL, all[0].URL + "?another"} {
		id, _, err := s.RequestArchive(ctx, url, "")
		r.Must(err)
		var job jobs.Job
		r.Eventually("the job has ended", func() bool {
			job, err = r.Jobs.ByID(ctx, id)
			r.Must(err)
			return !job.Open()
		})
		if job.ErrorCode != "removed" {
			t.Errorf("fetch %s: %s %s: %s, want that it was removed", url, job.State, job.ErrorCode, job.ErrorMessage)
		}
	}
	r.Eventually("the removals are recorded", func() bool { return len(uses(t, r)["removal"]) == 2 })
	db, found := rebuild(t, r)
	rebuilt := tree.New(db.DB)
	if got, err := rebuilt.After(ctx, 0, 10); err != nil || len(got) != 1 || got[0].URL != all[1].URL || len(found) != 0 {
		t.Errorf("rebuilt with the bytes still here: %+v, %v, %v", got, found, err)
	}
	a, found2 := auditor(r)
	if n, _, err := a.GC(ctx, 0, false); err != nil || n < 4 { // one body, one tarball, two records
		t.Errorf("gc removed %d blobs, %v: %v", n, err, *found2)
	}
	a, found2 = auditor(r)
	r.Must(a.Fsck(ctx))
	r.Must(a.Verify(ctx, false))
	if len(*found2) != 0 {
		t.Errorf("findings: %v", *found2)
	}
	db, found = rebuild(t, r)
	if _, err := tree.New(db.DB).ByURL(ctx, all[0].URL); !errors.Is(err, fault.ErrGone) || len(found) != 0 {
		t.Errorf("rebuilt after gc: %v, %v", err, found)
	}
}

// Trees come back from their records, each revision as its last capture left it; a record that is lost is made again, and
// nothing that a tree needs goes with gc.
func TestRebuildTrees(t *testing.T) {
	t.Parallel()
	r, all := archived(t)
	s := tree.New(r.DB.DB)
	hole := tree.Node{Hash: "1220" + strings.Repeat("7", 64), URLs: []string{"https://h.example/x"}, Parents: []string{all[0].ZigHash}, Depth: 2, Lazy: true, State: tree.Hole,
		Code: "gone", Reason: "404", Tried: []tree.Try{{Kind: "archive", URL: "https://h.example/x", Code: "gone", Message: "404"}}}
	capture := func(name, text string, private bool, holes ...tree.Node) {
		t.Helper()
		c, err := s.Begin(t.Context(), name, []tree.Root{{File: "build.zig.zon", Text: text}}, private)
		r.Must(err)
		nodes := append([]tree.Node{{Hash: all[0].ZigHash, URLs: []string{all[0].URL, all[2].URL}, Parents: []string{""}, Depth: 1, State: tree.Stored}}, holes...)
		r.Must(s.Put(t.Context(), name, c.Revision, []string{tree.Whole, tree.Holes}[len(holes)], nodes, nil))
		_, err = r.Jobs.Cancel(t.Context(), c.Job)
		r.Must(err)
		a, _ := auditor(r)
		r.Must(a.KeepTrees(t.Context()))
	}
	capture("app", ".{ .a = 1 }", false, hole)
	capture("app", ".{ .a = 1 }", false) // the hole was filled
	capture("App", ".{ .a = 2 }", false, hole)
	capture("secret", ".{}", true)
	said := func(s *tree.Store) (docs []string) {
		t.Helper()
		ended, err := s.EndedRevisions(t.Context())
		r.Must(err)
		for _, x := range ended {
			rec, err := s.RevisionRecord(t.Context(), x.Tree, x.Revision)
			r.Must(err)
			raw, err := rec.Encode()
			r.Must(err)
			docs = append(docs, string(raw))
		}
		return docs
	}
	want := said(s)
	if len(want) != 3 || len(uses(t, r)["tree record"]) != 3 {
		t.Fatalf("%d revisions, records %q", len(want), uses(t, r)["tree record"])
	}
	same := func() *tree.Store {
		t.Helper()
		db, found := rebuild(t, r)
		back := tree.New(db.DB)
		if got := said(back); !slices.Equal(got, want) || len(found) != 0 {
			t.Errorf("came back as %s, want %s; %v", got, want, found)
		}
		return back
	}
	same() // with the record of the hole that was filled
	a, found := auditor(r)
	if n, _, err := a.GC(t.Context(), 0, false); n != 1 || err != nil {
		t.Errorf("gc removed %d blobs (%v), want the record that another one stands for: %v", n, err, *found)
	}
	back := same()
	if app, err := back.ByName(t.Context(), "app"); err != nil || app.Revision != 2 || app.Missing != 1 || app.SizeBytes != all[0].TarballSize {
		t.Errorf("app = %+v, %v", app, err)
	}
	if _, err := back.ByName(t.Context(), "secret"); !errors.Is(err, fault.ErrNotFound) {
		t.Errorf("a stranger has the private tree: %v", err)
	}
	if c, err := back.Begin(t.Context(), "app", []tree.Root{{File: "build.zig.zon", Text: ".{ .a = 2 }"}}, false); err != nil || c.Revision != 2 {
		t.Errorf("the same manifest is %+v, %v; want the same revision", c, err)
	}

	for harm, change := range map[string]func([]byte) []byte{"flip": workertest.Flip, "gone": nil} {
		digest := uses(t, r)["tree record"][0]
		r.Spoil(digest, change)
		a, found := auditor(r)
		if ok, mended, err := a.Mend(t.Context(), digest); !ok || !mended || err != nil {
			t.Errorf("%s: right %v, mended %v, %v, %v", harm, ok, mended, err, *found)
		}
		r.Must(blob.Verify(t.Context(), r.Blobs, digest))
	}
	forge := func(change func(*tree.RevisionRecord)) {
		rec, err := s.RevisionRecord(t.Context(), "app", 2)
		r.Must(err)
		change(rec)
		raw, err := rec.Encode()
		r.Must(err)
		r.Must(put(t, r, raw, digestOf(raw)))
	}
	forge(func(rec *tree.RevisionRecord) { rec.Tree = "../x" })
	forge(func(rec *tree.RevisionRecord) { rec.Revision = 0 })
	forge(func(rec *tree.RevisionRecord) { rec.Revision, rec.State = 9, tree.Open })
	forge(func(rec *tree.RevisionRecord) {
		rec.Revision, rec.Nodes[0].URLs = 9, []string{"https://user:secret@h.example/x"}
	})
	forge(func(rec *tree.RevisionRecord) { rec.Revision, rec.Nodes[1].Reason = 9, "a\x00b" })
	db, odd := rebuild(t, r)
	if got := said(tree.New(db.DB)); len(odd) != 5 || len(got) != 3 {
		t.Errorf("%d revisions, findings %v, want the 5 forged", len(got), odd)
	}
	a, found = auditor(r)
	r.Must(a.Fsck(t.Context()))
	r.Must(a.Verify(t.Context(), false))
	if len(*found) != 0 {
		t.Errorf("findings about what is right: %v", *found)
	}
}
