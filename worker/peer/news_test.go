package peer_test

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/feed"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/tree"
	"github.com/francescobianco/packbase/worker/upkeep"
	"github.com/francescobianco/packbase/worker/workertest"
)

// archives returns a server of zips, each with a file that says its path.
func archives(t *testing.T) (url string) {
	t.Helper()
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var buf bytes.Buffer
		z := zip.NewWriter(&buf)
		for _, name := range []string{"a/build.zig", "a/src/x.zig"} {
			f, err := z.Create(name)
			if err == nil {
				_, err = io.WriteString(f, "// "+r.URL.Path)
			}
			if err != nil {
				t.Error(err)
			}
		}
		if err := z.Close(); err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/zip")
		w.Write(buf.Bytes())
	}))
	t.Cleanup(up.Close)
	return up.URL
}

// heldBy returns the archives of a registry, as JSON without their ids.
func heldBy(t *testing.T, r *workertest.Registry) string {
	t.Helper()
	rows, err := tree.New(r.DB.DB).After(t.Context(), 0, 100)
	r.Must(err)
	for i := range rows {
		rows[i].ID, rows[i].CreatedAt = 0, rows[i].CreatedAt.UTC()
	}
	raw, err := json.MarshalIndent(rows, "", " ")
	r.Must(err)
	return string(raw)
}

// branch has the central mirror the branch main of pkg, after a commit more, and returns where it is.
func branch(t *testing.T, central *workertest.Registry, pkg, tag string) string {
	t.Helper()
	central.Tag(pkg, tag, map[string]string{"README.md": "# " + tag + "\n"})
	up, err := name.FixtureUpstream(pkg + ".git")
	central.Must(err)
	up.Target = "main"
	job, _, err := central.RequestFetch(t.Context(), pkg, up)
	central.Must(err)
	central.Eventually("the branch is here", func() bool {
		job, err = central.Jobs.ByID(t.Context(), job.ID)
		central.Must(err)
		return !job.Open()
	})
	if job.State != jobs.Succeeded {
		t.Fatalf("fetch branch: %s", job.ErrorMessage)
	}
	oid, err := central.BranchCommit(t.Context(), pkg, "main")
	central.Must(err)
	return oid
}

// before returns a server that answers for another one; as long as old is set, as a packbase did that knew no news.
func before(t *testing.T, url string, old *atomic.Bool) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resp, err := http.Get(url + r.URL.String())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		raw, _ := io.ReadAll(resp.Body)
		if old.Load() {
			raw = regexp.MustCompile(`,"news":\{[^{}]*(\{[^{}]*(\{[^{}]*\}[^{}]*)*\}[^{}]*)*\}`).ReplaceAll(raw, nil)
		}
		w.Write(raw)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// An edge has the archives and branches of its central, and one of the edge has them, too. A packbase that knows of
// releases alone goes on without them, and has them once it is a later one.
func TestNews(t *testing.T) {
	t.Parallel()
	central, edge, second := workertest.New(t), workertest.New(t), workertest.New(t)
	up := archives(t)
	stop := central.Work(workertest.Loopback)
	central.Mirror("hello", "v1.0.0")
	central.FetchArchive(up + "/one.zip")
	first := branch(t, central, "hello", "v2.0.0")
	central.Mirror("hello", "v3.0.0")
	for _, to := range []string{"greeting", "hi"} {
		_, err := central.Rename(t.Context(), "hello", to)
		central.Must(err)
	}
	central.Must(central.AnnounceBranches(t.Context()))

	var old atomic.Bool
	old.Store(true)
	url := before(t, serve(t, central), &old)
	leave := follow(t, edge, url)
	caughtUp(t, edge, central)
	leave()
	same(t, edge, central, "hello")
	if got := heldBy(t, edge); got != "[]" || len(asideOf(t, edge)) != 0 || strings.Contains(edge.Log.String(), "not followed") {
		t.Errorf("who knows no news has %s, aside %+v\n%s", got, asideOf(t, edge), edge.Log.String())
	}
	old.Store(false)
	_, err := edge.Pool.Exec(t.Context(), `UPDATE replication SET news = false`) // as it was before the upgrade
	edge.Must(err)

	follow(t, edge, url)
	follow(t, second, serve(t, edge))
	central.FetchArchive(up + "/two.zip")
	moved := branch(t, central, "hello", "v4.0.0")
	stop()
	if first == moved {
		t.Fatal("the branch did not move")
	}
	central.Must(central.AnnounceBranches(t.Context()))
	for _, e := range []*workertest.Registry{edge, second} {
		e.Eventually("the branch is where it is", func() bool {
			got, err := e.BranchCommit(t.Context(), "hello", "main")
			return err == nil && got == moved
		})
		if got, want := heldBy(t, e), heldBy(t, central); got != want {
			t.Errorf("an edge has %s, want %s", got, want)
		}
		same(t, e, central, "hello")
		if p, err := e.PackageByName(t.Context(), "greeting"); err != nil || p.Name != "hello" || p.Called() != "hi" {
			t.Errorf("greeting is %q of %q, %v, want hi of hello", p.Called(), p.Name, err)
		}
	}
}

// New names of a package that is not here yet wait for it, and come in their order.
func TestRenameSetAside(t *testing.T) {
	t.Parallel()
	central, edge := workertest.New(t), workertest.New(t)
	stop := central.Work(workertest.Loopback)
	central.Mirror("hello", "v1.0.0")
	stop()
	url := serve(t, central)
	leave := follow(t, edge, url)
	caughtUp(t, edge, central)
	leave()
	for seq, to := range []string{"third", "first", "second"} {
		body := `{"package":"hello","renamed":"` + to + `"}`
		_, err := edge.Pool.Exec(t.Context(), `INSERT INTO set_aside (seq, body, package, private, reason) VALUES ($1, $2, 'hello', false, 'x')`, []int{1003, 1001, 1002}[seq], body)
		edge.Must(err)
	}
	follow(t, edge, url)
	edge.Eventually("nothing is set aside", func() bool { return len(asideOf(t, edge)) == 0 })
	p, err := edge.PackageByName(t.Context(), "first")
	edge.Must(err)
	if p.Name != "hello" || p.Called() != "third" {
		t.Errorf("first is %q of %q, want third of hello", p.Called(), p.Name)
	}
}

// What a central says of an archive is not believed: what is not so is set aside, with the URL, and the rest goes on. What
// is private is for edges with a token.
func TestUntrueNews(t *testing.T) {
	t.Parallel()
	central, edge := workertest.New(t), workertest.New(t)
	up := archives(t)
	stop := central.Work(workertest.Loopback)
	rows := []tree.Archive{central.FetchArchive(up + "/one.zip"), central.FetchArchive(up + "/two.zip")}
	forge := func(url string, change func(*tree.Archive)) {
		a := rows[0]
		a.URL = url
		change(&a)
		raw, err := a.Record().Encode()
		central.Must(err)
		sum := sha256.Sum256(raw)
		a.RecordDigest, a.RecordSize = hex.EncodeToString(sum[:]), int64(len(raw))
		f, err := os.Create(filepath.Join(t.TempDir(), "record"))
		central.Must(err)
		defer f.Close()
		_, err = f.Write(raw)
		central.Must(err)
		central.Must(central.Blobs.Put(t.Context(), a.RecordDigest, f))
		_, _, err = tree.New(central.DB.DB).Publish(t.Context(), a, true)
		central.Must(err)
	}
	forge("https://h.example/hash.zip", func(a *tree.Archive) { a.ZigLegacyHash = rows[1].ZigLegacyHash })
	forge("https://h.example/tarball.zip", func(a *tree.Archive) { a.TarballDigest, a.TarballSize = rows[1].TarballDigest, rows[1].TarballSize })
	forge("https://user@h.example/user.zip", func(a *tree.Archive) {})
	forge("https://h.example/html.zip", func(a *tree.Archive) { a.ContentType = "text/html" })
	forge("https://h.example/private.zip", func(a *tree.Archive) { a.Private = true })
	central.FetchArchive(up + "/three.zip")
	stop()
	// What is refused may name what another archive needs.
	central.Must(central.Tx(t.Context(), func(tx pgx.Tx) error {
		return feed.AddNews(t.Context(), tx, feed.Body{Archive: &feed.Archive{URL: "https://h.example/others.zip",
			Record: blob.Ref{Digest: rows[0].RecordDigest, Size: recordSize(t, central, rows[0])},
			Body:   blob.Ref{Digest: rows[0].Digest, Size: rows[0].Size}, Tarball: blob.Ref{Digest: rows[0].TarballDigest, Size: rows[0].TarballSize}}}, false)
	}))
	for url, reason := range map[string]string{"https://h.example/esc\x1b]0;.zip": "gone", "https://h.example/reason.zip": strings.Repeat("gone ", 1000)} {
		central.Must(central.Tx(t.Context(), func(tx pgx.Tx) error {
			return feed.AddNews(t.Context(), tx, feed.Body{Decision: feed.DecisionRemoved, Reason: reason, Archive: &feed.Archive{URL: url}}, false)
		}))
	}
	follow(t, edge, serve(t, central))
	caughtUp(t, edge, central)
	if _, err := edge.Blobs.Stat(t.Context(), rows[0].RecordDigest); err != nil {
		t.Errorf("the record of an archive that is here: %v", err)
	}
	got, err := tree.New(edge.DB.DB).After(t.Context(), 0, 10)
	edge.Must(err)
	var urls []string
	for _, a := range got {
		urls = append(urls, strings.TrimPrefix(a.URL, up))
	}
	if want := []string{"/one.zip", "/two.zip", "/three.zip"}; !slices.Equal(urls, want) {
		t.Errorf("the edge has %q, want %q", urls, want)
	}
	aside := asideOf(t, edge)
	for i, name := range []string{"hash", "tarball", "user", "html", "others"} { // and the removals, in any order
		if len(aside) != 7 || !strings.Contains(aside[i].Reason, name+".zip") {
			t.Fatalf("set aside: %+v, want the untrue ones by their URLs", aside)
		}
	}
	for _, a := range aside[5:] {
		if !strings.Contains(a.Reason, "it removes the archive") {
			t.Errorf("set aside: %s, want a removal", a.Reason)
		}
	}
	changes, _, err := central.Feed.Changes(t.Context(), 0, 100)
	central.Must(err)
	for _, c := range changes {
		said, _, err := c.Open()
		central.Must(err)
		if said == nil {
			continue
		}
		var body feed.Body
		central.Must(json.Unmarshal(said, &body))
		refused := strings.HasSuffix(body.Archive.URL, "/hash.zip") || strings.HasSuffix(body.Archive.URL, "/tarball.zip")
		if _, err := edge.Blobs.Stat(t.Context(), body.Archive.Record.Digest); refused && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the record of %s, which was refused, is still there: %v", body.Archive.URL, err)
		}
	}
	if raw := asJSON(t, changes); strings.Contains(raw, "private.zip") || !strings.Contains(raw, "three.zip") {
		t.Errorf("a stranger is told of what is private: %s", raw)
	}
	changes, _, err = central.Feed.Changes(access.SeePrivate(t.Context()), 0, 100)
	central.Must(err)
	if raw := asJSON(t, changes); !strings.Contains(raw, "private.zip") {
		t.Errorf("who sees private packages is not told of a private archive: %s", raw)
	}
}

// Edges follow the removal of an archive, also those that have never had it, and one that was set aside.
func TestRemovedArchive(t *testing.T) {
	t.Parallel()
	central, edge, late := workertest.New(t), workertest.New(t), workertest.New(t)
	up := archives(t)
	stop := central.Work(workertest.Loopback)
	one, two := central.FetchArchive(up+"/one.zip"), central.FetchArchive(up+"/two.zip")
	stop()
	central.Spoil(two.Digest, workertest.Flip)
	url := serve(t, central)
	follow(t, edge, url)
	caughtUp(t, edge, central)
	if aside := asideOf(t, edge); len(aside) != 1 {
		t.Fatalf("set aside: %+v, want the damaged one", aside)
	}
	for _, a := range []tree.Archive{one, two} {
		if _, err := tree.New(central.DB.DB).Remove(t.Context(), a.URL, "asked for"); err != nil {
			t.Fatal(err)
		}
	}
	changes, _, err := central.Feed.Changes(access.SeePrivate(t.Context()), 0, 100)
	central.Must(err)
	if raw := asJSON(t, changes); strings.Contains(raw, one.Digest) || strings.Count(raw, "asked for") != 2 {
		t.Errorf("the feed still tells where the bytes are: %s", raw)
	}
	follow(t, late, url)
	for _, e := range []*workertest.Registry{edge, late} {
		caughtUp(t, e, central)
		for _, a := range []tree.Archive{one, two} {
			if _, err := tree.New(e.DB.DB).ByURL(t.Context(), a.URL); !errors.Is(err, fault.ErrGone) {
				t.Errorf("%s on an edge: %v, want ErrGone", a.URL, err)
			}
		}
		if _, err := e.BlobByDigest(access.SeePrivate(t.Context()), one.Digest); !errors.Is(err, fault.ErrNotFound) {
			t.Errorf("its bytes: %v, want ErrNotFound", err)
		}
		if aside := asideOf(t, e); len(aside) != 0 {
			t.Errorf("set aside: %+v", aside)
		}
	}
}

// Who rebuilds from the blobs of an edge, as when the central is lost, has what was decided, too: nothing that was removed
// comes back, nothing private is public, and packages are called what they were.
func TestRebuiltFromEdge(t *testing.T) {
	t.Parallel()
	central, edge := workertest.New(t), workertest.New(t)
	defer central.Work(workertest.Loopback)()
	all := access.SeePrivate(t.Context())
	zip := central.FetchArchive(archives(t) + "/one.zip")
	for _, pkg := range []string{"hello", "hidden", "gone", "partly"} {
		central.Mirror(pkg, "v1.0.0", "v2.0.0")
	}
	follow(t, edge, serve(t, central), "x")
	caughtUp(t, edge, central)
	central.Must(central.SetVisibility(all, "hidden", true))
	for _, r := range []storage.Removal{{Package: "gone"}, {Package: "partly", Tag: "v1.0.0"}} {
		r.Reason = "asked for"
		_, err := central.Remove(all, r)
		central.Must(err)
	}
	_, err := central.Rename(all, "hello", "hi")
	central.Must(err)
	_, err = tree.New(central.DB.DB).Remove(all, zip.URL, "asked for")
	central.Must(err)
	caughtUp(t, edge, central)

	rebuilt := workertest.New(t)
	rebuilt.Blobs, rebuilt.Staging, rebuilt.Dir = edge.Blobs, edge.Staging, edge.Dir
	a := upkeep.Auditor{DB: rebuilt.DB, Blobs: rebuilt.Blobs, Staging: rebuilt.Staging, Report: func(f upkeep.Finding) { t.Errorf("rebuild: %+v", f) }}
	rebuilt.Must(a.Rebuild(all))
	for pkg, want := range map[string]error{"gone": fault.ErrGone, "hidden": fault.ErrNotFound} {
		if _, err := rebuilt.PackageByName(t.Context(), pkg); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", pkg, err, want)
		}
	}
	if _, err := rebuilt.ReleaseByTag(t.Context(), "partly", "v1.0.0"); !errors.Is(err, fault.ErrGone) {
		t.Errorf("the removed release: %v, want ErrGone", err)
	}
	if _, err := tree.New(rebuilt.DB.DB).ByURL(t.Context(), zip.URL); !errors.Is(err, fault.ErrGone) {
		t.Errorf("the removed archive: %v, want ErrGone", err)
	}
	if p, err := rebuilt.PackageByName(t.Context(), "hello"); err != nil || p.Called() != "hi" {
		t.Errorf("hello is called %q, %v, want hi", p.Called(), err)
	}
	same(t, rebuilt, central, "hello")
	same(t, rebuilt, central, "partly")
}

// All that an edge has is in records, also what an earlier version of it has kept none of: it comes back as public as it was,
// from an edge that goes on following, and from one that is a central by now.
func TestEdgeRecordsAll(t *testing.T) {
	t.Parallel()
	central := workertest.New(t)
	stop := central.Work()
	central.Mirror("hello", "v1.0.0", "v2.0.0")
	central.Mirror("other", "v1.0.0")
	stop()
	url := serve(t, central)
	all := access.SeePrivate(t.Context())
	for name, goesOn := range map[string]func(edge *workertest.Registry){
		"edge":     func(edge *workertest.Registry) { follow(t, edge, url) },
		"promoted": func(edge *workertest.Registry) { edge.Work() },
	} {
		t.Run(name, func(t *testing.T) {
			edge := workertest.New(t)
			stop := follow(t, edge, url)
			caughtUp(t, edge, central)
			stop()
			check := func(public bool) {
				t.Helper()
				rebuilt := workertest.New(t)
				var found []upkeep.Finding
				a := upkeep.Auditor{DB: rebuilt.DB, Blobs: edge.Blobs, Staging: edge.Staging, Report: func(f upkeep.Finding) { found = append(found, f) }}
				rebuilt.Must(a.Rebuild(all))
				seen, err := rebuilt.Packages(t.Context())
				rebuilt.Must(err)
				if got := len(seen) == 2 && len(found) == 0; got != public {
					t.Errorf("rebuilt, strangers see %d packages, want all: %v; found %v", len(seen), public, found)
				}
			}
			check(true)
			for _, pkg := range []string{"hello", "other"} {
				_, held, err := edge.PackageRecord(all, pkg)
				edge.Must(err)
				_, err = edge.Pool.Exec(all, `UPDATE packages SET record_digest = NULL WHERE name = $1`, pkg)
				edge.Must(err)
				edge.Must(edge.Blobs.Delete(all, held))
			}
			check(false)
			goesOn(edge)
			edge.Eventually("all has a record", func() bool {
				left, err := edge.Scrub.Unrecorded(all, 1)
				edge.Must(err)
				return len(left) == 0
			})
			check(true)
		})
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func recordSize(t *testing.T, r *workertest.Registry, a tree.Archive) int64 {
	t.Helper()
	raw, err := blob.ReadAll(t.Context(), r.Blobs, a.RecordDigest)
	r.Must(err)
	return int64(len(raw))
}
