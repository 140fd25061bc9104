package peer

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/feed"
	"github.com/francescobianco/packbase/storage/release"
)

// takeNews does here what is news at the central.
func (r *Replica) takeNews(ctx context.Context, c *feed.Body, private bool) error {
	if c.Archive != nil {
		return r.takeArchive(ctx, c.Archive, private)
	}
	err := r.DB.FollowBranch(ctx, c.Package, storage.Branch{Name: c.Branch, Commit: c.Commit})
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

// takeArchive copies, checks and publishes an archive.
func (r *Replica) takeArchive(ctx context.Context, said *feed.Archive, private bool) (err error) {
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
	for _, b := range []blob.Ref{said.Record, said.Body, said.Tarball} {
		if err := r.copy(ctx, b); err != nil {
			return fmt.Errorf("archive %s: %w", said.URL, err)
		}
	}
	a := r.auditor()
	if err := a.AdoptArchive(ctx, said, private); err != nil {
		return err
	}
	r.Log.InfoContext(ctx, "archive replicated", "url", said.URL)
	return nil
}

// checkArchive checks what a change says of an archive.
func checkArchive(said *feed.Archive) error {
	if said.Record.Size > release.MaxManifestSize {
		return fmt.Errorf("the record of an archive has %d bytes", said.Record.Size)
	}
	return checkBlobs(said.Record, said.Body, said.Tarball)
}
