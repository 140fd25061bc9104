package gitpack

import (
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/RoaringBitmap/roaring/v2"
)

// A SegmentIndex says what a segment holds and where.
//
// Its binary form, all integers big-endian, nothing in between or after:
//
//	 8 bytes   "PBINDEX" and the version, 1
//	 4 bytes   number of objects, n
//	 8 bytes   length of the segment
//	 n bytes   the types
//	20n bytes  the ids
//	 n uvarint length of each entry in the segment; with 12 bytes of pack
//	           header and 20 of trailer they add up to the segment's length
//
// Objects stand in the order of the segment; the i-th has ordinal i there.
type SegmentIndex struct {
	IDs     []OID  // nil after UnmarshalOffsets
	Types   []Type // nil after UnmarshalOffsets
	offsets offsets
}

const indexMagic = "PBINDEX\x01"

func newIndex(ids []OID, types []Type, lengths []int64) (*SegmentIndex, error) {
	x := &SegmentIndex{IDs: slices.Clone(ids), Types: types}
	var b []byte
	for _, n := range lengths {
		b = binary.AppendUvarint(b, uint64(n))
	}
	var err error
	x.offsets, err = newOffsets(b, len(ids))
	return x, err
}

// Len returns the number of objects.
func (x *SegmentIndex) Len() int { return x.offsets.count }

// Size returns the length of the segment in bytes.
func (x *SegmentIndex) Size() int64 { return x.offsets.end + sha1.Size }

// offset returns where in the segment the entry of object i starts.
func (x *SegmentIndex) offset(i int) int64 { return x.offsets.at(i) }

// MarshalBinary returns the binary form of x, which must have IDs.
func (x *SegmentIndex) MarshalBinary() ([]byte, error) {
	n := x.Len()
	if len(x.IDs) != n || len(x.Types) != n {
		return nil, errors.New("marshal index: read without ids")
	}
	b := make([]byte, 0, 20+21*n+len(x.offsets.lengths))
	b = append(b, indexMagic...)
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	b = binary.BigEndian.AppendUint64(b, uint64(x.Size()))
	for _, t := range x.Types {
		b = append(b, byte(t))
	}
	for _, id := range x.IDs {
		b = append(b, id[:]...)
	}
	return append(b, x.offsets.lengths...), nil
}

// UnmarshalIndex reads what MarshalBinary wrote, and nothing else.
func UnmarshalIndex(b []byte) (*SegmentIndex, error) {
	x, types, ids, err := unmarshalIndex(b)
	if err != nil {
		return nil, fmt.Errorf("read index: %w", err)
	}
	x.Types = make([]Type, len(types))
	x.IDs = make([]OID, len(types))
	for i, t := range types {
		if t < byte(Commit) || t > byte(Tag) {
			return nil, fmt.Errorf("read index: object %d: type %d", i, t)
		}
		x.Types[i] = Type(t)
		copy(x.IDs[i][:], ids[20*i:])
	}
	return x, nil
}

// UnmarshalOffsets is UnmarshalIndex for serving: it leaves out ids and
// types, and so needs about 2 bytes an object instead of 23.
func UnmarshalOffsets(b []byte) (*SegmentIndex, error) {
	x, _, _, err := unmarshalIndex(b)
	if err != nil {
		return nil, fmt.Errorf("read index: %w", err)
	}
	return x, nil
}

func unmarshalIndex(b []byte) (x *SegmentIndex, types, ids []byte, err error) {
	rest, ok := bytes.CutPrefix(b, []byte(indexMagic))
	if !ok || len(rest) < 12 {
		return nil, nil, nil, errors.New("no header of version 1")
	}
	count, size := binary.BigEndian.Uint32(rest), binary.BigEndian.Uint64(rest[4:])
	rest = rest[12:]
	if count == 0 || count > maxSegmentObjects || uint64(len(rest)) < 22*uint64(count) {
		return nil, nil, nil, fmt.Errorf("%d objects in %d bytes", count, len(b))
	}
	n := int(count)
	types, ids, rest = rest[:n], rest[n:21*n], rest[21*n:]
	x = new(SegmentIndex)
	if x.offsets, err = newOffsets(rest, n); err != nil {
		return nil, nil, nil, err
	}
	if uint64(x.Size()) != size {
		return nil, nil, nil, fmt.Errorf("segment of %d bytes, entries say %d", size, x.Size())
	}
	return x, types, ids, nil
}

// offsets finds the byte offset of an object by its ordinal. It keeps the
// lengths as they are in an index, and a mark for every markEvery-th of them.
type offsets struct {
	lengths []byte // uvarints
	marks   []mark
	count   int
	end     int64 // offset of the segment's trailer
}

type mark struct {
	offset int64 // of the object, in the segment
	pos    int   // of its length, in lengths
}

const markEvery = 32

// newOffsets reads exactly count lengths from b, which it copies.
func newOffsets(b []byte, count int) (offsets, error) {
	o := offsets{
		lengths: bytes.Clone(b),
		marks:   make([]mark, 0, count/markEvery+1),
		count:   count,
		end:     packHeaderBytes,
	}
	pos := 0
	for i := range count {
		if i%markEvery == 0 {
			o.marks = append(o.marks, mark{o.end, pos})
		}
		v, n := binary.Uvarint(b[pos:])
		// A zero last byte would be a second spelling of the same number.
		if n <= 0 || n > 1 && b[pos+n-1] == 0 {
			return offsets{}, fmt.Errorf("object %d: no length", i)
		}
		if v < minEntryBytes || v > uint64(math.MaxInt64-o.end-sha1.Size) {
			return offsets{}, fmt.Errorf("object %d: length %d", i, v)
		}
		o.end += int64(v)
		pos += n
	}
	if pos != len(b) {
		return offsets{}, fmt.Errorf("%d bytes after the last object", len(b)-pos)
	}
	return o, nil
}

// at returns the offset of object i; for i equal to count, of the trailer.
func (o *offsets) at(i int) int64 {
	if i == o.count {
		return o.end
	}
	m := o.marks[i/markEvery]
	for range i % markEvery {
		v, n := binary.Uvarint(o.lengths[m.pos:])
		m.offset += int64(v)
		m.pos += n
	}
	return m.offset
}

// A Set is the segments of a package in their order. It numbers their objects
// through: those of segment k come after those of segments 0 to k-1, so an
// object keeps its ordinal when segments are appended.
//
// A Set does not change and is safe for concurrent use.
type Set struct {
	segments []*SegmentIndex
	bases    []uint32 // first ordinal of each segment, and one past the last
	ids      []OID    // by ordinal; nil if an index has none
	sorted   []uint32 // ordinals, sorted by id
}

// NewSet returns the set of some segments. It knows ids if all indexes do;
// serving needs none.
func NewSet(indexes ...*SegmentIndex) *Set {
	s := &Set{segments: indexes, bases: []uint32{0}}
	known := true
	for _, x := range indexes {
		s.bases = append(s.bases, s.bases[len(s.bases)-1]+uint32(x.Len()))
		known = known && x.IDs != nil
	}
	if known {
		s.sortIDs()
	}
	return s
}

func (s *Set) sortIDs() {
	s.ids = make([]OID, 0, s.Len())
	for _, x := range s.segments {
		s.ids = append(s.ids, x.IDs...)
	}
	s.sorted = make([]uint32, len(s.ids))
	for i := range s.sorted {
		s.sorted[i] = uint32(i)
	}
	slices.SortFunc(s.sorted, func(a, b uint32) int {
		if c := bytes.Compare(s.ids[a][:], s.ids[b][:]); c != 0 {
			return c
		}
		return int(a) - int(b) // of an object stored twice, the first counts
	})
}

// Len returns the number of objects.
func (s *Set) Len() int { return int(s.bases[len(s.bases)-1]) }

// Ordinal returns the number of an object; ok is false if the set does not
// hold it, or was made without ids.
func (s *Set) Ordinal(id OID) (n uint32, ok bool) {
	i, ok := slices.BinarySearchFunc(s.sorted, id, func(n uint32, id OID) int {
		return bytes.Compare(s.ids[n][:], id[:])
	})
	if !ok {
		return 0, false
	}
	return s.sorted[i], true
}

// Bitmap returns the ordinals of ids; each must be in the set.
func (s *Set) Bitmap(ids []OID) (*roaring.Bitmap, error) {
	b := roaring.New()
	for _, id := range ids {
		n, ok := s.Ordinal(id)
		if !ok {
			return nil, fmt.Errorf("object %s: in no segment", id)
		}
		b.Add(n)
	}
	b.RunOptimize()
	return b, nil
}

// A Range is a stretch of whole entries of one segment.
type Range struct {
	Segment        int // position in the set
	Offset, Length int64
}

// Ranges returns where the objects of b are, in ascending order, neighbours
// joined. Ordinals beyond the set are left out.
func (s *Set) Ranges(b *roaring.Bitmap) []Range {
	var ranges []Range
	k := 0
	add := func(start, end uint32) { // ordinals, end excluded
		for start < end && k < len(s.segments) {
			if start >= s.bases[k+1] {
				k++
				continue
			}
			stop := min(end, s.bases[k+1])
			o := &s.segments[k].offsets
			from := o.at(int(start - s.bases[k]))
			ranges = append(ranges, Range{k, from, o.at(int(stop-s.bases[k])) - from})
			start = stop
		}
	}
	runs(b, add)
	return ranges
}

// runs calls yield for each run of consecutive members of b.
func runs(b *roaring.Bitmap, yield func(start, end uint32)) {
	var buf [512]uint32
	var start, end uint32
	it := b.ManyIterator()
	for n := it.NextMany(buf[:]); n > 0; n = it.NextMany(buf[:]) {
		for _, v := range buf[:n] {
			if v != end || start == end {
				if start < end {
					yield(start, end)
				}
				start = v
			}
			end = v + 1
		}
	}
	if start < end {
		yield(start, end)
	}
}
