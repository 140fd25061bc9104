package gitpack

import (
	"crypto/sha1"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"

	"github.com/RoaringBitmap/roaring/v2"
)

// A Segment is the bytes of one segment, open for reading.
type Segment interface {
	io.ReaderAt
	io.Closer
}

// An Opener opens the segment at a position of a set.
type Opener func(segment int) (Segment, error)

// Stored is the pack of one release, worked out when it was published: the
// commit, its trees and blobs, or also the tag objects that lead to it.
type Stored struct {
	Commit  OID      // the one commit of the pack
	Bitmap  []byte   // ordinals of the objects, as roaring bitmap
	Objects uint32   // how many
	Size    int64    // length of the pack in bytes
	Trailer [20]byte // SHA-1 at its end
}

// Stored works out the pack of ids, which are all that commit leads to, and
// maybe tags of it. window is as for [Pack.Reader].
func (s *Set) Stored(commit OID, ids []OID, open Opener, window int) (Stored, error) {
	b, err := s.Bitmap(ids)
	if err != nil {
		return Stored{}, fmt.Errorf("pack of %s: %w", commit, err)
	}
	p, err := s.Pack(b, nil)
	if err != nil {
		return Stored{}, fmt.Errorf("pack of %s: %w", commit, err)
	}
	r := p.Reader(open, window)
	defer r.Close()
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, make([]byte, 128<<10)); err != nil {
		return Stored{}, fmt.Errorf("pack of %s: %w", commit, err)
	}
	st := Stored{Commit: commit, Objects: p.Objects, Size: p.Size, Trailer: r.trailer}
	if st.Bitmap, err = b.ToBytes(); err != nil {
		return Stored{}, fmt.Errorf("pack of %s: %w", commit, err)
	}
	return st, nil
}

// Ordinals returns the bitmap of st. It shares memory with st.Bitmap, neither
// may be changed.
func (st Stored) Ordinals() (*roaring.Bitmap, error) {
	b := roaring.New()
	if _, err := b.FromBuffer(st.Bitmap); err != nil {
		return nil, fmt.Errorf("bitmap of %s: %w", st.Commit, err)
	}
	if b.GetCardinality() != uint64(st.Objects) {
		return nil, fmt.Errorf("bitmap of %s: %d objects, want %d", st.Commit, b.GetCardinality(), st.Objects)
	}
	return b, nil
}

// A Pack is a packfile to be read: a header, ranges of segments, a trailer.
type Pack struct {
	Objects uint32
	Size    int64 // in bytes, header and trailer included
	ranges  []Range
	trailer *[20]byte // nil if not known
}

// Pack returns the pack of the objects in b. Its SHA-1 is worked out while
// reading if trailer is nil.
func (s *Set) Pack(b *roaring.Bitmap, trailer *[20]byte) (*Pack, error) {
	if !b.IsEmpty() && uint64(b.Maximum()) >= uint64(s.Len()) {
		return nil, fmt.Errorf("object %d of a set of %d", b.Maximum(), s.Len())
	}
	p := &Pack{
		Objects: uint32(b.GetCardinality()),
		Size:    packHeaderBytes + sha1.Size,
		ranges:  s.Ranges(b),
		trailer: trailer,
	}
	for _, r := range p.ranges {
		p.Size += r.Length
	}
	return p, nil
}

// Reader returns a reader of the pack's bytes. It has at most one segment open
// at a time and asks it for ascending ranges.
//
// With window 0 each read goes straight into the caller's buffer: right for
// local files. Otherwise window is the number of bytes asked for at once, with
// ranges that lie close together in one request: right for a remote store. It
// doubles with each request, up to MaxWindow.
func (p *Pack) Reader(open Opener, window int) *PackReader {
	r := &PackReader{
		open:    open,
		pending: appendPackHeader(nil, p.Objects),
		ranges:  p.ranges,
		window:  int64(window),
	}
	if p.trailer != nil {
		r.trailer = *p.trailer
	} else {
		r.sum = sha1.New()
	}
	return r
}

// MaxWindow is what a window grows to, in bytes. A reader keeps as much in memory.
const MaxWindow = 4 << 20

// A PackReader reads a Pack once. It is not safe for concurrent use.
type PackReader struct {
	open    Opener
	pending []byte  // header or trailer bytes to be read next
	current Range   // what is left of the range being read
	ranges  []Range // those after it
	sum     hash.Hash
	trailer [20]byte // at the end of the pack; with sum, set when reached
	ended   bool     // the trailer is, or was, pending

	segment Segment // the open one, at position number of the set
	number  int

	window int64  // most bytes to fetch ahead
	ahead  []byte // what was fetched of the open segment
	offset int64  // where in the segment that is
}

// Begin opens the first segment and, with a window, asks it for bytes: what
// goes wrong with that can still be told before anything is sent.
func (r *PackReader) Begin() error {
	if len(r.ranges) == 0 {
		return nil
	}
	r.current, r.ranges = r.ranges[0], r.ranges[1:]
	_, err := r.readRange(nil)
	return err
}

// Read fills b unless the pack ends.
func (r *PackReader) Read(b []byte) (n int, err error) {
	for n < len(b) {
		m, err := r.read(b[n:])
		n += m
		if err == io.EOF && n > 0 {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (r *PackReader) read(b []byte) (n int, err error) {
	switch {
	case len(r.pending) > 0:
		n = copy(b, r.pending)
		r.pending = r.pending[n:]
	case r.current.Length > 0:
		if n, err = r.readRange(b); err != nil {
			return 0, err
		}
	case len(r.ranges) > 0:
		r.current, r.ranges = r.ranges[0], r.ranges[1:]
		return 0, nil
	case !r.ended:
		if r.sum != nil {
			r.sum.Sum(r.trailer[:0])
			r.sum = nil
		}
		r.pending, r.ended = r.trailer[:], true
		return 0, nil
	default:
		return 0, io.EOF
	}
	if r.sum != nil {
		r.sum.Write(b[:n])
	}
	return n, nil
}

// readRange reads from the current range.
func (r *PackReader) readRange(b []byte) (n int, err error) {
	c := &r.current
	if err := r.openSegment(c.Segment); err != nil {
		return 0, err
	}
	b = b[:min(int64(len(b)), c.Length)]
	if r.window == 0 {
		n, err = len(b), readFull(r.segment, b, c.Offset)
	} else {
		n, err = r.readAhead(b)
	}
	if err != nil {
		return 0, fmt.Errorf("read segment %d at %d: %w", c.Segment, c.Offset, err)
	}
	c.Offset += int64(n)
	c.Length -= int64(n)
	return n, nil
}

// readAhead copies what the window has of the current range, fetching it first
// if that is nothing.
func (r *PackReader) readAhead(b []byte) (int, error) {
	from := r.current.Offset
	if from < r.offset || from >= r.offset+int64(len(r.ahead)) {
		n := int(r.wanted())
		r.offset, r.ahead = from, slices.Grow(r.ahead[:0], n)[:n]
		if err := readFull(r.segment, r.ahead, from); err != nil {
			return 0, err
		}
		r.window = max(r.window, min(2*r.window, MaxWindow))
	}
	return copy(b, r.ahead[from-r.offset:]), nil
}

// wanted returns how many bytes to fetch at the current range: to the end of
// the last range that starts within the window, as long as no gap is wider than
// an eighth of the window.
func (r *PackReader) wanted() int64 {
	first := r.current
	n := first.Length
	for _, next := range r.ranges {
		start := next.Offset - first.Offset
		if n >= r.window || next.Segment != first.Segment || start >= r.window || start-n > r.window/8 {
			break
		}
		n = start + next.Length
	}
	return min(n, r.window)
}

// openSegment makes segment the open one.
func (r *PackReader) openSegment(segment int) error {
	if r.segment != nil && r.number == segment {
		return nil
	}
	if err := r.Close(); err != nil {
		return err
	}
	s, err := r.open(segment)
	if err != nil {
		return fmt.Errorf("open segment %d: %w", segment, err)
	}
	r.segment, r.number = s, segment
	return nil
}

// Close closes the open segment, if any.
func (r *PackReader) Close() error {
	if r.segment == nil {
		return nil
	}
	err := r.segment.Close()
	r.segment, r.ahead = nil, r.ahead[:0]
	return err
}

// readFull fills b from offset on.
func readFull(r io.ReaderAt, b []byte, offset int64) error {
	n, err := r.ReadAt(b, offset)
	if n == len(b) {
		return nil // io.ReaderAt may say io.EOF with the last byte
	}
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
