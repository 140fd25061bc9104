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
	every(ctx, w.opt.Reconcile, func() {
		if err := w.reconcileOnce(ctx); err != nil && ctx.Err() == nil {
			w.log.WarnContext(ctx, "jobs not reconciled", "err", err)
		}
	})
}

// tidy sweeps until ctx ends. It may take long, so nothing waits for it.
func (w *Worker) tidy(ctx context.Context) {
	every(ctx, sweepEvery, func() {
		if err := w.sweep(ctx); err != nil && ctx.Err() == nil {
			w.log.WarnContext(ctx, "not swept", "err", err)
		}
	})
}

// every does it now and then again and again until ctx ends.
func every(ctx context.Context, interval time.Duration, do func()) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		do()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

const (
	sweepEvery   = time.Hour
	jobRetention = 30 * 24 * time.Hour // after their end
)

// sweep removes what crashed writers left in staging, and old jobs. Blobs are
// swept by `packbase gc` alone.
func (w *Worker) sweep(ctx context.Context) error {
	age := 2 * w.opt.JobTimeout
	return errors.Join(w.opt.Staging.Sweep(ctx, 0), w.blobs.Sweep(ctx, age), w.db.Jobs.Prune(ctx, jobRetention))
}

// stepTime bounds a step of reconcileOnce: the next round goes on with it.
const stepTime = 10 * time.Second

// reconcileOnce takes each step whatever becomes of the others, and notes when
// all went well.
func (w *Worker) reconcileOnce(ctx context.Context) error {
	var all error
	keeper := w.auditor()
	for _, step := range []func(context.Context) error{w.signIn, w.reap, w.requestDue, w.requestChecks, w.db.Jobs.CloseRuns, w.enqueueDue, w.db.AnnounceBranches, keeper.KeepRemovals, keeper.KeepTrees} {
		ctx, cancel := context.WithTimeout(ctx, stepTime)
		all = errors.Join(all, step(ctx))
		cancel()
	}
	if all != nil {
		return all
	}
	return w.db.Jobs.Reconciled(ctx)
}

func (w *Worker) signIn(ctx context.Context) error {
	return w.db.Jobs.Heartbeat(ctx, w.opt.ID, w.opt.Concurrency, w.opt.Release)
}

// reap takes jobs from workers that vanished.
func (w *Worker) reap(ctx context.Context) error {
	// Live workers renew four times in a lease, so half of one is more than
	// they can lose while the database is away.
	if err := w.db.Jobs.Watch(ctx, w.opt.Lease, max(w.opt.Lease/2, 4*w.opt.Reconcile)); err != nil {
		return err
	}
	lost, err := w.db.Jobs.Reap(ctx)
	for _, job := range lost {
		w.log.WarnContext(ctx, "worker vanished", "job", job.ID, "package", job.Package, "lost_worker", job.Worker, "crashes", job.Crashes)
	}
	return err
}

func (w *Worker) requestDue(ctx context.Context) error {
	now := w.changing.Load()
	if now.UpdateInterval <= 0 {
		return nil
	}
	_, _, err := w.db.Jobs.RequestDueUpdate(ctx, now.UpdateInterval, now.UpdateCooldown)
	return err
}

func (w *Worker) requestChecks(ctx context.Context) error {
	if w.opt.CheckTrees <= 0 {
		return nil
	}
	return w.trees.RequestDueChecks(ctx, w.opt.CheckTrees)
}

// enqueueDue tells the queue of due jobs. A job that it was told of before is
// told of again only when no message is left waiting: as long as there are
// some, the workers are busy and the job's turn comes.
func (w *Worker) enqueueDue(ctx context.Context) error {
	const most = 500
	due, err := w.db.Jobs.Due(ctx, 2*w.opt.Reconcile, most)
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
		if err := w.db.Jobs.Enqueue(ctx, w.queue, job.Kind, job.ID, job.Pull); err != nil {
			return err
		}
	}
	return nil
}
