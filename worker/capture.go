package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/francescobianco/packbase/storage/capture"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/tree"
	"github.com/francescobianco/packbase/storage/zigpkg"
)

// CaptureResult is what a tree:capture did.
type CaptureResult struct {
	Tree     string `json:"tree"`
	Revision int    `json:"revision"`
	Nodes    int    `json:"nodes"`
	Stored   int    `json:"stored"`
	Holes    int    `json:"holes"`
}

const (
	maxChildren  = 64              // jobs that one capture has open at once
	captureEvery = 2 * time.Second // while it waits for jobs and nobody wakes it
)

// captureTree plans the next step of a capture: it walks as far as what is
// stored tells, and has each node that is missing brought by a job, in one way
// after the other. While jobs are open it comes back, and holds no worker
// meanwhile; what it did so far is in the rows, so it may begin again anywhere.
func (w *Worker) captureTree(ctx context.Context, j *job) (any, error) {
	revision, err := strconv.Atoi(j.Job.Pin)
	if err != nil {
		return nil, fmt.Errorf("capture tree %s: revision: %w", j.Job.Target, err)
	}
	c := &capturing{w: w, tree: j.Job.Target, revision: revision, known: map[string]tree.Node{}}
	if err := c.load(ctx); err != nil {
		return nil, err
	}
	content, err := w.trees.Walk(ctx, c.roots, w.deps)
	if errors.Is(err, capture.ErrTooLarge) {
		return nil, fault.New("tree_too_large", err.Error())
	}
	if err != nil {
		return nil, err
	}
	if err := c.findAbsent(ctx, content.Nodes); err != nil {
		return nil, err
	}
	for _, n := range content.Nodes {
		if err := c.plan(ctx, n); err != nil {
			return nil, err
		}
	}
	if err := c.put(ctx, content.Problems); err != nil {
		return nil, err
	}
	c.enqueue(ctx)
	result := CaptureResult{Tree: c.tree, Revision: revision, Nodes: len(content.Nodes), Stored: c.count[tree.Stored], Holes: c.count[tree.Hole]}
	j.setProgress(jobs.Progress{Step: "capture", Done: int64(result.Stored + result.Holes), Total: int64(result.Nodes), Unit: "packages"})
	if c.count[tree.Waiting] == 0 {
		return result, nil
	}
	if _, err := w.extend(ctx, j, j.getProgress()); err != nil {
		return nil, err
	}
	return nil, c.later(ctx)
}

// A capturing is one run of captureTree.
type capturing struct {
	w        *Worker
	tree     string
	revision int

	roots []zigpkg.Dependency
	known map[string]tree.Node // of the last run, by hash
	// Of stored nodes, the Git URLs that nobody could be answered for: what is stored came from elsewhere.
	absent map[string][]capture.Way

	nodes []tree.Node
	count map[string]int // of nodes, by state
	open  []uuid.UUID    // jobs that it waits for
	fresh []jobs.Job     // of them, those that the queue has to be told of
}

func (c *capturing) load(ctx context.Context) error {
	c.count = map[string]int{}
	roots, err := c.w.trees.Roots(ctx, c.tree, c.revision)
	if err != nil {
		return err
	}
	for _, root := range roots {
		man, err := zigpkg.ParseManifest([]byte(root.Text))
		if err != nil {
			return fault.New("manifest_invalid", fmt.Sprintf("%s:%v", root.File, err))
		}
		c.roots = append(c.roots, man.Dependencies...)
	}
	nodes, _, err := c.w.trees.Nodes(ctx, c.tree, c.revision)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		c.known[n.Hash] = n
	}
	return nil
}

// plan says what becomes of a node, and has it brought if it is missing.
func (c *capturing) plan(ctx context.Context, n *capture.Node) error {
	known := c.known[n.Hash]
	out := tree.Node{Hash: n.Hash, URLs: n.URLs, Parents: n.Parents, Lazy: n.Lazy, Depth: n.Depth, State: tree.Stored, Tried: known.Tried}
	ways := c.absent[n.Hash]
	if !n.Stored {
		ways = capture.Ways(n, c.w.opt.Peers)
	}
	if len(ways) > 0 {
		if err := c.bring(ctx, n, known, ways, &out); err != nil {
			return err
		}
	} else if known.Job != nil {
		out.Tried = out.Tried[:max(0, len(out.Tried)-1)] // that brought it, or something else did
	}
	c.count[out.State]++
	c.nodes = append(c.nodes, out)
	return nil
}

// findAbsent finds the Git URLs of stored nodes whose commits are not served as those of their repositories.
func (c *capturing) findAbsent(ctx context.Context, nodes []*capture.Node) error {
	type pin struct {
		hash   string
		commit tree.Commit
		way    capture.Way
	}
	var pins []pin
	var commits []tree.Commit
	for _, n := range nodes {
		if !n.Stored {
			continue
		}
		for _, raw := range n.URLs {
			d, err := name.ParseDependency(raw)
			if err != nil || !d.Git || !name.ValidOID(d.Ref) {
				continue
			}
			if up, err := name.ParseUpstream(d.Repository); err == nil {
				at := tree.Commit{Upstream: up.Canonical, OID: d.Ref}
				pins, commits = append(pins, pin{n.Hash, at, capture.Way{Kind: capture.BySnapshot, URL: d.Repository, Ref: d.Ref}}), append(commits, at)
			}
		}
	}
	mirrored, err := c.w.trees.Mirrored(ctx, commits)
	if err != nil {
		return err
	}
	c.absent = map[string][]capture.Way{}
	for _, p := range pins {
		if !mirrored[p.commit] {
			c.absent[p.hash] = append(c.absent[p.hash], p.way)
		}
	}
	return nil
}

// bring settles what was tried last, and tries the next of ways if that failed.
func (c *capturing) bring(ctx context.Context, n *capture.Node, known tree.Node, ways []capture.Way, out *tree.Node) error {
	out.State, out.Job = tree.Waiting, known.Job
	if known.Job != nil {
		open, err := c.settle(ctx, n, *known.Job, out)
		if open || err != nil {
			return err
		}
	}
	for _, way := range ways {
		if slices.ContainsFunc(out.Tried, func(t tree.Try) bool { return t.Kind == way.Kind && t.URL == way.URL && t.Ref == way.Ref }) {
			continue
		}
		if len(c.open) >= maxChildren {
			return nil // in a later run
		}
		try := tree.Try{Kind: way.Kind, URL: way.URL, Ref: way.Ref}
		job, err := c.start(ctx, n, way)
		if e := (*fault.Error)(nil); errors.As(err, &e) {
			try.Code, try.Message = e.Code, e.Message
			out.Tried = append(out.Tried, try)
			continue
		}
		if err != nil {
			return err
		}
		out.Tried, out.Job = append(out.Tried, try), &job
		c.open = append(c.open, job)
		return nil
	}
	if n.Stored {
		out.State = tree.Stored
		return nil
	}
	out.State = tree.Hole
	out.Code, out.Reason = reasonOf(out.Tried)
	return nil
}

// settle notes how a job ended that was to bring a node which is still missing.
func (c *capturing) settle(ctx context.Context, n *capture.Node, id uuid.UUID, out *tree.Node) (open bool, err error) {
	if len(out.Tried) == 0 {
		out.Job = nil
		return false, nil
	}
	job, err := c.w.db.Jobs.ByID(ctx, id)
	last := &out.Tried[len(out.Tried)-1]
	switch {
	case errors.Is(err, fault.ErrNotFound): // it ended long ago
		out.Tried = out.Tried[:len(out.Tried)-1]
	case err != nil:
		return false, err
	case job.Open():
		c.open = append(c.open, id)
		return true, nil
	case job.State == jobs.Succeeded && n.Stored && !slices.Contains(c.absent[n.Hash], capture.Way{Kind: last.Kind, URL: last.URL, Ref: last.Ref}):
		out.Tried = out.Tried[:len(out.Tried)-1] // it brought what it was to bring
	case job.State == jobs.Succeeded:
		if c.came(ctx, n, last) { // since the walk
			c.open = append(c.open, id)
			return true, nil
		}
		if n.Stored {
			last.Code, last.Message = "no_such_ref", "the repository was mirrored, and this commit is not among what is served of it"
			break
		}
		last.Code, last.Message = "hash_mismatch", fmt.Sprintf("%s is pinned, and the files of %s have another hash", n.Hash, last.Ref)
	default:
		last.Code, last.Message = job.ErrorCode, job.ErrorMessage
	}
	out.Job = nil
	var why failure
	switch {
	case last.Code == "":
	case job.Package != "":
		return false, c.hide(ctx, job.Package)
	case job.State == jobs.Failed && json.Unmarshal(job.Result, &why) == nil && why.Private:
		return false, c.w.trees.Hide(ctx, c.tree)
	}
	return false, nil
}

// hide has the tree seen by those alone who see private packages, if the package is one of which a hole now tells.
func (c *capturing) hide(ctx context.Context, pkg string) error {
	p, err := c.w.db.PackageByName(ctx, pkg)
	switch {
	case p.Private:
		return c.w.trees.Hide(ctx, c.tree)
	case errors.Is(err, fault.ErrNotFound), errors.Is(err, fault.ErrGone):
		return nil
	}
	return err
}

// came reports whether what a try was to bring is here: the files of a node, or a commit of one that is stored.
func (c *capturing) came(ctx context.Context, n *capture.Node, t *tree.Try) bool {
	if !n.Stored {
		_, err := c.w.trees.ByHash(ctx, n.Hash)
		return err == nil
	}
	up, err := name.ParseUpstream(t.URL)
	if err != nil {
		return false
	}
	at := tree.Commit{Upstream: up.Canonical, OID: t.Ref}
	mirrored, err := c.w.trees.Mirrored(ctx, []tree.Commit{at})
	return err == nil && mirrored[at]
}

// reasonOf returns why a node is a hole: what is wrong with the place that its
// manifest names, unless a hash was wrong anywhere.
func reasonOf(tried []tree.Try) (code, reason string) {
	if len(tried) == 0 {
		return "no_way", "its URL names nothing that can be fetched"
	}
	told := tried[0]
	if i := slices.IndexFunc(tried, func(t tree.Try) bool { return t.Code == "hash_mismatch" }); i >= 0 {
		told = tried[i]
	}
	reason = told.URL + ": " + told.Message
	if n := len(tried) - 1; n > 0 {
		reason += fmt.Sprintf(" (and %d other ways failed, too)", n)
	}
	return told.Code, reason
}

// start has a node brought in one way. An *fault.Error says that this way is none.
func (c *capturing) start(ctx context.Context, n *capture.Node, way capture.Way) (uuid.UUID, error) {
	if way.Kind == capture.BySnapshot {
		return c.startSnapshot(ctx, way)
	}
	at := way.URL
	if way.Kind == capture.ByPeer {
		at = strings.TrimRight(at, "/") + "/z/" + n.Hash + ".tar.gz"
	}
	id, created, err := c.w.trees.RequestArchive(ctx, at, n.Hash)
	if err != nil || !created {
		return id, err
	}
	c.fresh = append(c.fresh, jobs.Job{ID: id, Kind: jobs.FetchArchive})
	return id, nil
}

// startSnapshot fetches one commit by Git, of the package that mirrors the
// repository, or of a new one under a name that is free.
func (c *capturing) startSnapshot(ctx context.Context, way capture.Way) (uuid.UUID, error) {
	raw := way.URL
	if way.Ref != "" {
		raw += "#" + way.Ref
	}
	up, err := name.ParseUpstream(raw)
	var bad *fault.InvalidError
	if errors.As(err, &bad) {
		return uuid.Nil, fault.New("upstream_url", bad.Problem)
	}
	if err != nil {
		return uuid.Nil, err
	}
	names := up.Names()
	switch held, err := c.w.trees.PackageOf(ctx, up.Canonical); {
	case err == nil:
		names = []string{held}
	case !errors.Is(err, fault.ErrNotFound):
		return uuid.Nil, err
	}
	refused := error(fault.New("name_conflict", "no name is free for its package: mirror it under another one with packbase fetch --name"))
	for _, name := range names {
		job, created, err := c.w.db.RequestFetch(ctx, name, up)
		if errors.Is(err, fault.ErrConflict) {
			continue
		}
		if e := verdict(err); err != nil && e.Code == "removed" {
			refused = e
			continue
		}
		if err != nil || !created {
			return job.ID, err
		}
		c.fresh = append(c.fresh, job)
		return job.ID, nil
	}
	return uuid.Nil, refused
}

// put stores what the run found.
func (c *capturing) put(ctx context.Context, problems []capture.Problem) error {
	state := tree.Whole
	switch {
	case c.count[tree.Waiting] > 0:
		state = tree.Open
	case c.count[tree.Hole] > 0:
		state = tree.Holes
	}
	out := make([]tree.Problem, len(problems))
	for i, p := range problems {
		out[i] = tree.Problem(p)
	}
	return c.w.trees.Put(ctx, c.tree, c.revision, state, c.nodes, out)
}

// enqueue has the queue told of new jobs. If that fails, the reconciler does it.
func (c *capturing) enqueue(ctx context.Context) {
	for _, job := range c.fresh {
		if err := c.w.db.Jobs.Enqueue(ctx, c.w.queue, job.Kind, job.ID, false); err != nil {
			c.w.log.WarnContext(ctx, "queue not told", "job", job.ID, "err", err)
			return
		}
	}
}

// later has the capture come back: at once if a job has ended meanwhile.
func (c *capturing) later(ctx context.Context) error {
	open, err := c.w.db.Jobs.ByIDs(ctx, c.open)
	if err != nil {
		return err
	}
	if len(open) < len(c.open) || slices.ContainsFunc(open, func(j jobs.Job) bool { return !j.Open() }) {
		return &later{0}
	}
	return &later{captureEvery}
}

// wake has captures go on that waited for a job which has ended.
func (w *Worker) wake(ctx context.Context, job jobs.Job) {
	if job.Kind != jobs.FetchArchive && job.Kind != jobs.FetchPackage {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	woken, err := w.trees.Wake(ctx, job.ID)
	for _, id := range woken {
		if err == nil {
			err = w.queue.Enqueue(ctx, jobs.CaptureTree, id, false)
		}
	}
	if err != nil {
		w.log.WarnContext(ctx, "captures not woken", "job", job.ID, "err", err) // they come back by themselves
	}
}
