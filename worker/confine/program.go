package confine

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Program is another program, which runs in a Room.
type Program struct {
	Room Room
	Path string
	Args []string // without its name
	Env  []string // all of it

	// The most memory that its processes may fill together, in bytes; 0 for no limit. A limit on addresses alone would be
	// in the way of honest programs, which reserve far more of these.
	Resident int64
}

// Output runs the program by way of cmd, a process of ours that calls [Exec],
// and returns what it wrote to both outputs. It is killed, with all processes
// of its group, when ctx ends, when it writes more than limit bytes or fills more than its memory.
func (p Program) Output(ctx context.Context, start func(context.Context, string) *exec.Cmd, limit int) (string, error) {
	p.Room.Program = true
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cmd := start(ctx, "confine")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if able(unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_CHOWN, unix.CAP_DAC_READ_SEARCH) {
		uid, err := Give(p.Room.Dir)
		if err != nil {
			return "", err
		}
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}
		// The program may lie where only root gets to; Landlock is narrower.
		cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_DAC_READ_SEARCH}
	} else {
		p.Room.Limits.Processes = 0 // others of this user would count
	}
	input, err := json.Marshal(p)
	if err != nil {
		return "", fmt.Errorf("encode program: %w", err)
	}
	out := &capped{most: limit, over: func() { cancel(fmt.Errorf("it printed more than %d bytes", limit)) }}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(string(input)), out, out
	cmd.WaitDelay = 5 * time.Second
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// The death signal is sent when the thread that started it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("start %s: %w", p.Path, err)
	}
	if p.Resident > 0 {
		go watch(ctx, cmd.Process.Pid, p.Resident, cancel)
	}
	err = cmd.Wait()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // whom it left behind
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return out.String(), err
}

// watch calls cancel when a group of processes fills more memory than it may, until ctx ends.
func watch(ctx context.Context, group int, most int64, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if resident(group) > most {
			cancel(fmt.Errorf("it took more than %d MiB of memory", most>>20))
		}
	}
}

// resident returns the memory that a group of processes fills, in bytes. proc_pid_stat(5).
func resident(group int) (n int64) {
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		// Behind the name, which may have anything in it: state, parent, group, ..., pages.
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if len(fields) < 22 || fields[2] != strconv.Itoa(group) {
			continue
		}
		pages, _ := strconv.ParseInt(fields[21], 10, 64)
		n += pages * int64(os.Getpagesize())
	}
	return n
}

// Exec becomes the Program that in describes, as JSON, in its room.
func Exec(_ context.Context, in io.Reader, _ io.Writer) error {
	var p Program
	if err := json.NewDecoder(in).Decode(&p); err != nil {
		return fmt.Errorf("read program: %w", err)
	}
	runtime.LockOSThread() // what the room holds is the thread that calls exec
	if _, err := p.Room.Enter(); err != nil {
		return err
	}
	return &os.PathError{Op: "exec", Path: p.Path, Err: syscall.Exec(p.Path, append([]string{p.Path}, p.Args...), p.Env)}
}

// capped keeps the first of what is written to it, and says when there is more.
type capped struct {
	strings.Builder
	most int
	over func()
}

func (c *capped) Write(b []byte) (int, error) {
	if room := c.most - c.Len(); room < len(b) {
		c.Builder.Write(b[:room])
		c.over()
		return room, io.ErrShortWrite
	}
	return c.Builder.Write(b)
}

// Survey returns the walls that stand around a child that is started here, as
// it finds them itself in a folder of its own below dir.
func Survey(ctx context.Context, start func(context.Context, string) *exec.Cmd, dir string) (w Walls, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	dir, err = os.MkdirTemp(dir, "walls-")
	if err != nil {
		return w, fmt.Errorf("survey walls: %w", err)
	}
	defer os.RemoveAll(dir)
	cmd := start(ctx, "walls")
	cmd.Stdin = strings.NewReader(strconv.Quote(dir))
	out, err := cmd.Output()
	if err != nil {
		return w, fmt.Errorf("survey walls: %w", err)
	}
	if err := json.Unmarshal(out, &w); err != nil {
		return w, fmt.Errorf("survey walls: %w", err)
	}
	return w, nil
}

// Report is the child of [Survey]: it enters the folder that in names and
// writes its Walls to out.
func Report(_ context.Context, in io.Reader, out io.Writer) error {
	r := Room{Limits: Limits{Memory: 4 << 30, CPU: time.Minute, Files: 64}}
	if err := json.NewDecoder(in).Decode(&r.Dir); err != nil {
		return fmt.Errorf("read folder: %w", err)
	}
	w, err := r.Enter()
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(w)
}
