package smarthttp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
)

// gitprotocol-common(5), "pkt-line Format".
const (
	maxPacket  = 65520 // with the 4 digits of its length
	flushPkt   = "0000"
	delimPkt   = "0001"
	lengthSize = 4
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
	var digits [lengthSize]byte
	if _, err := io.ReadFull(p.r, digits[:]); err == io.EOF {
		return noPacket, nil, nil
	} else if err != nil {
		return 0, nil, cutShort(err)
	}
	n, err := strconv.ParseUint(string(digits[:]), 16, 16)
	if err != nil {
		return 0, nil, badRequest("bad pkt-line length %q", digits)
	}
	switch {
	case n == 0:
		return flushPacket, nil, nil
	case n == 1:
		return delimPacket, nil, nil
	case n < lengthSize || n > maxPacket:
		return 0, nil, badRequest("bad pkt-line length %q", digits)
	}
	p.buf = slices.Grow(p.buf[:0], int(n))[:n-lengthSize]
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
	p.buf = append(p.buf[:0], flushPkt...)
	p.buf = fmt.Appendf(p.buf, format, args...)
	const hexDigits = "0123456789abcdef"
	for i := range lengthSize {
		p.buf[i] = hexDigits[len(p.buf)>>(12-4*i)&0xf]
	}
	p.raw(p.buf)
}

func (p *packetWriter) flush() { p.raw([]byte(flushPkt)) }
func (p *packetWriter) delim() { p.raw([]byte(delimPkt)) }

func (p *packetWriter) raw(b []byte) {
	if p.err == nil {
		_, p.err = p.w.Write(b)
	}
}
