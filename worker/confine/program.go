package confine

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
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
}

// Output runs the program by way of cmd, a process of ours that calls [Exec],
// and returns what it wrote to both outputs. It is killed, with all processes
// of its group, when ctx ends or when it writes more than limit bytes.
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
	err = cmd.Wait()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // whom it left behind
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return out.String(), err
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
