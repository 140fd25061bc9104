package worker

import (
	"context"
	"errors"
	"time"
)

// reconcile keeps the queue's messages in step with the rows until ctx ends:
// it takes jobs from workers that vanished and tells of jobs that the queue
// does not know or has forgotten. Every worker may do this at once.
func (w *Worker) reconcile(ctx context.Context) {
	tick := time.NewTicker(w.opt.Reconcile)
	defer tick.Stop()
	swept := time.Time{}
	for {
		if time.Since(swept) > sweepEvery {
			swept = time.Now()
			if err := w.sweep(ctx); err != nil && ctx.Err() == nil {
				w.log.WarnContext(ctx, "not swept", "err", err)
			}
		}
		if err := w.reconcileOnce(ctx); err != nil && ctx.Err() == nil {
			w.log.WarnContext(ctx, "jobs not reconciled", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

const (
	sweepEvery = time.Hour
	keptJobs   = 30 * 24 * time.Hour // after their end
)

// sweep removes what crashed writers left in staging, and old jobs. Blobs are
// swept by `packbase gc` alone.
func (w *Worker) sweep(ctx context.Context) error {
	age := 2 * w.opt.JobTimeout
	return errors.Join(w.opt.Staging.Sweep(ctx, 0), w.blobs.Sweep(ctx, age), w.db.PruneJobs(ctx, keptJobs))
}

func (w *Worker) reconcileOnce(ctx context.Context) error {
	if err := w.db.SeeWorker(ctx, w.opt.ID, w.opt.Concurrency, w.opt.Release); err != nil {
		return err
	}
	lost, err := w.db.ReapJobs(ctx)
	if err != nil {
		return err
	}
	for _, job := range lost {
		w.log.WarnContext(ctx, "worker vanished", "job", job.ID, "package", job.Package, "lost_worker", job.Worker, "crashes", job.Crashes)
	}
	if w.opt.UpdateInterval > 0 {
		if _, _, err := w.db.RequestDueUpdate(ctx, w.opt.UpdateInterval, w.opt.UpdateCooldown); err != nil {
			return err
		}
	}
	if err := w.db.CloseRuns(ctx); err != nil {
		return err
	}
	return w.tellDue(ctx)
}

// tellDue tells the queue of due jobs. A job that it was told of before is
// told of again only when no message is left waiting: as long as there are
// some, the workers are busy and the job's turn comes.
func (w *Worker) tellDue(ctx context.Context) error {
	const most = 500
	due, err := w.db.DueJobs(ctx, 2*w.opt.Reconcile, most)
	if err != nil || len(due) == 0 {
		return err
	}
	waiting, err := w.queue.Waiting()
	if err != nil {
		return err
	}
	for _, job := range due {
		if job.Repeated && waiting > 0 {
			continue
		}
		if err := w.queue.Tell(ctx, job.Kind, job.ID); err != nil {
			return err
		}
		if err := w.db.MarkEnqueued(ctx, job.ID); err != nil {
			return err
		}
	}
	return nil
}
