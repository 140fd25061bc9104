package gitpack

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/RoaringBitmap/roaring/v2"
)

// memory is a Source of objects made up by a test.
type memory struct {
	order   []OID
	objects map[OID]Object
	content map[OID][]byte
}

func (m *memory) add(typ Type, content []byte) OID {
	id := OID(sha1.Sum(fmt.Appendf(nil, "%s %d\x00%s", typ, len(content), content)))
	if m.objects == nil {
		m.objects, m.content = map[OID]Object{}, map[OID][]byte{}
	}
	m.order = append(m.order, id)
	m.objects[id] = Object{OID: id, Type: typ, Size: int64(len(content))}
	m.content[id] = content
	return id
}

func (m *memory) Stat(id OID) (Object, bool) {
	o, ok := m.objects[id]
	return o, ok
}

func (m *memory) Open(id OID) (*io.SectionReader, error) {
	return io.NewSectionReader(bytes.NewReader(m.content[id]), 0, m.objects[id].Size), nil
}

// blobs returns n blobs of text and noise, of sizes up to most bytes.
func blobs(n, most int, seed uint64) *memory {
	m := new(memory)
	r := rand.New(rand.NewPCG(seed, 0))
	for i := range n {
		var b bytes.Buffer
		for size := r.IntN(most); b.Len() < size; {
			if fmt.Fprintf(&b, "line %d of blob %d\n", r.IntN(50), i); i%3 == 0 {
				fmt.Fprintf(&b, "%x", r.Uint64())
			}
		}
		fmt.Fprint(&b, i) // no two are equal
		m.add(Blob, b.Bytes())
	}
	return m
}

func writeSegment(t testing.TB, m *memory, ids []OID) ([]byte, *SegmentIndex) {
	t.Helper()
	var b bytes.Buffer
	x, err := WriteSegment(t.Context(), &b, m, ids)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), x
}

func TestWriteSegmentIsPack(t *testing.T) {
	t.Parallel()
	m := blobs(300, 20_000, 1)
	m.add(Blob, nil)
	m.add(Blob, bytes.Repeat([]byte("large"), largeObject/4))
	m.add(Blob, []byte("after the large one"))
	tree := m.add(Tree, fmt.Appendf(nil, "100644 a\x00%s", m.order[0][:]))
	m.add(Commit, fmt.Appendf(nil, "tree %s\nauthor a <a> 0 +0000\ncommitter a <a> 0 +0000\n\nx\n", tree))
	segment, x := writeSegment(t, m, m.order)

	file := filepath.Join(t.TempDir(), "segment.pack")
	if err := os.WriteFile(file, segment, 0o600); err != nil {
		t.Fatal(err)
	}
	git := func(args ...string) string {
		cmd := exec.Command("git", args...)
		cmd.Dir = filepath.Dir(file)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	git("init", "-q")
	git("index-pack", "--strict", file)
	// "oid type size size-in-pack offset" for each object.
	listed := git("verify-pack", "-v", file)
	for i, id := range m.order {
		end := x.Size() - sha1.Size
		if i+1 < x.Len() {
			end = x.offset(i + 1)
		}
		o := m.objects[id]
		want := fmt.Sprintf("%s %-6s %d %d %d\n", id, o.Type, o.Size, end-x.offset(i), x.offset(i))
		if !strings.Contains(listed, want) {
			t.Fatalf("git verify-pack does not list %q", want)
		}
	}
	if got := int64(len(segment)); got != x.Size() {
		t.Errorf("segment of %d bytes, index says %d", got, x.Size())
	}
}

func TestWriteSegmentBytesAreStable(t *testing.T) {
	m := blobs(600, 3000, 2)
	first, _ := writeSegment(t, m, m.order)
	// Changes when the compressor does: stored segments keep their digests,
	// but equal releases would no longer share new ones.
	const golden = "b7fbd1c2f4abdf18f3017368295e7460e72c7bc1"
	if got := hex.EncodeToString(first[len(first)-sha1.Size:]); got != golden {
		t.Errorf("trailer = %s, want %s", got, golden)
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for _, n := range []int{1, 2, 7} {
		runtime.GOMAXPROCS(n)
		if again, _ := writeSegment(t, m, m.order); !bytes.Equal(again, first) {
			t.Errorf("bytes on %d processors differ", n)
		}
	}
	// What a compressor saw before must not show.
	z := newCompressor()
	slices.Reverse(m.order)
	for _, id := range m.order {
		var used, fresh bytes.Buffer
		if _, err := z.writeEntry(&used, m, m.objects[id]); err != nil {
			t.Fatal(err)
		}
		if len(m.content[id])%64 != 0 {
			continue
		}
		if _, err := newCompressor().writeEntry(&fresh, m, m.objects[id]); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(used.Bytes(), fresh.Bytes()) {
			t.Fatalf("entry of %s depends on earlier ones", id)
		}
	}
}

type failingWriter struct{ left int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}

func TestWriteSegmentErrors(t *testing.T) {
	t.Parallel()
	m := blobs(100, 200_000, 3)
	lying := blobs(100, 200_000, 3)
	o := lying.objects[lying.order[50]]
	o.Size++
	lying.objects[o.OID] = o
	tests := []struct {
		name string
		src  *memory
		ids  []OID
		w    io.Writer
		want string
	}{
		{"no objects", m, nil, io.Discard, "0 objects"},
		{"unknown object", m, []OID{m.order[0], {1}}, io.Discard, "not in the source"},
		{"short object", lying, m.order, io.Discard, "want"},
		{"disk full", m, m.order, &failingWriter{500_000}, "short write"},
	}
	for _, tt := range tests {
		_, err := WriteSegment(t.Context(), tt.w, tt.src, tt.ids)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: err = %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestSegmentIndex(t *testing.T) {
	t.Parallel()
	m := blobs(500, 500, 4)
	_, x := writeSegment(t, m, m.order)
	b, err := x.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	full, err := UnmarshalIndex(b)
	if err != nil {
		t.Fatal(err)
	}
	again, err := full.MarshalBinary()
	if err != nil || !bytes.Equal(again, b) {
		t.Errorf("index read and written again differs: %v", err)
	}
	if !slices.Equal(full.IDs, x.IDs) || !slices.Equal(full.Types, x.Types) {
		t.Error("ids or types differ")
	}
	small, err := UnmarshalOffsets(b)
	if err != nil {
		t.Fatal(err)
	}
	for i := range x.Len() {
		if small.offset(i) != x.offset(i) {
			t.Fatalf("object %d at %d, want %d", i, small.offset(i), x.offset(i))
		}
	}
	if _, err := small.MarshalBinary(); err == nil {
		t.Error("an index without ids was marshalled")
	}
	for i := range b {
		if _, err := UnmarshalIndex(b[:i]); err == nil {
			t.Fatalf("index cut at %d of %d bytes was read", i, len(b))
		}
	}
	if _, err := UnmarshalIndex(append(b, 9)); err == nil {
		t.Error("index with a byte more was read")
	}
}

func FuzzUnmarshalIndex(f *testing.F) {
	m := blobs(40, 500, 5)
	_, x := writeSegment(f, m, m.order)
	b, err := x.MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		small, errSmall := UnmarshalOffsets(b)
		x, err := UnmarshalIndex(b)
		if err != nil {
			return
		}
		if errSmall != nil || small.Len() != x.Len() || small.Size() != x.Size() {
			t.Errorf("without ids: %v, %v, want the same", small, errSmall)
		}
		again, err := x.MarshalBinary()
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("a second spelling of an index was read: %v", err)
		}
		for i := range x.Len() - 1 {
			if x.offset(i+1) <= x.offset(i) {
				t.Fatalf("offset %d then %d", x.offset(i), x.offset(i+1))
			}
		}
	})
}

// segmented is a set of three segments and their bytes.
type segmented struct {
	*memory
	*Set
	segments [][]byte
	reads    []Range // what was asked of the segments
	open     int
}

func newSegmented(t *testing.T) *segmented {
	s := &segmented{memory: blobs(900, 4000, 6)}
	var indexes []*SegmentIndex
	for ids := range slices.Chunk(s.order, 350) {
		b, x := writeSegment(t, s.memory, ids)
		s.segments, indexes = append(s.segments, b), append(indexes, x)
	}
	s.Set = NewSet(indexes...)
	return s
}

type openSegment struct {
	*segmented
	number int
}

func (s *segmented) opener(i int) (Segment, error) {
	s.open++
	return openSegment{s, i}, nil
}

func (o openSegment) ReadAt(b []byte, off int64) (int, error) {
	o.reads = append(o.reads, Range{o.number, off, int64(len(b))})
	return bytes.NewReader(o.segments[o.number]).ReadAt(b, off)
}

func (o openSegment) Close() error {
	o.open--
	return nil
}

func TestSetOrdinals(t *testing.T) {
	t.Parallel()
	s := newSegmented(t)
	for i, id := range s.order {
		if n, ok := s.Ordinal(id); !ok || int(n) != i {
			t.Fatalf("ordinal of object %d = %d, %v", i, n, ok)
		}
	}
	if _, ok := s.Ordinal(OID{1}); ok {
		t.Error("an object of no segment has an ordinal")
	}
	if _, err := s.Bitmap([]OID{s.order[0], {1}}); err == nil {
		t.Error("bitmap with an object of no segment")
	}
	if got := s.Len(); got != 900 {
		t.Errorf("len = %d, want 900", got)
	}
	// Appending a segment must not move an object.
	if n, ok := NewSet(s.Set.segments[:2]...).Ordinal(s.order[699]); !ok || n != 699 {
		t.Errorf("ordinal with two segments = %d, %v, want 699", n, ok)
	}
}

func TestRanges(t *testing.T) {
	t.Parallel()
	s := newSegmented(t)
	at := func(i int) int64 { return s.Set.segments[i/350].offset(i % 350) }
	end := func(k int) int64 { return s.Set.segments[k].Size() - sha1.Size }
	tests := []struct {
		name string
		ids  []uint32
		want []Range
	}{
		{"none", nil, nil},
		{"first", []uint32{0}, []Range{{0, 12, at(1) - 12}}},
		{"neighbours", []uint32{3, 4, 5}, []Range{{0, at(3), at(6) - at(3)}}},
		{"gap", []uint32{3, 5}, []Range{{0, at(3), at(4) - at(3)}, {0, at(5), at(6) - at(5)}}},
		{"across segments", []uint32{349, 350}, []Range{{0, at(349), end(0) - at(349)}, {1, 12, at(351) - 12}}},
		{"last", []uint32{899}, []Range{{2, at(899), end(2) - at(899)}}},
		{"beyond", []uint32{899, 900, 1 << 31}, []Range{{2, at(899), end(2) - at(899)}}},
	}
	for _, tt := range tests {
		if got := s.Ranges(roaring.BitmapOf(tt.ids...)); !slices.Equal(got, tt.want) {
			t.Errorf("%s: ranges = %v, want %v", tt.name, got, tt.want)
		}
	}
	all := roaring.New()
	all.AddRange(0, 900)
	if got := len(s.Ranges(all)); got != 3 {
		t.Errorf("%d ranges for everything, want one for each segment", got)
	}
}

func TestPack(t *testing.T) {
	t.Parallel()
	s := newSegmented(t)
	r := rand.New(rand.NewPCG(7, 0))
	for name, share := range map[string]int{"few": 30, "half": 2, "all": 1} {
		var ids []OID
		for _, id := range s.order {
			if r.IntN(share) == 0 {
				ids = append(ids, id)
			}
		}
		st, err := s.Stored(OID{1}, ids, s.opener, 0)
		if err != nil {
			t.Fatal(err)
		}
		if ahead, err := s.Stored(OID{1}, ids, s.opener, 1<<20); err != nil || !reflect.DeepEqual(ahead, st) {
			t.Errorf("%s: read ahead: got %+v, %v, want %+v", name, ahead, err, st)
		}
		b, err := st.Ordinals()
		if err != nil {
			t.Fatal(err)
		}
		want := s.naive(b)
		for _, trailer := range []*[20]byte{nil, &st.Trailer} {
			for _, window := range []int{0, 1, 700, 64 << 10, 1 << 30} {
				p, err := s.Pack(b, trailer)
				if err != nil {
					t.Fatal(err)
				}
				s.reads = nil
				pr := p.Reader(s.opener, window)
				got, err := io.ReadAll(pr)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, want) || p.Size != int64(len(want)) || st.Size != p.Size {
					t.Errorf("%s, window %d: %d bytes (size %d), want %d", name, window, len(got), p.Size, len(want))
				}
				if window >= 64<<10 && len(s.reads) > 3+2_000_000/window*2 {
					t.Errorf("%s, window %d: %d reads of segments", name, window, len(s.reads))
				}
				if err := pr.Close(); err != nil || s.open != 0 {
					t.Errorf("%s: close: %v, %d segments open", name, err, s.open)
				}
			}
		}
	}
}

// naive puts a pack together from the entries one by one.
func (s *segmented) naive(b *roaring.Bitmap) []byte {
	out := appendPackHeader(nil, uint32(b.GetCardinality()))
	for _, i := range b.ToArray() {
		k := i / 350
		x := s.Set.segments[k]
		end := x.Size() - sha1.Size
		if i := int(i%350) + 1; i < x.Len() {
			end = x.offset(i)
		}
		out = append(out, s.segments[k][x.offset(int(i%350)):end]...)
	}
	sum := sha1.Sum(out)
	return append(out, sum[:]...)
}

func TestPackErrors(t *testing.T) {
	t.Parallel()
	s := newSegmented(t)
	if _, err := s.Pack(roaring.BitmapOf(900), nil); err == nil {
		t.Error("pack with an object beyond the set")
	}
	p, err := s.Pack(roaring.BitmapOf(1, 400), nil)
	if err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	r := p.Reader(func(i int) (Segment, error) {
		if i == 1 {
			return nil, boom
		}
		return s.opener(i)
	}, 0)
	if _, err := io.ReadAll(r); !errors.Is(err, boom) {
		t.Errorf("err = %v, want boom", err)
	}
	s.segments[1] = s.segments[1][:100]
	for _, window := range []int{0, 4096} {
		if _, err := io.ReadAll(p.Reader(s.opener, window)); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut segment, window %d: err = %v, want unexpected EOF", window, err)
		}
	}
}

func BenchmarkWriteSegment(b *testing.B) {
	m := blobs(5000, 20_000, 8)
	size := int64(0)
	for _, o := range m.objects {
		size += o.Size
	}
	b.SetBytes(size)
	for b.Loop() {
		if _, err := WriteSegment(b.Context(), io.Discard, m, m.order); err != nil {
			b.Fatal(err)
		}
	}
}

// The index of a segment can be made again from the segment, byte for byte,
// and from nothing that is not one.
func TestIndexSegment(t *testing.T) {
	t.Parallel()
	m := blobs(300, 5000, 7)
	m.add(Tree, nil)
	m.add(Blob, bytes.Repeat([]byte("large"), largeObject/4))
	m.add(Commit, []byte("tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n"))
	segment, x := writeSegment(t, m, m.order)
	index := func(raw []byte) (*SegmentIndex, error) {
		dir := t.TempDir()
		spool, err := os.Create(filepath.Join(dir, "spool"))
		if err != nil {
			t.Fatal(err)
		}
		defer spool.Close()
		if err := os.WriteFile(filepath.Join(dir, "segment"), raw, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(filepath.Join(dir, "segment"))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		return IndexSegment(t.Context(), file, spool)
	}
	got, err := index(segment)
	if err != nil {
		t.Fatal(err)
	}
	want, err := x.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	if raw, err := got.MarshalBinary(); err != nil || !bytes.Equal(raw, want) {
		t.Errorf("the index comes out different: %d bytes, want %d (%v)", len(raw), len(want), err)
	}
	segment[len(segment)/2] ^= 1
	if _, err := index(segment); err == nil {
		t.Error("a damaged segment has an index")
	}
}
