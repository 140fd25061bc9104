package upkeep

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/tree"
)

// Rebuild makes the rows of every package that the database does not have
// from manifests and tarballs, and their segments anew, byte for byte as they
// were; then those of archives and trees. What is there already stays as it is. Each
// release, archive and tree that it cannot make again is a finding; an error is one of
// the machine, which says nothing of what is stored: Rebuild may be called again.
func (a *Auditor) Rebuild(ctx context.Context) error {
	found, archives, err := a.scan(ctx)
	if err != nil {
		return err
	}
	known, err := a.DB.Packages(ctx)
	if err != nil {
		return err
	}
	for _, p := range known {
		delete(found, p.Name)
	}
	forgetFreed(found)
	a.refuseContested(found)
	names := slices.Sorted(maps.Keys(found))
	for i, name := range names {
		a.progress("packages", i, len(names))
		if err := a.rebuildPackage(ctx, name, found[name]); err != nil {
			if !refused(err) {
				return fmt.Errorf("rebuild %s: %w", name, err)
			}
			a.find("not_rebuilt", name, "%v", err)
		}
	}
	if err := a.rebuildArchives(ctx, archives); err != nil {
		return err
	}
	return a.rebuildTrees(ctx, archives.trees)
}

// forgetFreed leaves out packages under whose name nothing was ever published, and which another package has taken since:
// their records may not have been swept yet.
func forgetFreed(found map[string]*packageBlobs) {
	taken := map[string]bool{}
	for own, r := range found {
		for name := range r.names(own) {
			if name != strings.ToLower(own) || len(r.manifests) > 0 {
				taken[name] = true
			}
		}
	}
	maps.DeleteFunc(found, func(own string, r *packageBlobs) bool {
		return len(r.manifests) == 0 && (r.record == nil || len(r.record.Removed) == 0) && taken[strings.ToLower(own)]
	})
}

// refuseContested leaves out packages of which several want one name. No database had them all, so all but one are lies,
// and the blobs do not say which.
func (a *Auditor) refuseContested(found map[string]*packageBlobs) {
	owners := map[string][]string{}
	for _, own := range slices.Sorted(maps.Keys(found)) {
		for name := range found[own].names(own) {
			owners[name] = append(owners[name], own)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(owners)) {
		if len(owners[name]) < 2 {
			continue
		}
		for _, own := range owners[name] {
			a.find("not_rebuilt", own, "the name %s is claimed by the packages %s: take the blobs of those that are not to be believed away, and rebuild again",
				name, strings.Join(owners[name], ", "))
			delete(found, own)
		}
	}
}

// unusable reports whether err is a verdict on stored bytes: they are lost, not
// those of their digest, or not what they say they are. Another error is one of
// the machine.
func unusable(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, blob.ErrMismatch) || errors.Is(release.Untrue(err), release.ErrUntrue)
}

// refused reports whether the database has a rule against what was to be written.
func refused(err error) bool {
	return errors.Is(err, fault.ErrConflict) || errors.Is(err, fault.ErrInvalid)
}

// packageBlobs are what the blobs tell of one package.
type packageBlobs struct {
	manifests map[string]*scanned // by tag, or "#" and the commit of a snapshot
	record    *storage.PackageRecord
	recordIn  blob.Ref
}

// names returns all names that a package called own claims, in lower case: they differ in more than that.
func (r *packageBlobs) names(own string) map[string]bool {
	all := map[string]bool{strings.ToLower(own): true}
	if r.record != nil {
		for _, name := range r.record.Names {
			all[strings.ToLower(name)] = true
		}
	}
	return all
}

// A scanned is a manifest that was found among the blobs.
type scanned struct {
	blob  blob.Ref
	man   *release.Manifest
	rival string // manifest of the same claim for another commit: one of the two is a lie
}

// maxFence is more claims than any package has, and leaves room for the next ones.
const maxFence = 1 << 53

// scan finds manifests, package records and records of archives and trees. Of two for the same tag, which a
// crash may leave behind, the one of the later claim was published: an earlier
// claim that had published would have kept the later one from writing any.
func (a *Auditor) scan(ctx context.Context) (found map[string]*packageBlobs, archives archiveBlobs, err error) {
	found = map[string]*packageBlobs{}
	done := 0
	for info, err := range a.Blobs.List(ctx) {
		if err != nil {
			return nil, archives, fmt.Errorf("list blobs: %w", err)
		}
		if done++; done%1000 == 0 {
			a.progress("blobs", done, 0)
		}
		raw, ok, err := a.document(ctx, info)
		if err != nil {
			return nil, archives, err
		}
		if !ok {
			continue
		}
		in := blob.Ref{Digest: info.Digest, Size: info.Size}
		if tree.IsRecord(raw) || tree.IsRemoval(raw) || tree.IsRevisionRecord(raw) {
			err = archives.index(in, raw)
		} else {
			err = index(found, in, raw)
		}
		if err != nil {
			a.find("release_lost", info.Digest, "the blob looks like a manifest or a record: %v", err)
		}
	}
	return found, archives, nil
}

// document returns the bytes of a blob that is one of our JSON documents.
func (a *Auditor) document(ctx context.Context, info blob.Info) (raw []byte, ok bool, err error) {
	b, err := a.Blobs.Open(ctx, info.Digest)
	if err != nil {
		return nil, false, fmt.Errorf("open blob %s: %w", info.Digest, err)
	}
	start := make([]byte, 16)
	n, err := b.ReadAt(start, 0)
	b.Close()
	if err != nil && err != io.EOF {
		return nil, false, fmt.Errorf("read blob %s: %w", info.Digest, err)
	}
	if !bytes.HasPrefix(start[:n], []byte("{\n  \"packbase_")) {
		return nil, false, nil
	}
	if info.Size > release.MaxManifestSize {
		a.find("release_lost", info.Digest, "the blob looks like a manifest and has %d bytes, more than %d", info.Size, release.MaxManifestSize)
		return nil, false, nil
	}
	raw, err = blob.ReadAll(ctx, a.Blobs, info.Digest)
	switch {
	case err == nil:
		return raw, true, nil
	case !unusable(err):
		return nil, false, fmt.Errorf("read blob %s: %w", info.Digest, err)
	}
	a.find("release_lost", info.Digest, "the blob looks like a manifest or a record: %v", err)
	return nil, false, nil
}

// index notes a document under its package.
func index(found map[string]*packageBlobs, in blob.Ref, raw []byte) error {
	var kind struct {
		Manifest int    `json:"packbase_manifest"`
		Record   int    `json:"packbase_package"`
		Package  string `json:"package"`
	}
	if err := json.Unmarshal(raw, &kind); err != nil {
		return err
	}
	if err := name.ValidPackage(kind.Package); err != nil {
		return err
	}
	r, ok := found[kind.Package]
	if !ok {
		r = &packageBlobs{manifests: map[string]*scanned{}}
		found[kind.Package] = r
	}
	if kind.Record != 0 {
		rec, err := storage.ParsePackageRecord(raw)
		if err == nil && rec.Fence > maxFence {
			return fmt.Errorf("it is of the claim %d, more than %d", rec.Fence, int64(maxFence))
		}
		if err == nil && (r.record == nil || rec.Fence > r.record.Fence) {
			r.record, r.recordIn = rec, in
		}
		return err
	}
	man, err := release.ParseManifest(raw)
	if err != nil {
		return err
	}
	if man.Fence > maxFence {
		return fmt.Errorf("it is of the claim %d, more than %d", man.Fence, int64(maxFence))
	}
	key := cmp.Or(man.Tag, "#"+man.Commit)
	switch old, ok := r.manifests[key]; {
	case !ok || man.Fence > old.man.Fence:
		r.manifests[key] = &scanned{blob: in, man: man}
	case man.Fence == old.man.Fence && man.Commit != old.man.Commit:
		old.rival = in.Digest
	}
	return nil
}

// forgetStrangers leaves out manifests of an upstream that had the name before:
// it passes on only while nothing is published under it, so none of them was.
func (r *packageBlobs) forgetStrangers() {
	owner, fence := "", int64(-1)
	if r.record != nil {
		owner, fence = r.record.Upstream, r.record.Fence
	}
	for _, s := range r.manifests {
		if s.man.Fence > fence {
			owner, fence = s.man.Upstream, s.man.Fence
		}
	}
	maps.DeleteFunc(r.manifests, func(_ string, s *scanned) bool { return s.man.Upstream != owner })
}

// forgetRemoved leaves out what the record says was removed.
func (r *packageBlobs) forgetRemoved() {
	if r.record == nil {
		return
	}
	if r.record.State == storage.Removed {
		clear(r.manifests)
	}
	for _, t := range r.record.Removed {
		delete(r.manifests, cmp.Or(t.Tag, "#"+t.CommitOID))
	}
}

// rebuildPackage makes the rows of one package.
func (a *Auditor) rebuildPackage(ctx context.Context, name string, r *packageBlobs) error {
	objects, dir, closeAll, err := a.spool()
	if err != nil {
		return err
	}
	defer closeAll()

	out := storage.Adoption{Record: r.record, RecordBlob: r.recordIn}
	r.forgetRemoved()
	r.forgetStrangers()
	if r.record != nil && r.record.Releases > len(r.manifests) {
		a.find("release_lost", name, "its record tells of %d releases, and %d manifests are here", r.record.Releases, len(r.manifests))
	}
	var releases []*release.Unpacked
	for _, s := range r.manifests {
		what := name + "@" + cmp.Or(s.man.Tag, s.man.Commit)
		if s.rival != "" {
			a.find("release_lost", what, "the manifests %s and %s are of one claim and two commits: take the one that is not to be believed away, and rebuild again",
				s.blob.Digest, s.rival)
			continue
		}
		rel, err := release.Load(ctx, a.Blobs, objects, s.blob.Digest)
		if err == nil {
			err = rel.Admit(ctx)
		}
		switch {
		case errors.Is(err, release.ErrZig) && !errors.Is(err, release.ErrRefused):
			a.find("zig_hash", what, "%v", err)
		case err != nil && unusable(err):
			a.find("release_lost", what, "%v", err)
			continue
		case err != nil:
			return fmt.Errorf("%s: %w", what, err)
		}
		out.Private = out.Private || s.man.Private
		releases = append(releases, rel)
	}
	if len(releases) == 0 && r.record == nil {
		return nil
	}
	segments, err := a.rebuildSegments(ctx, objects, releases, dir, &out)
	if err != nil {
		return err
	}
	blobs := map[string]blob.Ref{}
	for _, m := range r.manifests {
		blobs[m.blob.Digest] = m.blob
	}
	if out.Publications, err = publications(ctx, objects, segments, releases, blobs); err != nil {
		return err
	}
	return a.DB.Adopt(ctx, name, out)
}

// rebuildSegments writes the segments of a package in their order, each with
// the objects of the releases that its batch published.
func (a *Auditor) rebuildSegments(ctx context.Context, objects *gitpack.Objects, releases []*release.Unpacked, dir string, out *storage.Adoption) (*release.Segments, error) {
	byBatch := map[int][]*release.Unpacked{}
	for _, r := range releases {
		byBatch[r.Manifest.Git.Segment] = append(byBatch[r.Manifest.Git.Segment], r)
	}
	segments := release.NewSegments(a.Blobs)
	for _, batch := range slices.Sorted(maps.Keys(byBatch)) {
		var err error
		if segments, err = a.appendSegment(ctx, segments, objects, byBatch[batch], dir, out); err != nil {
			return nil, err
		}
	}
	return segments, nil
}
