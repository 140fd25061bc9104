package capture

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/klauspost/compress/gzip"

	"github.com/francescobianco/packbase/storage/zigpkg"
)

// Limits of a Reader.
const (
	maxNested  = 16 << 20 // bytes of all manifests in one package
	keptNested = 512      // packages whose dependencies are remembered
	readers    = 2        // packages read at once
)

// A Reader knows what stored packages depend on, those within them included: a package may name another one by a path
// in its own tree, and what that names by URL is fetched as well. It is safe for concurrent use.
type Reader struct {
	open  func(ctx context.Context, digest string) (io.ReadCloser, error)
	known *lru.Cache[string, []zigpkg.Dependency] // by digest
	turns chan struct{}
}

// NewReader returns a reader of the tarballs that open opens, tar.gz as Zig is given them.
func NewReader(open func(ctx context.Context, digest string) (io.ReadCloser, error)) *Reader {
	known, _ := lru.New[string, []zigpkg.Dependency](keptNested) // the error is about sizes below one
	return &Reader{open: open, known: known, turns: make(chan struct{}, readers)}
}

// Dependencies returns deps, which the manifest of a package names, and those of the packages within it. digest is its
// tarball. A path that leads to no manifest, or out of the package, adds nothing: Zig finds nothing there, either.
func (r *Reader) Dependencies(ctx context.Context, digest string, deps []zigpkg.Dependency) ([]zigpkg.Dependency, error) {
	if !slices.ContainsFunc(deps, isNested) {
		return deps, nil
	}
	if all, ok := r.known.Get(digest); ok {
		return all, nil
	}
	select {
	case r.turns <- struct{}{}:
		defer func() { <-r.turns }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	tarball, err := r.open(ctx, digest)
	if err != nil {
		return nil, err
	}
	defer tarball.Close()
	manifests, err := readManifests(tarball)
	if err != nil {
		return nil, fmt.Errorf("read manifests in %s: %w", digest, err)
	}
	all := Nested(deps, func(file string) ([]byte, error) {
		raw, ok := manifests[file]
		if !ok {
			return nil, fs.ErrNotExist
		}
		return raw, nil
	})
	r.known.Add(digest, all)
	return all, nil
}

func isNested(d zigpkg.Dependency) bool { return d.Path != "" && d.URL == "" }

// Nested returns deps, the dependencies of the packages that these lead to by paths, and those of these. read returns a manifest by
// its path from the package's root; it must not follow symlinks, by which there are paths without end.
func Nested(deps []zigpkg.Dependency, read func(file string) ([]byte, error)) []zigpkg.Dependency {
	type folder struct {
		path string
		deps []zigpkg.Dependency
	}
	found, seen := slices.Clone(deps), map[string]bool{".": true}
	for todo := []folder{{".", deps}}; len(todo) > 0; todo = todo[1:] {
		for _, d := range slices.DeleteFunc(slices.Clone(todo[0].deps), func(d zigpkg.Dependency) bool { return !isNested(d) }) {
			at := path.Join(todo[0].path, d.Path)
			if seen[at] {
				continue
			}
			seen[at] = true
			raw, err := read(path.Join(at, zigpkg.ManifestName))
			if err != nil {
				continue
			}
			if man, err := zigpkg.ParseManifest(raw); err == nil {
				found = append(found, man.Dependencies...)
				todo = append(todo, folder{at, man.Dependencies})
			}
		}
	}
	return found
}

// readManifests returns the manifests in a package, by their paths from its root: if all of a tarball lies in one
// directory, that is the root.
func readManifests(tarball io.Reader) (map[string][]byte, error) {
	unzipped, err := gzip.NewReader(tarball)
	if err != nil {
		return nil, err
	}
	manifests, room := map[string][]byte{}, int64(maxNested)
	var top string
	oneTop := true
	for files := tar.NewReader(unzipped); ; {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		file := path.Clean(h.Name)
		if h.Typeflag == tar.TypeDir || file == "." {
			continue
		}
		first, _, deep := strings.Cut(file, "/")
		oneTop = oneTop && deep && (top == "" || top == first)
		top = first
		if h.Typeflag != tar.TypeReg || path.Base(file) != zigpkg.ManifestName {
			continue
		}
		if room -= h.Size; room < 0 {
			return nil, fmt.Errorf("%w: it has more than %d MiB of manifests", ErrTooLarge, maxNested>>20)
		}
		if manifests[file], err = io.ReadAll(files); err != nil {
			return nil, err
		}
	}
	if !oneTop {
		return manifests, nil
	}
	cut := map[string][]byte{}
	for file, raw := range manifests {
		cut[strings.TrimPrefix(file, top+"/")] = raw
	}
	return cut, nil
}
