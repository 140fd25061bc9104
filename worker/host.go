package worker

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/worker/upstream"
)

// Politeness towards one upstream host, over all workers.
const (
	hostSpacing  = 50 * time.Millisecond // between requests of jobs
	hostRequests = 2                     // of a job: a list and a pack, mostly
	hostJobs     = 6
	hostPatience = 2 * time.Second
)

// asideAfter is how long a job waits for its upstream before it lets another
// one begin beside it.
const asideAfter = 10 * time.Second

// asideOf returns how many jobs of a worker may have stepped aside at once.
// Each is a child process that holds little until its download is complete.
func asideOf(concurrency int) int { return 2*concurrency + 6 }

// hostShare returns how many jobs of a worker one host may have while others
// have jobs that wait: slow hosts must be many to hold a worker up.
func hostShare(concurrency int) int { return max(1, (concurrency+asideOf(concurrency))/4) }

// queueAtHost waits for the host's turn, or has the job come back for it.
func (f *fetch) queueAtHost(ctx context.Context) error {
	host := hostOf(f.pkg.CloneURL)
	if host == "" {
		return nil
	}
	if err := f.roomAtHost(ctx, host); err != nil {
		return err
	}
	err := f.w.awaitHost(ctx, host, hostRequests, hostSpacing)
	var busy *later
	if errors.As(err, &busy) {
		return f.spread(ctx, host, busy)
	}
	return err
}

// spread has those that wait for a host come back one after the other.
func (f *fetch) spread(ctx context.Context, host string, busy *later) error {
	ahead, _, err := f.w.db.Jobs.WaitingAt(ctx, host, f.job.Job.ID)
	if err != nil {
		return err
	}
	const longest = 10 * time.Minute
	return &later{busy.wait + jitter(min(time.Duration(ahead)*hostRequests*hostSpacing, longest))}
}

// awaitHost waits for the host's turn, or has the job come back for it.
func (w *Worker) awaitHost(ctx context.Context, host string, requests int, spacing time.Duration) error {
	wait, err := w.db.Jobs.ReserveHost(ctx, host, requests, spacing, hostPatience)
	if err != nil {
		return err
	}
	if wait > hostPatience {
		return &later{wait}
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(wait):
		return nil
	}
}

// roomAtHost has the job come back if the host has all the jobs that it may
// have, be it because it takes no more or because others wait. Who waits longer
// comes back sooner.
func (f *fetch) roomAtHost(ctx context.Context, host string) error {
	running, here, err := f.w.db.Jobs.RunningAt(ctx, host, f.w.opt.ID)
	if err != nil || running <= hostJobs && here <= hostShare(f.w.opt.Concurrency) {
		return err
	}
	ahead, others, err := f.w.db.Jobs.WaitingAt(ctx, host, f.job.Job.ID)
	if err != nil || running <= hostJobs && !others {
		return err
	}
	const longest = 10 * time.Second
	return &later{jitter(min(time.Second*time.Duration(1+ahead/hostJobs), longest))}
}

// A patience lets another job begin once its own has waited for upstream for
// long, if there is room beside the worker's jobs.
type patience struct {
	room  chan struct{} // takes a token for each job that stepped aside
	leave func()

	mu    sync.Mutex
	timer *time.Timer // while the job waits and has not stepped aside
	aside bool
}

// waits says whether the job waits for its upstream now.
func (p *patience) waits(yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case yes && p.timer == nil && !p.aside:
		p.timer = time.AfterFunc(asideAfter, p.end)
	case !yes && p.timer != nil:
		p.timer.Stop()
		p.timer = nil
	}
}

// end steps aside, now or when there is room.
func (p *patience) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer == nil {
		return // upstream has just answered
	}
	select {
	case p.room <- struct{}{}:
		p.aside, p.timer = true, nil
		p.leave()
	default:
		p.timer.Reset(asideAfter)
	}
}

// done is for the end of the job.
func (p *patience) done() {
	p.waits(false)
	if p.aside {
		<-p.room
	}
}

// pauseHost keeps all workers from a host that asked for a rest.
func (f *fetch) pauseHost(ctx context.Context, err error) error {
	var e *fault.Error
	if errors.As(err, &e) && restOf(e) > 0 {
		return errors.Join(err, f.w.db.Jobs.PauseHost(ctx, hostOf(f.pkg.CloneURL), restOf(e)))
	}
	return err
}

// restOf returns how long the host is not to be asked after an error, 0 if it may be.
func restOf(e *fault.Error) time.Duration {
	const unsaid = time.Minute
	if e.Code == upstream.CodeRateLimited {
		return cmp.Or(e.RetryAfter, unsaid)
	}
	return e.RetryAfter
}
