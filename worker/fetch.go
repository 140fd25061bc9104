package worker

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/catalog"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/worker/ingest"
	"github.com/francescobianco/packbase/worker/upstream"
)

// FetchResult is what a fetch job did.
type FetchResult struct {
	Package string `json:"package"`
	Tag     string `json:"tag"` // the newest release, or the one asked for
	Commit  string `json:"commit,omitempty"`
	Created int    `json:"tarballs_created"`
	Present int    `json:"tarballs_present"` // releases that were there already
	Count   int    `json:"tarball_count"`    // releases that are there now

	Branches map[string]string `json:"branches,omitempty"`       // those that are followed, with their tips
	Unfit    []ingest.Unfit    `json:"branches_unfit,omitempty"` // those whose tips cannot be published
}

// fetchPackage publishes the upstream tags that are not yet releases.
//
// Bytes come first, rows second, tag by tag: a crash between them leaves
// blobs that no row names, which are swept later, and the next run goes on
// where this one stopped.
func (w *Worker) fetchPackage(ctx context.Context, j *job) (any, error) {
	pkg, err := w.db.PackageByName(ctx, j.Job.Package)
	if errors.Is(err, fault.ErrGone) && j.Job.Pull { // it was private: of others there are no pulls
		j.pkg.Private = true
		return nil, upstream.Closed()
	}
	if err != nil {
		return nil, err
	}
	j.pkg = pkg
	switch {
	case pkg.State != storage.Active && j.ofStranger():
		return nil, upstream.Closed()
	case pkg.State != storage.Active:
		return nil, errFrozen(pkg.Name, pkg.StateReason)
	}
	// While this is held, no blob is swept that the job is about to name.
	unlock, err := w.db.Scrub.Share(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := w.mend(ctx, j); err != nil {
		return nil, err
	}
	f := &fetch{w: w, job: j, pkg: pkg, patience: patience{room: w.aside, leave: j.leave}}
	defer f.patience.done()
	if !j.ofStranger() {
		if here, err := f.here(ctx); err != nil || here != nil {
			return here, err
		}
	}
	if err := f.queueAtHost(ctx); err != nil {
		return nil, err
	}
	stage, err := f.stage()
	if err != nil {
		return nil, err
	}
	defer stage.Close()
	if err := f.load(ctx); err != nil {
		var known *fault.Error
		if j.ofStranger() && errors.As(err, &known) { // what is lost has the package's name in it
			return nil, upstream.Closed()
		}
		return nil, err
	}
	if err := f.wantsRemoved(); err != nil && !j.ofStranger() {
		return nil, err
	}
	if err := f.measure(ctx); err != nil {
		return nil, err
	}
	err = f.ingest(ctx)
	j.advanced = f.created+f.rejected > 0
	if err != nil {
		f.keepPart(ctx, err)
		return nil, f.pauseHost(ctx, err)
	}
	if f.created > 0 || pkg.ProbedAt == nil || j.Job.Attempts > 1 { // what an attempt published that ended before its probe
		j.setProgress(jobs.Progress{Step: "probe"})
		if _, err := w.probe.Probe(ctx, pkg.Name); err != nil {
			return nil, err
		}
	}
	result, err := f.result(ctx)
	if err != nil {
		return nil, err
	}
	a := w.auditor()
	return result, a.RecordJob(ctx, f.job.Claim, f.job.sync, f.dir)
}

// keepPart finishes what was published before the fetch failed: without a record of it, it looks later as if it never was.
func (f *fetch) keepPart(ctx context.Context, failed error) {
	moved, err := f.branchesOfPart(ctx, failed)
	if err == nil && f.created+len(moved) == 0 {
		return
	}
	if err == nil && f.created > 0 {
		_, err = f.w.probe.Probe(ctx, f.pkg.Name)
	}
	a := f.w.auditor()
	if err := errors.Join(err, a.RecordJob(ctx, f.job.Claim, nil, f.dir)); err != nil && ctx.Err() == nil {
		f.w.log.WarnContext(ctx, "part not probed or recorded", "package", f.pkg.Name, "err", err)
	}
}

// branchesOfPart notes where the branches are whose tips are here although upstream did not give all that was wanted.
func (f *fetch) branchesOfPart(ctx context.Context, failed error) (map[string]string, error) {
	if !f.job.listed || !ingest.Passing(verdict(failed).Code) {
		return nil, nil
	}
	branches, err := f.arrived(ctx)
	if err != nil || len(branches) == 0 {
		return nil, err
	}
	return branches, f.w.db.Jobs.RecordBranches(ctx, f.job.Claim, jobs.Sync{Branches: branches, Listed: f.listed(branches)})
}

// wantsRemoved returns why the one tag or commit that is asked for is not
// mirrored: it was removed.
func (f *fetch) wantsRemoved() error {
	target := f.job.Job.Target
	i := slices.IndexFunc(f.removed, func(t storage.Tombstone) bool { return target != "" && (target == t.Tag || target == t.OID()) })
	if i < 0 || slices.ContainsFunc(f.releases, func(r storage.Release) bool { return target == r.CommitOID }) {
		return nil
	}
	return fault.New("removed", target+" was removed here: "+f.removed[i].Reason)
}

func errFrozen(pkg, reason string) error {
	return fault.New("package_frozen",
		fmt.Sprintf("%s is under review and not synced: %s; POST /api/review/%s with {\"decision\":\"accept\"} mirrors it again", pkg, reason, pkg))
}

// A fetch is one run of fetchPackage.
type fetch struct {
	w      *Worker
	job    *job
	pkg    storage.Package
	dir    string // the worker's own files
	staged string // the child's folder, in dir

	releases []storage.Release
	removed  []storage.Tombstone
	usage    usage
	broker   *upstream.Broker // nil while nothing is fetched from a server
	segments *release.Segments
	builder  *release.Builder
	refs     ingest.Refs
	created  int
	rejected int
	patience patience
	unfit    []ingest.Unfit
	catalog  string // the catalog's updated_at when the look at upstream began
	policy   catalog.Policy
	branches []string // that are here
}

// stage makes the folders that the job and its child write to, until the stage is closed.
func (f *fetch) stage() (*blob.Stage, error) {
	stage, err := f.w.opt.Staging.New()
	if err != nil {
		return nil, fmt.Errorf("make staging folder: %w", err)
	}
	f.dir, f.staged = stage.Dir, filepath.Join(stage.Dir, "ingest")
	if err := os.Mkdir(f.staged, 0o700); err != nil {
		stage.Close()
		return nil, fmt.Errorf("make staging folder: %w", err)
	}
	return stage, nil
}

// here returns the result for a tag or commit that is here already, else nil.
// Upstream is not asked for it, so nothing is learned about upstream either.
func (f *fetch) here(ctx context.Context) (any, error) {
	target := f.job.Job.Target
	r := FetchResult{Package: f.pkg.Name, Present: f.pkg.ReleaseCount, Count: f.pkg.ReleaseCount}
	var err error
	switch {
	case target == "":
		return nil, nil
	case name.ValidOID(target):
		r.Commit = strings.ToLower(target)
		_, err = f.w.db.ReleaseByCommit(ctx, f.pkg.Name, r.Commit)
	default:
		r.Tag = target
		_, err = f.w.db.ReleaseByTag(ctx, f.pkg.Name, target)
	}
	if errors.Is(err, fault.ErrNotFound) {
		return nil, nil
	}
	return r, err
}

// load reads what the package has.
func (f *fetch) load(ctx context.Context) (err error) {
	if f.catalog, f.policy, err = f.w.db.Catalog.Listed(ctx, f.pkg.Name, f.pkg.Upstream); err != nil {
		return err
	}
	rec, _, err := f.w.db.PackageRecord(ctx, f.pkg.Name)
	if err != nil {
		return err
	}
	f.branches = slices.Sorted(maps.Keys(rec.Branches))
	if f.releases, err = f.w.db.Releases(ctx, f.pkg.Name); err != nil {
		return err
	}
	if f.removed, err = f.w.db.Tombstones(ctx, f.pkg.Name); err != nil {
		return err
	}
	rows, err := f.w.db.Segments(ctx, f.pkg.Name)
	if err != nil {
		return err
	}
	f.segments, err = release.LoadSegments(ctx, f.w.blobs, rows, gitpack.UnmarshalIndex)
	if errors.Is(err, fs.ErrNotExist) || blob.IsDamaged(err) {
		// It was to be mended before the fetch began. Without it, what is new has no place.
		return fault.New("storage_lost", "an index of the stored Git objects of "+f.pkg.Name+" is lost or damaged, and so is what it could be made again from")
	}
	return err
}

func (f *fetch) request(rejected []storage.RejectedTag) ingest.Request {
	req := ingest.Request{
		Package:  f.pkg.Name,
		Upstream: f.pkg.Upstream,
		CloneURL: f.pkg.CloneURL,
		Fixtures: cmp.Or(f.w.opt.Fixtures, f.w.opt.Builtin),
		Target:   f.job.Job.Target,
		// What went wrong with many may go well with few.
		Batch:    max(1, ingest.BatchTags>>(2*(f.job.Job.Attempts-1))),
		Last:     f.job.Job.Attempts >= f.w.opt.MaxAttempts,
		Policy:   f.policy,
		Released: map[string]string{},
		Rejected: map[string]string{},
		Dir:      f.staged,
		Limits:   f.w.opt.Limits,
	}
	for i := range f.releases {
		r := &f.releases[i]
		req.Commits = append(req.Commits, r.CommitOID)
		if r.Tag != "" {
			req.Released[r.Tag] = r.OID()
		}
	}
	for i := range f.removed { // its tags are never used again
		if t := &f.removed[i]; t.Tag != "" {
			req.Released[t.Tag] = t.OID()
		}
	}
	for _, t := range rejected {
		if t.Rules == f.w.rules && time.Now().Before(t.RetryAt) {
			req.Rejected[t.Tag] = t.OID
		}
	}
	// The other half is the catalog's.
	req.Branches = f.branches[:min(len(f.branches), ingest.MaxBranches/2)]
	return req
}

// rulesOf names what tags are judged by: the release of packbase and its limits.
func rulesOf(opt Options) string {
	b, err := json.Marshal(opt.Limits)
	if err != nil {
		panic(err) // numbers only
	}
	sum := sha256.Sum256(append(b, opt.Release...))
	return hex.EncodeToString(sum[:8])
}

// reject records a tag that the child could not stage.
func (f *fetch) reject(ctx context.Context, t storage.RejectedTag) error {
	f.rejected++
	t.Rules = f.w.rules
	// The same bytes are judged the same, so a month is for what nobody thought of.
	wait, longest := 30*24*time.Hour, 30*24*time.Hour
	if ingest.Passing(t.Code) {
		wait, longest = 15*time.Minute, 24*time.Hour
	}
	return f.w.db.RejectTag(ctx, f.job.Claim, t, wait, longest)
}

// recordMoves records released tags that upstream moved or deleted. When none is what
// it was, or what an operator accepted, this may be another repository: the
// package is frozen before anything new is taken from it. A tag that an
// operator knows to be gone speaks for neither. A local folder is the
// operator's own.
func (f *fetch) recordMoves(ctx context.Context, refs ingest.Refs) error {
	f.refs = refs
	if err := f.privatize(ctx); err != nil {
		return err
	}
	listed := slices.AppendSeq(refs.Misnamed, maps.Keys(refs.Tags))
	if err := f.w.db.ForgetRejections(ctx, f.job.Claim, listed); err != nil {
		return err
	}
	accepted, err := f.acceptedMoves(ctx)
	if err != nil {
		return err
	}
	var moves []storage.MovedTag
	same, moved, gone := 0, 0, 0
	for i := range f.releases {
		r := &f.releases[i]
		if r.Tag == "" {
			continue
		}
		now, known := refs.Tags[r.Tag], accepted[r.Tag+" "+refs.Tags[r.Tag]]
		switch {
		case now == "" && !known:
			gone++
		case now == r.OID(), now != "" && known:
			same++
		case now != "":
			moved++
		}
		if now != r.OID() {
			moves = append(moves, storage.MovedTag{Tag: r.Tag, Old: r.OID(), New: now})
		}
	}
	if len(moves) == 0 {
		return nil
	}
	if err := f.w.db.RecordMoves(ctx, f.job.Claim, moves); err != nil {
		return err
	}
	if same > 0 || moved+gone == 0 || strings.HasPrefix(f.pkg.CloneURL, name.FixtureScheme) {
		return nil
	}
	reason := fmt.Sprintf("none of the released tags is upstream any more what it was (%d moved, %d gone): this may be another repository", moved, gone)
	if err := f.w.db.Freeze(ctx, f.job.Claim, reason); err != nil {
		return err
	}
	return errFrozen(f.pkg.Name, reason)
}

// privatize makes the package private if upstream wanted credentials, before
// anything of it is published. One with releases that anybody may read is
// frozen instead: they stay as they are, and an operator decides.
func (f *fetch) privatize(ctx context.Context) error {
	switch {
	case f.broker == nil || !f.broker.Gave() || f.pkg.Private:
		return nil
	case len(f.releases)+f.created == 0:
		f.pkg.Private = true
		return f.w.db.MakePrivate(ctx, f.job.Claim)
	}
	if err := f.w.db.Freeze(ctx, f.job.Claim, storage.FrozenPrivate); err != nil {
		return err
	}
	return errFrozen(f.pkg.Name, storage.FrozenPrivate)
}

// acceptedMoves returns the moves that an operator accepted, as "tag oid".
func (f *fetch) acceptedMoves(ctx context.Context) (map[string]bool, error) {
	moves, err := f.w.db.MovedTags(ctx, f.pkg.Name)
	if err != nil {
		return nil, err
	}
	accepted := map[string]bool{}
	for _, m := range moves {
		if m.Accepted {
			accepted[m.Tag+" "+m.New] = true
		}
	}
	return accepted, nil
}

// result looks at what the package has now.
func (f *fetch) result(ctx context.Context) (FetchResult, error) {
	pkg, err := f.w.db.PackageByName(ctx, f.pkg.Name)
	if err != nil {
		return FetchResult{}, err
	}
	r := FetchResult{Package: pkg.Name, Created: f.created, Count: pkg.ReleaseCount, Present: f.pkg.ReleaseCount}
	if r.Branches, err = f.arrived(ctx); err != nil {
		return FetchResult{}, err
	}
	r.Unfit = f.unfit
	f.job.sync = &jobs.Sync{OK: true, Catalog: f.catalog, Branches: r.Branches, Listed: f.listed(r.Branches)}
	if f.job.Job.Target == "" && !slices.ContainsFunc(f.unfit, func(u ingest.Unfit) bool { return ingest.Passing(u.Code) }) {
		f.job.sync.Seen = f.w.seen(f.refs.Digest, f.policy)
	}
	switch target := f.job.Job.Target; {
	case f.refs.Commit != "":
		r.Commit, r.Branches = f.refs.Commit, nil
		// A look at one commit says nothing about the package's tags.
		if f.job.sync.Catalog = ""; len(f.refs.Branches) == 0 {
			f.job.sync = nil
		}
	case target != "":
		r.Tag = target
		if err := f.targetRejected(ctx, target); err != nil {
			return FetchResult{}, err
		}
	case pkg.LatestTag != nil:
		r.Tag = *pkg.LatestTag
	case len(r.Branches) > 0:
	case len(r.Unfit) > 0:
		return FetchResult{}, fault.New(r.Unfit[0].Code, fmt.Sprintf("the branch %q cannot be published: %s", r.Unfit[0].Branch, r.Unfit[0].Reason))
	default:
		return FetchResult{}, fault.New("no_releases",
			"none of upstream's tags can be published; /api/info/"+pkg.Name+" says why, tag by tag")
	}
	return r, nil
}

// arrived returns the branches that were wanted and whose tips are here. The
// child says which those are, so neither their number nor their names are trusted.
func (f *fetch) arrived(ctx context.Context) (map[string]string, error) {
	if n := len(f.refs.Branches); n > ingest.MaxBranches {
		return nil, fault.New("ingest_untrue", fmt.Sprintf("the process that reads upstream follows %d branches, more than %d", n, ingest.MaxBranches))
	}
	here := map[string]string{}
	for branch, commit := range f.refs.Branches {
		if err := name.ValidRef(branch); err != nil {
			return nil, fault.New("ingest_untrue", "the process that reads upstream follows a branch that is none: "+err.Error())
		}
		switch _, err := f.w.db.ReleaseByCommit(ctx, f.pkg.Name, commit); {
		case err == nil:
			here[branch] = commit
		case !errors.Is(err, fault.ErrNotFound):
			return nil, err
		}
	}
	return here, nil
}

// listed returns those of the branches that the catalog names.
func (f *fetch) listed(branches map[string]string) (names []string) {
	for branch := range branches {
		if f.policy.Branches.Match(branch) {
			names = append(names, branch)
		}
	}
	return names
}

// targetRejected returns why the one tag asked for was not published.
func (f *fetch) targetRejected(ctx context.Context, tag string) error {
	rejected, err := f.w.db.RejectedTags(ctx, f.pkg.Name)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(rejected, func(t storage.RejectedTag) bool { return t.Tag == tag })
	if i < 0 {
		return nil
	}
	return fault.New("tag_rejected", fmt.Sprintf("the tag %s cannot be published: %s", tag, rejected[i].Reason))
}
