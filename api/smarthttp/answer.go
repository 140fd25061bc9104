package smarthttp

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"

	"github.com/francescobianco/packbase/storage/pktline"
)

// A brokenAnswer is an error after the first byte of an answer.
type brokenAnswer struct{ err error }

func (e *brokenAnswer) Error() string { return "send answer: " + e.err.Error() }
func (e *brokenAnswer) Unwrap() error { return e.err }

// buffers holds *[pktline.MaxSize]byte: a slow reader costs one, and a goroutine.
var buffers = sync.Pool{New: func() any { return new([pktline.MaxSize]byte) }}

// An answer writes a response body through one buffer.
type answer struct {
	w     http.ResponseWriter
	store *[pktline.MaxSize]byte
	buf   []byte // the bytes that wait, in store
}

// begin starts an answer of size bytes.
func (h *Handler) begin(w http.ResponseWriter, size int64) *answer {
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	a := &answer{w: w, store: buffers.Get().(*[pktline.MaxSize]byte)}
	a.buf = a.store[:0]
	return a
}

func (a *answer) Write(p []byte) (n int, err error) {
	for n < len(p) {
		m := copy(a.buf[len(a.buf):cap(a.buf)], p[n:])
		a.buf = a.buf[:len(a.buf)+m]
		if n += m; n < len(p) {
			if err := a.flush(); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// flush sends what waits.
func (a *answer) flush() error {
	_, err := a.w.Write(a.buf)
	a.buf = a.store[:0]
	return err
}

// end sends the rest and hands the buffer back. It returns err, or its own,
// as *brokenAnswer.
func (a *answer) end(err error) error {
	if err == nil {
		err = a.flush()
	}
	buffers.Put(a.store)
	if err != nil {
		return &brokenAnswer{err}
	}
	return nil
}

// send answers with the packets that write makes. It calls write twice: the
// first time to count.
func (h *Handler) send(w http.ResponseWriter, write func(*packetWriter)) error {
	var size countingWriter
	write(&packetWriter{w: &size})
	a := h.begin(w, int64(size))
	p := &packetWriter{w: a}
	write(p)
	return a.end(p.err)
}

type countingWriter int64

func (n *countingWriter) Write(p []byte) (int, error) {
	*n += countingWriter(len(p))
	return len(p), nil
}

// bandHeader is the length of a packet and the number of its band.
const bandHeader = pktline.HeaderSize + 1

// sendPack answers with head and a pack of size bytes, in packets of at most
// sideband bytes unless that is 0. In the pack section there are data packets
// and nothing else: Zig 0.15 fails on progress, keepalives and empty packets.
func (h *Handler) sendPack(w http.ResponseWriter, head []byte, pack io.Reader, size int64, sideband int) error {
	length := size
	if sideband > 0 {
		length = framedLength(size, sideband)
	}
	a := h.begin(w, int64(len(head))+length)
	if _, err := a.Write(head); err != nil {
		return a.end(err)
	}
	if sideband == 0 {
		return a.end(a.copyRaw(pack, size))
	}
	if err := a.copyBand(pack, size, sideband); err != nil {
		return a.end(err)
	}
	_, err := a.Write([]byte(pktline.Flush))
	return a.end(err)
}

// copyRaw sends size bytes of pack as they are.
func (a *answer) copyRaw(pack io.Reader, size int64) error {
	for size > 0 {
		n := min(size, int64(cap(a.buf)-len(a.buf)))
		if err := a.fill(pack, int(n)); err != nil {
			return err
		}
		if size -= n; len(a.buf) == cap(a.buf) {
			if err := a.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// copyBand sends size bytes of pack in packets of band 1.
func (a *answer) copyBand(pack io.Reader, size int64, sideband int) error {
	for size > 0 {
		n := min(size, int64(sideband-bandHeader))
		if cap(a.buf)-len(a.buf) < int(n)+bandHeader {
			if err := a.flush(); err != nil {
				return err
			}
		}
		a.buf = append(pktline.AppendLength(a.buf, int(n)+bandHeader), 1)
		if err := a.fill(pack, int(n)); err != nil {
			a.buf = a.buf[:len(a.buf)-bandHeader]
			return a.breakOff(err, size)
		}
		size -= n
	}
	return nil
}

// breakOff tells the client of err, if the announced length has room for it.
func (a *answer) breakOff(err error, left int64) error {
	const message = "\x03packbase: a stored object cannot be read; try again\n"
	if int64(len(message)) <= left && cap(a.buf)-len(a.buf) >= len(message)+pktline.HeaderSize {
		a.buf = pktline.Append(a.buf, message)
		return errors.Join(err, a.flush(), http.NewResponseController(a.w).Flush())
	}
	return err
}

// fill appends the next n bytes of r to the buffer, which has room for them.
func (a *answer) fill(r io.Reader, n int) error {
	end := len(a.buf) + n
	_, err := io.ReadFull(r, a.buf[len(a.buf):end])
	if err == nil {
		a.buf = a.buf[:end]
	}
	return err
}
