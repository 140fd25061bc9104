package edges

import (
	"io"
	"net"
	"net/url"
	"strconv"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/francescobianco/packbase/storage/queue/queuetest"
)

// A link is the way to an engine: it can be cut, and it can freeze, as when
// the engine's machine has vanished and its packets with it.
type link struct {
	addr string // where clients dial

	network, to string // where the engine listens

	mu     sync.Mutex
	up     *sync.Cond
	state  string // "up", "down" or "frozen"
	conns  map[net.Conn]bool
	ln     net.Listener
	closed bool
}

// newLink returns a link to what listens at a network address, which is up.
func newLink(t testing.TB, network, to string) *link {
	t.Helper()
	l := &link{network: network, to: to, conns: map[net.Conn]bool{}, addr: "127.0.0.1:0"}
	l.up = sync.NewCond(&l.mu)
	l.set(t, "up")
	t.Cleanup(func() {
		l.mu.Lock()
		l.closed = true
		l.mu.Unlock()
		l.set(t, "down")
	})
	return l
}

// throughPostgres returns a link to the Postgres of a URL, and the URL by it.
func throughPostgres(t testing.TB, raw string) (*link, string) {
	t.Helper()
	cfg, err := pgx.ParseConfig(raw)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	network, addr := pgconn.NetworkAddress(cfg.Host, cfg.Port)
	l := newLink(t, network, addr)
	q := u.Query()
	q.Del("host")
	q.Del("port")
	u.Host, u.RawQuery = l.addr, q.Encode()
	return l, u.String()
}

// throughRedis returns a link to the Redis of a URL, and the URL by it.
func throughRedis(t testing.TB, raw string) (*link, string) {
	t.Helper()
	opt := queuetest.Client(t, raw).Options()
	l := newLink(t, opt.Network, opt.Addr)
	u := url.URL{Scheme: "redis", Host: l.addr, Path: strconv.Itoa(opt.DB)}
	if opt.Password != "" {
		u.User = url.UserPassword(opt.Username, opt.Password)
	}
	return l, u.String()
}

// set brings the link into a state.
func (l *link) set(t testing.TB, state string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if state == "down" {
		l.ln.Close()
		for c := range l.conns {
			c.Close()
		}
	} else if l.state == "" || l.state == "down" {
		ln, err := net.Listen("tcp", l.addr)
		if err != nil {
			t.Fatal(err)
		}
		l.ln, l.addr = ln, ln.Addr().String()
		go l.serve(ln)
	}
	l.state = state
	l.up.Broadcast()
}

func (l *link) serve(ln net.Listener) {
	for {
		in, err := ln.Accept()
		if err != nil {
			return
		}
		go l.join(in)
	}
}

func (l *link) join(in net.Conn) {
	defer in.Close()
	out, err := net.Dial(l.network, l.to)
	if err != nil {
		return
	}
	defer out.Close()
	l.mu.Lock()
	l.conns[in], l.conns[out] = true, true
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.conns, in)
		delete(l.conns, out)
		l.mu.Unlock()
	}()
	done := make(chan struct{}, 2)
	pump := func(to io.Writer, from io.Reader) {
		defer func() { done <- struct{}{} }()
		buf := make([]byte, 32<<10)
		for {
			n, err := from.Read(buf)
			l.wait()
			if n > 0 {
				if _, err := to.Write(buf[:n]); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}
	go pump(out, in)
	go pump(in, out)
	<-done
}

// wait returns when the link is not frozen.
func (l *link) wait() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.state == "frozen" && !l.closed {
		l.up.Wait()
	}
}
