package upkeep

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/francescobianco/packbase/storage/archive"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/feed"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/tarball"
	"github.com/francescobianco/packbase/storage/tree"
	"github.com/francescobianco/packbase/storage/zigpkg"
)

func (a *Auditor) trees() *tree.Store { return tree.New(a.DB.DB) }

// proveArchive returns the row that a record tells of, after it has read the bytes of the archive and worked out their
// hashes.
func (a *Auditor) proveArchive(ctx context.Context, record blob.Ref) (row tree.Archive, err error) {
	raw, err := blob.ReadAll(ctx, a.Blobs, record.Digest)
	if err != nil {
		return row, err
	}
	rec, err := tree.ParseRecord(raw)
	if err != nil {
		return row, err
	}
	row = rec.Archive(record.Digest, int64(len(raw)))
	if err := row.Check(); err != nil {
		return row, err
	}
	man, err := a.proveFiles(ctx, blob.Ref{Digest: row.Digest, Size: row.Size}, &row, archive.Format(row.Format))
	if err == nil && row.TarballDigest != row.Digest {
		_, err = a.proveFiles(ctx, blob.Ref{Digest: row.TarballDigest, Size: row.TarballSize}, &row, archive.TarGz)
	}
	if err != nil {
		return row, err
	}
	row.Zig = release.ZigOf(man, zigpkg.Hashes{Hash: row.ZigHash, Legacy: row.ZigLegacyHash})
	return row, nil
}

// proveFiles checks that a blob has the files that row tells of, and that Zig can be given it if it is the tarball.
func (a *Auditor) proveFiles(ctx context.Context, b blob.Ref, row *tree.Archive, format archive.Format) (man *zigpkg.Manifest, err error) {
	err = a.unpackArchive(ctx, b, format, func(_ string, pkg *archive.Package) error {
		var sum zigpkg.Hashes
		man, sum, err = pkg.Describe()
		switch {
		case err != nil:
			return err
		case sum.Hash != row.ZigHash || sum.Legacy != row.ZigLegacyHash:
			return fmt.Errorf("the files of %s have the hash %s (%s), not %s (%s)", b.Digest, sum.Hash, sum.Legacy, row.ZigHash, row.ZigLegacyHash)
		case b.Digest == row.TarballDigest && !pkg.Plain:
			return fmt.Errorf("the tarball %s is none that every Zig reads", b.Digest)
		}
		return nil
	})
	return man, err
}

// unpackArchive calls do with the files of a blob, whose bytes it hashes, and a staging folder.
func (a *Auditor) unpackArchive(ctx context.Context, want blob.Ref, format archive.Format, do func(dir string, pkg *archive.Package) error) error {
	stage, err := a.Staging.New()
	if err != nil {
		return err
	}
	defer stage.Close()
	body, err := os.Create(filepath.Join(stage.Dir, "body"))
	if err != nil {
		return err
	}
	defer body.Close()
	scratch, err := os.Create(filepath.Join(stage.Dir, "scratch"))
	if err != nil {
		return err
	}
	defer scratch.Close()
	b, err := a.Blobs.Open(ctx, want.Digest)
	if err != nil {
		return err
	}
	defer b.Close()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(body, sum), io.LimitReader(b, want.Size+1))
	if err != nil {
		return err
	}
	if n != want.Size || hex.EncodeToString(sum.Sum(nil)) != want.Digest {
		return blob.ErrMismatch
	}
	pkg, err := archive.Unpack(ctx, body, n, format, scratch)
	if err != nil {
		return err
	}
	return do(stage.Dir, pkg)
}

// remakeArchive makes the tarball of an archive again from its verbatim bytes, or its record from its row.
func (a *Auditor) remakeArchive(ctx context.Context, digest string) error {
	rows, err := a.trees().ByBlob(ctx, digest)
	if err != nil {
		return err
	}
	errs := []error{errors.New("nothing else here holds its bytes")}
	for i := range rows {
		var put blob.Ref
		switch row := &rows[i]; digest {
		case row.RecordDigest:
			put, err = a.putRecord(ctx, row)
		case row.TarballDigest:
			put, err = a.flatten(ctx, row)
		default:
			continue
		}
		if err == nil && put.Digest == digest {
			return nil
		}
		errs = append(errs, cmp.Or(err, errors.New("the bytes come out different")))
	}
	return errors.Join(errs...)
}

func (a *Auditor) putRecord(ctx context.Context, row *tree.Archive) (blob.Ref, error) {
	raw, err := row.Record().Encode()
	if err != nil {
		return blob.Ref{}, err
	}
	stage, err := a.Staging.New()
	if err != nil {
		return blob.Ref{}, err
	}
	defer stage.Close()
	return a.putBytes(ctx, stage.Dir, raw)
}

// flatten writes our own tarball of an archive's files.
func (a *Auditor) flatten(ctx context.Context, row *tree.Archive) (put blob.Ref, err error) {
	body := blob.Ref{Digest: row.Digest, Size: row.Size}
	err = a.unpackArchive(ctx, body, archive.Format(row.Format), func(dir string, pkg *archive.Package) error {
		chunks, err := os.Create(filepath.Join(dir, "chunks"))
		if err != nil {
			return err
		}
		defer chunks.Close()
		put, err = a.stage(ctx, dir, func(f *os.File) error {
			_, err := tarball.Compress(f, chunks, tarball.Limits{}, pkg.WriteTar)
			return err
		})
		return err
	})
	return put, err
}

// AdoptArchive publishes an archive whose blobs are in the store already, after checking all that its record, which
// the feed of another packbase announced so, claims. It returns release.ErrUntrue, or a fault.ErrInvalid, if it must not be
// published; other errors may pass.
func (a *Auditor) AdoptArchive(ctx context.Context, said *feed.Archive, private bool) error {
	row, err := a.proveArchive(ctx, said.Record)
	if err == nil && (row.URL != said.URL || row.Digest != said.Body.Digest || row.TarballDigest != said.Tarball.Digest || row.Private != private) {
		err = errors.New("its record is of something else")
	}
	if err != nil {
		return fmt.Errorf("archive %.200q: %w", said.URL, release.Untrue(err))
	}
	_, _, err = a.trees().Publish(ctx, row, true)
	return err
}

// A foundRecord is the record of an archive that was found among the blobs.
type foundRecord struct {
	blob blob.Ref
	rec  *tree.Record
}

// What the blobs tell of archives and trees.
type archiveBlobs struct {
	records  []foundRecord
	removals []foundRemoval
	trees    []foundTree
}

// A foundRemoval tells of an archive that was removed.
type foundRemoval struct {
	blob    blob.Ref
	removal tree.Removal
}

// index notes a document.
func (r *archiveBlobs) index(in blob.Ref, raw []byte) error {
	if tree.IsRemoval(raw) {
		gone, err := tree.ParseRemoval(raw)
		if err == nil {
			r.removals = append(r.removals, foundRemoval{in, gone})
		}
		return err
	}
	if tree.IsRevisionRecord(raw) {
		rec, err := tree.ParseRevisionRecord(raw)
		if err == nil {
			r.trees = append(r.trees, foundTree{in, rec})
		}
		return err
	}
	rec, err := tree.ParseRecord(raw)
	if err == nil {
		r.records = append(r.records, foundRecord{in, rec})
	}
	return err
}

// rebuildArchives makes the rows of archives that the database does not have, in the order in which they were stored:
// the first of a URL is what it answers.
func (a *Auditor) rebuildArchives(ctx context.Context, left archiveBlobs) error {
	for _, r := range left.removals {
		if err := a.trees().Bury(ctx, r.removal, r.blob); err != nil {
			return err
		}
	}
	found := left.records
	known := map[[2]string]bool{}
	err := a.eachArchive(ctx, func(row *tree.Archive) error {
		known[[2]string{row.URL, row.ZigLegacyHash}] = true
		return nil
	})
	if err != nil {
		return err
	}
	private := map[[2]string]bool{} // one of several says so
	for _, f := range found {
		at := [2]string{f.rec.URL, f.rec.LegacyHash}
		private[at] = private[at] || f.rec.Private
	}
	slices.SortFunc(found, func(x, y foundRecord) int {
		return cmp.Or(x.rec.CreatedAt.Compare(y.rec.CreatedAt), cmp.Compare(x.rec.URL, y.rec.URL))
	})
	for i, f := range found {
		a.progress("archives", i, len(found))
		at := [2]string{f.rec.URL, f.rec.LegacyHash}
		if known[at] {
			continue
		}
		row, err := a.proveArchive(ctx, f.blob)
		fit := err == nil
		if fit {
			row.Private = private[at]
			_, _, err = a.trees().Publish(ctx, row, true)
		}
		switch {
		case err == nil, errors.Is(err, fault.ErrGone):
		case fit && refused(err), !fit && unusable(err):
			a.find("archive_lost", f.rec.URL, "%v", err)
		default:
			return fmt.Errorf("rebuild the archive of %s: %w", f.rec.URL, err)
		}
	}
	return nil
}

// eachArchive calls do for every archive.
func (a *Auditor) eachArchive(ctx context.Context, do func(*tree.Archive) error) error {
	const page = 500
	for after := int64(0); ; {
		rows, err := a.trees().After(ctx, after, page)
		if err != nil {
			return err
		}
		for i := range rows {
			if err := do(&rows[i]); err != nil {
				return err
			}
			after = rows[i].ID
		}
		if len(rows) < page {
			return nil
		}
	}
}

// verifyArchives compares the files of each archive with its Zig hashes.
func (a *Auditor) verifyArchives(ctx context.Context, bad map[string]*Finding) error {
	isBad := func(digest string) bool { return bad[digest] != nil && !bad[digest].Mended }
	done := 0
	return a.eachArchive(ctx, func(row *tree.Archive) error {
		a.progress("archives", done, 0)
		done++
		if isBad(row.Digest) || isBad(row.TarballDigest) || isBad(row.RecordDigest) {
			return nil
		}
		proved, err := a.proveArchive(ctx, blob.Ref{Digest: row.RecordDigest})
		if err == nil && (proved.URL != row.URL || proved.Digest != row.Digest || proved.TarballDigest != row.TarballDigest ||
			proved.ZigHash != row.ZigHash || proved.ZigLegacyHash != row.ZigLegacyHash) {
			err = errors.New("its row and its record do not agree")
		}
		if err != nil && ctx.Err() == nil {
			a.find("archive_files", row.URL, "%v", err)
		}
		return ctx.Err()
	})
}
