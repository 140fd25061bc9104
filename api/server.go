// Package api answers HTTP: the JSON interface, tarballs, Git and the pages.
//
// It reads Postgres and blobs. It never dials upstream and never parses what
// upstream sent.
package api

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/go-chi/cors"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/francescobianco/packbase/api/answer"
	"github.com/francescobianco/packbase/api/browse"
	"github.com/francescobianco/packbase/api/directory"
	"github.com/francescobianco/packbase/api/fresh"
	"github.com/francescobianco/packbase/api/git"
	"github.com/francescobianco/packbase/api/pace"
	"github.com/francescobianco/packbase/api/pages"
	"github.com/francescobianco/packbase/api/proxy"
	"github.com/francescobianco/packbase/api/route"
	"github.com/francescobianco/packbase/api/stored"
	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/capture"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/ledger"
	"github.com/francescobianco/packbase/storage/queue"
	"github.com/francescobianco/packbase/storage/tree"
)

// Options are a server's settings.
type Options struct {
	Changing
	Release  string         // of packbase, for people to see
	Token    string         // that writes need; "": see Open
	Open     bool           // writes need no token
	ReadOnly bool           // an edge: writes are refused
	Central  string         // where an edge sends those who want to write
	Source   string         // the catalog's URL; "" for none
	Scrub    time.Duration  // in which all stored bytes are to be read; 0 if they need not
	Pace     pace.Limits    // what clients must move; zero for the default
	Proxies  []netip.Prefix // whose X-Forwarded-For is believed
	Origins  []string       // of pages that browsers may let read here: "https://host", or "*"; nil for our own only
	Names    []string       // that clients call this packbase, in lower case; every other host is a proxy's business then
	Pull     []string       // hosts from which what clients miss is fetched, with a port that is not the scheme's
	Metrics  prometheus.Registerer
}

// Changing are the settings that may change while a server runs.
type Changing struct {
	Cooldown time.Duration // between two updates
	MaxJobs  int           // open jobs; more are refused. 0 for no limit
	PullWait time.Duration // how long a client waits for a pull
}

// A Server answers HTTP. Make one with New.
type Server struct {
	db    *storage.DB
	queue *queue.Queue // nil on an edge
	opt   Options
	log   *slog.Logger
	git   *git.Server
	proxy *proxy.Proxy
	trees *tree.Store
	deps  *capture.Reader

	ledger    *ledger.Store
	places    *lru.Cache[int64, ledger.Place] // of releases that have an index
	logFolder string                          // "" if blobs lie in no folder
	epoch     *stored.Epoch
	rows      *stored.Rows
	tokens    *tokenCache
	promised  *stored.Blobs
	releases  *releaseCache
	metrics   *metrics
	answers   *answers
	directory *directory.Directory
	status    fresh.PerReader[fresh.Value[*wire.Status]]
	files     *browse.Files
	site      *pages.Site
	openJobs  fresh.Value[jobs.QueueCounts]
	scrub     fresh.Value[wire.Blobs]
	feedHead  fresh.Value[int64]
	news      fresh.News
	watch     fresh.PerReader[*jobWatch]
	draining  atomic.Bool
	changing  atomic.Pointer[Changing]

	replicated atomic.Int64 // the change that an edge's status told of last
}

// New returns a server; its Handler does the work.
func New(db *storage.DB, q *queue.Queue, blobs blob.Store, opt Options, log *slog.Logger) *Server {
	opt.Pace = cmp.Or(opt.Pace, pace.Default())
	e := stored.NewEpoch(db)
	promised := stored.New(db, blobs, log)
	s := &Server{db: db, queue: q, promised: promised, opt: opt, log: log, metrics: newMetrics(opt.Metrics), answers: newAnswers(),
		epoch: e, rows: stored.NewRows(db), tokens: newTokenCache(db, e), releases: newReleaseCache(db, e), watch: fresh.PerReader[*jobWatch]{All: newJobWatch(db, true), Public: newJobWatch(db, false)}}
	s.directory, s.files = directory.New(db, e, &s.news), browse.New(db, promised)
	s.status.All.News, s.status.Public.News = &s.news, &s.news
	s.Change(opt.Changing)
	if opt.Metrics != nil {
		opt.Metrics.MustRegister(newRegistryCollector(s))
	}
	s.git = git.New(db, promised, e, s.rows, git.Options{Release: opt.Release, Client: s.clientOf}, log)
	s.trees = tree.New(db.DB)
	s.ledger = ledger.New(db.DB)
	s.places, _ = lru.New[int64, ledger.Place](maxCachedReleases) // the error is about sizes below one
	if folder := blob.Folder(blobs); folder != "" {
		s.logFolder = ledger.FolderBeside(folder).Dir
	}
	s.deps = capture.NewReader(func(ctx context.Context, digest string) (io.ReadCloser, error) { return blobs.Open(ctx, digest) })
	s.proxy = newProxy(s)
	s.site = newSite(s)
	return s
}

// Change gives the server other settings, for what is asked from now on.
func (s *Server) Change(to Changing) {
	to.PullWait = cmp.Or(to.PullWait, 10*time.Minute)
	s.changing.Store(&to)
}

func newSite(s *Server) *pages.Site {
	return pages.New(s.db, s.queue, s.promised, s.directory, pages.Options{
		Release: s.opt.Release, Auth: s.authWord(), Central: s.opt.Central, Source: s.opt.Source,
		News: &s.news, Status: s.Status, Job: s.jobOf, Jobs: jobFilter,
		JSON:  pages.JSON{Status: s.getStatus, Packages: s.listPackages, Jobs: s.listJobs, Job: s.getJob, Trees: s.listTrees, Tree: s.getTree, Package: s.answerInfo},
		Files: s.files, Trees: s.trees.List, Tree: s.treeInfo, Sources: s.trees.Sources, Dependents: s.dependents, Large: s.sendLarge,
	}, s.log)
}

// Handler returns the whole route table.
func (s *Server) Handler() http.Handler {
	r := chi.NewRouter()
	r.Use(identify, closeChunked, s.logRequests, s.recoverPanics, s.shareReads, s.authenticate, s.proxy.Wrap, s.canonicalPath, middleware.GetHead)
	r.NotFound(s.site.NotFound)
	r.MethodNotAllowed(s.handle(methodNotAllowed))

	r.Get(route.Health, s.handle(s.getHealth))
	r.Get(route.Ready, s.handle(s.getReady))

	r.Group(func(r chi.Router) {
		r.Use(compressed())
		r.Get(route.Jobs, s.handle(s.listJobs))
		r.Get(route.List, s.handle(s.listPackages))
		r.Get(route.Info, s.handle(s.getPackage))
		r.Get(route.Versions, s.handle(s.getVersions))
		r.Get(route.Search, s.handle(s.searchPackages))
		r.Get(route.Status, s.handle(s.getStatus))
		r.Get(route.Checked, s.handle(s.getCheck))
		r.Get(route.Changes, s.handle(s.getChanges))
		r.Get(route.Trees, s.handle(s.listTrees))
		r.Get(route.Tree, s.handle(s.getTree))
		r.Get(route.TreeSBOM, s.handle(s.getTreeSBOM))
		r.Get(route.Dependents, s.handle(s.getDependents))
	})
	r.Get(route.Job, s.handle(s.getJob))
	r.Get(route.Events, s.handle(s.followJob))
	r.Get(route.OpenAPI, s.handle(getOpenAPI))
	r.Get(route.Blob, s.handle(s.getBlob))
	r.With(s.sameSite).Post(route.Update, s.handle(s.postUpdate))
	r.Group(func(r chi.Router) {
		r.Use(s.sameSite, s.authorize(access.ScopeWrite))
		r.Post(route.Fetch, s.handle(s.postFetch))
		r.Post(route.Check, s.handle(s.postCheck))
		r.Post(route.Retry, s.handle(s.retryJob))
		r.Post(route.Cancel, s.handle(s.cancelJob))
	})
	r.Group(func(r chi.Router) {
		r.Use(s.sameSite, s.authorize(access.ScopeAdmin))
		r.Post(route.Review, s.handle(s.postReview))
		r.Post(route.Remove, s.handle(s.postRemove))
		r.Post(route.Rename, s.handle(s.postRename))
		r.Group(func(r chi.Router) {
			r.Use(s.guarded)
			r.Post(route.Visibility, s.handle(s.postVisibility))
			r.Get(route.Tokens, s.handle(s.listTokens))
			r.Post(route.Tokens, s.handle(s.createToken))
			r.Post(route.Revoke, s.handle(s.revokeToken))
		})
	})

	s.treeRoutes(r)

	r.Get(route.Tag, s.handle(s.getTagFile))
	r.Get(route.Commit, s.handle(s.getCommitFile))
	r.Get(route.Branch, s.handle(s.getBranchFile))
	r.Get(route.TagFile, s.handle(fileInQuery(s.getTagFile)))
	r.Get(route.BranchFile, s.handle(fileInQuery(s.getBranchFile)))
	r.Get(route.Zig, s.handle(s.getZigPackage))
	r.Get(route.Log, s.handle(s.getLogFile))

	r.Get("/login", s.handle(s.getLogin))
	r.Get("/why", s.handle(s.getWhy))

	s.site.Route(r)
	s.git.Route(r)
	return r
}

// shareReads lets pages of the origins in the settings read here. A token is theirs to send: a browser adds none by itself.
func (s *Server) shareReads(next http.Handler) http.Handler {
	if len(s.opt.Origins) == 0 {
		return next
	}
	return cors.Handler(cors.Options{
		AllowedOrigins: s.opt.Origins,
		AllowedMethods: []string{http.MethodGet, http.MethodHead},
		AllowedHeaders: []string{"Authorization", "Range", "If-None-Match", "If-Range", "Prefer"},
		ExposedHeaders: []string{"ETag", "Link", "Retry-After", "X-Packbase-Commit", "X-Packbase-Error", "X-Packbase-Log", "X-Request-Id"},
		MaxAge:         600,
	})(next)
}

func (s *Server) handle(h func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return answer.Handler(s.log, h)
}

func (s *Server) readOnly() error {
	message := "this is a read-only edge"
	if s.opt.Central != "" {
		message += "; write to " + s.opt.Central
	}
	return &answer.Error{Status: http.StatusForbidden, Code: "read_only", Message: message}
}

// fileInQuery has a handler of what a path ends in take that from the query.
func fileInQuery(h func(http.ResponseWriter, *http.Request) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		file := r.URL.Query().Get("file")
		if !utf8.ValidString(file) || strings.ContainsFunc(file, unicode.IsControl) {
			return answer.New("invalid", "file: it has bytes that no name here has")
		}
		chi.RouteContext(r.Context()).URLParams.Add("*", file)
		return h(w, r)
	}
}

// canonicalPath lets only one spelling of each path pass: what routes
// and caches see is always the decoded path of that spelling.
func (s *Server) canonicalPath(next http.Handler) http.Handler {
	return s.handle(func(w http.ResponseWriter, r *http.Request) error {
		bad := func(why string) error {
			return &answer.Error{Status: http.StatusBadRequest, Code: "path_not_canonical", Message: "the path " + why}
		}
		p := r.URL.Path
		switch {
		case !utf8.ValidString(p), strings.ContainsFunc(p, unicode.IsControl):
			return bad("has bytes that no name here has")
		case !strings.HasPrefix(p, "/"), strings.Contains(p, "//"), hasDotSegment(p):
			return bad("has empty or dot segments")
		case r.URL.RawPath != "":
			return bad("must be spelled " + (&url.URL{Path: p}).EscapedPath())
		}
		next.ServeHTTP(w, r)
		return nil
	})
}

func hasDotSegment(p string) bool {
	for part := range strings.SplitSeq(p, "/") {
		if part == "." || part == ".." {
			return true
		}
	}
	return false
}

// methodNotAllowed names the methods that the path has.
func methodNotAllowed(w http.ResponseWriter, r *http.Request) error {
	var allowed []string
	routes := chi.RouteContext(r.Context()).Routes
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost} {
		as := method
		if method == http.MethodHead {
			as = http.MethodGet
		}
		if routes.Match(chi.NewRouteContext(), as, r.URL.Path) {
			allowed = append(allowed, method)
		}
	}
	if len(allowed) == 0 {
		return fault.ErrNotFound // chi asks for the method first
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	return &answer.Error{Status: http.StatusMethodNotAllowed, Code: "method_not_allowed",
		Message: fmt.Sprintf("%s is not for this path; it takes %s", r.Method, strings.Join(allowed, ", "))}
}

func (s *Server) recoverPanics(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if p == http.ErrAbortHandler {
				panic(p)
			}
			s.log.ErrorContext(r.Context(), "handler panicked", "path", r.URL.Path, "panic", p)
			answer.WriteError(w, r, answer.FromError(fmt.Errorf("panic: %v", p)))
		}()
		next.ServeHTTP(w, r)
	})
}

// logRequests writes one line for each request, and holds it to the pace.
func (s *Server) logRequests(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := middleware.GetReqID(r.Context())
		body := &answer.CountingBody{ReadCloser: s.opt.Pace.Body(w, r)}
		r.Body = body
		ww := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		start := time.Now()
		next.ServeHTTP(s.opt.Pace.Writer(ww, r), r)
		s.metrics.observe(r, ww.Status(), time.Since(start))
		line := []slog.Attr{
			slog.String("method", r.Method), slog.String("path", s.loggedPath(r)), slog.Int("status", ww.Status()),
			slog.Int("bytes", ww.BytesWritten()), slog.Duration("took", time.Since(start)), slog.String("request_id", id),
		}
		if r.ContentLength != 0 {
			line = append(line, slog.String("te", strings.Join(r.TransferEncoding, ",")), slog.Int64("cl", r.ContentLength), slog.Int64("body_bytes", body.N))
		}
		s.log.LogAttrs(context.WithoutCancel(r.Context()), slog.LevelInfo, "request", line...)
	})
}
