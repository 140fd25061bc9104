package tree_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/feed"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/storagetest"
	"github.com/francescobianco/packbase/storage/tree"
	"github.com/francescobianco/packbase/storage/zigpkg"
)

func digest(n int) string { return fmt.Sprintf("%064x", n) }
func legacy(n int) string { return "1220" + digest(n) }

func archive(url string, files int) tree.Archive {
	return tree.Archive{
		URL: url, ZigHash: fmt.Sprint("a-1.0.0-", files), ZigLegacyHash: legacy(files), Digest: digest(files), Size: 10, ContentType: "application/zip",
		Format: "zip", TarballDigest: digest(files + 1000), TarballSize: 20, RecordDigest: digest(files + 2000), RecordSize: 5,
		Zig:       release.Zig{Name: "a", Version: "1.0.0", Dependencies: []zigpkg.Dependency{{Name: "b", URL: "https://h/b.tar.gz", Hash: legacy(9)}}},
		CreatedAt: time.Now().UTC().Truncate(time.Microsecond),
	}
}

func TestPublish(t *testing.T) {
	t.Parallel()
	s := tree.New(storagetest.NewDB(t).DB)
	for _, tt := range []struct {
		name           string
		archive        tree.Archive
		pinned         bool
		created, moved bool
	}{
		{"first", archive("https://h/x", 1), false, true, false},
		{"the same again", archive("https://h/x", 1), false, false, false},
		{"other files", archive("https://h/x", 2), false, false, true},
		{"other files, asked for by their hash", archive("https://h/x", 2), true, true, true},
		{"other files once more", archive("https://h/x", 3), false, false, true},
		{"the same files at another URL", archive("https://h/y", 1), false, true, false},
	} {
		created, moved, err := s.Publish(t.Context(), tt.archive, tt.pinned)
		if err != nil || created != tt.created || moved != tt.moved {
			t.Errorf("%s: created %v, moved %v, %v, want %v, %v", tt.name, created, moved, err, tt.created, tt.moved)
		}
	}
	got, err := s.ByURL(t.Context(), "https://h/x")
	if err != nil || got.ZigLegacyHash != legacy(1) || got.Zig.Dependencies[0].Hash != legacy(9) {
		t.Errorf("ByURL = %+v, %v, want the first", got, err)
	}
	moves, err := s.Moves(t.Context(), "https://h/x")
	if err != nil || len(moves) != 2 || moves[1].NewLegacyHash != legacy(2) || moves[0].NewLegacyHash != legacy(3) || moves[0].OldLegacyHash != legacy(1) {
		t.Errorf("Moves = %+v, %v, want two, from the first", moves, err)
	}
	for _, hash := range []string{legacy(2), "a-1.0.0-2"} {
		if src, err := s.ByHash(t.Context(), hash); err != nil || src.Digest != digest(1002) || src.Kind != "archive" {
			t.Errorf("ByHash(%s) = %+v, %v", hash, src, err)
		}
	}
	if _, err := s.ByHash(t.Context(), legacy(3)); !errors.Is(err, fault.ErrNotFound) {
		t.Errorf("ByHash of nothing: err = %v, want ErrNotFound", err)
	}
	if _, err := s.ByURL(t.Context(), "https://h/z"); !errors.Is(err, fault.ErrNotFound) {
		t.Errorf("ByURL of nothing: err = %v, want ErrNotFound", err)
	}
}

// Invariant 9: nobody changes an archive, not by SQL either.
func TestArchivesAreFrozen(t *testing.T) {
	t.Parallel()
	db := storagetest.NewOwner(t).DB
	s := tree.New(db)
	if _, _, err := s.Publish(t.Context(), archive("https://h/x", 1), false); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{"UPDATE archives SET size = 11", "DELETE FROM archives", "TRUNCATE archives CASCADE"} {
		if _, err := db.Pool.Exec(t.Context(), sql); err == nil || !strings.Contains(err.Error(), "frozen") {
			t.Errorf("%s: err = %v, want a refusal", sql, err)
		}
	}
}

func TestTree(t *testing.T) {
	t.Parallel()
	s := tree.New(storagetest.NewDB(t).DB)
	ctx := t.Context()
	roots := []tree.Root{{File: "build.zig.zon", Text: ".{}"}}
	other := []tree.Root{{File: "build.zig.zon", Text: ".{ .dependencies = .{} }"}}
	first, err := s.Begin(ctx, "Zls", other, false)
	if err != nil || first.Revision != 1 || !first.Created {
		t.Fatalf("Begin = %+v, %v, want revision 1", first, err)
	}
	if same, err := s.Begin(ctx, "zls", other, false); err != nil || same.Job != first.Job || same.Created || same.Tree != "Zls" {
		t.Fatalf("Begin again = %+v, %v, want the open job %s", same, err, first.Job)
	}
	if c, err := s.Begin(ctx, "zls", roots, false); err != nil || c.Revision != 2 || !c.Created {
		t.Fatalf("Begin with other roots = %+v, %v, want revision 2", c, err)
	}
	if _, _, err := s.Publish(ctx, archive("https://h/x", 1), false); err != nil {
		t.Fatal(err)
	}
	job := uuid.New()
	nodes := []tree.Node{
		{Hash: legacy(1), URLs: []string{"https://h/x"}, Parents: []string{""}, Depth: 1, State: tree.Stored},
		{Hash: legacy(2), URLs: []string{"https://h/y", "https://h/z"}, Parents: []string{"", legacy(1)}, Lazy: true, Depth: 2, State: tree.Hole,
			Code: "gone", Reason: "404", Tried: []tree.Try{{Kind: "archive", URL: "https://h/y", Code: "gone", Message: "404"}}},
		{Hash: legacy(3), URLs: []string{"https://h/3"}, Parents: []string{""}, Depth: 1, State: tree.Waiting, Job: &job},
	}
	if err := s.Put(ctx, "zls", 2, tree.Open, nodes, []tree.Problem{{Name: "x", Reason: "no hash"}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(ctx, "zls", 2, tree.Holes, nodes[:2], nil); err != nil {
		t.Fatal(err)
	}
	got, problems, err := s.Nodes(ctx, "ZLS", 2)
	if err != nil || len(got) != 2 || len(problems) != 0 {
		t.Fatalf("Nodes = %+v, %v, %v, want two", got, problems, err)
	}
	if n := got[1]; n.Code != "gone" || !slices.Equal(n.URLs, nodes[1].URLs) || len(n.Tried) != 1 || !n.Lazy {
		t.Errorf("node = %+v, want %+v", n, nodes[1])
	}
	tr, err := s.ByName(ctx, "zls")
	if err != nil || tr.Name != "Zls" || tr.Revision != 2 || tr.State != tree.Holes || tr.Nodes != 2 || tr.Missing != 1 || tr.SizeBytes != 20 {
		t.Errorf("ByName = %+v, %v", tr, err)
	}
	if all, err := s.List(ctx, "", 10); err != nil || len(all) != 1 {
		t.Errorf("List = %+v, %v", all, err)
	}
	if back, err := s.Roots(ctx, "zls", 2); err != nil || !slices.Equal(back, roots) {
		t.Errorf("Roots = %v, %v", back, err)
	}
	if _, err := s.ByName(ctx, "nosuch"); !errors.Is(err, fault.ErrNotFound) {
		t.Errorf("ByName of nothing: err = %v, want ErrNotFound", err)
	}
}

// Retry forgets what was tried of holes, unless a capture is under way, which may still be at it.
func TestRetry(t *testing.T) {
	t.Parallel()
	db := storagetest.NewDB(t)
	s, ctx := tree.New(db.DB), t.Context()
	c, err := s.Begin(ctx, "t", []tree.Root{{File: "build.zig.zon"}}, false)
	if err != nil {
		t.Fatal(err)
	}
	hole := tree.Node{Hash: legacy(2), URLs: []string{"https://h/y"}, Parents: []string{""}, State: tree.Hole, Code: "gone", Tried: []tree.Try{{Kind: "archive", Code: "gone"}}}
	stored := tree.Node{Hash: legacy(3), URLs: []string{"https://h/z"}, Parents: []string{""}, State: tree.Stored}
	if err := s.Put(ctx, "t", 1, tree.Holes, []tree.Node{hole, stored}, nil); err != nil {
		t.Fatal(err)
	}
	if again, err := s.Retry(ctx, "t"); err != nil || again.Created || again.Job != c.Job {
		t.Errorf("Retry of an open capture = %+v, %v, want its job", again, err)
	}
	if nodes, _, err := s.Nodes(ctx, "t", 1); err != nil || nodes[0].State != tree.Hole {
		t.Errorf("nodes = %+v, %v, want the hole as it was", nodes, err)
	}
	if _, err := db.Jobs.Cancel(ctx, c.Job); err != nil {
		t.Fatal(err)
	}
	if again, err := s.Retry(ctx, "T"); err != nil || !again.Created || again.Job == c.Job {
		t.Errorf("Retry = %+v, %v, want another job", again, err)
	}
	if nodes, _, err := s.Nodes(ctx, "t", 1); err != nil || nodes[0].State != tree.Waiting || len(nodes[0].Tried) != 0 || nodes[1].State != tree.Stored {
		t.Errorf("nodes = %+v, %v, want none tried", nodes, err)
	}
	if tr, err := s.ByName(ctx, "t"); err != nil || tr.State != tree.Open {
		t.Errorf("the tree is %s, %v, want it open", tr.State, err)
	}
	if _, err := s.Retry(ctx, "nosuch"); !errors.Is(err, fault.ErrNotFound) {
		t.Errorf("Retry of nothing: err = %v, want ErrNotFound", err)
	}
}

// One job for a URL and a hash, however many ask for it at once.
func TestOneArchiveJob(t *testing.T) {
	t.Parallel()
	db := storagetest.NewDB(t)
	s := tree.New(db.DB)
	made := make(chan bool)
	for range 10 {
		go func() {
			_, created, err := s.RequestArchive(t.Context(), "https://h/x", legacy(1))
			if err != nil {
				t.Error(err)
			}
			made <- created
		}()
	}
	n := 0
	for range 10 {
		if <-made {
			n++
		}
	}
	if _, other, err := s.RequestArchive(t.Context(), "https://h/x", ""); err != nil || !other || n != 1 {
		t.Errorf("%d jobs for one hash, another for none: %v, %v; want one each", n, other, err)
	}
}

// A tree is hidden once: its records are not made anew for each archive that it has and that is private.
func TestHiddenOnce(t *testing.T) {
	t.Parallel()
	s, ctx := tree.New(storagetest.NewDB(t).DB), access.SeePrivate(t.Context())
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.Begin(ctx, "app", []tree.Root{{File: "build.zig.zon"}}, false)
	must(err)
	must(s.Put(ctx, "app", 1, tree.Whole, nil, nil))
	for i, want := range []int{1, 0} {
		must(s.Hide(ctx, "app"))
		left, err := s.UnrecordedRevisions(ctx, 10)
		if err != nil || len(left) != want {
			t.Errorf("hidden %d times: %d revisions without a record, %v, want %d", i+1, len(left), err, want)
		}
		rec, err := s.RevisionRecord(ctx, "app", 1)
		must(err)
		must(s.SetRevisionRecord(ctx, rec, blob.Ref{Digest: digest(7), Size: 1}))
	}
}

// What credentials were needed for is shown to those who see private packages, trees included that have it.
func TestPrivate(t *testing.T) {
	t.Parallel()
	s, ctx := tree.New(storagetest.NewDB(t).DB), t.Context()
	a := archive("https://h/x", 1)
	a.Private = true
	if _, _, err := s.Publish(ctx, a, false); err != nil {
		t.Fatal(err)
	}
	for name, private := range map[string]bool{"has": false, "asked": true} {
		if _, err := s.Begin(ctx, name, []tree.Root{{File: "build.zig.zon"}}, private); err != nil {
			t.Fatal(err)
		}
	}
	node := tree.Node{Hash: legacy(1), URLs: []string{"https://h/x"}, Parents: []string{""}, State: tree.Stored}
	if err := s.Put(ctx, "has", 1, tree.Whole, []tree.Node{node}, nil); err != nil {
		t.Fatal(err)
	}
	for who, ctx := range map[string]context.Context{"a stranger": ctx, "who sees private": access.SeePrivate(ctx)} {
		var want error
		if !access.SeesPrivate(ctx) {
			want = fault.ErrNotFound
		}
		_, byURL := s.ByURL(ctx, a.URL)
		_, byHash := s.ByHash(ctx, legacy(1))
		_, has := s.ByName(ctx, "has")
		_, asked := s.ByName(ctx, "asked")
		for what, err := range map[string]error{"ByURL": byURL, "ByHash": byHash, "a tree that has it": has, "a tree asked for so": asked} {
			if !errors.Is(err, want) {
				t.Errorf("%s to %s: err = %v, want %v", what, who, err, want)
			}
		}
		if all, err := s.List(ctx, "", 10); err != nil || (len(all) > 0) != (want == nil) {
			t.Errorf("List to %s = %+v, %v", who, all, err)
		}
	}
}

// The record of a tree is made anew once what it had no files for is here, and private: edges are told to hide it.
func TestPrivateLater(t *testing.T) {
	t.Parallel()
	s, ctx := tree.New(storagetest.NewDB(t).DB), access.SeePrivate(t.Context())
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for i, private := range []bool{false, true} {
		name := fmt.Sprint("app", i)
		_, err := s.Begin(ctx, name, []tree.Root{{File: "build.zig.zon"}}, false)
		must(err)
		must(s.Put(ctx, name, 1, tree.Holes, []tree.Node{{Hash: legacy(i + 1), URLs: []string{"https://h/x"}, Parents: []string{""}, State: tree.Hole}}, nil))
		rec, err := s.RevisionRecord(ctx, name, 1)
		must(err)
		must(s.SetRevisionRecord(ctx, rec, blob.Ref{Digest: digest(7), Size: 1}))
		a := archive(fmt.Sprint("https://h/", i), i+1)
		a.Private = private
		_, _, err = s.Publish(ctx, a, false)
		must(err)
		left, err := s.UnrecordedRevisions(ctx, 10)
		if err != nil || (len(left) == 1) != private {
			t.Errorf("private %v: revisions without a record: %+v, %v", private, left, err)
		}
		if rec, err = s.RevisionRecord(ctx, name, 1); err != nil || rec.Private != private {
			t.Errorf("private %v: the record says %v, %v", private, rec.Private, err)
		}
	}
}

// A tree of which an older revision alone is private is hidden on edges, which have that, and told of again.
func TestOlderRevisionPrivate(t *testing.T) {
	t.Parallel()
	db := storagetest.NewDB(t)
	s, ctx := tree.New(db.DB), access.SeePrivate(t.Context())
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	record := func() {
		left, err := s.UnrecordedRevisions(ctx, 10)
		must(err)
		for _, x := range left {
			rec, err := s.RevisionRecord(ctx, x.Tree, x.Revision)
			must(err)
			record := blob.Ref{Digest: digest(x.Revision), Size: int64(x.Revision)}
			if rec.Private {
				record.Digest = digest(10 + x.Revision)
			}
			must(s.SetRevisionRecord(ctx, rec, record))
		}
	}
	for i := range 2 {
		_, err := s.Begin(ctx, "app", []tree.Root{{File: fmt.Sprint(i)}}, false)
		must(err)
		must(s.Put(ctx, "app", i+1, tree.Holes, []tree.Node{{Hash: legacy(i + 1), URLs: []string{"https://h/x"}, Parents: []string{""}, State: tree.Hole}}, nil))
		record()
	}
	a := archive("https://h/1", 1)
	a.Private = true
	_, _, err := s.Publish(ctx, a, false)
	must(err)
	record()
	changes, _, err := db.Feed.Changes(t.Context(), 0, 100)
	must(err)
	var told []string
	for i := range changes {
		raw, _, err := changes[i].Open()
		must(err)
		var body feed.Body
		if raw != nil {
			must(json.Unmarshal(raw, &body))
		}
		if body.Tree != nil {
			told = append(told, fmt.Sprint(body.Decision, body.Tree.Revision))
		}
	}
	if want := []string{"2", "private0", "2"}; !slices.Equal(told, want) {
		t.Errorf("strangers are told %q, want %q", told, want)
	}
	if _, err := s.ByName(t.Context(), "app"); err != nil {
		t.Errorf("to a stranger: %v", err)
	}
}

func TestRecord(t *testing.T) {
	t.Parallel()
	a := archive("https://h/x", 1)
	a.Private, a.Disposition, a.FinalURL = true, "attachment; filename=x.zip", "https://cdn/x"
	raw, err := a.Record().Encode()
	if err != nil {
		t.Fatal(err)
	}
	rec, err := tree.ParseRecord(raw)
	if err != nil {
		t.Fatal(err)
	}
	if got := rec.Archive(a.RecordDigest, a.RecordSize); !reflect.DeepEqual(got, a) {
		t.Errorf("from its record:\n%+v, want\n%+v", got, a)
	}
	if _, err := tree.ParseRecord([]byte(`{"packbase_archive":2}`)); err == nil {
		t.Error("a record of another format was read")
	}
}

// A record of a tree is that of a capture which ended, whole, or none.
func TestParseRevisionRecord(t *testing.T) {
	t.Parallel()
	right := func() *tree.RevisionRecord {
		return &tree.RevisionRecord{Format: 1, Tree: "app", Revision: 1, State: tree.Holes, CreatedAt: time.Unix(1, 0).UTC(), EndedAt: time.Unix(2, 0).UTC(),
			Nodes: []tree.RecordedNode{{Hash: "x", URLs: []string{"https://h/x.zip"}, Parents: []string{""}, State: tree.Hole}}}
	}
	for what, spoil := range map[string]func(*tree.RevisionRecord){
		"right":           nil,
		"format":          func(r *tree.RevisionRecord) { r.Format = 2 },
		"name":            func(r *tree.RevisionRecord) { r.Tree = "../x" },
		"revision":        func(r *tree.RevisionRecord) { r.Revision = 0 },
		"last revision":   func(r *tree.RevisionRecord) { r.Revision = math.MaxInt32 }, // after which none could be captured
		"depth":           func(r *tree.RevisionRecord) { r.Nodes[0].Depth = math.MaxInt32 + 1 },
		"NUL":             func(r *tree.RevisionRecord) { r.Nodes[0].Parents = []string{"\x00"} },
		"state":           func(r *tree.RevisionRecord) { r.State = tree.Open },
		"beginning":       func(r *tree.RevisionRecord) { r.CreatedAt = time.Time{} },
		"end":             func(r *tree.RevisionRecord) { r.EndedAt = time.Time{} },
		"hash":            func(r *tree.RevisionRecord) { r.Nodes[0].Hash = "" },
		"URLs":            func(r *tree.RevisionRecord) { r.Nodes[0].URLs = nil },
		"parents":         func(r *tree.RevisionRecord) { r.Nodes[0].Parents = nil },
		"state of a node": func(r *tree.RevisionRecord) { r.Nodes[0].State = tree.Waiting },
		"user":            func(r *tree.RevisionRecord) { r.Nodes[0].URLs[0] = "https://u@h/x.zip" },
	} {
		r := right()
		if spoil != nil {
			spoil(r)
		}
		raw, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tree.ParseRevisionRecord(raw); errors.Is(err, fault.ErrInvalid) != (spoil != nil) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Edges read the documents of their central: of 64 MiB of "{}," they make no gigabytes.
func TestDenseDocuments(t *testing.T) {
	t.Parallel()
	many := strings.Repeat("{},", 600_000) + "{}"
	for document, parse := range map[string]func([]byte) error{
		`{"packbase_tree":1,"nodes":[` + many + `]}`:                                                                    func(b []byte) error { _, err := tree.ParseRevisionRecord(b); return err },
		`{"packbase_archive":1,"zig":{"dependencies":[` + many + `]}}`:                                                  func(b []byte) error { _, err := tree.ParseRecord(b); return err },
		`{"packbase_archive_removal":1,"url":"x","reason":"x","hashes":[` + strings.ReplaceAll(many, "{}", `""`) + `]}`: func(b []byte) error { _, err := tree.ParseRemoval(b); return err },
	} {
		if err := parse([]byte(document)); err == nil || !strings.Contains(err.Error(), "elements") {
			t.Errorf("%.40s...: %.100v, want it refused for its elements", document, err)
		}
	}
}
