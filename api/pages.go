package api

import (
	"context"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5/middleware"

	"github.com/francescobianco/packbase/api/answer"
	"github.com/francescobianco/packbase/api/web"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/jobs"
)

// pageTime bounds what a page waits for; then it says what is away.
const pageTime = 3 * time.Second

// page adapts two handlers of one path: html for browsers, which also get
// errors as pages, and plain for all others.
func (s *Server) page(html, plain func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	others := s.handle(plain)
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

var hostPattern = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$`)

// baseURL returns the scheme and host under which the client knows us.
//
// The host is the client's word, so what is made from it is never cached for
// others.
func baseURL(r *http.Request) (string, error) {
	if len(r.Host) > 255 || !hostPattern.MatchString(r.Host) {
		return "", &answer.Error{Status: http.StatusBadRequest, Code: "host_invalid", Message: "the Host header does not name a host"}
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	if proto := r.Header.Get("X-Forwarded-Proto"); proto == "http" || proto == "https" {
		scheme = proto
	}
	return scheme + "://" + r.Host, nil
}

func (s *Server) frame(r *http.Request, title, section string) (web.Frame, error) {
	base, err := baseURL(r)
	return web.Frame{
		Title: title, Section: section, Base: base, Auth: s.authWord(), Central: s.opt.Central,
		Release: s.opt.Release, Feed: "/feed.atom",
	}, err
}

// writeProblem answers with an error as a page.
func (s *Server) writeProblem(w http.ResponseWriter, r *http.Request, e *answer.Error) {
	frame, _ := s.frame(r, problemTitle(e.Status), "") // a bad host is the problem already
	p := &web.Problem{Frame: frame, Status: e.Status, Message: e.Message}
	if e.Status >= 500 {
		p.ID = middleware.GetReqID(r.Context())
	}
	if e.Status == http.StatusNotFound {
		if e.Code == "not_found" && e.Message == answer.FromError(fault.ErrNotFound).Message {
			p.Message = "Nothing is at this address."
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		v, _ := s.directory.Look(r.Context()) // the last view is good enough
		for _, l := range v.Near(strings.TrimSuffix(name, ".git"), 6) {
			p.Near = append(p.Near, web.Package{Package: l.Package})
		}
	}
	if e.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(seconds(e.RetryAfter)))
	}
	w.Header().Set("X-Packbase-Error", e.Code)
	if err := s.site.Render(w, e.Status, p); err != nil {
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

func noSuchPage(http.ResponseWriter, *http.Request) error { return fault.ErrNotFound }

// getJobList serves GET /jobs?state=&before= to browsers.
func (s *Server) getJobList(w http.ResponseWriter, r *http.Request) error {
	frame, err := s.frame(r, "Jobs", "jobs")
	if err != nil {
		return err
	}
	f, err := jobFilter(r)
	if err != nil {
		return err
	}
	jobs, err := s.db.Jobs.List(r.Context(), f)
	if err != nil {
		return err
	}
	page := &web.JobList{Frame: frame, State: f.State, Jobs: web.Jobs(jobs)}
	if len(jobs) == f.Limit {
		q := r.URL.Query()
		q.Set("before", jobs[len(jobs)-1].ID.String())
		page.Next = "/jobs?" + q.Encode()
	}
	return s.site.Render(w, http.StatusOK, page)
}

// getJobPage serves GET /jobs/{id} to browsers.
func (s *Server) getJobPage(w http.ResponseWriter, r *http.Request) error {
	frame, err := s.frame(r, "Job", "job")
	if err != nil {
		return err
	}
	job, err := s.jobOf(r)
	if err != nil {
		return err
	}
	page := &web.JobPage{Frame: frame, Job: web.Job{Job: job}, Workers: -1}
	page.Title = strings.TrimSpace(page.Job.Work() + " " + job.Package)
	switch {
	case job.State == jobs.Queued:
		status, err := s.status.Of(r.Context()).Get(r.Context(), s.workOutStatus)
		if err != nil {
			return err
		}
		page.Workers = len(status.Queue.Workers)
	case job.State == jobs.Running && job.Kind == jobs.UpdateCatalog && job.RunID != nil:
		if page.Done, page.Total, err = s.db.Jobs.RunProgress(r.Context(), *job.RunID); err != nil {
			return err
		}
	}
	return s.site.Render(w, http.StatusOK, page)
}

// getAsset serves GET /assets/{hash}/{file}.
func (s *Server) getAsset(w http.ResponseWriter, r *http.Request) error {
	if !s.site.HasAsset(r.URL.Path) {
		return fault.ErrNotFound
	}
	s.site.ServeAsset(w, r)
	return nil
}

// getIcon serves GET /favicon.ico, for what asks without being told where.
func (s *Server) getIcon(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Cache-Control", "public, max-age=86400")
	http.Redirect(w, r, s.site.Icon(), http.StatusFound)
	return nil
}

// getRobots serves GET /robots.txt: pages may be indexed, bytes need not be. RFC 9309.
func getRobots(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "public, max-age=86400")
	_, _ = io.WriteString(w, "User-agent: *\nDisallow: /api/\nDisallow: /p/\nDisallow: /z/\nDisallow: /git/\nDisallow: /jobs\n")
}
