package peer_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	neturl "net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/feed"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/tree"
	"github.com/francescobianco/packbase/worker/peer"
	"github.com/francescobianco/packbase/worker/probe"
	"github.com/francescobianco/packbase/worker/upkeep"
	"github.com/francescobianco/packbase/worker/workertest"
)

func TestMain(m *testing.M) { workertest.Main(m) }

// serve answers as the api of a central does, without its checks: what is on
// the disk is sent.
func serve(t *testing.T, r *workertest.Registry) (url string) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/changes", func(w http.ResponseWriter, req *http.Request) {
		since, err := strconv.ParseInt(req.URL.Query().Get("since"), 10, 64)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		ctx := req.Context()
		if req.Header.Get("Authorization") != "" {
			ctx = access.SeePrivate(ctx)
		}
		changes, head, err := r.Feed.Changes(ctx, since, 200)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"changes": changes, "head": map[string]any{"seq": head.Seq, "chain": head.Chain}})
	})
	mux.HandleFunc("GET /api/blobs/{digest}", func(w http.ResponseWriter, req *http.Request) {
		if _, err := r.BlobByDigest(access.SeePrivate(req.Context()), req.PathValue("digest")); err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		http.ServeFile(w, req, r.Path(req.PathValue("digest")))
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv.URL
}

// follow has an edge follow central until stop is called.
func follow(t *testing.T, edge *workertest.Registry, central string, token ...string) (stop func()) {
	t.Helper()
	rep := replica(edge, central)
	rep.Token = strings.Join(token, "")
	return run(t, rep)
}

func replica(edge *workertest.Registry, central string) *peer.Replica {
	return &peer.Replica{
		DB: edge.DB, Blobs: edge.Blobs, Staging: edge.Staging, Central: central, HTTP: http.DefaultClient, Retry: 5 * time.Millisecond, Scrub: 2 * time.Second,
		Log:    slog.New(slog.NewTextHandler(&edge.Log, nil)),
		Prober: &probe.Prober{DB: edge.DB, Staging: edge.Staging, Git: http.NotFoundHandler(), Limits: gitpack.StoredLimits()},
	}
}

// run has a replica run until stop is called, or the test ends.
func run(t *testing.T, rep *peer.Replica) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- rep.Run(ctx) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			if err := <-done; err != nil {
				t.Errorf("replica: %v", err)
			}
		}
	}
	t.Cleanup(stop)
	return stop
}

// caughtUp waits until the edge has seen all changes of the central.
func caughtUp(t *testing.T, edge, central *workertest.Registry) {
	t.Helper()
	_, head, err := central.Feed.Changes(t.Context(), 0, 1)
	central.Must(err)
	edge.Eventually("the edge has all changes", func() bool {
		at, err := edge.Feed.Replication(t.Context())
		return err == nil && at.Seq == head.Seq
	})
}

// same compares what the edge publishes of pkg with what the central does.
func same(t *testing.T, edge, central *workertest.Registry, pkg string, without ...string) {
	t.Helper()
	list := func(r *workertest.Registry) string {
		all, err := r.Releases(t.Context(), pkg)
		r.Must(err)
		var lines []string
		for _, x := range all {
			if len(without) == 0 || x.Tag != without[0] {
				lines = append(lines, strings.Join([]string{x.Tag, x.TagOID, x.CommitOID, x.Digest, x.ManifestDigest, x.ZigHash}, " "))
			}
		}
		slices.Sort(lines)
		return strings.Join(lines, "\n")
	}
	if got, want := list(edge), list(central); got != want || want == "" {
		t.Errorf("the edge has of %s:\n%swant:\n%s", pkg, got, want)
	}
}

func asideOf(t *testing.T, edge *workertest.Registry) []feed.SetAside {
	t.Helper()
	all, n, err := edge.Feed.AllSetAside(access.SeePrivate(t.Context()), 10)
	edge.Must(err)
	if n != len(all) {
		t.Errorf("%d are set aside, listed %d", n, len(all))
	}
	return all
}

// A storing store says what it is about to store.
type storing struct {
	blob.Store
	digest func(string)
}

func (s storing) Put(ctx context.Context, digest string, src *os.File) error {
	s.digest(digest)
	return s.Store.Put(ctx, digest, src)
}

// What the central decides while an edge publishes holds when that is done, before the edge reads on.
func TestDecidedWhilePublished(t *testing.T) {
	t.Parallel()
	central, edge := workertest.New(t), workertest.New(t)
	stop := central.Work()
	rel := central.Mirror("hello", "v1.0.0")[0]
	stop()
	to, err := neturl.Parse(serve(t, central))
	central.Must(err)
	proxy, pages := httputil.NewSingleHostReverseProxy(to), make(chan struct{})
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	var shut atomic.Bool
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if shut.Load() && r.URL.Path == feed.ChangesPath {
			select {
			case <-r.Context().Done():
				return
			case pages <- struct{}{}: // one is let through for each that is waited for
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	decide := sync.OnceFunc(func() {
		shut.Store(true)
		central.Must(central.SetVisibility(access.SeePrivate(t.Context()), "hello", true))
		for range 3 { // the second and third are asked for when the first has been done
			<-pages
		}
	})
	rep := replica(edge, srv.URL)
	rep.Blobs = storing{edge.Blobs, func(digest string) {
		if digest != rel.Digest && digest != rel.ManifestDigest { // a segment: it is about to be published
			decide()
		}
	}}
	run(t, rep)
	all := access.SeePrivate(t.Context())
	edge.Eventually("the release is here", func() bool {
		_, err := edge.ReleaseByTag(all, "hello", "v1.0.0")
		return err == nil
	})
	edge.Eventually("it is private", func() bool { return !seesRelease(t, edge) })
	if at, err := edge.Feed.Replication(all); err != nil || at.Seq > 1 {
		t.Errorf("the edge is at %+v, %v, want no more than the change before the decision", at, err)
	}
}

func seesRelease(t *testing.T, r *workertest.Registry) bool {
	t.Helper()
	_, err := r.ReleaseByTag(t.Context(), "hello", "v1.0.0")
	if err != nil && !errors.Is(err, fault.ErrNotFound) {
		t.Fatal(err)
	}
	return err == nil
}

// A package that is private now is at no time public on an edge that reads the feed from its beginning, with a token or
// without, whatever was decided before.
func TestPrivateNow(t *testing.T) {
	t.Parallel()
	central, known, stranger := workertest.New(t), workertest.New(t), workertest.New(t)
	defer central.Work()()
	central.Mirror("hello", "v1.0.0")
	url := serve(t, central)
	leave := follow(t, stranger, url)
	caughtUp(t, stranger, central)
	leave()
	for _, private := range []bool{true, false, true} {
		central.Must(central.SetVisibility(access.SeePrivate(t.Context()), "hello", private))
	}
	for _, again := range []bool{false, true} {
		for _, edge := range []*workertest.Registry{known, stranger} {
			if again { // as after an upgrade
				_, err := edge.Pool.Exec(t.Context(), `UPDATE replication SET news = false, seq = 0, chain = '', head = 0`)
				edge.Must(err)
			}
			token := ""
			if edge == known {
				token = "x"
			}
			leave := follow(t, edge, url, token)
			edge.Eventually("the feed is read", func() bool {
				at, err := edge.Feed.Replication(t.Context())
				return err == nil && at.Seq == at.Head && at.Seq >= 4
			})
			leave()
			all, _, err := edge.Feed.Changes(access.SeePrivate(t.Context()), 0, 100)
			edge.Must(err)
			for i, c := range all {
				if decided := string(c.Body); strings.Contains(decided, `"public"`) || edge == known && i == 0 && c.Secret == nil {
					t.Errorf("with the token %q, again %v: the edge said to all: %s", token, again, decided)
				}
			}
			if pkg, err := edge.PackageByName(access.SeePrivate(t.Context()), "hello"); err != nil || !pkg.Private {
				t.Errorf("with the token %q, again %v: private %v, %v", token, again, pkg.Private, err)
			}
		}
	}
	central.Must(central.SetVisibility(access.SeePrivate(t.Context()), "hello", false))
	follow(t, known, url, "x")
	known.Eventually("it is public", func() bool {
		pkg, err := known.PackageByName(t.Context(), "hello")
		return err == nil && !pkg.Private
	})
}

// held answers for the central at url; blobs it keeps back, once shut, until open is called. What is asked for is told.
func held(t *testing.T, url string) (through string, shut func(), asked <-chan string, open func()) {
	t.Helper()
	to, err := neturl.Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	var gate atomic.Pointer[chan struct{}]
	told := make(chan string, 100)
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g := gate.Load(); g != nil && strings.HasPrefix(r.URL.Path, feed.BlobsPath) {
			told <- r.URL.Path
			select {
			case <-*g:
			case <-r.Context().Done():
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	shut = func() {
		g := make(chan struct{})
		gate.Store(&g)
	}
	open = func() {
		if g := gate.Swap(nil); g != nil {
			close(*g)
		}
	}
	t.Cleanup(open)
	return srv.URL, shut, told, open
}

// What is decided at the central is done here at once, however long an edge copies what came before, and however far it
// is behind: also what was decided of what is being copied, and what an operator decided anew.
func TestDecisionsFirst(t *testing.T) {
	t.Parallel()
	for _, token := range []string{"", "x"} {
		t.Run("token="+token, func(t *testing.T) {
			t.Parallel()
			central, edge := workertest.New(t), workertest.New(t)
			defer central.Work(workertest.Loopback)()
			all := access.SeePrivate(t.Context())
			decide := func(pkg string, private bool) { central.Must(central.SetVisibility(all, pkg, private)) }
			remove := func(r storage.Removal) {
				r.Reason = "asked for"
				_, err := central.Remove(all, r)
				central.Must(err)
			}
			zip := central.FetchArchive(archives(t) + "/one.zip")
			for _, pkg := range []string{"hidden", "gone", "again"} {
				central.Mirror(pkg, "v1.0.0")
			}
			central.Mirror("partly", "v1.0.0", "v2.0.0")
			central.Mirror("twice", "v1.0.0")
			decide("again", true)
			url, shut, asked, open := held(t, serve(t, central))
			leave := follow(t, edge, url, token)
			caughtUp(t, edge, central)
			leave()

			for _, pkg := range []string{"first", "unseen", "buried", "half"} {
				central.Mirror(pkg, "v1.0.0", "v2.0.0")
			}
			central.Also("twice", "v1.0.0", "v1.0.1")
			central.Fetch("twice")
			for _, pkg := range []string{"unseen", "buried", "half"} { // as when it was killed after copying
				releases, err := central.Releases(t.Context(), pkg)
				central.Must(err)
				for _, r := range releases {
					for _, digest := range []string{r.Digest, r.ManifestDigest} {
						f, err := os.Open(central.Path(digest))
						central.Must(err)
						edge.Must(edge.Blobs.Put(t.Context(), digest, f))
						f.Close()
					}
				}
			}
			decide("again", false)
			shut()
			follow(t, edge, url, token)
			<-asked // a blob of the package first
			decide("hidden", true)
			decide("again", true)
			decide("unseen", true)
			remove(storage.Removal{Package: "gone"})
			remove(storage.Removal{Package: "partly", Tag: "v1.0.0"})
			remove(storage.Removal{Package: "buried"})
			remove(storage.Removal{Package: "twice", Tag: "v1.0.0"})
			remove(storage.Removal{Package: "half", Tag: "v1.0.0"})
			_, err := tree.New(central.DB.DB).Remove(t.Context(), zip.URL, "asked for")
			central.Must(err)
			edge.Eventually("what was decided is done", func() bool {
				_, gone := edge.PackageByName(all, "gone")
				_, hidden := edge.PackageByName(t.Context(), "hidden")
				_, removed := edge.ReleaseByTag(t.Context(), "partly", "v1.0.0")
				_, archive := tree.New(edge.DB.DB).ByURL(t.Context(), zip.URL)
				return errors.Is(gone, fault.ErrGone) && errors.Is(hidden, fault.ErrNotFound) && errors.Is(removed, fault.ErrGone) && errors.Is(archive, fault.ErrGone)
			})
			if _, err := edge.ReleaseByTag(t.Context(), "partly", "v2.0.0"); err != nil {
				t.Errorf("what was not removed: %v", err)
			}
			open()
			caughtUp(t, edge, central)

			said, _, err := edge.Feed.Changes(all, 0, 1000)
			edge.Must(err)
			for _, c := range said {
				body := string(c.Body)
				if strings.Contains(body, `"public"`) || strings.Contains(body, `"unseen","`) && !strings.Contains(body, `"private"`) || strings.Contains(body, `"buried","tag"`) {
					t.Errorf("the edge said to all: %s", body)
				}
			}
			same(t, edge, central, "first")
			same(t, edge, central, "half")
			same(t, edge, central, "twice") // whose commit has another tag
			if aside := asideOf(t, edge); len(aside) != 0 {
				t.Errorf("set aside: %+v", aside)
			}
			if token != "" {
				p, err := edge.PackageByName(all, "unseen")
				if err != nil || !p.Private {
					t.Errorf("unseen: private %v, %v", p.Private, err)
				}
			}
		})
	}
}

// Releases with large manifests are not all in memory at once, however small their tarballs are.
func TestLargeManifests(t *testing.T) {
	t.Parallel()
	central, edge := workertest.New(t), workertest.New(t)
	defer central.Work(workertest.Loopback)()
	central.Mirror("told", "v1.0.0")
	git := exec.CommandContext(t.Context(), "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "tag", "-a", "-F", "-", "long", "v1.0.0^{commit}")
	git.Dir, git.Stdin = filepath.Join(central.Fixtures, "told.git"), strings.NewReader(strings.Repeat("m", 3<<20))
	if out, err := git.CombinedOutput(); err != nil {
		t.Fatalf("git tag: %v\n%s", err, out)
	}
	for i := range 10 {
		git := exec.CommandContext(t.Context(), "git", "update-ref", fmt.Sprintf("refs/tags/v2.%d.0", i), "refs/tags/long")
		git.Dir = filepath.Join(central.Fixtures, "told.git")
		if out, err := git.CombinedOutput(); err != nil {
			t.Fatalf("git update-ref: %v\n%s", err, out)
		}
	}
	if job := central.Fetch("told"); job.State != jobs.Succeeded {
		t.Fatalf("fetch: %s: %s", job.ErrorCode, job.ErrorMessage)
	}
	follow(t, edge, serve(t, central))
	caughtUp(t, edge, central)
	same(t, edge, central, "told")
	for line := range strings.Lines(edge.Log.String()) {
		_, rest, ok := strings.Cut(line, `msg="releases replicated" package=told count=`)
		count, _, _ := strings.Cut(rest, " ")
		if n, _ := strconv.Atoi(count); ok && n > 4 {
			t.Errorf("%d releases were published at once, want at most 4", n)
		}
	}
}

// A blob for which the central breaks off holds up nothing but what needs it, also when that is tried again.
func TestAsideHoldsUpNothing(t *testing.T) {
	t.Parallel()
	central, edge := workertest.New(t), workertest.New(t)
	defer central.Work()()
	broken := central.Mirror("broken", "v1.0.0")[0].Digest
	to, err := neturl.Parse(serve(t, central))
	central.Must(err)
	proxy := httputil.NewSingleHostReverseProxy(to)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, broken) {
			panic(http.ErrAbortHandler)
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	leave := follow(t, edge, srv.URL)
	caughtUp(t, edge, central)
	leave()
	central.Mirror("later", "v1.0.0")
	_, err = edge.Pool.Exec(t.Context(), `UPDATE replication SET synced_at = now() - interval '1 hour'`) // the edge was off
	edge.Must(err)
	follow(t, edge, srv.URL) // and tries what is aside at once
	caughtUp(t, edge, central)
	same(t, edge, central, "later")
	edge.Eventually("it was tried again", func() bool {
		aside := asideOf(t, edge)
		return len(aside) == 1 && aside[0].Tries > 1
	})
}

// Nor does what is decided wait for what the central has no bytes of, however many changes those are.
func TestDecisionsBeforeWhatIsLost(t *testing.T) {
	t.Parallel()
	central, edge := workertest.New(t), workertest.New(t)
	defer central.Work()()
	all := access.SeePrivate(t.Context())
	central.Mirror("hidden", "v1.0.0")
	url := serve(t, central)
	leave := follow(t, edge, url)
	caughtUp(t, edge, central)
	leave()
	for _, pkg := range []string{"one", "two", "three", "four", "five", "six"} {
		central.Spoil(central.Mirror(pkg, "v1.0.0")[0].Digest, workertest.Flip)
	}
	central.Must(central.SetVisibility(all, "hidden", true))
	rep := replica(edge, url)
	rep.Retry = time.Second
	run(t, rep)
	edge.Eventually("it is private", func() bool {
		_, err := edge.PackageByName(t.Context(), "hidden")
		return errors.Is(err, fault.ErrNotFound)
	})
	at, err := edge.Feed.Replication(all)
	edge.Must(err)
	if at.Seq > 3 {
		t.Errorf("it was private when %d changes were here or aside, want that to be first", at.Seq)
	}
}

// What a central makes private or removes is so on an edge that has halted, too, whatever history the central tells by now;
// nothing else that it says is believed.
func TestDecisionsWhileHalted(t *testing.T) {
	t.Parallel()
	for name, contradict := range map[string]func(central, edge *workertest.Registry, rel storage.Release){
		"moved tag": func(central, _ *workertest.Registry, rel storage.Release) {
			central.Must(central.Tx(context.Background(), func(tx pgx.Tx) error {
				return feed.Add(context.Background(), tx, feed.Body{Package: "hello", Tag: "v1.0.0", Commit: strings.Repeat("1", 40),
					Manifest: blob.Ref{Digest: rel.ManifestDigest, Size: 1}, Tarball: blob.Ref{Digest: rel.Digest, Size: rel.Size}})
			}))
		},
		"restored": func(_, edge *workertest.Registry, _ storage.Release) { // as if the central had shown more before
			_, err := edge.Pool.Exec(context.Background(), `UPDATE replication SET seq = seq + 1, chain = 'another'`)
			edge.Must(err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			central, edge := workertest.New(t), workertest.New(t)
			defer central.Work()()
			all := access.SeePrivate(t.Context())
			decide := func(pkg string, private bool) { central.Must(central.SetVisibility(all, pkg, private)) }
			remove := func(r storage.Removal) {
				r.Reason = "asked for"
				_, err := central.Remove(all, r)
				central.Must(err)
			}
			is := func(pkg, tag string, want error) {
				t.Helper()
				edge.Eventually(fmt.Sprintf("%s@%s: %v", pkg, tag, want), func() bool {
					_, err := edge.ReleaseByTag(t.Context(), pkg, tag)
					return errors.Is(err, want)
				})
			}
			rel := central.Mirror("hello", "v1.0.0")[0]
			for _, pkg := range []string{"hidden", "later", "public", "toggled"} {
				central.Mirror(pkg, "v1.0.0")
			}
			central.Mirror("partly", "v1.0.0", "v2.0.0")
			decide("public", true)
			for _, private := range []bool{true, false} {
				decide("toggled", private)
			}
			url := serve(t, central)
			leave := follow(t, edge, url)
			caughtUp(t, edge, central)
			leave()
			contradict(central, edge, rel)
			decide("hidden", true)
			remove(storage.Removal{Package: "partly", Tag: "v1.0.0"})
			decide("public", false)
			central.Mirror("new", "v1.0.0")

			leave = follow(t, edge, url)
			is("hidden", "v1.0.0", fault.ErrNotFound)
			is("partly", "v1.0.0", fault.ErrGone)
			if at, err := edge.Feed.Replication(all); err != nil || at.Halted == "" || time.Since(*at.SyncedAt) > time.Minute {
				t.Errorf("replication: %+v, %v, want it to be halted, and the central to be heard", at, err)
			}
			remove(storage.Removal{Package: "partly"})
			is("partly", "v2.0.0", fault.ErrGone)
			leave()
			decide("later", true)
			follow(t, edge, url)
			is("later", "v1.0.0", fault.ErrNotFound)

			for _, pkg := range []string{"hello", "toggled"} {
				is(pkg, "v1.0.0", nil)
			}
			for _, pkg := range []string{"public", "new"} {
				is(pkg, "v1.0.0", fault.ErrNotFound)
			}
			if n := strings.Count(edge.Log.String(), "replication halted"); n != 1 {
				t.Errorf("it halted %d times", n)
			}
		})
	}
}

// Decisions do not wait for what was set aside and is copied again either.
func TestDecisionsBeforeWhatIsAside(t *testing.T) {
	t.Parallel()
	central, edge := workertest.New(t), workertest.New(t)
	defer central.Work()()
	central.Mirror("hidden", "v1.0.0")
	slow := central.Mirror("slow", "v1.0.0")[0]
	doomed := central.Mirror("doomed", "v1.0.0")[0]
	for _, r := range []storage.Release{slow, doomed} {
		central.Spoil(r.Digest, workertest.Flip)
	}
	url, shut, asked, open := held(t, serve(t, central))
	leave := follow(t, edge, url)
	caughtUp(t, edge, central)
	leave()
	for _, r := range []storage.Release{slow, doomed} {
		central.Spoil(r.Digest, workertest.Flip) // as it was
	}
	shut()
	follow(t, edge, url) // and tries again
	<-asked
	central.Must(central.SetVisibility(t.Context(), "hidden", true))
	_, err := central.Remove(t.Context(), storage.Removal{Package: "doomed", Reason: "asked for"})
	central.Must(err)
	edge.Eventually("it is private", func() bool {
		_, err := edge.PackageByName(t.Context(), "hidden")
		return errors.Is(err, fault.ErrNotFound)
	})
	edge.Eventually("what was removed is not tried again", func() bool { return len(asideOf(t, edge)) == 1 })
	open()
	caughtUp(t, edge, central)
	edge.Eventually("nothing is aside any more", func() bool { return len(asideOf(t, edge)) == 0 })
	same(t, edge, central, "slow")
	said, _, err := edge.Feed.Changes(access.SeePrivate(t.Context()), 0, 1000)
	edge.Must(err)
	if raw := asJSON(t, said); strings.Contains(raw, "doomed") {
		t.Errorf("the edge published what was removed: %s", raw)
	}
}

// What an edge refuses is not published by who rebuilds from its blobs either.
func TestRefusedIsNotRebuilt(t *testing.T) {
	t.Parallel()
	central, edge := workertest.New(t), workertest.New(t)
	stop := central.Work()
	rel := central.Mirror("hello", "v1.0.0")[0]
	stop()
	raw, err := blob.ReadAll(t.Context(), central.Blobs, rel.ManifestDigest)
	central.Must(err)
	man, err := release.ParseManifest(raw)
	central.Must(err)
	packed, err := blob.ReadAll(t.Context(), central.Blobs, rel.Digest)
	central.Must(err)
	body, err := gzip.NewReader(bytes.NewReader(packed))
	central.Must(err)
	tar, err := io.ReadAll(body)
	central.Must(err)

	// A commit whose message has a NUL: Git refuses it.
	was := man.Commit
	man.Tag, man.TagObject, man.Git.Tags, man.Git.Commit = "v2.0.0", "", nil, append(man.Git.Commit, 0)
	man.Commit = hexSum(sha1.New(), fmt.Appendf(nil, "commit %d\x00%s", len(man.Git.Commit), man.Git.Commit))
	tar = bytes.ReplaceAll(tar, []byte(was), []byte(man.Commit))
	var again bytes.Buffer
	w := gzip.NewWriter(&again)
	_, err = w.Write(tar)
	central.Must(errors.Join(err, w.Close()))
	packed = append(packed[:10:10], again.Bytes()[10:]...) // with the head of ours
	man.Tarball.Digest, man.Tarball.Size = hexSum(sha256.New(), packed), int64(len(packed))
	man.Tarball.MD5, man.Tarball.CRC32 = hexSum(md5.New(), packed), hexSum(crc32.NewIEEE(), packed)
	man.Tarball.ContentDigest = hexSum(sha256.New(), tar)
	raw, err = man.Encode()
	central.Must(err)
	manifest := blob.Ref{Digest: hexSum(sha256.New(), raw), Size: int64(len(raw))}
	forged := map[string][]byte{manifest.Digest: raw, man.Tarball.Digest: packed}
	central.Must(central.Tx(t.Context(), func(tx pgx.Tx) error {
		return feed.Add(t.Context(), tx, feed.Body{Package: "hello", Tag: man.Tag, Commit: man.Commit, Manifest: manifest,
			Tarball: blob.Ref{Digest: man.Tarball.Digest, Size: man.Tarball.Size}})
	}))

	real := serve(t, central)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b, ok := forged[strings.TrimPrefix(r.URL.Path, feed.BlobsPath)]; ok {
			_, _ = w.Write(b)
			return
		}
		http.Redirect(w, r, real+r.URL.String(), http.StatusFound)
	}))
	t.Cleanup(srv.Close)
	follow(t, edge, srv.URL)
	caughtUp(t, edge, central)
	if aside := asideOf(t, edge); len(aside) != 1 || !strings.Contains(aside[0].Reason, "message has a NUL") {
		t.Fatalf("set aside: %+v, want what Git refuses", aside)
	}
	rebuilt := workertest.New(t)
	a := upkeep.Auditor{DB: rebuilt.DB, Blobs: edge.Blobs, Staging: edge.Staging, Report: func(f upkeep.Finding) { t.Errorf("rebuild: %+v", f) }}
	rebuilt.Must(a.Rebuild(t.Context()))
	same(t, rebuilt, edge, "hello")
}

func hexSum(h hash.Hash, b []byte) string {
	h.Write(b)
	return hex.EncodeToString(h.Sum(nil))
}

// One release whose bytes are rotten at the central is set aside, the others
// of its batch are not; once it is mended it is here, also after a restart.
func TestRottenRelease(t *testing.T) {
	t.Parallel()
	central, edge := workertest.New(t), workertest.New(t)
	stop := central.Work()
	rel := central.Mirror("hello", "v1.0.0", "v2.0.0", "v3.0.0")
	central.Mirror("other", "v1.0.0")
	stop()
	right := central.Path(rel[1].Digest)
	central.Spoil(rel[1].Digest, workertest.Flip)

	url := serve(t, central)
	stop = follow(t, edge, url)
	caughtUp(t, edge, central)
	same(t, edge, central, "hello", "v2.0.0")
	same(t, edge, central, "other")
	aside := asideOf(t, edge)
	if len(aside) != 1 || aside[0].Seq != 2 || aside[0].Package != "hello" || aside[0].Tag != "v2.0.0" || !strings.Contains(aside[0].Reason, "digest") {
		t.Fatalf("set aside: %+v", aside)
	}
	if wait := time.Until(aside[0].RetryAt); wait > time.Minute || wait < 20*time.Second {
		t.Errorf("it is tried again in %s, want a minute", wait)
	}
	// As long as it is rotten it stays aside, and is tried less and less often.
	edge.Must(edge.Feed.RetrySetAside(t.Context()))
	edge.Eventually("it was tried again", func() bool { return asideOf(t, edge)[0].Tries == 2 })
	if wait := time.Until(asideOf(t, edge)[0].RetryAt); wait < time.Minute || wait > 2*time.Minute {
		t.Errorf("it is tried again in %s, want two minutes", wait)
	}
	stop()

	_, mended, err := (&upkeep.Auditor{DB: central.DB, Blobs: central.Blobs, Staging: central.Staging, Report: func(upkeep.Finding) {}}).Mend(t.Context(), rel[1].Digest)
	if err != nil || !mended {
		t.Fatalf("mend %s: %v (%v)", right, mended, err)
	}
	follow(t, edge, url) // an operator restarts it: no need to wait
	edge.Eventually("nothing is aside any more", func() bool { return len(asideOf(t, edge)) == 0 })
	same(t, edge, central, "hello")
}

// What a central answers, even what no database stores, stops nothing: neither when it is set aside nor when it is tried again.
func TestUnprintableAnswer(t *testing.T) {
	t.Parallel()
	central, edge := workertest.New(t), workertest.New(t)
	defer central.Work()()
	central.Mirror("hello", "v1.0.0")
	real := serve(t, central)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, feed.BlobsPath) {
			http.Redirect(w, r, real+r.URL.String(), http.StatusFound)
			return
		}
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = conn.Write([]byte("HTTP/1.1 500 no\x00thing\xff\r\nContent-Length: 0\r\n\r\n"))
	}))
	t.Cleanup(srv.Close)
	follow(t, edge, srv.URL)
	caughtUp(t, edge, central)
	edge.Must(edge.Feed.RetrySetAside(t.Context()))
	edge.Eventually("it was tried again", func() bool {
		aside := asideOf(t, edge)
		return len(aside) == 1 && aside[0].Tries == 2 && strings.Contains(aside[0].Reason, "500 nothing")
	})
}

// What an edge cannot take over, a central does not publish; what a central's
// settings allow, an edge with other settings takes over.
func TestWhatIsPublishedCanBeReplicated(t *testing.T) {
	t.Parallel()
	central, edge := workertest.New(t), workertest.New(t)
	const entries = gitpack.MaxTreeEntries + 100
	central.Limits.Git.TreeEntries = entries + 1
	stop := central.Work()
	central.TagEntries("wide", "v1.0.0", entries)
	if job := central.Fetch("wide"); job.State != jobs.Succeeded {
		t.Fatalf("fetch wide: %s %s", job.ErrorCode, job.ErrorMessage)
	}

	// Tag objects on tag objects, each of 4 MiB.
	central.Tag("deep", "v1.0.0", map[string]string{"README": "deep\n"})
	bare := central.Fixtures + "/deep.git"
	object, typ := central.Pipe(bare, "", "rev-parse", "v1.0.0^{commit}"), "commit"
	for n := range 14 {
		object = central.Pipe(bare, "object "+object+"\ntype "+typ+"\ntag v2.0.0\ntagger t <t@example.org> 1700000000 +0000\n\n"+
			strings.Repeat("x", 4<<20-1000)+strconv.Itoa(n)+"\n", "hash-object", "-t", "tag", "-w", "--stdin")
		typ = "tag"
	}
	central.Pipe(bare, "", "update-ref", "refs/tags/v2.0.0", object)
	job := central.Fetch("deep")
	rejected, err := central.RejectedTags(t.Context(), "deep")
	central.Must(err)
	releases, err := central.Releases(t.Context(), "deep")
	central.Must(err)
	if len(releases) != 1 || releases[0].Tag != "v1.0.0" {
		t.Errorf("deep has %d releases (job %s %s %s), want v1.0.0 alone", len(releases), job.State, job.ErrorCode, job.ErrorMessage)
	}
	if len(rejected) != 1 || rejected[0].Tag != "v2.0.0" || rejected[0].Reason == "" {
		t.Errorf("rejected: %+v, want v2.0.0 with a reason", rejected)
	}
	stop()

	follow(t, edge, serve(t, central))
	caughtUp(t, edge, central)
	if aside := asideOf(t, edge); len(aside) != 0 {
		t.Errorf("set aside: %+v", aside)
	}
	same(t, edge, central, "wide")
	same(t, edge, central, "deep")
}

// An edge mends what is damaged or lost here: from what it has, else from the
// central.
func TestEdgeMends(t *testing.T) {
	t.Parallel()
	central, edge := workertest.New(t), workertest.New(t)
	stop := central.Work()
	central.Mirror("hello", "v1.0.0", "v2.0.0")
	stop()
	stop = follow(t, edge, serve(t, central))
	caughtUp(t, edge, central)
	named, err := edge.Scrub.Named(t.Context())
	edge.Must(err)
	for digest := range named {
		for harm, change := range map[string]func([]byte) []byte{"flip": workertest.Flip, "lost": nil} {
			if uses, err := edge.Scrub.Uses(t.Context(), digest); err == nil && len(uses) == 0 {
				continue // another record has taken its place
			}
			edge.Spoil(digest, change)
			edge.Must(edge.Scrub.Suspect(t.Context(), digest))
			edge.Eventually(harm+" blob is right, or not needed any more", func() bool {
				uses, err := edge.Scrub.Uses(t.Context(), digest)
				return err == nil && len(uses) == 0 || blob.Verify(t.Context(), edge.Blobs, digest) == nil
			})
		}
	}
	stop()
	var found []upkeep.Finding
	a := &upkeep.Auditor{DB: edge.DB, Blobs: edge.Blobs, Staging: edge.Staging, Report: func(f upkeep.Finding) { found = append(found, f) }}
	edge.Must(a.Verify(t.Context(), false))
	edge.Must(a.Fsck(t.Context()))
	if len(found) != 0 {
		t.Errorf("after: %v", found)
	}
	same(t, edge, central, "hello")
}

// A decision about a package holds also for what is set aside of it.
func TestDecisionsReachWhatIsAside(t *testing.T) {
	t.Parallel()
	central, edge := workertest.New(t), workertest.New(t)
	stop := central.Work()
	hello := central.Mirror("hello", "v1.0.0")[0]
	other := central.Mirror("other", "v1.0.0")[0]
	stop()
	central.Spoil(hello.Digest, workertest.Flip)
	central.Spoil(other.Digest, workertest.Flip)
	stop = follow(t, edge, serve(t, central))
	caughtUp(t, edge, central)
	if aside := asideOf(t, edge); len(aside) != 2 {
		t.Fatalf("set aside: %+v", aside)
	}
	central.Must(central.SetVisibility(t.Context(), "hello", true))
	if _, err := central.Remove(t.Context(), storage.Removal{Package: "other", Reason: "asked for"}); err != nil {
		t.Fatal(err)
	}
	caughtUp(t, edge, central)
	aside := asideOf(t, edge)
	if len(aside) != 1 || aside[0].Package != "hello" {
		t.Errorf("set aside: %+v, want hello alone", aside)
	}
	if shown, n, err := edge.Feed.AllSetAside(t.Context(), 10); err != nil || len(shown) != 0 || n != 0 {
		t.Errorf("a stranger is told of %d: %+v (%v)", n, shown, err)
	}
	stop()
	if bytes.Contains([]byte(edge.Log.String()), []byte("panic")) {
		t.Error(edge.Log.String())
	}
}
