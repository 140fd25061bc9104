package archive

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// Numbers of the tar format, and of Zig's reader for it.
const (
	tarBlock   = 512
	maxTarText = 4096 // bytes of a name or target in an extension
	maxTarSize = 64   // bytes of a size in one
	oldKeyword = 128  // bytes of a pax keyword up to Zig 0.14
)

// The kinds of tar entries that Zig knows.
const (
	tarOldFile  = 0
	tarFile     = '0'
	tarSymlink  = '2'
	tarFolder   = '5'
	tarSparse   = 'S'
	tarGlobal   = 'g'
	tarPax      = 'x'
	tarLongName = 'L'
	tarLongLink = 'K'
)

// A tarEntry is a file, a symlink or a folder, or of a kind that Zig does not unpack.
type tarEntry struct {
	kind   byte
	name   string
	target string
	size   int64 // bytes that follow, whatever the kind
}

// A tarReader reads a tar stream as Zig does: it takes less than other readers, and some streams otherwise.
// Source: Iterator in lib/std/tar.zig, which reads the same in all releases since 0.13.
type tarReader struct {
	in      *bufio.Reader
	unread  int64    // content of the last entry
	padding int64    // before the next header
	said    tarEntry // by extensions, of the next entry
	odd     bool     // older Zigs refuse it, newer ones do not
}

// Read reads the content of the last entry.
func (r *tarReader) Read(b []byte) (int, error) {
	if r.unread == 0 {
		return 0, io.EOF
	}
	n, err := r.in.Read(b[:min(int64(len(b)), r.unread)])
	r.unread -= int64(n)
	return n, cut(err)
}

// next returns the next entry, io.EOF after the last one.
func (r *tarReader) next() (tarEntry, error) {
	for {
		if err := r.skip(r.unread + r.padding); err != nil {
			return tarEntry{}, err
		}
		r.unread, r.padding = 0, 0
		h, err := r.header()
		if err != nil {
			return tarEntry{}, err
		}
		size, err := h.size()
		if err != nil {
			return tarEntry{}, err
		}
		r.padding = -size & (tarBlock - 1)
		switch kind := h.kind(); kind {
		case tarFile, tarSymlink, tarFolder:
			return r.entry(h, size)
		case tarLongName:
			r.said.name, err = r.text(size, maxTarText)
			r.said.name, _, _ = strings.Cut(r.said.name, "\x00")
		case tarLongLink:
			r.said.target, err = r.text(size, maxTarText)
			r.said.target, _, _ = strings.Cut(r.said.target, "\x00")
		case tarPax:
			r.said, err = r.pax(size)
		case tarGlobal:
			r.unread = size
		default:
			r.unread = size
			if kind == tarSparse {
				err = r.skipHoles(h)
			}
			if err == nil {
				return tarEntry{kind: kind, name: h.text(0, 100)}, nil
			}
		}
		if err != nil {
			return tarEntry{}, err
		}
	}
}

// entry returns what a header and the extensions before it say.
func (r *tarReader) entry(h tarHeader, size int64) (tarEntry, error) {
	e := r.said
	r.said = tarEntry{}
	e.kind = h.kind()
	if e.size == 0 {
		e.size = size
	}
	if e.target == "" {
		e.target = h.text(157, 100)
	}
	if e.name == "" {
		e.name = h.name()
	}
	r.unread, r.padding = e.size, -e.size&(tarBlock-1)
	_, err := h.octal(100, 8) // the mode, which Zig reads and does not need
	return e, err
}

// pax reads the records of a pax extension: "LENGTH KEYWORD=VALUE\n", in which LENGTH counts all of it.
func (r *tarReader) pax(size int64) (tarEntry, error) {
	var said tarEntry
	for size > 0 {
		length, err := r.word(' ')
		if err != nil {
			return said, err
		}
		key, err := r.word('=')
		if err != nil {
			return said, err
		}
		n, err := strconv.ParseInt(length, 10, 64)
		head := int64(len(length) + 1 + len(key) + 1)
		if err != nil || n <= head || n > size {
			return said, fmt.Errorf("the length %.80q of a pax record is wrong", length)
		}
		size -= n
		r.odd = r.odd || len(key) > oldKeyword
		if err := r.record(&said, key, n-head-1); err != nil {
			return said, err
		}
	}
	return said, nil
}

// record reads the value of a pax record, of size bytes, and the end of line after it.
func (r *tarReader) record(said *tarEntry, key string, size int64) (err error) {
	var value string
	switch key {
	case "path":
		said.name, err = r.text(size, maxTarText)
		value = said.name
	case "linkpath":
		said.target, err = r.text(size, maxTarText)
		value = said.target
	case "size":
		if value, err = r.text(size, maxTarSize); err == nil {
			said.size, err = entrySize(strconv.ParseUint(value, 10, 64))
		}
	default:
		err = r.skip(size)
	}
	if err != nil {
		return err
	}
	if strings.Contains(key+value, "\x00") {
		return fmt.Errorf("the pax record %.80q has a zero byte", key)
	}
	if end, err := r.in.ReadByte(); err != nil || end != '\n' {
		return fmt.Errorf("the pax record %.80q does not end where it says", key)
	}
	return nil
}

// word reads up to a delimiter.
func (r *tarReader) word(delimiter byte) (string, error) {
	b, err := r.in.ReadSlice(delimiter)
	if err != nil {
		return "", cut(err)
	}
	return string(b[:len(b)-1]), nil
}

func (r *tarReader) text(size, limit int64) (string, error) {
	if size > limit {
		return "", fmt.Errorf("an extension says a text of %d bytes; Zig reads %d", size, limit)
	}
	b := make([]byte, size)
	_, err := io.ReadFull(r.in, b)
	return string(b), cut(err)
}

// skipHoles skips the blocks that say where the holes of a sparse file are.
func (r *tarReader) skipHoles(h tarHeader) error {
	for more := h[482] > 0; more; {
		var b [tarBlock]byte
		if _, err := io.ReadFull(r.in, b[:]); err != nil {
			return cut(err)
		}
		more = b[504] > 0
	}
	return nil
}

func (r *tarReader) skip(n int64) error {
	_, err := io.CopyN(io.Discard, r.in, n)
	return cut(err)
}

// cut tells the end of a stream that must not end here from the one of a whole one.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// A tarHeader is the block before an entry.
type tarHeader [tarBlock]byte

// header reads a header, and returns io.EOF where the stream ends, or an empty block says that it does.
func (r *tarReader) header() (h tarHeader, _ error) {
	if _, err := io.ReadFull(r.in, h[:]); err != nil {
		return h, err
	}
	want, err := h.octal(148, 8)
	if err != nil {
		return h, err
	}
	unsigned, signed := 256, 256 // its own bytes count as spaces
	for i, b := range h {
		if i < 148 || i >= 156 {
			unsigned += int(b)
			signed += int(int8(b))
		}
	}
	switch {
	case want == 0 && unsigned == 256:
		return h, io.EOF
	case want != uint64(unsigned) && want != uint64(signed):
		return h, errors.New("the checksum of a tar header is wrong")
	}
	return h, nil
}

func (h *tarHeader) kind() byte {
	if h[156] == tarOldFile {
		return tarFile
	}
	return h[156]
}

func (h *tarHeader) name() string {
	name, prefix := h.text(0, 100), h.text(345, 155)
	if ustar := string(h[257:263]); prefix != "" && (ustar == "ustar\x00" || ustar == "ustar ") {
		return prefix + "/" + name
	}
	return name
}

func (h *tarHeader) text(at, size int) string {
	text, _, _ := bytes.Cut(h[at:at+size], []byte{0})
	return string(text)
}

// size returns the size of what follows, which is octal, or binary after a first byte of 0x80.
func (h *tarHeader) size() (int64, error) {
	switch {
	case h[124] != 0x80:
		return entrySize(h.octal(124, 12))
	case h[125]|h[126]|h[127] != 0:
		return entrySize(math.MaxUint64, nil)
	}
	return entrySize(binary.BigEndian.Uint64(h[128:]), nil)
}

func entrySize(size uint64, err error) (int64, error) {
	if err == nil && size > MaxContent {
		err = fmt.Errorf("%w: an entry of more than %d bytes", ErrTooLarge, int64(MaxContent))
	}
	return int64(size), err
}

func (h *tarHeader) octal(at, size int) (uint64, error) {
	field := string(h[at : at+size])
	digits := strings.TrimRight(strings.TrimLeft(field, "0 "), " \x00")
	if digits == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(digits, 8, 64)
	if err != nil {
		return 0, fmt.Errorf("a tar header says %q where Zig wants an octal number", field)
	}
	return n, nil
}
