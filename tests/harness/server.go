package harness

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/api/route"
	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage/queue/queuetest"
	"github.com/francescobianco/packbase/storage/storagetest"
)

// A Server is a packbase of its own: an api and a worker process, or one
// `packbase up`, with a database, a Redis database and a root folder that
// nobody else uses.
type Server struct {
	URL         string // http://127.0.0.1:port
	Token       string
	Root        string
	Env         []string // settings of the processes, for more of them
	DatabaseURL string
	RedisURL    string

	// The processes. Of `up` both are the same.
	API, Worker *Process

	t   testing.TB
	dir string // for logs, and the root if no other is named
}

// settings are those that make tests quick. What the test gives comes later
// and wins.
func settings(root string, port int, env []string) []string {
	settings := []string{
		"PACKBASE_ROOT=" + root,
		"PACKBASE_ADDR=127.0.0.1",
		"PACKBASE_PORT=" + strconv.Itoa(port),
		"PACKBASE_ADMIN_ADDR=off",
		"PACKBASE_TOKEN=" + token,
		"PACKBASE_UPSTREAM_ALLOW=127.0.0.0/8",
		"PACKBASE_RECONCILE=200ms",
		"PACKBASE_MIN_FREE=1MB", // machines for tests are small
		"PACKBASE_LEASE=2s",
		"PACKBASE_JOB_BACKOFF=100ms",
	}
	if RaceEnabled {
		// The race detector reserves more addresses than there is memory.
		settings = append(settings, "PACKBASE_INGEST_MEMORY=1PiB")
	}
	return slices.Concat(settings, env)
}

const token = "token-of-the-end-to-end-tests"

// Start runs `packbase api` and `packbase worker` on a migrated database and
// waits until they are ready. env adds settings, as NAME=value.
//
// The test is skipped without PACKBASE_TEST_DATABASE_URL and
// PACKBASE_TEST_REDIS_URL, and fails then if CI is set. Both may be given in
// env, for a test that brings its own.
func Start(t testing.TB, env ...string) *Server {
	t.Helper()
	s := newServer(t, slices.Concat([]string{"PACKBASE_NO_HELLO=true"}, env)) // tests have packages of that name
	if s.DatabaseURL = valueOf(env, "PACKBASE_DATABASE_URL"); s.DatabaseURL == "" {
		s.DatabaseURL = storagetest.NewURL(t)
		s.Env = append(s.Env, "PACKBASE_MIGRATE_DATABASE_URL="+s.DatabaseURL, "PACKBASE_DATABASE_URL="+storagetest.AsServer(t, s.DatabaseURL))
	}
	if s.RedisURL = valueOf(env, "PACKBASE_REDIS_URL"); s.RedisURL == "" {
		s.RedisURL = queuetest.NewURL(t)
		s.Env = append(s.Env, "PACKBASE_REDIS_URL="+s.RedisURL)
	}
	if _, stderr, err := Run(t, s.Env, "migrate"); err != nil {
		t.Fatalf("%v\n%s", err, stderr)
	}
	// The worker is stopped first, as an operator would.
	s.API = newProcess(t, s.dir, "api", s.Env, "api")
	s.Worker = newProcess(t, s.dir, "worker", s.Env, "worker")
	s.API.Start()
	s.Worker.Start()
	s.AwaitReady()
	return s
}

// Up runs `packbase up` with a Postgres and a Redis of its own, unless env
// names others, and waits until it says that it is ready: then the built-in
// package is there. A PACKBASE_LOG in env must not hide what is said.
func Up(t testing.TB, env ...string) *Server {
	t.Helper()
	s := newServer(t, env)
	s.DatabaseURL, s.RedisURL = valueOf(env, "PACKBASE_DATABASE_URL"), valueOf(env, "PACKBASE_REDIS_URL")
	s.API = newProcess(t, s.dir, "up", s.Env, "up")
	s.Worker = s.API
	s.API.Start()
	s.AwaitReady()
	return s
}

func newServer(t testing.TB, env []string) *Server {
	port := FreePort(t)
	s := &Server{t: t, URL: fmt.Sprintf("http://127.0.0.1:%d", port), Token: token, dir: t.TempDir()}
	if s.Root = valueOf(env, "PACKBASE_ROOT"); s.Root == "" {
		s.Root = filepath.Join(s.dir, "root")
	}
	s.Env = settings(s.Root, port, env)
	return s
}

// valueOf returns the last value of a variable, "" if it is not in env.
func valueOf(env []string, name string) (value string) {
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			value = v
		}
	}
	return value
}

// AwaitReady waits until /readyz says so, and the worker too.
func (s *Server) AwaitReady() {
	s.t.Helper()
	Eventually(s.t, "packbase is ready", func() bool {
		if !s.API.Running() {
			s.t.Fatalf("packbase ended while it was starting: %v", s.API.err)
		}
		resp, err := http.Get(s.URL + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	said := "msg=working"
	if s.Worker == s.API {
		said = "packbase is ready"
	}
	Eventually(s.t, "the worker says "+said, func() bool { return s.Worker.Said(said) })
}

// Kill9 kills all processes at once.
func (s *Server) Kill9() {
	s.t.Helper()
	s.Worker.Kill9()
	s.API.Kill9()
}

// Stop ends all processes well.
func (s *Server) Stop() {
	s.t.Helper()
	s.Worker.Stop()
	s.API.Stop()
}

// Restart starts all processes again, after stopping those that run, and
// waits until they are ready.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	s.API.Start()
	if s.Worker != s.API {
		s.Worker.Start()
	}
	s.AwaitReady()
}

// An Answer is an HTTP answer with its whole body.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Into decodes the body, which must be JSON.
func (a *Answer) Into(t testing.TB, v any) {
	t.Helper()
	if err := json.Unmarshal(a.Body, v); err != nil {
		t.Fatalf("answer is not JSON: %v\n%s", err, a.Body)
	}
}

// Code returns the "code" of an error answer, "" if there is none.
func (a *Answer) Code() string {
	var body wire.Error
	_ = json.Unmarshal(a.Body, &body) // what is not JSON has no code
	return body.Code
}

// Do sends a request with the token and follows no redirect. path begins
// with a slash; body may be "", header may be nil.
func (s *Server) Do(method, path, body string, header http.Header) *Answer {
	s.t.Helper()
	a, err := s.TryDo(method, path, body, header)
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

// TryDo is Do for when there may be no answer.
func (s *Server) TryDo(method, path, body string, header http.Header) (*Answer, error) {
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+s.Token)
	for name, values := range header {
		req.Header[name] = values
	}
	// RoundTrip: neither redirects nor decompression.
	resp, err := (&http.Transport{DisableKeepAlives: true, DisableCompression: true}).RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: read answer: %w", method, path, err)
	}
	return &Answer{resp.StatusCode, resp.Header, b}, nil
}

// Get returns the body of a path, which must answer 200.
func (s *Server) Get(path string) []byte {
	s.t.Helper()
	a := s.Do(http.MethodGet, path, "", nil)
	if a.Status != http.StatusOK {
		s.t.Fatalf("GET %s: status = %d, want 200\n%s", path, a.Status, a.Body)
	}
	return a.Body
}

// Fetch has upstream mirrored and waits for that. Anything but success fails
// the test.
func (s *Server) Fetch(upstream string) wire.Fetched {
	s.t.Helper()
	a := s.TryFetch(upstream)
	if a.Status != http.StatusOK {
		s.t.Fatalf("fetch %s: status = %d, want 200\n%s", upstream, a.Status, a.Body)
	}
	var f wire.Fetched
	a.Into(s.t, &f)
	return f
}

// TryFetch is Fetch for when it may fail.
func (s *Server) TryFetch(upstream string) *Answer {
	s.t.Helper()
	return s.Do(http.MethodPost, route.Fetch+"?wait=300", fetchBody(s.t, upstream), nil)
}

// Ask is Fetch without waiting. It returns the job's id.
func (s *Server) Ask(upstream string) (job string) {
	s.t.Helper()
	a := s.Do(http.MethodPost, route.Fetch, fetchBody(s.t, upstream), nil)
	if a.Status != http.StatusAccepted {
		s.t.Fatalf("ask for %s: status = %d, want 202\n%s", upstream, a.Status, a.Body)
	}
	var q wire.Queued
	a.Into(s.t, &q)
	return q.JobID
}

func fetchBody(t testing.TB, upstream string) string {
	t.Helper()
	body, err := json.Marshal(wire.Fetch{URL: upstream})
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// Job returns the job with the given id.
func (s *Server) Job(id string) wire.Job {
	s.t.Helper()
	var j wire.Job
	if err := json.Unmarshal(s.Get(route.Path(route.Job, id)), &j); err != nil {
		s.t.Fatal(err)
	}
	return j
}

// WaitJob waits for the end of a job.
func (s *Server) WaitJob(id string) (j wire.Job) {
	s.t.Helper()
	Eventually(s.t, "job "+id+" has ended", func() bool {
		j = s.Job(id)
		return !j.Open()
	})
	return j
}

// Info is what /api/info says of a package.
type Info wire.Package

// Info returns what packbase says of a package, which must exist.
func (s *Server) Info(pkg string) Info {
	s.t.Helper()
	var i Info
	if err := json.Unmarshal(s.Get(route.Path(route.Info, pkg)), &i); err != nil {
		s.t.Fatal(err)
	}
	return i
}

// Release returns one release of the package, which must have it.
func (i Info) Release(t testing.TB, tag string) wire.Tarball {
	t.Helper()
	n := slices.IndexFunc(i.Tarballs, func(r wire.Tarball) bool { return r.Tag == tag })
	if n < 0 {
		t.Fatalf("%s has no release %s, but %d others", i.Package, tag, len(i.Tarballs))
	}
	return i.Tarballs[n]
}
