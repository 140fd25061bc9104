package upkeep

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/worker/ingest"
)

// GC removes blobs that no row names and that are older than grace, and what
// crashed writers left in staging. With dryRun it only says what it would
// remove. Nothing that a row names is ever removed.
//
// Jobs hold their blobs by a lock that GC takes alone, so none is about to
// name a blob while it is removed.
func (a *Auditor) GC(ctx context.Context, grace time.Duration, dryRun bool) (removed int, bytes int64, err error) {
	release, err := a.DB.Scrub.Own(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer release()
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

func (a *Auditor) rebuildTarball(ctx context.Context, r *storage.Release) error {
	raw, err := a.read(ctx, r.ManifestDigest)
	if err != nil {
		return err
	}
	man, err := release.ParseManifest(raw)
	if err != nil {
		return err
	}
	stage, err := a.Staging.New()
	if err != nil {
		return err
	}
	defer stage.Close()
	objects, done, err := a.unpackRelease(ctx, r, stage.Dir)
	if err != nil {
		return err
	}
	defer done()
	put, err := a.stage(ctx, stage.Dir, func(f *os.File) error { return ingest.WriteTarball(ctx, f, objects, man) })
	if err != nil {
		return err
	}
	if put.Digest != r.Digest {
		return errors.New("the bytes come out different")
	}
	return nil
}

// remakeSegments makes the package's segments again from its tarballs. What
// comes out with another digest is left to GC.
func (a *Auditor) remakeSegments(ctx context.Context, pkg string) error {
	releases, err := a.DB.Releases(ctx, pkg)
	if err != nil {
		return err
	}
	objects, dir, closeAll, err := a.spool()
	if err != nil {
		return err
	}
	defer closeAll()
	roots := make([]*root, len(releases))
	for i := range releases {
		if roots[i], err = a.load(ctx, objects, releases[i].ManifestDigest); err != nil {
			return fmt.Errorf("%s@%s: %w", pkg, releases[i].Tag, err)
		}
	}
	_, _, err = a.rebuildSegments(ctx, objects, roots, dir, &storage.Adoption{})
	return err
}

// unpackRelease reads the release's objects out of the segments.
func (a *Auditor) unpackRelease(ctx context.Context, r *storage.Release, dir string) (*gitpack.Objects, func(), error) {
	segments, err := a.DB.Segments(ctx, r.Package)
	if err != nil {
		return nil, nil, err
	}
	indexes := make([]*gitpack.SegmentIndex, len(segments))
	for i, s := range segments {
		if indexes[i], err = a.index(ctx, s); err != nil {
			return nil, nil, err
		}
	}
	packs, err := a.DB.Packs(ctx, r.Package, []string{r.OID()})
	if err != nil {
		return nil, nil, err
	}
	if len(packs) == 0 {
		return nil, nil, errors.New("it has no pack")
	}
	ordinals, err := gitpack.Stored{Bitmap: packs[0].Bitmap, Objects: packs[0].Objects}.Ordinals()
	if err != nil {
		return nil, nil, err
	}
	pack, err := gitpack.NewSet(indexes...).Pack(ordinals, nil)
	if err != nil {
		return nil, nil, err
	}
	reader := pack.Reader(func(i int) (gitpack.Segment, error) { return a.Blobs.Open(ctx, segments[i].Digest) }, 1<<20)
	defer reader.Close()
	file, err := os.Create(filepath.Join(dir, "pack"))
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	if _, err := io.Copy(file, reader); err != nil {
		return nil, nil, err
	}
	spool, err := os.Create(filepath.Join(dir, "objects"))
	if err != nil {
		return nil, nil, err
	}
	objects, err := gitpack.Unpack(ctx, file, spool, gitpack.StoredLimits(), nil)
	return objects, func() { spool.Close() }, err
}

func digestOf(f *os.File) (digest string, size int64, err error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", 0, err
	}
	sum := sha256.New()
	size, err = io.Copy(sum, f)
	return hex.EncodeToString(sum.Sum(nil)), size, err
}
