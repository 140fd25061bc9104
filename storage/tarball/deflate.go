package tarball

import (
	"bytes"
	"errors"
	"math/bits"
	"slices"

	"github.com/klauspost/compress/flate"
)

// A Form is a way to deflate a tar stream. The bytes of a form never change.
type Form int

const (
	// Form1 is a sync flush after each chunk. Zig 0.15 crashes on some of it. It is made only to
	// repair the tarballs of earlier builds.
	Form1 Form = 1
	// Form2 is what the package comment describes, and what is published.
	Form2 Form = 2
)

const (
	level    = 6          // of compression
	maxPiece = 32<<10 - 1 // bytes
)

// deflate returns chunk in the form: blocks that refer to nothing before them, none of them the last of a stream,
// up to the end of a byte. w is a writer of this level that has been used up.
func (f Form) deflate(w *flate.Writer, chunk []byte) ([]byte, error) {
	piece := maxPiece
	if f == Form1 {
		piece = len(chunk)
	}
	buf := bytes.NewBuffer(make([]byte, 0, len(chunk)/2))
	w.Reset(buf)
	// Each piece in one Write: how the bytes arrive must not tell in the output.
	for p := range slices.Chunk(chunk, piece) {
		start := buf.Len()
		if _, err := w.Write(p); err != nil {
			return nil, err
		}
		if err := w.Flush(); err != nil {
			return nil, err
		}
		if f == Form1 || !endIsShort(buf.Bytes()[start:]) {
			continue
		}
		// The writer knows the piece now, whatever becomes of its output.
		buf.Truncate(start)
		if err := deflatePaused(buf, p); err != nil {
			return nil, err
		}
	}
	return buf.Bytes(), nil
}

// deflatePaused deflates one piece with an empty fixed block between its end and the sync flush.
func deflatePaused(buf *bytes.Buffer, piece []byte) error {
	w, err := flate.NewWriter(buf, level)
	if err != nil {
		return err
	}
	if _, err := w.Write(piece); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	// The last block is empty and fixed: the bits 1 (the last), 10 (fixed), and zeros only.
	b := bytes.TrimRight(buf.Bytes(), "\x00")
	fixed := 8*len(b) - bits.LeadingZeros8(b[len(b)-1]) - 1 // where the second 1 is
	last := fixed - 1
	if b[last/8]>>(last%8)&1 == 0 {
		return errors.New("compressor did not end with an empty fixed block")
	}
	b[last/8] &^= 1 << (last % 8)
	// An empty stored block: three zeros, zeros up to a byte, and its length.
	if end := fixed + 9; end+3 > 8*buf.Len() {
		buf.WriteByte(0)
	}
	buf.WriteString("\x00\x00\xff\xff")
	return nil
}

// endIsShort reports whether deflated begins with a dynamic block that ends with a code of less than four bits
// (RFC 1951, 3.2.7).
func endIsShort(deflated []byte) bool {
	r := bitReader{src: deflated}
	if header := r.readBits(3); header>>1 != 2 {
		return false
	}
	r.readBits(5 + 5) // the numbers of codes
	order := [...]int{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}
	var lengths [len(order)]int
	for _, i := range order[:4+r.readBits(4)] {
		lengths[i] = r.readBits(3)
	}
	const endOfBlock = 256
	last := 0
	for n := 0; ; {
		sym, times := r.symbol(lengths[:]), 1
		switch sym {
		case 16:
			sym, times = last, 3+r.readBits(2)
		case 17:
			sym, times = 0, 3+r.readBits(3)
		case 18:
			sym, times = 0, 11+r.readBits(7)
		}
		if n += times; n > endOfBlock {
			return sym < 4
		}
		last = sym
	}
}

// A bitReader reads a deflate stream.
type bitReader struct {
	src []byte
	pos int // bits
}

// readBits reads n bits, the lowest first; zeros after the end.
func (r *bitReader) readBits(n int) (v int) {
	for i := range n {
		if r.pos < 8*len(r.src) {
			v |= int(r.src[r.pos/8]>>(r.pos%8)&1) << i
		}
		r.pos++
	}
	return v
}

// symbol reads a symbol of the canonical Huffman code in which symbols have the given lengths, and 0 if it is none.
func (r *bitReader) symbol(lengths []int) int {
	code, first := 0, 0 // the bits read, and the first code of so many
	for n := 1; n <= 7; n++ {
		code, first = code<<1|r.readBits(1), first<<1
		for sym, length := range lengths {
			if length != n {
				continue
			}
			if code == first {
				return sym
			}
			first++
		}
	}
	return 0
}
