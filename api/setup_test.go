package api_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/francescobianco/packbase/api"
	"github.com/francescobianco/packbase/api/pace"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/queue"
	"github.com/francescobianco/packbase/storage/queue/queuetest"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/release/releasetest"
	"github.com/francescobianco/packbase/storage/storagetest"
)

const token = "the-token-of-the-tests"

// A registry is a packbase of its own: stores and a listening server.
type registry struct {
	t        testing.TB
	dbURL    string
	db       *storage.DB
	queueURL string
	queue    *queue.Queue
	blobs    blob.Store
	dir      string // where blobs lie

	server *api.Server
	url    string // http://127.0.0.1:port
	addr   string // 127.0.0.1:port
	log    *storagetest.Log
}

// newRegistry starts a server with the token that change may take away, and
// nothing in it.
func newRegistry(t testing.TB, change ...func(*api.Options)) *registry {
	t.Helper()
	dir := t.TempDir()
	blobs, err := blob.OpenDisk(dir)
	if err != nil {
		t.Fatal(err)
	}
	g := &registry{t: t, dbURL: storagetest.NewURL(t), queueURL: queuetest.NewURL(t), blobs: blobs, dir: dir}
	g.queue = queuetest.Open(t, g.queueURL)
	storagetest.Migrate(t, g.dbURL)
	g.db, err = storage.Open(t.Context(), storagetest.AsServer(t, g.dbURL))
	g.must(err)
	t.Cleanup(g.db.Close)
	return g.serve(change...)
}

// serve starts another server on the same stores.
func (g *registry) serve(change ...func(*api.Options)) *registry {
	g.t.Helper()
	s := *g
	opt := api.Options{Release: "test", Token: token, Changing: api.Changing{Cooldown: time.Minute}}
	for _, c := range change {
		c(&opt)
	}
	s.log = &storagetest.Log{}
	s.server = api.New(s.db, s.queue, s.blobs, opt, slog.New(slog.NewJSONHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	ts := httptest.NewUnstartedServer(nil)
	ts.Config, ts.Listener = s.server.HTTPServer(), pace.Listener(ts.Listener)
	ts.Start()
	g.t.Cleanup(ts.Close)
	s.url, s.addr = ts.URL, ts.Listener.Addr().String()
	return &s
}

// An answer is an HTTP answer with its whole body.
type answer struct {
	*http.Response
	body []byte
}

// code returns the "code" of an error, "" if there is none.
func (a *answer) code() string {
	var body struct{ Code string }
	_ = json.Unmarshal(a.body, &body) // what is not JSON has no code
	return body.Code
}

func (a *answer) into(t testing.TB, v any) {
	t.Helper()
	if err := json.Unmarshal(a.body, v); err != nil {
		t.Fatalf("answer is not JSON: %v\n%s", err, a.body)
	}
}

// transport follows no redirect and unpacks nothing.
var transport = &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64}

// do sends a request. header is names and values, one after the other.
func (g *registry) do(method, path, body string, header ...string) *answer {
	g.t.Helper()
	req, err := http.NewRequestWithContext(g.t.Context(), method, g.url+path, strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	if host := req.Header.Get("Host"); host != "" {
		req.Host = host
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		g.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatalf("%s %s: read answer: %v", method, path, err)
	}
	return &answer{resp, b}
}

func (g *registry) get(path string, header ...string) *answer {
	g.t.Helper()
	return g.do(http.MethodGet, path, "", header...)
}

// post sends JSON with the token.
func (g *registry) post(path, body string, header ...string) *answer {
	g.t.Helper()
	return g.do(http.MethodPost, path, body, append(header, "Authorization", "Bearer "+token, "Content-Type", "application/json")...)
}

// raw sends bytes over a connection of their own and returns all that comes
// back until the server closes it, or says nothing for a while.
func (g *registry) raw(request string) string {
	g.t.Helper()
	conn, err := net.Dial("tcp", g.addr)
	if err != nil {
		g.t.Fatal(err)
	}
	defer conn.Close()
	// The server may answer and close before all is sent.
	_, _ = io.WriteString(conn, request)
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	b, _ := io.ReadAll(conn)
	return string(b)
}

// statusOf returns the status of the first answer in what raw returned, 0 if
// there is none.
func statusOf(answers string) (status int) {
	var minor int
	_, _ = fmt.Sscanf(answers, "HTTP/1.%d %d", &minor, &status) // none: 0
	return status
}

// files are a source tree: paths and contents.
type files map[string]string

// zon returns a source tree that Zig accepts as a package.
func zon(name, version string) files {
	return files{
		"build.zig": "// nothing\n",
		"README.md": "# " + name + "\n\nThe package " + name + ".\n",
		"build.zig.zon": fmt.Sprintf(".{ .name = .%s, .version = %q, .fingerprint = %#x, .paths = .{\"\"} }\n",
			name, version, uint64(crc32.ChecksumIEEE([]byte(name)))<<32|0x11223344),
	}
}

// A tagged is what publish publishes.
type tagged struct {
	tag       string // "" for a snapshot
	annotated bool
	branch    string // that the snapshot is the tip of
	files     files
}

// upstreamOf returns the upstream of a test's package.
func upstreamOf(t testing.TB, pkg string) name.Upstream {
	t.Helper()
	up, err := name.ParseUpstream("https://git.example/owner/" + pkg)
	if err != nil {
		t.Fatal(err)
	}
	return up
}

// claim has a job of the package begin.
func (g *registry) claim(pkg string) jobs.Claim {
	g.t.Helper()
	job, _, err := g.db.RequestFetch(g.t.Context(), pkg, upstreamOf(g.t, pkg))
	if err != nil {
		g.t.Fatal(err)
	}
	c, err := g.db.Jobs.Claim(g.t.Context(), job.ID, "tests", time.Minute)
	if err != nil {
		g.t.Fatal(err)
	}
	return c
}

// publish does what a fetch job does, with trees instead of an upstream, and
// returns what was published.
func (g *registry) publish(pkg string, releases ...tagged) []storage.Release {
	g.t.Helper()
	p := &publication{registry: g, claim: g.claim(pkg), src: releasetest.New(g.t)}
	for i, rel := range releases {
		p.add(rel, int64(i))
	}
	p.segment()
	var all []storage.Release
	for _, r := range p.roots {
		all = append(all, p.publish(r))
	}
	last := releases[len(releases)-1]
	branches := map[string]string{}
	if last.branch != "" {
		branches[last.branch] = all[len(all)-1].CommitOID
	}
	err := g.db.Jobs.End(g.t.Context(), p.claim, jobs.Outcome{
		State: jobs.Succeeded,
		Result: map[string]any{"package": pkg, "tag": last.tag, "commit": all[len(all)-1].CommitOID,
			"tarballs_created": len(all), "tarballs_present": 0, "tarball_count": len(all)},
		Sync: &jobs.Sync{OK: true, Branches: branches},
	})
	g.must(err)
	return all
}

func (g *registry) must(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

// A publication is one run of publish.
type publication struct {
	*registry
	claim    jobs.Claim
	src      *releasetest.Source
	roots    []*release.Root
	segments *release.Segments
}

// add makes a commit of the release, n days after the first.
func (p *publication) add(rel tagged, n int64) {
	p.t.Helper()
	who := fmt.Sprintf("a <a@example.org> %d +0000", 1_700_000_000+86_400*n)
	oid := p.src.Add(gitpack.Commit, fmt.Sprintf("tree %s\nauthor %s\ncommitter %s\n\n%s %d\n", p.src.Tree(rel.files), who, who, rel.tag, n))
	if rel.annotated {
		oid = p.src.Add(gitpack.Tag, fmt.Sprintf("object %s\ntype commit\ntag %s\ntagger %s\n\n%s\n", oid, rel.tag, who, rel.tag))
	}
	p.roots = append(p.roots, p.src.Root(rel.tag, oid))
}

// segment stores all objects that are not here yet.
func (p *publication) segment() {
	p.t.Helper()
	pkg := p.claim.Job.Package
	rows, err := p.db.Segments(access.SeePrivate(p.t.Context()), pkg)
	p.must(err)
	held, err := release.LoadSegments(p.t.Context(), p.blobs, rows, gitpack.UnmarshalIndex)
	p.must(err)
	ids, err := held.Fresh(p.t.Context(), p.src.Objects, p.roots, releasetest.Limits)
	p.must(err)
	var pack bytes.Buffer
	index, err := gitpack.WriteSegment(p.t.Context(), &pack, p.src.Objects, ids)
	p.must(err)
	raw, err := index.MarshalBinary()
	p.must(err)
	stored, indexed := p.put(pack.Bytes()), p.put(raw)
	p.segments = held.With(release.Segment{Package: pkg, Digest: stored.Digest, IndexDigest: indexed.Digest, Size: stored.Size}, index)
	p.must(p.db.AppendSegment(p.t.Context(), p.claim, p.segments.Last(), indexed))
}

func (p *publication) publish(r *release.Root) storage.Release {
	p.t.Helper()
	pkg, err := p.db.PackageByName(access.SeePrivate(p.t.Context()), p.claim.Job.Package)
	p.must(err)
	var tgz bytes.Buffer
	man := p.src.Build(&tgz, r, release.Manifest{Package: pkg.Name, Upstream: pkg.Upstream, CloneURL: pkg.CloneURL, Fence: p.claim.Fence,
		CreatedAt: time.Now().UTC().Truncate(time.Microsecond)})
	man.Description = "The package " + pkg.Name + "."
	doc, err := man.Encode()
	p.must(err)
	manifest := p.put(doc)
	p.put(tgz.Bytes())
	ids, err := r.Objects(p.t.Context(), p.src.Objects, releasetest.Limits)
	p.must(err)
	stored, err := p.segments.Stored(p.t.Context(), r.Commit, ids)
	p.must(err)
	pub := storage.PublicationOf(man, manifest, stored)
	_, err = p.db.Publish(p.t.Context(), p.claim, pub)
	p.must(err)
	return pub.Release
}

// put stores bytes as a blob.
func (g *registry) put(b []byte) blob.Ref {
	g.t.Helper()
	file, err := os.CreateTemp(filepath.Join(g.dir, "staging"), "test")
	g.must(err)
	defer os.Remove(file.Name())
	defer file.Close()
	_, err = file.Write(b)
	g.must(err)
	sum := sha256.Sum256(b)
	digest := hex.EncodeToString(sum[:])
	g.must(g.blobs.Put(context.WithoutCancel(g.t.Context()), digest, file))
	return blob.Ref{Digest: digest, Size: int64(len(b))}
}

// work has end end every job as soon as it is due, until the test ends.
func (g *registry) work(end func(context.Context, jobs.Claim) error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(g.t.Context()))
	var wg sync.WaitGroup
	g.t.Cleanup(func() { cancel(); wg.Wait() })
	wg.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			due, err := g.db.Jobs.Due(ctx, 0, 100)
			for i := 0; i < len(due) && err == nil; i++ {
				c, lost := g.db.Jobs.Claim(ctx, due[i].ID, "tests", time.Minute)
				if lost == nil { // else its package is busy
					err = end(ctx, c)
				}
			}
			if err != nil && ctx.Err() == nil {
				g.t.Errorf("work: %v", err)
			}
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	})
}

// A gate is a TCP proxy that can be shut.
type gate struct {
	ln    net.Listener
	mu    sync.Mutex
	conns map[net.Conn]bool
	asked atomic.Int64 // how often clients sent something
	held  bool         // nobody is let in
}

// asking counts what a client sends.
type asking struct {
	io.Reader
	n *atomic.Int64
}

func (a asking) Read(b []byte) (int, error) {
	n, err := a.Reader.Read(b)
	a.n.Add(1)
	return n, err
}

// newGate returns a gate in front of what listens at a network address.
func newGate(t testing.TB, network, addr string) *gate {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &gate{ln: ln, conns: map[net.Conn]bool{}}
	var wg sync.WaitGroup
	t.Cleanup(func() { p.shut(); wg.Wait() })
	wg.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial(network, addr)
			if err != nil {
				in.Close()
				continue
			}
			p.mu.Lock()
			p.conns[in], p.conns[out] = true, true
			if p.held {
				in.Close()
			}
			p.mu.Unlock()
			pump := func(to io.Writer, from io.Reader) {
				_, _ = io.Copy(to, from) // ends when either side does
				in.Close()
				out.Close()
			}
			wg.Go(func() { pump(out, asking{in, &p.asked}) })
			wg.Go(func() { pump(in, out) })
		}
	})
	return p
}

func (p *gate) addr() string { return p.ln.Addr().String() }

// shut closes the listener and cuts all connections.
func (p *gate) shut() {
	p.ln.Close()
	p.hold(true)
}

// hold cuts all connections and lets nobody in, until it is called with false.
func (p *gate) hold(held bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = held
	for c := range p.conns {
		c.Close()
	}
}

// withoutPostgres starts a server whose database was there, and is gone.
func (g *registry) withoutPostgres() *registry {
	g.t.Helper()
	away, postgres := g.gated()
	postgres.shut()
	return away
}

// gated starts a server whose database is behind a gate.
func (g *registry) gated() (*registry, *gate) {
	g.t.Helper()
	cfg, err := pgx.ParseConfig(g.dbURL)
	g.must(err)
	network, addr := pgconn.NetworkAddress(cfg.Host, cfg.Port)
	p := newGate(g.t, network, addr)
	u, err := url.Parse(g.dbURL)
	g.must(err)
	q := u.Query()
	q.Del("host")
	q.Del("port")
	u.Host, u.RawQuery = p.addr(), q.Encode()
	away := *g
	away.db, err = storage.Open(g.t.Context(), u.String())
	g.must(err)
	g.t.Cleanup(away.db.Close)
	return away.serve(), p
}

// withoutRedis starts a server whose Redis is not there.
func (g *registry) withoutRedis() *registry {
	g.t.Helper()
	away := *g
	away.queue = queuetest.Open(g.t, "redis://127.0.0.1:1/0")
	return away.serve()
}
