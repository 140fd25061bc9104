// Package harness runs packbase as an operator would: real processes, a real
// Postgres and Redis, real Git upstreams and real Zig, all on loopback.
//
// A test package that uses it has
//
//	func TestMain(m *testing.M) { harness.Main(m) }
//
// and then, in any test, also in parallel ones:
//
//	up := harness.NewUpstream(t)
//	hello := up.Repo("hello")
//	hello.Tag("v1.0.0", hello.Commit(harness.Files{"a.zig": "", "run.sh*": "#!/bin/sh\n", "link@": "a.zig"}))
//	s := harness.Start(t)
//	s.Fetch(hello.URL)
//	fmt.Println(s.Info("hello").LatestTag)
//
// Everything is removed when the test ends. What the processes logged is
// shown if it failed.
package harness

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// binaryVariable names the packbase program to test. Main sets it.
const binaryVariable = "PACKBASE_TEST_BINARY"

// Main builds packbase and runs the tests of a package, and then what comes
// after them. PACKBASE_TEST_BINARY names a program to test instead of one that
// is built.
func Main(m *testing.M, after ...func()) {
	code, err := run(m)
	for _, do := range after {
		do()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "harness:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if os.Getenv(binaryVariable) == "" {
		dir, err := os.MkdirTemp("", "packbase-bin-")
		if err != nil {
			return 0, err
		}
		defer os.RemoveAll(dir)
		if err := os.Chmod(dir, 0o755); err != nil { // for tests that run it as another user
			return 0, err
		}
		binary := filepath.Join(dir, "packbase")
		if err := build(binary); err != nil {
			return 0, err
		}
		if err := os.Setenv(binaryVariable, binary); err != nil {
			return 0, err
		}
	}
	return m.Run(), nil
}

// build builds packbase, with the race detector if the tests have it.
func build(binary string) error {
	args := []string{"build", "-o", binary}
	if RaceEnabled {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, "github.com/francescobianco/packbase/cmd/packbase")...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("build packbase: %w\n%s", err, out)
	}
	return nil
}

// Binary returns the path of the packbase program.
func Binary(t testing.TB) string {
	t.Helper()
	binary := os.Getenv(binaryVariable)
	if binary == "" {
		t.Fatal("no packbase program: the package needs a TestMain that calls harness.Main")
	}
	return binary
}

// program returns the packbase program that the environment names, else the
// one that is tested.
func program(t testing.TB, env []string) string {
	if binary := valueOf(env, binaryVariable); binary != "" {
		return binary
	}
	return Binary(t)
}

// timeout is how long the harness waits for what takes a moment: much longer
// than it should, for machines that are busy.
const timeout = 3 * time.Minute

// Eventually polls until ok holds, and fails the test with what if it does
// not in some minutes.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(timeout)
	for wait := 5 * time.Millisecond; !ok(); wait = min(2*wait, 100*time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after %v still not: %s", timeout, what)
		}
		time.Sleep(wait)
	}
}

// FreePort returns a TCP port of loopback that nobody listens on, for this
// test alone. It is below those that the kernel gives to outgoing
// connections, so it stays free while what listened on it is started again.
func FreePort(t testing.TB) int {
	t.Helper()
	const lowest, above = 15000, 32000
	for range 1000 {
		port := lowest + rand.IntN(above-lowest)
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		// Other tests see by an abstract socket of that number that this one is
		// taken. We do not listen to find out: a child that is being started at
		// this moment would go on doing so for us.
		mark, err := net.Listen("unix", "@packbase-test-port-"+strconv.Itoa(port))
		if err != nil {
			continue
		}
		if conn, err := net.Dial("tcp", addr); err == nil {
			conn.Close()
			mark.Close()
			continue
		}
		t.Cleanup(func() { mark.Close() })
		return port
	}
	t.Fatalf("no free port from %d to %d", lowest, above)
	return 0
}

// notExist reports whether name is not there.
func notExist(name string) bool {
	_, err := os.Lstat(name)
	return errors.Is(err, os.ErrNotExist)
}
