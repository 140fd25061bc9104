package upkeep

import (
	"context"
	"errors"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
)

// KeepRecord stores what is known of a package besides its releases, if that changed and the package is here, so that it
// can be rebuilt from blobs. Jobs do so themselves; an edge has none.
func (a *Auditor) KeepRecord(ctx context.Context, pkg string) error {
	rec, held, err := a.DB.PackageRecord(ctx, pkg)
	if errors.Is(err, fault.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if held != "" {
		if raw, err := blob.ReadAll(ctx, a.Blobs, held); err == nil {
			if old, err := storage.ParsePackageRecord(raw); err == nil && old.Same(rec) {
				return nil
			}
		}
	}
	rec.Fence++
	return a.keep(ctx, rec, func(put blob.Ref) error { return a.DB.SetLaterRecord(ctx, rec, put) })
}

// KeepRemovals does the same for what was removed of archives.
func (a *Auditor) KeepRemovals(ctx context.Context) error {
	removals, err := a.trees().Unrecorded(ctx, 20)
	for i := range removals {
		r := &removals[i]
		if err == nil {
			err = a.keep(ctx, r, func(put blob.Ref) error { return a.trees().KeepRemoval(ctx, r.URL, put) })
		}
	}
	return err
}

// keep stores a document, which is not swept before name has named it.
func (a *Auditor) keep(ctx context.Context, doc interface{ Encode() ([]byte, error) }, name func(blob.Ref) error) error {
	raw, err := doc.Encode()
	if err != nil {
		return err
	}
	unshare, err := a.DB.Scrub.Share(ctx)
	if err != nil {
		return err
	}
	defer unshare()
	stage, err := a.Staging.New()
	if err != nil {
		return err
	}
	defer stage.Close()
	put, err := a.putBytes(ctx, stage.Dir, raw)
	if err != nil {
		return err
	}
	return name(put)
}
