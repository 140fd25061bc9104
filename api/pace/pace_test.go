package pace

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// limits are those of the tests: 128 KiB in two seconds. Sockets hold more.
var limits = Limits{Rate: 64 << 10, Window: 2 * time.Second}

const size = 24 << 20

// serve serves h at limits and tells on the channel how each request ended.
func serve(t *testing.T, h func(w http.ResponseWriter, r *http.Request) error) (addr string, ended chan error) {
	t.Helper()
	ended = make(chan error, 1)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = limits.Body(w, r)
		ended <- h(limits.Writer(w, r), r)
	}))
	srv.Listener = Listener(srv.Listener)
	srv.Config.ConnContext = Conn
	srv.Config.WriteTimeout = limits.Window
	srv.Config.ReadTimeout = limits.Window
	srv.Start()
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String(), ended
}

// dial opens a connection that ends with the test.
func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// answers are the ways to send a large answer.
func answers(t *testing.T) map[string]func(w http.ResponseWriter, r *http.Request) error {
	file := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(file, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	return map[string]func(w http.ResponseWriter, r *http.Request) error{
		"a file": func(w http.ResponseWriter, _ *http.Request) error {
			f, err := os.Open(file)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = io.CopyN(w, f, size)
			return err
		},
		"one write": func(w http.ResponseWriter, _ *http.Request) error {
			_, err := w.Write(make([]byte, size))
			return err
		},
		"many writes": func(w http.ResponseWriter, _ *http.Request) error {
			for range size >> 16 {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// A client moves so many bytes a second, and is cut for that or not.
type client struct {
	kind string
	rate int
	ok   bool
}

var clients = []client{
	{"stands still", 0, false},
	{"trickles", 4 << 10, false},
	{"is slow", 160 << 10, true},
	{"is quick", size, true},
}

// drip has move called with what the client moves each tick, until ctx ends.
func (c client) drip(ctx context.Context, move func(n int64) error) {
	const ticks = 10 // a second
	for move(int64(c.rate/ticks)) == nil {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second / ticks):
		}
	}
}

// judge waits for the end of the client's request, or for some windows.
func (c client) judge(t *testing.T, name string, ended chan error) {
	select {
	case err := <-ended:
		if cut := errors.Is(err, os.ErrDeadlineExceeded); cut == c.ok || !cut && err != nil {
			t.Errorf("%s, which %s: ended with %v", name, c.kind, err)
		}
	case <-time.After(6 * limits.Window):
		if !c.ok {
			t.Errorf("%s, which %s, is not cut", name, c.kind)
		}
	}
}

// Who reads a little is cut, who reads enough is not, however long it takes;
// nor is who has to wait for the server.
func TestReaders(t *testing.T) {
	t.Parallel()
	var all sync.WaitGroup
	defer all.Wait()
	for name, answer := range answers(t) {
		for _, c := range clients {
			addr, ended := serve(t, func(w http.ResponseWriter, r *http.Request) error {
				time.Sleep(limits.Window * 3 / 2) // a server that takes its time
				return answer(w, r)
			})
			conn := dial(t, addr)
			fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			ctx, stop := context.WithCancel(t.Context())
			go c.drip(ctx, func(n int64) error {
				_, err := io.CopyN(io.Discard, conn, n)
				return err
			})
			all.Go(func() {
				defer stop()
				c.judge(t, name, ended)
			})
		}
	}
}

// The same for a request's body.
func TestSenders(t *testing.T) {
	t.Parallel()
	var all sync.WaitGroup
	defer all.Wait()
	for _, c := range clients {
		addr, ended := serve(t, func(w http.ResponseWriter, r *http.Request) error {
			_, err := io.Copy(io.Discard, r.Body)
			if err == nil {
				time.Sleep(limits.Window * 3 / 2) // what comes after the body is no matter of the client's
				err = r.Context().Err()
			}
			return err
		})
		conn := dial(t, addr)
		const length = 1 << 20
		fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", length)
		body := bytes.NewReader(make([]byte, length))
		ctx, stop := context.WithCancel(t.Context())
		go c.drip(ctx, func(n int64) error {
			_, err := io.CopyN(conn, body, n)
			return err
		})
		all.Go(func() {
			defer stop()
			c.judge(t, "a body", ended)
		})
	}
}

// A header and what is written after it leave together, also if they are more than fits into net/http's buffer: for a
// client that is one packet, not two.
func TestTogether(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	for _, size := range []int{0, 100, 512, bufferSize, 20_000, 25_000} {
		if err := os.WriteFile(file, bytes.Repeat([]byte("y"), size), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, header := range []int{0, 3000, 5000} { // the last does not fit into it
			addr, ended := serve(t, func(w http.ResponseWriter, r *http.Request) error {
				w.Header().Set("Content-Length", strconv.Itoa(size))
				w.Header().Set("Filler", strings.Repeat("x", header))
				if r.URL.Path == "/write" {
					_, err := w.Write(bytes.Repeat([]byte("y"), size))
					return err
				}
				f, err := os.Open(file)
				if err != nil {
					return err
				}
				defer f.Close()
				_, err = io.Copy(w, f)
				return err
			})
			conn := dial(t, addr)
			for _, request := range []string{"GET /write", "GET /file", "HEAD /file", "GET /file", "HEAD /write", "GET /write"} { // on one connection
				before := packets(t, conn)
				fmt.Fprint(conn, request+" HTTP/1.1\r\nHost: x\r\n\r\n")
				method, _, _ := strings.Cut(request, " ")
				resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
				if err != nil {
					t.Fatal(err)
				}
				want := strings.Repeat("y", size)
				if method == http.MethodHead {
					want = ""
				}
				body, err := io.ReadAll(resp.Body)
				if err != nil || string(body) != want || len(resp.Header.Get("Filler")) != header {
					t.Errorf("%s, %d bytes: %d bytes, %v, headers %v", request, size, len(body), err, resp.Header)
				}
				if err := <-ended; err != nil {
					t.Error(err)
				}
				if n := packets(t, conn) - before; n > 1 && header < bufferSize {
					t.Errorf("%s, %d bytes after a header of %d: %d packets, want 1", request, size, header, n)
				}
			}
		}
	}
}

// packets returns how many packets with data came.
func packets(t *testing.T, conn net.Conn) (n uint32) {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(raw.Control(func(fd uintptr) {
		var info *unix.TCPInfo
		if info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n = info.Data_segs_in
		}
	}), err)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
