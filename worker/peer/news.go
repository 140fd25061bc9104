package peer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/feed"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/tree"
)

// applyNews does here what is news at the central, its change seq.
func (r *Replica) applyNews(ctx context.Context, seq int64, c *feed.Body, private bool) error {
	if c.Archive != nil && c.Decision != "" {
		return r.removeArchive(ctx, c, private)
	}
	if c.Archive != nil {
		return r.applyArchive(ctx, c.Archive, private)
	}
	if c.Tree != nil {
		return r.applyTree(ctx, seq, c, private)
	}
	if c.Renamed != "" {
		return r.rename(ctx, c.Package, c.Renamed)
	}
	err := r.DB.FollowBranch(ctx, c.Package, storage.Branch{Name: c.Branch, Commit: c.Commit}, c.Aside)
	if errors.Is(err, fault.ErrNotFound) {
		return fmt.Errorf("branch %s of %s: its commit %s is not here", c.Branch, c.Package, c.Commit)
	}
	if err != nil {
		return err
	}
	// Where it was before is of no interest any more.
	aside, err := r.DB.Feed.SetAsideOf(ctx, c.Package)
	for _, s := range aside {
		old, bad := readBody([]byte(s.Body))
		if err == nil && bad == nil && old.Branch == c.Branch {
			err = r.DB.Feed.SetAsideDone(ctx, s.Seq)
		}
	}
	return err
}

// rename gives a package the names that it got at the central, in their order: those that were set aside first.
func (r *Replica) rename(ctx context.Context, pkg string, to ...string) error {
	aside, err := r.DB.Feed.SetAsideOf(ctx, pkg)
	var old []string
	var done []int64
	for _, s := range aside {
		if body, bad := readBody([]byte(s.Body)); bad == nil && body.Renamed != "" {
			old, done = append(old, body.Renamed), append(done, s.Seq)
		}
	}
	for _, name := range append(old, to...) {
		if err == nil {
			_, err = r.DB.Rename(ctx, pkg, name)
		}
	}
	if err != nil && !errors.Is(err, fault.ErrGone) {
		return err
	}
	for _, seq := range done {
		if err := r.DB.Feed.SetAsideDone(ctx, seq); err != nil {
			return err
		}
	}
	return r.storeRecord(ctx, pkg)
}

// applyArchive copies, checks and publishes an archive.
func (r *Replica) applyArchive(ctx context.Context, said *feed.Archive, private bool) (err error) {
	defer func() {
		if p := recover(); p != nil {
			r.Log.ErrorContext(ctx, "archive broke replication", "url", said.URL, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("reading %s failed in a way that was not foreseen: %v", said.URL, p)
		}
	}()
	// While this is held, no blob is swept that is about to be named.
	unshare, err := r.DB.Scrub.Share(ctx)
	if err != nil {
		return err
	}
	defer unshare()
	err = r.copy(ctx, said.Record)
	for _, b := range []blob.Ref{said.Body, said.Tarball} {
		if err == nil {
			err = r.copyFiles(ctx, b)
		}
	}
	if err != nil {
		return errors.Join(fmt.Errorf("archive %s: %w", said.URL, err), r.forget(ctx, err, said.Record))
	}
	a := r.auditor()
	if err := a.AdoptArchive(ctx, said, private); errors.Is(err, fault.ErrGone) {
		return nil
	} else if err != nil {
		return errors.Join(err, r.forget(ctx, err, said.Record))
	}
	r.Log.InfoContext(ctx, "archive replicated", "url", said.URL)
	return nil
}

// removeArchive does here what was decided about an archive at the central.
func (r *Replica) removeArchive(ctx context.Context, c *feed.Body, private bool) error {
	err := r.trees().Bury(ctx, tree.Removal{URL: c.Archive.URL, Private: private, Reason: c.Reason, RemovedAt: time.Now()}, blob.Ref{})
	if err != nil {
		return err
	}
	if err := r.forgetAside(ctx, func(old *feed.Body) bool { return old.Archive != nil && old.Archive.URL == c.Archive.URL }); err != nil {
		return err
	}
	a := r.auditor()
	return a.KeepRemovals(ctx)
}

// forgetAside leaves changes of no package for good that were set aside and that say what is of no interest any more.
func (r *Replica) forgetAside(ctx context.Context, stale func(*feed.Body) bool) error {
	aside, err := r.DB.Feed.SetAsideOf(ctx, "")
	for _, s := range aside {
		old, bad := readBody([]byte(s.Body))
		if err == nil && bad == nil && stale(old) {
			err = r.DB.Feed.SetAsideDone(ctx, s.Seq)
		}
	}
	return err
}

// applyTree makes a revision of a tree what it is at the central, or hides the tree.
func (r *Replica) applyTree(ctx context.Context, seq int64, c *feed.Body, private bool) error {
	said := c.Tree
	if c.Decision != "" {
		if err := r.trees().Hide(ctx, said.Name); err != nil {
			return err
		}
		return r.forgetAside(ctx, func(old *feed.Body) bool { return old.Tree != nil && old.Tree.Name == said.Name })
	}
	if r.wasDecided(func(d *decided) bool { return d.seq > seq && d.Tree != nil && d.Tree.Name == said.Name }) {
		return nil // further on in the feed is what it is now
	}
	unshare, err := r.DB.Scrub.Share(ctx)
	if err != nil {
		return err
	}
	defer unshare()
	if err := r.copy(ctx, said.Record); err != nil {
		return fmt.Errorf("tree %s: %w", said.Name, err)
	}
	a := r.auditor()
	if err := a.AdoptTree(ctx, said, private); err != nil {
		return errors.Join(err, r.forget(ctx, err, said.Record))
	}
	r.Log.InfoContext(ctx, "tree replicated", "tree", said.Name, "revision", said.Revision)
	return r.forgetAside(ctx, func(old *feed.Body) bool {
		return old.Tree != nil && old.Tree.Name == said.Name && old.Tree.Revision == said.Revision
	})
}

func (r *Replica) trees() *tree.Store { return tree.New(r.DB.DB) }

// checkTree checks what a change says of a tree.
func checkTree(c *feed.Body) error {
	err := name.ValidPackage(c.Tree.Name)
	if err != nil || c.Decision == feed.DecisionPrivate {
		return err
	}
	if c.Decision != "" {
		return fmt.Errorf("%.20q was decided about a tree, which this packbase does not know", c.Decision)
	}
	if c.Tree.Record.Size > release.MaxManifestSize {
		return fmt.Errorf("the record of a tree has %d bytes", c.Tree.Record.Size)
	}
	return checkBlobs(c.Tree.Record)
}

// checkArchive checks what a change says of an archive.
func checkArchive(c *feed.Body) error {
	said := c.Archive
	if c.Decision == feed.DecisionRemoved {
		d, err := name.ParseDependency(said.URL)
		if err == nil && (d.Git || d.URL != said.URL) {
			err = errors.New("that is no archive's URL")
		}
		if err = cmp.Or(err, storage.ValidReason(c.Reason)); err != nil {
			return fmt.Errorf("it removes the archive %.200q: %w", said.URL, err)
		}
		return nil
	}
	if c.Decision != "" {
		return fmt.Errorf("%.20q was decided about an archive, which this packbase does not know", c.Decision)
	}
	if said.Record.Size > release.MaxManifestSize {
		return fmt.Errorf("the record of an archive has %d bytes", said.Record.Size)
	}
	return checkBlobs(said.Record, said.Body, said.Tarball)
}
