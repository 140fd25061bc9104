package release_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/release/releasetest"
)

// committed stores a commit of a tree, n seconds after the first.
func committed(src *releasetest.Source, tag string, tree gitpack.OID, n int) *release.Root {
	who := fmt.Sprintf("t <t@example.org> %d +0000", 1_700_000_000+n)
	return src.Root(tag, src.Add(gitpack.Commit, fmt.Sprintf("tree %s\nauthor %s\ncommitter %s\n\n%s\n", tree, who, who, tag)))
}

var hello = release.Manifest{Package: "hello", Upstream: "fixture:hello", CloneURL: "fixture:hello.git"}

// What a tarball cannot express is in the manifest, so that both give back every object of a release.
func TestOddEntries(t *testing.T) {
	t.Parallel()
	src := releasetest.New(t)
	id := src.Add(gitpack.Blob, "text\n")
	submodule, err := gitpack.ParseOID("1234567890123456789012345678901234567890")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		file  gitpack.File
		empty []string
		want  []release.TreeEntry
	}{
		{name: "plain", file: gitpack.File{Path: "a", Mode: gitpack.ModeFile, OID: id}},
		{name: "executable", file: gitpack.File{Path: "a", Mode: gitpack.ModeExecutable, OID: id}},
		{name: "symlink", file: gitpack.File{Path: "a", Mode: gitpack.ModeSymlink, OID: src.Add(gitpack.Blob, "z")}},
		{name: "file with what a link had", file: gitpack.File{Path: "a", Mode: gitpack.ModeFile, OID: src.Add(gitpack.Blob, "z")}},
		{name: "submodule", file: gitpack.File{Path: "d/sub", Mode: gitpack.ModeSubmodule, OID: submodule},
			want: []release.TreeEntry{{Path: "d/sub", Mode: "160000", OID: submodule.String()}}},
		{name: "group may write", file: gitpack.File{Path: "a", Mode: 0o100664, OID: id}, want: []release.TreeEntry{{Path: "a", Mode: "100664"}}},
		{name: "empty directory", file: gitpack.File{Path: "a", Mode: gitpack.ModeFile, OID: id}, empty: []string{"e"}, want: []release.TreeEntry{{Path: "e", Mode: "40000"}}},
	} {
		tree, err := src.Objects.WriteTree([]gitpack.File{tt.file, {Path: "z", Mode: gitpack.ModeFile, OID: id}}, tt.empty)
		if err != nil {
			t.Fatal(err)
		}
		root := committed(src, "v1.0.0", tree, 0)
		var targz bytes.Buffer
		man := src.Build(&targz, root, hello)
		if !slices.Equal(man.Git.Entries, tt.want) {
			t.Errorf("%s: entries = %v, want %v", tt.name, man.Git.Entries, tt.want)
		}
		if of := []release.Submodule{{Path: tt.file.Path, Commit: tt.file.OID.String()}}; slices.Equal(man.Submodules, of) != (tt.name == "submodule") {
			t.Errorf("%s: submodules = %v", tt.name, man.Submodules)
		}
		want, err := root.Objects(t.Context(), src.Objects, releasetest.Limits)
		if err != nil {
			t.Fatal(err)
		}
		back := releasetest.New(t)
		r, err := back.Load(man, &targz)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		ids, err := r.Objects(t.Context(), back.Objects, releasetest.Limits)
		if err != nil || !slices.Equal(ids, want) || slices.Contains(ids, submodule) || r.OID != root.OID || r.Commit != root.Commit {
			t.Errorf("%s: objects = %v, %v, want %v", tt.name, ids, err, want)
		}
	}
}

// A manifest that says what its files, commit or tag object do not is untrue.
func TestProveUntrue(t *testing.T) {
	t.Parallel()
	for name, lie := range map[string]func(*release.Manifest){
		"":            func(*release.Manifest) {},
		"hash":        func(m *release.Manifest) { m.Zig.Hash = "N-V-__8AAAMAAABcr-E1sk8PMfTOvpi9Hds_wwtndnHnR26_" },
		"legacy hash": func(m *release.Manifest) { m.Zig.LegacyHash = "1220" },
		"submodule":   func(m *release.Manifest) { m.Submodules = []release.Submodule{{Path: "a", Commit: m.Commit}} },
		"tag object":  func(m *release.Manifest) { m.TagObject = m.Commit },
		"tag of another commit": func(m *release.Manifest) {
			m.Git.Tags[0] = bytes.Replace(m.Git.Tags[0], []byte(m.Commit), []byte(m.Tree), 1)
			m.TagObject = "1d1bb1a0e4f1cfa51ea6ff0bd27da5f4a3f31e34"
		},
		"tree": func(m *release.Manifest) { m.Tree = m.Commit },
		"size": func(m *release.Manifest) { m.Tarball.Size++ },
		"time": func(m *release.Manifest) { m.CommitTime = m.CommitTime.Add(time.Hour) },
	} {
		src := releasetest.New(t)
		commit := committed(src, "v1.0.0", src.Tree(map[string]string{"CHANGES": "other\n", "a": "", "README.md": "# Hello\n\nIt says hello to you.\n"}), 0)
		root := src.Root("v1.0.0", src.Add(gitpack.Tag, fmt.Sprintf("object %s\ntype commit\ntag v1.0.0\ntagger t <t@example.org> 1700000000 +0000\n\nx\n", commit.OID)))
		var targz bytes.Buffer
		man := src.Build(&targz, root, hello)
		if man.TagObject != root.OID.String() || man.Commit != commit.OID.String() || man.Description != "It says hello to you." {
			t.Errorf("tag %s of commit %s, description %q, want %s of %s", man.TagObject, man.Commit, man.Description, root.OID, commit.OID)
		}
		lie(man)
		_, err := releasetest.New(t).Load(man, &targz)
		if errors.Is(err, release.ErrUntrue) != (name != "") || errors.Is(err, release.ErrZig) != (name == "hash" || name == "legacy hash") || name == "" && err != nil {
			t.Errorf("lie about the %s: err = %v", name, err)
		}
		if name == "tag of another commit" && !strings.Contains(err.Error(), "names") {
			t.Errorf("lie about the %s: err = %v, want that it names another object", name, err)
		}
	}
}

// A full disk, a store that is away and a job that was ended say nothing about
// a manifest.
func TestUntrue(t *testing.T) {
	for _, own := range []error{blob.ErrFull, blob.ErrUnavailable, blob.ErrMismatch, fs.ErrNotExist, context.Canceled, context.DeadlineExceeded,
		&fs.PathError{Op: "read", Path: "x", Err: errors.New("broken")}, syscall.EIO} {
		if err := release.Untrue(fmt.Errorf("prove: %w", own)); errors.Is(err, release.ErrUntrue) || !errors.Is(err, own) {
			t.Errorf("%v became %v", own, err)
		}
	}
	if err := release.Untrue(errors.New("the tree differs")); !errors.Is(err, release.ErrUntrue) {
		t.Errorf("%v is no verdict", err)
	}
}

// A segment gets what no earlier one holds, the newest release first, and each release knows which segment has the last
// of its objects.
func TestSegmentsFresh(t *testing.T) {
	t.Parallel()
	src := releasetest.New(t)
	segments := release.NewSegments(nil)
	grow := func(roots ...*release.Root) []gitpack.OID {
		t.Helper()
		ids, err := segments.Fresh(t.Context(), src.Objects, roots, releasetest.Limits)
		if err != nil {
			t.Fatal(err)
		}
		if len(ids) > 0 {
			index, err := gitpack.WriteSegment(t.Context(), &bytes.Buffer{}, src.Objects, ids)
			if err != nil {
				t.Fatal(err)
			}
			segments = segments.With(release.Segment{Package: "hello"}, index)
		}
		return ids
	}
	tree := src.Tree(map[string]string{"a": "1", "b": "2"})
	file := src.Add(gitpack.Blob, "1")
	old, other := committed(src, "v1.0.0", tree, 0), committed(src, "v2.0.0", tree, 1)
	if ids := grow(old, other); len(ids) != 5 || ids[0] != other.Commit || ids[4] != old.Commit || ids[2] != file {
		t.Errorf("first segment: %v, want the newer commit, its tree and files, then the older commit", ids)
	}
	if ids := grow(old); len(ids) != 0 || old.Segment != 0 || len(segments.Rows) != 1 {
		t.Errorf("what is there already: %v in segment %d, want none and 0", ids, old.Segment)
	}
	last := committed(src, "v3.0.0", tree, 2)
	if ids := grow(last, old); !slices.Equal(ids, []gitpack.OID{last.Commit}) || last.Segment != 1 || old.Segment != 0 {
		t.Errorf("second segment: %v, want one commit; releases in %d and %d, want 1 and 0", ids, last.Segment, old.Segment)
	}
	if row := segments.Last(); row.Seq != 1 || row.FirstOrdinal != 5 || row.Objects != 1 || row.Package != "hello" {
		t.Errorf("row = %+v, want the second, after 5 objects, with one", row)
	}
}
