// Package upkeep holds rows, blobs and Git objects to each other: it checks
// that they agree, sweeps what nothing names, and makes the rows again from
// the blobs.
package upkeep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/ledger"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/tree"
)

// Grace is the age below which a blob that no row names is left alone: the
// row may be about to come.
const Grace = 24 * time.Hour

// An Auditor looks after one registry's data.
type Auditor struct {
	DB      *storage.DB
	Blobs   blob.Store
	Staging *blob.Staging
	Log     ledger.Folder // for Fsck
	Public  bool          // for Rebuild: without a record a package is public, if nothing says that it is private

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
// name, without reading the blobs' contents but those of records, and the log against all of that.
func (a *Auditor) Fsck(ctx context.Context) error {
	problems, err := a.DB.Inconsistencies(ctx)
	if err != nil {
		return err
	}
	for _, p := range problems {
		a.find(p.Code, p.Subject, "%s", p.Problem)
	}
	later, err := a.fsckBlobs(ctx)
	if err != nil {
		return err
	}
	err = ledger.New(a.DB.DB).Audit(ctx, a.Log, func(f ledger.Finding) { a.find(f.Code, f.Subject, "%s", f.Problem) })
	if err != nil {
		return err
	}
	return a.packages(ctx, later)
}

// fsckBlobs compares the store's list with the rows. The registry may be live:
// what they do not agree about is looked at again before it is a finding. It returns
// the latest of the records of each package that no row names.
func (a *Auditor) fsckBlobs(ctx context.Context) (records map[string]*storage.PackageRecord, err error) {
	named, err := a.DB.Scrub.Named(ctx)
	if err != nil {
		return nil, err
	}
	held, err := a.heldBlobs(ctx)
	if err != nil {
		return nil, err
	}
	records = map[string]*storage.PackageRecord{}
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
			return nil, err
		case len(uses) == 0 || problem == nil && info.Size == size:
		case problem == nil:
			a.find("blob_size", digest, "the blob has %d bytes, its row says %d", info.Size, size)
		case lost(problem):
			a.find("blob_missing", digest, "a row names this blob, and it is not in the store; `packbase verify --repair` makes it again if it can")
		default:
			return nil, fmt.Errorf("look at blob %s: %w", digest, problem)
		}
	}
	for digest, info := range held {
		if _, ok := named[digest]; ok {
			continue
		}
		if rec, err := a.readRecord(ctx, digest); err == nil && (records[rec.Package] == nil || rec.Fence > records[rec.Package].Fence) {
			records[rec.Package] = rec
		}
		if err := a.archiveShownAgain(ctx, info); err != nil {
			return nil, err
		}
		if time.Since(info.ModTime) < Grace {
			continue
		}
		uses, err := a.DB.Scrub.Uses(ctx, digest)
		if err != nil {
			return nil, err
		}
		if len(uses) == 0 {
			a.find("blob_unnamed", digest, "no row names this blob of %d bytes; `packbase gc` removes it", info.Size)
		}
	}
	return records, nil
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

// packages checks that no package shows what one of the later records hides, and that the segments of each hold its releases.
func (a *Auditor) packages(ctx context.Context, later map[string]*storage.PackageRecord) error {
	all, err := a.DB.Packages(ctx)
	if err != nil {
		return err
	}
	for i, p := range all {
		a.progress("packages", i, len(all))
		if err := a.shownAgain(ctx, p.Name, later[p.Name]); err != nil {
			return err
		}
		if err := a.gitOf(ctx, p.Name); err != nil {
			return err
		}
	}
	return nil
}

// shownAgain checks that the rows of a package do not show what its record hides: nothing else may know that it is private. If the database
// was restored to an earlier time, a later record may be left that no row names. What was decided just now is in the record when the
// package's next job has ended.
func (a *Auditor) shownAgain(ctx context.Context, pkg string, later *storage.PackageRecord) error {
	said, held, err := a.DB.PackageRecord(ctx, pkg)
	if err != nil {
		return err
	}
	rec, told := later, "a later record among the blobs, which `packbase gc` removes,"
	if later == nil || later.Fence <= said.Fence || later.Upstream != said.Upstream {
		rec, told = nil, "its record"
		if held != "" {
			rec, err = a.readRecord(ctx, held)
		}
	}
	switch {
	case errors.Is(err, errNoRecord):
		a.find("record_unreadable", pkg, "%v", err)
		return nil
	case err != nil: // what is lost or damaged has a finding of its own
		return ctx.Err()
	case rec == nil || !hides(rec, said):
		return nil
	}
	for _, state := range []string{jobs.Queued, jobs.Running} {
		if open, err := a.DB.Jobs.List(ctx, jobs.Filter{Package: pkg, State: state, Limit: 1}); err != nil || len(open) > 0 {
			return err
		}
	}
	if rec.Private && !said.Private {
		a.find("record_contested", pkg, "its row says that it is public, and %s that it is private; `packbase visibility %s private` or `public` settles it", told, pkg)
	}
	if rec.State == storage.Removed && said.State != storage.Removed {
		a.find("record_contested", pkg, "its row says that it is here, and %s that it was removed; `packbase remove %s` does so again", told, pkg)
		return nil
	}
	for _, t := range rec.Removed {
		same := func(o storage.Tombstone) bool { return o.Tag == t.Tag && o.CommitOID == t.CommitOID }
		if what := cmp.Or(t.Tag, t.CommitOID); !slices.ContainsFunc(said.Removed, same) {
			a.find("record_contested", pkg+"@"+what, "no row says that it was removed, and %s does; `packbase remove %s %s` does so again", told, pkg, what)
		}
	}
	return nil
}

// archiveShownAgain checks that no archive is served of which a blob that no row names says that it was removed.
func (a *Auditor) archiveShownAgain(ctx context.Context, info blob.Info) error {
	const most = 64 << 10 // bytes, of a URL and a reason
	if info.Size > most {
		return nil
	}
	raw, err := blob.ReadAll(ctx, a.Blobs, info.Digest)
	if err != nil || !tree.IsRemoval(raw) {
		return ctx.Err() // what is damaged is no removal
	}
	gone, err := tree.ParseRemoval(raw)
	if err != nil {
		return nil
	}
	_, err = a.trees().ByURL(access.SeePrivate(ctx), gone.URL)
	switch {
	case errors.Is(err, fault.ErrNotFound), errors.Is(err, fault.ErrGone):
		return nil
	case err != nil:
		return err
	}
	a.find("record_contested", gone.URL, "no row says that it was removed, and a later record among the blobs, which `packbase gc` removes, does; `packbase remove %s` does so again", gone.URL)
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
		subject := pkg + " segment " + strconv.Itoa(s.Seq)
		if indexes[i], err = release.LoadIndex(ctx, a.Blobs, s, gitpack.UnmarshalIndex); err != nil {
			a.find("segment_index", subject, "%v", err)
			return ctx.Err()
		}
		if indexes[i].Len() != s.Objects || indexes[i].Size() != s.Size {
			a.find("segment_index", subject, "the index and the row do not agree")
		}
	}
	set := gitpack.NewSet(indexes...)
	for some := range slices.Chunk(releases, packsAtOnce) {
		oids := make([]string, len(some))
		for i := range some {
			oids[i] = some[i].OID()
		}
		packs, err := a.DB.Packs(ctx, pkg, oids)
		if err != nil { // the check was ended, or the database is away: that says nothing of the packs
			return err
		}
		of := map[string]*storage.StoredPack{}
		for i := range slices.Backward(packs) {
			of[packs[i].CommitOID], of[packs[i].TagOID] = &packs[i], &packs[i]
		}
		for i := range some {
			a.packOf(set, &some[i], of[oids[i]])
		}
	}
	return ctx.Err()
}

const packsAtOnce = 100

// packOf checks that a release's commit and tag are in its pack, nil if there is none.
func (a *Auditor) packOf(set *gitpack.Set, r *storage.Release, pack *storage.StoredPack) {
	subject := r.Package + "@" + r.Tag
	if r.Tag == "" {
		subject = r.Package + "#" + r.CommitOID
	}
	if pack == nil {
		a.find("pack_missing", subject, "there is no pack for it: Git clients cannot fetch it; `packbase rebuild` with an empty database makes it again")
		return
	}
	commit, err := gitpack.ParseOID(r.CommitOID)
	if err != nil {
		a.find("release_oid", subject, "%v", err)
		return
	}
	ordinals, err := gitpack.Stored{Commit: commit, Bitmap: pack.Bitmap, Objects: pack.Objects}.Ordinals()
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
