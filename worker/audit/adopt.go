package audit

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"packbase/storage"
	"packbase/storage/gitpack"
)

// Adopt publishes releases of one package whose manifests and tarballs are in
// the store already, after checking them as Verify does. Either all of them
// become visible or none. follows is the change that brings an edge there.
func (a *Auditor) Adopt(ctx context.Context, pkg string, manifests []storage.Blob, follows *storage.Change) error {
	stage, err := a.Staging.New()
	if err != nil {
		return err
	}
	defer stage.Close()
	spool, err := os.Create(filepath.Join(stage.Dir, "objects"))
	if err != nil {
		return err
	}
	defer spool.Close()
	objects := gitpack.NewObjects(spool)
	var roots []*root
	blobs := map[string]storage.Blob{}
	for _, m := range manifests {
		r, err := a.load(ctx, objects, m.Digest)
		if err != nil {
			return fmt.Errorf("manifest %s: %w", m.Digest, err)
		}
		if r.manifest.Package != pkg {
			return fmt.Errorf("manifest %s is of the package %q, not %q", m.Digest, r.manifest.Package, pkg)
		}
		roots = append(roots, r)
		blobs[m.Digest] = m
	}
	out := storage.Adoption{Follows: follows}
	set, opener, err := a.appendSegment(ctx, pkg, objects, roots, stage.Dir, &out)
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
		raw, err := a.read(ctx, s.IndexDigest)
		if err != nil {
			return nil, nil, fmt.Errorf("read index of segment %d: %w", s.Seq, err)
		}
		if indexes[i], err = gitpack.UnmarshalIndex(raw); err != nil {
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
		out.Segments, out.Indexes = []storage.Segment{segment}, []storage.Blob{indexBlob}
	}
	opener := func(i int) (gitpack.Segment, error) { return a.Blobs.Open(ctx, segments[i].Digest) }
	return gitpack.NewSet(indexes...), opener, nil
}
