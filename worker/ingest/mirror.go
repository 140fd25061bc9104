package ingest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

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

// A wanted is something to publish.
type wanted struct {
	Root
	tries int // how often in this run what came of it was incomplete
}

func want(tag string, oid gitpack.OID) wanted { return wanted{Root: Root{Tag: tag, OID: oid}} }

// Targeted reports whether it was asked for alone, so that its fault is the run's.
func (r *Root) Targeted() bool { return r.Tag == "" && r.Branch == "" }

// refused is the event of one that is not targeted and cannot be published.
func (r *Root) refused(e *fault.Error) Event {
	if r.Branch != "" {
		return Event{Unfit: &Unfit{Branch: r.Branch, Code: e.Code, Reason: e.Message}}
	}
	return Event{Rejected: &storage.RejectedTag{Tag: r.Tag, OID: r.OID.String(), Code: e.Code, Reason: e.Message}}
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
	m := &mirror{req: req, src: src, events: events}
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
			fmt.Sprintf("%d releases or commits would be new, and PACKBASE_MAX_RELEASES leaves room for %d", n, *req.MaxNew))
	}
	return nil
}

func chooseAll(req Request, has sourceRefs) (Refs, []wanted, error) {
	refs := Refs{Digest: has.digest, Tags: make(map[string]string, len(has.tags))}
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
			w.Branch = branch
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

// A mirror turns wanted tags into staged objects.
type mirror struct {
	req    Request
	src    source
	events *eventWriter
	staged int // numbers the staged files

	worked  bool     // upstream gave something that could be judged
	again   []wanted // tags to be asked for again, alone
	aside   []aside  // tags at fault
	ungiven []aside  // tags for which upstream answers as if it were out of order: no verdict on them
}

// ofAll reports whether code is of what one wanted object can do to all that
// are fetched with it.
func ofAll(code string) bool {
	switch code {
	case upstream.CodeNoSuchCommit, upstream.CodeRefused, upstream.CodeIncomplete, upstream.CodePackTooLarge:
		return true
	}
	return gitpack.OfPack(code)
}

// ofAnswer reports whether e is how upstream answers when it is out of order, which may be for one wanted object only.
// What it says of the asker, or how long it is to be left alone, is for all.
func ofAnswer(e *fault.Error) bool {
	switch e.Code {
	case upstream.CodeUnavailable, upstream.CodeTimeout, upstream.CodeNotFound, upstream.CodeNotGit, upstream.CodeRedirect:
		return e.RetryAfter == 0
	}
	return false
}

// Passing reports whether a tag that was rejected with that code may do better
// the next time although nothing has changed.
func Passing(code string) bool {
	return strings.HasPrefix(code, "upstream_") || code == gitpack.CodeIncomplete || code == gitpack.CodePackMalformed
}

// maxAside is how many tags of one run may be at fault for what they are
// fetched with. With more, upstream is.
const maxAside = 16

// maxUngiven is how many tags are asked for alone before upstream has given any.
const maxUngiven = 4

// check keeps the tags that can be published, and reports the others.
func (m *mirror) check(ctx context.Context, objects *gitpack.Objects, wants []wanted) ([]Root, error) {
	var ok []Root
	for i := range wants {
		w := &wants[i]
		m.events.progress(jobs.Progress{Step: "check", Done: int64(i), Total: int64(len(wants)), Unit: "tags"})
		_, err := release.Check(ctx, objects, w.Tag, w.OID, m.req.Limits.Git)
		e := AsFault(err)
		if e != nil && e.Code == gitpack.CodeIncomplete {
			// The pack may be at fault, and not the tag.
			if err := m.setAside(*w, e, true); err != nil {
				return nil, err
			}
			continue
		}
		m.worked = true
		if e != nil {
			if w.Targeted() {
				return nil, e
			}
			if err := m.events.send(w.refused(e)); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		ok = append(ok, w.Root)
	}
	return ok, nil
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
