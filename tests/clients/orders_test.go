package clients

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/tests/harness"
)

// orders yields all orders of n things.
func orders(n int) [][]int {
	if n == 0 {
		return [][]int{nil}
	}
	var all [][]int
	for _, order := range orders(n - 1) {
		for i := range n {
			all = append(all, slices.Insert(slices.Clone(order), i, n-1))
		}
	}
	return all
}

// fiveTags makes a repository with five tags that share objects, two of them
// a commit, and returns the tags.
func fiveTags(r *harness.Repo) []string {
	r.Annotate("v1", r.Commit(harness.Files{"a": "a\n", "d/b": "b\n"}))
	r.Commit(harness.Files{"between": ""})
	r.Tag("v2", r.Commit(harness.Files{"a": "A\n", "e/b": "b\n", "between-": ""}))
	r.Annotate("v3", r.Commit(harness.Files{"d/b": "B\n"}))
	r.Tag("v4", "v3^{commit}")
	r.Annotate("v5", r.Commit(harness.Files{"a": "a\n", "d/b": "b\n", "e-": ""})) // the tree of v1
	return []string{"v1", "v2", "v3", "v4", "v5"}
}

// The pack of a tag has the same objects, in whatever order tags were added.
func TestPackOrders(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t).Repo("pkg")
	tags := fiveTags(up)
	dir := t.TempDir()
	up.Git("repack", "-a", "-d", "-q")
	packs, err := filepath.Glob(filepath.Join(up.Dir, "objects/pack/*.pack"))
	if err != nil || len(packs) != 1 {
		t.Fatalf("packs = %q, %v, want one", packs, err)
	}
	whole, err := os.ReadFile(packs[0])
	if err != nil {
		t.Fatal(err)
	}
	objects, spool := unpack(t, dir, whole)
	defer spool.Close()
	ids, want := map[string]gitpack.OID{}, map[string][]gitpack.OID{}
	for _, tag := range tags {
		for line := range strings.Lines(up.Git("rev-list", "--objects", "--no-walk", tag)) {
			want[tag] = append(want[tag], parseOID(t, line[:40]))
		}
		ids[tag] = parseOID(t, up.Git("rev-parse", tag))
	}
	for _, order := range orders(len(tags)) {
		var segments segments
		for _, i := range order {
			segments.add(t, objects, ids[tags[i]])
		}
		for _, tag := range tags {
			got, spool := unpack(t, dir, segments.pack(t, want[tag]))
			spool.Close() // Stat does without
			if got.Len() != len(want[tag]) {
				t.Errorf("order %v: %s has %d objects, want %d", order, tag, got.Len(), len(want[tag]))
			}
			for _, id := range want[tag] {
				if _, ok := got.Stat(id); !ok {
					t.Errorf("order %v: %s lacks %s", order, tag, id)
				}
			}
		}
	}
}

func parseOID(t testing.TB, s string) gitpack.OID {
	t.Helper()
	id, err := gitpack.ParseOID(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// unpack returns the objects of a pack and the file they are in.
func unpack(t testing.TB, dir string, pack []byte) (*gitpack.Objects, *os.File) {
	t.Helper()
	name := filepath.Join(dir, "pack")
	if err := os.WriteFile(name, pack, 0o644); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	spool, err := os.CreateTemp(dir, "spool")
	if err != nil {
		t.Fatal(err)
	}
	objects, err := gitpack.Unpack(t.Context(), file, spool, gitpack.DefaultLimits(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return objects, spool
}

// segments are those of a package, in memory.
type segments struct {
	indexes []*gitpack.SegmentIndex
	bytes   [][]byte
}

// add appends a segment of the objects of a tag that no earlier one holds.
func (s *segments) add(t testing.TB, objects *gitpack.Objects, tag gitpack.OID) {
	t.Helper()
	root, err := release.Resolve(objects, "", tag, gitpack.DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := release.NewSegments(nil, s.indexes...).Fresh(t.Context(), objects, []*release.Root{&root}, gitpack.DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	if len(fresh) == 0 {
		return
	}
	var b bytes.Buffer
	index, err := gitpack.WriteSegment(t.Context(), &b, objects, fresh)
	if err != nil {
		t.Fatal(err)
	}
	s.indexes, s.bytes = append(s.indexes, index), append(s.bytes, b.Bytes())
}

// pack returns the pack of some objects.
func (s *segments) pack(t testing.TB, ids []gitpack.OID) []byte {
	t.Helper()
	set := gitpack.NewSet(s.indexes...)
	bitmap, err := set.Bitmap(ids)
	if err != nil {
		t.Fatal(err)
	}
	pack, err := set.Pack(bitmap, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := pack.Reader(func(i int) (gitpack.Segment, error) { return inMemory{bytes.NewReader(s.bytes[i])}, nil }, 0)
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

type inMemory struct{ io.ReaderAt }

func (inMemory) Close() error { return nil }
