// Package pktline is the framing of Git's protocol: a stream of packets, each
// behind four hexadecimal digits that say how long it is.
// gitprotocol-common(5), "pkt-line Format".
package pktline

import (
	"encoding/hex"
	"fmt"
	"io"
	"strings"
)

const (
	MaxSize    = 65520 // of a packet, with the digits of its length
	HeaderSize = 4     // of the digits
	Flush      = "0000"
	Delim      = "0001"
)

// What ReadLength returns for the packets that carry nothing.
const (
	FlushLength = 0
	DelimLength = 1
)

// A LengthError is four bytes that are no length of a packet.
type LengthError [HeaderSize]byte

func (e LengthError) Error() string { return fmt.Sprintf("bad pkt-line length %q", e[:]) }

// ReadLength reads the length of the next packet: HeaderSize to MaxSize, the
// digits included, or FlushLength or DelimLength. It returns io.EOF only where
// r ends between packets, and a LengthError for any other length.
func ReadLength(r io.Reader) (int, error) {
	var digits LengthError
	var n [2]byte
	if _, err := io.ReadFull(r, digits[:]); err != nil {
		return 0, err
	}
	_, err := hex.Decode(n[:], digits[:])
	length := int(n[0])<<8 | int(n[1])
	if err != nil || length > MaxSize || length > DelimLength && length < HeaderSize {
		return 0, digits
	}
	return length, nil
}

// AppendLength appends the digits of a packet of n bytes, HeaderSize included.
func AppendLength(b []byte, n int) []byte {
	return hex.AppendEncode(b, []byte{byte(n >> 8), byte(n)})
}

// Append appends a packet that carries s.
func Append(b []byte, s string) []byte {
	return append(AppendLength(b, HeaderSize+len(s)), s...)
}

// Lines returns a packet of each line, where Flush and Delim stay as they are.
func Lines(lines ...string) string {
	var b strings.Builder
	for _, line := range lines {
		if line != Flush && line != Delim {
			b.Write(AppendLength(nil, HeaderSize+len(line)))
		}
		b.WriteString(line)
	}
	return b.String()
}
