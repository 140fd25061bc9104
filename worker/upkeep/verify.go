package upkeep

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/release"
)

// Verify reads every blob that a row names, compares it with its digest, and
// compares the tree within each tarball with upstream's commit and Zig's hashes, and the files of each archive with
// the latter. What is wrong
// is moved to quarantine, so that it is never served again; with repair it is
// made again from the other copy of the same files, if that gives equal bytes.
func (a *Auditor) Verify(ctx context.Context, repair bool) error {
	bad, err := a.verifyBlobs(ctx)
	defer func() { // also what was found before something else failed
		for _, finding := range bad {
			a.Report(*finding)
		}
	}()
	if err != nil {
		return err
	}
	if repair {
		if err := a.repair(ctx, bad); err != nil {
			return err
		}
	}
	packages, err := a.DB.Packages(ctx)
	if err != nil {
		return err
	}
	for i, p := range packages {
		a.progress("trees", i, len(packages))
		if err := a.verifyTrees(ctx, p.Name, bad); err != nil {
			return err
		}
	}
	return a.verifyArchives(ctx, bad)
}

// verifyBlobs returns a finding for each blob that is not what a row names.
func (a *Auditor) verifyBlobs(ctx context.Context) (map[string]*Finding, error) {
	named, err := a.DB.Scrub.Named(ctx)
	if err != nil {
		return nil, err
	}
	bad := map[string]*Finding{}
	done := 0
	for digest := range named {
		a.progress("blobs", done, len(named))
		done++
		found, err := a.verifyBlob(ctx, digest)
		if err != nil {
			return bad, err
		}
		if found != nil {
			bad[digest] = found
		}
	}
	return bad, nil
}

// verifyBlob returns a finding if the blob is damaged or lost. The workers,
// which may be running, learn of it.
func (a *Auditor) verifyBlob(ctx context.Context, digest string) (*Finding, error) {
	since, err := a.readWhole(ctx, digest)
	if err == nil {
		return nil, a.DB.Scrub.Checked(ctx, digest, since)
	}
	found := &Finding{Code: "blob_missing", Subject: digest, Problem: "a row names this blob, and it is not in the store"}
	switch {
	case !lost(err):
		return nil, fmt.Errorf("verify %s: %w", digest, err)
	case blob.IsDamaged(err):
		found.Code, found.Problem = "blob_corrupt", "the bytes are not those of the digest; moved to quarantine"
		if err := a.Blobs.Quarantine(ctx, digest); err != nil {
			return nil, err
		}
	}
	// The registry may be live: what was mended or swept meanwhile is no finding.
	uses, err := a.DB.Scrub.Uses(ctx, digest)
	if err != nil || len(uses) == 0 {
		return nil, err
	}
	if _, gone := a.readWhole(ctx, digest); found.Code == "blob_missing" && gone == nil {
		return nil, nil
	}
	return found, a.DB.Scrub.Suspect(ctx, digest)
}

// repair mends what it can. A blob may need another one that is bad, too.
func (a *Auditor) repair(ctx context.Context, bad map[string]*Finding) error {
	for again := true; again; {
		again = false
		for digest, f := range bad {
			if f.Mended {
				continue
			}
			found, err := a.mend(ctx, digest)
			if err != nil {
				return err
			}
			if f.Mended = found == nil || found.Mended; f.Mended {
				again = true
			} else {
				f.Problem = found.Problem
			}
		}
	}
	return nil
}

func (a *Auditor) verifyTrees(ctx context.Context, pkg string, bad map[string]*Finding) error {
	releases, err := a.DB.Releases(ctx, pkg)
	if err != nil {
		return err
	}
	isBad := func(digest string) bool { return bad[digest] != nil && !bad[digest].Mended }
	for i := range releases {
		r := &releases[i]
		if isBad(r.ManifestDigest) || isBad(r.Digest) {
			continue
		}
		err := a.verifyTree(ctx, r)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, release.ErrZig):
			a.find("zig_hash", r.Package+"@"+r.Tag, "%v; it is no longer served by them", err)
			if err := a.DB.RefuteZigHash(ctx, r.ID); err != nil {
				return err
			}
		case err != nil && !unusable(err) && !lost(err):
			return fmt.Errorf("verify %s@%s: %w", r.Package, cmp.Or(r.Tag, r.CommitOID), err)
		case err != nil:
			a.find("release_tree", r.Package+"@"+cmp.Or(r.Tag, r.CommitOID), "%v", err)
		}
	}
	return nil
}

// verifyTree compares a release's row with its manifest, and its tarball with
// that, with upstream's ids and with Zig's hashes.
func (a *Auditor) verifyTree(ctx context.Context, r *storage.Release) error {
	objects, _, closeAll, err := a.spool()
	if err != nil {
		return err
	}
	defer closeAll()
	rel, err := release.Load(ctx, a.Blobs, objects, r.ManifestDigest)
	if err == nil {
		err = sameRelease(r, rel.Manifest)
	}
	if err == nil {
		err = rel.Admit(ctx)
	}
	return err
}

// sameRelease holds a row to its manifest: a database that was restored may have been altered.
func sameRelease(r *storage.Release, man *release.Manifest) error {
	want := storage.PublicationOf(man, blob.Ref{Digest: r.ManifestDigest}, gitpack.Stored{}).Release
	type tuple struct{ Package, Tag, TagOID, CommitOID, TreeOID, Digest, ContentDigest, MD5, CRC32 string }
	of := func(r *storage.Release) tuple {
		return tuple{r.Package, r.Tag, r.TagOID, r.CommitOID, r.TreeOID, r.Digest, r.ContentDigest, r.MD5, r.CRC32}
	}
	switch {
	case of(r) != of(&want) || r.Size != want.Size:
		return fmt.Errorf("%w: its row and its manifest do not agree: %+v of %d bytes, and %+v of %d", release.ErrUntrue, of(r), r.Size, of(&want), want.Size)
	case r.ZigHash != want.ZigHash || r.ZigLegacyHash != want.ZigLegacyHash:
		return fmt.Errorf("%w: its row says %q and %q, its manifest %q and %q", release.ErrZig, r.ZigHash, r.ZigLegacyHash, want.ZigHash, want.ZigLegacyHash)
	}
	return nil
}
