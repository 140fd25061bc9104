package smarthttp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/francescobianco/packbase/storage/pktline"
)

type packetKind int

const (
	dataPacket packetKind = iota
	flushPacket
	delimPacket
	noPacket // the stream ends, between packets
)

// A packetReader reads a bounded number of packets.
type packetReader struct {
	r    io.Reader
	left int // packets
	buf  []byte
}

// next returns the next packet. A line holds until the following call and is
// without its final LF.
func (p *packetReader) next() (kind packetKind, line []byte, err error) {
	if p.left--; p.left < 0 {
		return 0, nil, refuse("upload-pack: too many lines in the request")
	}
	n, err := pktline.ReadLength(p.r)
	var bad pktline.LengthError
	switch {
	case err == io.EOF:
		return noPacket, nil, nil
	case errors.As(err, &bad):
		return 0, nil, badRequest("%v", bad)
	case err != nil:
		return 0, nil, cutShort(err)
	case n == pktline.FlushLength:
		return flushPacket, nil, nil
	case n == pktline.DelimLength:
		return delimPacket, nil, nil
	}
	p.buf = slices.Grow(p.buf[:0], n)[:n-pktline.HeaderSize]
	if _, err := io.ReadFull(p.r, p.buf); err != nil {
		return 0, nil, cutShort(err)
	}
	return dataPacket, bytes.TrimSuffix(p.buf, []byte("\n")), nil
}

// end checks that nothing follows.
func (p *packetReader) end() error {
	var b [1]byte
	switch _, err := io.ReadFull(p.r, b[:]); err {
	case io.EOF:
		return nil
	case nil:
		return badRequest("bytes follow the request")
	default:
		return cutShort(err)
	}
}

// cutShort words an end of the body within a packet.
func cutShort(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return badRequest("the request body ends too early")
	}
	return err
}

// A packetWriter writes packets. It keeps its first error.
type packetWriter struct {
	w   io.Writer
	buf []byte
	err error
}

// linef writes a packet of text.
func (p *packetWriter) linef(format string, args ...any) {
	p.buf = append(p.buf[:0], pktline.Flush...)
	p.buf = fmt.Appendf(p.buf, format, args...)
	pktline.AppendLength(p.buf[:0], len(p.buf))
	p.raw(p.buf)
}

func (p *packetWriter) flush() { p.raw([]byte(pktline.Flush)) }
func (p *packetWriter) delim() { p.raw([]byte(pktline.Delim)) }

func (p *packetWriter) raw(b []byte) {
	if p.err == nil {
		_, p.err = p.w.Write(b)
	}
}
