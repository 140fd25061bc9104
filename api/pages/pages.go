// Package pages is all that a browser sees: the dashboard, packages, trees and
// jobs, and the feeds and badges beside them.
//
// Each page is complete without the script, which fetches the page again and
// swaps the parts that changed: there is one way to render a thing. What
// upstream wrote is escaped by html/template, and nothing on a page runs that
// is not an asset of ours.
package pages

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/francescobianco/packbase/api/answer"
	"github.com/francescobianco/packbase/api/browse"
	"github.com/francescobianco/packbase/api/directory"
	"github.com/francescobianco/packbase/api/fresh"
	"github.com/francescobianco/packbase/api/stored"
	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/ledger"
	"github.com/francescobianco/packbase/storage/queue"
	"github.com/francescobianco/packbase/storage/tree"
)

// Options are a site's settings, and what it takes from the API beside it.
type Options struct {
	Release string // of packbase
	Auth    string // what writes need, as in wire.Status
	Central string // where a read-only edge has its writes
	Source  string // the catalog's URL; "" for none

	News   *fresh.News
	Status func(context.Context) (*wire.Status, error)
	Job    func(*http.Request) (jobs.Job, error)    // that the path names
	Jobs   func(*http.Request) (jobs.Filter, error) // that the query asks for
	JSON   JSON

	Files      *browse.Files
	Trees      func(ctx context.Context, after string, limit int) ([]tree.Tree, error)
	Tree       func(*http.Request) (wire.TreeInfo, error)                                 // that the path names
	Sources    func(ctx context.Context, hashes []string) (map[string]tree.Source, error) // what is stored under Zig hashes
	Dependents func(ctx context.Context, pkg, after string, limit int) (wire.Dependents, error)
	// Large answers with what make writes, which counts among the answers of
	// the client. The headers are set by make.
	Large func(w http.ResponseWriter, r *http.Request, make func(io.Writer) error) error
}

// JSON is what those get who ask for a page and are no browsers.
type JSON struct {
	Status, Packages, Jobs, Job, Trees, Tree handler
	Package                                  func(w http.ResponseWriter, r *http.Request, name string) error
}

type handler = func(http.ResponseWriter, *http.Request) error

// A Site answers browsers. Make one with New.
type Site struct {
	db        *storage.DB
	queue     *queue.Queue // nil on an edge
	blobs     *stored.Blobs
	ledger    *ledger.Store
	directory *directory.Directory
	opt       Options
	log       *slog.Logger

	renderer  *renderer
	overview  fresh.PerReader[fresh.Value[*overview]]
	chart     fresh.PerReader[fresh.Value[chart]]
	orders    *lru.Cache[string, *order] // of releases, by package
	files     *browse.Files
	documents *lru.Cache[string, document] // by their address
}

// New returns the site of a registry.
func New(db *storage.DB, q *queue.Queue, blobs *stored.Blobs, d *directory.Directory, opt Options, log *slog.Logger) *Site {
	s := &Site{db: db, queue: q, blobs: blobs, ledger: ledger.New(db.DB), directory: d, opt: opt, log: log, renderer: newRenderer(), files: opt.Files}
	s.overview.All.News, s.overview.Public.News = opt.News, opt.News
	// The errors are about sizes below one.
	s.documents, _ = lru.New[string, document](maxDocuments)
	s.orders, _ = lru.New[string, *order](maxOrders)
	return s
}

// Route adds the paths of the site.
func (s *Site) Route(r chi.Router) {
	json := s.opt.JSON
	r.Get("/", s.page(s.getDashboard, json.Status))
	r.Get("/packages", s.page(s.getPackageList, json.Packages))
	r.Get("/jobs", s.page(s.getJobList, json.Jobs))
	r.Get("/jobs/{id}", s.page(s.getJobPage, json.Job))
	r.Get("/trees", s.page(s.getTreeList, json.Trees))
	r.Get("/trees/{name}", s.page(s.getTreePage, json.Tree))
	r.Get("/{repo}", s.getRepo)
	r.Get("/{repo}/files", s.page(s.getFiles, s.getRaw))
	r.Get("/{repo}/diff", s.page(s.getDiff, s.getDiff))
	r.Get("/feed.atom", answer.Handler(s.log, s.getFeed))
	r.Get("/assets/{hash}/{file}", answer.Handler(s.log, s.getAsset))
	r.Get("/favicon.ico", s.getIcon)
	r.Get("/robots.txt", getRobots)
}

// NotFound answers where nothing is.
func (s *Site) NotFound(w http.ResponseWriter, r *http.Request) {
	none := func(http.ResponseWriter, *http.Request) error { return fault.ErrNotFound }
	s.page(none, none)(w, r)
}

// pageTime bounds what a page waits for; then it says what is away.
const pageTime = 3 * time.Second

// page adapts two handlers of one path: html for browsers, which also get
// errors as pages, and plain for all others.
func (s *Site) page(html, plain handler) http.HandlerFunc {
	others := answer.Handler(s.log, plain)
	browsers := answer.HandlerWith(s.log, s.writeProblem, func(w http.ResponseWriter, r *http.Request) error {
		ctx, cancel := context.WithTimeout(r.Context(), pageTime)
		defer cancel()
		return html(w, r.WithContext(ctx))
	})
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Vary", "Accept")
		if prefersHTML(r) && !strings.HasPrefix(r.URL.Path, "/api/") {
			browsers(w, r)
			return
		}
		others(w, r)
	}
}

// prefersHTML reports whether the client is a browser: it names text/html,
// and wants JSON no more than that. RFC 9110, section 12.5.1.
func prefersHTML(r *http.Request) bool {
	html := quality(r, "text/html")
	return html > 0 && html >= quality(r, "application/json")
}

func quality(r *http.Request, mediaType string) float64 {
	for _, line := range r.Header.Values("Accept") {
		for part := range strings.SplitSeq(line, ",") {
			name, params, _ := strings.Cut(part, ";")
			if !strings.EqualFold(strings.TrimSpace(name), mediaType) {
				continue
			}
			for param := range strings.SplitSeq(params, ";") {
				if text, ok := strings.CutPrefix(strings.TrimSpace(param), "q="); ok {
					q, _ := strconv.ParseFloat(text, 64) // what is no number is not wanted
					return q
				}
			}
			return 1
		}
	}
	return 0
}

// renderLarge answers with a page that may be large, which counts among the answers of the client.
func (s *Site) renderLarge(w http.ResponseWriter, r *http.Request, make func() (view, error)) error {
	return s.opt.Large(w, r, func(to io.Writer) error {
		page, err := make()
		if err != nil {
			return err
		}
		if err := s.renderer.write(to, page); err != nil {
			return err
		}
		s.renderer.head(w.Header())
		return nil
	})
}

func (s *Site) frame(r *http.Request, title, section string) (frame, error) {
	base, err := answer.BaseURL(r)
	return frame{
		Title: title, Section: section, Base: base, Auth: s.opt.Auth, Central: s.opt.Central,
		Release: s.opt.Release, Feed: "/feed.atom",
	}, err
}

// A problem is a page that says why there is no other.
type problem struct {
	frame
	Status  int
	Message string
	Near    []packageView // what may have been meant
	ID      string        // of the request, when the log has more
}

func (*problem) template() string { return "problem" }

// writeProblem answers with an error as a page.
func (s *Site) writeProblem(w http.ResponseWriter, r *http.Request, e *answer.Error) {
	frame, _ := s.frame(r, problemTitle(e.Status), "") // a bad host is the problem already
	p := &problem{frame: frame, Status: e.Status, Message: e.Message}
	if e.Status >= 500 {
		p.ID = middleware.GetReqID(r.Context())
	}
	if e.Status == http.StatusNotFound {
		if e == answer.ErrNotFound {
			p.Message = "Nothing is at this address."
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		v, _ := s.directory.Current(r.Context()) // the last view is good enough
		for _, l := range v.Near(strings.TrimSuffix(name, ".git"), 6) {
			p.Near = append(p.Near, packageView{Package: l.Package})
		}
	}
	if e.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(answer.Seconds(e.RetryAfter)))
	}
	w.Header().Set("X-Packbase-Error", e.Code)
	if err := s.renderer.render(w, e.Status, p); err != nil {
		s.log.ErrorContext(r.Context(), "page not rendered", "err", err)
		answer.WriteError(w, r, e)
	}
}

const databaseAway = "The database does not answer. What this page shows may be old."

func problemTitle(status int) string {
	switch status {
	case http.StatusNotFound:
		return "Not found"
	case http.StatusServiceUnavailable:
		return "Back in a moment"
	case http.StatusInternalServerError:
		return "Something failed"
	}
	return http.StatusText(status)
}

// getAsset serves GET /assets/{hash}/{file}.
func (s *Site) getAsset(w http.ResponseWriter, r *http.Request) error {
	if !s.renderer.hasAsset(r.URL.Path) {
		return fault.ErrNotFound
	}
	s.renderer.serveAsset(w, r)
	return nil
}

// getIcon serves GET /favicon.ico, for what asks without being told where.
func (s *Site) getIcon(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "public, max-age=86400")
	http.Redirect(w, r, s.renderer.icon(), http.StatusFound)
}

// getRobots serves GET /robots.txt: pages may be indexed, bytes need not be. RFC 9309.
func getRobots(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "public, max-age=86400")
	_, _ = io.WriteString(w, "User-agent: *\nDisallow: /api/\nDisallow: /p/\nDisallow: /z/\nDisallow: /git/\nDisallow: /jobs\n")
}
