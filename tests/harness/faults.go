package harness

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage/engines"
)

// RaceEnabled says that the tests and packbase have the race detector, which
// takes several times the memory and the time.
const RaceEnabled = raceEnabled

// AddWorker starts one more worker, with a name for its log, on the server's
// database and waits until it works. env adds settings.
func (s *Server) AddWorker(name string, env ...string) *Process {
	s.t.Helper()
	w := newProcess(s.t, s.dir, name, slices.Concat(s.Env, env), "worker")
	w.Start()
	s.AwaitWorker(w)
	return w
}

// AwaitAPI waits until the api answers.
func (s *Server) AwaitAPI() {
	s.t.Helper()
	Eventually(s.t, "the api answers", func() bool {
		a, err := s.TryDo(http.MethodGet, "/readyz", "", nil)
		return err == nil && a.Status == http.StatusOK
	})
}

// AwaitWorker waits until a worker that was started says that it works.
func (s *Server) AwaitWorker(w *Process) {
	s.t.Helper()
	Eventually(s.t, w.name+" works", func() bool {
		if !w.Running() {
			s.t.Fatalf("%s ended while it was starting: %v", w.name, w.err)
		}
		return w.Said("msg=working")
	})
}

// SignalGroup sends a signal to the process and all that it started. A killed
// group is waited for.
func (p *Process) SignalGroup(sig syscall.Signal) {
	p.t.Helper()
	if !p.Running() {
		return
	}
	if err := syscall.Kill(-p.PID(), sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		p.t.Fatalf("signal group of %s: %v", p.name, err)
	}
	if sig == syscall.SIGKILL {
		p.Wait()
	}
}

// Children returns the ids of the processes that the process has started.
func (p *Process) Children() []int {
	p.t.Helper()
	return childrenOf(p.t, p.PID())
}

func childrenOf(t testing.TB, parent int) []int {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err) // the pattern is good
	}
	var children []int
	for _, name := range names {
		stat, err := os.ReadFile(name)
		if err != nil {
			continue // it has just ended
		}
		// The second field, the name, may hold blanks and parentheses. proc(5)
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if fields[1] != strconv.Itoa(parent) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err != nil {
			t.Fatal(err)
		}
		children = append(children, pid)
	}
	return children
}

// Engines are a Postgres and a Redis for one test alone, to be harmed. Both
// are on unix sockets, which stay the same when they are started again.
type Engines struct {
	DatabaseURL, RedisURL string // "" for one that was not asked for

	t       testing.TB
	root    string
	opts    engines.Options
	running *engines.Engines
}

// NewEngines starts engines, which are stopped when the test ends. It skips
// the test where the shared ones are missing, too.
func NewEngines(t testing.TB, opts engines.Options) *Engines {
	t.Helper()
	e := &Engines{t: t, root: t.TempDir(), opts: opts}
	if err := os.Chmod(e.root, 0o755); err != nil { // for the users of the engines
		t.Fatal(err)
	}
	e.Start()
	e.DatabaseURL, e.RedisURL = e.running.DatabaseURL(), e.running.RedisURL()
	t.Cleanup(e.Stop)
	return e
}

// Env returns the settings that make packbase use the engines.
func (e *Engines) Env() []string {
	var env []string
	if e.DatabaseURL != "" {
		env = append(env, "PACKBASE_DATABASE_URL="+e.DatabaseURL)
	}
	if e.RedisURL != "" {
		env = append(env, "PACKBASE_REDIS_URL="+e.RedisURL)
	}
	return env
}

// Start starts the engines again, on the data that they had.
func (e *Engines) Start() {
	e.t.Helper()
	running, err := engines.Start(context.Background(), e.root, e.opts, slog.New(slog.DiscardHandler))
	if err != nil {
		e.t.Fatal(err)
	}
	e.running = running
}

// Stop ends the engines well. It does nothing if they do not run.
func (e *Engines) Stop() {
	if e.running == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := e.running.Stop(ctx); err != nil {
		e.t.Error(err)
	}
	e.running = nil
}

// PID returns the id of an engine's first process: of "postgres" or "redis".
func (e *Engines) PID(name string) int {
	e.t.Helper()
	b, err := os.ReadFile(filepath.Join(e.root, "engines", name+".pid"))
	if err != nil {
		e.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.Fields(string(b))[0])
	if err != nil {
		e.t.Fatal(err)
	}
	return pid
}

// Signal sends a signal to the first process of an engine.
func (e *Engines) Signal(name string, sig syscall.Signal) {
	e.t.Helper()
	if err := syscall.Kill(e.PID(name), sig); err != nil {
		e.t.Fatalf("signal %s: %v", name, err)
	}
}

// Freeze has all processes of an engine stand still until thaw is called.
func (e *Engines) Freeze(name string) (thaw func()) {
	e.t.Helper()
	first := e.PID(name)
	e.Signal(name, syscall.SIGSTOP) // it starts no more
	all := append(childrenOf(e.t, first), first)
	signal := func(sig syscall.Signal) {
		for _, pid := range all {
			_ = syscall.Kill(pid, sig) // one that has ended does nothing, either
		}
	}
	signal(syscall.SIGSTOP)
	return func() { signal(syscall.SIGCONT) }
}

// Crash ends an engine at once, as `pg_ctl stop -m immediate` and `kill -9`
// do, and leaves it and the other one stopped.
func (e *Engines) Crash(name string) {
	e.t.Helper()
	sig := syscall.SIGKILL
	if name == "postgres" {
		sig = syscall.SIGQUIT
	}
	e.Signal(name, sig)
	e.Stop()
}

// Slack returns how long something may take on this machine now that takes at
// most d on one that has nothing else to do: twice as long, more where many
// processes want each processor, and with the race detector.
func Slack(d time.Duration) time.Duration {
	d *= 2
	if RaceEnabled {
		d *= 3
	}
	var load float64
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		_, _ = fmt.Sscan(string(b), &load) // else it stays 0
	}
	return time.Duration(float64(d) * min(max(1, load/float64(runtime.NumCPU())), 30))
}

// Within polls until ok holds and returns how long that took. It fails the
// test with what if it does not in most, with Slack.
func Within(t testing.TB, most time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for wait := 5 * time.Millisecond; !ok(); wait = min(2*wait, 100*time.Millisecond) {
		if took := time.Since(began); took > Slack(most) {
			t.Fatalf("after %v still not: %s", took, what)
		}
		time.Sleep(wait)
	}
	return time.Since(began)
}
