package gitpack

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"os"
	"slices"
	"sync"

	"github.com/klauspost/compress/zlib"
)

// gitformat-pack(5).
const (
	packHeaderBytes = 12
	// The shortest entry: one header byte, and zlib's stream of nothing.
	minEntryBytes = 9

	ofsDelta Type = 6
	refDelta Type = 7
)

// Unpack reads a packfile that contains all its delta bases, and stores each
// object whole in spool, an empty file. It trusts nothing in the pack: what is
// refused, and every limit that is passed, is an *Error.
//
// Memory does not grow with the size of objects. The spool grows up to
// lim.InflatedBytes, also when Unpack fails. One pass over the pack does, as a
// delta nearly always follows its base; the few others are inflated twice.
// Ids are computed on a second processor, from what the spool holds.
//
// progress, unless nil, is called after each object, with the number done so far.
func Unpack(ctx context.Context, pack, spool *os.File, lim Limits, progress func(done, total int)) (*Objects, error) {
	x, err := readPack(ctx, pack, spool, lim, progress)
	if err != nil {
		return nil, err
	}
	return x.Objects, nil
}

// IndexSegment returns the index of a segment, worked out from its bytes. Its
// objects go to spool, an empty file.
func IndexSegment(ctx context.Context, segment, spool *os.File) (*SegmentIndex, error) {
	x, err := readPack(ctx, segment, spool, StoredLimits(), nil)
	if err != nil {
		return nil, fmt.Errorf("index segment: %w", err)
	}
	ids, types, lengths := make([]OID, len(x.entries)), make([]Type, len(x.entries)), make([]int64, len(x.entries))
	end := x.end
	for i, e := range slices.Backward(x.entries) {
		ids[i], types[i], lengths[i] = e.oid, e.typ, end-x.offsets[i]
		end = x.offsets[i]
	}
	return newIndex(ids, types, lengths)
}

func readPack(ctx context.Context, pack, spool *os.File, lim Limits, progress func(done, total int)) (*unpacker, error) {
	info, err := pack.Stat()
	if err != nil {
		return nil, fmt.Errorf("unpack: %w", err)
	}
	count, err := packCount(pack, info.Size(), lim)
	if err != nil {
		return nil, ofWhole(pack, info.Size(), err)
	}
	if progress == nil {
		progress = func(int, int) {}
	}
	objects := NewObjects(spool)
	objects.entries = make([]entry, count)
	x := &unpacker{
		Objects:  objects,
		pack:     pack,
		end:      info.Size() - sha1.Size,
		lim:      lim,
		progress: progress,
		offsets:  make([]int64, 0, count),
		spooled:  make(chan []uint32, 4),
	}
	x.out = bufio.NewWriterSize(&sink{x: x}, 256<<10)

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var hashing sync.WaitGroup
	hashing.Go(func() { x.hash(cancel) })
	err = x.read(ctx)
	close(x.spooled)
	hashing.Wait()
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if err != nil {
		if errors.As(err, new(*Error)) {
			return nil, ofWhole(pack, info.Size(), err)
		}
		return nil, fmt.Errorf("unpack: %w", err)
	}
	objects.end = x.written
	return x, nil
}

// ofWhole returns a verdict on a pack if upstream made the pack so. A bit that fell over on the way makes any number too
// large, and is no reason to leave the pack's tags alone for a month.
func ofWhole(pack io.ReaderAt, size int64, err error) error {
	var verdict *Error
	if !errors.As(err, &verdict) || verdict.Code == CodePackMalformed || verdict.Code == CodePackTooLarge {
		return err
	}
	sum, end := sha1.New(), size-sha1.Size
	if _, err := io.Copy(sum, io.NewSectionReader(pack, 0, end)); err != nil {
		return fmt.Errorf("read pack: %w", err)
	}
	if e := checkTrailer(pack, end, sum); e != nil {
		return e
	}
	return err
}

// checkTrailer returns an error unless a pack ends, behind end bytes, with their sum.
func checkTrailer(pack io.ReaderAt, end int64, sum hash.Hash) error {
	var trailer [sha1.Size]byte
	if _, err := pack.ReadAt(trailer[:], end); err != nil {
		return fmt.Errorf("read pack trailer: %w", err)
	}
	if got := sum.Sum(nil); !bytes.Equal(got, trailer[:]) {
		return errorf(CodePackMalformed, "pack has checksum %x, its trailer says %x", got, trailer)
	}
	return nil
}

// packCount returns the number of objects that the header promises. More than
// the pack has room for is refused here, before anything is allocated for them.
func packCount(pack io.ReaderAt, size int64, lim Limits) (int, error) {
	if size > lim.PackBytes {
		return 0, errorf(CodePackTooLarge, "pack has %d bytes, more than %d", size, lim.PackBytes)
	}
	if size < packHeaderBytes+sha1.Size {
		return 0, errorf(CodePackMalformed, "pack of %d bytes ends before its trailer", size)
	}
	var h [packHeaderBytes]byte
	if _, err := pack.ReadAt(h[:], 0); err != nil {
		return 0, fmt.Errorf("read pack header: %w", err)
	}
	if string(h[:4]) != "PACK" {
		return 0, errorf(CodePackMalformed, "not a pack: starts with %q", h[:4])
	}
	if v := binary.BigEndian.Uint32(h[4:]); v != 2 {
		return 0, errorf(CodePackMalformed, "pack version is %d, not 2", v)
	}
	count := int64(binary.BigEndian.Uint32(h[8:]))
	if count > int64(lim.Objects) {
		return 0, errorf(codeTooManyObjects, "pack has %d objects, more than %d", count, lim.Objects)
	}
	if room := (size - packHeaderBytes - sha1.Size) / minEntryBytes; count > room {
		return 0, errorf(CodePackMalformed, "pack of %d bytes has no room for %d objects", size, count)
	}
	return int(count), nil
}

// An unpacker is the state of one Unpack.
type unpacker struct {
	*Objects
	pack     *os.File
	end      int64 // of the entries, in the pack
	lim      Limits
	progress func(done, total int)

	offsets  []int64 // of the entries in the pack, ascending
	inflater io.ReadCloser
	inflated int64 // content and delta instructions announced so far
	ioErr    error // of pack or spool, which the decoder would blame on the pack

	out     *bufio.Writer // to the spool
	written int64         // to out
	flushed int64         // to the spool

	done     int      // objects
	fresh    []uint32 // entries not yet given to hash
	freshLen int64    // their bytes
	spooled  chan []uint32
	pending  sync.WaitGroup // slices in spooled
	mu       sync.Mutex     // guards byID, which hash fills

	deltas deltaReader
}

// A sink appends to the spool.
type sink struct{ x *unpacker }

func (s *sink) Write(p []byte) (int, error) {
	n, err := s.x.spool.WriteAt(p, s.x.flushed)
	s.x.flushed += int64(n)
	s.x.ioErr = cmp.Or(s.x.ioErr, err)
	return n, err
}

// entryBytes reads the entries of the pack from off on.
type entryBytes struct {
	x   *unpacker
	off int64
	sum hash.Hash // of what was read; may be nil
}

func (s *entryBytes) Read(p []byte) (int, error) {
	n, err := io.NewSectionReader(s.x.pack, s.off, s.x.end-s.off).Read(p)
	if s.sum != nil {
		s.sum.Write(p[:n])
	}
	s.off += int64(n)
	if err != nil && err != io.EOF {
		s.x.ioErr = err
	}
	return n, err
}

// malformed blames the pack for err, unless the machine is to blame.
func (x *unpacker) malformed(i int, err error) error {
	var verdict *Error
	if x.ioErr != nil {
		return x.ioErr
	}
	if errors.As(err, &verdict) {
		return err
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return errorf(CodePackMalformed, "pack entry %d at offset %d: %v", i, x.offsets[i], err)
}

// hash gives ids to the entries that come out of spooled.
func (x *unpacker) hash(cancel context.CancelCauseFunc) {
	h := newHasher()
	for batch := range x.spooled {
		for _, i := range batch {
			e := &x.entries[i]
			id, err := h.sum(e.typ, e.size, x.content(i))
			if err != nil {
				cancel(err)
				break
			}
			e.oid = id
			x.mu.Lock()
			x.byID[id] = i // either copy will do, if the pack has two
			x.mu.Unlock()
		}
		x.pending.Done()
	}
}

// read unpacks every entry and checks the trailer.
func (x *unpacker) read(ctx context.Context) error {
	src := &entryBytes{x: x, sum: sha1.New()}
	in := bufio.NewReaderSize(src, 256<<10)
	if _, err := in.Discard(packHeaderBytes); err != nil {
		return err
	}
	var waiting []waiter
	for i := range x.entries {
		x.offsets = append(x.offsets, src.off-int64(in.Buffered()))
		w, err := x.entry(ctx, i, in)
		if err != nil {
			return x.malformed(i, err)
		}
		if w != nil {
			waiting = append(waiting, *w)
		}
	}
	if at := src.off - int64(in.Buffered()); at != x.end {
		return errorf(CodePackMalformed, "pack has %d bytes after its last object", x.end-at)
	}
	if err := checkTrailer(x.pack, x.end, src.sum); err != nil {
		return err
	}
	return x.settle(ctx, waiting)
}

// An entryHeader is what precedes the compressed bytes of an entry.
type entryHeader struct {
	typ  Type
	size int64 // of the object, or of the delta's instructions
	base int64 // offset of the base in the pack, for ofsDelta
	id   OID   // of the base, for refDelta
}

// readHeader reads the header of the entry at offset.
func readHeader(in *bufio.Reader, offset int64) (h entryHeader, err error) {
	b, err := in.ReadByte()
	if err != nil {
		return h, err
	}
	h.typ, h.size = Type(b>>4&7), int64(b&15)
	for shift := 4; b&0x80 != 0; shift += 7 {
		if b, err = in.ReadByte(); err != nil {
			return h, err
		}
		if shift > 53 {
			return h, errors.New("size does not fit 60 bits")
		}
		h.size |= int64(b&0x7f) << shift
	}
	switch h.typ {
	case Commit, Tree, Blob, Tag:
		return h, nil
	case refDelta:
		_, err = io.ReadFull(in, h.id[:])
		return h, err
	case ofsDelta:
		distance, err := readDistance(in)
		if err != nil {
			return h, err
		}
		if distance <= 0 || distance > offset-packHeaderBytes {
			return h, fmt.Errorf("delta base is %d bytes back, before the first entry", distance)
		}
		h.base = offset - distance
		return h, nil
	}
	return h, fmt.Errorf("object type %d does not exist", uint8(h.typ))
}

// readDistance reads the offset encoding of gitformat-pack(5).
func readDistance(in *bufio.Reader) (int64, error) {
	b, err := in.ReadByte()
	if err != nil {
		return 0, err
	}
	n := int64(b & 0x7f)
	for b&0x80 != 0 {
		if n > math.MaxInt64>>8 {
			return 0, errors.New("delta base distance does not fit 63 bits")
		}
		if b, err = in.ReadByte(); err != nil {
			return 0, err
		}
		n = (n+1)<<7 | int64(b&0x7f)
	}
	return n, nil
}

// entry stores the object of entry i, which starts where in stands. A delta
// whose base is not there yet is skipped, and the waiter for that base returned.
func (x *unpacker) entry(ctx context.Context, i int, in *bufio.Reader) (*waiter, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	h, err := readHeader(in, x.offsets[i])
	if err != nil {
		return nil, err
	}
	if err := x.charge(h.size); err != nil {
		return nil, err
	}
	if err := x.inflate(in); err != nil {
		return nil, err
	}
	if h.typ <= Tag {
		return nil, x.store(i, entry{typ: h.typ, size: h.size}, func() error {
			return copyAll(x.out, x.inflater, h.size)
		})
	}
	base, ok, err := x.base(h)
	if err != nil {
		return nil, err
	}
	if !ok {
		w := &waiter{ofs: h.base, id: h.id, entry: uint32(i)}
		return w, copyAll(io.Discard, x.inflater, h.size)
	}
	return nil, x.applyDelta(ctx, i, base, h.size)
}

// charge counts size bytes against the limits, before they are inflated.
func (x *unpacker) charge(size int64) error {
	if size > x.lim.ObjectBytes {
		return errorf(CodeObjectTooLarge, "object of %d bytes in pack, more than %d", size, x.lim.ObjectBytes)
	}
	if x.inflated += size; x.inflated > x.lim.InflatedBytes {
		return errorf(CodeInflatedTooLarge, "pack inflates to more than %d bytes", x.lim.InflatedBytes)
	}
	return nil
}

// inflate points x.inflater at the zlib stream where in stands. As in reads
// byte by byte, the inflater takes none beyond its end.
func (x *unpacker) inflate(in *bufio.Reader) (err error) {
	if x.inflater == nil {
		x.inflater, err = zlib.NewReader(in)
		return err
	}
	return x.inflater.(zlib.Resetter).Reset(in, nil)
}

// copyAll copies r, which must have exactly size bytes.
func copyAll(w io.Writer, r io.Reader, size int64) error {
	if n, err := io.CopyN(w, r, size); err != nil {
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("inflates to %d bytes, header says %d", n, size)
		}
		return err
	}
	return atEnd(r, size)
}

// atEnd reports whether r has no more than the size bytes that were read. It
// makes the inflater check its checksum.
func atEnd(r io.Reader, size int64) error {
	var one [1]byte
	n, err := io.ReadFull(r, one[:])
	if n != 0 {
		return fmt.Errorf("inflates to more than the %d bytes that its header says", size)
	}
	if err != io.EOF {
		return err
	}
	return nil
}

// store appends the object e as entry i. write must write e.size bytes to x.out.
func (x *unpacker) store(i int, e entry, write func() error) error {
	e.off = x.written
	if err := write(); err != nil {
		return err
	}
	x.written += e.size
	x.entries[i] = e
	x.done++
	x.progress(x.done, len(x.entries))
	x.fresh = append(x.fresh, uint32(i))
	x.freshLen += e.size
	if x.freshLen >= 1<<20 || len(x.fresh) >= 512 {
		return x.flush()
	}
	return nil
}

// flush makes the spool whole and hands the entries in it to hash.
func (x *unpacker) flush() error {
	if err := x.out.Flush(); err != nil {
		return err
	}
	if len(x.fresh) > 0 {
		x.pending.Add(1)
		x.spooled <- x.fresh
		x.fresh, x.freshLen = nil, 0
	}
	return nil
}

// base returns the entry that a delta builds on, and whether it is stored yet.
func (x *unpacker) base(h entryHeader) (base uint32, ok bool, err error) {
	if h.typ == ofsDelta {
		base, ok := slices.BinarySearch(x.offsets, h.base)
		if !ok {
			return 0, false, fmt.Errorf("delta base at offset %d is not an entry", h.base)
		}
		return uint32(base), x.entries[base].typ != 0, nil
	}
	if base, ok = x.lookup(h.id); ok {
		return base, true, nil
	}
	// It may be one of those that wait for their id.
	if err := x.sync(); err != nil {
		return 0, false, err
	}
	base, ok = x.lookup(h.id)
	return base, ok, nil
}

func (x *unpacker) lookup(id OID) (uint32, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	i, ok := x.byID[id]
	return i, ok
}

// sync waits until every stored entry has its id.
func (x *unpacker) sync() error {
	err := x.flush()
	x.pending.Wait()
	return err
}

// A waiter is a delta that came before its base.
type waiter struct {
	ofs   int64 // of the base in the pack; 0 if it is named by id
	id    OID
	entry uint32
}

func (w waiter) compare(v waiter) int {
	return cmp.Or(cmp.Compare(w.ofs, v.ofs), bytes.Compare(w.id[:], v.id[:]))
}

// settle unpacks the deltas that came before their bases, each as soon as its
// base is there. What then still waits has no base, or is its own.
func (x *unpacker) settle(ctx context.Context, waiting []waiter) error {
	if err := x.sync(); err != nil {
		return err
	}
	slices.SortFunc(waiting, waiter.compare)
	var ready []uint32
	wake := func(base waiter) {
		n, _ := slices.BinarySearchFunc(waiting, base, waiter.compare)
		for ; n < len(waiting) && waiting[n].compare(base) == 0; n++ {
			ready = append(ready, waiting[n].entry)
		}
	}
	for n, w := range waiting {
		if n > 0 && w.compare(waiting[n-1]) == 0 {
			continue
		}
		if _, ok := x.lookup(w.id); ok && w.ofs == 0 {
			wake(w)
		}
	}
	in := bufio.NewReader(nil)
	for len(ready) > 0 {
		i := ready[len(ready)-1]
		ready = ready[:len(ready)-1]
		if x.entries[i].typ != 0 {
			continue // woken by two copies of its base
		}
		in.Reset(&entryBytes{x: x, off: x.offsets[i]})
		if _, err := x.entry(ctx, int(i), in); err != nil {
			return x.malformed(int(i), err)
		}
		if err := x.sync(); err != nil {
			return err
		}
		wake(waiter{ofs: x.offsets[i]})
		wake(waiter{id: x.entries[i].oid})
	}
	if x.done < len(x.entries) {
		return errorf(CodePackMalformed, "pack has %d deltas without a base", len(x.entries)-x.done)
	}
	return nil
}
