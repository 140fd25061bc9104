package api

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/francescobianco/packbase/api/answer"
	"github.com/francescobianco/packbase/api/directory"
	"github.com/francescobianco/packbase/api/health"
	"github.com/francescobianco/packbase/api/web"
	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/jobs"
)

// An overview is what the dashboard asks of Postgres and Redis besides the
// status.
type overview struct {
	failures  []jobs.Job
	recent    []jobs.Job
	catalog   string // why it could not be had
	queueAway bool
	pulse     jobs.Pulse
}

func (s *Server) workOutOverview(ctx context.Context) (*overview, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pageTime)
	defer cancel()
	var o overview
	var err error
	if o.failures, err = s.db.Jobs.Failures(ctx, 8); err != nil {
		return nil, err
	}
	if o.recent, err = s.db.Jobs.List(ctx, jobs.Filter{Limit: 10}); err != nil {
		return nil, err
	}
	if s.opt.Source != "" {
		if o.catalog, _, err = s.db.Catalog.State(ctx, s.opt.Source); err != nil {
			return nil, err
		}
	}
	o.queueAway = s.queue != nil && s.queue.Ping(ctx) != nil
	o.pulse, err = s.db.Jobs.Pulse(ctx)
	return &o, err
}

func (s *Server) workOutChart(ctx context.Context) (web.Chart, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pageTime)
	defer cancel()
	first, err := s.db.FirstRelease(ctx)
	if err != nil || first.IsZero() {
		return web.Chart{}, err
	}
	now := time.Now()
	unit, since := web.ChartSpan(now.Sub(first), now)
	counts, err := s.db.ReleaseCounts(ctx, unit, since)
	if err != nil {
		return web.Chart{}, err
	}
	return web.NewChart(unit, since, now, counts), nil
}

// getDashboard serves GET / to browsers. When Postgres is away it shows what
// is in memory, with 503.
func (s *Server) getDashboard(w http.ResponseWriter, r *http.Request) error {
	frame, err := s.frame(r, "", "dashboard")
	if err != nil {
		return err
	}
	ctx := r.Context()
	d := &web.Dashboard{Frame: frame, DiskFree: -1}
	v, err := s.directory.Look(ctx)
	c := s.countPackages(d, v)
	if err == nil {
		err = s.fillDashboard(ctx, d, c)
	}
	if err == nil {
		return s.site.Render(w, http.StatusOK, d)
	}
	if e := answer.FromError(err); e.Status != http.StatusServiceUnavailable {
		return err
	}
	s.log.WarnContext(ctx, "dashboard shows what is in memory", "err", err)
	d.Gone = true
	d.Needs = []web.Need{{Level: "bad", What: "The database does not answer",
		Why: "Only what is in memory is served until Postgres is back. Is it running?"}}
	w.Header().Set("Retry-After", "5")
	return s.site.Render(w, http.StatusServiceUnavailable, d)
}

// A census counts packages by what an operator may have to do about them.
type census struct{ unhealthy, review, lost int }

// lostCause is after how many failures in a row a package's upstream is taken
// as gone for good: what is mirrored is served, and it needs nobody any more.
const lostCause = 10

func (s *Server) countPackages(d *web.Dashboard, v *directory.View) (c census) {
	t := v.Totals
	d.Packages, d.Releases, d.Bytes, d.Frozen = t.Packages, t.Releases, t.Bytes, t.Frozen
	d.Shares = shares(t.Languages, 8)
	for _, p := range v.Packages {
		if p.MovedCount > 0 {
			d.Moved += p.MovedCount
		}
		switch class(p) {
		case health.Healthy:
			d.Healthy++
		case health.Unhealthy:
			d.Unhealthy++
			if p.SyncOK == nil || *p.SyncOK {
				c.unhealthy++
			}
		case health.Stale:
			d.Stale++
		case health.Waiting:
			d.Waiting++
		}
		if p.AwaitsReview() {
			c.review++
		}
		if p.State == storage.Active && p.SyncOK != nil && !*p.SyncOK && p.SyncFailures < lostCause {
			c.lost++
		}
	}
	if len(v.Packages) == 1 && (web.Package{Package: v.Packages[0].Package}).Link() == "" && v.Packages[0].ReleaseCount > 0 {
		d.Start = v.Packages[0].Name
	}
	return c
}

func shares(counts map[string]int, most int) []web.Share {
	var all []web.Share
	whole := 0
	for name, n := range counts {
		all = append(all, web.Share{Name: name, N: n})
		whole = max(whole, n)
	}
	slices.SortFunc(all, func(a, b web.Share) int {
		return cmp.Or(cmp.Compare(b.N, a.N), strings.Compare(a.Name, b.Name))
	})
	all = all[:min(most, len(all))]
	for i := range all {
		all[i].Whole = whole
	}
	return all
}

func (s *Server) fillDashboard(ctx context.Context, d *web.Dashboard, c census) error {
	status, err := s.status.Of(ctx).Get(ctx, s.workOutStatus)
	if err != nil {
		return err
	}
	o, err := s.overview.Of(ctx).Get(ctx, s.workOutOverview)
	if err != nil {
		return err
	}
	// Counting takes a second for some hundred thousand releases.
	age := min(time.Second+time.Duration(d.Releases)*300*time.Microsecond, time.Minute)
	if d.Chart, err = s.chart.Of(ctx).Within(ctx, age, s.workOutChart); err != nil {
		return err
	}
	d.Update = web.Update{Update: status.Update, Source: s.opt.Source}
	d.Queue, d.DiskFree = status.Queue, status.Update.DiskFree
	d.Failures, d.Recent = web.Jobs(o.failures), web.Jobs(o.recent)
	d.Needs = s.needs(status, o, c)
	return nil
}

// Free space below which an operator is told, in bytes.
const (
	diskLow  = 5_000_000_000
	diskFull = 1_000_000_000
)

// needs returns what waits for the operator, the worst first.
func (s *Server) needs(status *wire.Status, o *overview, c census) (needs []web.Need) {
	add := func(when bool, n web.Need) {
		if when {
			needs = append(needs, n)
		}
	}
	idle := len(status.Queue.Workers) == 0 && !s.opt.ReadOnly
	pending, free := status.Queue.Pending, status.Update.DiskFree
	add(o.queueAway, web.Need{Level: "bad", What: "The queue does not answer",
		Why: "Packages are served, and jobs are kept; they start late until Redis is back. Is it running?"})
	add(idle && pending > 0, web.Need{Level: "bad", What: "No worker is running", Command: "packbase worker",
		Why: plural(pending, "One job waits.", "%d jobs wait.") + " Packages are served, but nothing new is mirrored. Start one:"})
	reconciler, pulse := pulseWords(o.pulse, nil)
	settled := slices.ContainsFunc(status.Queue.Workers, func(w wire.Worker) bool { return time.Since(w.StartedAt) > reconcilerStalled })
	add(settled && !o.queueAway && !s.opt.ReadOnly && reconciler != "ok", web.Need{Level: "bad", What: "Nobody looks after the jobs",
		Why: "A worker runs, but fails to. Jobs that were lost or are tried again later do not start. Its log says why."})
	add(!idle && !s.opt.ReadOnly && pulse != "ok", web.Need{Level: "warn", What: "Jobs wait too long",
		Why:  fmt.Sprintf("One has waited for a worker for %v. More workers help if these are busy.", o.pulse.OldestDue.Round(time.Minute)),
		Link: "/jobs?state=queued", To: "Look at them"})
	add(free >= 0 && free < diskFull, web.Need{Level: "bad", What: "The disk is full", Why: "Nothing new can be mirrored until there is space."})
	add(c.unhealthy > 0, web.Need{Level: "bad", What: plural(c.unhealthy, "One package is unhealthy", "%d packages are unhealthy"),
		Why: "A client would not get the newest release.", Link: "/packages?filter=unhealthy", To: "Look at them"})
	add(idle && pending == 0, web.Need{Level: "warn", What: "No worker is running", Command: "packbase worker",
		Why: "Packages are served, but nothing new is mirrored. Start one:"})
	add(free >= diskFull && free < diskLow, web.Need{Level: "warn", What: "The disk is nearly full"})
	add(c.review > 0, web.Need{Level: "warn", What: plural(c.review, "One package is frozen and waits for a decision", "%d packages are frozen and wait for a decision"),
		Why: "Upstream changed in a way that somebody should look at.", Link: "/packages?filter=frozen", To: "Decide"})
	add(o.catalog != "", web.Need{Level: "warn", What: "The catalog could not be downloaded", Why: o.catalog})
	add(c.lost > 0, web.Need{Level: "warn", What: plural(c.lost, "One package could not be mirrored", "%d packages could not be mirrored"),
		Why: plural(c.lost, "What is here of it is served, and it is tried again later.", "What is here of these %d is served, and they are tried again later."), Link: "/packages?filter=failing", To: "See why"})
	if c.lost == 0 && o.catalog == "" && len(o.failures) > 0 {
		n := web.Need{Level: "warn", What: plural(len(o.failures), "One job failed", "%d jobs failed"), Link: "/jobs?state=failed", To: "See why"}
		if len(o.failures) == 1 {
			n.Why, n.Link, n.To = whatFailed(o.failures[0]), "/jobs/"+o.failures[0].ID.String(), "Look at it"
		}
		needs = append(needs, n)
	}
	return needs
}

// whatFailed says what failed and why.
func whatFailed(j jobs.Job) string {
	return strings.TrimSpace((web.Job{Job: j}).Work()+" "+j.Package) + ": " + j.ErrorMessage
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return fmt.Sprintf(many, n)
}
