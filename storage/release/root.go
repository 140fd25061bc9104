package release

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/zigpkg"
)

// A Root is what leads to all objects of a release.
type Root struct {
	Tag    string             // "" of a snapshot
	OID    gitpack.OID        // what the tag names: its outermost tag object, else the commit
	Tags   []gitpack.OID      // tag objects, outermost first
	Commit gitpack.OID        //
	Info   gitpack.CommitInfo // of the commit: its tree and time

	// Segment is the position of the segment that holds the newest of the
	// objects. [Segments.Fresh] sets it.
	Segment int

	// Bytes that the release's manifest has, at least, and those of its build.zig.zon. [Check] sets them.
	Described, Zon int64
}

// Resolve finds the commit that a tag, or a tag object, leads to.
func Resolve(objects *gitpack.Objects, tag string, oid gitpack.OID, lim gitpack.Limits) (r Root, err error) {
	r = Root{Tag: tag, OID: oid}
	if r.Commit, r.Tags, err = objects.Peel(oid); err != nil {
		return r, err
	}
	raw, err := objects.Read(r.Commit, gitpack.Commit, lim.ObjectBytes)
	if err != nil {
		return r, err
	}
	r.Info, err = gitpack.ParseCommit(raw)
	return r, err
}

// Check is Resolve, and refuses what Git would trip over, or what lacks an object.
func Check(ctx context.Context, objects *gitpack.Objects, tag string, oid gitpack.OID, lim gitpack.Limits) (Root, error) {
	r, err := Resolve(objects, tag, oid, lim)
	if err != nil {
		return r, err
	}
	if tag == "" && r.Commit != oid {
		return r, fault.New("not_a_commit",
			fmt.Sprintf("%s is the id of a tag object; ask for the tag by its name, or for the commit %s", oid, r.Commit))
	}
	tree, err := objects.Files(ctx, r.Info.Tree, lim)
	if err != nil {
		return r, err
	}
	r.weigh(objects, tree)
	return r, objects.Fsck(r.Commit, r.Tags, tree)
}

// weigh works out, without making it, how much a manifest takes. A few
// kilobytes of upstream may be a commit or a tree of which there are megabytes
// to tell.
func (r *Root) weigh(objects *gitpack.Objects, tree gitpack.Listing) {
	for _, id := range append([]gitpack.OID{r.Commit}, r.Tags...) {
		object, _ := objects.Stat(id)
		r.Described += object.Size / 3 * 4 // in base64
	}
	zon := tree.Resolve(zigpkg.ManifestName)
	for _, f := range tree.Files {
		if f.Path == zon {
			r.Zon = f.Size
		}
		switch f.Mode {
		case gitpack.ModeFile, gitpack.ModeExecutable, gitpack.ModeSymlink:
		case gitpack.ModeSubmodule: // in two lists
			r.Described += 2*int64(len(f.Path)) + int64(len(`"path":"","mode":"160000","oid":"","path":"","commit":""`)) + 80
		default:
			r.Described += int64(len(f.Path) + len(`"path":"","mode":"100664"`))
		}
	}
	for _, dir := range tree.EmptyDirs {
		r.Described += int64(len(dir) + len(`"path":"","mode":"40000"`))
	}
}

// Objects returns all that the release is made of, each once, in the order of
// a segment: tag objects, commit, trees and files.
func (r *Root) Objects(ctx context.Context, objects *gitpack.Objects, lim gitpack.Limits) ([]gitpack.OID, error) {
	tree, err := objects.Files(ctx, r.Info.Tree, lim)
	if err != nil {
		return nil, err
	}
	return r.list(tree), nil
}

func (r *Root) list(tree gitpack.Listing) []gitpack.OID {
	var ids []gitpack.OID
	seen := map[gitpack.OID]bool{}
	add := func(id gitpack.OID) {
		if !seen[id] {
			seen[id] = true
			ids = append(ids, id)
		}
	}
	for _, id := range r.Tags {
		add(id)
	}
	add(r.Commit)
	for _, id := range tree.Trees {
		add(id)
	}
	for _, f := range tree.Files {
		if f.Mode != gitpack.ModeSubmodule {
			add(f.OID)
		}
	}
	return ids
}

// newestFirst compares two releases by their place in a segment. Rebuilding a
// segment finds the same order from manifests alone.
func newestFirst(a, b *Root) int {
	return cmp.Or(b.Info.CommitterTime.Compare(a.Info.CommitterTime), strings.Compare(a.Tag, b.Tag), bytes.Compare(a.OID[:], b.OID[:]))
}
