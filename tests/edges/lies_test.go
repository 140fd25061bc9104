package edges

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/francescobianco/packbase/api"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/feed"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/storagetest"
	"github.com/francescobianco/packbase/tests/harness"
	"github.com/francescobianco/packbase/worker/peer"
	"github.com/francescobianco/packbase/worker/probe"
	"github.com/francescobianco/packbase/worker/upkeep"
)

// A recording is what a real central has said, to be played with changes.
type recording struct {
	feed  []feed.Change
	blobs map[string][]byte
}

func record(t *testing.T, central getter) *recording {
	t.Helper()
	var page page
	decode(t, central.Get("/api/changes?limit=1000"), &page)
	r := &recording{feed: page.Changes, blobs: map[string][]byte{}}
	for i := range r.feed {
		body := r.body(t, i)
		for _, b := range []blob.Ref{body.Manifest, body.Tarball} {
			r.blobs[b.Digest] = central.Get("/api/blobs/" + b.Digest)
		}
	}
	return r
}

// body returns what change i says.
func (r *recording) body(t *testing.T, i int) (body feed.Body) {
	t.Helper()
	decode(t, r.feed[i].Body, &body)
	return body
}

// copy returns a recording that may be changed.
func (r *recording) copy() *recording {
	c := &recording{blobs: map[string][]byte{}}
	c.feed = append(c.feed, r.feed...)
	for digest, raw := range r.blobs {
		c.blobs[digest] = raw
	}
	return c
}

// say makes change i, with the chain from there on as an honest central would.
func (r *recording) say(t *testing.T, i int, body feed.Body) {
	t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	r.feed[i].Body = raw
	r.rechain()
}

func (r *recording) rechain() {
	chain := ""
	for i := range r.feed {
		chain = feed.NextChain(chain, r.feed[i].Body)
		r.feed[i].Seq, r.feed[i].Chain = int64(i+1), chain
	}
}

// forge puts another manifest into change i.
func (r *recording) forge(t *testing.T, i int, change func(*release.Manifest)) {
	t.Helper()
	body := r.body(t, i)
	man, err := release.ParseManifest(r.blobs[body.Manifest.Digest])
	if err != nil {
		t.Fatal(err)
	}
	change(man)
	raw, err := man.Encode()
	if err != nil {
		t.Fatal(err)
	}
	body.Manifest = r.put(raw)
	body.Package, body.Tag, body.Commit = man.Package, man.Tag, man.Commit
	body.Tarball = blob.Ref{Digest: man.Tarball.Digest, Size: man.Tarball.Size}
	r.say(t, i, body)
}

// put adds a blob.
func (r *recording) put(raw []byte) blob.Ref {
	b := blob.Ref{Digest: sha(raw), Size: int64(len(raw))}
	r.blobs[b.Digest] = raw
	return b
}

// of returns the manifest of change i, with another tag.
func (r *recording) of(t *testing.T, i int, tag string) []byte {
	t.Helper()
	man, err := release.ParseManifest(r.blobs[r.body(t, i).Manifest.Digest])
	if err != nil {
		t.Fatal(err)
	}
	man.Tag = tag
	raw, err := man.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// page is what GET /api/changes answers.
type page struct {
	Changes []feed.Change `json:"changes"`
	Head    struct {
		Seq   int64  `json:"seq"`
		Chain string `json:"chain"`
	} `json:"head"`
}

// after returns what an honest central with the first most changes answers.
func (r *recording) after(since, most int) page {
	p := page{Changes: []feed.Change{}}
	if since < most {
		p.Changes = r.feed[since:most]
	}
	if most > 0 {
		p.Head.Seq, p.Head.Chain = r.feed[most-1].Seq, r.feed[most-1].Chain
	}
	return p
}

// A player answers as a central, from a recording.
type player struct {
	URL  string
	most atomic.Int64 // changes that it has
	tape atomic.Pointer[recording]
	// What answers instead, if it is not nil and returns true.
	instead atomic.Pointer[func(w http.ResponseWriter, r *http.Request) bool]
}

func play(t *testing.T, tape *recording, most int) *player {
	t.Helper()
	p := &player{}
	p.tape.Store(tape)
	p.most.Store(int64(most))
	srv := httptest.NewServer(p)
	t.Cleanup(srv.Close)
	p.URL = srv.URL
	return p
}

func (p *player) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	most := int(p.most.Load()) // before what a lie replaces: it must be told of the news
	if f := p.instead.Load(); f != nil && (*f)(w, r) {
		return
	}
	tape := p.tape.Load()
	if digest, ok := strings.CutPrefix(r.URL.Path, "/api/blobs/"); ok {
		raw, ok := tape.blobs[digest]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(raw)
		return
	}
	since, err := strconv.Atoi(r.URL.Query().Get("since"))
	if err != nil || r.URL.Path != "/api/changes" {
		http.Error(w, "the edge asks for "+r.URL.String(), http.StatusBadRequest)
		return
	}
	say(w, tape.after(since, most))
}

func say(w http.ResponseWriter, p page) {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(p)
}

// answer lets f answer the requests for which it returns true.
func (p *player) answer(f func(w http.ResponseWriter, r *http.Request) bool) { p.instead.Store(&f) }

// A localEdge is an edge in this process.
type localEdge struct {
	t       *testing.T
	db      *storage.DB
	blobs   *blob.Disk
	staging *blob.Staging
	api     http.Handler
	log     storagetest.Log
}

// follow starts an edge of central, which stops with the test.
func follow(t *testing.T, central string) *localEdge {
	t.Helper()
	blobs, err := blob.OpenDisk(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	staging, err := blob.OpenStaging(blobs, "")
	if err != nil {
		t.Fatal(err)
	}
	e := &localEdge{t: t, db: storagetest.NewDB(t), blobs: blobs, staging: staging}
	log := slog.New(slog.NewTextHandler(&e.log, nil))
	e.api = api.New(e.db, nil, blobs, api.Options{ReadOnly: true, Central: central}, slog.New(slog.DiscardHandler)).Handler()
	r := &peer.Replica{
		DB: e.db, Blobs: blobs, Staging: staging, Central: central, HTTP: http.DefaultClient, Retry: 5 * time.Millisecond, Log: log,
		Prober: &probe.Prober{DB: e.db, Staging: staging, Git: e.api, Limits: gitpack.DefaultLimits()},
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("replica: %v", err)
		}
		if t.Failed() {
			t.Logf("log of the edge:\n%s", e.log.String())
		}
	})
	return e
}

// rebuilt returns what the blobs of an edge alone make, and fails if a package would be fetched from elsewhere than it was.
func rebuilt(t *testing.T, e *localEdge) *localEdge {
	t.Helper()
	r := &localEdge{t: t, db: storagetest.NewDB(t), blobs: e.blobs}
	r.api = api.New(r.db, nil, r.blobs, api.Options{ReadOnly: true}, slog.New(slog.DiscardHandler)).Handler()
	a := upkeep.Auditor{DB: r.db, Blobs: r.blobs, Staging: e.staging, Report: func(upkeep.Finding) {}}
	if err := a.Rebuild(access.SeePrivate(t.Context())); err != nil {
		t.Fatal(err)
	}
	for _, of := range []*localEdge{e, r} {
		all, err := of.db.Packages(access.SeePrivate(t.Context()))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range all {
			if up, err := name.ParseUpstream(p.CloneURL); err != nil || up.Canonical != p.Upstream || !strings.HasSuffix(p.Upstream, "/"+p.Name) {
				t.Errorf("%s is of %s, and cloned from %s, %v", p.Name, p.Upstream, p.CloneURL, err)
			}
		}
	}
	return r
}

// Get returns the body of a path, which must answer 200.
func (e *localEdge) Get(path string) []byte {
	e.t.Helper()
	w := httptest.NewRecorder()
	e.api.ServeHTTP(w, httptest.NewRequestWithContext(e.t.Context(), http.MethodGet, path, nil))
	if w.Code != http.StatusOK {
		e.t.Fatalf("GET %s: status = %d, want 200\n%s", path, w.Code, w.Body)
	}
	return w.Body.Bytes()
}

// reaches waits until the edge has seq changes.
func (e *localEdge) reaches(seq int64) {
	e.t.Helper()
	harness.Eventually(e.t, fmt.Sprintf("the edge has %d changes", seq), func() bool {
		r, err := e.db.Feed.Replication(e.t.Context())
		return err == nil && r.Seq == seq
	})
}

// The changes of the recording below, by index.
const (
	helloV1 = iota
	helloV2
	other
	helloV3 // the news, which the lies are about
	otherV2
	releases
)

// mirror returns a central with two packages and five releases.
func mirror(t *testing.T) *harness.Server {
	t.Helper()
	up := harness.NewUpstream(t)
	hello, others := up.Repo("hello"), up.Repo("other")
	s := harness.Start(t)
	hello.Annotate("v1.0.0", hello.Release("v1.0.0"))
	s.Fetch(hello.URL)
	hello.Release("v2.0.0<&>")
	s.Fetch(hello.URL)
	others.Release("v1.0.0")
	s.Fetch(others.URL)
	hello.Annotate("v3.0.0", hello.Release("v3.0.0"))
	s.Fetch(hello.URL)
	others.Release("v2.0.0")
	s.Fetch(others.URL)
	return s
}

func TestReplica(t *testing.T) {
	t.Parallel()
	s := mirror(t)
	tape, all := record(t, s), served(t, s)
	s.Stop()
	t.Run("lying central", func(t *testing.T) { testLyingCentral(t, tape, all) })
	t.Run("corrupt transfer", func(t *testing.T) { testCorruptTransfer(t, tape, all) })
	t.Run("resume", func(t *testing.T) { testResume(t, tape) })
	t.Run("rotten release", func(t *testing.T) { testRotten(t, tape, all) })
}

// ED-03. A central that lies is not believed, and what was served is served.
// What proves that its history changed halts replication, with a reason in the
// log and in the status; a release that cannot be true is set aside, and the
// feed goes on. None of it becomes true when the edge is rebuilt from its blobs,
// or made a central.
func testLyingCentral(t *testing.T, honest *recording, truth map[string]string) {
	t.Parallel()
	if len(honest.feed) != releases {
		t.Fatalf("the central has %d changes, want %d", len(honest.feed), releases)
	}
	for _, lie := range lies {
		t.Run(lie.name, func(t *testing.T) {
			t.Parallel()
			central := play(t, honest, helloV3)
			e := follow(t, central.URL)
			e.reaches(helloV3)
			before := served(t, e)

			lie.tell(t, central, honest.copy())
			central.most.Store(releases)
			lie.outcome(t, e, lie.why)
			after := served(t, e)
			within(t, before, after)
			within(t, after, truth)
			again := served(t, rebuilt(t, e))
			within(t, before, again)
			within(t, again, truth)
		})
	}
}

// What comes of a lie.

func halts(t *testing.T, e *localEdge, why string) {
	t.Helper()
	before := served(t, e)
	harness.Eventually(t, "replication has halted", func() bool { return status(t, e).Halted != "" })
	if got := status(t, e); !strings.Contains(got.Halted, why) || got.Seq > helloV3 || got.SetAside != 0 {
		t.Errorf("halted at change %d because %q with %d set aside, want at most %d because of %q", got.Seq, got.Halted, got.SetAside, helloV3, why)
	}
	harness.Eventually(t, "the reason is in the log", func() bool { return strings.Contains(e.log.String(), "replication halted") })
	same(t, served(t, e), before)
}

func stalls(t *testing.T, e *localEdge, why string) {
	t.Helper()
	harness.Eventually(t, "the reason is in the log often", func() bool { return strings.Count(e.log.String(), why) > 2*3 })
	if got := status(t, e); got.Halted != "" || got.Seq != helloV3 || got.SetAside != 0 {
		t.Errorf("%+v, want the edge to wait at change %d", got, helloV3)
	}
}

func aside(t *testing.T, e *localEdge, why string) {
	t.Helper()
	e.reaches(releases)
	harness.Eventually(t, "the status tells of it", func() bool { return status(t, e).Seq == releases })
	got := status(t, e)
	if got.Halted != "" || got.SetAside != 1 || len(got.SetAsideChanges) != 1 || got.SetAsideChanges[0].Seq != helloV3+1 ||
		!strings.Contains(got.SetAsideChanges[0].Reason, why) {
		t.Errorf("%+v, want change %d set aside because of %q", got, helloV3+1, why)
	}
	if !strings.Contains(e.log.String(), "change set aside") {
		t.Error("nothing is in the log")
	}
	e.Get("/p/other/tag/v2.0.0.tar.gz") // which came after
}

// A lie is told by a player whose tape has been honest so far.
type lie struct {
	name string
	tell func(t *testing.T, p *player, tape *recording)
	why  string // part of the reason

	outcome func(t *testing.T, e *localEdge, why string)
}

var lies = []lie{
	{"other bytes", func(t *testing.T, p *player, tape *recording) {
		tape.blobs[tape.body(t, helloV3).Tarball.Digest] = tape.blobs[tape.body(t, helloV1).Tarball.Digest]
		p.tape.Store(tape)
	}, "with the digest", aside},
	{"other digest", func(t *testing.T, p *player, tape *recording) {
		body := tape.body(t, helloV3)
		body.Tarball = tape.body(t, helloV1).Tarball
		chain := tape.feed[helloV3].Chain
		tape.say(t, helloV3, body)
		tape.feed[helloV3].Chain = chain
		p.tape.Store(tape)
	}, "does not continue", halts},
	{"other digest chained", func(t *testing.T, p *player, tape *recording) {
		body := tape.body(t, helloV3)
		body.Tarball = tape.body(t, helloV1).Tarball
		tape.say(t, helloV3, body)
		p.tape.Store(tape)
	}, "not what the feed says", aside},
	{"shorter feed", func(_ *testing.T, p *player, tape *recording) {
		p.answer(func(w http.ResponseWriter, _ *http.Request) bool {
			say(w, tape.after(helloV3, helloV2))
			return true
		})
	}, "rolled back", halts},
	{"replayed old feed", func(_ *testing.T, p *player, tape *recording) {
		p.answer(func(w http.ResponseWriter, _ *http.Request) bool {
			say(w, tape.after(0, releases))
			return true
		})
	}, "goes from change 3 to 1", halts},
	{"forked feed", func(t *testing.T, p *player, tape *recording) {
		tape.say(t, helloV1, feed.Body{Package: "hello", Tag: "v0.9.0"})
		p.tape.Store(tape)
	}, "does not continue", halts},
	{"forked head", func(_ *testing.T, p *player, tape *recording) {
		answer := tape.after(helloV3, helloV3)
		answer.Head.Chain = strings.Repeat("0", 64)
		p.answer(func(w http.ResponseWriter, _ *http.Request) bool {
			say(w, answer)
			return true
		})
	}, "not the one that it showed", halts},
	{"head of another feed", func(_ *testing.T, p *player, tape *recording) {
		answer := tape.after(helloV3, releases)
		answer.Head.Chain = strings.Repeat("0", 64)
		p.answer(func(w http.ResponseWriter, r *http.Request) bool {
			say(w, answer)
			return true
		})
	}, "is not the change of that number", halts},
	{"promised changes", func(_ *testing.T, p *player, tape *recording) {
		answer := tape.after(helloV3, releases)
		answer.Changes = nil
		p.answer(func(w http.ResponseWriter, _ *http.Request) bool {
			say(w, answer)
			return true
		})
	}, "shows none", halts},
	{"more than the head", func(_ *testing.T, p *player, tape *recording) {
		answer := tape.after(helloV3, helloV3+1)
		answer.Changes = tape.after(helloV3, releases).Changes
		p.answer(func(w http.ResponseWriter, _ *http.Request) bool {
			say(w, answer)
			return true
		})
	}, "says that it has 4", halts},
	{"gap", func(_ *testing.T, p *player, tape *recording) {
		answer := tape.after(helloV3, releases)
		answer.Changes = answer.Changes[1:]
		p.answer(func(w http.ResponseWriter, _ *http.Request) bool {
			say(w, answer)
			return true
		})
	}, "goes from change 3 to 5", halts},
	{"oversize page", func(_ *testing.T, p *player, _ *recording) {
		p.answer(func(w http.ResponseWriter, _ *http.Request) bool {
			_, _ = io.Copy(w, io.LimitReader(zeros{}, 17<<20))
			return true
		})
	}, "bytes", stalls},
	{"too many changes", func(t *testing.T, p *player, tape *recording) {
		for len(tape.feed) < 500 {
			tape.feed = append(tape.feed, tape.feed[helloV3])
		}
		tape.rechain()
		p.answer(func(w http.ResponseWriter, _ *http.Request) bool {
			say(w, tape.after(helloV3, len(tape.feed)))
			return true
		})
	}, "at most 200", stalls},
	{"tag moved", func(t *testing.T, p *player, tape *recording) {
		body := tape.body(t, helloV3)
		body.Tag = "v1.0.0"
		tape.say(t, helloV3, body)
		p.tape.Store(tape)
	}, "before", halts},
	{"tag moved within a page", func(t *testing.T, p *player, tape *recording) {
		moved := tape.body(t, helloV2)
		moved.Tag = "v3.0.0"
		tape.say(t, otherV2, moved)
		p.tape.Store(tape)
	}, "before", halts},
	{"same commit in another tarball", func(t *testing.T, p *player, tape *recording) {
		body := tape.body(t, helloV2)
		body.Tarball = tape.body(t, helloV1).Tarball
		tape.say(t, helloV3, body)
		p.tape.Store(tape)
	}, "before", halts},
	{"manifest of another tag", func(t *testing.T, p *player, tape *recording) {
		body := tape.body(t, helloV3)
		body.Manifest = tape.body(t, helloV2).Manifest
		tape.say(t, helloV3, body)
		p.tape.Store(tape)
	}, "not what the feed says", aside},
	{"manifest of another package", func(t *testing.T, p *player, tape *recording) {
		body := tape.body(t, helloV3)
		body.Manifest = tape.body(t, other).Manifest
		tape.say(t, helloV3, body)
		p.tape.Store(tape)
	}, "not what the feed says", aside},
	{"no manifest", func(t *testing.T, p *player, tape *recording) {
		body := tape.body(t, helloV3)
		body.Manifest = body.Tarball
		tape.say(t, helloV3, body)
		p.tape.Store(tape)
	}, "is none", aside},
	{"manifest as a tarball", func(t *testing.T, p *player, tape *recording) {
		body := tape.body(t, helloV3)
		body.Tarball = tape.put(tape.of(t, helloV2, "v1.0.0"))
		tape.say(t, helloV3, body)
		p.tape.Store(tape)
	}, "is a document", aside},
	{"record as a tarball", func(t *testing.T, p *player, tape *recording) {
		man, err := release.ParseManifest(tape.blobs[tape.body(t, helloV1).Manifest.Digest])
		if err != nil {
			t.Fatal(err)
		}
		raw, err := (&storage.PackageRecord{Package: "hello", Upstream: man.Upstream, CloneURL: man.CloneURL, Private: true}).Encode()
		if err != nil {
			t.Fatal(err)
		}
		body := tape.body(t, helloV3)
		body.Tarball = tape.put(raw)
		tape.say(t, helloV3, body)
		p.tape.Store(tape)
	}, "is a document", aside},
	{"manifest without a tarball", func(t *testing.T, p *player, tape *recording) {
		body := tape.body(t, helloV3)
		body.Manifest = tape.put(tape.of(t, helloV2, "v1.0.0"))
		body.Tarball.Digest = strings.Repeat("0", 64)
		tape.say(t, helloV3, body)
		p.tape.Store(tape)
	}, "404", aside},
	{"tarball of another commit", func(t *testing.T, p *player, tape *recording) {
		old := tape.body(t, helloV2)
		man, err := release.ParseManifest(tape.blobs[old.Manifest.Digest])
		if err != nil {
			t.Fatal(err)
		}
		tape.forge(t, helloV3, func(m *release.Manifest) { m.Tarball = man.Tarball })
		p.tape.Store(tape)
	}, "the tarball is of the commit", aside},
	{"another tree", func(t *testing.T, p *player, tape *recording) {
		tape.forge(t, helloV3, func(m *release.Manifest) { m.Tree = strings.Repeat("1", 40) })
		p.tape.Store(tape)
	}, "the manifest says", aside},
	{"forged commit", func(t *testing.T, p *player, tape *recording) {
		tape.forge(t, helloV3, func(m *release.Manifest) { m.Git.Commit = append(m.Git.Commit, "Signed-off-by: me\n"...) })
		p.tape.Store(tape)
	}, "has the id", aside},
	{"forged tag object", func(t *testing.T, p *player, tape *recording) {
		tape.forge(t, helloV3, func(m *release.Manifest) { m.Git.Tags[0] = append(m.Git.Tags[0], "P.S. me, too\n"...) })
		p.tape.Store(tape)
	}, "tag object", aside},
	{"tag object of another commit", func(t *testing.T, p *player, tape *recording) {
		old, err := release.ParseManifest(tape.blobs[tape.body(t, helloV1).Manifest.Digest])
		if err != nil {
			t.Fatal(err)
		}
		tape.forge(t, helloV3, func(m *release.Manifest) { m.Git.Tags, m.TagObject = old.Git.Tags, old.TagObject })
		p.tape.Store(tape)
	}, "a tag object in the manifest names", aside},
	{"Zig hash of another package", func(t *testing.T, p *player, tape *recording) {
		tape.forge(t, helloV3, func(m *release.Manifest) { m.Zig.LegacyHash = "1220" + strings.Repeat("0", 64) })
		p.tape.Store(tape)
	}, "Zig hash", aside},
	{"other sums", func(t *testing.T, p *player, tape *recording) {
		tape.forge(t, helloV3, func(m *release.Manifest) { m.Tarball.MD5 = strings.Repeat("0", 32) })
		p.tape.Store(tape)
	}, "not those of the manifest", aside},
	{"time of another commit", func(t *testing.T, p *player, tape *recording) {
		tape.forge(t, helloV3, func(m *release.Manifest) { m.CommitTime = m.CommitTime.Add(time.Hour) })
		p.tape.Store(tape)
	}, "is of", aside},
	{"package of another upstream", func(t *testing.T, p *player, tape *recording) {
		tape.forge(t, helloV3, func(m *release.Manifest) {
			m.Upstream, m.CloneURL = "https://evil.example/hello", "https://evil.example/hello"
		})
		p.tape.Store(tape)
	}, "bound to", aside},
	{"clone URL of another repository", func(t *testing.T, p *player, tape *recording) {
		tape.forge(t, helloV3, func(m *release.Manifest) { m.CloneURL = "https://evil.example/hello" })
		p.tape.Store(tape)
	}, "clone URL", aside},
	{"clone URL that is a local folder", func(t *testing.T, p *player, tape *recording) {
		tape.forge(t, helloV3, func(m *release.Manifest) { m.CloneURL = "fixture:/etc" })
		p.tape.Store(tape)
	}, "clone URL", aside},
	{"package in other letters", func(t *testing.T, p *player, tape *recording) {
		tape.forge(t, helloV3, func(m *release.Manifest) { m.Package = "Hello" })
		p.tape.Store(tape)
	}, "is called hello here", aside},
	{"package that is a path", func(t *testing.T, p *player, tape *recording) {
		tape.forge(t, helloV3, func(m *release.Manifest) { m.Package = "../hello" })
		p.tape.Store(tape)
	}, "change 4", aside},
	{"reserved name", func(t *testing.T, p *player, tape *recording) {
		tape.forge(t, helloV3, func(m *release.Manifest) { m.Package = "api" })
		p.tape.Store(tape)
	}, "change 4", aside},
	{"tag with control characters", func(t *testing.T, p *player, tape *recording) {
		tape.forge(t, helloV3, func(m *release.Manifest) { m.Tag = "v3\x1b[2J" })
		p.tape.Store(tape)
	}, "change 4", aside},
	{"branch that is a path", func(t *testing.T, p *player, tape *recording) {
		tape.say(t, helloV3, feed.Body{Package: "hello", Branch: "a/../b", Commit: tape.body(t, helloV2).Commit})
		p.tape.Store(tape)
	}, "a/../b", aside},
	{"branch named like a commit", func(t *testing.T, p *player, tape *recording) {
		tape.say(t, helloV3, feed.Body{Package: "hello", Branch: tape.body(t, helloV1).Commit, Commit: tape.body(t, helloV2).Commit})
		p.tape.Store(tape)
	}, "is a commit id", aside},
	{"branch at a commit that is not here", func(t *testing.T, p *player, tape *recording) {
		tape.say(t, helloV3, feed.Body{Package: "hello", Branch: "main", Commit: strings.Repeat("1", 40)})
		p.tape.Store(tape)
	}, "is not here", aside},
	{"removal of a tag with control characters", func(t *testing.T, p *player, tape *recording) {
		tape.say(t, helloV3, feed.Body{Package: "hello", Tag: "v3\x1b[2J", Commit: strings.Repeat("1", 40), Decision: feed.DecisionRemoved, Reason: "x"})
		p.tape.Store(tape)
	}, "control character", aside},
	{"removal of no commit", func(t *testing.T, p *player, tape *recording) {
		tape.say(t, helloV3, feed.Body{Package: "hello", Tag: "v4.0.0", Commit: "1'; --", Decision: feed.DecisionRemoved, Reason: "x"})
		p.tape.Store(tape)
	}, "is no commit id", aside},
	{"removal for an endless reason", func(t *testing.T, p *player, tape *recording) {
		tape.say(t, helloV3, feed.Body{Package: "hello", Tag: "v1.0.0", Decision: feed.DecisionRemoved, Reason: strings.Repeat("x", 5000)})
		p.tape.Store(tape)
	}, "at most 500 bytes", aside},
	{"endless change", func(t *testing.T, p *player, tape *recording) {
		tape.say(t, helloV3, feed.Body{Package: "nobody", Decision: feed.DecisionPrivate, Nonce: strings.Repeat("x", 100_000)})
		p.tape.Store(tape)
	}, "bytes, more than", aside},
	{"digest that is a path", func(t *testing.T, p *player, tape *recording) {
		body := tape.body(t, helloV3)
		body.Tarball.Digest = "../../../../etc/passwd"
		tape.say(t, helloV3, body)
		p.tape.Store(tape)
	}, "no blob is called", aside},
	{"no JSON in a change", func(_ *testing.T, p *player, tape *recording) {
		tape.feed[helloV3].Body = json.RawMessage(`["hello"]`)
		tape.rechain()
		p.tape.Store(tape)
	}, "cannot unmarshal", aside},
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// A central that was restored from a backup has another feed of the same
// releases. Resumed, an edge reads it from the beginning and goes on; if it is
// not the same releases, it halts again.
func testResume(t *testing.T, tape *recording) {
	t.Parallel()
	central := play(t, tape, releases)
	e := follow(t, central.URL)
	e.reaches(releases)
	before := served(t, e)

	restored := tape.copy()
	restored.feed = restored.feed[:helloV3+1]
	restored.feed[helloV1], restored.feed[other] = restored.feed[other], restored.feed[helloV1]
	restored.rechain()
	central.most.Store(helloV3 + 1)
	central.tape.Store(restored)
	harness.Eventually(t, "replication has halted", func() bool { return status(t, e).Halted != "" })
	if err := e.db.Feed.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	e.reaches(helloV3 + 1)
	longer := restored.copy() // the other one is being read
	longer.feed = append(longer.feed, tape.feed[otherV2])
	longer.rechain()
	central.tape.Store(longer)
	central.most.Store(releases)
	e.reaches(releases)
	same(t, served(t, e), before)

	another := longer.copy()
	body := another.body(t, helloV2)
	body.Tarball = another.body(t, helloV3).Tarball
	another.say(t, helloV2, body)
	central.tape.Store(another)
	harness.Eventually(t, "replication has halted", func() bool { return status(t, e).Halted != "" })
	if err := e.db.Feed.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "replication has halted again", func() bool {
		return strings.Contains(status(t, e).Halted, "before")
	})
	same(t, served(t, e), before)
}

// A blob that is damaged or lost at the central, in whatever way that shows,
// holds up its own release and no other, and no longer than until it is mended.
func testRotten(t *testing.T, tape *recording, want map[string]string) {
	t.Parallel()
	rots := map[string]func(w http.ResponseWriter, right []byte){
		"flipped": func(w http.ResponseWriter, right []byte) { _, _ = w.Write(append([]byte{right[0] ^ 1}, right[1:]...)) },
		"lost":    func(w http.ResponseWriter, _ []byte) { http.Error(w, "no", http.StatusNotFound) },
		"refused": func(w http.ResponseWriter, _ []byte) { http.Error(w, "damaged", http.StatusServiceUnavailable) },
		"broken off": func(w http.ResponseWriter, right []byte) {
			w.Header().Set("Content-Length", strconv.Itoa(len(right)))
			_, _ = w.Write(right[:len(right)-1])
			panic(http.ErrAbortHandler)
		},
		"never sent": func(http.ResponseWriter, []byte) { panic(http.ErrAbortHandler) },
	}
	for name, rot := range rots {
		for _, what := range []string{"manifest", "tarball"} {
			t.Run(name+" "+what, func(t *testing.T) {
				t.Parallel()
				central := play(t, tape, releases)
				digest := tape.body(t, helloV2).Tarball.Digest
				if what == "manifest" {
					digest = tape.body(t, helloV2).Manifest.Digest
				}
				rotten := true
				var mu sync.Mutex
				central.answer(func(w http.ResponseWriter, r *http.Request) bool {
					mu.Lock()
					defer mu.Unlock()
					if !rotten || r.URL.Path != "/api/blobs/"+digest {
						return false
					}
					rot(w, tape.blobs[digest])
					return true
				})
				e := follow(t, central.URL)
				e.reaches(releases)
				harness.Eventually(t, "the status tells of it", func() bool { return status(t, e).SetAside == 1 })
				if got := status(t, e); got.Halted != "" || got.SetAsideChanges[0].Seq != helloV2+1 || got.SetAsideChanges[0].Tag != "v2.0.0<&>" {
					t.Errorf("%+v, want change %d set aside", got, helloV2+1)
				}
				have := served(t, e)
				within(t, have, want)
				mu.Lock()
				rotten = false
				mu.Unlock()
				harness.Eventually(t, "it is here once it is right", func() bool {
					if err := e.db.Feed.RetrySetAside(t.Context()); err != nil { // which else takes a minute
						t.Fatal(err)
					}
					_, n, err := e.db.Feed.AllSetAside(t.Context(), 1)
					return err == nil && n == 0
				})
				same(t, served(t, e), want)
			})
		}
	}
}

// ED-04. What is damaged on the way is refused, and asked for until it is good.
func testCorruptTransfer(t *testing.T, tape *recording, want map[string]string) {
	t.Parallel()
	for _, damage := range damages {
		t.Run(damage.name, func(t *testing.T) {
			t.Parallel()
			central := play(t, tape, releases)
			rnd := rand.New(rand.NewPCG(4, 4))
			left := 12
			// A cut answer may be over for the edge before it is for us.
			var mu sync.Mutex
			central.answer(func(w http.ResponseWriter, r *http.Request) bool {
				mu.Lock()
				defer mu.Unlock()
				if left == 0 || rnd.IntN(3) == 0 {
					return false
				}
				left--
				whole := httptest.NewRecorder()
				since, _ := strconv.Atoi(r.URL.Query().Get("since"))
				if digest, ok := strings.CutPrefix(r.URL.Path, "/api/blobs/"); ok {
					whole.Body.Write(tape.blobs[digest])
				} else {
					say(whole, tape.after(since, releases))
				}
				damage.do(rnd, w, whole.Body.Bytes(), tape)
				return true
			})
			e := follow(t, central.URL)
			e.reaches(releases)
			harness.Eventually(t, "what was set aside is here, too", func() bool {
				if err := e.db.Feed.RetrySetAside(t.Context()); err != nil { // which else takes a minute
					t.Fatal(err)
				}
				_, n, err := e.db.Feed.AllSetAside(t.Context(), 1)
				return err == nil && n == 0
			})
			same(t, served(t, e), want)
			if halted := status(t, e).Halted; halted != "" {
				t.Errorf("halted: %s", halted)
			}
		})
	}
}

var damages = []struct {
	name string
	do   func(rnd *rand.Rand, w http.ResponseWriter, raw []byte, tape *recording)
}{
	{"bit flip", func(rnd *rand.Rand, w http.ResponseWriter, raw []byte, _ *recording) {
		raw = bytes.Clone(raw)
		raw[rnd.IntN(len(raw))] ^= 1 << rnd.IntN(8)
		_, _ = w.Write(raw)
	}},
	{"cut", func(rnd *rand.Rand, w http.ResponseWriter, raw []byte, _ *recording) {
		_, _ = w.Write(raw[:rnd.IntN(len(raw))])
	}},
	{"cut with an error", func(rnd *rand.Rand, w http.ResponseWriter, raw []byte, _ *recording) {
		w.Header().Set("Content-Length", strconv.Itoa(len(raw)))
		_, _ = w.Write(raw[:rnd.IntN(len(raw))])
		panic(http.ErrAbortHandler)
	}},
	{"swap", func(rnd *rand.Rand, w http.ResponseWriter, _ []byte, tape *recording) {
		var body feed.Body
		_ = json.Unmarshal(tape.feed[rnd.IntN(releases)].Body, &body)
		_, _ = w.Write(append(bytes.Clone(tape.blobs[body.Tarball.Digest]), byte(rnd.IntN(256))))
	}},
	{"server error", func(_ *rand.Rand, w http.ResponseWriter, _ []byte, _ *recording) {
		http.Error(w, "no", http.StatusBadGateway)
	}},
}
