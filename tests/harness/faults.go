package harness

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/francescobianco/packbase/tests/harness/engine"
)

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
	return engine.ChildrenOf(p.t, p.PID())
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
