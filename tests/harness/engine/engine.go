// Package engine gives a test a Postgres and a Redis of its own, to be harmed.
package engine

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage/engines"
)

// A Set is a Postgres and a Redis for one test alone, to be harmed. Both
// are on unix sockets, which stay the same when they are started again.
type Set struct {
	DatabaseURL, RedisURL string // "" for one that was not asked for

	t       testing.TB
	root    string
	opts    engines.Options
	running *engines.Engines
}

// New starts engines, which are stopped when the test ends. It skips
// the test where the shared ones are missing, too.
func New(t testing.TB, opts engines.Options) *Set {
	t.Helper()
	e := &Set{t: t, root: t.TempDir(), opts: opts}
	if err := os.Chmod(e.root, 0o755); err != nil { // for the users of the engines
		t.Fatal(err)
	}
	e.Start()
	e.DatabaseURL, e.RedisURL = e.running.DatabaseURL(), e.running.RedisURL()
	t.Cleanup(e.Stop)
	return e
}

// Env returns the settings that make packbase use the engines.
func (e *Set) Env() []string {
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
func (e *Set) Start() {
	e.t.Helper()
	running, err := engines.Start(context.Background(), e.root, e.opts, slog.New(slog.DiscardHandler))
	if err != nil {
		e.t.Fatal(err)
	}
	e.running = running
}

// Stop ends the engines well. It does nothing if they do not run.
func (e *Set) Stop() {
	if e.running == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	if err := e.running.Stop(ctx); err != nil {
		e.t.Error(err)
	}
	e.running = nil
}

// PID returns the id of an engine's first process: of "postgres" or "redis".
func (e *Set) PID(name string) int {
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
func (e *Set) Signal(name string, sig syscall.Signal) {
	e.t.Helper()
	if err := syscall.Kill(e.PID(name), sig); err != nil {
		e.t.Fatalf("signal %s: %v", name, err)
	}
}

// Freeze has all processes of an engine stand still until thaw is called.
func (e *Set) Freeze(name string) (thaw func()) {
	e.t.Helper()
	first := e.PID(name)
	e.Signal(name, syscall.SIGSTOP) // it starts no more
	all := append(ChildrenOf(e.t, first), first)
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
func (e *Set) Crash(name string) {
	e.t.Helper()
	sig := syscall.SIGKILL
	if name == "postgres" {
		sig = syscall.SIGQUIT
	}
	e.Signal(name, sig)
	e.Stop()
}

// ChildrenOf returns the ids of the processes that a process has started.
func ChildrenOf(t testing.TB, parent int) []int {
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
