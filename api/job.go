package api

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"

	"github.com/francescobianco/packbase/api/answer"
	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
)

func newJobBody(j jobs.Job) wire.Job {
	b := wire.Job{
		ID: j.ID.String(), Kind: j.Kind, Package: j.Package, Target: j.Target, State: j.State, Attempts: j.Attempts, Worker: j.Worker,
		Progress: wire.Progress(j.Progress), Result: j.Result, RunID: j.RunID, CreatedAt: j.CreatedAt, StartedAt: j.StartedAt, EndedAt: j.EndedAt,
	}
	if j.ErrorCode != "" {
		b.Error = wire.Failure{Code: j.ErrorCode, Message: j.ErrorMessage}
	}
	if j.State == jobs.Queued && j.Attempts > 0 {
		b.NextTryAt = &j.RunAt
	}
	return b
}

// listJobs serves GET /api/jobs?state=&package=&run=&before=&limit=, newest first.
func (s *Server) listJobs(w http.ResponseWriter, r *http.Request) error {
	f, err := jobFilter(r)
	if err != nil {
		return err
	}
	jobs, err := s.db.Jobs.List(r.Context(), f)
	if err != nil {
		return err
	}
	out := wire.Jobs{Jobs: make([]wire.Job, len(jobs))}
	for i, j := range jobs {
		out.Jobs[i] = newJobBody(j)
	}
	if len(jobs) == f.Limit {
		q := r.URL.Query()
		q.Set("before", jobs[len(jobs)-1].ID.String())
		out.Next = r.URL.Path + "?" + q.Encode()
	}
	return s.sendList(w, r, out)
}

// jobFilter reads ?state=&package=&run=&before=&limit=.
func jobFilter(r *http.Request) (f jobs.Filter, err error) {
	q := r.URL.Query()
	f = jobs.Filter{State: q.Get("state"), Package: q.Get("package")}
	switch f.State {
	case "", jobs.Queued, jobs.Running, jobs.Succeeded, jobs.Failed, jobs.Cancelled:
	default:
		return f, answer.New("invalid",
			"state: want queued, running, succeeded, failed or cancelled")

	}
	if f.Package != "" {
		if err := name.ValidPackage(f.Package); err != nil {
			return f, err
		}
	}
	if run := q.Get("run"); run != "" {
		if f.Run, err = strconv.ParseInt(run, 10, 64); err != nil || f.Run < 1 {
			return f, answer.New("invalid", "run: want the number of an update, as run_id has it")
		}
	}
	if f.Limit, err = limitOf(r, 50, 500); err != nil {
		return f, err
	}
	if before := q.Get("before"); before != "" {
		if f.Before, err = uuid.Parse(before); err != nil {
			return f, answer.New("invalid", "before: want the id of a job")
		}
	}
	return f, nil
}

// limitOf reads ?limit=.
func limitOf(r *http.Request, fallback, most int) (int, error) {
	text := r.URL.Query().Get("limit")
	if text == "" {
		return fallback, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		return 0, answer.New("invalid", fmt.Sprintf("limit: want a number from 1 to %d", most))
	}
	return n, nil
}

// getJob serves GET /api/jobs/{id}.
func (s *Server) getJob(w http.ResponseWriter, r *http.Request) error {
	job, err := s.jobOf(r)
	if err != nil {
		return err
	}
	answer.JSON(w, http.StatusOK, newJobBody(job))
	return nil
}

// told notes that somebody hears how the job ended: lists and status must show
// what it did from now on. Whoever asks for an old job heard no news.
func (s *Server) jobReported(job *jobs.Job) {
	if !job.Open() && time.Since(*job.EndedAt) < time.Minute {
		s.news.Add(1)
	}
}

func (s *Server) jobOf(r *http.Request) (jobs.Job, error) {
	text := chi.URLParam(r, "id")
	id, err := uuid.Parse(text)
	var job jobs.Job
	switch {
	case err == nil && id.String() == text:
		job, err = s.db.Jobs.ByID(r.Context(), id)
	case jobs.ValidShortID(text):
		job, err = s.db.Jobs.ByShortID(r.Context(), text)
	default:
		err = fault.ErrNotFound
	}
	if err == nil {
		s.jobReported(&job)
	} else if fault.From(err) == nil { // else it has better words
		err = answer.OrNotFound(err, answer.New("not_found", fmt.Sprintf("there is no job %q here; /api/jobs lists them", answer.Cut(text, 40))))
	}
	return job, err
}

// followJob serves GET /api/jobs/{id}/events: the job as a server-sent event
// each time it changes, until it ends.
// https://html.spec.whatwg.org/multipage/server-sent-events.html
func (s *Server) followJob(w http.ResponseWriter, r *http.Request) error {
	job, err := s.jobOf(r)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	rc := http.NewResponseController(w)
	watch := *s.watch.Of(r.Context())
	now, done := watch.follow(job)
	defer done()
	tick := time.NewTicker(watchAge)
	defer tick.Stop()
	said := time.Now()
	for last := (*jobs.Job)(nil); ; {
		message := ""
		if now != last {
			body, err := json.Marshal(newJobBody(*now))
			if err != nil {
				return err
			}
			message, last = fmt.Sprintf("event: job\ndata: %s\n\n", body), now
			s.jobReported(now)
		} else if time.Since(said) > 10*time.Second {
			message = ": still here\n\n"
		}
		if message != "" {
			said = time.Now()
			_ = rc.SetWriteDeadline(said.Add(30 * time.Second))
			_, _ = io.WriteString(w, message) // Flush says whether the client has gone
			if rc.Flush() != nil {
				return nil
			}
		}
		if !now.Open() || s.draining.Load() {
			return nil
		}
		select {
		case <-r.Context().Done():
			return nil
		case <-tick.C:
		}
		// Postgres may be away for a moment.
		if next, err := watch.current(job.ID); err == nil {
			now = next
		}
	}
}

// retryJob serves POST /api/jobs/{id}/retry: a job that failed runs again.
func (s *Server) retryJob(w http.ResponseWriter, r *http.Request) error {
	job, err := s.jobOf(r)
	if err != nil {
		return err
	}
	job, err = s.db.Jobs.Retry(r.Context(), job.ID)
	if err != nil {
		return err
	}
	s.enqueue(r.Context(), job)
	answer.JSON(w, http.StatusAccepted, newJobBody(job))
	return nil
}

// cancelJob serves POST /api/jobs/{id}/cancel: a queued job ends, a running
// one is asked to.
func (s *Server) cancelJob(w http.ResponseWriter, r *http.Request) error {
	job, err := s.jobOf(r)
	if err != nil {
		return err
	}
	job, err = s.db.Jobs.Cancel(r.Context(), job.ID)
	if err != nil {
		return err
	}
	s.news.Add(1)
	answer.JSON(w, http.StatusAccepted, newJobBody(job))
	return nil
}
