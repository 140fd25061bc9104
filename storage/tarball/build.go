package tarball

import (
	"context"
	"fmt"
	"io"
	"iter"
	"os"
)

// A Builder writes tarballs. It is safe for concurrent use: the builds share what they deflate.
type Builder struct {
	chunks *chunkCache
	lim    Limits
}

// NewBuilder returns a Builder of tarballs in the given form, that keeps deflated chunks in scratch: an empty file, open for reading and
// writing, that nobody else uses and whose bytes mean nothing afterwards. It grows to the size of what large
// files deflate to, each once. Use one Builder for all tags of a package.
func NewBuilder(scratch *os.File, form Form, lim Limits) *Builder {
	return &Builder{
		chunks: newChunkCache(form, scratch),
		lim:    lim.orMax(),
	}
}

// Build writes the tarball of a tree to w.
//
// The entries come in the order of "git ls-tree -r -t": directories, too, each before what is inside. ErrInvalid
// are entries that break a rule of Entry, names that are empty, "." or "..", an entry that comes twice, too
// early or too late, and content of another length than said; ErrTooLarge is what exceeds a limit. Errors
// of entries, Open, scratch and w are wrapped. After an error, what w has got is of no use.
//
// Build reads content as it comes and holds two to three megabytes, the compressor's included, whatever
// the size of the tree. It uses one processor, and stops soon after ctx ends.
func (b *Builder) Build(ctx context.Context, w io.Writer, h Header, entries iter.Seq2[Entry, error]) (Info, error) {
	if err := checkHeader(h); err != nil {
		return Info{}, err
	}
	global, mtime := globalHeader(h)
	t := &tarWriter{
		gzipWriter: newGzipWriter(w, b.chunks, b.lim),
		prefix:     h.Prefix,
		mtime:      mtime,
	}
	if err := t.pax(global); err != nil {
		return Info{}, err
	}
	if h.Prefix != "" {
		if err := t.header(&Entry{Mode: Directory}, h.Prefix); err != nil {
			return Info{}, err
		}
	}
	n := 0
	for e, err := range entries {
		if err != nil {
			return Info{}, fmt.Errorf("list entries: %w", err)
		}
		if err := ctx.Err(); err != nil {
			return Info{}, err
		}
		if n++; n > b.lim.Entries {
			return Info{}, fmt.Errorf("tree of more than %d entries: %w", b.lim.Entries, ErrTooLarge)
		}
		if err := t.add(ctx, e); err != nil {
			return Info{}, err
		}
	}
	if err := t.trailer(); err != nil {
		return Info{}, err
	}
	return t.finish()
}

// A tarWriter writes the tar stream.
type tarWriter struct {
	*gzipWriter
	prefix  string
	mtime   int64
	order   order
	written int // directories of order.dirs that are in the stream
}

// add takes one entry of the tree. A directory waits until something is inside.
func (t *tarWriter) add(ctx context.Context, e Entry) error {
	if err := e.check(); err != nil {
		return err
	}
	if err := t.order.add(e); err != nil {
		return err
	}
	if e.Mode == Directory {
		t.written = min(t.written, len(t.order.dirs)-1)
		return nil
	}
	t.written = min(t.written, len(t.order.dirs))
	for _, d := range t.order.dirs[t.written:] {
		if err := t.header(&d, t.prefix+d.Path+"/"); err != nil {
			return err
		}
		t.written++
	}

	path := t.prefix + e.Path
	if e.Mode == Submodule {
		path += "/"
	}
	if err := t.header(&e, path); err != nil {
		return err
	}
	if e.Size == 0 {
		return nil
	}
	r, err := e.Open()
	if err != nil {
		return fmt.Errorf("open %q: %w", e.Path, err)
	}
	if err := t.readContent(ctx, r, e.Size, e.OID); err != nil {
		return fmt.Errorf("write %q: %w", e.Path, err)
	}
	return t.pad(recordSize)
}

// header writes what comes before an entry's content. The path is as in entryHeader.
func (t *tarWriter) header(e *Entry, path string) error {
	ext, r, err := entryHeader(e, path, t.mtime)
	if err != nil {
		return err
	}
	if err := t.pax(ext); err != nil {
		return err
	}
	_, err = t.Write(r[:])
	return err
}

// pax writes an extended header, if there is one.
func (t *tarWriter) pax(p paxHeader) error {
	if p.record == nil {
		return nil
	}
	if _, err := t.Write(p.record[:]); err != nil {
		return err
	}
	if _, err := io.WriteString(t, p.text); err != nil {
		return err
	}
	return t.pad(recordSize)
}

// pad adds zeros up to a multiple of unit, which is at most blockSize.
func (t *tarWriter) pad(unit int64) error {
	var zeros [blockSize]byte
	_, err := t.Write(zeros[:(unit-t.size%unit)%unit])
	return err
}

// trailer ends the stream as Git does: at least two empty records, and whole blocks.
func (t *tarWriter) trailer() error {
	var zeros [2 * recordSize]byte
	if _, err := t.Write(zeros[:]); err != nil {
		return err
	}
	return t.pad(blockSize)
}
