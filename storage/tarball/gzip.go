package tarball

import (
	"bufio"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"
)

const (
	gzipHeader = "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"

	// lastBlock is an empty deflate block that ends the stream.
	lastBlock = "\x03\x00"

	// readSize is how much content is read at once.
	readSize = 64 << 10

	// maxPending is how many chunks a build may be ahead of the first that another build has not finished.
	maxPending = 64
)

// A gzipWriter makes a tar.gz from a tar stream and a hint in it: where content begins and ends.
type gzipWriter struct {
	chunks *chunkCache
	out    *bufio.Writer
	sink   *sink
	max    int64 // bytes of the tar stream

	sha  hash.Hash // of the tar stream, as are the next two
	crc  uint32
	size int64

	buf     []byte // the current chunk so far
	content bool   // it is content
	cutter  cutter
	known   []part // if the content was cut before: the chunks that are left of it
	parts   []part // else: those that it was cut into so far
	pending []*deflated
}

func newGzipWriter(w io.Writer, chunks *chunkCache, lim Limits) *gzipWriter {
	s := &sink{w: w, max: lim.Size, sha: sha256.New(), md5: md5.New()}
	z := &gzipWriter{
		chunks: chunks,
		out:    bufio.NewWriterSize(s, readSize),
		sink:   s,
		max:    lim.ContentSize,
		sha:    sha256.New(),
		buf:    make([]byte, 0, maxChunk),
	}
	z.out.WriteString(gzipHeader) // a bufio.Writer keeps its error
	return z
}

// Write adds to the tar stream.
func (z *gzipWriter) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := copy(z.buf[len(z.buf):cap(z.buf)], rest)
		rest = rest[n:]
		if err := z.filled(n); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// readContent adds n bytes of r, which must not have more: the content of the object oid, which may be "".
func (z *gzipWriter) readContent(ctx context.Context, r io.Reader, n int64, oid string) error {
	if n >= minContent {
		if err := z.cut(true); err != nil {
			return err
		}
		z.known, z.parts = z.chunks.partsOf(oid), nil
	}
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		free := z.buf[len(z.buf):cap(z.buf)]
		k, err := io.ReadFull(r, free[:min(int64(len(free)), readSize, n)])
		if err != nil {
			return contentError(err, n)
		}
		n -= int64(k)
		if err := z.filled(k); err != nil {
			return err
		}
	}
	if k, err := io.ReadFull(r, z.buf[len(z.buf):len(z.buf)+1]); k > 0 || err != io.EOF {
		return contentError(err, 0)
	}
	if !z.content {
		return nil
	}
	if err := z.cut(false); err != nil {
		return err
	}
	if z.parts != nil {
		z.chunks.keepParts(oid, z.parts)
	}
	return nil
}

// contentError explains why reading content of a known size did not end as it should.
func contentError(err error, missing int64) error {
	switch {
	case err == nil:
		return fmt.Errorf("content is longer than said: %w", ErrInvalid)
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		return fmt.Errorf("content is shorter than said, by %d bytes or less: %w", missing, ErrInvalid)
	}
	return fmt.Errorf("read content: %w", err)
}

// filled takes n more bytes, which are in the buffer already, and cuts where it must.
func (z *gzipWriter) filled(n int) error {
	fresh := z.buf[len(z.buf) : len(z.buf)+n]
	z.sha.Write(fresh)
	z.crc = crc32.Update(z.crc, crc32.IEEETable, fresh)
	z.size += int64(n)
	if z.size > z.max {
		return fmt.Errorf("tar stream of more than %d bytes: %w", z.max, ErrTooLarge)
	}

	z.buf = z.buf[:len(z.buf)+n]
	for z.content {
		k := z.nextCut()
		if k == 0 {
			break
		}
		if err := z.emit(k); err != nil {
			return err
		}
	}
	if len(z.buf) == cap(z.buf) {
		return z.cut(z.content)
	}
	return nil
}

// nextCut returns the length of the chunk of content that the buffer begins with, or 0 if it does not end there.
func (z *gzipWriter) nextCut() int {
	if len(z.known) == 0 {
		return z.cutter.cut(z.buf)
	}
	if n := z.known[0].n; n <= len(z.buf) {
		return n
	}
	return 0
}

// cut ends the current chunk and says what the next one holds.
func (z *gzipWriter) cut(content bool) error {
	if err := z.emit(len(z.buf)); err != nil {
		return err
	}
	z.content = content
	z.cutter = cutter{}
	return nil
}

// emit makes a chunk of the first n bytes of the buffer, and keeps the others.
func (z *gzipWriter) emit(n int) error {
	if n == 0 {
		return nil
	}
	if !z.content { // it has headers, with the commit's time: no other tarball has it
		if err := z.writeAllPending(); err != nil {
			return err
		}
		if err := z.chunks.deflateTo(z.out, z.buf[:n]); err != nil {
			return err
		}
		z.buf = z.buf[:copy(z.buf, z.buf[n:])]
		return nil
	}
	// If another build is at work on this chunk, go on to the next: two builds of like trees share the work.
	z.pending = append(z.pending, z.part(n))
	z.buf = z.buf[:copy(z.buf, z.buf[n:])]
	for len(z.pending) > 0 {
		select {
		case <-z.pending[0].done:
		default:
			if len(z.pending) < maxPending {
				return nil
			}
		}
		if err := z.writePending(); err != nil {
			return err
		}
	}
	return nil
}

// part returns the next chunk of content, which is the first n bytes of the buffer.
func (z *gzipWriter) part(n int) *deflated {
	if len(z.known) > 0 && z.known[0].n == n {
		d := z.known[0].deflated
		z.known = z.known[1:]
		return d
	}
	z.known = nil
	d := z.chunks.deflate(z.buf[:n])
	z.parts = append(z.parts, part{n, d})
	return d
}

// writePending writes the first pending chunk, once it is there.
func (z *gzipWriter) writePending() error {
	d := z.pending[0]
	z.pending = z.pending[1:]
	return z.chunks.write(z.out, d)
}

func (z *gzipWriter) writeAllPending() error {
	for len(z.pending) > 0 {
		if err := z.writePending(); err != nil {
			return err
		}
	}
	return nil
}

// finish writes what is left and returns the hashes of it all.
func (z *gzipWriter) finish() (Info, error) {
	if err := z.cut(false); err != nil {
		return Info{}, err
	}
	if err := z.writeAllPending(); err != nil {
		return Info{}, err
	}
	z.out.WriteString(lastBlock)
	var trailer [8]byte
	binary.LittleEndian.PutUint32(trailer[:4], z.crc)
	binary.LittleEndian.PutUint32(trailer[4:], uint32(z.size))
	z.out.Write(trailer[:])
	if err := z.out.Flush(); err != nil {
		return Info{}, err
	}
	info := z.sink.info()
	info.ContentDigest = hex.EncodeToString(z.sha.Sum(nil))
	info.ContentSize = z.size
	return info, nil
}

// A sink hashes what passes through, and lets no more than max bytes pass.
type sink struct {
	w        io.Writer
	max      int64
	sha, md5 hash.Hash
	crc      uint32
	size     int64
}

func (s *sink) Write(p []byte) (int, error) {
	s.size += int64(len(p))
	if s.size > s.max {
		return 0, fmt.Errorf("tarball of more than %d bytes: %w", s.max, ErrTooLarge)
	}
	s.sha.Write(p)
	s.md5.Write(p)
	s.crc = crc32.Update(s.crc, crc32.IEEETable, p)
	return s.w.Write(p)
}

func (s *sink) info() Info {
	return Info{
		Digest: hex.EncodeToString(s.sha.Sum(nil)),
		MD5:    hex.EncodeToString(s.md5.Sum(nil)),
		CRC32:  fmt.Sprintf("%08x", s.crc),
		Size:   s.size,
	}
}

// Compress writes one gzip member, made as a tarball's is, so that every Zig inflates it, of what write writes.
// scratch is as for [NewBuilder]. ErrTooLarge is what exceeds lim.
func Compress(w io.Writer, scratch *os.File, lim Limits, write func(io.Writer) error) (Info, error) {
	z := newGzipWriter(w, newChunkCache(Form2, scratch), lim.orMax())
	if err := write(z); err != nil {
		return Info{}, err
	}
	return z.finish()
}
