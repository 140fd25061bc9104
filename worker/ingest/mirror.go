package ingest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/worker/upstream"
)

// BatchTags is the most tags that are fetched at once, and so the most
// releases that share one segment.
const BatchTags = 1000

// MaxBranches is how many branches of a package can be followed.
const MaxBranches = 100

// cutPause is how long upstream is left alone after it cut an answer.
const cutPause = time.Second

// A wanted is a tag to publish, or a commit without one. Of its root no more
// than the tag and what upstream's ref names is known until the objects are here.
type wanted struct {
	release.Root
	branch string // that is followed, and which this commit is the tip of
	tries  int    // how often in this run what came of it was incomplete
}

func want(tag string, oid gitpack.OID) wanted { return wanted{Root: release.Root{Tag: tag, OID: oid}} }

// targeted reports whether it was asked for alone, so that its fault is the run's.
func (w *wanted) targeted() bool { return w.Tag == "" && w.branch == "" }

// refused is the event of one that is not targeted and cannot be published.
func (w *wanted) refused(e *fault.Error) Event {
	if w.branch != "" {
		return Event{Unfit: &Unfit{Branch: w.branch, Code: e.Code, Reason: e.Message}}
	}
	return Event{Rejected: &storage.RejectedTag{Tag: w.Tag, OID: w.OID.String(), Code: e.Code, Reason: e.Message}}
}

// run mirrors what the request asks for.
func run(ctx context.Context, req Request, events *eventWriter) error {
	src, err := openSource(ctx, req, events)
	if err != nil {
		return err
	}
	defer src.close()
	has := src.refs()
	if has.empty() && len(req.Released) > 0 {
		// Nothing can be taken from it, so there is nothing to freeze for: a forge in trouble lists nothing, too, and
		// of all its packages a person would have to decide. Whatever it lists next is compared with what was mirrored.
		return fault.New("upstream_empty",
			"upstream lists no branch and no tag, although some were mirrored from it: it may be out of order, or somebody may have made it anew")
	}
	refs, wants, cerr := choose(req, has)
	// What upstream has is told also when nothing of it is wanted: released
	// tags may be gone.
	if err := events.send(Event{Refs: &refs}); err != nil {
		return err
	}
	if cerr != nil {
		return cerr
	}
	for _, r := range has.rejected {
		// What such a name names is often not told: "" is no news to a map.
		if oid, known := req.Rejected[r.Tag]; !known || oid != r.OID {
			if err := events.send(Event{Rejected: &r}); err != nil {
				return err
			}
		}
	}
	m := &mirror{req: req, src: src, events: events, total: len(wants)}
	if err := m.open(); err != nil {
		return err
	}
	defer m.close()
	if err := m.all(ctx, wants); err != nil {
		return err
	}
	if local, ok := src.(local); ok {
		return m.history(ctx, local)
	}
	return nil
}

// choose returns what upstream has and what of it is to be mirrored.
func choose(req Request, has sourceRefs) (Refs, []wanted, error) {
	refs, wants, err := chooseAll(req, has)
	if err == nil && len(wants) > 0 {
		err = req.roomFor(len(wants))
	}
	return refs, wants, err
}

// roomFor returns why n new releases are not mirrored, or nil.
func (req *Request) roomFor(n int) error {
	switch {
	case req.Refuse != nil:
		return req.Refuse
	case req.MaxNew != nil && n > *req.MaxNew:
		return fault.New("quota_releases",
			fmt.Sprintf("upstream has %d new tags, and PACKBASE_MAX_RELEASES leaves room for %d", n, *req.MaxNew))
	}
	return nil
}

func chooseAll(req Request, has sourceRefs) (Refs, []wanted, error) {
	refs := Refs{Private: has.private, Digest: has.digest, Tags: make(map[string]string, len(has.tags))}
	for tag, oid := range has.tags {
		refs.Tags[tag] = oid.String()
	}
	for _, r := range has.rejected {
		refs.Misnamed = append(refs.Misnamed, r.Tag)
	}
	if n := len(has.tags) + len(has.rejected); n > req.Limits.Tags {
		return refs, nil, fault.New("too_many_tags",
			fmt.Sprintf("upstream has %d tags; at most %d are mirrored", n, req.Limits.Tags))
	}
	isTag := req.Target != "" && !name.ValidOID(req.Target)
	if isTag && req.Released[req.Target] != "" {
		return refs, nil, nil // it is here, whatever upstream did to it
	}
	if req.Target != "" {
		one, err := target(req.Target, has, &refs)
		if err != nil || one.Tag == "" && slices.Contains(req.Commits, one.OID.String()) {
			return refs, nil, err
		}
		return refs, []wanted{one}, nil
	}
	wants := append(req.tags(has), req.follow(has, &refs)...)
	if n := len(refs.Branches); n > MaxBranches {
		return refs, nil, fault.New("too_many_branches",
			fmt.Sprintf("%d of upstream's branches are to be followed, and at most %d can be: narrow the catalog's patterns", n, MaxBranches))
	}
	if len(has.tags) == 0 && len(has.rejected) == 0 && len(refs.Branches) == 0 {
		return refs, nil, fault.New("no_tags",
			"upstream has no tags, so there is nothing to mirror; name a commit or a branch as #fragment to mirror just that")
	}
	return refs, wants, nil
}

// tags returns the new tags that the policy wants, by name.
func (req *Request) tags(has sourceRefs) (wants []wanted) {
	var all []string
	for tag := range has.tags {
		if len(req.Policy.Tags) == 0 || req.Policy.Tags.Match(tag) {
			all = append(all, tag)
		}
	}
	if most := req.Policy.Retention.Tags; most > 0 && most < len(all) {
		slices.SortFunc(all, func(a, b string) int {
			return cmp.Or(name.CompareTags(b, time.Time{}, a, time.Time{}), cmp.Compare(b, a))
		})
		all = all[:most]
	}
	slices.Sort(all)
	for _, tag := range all {
		if oid := has.tags[tag]; req.Released[tag] == "" && req.Rejected[tag] != oid.String() {
			wants = append(wants, want(tag, oid))
		}
	}
	return wants
}

// follow notes in refs where the branches are that are here or that the policy wants, and returns the tips that are not.
func (req *Request) follow(has sourceRefs, refs *Refs) (wants []wanted) {
	for _, branch := range slices.Sorted(maps.Keys(has.branches)) {
		if !req.Policy.Branches.Match(branch) && !slices.Contains(req.Branches, branch) {
			continue
		}
		tip := has.branches[branch]
		refs.addBranch(branch, tip)
		if !slices.Contains(req.Commits, tip.String()) && !slices.ContainsFunc(wants, func(w wanted) bool { return w.OID == tip }) {
			w := want("", tip)
			w.branch = branch
			wants = append(wants, w)
		}
	}
	return wants
}

func (r *Refs) addBranch(branch string, tip gitpack.OID) {
	if r.Branches == nil {
		r.Branches = map[string]string{}
	}
	r.Branches[branch] = tip.String()
}

// target finds the one tag, branch or commit that is asked for.
func target(name string, has sourceRefs, refs *Refs) (wanted, error) {
	if oid, err := gitpack.ParseOID(name); err == nil {
		refs.Commit = oid.String()
		return want("", oid), nil
	}
	if oid, ok := has.tags[name]; ok {
		return want(name, oid), nil
	}
	if oid, ok := has.branches[name]; ok {
		refs.addBranch(name, oid)
		refs.Commit = oid.String()
		return want("", oid), nil
	}
	return wanted{}, fault.New("no_such_ref",
		fmt.Sprintf("upstream has no tag or branch %q", name))
}

// A mirror turns wanted tags into staged releases.
type mirror struct {
	req    Request
	src    source
	events *eventWriter
	total  int
	done   int

	segments *release.Segments // so far
	builder  *release.Builder
	scratch  *os.File
	staged   int // numbers the staged files

	worked bool     // upstream gave something that could be judged
	again  []wanted // tags to be asked for again, alone
	aside  []aside  // tags at fault
}

func (m *mirror) open() error {
	indexes := make([]*gitpack.SegmentIndex, len(m.req.Indexes))
	for i, name := range m.req.Indexes {
		b, err := os.ReadFile(filepath.Join(m.req.Dir, name))
		if err != nil {
			return fmt.Errorf("read index: %w", err)
		}
		if indexes[i], err = gitpack.UnmarshalIndex(b); err != nil {
			return fmt.Errorf("read index %s: %v", name, err)
		}
	}
	m.segments = release.NewSegments(nil, indexes...)
	var err error
	if m.scratch, err = os.Create(filepath.Join(m.req.Dir, "chunks")); err != nil {
		return fmt.Errorf("make scratch file: %w", err)
	}
	m.builder = release.NewBuilder(m.scratch, m.req.Limits.Tarball, m.req.Limits.Git)
	return nil
}

func (m *mirror) close() { m.scratch.Close() }

// faults are the codes of what one wanted object can do to all that are fetched
// with it.
var faults = map[string]bool{
	upstream.CodeNoSuchCommit:    true,
	upstream.CodeRefused:         true,
	upstream.CodeIncomplete:      true,
	upstream.CodePackTooLarge:    true, // as gitpack.CodePackTooLarge
	gitpack.CodePackMalformed:    true,
	gitpack.CodeTooManyObjects:   true,
	gitpack.CodeObjectTooLarge:   true,
	gitpack.CodeInflatedTooLarge: true,
	gitpack.CodeDeltaTooDeep:     true,
	gitpack.CodeSHA1Collision:    true,
	gitpack.CodeIncomplete:       true,
}

// Passing reports whether a tag that was rejected with that code may do better
// the next time although nothing has changed.
func Passing(code string) bool {
	return strings.HasPrefix(code, "upstream_") || code == gitpack.CodeIncomplete || code == gitpack.CodePackMalformed
}

// maxAside is how many tags of one run may be at fault for what they are
// fetched with. With more, upstream is.
const maxAside = 16

// check keeps the tags that can be published, oldest release first, and
// reports the others.
func (m *mirror) check(ctx context.Context, objects *gitpack.Objects, wants []wanted) ([]*wanted, error) {
	var ok []*wanted
	for i := range wants {
		w := &wants[i]
		m.events.progress(jobs.Progress{Step: "check", Done: int64(i), Total: int64(len(wants)), Unit: "tags"})
		err := resolve(ctx, objects, w, m.req.Limits.Git)
		e := asError(err)
		if e != nil && e.Code == gitpack.CodeIncomplete {
			// The pack may be at fault, and not the tag.
			if err := m.setAside(*w, e, true); err != nil {
				return nil, err
			}
			continue
		}
		m.worked = true
		if e != nil {
			if w.targeted() {
				return nil, e
			}
			m.done++
			if err := m.events.send(w.refused(e)); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		ok = append(ok, w)
	}
	slices.SortFunc(ok, func(a, b *wanted) int {
		return name.CompareTags(a.Tag, a.Info.CommitterTime, b.Tag, b.Info.CommitterTime)
	})
	return ok, nil
}

// resolve finds the wanted commit and checks all that it leads to.
func resolve(ctx context.Context, objects *gitpack.Objects, w *wanted, lim gitpack.Limits) (err error) {
	if w.Root, err = release.Resolve(objects, w.Tag, w.OID, lim); err != nil {
		return err
	}
	if w.Tag == "" && w.Commit != w.OID {
		return fault.New("not_a_commit",
			fmt.Sprintf("%s is the id of a tag object; ask for the tag by its name, or for the commit %s", w.OID, w.Commit))
	}
	tree, err := objects.Files(ctx, w.Info.Tree, lim)
	if err != nil {
		return err
	}
	return objects.Fsck(w.Commit, w.Tags, tree)
}

// segment stages a segment of the objects that no earlier one holds.
func (m *mirror) segment(ctx context.Context, objects *gitpack.Objects, wants []*wanted) error {
	roots := make([]*release.Root, len(wants))
	for i, w := range wants {
		roots[i] = &w.Root
	}
	fresh, err := m.segments.Fresh(ctx, objects, roots, m.req.Limits.Git)
	if err != nil || len(fresh) == 0 {
		return err
	}
	return m.writeSegment(ctx, objects, fresh)
}

func (m *mirror) writeSegment(ctx context.Context, objects *gitpack.Objects, ids []gitpack.OID) error {
	m.events.progress(jobs.Progress{Step: "store", Total: int64(len(ids)), Unit: "objects"})
	name, file, err := m.stage(".pack")
	if err != nil {
		return err
	}
	defer file.Close()
	index, err := gitpack.WriteSegment(ctx, file, objects, ids)
	if err != nil {
		return fmt.Errorf("write segment: %w", err)
	}
	// The worker takes no file that somebody may still write to.
	if err := file.Close(); err != nil {
		return fmt.Errorf("write segment: %w", err)
	}
	raw, err := index.MarshalBinary()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(m.req.Dir, name+".index"), raw, 0o600); err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	m.segments = m.segments.With(release.Segment{}, index)
	return m.events.send(Event{Segment: &Segment{File: name, Index: name + ".index", Objects: len(ids), Size: index.Size()}})
}

// stage makes the next file of the request's folder.
func (m *mirror) stage(suffix string) (name string, file *os.File, err error) {
	m.staged++
	name = fmt.Sprintf("%06d%s", m.staged, suffix)
	file, err = os.OpenFile(filepath.Join(m.req.Dir, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", nil, fmt.Errorf("stage: %w", err)
	}
	return name, file, nil
}

// releases builds the tarballs, several at once, and reports them in order.
func (m *mirror) releases(ctx context.Context, objects *gitpack.Objects, wants []*wanted) error {
	g, ctx := errgroup.WithContext(ctx)
	// Each slot holds a release that is being built or waits for its turn.
	slots := make(chan chan Event, runtime.GOMAXPROCS(0))
	g.Go(func() error {
		defer close(slots)
		for _, w := range wants {
			name, file, err := m.stage(".tar.gz")
			if err != nil {
				return err
			}
			slot := make(chan Event, 1)
			select {
			case slots <- slot:
			case <-ctx.Done():
				file.Close()
				return ctx.Err()
			}
			g.Go(func() error {
				r, err := m.release(ctx, objects, w, name, file)
				if cerr := file.Close(); err == nil {
					err = cerr // before the worker takes it
				}
				if e := asError(err); e != nil && !w.targeted() {
					slot <- w.refused(e)
					return nil
				}
				if err != nil {
					return fmt.Errorf("build %s: %w", cmp.Or(w.Tag, w.Commit.String()), err)
				}
				slot <- Event{Release: r}
				return nil
			})
		}
		return nil
	})
	g.Go(func() error {
		for slot := range slots {
			select {
			case ev := <-slot:
				if err := m.events.send(ev); err != nil {
					return err
				}
				m.done++
				m.events.progress(jobs.Progress{Step: "build", Done: int64(m.done), Total: int64(m.total), Unit: "tags"})
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	return g.Wait()
}

// release builds one tarball into file and describes it.
func (m *mirror) release(ctx context.Context, objects *gitpack.Objects, w *wanted, name string, file *os.File) (*Release, error) {
	of := release.Manifest{Package: m.req.Package, Upstream: m.req.Upstream, CloneURL: m.req.CloneURL}
	man, err := m.builder.Build(ctx, file, objects, &w.Root, of)
	if err != nil {
		return nil, err
	}
	if err := checkManifest(man); err != nil {
		return nil, err
	}
	return &Release{Manifest: *man, File: name}, nil
}

// checkManifest refuses what no edge would take over.
func checkManifest(man *release.Manifest) error {
	const left = 4 << 10 // for what the parent adds
	raw, err := man.Encode()
	if err != nil {
		return err
	}
	if len(raw) > release.MaxManifestSize-left {
		return fault.New("manifest_too_large",
			fmt.Sprintf("what describes the release takes %d bytes, more than %d: its tag objects or submodules are too large", len(raw), release.MaxManifestSize))
	}
	return nil
}
