package gitpack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/pjbgf/sha1cd"
)

// Limits bounds what one upstream may make us store and walk. A limit that is
// passed is an *Error.
type Limits struct {
	PackBytes     int64 // length of a packfile
	ObjectBytes   int64 // content of one object; also the instructions of one delta
	InflatedBytes int64 // content of all objects and deltas of a packfile
	Objects       int   // objects in a packfile
	DeltaDepth    int   // deltas between an object and its whole base; at most 65,535

	TreeEntries    int // files and directories below the root of one tree
	TreeDepth      int // directories on a path, the root included
	PathBytes      int // length of a path
	ComponentBytes int // length of a name between slashes
}

// The limits that DefaultLimits returns.
const (
	maxPackBytes      = 2 << 30
	maxObjectBytes    = 256 << 20
	maxInflatedBytes  = 8 << 30
	maxObjects        = 1_000_000
	maxDeltaDepth     = 4096 // the most that git pack-objects makes is 4,095
	MaxTreeEntries    = 100_000
	maxTreeDepth      = 128
	maxPathBytes      = 1024
	maxComponentBytes = 255
)

// The most that a setting may allow.
const (
	MostBytes       = 1 << 50
	MostObjects     = maxSegmentObjects
	MostTreeEntries = 1 << 20
)

// DefaultLimits returns the limits of a service that mirrors packages.
func DefaultLimits() Limits {
	return Limits{
		PackBytes:      maxPackBytes,
		ObjectBytes:    maxObjectBytes,
		InflatedBytes:  maxInflatedBytes,
		Objects:        maxObjects,
		DeltaDepth:     maxDeltaDepth,
		TreeEntries:    MaxTreeEntries,
		TreeDepth:      maxTreeDepth,
		PathBytes:      maxPathBytes,
		ComponentBytes: maxComponentBytes,
	}
}

// StoredLimits returns the limits of what is published already. No setting
// allows more, so what one packbase published every other can hold, check and
// make again.
func StoredLimits() Limits {
	l := DefaultLimits()
	l.PackBytes, l.ObjectBytes, l.InflatedBytes = MostBytes, MostBytes, MostBytes
	l.Objects, l.TreeEntries = MostObjects, MostTreeEntries
	return l
}

// An Error is a verdict on upstream's bytes: trying again gives it again.
// Any other error of this package is about the machine, or a context.
type Error struct {
	Code    string // see the codes below
	Message string // for people; names from upstream are quoted
}

// The codes of Error.
const (
	CodePackMalformed    = "pack_malformed"
	CodePackTooLarge     = "pack_too_large"
	codeTooManyObjects   = "too_many_objects"
	CodeObjectTooLarge   = "object_too_large"
	CodeInflatedTooLarge = "inflated_too_large"
	codeDeltaTooDeep     = "delta_too_deep"
	codeSHA1Collision    = "sha1_collision"

	CodeIncomplete      = "incomplete" // an object is missing
	codeWrongType       = "wrong_type" // an object is not what its name elsewhere says
	codeCommitMalformed = "commit_malformed"
	codeTagMalformed    = "tag_malformed"
	codeTagNotCommit    = "tag_not_commit"
	codeTagTooDeep      = "tag_too_deep"

	codeTreeMalformed     = "tree_malformed" // not a list of entries, or out of order
	codeTreeMode          = "tree_mode"
	codeTreeName          = "tree_name"
	codeTreeDuplicate     = "tree_duplicate"
	codeTreeConfig        = "tree_config"         // a .gitmodules or .gitattributes that Git refuses
	codeTreeCaseCollision = "tree_case_collision" // a symlink differs in case or Unicode form only
	codeTooManyEntries    = "too_many_entries"
	codeTooDeep           = "too_deep"
	codePathTooLong       = "path_too_long"
	codeNameTooLong       = "name_too_long"

	codeSymlinkTarget = "symlink_target" // empty, too long, or with bytes that no name may have
	codeSymlinkEscape = "symlink_escape" // absolute, above the root, or into .git
)

func (e *Error) Error() string { return e.Message }

// OfPack reports whether code is of what one object does to all that are in a
// pack with it.
func OfPack(code string) bool {
	switch code {
	case CodePackMalformed, CodePackTooLarge, codeTooManyObjects, CodeObjectTooLarge, CodeInflatedTooLarge, codeDeltaTooDeep, codeSHA1Collision, CodeIncomplete:
		return true
	}
	return false
}

func errorf(code, format string, args ...any) error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// An Object is what is known of a Git object without reading it.
type Object struct {
	OID  OID
	Type Type
	Size int64 // bytes of content, without the header that is hashed before it
}

// Objects is a set of whole Git objects, their contents one after the other in
// a spool file. It takes about 100 bytes of memory for each.
//
// Any number of goroutines may read; none may while Add or WriteTree runs.
type Objects struct {
	spool   *os.File
	end     int64 // where the next object goes
	entries []entry
	byID    map[OID]uint32 // index into entries
	adding  *hasher        // made by the first Add
}

// An entry is an object of Objects. Its type is 0 while it is not in the spool.
type entry struct {
	oid   OID
	typ   Type
	depth uint16 // deltas between it and a whole object
	size  int64
	off   int64 // of its content in the spool
}

// NewObjects returns an empty set that keeps its objects in spool, an empty
// file open for reading and writing. The caller closes spool, after the last use.
func NewObjects(spool *os.File) *Objects {
	return &Objects{spool: spool, byID: make(map[OID]uint32)}
}

// Add stores the object whose content is the next size bytes of r, and returns
// its id. An object that is there already is fine. It returns
// io.ErrUnexpectedEOF if r is shorter.
func (o *Objects) Add(typ Type, size int64, r io.Reader) (OID, error) {
	if o.adding == nil {
		o.adding = newHasher()
	}
	// What is read at once is written only if it is new.
	atOnce := size <= int64(len(o.adding.buf))
	if !atOnce {
		r = io.TeeReader(r, io.NewOffsetWriter(o.spool, o.end))
	}
	id, err := o.adding.sum(typ, size, r)
	if err != nil {
		return OID{}, fmt.Errorf("add %s: %w", typ, err)
	}
	if _, ok := o.byID[id]; ok {
		return id, nil
	}
	if atOnce {
		if _, err := o.spool.WriteAt(o.adding.buf[:size], o.end); err != nil {
			return OID{}, fmt.Errorf("add %s %s: %w", typ, id, err)
		}
	}
	o.byID[id] = uint32(len(o.entries))
	o.entries = append(o.entries, entry{oid: id, typ: typ, size: size, off: o.end})
	o.end += size
	return id, nil
}

// Len returns the number of objects.
func (o *Objects) Len() int { return len(o.byID) }

// layoutBytes is the length of what MarshalBinary says of one object: its type, and where its content is.
const layoutBytes = 1 + 8 + 8

// MarshalBinary says where in the spool the objects are, for ReadObjects.
func (o *Objects) MarshalBinary() ([]byte, error) {
	layout := make([]byte, 0, layoutBytes*len(o.byID))
	for i, e := range o.entries {
		if o.byID[e.oid] == uint32(i) { // a pack may have an object twice
			layout = append(layout, byte(e.typ))
			layout = binary.BigEndian.AppendUint64(layout, uint64(e.off))
			layout = binary.BigEndian.AppendUint64(layout, uint64(e.size))
		}
	}
	return layout, nil
}

// ReadObjects returns the objects that somebody else spooled, and says the layout of, as MarshalBinary does. It believes
// neither: the ids are worked out from the contents. A layout that is none, or leads out of the spool, is CodePackMalformed.
// The caller closes spool, after the last use; nobody may write to it.
func ReadObjects(ctx context.Context, spool *os.File, layout []byte, lim Limits) (*Objects, error) {
	info, err := spool.Stat()
	if err != nil {
		return nil, fmt.Errorf("read objects: %w", err)
	}
	count := len(layout) / layoutBytes
	switch {
	case len(layout)%layoutBytes != 0:
		return nil, errorf(CodePackMalformed, "a layout of %d bytes", len(layout))
	case count > lim.Objects:
		return nil, errorf(codeTooManyObjects, "a layout of %d objects, more than %d", count, lim.Objects)
	}
	o := &Objects{spool: spool, end: info.Size(), entries: make([]entry, count), byID: make(map[OID]uint32, count)}
	h, total := newHasher(), int64(0)
	for i := range o.entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		at := layout[i*layoutBytes:]
		e := entry{typ: Type(at[0]), off: int64(binary.BigEndian.Uint64(at[1:])), size: int64(binary.BigEndian.Uint64(at[9:]))}
		switch {
		case e.typ < Commit || e.typ > Tag, e.off < 0, e.size < 0, e.off > o.end-e.size:
			return nil, errorf(CodePackMalformed, "the layout has a %s of %d bytes at %d, the spool has %d", e.typ, e.size, e.off, o.end)
		case e.size > lim.ObjectBytes:
			return nil, errorf(CodeObjectTooLarge, "the layout has an object of %d bytes, more than %d", e.size, lim.ObjectBytes)
		}
		if total += e.size; total > lim.InflatedBytes {
			return nil, errorf(CodeInflatedTooLarge, "the layout has objects of more than %d bytes", lim.InflatedBytes)
		}
		if e.oid, err = h.sum(e.typ, e.size, io.NewSectionReader(spool, e.off, e.size)); err != nil {
			return nil, fmt.Errorf("read objects: %w", err)
		}
		o.entries[i], o.byID[e.oid] = e, uint32(i)
	}
	return o, nil
}

// Stat returns the object named id, and whether it is there.
func (o *Objects) Stat(id OID) (Object, bool) {
	i, ok := o.byID[id]
	if !ok {
		return Object{}, false
	}
	e := &o.entries[i]
	return Object{OID: id, Type: e.typ, Size: e.size}, true
}

// Open returns the content of the object named id.
// It returns CodeIncomplete if it is missing.
func (o *Objects) Open(id OID) (*io.SectionReader, error) {
	i, ok := o.byID[id]
	if !ok {
		return nil, errorf(CodeIncomplete, "object %s is missing", id)
	}
	return o.content(i), nil
}

// Read returns the content of the object named id, which must be a typ of at
// most limit bytes. It returns CodeIncomplete, codeWrongType or CodeObjectTooLarge
// if it is not.
func (o *Objects) Read(id OID, typ Type, limit int64) ([]byte, error) {
	obj, ok := o.Stat(id)
	switch {
	case !ok:
		return nil, errorf(CodeIncomplete, "%s %s is missing", typ, id)
	case obj.Type != typ:
		return nil, errorf(codeWrongType, "object %s is a %s, not a %s", id, obj.Type, typ)
	case obj.Size > limit:
		return nil, errorf(CodeObjectTooLarge, "%s %s has %d bytes, more than %d", typ, id, obj.Size, limit)
	}
	content, err := o.Open(id)
	if err != nil {
		return nil, err
	}
	raw := make([]byte, obj.Size)
	if _, err := io.ReadFull(content, raw); err != nil {
		return nil, fmt.Errorf("read %s %s: %w", typ, id, err)
	}
	return raw, nil
}

func (o *Objects) content(i uint32) *io.SectionReader {
	e := &o.entries[i]
	return io.NewSectionReader(o.spool, e.off, e.size)
}

// A hasher computes object ids. SHA-1 is broken: it also finds out whether
// content was made to collide with other content, as Git itself does.
type hasher struct {
	sha1 sha1cd.CollisionResistantHash
	buf  []byte
}

func newHasher() *hasher {
	return &hasher{
		sha1: sha1cd.New().(sha1cd.CollisionResistantHash),
		buf:  make([]byte, 128<<10),
	}
}

// sum returns the id of the object whose content is the next size bytes of r. If they fit
// into the buffer, that has them afterwards.
func (h *hasher) sum(typ Type, size int64, r io.Reader) (OID, error) {
	h.sha1.Reset()
	fmt.Fprintf(h.sha1, "%s %d\x00", typ, size)
	for left := size; left > 0; {
		n, err := io.ReadFull(r, h.buf[:min(left, int64(len(h.buf)))])
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return OID{}, err
		}
		h.sha1.Write(h.buf[:n])
		left -= int64(n)
	}
	return h.id()
}

// id returns the SHA-1 of what was written since the last Reset.
func (h *hasher) id() (id OID, err error) {
	if _, collides := h.sha1.CollisionResistantSum(id[:0]); collides {
		return OID{}, errorf(codeSHA1Collision, "object %s is one half of a SHA-1 collision", id)
	}
	return id, nil
}
