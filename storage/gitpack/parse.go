package gitpack

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
	"time"
)

const (
	// maxHeadBytes bounds commit and tag objects, which are read into memory.
	// Signatures are some kilobytes, an octopus of 1,000 parents is 48 KB.
	maxHeadBytes = 4 << 20
	maxPeel      = 16
	// The last second of the year 9999: what Postgres and JSON can both write.
	maxCommitTime = 253402300799
)

// CommitInfo is what we use of a commit object.
type CommitInfo struct {
	Tree          OID
	Parents       []OID
	CommitterTime time.Time // UTC, whole seconds; the time of git archive
}

// ParseCommit reads the content of a commit object. It is strict about the
// order of its fields, and accepts a committer line only if every version of
// Git reads the same time from it. What else Git dislikes is for Fsck.
// It returns codeCommitMalformed.
func ParseCommit(raw []byte) (CommitInfo, error) {
	c, err := parseCommit(raw)
	if err != nil {
		return CommitInfo{}, errorf(codeCommitMalformed, "commit: %v", err)
	}
	return c, nil
}

func parseCommit(raw []byte) (c CommitInfo, err error) {
	h, err := newHead(raw)
	if err != nil {
		return c, err
	}
	if c.Tree, err = h.id("tree"); err != nil {
		return c, err
	}
	for h.has("parent") {
		id, err := h.id("parent")
		if err != nil {
			return c, err
		}
		c.Parents = append(c.Parents, id)
	}
	if _, err := h.field("author"); err != nil {
		return c, err
	}
	committer, err := h.field("committer")
	if err != nil {
		return c, err
	}
	c.CommitterTime, err = identTime(committer)
	return c, err
}

// identTime returns the time of "name <email> seconds zone".
func identTime(ident string) (time.Time, error) {
	_, date, _ := strings.Cut(ident, ">")
	date, ok := strings.CutPrefix(date, " ")
	seconds, _, _ := strings.Cut(date, " ")
	// Old versions of Git look after the first ">", new ones after the last.
	if !ok || strings.Contains(date, ">") {
		return time.Time{}, errors.New("committer line has no clear date")
	}
	n, err := strconv.ParseUint(seconds, 10, 63)
	if err != nil || n > maxCommitTime {
		return time.Time{}, errors.New("committer line has no date between 1970 and 9999")
	}
	return time.Unix(int64(n), 0).UTC(), nil
}

// TagInfo is what we use of a tag object.
type TagInfo struct {
	Object OID
	Type   Type   // of Object, as the tag says
	Name   string // as the tag says; not checked, and no path to anything
}

// ParseTag reads the content of a tag object. A tag without a tagger is fine,
// as it is for Git. It returns codeTagMalformed.
func ParseTag(raw []byte) (TagInfo, error) {
	t, err := parseTag(raw)
	if err != nil {
		return TagInfo{}, errorf(codeTagMalformed, "tag: %v", err)
	}
	return t, nil
}

func parseTag(raw []byte) (t TagInfo, err error) {
	h, err := newHead(raw)
	if err != nil {
		return t, err
	}
	if t.Object, err = h.id("object"); err != nil {
		return t, err
	}
	word, err := h.field("type")
	if err != nil {
		return t, err
	}
	for _, typ := range []Type{Commit, Tree, Blob, Tag} {
		if word == typ.String() {
			t.Type = typ
		}
	}
	if t.Type == 0 {
		return t, errors.New("type is none of Git's four")
	}
	t.Name, err = h.field("tag")
	return t, err
}

// Peel follows tag objects from id to the commit. It returns the ids of the
// tag objects on the way, outermost first: none if id is a commit itself.
// Errors are CodeIncomplete, codeTagNotCommit, codeTagMalformed, codeWrongType
// where a tag gives a type that its object does not have, and codeTagTooDeep
// after 16 tags.
func (o *Objects) Peel(id OID) (commit OID, tags []OID, err error) {
	obj, ok := o.Stat(id)
	for ok && obj.Type == Tag {
		if len(tags) == maxPeel {
			return OID{}, nil, errorf(codeTagTooDeep, "tag %s is a tag of a tag, more than %d times", tags[0], maxPeel)
		}
		tags = append(tags, id)
		raw, err := o.Read(id, Tag, maxHeadBytes)
		if err != nil {
			return OID{}, nil, err
		}
		t, err := ParseTag(raw)
		if err != nil {
			return OID{}, nil, err
		}
		if obj, ok = o.Stat(t.Object); ok && obj.Type != t.Type {
			return OID{}, nil, errorf(codeWrongType, "tag %s says that %s is a %s, it is a %s", id, t.Object, t.Type, obj.Type)
		}
		id = t.Object
	}
	if !ok {
		return OID{}, nil, errorf(CodeIncomplete, "object %s is missing", id)
	}
	if obj.Type != Commit {
		return OID{}, nil, errorf(codeTagNotCommit, "object %s is a %s, not a commit", id, obj.Type)
	}
	return id, tags, nil
}

// A head reads the lines before the message of a commit or tag.
type head struct{ rest string }

func newHead(raw []byte) (*head, error) {
	if len(raw) > maxHeadBytes {
		return nil, errors.New("more than 4 MiB")
	}
	text, _, blank := bytes.Cut(raw, []byte("\n\n"))
	if !blank && !bytes.HasSuffix(text, []byte("\n")) {
		return nil, errors.New("header does not end")
	}
	if bytes.IndexByte(text, 0) >= 0 {
		return nil, errors.New("header has a NUL")
	}
	return &head{rest: string(text) + "\n"}, nil
}

func (h *head) has(name string) bool { return strings.HasPrefix(h.rest, name+" ") }

// field returns the value of the next line, which must be the field name.
func (h *head) field(name string) (string, error) {
	if !h.has(name) {
		return "", errors.New("no " + name + " where it should be")
	}
	line, rest, _ := strings.Cut(h.rest, "\n")
	h.rest = rest
	return line[len(name)+1:], nil
}

func (h *head) id(name string) (OID, error) {
	value, err := h.field(name)
	if err != nil {
		return OID{}, err
	}
	id, err := ParseOID(value)
	if err != nil {
		return OID{}, errors.New(name + " is not an object id")
	}
	return id, nil
}
