package gitpack

import (
	"bufio"
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/zlib"
)

// Read returns the content of one object of at most limit bytes, which is
// hashed again. The set must know ids.
func (s *Set) Read(id OID, typ Type, limit int64, open Opener) ([]byte, error) {
	b, err := s.read(id, typ, limit, open)
	if err != nil {
		return nil, fmt.Errorf("read object %s: %w", id, err)
	}
	return b, nil
}

func (s *Set) read(id OID, typ Type, limit int64, open Opener) ([]byte, error) {
	n, ok := s.Ordinal(id)
	if !ok {
		return nil, fmt.Errorf("in no segment")
	}
	k := 0
	for n >= s.bases[k+1] {
		k++
	}
	o := &s.segments[k].offsets
	from := o.at(int(n - s.bases[k]))
	segment, err := open(k)
	if err != nil {
		return nil, err
	}
	defer segment.Close()
	in := bufio.NewReader(io.NewSectionReader(segment, from, o.at(int(n-s.bases[k])+1)-from))
	h, err := readHeader(in, from)
	switch {
	case err != nil:
		return nil, err
	case h.typ != typ:
		return nil, fmt.Errorf("is a %s, not a %s", h.typ, typ)
	case h.size > limit:
		return nil, errorf(CodeObjectTooLarge, "%d bytes, more than %d", h.size, limit)
	}
	z, err := zlib.NewReader(in)
	if err != nil {
		return nil, err
	}
	var content bytes.Buffer
	if err := copyAll(&content, z, h.size); err != nil {
		return nil, err
	}
	if is, err := newHasher().sum(typ, h.size, bytes.NewReader(content.Bytes())); err != nil || is != id {
		return nil, fmt.Errorf("hashes to %s: %w", is, err)
	}
	return content.Bytes(), nil
}

// ParseTree returns what a tree object lists: names without folders, in Git's
// order, and without the sizes, which it does not know.
func ParseTree(raw []byte) ([]File, error) {
	entries, _, err := parseTree(raw, StoredLimits())
	if err != nil {
		return nil, fmt.Errorf("tree: %w", err)
	}
	files := make([]File, len(entries))
	for i, e := range entries {
		files[i] = File{Path: e.name, Mode: e.mode, OID: e.id}
	}
	return files, nil
}
