package engines

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// rootVariable makes the test binary a small packbase up: see holdEngines.
const rootVariable = "ENGINES_TEST_ROOT"

func TestMain(m *testing.M) {
	if root := os.Getenv(rootVariable); root != "" {
		if err := holdEngines(root); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// holdEngines runs the engines of root until standard input ends.
func holdEngines(root string) error {
	e, err := Start(context.Background(), root, Options{}, discard)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	if err != nil {
		return err
	}
	return e.Stop(context.Background())
}

var discard = slog.New(slog.DiscardHandler)

func TestStart(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	began := time.Now()
	e := start(t, root, Options{})
	t.Logf("first start took %v", time.Since(began))
	writeMark(t, e, "first")
	for _, engine := range e.all() {
		info, err := os.Stat(engine.home)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != 0o700 {
			t.Errorf("%s: mode = %o, want 700", engine.home, got)
		}
		pid := pidOf(t, engine)
		if group, err := syscall.Getpgid(pid); err != nil || group != pid {
			t.Errorf("process group of %s = %d, %v, want its own, %d", engine.name, group, err, pid)
		}
	}
	if url, ok := Running(root); url != e.DatabaseURL() || !ok {
		t.Errorf("Running = %q, %t, want %q, true", url, ok, e.DatabaseURL())
	}
	stop(t, e)
	if url, ok := Running(root); ok {
		t.Errorf("Running after Stop = %q, true, want false", url)
	}
	if got := postmaster(filepath.Join(e.postgres.home, "data")); got != "" {
		t.Errorf("postmaster.pid after a clean stop = %q, want none", got)
	}

	e = start(t, root, Options{})
	checkMark(t, e, "first")
}

func TestStartOne(t *testing.T) {
	t.Parallel()
	e := start(t, newRoot(t), Options{NoPostgres: true, Ephemeral: true})
	if got := e.DatabaseURL(); got != "" {
		t.Errorf("DatabaseURL = %q, want none", got)
	}
	if got := redis(t, e, "PING"); got != "+PONG" {
		t.Errorf("PING = %q, want +PONG", got)
	}
}

func TestStartTwice(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	start(t, root, Options{NoPostgres: true, Ephemeral: true})
	_, err := Start(t.Context(), root, Options{}, discard)
	want := fmt.Sprintf("lock %s: in use by process %d", filepath.Join(root, "engines"), os.Getpid())
	if err == nil || err.Error() != want {
		t.Errorf("second Start: err = %v, want %s", err, want)
	}
}

func TestStartCancelled(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(ctx, root, Options{Ephemeral: true}, discard); !errors.Is(err, context.Canceled) {
		t.Errorf("Start: err = %v, want %v", err, context.Canceled)
	}
	start(t, root, Options{Ephemeral: true}) // nothing is in the way
}

func TestLockRoot(t *testing.T) {
	t.Parallel()
	root := filepath.Join(newRoot(t), "a", "b")
	unlock, err := LockRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("lock %s: in use by process %d", root, os.Getpid())
	if _, err := LockRoot(root); err == nil || err.Error() != want {
		t.Errorf("second LockRoot: err = %v, want %s", err, want)
	}
	for range 2 { // the second time does nothing
		if err := unlock(); err != nil {
			t.Fatal(err)
		}
	}
	unlock, err = LockRoot(root)
	if err != nil {
		t.Fatalf("LockRoot after unlock: %v", err)
	}
	if err := unlock(); err != nil {
		t.Error(err)
	}
}

func TestStartAfterCrash(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		crash func(t *testing.T, parent *exec.Cmd, pids []int)
		alone bool // the engines end without our help
	}{
		{"parent killed", func(t *testing.T, parent *exec.Cmd, pids []int) {
			kill(t, parent.Process.Pid, syscall.SIGKILL)
		}, true},
		{"parent killed, restarted at once", func(t *testing.T, parent *exec.Cmd, pids []int) {
			kill(t, parent.Process.Pid, syscall.SIGKILL)
		}, false},
		{"all killed", func(t *testing.T, parent *exec.Cmd, pids []int) {
			for _, pid := range append(pids, parent.Process.Pid) {
				kill(t, pid, syscall.SIGKILL)
			}
		}, true},
		{"parent killed, engines frozen for a while", func(t *testing.T, parent *exec.Cmd, pids []int) {
			for _, pid := range pids {
				kill(t, pid, syscall.SIGSTOP)
			}
			kill(t, parent.Process.Pid, syscall.SIGKILL)
			thaw := time.AfterFunc(time.Second, func() {
				for _, pid := range pids {
					_ = syscall.Kill(pid, syscall.SIGCONT)
				}
			})
			t.Cleanup(func() { thaw.Stop() })
		}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			root := newRoot(t)
			parent, e := hold(t, root, nil)
			writeMark(t, e, "crash")
			pids := []int{pidOf(t, e.postgres), pidOf(t, e.redis)}
			tt.crash(t, parent, pids)
			_ = parent.Wait() // killed
			if tt.alone {
				for _, engine := range e.all() {
					eventually(t, func() error {
						unlock, err := lock(engine.file("pid"))
						if err != nil {
							return fmt.Errorf("%s still runs: %w", engine.name, err)
						}
						return unlock()
					})
				}
			}

			e = start(t, root, Options{})
			checkMark(t, e, "crash")
			for i, engine := range e.all() {
				if got := pidOf(t, engine); got == pids[i] {
					t.Errorf("%s: pid = %d, want a new process", engine.name, got)
				}
			}
		})
	}
}

// A postmaster.pid whose pid now belongs to another process of the same user
// would keep Postgres from starting.
func TestStartWithRecycledPid(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	e := start(t, root, Options{NoRedis: true, Ephemeral: true})
	stop(t, e)
	other := exec.Command("sleep", "60")
	other.SysProcAttr = e.postgres.account.attr()
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer other.Wait()
	defer other.Process.Kill()

	data := filepath.Join(e.postgres.home, "data")
	stale := fmt.Sprintf("%d\n%s\n1700000000\n5432\n", other.Process.Pid, data)
	if err := os.WriteFile(filepath.Join(data, "postmaster.pid"), []byte(stale), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(data, "postmaster.pid"), int(e.postgres.account.uid), int(e.postgres.account.gid)); err != nil {
		t.Fatal(err)
	}
	start(t, root, Options{NoRedis: true, Ephemeral: true})
}

// A cluster that somebody runs by hand must not get a second server.
func TestStartBesideForeignPostgres(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	e := start(t, root, Options{NoRedis: true, Ephemeral: true})
	stop(t, e)
	bin, err := findPostgres(filepath.Join(e.postgres.home, "data"))
	if err != nil {
		t.Fatal(err)
	}
	foreign := exec.Command(filepath.Join(bin, "postgres"), "-D", filepath.Join(e.postgres.home, "data"),
		"-c", "listen_addresses=", "-c", "unix_socket_directories="+e.postgres.home)
	foreign.SysProcAttr = e.postgres.account.attr()
	if err := foreign.Start(); err != nil {
		t.Fatal(err)
	}
	defer foreign.Wait()
	defer foreign.Process.Signal(syscall.SIGINT)
	eventually(t, func() error {
		conn, err := pgconn.Connect(t.Context(), e.DatabaseURL())
		if err != nil {
			return err
		}
		return conn.Close(t.Context())
	})

	_, err = Start(t.Context(), root, Options{NoRedis: true}, discard)
	if err == nil || !strings.Contains(err.Error(), "already") && !strings.Contains(err.Error(), "in use") {
		t.Errorf("Start: err = %v, want one that says that the cluster is in use", err)
	}
}

func TestEngineKilled(t *testing.T) {
	t.Parallel()
	e := start(t, newRoot(t), Options{})
	writeMark(t, e, "killed")
	for _, engine := range e.all() {
		old := pidOf(t, engine)
		kill(t, old, syscall.SIGKILL)
		eventually(t, func() error {
			if pidOf(t, engine) == old {
				return fmt.Errorf("%s not restarted", engine.name)
			}
			return engine.ping(t.Context())
		})
	}
	checkMark(t, e, "killed")
}

func TestInterruptedFirstStart(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	e := start(t, root, Options{NoRedis: true, Ephemeral: true})
	stop(t, e)
	data := filepath.Join(e.postgres.home, "data")
	if err := os.Rename(data, data+".new"); err != nil { // killed before the rename
		t.Fatal(err)
	}
	start(t, root, Options{NoRedis: true, Ephemeral: true})
}

func TestOddRoot(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, path string
		elsewhere  bool // the sockets are not below the root
	}{
		{"deep", strings.Repeat("deep/", 30), true},
		{"comma", "a,b", true},
		{"signs", `a "b" 'c' %41 ü?#&=`, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			root := filepath.Join(newRoot(t), tt.path)
			e := start(t, root, Options{Ephemeral: true})
			writeMark(t, e, tt.name)
			checkMark(t, e, tt.name)
			for _, engine := range e.all() {
				dir, err := engine.account.socketDir(engine.home, ".s.PGSQL.5432")
				if err != nil {
					t.Fatal(err)
				}
				if dir == engine.home == tt.elsewhere {
					t.Errorf("socket of %s is in %s, want it elsewhere: %t", engine.name, dir, tt.elsewhere)
				}
				if tt.elsewhere {
					t.Cleanup(func() { os.RemoveAll(dir) })
				}
			}
		})
	}
}

// As below /root: the user of the engines may not pass.
func TestUnreachableRoot(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	closed := filepath.Join(newRoot(t), "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	e := start(t, filepath.Join(closed, "data"), Options{})
	writeMark(t, e, "closed")
	checkMark(t, e, "closed")
	for _, engine := range e.all() {
		if len(engine.account.caps) == 0 {
			t.Errorf("%s: no capability, want one to pass %s", engine.name, closed)
		}
	}
	if open := start(t, newRoot(t), Options{NoPostgres: true}); len(open.redis.account.caps) != 0 {
		t.Errorf("capabilities in an open folder = %v, want none", open.redis.account.caps)
	}
}

func TestUnprivileged(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("the other tests run unprivileged already")
	}
	nobody, err := firstAccount("nobody")
	if err != nil {
		t.Fatal(err)
	}
	root := newRoot(t)
	if err := os.Chown(root, int(nobody.uid), int(nobody.gid)); err != nil {
		t.Fatal(err)
	}
	parent, e := hold(t, root, &nobody)
	writeMark(t, e, "nobody")
	kill(t, parent.Process.Pid, syscall.SIGKILL)
	_ = parent.Wait()

	// Root takes the folder over and leaves it to its owner.
	e = start(t, root, Options{})
	checkMark(t, e, "nobody")
	for _, engine := range e.all() {
		if engine.account.uid != nobody.uid {
			t.Errorf("%s runs as %d, want nobody, %d", engine.name, engine.account.uid, nobody.uid)
		}
	}
}

func TestBrokenAppendOnlyFile(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	opts := Options{NoPostgres: true}
	e := start(t, root, opts)
	redis(t, e, "SET mark lost")
	stop(t, e)
	files, err := filepath.Glob(filepath.Join(e.redis.home, "appendonlydir", "*.incr.aof"))
	if err != nil || len(files) != 1 {
		t.Fatalf("append-only files = %q, %v, want one", files, err)
	}
	f, err := os.OpenFile(files[0], os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(make([]byte, 100)); err != nil { // what a power cut can leave
		t.Fatal(err)
	}
	f.Close()

	e = start(t, root, opts)
	if got := redis(t, e, "DBSIZE"); got != ":0" {
		t.Errorf("DBSIZE = %q, want :0", got)
	}
	if _, err := os.Stat(filepath.Join(e.redis.home, "appendonlydir.broken")); err != nil {
		t.Error(err)
	}
}

func TestOtherVersion(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	data := filepath.Join(root, "engines/postgres/data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte("9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Start(t.Context(), root, Options{}, discard)
	if err == nil || !strings.Contains(err.Error(), "needs Postgres 9 and there is only") {
		t.Errorf("Start: err = %v, want one that says which version is needed", err)
	}
	if _, err := os.Stat(filepath.Join(root, "engines/redis")); err == nil {
		t.Error("redis was started, want nothing started")
	}
}

func TestFailedStartShowsLog(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	e := start(t, root, Options{NoRedis: true, Ephemeral: true})
	stop(t, e)
	control := filepath.Join(e.postgres.home, "data/global/pg_control")
	if err := os.Remove(control); err != nil {
		t.Fatal(err)
	}
	_, err := Start(t.Context(), root, Options{}, discard)
	if err == nil || !strings.Contains(err.Error(), "pg_control") {
		t.Errorf("Start: err = %v, want the log's complaint about pg_control", err)
	}
}

func TestTrimLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	e := &engine{name: "redis", home: filepath.Join(dir, "redis")}
	if err := e.trimLog(); err != nil {
		t.Errorf("no log: %v", err)
	}
	for _, size := range []int64{maxLog, maxLog + 1} {
		if err := os.WriteFile(e.file("log"), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := e.trimLog(); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]int64{"log": 0, "log.1": maxLog + 1} {
		info, err := os.Stat(e.file(name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() != want {
			t.Errorf("size of %s = %d, want %d", name, info.Size(), want)
		}
	}
}

// newRoot returns a folder that every user can reach, unlike t.TempDir's.
func newRoot(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "engines-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func start(t *testing.T, root string, opts Options) *Engines {
	t.Helper()
	e, err := Start(t.Context(), root, opts, discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = e.Stop(ctx) // or the test has
	})
	return e
}

func stop(t *testing.T, e *Engines) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := e.Stop(ctx); err != nil {
		t.Fatal(err)
	}
}

// hold runs the engines of root in a process of its own, as user a if given.
// It returns that process, and the engines as far as a client needs them.
func hold(t *testing.T, root string, a *account) (*exec.Cmd, *Engines) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	if a != nil {
		cmd.Path = copyProgram(t, program)
		cmd.SysProcAttr = a.attr()
	}
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), rootVariable + "=" + root}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait() // most were killed
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("holder printed %q, %v, want ready", line, err)
	}
	postgres := filepath.Join(root, "engines/postgres")
	redis := filepath.Join(root, "engines/redis")
	return cmd, &Engines{
		postgres: &engine{name: "postgres", home: postgres, url: "postgres://packbase@/postgres?host=" + postgres},
		redis:    &engine{name: "redis", home: redis, url: "unix://" + redis + "/redis.sock"},
	}
}

// copyProgram copies a program to where every user can run it.
func copyProgram(t *testing.T, program string) string {
	t.Helper()
	b, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(newRoot(t), "holder")
	// No other test may start a program while this one is open for writing: its
	// child would inherit that, and Linux executes no such file.
	syscall.ForkLock.RLock()
	err = os.WriteFile(copied, b, 0o755)
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	return copied
}

func pidOf(t *testing.T, e *engine) int {
	t.Helper()
	pid, _ := strconv.Atoi(e.pid()) // 0 while it is being written
	return pid
}

func kill(t *testing.T, pid int, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatal(err)
	}
}

// writeMark makes mark the content of both engines.
func writeMark(t *testing.T, e *Engines, mark string) {
	t.Helper()
	query(t, e, "CREATE TABLE IF NOT EXISTS marks (mark text)")
	query(t, e, "DELETE FROM marks")
	query(t, e, "INSERT INTO marks VALUES ('"+mark+"')")
	if got := redis(t, e, "SET mark "+mark); got != "+OK" {
		t.Fatalf("SET = %q, want +OK", got)
	}
}

func checkMark(t *testing.T, e *Engines, want string) {
	t.Helper()
	if got := query(t, e, "SELECT mark FROM marks"); got != want {
		t.Errorf("postgres: mark = %q, want %q", got, want)
	}
	if got := redis(t, e, "STRLEN mark"); got != ":"+strconv.Itoa(len(want)) {
		t.Errorf("redis: length of mark = %q, want :%d", got, len(want))
	}
}

// query returns the first value of the first row, or "".
func query(t *testing.T, e *Engines, sql string) string {
	t.Helper()
	conn, err := pgconn.Connect(t.Context(), e.DatabaseURL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	result := conn.ExecParams(t.Context(), sql, nil, nil, nil, nil).Read()
	if result.Err != nil {
		t.Fatal(result.Err)
	}
	if len(result.Rows) == 0 {
		return ""
	}
	return string(result.Rows[0][0])
}

// redis sends an inline command and returns the first line of the answer.
func redis(t *testing.T, e *Engines, command string) string {
	t.Helper()
	u, err := url.Parse(e.RedisURL())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", u.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "%s\r\n", command)
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// eventually calls f until it succeeds.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
