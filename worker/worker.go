// Package worker does the jobs: it mirrors packages, updates the catalog and
// probes what is served.
//
// A job is a row; a message in the queue only names it. Whoever receives the
// message claims the row for a lease that it keeps renewing, so a job may be
// told of twice, at once or late, and is still done once. Workers that vanish
// lose their leases, and the reconciler has their jobs told of again.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os/exec"
	"runtime/debug"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"packbase/storage"
	"packbase/storage/blob"
	"packbase/storage/queue"
	"packbase/worker/ingest"
	"packbase/worker/probe"
	"packbase/worker/upstream"
)

// Options are a worker's settings. All are required unless said otherwise.
type Options struct {
	ID          string // unique among the workers
	Release     string // of packbase, for people to see
	Concurrency int    // jobs at once
	Staging     *blob.Staging

	Lease       time.Duration // how long a vanished worker keeps its jobs
	Reconcile   time.Duration // how often due jobs are looked for
	JobTimeout  time.Duration // of one attempt
	MaxAttempts int           // of jobs that fail for a passing reason
	Backoff     time.Duration // before the second attempt; four times as much before each further one

	Ingest func(ctx context.Context) *exec.Cmd // the child process that mirrors: `packbase ingest`
	Limits ingest.Limits
	Egress upstream.Options
	Git    http.Handler // the Git interface, to be probed

	// May be left out.
	Zig            string        // a zig to probe with
	ZigCache       string        // a folder that it may keep
	Source         string        // the catalog's URL
	Fixtures       string        // folder of local packages, which updates import
	Builtin        string        // folder of packbase's own packages, when there are no fixtures
	UpdateInterval time.Duration // between updates that start by themselves
	UpdateCooldown time.Duration // between the beginnings of any two updates, at least
	Metrics        prometheus.Registerer
}

// A Worker does jobs. Make one with New.
type Worker struct {
	db    *storage.DB
	queue *queue.Queue
	blobs blob.Store
	opt   Options
	log   *slog.Logger
	table map[string]func(context.Context, *job) (any, error)
	web   *upstream.Client
	probe *probe.Prober

	jobSeconds     *prometheus.HistogramVec
	upstreamErrors *prometheus.CounterVec
}

// New returns a worker that has not begun to work.
func New(db *storage.DB, q *queue.Queue, blobs blob.Store, opt Options, log *slog.Logger) *Worker {
	w := &Worker{db: db, queue: q, blobs: blobs, opt: opt, log: log.With("worker", opt.ID), web: upstream.New(opt.Egress)}
	w.probe = &probe.Prober{DB: db, Staging: opt.Staging, Git: opt.Git, Limits: opt.Limits.Git, Zig: opt.Zig, ZigCache: opt.ZigCache}
	w.table = map[string]func(context.Context, *job) (any, error){
		storage.FetchPackage:  w.fetchPackage,
		storage.ProbePackage:  w.probePackage,
		storage.UpdateCatalog: w.updateCatalog,
	}
	w.jobSeconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "packbase_job_seconds", Help: "Time of one attempt at a job, by kind.",
		Buckets: []float64{.05, .2, 1, 5, 20, 60, 300, 1800},
	}, []string{"kind"})
	w.upstreamErrors = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "packbase_upstream_errors_total", Help: "Attempts that failed, by code.",
	}, []string{"code"})
	if opt.Metrics != nil {
		opt.Metrics.MustRegister(w.jobSeconds, w.upstreamErrors)
	}
	return w
}

// Run works until ctx ends. Jobs under way are then handed back without
// spending an attempt.
func (w *Worker) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { w.reconcile(ctx) })
	err := w.queue.Serve(ctx, w.opt.Concurrency, func(ctx context.Context, kind string, job uuid.UUID) {
		// asynq itself does not wait for handlers whose context has ended.
		wg.Add(1)
		defer wg.Done()
		w.handle(ctx, kind, job)
	}, w.log)
	wg.Wait()
	if ferr := w.db.ForgetWorker(context.WithoutCancel(ctx), w.opt.ID); ferr != nil {
		w.log.Warn("worker not signed off", "err", ferr)
	}
	return err
}

// A job is a claimed job while it is worked on.
type job struct {
	storage.Claim
	mu       sync.Mutex
	progress storage.Progress
	sync     *storage.Sync // how the look at upstream went, if the job had one
	failures int           // of the package's syncs in a row, before this job
	advanced bool          // this attempt settled something that the next one need not do again
}

func (j *job) setProgress(p storage.Progress) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.progress = p
}

func (j *job) getProgress() storage.Progress {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.progress
}

// errParked says that the job goes on without a worker until others end it.
var errParked = errors.New("parked")

// handle claims the job, works on it and records how that ended.
func (w *Worker) handle(ctx context.Context, kind string, id uuid.UUID) {
	claim, err := w.db.ClaimJob(ctx, id, w.opt.ID, w.opt.Lease)
	if errors.Is(err, storage.ErrLost) {
		return // told of twice, or not due: the reconciler sees to it
	}
	if err != nil {
		w.log.WarnContext(ctx, "job not claimed", "job", id, "err", err)
		return
	}
	log := w.log.With("job", id, "kind", claim.Job.Kind, "package", claim.Job.Package)
	log.InfoContext(ctx, "job started", "attempt", claim.Job.Attempts)
	start := time.Now()
	j := &job{Claim: claim}
	result, err := w.work(ctx, j)
	// The outcome is recorded even when the worker is stopping.
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	if err := w.finish(end, j, result, err, ctx.Err() != nil); err != nil {
		log.WarnContext(end, "job outcome not recorded", "err", err)
		return
	}
	w.jobSeconds.WithLabelValues(claim.Job.Kind).Observe(time.Since(start).Seconds())
	log.InfoContext(end, "job ended", "took", time.Since(start).Round(time.Millisecond), "err", err)
}

// work runs the job under its lease and time limit.
func (w *Worker) work(ctx context.Context, j *job) (result any, err error) {
	do, ok := w.table[j.Job.Kind]
	if !ok {
		return nil, &Error{Code: "unknown_job", Message: fmt.Sprintf("this packbase does not know jobs of kind %q", j.Job.Kind), Final: true}
	}
	ctx, stop := context.WithTimeoutCause(ctx, w.opt.JobTimeout,
		&Error{Code: "timeout", Message: fmt.Sprintf("the job took longer than %s", w.opt.JobTimeout)})
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	beat, endBeat := context.WithCancel(ctx)
	defer endBeat()
	wg.Go(func() { w.keep(beat, j, cancel) })

	defer func() {
		if p := recover(); p != nil {
			w.log.ErrorContext(ctx, "job panicked", "job", j.Job.ID, "panic", p, "stack", string(debug.Stack()))
			err = &Error{Code: "internal", Message: "the job failed in a way that was not foreseen; the worker's log has the details", Final: true}
		}
	}()
	result, err = do(ctx, j)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	return result, err
}

// probePackage fetches the newest release back, as a client would.
func (w *Worker) probePackage(ctx context.Context, j *job) (any, error) {
	return w.probe.Probe(ctx, j.Job.Package)
}

var errCancelled = &Error{Code: "cancelled", Message: "cancelled on request", Final: true}

// keep renews the lease and stores progress until ctx ends. It cancels the
// job when its claim is lost or somebody asks for that.
func (w *Worker) keep(ctx context.Context, j *job, cancel context.CancelCauseFunc) {
	const look = 500 * time.Millisecond
	tick := time.NewTicker(look)
	defer tick.Stop()
	last, lastAt := storage.Progress{}, time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p := j.getProgress()
		if p == last && time.Since(lastAt) < w.opt.Lease/4 {
			continue
		}
		cancelling, err := w.db.ExtendJob(ctx, j.Claim, w.opt.Lease, p)
		switch {
		case errors.Is(err, storage.ErrLost), err != nil && time.Since(lastAt) > w.opt.Lease:
			cancel(fmt.Errorf("%w: %v", storage.ErrLost, err))
			return
		case err != nil:
			continue // Postgres may be away for a moment; the fence guards what is published
		case cancelling:
			cancel(errCancelled)
			return
		}
		last, lastAt = p, time.Now()
	}
}

// finish records how the job ended. stopping says that the worker is.
func (w *Worker) finish(ctx context.Context, j *job, result any, err error, stopping bool) error {
	var busy *later
	switch {
	case errors.Is(err, errParked), errors.Is(err, storage.ErrLost):
		return nil
	case errors.As(err, &busy):
		return w.db.RequeueJob(ctx, j.Claim, busy.wait, false, "", "")
	case err != nil && stopping:
		return w.db.RequeueJob(ctx, j.Claim, 0, false, "", "")
	case err == nil:
		return w.db.EndJob(ctx, j.Claim, storage.Outcome{
			State: storage.Succeeded, Result: result, Progress: j.getProgress(), Sync: j.sync,
		})
	}
	e := verdict(err)
	w.upstreamErrors.WithLabelValues(e.Code).Inc()
	if e.Code == "internal" {
		w.log.ErrorContext(ctx, "job failed", "job", j.Job.ID, "kind", j.Job.Kind, "package", j.Job.Package, "err", err)
	}
	if wait, again := w.again(j, e); again {
		return w.db.RequeueJob(ctx, j.Claim, wait, true, e.Code, e.Message)
	}
	out := storage.Outcome{State: storage.Failed, Code: e.Code, Message: e.Message, Progress: j.getProgress()}
	if e == errCancelled {
		out.State = storage.Cancelled
	} else if j.Job.Kind == storage.FetchPackage {
		out.Sync = &storage.Sync{Code: e.Code, Message: e.Message, Wait: w.nextSync(e, j.failures)}
	}
	return w.db.EndJob(ctx, j.Claim, out)
}
