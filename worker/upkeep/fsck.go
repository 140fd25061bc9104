// Package upkeep holds rows, blobs and Git objects to each other: it checks
// that they agree, sweeps what nothing names, and makes the rows again from
// the blobs.
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
	"strconv"
	"time"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/tarball"
)

// Grace is the age below which a blob that no row names is left alone: the
// row may be about to come.
const Grace = 24 * time.Hour

// An Auditor looks after one registry's data.
type Auditor struct {
	DB      *storage.DB
	Blobs   blob.Store
	Staging *blob.Staging

	// Peer fetches a blob from another packbase into the store; it may be nil.
	Peer func(ctx context.Context, b blob.Ref) error

	// Report is called for each finding, in no particular order.
	Report func(Finding)
	// Progress is called now and then; it may be nil.
	Progress func(step string, done, total int)
}

// A Finding is something that is not as it should be.
type Finding struct {
	Code    string `json:"code"`
	Subject string `json:"subject"` // a package, a release, a digest or a job
	Problem string `json:"problem"`
	Mended  bool   `json:"mended,omitempty"`
}

func (a *Auditor) find(code, subject, format string, args ...any) {
	a.Report(Finding{Code: code, Subject: subject, Problem: fmt.Sprintf(format, args...)})
}

func (a *Auditor) progress(step string, done, total int) {
	if a.Progress != nil {
		a.Progress(step, done, total)
	}
}

// Fsck checks the rows against each other and against the blobs that they
// name, without reading the blobs' contents.
func (a *Auditor) Fsck(ctx context.Context) error {
	problems, err := a.DB.Inconsistencies(ctx)
	if err != nil {
		return err
	}
	for _, p := range problems {
		a.find(p.Code, p.Subject, "%s", p.Problem)
	}
	if err := a.fsckBlobs(ctx); err != nil {
		return err
	}
	return a.packages(ctx)
}

// fsckBlobs compares the store's list with the rows. The registry may be live:
// what they do not agree about is looked at again before it is a finding.
func (a *Auditor) fsckBlobs(ctx context.Context) error {
	named, err := a.DB.Scrub.Named(ctx)
	if err != nil {
		return err
	}
	held, err := a.heldBlobs(ctx)
	if err != nil {
		return err
	}
	done := 0
	for digest, size := range named {
		if done++; done%1000 == 0 {
			a.progress("blobs", done, len(named))
		}
		if info, ok := held[digest]; ok && info.Size == size {
			continue
		}
		info, problem := a.Blobs.Stat(ctx, digest)
		uses, err := a.DB.Scrub.Uses(ctx, digest)
		switch {
		case err != nil:
			return err
		case len(uses) == 0 || problem == nil && info.Size == size:
		case problem == nil:
			a.find("blob_size", digest, "the blob has %d bytes, its row says %d", info.Size, size)
		case lost(problem):
			a.find("blob_missing", digest, "a row names this blob, and it is not in the store; `packbase verify --repair` makes it again if it can")
		default:
			return fmt.Errorf("look at blob %s: %w", digest, problem)
		}
	}
	for digest, info := range held {
		if _, ok := named[digest]; ok || time.Since(info.ModTime) < Grace {
			continue
		}
		uses, err := a.DB.Scrub.Uses(ctx, digest)
		if err != nil {
			return err
		}
		if len(uses) == 0 {
			a.find("blob_unnamed", digest, "no row names this blob of %d bytes; `packbase gc` removes it", info.Size)
		}
	}
	return nil
}

func (a *Auditor) heldBlobs(ctx context.Context) (map[string]blob.Info, error) {
	held := map[string]blob.Info{}
	for info, err := range a.Blobs.List(ctx) {
		if err != nil {
			return nil, fmt.Errorf("list blobs: %w", err)
		}
		held[info.Digest] = info
	}
	return held, nil
}

// packages checks that the segments of each package hold its releases.
func (a *Auditor) packages(ctx context.Context) error {
	all, err := a.DB.Packages(ctx)
	if err != nil {
		return err
	}
	for i, p := range all {
		a.progress("packages", i, len(all))
		if err := a.gitOf(ctx, p.Name); err != nil {
			return err
		}
	}
	return nil
}

func (a *Auditor) gitOf(ctx context.Context, pkg string) error {
	releases, err := a.DB.Releases(ctx, pkg)
	if err != nil {
		return err
	}
	segments, err := a.DB.Segments(ctx, pkg)
	if err != nil {
		return err
	}
	indexes := make([]*gitpack.SegmentIndex, len(segments))
	for i, s := range segments {
		if indexes[i], err = a.index(ctx, s); err != nil {
			a.find("segment_index", pkg+" segment "+strconv.Itoa(s.Seq), "%v", err)
			return ctx.Err()
		}
		if indexes[i].Len() != s.Objects || indexes[i].Size() != s.Size {
			a.find("segment_index", pkg+" segment "+strconv.Itoa(s.Seq), "the index and the row do not agree")
		}
	}
	set := gitpack.NewSet(indexes...)
	for i := range releases {
		a.packOf(ctx, set, &releases[i])
	}
	return ctx.Err()
}

// packOf checks that a release's commit and tag are in its pack.
func (a *Auditor) packOf(ctx context.Context, set *gitpack.Set, r *storage.Release) {
	subject := r.Package + "@" + r.Tag
	if r.Tag == "" {
		subject = r.Package + "#" + r.CommitOID
	}
	packs, err := a.DB.Packs(ctx, r.Package, []string{r.OID()})
	if err != nil || len(packs) == 0 {
		a.find("pack_missing", subject, "there is no pack for it: Git clients cannot fetch it; `packbase rebuild` with an empty database makes it again")
		return
	}
	commit, err := gitpack.ParseOID(r.CommitOID)
	if err != nil {
		a.find("release_oid", subject, "%v", err)
		return
	}
	ordinals, err := gitpack.Stored{Commit: commit, Bitmap: packs[0].Bitmap, Objects: packs[0].Objects}.Ordinals()
	if err != nil {
		a.find("pack_bitmap", subject, "%v", err)
		return
	}
	if n, ok := set.Ordinal(commit); !ok || !ordinals.Contains(n) {
		a.find("pack_incomplete", subject, "its commit is not in its pack")
	}
	if !ordinals.IsEmpty() && int(ordinals.Maximum()) >= set.Len() {
		a.find("pack_incomplete", subject, "its pack names objects that no segment holds")
	}
}

// read returns a blob's bytes, checked against its digest.
func (a *Auditor) read(ctx context.Context, digest string) ([]byte, error) {
	b, err := a.Blobs.Open(ctx, digest)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	raw, err := io.ReadAll(io.LimitReader(b, 1<<30))
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(raw); hex.EncodeToString(sum[:]) != digest {
		return nil, blob.ErrMismatch
	}
	return raw, nil
}

// index reads the index of a segment.
func (a *Auditor) index(ctx context.Context, s storage.Segment) (*gitpack.SegmentIndex, error) {
	raw, err := a.read(ctx, s.IndexDigest)
	if err != nil {
		return nil, err
	}
	return gitpack.UnmarshalIndex(raw)
}

// Verify reads every blob that a row names, compares it with its digest, and
// compares the tree within each tarball with upstream's commit and Zig's hashes, and the files of each archive with
// the latter. What is wrong
// is moved to quarantine, so that it is never served again; with repair it is
// made again from the other copy of the same files, if that gives equal bytes.
func (a *Auditor) Verify(ctx context.Context, repair bool) error {
	bad, err := a.verifyBlobs(ctx)
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
	if err := a.verifyArchives(ctx, bad); err != nil {
		return err
	}
	for _, finding := range bad {
		a.Report(*finding)
	}
	return nil
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
			return nil, err
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
	since, err := a.look(ctx, digest)
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
	if _, gone := a.look(ctx, digest); found.Code == "blob_missing" && gone == nil {
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
		case errors.Is(err, errZig):
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

// verifyTree compares a tarball with its manifest, with upstream's ids and with
// Zig's hashes.
func (a *Auditor) verifyTree(ctx context.Context, r *storage.Release) error {
	objects, _, closeAll, err := a.spool()
	if err != nil {
		return err
	}
	defer closeAll()
	rt, err := a.load(ctx, objects, r.ManifestDigest)
	if err == nil {
		_, _, err = rt.checkFiles(ctx, objects, gitpack.StoredLimits())
	}
	return err
}

// fileOf stores an entry's content. Submodules and directories are not kept:
// the manifest and the paths say where they are.
func fileOf(objects *gitpack.Objects, e tarball.Entry, body io.Reader) (f gitpack.File, keep bool, err error) {
	f = gitpack.File{Path: e.Path, Size: e.Size}
	switch e.Mode {
	case tarball.File:
		f.Mode = gitpack.ModeFile
	case tarball.Executable:
		f.Mode = gitpack.ModeExecutable
	case tarball.Symlink:
		f.Mode = gitpack.ModeSymlink
		f.OID, err = add(objects, gitpack.Blob, []byte(e.Target))
		return f, true, err
	default:
		return f, false, nil
	}
	f.OID, err = objects.Add(gitpack.Blob, e.Size, body)
	return f, true, err
}

// oddEntries returns what the tarball does not show.
func oddEntries(entries []release.TreeEntry) (odd map[string]gitpack.File, empty []string, err error) {
	odd = map[string]gitpack.File{}
	for _, e := range entries {
		mode, err := strconv.ParseUint(e.Mode, 8, 32)
		if err != nil {
			return nil, nil, fmt.Errorf("manifest: mode %q of %q", e.Mode, e.Path)
		}
		if mode == gitpack.ModeDir {
			empty = append(empty, e.Path)
			continue
		}
		f := gitpack.File{Path: e.Path, Mode: uint32(mode)}
		if e.OID != "" {
			if f.OID, err = gitpack.ParseOID(e.OID); err != nil {
				return nil, nil, fmt.Errorf("manifest: %w", err)
			}
		}
		odd[e.Path] = f
	}
	return odd, empty, nil
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
