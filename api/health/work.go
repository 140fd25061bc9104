package health

import (
	"time"

	"github.com/francescobianco/packbase/storage/jobs"
)

// When work is worth somebody's attention, in /readyz and on the dashboard.
const (
	ReconcilerStalled = time.Minute      // since a round of it went well
	jobOverdue        = 15 * time.Minute // that waits for a worker and nothing else
)

// OfWork says how the reconciler and the jobs are.
func OfWork(p jobs.Pulse, err error) (reconciler, jobs string) {
	if err != nil {
		return "unknown", "unknown"
	}
	reconciler, jobs = "ok", "ok"
	if p.Reconciled == nil || *p.Reconciled > ReconcilerStalled {
		reconciler = "stalled"
	}
	if p.OldestDue > jobOverdue {
		jobs = "overdue"
	}
	return reconciler, jobs
}
