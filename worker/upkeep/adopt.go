package upkeep

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/feed"
	"github.com/francescobianco/packbase/storage/gitpack"
)

// ErrUntrue says that a manifest claims what its tarball and commit belie.
var ErrUntrue = errors.New("untrue")

// untrue makes err an ErrUntrue, unless it tells of our own machine.
func untrue(err error) error {
	var file *fs.PathError
	var errno syscall.Errno
	for _, own := range []error{blob.ErrFull, blob.ErrUnavailable, blob.ErrMismatch, fs.ErrNotExist, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, own) {
			return err
		}
	}
	if errors.As(err, &file) || errors.As(err, &errno) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUntrue, err)
}

// Adopt publishes releases of one package whose manifests and tarballs are in
// the store already, after checking all that the manifests claim. Either all
// of them become visible or none. private says that the package is, if it is
// not here yet. follows is the change that brings an edge there. It returns ErrUntrue, and fault.ErrConflict or ErrInvalid, if the
// releases must not be published; other errors may pass.
func (a *Auditor) Adopt(ctx context.Context, pkg string, manifests []blob.Ref, private bool, follows *feed.Change) error {
	objects, dir, closeAll, err := a.spool()
	if err != nil {
		return err
	}
	defer closeAll()
	out := storage.Adoption{Private: private, Follows: follows}
	var roots []*root
	blobs := map[string]blob.Ref{}
	for _, m := range manifests {
		r, err := a.load(ctx, objects, m.Digest)
		if err != nil {
			return fmt.Errorf("manifest %s: %w", m.Digest, untrue(err))
		}
		if r.manifest.Package != pkg {
			return fmt.Errorf("manifest %s: %w: it is of the package %q, not %q", m.Digest, ErrUntrue, r.manifest.Package, pkg)
		}
		if _, _, err := r.admit(ctx, objects, gitpack.StoredLimits()); err != nil {
			return fmt.Errorf("manifest %s: %w", m.Digest, untrue(err))
		}
		roots = append(roots, r)
		blobs[m.Digest] = m
	}
	set, opener, err := a.appendSegment(ctx, pkg, objects, roots, dir, &out)
	if err != nil {
		return err
	}
	if out.Publications, err = publications(ctx, objects, set, opener, roots, blobs); err != nil {
		return err
	}
	return a.DB.Adopt(ctx, pkg, out)
}

// appendSegment writes what the releases add to the package's segments.
func (a *Auditor) appendSegment(ctx context.Context, pkg string, objects *gitpack.Objects, roots []*root, dir string, out *storage.Adoption) (*gitpack.Set, gitpack.Opener, error) {
	segments, err := a.DB.Segments(ctx, pkg)
	if err != nil {
		return nil, nil, err
	}
	indexes := make([]*gitpack.SegmentIndex, len(segments))
	written := map[gitpack.OID]bool{}
	first := int64(0)
	for i, s := range segments {
		if indexes[i], err = a.index(ctx, s); err != nil {
			return nil, nil, fmt.Errorf("read index of segment %d: %w", s.Seq, err)
		}
		for _, id := range indexes[i].IDs {
			written[id] = true
		}
		first += int64(s.Objects)
	}
	ids, err := batchObjects(ctx, objects, roots, written)
	if err != nil {
		return nil, nil, err
	}
	if len(ids) > 0 {
		segment, index, indexBlob, err := a.writeSegment(ctx, objects, ids, dir)
		if err != nil {
			return nil, nil, err
		}
		segment.Seq, segment.FirstOrdinal = len(segments), first
		segments, indexes = append(segments, segment), append(indexes, index)
		out.Segments, out.Indexes = []storage.Segment{segment}, []blob.Ref{indexBlob}
	}
	opener := func(i int) (gitpack.Segment, error) { return a.Blobs.Open(ctx, segments[i].Digest) }
	return gitpack.NewSet(indexes...), opener, nil
}
