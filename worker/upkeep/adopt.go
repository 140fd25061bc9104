package upkeep

import (
	"context"
	"fmt"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/release"
)

// Adopt publishes releases of one package whose manifests and tarballs are in
// the store already, after checking all that the manifests claim. Either all
// of them become visible or none. private says that the package is, if it is
// not here yet. It returns release.ErrUntrue, and fault.ErrConflict or
// ErrInvalid, if the releases must not be published; other errors may pass.
func (a *Auditor) Adopt(ctx context.Context, pkg string, manifests []blob.Ref, private bool) error {
	objects, dir, closeAll, err := a.spool()
	if err != nil {
		return err
	}
	defer closeAll()
	out := storage.Adoption{Private: private}
	var releases []*release.Unpacked
	blobs := map[string]blob.Ref{}
	for _, m := range manifests {
		r, err := release.Load(ctx, a.Blobs, objects, m.Digest)
		if err != nil {
			return fmt.Errorf("manifest %s: %w", m.Digest, release.Untrue(err))
		}
		if r.Manifest.Package != pkg {
			return fmt.Errorf("manifest %s: %w: it is of the package %q, not %q", m.Digest, release.ErrUntrue, r.Manifest.Package, pkg)
		}
		if err := r.Admit(ctx); err != nil {
			return fmt.Errorf("manifest %s: %w", m.Digest, release.Untrue(err))
		}
		releases = append(releases, r)
		blobs[m.Digest] = m
	}
	rows, err := a.DB.Segments(ctx, pkg)
	if err != nil {
		return err
	}
	segments, err := release.LoadSegments(ctx, a.Blobs, rows, gitpack.UnmarshalIndex)
	if err != nil {
		return err
	}
	if segments, err = a.appendSegment(ctx, segments, objects, releases, dir, &out); err != nil {
		return err
	}
	if out.Publications, err = publications(ctx, objects, segments, releases, blobs); err != nil {
		return err
	}
	return a.DB.Adopt(ctx, pkg, out)
}
