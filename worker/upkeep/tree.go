package upkeep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/feed"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/tree"
)

// KeepTrees stores what is known of trees whose captures have ended, if that changed, so that they can be rebuilt from
// blobs, and edges have them.
func (a *Auditor) KeepTrees(ctx context.Context) error {
	due, err := a.trees().UnrecordedRevisions(ctx, 20)
	for _, r := range due {
		if err == nil {
			err = a.keepTree(ctx, r)
		}
	}
	return err
}

func (a *Auditor) keepTree(ctx context.Context, r tree.Revision) error {
	rec, err := a.trees().RevisionRecord(ctx, r.Tree, r.Revision)
	if errors.Is(err, fault.ErrNotFound) {
		return nil // it goes on
	}
	if err != nil {
		return err
	}
	held := false
	if raw, err := blob.ReadAll(ctx, a.Blobs, r.Record); r.Record != "" && err == nil {
		old, err := tree.ParseRevisionRecord(raw)
		held = err == nil && old.Same(rec)
	}
	raw, err := rec.Encode()
	if err != nil {
		return err
	}
	if held || len(raw) > release.MaxManifestSize { // nobody would read it
		return a.trees().SetRevisionRecord(ctx, rec, blob.Ref{})
	}
	return a.keep(ctx, rec, func(put blob.Ref) error { return a.trees().SetRevisionRecord(ctx, rec, put) })
}

// remakeTree writes what the rows say of the revision whose record is lost.
func (a *Auditor) remakeTree(ctx context.Context, digest string) error {
	all, err := a.trees().RecordedRevisions(ctx, digest)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return errors.New("its capture goes on")
	}
	rec, err := a.trees().RevisionRecord(ctx, all[0].Tree, all[0].Revision)
	if err != nil {
		return err
	}
	return a.keep(ctx, rec, func(put blob.Ref) error {
		err := a.trees().SetRevisionRecord(ctx, rec, put)
		if err == nil && put.Digest != digest {
			err = errReplaced
		}
		return err
	})
}

// AdoptTree makes the rows of a revision whose record, which the feed of another packbase announced so, is in the store
// already. It returns release.ErrUntrue, or a fault.ErrInvalid, if it must not be.
func (a *Auditor) AdoptTree(ctx context.Context, said *feed.Tree, private bool) error {
	raw, err := blob.ReadAll(ctx, a.Blobs, said.Record.Digest)
	if err != nil {
		return err
	}
	rec, err := tree.ParseRevisionRecord(raw)
	if err == nil && (rec.Tree != said.Name || rec.Revision != said.Revision || rec.Private != private) {
		err = errors.New("its record is of something else")
	}
	if err != nil {
		return fmt.Errorf("tree %.100q: %w", said.Name, release.Untrue(err))
	}
	return a.trees().Adopt(ctx, rec, said.Record)
}

// A foundTree is the record of a revision that was found among the blobs.
type foundTree struct {
	blob blob.Ref
	rec  *tree.RevisionRecord
}

// rebuildTrees makes the rows of those revisions that the database does not have. Of two records for the same one, which
// stay until gc sweeps, the later one is true, but that one which says that it is private comes before.
func (a *Auditor) rebuildTrees(ctx context.Context, found []foundTree) error {
	here, err := a.trees().EndedRevisions(ctx)
	if err != nil {
		return err
	}
	type key struct {
		tree     string
		revision int
	}
	known := map[key]bool{}
	for _, r := range here {
		known[key{r.Tree, r.Revision}] = true
	}
	slices.SortFunc(found, func(x, y foundTree) int {
		return cmp.Or(cmp.Compare(x.rec.Tree, y.rec.Tree), cmp.Compare(x.rec.Revision, y.rec.Revision),
			compareHidden(x.rec.Private, y.rec.Private), y.rec.EndedAt.Compare(x.rec.EndedAt))
	})
	for i, f := range found {
		a.progress("trees", i, len(found))
		at := key{f.rec.Tree, f.rec.Revision}
		if known[at] {
			continue
		}
		known[at] = true
		if err := a.trees().Adopt(ctx, f.rec, f.blob); refused(err) {
			a.find("tree_lost", f.rec.Tree, "%v", err)
		} else if err != nil {
			return fmt.Errorf("rebuild the tree %s: %w", f.rec.Tree, err)
		}
	}
	return nil
}

// compareHidden sorts what is private before what is not.
func compareHidden(x, y bool) int {
	switch {
	case x == y:
		return 0
	case x:
		return -1
	}
	return 1
}
