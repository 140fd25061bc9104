package release

import (
	"context"
	"fmt"
	"slices"

	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/gitpack"
)

// A Segment is one of a package's append-only packfiles.
type Segment struct {
	Package      string
	Seq          int
	FirstOrdinal int64
	Objects      int
	Digest       string
	IndexDigest  string
	Size         int64
}

// Segments are the segments of one package, in order, with their indexes in
// memory. They do not change: With returns others.
type Segments struct {
	Rows    []Segment
	Set     *gitpack.Set // of their objects
	indexes []*gitpack.SegmentIndex
	blobs   blob.Opener
}

// LoadSegments reads the index of each segment. parse is
// [gitpack.UnmarshalIndex], or [gitpack.UnmarshalOffsets] for who needs no ids.
func LoadSegments(ctx context.Context, blobs blob.Opener, rows []Segment, parse func([]byte) (*gitpack.SegmentIndex, error)) (*Segments, error) {
	s := &Segments{Rows: rows, blobs: blobs}
	for _, row := range rows {
		index, err := LoadIndex(ctx, blobs, row, parse)
		if err != nil {
			return nil, fmt.Errorf("read index of segment %d: %w", row.Seq, err)
		}
		s.indexes = append(s.indexes, index)
	}
	s.Set = gitpack.NewSet(s.indexes...)
	return s, nil
}

// LoadIndex reads the index of one segment.
func LoadIndex(ctx context.Context, blobs blob.Opener, row Segment, parse func([]byte) (*gitpack.SegmentIndex, error)) (*gitpack.SegmentIndex, error) {
	raw, err := blob.ReadAll(ctx, blobs, row.IndexDigest)
	if err != nil {
		return nil, err
	}
	return parse(raw)
}

// NewSegments returns segments by their indexes alone. blobs may be nil if
// nothing is to be opened.
func NewSegments(blobs blob.Opener, indexes ...*gitpack.SegmentIndex) *Segments {
	return &Segments{Rows: make([]Segment, len(indexes)), Set: gitpack.NewSet(indexes...), indexes: indexes, blobs: blobs}
}

// With returns the segments with another one at their end, whose row knows its
// place there.
func (s *Segments) With(row Segment, index *gitpack.SegmentIndex) *Segments {
	row.Seq, row.FirstOrdinal, row.Objects = len(s.Rows), int64(s.Set.Len()), index.Len()
	indexes := append(slices.Clip(s.indexes), index)
	return &Segments{Rows: append(slices.Clip(s.Rows), row), Set: gitpack.NewSet(indexes...), indexes: indexes, blobs: s.blobs}
}

// Last returns the row of the last segment.
func (s *Segments) Last() Segment { return s.Rows[len(s.Rows)-1] }

// Stored returns the pack of some of the objects, those of a commit.
func (s *Segments) Stored(ctx context.Context, commit gitpack.OID, ids []gitpack.OID) (gitpack.Stored, error) {
	return s.Set.Stored(commit, ids, s.Opener(ctx), blob.Window(s.blobs))
}

// Opener opens the segments' blobs.
func (s *Segments) Opener(ctx context.Context) gitpack.Opener {
	return func(i int) (gitpack.Segment, error) { return s.blobs.Open(ctx, s.Rows[i].Digest) }
}

// Fresh returns the objects of releases that no segment holds, those of the
// newest release first: then a fetch of it is one single range. They are to
// be the next segment.
func (s *Segments) Fresh(ctx context.Context, objects *gitpack.Objects, roots []*Root, lim gitpack.Limits) ([]gitpack.OID, error) {
	var fresh []gitpack.OID
	ordinals := map[gitpack.OID]uint32{}
	ordinal := func(id gitpack.OID) uint32 {
		if n, ok := s.Set.Ordinal(id); ok {
			return n
		}
		n, ok := ordinals[id]
		if !ok {
			n = uint32(s.Set.Len() + len(fresh))
			ordinals[id] = n
			fresh = append(fresh, id)
		}
		return n
	}
	for _, r := range slices.SortedFunc(slices.Values(roots), newestFirst) {
		ids, err := r.Objects(ctx, objects, lim)
		if err != nil {
			return nil, err
		}
		last := uint32(0)
		for _, id := range ids {
			last = max(last, ordinal(id))
		}
		r.Segment = s.holding(last)
	}
	return fresh, nil
}

// holding returns the position of the segment that holds an ordinal, where the
// one after the last is the one about to be written.
func (s *Segments) holding(ordinal uint32) int {
	end := 0
	for i, index := range s.indexes {
		if end += index.Len(); int(ordinal) < end {
			return i
		}
	}
	return len(s.indexes)
}
