package tarball

import (
	"bufio"
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
)

// maxPaxText bounds the text of an extended header: one path, one target and a little more.
const maxPaxText = MaxPrefix + MaxPath + MaxTarget + 256

// Read reads a tarball that Build made with the given prefix, and calls fn for each entry, in their order.
//
// Entries have no Open; body is their content and ends with it. Fn need not read it, and must not keep it.
// The OID is there only if the tarball says it, and unchecked. Submodules come without their commit,
// and directories with nothing inside do not come: a tarball does not hold them.
//
// Whatever Build could not have written, in the tar stream or around the deflated data, is ErrInvalid;
// more than a limit allows is ErrTooLarge. Errors of r and fn are wrapped. As fn is called before all
// is checked, nothing it learns may be believed until Read has returned no error. Memory is bounded
// whatever r holds.
func Read(r io.Reader, prefix string, lim Limits, fn func(e Entry, body io.Reader) error) (Header, Info, error) {
	lim = lim.orMax()
	out := &sink{w: io.Discard, max: lim.Size, sha: sha256.New(), md5: md5.New()}
	t := &tarReader{prefix: prefix, lim: lim, fn: fn, sha: sha256.New()}
	h, err := t.readAll(bufio.NewReaderSize(io.TeeReader(r, out), readSize))
	if err != nil {
		return Header{}, Info{}, fmt.Errorf("read tarball: %w", err)
	}
	info := out.info()
	info.ContentDigest = hex.EncodeToString(t.sha.Sum(nil))
	info.ContentSize = t.size
	return h, info, nil
}

// A tarReader checks a tar stream record by record: each header must be the one that Build would write.
type tarReader struct {
	gzip    *gzip.Reader
	sha     hash.Hash
	size    int64 // of what was read
	prefix  string
	lim     Limits
	fn      func(Entry, io.Reader) error
	mtime   int64 // as in every header
	entries int
	order   order
	waiting *Entry // a directory or a submodule: what follows tells which
}

func (t *tarReader) readAll(in *bufio.Reader) (Header, error) {
	start, err := in.Peek(len(gzipHeader))
	if err != nil {
		return Header{}, invalidEnd(err)
	}
	if string(start) != gzipHeader {
		return Header{}, fmt.Errorf("gzip header % x: %w", start, ErrInvalid)
	}
	if t.gzip, err = gzip.NewReader(in); err != nil {
		return Header{}, err
	}
	t.gzip.Multistream(false)

	h, err := t.global()
	if err != nil {
		return Header{}, err
	}
	for more := true; more; {
		if more, err = t.next(); err != nil {
			return Header{}, err
		}
	}
	if err := t.trailer(); err != nil {
		return Header{}, err
	}
	switch _, err := in.ReadByte(); err {
	case io.EOF:
		return h, nil
	case nil:
		return Header{}, fmt.Errorf("bytes after the gzip member: %w", ErrInvalid)
	default:
		return Header{}, err
	}
}

// global reads the pax header of the whole stream.
func (t *tarReader) global() (Header, error) {
	r, err := t.record()
	if err != nil {
		return Header{}, err
	}
	fields, text, err := t.paxText(r)
	if err != nil {
		return Header{}, err
	}
	seconds := octalField(r[136:147])
	if s, ok := fields["mtime"]; ok {
		if seconds, err = strconv.ParseInt(s, 10, 64); err != nil {
			return Header{}, fmt.Errorf("commit time %q: %w", s, ErrInvalid)
		}
	}
	h := Header{Commit: fields["comment"], Time: time.Unix(seconds, 0).UTC(), Prefix: t.prefix}
	if err := checkHeader(h); err != nil {
		return Header{}, err
	}
	var want paxHeader
	want, t.mtime = globalHeader(h)
	if !want.equal(paxHeader{r, text}) {
		return Header{}, fmt.Errorf("global header: %w", ErrInvalid)
	}
	if t.prefix == "" {
		return h, nil
	}

	if r, err = t.record(); err != nil {
		return Header{}, err
	}
	_, wrapper, err := entryHeader(&Entry{Mode: Directory}, t.prefix, t.mtime)
	if err != nil {
		return Header{}, err
	}
	if *r != *wrapper {
		return Header{}, fmt.Errorf("no wrapper %q: %w", t.prefix, ErrInvalid)
	}
	return h, nil
}

// next reads one entry. More is false if there is none.
func (t *tarReader) next() (more bool, err error) {
	r, err := t.record()
	if err != nil {
		return false, err
	}
	if *r == (record{}) {
		return false, t.settle("")
	}
	e, path, err := t.header(r)
	if err != nil {
		return false, err
	}
	rest, ok := strings.CutPrefix(path, t.prefix)
	if !ok {
		return false, fmt.Errorf("%q is not in %q: %w", path, t.prefix, ErrInvalid)
	}
	e.Path = rest
	if e.Mode == Directory {
		if e.Path, ok = strings.CutSuffix(rest, "/"); !ok {
			return false, fmt.Errorf("directory %q has no slash: %w", path, ErrInvalid)
		}
	}
	if err := e.check(); err != nil {
		return false, err
	}
	if err := t.settle(e.Path); err != nil {
		return false, err
	}
	if e.Mode == Directory {
		t.waiting = &e
		return true, nil
	}
	return true, t.deliver(e)
}

// header reads what is left of an entry's headers, of which r is the first. The path is as in entryHeader.
func (t *tarReader) header(r *record) (e Entry, path string, err error) {
	var ext paxHeader
	var fields map[string]string
	if r[156] == 'x' {
		ext.record = r
		if fields, ext.text, err = t.paxText(r); err != nil {
			return Entry{}, "", err
		}
		e.OID, _, _ = strings.Cut(textField(r[:100]), ".")
		if r, err = t.record(); err != nil {
			return Entry{}, "", err
		}
	}
	path = e.parse(r, fields)

	// There is one way only to write an entry.
	wantExt, want, err := entryHeader(&e, path, t.mtime)
	if err != nil {
		return Entry{}, "", err
	}
	if *r != *want || !ext.equal(wantExt) {
		return Entry{}, "", fmt.Errorf("header of %q: %w", path, ErrInvalid)
	}
	return e, path, nil
}

// parse takes the fields of e from its header, and returns its path, with prefix and slash.
func (e *Entry) parse(r *record, fields map[string]string) (path string) {
	switch {
	case r[156] == '5':
		e.Mode = Directory
	case r[156] == '2':
		e.Mode = Symlink
		e.Target = textField(r[157:257])
	case octalField(r[100:107]) == 0775:
		e.Mode = Executable
	default:
		e.Mode = File
	}
	e.Size = octalField(r[124:135])
	path = textField(r[:100])
	if prefix := textField(r[345:500]); prefix != "" {
		path = prefix + "/" + path
	}

	if s, ok := fields["path"]; ok {
		path = s
	}
	if s, ok := fields["linkpath"]; ok {
		e.Target = s
	}
	if s, ok := fields["size"]; ok {
		e.Size, _ = strconv.ParseInt(s, 10, 64) // a wrong one is found when the header is compared
	}
	return path
}

// settle passes on the waiting entry, given the path of the entry that follows.
func (t *tarReader) settle(next string) error {
	if t.waiting == nil {
		return nil
	}
	e := *t.waiting
	t.waiting = nil
	if !strings.HasPrefix(next, e.Path+"/") {
		e.Mode = Submodule
	}
	return t.deliver(e)
}

func (t *tarReader) deliver(e Entry) error {
	if t.entries++; t.entries > t.lim.Entries {
		return fmt.Errorf("more than %d entries: %w", t.lim.Entries, ErrTooLarge)
	}
	if err := t.order.add(e); err != nil {
		return err
	}
	body := &bodyReader{io.LimitedReader{R: t, N: e.Size}}
	if err := t.fn(e, body); err != nil {
		return fmt.Errorf("entry %q: %w", e.Path, err)
	}
	if _, err := io.Copy(io.Discard, body); err != nil {
		return err
	}
	return t.zeros((recordSize - e.Size%recordSize) % recordSize)
}

// A bodyReader reads content, and does not take the end of the tarball for the end of the content.
type bodyReader struct{ io.LimitedReader }

func (b *bodyReader) Read(p []byte) (int, error) {
	n, err := b.LimitedReader.Read(p)
	if b.N > 0 {
		err = invalidEnd(err)
	}
	return n, err
}

// paxText reads the text after an extended header.
func (t *tarReader) paxText(r *record) (fields map[string]string, text string, err error) {
	n := octalField(r[124:135])
	if n > maxPaxText {
		return nil, "", fmt.Errorf("extended header of %d bytes: %w", n, ErrTooLarge)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(t, b); err != nil {
		return nil, "", invalidEnd(err)
	}
	fields = map[string]string{}
	for rest := b; len(rest) > 0; {
		length, _, _ := bytes.Cut(rest, []byte(" "))
		k, err := strconv.Atoi(string(length))
		if err != nil || k <= len(length) || k > len(rest) || rest[k-1] != '\n' {
			return nil, "", fmt.Errorf("extended header %q: %w", b, ErrInvalid)
		}
		key, value, _ := strings.Cut(string(rest[len(length)+1:k-1]), "=")
		fields[key] = value
		rest = rest[k:]
	}
	return fields, string(b), t.zeros((recordSize - n%recordSize) % recordSize)
}

// trailer reads the rest of the stream, of which one empty record is gone.
func (t *tarReader) trailer() error {
	if err := t.zeros(recordSize); err != nil {
		return err
	}
	if err := t.zeros((blockSize - t.size%blockSize) % blockSize); err != nil {
		return err
	}
	// This also compares the checksum.
	n, err := io.Copy(io.Discard, t)
	if err == nil && n > 0 {
		err = fmt.Errorf("%d bytes after the end: %w", n, ErrInvalid)
	}
	return err
}

// zeros reads n bytes and refuses any other.
func (t *tarReader) zeros(n int64) error {
	var b [blockSize]byte
	if _, err := io.ReadFull(t, b[:n]); err != nil {
		return invalidEnd(err)
	}
	if b != [blockSize]byte{} {
		return fmt.Errorf("padding is not zero: %w", ErrInvalid)
	}
	return nil
}

func (t *tarReader) record() (*record, error) {
	var r record
	if _, err := io.ReadFull(t, r[:]); err != nil {
		return nil, invalidEnd(err)
	}
	return &r, nil
}

// Read reads the tar stream. Its errors are those of the tarball, but for io.EOF.
func (t *tarReader) Read(p []byte) (int, error) {
	n, err := t.gzip.Read(p)
	t.sha.Write(p[:n])
	t.size += int64(n)
	if t.size > t.lim.ContentSize {
		return n, fmt.Errorf("tar stream of more than %d bytes: %w", t.lim.ContentSize, ErrTooLarge)
	}
	var corrupt flate.CorruptInputError
	if err == io.ErrUnexpectedEOF || err == gzip.ErrChecksum || errors.As(err, &corrupt) {
		err = fmt.Errorf("%v: %w", err, ErrInvalid)
	}
	return n, err
}

// invalidEnd makes the end of input in the wrong place ErrInvalid.
func invalidEnd(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("cut short: %w", ErrInvalid)
	}
	return err
}

// textField returns what a field holds up to its first zero.
func textField(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}

// octalField returns the number in a field, or 0 if there is none.
func octalField(b []byte) int64 {
	n, _ := strconv.ParseInt(string(b), 8, 64)
	return max(n, 0)
}
