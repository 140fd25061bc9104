package worker

import (
	"context"
	"errors"
	"math/rand/v2"
	"syscall"
	"time"

	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
)

// A later is a job's wish to come back when its upstream has time for it.
type later struct{ wait time.Duration }

func (l *later) Error() string { return "upstream is busy with other jobs" }

// errAway says nothing of the job: it is no attempt.
var errAway = fault.New("database_unavailable", "the database was away; the job starts again")

// verdict is the one table from errors to job outcomes.
// What it does not know is passing and internal: the log has the details.
func verdict(err error) *fault.Error {
	e := fault.From(err)
	switch {
	case e != nil:
		return e
	case errors.Is(err, blob.ErrFull), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fault.New("storage_full", "the disk that holds the blobs is full; the job resumes once there is room")
	case errors.Is(err, blob.ErrUnavailable):
		return fault.New("storage_unavailable", "the blobs cannot be read or written now; the job resumes once they can, and the worker's log has the details")
	case errors.Is(err, fault.ErrAway):
		return errAway
	case errors.Is(err, context.DeadlineExceeded):
		return fault.New("timeout", "the job ran out of time")
	}
	return fault.New("internal", "something failed inside packbase; the worker's log has the details")
}

// again says whether the job is tried again, and after what wait.
func (w *Worker) again(j *job, e *fault.Error) (time.Duration, bool) {
	const longest = time.Minute // beyond it, waiting is the caller's business
	if e.Final || e.RetryAfter > longest {
		return 0, false
	}
	if e.Code == "storage_full" || e.Code == "storage_unavailable" || e == errAway {
		// Nothing is wrong with the job: it goes on when there is room, or storage, or a database.
		return jitter(w.opt.Backoff * 4), true
	}
	wait := w.opt.Backoff
	switch {
	case j.advanced: // as often as that happens: it comes to an end
	case j.Job.Attempts >= w.opt.MaxAttempts:
		return 0, false
	default:
		for range j.Job.Attempts - 1 {
			wait *= 4
		}
	}
	return max(jitter(min(wait, longest)), e.RetryAfter), true
}

// nextSync says how long updates leave a package alone that failed so often in
// a row before.
func (w *Worker) nextSync(e *fault.Error, failures int) time.Duration {
	const longest = 6 * time.Hour
	wait := time.Minute
	for range min(failures, 12) {
		wait = min(2*wait, longest)
	}
	return max(jitter(wait), min(e.RetryAfter, 24*time.Hour))
}

// ofTarget reports whether a failure is of the one tag, branch or commit that was asked for, or of tags where there never
// were any: it says nothing of what is here of the package. Once upstream has said what it has, upstream is well.
func (j *job) ofTarget(code string) bool {
	switch {
	case !j.pkg.Local():
		return false
	case code == "no_tags":
		return j.pkg.ReleaseCount == 0
	}
	return j.Job.Target != "" && (j.listed || code == "removed")
}

// jitter spreads waits over [d/2, d*3/2).
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d+1)
}
