package gitpack

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"runtime"

	"github.com/klauspost/compress/zlib"
	"golang.org/x/sync/errgroup"
)

const (
	// maxSegmentObjects is the most objects of one segment.
	maxSegmentObjects = 1 << 27

	zlibLevel   = 6
	batchSize   = 1 << 20 // inflated bytes that one goroutine compresses at a time
	largeObject = 4 << 20 // inflated bytes from which an object is streamed instead
)

// A Source holds the objects that a segment is made of.
// It must be safe for concurrent use.
type Source interface {
	// Open returns the content of an object, without Git's header.
	Open(id OID) (*io.SectionReader, error)
	// Stat says what an object is; ok is false if there is none.
	Stat(id OID) (o Object, ok bool)
}

// WriteSegment writes the objects named by ids, in that order, as a segment:
// a complete pack of whole, zlib-compressed objects. The bytes depend on the
// objects and their order alone.
//
// Objects are compressed on all cores and held for a short time, about 1 MiB
// and at most 4 MiB a core; larger ones are streamed, one after the other.
//
// gitformat-pack(5), "pack-*.pack files have the following format".
func WriteSegment(ctx context.Context, w io.Writer, src Source, ids []OID) (*SegmentIndex, error) {
	if len(ids) == 0 || len(ids) > maxSegmentObjects {
		return nil, fmt.Errorf("write segment of %d objects: want 1 to %d", len(ids), maxSegmentObjects)
	}
	batches, err := split(src, ids)
	if err != nil {
		return nil, fmt.Errorf("write segment: %w", err)
	}
	s := &segmentWriter{src: src, sum: sha1.New()}
	s.out = bufio.NewWriterSize(io.MultiWriter(w, s.sum), 64<<10)
	if err := s.write(ctx, batches, len(ids)); err != nil {
		return nil, fmt.Errorf("write segment: %w", err)
	}
	return newIndex(ids, s.types, s.lengths)
}

// A batch is a few consecutive objects, compressed together.
type batch struct {
	objects []Object
	large   bool // one object, compressed by whoever writes the segment

	entries bytes.Buffer // set by compress, with lengths
	lengths []int64
	done    chan struct{} // closed when compressed
}

// split cuts ids into batches of about batchSize inflated bytes.
func split(src Source, ids []OID) ([]*batch, error) {
	var batches []*batch
	var b *batch
	var size int64
	for _, id := range ids {
		o, ok := src.Stat(id)
		if !ok {
			return nil, fmt.Errorf("object %s: not in the source", id)
		}
		large := o.Size >= largeObject
		if b == nil || b.large || large || size+o.Size > batchSize {
			b = &batch{large: large, done: make(chan struct{})}
			batches, size = append(batches, b), 0
		}
		b.objects, size = append(b.objects, o), size+o.Size
	}
	return batches, nil
}

type segmentWriter struct {
	src     Source
	sum     hash.Hash
	out     *bufio.Writer // to the caller and to sum
	types   []Type
	lengths []int64 // of the entries written
}

// write sends batches through the compressors and writes them in order.
func (s *segmentWriter) write(ctx context.Context, batches []*batch, count int) error {
	workers := runtime.GOMAXPROCS(0)
	// A batch stands in ordered from before it is compressed until after it
	// is written: its capacity bounds the memory.
	ordered := make(chan *batch, workers)
	work := make(chan *batch)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(ordered)
		defer close(work)
		for _, b := range batches {
			if err := send(ctx, ordered, b); err != nil {
				return err
			}
			if b.large {
				continue
			}
			if err := send(ctx, work, b); err != nil {
				return err
			}
		}
		return nil
	})
	for range workers {
		g.Go(func() error {
			z := newCompressor()
			for b := range work {
				if err := b.compress(z, s.src); err != nil {
					return err
				}
				close(b.done)
			}
			return nil
		})
	}
	g.Go(func() error { return s.writeAll(ctx, ordered, count) })
	return g.Wait()
}

func send(ctx context.Context, c chan<- *batch, b *batch) error {
	select {
	case c <- b:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// writeAll writes header, batches and trailer.
func (s *segmentWriter) writeAll(ctx context.Context, ordered <-chan *batch, count int) error {
	header := appendPackHeader(nil, uint32(count))
	if _, err := s.out.Write(header); err != nil {
		return err
	}
	z := newCompressor()
	for b := range ordered {
		if err := s.writeBatch(ctx, z, b); err != nil {
			return err
		}
	}
	if len(s.lengths) < count {
		return context.Cause(ctx)
	}
	if err := s.out.Flush(); err != nil {
		return err
	}
	// The sum no longer matters to itself: the trailer may go through out.
	if _, err := s.out.Write(s.sum.Sum(nil)); err != nil {
		return err
	}
	return s.out.Flush()
}

func (s *segmentWriter) writeBatch(ctx context.Context, z *compressor, b *batch) error {
	for _, o := range b.objects {
		s.types = append(s.types, o.Type)
	}
	if b.large {
		n, err := z.writeEntry(s.out, s.src, b.objects[0])
		s.lengths = append(s.lengths, n)
		return err
	}
	select {
	case <-b.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.lengths = append(s.lengths, b.lengths...)
	_, err := b.entries.WriteTo(s.out)
	b.entries = bytes.Buffer{}
	return err
}

func (b *batch) compress(z *compressor, src Source) error {
	for _, o := range b.objects {
		n, err := z.writeEntry(&b.entries, src, o)
		if err != nil {
			return err
		}
		b.lengths = append(b.lengths, n)
	}
	return nil
}

// A compressor writes pack entries. It is not safe for concurrent use.
type compressor struct {
	zlib *zlib.Writer
	buf  []byte
}

func newCompressor() *compressor {
	z, err := zlib.NewWriterLevel(nil, zlibLevel)
	if err != nil {
		panic(err) // the level is a constant
	}
	return &compressor{zlib: z, buf: make([]byte, 32<<10)}
}

// writeEntry writes one object as a pack entry and returns its length.
func (z *compressor) writeEntry(w io.Writer, src Source, o Object) (int64, error) {
	content, err := src.Open(o.OID)
	if err != nil {
		return 0, fmt.Errorf("open object %s: %w", o.OID, err)
	}
	count := &countingWriter{w: w}
	if _, err := count.Write(appendEntryHeader(nil, o.Type, o.Size)); err != nil {
		return 0, err
	}
	z.zlib.Reset(count)
	// Neither side may offer its own copying: the buffer is the compressor's.
	n, err := io.CopyBuffer(onlyWriter{z.zlib}, io.LimitReader(content, o.Size+1), z.buf)
	if err != nil {
		return 0, fmt.Errorf("compress object %s: %w", o.OID, err)
	}
	if n != o.Size {
		return 0, fmt.Errorf("compress object %s: %d bytes, want %d", o.OID, n, o.Size)
	}
	if err := z.zlib.Close(); err != nil {
		return 0, fmt.Errorf("compress object %s: %w", o.OID, err)
	}
	return count.n, nil
}

type onlyWriter struct{ io.Writer }

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

func appendPackHeader(b []byte, objects uint32) []byte {
	b = append(b, "PACK"...)
	b = binary.BigEndian.AppendUint32(b, 2)
	return binary.BigEndian.AppendUint32(b, objects)
}

// appendEntryHeader appends type and inflated size: 3 bits of type and 4 of
// size in the first byte, 7 bits of size in each that follows.
func appendEntryHeader(b []byte, t Type, size int64) []byte {
	c := byte(t)<<4 | byte(size&0xf)
	for size >>= 4; size > 0; size >>= 7 {
		b = append(b, c|0x80)
		c = byte(size & 0x7f)
	}
	return append(b, c)
}
