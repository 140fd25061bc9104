package tests_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage/engines"
	"github.com/francescobianco/packbase/tests/harness"
)

// A privateEngine is a Postgres or a Redis that a test may stop.
type privateEngine struct {
	t    *testing.T
	root string
	opt  engines.Options
	run  *engines.Engines
}

func newEngine(t *testing.T, opt engines.Options) *privateEngine {
	t.Helper()
	e := &privateEngine{t: t, root: t.TempDir(), opt: opt}
	e.start()
	t.Cleanup(e.stop)
	return e
}

func (e *privateEngine) start() {
	e.t.Helper()
	var err error
	if e.run, err = engines.Start(e.t.Context(), e.root, e.opt, slog.New(slog.DiscardHandler)); err != nil {
		e.t.Fatal(err)
	}
}

func (e *privateEngine) stop() {
	e.t.Helper()
	if e.run == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := e.run.Stop(ctx); err != nil {
		e.t.Error(err)
	}
	e.run = nil
}

// Without Redis everything is served, requests are accepted, and what was
// accepted is done when Redis is back, though it has forgotten everything.
func TestRedisAway(t *testing.T) {
	t.Parallel()
	redis := newEngine(t, engines.Options{NoPostgres: true, Ephemeral: true})
	repo := harness.NewUpstream(t).Repo("hello")
	repo.Release("v1.0.0")
	s := harness.Start(t, "PACKBASE_REDIS_URL="+redis.run.RedisURL())
	s.Fetch(repo.URL)
	repo.Release("v1.1.0")

	redis.stop()
	if a := s.Do(http.MethodGet, "/readyz", "", nil); a.Status != http.StatusOK || !bytes.Contains(a.Body, []byte(`"redis":"down"`)) {
		t.Errorf("readyz = %d %s, want ready with redis down", a.Status, a.Body)
	}
	s.Get("/p/hello/tag/v1.0.0.tar.gz")
	git(t, ".", "clone", "--quiet", s.URL+"/hello", filepath.Join(t.TempDir(), "clone"))
	job := s.Ask(repo.URL)
	if again := s.Ask(repo.URL); again != job {
		t.Errorf("asked twice: job = %s, want %s", again, job)
	}
	redis.start()
	if j := s.WaitJob(job); j.State != "succeeded" || j.Fetched().Created != 1 {
		t.Errorf("job = %+v, want it succeeded with one release", j)
	}

	// The processes start without Redis, too.
	redis.stop()
	s.Kill9()
	s.API.Start()
	s.Worker.Start()
	harness.Eventually(t, "the api is ready", func() bool {
		a, err := s.TryDo(http.MethodGet, "/readyz", "", nil)
		return err == nil && a.Status == http.StatusOK
	})
	repo.Release("v1.2.0")
	job = s.Ask(repo.URL)
	redis.start()
	if j := s.WaitJob(job); j.State != "succeeded" {
		t.Errorf("job = %+v, want it succeeded", j)
	}
}

// Without Postgres the answers say so, with a code and when to come again;
// the processes live on, and so does the job that was under way.
func TestPostgresAway(t *testing.T) {
	t.Parallel()
	postgres := newEngine(t, engines.Options{NoRedis: true, Ephemeral: true})
	up := harness.NewUpstream(t)
	repo := up.Repo("hello")
	repo.Release("v1.0.0")
	s := harness.Start(t, "PACKBASE_DATABASE_URL="+postgres.run.DatabaseURL())
	s.Fetch(repo.URL)
	repo.Release("v1.1.0")
	hold := newGate()
	up.Answer(hold)
	job := s.Ask(repo.URL)
	hold.await(t)

	api, worker := s.API.PID(), s.Worker.PID()
	postgres.stop()
	if a := s.Do(http.MethodGet, "/healthz", "", nil); a.Status != http.StatusOK {
		t.Errorf("healthz = %d, want 200", a.Status)
	}
	if a := s.Do(http.MethodGet, "/readyz", "", nil); a.Status != http.StatusServiceUnavailable || !bytes.Contains(a.Body, []byte(`"postgres":"down"`)) {
		t.Errorf("readyz = %d %s, want 503 with postgres down", a.Status, a.Body)
	}
	for _, request := range []struct{ method, path, body string }{
		{http.MethodGet, "/p/hello/tag/v1.0.0.tar.gz", ""},
		{http.MethodGet, "/api/info/hello", ""},
		{http.MethodGet, "/api/jobs/" + job, ""},
		{http.MethodGet, "/hello/info/refs?service=git-upload-pack", ""},
		{http.MethodPost, "/api/fetch", `{"url":"` + repo.URL + `"}`},
	} {
		a := s.Do(request.method, request.path, request.body, nil)
		if a.Status != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" || a.Header.Get("X-Packbase-Error") != "unavailable" {
			t.Errorf("%s %s = %d %v, want 503 with Retry-After and unavailable", request.method, request.path, a.Status, a.Header)
		}
	}

	postgres.start()
	up.Answer(nil)
	hold.open()
	if j := s.WaitJob(job); j.State != "succeeded" {
		t.Errorf("job = %+v, want it succeeded", j)
	}
	if f := s.Fetch(repo.URL); f.Count != 2 {
		t.Errorf("fetched %+v, want two releases", f)
	}
	if s.API.PID() != api || s.Worker.PID() != worker || !s.API.Running() || !s.Worker.Running() {
		t.Error("a process ended")
	}
}

// A gate is an upstream that lets clients wait until it is opened, and then
// hangs up.
type gate struct {
	waiting atomic.Int64
	opened  chan struct{}
}

func newGate() *gate { return &gate{opened: make(chan struct{})} }

func (g *gate) open() { close(g.opened) }

func (g *gate) ServeHTTP(http.ResponseWriter, *http.Request) {
	g.waiting.Add(1)
	<-g.opened
	panic(http.ErrAbortHandler)
}

// await waits for a client.
func (g *gate) await(t *testing.T) {
	t.Helper()
	harness.Eventually(t, "upstream is asked", func() bool { return g.waiting.Load() > 0 })
}

// A worker that is killed leaves nothing partial and nothing running, and its
// job is finished by the next one.
func TestWorkerKilled(t *testing.T) {
	t.Parallel()
	const tags = 60
	up := harness.NewUpstream(t)
	repo := up.Repo("hello")
	for i := range tags {
		content := make([]byte, 20_000)
		_, _ = rand.Read(content) // it never fails
		repo.Tag(generatedTag(i), repo.Commit(harness.Files{"random": string(content)}))
	}
	s := harness.Start(t, "PACKBASE_LEASE=1s")

	// While upstream is being asked.
	hold := newGate()
	up.Answer(hold)
	job := s.Ask(repo.URL)
	hold.await(t)
	killWorker(t, s)
	up.Answer(nil)
	hold.open()
	s.Worker.Start()

	// While releases are being published, each time a bit later. Each run
	// publishes something, so the job is never given up.
	for n := 1; n < tags && s.Job(job).Open(); n += tags / 4 {
		harness.Eventually(t, "some releases are there", func() bool { return len(s.Info("hello").Tarballs) >= n })
		killWorker(t, s)
		t.Logf("killed with %d of %d releases", checkReleases(t, s), tags)
		s.Worker.Start()
	}
	if j := s.WaitJob(job); j.State != "succeeded" {
		t.Fatalf("job = %+v, want it succeeded", j)
	}
	if n := checkReleases(t, s); n != tags {
		t.Errorf("%d releases, want %d", n, tags)
	}
	clone := filepath.Join(t.TempDir(), "clone")
	git(t, ".", "clone", "--quiet", s.URL+"/hello", clone)
	checkClone(t, repo, clone, "refs/tags")

	// What the killed ones staged is swept by the one that lives.
	s.Worker.Restart()
	s.AwaitReady()
	harness.Eventually(t, "the staging folder is empty", func() bool { return len(entries(t, filepath.Join(s.Root, "staging"))) == 0 })
}

// killWorker kills the worker and waits until its children have gone, too.
func killWorker(t *testing.T, s *harness.Server) {
	t.Helper()
	group := s.Worker.PID()
	s.Worker.Kill9()
	harness.Eventually(t, "the children of the worker are gone", func() bool {
		return errors.Is(syscall.Kill(-group, 0), syscall.ESRCH)
	})
}

// checkReleases checks that what is visible is complete.
func checkReleases(t *testing.T, s *harness.Server) int {
	t.Helper()
	info := s.Info("hello")
	for _, r := range info.Tarballs {
		checkSums(t, r, s.Get(r.URL))
	}
	return len(info.Tarballs)
}

// entries lists a folder, without files that only lock it. One that is not
// there is empty.
func entries(t *testing.T, dir string) (names []string) {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range all {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

// `packbase up` that is killed finds everything again.
func TestUpKilled(t *testing.T) {
	t.Parallel()
	repo := harness.NewUpstream(t).Repo("lib")
	repo.Release("v1.0.0")
	s := harness.Up(t)
	s.Fetch(repo.URL)
	info := s.Info("lib")
	before := info.Release(t, "v1.0.0")

	s.Kill9()
	s.Restart()
	info = s.Info("lib")
	if after := info.Release(t, "v1.0.0"); after.SHA256 != before.SHA256 || after.Commit != before.Commit {
		t.Errorf("after the kill: %+v, want %+v", after, before)
	}
	checkSums(t, before, s.Get(before.URL))
	repo.Release("v1.1.0")
	if f := s.Fetch(repo.URL); f.Created != 1 {
		t.Errorf("fetched %+v, want one more", f)
	}
}

// A full disk is told apart, harms nothing that is there, lets small packages
// pass, and the job goes on by itself when there is room.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	disk := newDisk(t, "size=24m")
	up := harness.NewUpstream(t)
	small, large := up.Repo("small"), up.Repo("large")
	small.Release("v1.0.0")
	content := make([]byte, 12<<20)
	_, _ = rand.Read(content) // it never fails
	large.Tag("v1.0.0", large.Commit(harness.Files{"random": string(content)}))
	s := harness.Start(t, "PACKBASE_ROOT="+filepath.Join(disk, "root"))
	s.Fetch(small.URL)

	job := s.Ask(large.URL)
	harness.Eventually(t, "the job finds the disk full", func() bool { return s.Job(job).Error.Code == "storage_full" })
	if j := s.Job(job); !j.Open() {
		t.Errorf("job is %s, want it to go on later", j.State)
	}
	s.Get("/p/small/tag/v1.0.0.tar.gz")
	if n := len(s.Info("large").Tarballs); n != 0 {
		t.Errorf("large has %d releases, want none", n)
	}
	small.Release("v1.1.0")
	if f := s.Fetch(small.URL); f.Created != 1 {
		t.Errorf("small: fetched %+v, want one more", f)
	}
	// Nor does it say anything of a package that the disk has no room to probe it.
	rest, err := os.Create(filepath.Join(disk, "rest"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(rest, rand.Reader); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is full: %v", err)
	}
	s.Do(http.MethodPost, "/api/check?wait=5", `{"package":"small"}`, nil)
	if info := s.Info("small"); !info.Healthy {
		t.Errorf("small is unhealthy for want of room: %v", info.FetchProbeError)
	}

	if err := syscall.Mount("tmpfs", disk, "tmpfs", syscall.MS_REMOUNT, "size=200m"); err != nil {
		t.Fatal(err)
	}
	if j := s.WaitJob(job); j.State != "succeeded" {
		t.Errorf("job = %+v, want it succeeded", j)
	}
	info := s.Info("large")
	r := info.Release(t, "v1.0.0")
	checkSums(t, r, s.Get(r.URL))
}

// A job does not fail because our own storage is away, however long: it goes on when that is back.
func TestBlobsAway(t *testing.T) {
	t.Parallel()
	repo := harness.NewUpstream(t).Repo("lib")
	repo.Release("v1.0.0")
	s := harness.Start(t, "PACKBASE_JOB_ATTEMPTS=1")
	blobs := filepath.Join(s.Root, "blobs")
	away := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	away(blobs, blobs+".away")
	job := s.Ask(repo.URL)
	harness.Eventually(t, "the job finds the blobs away", func() bool { return s.Job(job).Error.Code == "storage_unavailable" || !s.Job(job).Open() })
	if j := s.Job(job); !j.Open() {
		t.Errorf("job is %s, want it to go on later", j.State)
	}
	away(blobs+".away", blobs)
	if j := s.WaitJob(job); j.State != "succeeded" {
		t.Errorf("job = %+v, want it succeeded", j)
	}
}

// newDisk mounts a small disk, or skips the test where that is not allowed.
func newDisk(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options)
	if errors.Is(err, syscall.EPERM) {
		t.Skip("mounting a small disk needs root")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// An upstream that lists nothing any more is out of order for all that can be told: the package is served, not frozen,
// and goes on by itself when what it had is back. Somebody else's tags in its place are not taken.
func TestUpstreamEmptied(t *testing.T) {
	t.Parallel()
	s, up := harness.Start(t, "PACKBASE_JOB_ATTEMPTS=1"), harness.NewUpstream(t)
	repo := up.Repo("hello")
	first := repo.Release("v1.0.0")
	s.Fetch(repo.URL)
	empty := func() {
		t.Helper()
		for _, ref := range strings.Fields(repo.Git("for-each-ref", "--format=%(refname)")) {
			repo.Git("update-ref", "-d", ref)
		}
	}
	fetch := func(want, state string) {
		t.Helper()
		a := s.TryFetch(repo.URL)
		info := s.Info("hello")
		if a.Code() != want || info.State != state || info.TarballCount != 1 {
			t.Errorf("%d %s, the package is %s and has %d releases; want %q, %s and 1", a.Status, a.Body, info.State, info.TarballCount, want, state)
		}
	}
	empty()
	fetch("upstream_empty", "active")
	repo.Tag("v1.0.0", first)
	fetch("", "active")
	empty()
	fetch("upstream_empty", "active")
	repo.Release("v9.9.9")
	fetch("package_frozen", "frozen")
}
