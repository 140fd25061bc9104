package tarball

import (
	"fmt"
	"strconv"
	"strings"
)

const (
	recordSize = 512
	blockSize  = 20 * recordSize

	// maxOctal is the largest size and time that eleven octal digits hold.
	maxOctal = 1<<33 - 1
)

// A record is one 512-byte header of pax(1), "ustar Interchange Format".
type record [recordSize]byte

// ustar fills in the fields that all of Git's headers have.
func ustar(kind byte, mode, size, mtime int64) *record {
	var r record
	octal(r[100:107], mode)
	octal(r[108:115], 0) // uid
	octal(r[116:123], 0) // gid
	octal(r[124:135], size)
	octal(r[136:147], mtime)
	r[156] = kind
	copy(r[257:], "ustar\x0000")
	copy(r[265:], "root")
	copy(r[297:], "root")
	octal(r[329:336], 0) // device
	octal(r[337:344], 0)
	return &r
}

// octal fills field with the digits of v.
func octal(field []byte, v int64) {
	for i := len(field) - 1; i >= 0; i-- {
		field[i] = '0' + byte(v&7)
		v >>= 3
	}
}

// seal writes the checksum, which comes last.
func (r *record) seal() *record {
	copy(r[148:], "        ")
	sum := int64(0)
	for _, b := range r {
		sum += int64(b)
	}
	octal(r[148:155], sum)
	r[155] = 0
	return r
}

func (r *record) name(s string) *record {
	copy(r[:100], s)
	return r
}

// A paxHeader is an extended header: a record and the text that follows it, not padded. A zero one is absent.
type paxHeader struct {
	*record
	text string
}

func newPaxHeader(kind byte, name, text string, mtime int64) paxHeader {
	if text == "" {
		return paxHeader{}
	}
	return paxHeader{ustar(kind, 0666, int64(len(text)), mtime).name(name).seal(), text}
}

func (p paxHeader) equal(q paxHeader) bool {
	if p.record == nil || q.record == nil {
		return p == q
	}
	return *p.record == *q.record && p.text == q.text
}

// paxField formats one field of an extended header: its length in decimal, itself included, then key and value.
func paxField(key, value string) string {
	n := len(" =\n") + len(key) + len(value)
	digits := 1
	for len(strconv.Itoa(n+digits)) > digits {
		digits++
	}
	return fmt.Sprintf("%d %s=%s\n", n+digits, key, value)
}

// globalHeader returns the header of the whole stream, and the time that the others show.
func globalHeader(h Header) (paxHeader, int64) {
	mtime := h.Time.Unix()
	text := paxField("comment", h.Commit)
	if mtime > maxOctal {
		text += paxField("mtime", strconv.FormatInt(mtime, 10))
		mtime = maxOctal
	}
	return newPaxHeader('g', "pax_global_header", text, mtime), mtime
}

// entryHeader returns the headers of an entry: mostly the second alone. The entry's path is full: with prefix,
// and with a "/" at the end if it is a directory or a submodule. The only errors are missing object ids.
func entryHeader(e *Entry, path string, mtime int64) (paxHeader, *record, error) {
	var r *record
	text := ""
	switch e.Mode {
	case Directory, Submodule:
		r = ustar('5', 0775, 0, mtime)
	case Executable:
		r = ustar('0', 0775, 0, mtime)
	case File:
		r = ustar('0', 0664, 0, mtime)
	case Symlink:
		r = ustar('2', 0777, 0, mtime)
	}

	prefix, name, ok := splitPath(path)
	copy(r[345:500], prefix)
	r.name(name)
	if !ok {
		r.name(e.OID + ".data")
		text += paxField("path", path)
	}
	if len(e.Target) > 100 {
		copy(r[157:257], "see "+e.OID+".paxheader")
		text += paxField("linkpath", e.Target)
	} else {
		copy(r[157:257], e.Target)
	}
	if e.Size > maxOctal {
		text += paxField("size", strconv.FormatInt(e.Size, 10))
	} else {
		octal(r[124:135], e.Size)
	}
	if text != "" && !isOID(e.OID) {
		return paxHeader{}, nil, fmt.Errorf("%q needs an object id, has %q: %w", path, e.OID, ErrInvalid)
	}
	return newPaxHeader('x', e.OID+".paxheader", text, mtime), r.seal(), nil
}

// splitPath divides a path between the fields prefix and name where Git does: at the last slash among the
// first 155 bytes that is not the path's last byte. If what remains is too long for name, ok is false.
func splitPath(path string) (prefix, name string, ok bool) {
	if len(path) <= 100 {
		return "", path, true
	}
	i := strings.LastIndexByte(path[:min(len(path)-1, 155)], '/')
	if i <= 0 || len(path)-i-1 > 100 {
		return "", "", false
	}
	return path[:i], path[i+1:], true
}
