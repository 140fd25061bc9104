package gitpack

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	someID  = "1234567890123456789012345678901234567890"
	otherID = "abcdefabcdefabcdefabcdefabcdefabcdefabcd"
	ident   = "A U Thor <a@example.com> 1700000000 +0100"
)

func TestParseCommit(t *testing.T) {
	t.Parallel()
	tree, parent := "tree "+someID+"\n", "parent "+otherID+"\n"
	author, committer := "author "+ident+"\n", "committer "+ident+"\n"
	by := func(ident string) string { return tree + author + "committer " + ident + "\n\nm\n" }
	seconds := func(n int64) string { return time.Unix(n, 0).UTC().Format(time.RFC3339) }
	tests := []struct {
		name, raw string
		want      string // parents and time; "" for an error
	}{
		{"plain", tree + author + committer + "\nmessage\n", "0 " + seconds(1700000000)},
		{"parents", tree + parent + parent + author + committer + "\n", "2 " + seconds(1700000000)},
		{"no message", tree + author + committer, "0 " + seconds(1700000000)},
		{"signature", tree + author + committer + "gpgsig -----BEGIN\n \n x\n -----END\n\nm", "0 " + seconds(1700000000)},
		{"author without date", tree + "author x\n" + committer + "\n", "0 " + seconds(1700000000)},
		{"time 0", by("c <c> 0 +0000"), "0 " + seconds(0)},
		{"no zone", by("c <c> 12"), "0 " + seconds(12)},
		{"no name", by("<> 12 +0000"), "0 " + seconds(12)},
		{"year 9999", by("c <c> 253402300799 +0000"), "0 9999-12-31T23:59:59Z"},

		{"empty", "", ""},
		{"header does not end", tree + author + "committer " + ident, ""},
		{"NUL in header", by("c <\x00> 1 +0000"), ""},
		{"no tree", author + committer + "\n", ""},
		{"tree in message", "\n" + tree + author + committer, ""},
		{"short tree", "tree 1234\n" + author + committer + "\n", ""},
		{"tree and more", "tree " + someID + " \n" + author + committer + "\n", ""},
		{"tree of 64 digits", "tree " + strings.Repeat("12", 32) + "\n" + author + committer + "\n", ""},
		{"two trees", tree + tree + author + committer + "\n", ""},
		{"parent after author", tree + author + parent + committer + "\n", ""},
		{"bad parent", tree + "parent x\n" + author + committer + "\n", ""},
		{"no author", tree + committer + "\n", ""},
		{"two authors", tree + author + author + committer + "\n", ""},
		{"no committer", tree + author + "\n", ""},
		{"committer in message", tree + author + "\n" + committer, ""},
		{"no date", by("c <c>"), ""},
		{"no address", by("c 12 +0000"), ""},
		{"no space before date", by("c <c>12 +0000"), ""},
		{"date in the name", by("c> 5 <c> 12 +0000"), ""},
		{"negative date", by("c <c> -12 +0000"), ""},
		{"date with sign", by("c <c> +12 +0000"), ""},
		{"date of letters", by("c <c> 12a +0000"), ""},
		{"year 10000", by("c <c> 253402300800 +0000"), ""},
		{"date of 100 digits", by("c <c> " + strings.Repeat("9", 100) + " +0000"), ""},
		{"5 MiB", tree + author + committer + "\n" + strings.Repeat("m", 5<<20), ""},
	}
	for _, tt := range tests {
		c, err := ParseCommit([]byte(tt.raw))
		got := ""
		if err == nil {
			got = fmt.Sprintf("%d %s", len(c.Parents), c.CommitterTime.Format(time.RFC3339))
			if c.Tree.String() != someID {
				t.Errorf("%s: tree = %s, want %s", tt.name, c.Tree, someID)
			}
		} else if code(err) != codeCommitMalformed {
			t.Errorf("%s: err = %v, want %s", tt.name, err, codeCommitMalformed)
		}
		if got != tt.want {
			t.Errorf("%s: got %q (%v), want %q", tt.name, got, err, tt.want)
		}
	}
}

func TestParseTag(t *testing.T) {
	t.Parallel()
	object := "object " + someID + "\n"
	tests := []struct {
		name, raw string
		want      TagInfo // without Object; zero for an error
	}{
		{"commit", object + "type commit\ntag v1\ntagger " + ident + "\n\nm\n", TagInfo{Type: Commit, Name: "v1"}},
		{"tree", object + "type tree\ntag v1\n", TagInfo{Type: Tree, Name: "v1"}},
		{"blob", object + "type blob\ntag v1\n\nm", TagInfo{Type: Blob, Name: "v1"}},
		{"tag", object + "type tag\ntag a/../b\n\n", TagInfo{Type: Tag, Name: "a/../b"}},
		{"empty", "", TagInfo{}},
		{"header does not end", object + "type commit\ntag v1", TagInfo{}},
		{"no object", "type commit\ntag v1\n\n", TagInfo{}},
		{"bad object", "object x\ntype commit\ntag v1\n\n", TagInfo{}},
		{"no type", object + "tag v1\n\n", TagInfo{}},
		{"unknown type", object + "type snail\ntag v1\n\n", TagInfo{}},
		{"delta type", object + "type type 6\ntag v1\n\n", TagInfo{}},
		{"no name", object + "type commit\n\n", TagInfo{}},
		{"two objects", object + object + "type commit\ntag v1\n\n", TagInfo{}},
		{"NUL", object + "type commit\ntag v\x001\n\n", TagInfo{}},
	}
	for _, tt := range tests {
		got, err := ParseTag([]byte(tt.raw))
		if want := codeTagMalformed; err != nil && code(err) != want {
			t.Errorf("%s: err = %v, want %s", tt.name, err, want)
		}
		if err == nil && got.Object.String() != someID {
			t.Errorf("%s: object = %s, want %s", tt.name, got.Object, someID)
		}
		got.Object = OID{}
		if got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

// UP-13.
func TestPeel(t *testing.T) {
	t.Parallel()
	o, blob, empty := newObjects(t)
	commit := add(t, o, Commit, "tree "+empty.String()+"\nauthor "+ident+"\ncommitter "+ident+"\n\nm\n")
	tag := func(id OID, typ Type) OID {
		return add(t, o, Tag, fmt.Sprintf("object %s\ntype %s\ntag v1\n\nm\n", id, typ))
	}
	// tags returns n tags, outermost first, the last one of commit.
	tags := func(n int) []OID {
		var all []OID
		id, typ := commit, Commit
		for range n {
			id, typ = tag(id, typ), Tag
			all = append([]OID{id}, all...)
		}
		return all
	}
	tests := []struct {
		name string
		id   OID
		want string
		tags []OID
	}{
		{"commit", commit, "", nil},
		{"tag", tags(1)[0], "", tags(1)},
		{"tag of a tag", tags(2)[0], "", tags(2)},
		{"chain of 16", tags(16)[0], "", tags(16)},
		{"chain of 17", tags(17)[0], codeTagTooDeep, nil},
		{"chain of 2,000", tags(2000)[0], codeTagTooDeep, nil},
		{"missing", OID{1}, CodeIncomplete, nil},
		{"tag of missing", tag(OID{1}, Commit), CodeIncomplete, nil},
		{"blob", blob, codeTagNotCommit, nil},
		{"tag of blob", tag(blob, Blob), codeTagNotCommit, nil},
		{"tag of tree", tag(empty, Tree), codeTagNotCommit, nil},
		{"tag of a tag of a tree", tag(tag(empty, Tree), Tag), codeTagNotCommit, nil},
		{"blob called commit", tag(blob, Commit), codeWrongType, nil},
		{"commit called tag", tag(commit, Tag), codeWrongType, nil},
		{"no tag at all", add(t, o, Tag, "hello"), codeTagMalformed, nil},
	}
	for _, tt := range tests {
		got, passed, err := o.Peel(tt.id)
		if code(err) != tt.want {
			t.Errorf("%s: err = %v, want code %q", tt.name, err, tt.want)
		}
		if err == nil && got != commit {
			t.Errorf("%s: commit = %s, want %s", tt.name, got, commit)
		}
		if !slices.Equal(passed, tt.tags) {
			t.Errorf("%s: tags = %v, want %v", tt.name, passed, tt.tags)
		}
	}
}
