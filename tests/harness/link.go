package harness

import (
	"io"
	"math"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A Link is a bad line to a server: each connection may be slow towards the
// client, and may be cut.
type Link struct {
	URL string // http://127.0.0.1:port, for the server's

	to    string
	rate  atomic.Int64
	cut   atomic.Int64
	left  atomic.Int64
	moved atomic.Int64
}

// NewLink returns a link to the server at url, as good as there is none. It
// ends with the test.
func NewLink(t testing.TB, url string) *Link {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &Link{URL: "http://" + ln.Addr().String(), to: strings.TrimPrefix(url, "http://")}
	l.left.Store(math.MaxInt64)
	var all sync.WaitGroup
	ended := make(chan struct{})
	all.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() { l.join(client, ended) })
		}
	})
	t.Cleanup(func() {
		close(ended)
		ln.Close()
		all.Wait()
	})
	return l
}

// Slow has each connection bring so many bytes a second from now on, 0 for as
// many as there are.
func (l *Link) Slow(rate int) { l.rate.Store(int64(rate)) }

// Cut has each connection end after so many bytes from now on, 0 for never.
func (l *Link) Cut(after int) { l.cut.Store(int64(after)) }

// Leave has all connections together bring so many bytes from now on, and not
// one more: then they end, and so do later ones.
func (l *Link) Leave(bytes int64) { l.left.Store(bytes) }

// Moved returns the bytes that clients were sent.
func (l *Link) Moved() int64 { return l.moved.Load() }

func (l *Link) join(client net.Conn, ended <-chan struct{}) {
	defer client.Close()
	server, err := net.Dial("tcp", l.to)
	if err != nil {
		return
	}
	// What waits on the way would make a slow line quick at first.
	_ = server.(*net.TCPConn).SetReadBuffer(64 << 10)
	done := make(chan struct{}, 2)
	go func() {
		_, _ = io.Copy(server, client)
		done <- struct{}{}
	}()
	go func() {
		l.pass(client, server)
		done <- struct{}{}
	}()
	select {
	case <-done:
	case <-ended:
	}
	client.Close()
	server.Close()
}

// pass moves the server's bytes.
func (l *Link) pass(client, server net.Conn) {
	const tick = 50 * time.Millisecond
	buf := make([]byte, 32<<10)
	for sent := int64(0); ; {
		part := int64(len(buf))
		if rate := l.rate.Load(); rate > 0 {
			part = min(part, max(1, rate*int64(tick)/int64(time.Second)))
			time.Sleep(time.Duration(part) * time.Second / time.Duration(rate))
		}
		n, err := server.Read(buf[:part])
		left := l.left.Add(-int64(n))
		n = max(0, n+int(min(left, 0)))
		sent += int64(n)
		l.moved.Add(int64(n))
		_, failed := client.Write(buf[:n])
		if cut := l.cut.Load(); err != nil || failed != nil || left < 0 || cut > 0 && sent >= cut {
			return
		}
	}
}
