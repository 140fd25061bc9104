package archive

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path"
	"strings"

	"github.com/klauspost/compress/flate"
)

// Sizes and signatures of a zip's records, and the extra field that has its larger numbers. APPNOTE.TXT 6.3.10, 4.3 and 4.5.3.
const (
	zipEndSize, zipEndSign         = 22, "PK\x05\x06"
	zipEnd64Size, zipEnd64Sign     = 56, "PK\x06\x06"
	zipLocatorSize, zipLocatorSign = 20, "PK\x06\x07"
	zipCentralSize, zipCentralSign = 46, "PK\x01\x02"
	zipLocalSize, zipLocalSign     = 30, "PK\x03\x04"
	zipExtra64                     = 1
	zipMaxName                     = 4096 // bytes that Zig reads
)

// Methods of compression that Zig knows.
const (
	zipStored   = 0
	zipDeflated = 8
)

const max16, max32 = 1<<16 - 1, 1<<32 - 1

// A zipEntry is a record of the central directory.
type zipEntry struct {
	version, flags, method uint16
	modified               uint32 // time and date
	crc                    uint32
	packed, size, offset   uint64
	name                   string
}

// A zipReader reads a zip as Zig does, which takes fewer than other readers: the local headers must say what the central directory says.
// Source: lib/std/zip.zig of Zig 0.17.1. Earlier releases refuse some that it takes.
type zipReader struct {
	body io.ReaderAt
	size int64
}

// A record is the bytes of a header or an extra field, little-endian.
type record []byte

func (r record) u16(at int) uint16 { return binary.LittleEndian.Uint16(r[at:]) }
func (r record) u32(at int) uint32 { return binary.LittleEndian.Uint32(r[at:]) }
func (r record) u64(at int) uint64 { return binary.LittleEndian.Uint64(r[at:]) }

// read reads n bytes. A zip may point anywhere.
func (z *zipReader) read(at uint64, n int) (record, error) {
	if at > uint64(z.size) || uint64(n) > uint64(z.size)-at {
		return nil, errors.New("a record lies beyond its end")
	}
	b := make(record, n)
	_, err := z.body.ReadAt(b, int64(at))
	return b, cut(err)
}

// header reads n bytes that start with a signature.
func (z *zipReader) header(at uint64, n int, sign string) (record, error) {
	b, err := z.read(at, n)
	if err == nil && string(b[:4]) != sign {
		err = fmt.Errorf("there is no record of the kind %q where there should be one", sign[2:])
	}
	return b, err
}

// A zipDirectory says where the records of the central directory are.
type zipDirectory struct{ count, at, size uint64 }

// directory finds the central directory.
func (z *zipReader) directory() (zipDirectory, error) {
	end, at, err := z.end()
	if err != nil {
		return zipDirectory{}, err
	}
	d := zipDirectory{count: uint64(end.u16(10)), at: uint64(end.u32(16)), size: uint64(end.u32(12))}
	if end.u16(4)|end.u16(6) != 0 || end.u16(8) != end.u16(10) && end.u16(8) != max16 && end.u16(10) != max16 {
		return d, errors.New("it is one of several parts")
	}
	if end.u16(8) != max16 && d.count != max16 && d.size != max32 && d.at != max32 {
		return d, nil
	}
	locator, err := z.header(uint64(at)-zipLocatorSize, zipLocatorSize, zipLocatorSign)
	if err != nil {
		return d, err
	}
	end64, err := z.header(locator.u64(8), zipEnd64Size, zipEnd64Sign)
	if err != nil {
		return d, err
	}
	if locator.u32(4) != 0 || locator.u32(16) != 1 || end64.u32(16) != 0 || end64.u32(20) != 0 || end64.u64(24) != end64.u64(32) {
		return d, errors.New("it is one of several parts")
	}
	if end64.u64(4) != zipEnd64Size-12 || end64.u16(14) > 45 {
		return d, errors.New("its zip64 record is of a later version")
	}
	d64 := zipDirectory{count: end64.u64(32), at: end64.u64(48), size: end64.u64(40)}
	if d.count != max16 && d.count != d64.count || d.at != max32 && d.at != d64.at || d.size != max32 && d.size != d64.size {
		return d, errors.New("its two records of the end differ")
	}
	return d64, nil
}

// end finds the last record, whose comment ends the file, and tells where it is.
func (z *zipReader) end() (record, int64, error) {
	tail := min(z.size, zipEndSize+max16)
	b, err := z.read(uint64(z.size-tail), int(tail))
	if err != nil {
		return nil, 0, err
	}
	for i := len(b) - zipEndSize; i >= 0; i-- {
		if r := b[i:]; bytes.HasPrefix(r, []byte(zipEndSign)) && int(r.u16(20)) == len(r)-zipEndSize {
			return r, z.size - tail + int64(i), nil
		}
	}
	return nil, 0, errors.New("it does not end as a zip does")
}

// entry reads the record of the central directory at an offset, and tells how long it is.
func (z *zipReader) entry(at uint64) (zipEntry, uint64, error) {
	h, err := z.header(at, zipCentralSize, zipCentralSign)
	if err != nil {
		return zipEntry{}, 0, err
	}
	e := zipEntry{version: h.u16(6), flags: h.u16(8), method: h.u16(10), modified: h.u32(12), crc: h.u32(16),
		packed: uint64(h.u32(20)), size: uint64(h.u32(24)), offset: uint64(h.u32(42))}
	nameLen, extraLen, commentLen := int(h.u16(28)), int(h.u16(30)), int(h.u16(32))
	if h.u16(34) != 0 {
		return e, 0, errors.New("it is one of several parts")
	}
	if nameLen > zipMaxName {
		return e, 0, fmt.Errorf("%w: a path of %d bytes", ErrTooLarge, nameLen)
	}
	rest, err := z.read(at+zipCentralSize, nameLen+extraLen)
	if err != nil {
		return e, 0, err
	}
	e.name = string(rest[:nameLen])
	err = rest[nameLen:].large(&e.size, &e.packed, &e.offset)
	return e, uint64(zipCentralSize + nameLen + extraLen + commentLen), err
}

// large reads from extra fields the numbers that did not fit into a header, in their order.
func (r record) large(numbers ...*uint64) error {
	for len(r) >= 4 {
		id, n := r.u16(0), int(r.u16(2))
		if n > len(r)-4 {
			return errors.New("an extra field is longer than all of them")
		}
		data := r[4 : 4+n]
		r = r[4+n:]
		if id != zipExtra64 {
			continue
		}
		for _, number := range numbers {
			if *number != max32 {
				continue
			}
			if len(data) < 8 {
				return errors.New("a zip64 field is too short")
			}
			*number, data = data.u64(0), data[8:]
		}
	}
	return nil
}

// content returns where the packed content of an entry starts, whose local header must say what the central directory says.
func (z *zipReader) content(e zipEntry) (uint64, error) {
	h, err := z.header(e.offset, zipLocalSize, zipLocalSign)
	if err != nil {
		return 0, err
	}
	at := e.offset + zipLocalSize + uint64(h.u16(26))
	extra, err := z.read(at, int(h.u16(28)))
	if err != nil {
		return 0, err
	}
	packed, size := uint64(h.u32(18)), uint64(h.u32(22))
	if err := extra.large(&size, &packed); err != nil {
		return 0, err
	}
	switch {
	case h.u16(4) != e.version, h.u16(6) != e.flags, h.u32(10) != e.modified, int(h.u16(26)) != len(e.name),
		h.u32(14) != 0 && h.u32(14) != e.crc, packed != 0 && packed != e.packed, size != 0 && size != e.size:
		return 0, errors.New("its header says something else than the central directory")
	}
	return at + uint64(len(extra)), nil
}

// zip unpacks all entries.
func (u *unpacker) zip(body io.ReaderAt, size int64) error {
	z := &zipReader{body, size}
	d, err := z.directory()
	if err != nil {
		return broken(err)
	}
	at := d.at
	for range d.count {
		if err := u.count(); err != nil {
			return err
		}
		e, n, err := z.entry(at)
		if err != nil {
			return broken(err)
		}
		if err := u.zipEntry(z, e); err != nil {
			return err
		}
		at += n
	}
	if at-d.at != d.size {
		return broken(errors.New("its central directory is not as long as it says"))
	}
	if len(u.problems) > 0 {
		return fmt.Errorf("%w: %.200q %s", ErrUnfit, u.problems[0].path, u.problems[0].reason)
	}
	return nil
}

func (u *unpacker) zipEntry(z *zipReader, e zipEntry) error {
	name := strings.ReplaceAll(e.name, `\`, "/")
	cleaned := clean(name)
	isDir := strings.HasSuffix(name, "/")
	switch {
	case e.flags&1 != 0:
		return fmt.Errorf("%w: %.200q is encrypted", ErrUnfit, e.name)
	case e.method != zipStored && e.method != zipDeflated:
		return fmt.Errorf("%w: %.200q is compressed with method %d, which Zig does not know", ErrUnfit, e.name, e.method)
	case name == "", name[0] == '/', strings.Contains("/"+name+"/", "/../"):
		return fmt.Errorf("%w: %.200q leads out of the archive", ErrUnfit, e.name)
	case strings.Contains(name, "\x00"):
		return fmt.Errorf("%w: %.200q has a zero byte", ErrUnfit, e.name)
	case isDir && e.size != 0:
		return fmt.Errorf("%w: %.200q has content, though it is a folder", ErrUnfit, e.name)
	case !isDir && path.Base(name) == ".":
		return fmt.Errorf("%w: %.200q is a folder, and not said to be one", ErrUnfit, e.name)
	}
	if strings.HasPrefix(name, "./") {
		u.roots[""] = true // Zig does not clean names here: the root is "."
	}
	if cleaned == "" {
		return nil
	}
	if isDir {
		_, err := u.enter(cleaned, directory)
		return err
	}
	ok, err := u.enter(cleaned, file)
	if !ok || err != nil {
		return err
	}
	return u.zipFile(z, e, cleaned)
}

func (u *unpacker) zipFile(z *zipReader, e zipEntry, name string) error {
	at, err := z.content(e)
	if err != nil {
		return broken(fmt.Errorf("%.200q: %w", e.name, err))
	}
	if at > uint64(z.size) || e.packed > uint64(z.size)-at {
		return broken(fmt.Errorf("it ends inside %.200q", e.name))
	}
	if e.size > MaxContent {
		return fmt.Errorf("%w: it unpacks to more than %d bytes", ErrTooLarge, int64(MaxContent))
	}
	var content io.Reader = io.NewSectionReader(z.body, int64(at), int64(e.packed))
	if e.method == zipDeflated {
		content = flate.NewReader(content)
	}
	sum := crc32.NewIEEE()
	if err := u.addFile(name, int64(e.size), io.TeeReader(content, sum)); err != nil {
		return err
	}
	switch n, err := io.CopyN(io.Discard, content, 1); {
	case err != nil && !errors.Is(err, io.EOF):
		return broken(err)
	case n > 0:
		return broken(fmt.Errorf("%.200q is larger than its header says", e.name))
	case sum.Sum32() != e.crc:
		return broken(fmt.Errorf("the checksum of %.200q is wrong", e.name))
	}
	return nil
}
