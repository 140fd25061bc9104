package worker

import (
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// A cutter stands between packbase and Postgres and breaks a connection at the
// nth call that passes it: before Postgres hears of it, or once it is done but
// before the answer. A call is what Postgres answers as one: a simple query,
// or all up to a Sync.
type cutter struct {
	url string // of Postgres, through it

	mu    sync.Mutex
	calls int
	at    int // the call to break at; 0 for none
	late  bool
}

func newCutter(t *testing.T, rawURL string) *cutter {
	t.Helper()
	cfg, err := pgconn.ParseConfig(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	for _, name := range []string{"host", "port"} {
		q.Del(name)
	}
	q.Set("sslmode", "disable")
	u.Host, u.RawQuery = ln.Addr().String(), q.Encode()
	c := &cutter{url: u.String()}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer client.Close()
				network, addr := pgconn.NetworkAddress(cfg.Host, cfg.Port)
				server, err := net.Dial(network, addr)
				if err != nil {
					return
				}
				defer server.Close()
				c.pass(client, server)
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return c
}

// arm has the nth call from now broken, and counts from 0 again.
func (c *cutter) arm(n int, late bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls, c.at, c.late = 0, n, late
}

// broke reports whether there was an nth call.
func (c *cutter) broke() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls >= c.at
}

func (c *cutter) call() (cut, late bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	return c.calls == c.at, c.late
}

// pass passes messages on until either side ends or the connection is cut.
// https://www.postgresql.org/docs/current/protocol-message-formats.html
func (c *cutter) pass(client, server net.Conn) {
	mute := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer client.Close()
		for {
			kind, m, err := message(server, true)
			if err != nil {
				return
			}
			select {
			case <-mute: // asked, and to be answered nothing
				if kind == 'Z' {
					server.Close()
					return
				}
				continue
			default:
			}
			if _, err := client.Write(m); err != nil {
				return
			}
		}
	})
	defer wg.Wait()
	for first := true; ; first = false {
		kind, m, err := message(client, !first)
		if err != nil {
			server.Close()
			return
		}
		if kind == 'Q' || kind == 'S' {
			if cut, late := c.call(); cut && !late {
				server.Close()
				client.Close()
				return
			} else if cut {
				close(mute)
			}
		}
		if _, err := server.Write(m); err != nil {
			return
		}
	}
}

// message reads one message; the first one of a client has no type.
func message(r io.Reader, typed bool) (kind byte, m []byte, err error) {
	head := make([]byte, 5)
	if !typed {
		head = head[:4]
	}
	if _, err := io.ReadFull(r, head); err != nil {
		return 0, nil, err
	}
	m = append(head, make([]byte, binary.BigEndian.Uint32(head[len(head)-4:])-4)...)
	_, err = io.ReadFull(r, m[len(head):])
	return head[0], m, err
}
