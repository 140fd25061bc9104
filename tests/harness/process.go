package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A Process is one packbase process, which can be killed and started again.
// Its methods are for one goroutine at a time.
type Process struct {
	t    testing.TB
	name string
	args []string
	env  []string
	log  string // file
	cmd  *exec.Cmd
	from int           // bytes that the log had when it was started
	end  chan struct{} // closed when it has ended
	err  error         // how it ended; after end
}

// newProcess prepares a process. The environment is env and nothing else but
// what any program needs. It is killed when the test ends, or dies.
func newProcess(t testing.TB, dir, name string, env []string, args ...string) *Process {
	t.Helper()
	p := &Process{t: t, name: name, args: args, log: filepath.Join(dir, name+".log")}
	p.env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + os.TempDir(),
		"GORACE=halt_on_error=1", "PACKBASE_LOG=text,debug"}, env...)
	t.Cleanup(func() {
		p.Stop()
		log := p.Log()
		if strings.Contains(log, "DATA RACE") {
			t.Errorf("%s has a data race", name)
		}
		if t.Failed() {
			const most = 20_000
			t.Logf("log of %s:\n%s", name, log[max(0, len(log)-most):])
		}
	})
	return p
}

// Start starts the process, which must not be running. It does not wait for
// it to be of use.
func (p *Process) Start() {
	p.t.Helper()
	if p.Running() {
		p.t.Fatalf("start %s: it is running", p.name)
	}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	p.from = len(p.Log())
	// Not of the test's context: we end it ourselves, later than that.
	p.cmd = exec.CommandContext(context.Background(), program(p.t, p.env), p.args...)
	p.cmd.Env = p.env
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.end = make(chan struct{})
	started := make(chan error)
	go func(cmd *exec.Cmd, end chan struct{}) {
		// The death signal is sent when the thread that started it ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
		}
		close(end)
	}(p.cmd, p.end)
	if err := <-started; err != nil {
		p.t.Fatalf("start %s: %v", p.name, err)
	}
}

// Use adds settings for when the process is started again. Like those of Start
// they may name another program: PACKBASE_TEST_BINARY=path.
func (p *Process) Use(env ...string) { p.env = slices.Concat(p.env, env) }

// Running reports whether the process runs.
func (p *Process) Running() bool {
	if p.end == nil {
		return false
	}
	select {
	case <-p.end:
		return false
	default:
		return true
	}
}

// PID returns the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal to the process, not to its children.
func (p *Process) Signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatalf("signal %s: %v", p.name, err)
	}
}

// Kill9 kills the process and waits for its end. Its children are its own
// business.
func (p *Process) Kill9() {
	p.t.Helper()
	if p.Running() {
		p.Signal(syscall.SIGKILL)
		p.Wait()
	}
}

// Stop asks the process to end, waits for that and fails the test if it
// does not end well. It does nothing to a process that does not run.
func (p *Process) Stop() {
	p.t.Helper()
	if !p.Running() {
		return
	}
	p.Signal(syscall.SIGTERM)
	if err := p.Wait(); err != nil {
		p.t.Errorf("%s ended with %v after SIGTERM, want exit status 0", p.name, err)
	}
}

// Wait waits for the end of the process and returns the error of its exit.
func (p *Process) Wait() error {
	p.t.Helper()
	select {
	case <-p.end:
	case <-time.After(timeout):
		// SIGQUIT prints what its goroutines wait for.
		_ = syscall.Kill(-p.PID(), syscall.SIGQUIT)
		time.AfterFunc(5*time.Second, func() { _ = syscall.Kill(-p.PID(), syscall.SIGKILL) })
		<-p.end
		p.t.Errorf("%s did not end in %v", p.name, timeout)
	}
	return p.err
}

// Restart stops the process, if it runs, and starts it again.
func (p *Process) Restart() {
	p.t.Helper()
	p.Stop()
	p.Start()
}

// Log returns what the process has written so far.
func (p *Process) Log() string {
	b, err := os.ReadFile(p.log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		p.t.Error(err)
	}
	return string(b)
}

// Said reports whether the process has written text since it was started.
func (p *Process) Said(text string) bool { return strings.Contains(p.Log()[p.from:], text) }

// Run runs packbase with args and env to its end and returns what it printed.
// It does not fail the test.
func Run(t testing.TB, env []string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program(t, env), args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "TMPDIR=" + os.TempDir()}, env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), errs.String(), fmt.Errorf("packbase %s: %w", strings.Join(args, " "), err)
	}
	return out.String(), errs.String(), nil
}
