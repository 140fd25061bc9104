// Package releasetest makes releases for tests, as the product makes them, from
// files that a test names.
package releasetest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/release"
)

// Limits are those of all that is made here.
var Limits = gitpack.DefaultLimits()

// A Source is Git objects to make releases of.
type Source struct {
	Objects *gitpack.Objects
	t       testing.TB
	builder *release.Builder
}

// New returns a source that lasts as long as the test.
func New(t testing.TB) *Source {
	t.Helper()
	s := &Source{t: t}
	dir := t.TempDir()
	file := func(name string) *os.File {
		f, err := os.Create(filepath.Join(dir, name))
		s.must(err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	s.Objects = gitpack.NewObjects(file("objects"))
	s.builder = release.NewBuilder(file("chunks"), 1<<30, Limits)
	return s
}

// Load reads a release from its manifest and tarball, as from blobs, and holds it to all that is checked before it is published.
func (s *Source) Load(man *release.Manifest, targz io.Reader) (*release.Unpacked, error) {
	s.t.Helper()
	dir := s.t.TempDir()
	blobs, err := blob.OpenDisk(filepath.Join(dir, "blobs"))
	s.must(err)
	put := func(from io.Reader) string {
		file, err := os.CreateTemp(dir, "blob-*")
		s.must(err)
		defer file.Close()
		sum := sha256.New()
		_, err = io.Copy(io.MultiWriter(file, sum), from)
		s.must(err)
		digest := hex.EncodeToString(sum.Sum(nil))
		s.must(blobs.Put(s.t.Context(), digest, file))
		return digest
	}
	raw, err := man.Encode()
	s.must(err)
	put(targz)
	r, err := release.Load(s.t.Context(), blobs, s.Objects, put(bytes.NewReader(raw)))
	if err == nil {
		err = r.Admit(s.t.Context())
	}
	if err != nil {
		return nil, release.Untrue(err)
	}
	return r, nil
}

func (s *Source) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// Add stores an object.
func (s *Source) Add(typ gitpack.Type, content string) gitpack.OID {
	s.t.Helper()
	id, err := s.Objects.Add(typ, int64(len(content)), strings.NewReader(content))
	s.must(err)
	return id
}

// Tree stores files by their paths.
func (s *Source) Tree(files map[string]string) gitpack.OID {
	s.t.Helper()
	var all []gitpack.File
	for _, name := range slices.Sorted(maps.Keys(files)) {
		all = append(all, gitpack.File{Path: name, Mode: gitpack.ModeFile, OID: s.Add(gitpack.Blob, files[name])})
	}
	tree, err := s.Objects.WriteTree(all, nil)
	s.must(err)
	return tree
}

// Root returns the release of a tag, which names a tag object or a commit.
func (s *Source) Root(tag string, oid gitpack.OID) *release.Root {
	s.t.Helper()
	root, err := release.Resolve(s.Objects, tag, oid, Limits)
	s.must(err)
	return &root
}

// Build writes the tarball of a release, and returns its manifest. of says whose
// it is.
func (s *Source) Build(w io.Writer, r *release.Root, of release.Manifest) *release.Manifest {
	s.t.Helper()
	man, err := s.builder.Build(s.t.Context(), w, s.Objects, r, of)
	s.must(err)
	return man
}
