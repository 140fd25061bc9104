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
	"io"
	"log/slog"
	"net/http"
	"os/exec"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/capture"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/ledger"
	"github.com/francescobianco/packbase/storage/queue"
	"github.com/francescobianco/packbase/storage/scrub"
	"github.com/francescobianco/packbase/storage/tree"
	"github.com/francescobianco/packbase/worker/ingest"
	"github.com/francescobianco/packbase/worker/probe"
	"github.com/francescobianco/packbase/worker/upstream"
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

	Child  func(ctx context.Context, name string) *exec.Cmd // one of our own processes: `packbase ingest`, `download` or `confine`
	Limits ingest.Limits
	Egress upstream.Options
	Pull   []string     // hosts that are open for pulls, besides the one that was asked for
	Git    http.Handler // the Git interface, to be probed

	// May be left out.
	Changing
	Peers      []string       // other packbases, which are asked by hash for what upstream does not give
	Zig        string         // a zig to probe with
	ZigCache   string         // a folder that it may keep
	Source     string         // the catalog's URL
	Fixtures   string         // folder of local packages, which updates import
	Builtin    string         // folder of packbase's own packages, when there are no fixtures
	CheckTrees time.Duration  // between looks at what upstream still has of a tree; 0 for never
	Scrub      time.Duration  // in which all blobs are read again; 0 for never
	Log        ledger.Options // of the log; without a folder there is none
	Comparing  Comparing      // of the log with others
	Metrics    prometheus.Registerer
}

// Changing are the settings that may change while a worker runs.
type Changing struct {
	Quota          Quota
	UpdateInterval time.Duration // between updates that start by themselves
	UpdateCooldown time.Duration // between the beginnings of any two updates, at least
}

// A Worker does jobs. Make one with New.
type Worker struct {
	db    *storage.DB
	trees *tree.Store
	deps  *capture.Reader
	queue *queue.Queue
	blobs blob.Store
	opt   Options
	log   *slog.Logger
	table map[string]func(context.Context, *job) (any, error)
	aside chan struct{} // a token for each job that stepped aside
	heavy chan struct{} // the token of who builds a heavy release
	web   *upstream.Client
	probe *probe.Prober
	rules string // what tags are judged by

	changing atomic.Pointer[Changing]
	catalog  atomic.Pointer[heldCatalog] // nil while there is none

	jobSeconds     *prometheus.HistogramVec
	upstreamErrors *prometheus.CounterVec
	damage         *prometheus.CounterVec
}

// New returns a worker that has not begun to work.
func New(db *storage.DB, q *queue.Queue, blobs blob.Store, opt Options, log *slog.Logger) *Worker {
	w := &Worker{db: db, trees: tree.New(db.DB), queue: q, blobs: blobs, opt: opt, log: log.With("worker", opt.ID), web: upstream.New(opt.Egress), rules: rulesOf(opt)}
	w.probe = &probe.Prober{DB: db, Staging: opt.Staging, Git: opt.Git, Limits: gitpack.StoredLimits(), Zig: opt.Zig, ZigCache: opt.ZigCache, Child: opt.Child}
	w.deps = capture.NewReader(func(ctx context.Context, digest string) (io.ReadCloser, error) { return blobs.Open(ctx, digest) })
	w.Change(opt.Changing)
	w.table = map[string]func(context.Context, *job) (any, error){
		jobs.FetchPackage:  w.fetchPackage,
		jobs.ProbePackage:  w.probePackage,
		jobs.UpdateCatalog: w.updateCatalog,
		jobs.FetchArchive:  w.fetchArchive,
		jobs.CaptureTree:   w.captureTree,
		jobs.CheckTree:     w.checkTree,
	}
	w.aside = make(chan struct{}, asideOf(opt.Concurrency))
	w.heavy = make(chan struct{}, 1)
	w.jobSeconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "packbase_job_seconds", Help: "Time of one attempt at a job, by kind.",
		Buckets: []float64{.05, .2, 1, 5, 20, 60, 300, 1800},
	}, []string{"kind"})
	w.upstreamErrors = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "packbase_upstream_errors_total", Help: "Attempts that failed, by code.",
	}, []string{"code"})
	w.damage = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "packbase_damaged_blobs_total", Help: "Blobs found damaged or lost, by whether that could be mended.",
	}, []string{"mended"})
	if opt.Metrics != nil {
		opt.Metrics.MustRegister(w.jobSeconds, w.upstreamErrors, w.damage)
	}
	return w
}

// Change gives the worker other settings, for what begins from now on.
func (w *Worker) Change(to Changing) { w.changing.Store(&to) }

// Run works until ctx ends. Jobs under way are then handed back without
// spending an attempt.
func (w *Worker) Run(ctx context.Context) error {
	stranger := ctx
	ctx = access.SeePrivate(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { w.reconcile(ctx) })
	wg.Go(func() { w.tidy(ctx) })
	wg.Go(func() { w.scrub(ctx) })
	wg.Go(func() { w.keepIndex(stranger) })
	wg.Go(func() { w.sequence(stranger) })
	wg.Go(func() { w.compareLogs(stranger) })
	err := w.queue.Serve(ctx, w.opt.Concurrency, func(_ context.Context, kind string, job uuid.UUID) {
		// A job that steps aside outlives the message that told of it.
		free := make(chan struct{})
		leave := sync.OnceFunc(func() { close(free) })
		wg.Go(func() {
			defer leave()
			w.handle(scrub.WithMaxBytes(ctx, w.changing.Load().Quota.Total), kind, job, leave)
		})
		<-free
	}, w.log)
	wg.Wait()
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if ferr := w.db.Jobs.ForgetWorker(end, w.opt.ID); ferr != nil {
		w.log.Warn("worker not signed off", "err", ferr)
	}
	return err
}

// A job is a claimed job while it is worked on.
type job struct {
	jobs.Claim
	mu       sync.Mutex
	progress jobs.Progress
	sync     *jobs.Sync      // how the look at upstream went, if the job had one
	pkg      storage.Package // of a fetch, as it was before
	listed   bool            // upstream told what it has, and nothing is wrong with that
	advanced bool            // this attempt settled something that the next one need not do again
	secret   bool            // the files of an archive came for credentials, and how that ended tells of them
	leave    func()          // lets the worker begin another job beside this one
}

// A failure is the result of a job that failed, if it has one.
type failure struct {
	Private bool `json:"private"` // why it failed tells of what is private
}

// ofStranger reports whether somebody without a token has a private package
// fetched. How that ends is told, so it must say nothing of what is here.
func (j *job) ofStranger() bool { return j.Job.Pull && j.pkg.Private }

func (j *job) setProgress(p jobs.Progress) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.progress = p
}

func (j *job) getProgress() jobs.Progress {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.progress
}

// errParked says that the job goes on without a worker until others end it.
var errParked = errors.New("parked")

// handle claims the job, works on it and records how that ended.
// leave lets the worker begin another job beside it.
func (w *Worker) handle(ctx context.Context, kind string, id uuid.UUID, leave func()) {
	claim, err := w.db.Jobs.Claim(ctx, id, w.opt.ID, w.opt.Lease)
	if errors.Is(err, jobs.ErrLost) {
		return // told of twice, or not due: the reconciler sees to it
	}
	log := w.log.With("job", id, "kind", kind, "package", claim.Job.Package)
	if err != nil {
		log.WarnContext(ctx, "job not claimed", "err", err)
		claim.Job.Kind = kind
		_ = w.deliver(ctx, log, func(ctx context.Context) error { return w.db.Jobs.Requeue(ctx, claim, 0, false, "", "") })
		return
	}
	log.InfoContext(ctx, "job started", "attempt", claim.Job.Attempts)
	start := time.Now()
	j := &job{Claim: claim, leave: leave}

	// The claim is kept until the outcome is recorded, also while the worker stops.
	var wg sync.WaitGroup
	defer wg.Wait()
	beat, endBeat := context.WithCancel(context.WithoutCancel(ctx))
	defer endBeat()
	doing, cancel := context.WithCancelCause(jobs.WithClaim(ctx, claim))
	defer cancel(nil)
	wg.Go(func() { w.heartbeat(beat, j, cancel) })

	result, err := w.work(doing, j)
	if record := w.outcome(j, result, err, ctx.Err() != nil); record != nil {
		err := w.deliver(ctx, log, record)
		if err != nil && !errors.Is(err, jobs.ErrLost) && !errors.Is(err, fault.ErrAway) {
			log.ErrorContext(ctx, "job outcome refused", "err", err)
			err = w.deliver(ctx, log, func(ctx context.Context) error {
				return w.db.Jobs.End(ctx, claim, jobs.Outcome{State: jobs.Failed, Code: errUnforeseen.Code, Message: errUnforeseen.Message})
			})
		}
		if err != nil {
			log.WarnContext(ctx, "job outcome not recorded", "err", err)
			return
		}
	}
	w.wake(ctx, claim.Job)
	w.jobSeconds.WithLabelValues(claim.Job.Kind).Observe(time.Since(start).Seconds())
	line := []any{"took", time.Since(start).Round(time.Millisecond)}
	if err != nil {
		line = append(line, "err", err)
	}
	log.InfoContext(ctx, "job ended", line...)
}

// work runs the job under its time limit.
func (w *Worker) work(ctx context.Context, j *job) (result any, err error) {
	do, ok := w.table[j.Job.Kind]
	if !ok {
		return nil, fault.New("unknown_job", fmt.Sprintf("this packbase does not know jobs of kind %q", j.Job.Kind))
	}
	ctx, stop := context.WithTimeoutCause(ctx, w.opt.JobTimeout,
		fault.New("timeout", fmt.Sprintf("the job took longer than %s", w.opt.JobTimeout)))
	defer stop()

	defer func() {
		if p := recover(); p != nil {
			w.log.ErrorContext(ctx, "job panicked", "job", j.Job.ID, "panic", p, "stack", string(debug.Stack()))
			err = errUnforeseen
		}
	}()
	result, err = do(ctx, j)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	return result, err
}

// probePackage fetches the newest release back, as a client would, and keeps a
// record of the package, also of what was decided about it.
func (w *Worker) probePackage(ctx context.Context, j *job) (any, error) {
	if err := w.mend(ctx, j); err != nil {
		return nil, err
	}
	found, err := w.probe.Probe(ctx, j.Job.Package)
	if err != nil && !errors.Is(err, fault.ErrGone) {
		return nil, err
	}
	return found, w.recordOnly(ctx, j)
}

var errUnforeseen = fault.New("internal", "the job failed in a way that was not foreseen; the worker's log has the details").AsFinal()

var errCancelled = fault.New("cancelled", "cancelled on request")

// heartbeat renews the lease and stores progress until ctx ends. It cancels the
// job when its claim is lost or somebody asks for that. A database that is
// away is no reason: the claim may well hold, and fences what is published.
func (w *Worker) heartbeat(ctx context.Context, j *job, cancel context.CancelCauseFunc) {
	const every = 500 * time.Millisecond
	tick := time.NewTicker(every)
	defer tick.Stop()
	last, lastAt := jobs.Progress{}, time.Now()
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
		cancelling, err := w.extend(ctx, j, p)
		switch {
		case errors.Is(err, jobs.ErrLost):
			cancel(err)
			return
		case err != nil:
			continue
		case cancelling:
			cancel(errCancelled)
		}
		last, lastAt = p, time.Now()
	}
}

// extend gives up early enough for another try within the lease.
func (w *Worker) extend(ctx context.Context, j *job, p jobs.Progress) (cancelling bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, max(w.opt.Lease/3, 2*time.Second))
	defer cancel()
	return w.db.Jobs.Extend(ctx, j.Claim, w.opt.Lease, p)
}

// outcome returns what records how the job ended, nil if others do. stopping
// says that the worker is.
func (w *Worker) outcome(j *job, result any, err error, stopping bool) func(context.Context) error {
	requeue := func(wait time.Duration, spent bool, code, message string) func(context.Context) error {
		return func(ctx context.Context) error { return w.db.Jobs.Requeue(ctx, j.Claim, wait, spent, code, message) }
	}
	end := func(o jobs.Outcome) func(context.Context) error {
		o.Progress = j.getProgress()
		return func(ctx context.Context) error { return w.db.Jobs.End(ctx, j.Claim, o) }
	}
	var busy *later
	switch {
	case errors.Is(err, errParked), errors.Is(err, jobs.ErrLost):
		return nil
	case errors.As(err, &busy):
		return requeue(busy.wait, false, "", "")
	case err != nil && stopping:
		return requeue(0, false, "", "")
	case err == nil:
		o := jobs.Outcome{State: jobs.Succeeded, Result: result, Sync: j.sync}
		if r, ok := result.(FetchResult); ok {
			o.Created, o.Present = r.Created, r.Present
		}
		return end(o)
	}
	e := verdict(err)
	w.upstreamErrors.WithLabelValues(e.Code).Inc()
	if e.Code == "internal" {
		w.log.Error("job failed", "job", j.Job.ID, "kind", j.Job.Kind, "package", j.Job.Package, "err", err)
	}
	if wait, again := w.again(j, e); again {
		return requeue(wait, e != errAway, e.Code, e.Message)
	}
	out := jobs.Outcome{State: jobs.Failed, Code: e.Code, Message: e.Message}
	if j.secret {
		out.Result = failure{Private: true}
	}
	if e == errCancelled {
		out.State = jobs.Cancelled
	} else if j.Job.Kind == jobs.FetchPackage && !j.ofTarget(e.Code) && !j.ofStranger() {
		out.Sync = &jobs.Sync{Code: e.Code, Message: e.Message, Wait: w.nextSync(e, j.pkg.SyncFailures)}
	}
	return end(out)
}

const (
	stopWait    = 20 * time.Second // for outcomes, once the worker stops
	deliverTry  = 10 * time.Second
	mostRefused = 3
)

// deliver records an outcome: until that is done or the claim is lost, however
// long the database is away. It returns ErrLost then, and the database's error
// if it was asked and refuses, or is still away stopWait after ctx has ended.
func (w *Worker) deliver(ctx context.Context, log *slog.Logger, record func(context.Context) error) error {
	end, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(stopWait, cancel) })()
	refused := 0
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		try, done := context.WithTimeout(end, deliverTry)
		err := record(try)
		done()
		if err == nil || errors.Is(err, jobs.ErrLost) {
			return err
		}
		if !errors.Is(err, fault.ErrAway) {
			if refused++; refused == mostRefused {
				return err
			}
		}
		log.WarnContext(ctx, "job outcome not recorded yet", "err", err)
		select {
		case <-end.Done():
			return err
		case <-time.After(wait):
		}
	}
}
