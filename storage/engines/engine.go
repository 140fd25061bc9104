package engines

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	stopTimeout = 30 * time.Second // from asking an engine to end until killing it
	minPause    = 100 * time.Millisecond
	maxPause    = 10 * time.Second // between restarts of an engine that keeps ending
	maxLog      = 16 << 20         // bytes of a log before it is cut
)

// engine keeps one server running.
type engine struct {
	name    string // "postgres" or "redis"
	home    string // its folder
	url     string // for clients
	account account
	env     []string
	quit    syscall.Signal // asks for a clean end
	log     *slog.Logger

	serve func(context.Context) error // runs the server until it ends
	ping  func(context.Context) error // nil if the server answers

	claimed func()        // called when no process of an earlier run is left
	ours    chan struct{} // closed by claimed: what answers from now on is ours
	failed  chan error    // of size 1: how the server ended, for await
	ended   chan struct{} // closed when supervise has returned
}

func newEngine(name, home string, a account, log *slog.Logger) *engine {
	ours := make(chan struct{})
	return &engine{
		name: name, home: home, account: a, log: log.With("engine", name),
		claimed: sync.OnceFunc(func() { close(ours) }), ours: ours,
		failed: make(chan error, 1), ended: make(chan struct{}),
	}
}

// supervise runs the server, and runs it again when it ends, until ctx ends.
func (e *engine) supervise(ctx context.Context) {
	// Pdeathsig is sent when the thread that started the child ends, so keep it.
	runtime.LockOSThread()
	defer close(e.ended)
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		began := time.Now()
		err := e.serve(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("exit status 0") // nobody has asked it to end
		}
		if time.Since(began) > time.Minute {
			pause = minPause
		}
		select {
		case e.failed <- err:
		default: // nobody awaits the first start any more
		}
		e.log.ErrorContext(ctx, "engine ended, starting it again", "err", err, "pause", pause)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// await returns when the server that supervise has started answers.
func (e *engine) await(ctx context.Context) error {
	began := time.Now()
	select {
	case <-e.ours:
	case err := <-e.failed:
		return e.startError(err)
	case <-ctx.Done():
		return e.startError(ctx.Err())
	}
	for {
		silence := e.ping(ctx)
		if silence == nil {
			break
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case err := <-e.failed:
			return e.startError(err)
		case <-ctx.Done():
			return e.startError(errors.Join(ctx.Err(), silence))
		}
	}
	e.log.InfoContext(ctx, "engine ready", "after", time.Since(began))
	return nil
}

func (e *engine) startError(err error) error {
	return fmt.Errorf("start %s: %w; %s ends with:\n%s", e.name, err, e.file("log"), e.logTail())
}

// run runs one program of the engine until it ends. When ctx ends it asks the
// program to end, too, and kills it after stopTimeout. The calling goroutine must
// be locked to its thread.
func (e *engine) run(ctx context.Context, argv ...string) error {
	pid, err := e.claim(ctx)
	if err != nil {
		return err
	}
	defer pid.Close()
	e.claimed()
	log, err := os.OpenFile(e.file("log"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()

	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = "/" // ambient capabilities do not count before exec
	// Not our environment: it holds secrets, and PG* variables.
	cmd.Env = append(e.env, "PATH="+os.Getenv("PATH"), "HOME="+e.home, "LC_ALL=C.UTF-8", "TZ=UTC")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{pid}
	cmd.SysProcAttr = e.account.attr()
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Pdeathsig = e.quit
	cmd.Cancel = func() error { return cmd.Process.Signal(e.quit) }
	cmd.WaitDelay = stopTimeout
	if err := cmd.Start(); err != nil {
		if len(e.account.caps) > 0 { // a container may lack it
			err = fmt.Errorf("%w: user %d may not pass the folders above %s without CAP_DAC_READ_SEARCH", err, e.account.uid, e.home)
		}
		return err
	}
	if err := rewrite(pid, identity(cmd.Process.Pid)); err != nil {
		e.log.WarnContext(ctx, "pid of engine not written", "err", err)
	}
	pid.Close() // now only the engine holds it
	return cmd.Wait()
}

// claim returns the engine's pid file, locked. The lock is inherited by all
// processes of the engine, so that none of an earlier run is left when claim
// returns: it asks them to end and waits, and kills the first of them after
// stopTimeout.
func (e *engine) claim(ctx context.Context) (*os.File, error) {
	f, err := os.OpenFile(e.file("pid"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for began, asked := time.Now(), false; ; asked = true {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		waited := time.Since(began)
		switch {
		case !errors.Is(err, unix.EWOULDBLOCK), waited > 2*stopTimeout:
			f.Close()
			return nil, fmt.Errorf("claim %s of process %s: %w", f.Name(), firstWord(f), err)
		case waited > stopTimeout:
			evict(f, syscall.SIGKILL)
		case !asked:
			e.log.InfoContext(ctx, "waiting for the engine of an earlier run to end", "pid", firstWord(f))
			evict(f, e.quit)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// evict signals the process that pid file f names, unless its pid has been
// given to another process.
func evict(f *os.File, sig syscall.Signal) {
	pid, err := strconv.Atoi(firstWord(f))
	if err != nil {
		return
	}
	want, err := io.ReadAll(io.NewSectionReader(f, 0, 64))
	if err == nil && string(want) == identity(pid) {
		_ = syscall.Kill(pid, sig) // it may just have ended
	}
}

// identity returns "pid start-time", unique between two boots, or "" if there
// is no such process. See proc(5), /proc/pid/stat.
func identity(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// The second field, the name, may hold blanks and parentheses.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	return fmt.Sprintf("%d %s\n", pid, fields[22-3])
}

// pid returns the pid in the engine's pid file, or "".
func (e *engine) pid() string {
	b, err := os.ReadFile(e.file("pid"))
	if err != nil {
		return ""
	}
	pid, _, _ := strings.Cut(string(b), " ")
	return pid
}

// file returns the path of the engine's log or pid file.
func (e *engine) file(ext string) string {
	return filepath.Join(filepath.Dir(e.home), e.name+"."+ext)
}

// logTail returns the last lines of the log.
func (e *engine) logTail() string {
	f, err := os.Open(e.file("log"))
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err.Error()
	}
	const most = 1500 // bytes
	tail, err := io.ReadAll(io.NewSectionReader(f, max(0, size-most), most))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(tail))
}

// trimLog moves the content of a long log to log.1. The engine holds the log
// open to append, so the file is emptied, not renamed; lines that it writes
// meanwhile are lost.
func (e *engine) trimLog() error {
	name := e.file("log")
	if info, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() <= maxLog {
		return nil
	} else if err != nil {
		return err
	}
	log, err := os.Open(name)
	if err != nil {
		return err
	}
	defer log.Close()
	old, err := os.OpenFile(name+".1", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(old, log)
	return errors.Join(err, old.Close(), os.Truncate(name, 0))
}
