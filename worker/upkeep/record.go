package upkeep

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/jobs"
)

// KeepRecord stores what is known of a package besides its releases, if that changed and the package is here, so that it
// can be rebuilt from blobs. Jobs do so themselves; an edge has none.
func (a *Auditor) KeepRecord(ctx context.Context, pkg string) error {
	rec, err := a.newRecord(ctx, pkg, func(rec *storage.PackageRecord) { rec.Fence++ })
	if errors.Is(err, fault.ErrNotFound) {
		return nil
	}
	if err != nil || rec == nil {
		return err
	}
	return a.keep(ctx, rec, func(put blob.Ref) error { return a.DB.SetLaterRecord(ctx, rec, put) })
}

// KeepRecords does the same for some of the packages that have no record: earlier edges kept those of what was decided alone.
func (a *Auditor) KeepRecords(ctx context.Context) error {
	names, err := a.DB.Scrub.Unrecorded(ctx, 20)
	for _, pkg := range names {
		if err == nil {
			err = a.KeepRecord(ctx, pkg)
		}
	}
	return err
}

// RecordJob does the same for the package of a job, whose sync, if there was one, is not yet recorded. The caller keeps
// blobs from being swept, and dir is for files.
func (a *Auditor) RecordJob(ctx context.Context, c jobs.Claim, sync *jobs.Sync, dir string) error {
	rec, err := a.newRecord(ctx, c.Job.Package, func(rec *storage.PackageRecord) {
		rec.Fence = c.Fence
		if sync != nil {
			now := time.Now().UTC().Truncate(time.Second)
			rec.SyncOK, rec.SyncCode, rec.SyncMessage, rec.SyncedAt = sync.OK, sync.Code, sync.Message, &now
			maps.Copy(rec.Branches, sync.Branches)
		}
	})
	if err != nil || rec == nil {
		return err
	}
	raw, err := rec.Encode()
	if err != nil {
		return err
	}
	put, err := a.putBytes(ctx, dir, raw)
	if err != nil {
		return err
	}
	return a.DB.SetRecord(ctx, c, put)
}

// newRecord returns what is known of a package, changed by change, nil if the stored record says the same.
func (a *Auditor) newRecord(ctx context.Context, pkg string, change func(*storage.PackageRecord)) (*storage.PackageRecord, error) {
	rec, held, err := a.DB.PackageRecord(ctx, pkg)
	if err != nil {
		return nil, err
	}
	change(rec)
	if held == "" {
		return rec, nil
	}
	if raw, err := blob.ReadAll(ctx, a.Blobs, held); err == nil {
		if old, err := storage.ParsePackageRecord(raw); err == nil && old.Same(rec) {
			return nil, nil
		}
	}
	return rec, nil
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
