package upkeep

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/scrub"
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
	since, problem := a.look(ctx, digest)
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

// look reads a blob. It tells a lost blob from a store that is away. What was
// written at since or later has not been read.
func (a *Auditor) look(ctx context.Context, digest string) (since time.Time, err error) {
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

// remake makes a blob again in every way there is, until one gives its bytes.
func (a *Auditor) remake(ctx context.Context, digest string, uses []scrub.Use) error {
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

func (a *Auditor) rewriteSegment(ctx context.Context, s storage.Segment) error {
	index, err := a.index(ctx, s)
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
		if _, err := a.load(ctx, objects, releases[i].ManifestDigest); err != nil {
			errs = append(errs, err) // others may have all that is needed
		}
	}
	_, _, _, err = a.writeSegment(ctx, objects, index.IDs, dir)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	return nil
}

func (a *Auditor) reindexSegment(ctx context.Context, s storage.Segment) error {
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

func (a *Auditor) putBytes(ctx context.Context, dir string, raw []byte) (blob.Ref, error) {
	return a.stage(ctx, dir, func(f *os.File) error {
		_, err := f.Write(raw)
		return err
	})
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

// suspicious reports whether what the store says of a blob does not go with
// its row, or somebody wrote to it since it was read: it is to be read then.
func suspicious(row scrub.Blob, info blob.Info, err error) bool {
	return row.DamagedAt != nil || err != nil || info.Size != row.Size || info.ModTime.After(row.CheckedAt)
}

// askedBytes is how much of one package is read when somebody asks for it.
const askedBytes = 256 << 20

// MendPackage mends the blobs of a package: all that can be read in little
// time, and of the others those that the store does not have as the rows say.
// It returns how many were mended and how many are still wrong.
func (a *Auditor) MendPackage(ctx context.Context, pkg string) (mended, wrong int, err error) {
	blobs, err := a.DB.Scrub.OfPackage(ctx, pkg)
	if err != nil {
		return 0, 0, err
	}
	budget := int64(askedBytes)
	for _, b := range blobs {
		if budget -= b.Size; budget < 0 {
			info, err := a.Blobs.Stat(ctx, b.Digest)
			if err != nil && !lost(err) {
				return mended, wrong, err
			}
			if !suspicious(b, info, err) {
				continue
			}
		}
		right, again, err := a.Mend(ctx, b.Digest)
		if err != nil {
			return mended, wrong, err
		}
		if again {
			mended++
		}
		if !right {
			wrong++
		}
	}
	return mended, wrong, nil
}

// Notice compares the store's list with the rows, and has what does not agree
// read: it returns how many blobs that are. It reads none itself.
func (a *Auditor) Notice(ctx context.Context) (suspects int, err error) {
	rows := &rowsInOrder{db: a.DB}
	suspect := func(row scrub.Blob) error {
		suspects++
		return a.DB.Scrub.Suspect(ctx, row.Digest)
	}
	for info, err := range a.Blobs.List(ctx) {
		if err != nil {
			return suspects, fmt.Errorf("list blobs: %w", err)
		}
		for {
			row, ok, err := rows.peek(ctx)
			if err != nil {
				return suspects, err
			}
			if !ok || row.Digest > info.Digest {
				break
			}
			rows.drop()
			var gone error
			if row.Digest < info.Digest {
				gone = fs.ErrNotExist
			}
			if suspicious(row, info, gone) {
				if err := suspect(row); err != nil {
					return suspects, err
				}
			}
		}
	}
	for {
		row, ok, err := rows.peek(ctx)
		if err != nil || !ok {
			return suspects, err
		}
		rows.drop()
		if err := suspect(row); err != nil {
			return suspects, err
		}
	}
}

// rowsInOrder reads the rows of named blobs, in the order of their digests.
type rowsInOrder struct {
	db    *storage.DB
	page  []scrub.Blob
	after string
	ended bool
}

func (r *rowsInOrder) peek(ctx context.Context) (row scrub.Blob, ok bool, err error) {
	const page = 1000
	if len(r.page) == 0 && !r.ended {
		if r.page, err = r.db.Scrub.After(ctx, r.after, page); err != nil {
			return row, false, err
		}
		r.ended = len(r.page) < page
	}
	if len(r.page) == 0 {
		return row, false, nil
	}
	return r.page[0], true, nil
}

func (r *rowsInOrder) drop() { r.after, r.page = r.page[0].Digest, r.page[1:] }
