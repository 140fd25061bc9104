package confine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The test binary is its own child: it enters a room and tries what a
// hostile repository would have it do, if it could.
func TestMain(m *testing.M) {
	switch os.Getenv("CONFINE_TEST") {
	case "attack":
		attack(false)
	case "bare":
		attack(true)
	case "program":
		attackAsProgram()
	case "confine":
		if err := Exec(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	default:
		os.Exit(m.Run())
	}
}

const secret = "CONFINE_TEST_SECRET=of-the-parent"

// A target is what the child is to reach for.
type target struct {
	Room    Room
	Parent  int
	Secret  string // a file
	Blob    string // a file
	TCP     string // listeners
	Socket  string
	Leaked  int // a descriptor that the parent forgot to mark
	Program string
}

// A result says what came of each attempt: "" is success.
type result struct {
	Walls Walls
	Found map[string]string
}

// attack enters the room, unless bare, and tries everything.
func attack(bare bool) {
	var to target
	err := json.NewDecoder(os.Stdin).Decode(&to)
	r := result{Found: map[string]string{}}
	switch {
	case err != nil:
	case bare:
		err = os.Chdir(to.Room.Dir)
	default:
		r.Walls, err = to.Room.Enter()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for name, try := range attempts(to) {
		if err := try(); err != nil {
			r.Found[name] = err.Error()
		} else {
			r.Found[name] = ""
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		os.Exit(1)
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // to be looked at from outside
	os.Exit(0)
}

// attackAsProgram tries what reaches other processes, or what is there when the program is not any more.
func attackAsProgram() {
	parent, err := strconv.Atoi(os.Getenv("CONFINE_TEST_PARENT"))
	if err != nil {
		os.Exit(1)
	}
	for name, try := range reaches(parent, os.Getenv("CONFINE_TEST_TCP")) {
		if try() == nil {
			fmt.Println(name)
		}
	}
	for _, it := range []struct {
		name string
		call []uintptr
	}{
		{"ask for its own limits", []uintptr{unix.SYS_PRLIMIT64, 0, unix.RLIMIT_CORE}},
		{"wake its own thread", []uintptr{unix.SYS_TGKILL, uintptr(os.Getpid()), uintptr(unix.Gettid()), uintptr(unix.SIGIO)}}, // as Zig does from 0.16 on
	} {
		if err := raw(it.call[0], it.call[1:]...); err != nil {
			fmt.Println("cannot", it.name)
		}
	}
	os.Exit(0)
}

func raw(number uintptr, args ...uintptr) error {
	args = append(args, make([]uintptr, 6-len(args))...)
	_, _, errno := unix.Syscall6(number, args[0], args[1], args[2], args[3], args[4], args[5])
	return errnoOf(errno)
}

// reaches are attempts that do no harm to the parent. tcp is a listener that is not for the program.
func reaches(parent int, tcp string) map[string]func() error {
	pid := uintptr(parent)
	call := func(number uintptr, args ...uintptr) func() error {
		return func() error { return raw(number, args...) }
	}
	return map[string]func() error{
		"limit the parent": call(unix.SYS_PRLIMIT64, pid, unix.RLIMIT_CORE),
		"delay the parent": func() error { return raw(unix.SYS_SETPRIORITY, unix.PRIO_PROCESS, pid, niceness()) },
		"bind the parent":  func() error { var set unix.CPUSet; set.Fill(); return unix.SchedSetaffinity(parent, &set) },
		"schedule the parent": func() error {
			var priority int32
			return raw(unix.SYS_SCHED_SETSCHEDULER, pid, 0, uintptr(unsafe.Pointer(&priority)))
		},
		"signal by group":        call(unix.SYS_TGKILL, pid, pid, uintptr(unix.SIGURG)),
		"signal itself by group": call(unix.SYS_TGKILL, uintptr(os.Getpid()), uintptr(unix.Gettid()), uintptr(unix.SIGURG)), // Landlock lets it, where it keeps from the parent
		"signal by file":         func() error { _, err := unix.FcntlInt(0, unix.F_SETOWN, parent); return err },
		"signal by ioctl": func() error {
			socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
			if err != nil {
				return err
			}
			defer unix.Close(socket)
			const fiosetown = 0x8901
			owner := int32(parent)
			return raw(unix.SYS_IOCTL, uintptr(socket), fiosetown, uintptr(unsafe.Pointer(&owner)))
		},
		"connect by TCP": func() error { return dial("tcp", tcp) },
		"connect by sending": func() error { // Landlock looks at connect(2) alone
			to, err := netip.ParseAddrPort(tcp)
			if err != nil {
				return err
			}
			socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
			if err != nil {
				return err
			}
			defer unix.Close(socket)
			return unix.Sendto(socket, []byte("x"), unix.MSG_FASTOPEN, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
		},
		"make TCP another protocol": func() error {
			socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
			if err != nil {
				return err
			}
			defer unix.Close(socket)
			if err := unix.SetsockoptString(socket, unix.IPPROTO_TCP, unix.TCP_ULP, "smc"); errors.Is(err, unix.EPERM) {
				return err
			}
			return nil // that this kernel has none is no refusal
		},
		"leave shared memory": func() error {
			id, _, errno := unix.Syscall(unix.SYS_SHMGET, 0, 4096, 0o600)
			if errno == 0 {
				_ = raw(unix.SYS_SHMCTL, id, 0)
			}
			return errnoOf(errno)
		},
		"namespace": func() error {
			child, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD)|unix.CLONE_NEWUSER, 0, 0, 0, 0, 0)
			if errno == 0 && child == 0 {
				syscall.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
			}
			return errnoOf(errno)
		},
	}
}

// niceness is that of this process, as it is set. getpriority(2), "C library/kernel differences".
func niceness() uintptr {
	got, _, _ := unix.Syscall(unix.SYS_GETPRIORITY, unix.PRIO_PROCESS, 0, 0)
	return 20 - got
}

func attempts(to target) map[string]func() error {
	read := func(name string) func() error {
		return func() error {
			f, err := os.Open(name)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.Read(make([]byte, 1))
			return err
		}
	}
	call := func(number uintptr, args ...uintptr) func() error {
		return func() error {
			args := append(args, make([]uintptr, 6-len(args))...)
			if _, _, errno := unix.Syscall6(number, args[0], args[1], args[2], args[3], args[4], args[5]); errno != 0 {
				return errno
			}
			return nil
		}
	}
	parent := uintptr(to.Parent)
	proc := fmt.Sprintf("/proc/%d/", to.Parent)
	one := make([]byte, 8)
	iov := unix.Iovec{Base: &one[0], Len: 1}
	remote := unix.RemoteIovec{Base: uintptr(unsafe.Pointer(&one[0])), Len: 1}
	return map[string]func() error{
		"read a secret":     read(to.Secret),
		"list a folder":     func() error { _, err := os.ReadDir(filepath.Dir(to.Secret)); return err },
		"read environment":  read(proc + "environ"),
		"read memory map":   read(proc + "maps"),
		"open memory":       func() error { f, err := os.Open(proc + "mem"); f.Close(); return err },
		"read memory":       call(unix.SYS_PROCESS_VM_READV, parent, uintptr(unsafe.Pointer(&iov)), 1, uintptr(unsafe.Pointer(&remote)), 1),
		"trace":             func() error { return traceless(call(unix.SYS_PTRACE, unix.PTRACE_PEEKDATA, parent)()) },
		"signal":            func() error { return syscall.Kill(to.Parent, syscall.SIGURG) },
		"signal by thread":  call(unix.SYS_TKILL, parent, uintptr(unix.SIGURG)),
		"signal by file":    func() error { _, err := unix.FcntlInt(0, unix.F_SETOWN, to.Parent); return err },
		"write a blob":      func() error { f, err := os.OpenFile(to.Blob, os.O_WRONLY, 0); f.Close(); return err },
		"change its mode":   func() error { return os.Chmod(to.Blob, 0o666) },
		"link a blob":       func() error { return os.Link(to.Blob, "link") },
		"make a file":       func() error { return os.WriteFile(to.Blob+".new", nil, 0o600) },
		"climb":             func() error { _, err := os.ReadFile("../secret"); return err },
		"leaked file":       func() error { _, err := unix.FcntlInt(uintptr(to.Leaked), unix.F_GETFD, 0); return err },
		"connect by TCP":    func() error { return dial("tcp", to.TCP) },
		"connect by send":   sendFirst,
		"connect by socket": func() error { return dial("unix", to.Socket) },
		"make UDP socket":   call(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_DGRAM),
		"make netlink":      call(unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW),
		"listen":            func() error { l, err := net.Listen("tcp", "127.0.0.1:0"); return errors.Join(err, closeOf(l)) },
		"run a program":     func() error { return exec.Command(to.Program).Run() },
		"replace itself":    call(unix.SYS_EXECVEAT, 0, 0, 0, 0, unix.AT_EMPTY_PATH),
		"fork":              func() error { _, _, errno := forkNothing(); return errnoOf(errno) },
		"namespace":         call(unix.SYS_UNSHARE, unix.CLONE_NEWUSER),
		"io_uring":          call(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&make([]byte, 120)[0]))),
		"bpf":               call(unix.SYS_BPF),
		"keyring":           call(unix.SYS_KEYCTL),
	}
}

// sendFirst tries what makes a connection of one that the broker handed over and its other end has reset. That a file is
// none is success: the kernel would have tried.
func sendFirst() error {
	err := unix.Sendmsg(0, []byte("x"), nil, &unix.SockaddrInet4{Port: 1}, unix.MSG_FASTOPEN)
	if errors.Is(err, unix.ENOTSOCK) {
		return nil
	}
	return err
}

// traceless takes the answer that the parent is not traced yet for success: to
// trace it would stop it.
func traceless(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

func errnoOf(e syscall.Errno) error {
	if e != 0 {
		return e
	}
	return nil
}

func closeOf(c io.Closer) error {
	if l, ok := c.(net.Listener); !ok || l == nil {
		return nil
	}
	return c.Close()
}

// forkNothing has a process begin and end.
func forkNothing() (uintptr, uintptr, syscall.Errno) {
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno == 0 && pid == 0 {
		syscall.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
	}
	return pid, 0, errno
}

func dial(network, address string) error {
	c, err := net.Dial(network, address)
	if err != nil {
		return err
	}
	return c.Close()
}

// TestWalls runs as whoever runs the tests and, if that is root, as an
// ordinary user, too.
func TestWalls(t *testing.T) {
	if os.Getenv("CONFINE_TEST_USER") == "" {
		if os.Geteuid() == 0 {
			t.Run("ordinary user", func(t *testing.T) { again(t, "^TestWalls$") })
		}
	}
	to, parent := prepare(t)
	found, child := to.run(t, "attack")
	w := found.Walls
	t.Log(w)
	allowed := []string{}
	for name, err := range found.Found {
		if err == "" {
			allowed = append(allowed, name)
		}
	}
	slices.Sort(allowed)
	if len(allowed) > 0 {
		t.Errorf("the child may %q, want nothing", allowed)
	}
	root := os.Geteuid() == 0
	if w.User != root || w.Root != root || !w.NoNewPrivs || !w.Seccomp || !w.Undebugable || w.Landlock != landlockVersion() {
		t.Errorf("walls %s", w)
	}
	for line, want := range map[string]string{"NoNewPrivs": "1", "Seccomp": "2", "CapEff": "0000000000000000", "CapPrm": "0000000000000000"} {
		if got := statusOf(t, child, line); got != want {
			t.Errorf("%s of the child is %s, want %s", line, got, want)
		}
	}
	if root {
		if link, err := os.Readlink(fmt.Sprintf("/proc/%d/root", child)); err != nil || link != to.Room.Dir {
			t.Errorf("root folder of the child is %q, %v, want %q", link, err, to.Room.Dir)
		}
		var uid, other int
		fmt.Sscan(statusOf(t, child, "Uid"), &uid, &other)
		if uid < firstUID || other != uid {
			t.Errorf("user of the child is %d, %d, want one of nobody else", uid, other)
		}
	} else if _, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", child)); !errors.Is(err, os.ErrPermission) {
		t.Errorf("read the child's environment: %v, want no permission", err)
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", child))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Max cpu time 60 61", "Max file size 1048576 1048576", "Max open files 64 64", "Max core file size 0 0"} {
		if !strings.Contains(strings.Join(strings.Fields(string(limits)), " "), want) {
			t.Errorf("limits of the child lack %q", want)
		}
	}
	parent()
}

// Without the walls each attempt must succeed, or it would prove nothing.
func TestAttemptsWork(t *testing.T) {
	if os.Getenv("CONFINE_TEST_USER") == "" && os.Geteuid() == 0 {
		again(t, "^TestAttemptsWork$")
	}
	to, _ := prepare(t)
	found, _ := to.run(t, "bare")
	// The parent is hidden, the system may forbid some to everybody, and root
	// alone may do others.
	hidden := []string{"read environment", "open memory", "read memory", "read memory map", "leaked file"}
	depends := []string{"namespace", "io_uring", "bpf", "keyring", "replace itself", "climb", "link a blob"}
	for name, err := range found.Found {
		switch {
		case slices.Contains(hidden, name) && (os.Geteuid() != 0 || name == "leaked file"):
			if err == "" {
				t.Errorf("%s: works, want that the parent is hidden", name)
			}
		case err != "" && !slices.Contains(depends, name) && !slices.Contains(hidden, name):
			t.Errorf("%s: %s, want that it works without walls", name, err)
		}
	}
}

// again runs a test as an ordinary user.
func again(t *testing.T, name string) {
	dir, err := os.MkdirTemp("", "confine-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	// The binary lies in a folder of root's.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/fd/3", "-test.run", name, "-test.v")
	cmd.ExtraFiles = []*os.File{self}
	cmd.Dir = dir
	cmd.Env = []string{"CONFINE_TEST_USER=nobody", "TMPDIR=" + dir, "PATH=" + os.Getenv("PATH"), secret}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Errorf("as user %d: %v\n%s", nobody, err, out)
	}
}

// prepare makes what is worth reaching, and returns a check that the parent
// is as it was.
func prepare(t *testing.T) (to target, check func()) {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	to = target{
		Room:    Room{Dir: filepath.Join(dir, "room"), Limits: Limits{Memory: 1 << 40, File: 1 << 20, CPU: time.Minute, Files: 64}},
		Parent:  os.Getpid(),
		Secret:  filepath.Join(dir, "secret"),
		Blob:    filepath.Join(dir, "blob"),
		Socket:  filepath.Join(dir, "s"),
		Program: "/bin/true",
	}
	for name, mode := range map[string]os.FileMode{to.Secret: 0o600, to.Blob: 0o644} {
		if err := os.WriteFile(name, []byte("secret"), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(to.Room.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tcp.Close() })
	to.TCP = tcp.Addr().String()
	socket, err := net.Listen("unix", to.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	if to.Leaked, err = unix.FcntlInt(0, unix.F_DUPFD, 50); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(to.Leaked) })
	if err := Hide(); err != nil {
		t.Fatal(err)
	}
	return to, func() {
		if b, err := os.ReadFile(to.Blob); err != nil || string(b) != "secret" {
			t.Errorf("the blob is %q, %v", b, err)
		}
	}
}

// run starts the child and returns what it found. It lives as long as the test.
func (to target) run(t *testing.T, mode string) (found result, pid int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = []string{"CONFINE_TEST=" + mode}
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
	})
	if err := json.NewEncoder(stdin).Encode(to); err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(stdout).Decode(&found); err != nil {
		t.Fatal(err)
	}
	return found, cmd.Process.Pid
}

func statusOf(t *testing.T, pid int, name string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(rest)
		}
	}
	t.Fatalf("/proc/%d/status has no %s", pid, name)
	return ""
}

// A program that is not ours has its folder, what it is made of, and one port.
func TestProgram(t *testing.T) {
	if os.Getenv("CONFINE_TEST_USER") == "" && os.Geteuid() == 0 {
		t.Run("ordinary user", func(t *testing.T) { again(t, "^TestProgram$") })
	}
	t.Setenv("PACKBASE_TOKEN", "secret")
	to, check := prepare(t)
	defer check()
	_, port, err := net.SplitHostPort(to.TCP)
	if err != nil {
		t.Fatal(err)
	}
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	_, otherPort, err := net.SplitHostPort(other.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	start := func(ctx context.Context, name string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, "/proc/self/exe")
		cmd.Env = []string{"CONFINE_TEST=" + name}
		return cmd
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	room := to.Room
	room.Port, room.Read = uint16(n), []string{"/bin", "/usr", "/lib", "/lib64"}
	room.Limits.Processes = 50
	for _, tt := range []struct {
		script string
		works  bool
	}{
		{"echo a > file && cat file", true},
		{"exec 3<>/dev/tcp/127.0.0.1/" + port, true},
		{"test $(env | grep -cv -e ^PWD= -e ^SHLVL= -e ^_=) = 1 && test $NAME = value", true},
		{"test $(ls /proc/$$/fd | wc -l) -le 4", true},
		{"exec 3<>/dev/tcp/127.0.0.1/" + otherPort, false},
		{"exec 3<>/dev/udp/127.0.0.1/" + port, false},
		{"cat " + to.Secret, false},
		{"cat ../secret", false},
		{"ls " + filepath.Dir(to.Secret), false},
		{"echo x >> " + to.Blob, false},
		{"echo x > " + to.Blob + ".new", false},
		{"cat /proc/" + strconv.Itoa(to.Parent) + "/environ", false},
		{"cat /etc/passwd", false},
		{"setsid true; exit $?", false}, // or it would outlive the program
		{"perl -e 'exit !setpgrp'; exit $?", false},
		{"kill -URG " + strconv.Itoa(to.Parent), false},
		{"printf %2000000s x > large", false},
		{"x=x; for i in {1..22}; do x=$x$x; done; sleep 0.5", true},
		{"x=x; for i in {1..28}; do x=$x$x; done; sleep 60", false},
		{"trap true PIPE; while :; do echo for ever; done 2>/dev/null", false},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		out, err := Program{Room: room, Path: "/bin/bash", Args: []string{"-c", tt.script}, Env: []string{"NAME=value"}, Resident: 100 << 20}.Output(ctx, start, 1000)
		if (err == nil) != tt.works || ctx.Err() != nil {
			t.Errorf("%s: %v, want that it works: %v; it says\n%.300s", tt.script, err, tt.works, out)
		}
		if len(out) > 1000 {
			t.Errorf("%s: %d bytes, want 1000 at most", tt.script, len(out))
		}
		cancel()
	}
}

// A program reaches no other process, whoever that is of, and leaves nothing behind. Landlock alone would not do: it keeps
// signals in since Linux 6.12, and knows nothing of the rest.
func TestProgramReaches(t *testing.T) {
	if os.Getenv("CONFINE_TEST_USER") == "" && os.Geteuid() == 0 {
		t.Run("ordinary user", func(t *testing.T) { again(t, "^TestProgramReaches$") })
	}
	to, _ := prepare(t)
	for name, try := range reaches(os.Getpid(), to.TCP) {
		if err := try(); err != nil && name != "namespace" {
			t.Errorf("%s: %v, want that it works without walls", name, err)
		}
	}
	bin := filepath.Join(filepath.Dir(to.Room.Dir), "bin")
	path := filepath.Join(bin, "program")
	self, err := os.ReadFile("/proc/self/exe")
	if err = errors.Join(err, os.Mkdir(bin, 0o755), os.WriteFile(path, self, 0o755)); err != nil {
		t.Fatal(err)
	}
	start := func(ctx context.Context, name string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, "/proc/self/exe")
		cmd.Env = []string{"CONFINE_TEST=" + name}
		return cmd
	}
	to.Room.Read = []string{bin, "/usr", "/lib", "/lib64"}
	to.Room.Port = 1
	out, err := Program{Room: to.Room, Path: path, Env: []string{"CONFINE_TEST=program", "CONFINE_TEST_PARENT=" + strconv.Itoa(os.Getpid()), "CONFINE_TEST_TCP=" + to.TCP}}.Output(t.Context(), start, 1000)
	if err != nil || out != "" {
		t.Errorf("%v, the program may\n%swant nothing", err, out)
	}
}
