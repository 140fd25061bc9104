package upkeep

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/scrub"
	"github.com/francescobianco/packbase/storage/tarball"
)

// Mend reads a blob that a row names. Wrong bytes go to quarantine, and what
// is wrong or lost is made again: from the other copy of the same files, or
// from the peer. It reports whether the blob is right now, mended whether it
// was not before, and records both. Its error says nothing about the blob.
func (a *Auditor) Mend(ctx context.Context, digest string) (right, mended bool, err error) {
	found, err := a.mend(ctx, digest)
	if found == nil || err != nil {
		return err == nil, false, err
	}
	a.Report(*found)
	return found.Mended, found.Mended, nil
}

// mend is Mend without the report; found is nil if there was nothing to do.
func (a *Auditor) mend(ctx context.Context, digest string) (found *Finding, err error) {
	since, problem := a.readWhole(ctx, digest)
	switch {
	case problem == nil:
		return nil, a.DB.Scrub.Checked(ctx, digest, since)
	case ctx.Err() != nil, errors.Is(problem, blob.ErrUnavailable) && !blob.IsDamaged(problem):
		return nil, fmt.Errorf("read blob %s: %w", digest, problem)
	}
	uses, err := a.DB.Scrub.Uses(ctx, digest)
	if err != nil || len(uses) == 0 {
		return nil, err // swept meanwhile: nobody misses it
	}
	found = &Finding{Code: "blob_corrupt", Subject: digest, Problem: fmt.Sprintf("%s: %v", uses[0], problem)}
	if errors.Is(problem, fs.ErrNotExist) {
		found.Code = "blob_missing"
	}
	if err := a.Blobs.Quarantine(ctx, digest); err != nil {
		return nil, err
	}
	if err := a.remake(ctx, digest, uses); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		found.Problem += fmt.Sprintf("; it cannot be made again: %v", err)
		return found, a.DB.Scrub.Damaged(ctx, digest, fmt.Sprintf("the stored bytes of its %s are damaged or lost", uses[0].Use))
	}
	found.Mended = true
	return found, a.DB.Scrub.Checked(ctx, digest, since)
}

// readWhole reads a blob. It tells a lost blob from a store that is away. What was
// written at since or later has not been read.
func (a *Auditor) readWhole(ctx context.Context, digest string) (since time.Time, err error) {
	const tick = 10 * time.Millisecond // of the clock that file systems go by
	since = time.Now().Add(-tick)
	err = blob.Verify(ctx, a.Blobs, digest)
	if errors.Is(err, fs.ErrNotExist) {
		if _, away := a.Blobs.Free(ctx); away != nil {
			return since, away
		}
	}
	return since, err
}

// lost reports whether err means that a blob's bytes cannot be had any more.
func lost(err error) bool { return blob.IsDamaged(err) || errors.Is(err, fs.ErrNotExist) }

// remake makes a blob again in every way there is, one that was taken for damaged first, until one gives its bytes.
func (a *Auditor) remake(ctx context.Context, digest string, uses []scrub.Use) error {
	if a.Blobs.Restore(ctx, digest) == nil {
		return blob.Verify(ctx, a.Blobs, digest)
	}
	var errs []error
	for _, u := range uses {
		err := a.remakeFor(ctx, digest, u)
		if errors.Is(err, errReplaced) {
			continue
		}
		if err == nil {
			err = blob.Verify(ctx, a.Blobs, digest)
		}
		if err == nil || ctx.Err() != nil {
			return err
		}
		errs = append(errs, fmt.Errorf("%s: %w", u, err))
	}
	if len(errs) == 0 {
		return nil
	}
	if a.Peer != nil {
		b, err := a.DB.BlobByDigest(ctx, digest)
		if err == nil {
			err = a.Peer(ctx, b)
		}
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// errReplaced says that other bytes do as well, and are named by now.
var errReplaced = errors.New("replaced")

func (a *Auditor) remakeFor(ctx context.Context, digest string, u scrub.Use) error {
	switch u.Use {
	case "tarball":
		return a.remakeTarball(ctx, digest, u.Package)
	case "manifest":
		return a.remakeManifest(ctx, digest, u.Package)
	case "segment", "segment index":
		err := a.remakeSegment(ctx, digest, u.Package)
		if err != nil && ctx.Err() == nil {
			err = errors.Join(err, a.remakeSegments(ctx, u.Package))
			if blob.Verify(ctx, a.Blobs, digest) == nil {
				err = nil
			}
		}
		return err
	case "record":
		return a.remakeRecord(ctx, digest, u.Package)
	case "archive tarball", "archive record":
		return a.remakeArchive(ctx, digest)
	case "tree record":
		return a.remakeTree(ctx, digest)
	}
	return errors.New("nothing else here holds its bytes")
}

// remakeSegment makes a segment again from its index, which has the ids of its
// objects in their order, and from the package's tarballs; or its index from
// the segment.
func (a *Auditor) remakeSegment(ctx context.Context, digest, pkg string) error {
	segments, err := a.DB.Segments(ctx, pkg)
	if err != nil {
		return err
	}
	for _, s := range segments {
		switch digest {
		case s.Digest:
			return a.rewriteSegment(ctx, s)
		case s.IndexDigest:
			return a.reindexSegment(ctx, s)
		}
	}
	return errors.New("no segment has it")
}

func (a *Auditor) rewriteSegment(ctx context.Context, s release.Segment) error {
	index, err := release.LoadIndex(ctx, a.Blobs, s, gitpack.UnmarshalIndex)
	if err != nil {
		return err
	}
	releases, err := a.DB.Releases(ctx, s.Package)
	if err != nil {
		return err
	}
	objects, dir, closeAll, err := a.spool()
	if err != nil {
		return err
	}
	defer closeAll()
	var errs []error
	for i := range releases {
		if _, err := release.Load(ctx, a.Blobs, objects, releases[i].ManifestDigest); err != nil {
			errs = append(errs, err) // others may have all that is needed
		}
	}
	_, _, _, err = a.writeSegment(ctx, objects, index.IDs, dir)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	return nil
}

func (a *Auditor) reindexSegment(ctx context.Context, s release.Segment) error {
	if err := blob.Verify(ctx, a.Blobs, s.Digest); err != nil {
		return err
	}
	b, err := a.Blobs.Open(ctx, s.Digest)
	if err != nil {
		return err
	}
	defer b.Close()
	stage, err := a.Staging.New()
	if err != nil {
		return err
	}
	defer stage.Close()
	pack, err := os.Create(filepath.Join(stage.Dir, "segment"))
	if err != nil {
		return err
	}
	defer pack.Close()
	if _, err := io.Copy(pack, b); err != nil {
		return err
	}
	spool, err := os.Create(filepath.Join(stage.Dir, "objects"))
	if err != nil {
		return err
	}
	defer spool.Close()
	index, err := gitpack.IndexSegment(ctx, pack, spool)
	if err != nil {
		return err
	}
	raw, err := index.MarshalBinary()
	if err != nil {
		return err
	}
	_, err = a.putBytes(ctx, stage.Dir, raw)
	return err
}

// remakeRecord writes what the rows say of the package now.
func (a *Auditor) remakeRecord(ctx context.Context, digest, pkg string) error {
	rec, _, err := a.DB.PackageRecord(ctx, pkg)
	if err != nil {
		return err
	}
	raw, err := rec.Encode()
	if err != nil {
		return err
	}
	stage, err := a.Staging.New()
	if err != nil {
		return err
	}
	defer stage.Close()
	put, err := a.putBytes(ctx, stage.Dir, raw)
	if err == nil {
		err = a.DB.ReplaceRecord(ctx, pkg, digest, put)
	}
	if err == nil && put.Digest != digest {
		err = errReplaced
	}
	return err
}

func (a *Auditor) remakeTarball(ctx context.Context, digest, pkg string) error {
	releases, err := a.DB.Releases(ctx, pkg)
	if err != nil {
		return err
	}
	for i := range releases {
		if releases[i].Digest == digest {
			return a.rebuildTarball(ctx, &releases[i])
		}
	}
	return errors.New("no release has it")
}

func (a *Auditor) rebuildTarball(ctx context.Context, r *storage.Release) error {
	man, err := release.LoadManifest(ctx, a.Blobs, r.ManifestDigest)
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
	put, err := a.stage(ctx, stage.Dir, func(f *os.File) error { return release.WriteTarball(ctx, f, objects, man) })
	if err != nil {
		return err
	}
	if put.Digest != r.Digest {
		return errors.New("the bytes come out different")
	}
	return nil
}

// mostGuessed is how many bytes of manifests are tried for one, see remakeManifest.
const mostGuessed = 1 << 30

// remakeManifest builds the release again. Two things that its manifest says
// are in no row, the claim that published it and whether the package was private
// then: they are tried, the latest claim first, until the digest is right.
func (a *Auditor) remakeManifest(ctx context.Context, digest, pkg string) error {
	releases, err := a.DB.Releases(ctx, pkg)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(releases, func(r storage.Release) bool { return r.ManifestDigest == digest })
	if i < 0 {
		return errors.New("no release has it")
	}
	stage, err := a.Staging.New()
	if err != nil {
		return err
	}
	defer stage.Close()
	man, last, err := a.rebuildManifest(ctx, &releases[i], stage.Dir)
	if err != nil {
		return err
	}
	private := man.Private
	for guessed := 0; last > 0 && guessed < mostGuessed && ctx.Err() == nil; last-- {
		for _, man.Private = range []bool{private, !private} {
			man.Fence = last
			raw, err := man.Encode()
			if err != nil {
				return err
			}
			if sum := sha256.Sum256(raw); hex.EncodeToString(sum[:]) == digest {
				_, err := a.putBytes(ctx, stage.Dir, raw)
				return err
			}
			guessed += len(raw)
		}
	}
	return cmp.Or(ctx.Err(), errors.New("the bytes come out different"))
}

// rebuildManifest returns the manifest of a release with all that can be known, and the latest claim of its package.
func (a *Auditor) rebuildManifest(ctx context.Context, r *storage.Release, dir string) (man *release.Manifest, fence int64, err error) {
	rec, _, err := a.DB.PackageRecord(ctx, r.Package)
	if err != nil {
		return nil, 0, err
	}
	objects, done, err := a.unpackRelease(ctx, r, dir)
	if err != nil {
		return nil, 0, err
	}
	defer done()
	oid, err := gitpack.ParseOID(r.OID())
	if err != nil {
		return nil, 0, err
	}
	lim := gitpack.StoredLimits()
	root, err := release.Resolve(objects, r.Tag, oid, lim)
	if err != nil {
		return nil, 0, err
	}
	rows, err := a.DB.Segments(ctx, r.Package)
	if err != nil {
		return nil, 0, err
	}
	segments, err := release.LoadSegments(ctx, a.Blobs, rows, gitpack.UnmarshalIndex)
	if err != nil {
		return nil, 0, err
	}
	if _, err := segments.Fresh(ctx, objects, []*release.Root{&root}, lim); err != nil {
		return nil, 0, err
	}
	scratch, err := os.CreateTemp(dir, "chunks-*")
	if err != nil {
		return nil, 0, err
	}
	defer scratch.Close()
	of := release.Manifest{Package: r.Package, Upstream: rec.Upstream, CloneURL: rec.CloneURL, Private: rec.Private, CreatedAt: r.CreatedAt.UTC()}
	man, err = release.NewBuilder(scratch, tarball.MaxSize, lim).Build(ctx, io.Discard, objects, &root, of)
	return man, rec.Fence, err
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
	unpacked := make([]*release.Unpacked, len(releases))
	for i := range releases {
		if unpacked[i], err = release.Load(ctx, a.Blobs, objects, releases[i].ManifestDigest); err != nil {
			return fmt.Errorf("%s@%s: %w", pkg, releases[i].Tag, err)
		}
	}
	_, err = a.rebuildSegments(ctx, objects, unpacked, dir, &storage.Adoption{})
	return err
}

// unpackRelease reads the release's objects out of the segments.
func (a *Auditor) unpackRelease(ctx context.Context, r *storage.Release, dir string) (*gitpack.Objects, func(), error) {
	rows, err := a.DB.Segments(ctx, r.Package)
	if err != nil {
		return nil, nil, err
	}
	segments, err := release.LoadSegments(ctx, a.Blobs, rows, gitpack.UnmarshalOffsets)
	if err != nil {
		return nil, nil, err
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
	pack, err := segments.Set.Pack(ordinals, nil)
	if err != nil {
		return nil, nil, err
	}
	reader := pack.Reader(segments.Opener(ctx), 1<<20)
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
