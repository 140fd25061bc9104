package engines

import (
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
	"strings"
	"syscall"
)

// newRedis prepares the engine whose data is in dir/redis.
func newRedis(dir string, ephemeral bool, log *slog.Logger) (*engine, error) {
	program, err := Redis()
	if err != nil {
		return nil, err
	}
	home := filepath.Join(dir, "redis")
	account, err := makeHome(home, "redis", "valkey", "nobody")
	if err != nil {
		return nil, fmt.Errorf("make folder of redis: %w", err)
	}
	sockets, err := account.socketDir(home, "redis.sock")
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(sockets, "redis.sock")
	appendOnly := "yes"
	if ephemeral {
		appendOnly = "no"
	}
	e := newEngine("redis", home, account, log)
	e.quit = syscall.SIGTERM // as SHUTDOWN
	e.url = (&url.URL{Scheme: "unix", Path: socket}).String()
	argv := []string{program, "--port", "0", "--unixsocket", socket, "--dir", home, "--save", "",
		"--appendonly", appendOnly, "--appendfsync", "everysec", "--maxmemory-policy", "noeviction"}
	e.serve = func(ctx context.Context) error {
		err := e.run(ctx, argv...)
		if ctx.Err() == nil && e.setAsideBroken(ctx) {
			err = e.run(ctx, argv...)
		}
		return err
	}
	e.ping = func(ctx context.Context) error { return pingRedis(ctx, socket) }
	return e, nil
}

// setAsideBroken moves the append-only files away if Redis has just ended
// because it cannot read them, as after a power cut. What they held can be
// lost: the reconciler restores the queue from the rows of the jobs.
func (e *engine) setAsideBroken(ctx context.Context) bool {
	tail := e.logTail()
	last := tail[strings.LastIndexByte(tail, '\n')+1:]
	if !strings.Contains(last, "redis-check-aof") && !strings.Contains(last, "AOF manifest") {
		return false
	}
	files := filepath.Join(e.home, "appendonlydir")
	err := errors.Join(os.RemoveAll(files+".broken"), os.Rename(files, files+".broken"))
	e.log.ErrorContext(ctx, "append-only files unreadable, starting empty", "reason", last, "kept", files+".broken", "err", err)
	return err == nil
}

// Redis returns the program that Start runs. Its error says what to install.
func Redis() (program string, err error) {
	for _, name := range []string{"redis-server", "valkey-server"} {
		for _, dir := range []string{"", "/usr/bin", "/usr/local/bin", "/usr/sbin"} {
			if program, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
				return filepath.Abs(program)
			}
		}
	}
	return "", errors.New("find redis: no redis-server in PATH: apt-get install redis-server")
}

func pingRedis(ctx context.Context, socket string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(conn, "PING\r\n"); err != nil {
		return err
	}
	answer := make([]byte, len("+PONG"))
	if _, err := io.ReadFull(conn, answer); err != nil {
		return err
	}
	if string(answer) != "+PONG" { // "-LOADING", for one
		return fmt.Errorf("ping redis: got %q", answer)
	}
	return nil
}
