package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/francescobianco/packbase/api/answer"
	"github.com/francescobianco/packbase/api/route"
	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
)

// maxWait is the longest that a request may wait for its job.
const maxWait = 300 * time.Second

// postFetch serves POST /api/fetch: it has a package mirrored.
func (s *Server) postFetch(w http.ResponseWriter, r *http.Request) error {
	wait, err := waitOf(r, 0)
	if err != nil {
		return err
	}
	var in wire.Fetch
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	up, err := name.ParseUpstream(in.URL)
	if err != nil {
		return err
	}
	up.Private = in.Private
	pkg := up.Name
	if in.Name != "" {
		pkg = in.Name
	}
	if err := name.ValidPackage(pkg); err != nil {
		return err
	}
	if err := s.roomForJobs(r.Context()); err != nil {
		return err
	}
	job, created, err := s.db.RequestFetch(r.Context(), pkg, up)
	if err != nil {
		return err
	}
	if created {
		s.enqueue(r.Context(), job)
	}
	return s.answerJob(w, r, job, wait)
}

// roomForJobs refuses work that would only wait. The count may be a
// second old; the limit is about thousands.
func (s *Server) roomForJobs(ctx context.Context) error {
	return s.roomFor(ctx, s.changing.Load().MaxJobs)
}

// roomFor is roomForJobs with another limit; 0 is none.
func (s *Server) roomFor(ctx context.Context, most int) error {
	if most == 0 {
		return nil
	}
	n, err := s.openJobs.Get(ctx, s.db.Jobs.QueueCounts)
	if err != nil {
		return err
	}
	if open := n.Pending + n.Active + n.Scheduled + n.Retry; open >= most {
		return &answer.Error{Status: http.StatusTooManyRequests, Code: "too_many_jobs", RetryAfter: 10*time.Second + rand.N(20*time.Second),
			Message: fmt.Sprintf("%d jobs are open already; try again when some have ended", open)}
	}
	return nil
}

// enqueue has the queue told of a new job. If that fails, the job is not lost:
// the workers' reconciler finds the row.
func (s *Server) enqueue(ctx context.Context, job jobs.Job) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	err := s.db.Jobs.Enqueue(ctx, s.queue, job.Kind, job.ID, job.Pull)
	s.news.Add(1)
	if err != nil {
		s.log.WarnContext(ctx, "queue not told", "job", job.ID, "err", err)
	}
}

// waitOf returns how long the request wants to wait for its job:
// ?wait=SECONDS, or Prefer: wait=SECONDS (RFC 7240, section 4.3), else fallback.
func waitOf(r *http.Request, fallback time.Duration) (time.Duration, error) {
	text := r.URL.Query().Get("wait")
	for _, prefer := range r.Header.Values("Prefer") {
		for part := range strings.SplitSeq(prefer, ",") {
			if value, ok := strings.CutPrefix(strings.TrimSpace(part), "wait="); ok && text == "" {
				text = value
			}
		}
	}
	if text == "" {
		return fallback, nil
	}
	seconds, err := strconv.Atoi(text)
	if err != nil || seconds < 0 {
		return 0, answer.New("invalid", fmt.Sprintf("wait: %q is not a number of seconds", text))
	}
	return min(time.Duration(seconds)*time.Second, maxWait), nil
}

// answerJob answers at once that the job is queued, or waits for its end.
func (s *Server) answerJob(w http.ResponseWriter, r *http.Request, job jobs.Job, wait time.Duration) error {
	job, err := s.waitFor(w, r, job, wait)
	if err != nil {
		return err
	}
	switch job.State {
	case jobs.Succeeded:
		out := wire.Fetched{Status: "ok", JobID: job.ID.String()}
		if err := json.Unmarshal(job.Result, &out.FetchResult); err != nil {
			return fmt.Errorf("read result of job %s: %w", job.ID, err)
		}
		if out.Tag != "" || out.Commit != "" {
			out.URL = route.Tarball(job.Package, out.Tag, out.Commit)
		}
		answer.JSON(w, http.StatusOK, out)
		return nil
	case jobs.Failed, jobs.Cancelled:
		return answer.JobError(job)
	}
	writeQueued(w, wire.Queued{Status: "queued", JobID: job.ID.String(), Package: job.Package,
		Docs: "the package is not here yet: GET location until state is succeeded or failed, or send this again with ?wait=60 to be answered then"})
	return nil
}

// writeQueued answers that a job goes on without this request.
func writeQueued(w http.ResponseWriter, q wire.Queued) {
	q.Location = route.Path(route.Job, q.JobID)
	w.Header().Set("Location", q.Location)
	answer.JSON(w, http.StatusAccepted, q)
}

// awayTimeout is how long Postgres may be away while somebody waits for a job.
const awayTimeout = 30 * time.Second

// waitFor returns the job when it has ended or wait is over.
func (s *Server) waitFor(w http.ResponseWriter, r *http.Request, job jobs.Job, wait time.Duration) (jobs.Job, error) {
	if wait == 0 {
		return job, nil
	}
	// The server's write deadline is for answers that come at once.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(wait + 30*time.Second))
	ctx, cancel := context.WithTimeout(r.Context(), wait)
	defer cancel()
	watch := *s.watch.Of(r.Context())
	now, done := watch.follow(job)
	defer done()
	tick := time.NewTicker(watchAge)
	defer tick.Stop()
	for seen := time.Now(); now.Open() && !s.draining.Load(); {
		select {
		case <-ctx.Done():
			return *now, r.Context().Err()
		case <-tick.C:
		}
		next, err := watch.current(job.ID)
		switch {
		case err == nil:
			now, seen = next, time.Now()
		case errors.Is(err, fault.ErrNotFound), time.Since(seen) > awayTimeout:
			return *now, err
		}
	}
	s.jobReported(now)
	return *now, nil
}
