package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/francescobianco/packbase/api/answer"
	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
)

// postUpdate serves POST /api/update: the catalog is looked at again. Anybody
// may ask; one lock in Redis, which no header changes, says how often.
func (s *Server) postUpdate(w http.ResponseWriter, r *http.Request) error {
	if s.opt.ReadOnly {
		return s.readOnly()
	}
	wait, err := waitOf(r, 0)
	if err != nil {
		return err
	}
	job, answered, err := s.startUpdate(w, r)
	if err != nil || answered {
		return err
	}
	if job, err = s.waitFor(w, r, job, wait); err != nil {
		return err
	}
	switch job.State {
	case jobs.Succeeded:
		out := wire.Updated{Status: "ok", JobID: job.ID.String()}
		if err := json.Unmarshal(job.Result, &out.Counters); err != nil {
			return fmt.Errorf("read result of job %s: %w", job.ID, err)
		}
		answer.JSON(w, http.StatusOK, out)
		return nil
	case jobs.Failed, jobs.Cancelled:
		return answer.JobError(job)
	}
	writeQueued(w, wire.Queued{Status: "started", JobID: job.ID.String(), RunID: job.RunID})
	return nil
}

// startUpdate returns the update that this request started. If another one is
// under way or began too lately, it answers instead.
func (s *Server) startUpdate(w http.ResponseWriter, r *http.Request) (job jobs.Job, answered bool, err error) {
	ctx := r.Context()
	left, err := s.db.Jobs.Cooling(ctx, s.changing.Load().Cooldown)
	if err != nil {
		return job, false, err
	}
	_, err = s.db.Jobs.RunningUpdate(ctx)
	if err == nil {
		// Asked for during a run: one more follows it, in a window of its own.
		if _, _, err = s.db.Jobs.RequestUpdate(ctx, s.changing.Load().Cooldown); err != nil {
			return job, false, err
		}
		s.news.Add(1)
		retry := answer.Seconds(max(left, time.Second))
		w.Header().Set("Retry-After", strconv.Itoa(retry))
		answer.JSON(w, http.StatusOK, wire.Postponed{Status: "queued", Queued: true, RetryAfter: retry})
		return job, true, nil
	}
	if !errors.Is(err, fault.ErrNotFound) {
		return job, false, err
	}
	if left <= 0 {
		if left, err = s.lockUpdates(ctx); err != nil {
			return job, false, err
		}
	}
	if left > 0 {
		retry := answer.Seconds(left)
		w.Header().Set("Retry-After", strconv.Itoa(retry))
		answer.JSON(w, http.StatusOK, wire.Postponed{Status: "cooldown", RetryAfter: retry})
		return job, true, nil
	}
	job, created, err := s.db.Jobs.RequestUpdate(ctx, s.changing.Load().Cooldown)
	if err != nil {
		return job, false, err
	}
	if created {
		s.enqueue(ctx, job)
	}
	return job, false, nil
}

// lockUpdates takes the lock that one request of many has for the cooldown,
// and returns how long another one keeps it yet.
func (s *Server) lockUpdates(ctx context.Context) (left time.Duration, err error) {
	if s.changing.Load().Cooldown <= 0 {
		err = s.queue.Ping(ctx)
	} else {
		var ok bool
		if ok, left, err = s.queue.Lock(ctx, "update", s.changing.Load().Cooldown); ok {
			left = 0
		} else {
			left = max(left, time.Millisecond)
		}
	}
	if err != nil {
		s.log.WarnContext(ctx, "update refused: redis is away", "err", err)
		return 0, &answer.Error{Status: http.StatusServiceUnavailable, Code: "unavailable", RetryAfter: 10 * time.Second,
			Message: "the queue does not answer, so updates cannot be told apart; try again soon"}
	}
	return left, nil
}

// page cuts one page out of a list.
func page[T any](all []T, offset, limit int) []T {
	from := min(offset, len(all))
	return all[from:min(from+limit, len(all))]
}

// postCheck serves POST /api/check: a probe is run now, as a job.
func (s *Server) postCheck(w http.ResponseWriter, r *http.Request) error {
	var in wire.Check
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	if err := name.ValidPackage(in.Package); err != nil {
		return err
	}
	wait, err := waitOf(r, time.Minute)
	if err != nil {
		return err
	}
	if _, err := s.db.PackageByName(r.Context(), in.Package); err != nil {
		return answer.OrNotFound(err, answer.NoPackage(in.Package))
	}
	job, created, err := s.db.Jobs.RequestProbe(r.Context(), in.Package)
	if err != nil {
		return answer.OrNotFound(err, answer.NoPackage(in.Package))
	}
	if created {
		s.enqueue(r.Context(), job)
	}
	if job, err = s.waitFor(w, r, job, wait); err != nil {
		return err
	}
	if job.Open() {
		return s.answerJob(w, r, job, 0)
	}
	if job.State != jobs.Succeeded {
		return answer.JobError(job)
	}
	return s.answerCheck(w, r, job.Package)
}

// getCheck serves GET /api/check/{package}: as info, with the stored probe.
func (s *Server) getCheck(w http.ResponseWriter, r *http.Request) error {
	return s.answerCheck(w, r, chi.URLParam(r, "package"))
}

func (s *Server) answerCheck(w http.ResponseWriter, r *http.Request, name string) error {
	return s.answerPackage(w, r, name, func(p *wire.Package) any { return wire.Checked{Package: *p, LiveProbeOK: p.Healthy} })
}

// postReview serves POST /api/review/{package}: an operator decides about a
// package that is frozen.
func (s *Server) postReview(w http.ResponseWriter, r *http.Request) error {
	pkg := chi.URLParam(r, "package")
	var in wire.Review
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	if in.Decision != "accept" && in.Decision != "keep" {
		return answer.New("invalid",
			`decision: want "accept", to mirror what upstream has now, or "keep", to leave the package as it is for good`)

	}
	if name.ValidPackage(pkg) != nil {
		return answer.NoPackage(pkg)
	}
	if err := s.db.Review(r.Context(), pkg, in.Decision == "accept"); err != nil {
		return answer.OrNotFound(err, answer.NoPackage(pkg))
	}
	s.decided(r.Context(), pkg)
	return s.answerCheck(w, r, pkg)
}
