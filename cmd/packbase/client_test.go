package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/francescobianco/packbase/cmd/packbase/serve"
	"github.com/francescobianco/packbase/storage/bundle"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/queue/queuetest"
	"github.com/francescobianco/packbase/storage/storagetest"
	"github.com/francescobianco/packbase/worker/ingest"
	"github.com/francescobianco/packbase/worker/upstream"
)

// TestMain lets the test program be the worker's children, as packbase is.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && slices.Contains([]string{"ingest", "download", "confine", "walls"}, os.Args[1]) {
		main()
		return
	}
	os.Exit(m.Run())
}

const testToken = "token-for-the-tests"

// A server is a real one in this process: api, Postgres, Redis and blobs.
type server struct {
	url    string
	cfg    *serve.Config
	stores *serve.Stores
	git    http.Handler
	// before, if set, sees requests first; it returns true to answer itself.
	before atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]
}

func newServer(t *testing.T, change func(*serve.Config)) *server {
	t.Helper()
	owner := storagetest.NewURL(t)
	cfg := &serve.Config{
		Release: release, Root: t.TempDir(), MigrateURL: owner, DatabaseURL: storagetest.AsServer(t, owner), RedisURL: queuetest.NewURL(t),
		Token: testToken, Concurrency: 2, Lease: 15 * time.Second, Reconcile: 100 * time.Millisecond,
		JobTimeout: time.Minute, JobAttempts: 1, Limits: ingest.DefaultLimits(),
	}
	cfg.Blobs = "file://" + cfg.Root
	cfg.Limits.File = 1 << 30
	cfg.Limits.Memory = 1 << 50 // of which the race detector takes a lot
	var err error
	if cfg.Allow, err = upstream.ParseAllow("127.0.0.0/8"); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(cfg)
	}
	if err := serve.Migrate(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	s := &server{cfg: cfg}
	if s.stores, err = serve.OpenStores(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.stores.Close() })
	api, err := serve.NewAPI(cfg, s.stores, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s.git = api.Handler()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if before := s.before.Load(); before == nil || !(*before)(w, r) {
			s.git.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(web.Close)
	s.url = web.URL
	return s
}

// work starts a worker, until the test ends.
func (s *server) work(t *testing.T) {
	t.Helper()
	w, err := serve.NewWorker(s.cfg, s.stores, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := w.Run(ctx); err != nil {
			t.Errorf("worker: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); done.Wait() })
}

// withHello returns a server that has the built-in package, and a worker.
func withHello(t *testing.T) *server {
	t.Helper()
	s := newServer(t, nil)
	s.work(t)
	if err := serve.SeedHello(t.Context(), s.cfg, s.stores); err != nil {
		t.Fatal(err)
	}
	return s
}

// A result is what a command did.
type result struct {
	out, err string // what it wrote
	code     int
	problem  error
}

// cli runs the command line as a client of s.
func (s *server) cli(t *testing.T, args ...string) result {
	t.Helper()
	return cli(t.Context(), map[string]string{"PACKBASE_URL": s.url, "PACKBASE_TOKEN": testToken}, args...)
}

func cli(ctx context.Context, env map[string]string, args ...string) result {
	var out, errs bytes.Buffer
	getenv := func(name string) string { return env[name] }
	err := run(ctx, args, getenv, strings.NewReader(""), &out, &errs)
	r := result{out: out.String(), err: errs.String(), problem: err}
	if err != nil {
		r.code = exitCode(err)
		r.err += err.Error()
	}
	return r
}

func (r result) check(t *testing.T, code int, want ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code = %d (%v), want %d", r.code, r.problem, code)
	}
	for _, text := range want {
		if !strings.Contains(r.out+r.err, text) {
			t.Errorf("got\n%s\n%s\nwant %q in it", r.out, r.err, text)
		}
	}
}

func (s *server) get(t *testing.T, path string) string {
	t.Helper()
	res, err := http.Get(s.url + path)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestCommands(t *testing.T) {
	t.Parallel()
	s := withHello(t)
	tests := []struct {
		name string
		args []string
		code int
		want []string
	}{
		{"list", []string{"list"}, 0, []string{"hello\n"}},
		{"list local", []string{"list", "--local"}, 0, []string{"hello\n"}},
		{"list registered", []string{"list", "--registered"}, 0, []string{"no packages"}},
		{"list both", []string{"list", "--local", "--registered"}, exitUsage, []string{"cannot be used together"}},
		{"search", []string{"search", "HELL"}, 0, []string{"PACKAGE", "hello", "v0.1.0", "A package to try packbase with"}},
		{"search in vain", []string{"search", "no", "such", "words"}, 0, []string{"nothing found"}},
		{"search by zig's name", []string{"search", "--zig-name", "hello", "--fingerprint", "0x3610a68601d3a5e9"}, 0, []string{"hello", "v0.1.0"}},
		{"search by another's", []string{"search", "--zig-name", "hell"}, 0, []string{"nothing found"}},
		{"search by no fingerprint", []string{"search", "--fingerprint", "hello"}, exitUsage, []string{"like 0x3610a68601d3a5e9"}},
		{"search for nothing", []string{"search"}, exitUsage, []string{"want words"}},
		{"info", []string{"info", "hello"}, 0, []string{"fixture:hello", "v0.1.0", "zig fetch --save " + s.url + "/p/hello/tag/v0.1.0.tar.gz", "zig fetch --save git+" + s.url + "/hello#v0.1.0"}},
		{"info release", []string{"info", "hello", "v0.1.0"}, 0, []string{"hello-0.1.0-", "0.14.0", s.url + "/p/hello/tag/v0.1.0.json"}},
		{"info no release", []string{"info", "hello", "v9"}, exitNotFound, []string{`hello has no release "v9" here`}},
		{"info no package", []string{"info", "nope"}, exitNotFound, []string{`there is no package "nope" here`, "packbase fetch URL"}},
		{"info bad name", []string{"info", "../etc"}, exitUsage, nil},
		{"info bad tag", []string{"info", "hello", "a..b"}, exitUsage, nil},
		{"jobs", []string{"jobs"}, 0, []string{"JOB", "hello", "succeeded", "1 release, 1 new"}},
		{"jobs of state", []string{"jobs", "--state", "cancelled"}, 0, []string{"no jobs"}},
		{"jobs of no state", []string{"jobs", "--state", "odd"}, exitUsage, []string{"want queued, running"}},
		{"jobs follow no id", []string{"jobs", "--follow", "1"}, exitUsage, []string{"is not the id of a job"}},
		{"jobs follow none", []string{"jobs", "--follow", "01a209ca-80e4-77ed-97ac-e240c8051a01"}, exitNotFound, nil},
		{"jobs unknown verb", []string{"jobs", "stop", "1"}, exitUsage, []string{"unknown command"}},
		{"status", []string{"status"}, 0, []string{"packbase " + release + " at " + s.url, "1, with 1 release", "WORKER"}},
		{"check", []string{"check", "hello"}, 0, []string{"ok hello", "probed commit"}},
		{"check stored", []string{"check", "--stored", "hello"}, 0, []string{"ok hello"}},
		{"check no package", []string{"check", "nope"}, exitNotFound, nil},
		{"review what is not frozen", []string{"review", "hello", "accept"}, exitFailed, []string{"hello is not frozen"}},
		{"cancel what has ended", []string{"jobs", "cancel", s.onlyJob(t)}, exitFailed, []string{"has the state succeeded", "can be cancelled"}},
		{"retry what succeeded", []string{"jobs", "retry", s.onlyJob(t)}, exitFailed, []string{"has the state succeeded", "failed or was cancelled"}},
		{"no such token", []string{"token", "revoke", "nope"}, exitNotFound, []string{"there is no token of that name"}},
		{"review no package", []string{"review", "nope", "keep"}, exitNotFound, nil},
		{"review without a decision", []string{"review", "hello", "perhaps"}, exitUsage, []string{"accept or keep"}},
		{"version", []string{"version"}, 0, []string{"packbase " + release, "go1."}},
		{"exit codes", []string{"help", "exit-codes"}, 0, []string{"130  interrupted"}},
		{"completion", []string{"completion", "fish"}, 0, []string{"complete -c packbase"}},
		{"completion of another", []string{"completion", "csh"}, exitUsage, nil},
		{"complete package", []string{"__complete", "info", "h"}, 0, []string{"hello\n"}},
		{"complete tag", []string{"__complete", "info", "hello", ""}, 0, []string{"v0.1.0\n"}},
		{"complete flag", []string{"__complete", "jobs", "--state", ""}, 0, []string{"cancelled\n"}},
		{"unknown command", []string{"frobnicate"}, exitUsage, []string{"packbase --help"}},
		{"unknown flag", []string{"list", "--frobnicate"}, exitUsage, []string{"packbase list --help"}},
		{"too few arguments", []string{"fetch"}, exitUsage, nil},
		{"bad URL", []string{"fetch", "ssh://host/x"}, exitUsage, nil},
		{"bad package name", []string{"fetch", "--name", "a/b", "https://host/x"}, exitUsage, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s.cli(t, tt.args...).check(t, tt.code, tt.want...)
		})
	}
}

// Every command says how it goes, with an example.
func TestHelp(t *testing.T) {
	t.Parallel()
	var checkHelp func(command ...string)
	checkHelp = func(command ...string) {
		r := cli(t.Context(), nil, append(append([]string{"__complete"}, command...), "")...)
		for line := range strings.Lines(r.out) {
			name, short, ok := strings.Cut(strings.TrimSpace(line), "\t")
			if !ok || name == "help" || len(command) > 0 && command[0] != "jobs" {
				continue
			}
			help := cli(t.Context(), nil, slices.Concat(command, []string{name, "--help"})...)
			if short == "" || !strings.Contains(help.out, "Examples:\n  ") {
				t.Errorf("%v %s: got %q, %s\nwant it explained, with an example", command, name, short, help.out)
			}
			checkHelp(append(command, name)...)
		}
	}
	checkHelp()
}

var requestID = regexp.MustCompile(`"request_id":"\w+"`)

// With --json, scripts get what the API answers, byte for byte.
func TestJSON(t *testing.T) {
	t.Parallel()
	s := withHello(t)
	tests := []struct {
		path string
		args []string
		code int
	}{
		{"/api/list", []string{"list"}, 0},
		{"/api/search?limit=20&q=hello", []string{"search", "hello"}, 0},
		{"/api/info/hello", []string{"info", "hello"}, 0},
		{"/p/hello/tag/v0.1.0.json", []string{"info", "hello", "v0.1.0"}, 0},
		{"/api/info/nope", []string{"info", "nope"}, exitNotFound},
		{"/api/jobs?limit=20", []string{"jobs"}, 0},
		{"/api/check/hello", []string{"check", "--stored", "hello"}, 0},
	}
	for end := time.Now().Add(time.Minute); !strings.Contains(s.get(t, "/api/info/hello"), `"log":"index`); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the release is not in the log, which changes the answer")
		}
	}
	for _, tt := range tests {
		got := s.cli(t, append(tt.args, "--json")...)
		got.out = requestID.ReplaceAllString(got.out, "")
		if want := requestID.ReplaceAllString(s.get(t, tt.path), ""); got.out != want || got.code != tt.code {
			t.Errorf("%v: got %d %s, want %d %s", tt.args, got.code, got.out, tt.code, want)
		}
	}
}

// Each way in which a server can fail to help has an exit code and says what
// to do.
func TestRefusals(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	edge := newServer(t, func(c *serve.Config) { c.ReadOnly, c.Central = true, "https://central.example" })
	closed := httptest.NewServer(nil)
	closed.Close()
	foreign := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved/api/list":
			http.Redirect(w, r, "https://elsewhere.example/", http.StatusMovedPermanently)
		case "/busy/api/list":
			http.Error(w, "no upstream", http.StatusBadGateway)
		case "/odd/api/list":
			fmt.Fprint(w, `{"packages": ["a\u001b]0;x\u0007", "b\nc", "d\te", "f\u202e", "good"]}`)
		case "/endless/api/list", "/endless/log/policy", "/endless/api/bundle":
			if r.Method == http.MethodPost {
				_ = bundle.Write(w, bundle.Manifest{}, nil)
			}
			for buf := make([]byte, 1<<20); ; {
				if _, err := w.Write(buf); err != nil {
					return
				}
			}
		default:
			fmt.Fprint(w, "<h1>It works!</h1>")
		}
	}))
	t.Cleanup(foreign.Close)
	fetch := []string{"fetch", "https://git.example/a/b"}
	list := []string{"list"}
	project := t.TempDir()
	if err := os.WriteFile(filepath.Join(project, "build.zig.zon"), []byte(`.{ .name = .x, .version = "0.0.0", .fingerprint = 0x8cdc168300000001, .paths = .{""}, .dependencies = .{} }`), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name       string
		url, token string
		args       []string
		code       int
		want       string
	}{
		{"no token", s.url, "", fetch, exitRefused, "Set PACKBASE_TOKEN"},
		{"wrong token", s.url, "another-token-entirely", fetch, exitRefused, "Compare PACKBASE_TOKEN"},
		{"token of two words", s.url, "two words", fetch, exitUsage, "not a token"},
		{"an edge", edge.url, testToken, fetch, exitRefused, "https://central.example"},
		{"nobody there", closed.URL, "", list, exitAway, "packbase up"},
		{"nobody's log", closed.URL, "", []string{"compare", "--with", s.url}, exitAway, "connection refused"},
		{"nobody's log", closed.URL, "", []string{"watch", "https://git.example/*"}, exitAway, "connection refused"},
		{"no project", s.url, "", []string{"verify", t.TempDir()}, exitUsage, "no build.zig.zon"},
		{"not a URL", "localhost:8080", "", list, exitUsage, "PACKBASE_URL"},
		{"password in URL", "http://me:secret@localhost", "", list, exitUsage, "PACKBASE_URL"},
		{"another server", foreign.URL, "", list, exitFailed, "really a packbase"},
		{"a redirect", foreign.URL + "/moved", "", list, exitFailed, "elsewhere.example"},
		{"a gateway without us", foreign.URL + "/busy/", "", list, exitAway, "502 Bad Gateway"},
		{"endless answer", foreign.URL + "/endless", "", list, exitFailed, "larger than 64 MiB"},
		{"endless policy", foreign.URL + "/endless", "", []string{"trust"}, exitFailed, "larger than 1.0 MiB"},
		{"endless bundle", foreign.URL + "/endless", "", []string{"bundle", "-o", filepath.Join(t.TempDir(), "x"), project}, exitFailed, "follows its end"},
		{"endless bundle", foreign.URL + "/endless", "", []string{"bundle", "-o", "-", project}, exitFailed, "follows its end"},
	}
	if got := cli(t.Context(), map[string]string{"PACKBASE_URL": foreign.URL + "/odd", "HOME": t.TempDir()}, "__complete", "info", ""); got.out != "good\n:4\n" {
		t.Errorf("completed with %q, want what a terminal shows as it is", got.out)
	}
	for _, tt := range tests {
		env := map[string]string{"PACKBASE_URL": tt.url, "PACKBASE_TOKEN": tt.token, "PACKBASE_ROOT": t.TempDir(), "HOME": t.TempDir()}
		got := cli(t.Context(), env, tt.args...)
		if got.code != tt.code || !strings.Contains(got.err, tt.want) || strings.Contains(got.err, "secret") {
			t.Errorf("%s: got %d %q, want %d and %q", tt.name, got.code, got.err, tt.code, tt.want)
		}
	}
}

// newUpstream serves a Git repository with the tags v1.0.0 and v1.1.0, as
// "odd", and returns its URL.
func newUpstream(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	git := func(args ...string) string {
		cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "safe.directory=*"}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	git("init", "-q", "work")
	for _, tag := range []string{"v1.0.0", "v1.1.0"} {
		if err := os.WriteFile(filepath.Join(dir, "work", "a.zig"), []byte("// "+tag+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		git("-C", "work", "add", ".")
		git("-C", "work", "commit", "-q", "-m", tag)
		git("-C", "work", "tag", tag)
	}
	git("clone", "-q", "--bare", "work", "odd")
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		(&cgi.Handler{Path: filepath.Join(git("--exec-path"), "git-http-backend"), Stderr: io.Discard, Env: []string{
			"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_PROTOCOL=" + r.Header.Get("Git-Protocol"),
			"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
		}}).ServeHTTP(w, r)
	}))
	t.Cleanup(web.Close)
	return web.URL + "/odd"
}

func TestFetch(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	from := newUpstream(t)

	r := s.cli(t, "fetch", "--wait", "--timeout", "1ms", "--name", "odd", from)
	r.check(t, exitGoingOn, "not done after 1ms", "packbase jobs --follow ")
	r = s.cli(t, "fetch", "--name", "odd", from)
	r.check(t, 0, "odd is queued as job ")
	if r = s.cli(t, "fetch", "--name", "odd", from, "--json"); !strings.HasPrefix(r.out, `{"job_id":`) {
		t.Errorf("fetch --json: got %s, want the job", r.out)
	}

	s.work(t)
	r = s.cli(t, "fetch", "--wait", "--name", "odd", from)
	r.check(t, 0, "ok odd: 2 releases here, 2 new", "zig fetch --save=odd "+s.url+"/p/odd/tag/v1.1.0.tar.gz\n", "zig fetch --save=odd git+"+s.url+"/odd#v1.1.0\n")
	if !strings.Contains(r.err, "odd  succeeded\n") {
		t.Errorf("progress: got %q, want a line for each step", r.err)
	}
	s.cli(t, "fetch", "--wait", "--name", "odd", from).check(t, 0, "2 releases here, nothing new")
	s.cli(t, "fetch", "--name", "odd", "https://git.example/a/other").check(t, exitFailed, "--name NAME")
	r = s.cli(t, "fetch", "--wait", "--json", "--name", "gone", strings.Replace(from, "odd", "gone", 1))
	r.check(t, exitFailed, " failed: ", "Look at the URL")
	if _, id, _ := strings.Cut(r.out, `"id":"`); r.out != s.get(t, "/api/jobs/"+id[:36]) {
		t.Errorf("fetch --wait --json: got %s, want the job as it ended", r.out)
	}
}

// A job is followed to its end whatever becomes of its events.
func TestFollow(t *testing.T) {
	t.Parallel()
	cut := func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/events") {
			return false
		}
		fmt.Fprint(w, ": hello\n\nevent: job\ndata: {\"state\":\"running\",")
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	missing := func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/events") {
			return false
		}
		http.NotFound(w, r)
		return true
	}
	var failures atomic.Int32
	away := func(w http.ResponseWriter, r *http.Request) bool {
		if failures.Add(1) > 4 {
			return false
		}
		http.Error(w, "restarting", http.StatusBadGateway)
		return true
	}
	tests := []struct {
		name   string
		before func(http.ResponseWriter, *http.Request) bool
	}{
		{"events", func(http.ResponseWriter, *http.Request) bool { return false }},
		{"events cut", cut},
		{"no events", missing},
		{"server restarts", away},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, nil)
			s.cli(t, "fetch", "https://git.example/a/b").check(t, 0)
			id := s.onlyJob(t)
			s.before.Store(&tt.before)
			done := make(chan result)
			go func() { done <- s.cli(t, "jobs", "--follow", id) }()
			s.cli(t, "jobs", "--state", "queued")
			cancelled := cli(t.Context(), map[string]string{"PACKBASE_URL": s.url, "PACKBASE_TOKEN": testToken}, "jobs", "cancel", id)
			for cancelled.code == exitAway {
				cancelled = s.cli(t, "jobs", "cancel", id)
			}
			cancelled.check(t, 0, "cancelled")
			(<-done).check(t, exitFailed, "cancelled")
		})
	}
}

func (s *server) onlyJob(t *testing.T) string {
	t.Helper()
	raw := s.get(t, "/api/jobs")
	_, rest, ok := strings.Cut(raw, `"id":"`)
	if !ok {
		t.Fatalf("jobs: got %s, want one", raw)
	}
	return rest[:36]
}

func TestRetryAndCancel(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil) // without a worker, jobs stay queued
	s.cli(t, "fetch", "https://git.example/a/b").check(t, 0)
	id := s.onlyJob(t)
	s.cli(t, "jobs", "retry", id).check(t, exitFailed, "has the state queued")
	s.cli(t, "jobs", "cancel", id).check(t, 0, "cancelled")
	s.cli(t, "jobs", "cancel", id).check(t, exitFailed)
	s.cli(t, "jobs", "retry", id).check(t, 0, "queued")

	ctx, cancel := context.WithCancel(t.Context())
	seen := func(w http.ResponseWriter, r *http.Request) bool {
		cancel() // Ctrl-C, while the job is followed
		return false
	}
	s.before.Store(&seen)
	env := map[string]string{"PACKBASE_URL": s.url}
	cli(ctx, env, "jobs", "--follow", id).check(t, exitInterrupted)
}

func TestUpdate(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	s.cli(t, "update").check(t, 0, "the update has begun as job ")
	s.cli(t, "update", "--wait", "--timeout", "1ms").check(t, exitGoingOn, "packbase status --watch")

	// During a run, one more follows it.
	claim, err := s.stores.DB.Jobs.Claim(t.Context(), uuid.MustParse(s.onlyJob(t)), "test", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.stores.DB.Jobs.StartRun(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
	s.cli(t, "update").check(t, 0, "one more follows it")
	done := make(chan result)
	go func() { done <- s.cli(t, "update", "--wait") }()
	s.work(t)
	end := jobs.Outcome{State: jobs.Succeeded, Result: jobs.Counters{}}
	if err := s.stores.DB.Jobs.End(t.Context(), claim, end); err != nil {
		t.Fatal(err)
	}
	(<-done).check(t, 0, "ok the catalog is up to date", "0 scanned")
}

func TestUpdateCooldown(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(c *serve.Config) { c.UpdateCooldown = time.Minute })
	s.cli(t, "update").check(t, 0, "the update has begun as job ")
	s.cli(t, "jobs", "cancel", s.onlyJob(t)).check(t, 0)
	s.cli(t, "update").check(t, 0, "there was an update just now; ask again in ")

	ctx, cancel := context.WithCancel(t.Context())
	said := writerFunc(func(b []byte) {
		if bytes.Contains(b, []byte("waiting: cooldown")) {
			cancel() // Ctrl-C
		}
	})
	env := func(name string) string { return map[string]string{"PACKBASE_URL": s.url}[name] }
	err := run(ctx, []string{"update", "--wait"}, env, strings.NewReader(""), io.Discard, said)
	if code := exitCode(err); code != exitInterrupted {
		t.Errorf("waiting for the cooldown's end: exit code = %d (%v), want %d", code, err, exitInterrupted)
	}
}

// A writerFunc is called with each part that is written.
type writerFunc func([]byte)

func (f writerFunc) Write(b []byte) (int, error) {
	f(b)
	return len(b), nil
}

func TestUpdateOfBrokenCatalog(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(c *serve.Config) { c.Source = "file:///no/such/catalog" })
	s.work(t)
	s.cli(t, "update", "--wait").check(t, exitFailed, "the catalog's file cannot be read", "packbase jobs retry ")
}

// An update that could not mirror some packages names them, and fails.
func TestUpdateNamesFailures(t *testing.T) {
	t.Parallel()
	upstream := newUpstream(t)
	file := filepath.Join(t.TempDir(), "catalog.json")
	text := fmt.Sprintf(`{"protocol":"v1","packages":[{"id":"1","title":"good","repository":{"url":%q}},{"id":"2","title":"gone","repository":{"url":"%s-gone"}},
		{"id":"3","title":"taken","repository":{"url":"https://git.example/another/one"}}]}`, upstream, upstream)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	s := newServer(t, func(c *serve.Config) { c.Source = "file://" + file })
	s.work(t)
	s.cli(t, "fetch", "--wait", "--name", "taken", upstream).check(t, 0)
	update := func(flags ...string) result { return s.cli(t, append([]string{"update", "--wait"}, flags...)...) }
	// What failed waits for its next try in the second update: that is a failure, too.
	for _, scanned := range []string{"2 scanned, 1 synced, 2 failed", "1 scanned, 1 synced, 2 failed"} {
		failed := update()
		failed.check(t, exitFailed, scanned, "FAILED", "gone ", "2 packages could not be mirrored", "1 package of the catalog could not be asked for")
		if strings.Contains(failed.out, "up to date") || strings.Contains(failed.out, "good  ") {
			t.Errorf("got\n%s", failed.out)
		}
	}
	if raw := update("--json"); raw.code != exitFailed || !strings.HasPrefix(raw.out, "{") || strings.Contains(raw.out, "FAILED") {
		t.Errorf("--json: got %d\n%s", raw.code, raw.out)
	}
}

func TestWatchStatus(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	var asked atomic.Int32
	second := func(http.ResponseWriter, *http.Request) bool {
		if asked.Add(1) == 2 {
			cancel()
		}
		return false
	}
	s.before.Store(&second)
	r := cli(ctx, map[string]string{"PACKBASE_URL": s.url}, "status", "--watch")
	r.check(t, 0, "packbase "+release+" at "+s.url, "no worker is alive")
}
