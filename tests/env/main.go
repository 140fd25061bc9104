// Command env runs a test command in the environment that the tests want:
//
//	go run ./tests/env [-zig VERSION,VERSION] -- go test ./...
//
// It starts a private Postgres and Redis, unpacks the Zig versions, sets
//
//	PACKBASE_TEST_DATABASE_URL  Postgres, to be filled at will
//	PACKBASE_TEST_REDIS_URL     Redis, likewise
//	PACKBASE_TEST_ZIGS          paths of the Zig programs, separated by colons, in the order asked for
//
// runs the command, removes everything but the Zig versions, and exits with
// the code of the command. When it is told to end it tells the command first.
//
// Zig comes from the ziglang wheel, so that a machine needs no other source
// than its Python package index, and is kept for the next run in
// $PACKBASE_CACHE/zig/VERSION, else in $XDG_CACHE_HOME/packbase or
// ~/.cache/packbase.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/francescobianco/packbase/storage/engines"
)

func main() {
	zigs := flag.String("zig", "", "Zig `versions` to test with, separated by commas; none without it")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: env [-zig VERSIONS] -- COMMAND [ARGUMENT...]")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	// Twice interrupted, we go at once; the engines end with us.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop)
	code, err := run(ctx, versions(*zigs), flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "env:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

// versions splits a list at commas and blanks.
func versions(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}

// run runs the command and returns its exit code, 128+signal if a signal
// ended it.
func run(ctx context.Context, zigs, command []string) (code int, err error) {
	paths, err := zigPrograms(ctx, zigs)
	if err != nil {
		return 0, err
	}
	root, err := os.MkdirTemp("", "packbase-tests-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(root)) }()
	if err := os.Chmod(root, 0o755); err != nil { // for the users of the engines
		return 0, err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	private, err := engines.Start(ctx, root, engines.Options{Ephemeral: true}, log)
	if err != nil {
		return 0, err
	}
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		err = errors.Join(err, private.Stop(stop))
	}()
	return runCommand(ctx, command,
		"PACKBASE_TEST_DATABASE_URL="+private.DatabaseURL(),
		"PACKBASE_TEST_REDIS_URL="+private.RedisURL(),
		"PACKBASE_TEST_ZIGS="+strings.Join(paths, ":"))
}

// runCommand runs the command with more environment and our own streams.
func runCommand(ctx context.Context, command []string, env ...string) (code int, err error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// A terminal's Ctrl-C reaches all of the command. Without a terminal we see
	// to that: go test leaves its children running when it is told to end.
	_, notTerminal := unix.IoctlGetTermios(0, unix.TCGETS)
	group := notTerminal != nil
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: group}
	cmd.Cancel = func() error {
		if group {
			return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		}
		return cmd.Process.Signal(syscall.SIGTERM)
	}
	cmd.WaitDelay = 30 * time.Second
	err = cmd.Run()
	exit, ok := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		return 0, nil
	case !ok:
		return 0, fmt.Errorf("run %s: %w", command[0], err)
	case exit.Sys().(syscall.WaitStatus).Signaled():
		return 128 + int(exit.Sys().(syscall.WaitStatus).Signal()), nil
	}
	return exit.ExitCode(), nil
}
