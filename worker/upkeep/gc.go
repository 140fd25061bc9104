package upkeep

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// GC removes blobs that no row names and that are older than grace, and what
// crashed writers left in staging. With dryRun it only says what it would
// remove. Nothing that a row names is ever removed.
//
// Jobs hold their blobs by a lock that GC takes alone, so none is about to
// name a blob while it is removed.
func (a *Auditor) GC(ctx context.Context, grace time.Duration, dryRun bool) (removed int, bytes int64, err error) {
	unlock, err := a.DB.Scrub.Own(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer unlock()
	named, err := a.DB.Scrub.Named(ctx)
	if err != nil {
		return 0, 0, err
	}
	for info, err := range a.Blobs.List(ctx) {
		if err != nil {
			return removed, bytes, fmt.Errorf("list blobs: %w", err)
		}
		if _, ok := named[info.Digest]; ok || time.Since(info.ModTime) < grace {
			continue
		}
		a.Report(Finding{Code: "blob_unnamed", Subject: info.Digest, Problem: fmt.Sprintf("no row names its %d bytes", info.Size), Mended: !dryRun})
		removed++
		bytes += info.Size
		if dryRun {
			continue
		}
		if err := a.Blobs.Delete(ctx, info.Digest); err != nil {
			return removed, bytes, fmt.Errorf("remove blob %s: %w", info.Digest, err)
		}
	}
	if dryRun {
		return removed, bytes, nil
	}
	return removed, bytes, errors.Join(a.DB.Scrub.Forget(ctx), a.Staging.Sweep(ctx, grace), a.Blobs.Sweep(ctx, grace))
}
