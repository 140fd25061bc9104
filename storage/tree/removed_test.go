package tree_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/feed"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/storagetest"
	"github.com/francescobianco/packbase/storage/tree"
)

// What was removed is not stored again: by its URL never, by its files as long as nothing else has them.
func TestRemoved(t *testing.T) {
	t.Parallel()
	db := storagetest.NewDB(t)
	s, ctx, all := tree.New(db.DB), t.Context(), access.SeePrivate(t.Context())
	publish := func(a tree.Archive, want error) {
		t.Helper()
		if _, _, err := s.Publish(ctx, a, false); !errors.Is(err, want) {
			t.Errorf("publish %s: %v, want %v", a.URL, err, want)
		}
	}
	remove := func(url string, want ...string) {
		t.Helper()
		if left, err := s.Remove(ctx, url, "asked for"); err != nil || !slices.Equal(left, want) {
			t.Errorf("remove %s: %q is left, %v, want %q", url, left, err, want)
		}
	}
	publish(archive("https://h/x", 1), nil)
	publish(archive("https://h/y", 1), nil)
	hidden := archive("https://h/hidden", 2)
	hidden.Private = true
	publish(hidden, nil)
	told := func(want string) {
		t.Helper()
		changes, _, err := feed.New(db.DB).Changes(ctx, 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		if raw, err := json.Marshal(changes); err != nil || strings.Contains(string(raw), "hidden") || !strings.Contains(string(raw), want) {
			t.Errorf("strangers are told %s (%v), want %s and nothing that is private", raw, err, want)
		}
	}
	told("https://h/y")
	remove("https://h/x", "https://h/y")
	if _, err := s.Remove(ctx, "https://h/x", "asked for"); !errors.Is(err, fault.ErrGone) {
		t.Errorf("remove it again: %v, want ErrGone", err)
	}
	if _, err := s.ByURL(ctx, "https://h/x"); !errors.Is(err, fault.ErrGone) {
		t.Errorf("ByURL: %v, want ErrGone", err)
	}
	publish(archive("https://h/x", 3), fault.ErrGone)
	publish(archive("https://h/w", 1), nil) // y has them, too
	remove("https://h/y", "https://h/w")
	remove("https://h/w")
	publish(archive("https://h/v", 1), fault.ErrGone)
	if _, err := s.ByHash(ctx, legacy(1)); !errors.Is(err, fault.ErrGone) {
		t.Errorf("ByHash: %v, want ErrGone", err)
	}
	remove("https://h/hidden")
	if _, err := s.ByURL(ctx, "https://h/hidden"); !errors.Is(err, fault.ErrNotFound) {
		t.Errorf("what is private and removed, to a stranger: %v, want ErrNotFound", err)
	}
	if _, err := s.ByURL(all, "https://h/hidden"); !errors.Is(err, fault.ErrGone) {
		t.Errorf("what is private and removed: %v, want ErrGone", err)
	}
	told("asked for")
	for _, bad := range []tree.Removal{{URL: "https://h/x"}, {Reason: "asked for"}} {
		raw, err := bad.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tree.ParseRemoval(raw); err == nil {
			t.Errorf("%s was read", raw)
		}
	}
}

// Of two sources of a hash the public one is served, and who has no hash is found by none.
func TestSourceOfHash(t *testing.T) {
	t.Parallel()
	s := tree.New(storagetest.NewDB(t).DB)
	hidden, shown, old := archive("https://h/hidden", 1), archive("https://h/shown", 1), archive("https://h/old", 2)
	hidden.Private, old.ZigHash = true, ""
	for _, a := range []tree.Archive{hidden, shown, old} {
		if _, _, err := s.Publish(t.Context(), a, false); err != nil {
			t.Fatal(err)
		}
	}
	if src, err := s.ByHash(access.SeePrivate(t.Context()), legacy(1)); err != nil || src.URL != shown.URL {
		t.Errorf("ByHash = %s, %v, want %s", src.URL, err, shown.URL)
	}
	if src, err := s.ByHash(t.Context(), ""); !errors.Is(err, fault.ErrNotFound) {
		t.Errorf("no hash = %s, %v, want ErrNotFound", src.URL, err)
	}
}

// A URL stands for what trees have under it, if they agree.
func TestDeclared(t *testing.T) {
	t.Parallel()
	s, ctx := tree.New(storagetest.NewDB(t).DB), t.Context()
	for i, url := range []string{"https://h/1", "https://h/2"} {
		if _, _, err := s.Publish(ctx, archive(url, i+1), false); err != nil {
			t.Fatal(err)
		}
	}
	put := func(name string, files int, state string) {
		t.Helper()
		_, err := s.Begin(ctx, name, []tree.Root{{File: "build.zig.zon"}}, false)
		if err == nil {
			err = s.Put(ctx, name, 1, tree.Holes, []tree.Node{{Hash: legacy(files), URLs: []string{"https://gone/u"}, Parents: []string{""}, State: state}}, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	put("a", 1, tree.Hole)
	if src, err := s.Declared(ctx, "https://gone/u"); !errors.Is(err, fault.ErrNotFound) {
		t.Errorf("of a hole: %+v, %v, want ErrNotFound", src, err)
	}
	put("b", 1, tree.Stored)
	if src, err := s.Declared(ctx, "https://gone/u"); err != nil || src.ZigLegacyHash != legacy(1) {
		t.Errorf("of one: %+v, %v", src, err)
	}
	put("c", 2, tree.Stored)
	if src, err := s.Declared(ctx, "https://gone/u"); !errors.Is(err, fault.ErrNotFound) {
		t.Errorf("of two: %+v, %v, want ErrNotFound", src, err)
	}
}

// Upstream is asked about a tree when its turn has come; what it does not answer is not lost.
func TestChecks(t *testing.T) {
	t.Parallel()
	db := storagetest.NewDB(t)
	s, ctx := tree.New(db.DB), t.Context()
	node := func(urls ...string) tree.Node {
		return tree.Node{Hash: legacy(1), URLs: urls, Parents: []string{""}, State: tree.Hole}
	}
	for name, n := range map[string]tree.Node{"one": node("https://h/x"), "other": node("https://h/y"), "open": node("https://h/z")} {
		_, err := s.Begin(ctx, name, []tree.Root{{File: "build.zig.zon"}}, false)
		if err == nil {
			err = s.Put(ctx, name, 1, map[bool]string{true: tree.Open, false: tree.Holes}[name == "open"], []tree.Node{n}, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	due := func(want int) {
		t.Helper()
		if err := s.RequestDueChecks(ctx, 24*time.Hour); err != nil {
			t.Fatal(err)
		}
		var n int
		if err := db.Pool.QueryRow(ctx, `SELECT count(*) FROM jobs WHERE kind = $1`, jobs.CheckTree).Scan(&n); err != nil || n != want {
			t.Errorf("%d checks, %v, want %d", n, err, want)
		}
	}
	due(0)
	if _, err := db.Pool.Exec(ctx, `UPDATE tree_revisions SET ended_at = ended_at - interval '2 days'`); err != nil {
		t.Fatal(err)
	}
	due(2)
	due(2)
	for _, tt := range []struct {
		url, state string
		lost       int
	}{{"https://h/x", tree.Away, 0}, {"https://h/x", tree.Gone, 1}, {"https://h/y", tree.Moved, 2}, {"https://h/x", tree.Same, 1}} {
		if err := s.Checked(ctx, node(tt.url), tt.state); err != nil {
			t.Fatal(err)
		}
		if n, err := s.LostTrees(ctx); err != nil || n != tt.lost {
			t.Errorf("%s is %s: %d trees are lost, %v, want %d", tt.url, tt.state, n, err, tt.lost)
		}
	}
}

// A job's end wakes the captures that wait for it, and no others; a tree that was asked for in private stays so.
func TestWake(t *testing.T) {
	t.Parallel()
	db := storagetest.NewDB(t)
	s, ctx := tree.New(db.DB), t.Context()
	job := uuid.New()
	waits, err := s.Begin(ctx, "waits", []tree.Root{{File: "build.zig.zon"}}, true)
	if err == nil {
		err = s.Put(ctx, "waits", 1, tree.Open, []tree.Node{{Hash: legacy(1), URLs: []string{"https://h/x"}, Parents: []string{""}, State: tree.Waiting, Job: &job}}, nil)
	}
	if err == nil {
		_, err = s.Begin(ctx, "other", []tree.Root{{File: "build.zig.zon"}}, false)
	}
	if err == nil {
		_, err = db.Pool.Exec(ctx, `UPDATE jobs SET run_at = now() + interval '1 hour'`)
	}
	if err != nil {
		t.Fatal(err)
	}
	if woken, err := s.Wake(ctx, job); err != nil || !slices.Equal(woken, []uuid.UUID{waits.Job}) {
		t.Errorf("woken: %v, %v, want %v", woken, err, waits.Job)
	}
	if _, err := s.Begin(ctx, "waits", []tree.Root{{File: "build.zig.zon"}}, false); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ByName(ctx, "waits"); !errors.Is(err, fault.ErrNotFound) {
		t.Errorf("captured again, not in private: a stranger sees it: %v", err)
	}
}
