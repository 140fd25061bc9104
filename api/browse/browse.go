// Package browse reads the files of releases, one by one, from a package's Git
// objects: for people who look at them.
package browse

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/francescobianco/packbase/api/stored"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/zigpkg"
)

// Files reads files of releases. Make one with New. It is safe for concurrent use.
type Files struct {
	db    *storage.DB
	blobs *stored.Blobs
	sets  *lru.Cache[string, *release.Segments] // by package and the last segment's digest
	facts *lru.Cache[string, Facts]             // by tree
	load  chan struct{}                         // holds one while a set is read
}

const (
	maxSets     = 4       // packages whose objects are known
	maxObjects  = 200_000 // of a package that can be looked at: 50 bytes of memory each
	maxTree     = 4 << 20 // bytes of one folder's object
	maxManifest = 1 << 20 // bytes of a build.zig.zon of which it is told why it is refused
	maxFacts    = 256     // trees of which they are known; of one they take some 40 KB at most
)

// New returns the files of what is stored.
func New(db *storage.DB, blobs *stored.Blobs) *Files {
	sets, _ := lru.New[string, *release.Segments](maxSets) // the error is about sizes below one
	facts, _ := lru.New[string, Facts](maxFacts)
	return &Files{db: db, blobs: blobs, sets: sets, facts: facts, load: make(chan struct{}, 1)}
}

// Facts are what the files of a release say to those who want to depend on it.
type Facts struct {
	Build   zigpkg.Build      // by its build.zig
	Refused map[string]string // why Zig releases refuse its build.zig.zon: see zigpkg.Refusals
}

// Facts returns those of a release that the reader may see. It returns
// fault.ErrNotFound for a package too large to be looked at.
func (f *Files) Facts(ctx context.Context, rel *storage.Release) (Facts, error) {
	if known, ok := f.facts.Get(rel.TreeOID); ok {
		return known, nil
	}
	tree, err := f.At(ctx, rel)
	if err != nil {
		return Facts{}, err
	}
	entries, err := tree.Folder(ctx, "")
	if err != nil {
		return Facts{}, err
	}
	var facts Facts
	for _, e := range entries {
		limit := map[string]int64{zigpkg.BuildName: zigpkg.MaxBuildBytes, zigpkg.ManifestName: maxManifest}[e.Path]
		if limit == 0 || !e.IsRegular() {
			continue
		}
		text, err := tree.Read(ctx, e, limit)
		var known *gitpack.Error
		switch {
		case errors.As(err, &known) && known.Code == gitpack.CodeObjectTooLarge: // of use to nobody
		case err != nil:
			return Facts{}, err
		case e.Path == zigpkg.BuildName:
			facts.Build = zigpkg.ScanBuild(text)
		default:
			facts.Refused = zigpkg.Refusals(text)
		}
	}
	f.facts.Add(rel.TreeOID, facts)
	return facts, nil
}

// A Tree is the files of one release.
type Tree struct {
	segments *release.Segments
	root     gitpack.OID
}

// At returns the files of a release that the reader may see. It returns
// fault.ErrNotFound for a package too large to be looked at.
func (f *Files) At(ctx context.Context, rel *storage.Release) (*Tree, error) {
	root, err := gitpack.ParseOID(rel.TreeOID)
	if err != nil {
		return nil, err
	}
	rows, err := f.db.Segments(ctx, rel.Package)
	if err != nil {
		return nil, err
	}
	objects := 0
	for _, row := range rows {
		objects += row.Objects
	}
	if len(rows) == 0 || objects > maxObjects {
		return nil, fmt.Errorf("files of %s, %d objects: %w", rel.Package, objects, fault.ErrNotFound)
	}
	segments, err := f.segments(ctx, rel.Package, rows)
	if err != nil {
		return nil, fmt.Errorf("files of %s: %w", rel.Package, err)
	}
	return &Tree{segments: segments, root: root}, nil
}

// segments returns the package's segments with the ids of their objects. One
// package at a time is read, as that takes memory.
func (f *Files) segments(ctx context.Context, pkg string, rows []release.Segment) (*release.Segments, error) {
	select {
	case f.load <- struct{}{}:
		defer func() { <-f.load }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	// Segments are only added, so the last one tells them all.
	key := pkg + " " + rows[len(rows)-1].Digest
	if segments, ok := f.sets.Get(key); ok {
		return segments, nil
	}
	segments, err := release.LoadSegments(ctx, f.blobs, rows, gitpack.UnmarshalIndex)
	if err == nil {
		f.sets.Add(key, segments)
	}
	return segments, err
}

// Folder lists what is in a folder, "" for the root, in Git's order. It returns
// fault.ErrNotFound if there is none.
func (t *Tree) Folder(ctx context.Context, dir string) ([]gitpack.File, error) {
	id := t.root
	if dir != "" {
		f, err := t.Stat(ctx, dir)
		switch {
		case err != nil:
			return nil, err
		case f.Mode != gitpack.ModeDir:
			return nil, fmt.Errorf("folder %s: %w", dir, fault.ErrNotFound)
		}
		id = f.OID
	}
	return t.list(ctx, id)
}

func (t *Tree) list(ctx context.Context, id gitpack.OID) ([]gitpack.File, error) {
	raw, err := t.segments.Set.Read(id, gitpack.Tree, maxTree, t.segments.Opener(ctx))
	if err != nil {
		return nil, err
	}
	return gitpack.ParseTree(raw)
}

// Stat returns what is at a path: file, folder, link or submodule, without its
// size. It returns fault.ErrNotFound if nothing is.
func (t *Tree) Stat(ctx context.Context, p string) (f gitpack.File, err error) {
	if p == "" || path.Clean("/" + p)[1:] != p {
		return f, fmt.Errorf("%q: %w", p, fault.ErrNotFound)
	}
	f = gitpack.File{Mode: gitpack.ModeDir, OID: t.root}
	for name := range strings.SplitSeq(p, "/") {
		var entries []gitpack.File
		if f.Mode == gitpack.ModeDir {
			if entries, err = t.list(ctx, f.OID); err != nil {
				return f, err
			}
		}
		found := false
		for _, e := range entries {
			if e.Path == name {
				f, found = e, true
				break
			}
		}
		if !found {
			return f, fmt.Errorf("%s: %w", p, fault.ErrNotFound)
		}
	}
	f.Path = p
	return f, nil
}

// Read returns the content of a file, or what a link names, of at most limit bytes.
func (t *Tree) Read(ctx context.Context, f gitpack.File, limit int64) ([]byte, error) {
	return t.segments.Set.Read(f.OID, gitpack.Blob, limit, t.segments.Opener(ctx))
}

// A Change is a file that two releases do not have alike.
type Change struct {
	Path     string
	Old, New gitpack.File // the zero File where it is not
}

// Diff returns the files that differ between two trees of a package, by path,
// most of them at the most. Folders that are equal are not read.
func Diff(ctx context.Context, from, to *Tree, most int) (changes []Change, more bool, err error) {
	d := &differ{ctx: ctx, from: from, to: to, most: most}
	err = d.folders(gitpack.File{OID: from.root, Mode: gitpack.ModeDir}, gitpack.File{OID: to.root, Mode: gitpack.ModeDir}, "")
	return d.changes, d.more, err
}

type differ struct {
	ctx      context.Context
	from, to *Tree
	most     int
	changes  []Change
	more     bool
}

// folders compares two folders; either may be the zero File, for none.
func (d *differ) folders(old, new gitpack.File, prefix string) error {
	both := map[string][2]gitpack.File{}
	var names []string
	for i, side := range []struct {
		tree *Tree
		dir  gitpack.File
	}{{d.from, old}, {d.to, new}} {
		if side.dir.Mode != gitpack.ModeDir {
			continue
		}
		entries, err := side.tree.list(d.ctx, side.dir.OID)
		if err != nil {
			return err
		}
		for _, e := range entries {
			pair, known := both[e.Path]
			if !known {
				names = append(names, e.Path)
			}
			pair[i] = e
			both[e.Path] = pair
		}
	}
	for _, name := range names {
		if err := d.entries(both[name][0], both[name][1], prefix+name); err != nil || d.more {
			return err
		}
	}
	return nil
}

// entries compares what two folders have under a name.
func (d *differ) entries(old, new gitpack.File, p string) error {
	if old == new {
		return nil
	}
	if old.Mode == gitpack.ModeDir || new.Mode == gitpack.ModeDir {
		if err := d.folders(old, new, p+"/"); err != nil {
			return err
		}
	}
	for _, f := range []*gitpack.File{&old, &new} {
		if f.Mode == gitpack.ModeDir {
			*f = gitpack.File{}
		}
	}
	switch {
	case old == new: // folders
	case len(d.changes) == d.most:
		d.more = true
	default:
		d.changes = append(d.changes, Change{p, old, new})
	}
	return nil
}
