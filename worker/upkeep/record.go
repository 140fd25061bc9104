package upkeep

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"time"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/release"
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
	var head, of string
	if sync != nil && len(sync.Branches) > 0 {
		var err error
		if head, of, err = a.DB.Jobs.HeadAfter(ctx, c, *sync); err != nil {
			return err
		}
	}
	rec, err := a.newRecord(ctx, c.Job.Package, func(rec *storage.PackageRecord) {
		rec.Fence = c.Fence
		if sync != nil {
			now := time.Now().UTC().Truncate(time.Second)
			rec.SyncOK, rec.SyncCode, rec.SyncMessage, rec.SyncedAt = sync.OK, sync.Code, sync.Message, &now
			maps.Copy(rec.Branches, sync.Branches)
		}
		if head != "" {
			rec.Head, rec.HeadBranch = head, of
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

// newRecord returns what is known of a package, changed by change, nil if the stored record says the same. If the new one hides
// something, it first deletes those that show it: were the new one lost, a rebuild would believe them.
func (a *Auditor) newRecord(ctx context.Context, pkg string, change func(*storage.PackageRecord)) (*storage.PackageRecord, error) {
	rec, held, err := a.DB.PackageRecord(ctx, pkg)
	if err != nil {
		return nil, err
	}
	change(rec)
	if held == "" {
		return rec, nil
	}
	switch old, err := a.readRecord(ctx, held); {
	case err == nil && old.Same(rec):
		return nil, nil
	case err == nil && !hides(rec, old):
		return rec, nil
	case away(ctx, err):
		return nil, err
	}
	return rec, a.forgetShown(ctx, rec, held)
}

func (a *Auditor) forgetShown(ctx context.Context, rec *storage.PackageRecord, held string) error {
	unnamed, err := a.DB.Scrub.Unnamed(ctx, release.MaxManifestSize)
	if err != nil {
		return err
	}
	for _, digest := range append(unnamed, held) {
		old, err := a.readRecord(ctx, digest)
		if away(ctx, err) {
			return err // it may be one that shows
		}
		if err != nil || old.Package != rec.Package || !hides(rec, old) {
			continue
		}
		if err := a.Blobs.Delete(ctx, digest); err != nil && !errors.Is(err, blob.ErrOthers) {
			return err
		}
	}
	return nil
}

// away reports whether err says nothing of the blob.
func away(ctx context.Context, err error) bool {
	return err != nil && ctx.Err() != nil || errors.Is(err, blob.ErrUnavailable) && !blob.IsDamaged(err)
}

// hides reports whether a record hides something that another of its package shows.
func hides(rec, other *storage.PackageRecord) bool {
	return rec.Private && !other.Private || len(rec.Removed) > len(other.Removed) || rec.State == storage.Removed && other.State != storage.Removed
}

// errNoRecord says that a blob is something else.
var errNoRecord = errors.New("not the record of a package")

// readRecord returns the record that a blob is.
func (a *Auditor) readRecord(ctx context.Context, digest string) (*storage.PackageRecord, error) {
	b, err := a.Blobs.Open(ctx, digest)
	if err != nil {
		return nil, err
	}
	start := make([]byte, len(recordStart))
	_, err = b.ReadAt(start, 0)
	b.Close()
	switch {
	case err != nil && err != io.EOF:
		return nil, err
	case string(start) != recordStart || b.Size() > release.MaxManifestSize:
		return nil, errNoRecord
	}
	raw, err := blob.ReadAll(ctx, a.Blobs, digest)
	if err != nil {
		return nil, err
	}
	rec, err := storage.ParsePackageRecord(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoRecord, err)
	}
	return rec, nil
}

const recordStart = "{\n  \"packbase_package\""

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
