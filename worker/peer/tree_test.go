package peer_test

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/tree"
	"github.com/francescobianco/packbase/worker/upkeep"
	"github.com/francescobianco/packbase/worker/workertest"
)

// captured makes a revision of a tree, as a capture that has ended leaves it.
func captured(t *testing.T, r *workertest.Registry, name, text string, private bool, nodes ...tree.Node) {
	t.Helper()
	s := tree.New(r.DB.DB)
	c, err := s.Begin(t.Context(), name, []tree.Root{{File: "build.zig.zon", Text: text}}, private)
	r.Must(err)
	state := tree.Whole
	for i := range nodes {
		nodes[i].Parents, nodes[i].Depth = []string{""}, 1
		if nodes[i].State == tree.Hole {
			state = tree.Holes
		}
	}
	r.Must(s.Put(t.Context(), name, c.Revision, state, nodes, []tree.Problem{{Name: "x", Reason: "no hash"}}))
	_, err = r.Jobs.Cancel(t.Context(), c.Job)
	r.Must(err)
}

func record(t *testing.T, r *workertest.Registry) {
	t.Helper()
	a := upkeep.Auditor{DB: r.DB, Blobs: r.Blobs, Staging: r.Staging, Report: func(f upkeep.Finding) { t.Errorf("%+v", f) }}
	r.Must(a.KeepTrees(t.Context()))
}

// revisions returns what a registry has of trees, whoever sees it.
func revisions(t *testing.T, r *workertest.Registry) string {
	t.Helper()
	s := tree.New(r.DB.DB)
	all, err := s.EndedRevisions(t.Context())
	r.Must(err)
	var b strings.Builder
	for _, x := range all {
		rec, err := s.RevisionRecord(t.Context(), x.Tree, x.Revision)
		r.Must(err)
		raw, err := rec.Encode()
		r.Must(err)
		b.Write(raw)
	}
	return b.String()
}

// seen returns the names of the trees that a reader is shown.
func seen(t *testing.T, r *workertest.Registry, private bool) string {
	t.Helper()
	ctx := t.Context()
	if private {
		ctx = access.SeePrivate(ctx)
	}
	all, err := tree.New(r.DB.DB).List(ctx, "", 100)
	r.Must(err)
	var names []string
	for _, x := range all {
		names = append(names, x.Name)
	}
	return strings.Join(names, " ")
}

// Edges have the trees of their central, all revisions, with their holes. What is private there, or becomes so, is shown
// by no edge to strangers, and no edge without a token is told of it; what is public again comes back.
func TestTreesOnEdges(t *testing.T) {
	t.Parallel()
	central, stranger, insider, second, late := workertest.New(t), workertest.New(t), workertest.New(t), workertest.New(t), workertest.New(t)
	stop := central.Work(workertest.Loopback)
	zip := central.FetchArchive(archives(t) + "/one.zip")
	central.Tag("hello", "v1.0.0", map[string]string{"a.zig": "a"})
	central.Fetch("hello")
	rel, err := central.Releases(t.Context(), "hello")
	central.Must(err)
	stop()
	stored := tree.Node{Hash: zip.ZigLegacyHash, URLs: []string{zip.URL}, State: tree.Stored}
	hole := tree.Node{Hash: "1220" + strings.Repeat("7", 64), URLs: []string{"https://h.example/x.zip"}, State: tree.Hole, Code: "gone", Reason: "404",
		Tried: []tree.Try{{Kind: "archive", URL: "https://h.example/x.zip", Code: "gone", Message: "404"}}}
	captured(t, central, "App", ".{ .a = 1 }", false, stored)
	captured(t, central, "app", ".{ .a = 2 }", false, stored, hole)
	captured(t, central, "secret", ".{ .secret = 3 }", true, stored)
	captured(t, central, "partly", ".{ .partly = 4 }", false, tree.Node{Hash: rel[0].ZigLegacyHash, URLs: []string{"git+https://h.example/hello"}, State: tree.Stored})
	record(t, central)

	url := serve(t, central)
	follow(t, stranger, url)
	follow(t, insider, url, "token")
	follow(t, second, serve(t, stranger))
	for _, e := range []*workertest.Registry{stranger, insider, second} {
		e.Eventually("the trees are here", func() bool { return seen(t, e, false) == "App partly" })
	}
	insider.Eventually("the private one, too", func() bool { return seen(t, insider, true) == "App partly secret" })
	if got, want := revisions(t, insider), revisions(t, central); got != want {
		t.Errorf("an edge with a token has\n%s, want\n%s", got, want)
	}
	if got := revisions(t, second); strings.Contains(got, "secret") || !strings.Contains(got, ".a = 1") || !strings.Contains(got, `"code": "gone"`) {
		t.Errorf("an edge of an edge without a token has\n%s", got)
	}
	if app, err := tree.New(second.DB.DB).ByName(t.Context(), "APP"); err != nil || app.Revision != 2 || app.State != tree.Holes || app.Missing != 1 || app.SizeBytes != zip.TarballSize {
		t.Errorf("app is %+v, %v", app, err)
	}

	// Holes that were filled, and nothing new.
	again := func() {
		captured(t, central, "App", ".{ .a = 2 }", false, stored)
		record(t, central)
	}
	again()
	_, before, err := central.Feed.Changes(t.Context(), 0, 1)
	central.Must(err)
	again()
	_, after, err := central.Feed.Changes(t.Context(), 0, 1)
	central.Must(err)
	if before != after {
		t.Errorf("an unchanged tree is announced again: %v, then %v", before, after)
	}
	second.Eventually("the hole is filled", func() bool { return !strings.Contains(revisions(t, second), `"code": "gone"`) })

	captured(t, central, "App", ".{ .a = 2 }", true, stored)
	central.Must(central.SetVisibility(access.SeePrivate(t.Context()), "hello", true))
	record(t, central)
	follow(t, late, url)
	caughtUp(t, late, central)
	for _, e := range []*workertest.Registry{central, stranger, insider, second, late} {
		e.Eventually("nothing is shown to strangers", func() bool { return seen(t, e, false) == "" })
	}
	insider.Eventually("others are shown all", func() bool {
		return seen(t, insider, true) == "App partly secret" && revisions(t, insider) == revisions(t, central)
	})
	changes, _, err := central.Feed.Changes(t.Context(), 0, 100)
	central.Must(err)
	for _, r := range []string{seen(t, late, true), revisions(t, late)} {
		if r != "" {
			t.Errorf("who came late without a token has %s", r)
		}
	}
	if raw := asJSON(t, changes); strings.Contains(raw, "secret") || strings.Contains(raw, `"record"`) && strings.Contains(raw, `"revision"`) {
		t.Errorf("a stranger is told of private trees: %s", raw)
	}
	all, err := tree.New(central.DB.DB).EndedRevisions(t.Context())
	central.Must(err)
	for _, x := range all {
		if _, err := central.BlobByDigest(t.Context(), x.Record); !errors.Is(err, fault.ErrNotFound) {
			t.Errorf("a stranger may have the record of %s: %v", x.Tree, err)
		}
		if _, err := central.BlobByDigest(access.SeePrivate(t.Context()), x.Record); err != nil {
			t.Errorf("nobody may have the record of %s: %v", x.Tree, err)
		}
	}

	central.Must(central.SetVisibility(access.SeePrivate(t.Context()), "hello", false))
	record(t, central)
	for i, e := range []*workertest.Registry{central, stranger, insider, second, late} {
		e.Eventually(fmt.Sprint("what is public again is shown by ", i), func() bool { return seen(t, e, false) == "partly" })
		if aside := asideOf(t, e); len(aside) != 0 {
			t.Errorf("set aside: %+v", aside)
		}
	}
}

// What a packbase that knows no trees passed over is read once it does; what a central says of a tree and its record does
// not is set aside.
func TestTreeNewsOfLater(t *testing.T) {
	t.Parallel()
	central, edge := workertest.New(t), workertest.New(t)
	captured(t, central, "one", ".{}", false, tree.Node{Hash: "x", URLs: []string{"https://h.example/x.zip"}, State: tree.Hole})
	captured(t, central, "two", ".{}", false, tree.Node{Hash: "x", URLs: []string{"https://user@h.example/x.zip"}, State: tree.Hole})
	record(t, central)
	var old atomic.Bool
	old.Store(true)
	url := before(t, serve(t, central), &old)
	leave := follow(t, edge, url)
	caughtUp(t, edge, central)
	leave()
	if got := seen(t, edge, true); got != "" || len(asideOf(t, edge)) != 0 {
		t.Errorf("who knows no news has %s, aside %+v", got, asideOf(t, edge))
	}
	old.Store(false)
	_, err := edge.Pool.Exec(t.Context(), `UPDATE replication SET news = false`) // as it was before the upgrade
	edge.Must(err)
	follow(t, edge, url)
	edge.Eventually("the feed is read again", func() bool { return seen(t, edge, true) == "one" && len(asideOf(t, edge)) == 1 })
	if aside := asideOf(t, edge); !strings.Contains(aside[0].Reason, "user") {
		t.Errorf("set aside: %+v", aside)
	}
	all, err := tree.New(central.DB.DB).EndedRevisions(t.Context())
	central.Must(err)
	for _, x := range all {
		if _, err := edge.Blobs.Stat(t.Context(), x.Record); errors.Is(err, fs.ErrNotExist) != (x.Tree == "two") {
			t.Errorf("the record of %s on the edge: %v, want those alone of what was taken", x.Tree, err)
		}
	}
}
