package upkeep

import (
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
		if a.Public && p.Private && p.StateReason == storage.Unproven {
			if err := a.show(ctx, p.Name); err != nil {
				return err
			}
		}
	}
	a.chooseOwners(found)
	noteRemoved(found)
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

// show makes a package public that came back private for want of a record.
func (a *Auditor) show(ctx context.Context, pkg string) error {
	if err := a.DB.SetVisibility(ctx, pkg, false); err != nil {
		return err
	}
	return a.KeepRecord(ctx, pkg)
}

// chooseOwners leaves to each package the documents of its own upstream. Its name passes on only while nothing is published
// under it: so who published has it for good, and documents of two who did are not all true.
func (a *Auditor) chooseOwners(found map[string]*packageBlobs) {
	for pkg, r := range found {
		var owner string
		for _, upstream := range slices.Sorted(maps.Keys(r.upstreams)) {
			switch c := r.upstreams[upstream]; {
			case owner == "" || c.rank() > r.upstreams[owner].rank() || c.rank() == r.upstreams[owner].rank() && c.fence > r.upstreams[owner].fence:
				owner = upstream
			}
		}
		for _, upstream := range slices.Sorted(maps.Keys(r.upstreams)) {
			if upstream != owner && r.upstreams[upstream].rank() == published {
				a.find("not_rebuilt", pkg, "its records tell of releases from %s and from %s: take the blobs of the one that is not to be believed away, and rebuild again", owner, upstream)
				delete(found, pkg)
			}
		}
		r.claimed = r.upstreams[owner]
	}
}

// noteRemoved tells each package which commits of its upstream were removed.
func noteRemoved(found map[string]*packageBlobs) {
	barred := map[string]map[string]bool{}
	for _, r := range found {
		for upstream, c := range r.upstreams {
			if barred[upstream] == nil {
				barred[upstream] = map[string]bool{}
			}
			for _, t := range c.removed {
				barred[upstream][t.CommitOID] = true
			}
			if c == r.claimed {
				r.barred = barred[upstream]
			}
		}
	}
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
		return len(r.manifests) == 0 && len(r.removed) == 0 && taken[strings.ToLower(own)]
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
	upstreams map[string]*claimed // that had the name, by their canonical URLs
	*claimed                      // the one that has it
	barred    map[string]bool     // commits that were removed, under whatever name of that upstream
}

// claimed are the documents of one package and one upstream.
type claimed struct {
	manifests map[string]*scanned    // by tag, or "#" and the commit of a snapshot
	record    *storage.PackageRecord // of the latest claim; nil if there is none
	recordIn  blob.Ref
	fence     int64                        // of the latest claim that any of them is of
	private   string                       // digest of one that says that the package is private; "" if none does
	removed   map[string]storage.Tombstone // by the keys of manifests, from all records: a removal is for good
	gone      *storage.PackageRecord       // that tells that the whole package was removed
	released  bool                         // a record tells of releases, or of what was removed
}

// How sure it is that an upstream has the name.
const (
	asked     = iota // it wanted it
	written          // there are manifests, whether they were published or not
	published        // a record says so
)

func (c *claimed) rank() int {
	switch {
	case c.released:
		return published
	case len(c.manifests) > 0:
		return written
	}
	return asked
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

// A scanned is a manifest that was found among the blobs. All of them are in
// memory at once, so it is little of each.
type scanned struct {
	blob        blob.Ref
	tag, commit string
	fence       int64
	rival       string // digest of a manifest for another commit
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
	if !release.IsDocument(start[:n]) {
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
		Record  int    `json:"packbase_package"`
		Package string `json:"package"`
	}
	if err := json.Unmarshal(raw, &kind); err != nil {
		return err
	}
	if err := name.ValidPackage(kind.Package); err != nil {
		return err
	}
	if kind.Record != 0 {
		rec, err := storage.ParsePackageRecord(raw)
		if err != nil {
			return err
		}
		c, err := claimOf(found, rec.Package, rec.Upstream, rec.Fence)
		if err == nil {
			c.addRecord(in, rec)
		}
		return err
	}
	man, err := release.ParseManifest(raw)
	if err != nil {
		return err
	}
	c, err := claimOf(found, man.Package, man.Upstream, man.Fence)
	if err == nil {
		c.addManifest(in, man)
	}
	return err
}

// claimOf returns where a document of that claim is noted.
func claimOf(found map[string]*packageBlobs, pkg, upstream string, fence int64) (*claimed, error) {
	if fence > maxFence {
		return nil, fmt.Errorf("it is of the claim %d, more than %d", fence, int64(maxFence))
	}
	r, ok := found[pkg]
	if !ok {
		r = &packageBlobs{upstreams: map[string]*claimed{}}
		found[pkg] = r
	}
	c, ok := r.upstreams[upstream]
	if !ok {
		c = &claimed{manifests: map[string]*scanned{}, removed: map[string]storage.Tombstone{}}
		r.upstreams[upstream] = c
	}
	c.fence = max(c.fence, fence)
	return c, nil
}

// addRecord believes the latest record, but for two things, as that may be forged or what was true before it: what any
// of them says is private is not shown, and what was removed stays so.
func (c *claimed) addRecord(in blob.Ref, rec *storage.PackageRecord) {
	if c.record == nil || rec.Fence > c.record.Fence {
		c.record, c.recordIn = rec, in
	}
	if rec.Private && !unproven(rec) {
		c.private = in.Digest
	}
	if rec.State == storage.Removed {
		c.gone = rec
	}
	for _, t := range rec.Removed {
		c.removed[cmp.Or(t.Tag, "#"+t.CommitOID)] = t
	}
	c.released = c.released || rec.Releases > 0 || len(rec.Removed) > 0
}

// addManifest notes a manifest. Of two for one tag that a crash left behind the later was published, as an earlier claim that had
// published would have kept the later one from writing any: but only one of them can be true if their commits differ.
func (c *claimed) addManifest(in blob.Ref, man *release.Manifest) {
	if man.Private {
		c.private = in.Digest
	}
	key := cmp.Or(man.Tag, "#"+man.Commit)
	now := &scanned{blob: in, tag: man.Tag, commit: man.Commit, fence: man.Fence}
	old, ok := c.manifests[key]
	switch {
	case ok && now.commit != old.commit:
		old.rival = in.Digest
		return
	case ok && now.fence <= old.fence:
		return
	case ok:
		now.rival = old.rival
	}
	c.manifests[key] = now
}

// forgetRemoved leaves out what records say was removed.
func (c *claimed) forgetRemoved() {
	if c.gone != nil {
		clear(c.manifests)
	}
	for key := range c.removed {
		delete(c.manifests, key)
	}
}

// withoutRemoved leaves out releases of commits that were removed under another tag or name, unless there are no more releases
// than the record tells of. Such a one was either published before that, and is served on, or it was refused, and what was
// written of it has not been swept yet.
func (a *Auditor) withoutRemoved(pkg string, r *packageBlobs, releases []*release.Unpacked) []*release.Unpacked {
	told := r.record != nil && !unproven(r.record)
	if told && len(releases) <= r.record.Releases {
		return releases
	}
	kept := slices.DeleteFunc(slices.Clone(releases), func(rel *release.Unpacked) bool { return r.barred[rel.Commit.String()] })
	if told && len(kept) < r.record.Releases {
		a.find("release_lost", pkg, "its latest record %s tells of %d releases, and %d manifests are here, some of commits that were removed under other tags: they are left out",
			r.recordIn.Digest, r.record.Releases, len(releases))
	}
	return kept
}

// unproven reports whether a record was written where there was none: it does not tell whether the package is private.
func unproven(rec *storage.PackageRecord) bool { return rec.StateReason == storage.Unproven }

// visibility decides whether the package comes back private, with so many releases: it does unless all that tells of it
// agrees that it is public, as what was shown cannot be hidden again.
func (a *Auditor) visibility(pkg string, c *claimed, releases int) (private, doubtful bool) {
	show := fmt.Sprintf("it comes back private; `packbase visibility %s public` shows it", pkg)
	switch told := c.record != nil && !unproven(c.record); {
	case !told && c.private == "" && a.Public:
		return false, false
	case !told && c.private == "":
		a.find("record_lost", pkg, "no record tells whether it is private, nor what of it was removed: %s, `packbase rebuild --public` all of which nothing says that they are private", show)
		return true, true
	case !told:
		a.find("record_lost", pkg, "no record tells what of it was removed: %s", show)
	case releases > c.record.Releases:
		a.find("record_lost", pkg, "its latest record %s tells of %d releases, and %d are here: a later one is lost, or not all of them were published; %s",
			c.recordIn.Digest, c.record.Releases, releases, show)
		return true, false
	case !c.record.Private && c.private != "":
		a.find("record_contested", pkg, "its latest record %s says that it is public, and %s that it is private: %s", c.recordIn.Digest, c.private, show)
	}
	return c.private != "", false
}

// recordOf returns the latest record, with what must not be forgotten of the others.
func (a *Auditor) recordOf(pkg string, c *claimed, private, doubtful bool) *storage.PackageRecord {
	if c.record == nil {
		return nil
	}
	rec := *c.record
	rec.Private = private
	if unproven(&rec) && !doubtful {
		rec.StateReason = ""
	}
	if c.gone != nil && rec.State != storage.Removed {
		a.find("record_contested", pkg, "it was removed, and its latest record %s does not say so", c.recordIn.Digest)
		rec.State, rec.StateReason = c.gone.State, c.gone.StateReason
	}
	if len(c.removed) > len(rec.Removed) {
		a.find("record_contested", pkg, "%d of its releases were removed, and its latest record %s tells of %d", len(c.removed), c.recordIn.Digest, len(rec.Removed))
	}
	rec.Removed = slices.Collect(maps.Values(c.removed))
	return &rec
}

// rebuildPackage makes the rows of one package.
func (a *Auditor) rebuildPackage(ctx context.Context, name string, r *packageBlobs) error {
	objects, dir, closeAll, err := a.spool()
	if err != nil {
		return err
	}
	defer closeAll()

	out := storage.Adoption{RecordBlob: r.recordIn}
	r.forgetRemoved()
	if r.record != nil && r.record.Releases > len(r.manifests) {
		a.find("release_lost", name, "its record tells of %d releases, and %d manifests are here", r.record.Releases, len(r.manifests))
	}
	var releases []*release.Unpacked
	for _, s := range r.manifests {
		what := name + "@" + cmp.Or(s.tag, s.commit)
		if s.rival != "" {
			a.find("release_lost", what, "the manifests %s and %s are of one tag and two commits: take the one that is not to be believed away, and rebuild again",
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
		releases = append(releases, rel)
	}
	releases = a.withoutRemoved(name, r, releases)
	if len(releases) == 0 && r.record == nil {
		return nil
	}
	out.Private, out.Unproven = a.visibility(name, r.claimed, len(releases))
	out.Record = a.recordOf(name, r.claimed, out.Private, out.Unproven)
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
