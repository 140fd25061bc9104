package api

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/go-chi/chi/v5"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/klauspost/compress/gzip"
	"golang.org/x/sync/singleflight"

	"github.com/francescobianco/packbase/api/answer"
	"github.com/francescobianco/packbase/api/directory"
	"github.com/francescobianco/packbase/api/proxy"
	"github.com/francescobianco/packbase/api/smarthttp"
	"github.com/francescobianco/packbase/api/stored"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/archive"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/tree"
)

// A mirror answers by the URLs that upstreams have. It is what the proxy serves from.
type mirror struct {
	*Server
	pulls *pulls

	archives  *lru.Cache[string, cachedArchive] // by URL
	converted *lru.Cache[string, bool]          // see isConverted; by the tarball's digest
	reading   singleflight.Group
	turns     chan struct{} // of those who read whole tarballs
}

type cachedArchive struct {
	tree.Archive
	epoch int64
}

const (
	maxCachedArchives    = 8192
	maxCachedConversions = 8192
	readers              = 2 // at once
)

func newProxy(s *Server) *proxy.Proxy {
	converted, _ := lru.New[string, bool](maxCachedConversions) // the error is about sizes below one
	archives, _ := lru.New[string, cachedArchive](maxCachedArchives)
	m := &mirror{Server: s, pulls: newPulls(), archives: archives, converted: converted, turns: make(chan struct{}, readers)}
	return proxy.New(m, proxy.Options{
		Own: proxy.Own(s.opt.Names, func(host string) bool {
			return slices.Contains(name.Forges, host) || slices.Contains(s.opt.Pull, host)
		}),
		Client: s.readerOf,
		Fail: func(w http.ResponseWriter, r *http.Request, err error) {
			s.handle(func(http.ResponseWriter, *http.Request) error { return err })(w, r)
		},
	})
}

// readerOf is clientOf, apart for those with a token: what they are refused may be private, and others may have their address.
func (s *Server) readerOf(r *http.Request) string {
	if access.SeesPrivate(r.Context()) {
		return s.clientOf(r) + " with a token"
	}
	return s.clientOf(r)
}

// getWhy serves GET /why: what the client was refused lately, and why. Zig shows next to nothing of that.
func (s *Server) getWhy(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	all := s.proxy.Why(r)
	if len(all) == 0 {
		all = []string{"Nothing that you asked for by the URL of another host was refused lately."}
	}
	_, _ = io.WriteString(w, strings.Join(all, "\n")+"\n") // the client may have gone
	return nil
}

// loggedPath is the path of a request as logs have it: with the host that it is meant for, without the password that
// a prefix URL may have.
func (s *Server) loggedPath(r *http.Request) string {
	if s.proxy.Foreign(r) {
		return "//" + r.Host + r.URL.Path
	}
	if !strings.HasPrefix(r.URL.Path, "/u/") {
		return r.URL.Path
	}
	parts := strings.SplitN(r.URL.Path, "/", 5) // "", "u", scheme, host, path
	if len(parts) > 3 {
		parts[3] = parts[3][strings.LastIndex(parts[3], "@")+1:]
	}
	return strings.Join(parts, "/")
}

// refusal takes what is not to be had for words that Zig can show.
func refusal(err error) error {
	var refused *proxy.Refusal
	if err == nil || errors.Is(err, proxy.ErrMissing) || errors.As(err, &refused) {
		return err
	}
	var git *smarthttp.Error
	if errors.As(err, &git) && git.Status < http.StatusInternalServerError {
		return &proxy.Refusal{Status: git.Status, Reason: git.Message}
	}
	if e := answer.FromError(err); e.Status < http.StatusInternalServerError {
		return &proxy.Refusal{Status: e.Status, Reason: e.Message}
	}
	return err
}

// counted has the request counted as one of the proxy's.
func counted(r *http.Request) {
	if route := chi.RouteContext(r.Context()); route != nil {
		route.RoutePatterns = []string{"/u/*"}
	}
}

// bound returns the package that is bound to a repository, or ErrMissing.
func (m *mirror) bound(ctx context.Context, repository string) (*directory.Listing, error) {
	up, err := name.ParseUpstream(repository)
	if err != nil {
		return nil, proxy.ErrMissing // no package can be
	}
	v, err := m.directory.Last(ctx)
	if err != nil && v.Upstream == nil {
		return nil, err
	}
	pkg := v.Upstream[up.Canonical]
	if pkg == nil {
		return nil, proxy.ErrMissing
	}
	if pkg.State == storage.Removed {
		return nil, &fault.GoneError{What: repository, Reason: pkg.StateReason, At: pkg.UpdatedAt}
	}
	return pkg, nil
}

// ServeArchive implements proxy.Store.
func (m *mirror) ServeArchive(w http.ResponseWriter, r *http.Request, d name.Dependency) error {
	counted(r)
	err := m.serveStored(w, r, d.URL)
	if errors.Is(err, fault.ErrNotFound) {
		err = m.serveSnapshot(w, r, d)
	}
	if errors.Is(err, proxy.ErrMissing) && proxy.IsZig(r) {
		err = m.serveDeclared(w, r, d.URL)
	}
	return refusal(err)
}

// serveDeclared answers with what a capture found elsewhere for a URL: to Zig the files of the hash that is pinned for
// it are the same, whoever had them.
func (m *mirror) serveDeclared(w http.ResponseWriter, r *http.Request, at string) error {
	ctx, cancel := context.WithTimeout(r.Context(), findTimeout)
	defer cancel()
	src, err := m.trees.Declared(ctx, at)
	if errors.Is(err, fault.ErrNotFound) {
		return proxy.ErrMissing
	}
	if err != nil {
		return err
	}
	forZig(w)
	w.Header().Set("Cache-Control", stored.Checked(src.Private)) // tomorrow another hash may be pinned
	return m.promised.Serve(w, r, sourceFile(src))
}

// forZig tells caches that others than Zig are answered something else.
func forZig(w http.ResponseWriter) { w.Header().Set("Vary", "User-Agent") }

// serveStored answers with what a URL answered when it was asked first: Zig with a tar.gz, others byte for byte.
func (m *mirror) serveStored(w http.ResponseWriter, r *http.Request, at string) error {
	a, err := m.archive(r.Context(), at)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", stored.Cacheable(a.Private))
	if a.Digest != a.TarballDigest {
		forZig(w)
	}
	f := stored.File{Digest: a.TarballDigest, Size: a.TarballSize, At: a.CreatedAt, ContentType: "application/gzip"}
	if !proxy.IsZig(r) {
		f.Digest, f.Size = a.Digest, a.Size
		if a.Format != string(archive.TarGz) { // else upstream may have called it a tar, and its gzip an encoding
			f.ContentType = a.ContentType
		}
		if a.Disposition != "" {
			w.Header().Set("Content-Disposition", a.Disposition)
		}
	}
	return m.promised.Serve(w, r, f)
}

// archive returns what a URL answered first, from memory if it was asked for before: archives never change. It returns
// ErrNotFound if there is none, a *GoneError if the same files were removed as a release, and are one nowhere else.
func (m *mirror) archive(ctx context.Context, at string) (tree.Archive, error) {
	epoch := m.epoch.Now(ctx)
	if a, ok := m.archives.Get(at); ok && a.epoch == epoch && (!a.Private || access.SeesPrivate(ctx)) {
		return a.Archive, nil
	}
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	a, err := m.trees.ByURL(ctx, at)
	if err != nil {
		return a, err
	}
	if _, err := m.releases.byZigHash(ctx, a.ZigLegacyHash); err != nil && !errors.Is(err, fault.ErrNotFound) {
		return a, err
	}
	a.Zig = release.Zig{} // the largest part, and nobody needs it
	m.archives.Add(at, cachedArchive{a, epoch})
	return a, nil
}

// serveSnapshot answers for what a forge makes of a commit or a tag with the release or snapshot of that: to Zig both
// are the same files.
func (m *mirror) serveSnapshot(w http.ResponseWriter, r *http.Request, d name.Dependency) error {
	if d.Snapshot == "" || !proxy.IsZig(r) && !isTarGz(d.URL) {
		return proxy.ErrMissing
	}
	ctx := r.Context()
	pkg, err := m.bound(ctx, d.Repository)
	if err != nil {
		return err
	}
	rel, moves, err := m.snapshot(ctx, pkg.Name, d.Snapshot)
	if errors.Is(err, fault.ErrNotFound) {
		return proxy.ErrMissing
	}
	if err != nil {
		return err
	}
	converted, err := m.isConverted(ctx, rel)
	if err != nil {
		return err
	}
	if converted {
		return proxy.ErrMissing
	}
	if !isTarGz(d.URL) {
		forZig(w)
	}
	w.Header().Set("X-Packbase-Commit", rel.CommitOID)
	w.Header().Set("Cache-Control", stored.Cacheable(rel.Private))
	if moves {
		w.Header().Set("Cache-Control", stored.Checked(rel.Private))
	}
	return m.promised.Serve(w, r, stored.TarballOf(&rel))
}

// isTarGz tells whether an archive's URL promises what our tarballs are.
func isTarGz(raw string) bool {
	u, err := url.Parse(raw)
	return err == nil && (strings.HasSuffix(u.Path, ".tar.gz") || strings.HasSuffix(u.Path, ".tgz") || strings.Contains(u.Path, "tar.gz/"))
}

// shortest is how many digits of a commit forges take for it.
const shortest = 7

// snapshot returns the release or snapshot that a forge would mean by ref: a commit, a tag, a branch, or the beginning
// of a commit. moves says that it may be another one tomorrow. It returns ErrNotFound if there is none.
func (m *mirror) snapshot(ctx context.Context, pkg, ref string) (rel storage.Release, moves bool, err error) {
	if name.ValidOID(ref) {
		rel, err = m.releases.byCommit(ctx, pkg, ref)
		return rel, false, err
	}
	if name.ValidTag(ref) != nil {
		return rel, false, fault.ErrNotFound
	}
	if rel, err = m.releases.byTag(ctx, pkg, ref); !errors.Is(err, fault.ErrNotFound) {
		return rel, false, err
	}
	repo, err := m.git.Repository(ctx, pkg)
	if isEmpty(err) {
		err = fault.ErrNotFound
	}
	if err != nil {
		return rel, false, err
	}
	commit, ok := resolveRef(repo, ref)
	if !ok {
		return rel, false, fault.ErrNotFound
	}
	rel, err = m.releases.byCommit(ctx, pkg, commit.String())
	return rel, true, err
}

// resolveRef finds the commit that a branch, a tag or the beginning of a commit names; ok is false if there is none, or
// more than one begins so.
func resolveRef(repo *smarthttp.Repository, ref string) (commit gitpack.OID, ok bool) {
	short := strings.ToLower(ref)
	begin := func(id gitpack.OID) bool { return len(short) >= shortest && strings.HasPrefix(id.String(), short) }
	known := slices.Clone(repo.Snapshots)
	for _, r := range repo.Refs {
		id := r.Commit()
		if r.Name == "refs/heads/"+ref || r.Name == "refs/tags/"+ref {
			return id, true
		}
		known = append(known, id)
	}
	for _, id := range known {
		if !begin(id) {
			continue
		}
		if ok && id != commit {
			return gitpack.OID{}, false
		}
		commit, ok = id, true
	}
	return commit, ok
}

// ServeGit implements proxy.Store.
func (m *mirror) ServeGit(w http.ResponseWriter, r *http.Request, d name.Dependency, service string) error {
	counted(r)
	return refusal(m.serveGit(w, r, d, service))
}

func (m *mirror) serveGit(w http.ResponseWriter, r *http.Request, d name.Dependency, service string) error {
	pullable := m.mayPull(r, d)
	pkg, err := m.bound(r.Context(), d.Repository)
	var repo *smarthttp.Repository
	if err == nil {
		repo, err = m.git.Repository(r.Context(), pkg.Name)
	}
	if pullable && (isEmpty(err) || errors.Is(err, proxy.ErrMissing)) {
		if service == proxy.InfoRefs && m.git.Advertise(w, r) {
			return nil // it will say which commit it wants
		}
		return proxy.ErrMissing
	}
	switch {
	case err != nil:
		return err
	case service == proxy.InfoRefs:
		m.git.InfoRefs(w, r, pkg.Name)
	case pullable && !has(repo, d.Ref):
		return proxy.ErrMissing
	default:
		m.git.UploadPack(w, r, pkg.Name)
	}
	return nil
}

// isEmpty tells whether err says that a package has no releases yet.
func isEmpty(err error) bool {
	var e *smarthttp.Error
	return errors.As(err, &e) && e.Code == "no_releases"
}

// has tells whether a client finds what it asks for, or is told that it was removed.
func has(repo *smarthttp.Repository, ref string) bool {
	if ref == "" || name.ValidTag(ref) != nil || ref == "main" {
		return true
	}
	id, err := gitpack.ParseOID(ref)
	if err != nil {
		return slices.ContainsFunc(repo.Refs, func(r smarthttp.Ref) bool { return r.Name == "refs/tags/"+ref || r.Name == "refs/heads/"+ref })
	}
	_, removed := repo.Removed[id]
	return removed || repo.Head == id || slices.Contains(repo.Snapshots, id) ||
		slices.ContainsFunc(repo.Refs, func(r smarthttp.Ref) bool { return r.OID == id || r.Peeled == id })
}

// isConverted tells whether a forge's archive of a release may have other files than its tree: some are left out or
// changed, as attributes say. gitattributes(5).
func (m *mirror) isConverted(ctx context.Context, rel storage.Release) (bool, error) {
	if known, ok := m.converted.Get(rel.Digest); ok {
		return known, nil
	}
	// Others wait for this: it does not end with a client.
	found, err, _ := m.reading.Do(rel.Digest, func() (any, error) {
		m.turns <- struct{}{}
		defer func() { <-m.turns }()
		return m.readAttributes(context.WithoutCancel(ctx), rel.Digest)
	})
	if err != nil {
		return false, fmt.Errorf("read attributes of %s@%s: %w", rel.Package, rel.Tag, err)
	}
	m.converted.Add(rel.Digest, found.(bool))
	return found.(bool), nil
}

// maxAttributes is how much of one .gitattributes is read, in bytes. What has more is taken for one that converts.
const maxAttributes = 1 << 20

func (m *mirror) readAttributes(ctx context.Context, digest string) (bool, error) {
	body, err := m.promised.Stream(ctx, digest)
	if err != nil {
		return false, err
	}
	defer body.Close()
	z, err := gzip.NewReader(body)
	if err != nil {
		return false, err
	}
	defer z.Close()
	for t := tar.NewReader(z); ; {
		h, err := t.Next()
		if err == io.EOF {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if path.Base(h.Name) != ".gitattributes" {
			continue
		}
		text, err := io.ReadAll(io.LimitReader(t, maxAttributes))
		if err != nil {
			return false, err
		}
		if len(text) == maxAttributes || convert(string(text)) {
			return true, nil
		}
	}
}

// convert tells whether attributes change what is in an archive. Macros are spelled out somewhere, too.
func convert(attributes string) bool {
	for word := range strings.FieldsSeq(attributes) {
		key, value, _ := strings.Cut(strings.TrimLeft(word, "-!"), "=")
		switch key {
		case "export-ignore", "export-subst", "ident", "filter", "working-tree-encoding":
			return true
		case "eol":
			if value != "lf" {
				return true
			}
		}
	}
	return false
}

// why returns where a client learns what it was refused.
func (m *mirror) why(r *http.Request) string {
	host := r.Host
	if addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && m.proxy.Foreign(r) {
		host = addr.String()
	}
	if len(m.opt.Names) > 0 {
		host = m.opt.Names[0]
	}
	return "http://" + host + "/why"
}
