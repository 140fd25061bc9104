package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage/engines"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/queue/queuetest"
	"github.com/francescobianco/packbase/tests/harness"
	"github.com/francescobianco/packbase/tests/harness/engine"
)

const (
	// longestStall is how long a job that could go on may stand still.
	longestStall = 60 * time.Second
	// twoOpenShare is in how many of 100 looks between faults two updates have
	// to be open. While the one that waited waits for a worker to begin it, no
	// other can be asked for: such a look does not count.
	twoOpenShare = 95
)

// Everything that packbase consists of and stands on is killed, stopped,
// frozen and flushed, one after the other, with the settings that are usual,
// while two updates are open, packages are asked for, some upstreams are slow
// and some readers are. In the end all that was acknowledged is done.
//
// There are two of api and worker, as where one of them may be restarted: a
// stopped api takes no requests while slow readers finish.
//
// A job that three of its workers are killed with is quarantined, and rightly;
// so no worker is harmed while some job has lost two.
func TestCampaign(t *testing.T) {
	t.Parallel()
	c := newCampaign(t)
	stop := c.load()
	n := faults(t, 6, 300)
	began := time.Now()
	for i := range n {
		if i%2 == 0 {
			c.ask(i)
		}
		if i%25 == 24 {
			c.publishMore(i)
			c.fsck()
		}
		c.harming.Store(true)
		c.harm()
		c.harming.Store(false)
		<-time.After(upTo(c.rnd, time.Second))
		if t.Failed() {
			break
		}
	}
	took := time.Since(began)
	stop()
	c.check()
	t.Logf("%d faults in %v: %v; %d spared", n, took.Round(time.Second), c.done, c.spared)
	t.Logf("%d jobs acknowledged, %d updates done, two open in %d of %d looks between faults; longest stall %v (%s); %d slow downloads",
		len(c.jobs), c.updates, c.twoOpen, c.looks, c.stall.Round(100*time.Millisecond), c.stalled, c.slowReads)
}

// A campaign is one run of TestCampaign.
type campaign struct {
	t         *testing.T
	rnd       *rand.Rand
	pg, redis *engine.Set
	up        *harness.Upstream
	slow      string // URL before up, to the same repositories
	s         *harness.Server
	apis      []*harness.Server
	workers   []*harness.Process
	c         *checker
	listed    []*harness.Repo // in the catalog
	asked     []*harness.Repo

	done   map[string]int // faults by name
	spared int

	harming   atomic.Bool // a fault is under way
	mu        sync.Mutex
	jobs      map[string]string // what was acknowledged, and what for
	slowReads int

	// Of watch alone, until it has ended.
	stall          time.Duration
	stalled        string
	looks, twoOpen int // between faults

	updates int
}

func newCampaign(t *testing.T) *campaign {
	c := &campaign{t: t, rnd: random(t), up: harness.NewUpstream(t), done: map[string]int{}, jobs: map[string]string{}}
	c.pg = engine.New(t, engines.Options{NoRedis: true})
	c.redis = engine.New(t, engines.Options{NoPostgres: true, Ephemeral: true})
	c.slow = c.slowly(t)
	for n := range 6 {
		repo := c.up.Repo(fmt.Sprintf("listed-%d", n))
		tagReleases(t, repo, 0, 2, 100_000)
		c.listed = append(c.listed, repo)
	}
	env := slices.Concat(c.pg.Env(), c.redis.Env(), []string{
		"PACKBASE_SOURCE=" + c.catalog(t), "PACKBASE_UPDATE_COOLDOWN=0", "PACKBASE_WORKER_CONCURRENCY=3", "PACKBASE_JOB_ATTEMPTS=20",
		"PACKBASE_LEASE=" + map[bool]string{false: "3s", true: "15s"}[atLength], "PACKBASE_RECONCILE=" + map[bool]string{false: "200ms", true: "2s"}[atLength],
	})
	c.s = harness.Start(t, env...)
	c.apis = []*harness.Server{c.s, c.s.AddAPI("api-2")}
	c.workers = []*harness.Process{c.s.Worker, c.s.AddWorker("worker-2")}
	c.c = newChecker(t, c.s)
	c.c.away = true
	c.c.know(c.listed...)
	return c
}

// slowly returns the URL of a server that begins to answer after a second and
// sends 100 KB a second.
func (c *campaign) slowly(t *testing.T) string {
	to, err := url.Parse(c.up.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-time.After(time.Second):
			proxy.ServeHTTP(&slowWriter{w, r.Context()}, r)
		}
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

type slowWriter struct {
	http.ResponseWriter
	ctx context.Context
}

func (w *slowWriter) Write(p []byte) (n int, err error) {
	for piece := range slices.Chunk(p, 5000) {
		select {
		case <-w.ctx.Done():
			return n, w.ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
		m, err := w.ResponseWriter.Write(piece)
		if n += m; err != nil {
			return n, err
		}
		_ = http.NewResponseController(w.ResponseWriter).Flush()
	}
	return n, nil
}

// catalog serves a catalog in which everything has always just changed. One
// package in three is on the slow upstream. It takes its time: another update
// can only be asked for while one runs.
func (c *campaign) catalog(t *testing.T) string {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-time.After(map[bool]time.Duration{false: 2 * time.Second, true: 16 * time.Second}[atLength]):
		}
		type entry = map[string]any
		var list []entry
		for n, repo := range c.listed {
			name := filepath.Base(repo.Dir)
			at := repo.URL
			if n%3 == 0 {
				at = c.behind(repo)
			}
			list = append(list, entry{"id": name, "title": name, "updated_at": time.Now().Format(time.RFC3339Nano), "repository": entry{"url": at}})
		}
		_ = json.NewEncoder(w).Encode(entry{"protocol": "v1", "packages": list})
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// behind returns the URL of a repository at the slow upstream.
func (c *campaign) behind(repo *harness.Repo) string {
	return c.slow + strings.TrimPrefix(repo.URL, c.up.URL)
}

// load has work done and looked at until stop is called.
func (c *campaign) load() (stop func()) {
	big := c.up.Repo("big")
	tagReleases(c.t, big, 0, 1, 4<<20)
	c.s.Fetch(big.URL)
	url := c.s.Info("big").Tarballs[0].URL
	sha := c.s.Info("big").Tarballs[0].SHA256
	ctx, cancel := context.WithCancel(c.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { c.requestUpdates(ctx) })
	wg.Go(func() { c.watch(ctx) })
	for range 3 {
		wg.Go(func() { c.readSlowly(ctx, url, sha) })
	}
	stopReading := c.c.read(3)
	return func() {
		stopReading()
		cancel()
		wg.Wait()
	}
}

// requestUpdates asks for updates, so that one runs and one waits.
func (c *campaign) requestUpdates(ctx context.Context) {
	for tick := time.NewTicker(100 * time.Millisecond); ctx.Err() == nil; <-tick.C {
		a, err := c.post("/api/update", "")
		switch {
		case err != nil, a.Status == http.StatusServiceUnavailable, a.Status == http.StatusOK:
		case a.Status == http.StatusAccepted:
			c.acknowledged(a, "update")
		default:
			c.t.Errorf("POST /api/update: %d %s, want 202, 200 or 503", a.Status, a.Body)
		}
	}
}

// post has one of the apis answer.
func (c *campaign) post(path, body string) (a *harness.Answer, err error) {
	for _, api := range c.apis {
		if a, err = api.TryDo(http.MethodPost, path, body, nil); err == nil && a.Status < 500 {
			break
		}
	}
	return a, err
}

// acknowledged notes the job of an answer.
func (c *campaign) acknowledged(a *harness.Answer, what string) {
	var f wire.Fetched
	if err := json.Unmarshal(a.Body, &f); err != nil || f.JobID == "" {
		c.t.Errorf("%s: %v, answer without a job: %s", what, err, a.Body)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.jobs[f.JobID] = what
}

// ask has a new package mirrored; each third is on the slow upstream.
func (c *campaign) ask(n int) {
	repo := c.up.Repo(fmt.Sprintf("asked-%d", n))
	tagReleases(c.t, repo, 0, 2, 100_000)
	at := repo.URL
	if n%3 == 0 {
		at = c.behind(repo)
	}
	a, err := c.post("/api/fetch", fmt.Sprintf(`{"url":%q}`, at))
	switch {
	case err != nil, a.Status == http.StatusServiceUnavailable:
	case a.Status == http.StatusAccepted:
		c.asked = append(c.asked, repo)
		c.acknowledged(a, "fetch of "+filepath.Base(repo.Dir))
		c.c.know(repo)
	default:
		c.t.Errorf("POST /api/fetch: %d %s, want 202 or 503", a.Status, a.Body)
	}
}

// publishMore gives each listed package a new tag.
func (c *campaign) publishMore(n int) {
	for _, repo := range c.listed {
		tagReleases(c.t, repo, n, 1, 20_000)
	}
}

// readSlowly downloads at 200 KB a second. What comes whole is right.
func (c *campaign) readSlowly(ctx context.Context, path, sha string) {
	for ctx.Err() == nil {
		got, err := c.slowRead(ctx, path)
		switch {
		case err != nil: // the api was harmed
			time.Sleep(100 * time.Millisecond)
		case got != sha:
			c.t.Errorf("a slow reader got %s whole, want %s", got, sha)
		default:
			c.mu.Lock()
			c.slowReads++
			c.mu.Unlock()
		}
	}
}

func (c *campaign) slowRead(ctx context.Context, path string) (sha string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.s.URL+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := (&http.Transport{DisableKeepAlives: true, DisableCompression: true, ReadBufferSize: 4 << 10}).RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %d", resp.StatusCode)
	}
	var b []byte
	for piece := make([]byte, 20_000); ; {
		n, err := io.ReadFull(resp.Body, piece)
		b = append(b, piece[:n]...)
		if err == io.EOF || err == io.ErrUnexpectedEOF && resp.ContentLength == int64(len(b)) {
			return sum(b), nil
		}
		if err != nil {
			return "", err
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// watch measures how long jobs stand still that could go on.
func (c *campaign) watch(ctx context.Context) {
	type seen struct {
		state string
		at    time.Time
	}
	waiting := map[string]seen{}
	for tick := time.NewTicker(500 * time.Millisecond); ctx.Err() == nil; <-tick.C {
		rows, err := c.open(ctx)
		if err != nil {
			continue // nobody can tell; the time counts
		}
		next := map[string]seen{}
		updates, begun := 0, false
		for _, j := range rows {
			if j.Kind == jobs.UpdateCatalog {
				updates++
				begun = begun || !strings.HasPrefix(j.State, jobs.Queued)
			}
			s, ok := waiting[j.ID]
			if !ok || s.state != j.State || j.Waits {
				s = seen{j.State, time.Now()}
			}
			next[j.ID] = s
			if still := time.Since(s.at); still > c.stall {
				c.stall, c.stalled = still, j.Kind+" "+j.Package+" "+j.State
			}
		}
		waiting = next
		if c.harming.Load() || updates == 1 && !begun {
			continue // what it takes to ask for an update, or to begin one, may be away
		}
		if updates == 2 {
			c.twoOpen++
		}
		if c.twoOpen > 0 { // else the first was only asked for
			c.looks++
		}
	}
}

// An openJob is one that has not ended, as the row tells.
type openJob struct {
	ID, Kind, Package string
	State             string // all that changes when it goes on
	Waits             bool   // for its time, or for another job
}

func (c *campaign) open(ctx context.Context) ([]openJob, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.s.DatabaseURL)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, _ := conn.Query(ctx, `
		SELECT id::text, kind, package, concat_ws(' ', state, attempts, crashes, worker, progress, run_at) AS state,
			state = 'queued' AND (run_at > now() OR EXISTS (
				SELECT FROM jobs r WHERE r.state = 'running' AND r.package = j.package AND (r.package <> '' OR r.kind = j.kind)))
			OR state = 'running' AND lease_until IS NULL AS waits
		FROM jobs j WHERE state IN ('queued', 'running')`)
	return pgx.CollectRows(rows, pgx.RowToStructByName[openJob])
}

// harm does one thing to one part, and has it work again.
func (c *campaign) harm() {
	type fault struct {
		name string
		do   func() bool // false if it was spared
	}
	always := func(do func()) func() bool { return func() bool { do(); return true } }
	api := c.apis[c.rnd.IntN(len(c.apis))]
	all := []fault{
		{"api killed", always(func() { api.API.SignalGroup(syscall.SIGKILL); api.API.Start(); api.AwaitAPI() })},
		{"api stopped", always(func() { api.API.Restart(); api.AwaitAPI() })},
		{"api frozen", always(func() { c.freeze(api.API, 3*time.Second) })},
		{"worker killed", c.toWorker(func(w *harness.Process) { w.SignalGroup(syscall.SIGKILL); w.Start() })},
		{"worker stopped", c.toWorker((*harness.Process).Restart)},
		{"worker frozen", c.toWorker(func(w *harness.Process) { c.freeze(w, 5*time.Second) })},
		{"worker frozen for long", c.toWorker(func(w *harness.Process) { c.freeze(w, 25*time.Second) })},
		{"child killed", func() bool { return c.toChild(0) }},
		{"child frozen", func() bool { return c.toChild(3 * time.Second) }},
		{"postgres crashed", always(func() { c.pg.Crash("postgres"); <-time.After(upTo(c.rnd, 4*time.Second)); c.pg.Start() })},
		{"postgres stopped", always(func() { c.pg.Stop(); c.pg.Start() })},
		{"postgres frozen", always(func() { thaw := c.pg.Freeze("postgres"); <-time.After(upTo(c.rnd, 4*time.Second)); thaw() })},
		{"redis killed", always(func() { c.redis.Crash("redis"); <-time.After(upTo(c.rnd, 3*time.Second)); c.redis.Start() })},
		{"redis frozen", always(func() { thaw := c.redis.Freeze("redis"); <-time.After(upTo(c.rnd, 4*time.Second)); thaw() })},
		{"redis flushed", always(func() {
			if err := queuetest.Client(c.t, c.s.RedisURL).FlushAll(c.t.Context()).Err(); err != nil {
				c.t.Error(err)
			}
		})},
	}
	calm := len(all)
	for {
		f := all[c.rnd.IntN(calm)]
		if strings.HasSuffix(f.name, "long") && (!atLength || c.rnd.IntN(2) == 0) {
			continue
		}
		if f.do() {
			c.done[f.name]++
			return
		}
		c.spared++
	}
}

func (c *campaign) freeze(p *harness.Process, most time.Duration) {
	p.SignalGroup(syscall.SIGSTOP)
	<-time.After(upTo(c.rnd, most))
	p.SignalGroup(syscall.SIGCONT)
}

// toWorker does it to one worker, unless some job has lost two already.
func (c *campaign) toWorker(do func(*harness.Process)) func() bool {
	return func() bool {
		conn, err := pgx.Connect(c.t.Context(), c.s.DatabaseURL)
		if err != nil {
			return false
		}
		defer conn.Close(context.Background())
		var suspect bool
		err = conn.QueryRow(c.t.Context(), `SELECT EXISTS (SELECT FROM jobs WHERE state IN ('queued', 'running') AND crashes >= $1)`,
			jobs.MaxCrashes-1).Scan(&suspect)
		if err != nil || suspect {
			return false
		}
		do(c.workers[c.rnd.IntN(len(c.workers))])
		return true
	}
}

// toChild kills or freezes a process that reads upstream, if there is one.
func (c *campaign) toChild(freeze time.Duration) bool {
	children := slices.Concat(c.workers[0].Children(), c.workers[1].Children())
	if len(children) == 0 {
		<-time.After(20 * time.Millisecond)
		return false
	}
	pid := children[c.rnd.IntN(len(children))]
	if freeze == 0 {
		return syscall.Kill(pid, syscall.SIGKILL) == nil
	}
	ok := syscall.Kill(pid, syscall.SIGSTOP) == nil
	<-time.After(upTo(c.rnd, freeze))
	return syscall.Kill(pid, syscall.SIGCONT) == nil && ok
}

// fsck looks at the live system.
func (c *campaign) fsck() {
	c.t.Helper()
	if stdout, stderr, err := harness.Run(c.t, c.s.Env, "fsck"); err != nil {
		c.t.Errorf("fsck of a live system: %v\n%s%s", err, stdout, stderr)
	}
}

// check waits until all jobs have ended and checks how, and what there is then.
func (c *campaign) check() {
	c.t.Helper()
	c.s.AwaitAPI()
	harness.Within(c.t, 2*time.Minute, "all jobs have ended", func() bool {
		open, err := c.open(c.t.Context())
		return err == nil && len(open) == 0
	})
	conn, err := pgx.Connect(c.t.Context(), c.s.DatabaseURL)
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	rows, _ := conn.Query(c.t.Context(), `SELECT id::text, kind, package, state, error_code || ': ' || error_message FROM jobs`)
	var id, kind, pkg, state, problem string
	ended := map[string]bool{}
	_, err = pgx.ForEachRow(rows, []any{&id, &kind, &pkg, &state, &problem}, func() error {
		ended[id] = true
		folded := kind == jobs.UpdateCatalog && state == jobs.Failed && strings.Contains(problem, "does its work")
		if state != jobs.Succeeded && !folded {
			c.t.Errorf("job %s, %s %s: %s, %s; want success", id, kind, pkg, state, problem)
		}
		if kind == jobs.UpdateCatalog && state == jobs.Succeeded {
			c.updates++
		}
		return nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
	for id, what := range c.jobs {
		if !ended[id] {
			c.t.Errorf("job %s, %s, was acknowledged and is not there", id, what)
		}
	}
	var runs int
	if err := conn.QueryRow(c.t.Context(), `SELECT count(*) FROM runs WHERE ended_at IS NULL`).Scan(&runs); err != nil || runs > 0 {
		c.t.Errorf("%d runs are open, %v; want none", runs, err)
	}
	if c.looks == 0 || atLength && c.twoOpen*100 < twoOpenShare*c.looks {
		c.t.Errorf("two updates were open in %d of %d looks, want %d %%", c.twoOpen, c.looks, twoOpenShare)
	}
	if c.stall > longestStall {
		c.t.Errorf("longest stall %v: %s; want at most %v", c.stall, c.stalled, longestStall)
	}
	c.c.clean()
	if stdout, stderr, err := harness.Run(c.t, c.s.Env, "verify"); err != nil {
		c.t.Errorf("verify: %v\n%s%s", err, stdout, stderr)
	}
	c.c.tags(c.listed...)
	for n := 0; n < len(c.asked); n += 5 {
		c.c.tags(c.asked[n])
	}
}
