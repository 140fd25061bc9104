// Package git is the Git interface: the smart protocol's repositories from rows
// and blobs, and the files of the dumb protocol. It needs neither upstream nor
// Git.
package git

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/francescobianco/packbase/api/answer"
	"github.com/francescobianco/packbase/api/smarthttp"
	"github.com/francescobianco/packbase/api/stored"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/pg"
	"github.com/francescobianco/packbase/storage/release"
)

// Options are a Server's settings.
type Options struct {
	Release string                     // of packbase, for clients to see
	Client  func(*http.Request) string // who shares turns with whom; nil if all do
}

// A Server is the Git interface: read only, from rows and blobs.
type Server struct {
	*store
	*smarthttp.Handler
	log *slog.Logger
}

// New returns the Git interface to what is published.
func New(db *storage.DB, blobs *stored.Blobs, e *stored.Epoch, rows *stored.Rows, opt Options, log *slog.Logger) *Server {
	store := newStore(db, blobs, e, rows)
	smart := smarthttp.New(store, smarthttp.Options{Agent: "packbase/" + opt.Release, Window: blobs.Window, Client: opt.Client}, log)
	return &Server{store: store, Handler: smart, log: log}
}

// Handler returns the Git interface alone, to probe with in a process that
// serves nobody.
func Handler(db *storage.DB, blobs blob.Store, release string) http.Handler {
	log := slog.New(slog.DiscardHandler)
	r := chi.NewRouter()
	New(db, stored.New(db, blobs, log), stored.NewEpoch(db), stored.NewRows(db), Options{Release: release}, log).Route(r)
	return r
}

// Route adds the paths of all repositories to r.
func (g *Server) Route(r chi.Router) {
	for _, prefix := range []string{"/git/{repo}", "/{repo}"} {
		r.Get(prefix+"/info/refs", g.infoRefs)
		r.Post(prefix+"/git-upload-pack", g.uploadPack)
		r.Get(prefix+"/HEAD", answer.Handler(g.log, g.dumbHead))
		r.Get(prefix+"/objects/*", answer.Handler(g.log, g.dumbObject))
		r.HandleFunc(prefix+"/git-receive-pack", answer.Handler(g.log, refuseReceivePack))
	}
}

// infoRefs serves GET /{repo}/info/refs and /git/{repo}/info/refs.
func (g *Server) infoRefs(w http.ResponseWriter, r *http.Request) {
	if r.URL.RawQuery == "" {
		answer.Handler(g.log, g.dumbInfoRefs)(w, r)
		return
	}
	g.InfoRefs(w, r, repoName(r))
}

// uploadPack serves POST /{repo}/git-upload-pack and /git/{repo}/git-upload-pack.
func (g *Server) uploadPack(w http.ResponseWriter, r *http.Request) {
	g.UploadPack(w, r, repoName(r))
}

// repoName cuts ".git", which a route cannot: a parameter ends at the first
// byte that follows it in the pattern.
func repoName(r *http.Request) string {
	return strings.TrimSuffix(chi.URLParam(r, "repo"), ".git")
}

// refuseReceivePack answers every push, whatever its method.
func refuseReceivePack(http.ResponseWriter, *http.Request) error {
	return &answer.Error{Status: http.StatusForbidden, Code: "read_only", Message: "packages are mirrored, not pushed"}
}

// A store is what the Git interface reads: rows and blobs.
//
// Repositories are kept in memory under their package's revision, which is asked for when anything
// was committed, and all that a request asks of Postgres is whether anything was; when it is away, a repository is
// served as it was. Packs never change.
type store struct {
	db    *storage.DB
	blobs *stored.Blobs
	epoch *stored.Epoch
	rows  *stored.Rows
	repos *lru.Cache[string, *repository] // by name in lower case
	packs *lru.Cache[packKey, gitpack.Stored]
	away  atomic.Int64 // until when, in Unix nanoseconds, Postgres is taken to be away
}

// revisionTimeout is how long Postgres may take to tell the revision of a
// repository that is in memory.
const revisionTimeout = 2 * time.Second

// awayFor is for how long Postgres is not asked again for what is new in a
// repository that is in memory, after it did not answer.
const awayFor = 5 * time.Second

// What is kept in memory: repositories, and the packs of so many releases, each
// under the ids of its commit and its tag object.
const (
	MaxCachedRepositories = 256
	RoomForReleases       = 8192
	maxCachedPacks        = 2 * RoomForReleases
)

// A packKey names what was found under an id.
type packKey struct {
	epoch int64
	pkg   string
	id    gitpack.OID
}

// A repository is what smarthttp serves, as of a revision of the package.
type repository struct {
	smarthttp.Repository
	revision int64
	asOf     atomic.Pointer[string] // the version of all rows that it was last compared with
	epoch    int64
	private  bool
}

func newStore(db *storage.DB, blobs *stored.Blobs, e *stored.Epoch, rows *stored.Rows) *store {
	// The error is about sizes below one.
	repos, _ := lru.New[string, *repository](MaxCachedRepositories)
	packs, _ := lru.New[packKey, gitpack.Stored](maxCachedPacks)
	return &store{db: db, blobs: blobs, epoch: e, rows: rows, repos: repos, packs: packs}
}

// Repository implements smarthttp.Store.
func (g *store) Repository(ctx context.Context, pkg string) (*smarthttp.Repository, error) {
	if name.ValidPackage(pkg) != nil {
		return nil, g.none(ctx, pkg)
	}
	cached, ok := g.repos.Get(strings.ToLower(pkg))
	epoch := g.epoch.Now(ctx)
	ok = ok && cached.epoch == epoch && (!cached.private || access.SeesPrivate(ctx))
	if !ok {
		cached = nil
	}
	if ok && time.Now().UnixNano() < g.away.Load() {
		return &cached.Repository, nil
	}
	repo, err := g.current(ctx, pkg, cached)
	switch {
	case err == nil && repo != cached:
		repo.epoch = epoch
		g.repos.Add(strings.ToLower(pkg), repo)
		return &repo.Repository, nil
	case err == nil:
		return &repo.Repository, nil
	case errors.Is(err, fault.ErrNotFound):
		return nil, g.none(ctx, pkg)
	case ok && ctx.Err() == nil && (pg.IsAway(err) || errors.Is(err, context.DeadlineExceeded)):
		g.away.Store(time.Now().Add(awayFor).UnixNano())
		return &cached.Repository, nil
	}
	return nil, gitError(err)
}

// none answers for a package that is not there, or that the reader may not
// see, which is told in the same words. Where there are private packages, Git
// is asked for a token: without that it would not send one.
func (g *store) none(ctx context.Context, pkg string) *smarthttp.Error {
	e := &smarthttp.Error{Status: http.StatusNotFound, Code: "not_found",
		Message: fmt.Sprintf("there is no package %q here; POST /api/fetch with its upstream's URL mirrors one", answer.Cut(pkg, name.MaxPackageName))}
	if access.SeesPrivate(ctx) {
		return e
	}
	if has, err := g.db.Access.HasPrivate(ctx); has || err != nil {
		e.Status, e.Code = http.StatusUnauthorized, "unauthorized"
		e.Message = fmt.Sprintf("there is no package %q here for those without a token; send one as the password", answer.Cut(pkg, name.MaxPackageName))
	}
	return e
}

// current returns the repository as it is now: kept, if that is up to date.
// kept may be nil.
func (g *store) current(ctx context.Context, name string, cached *repository) (*repository, error) {
	short, cancel := ctx, func() {}
	if cached != nil {
		short, cancel = context.WithTimeout(ctx, revisionTimeout)
	}
	defer cancel()
	version, err := g.rows.Version(short)
	if err != nil {
		return nil, err
	}
	if cached != nil && version != "" && *cached.asOf.Load() == version {
		return cached, nil
	}
	pkg, err := g.db.PackageByName(short, name)
	if err != nil {
		return nil, err
	}
	if cached == nil || cached.revision != pkg.Revision {
		cached, err = g.load(ctx, pkg.Name)
		if err != nil {
			return nil, err
		}
	}
	cached.asOf.Store(&version)
	return cached, nil
}

// Warm keeps in memory what it takes to serve the releases of pkg.
func (g *store) Warm(ctx context.Context, pkg string, releases []storage.Release) error {
	repo, err := g.Repository(ctx, pkg)
	if err != nil {
		return err
	}
	ids := make([]gitpack.OID, 0, len(releases))
	for i := range releases {
		id, err := gitpack.ParseOID(releases[i].OID())
		if err != nil {
			return err
		}
		ids = append(ids, id)
	}
	_, err = g.Packs(ctx, repo, ids)
	return err
}

// gitError lets the Git interface answer with the words of the API.
func gitError(err error) error {
	var own *smarthttp.Error
	if errors.As(err, &own) {
		return err
	}
	e := answer.FromError(err)
	if e.Code == "internal" {
		return err
	}
	return &smarthttp.Error{Status: e.Status, Code: e.Code, Message: e.Message, RetryAfter: e.RetryAfter}
}

func (g *store) load(ctx context.Context, name string) (*repository, error) {
	now, err := g.db.Moment(ctx, name)
	if err != nil {
		return nil, err
	}
	pkg := now.Package
	if len(now.Releases) == 0 {
		return nil, errNoReleases(pkg)
	}
	repo := &repository{revision: pkg.Revision, private: pkg.Private}
	repo.Package = pkg.Name
	if repo.Removed, err = g.removed(ctx, pkg.Name); err != nil {
		return nil, err
	}
	// Serving needs no ids.
	segments, err := release.LoadSegments(ctx, g.blobs, now.Segments, gitpack.UnmarshalOffsets)
	if err != nil {
		return nil, fmt.Errorf("repository %s: %w", pkg.Name, err)
	}
	repo.Set = segments.Set
	for _, s := range now.Segments {
		repo.Segments = append(repo.Segments, s.Digest)
	}
	return repo, repo.list(&now)
}

// removed returns why commits and tag objects are not served any more.
func (g *store) removed(ctx context.Context, pkg string) (map[gitpack.OID]string, error) {
	tombstones, err := g.db.Tombstones(ctx, pkg)
	if err != nil {
		return nil, err
	}
	removed := map[gitpack.OID]string{}
	for _, t := range tombstones {
		for _, text := range []string{t.CommitOID, t.TagOID} {
			if id, err := gitpack.ParseOID(text); err == nil {
				removed[id] = t.Reason
			}
		}
	}
	return removed, nil
}

// list fills in what clients see.
func (repo *repository) list(now *storage.Moment) error {
	hidden := storage.HiddenTags(now.Releases)
	refs := make([]storage.TagRef, len(now.Releases))
	for i := range now.Releases {
		r := &now.Releases[i]
		refs[i] = storage.TagRef{ID: r.ID, Tag: r.Tag, CommitOID: r.CommitOID, CommitTime: r.CommitTime}
	}
	head := now.Package.Head(refs)
	for i := range now.Releases {
		r := &now.Releases[i]
		commit, err := gitpack.ParseOID(r.CommitOID)
		if err != nil {
			return err
		}
		if r.Tag == "" {
			repo.Snapshots = append(repo.Snapshots, commit)
		}
		if i == head {
			repo.Head = commit
		}
		if r.Tag == "" || hidden[r.Tag] != "" {
			continue
		}
		ref := smarthttp.Ref{Name: "refs/tags/" + r.Tag, OID: commit}
		if r.TagOID != "" {
			ref.Peeled = commit
			if ref.OID, err = gitpack.ParseOID(r.TagOID); err != nil {
				return err
			}
		}
		repo.Refs = append(repo.Refs, ref)
	}
	for _, b := range storage.ShownBranches(now.Branches, now.Releases) {
		commit, err := gitpack.ParseOID(b.Commit)
		if err != nil {
			return err
		}
		repo.Refs = append(repo.Refs, smarthttp.Ref{Name: "refs/heads/" + b.Name, OID: commit})
	}
	slices.SortFunc(repo.Refs, func(a, b smarthttp.Ref) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

func errNoReleases(pkg storage.Package) error {
	why := "it is still being mirrored"
	if pkg.SyncOK != nil && !*pkg.SyncOK {
		why = "the last attempt to mirror it failed: " + pkg.SyncMessage
	}
	return &smarthttp.Error{Status: http.StatusNotFound, Code: "no_releases",
		Message: fmt.Sprintf("the package %q has no releases; %s", pkg.Name, why)}
}

// Packs implements smarthttp.Store.
func (g *store) Packs(ctx context.Context, repo *smarthttp.Repository, ids []gitpack.OID) (map[gitpack.OID]gitpack.Stored, error) {
	packs := make(map[gitpack.OID]gitpack.Stored)
	// A client may name a hundred thousand that are not here.
	for some := range slices.Chunk(ids, 4096) {
		if err := g.addPacks(ctx, packs, repo, some); err != nil {
			return nil, err
		}
	}
	return packs, nil
}

// addPacks adds the packs of ids.
func (g *store) addPacks(ctx context.Context, packs map[gitpack.OID]gitpack.Stored, repo *smarthttp.Repository, ids []gitpack.OID) error {
	epoch := g.epoch.Now(ctx)
	var missing []string
	for _, id := range ids {
		if p, ok := g.packs.Get(packKey{epoch, repo.Package, id}); ok {
			packs[id] = p
		} else {
			missing = append(missing, id.String())
		}
	}
	if len(missing) == 0 {
		return nil
	}
	stored, err := g.db.Packs(ctx, repo.Package, missing)
	if err != nil {
		return gitError(err)
	}
	for _, p := range stored {
		if err := g.addPack(packs, epoch, repo, p); err != nil {
			return err
		}
	}
	return nil
}

// addPack adds a pack under the ids that ask for it. One that was published
// after the repository was read is left out: the client does not know of it.
func (g *store) addPack(packs map[gitpack.OID]gitpack.Stored, epoch int64, repo *smarthttp.Repository, p storage.StoredPack) error {
	commit, err := gitpack.ParseOID(p.CommitOID)
	if err != nil {
		return err
	}
	st := gitpack.Stored{Commit: commit, Bitmap: p.Bitmap, Objects: p.Objects, Size: p.Size, Trailer: [20]byte(p.Trailer)}
	ordinals, err := st.Ordinals()
	if err != nil {
		return err
	}
	if ordinals.IsEmpty() || int(ordinals.Maximum()) >= repo.Set.Len() {
		return nil
	}
	for _, text := range []string{p.CommitOID, p.TagOID} {
		if text == "" {
			continue
		}
		id, err := gitpack.ParseOID(text)
		if err != nil {
			return err
		}
		packs[id] = st
		g.packs.Add(packKey{epoch, repo.Package, id}, st)
	}
	return nil
}

// Segment implements smarthttp.Store.
func (g *store) Segment(ctx context.Context, repo *smarthttp.Repository, i int) (gitpack.Segment, error) {
	b, err := g.blobs.Open(ctx, repo.Segments[i])
	if err != nil {
		return nil, gitError(fmt.Errorf("open segment %d of %s: %w", i, repo.Package, err))
	}
	return b, nil
}
