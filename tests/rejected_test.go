package tests_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/tests/harness"
)

// One object that upstream does not give out costs the tags that need it, and
// no other. They are reported by name and tried again later.
func TestBrokenTag(t *testing.T) {
	t.Parallel()
	repo := harness.NewUpstream(t).Repo("hello")
	const tags = 20
	for i := range tags {
		repo.Tag(fmt.Sprintf("v1.%d.0", i), repo.Commit(harness.Files{"version": fmt.Sprint(i), "src/root.zig": fmt.Sprint("// ", i)}))
	}
	lost := filepath.Join(repo.Dir, "objects", repo.Git("rev-parse", "v1.7.0:version")[:2], repo.Git("rev-parse", "v1.7.0:version")[2:])
	object, err := os.ReadFile(lost)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(lost); err != nil {
		t.Fatal(err)
	}
	s := harness.Start(t)
	if f := s.Fetch(repo.URL); f.Created != tags-1 {
		t.Errorf("fetched %+v, want all but one", f)
	}
	rejected := s.Info("hello").RejectedTags
	if len(rejected) != 1 || rejected[0].Tag != "v1.7.0" || !strings.HasPrefix(rejected[0].Code, "upstream_") {
		t.Fatalf("rejected %+v, want v1.7.0 for what upstream did", rejected)
	}
	// Asked for by itself, the error names it.
	a := s.TryFetch(repo.GitURL("v1.7.0"))
	if a.Status != 502 || !strings.Contains(string(a.Body), "v1.7.0") {
		t.Errorf("fetch of the one tag: %d %s", a.Status, a.Body)
	}
	// It is alone in the next look, which ends as well.
	tryAgain(t, s)
	if f := s.Fetch(repo.URL); f.Created != 0 {
		t.Errorf("fetched %+v, want nothing", f)
	}

	if err := os.WriteFile(lost, object, 0o444); err != nil {
		t.Fatal(err)
	}
	if f := s.Fetch(repo.URL); f.Created != 0 {
		t.Errorf("fetched %+v before its time", f)
	}
	tryAgain(t, s)
	if f := s.Fetch(repo.URL); f.Created != 1 {
		t.Errorf("fetched %+v, want the tag that upstream mended", f)
	}
	if rejected := s.Info("hello").RejectedTags; len(rejected) != 0 {
		t.Errorf("rejected %+v, want none", rejected)
	}
}

// A tag that calls a commit a tree has upstream deny the commit to all that ask
// for both at once. It costs no other tag.
func TestTagOfAnotherType(t *testing.T) {
	t.Parallel()
	repo := harness.NewUpstream(t).Repo("hello")
	good := repo.Commit(harness.Files{"a.zig": "// a\n"})
	repo.Tag("v1.0.0", good)
	lie := good
	for i := 0; lie >= good; i++ { // upstream believes what it reads first, and is asked in the order of ids
		lie = repo.GitInput(fmt.Sprintf("object %s\ntype tree\ntag v0.1.0\ntagger a <a@example.org> 1700000000 +0000\n\nlie %d\n", good, i),
			"hash-object", "-t", "tag", "-w", "--literally", "--stdin")
	}
	if err := os.WriteFile(filepath.Join(repo.Dir, "refs", "tags", "v0.1.0"), []byte(lie+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := harness.Start(t)
	if f := s.Fetch(repo.URL); f.Created != 1 || f.Tag != "v1.0.0" {
		t.Errorf("fetched %+v, want v1.0.0", f)
	}
	if rejected := s.Info("hello").RejectedTags; len(rejected) != 1 || rejected[0].Tag != "v0.1.0" {
		t.Errorf("rejected %+v, want v0.1.0", rejected)
	}
}

// tryAgain lets the time pass after which rejected tags are tried again.
func tryAgain(t *testing.T, s *harness.Server) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), `UPDATE rejected_tags SET retry_at = now()`); err != nil {
		t.Fatal(err)
	}
}

// When upstream gives nothing at all, that is the error, and no tag's fault.
func TestBrokenUpstream(t *testing.T) {
	t.Parallel()
	repo := harness.NewUpstream(t).Repo("hello")
	for i := range 30 {
		repo.Tag(fmt.Sprintf("v1.%d.0", i), repo.Commit(harness.Files{"version": fmt.Sprint(i), "same": "same"}))
	}
	id := repo.Git("rev-parse", "main:same")
	if err := os.Remove(filepath.Join(repo.Dir, "objects", id[:2], id[2:])); err != nil {
		t.Fatal(err)
	}
	s := harness.Start(t)
	a := s.TryFetch(repo.URL)
	if a.Status != 502 || !strings.HasPrefix(a.Code(), "upstream_") || !strings.Contains(string(a.Body), `tag \"v1.`) {
		t.Errorf("fetch: %d %s, want an error that names a tag", a.Status, a.Body)
	}
	if rejected := s.Info("hello").RejectedTags; len(rejected) != 0 {
		t.Errorf("rejected %+v, want none", rejected)
	}
}

// What was rejected by other rules is judged again, and what upstream has no
// more is forgotten.
func TestRejectedByOtherRules(t *testing.T) {
	t.Parallel()
	repo := harness.NewUpstream(t).Repo("hello")
	repo.Release("v1.0.0")
	repo.Tag("v1.1.0", repo.Commit(harness.Files{"large": strings.Repeat("x", 10_000)}))
	repo.Tag("v1.2.0", repo.Commit(harness.Files{"large": strings.Repeat("y", 20_000)}))
	s := harness.Start(t, "PACKBASE_MAX_OBJECT=5KB")
	s.Fetch(repo.URL)
	tags := func(s *harness.Server) (tags []string) {
		for _, r := range s.Info("hello").RejectedTags {
			tags = append(tags, r.Tag+" "+r.Code)
		}
		return tags
	}
	if got, want := tags(s), []string{"v1.1.0 object_too_large", "v1.2.0 object_too_large"}; !slices.Equal(got, want) {
		t.Fatalf("rejected %q, want %q", got, want)
	}
	repo.DeleteTag("v1.2.0")
	if f := s.Fetch(repo.URL); f.Created != 0 || len(tags(s)) != 1 {
		t.Errorf("fetched %+v, rejected %q; want nothing but v1.1.0", f, tags(s))
	}
	s.Stop()

	s = harness.Start(t, "PACKBASE_DATABASE_URL="+s.DatabaseURL, "PACKBASE_ROOT="+s.Root, "PACKBASE_MAX_OBJECT=50KB")
	if f := s.Fetch(repo.URL); f.Created != 1 || len(tags(s)) != 0 {
		t.Errorf("with another limit: fetched %+v, rejected %q; want one more, and none", f, tags(s))
	}
}

// A tag for which upstream answers as if it were out of order costs the fetch, as that is no verdict on the tag, and no other
// tag or branch. Who is to ask later asks for no other.
func TestUngivenTag(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	to, err := url.Parse(up.URL)
	if err != nil {
		t.Fatal(err)
	}
	for name, sick := range map[string]struct {
		answer http.Handler
		code   string
		others bool // are published
	}{
		"unavailable": {harness.Status(http.StatusInternalServerError), "upstream_unavailable", true},
		"hidden":      {harness.Status(http.StatusNotFound), "upstream_not_found", true},
		"page":        {harness.Status(http.StatusOK), "upstream_not_git", true},
		"limited":     {harness.Status(http.StatusTooManyRequests), "upstream_rate_limited", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			repo := up.Repo(name)
			main := repo.Commit(harness.Files{"a.zig": "// a\n"})
			var lost atomic.Pointer[string]
			front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				if oid := lost.Load(); oid != nil && bytes.Contains(body, []byte(*oid)) {
					sick.answer.ServeHTTP(w, r)
					return
				}
				r.Body = io.NopCloser(bytes.NewReader(body))
				httputil.NewSingleHostReverseProxy(to).ServeHTTP(w, r)
			}))
			t.Cleanup(front.Close)
			s := harness.Start(t)
			s.Fetch("git+" + front.URL + "/" + name + "#main")
			for i := range 6 {
				oid := repo.Release(fmt.Sprintf("v1.%d.0", i))
				if i == 3 {
					lost.Store(&oid)
				}
			}
			fetch := func(tags int) {
				t.Helper()
				a, want := s.TryFetch(front.URL+"/"+name), ""
				if sick.others {
					want = `tag \"v1.3.0\"`
				}
				info := s.Info(name)
				if a.Code() != sick.code || !strings.Contains(string(a.Body), want) || info.TarballCount != tags || len(info.RejectedTags) != 0 || info.LastSync.OK {
					t.Errorf("%d %s, %d releases, rejected %+v, sync %+v; want %s, %d, none", a.Status, a.Body, info.TarballCount, info.RejectedTags, info.LastSync, sick.code, tags)
				}
				if sick.others {
					main = repo.Git("rev-parse", "main")
				}
				if info.FetchProbeCommit != main || info.Branches[0].Commit != main {
					t.Errorf("%s was probed and main is at %s, want %s", info.FetchProbeCommit, info.Branches[0].Commit, main)
				}
			}
			if !sick.others {
				fetch(0)
				return
			}
			fetch(5)
			repo.Release("v2.0.0")
			fetch(6)
			lost.Store(nil)
			if f := s.Fetch(front.URL + "/" + name); f.Created != 1 || f.Tag != "v2.0.0" {
				t.Errorf("fetched %+v, want the one that was not given", f)
			}
		})
	}
}
