// Package pace cuts clients that move less than they must, and no others: it
// hides deadlines, what the kernel buffers, and sendfile(2).
//
// A client may be slow, for as long as it takes, but what it holds meanwhile
// is kept from others. So each part of an answer or of a request's body has a
// time to move in, the same for all. Only the client's time counts, not what
// the server needs to find the bytes.
package pace

import (
	"cmp"
	"context"
	"io"
	"net"
	"net/http"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Limits are the least that a client must move, either way.
type Limits struct {
	Rate   int64         // bytes a second, on average over Window
	Window time.Duration // also the longest that a client may stand still
}

// Default suits the slowest links that people use: 240 KiB in a minute.
func Default() Limits { return Limits{Rate: 4 << 10, Window: time.Minute} }

func (l Limits) part() int64 { return max(1, int64(float64(l.Rate)*l.Window.Seconds())) }

// A meter gives each part of a stream its time.
type meter struct {
	limits Limits
	until  func(time.Time) error // sets the connection's deadline
	left   int64                 // bytes of this part
	spent  time.Duration         // on this part
}

// move has move one piece of the stream, of most bytes or, within a part, less.
func (m *meter) move(most int64, move func(most int64) (int64, error)) (int64, error) {
	if m.left <= 0 {
		m.left, m.spent = m.limits.part(), 0
	}
	began := time.Now()
	// A connection that knows no deadlines has its own, or is a test's.
	_ = m.until(began.Add(m.limits.Window - m.spent))
	n, err := move(min(most, m.left))
	m.left -= n
	m.spent += time.Since(began)
	return n, err
}

// Body returns the body of a request whose answer is w. A read of it fails
// with os.ErrDeadlineExceeded when the client is too slow.
func (l Limits) Body(w http.ResponseWriter, r *http.Request) io.ReadCloser {
	if r.Body == nil || r.Body == http.NoBody {
		return r.Body
	}
	return &body{r.Body, meter{limits: l, until: http.NewResponseController(w).SetReadDeadline}}
}

type body struct {
	io.ReadCloser
	meter meter
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.meter.move(int64(len(p)), func(most int64) (int64, error) {
		n, err := b.ReadCloser.Read(p[:most])
		return int64(n), err
	})
	if err == io.EOF {
		// From here on the server watches the connection, however long the
		// answer takes.
		_ = b.meter.until(time.Time{})
	}
	return int(n), err
}

// Writer returns a writer to w, the answer to r. A write to it fails when the client is too slow.
func (l Limits) Writer(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
	c, _ := r.Context().Value(connKey{}).(*conn)
	return &writer{w, meter{limits: l, until: http.NewResponseController(w).SetWriteDeadline}, c}
}

type writer struct {
	http.ResponseWriter
	meter meter
	conn  *conn // nil if it is no listener's of ours
}

// Unwrap is found by http.ResponseController.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *writer) Write(p []byte) (n int, err error) {
	for more := true; more && err == nil; more = n < len(p) {
		_, err = w.meter.move(int64(len(p)-n), func(most int64) (int64, error) {
			w.conn.hold(true)
			m, err := w.ResponseWriter.Write(p[n : n+int(most)])
			w.conn.hold(false)
			n += m
			return int64(m), err
		})
	}
	return n, err
}

// ReadFrom keeps sendfile(2) in reach: the connection asks the source for it.
func (w *writer) ReadFrom(src io.Reader) (n int64, err error) {
	all, ok := src.(*io.LimitedReader)
	if !ok {
		all = &io.LimitedReader{R: src, N: 1<<63 - 1}
	}
	for all.N > 0 {
		part := io.LimitedReader{R: all.R}
		m, err := w.meter.move(all.N, func(most int64) (int64, error) {
			part.N = most
			w.conn.hold(true)
			n, err := io.Copy(w.ResponseWriter, &part)
			w.conn.hold(false)
			return n, cmp.Or(err, w.conn.release())
		})
		n += m
		all.N -= m
		if err != nil || part.N > 0 {
			return n, err
		}
	}
	return n, nil
}

// Listener returns l with connections on which a header and what is written after it leave together. net/http sends
// one full buffer of both first, and of a file the header, which costs the server a call, and the client a packet, more.
func Listener(l net.Listener) net.Listener { return listener{l} }

type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok {
		return &conn{TCPConn: tcp}, nil
	}
	return c, err
}

// A conn is written to by one goroutine at a time.
type conn struct {
	*net.TCPConn
	holds bool
	held  []byte // waits for what is written next
}

type connKey struct{}

// bufferSize is that of net/http's buffer before a connection, in bytes.
const bufferSize = 4 << 10

// hold says whether a buffer that is written is one that was too small for the rest: that is written next, or when the
// answer ends.
func (c *conn) hold(on bool) {
	if c != nil {
		c.holds = on
	}
}

func (c *conn) Write(p []byte) (int, error) {
	if c.holds && len(c.held) == 0 && len(p) <= bufferSize {
		c.held = append(c.held, p...)
		return len(p), nil
	}
	if len(c.held) == 0 {
		return c.TCPConn.Write(p)
	}
	all := net.Buffers{c.held, p}
	n, err := all.WriteTo(c.TCPConn)
	n -= int64(len(c.held))
	c.held = c.held[:0]
	return int(max(0, n)), err
}

// ReadFrom has the kernel send what waits with what it sends next.
func (c *conn) ReadFrom(src io.Reader) (int64, error) {
	raw, err := c.SyscallConn()
	for len(c.held) > 0 && err == nil {
		var n int
		var refused error
		err = raw.Write(func(fd uintptr) bool {
			n, refused = unix.SendmsgN(int(fd), c.held, nil, nil, unix.MSG_MORE|unix.MSG_NOSIGNAL)
			return refused != unix.EAGAIN
		})
		err = cmp.Or(err, refused)
		c.held = c.held[:copy(c.held, c.held[max(0, n):])]
	}
	if err != nil {
		return 0, err
	}
	return c.TCPConn.ReadFrom(src)
}

// release sends what waits.
func (c *conn) release() error {
	if c == nil || len(c.held) == 0 {
		return nil
	}
	_, err := c.Write(nil)
	return err
}

// unsent is how many bytes may wait in the kernel besides those that are
// under way.
const unsent = 64 << 10

// Conn prepares a connection; it is for http.Server.ConnContext. Of a client
// that reads slowly the kernel would else take megabytes at once and then,
// for a minute, nothing, which nobody can tell from a client that stands still.
func Conn(ctx context.Context, c net.Conn) context.Context {
	if own, ok := c.(*conn); ok {
		ctx = context.WithValue(ctx, connKey{}, own)
	}
	if tcp, ok := c.(syscall.Conn); ok {
		if raw, err := tcp.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) {
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsent)
			})
		}
	}
	return ctx
}
