package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/francescobianco/packbase/api/answer"
	"github.com/francescobianco/packbase/api/route"
	"github.com/francescobianco/packbase/api/sbom"
	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/bundle"
	"github.com/francescobianco/packbase/storage/capture"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/tree"
	"github.com/francescobianco/packbase/storage/zigpkg"
)

// Limits of what is sent of a project.
const (
	maxTreeBody  = heldForClient / bodyCost // bytes of JSON: 2 MiB
	bodyCost     = 6                        // bytes that each of them takes up, until it is read and parsed
	maxManifests = 1000
)

// treeRoutes are those of trees and archives that answer more than JSON, or do something.
func (s *Server) treeRoutes(r chi.Router) {
	r.Get(route.TreeBundle, s.handle(s.getTreeBundle))
	r.Get(route.Archives, s.handle(s.getArchive))
	r.With(s.sameSite).Post(route.Bundle, s.handle(s.postBundle))
	r.With(s.sameSite).Post(route.Proofs, s.handle(s.postProofs))
	r.Group(func(r chi.Router) {
		r.Use(s.sameSite, s.authorize(access.ScopeWrite))
		r.Post(route.Trees, s.handle(s.postTree))
		r.Post(route.TreeRetry, s.handle(s.retryTree))
	})
}

// rootsOf reads the manifests of a request, and what they depend on.
func rootsOf(manifests []wire.TreeManifest) (roots []tree.Root, deps []zigpkg.Dependency, err error) {
	invalid := func(format string, args ...any) error {
		return answer.New("invalid", fmt.Sprintf(format, args...))
	}
	if n := len(manifests); n == 0 || n > maxManifests {
		return nil, nil, invalid("manifests: want the text of 1 to %d build.zig.zon, not %d", maxManifests, n)
	}
	for _, m := range manifests {
		if m.File == "" || len(m.File) > 4096 {
			return nil, nil, invalid("manifests: each has a file, its path within the project")
		}
		man, err := zigpkg.ParseManifest([]byte(m.Text))
		if err != nil {
			return nil, nil, &answer.Error{Status: http.StatusBadRequest, Code: "manifest_invalid", Message: fmt.Sprintf("%.200s:%v", m.File, err)}
		}
		text, ok := withoutUsers(m.Text, man.Dependencies)
		if !ok {
			return nil, nil, invalid("%.200s: a URL has a user or a password, which is not kept: write it without", m.File)
		}
		roots = append(roots, tree.Root{File: m.File, Text: text})
		deps = append(deps, man.Dependencies...)
	}
	return roots, deps, nil
}

// withoutUsers returns a manifest without the users and passwords that its URLs have, for they are stored nowhere; ok
// is false if it writes one in a way that hides it.
func withoutUsers(text string, deps []zigpkg.Dependency) (plain string, ok bool) {
	var pairs []string
	for _, d := range deps {
		if hasUser(d) {
			pairs = append(pairs, d.URL, withoutUser(d.URL))
		}
	}
	if len(pairs) == 0 {
		return text, true
	}
	plain = strings.NewReplacer(pairs...).Replace(text)
	man, err := zigpkg.ParseManifest([]byte(plain))
	return plain, err == nil && !slices.ContainsFunc(man.Dependencies, hasUser)
}

func hasUser(d zigpkg.Dependency) bool { return withoutUser(d.URL) != d.URL }

// withoutUser returns a URL without user and password, also one that cannot be parsed.
func withoutUser(raw string) string {
	scheme, rest, ok := strings.Cut(raw, "://")
	host := rest
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		host = rest[:i]
	}
	if i := strings.LastIndex(host, "@"); ok && i >= 0 {
		return scheme + "://" + rest[i+1:]
	}
	return raw
}

// readManifests is readJSON for what may be large: it counts among the answers of its client until free is called, or
// many clients at once would take all memory.
func (s *Server) readManifests(w http.ResponseWriter, r *http.Request, into any) (free func(), err error) {
	most := int64(maxTreeBody)
	if r.ContentLength >= 0 && r.ContentLength < most {
		most = r.ContentLength
	}
	if most <= smallAnswer {
		return func() {}, readJSONUpTo(w, r, into, maxTreeBody)
	}
	client, cost := s.clientOf(r), int(most)*bodyCost
	if !s.answers.hold(client, cost) {
		w.Header().Set("Connection", "close") // without the rest of the body
		return func() {}, errManyManifests
	}
	return sync.OnceFunc(func() { s.answers.hold(client, -cost) }), readJSONUpTo(w, r, into, maxTreeBody)
}

var errManyManifests = &answer.Error{Status: http.StatusServiceUnavailable, Code: "busy", RetryAfter: 2 * time.Second,
	Message: "too many large manifests at once: try again in a few seconds, or say how long yours are with Content-Length"}

var errManyTrees = &answer.Error{Status: http.StatusServiceUnavailable, Code: "busy", RetryAfter: 2 * time.Second,
	Message: "too many lists of large trees at once: try again in a few seconds"}

// postTree serves POST /api/trees: it has a tree captured.
func (s *Server) postTree(w http.ResponseWriter, r *http.Request) error {
	wait, err := waitOf(r, 0)
	if err != nil {
		return err
	}
	var in wire.Capture
	free, err := s.readManifests(w, r, &in)
	defer free()
	if err != nil {
		return err
	}
	if in.Manifest != "" {
		in.Manifests = append([]wire.TreeManifest{{File: zigpkg.ManifestName, Text: in.Manifest}}, in.Manifests...)
	}
	if err := name.ValidPackage(in.Name); err != nil {
		return err
	}
	if in.Release != "" {
		root, err := s.rootOf(r.Context(), in.Release)
		if err != nil {
			return err
		}
		in.Manifests = append(in.Manifests, root)
	}
	roots, _, err := rootsOf(in.Manifests)
	if err != nil {
		return err
	}
	if err := s.roomForJobs(r.Context()); err != nil {
		return err
	}
	c, err := s.trees.Begin(r.Context(), in.Name, roots, in.Private)
	if err != nil {
		return err
	}
	return s.answerCapture(w, r, c, wait)
}

// rootOf returns a manifest that depends on a release or a snapshot: PACKAGE@TAG or PACKAGE#COMMIT.
func (s *Server) rootOf(ctx context.Context, said string) (m wire.TreeManifest, err error) {
	pkg, tag, isTag := strings.Cut(said, "@")
	pkg, commit, isCommit := strings.Cut(pkg, "#")
	var rel storage.Release
	switch {
	case isTag && !isCommit:
		if err = name.ValidTag(tag); err == nil {
			rel, err = s.releases.byTag(ctx, pkg, tag)
		}
	case isCommit && !isTag && name.ValidOID(commit):
		rel, err = s.releases.byCommit(ctx, pkg, commit)
	default:
		err = fault.Invalid("release", "%q is none: want PACKAGE@TAG, or PACKAGE#COMMIT with all 40 digits", fault.Clip(said))
	}
	if err != nil {
		return m, answer.OrNotFound(err, &answer.Error{Status: http.StatusNotFound, Code: "not_found", Message: fmt.Sprintf("there is no release %.200q here", said)})
	}
	p, err := s.db.PackageByName(ctx, rel.Package)
	if err != nil {
		return m, err
	}
	hash := cmp.Or(rel.ZigHash, rel.ZigLegacyHash)
	if hash == "" || !strings.Contains(p.Upstream, "://") {
		return m, fault.Invalid("release", "%q is of a local folder, or has no Zig hash: capture its folder", fault.Clip(said))
	}
	text := fmt.Sprintf(".{ .name = %q, .version = \"0.0.0\", .paths = .{\"\"}, .dependencies = .{ .release = .{ .url = %q, .hash = %q } } }\n",
		rel.Package, "git+"+p.Upstream+"#"+rel.CommitOID, hash)
	return wire.TreeManifest{File: said, Text: text}, nil
}

// retryTree serves POST /api/trees/{name}/retry: its holes are tried again.
func (s *Server) retryTree(w http.ResponseWriter, r *http.Request) error {
	wait, err := waitOf(r, 0)
	if err != nil {
		return err
	}
	t, err := s.treeOf(r)
	if err != nil {
		return err
	}
	if err := s.roomForJobs(r.Context()); err != nil {
		return err
	}
	c, err := s.trees.Retry(r.Context(), t.Name)
	if err != nil {
		return err
	}
	return s.answerCapture(w, r, c, wait)
}

// answerCapture is answerJob for a tree. Whoever may ask for one sees its job.
func (s *Server) answerCapture(w http.ResponseWriter, r *http.Request, c tree.Capture, wait time.Duration) error {
	r = r.WithContext(access.SeePrivate(r.Context()))
	job, err := s.db.Jobs.ByID(r.Context(), c.Job)
	if err != nil {
		return err
	}
	if c.Created {
		s.enqueue(r.Context(), job)
	}
	if job, err = s.waitFor(w, r, job, wait); err != nil {
		return err
	}
	id := c.Job.String()
	switch job.State {
	case jobs.Succeeded:
		out := wire.Captured{}
		if err := json.Unmarshal(job.Result, &out); err != nil {
			return fmt.Errorf("read result of job %s: %w", id, err)
		}
		out.Status, out.JobID = "ok", id
		answer.JSON(w, http.StatusOK, out)
		return nil
	case jobs.Failed, jobs.Cancelled:
		return answer.JobError(job)
	}
	location := route.Path(route.Job, id)
	w.Header().Set("Location", location)
	answer.JSON(w, http.StatusAccepted, wire.CaptureQueued{Status: "queued", JobID: id, Location: location, Tree: c.Tree, Revision: c.Revision})
	return nil
}

// listTrees serves GET /api/trees?after=&limit=.
func (s *Server) listTrees(w http.ResponseWriter, r *http.Request) error {
	limit, err := limitOf(r, 50, 500)
	if err != nil {
		return err
	}
	all, err := s.trees.List(r.Context(), r.URL.Query().Get("after"), limit)
	if err != nil {
		return err
	}
	out := wire.Trees{Trees: make([]wire.Tree, len(all))}
	for i, t := range all {
		out.Trees[i] = wire.Tree(t)
	}
	if len(all) == limit {
		out.Next = route.Trees + "?" + url.Values{"after": {all[limit-1].Name}, "limit": {strconv.Itoa(limit)}}.Encode()
	}
	return s.sendList(w, r, out)
}

// noTreeAfter is when it is told that there is no such tree: by then one of some hundred packages has been found to be
// private for one of them.
const noTreeAfter = 20 * time.Millisecond

func (s *Server) treeOf(r *http.Request) (tree.Tree, error) {
	name := chi.URLParam(r, "name")
	none := answer.New("not_found", fmt.Sprintf("there is no tree %.100q here; /api/trees lists those that are", name))
	none.NotBefore = time.Now().Add(noTreeAfter)
	t, err := s.trees.ByName(r.Context(), name)
	return t, answer.OrNotFound(err, none)
}

// getTree serves GET /api/trees/{name}.
func (s *Server) getTree(w http.ResponseWriter, r *http.Request) error {
	raw, err := s.answers.make(r.Context(), func() (any, error) { return s.treeInfo(r) })
	return s.sendTree(w, r, raw, err)
}

// getTreeSBOM serves GET /api/trees/{name}/sbom: the tree as CycloneDX.
func (s *Server) getTreeSBOM(w http.ResponseWriter, r *http.Request) error {
	base, err := answer.BaseURL(r)
	if err != nil {
		return err
	}
	var info wire.TreeInfo
	raw, err := s.answers.write(r.Context(), func(to io.Writer) (err error) {
		if info, err = s.treeInfo(r); err != nil {
			return err
		}
		return sbom.Write(to, info, base)
	}, false)
	if err == nil {
		w.Header().Set("Content-Type", sbom.MediaType)
		w.Header().Set("Content-Disposition", `attachment; filename="`+info.Name+`.cdx.json"`)
	}
	return s.sendTree(w, r, raw, err)
}

// sendLarge sends what make writes of a tree.
func (s *Server) sendLarge(w http.ResponseWriter, r *http.Request, make func(io.Writer) error) error {
	raw, err := s.answers.write(r.Context(), make, false)
	return s.sendTree(w, r, raw, err)
}

// sendTree sends what was made of a tree, which may be some megabytes: strangers make trees as large as they like, by
// the manifests of what is captured.
func (s *Server) sendTree(w http.ResponseWriter, r *http.Request, m made, err error) error {
	if err == nil {
		err = s.answers.send(w, r, s.clientOf(r), m)
	}
	if errors.Is(err, errManyAnswers) {
		w.Header().Del("Content-Type")
		w.Header().Del("Content-Disposition")
		return errManyTrees
	}
	return err
}

// treeInfo is the tree that the request names, with all that is in it.
func (s *Server) treeInfo(r *http.Request) (out wire.TreeInfo, err error) {
	t, err := s.treeOf(r)
	if err != nil {
		return out, err
	}
	nodes, problems, err := s.trees.Nodes(r.Context(), t.Name, t.Revision)
	if err != nil {
		return out, err
	}
	roots, err := s.trees.Roots(r.Context(), t.Name, t.Revision)
	if err != nil {
		return out, err
	}
	sources, err := s.trees.Sources(r.Context(), hashesOf(nodes))
	if err != nil {
		return out, err
	}
	out = wire.TreeInfo{Tree: wire.Tree(t), Roots: make([]string, len(roots)), Packages: make([]wire.TreeNode, len(nodes)), Problems: make([]wire.TreeProblem, len(problems))}
	for i, root := range roots {
		out.Roots[i] = root.File
	}
	for i, p := range problems {
		out.Problems[i] = wire.TreeProblem(p)
	}
	for i, n := range nodes {
		out.Packages[i] = newTreeNode(n, sources)
	}
	return out, nil
}

func hashesOf(nodes []tree.Node) []string {
	hashes := make([]string, len(nodes))
	for i, n := range nodes {
		hashes[i] = n.Hash
	}
	return hashes
}

func newTreeNode(n tree.Node, sources map[string]tree.Source) wire.TreeNode {
	out := wire.TreeNode{Hash: n.Hash, URLs: n.URLs, Parents: n.Parents, Lazy: n.Lazy, Depth: n.Depth, State: n.State, Code: n.Code, Reason: n.Reason,
		UpstreamState: n.UpstreamState, UpstreamAt: n.UpstreamAt,
		Tried: make([]wire.TreeTry, len(n.Tried))}
	for i, t := range n.Tried {
		out.Tried[i] = wire.TreeTry(t)
	}
	src, ok := sources[n.Hash]
	if ok {
		out.Source = &wire.TreeSource{Kind: src.Kind, Package: src.Package, Tag: src.Tag, Commit: src.Commit, URL: src.URL,
			Name: src.Zig.Name, Version: src.Zig.Version, License: src.Zig.License, SizeBytes: src.Size, SHA256: src.Digest}
	}
	switch {
	case n.State != tree.Stored:
	case src.Damaged:
		out.State, out.Code, out.Reason = tree.Hole, "damaged", "its stored bytes are damaged or lost, and not served until they are mended: `packbase fsck` and `verify` tell more"
	case !ok:
		out.State, out.Code, out.Reason = tree.Hole, "not_stored", "it was stored when the tree was captured, and is not here: it was removed, or has not come to this edge yet"
	}
	return out
}

// getTreeBundle serves GET /api/trees/{name}/bundle?partial=1: the whole tree as one stream.
func (s *Server) getTreeBundle(w http.ResponseWriter, r *http.Request) error {
	t, err := s.treeOf(r)
	if err != nil {
		return err
	}
	roots, err := s.trees.Roots(r.Context(), t.Name, t.Revision)
	if err != nil {
		return err
	}
	known, _, err := s.trees.Nodes(r.Context(), t.Name, t.Revision)
	if err != nil {
		return err
	}
	var deps []zigpkg.Dependency
	for _, root := range roots {
		man, err := zigpkg.ParseManifest([]byte(root.Text))
		if err != nil {
			return fmt.Errorf("manifest %s of tree %s: %w", root.File, t.Name, err)
		}
		deps = append(deps, man.Dependencies...)
	}
	m, digests, private, err := s.contentOf(r.Context(), deps, known)
	if err != nil {
		return err
	}
	return s.serveBundle(w, r, m, digests, private, r.URL.Query().Get("partial") != "")
}

// postBundle serves POST /api/bundle: what manifests lead to, as one stream.
func (s *Server) postBundle(w http.ResponseWriter, r *http.Request) error {
	var in wire.WantBundle
	free, err := s.readManifests(w, r, &in)
	defer free()
	if err != nil {
		return err
	}
	_, deps, err := rootsOf(in.Manifests)
	if err != nil {
		return err
	}
	m, digests, private, err := s.contentOf(r.Context(), deps, nil)
	if err != nil {
		return err
	}
	in.Manifests, deps = nil, nil
	free() // the answer may take hours
	return s.serveBundle(w, r, m, digests, private, in.Partial)
}

// serveBundle answers with a bundle, or with its holes.
func (s *Server) serveBundle(w http.ResponseWriter, r *http.Request, m bundle.Manifest, digests map[string]string, private, partial bool) error {
	if n := weightOf(m); n > smallAnswer {
		client := s.clientOf(r)
		if !s.answers.hold(client, n) {
			return errManyTrees
		}
		defer s.answers.hold(client, -n)
	}
	if !partial && slices.ContainsFunc(m.Holes, func(h bundle.Hole) bool { return !h.Lazy }) {
		return writeHoles(w, r, m.Holes)
	}
	if err := s.promised.Refuse(r.Context(), slices.Collect(maps.Values(digests))); err != nil {
		return err
	}
	size, err := bundle.Size(m)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "application/x-tar")
	h.Set("Content-Length", strconv.FormatInt(size, 10))
	h.Set("Cache-Control", "no-store")
	if private {
		h.Set("Cache-Control", "private, no-store")
	}
	if r.Method == http.MethodHead {
		return nil
	}
	err = bundle.Write(w, m, func(p bundle.Package) (io.ReadCloser, error) { return s.promised.Stream(r.Context(), digests[p.Hash]) })
	if err != nil {
		if r.Context().Err() == nil {
			s.log.ErrorContext(r.Context(), "bundle broken off", "err", err)
		}
		panic(http.ErrAbortHandler) // what is cut must not look whole
	}
	return nil
}

// contentOf walks from deps as far as what is stored leads. known are nodes of a capture, for the reasons of holes.
func (s *Server) contentOf(ctx context.Context, deps []zigpkg.Dependency, known []tree.Node) (m bundle.Manifest, digests map[string]string, private bool, err error) {
	content, err := s.trees.Walk(ctx, deps, s.deps)
	if errors.Is(err, capture.ErrTooLarge) {
		return m, nil, false, &answer.Error{Status: http.StatusUnprocessableEntity, Code: "tree_too_large", Message: err.Error()}
	}
	if err != nil {
		return m, nil, false, err
	}
	reasons := map[string]tree.Node{}
	for _, n := range known {
		reasons[n.Hash] = n
	}
	digests = map[string]string{}
	place := map[string]int{} // of a package in m, by digest
	unusable, required := capture.Unusable(content.Nodes), capture.Required(content.Nodes)
	for _, n := range content.Nodes {
		src, ok := content.Sources[n.Hash]
		switch {
		case !ok:
			h := holeOf(n, reasons)
			h.Lazy = !required[n.Hash]
			m.Holes = append(m.Holes, h)
			continue
		case unusable[n.Hash]:
			m.Holes = append(m.Holes, bundle.Hole{Hash: n.Hash, URLs: n.URLs, Lazy: true, Code: "incomplete", Reason: "it is lazy, and what it needs is missing: Zig would look into it, and fail"})
			continue
		}
		private = private || src.Private
		if i, ok := place[src.Digest]; ok {
			m.Packages[i].Aliases = append(m.Packages[i].Aliases, n.Hash)
			m.Packages[i].URLs = merge(m.Packages[i].URLs, n.URLs)
			continue
		}
		place[src.Digest], digests[n.Hash] = len(m.Packages), src.Digest
		m.Packages = append(m.Packages, bundle.Package{Hash: n.Hash, Name: src.Zig.Name, Version: src.Zig.Version, URLs: slices.Clone(n.URLs), SHA256: src.Digest, Size: src.Size})
	}
	for _, p := range content.Problems {
		m.Holes = append(m.Holes, bundle.Hole{Code: "no_hash", Reason: fmt.Sprintf("the dependency %q: %s", p.Name, p.Reason)})
	}
	s.addProofs(ctx, &m)
	return m, digests, private, nil
}

// addProofs puts what the log says of packages beside them. A log that cannot be read keeps nobody from what he needs.
func (s *Server) addProofs(ctx context.Context, m *bundle.Manifest) {
	hashes := make([]string, len(m.Packages))
	for i, p := range m.Packages {
		hashes[i] = p.Hash
	}
	checkpoint, said, err := s.ledger.Proofs(ctx, hashes)
	if err != nil {
		s.log.ErrorContext(ctx, "bundle without proofs", "err", err)
		return
	}
	m.Checkpoint = checkpoint
	for i, p := range m.Packages {
		m.Packages[i].Proof, m.Packages[i].Later = said[p.Hash].Proof, said[p.Hash].Later
	}
}

// weightOf is about what a list of packages and holes takes up until a client has read it, in bytes.
func weightOf(m bundle.Manifest) (n int) {
	const each = 512
	n = each * (len(m.Packages) + len(m.Holes))
	for _, p := range m.Packages {
		n += len(strings.Join(p.URLs, "")) + len(strings.Join(p.Aliases, "")) + len(p.Proof) + len(strings.Join(p.Later, ""))
	}
	for _, h := range m.Holes {
		n += len(strings.Join(h.URLs, "")) + len(h.Reason)
	}
	return n
}

func merge(urls, more []string) []string {
	for _, u := range more {
		if !slices.Contains(urls, u) {
			urls = append(urls, u)
		}
	}
	return urls
}

func holeOf(n *capture.Node, reasons map[string]tree.Node) bundle.Hole {
	h := bundle.Hole{Hash: n.Hash, URLs: n.URLs, Code: "not_stored", Reason: "it is not stored here; `packbase capture` brings what a project needs"}
	switch known := reasons[n.Hash]; known.State {
	case tree.Hole:
		h.Code, h.Reason = known.Code, known.Reason
	case tree.Waiting:
		h.Code, h.Reason = "waiting", "it is being fetched; try again when the capture has ended"
	}
	return h
}

// writeHoles answers that something of a tree is missing: all of it, by name.
func writeHoles(w http.ResponseWriter, r *http.Request, holes []bundle.Hole) error {
	e := &answer.Error{Status: http.StatusConflict, Code: "holes",
		Message: fmt.Sprintf("%d packages of the tree are not stored here; `packbase capture` brings them, and says why if it cannot", len(holes))}
	out := wire.Holes{Error: wire.Error{Status: "error", Code: e.Code, Message: e.Message, RequestID: middleware.GetReqID(r.Context())}, Holes: make([]wire.Hole, len(holes))}
	for i, h := range holes {
		out.Holes[i] = wire.Hole(h)
		if h.URLs == nil {
			out.Holes[i].URLs = []string{}
		}
	}
	w.Header().Set("X-Packbase-Error", e.Code)
	answer.JSON(w, e.Status, out)
	return nil
}
