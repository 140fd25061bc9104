package upkeep

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/release"
)

// appendSegment writes what the releases add to the segments of their package,
// if they add anything.
func (a *Auditor) appendSegment(ctx context.Context, segments *release.Segments, objects *gitpack.Objects, releases []*release.Unpacked, dir string, out *storage.Adoption) (*release.Segments, error) {
	roots := make([]*release.Root, len(releases))
	for i, r := range releases {
		roots[i] = &r.Root
	}
	ids, err := segments.Fresh(ctx, objects, roots, gitpack.StoredLimits())
	if err != nil || len(ids) == 0 {
		return segments, err
	}
	segment, index, indexed, err := a.writeSegment(ctx, objects, ids, dir)
	if err != nil {
		return nil, err
	}
	segments = segments.With(segment, index)
	out.Segments, out.Indexes = append(out.Segments, segments.Last()), append(out.Indexes, indexed)
	return segments, nil
}

func (a *Auditor) writeSegment(ctx context.Context, objects *gitpack.Objects, ids []gitpack.OID, dir string) (s release.Segment, index *gitpack.SegmentIndex, indexed blob.Ref, err error) {
	packed, err := a.stage(ctx, dir, func(f *os.File) error {
		index, err = gitpack.WriteSegment(ctx, f, objects, ids)
		return err
	})
	if err != nil {
		return s, nil, indexed, err
	}
	raw, err := index.MarshalBinary()
	if err != nil {
		return s, nil, indexed, err
	}
	indexed, err = a.putBytes(ctx, dir, raw)
	return release.Segment{Digest: packed.Digest, IndexDigest: indexed.Digest, Size: packed.Size}, index, indexed, err
}

// publications returns the rows of releases and their packs, in the order in
// which they were published first. manifests are their blobs, by digest.
func publications(ctx context.Context, objects *gitpack.Objects, segments *release.Segments, releases []*release.Unpacked, manifests map[string]blob.Ref) ([]storage.Publication, error) {
	slices.SortFunc(releases, func(x, y *release.Unpacked) int {
		return cmp.Or(x.Manifest.CreatedAt.Compare(y.Manifest.CreatedAt), cmp.Compare(x.Tag, y.Tag))
	})
	var all []storage.Publication
	for _, r := range releases {
		ids, err := r.Objects(ctx, objects, gitpack.StoredLimits())
		if err != nil {
			return nil, err
		}
		stored, err := segments.Stored(ctx, r.Commit, ids)
		if err != nil {
			return nil, err
		}
		pub := storage.PublicationOf(r.Manifest, manifests[r.Digest], stored)
		pub.Release.Zig, pub.UntrueZig = r.Zig, r.UntrueZig
		all = append(all, pub)
	}
	return all, nil
}

// spool returns an empty set of Git objects, and the staging folder that it
// spools them to, which the caller closes.
func (a *Auditor) spool() (objects *gitpack.Objects, dir string, closeAll func(), err error) {
	stage, err := a.Staging.New()
	if err != nil {
		return nil, "", nil, err
	}
	file, err := os.Create(filepath.Join(stage.Dir, "objects"))
	if err != nil {
		stage.Close()
		return nil, "", nil, err
	}
	return gitpack.NewObjects(file), stage.Dir, func() { file.Close(); stage.Close() }, nil
}

// stage writes a file and puts it into the store.
func (a *Auditor) stage(ctx context.Context, dir string, write func(*os.File) error) (blob.Ref, error) {
	f, err := os.CreateTemp(dir, "blob-*")
	if err != nil {
		return blob.Ref{}, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := write(f); err != nil {
		return blob.Ref{}, err
	}
	digest, size, err := digestOf(f)
	if err != nil {
		return blob.Ref{}, err
	}
	return blob.Ref{Digest: digest, Size: size}, a.Blobs.Put(ctx, digest, f)
}

func (a *Auditor) putBytes(ctx context.Context, dir string, raw []byte) (blob.Ref, error) {
	return a.stage(ctx, dir, func(f *os.File) error {
		_, err := f.Write(raw)
		return err
	})
}

func digestOf(f *os.File) (digest string, size int64, err error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", 0, err
	}
	sum := sha256.New()
	size, err = io.Copy(sum, f)
	return hex.EncodeToString(sum.Sum(nil)), size, err
}
