package pages

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/francescobianco/packbase/api/answer"
	"github.com/francescobianco/packbase/api/directory"
	"github.com/francescobianco/packbase/api/health"
	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage/jobs"
)

// A dashboard is the page /.
type dashboard struct {
	frame
	Needs []need // what waits for the operator, the worst first

	Packages, Healthy, Unhealthy, Stale, Waiting, Frozen int
	Releases, Snapshots, Moved                           int
	Bytes                                                int64
	DiskFree                                             int64 // -1 if not known

	Update   update
	Queue    wire.Queue
	Failures []jobView // the first of them
	Failed   int       // all of them, up to mostFailures
	Recent   []jobView
	Chart    chart
	Shares   []share // of languages, the largest first
	Start    string  // a package to try, when there is little else here
	Gone     bool    // the database is away: what needs it is left out
}

func (*dashboard) template() string { return "dashboard" }

// A need is one thing that waits for the operator.
type need struct {
	Level   string // bad or warn
	What    string // a sentence
	Why     string // more of it
	Command string // that mends it
	Link    string // where to look
	To      string
}

// Level is the worst of all needs, ok if there is none.
func (d *dashboard) Level() string {
	level := "ok"
	for _, n := range d.Needs {
		if n.Level == "bad" {
			return "bad"
		}
		level = n.Level
	}
	return level
}

// Headline is the state of everything in one sentence.
func (d *dashboard) Headline() string {
	switch n := len(d.Needs); {
	case n == 1:
		return d.Needs[0].What
	case n > 1:
		return counted(n, "thing needs", "things need") + " you"
	case d.Packages == 0 && d.Queue.Active+d.Queue.Pending > 0:
		return "The first package is being mirrored"
	case d.Packages == 0:
		return "Ready for the first package"
	case d.Update.State == "running":
		return "All is well, and an update is running"
	case d.Queue.Active > 0:
		return "All is well, and packages are being mirrored"
	}
	return "All is well"
}

// An update is what is known of the update of all packages.
type update struct {
	wire.Update
	Source string // the catalog's URL; "" for none
}

// Left guesses the time that a running update still takes.
func (u update) Left() string {
	if u.StartedAt == nil {
		return ""
	}
	return timeLeft(int64(u.Done), int64(u.Total), *u.StartedAt, time.Now())
}

// Steps of a job that a worker has.
func (d *dashboard) Steps(p wire.Progress) steps { return newSteps(p) }

// Work names a kind of jobs.
func (d *dashboard) Work(kind string) string { return work(kind) }

// A share is a part of a whole.
type share struct {
	Name     string
	N, Whole int
}

// An overview is what the dashboard asks of Postgres and Redis besides the
// status.
type overview struct {
	failures  []jobs.Job
	recent    []jobs.Job
	catalog   string // why it could not be had
	queueAway bool
	pulse     jobs.Pulse
}

func (s *Site) workOutOverview(ctx context.Context) (*overview, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pageTime)
	defer cancel()
	var o overview
	var err error
	if o.failures, err = s.db.Jobs.Failures(ctx, mostFailures); err != nil {
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

// sourceSaid returns the catalog's URL as everybody may see it: without a
// password or query, and not where a file is on this machine.
func sourceSaid(source string) string {
	u, err := url.Parse(source)
	switch {
	case source == "":
		return ""
	case err != nil, u.Host == "":
		return "a file of this server"
	}
	return u.Scheme + "://" + u.Host + u.EscapedPath()
}

func (s *Site) workOutChart(ctx context.Context) (chart, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pageTime)
	defer cancel()
	first, err := s.db.FirstRelease(ctx)
	if err != nil || first.IsZero() {
		return chart{}, err
	}
	now := time.Now()
	unit, since := chartSpan(now.Sub(first), now)
	counts, err := s.db.ReleaseCounts(ctx, unit, since)
	if err != nil {
		return chart{}, err
	}
	return newChart(unit, since, now, counts), nil
}

// getDashboard serves GET / to browsers. When Postgres is away it shows what
// is in memory, with 503.
func (s *Site) getDashboard(w http.ResponseWriter, r *http.Request) error {
	frame, err := s.frame(r, "", "dashboard")
	if err != nil {
		return err
	}
	ctx := r.Context()
	d := &dashboard{frame: frame, DiskFree: -1}
	v, err := s.directory.Current(ctx)
	c := s.countPackages(d, v)
	if err == nil {
		err = s.fillDashboard(ctx, d, c)
	}
	if err == nil {
		return s.renderer.render(w, http.StatusOK, d)
	}
	if e := answer.FromError(err); e.Status != http.StatusServiceUnavailable {
		return err
	}
	s.log.WarnContext(ctx, "dashboard shows what is in memory", "err", err)
	d.Gone = true
	d.Needs = []need{{Level: "bad", What: "The database does not answer",
		Why: "Only what is in memory is served until Postgres is back. Is it running?"}}
	w.Header().Set("Retry-After", "5")
	return s.renderer.render(w, http.StatusServiceUnavailable, d)
}

// shownFailures are on the dashboard, of mostFailures that are counted.
const (
	shownFailures = 8
	mostFailures  = 100
)

// A census counts packages by what an operator may have to do about them.
type census struct{ unfetchable, review, lost int }

// lostCause is after how many failures in a row a package's upstream is taken
// as gone for good: what is mirrored is served, and it needs nobody any more.
const lostCause = 10

func (s *Site) countPackages(d *dashboard, v *directory.View) (c census) {
	t := v.Totals
	d.Packages, d.Releases, d.Snapshots, d.Bytes = t.Packages, t.Releases, t.Snapshots, t.Bytes
	d.Healthy, d.Unhealthy, d.Stale, d.Waiting, d.Frozen = t.Healthy, t.Unhealthy, t.Stale, t.Waiting, t.Frozen
	d.Shares = shares(t.Languages, 8)
	for _, p := range v.Packages {
		if p.MovedCount > 0 {
			d.Moved += p.MovedCount
		}
		if matches(p, "unfetchable") {
			c.unfetchable++
		}
		if p.AwaitsReview() {
			c.review++
		}
		if matches(p, "failing") {
			c.lost++
		}
	}
	if len(v.Packages) == 1 && (packageView{Package: v.Packages[0].Package}).Link() == "" && v.Packages[0].Local() {
		d.Start = v.Packages[0].Called()
	}
	return c
}

func shares(counts map[string]int, most int) []share {
	var all []share
	whole := 0
	for name, n := range counts {
		all = append(all, share{Name: name, N: n})
		whole = max(whole, n)
	}
	slices.SortFunc(all, func(a, b share) int {
		return cmp.Or(cmp.Compare(b.N, a.N), strings.Compare(a.Name, b.Name))
	})
	all = all[:min(most, len(all))]
	for i := range all {
		all[i].Whole = whole
	}
	return all
}

func (s *Site) fillDashboard(ctx context.Context, d *dashboard, c census) error {
	status, err := s.opt.Status(ctx)
	if err != nil {
		return err
	}
	o, err := s.overview.Of(ctx).Get(ctx, s.workOutOverview)
	if err != nil {
		return err
	}
	// Counting takes a second for some hundred thousand releases.
	age := min(time.Second+time.Duration(d.Releases+d.Snapshots)*300*time.Microsecond, time.Minute)
	if d.Chart, err = s.chart.Of(ctx).Within(ctx, age, s.workOutChart); err != nil {
		return err
	}
	d.Update = update{Update: status.Update, Source: sourceSaid(s.opt.Source)}
	d.Queue, d.DiskFree = status.Queue, status.Update.DiskFree
	d.Failures, d.Recent = jobViews(o.failures[:min(len(o.failures), shownFailures)]), jobViews(o.recent)
	d.Failed = len(o.failures)
	d.Needs = s.needs(status, o, c)
	return nil
}

// Free space below which an operator is told, in bytes.
const (
	diskLow  = 5_000_000_000
	diskFull = 1_000_000_000
)

// needs returns what waits for the operator, the worst first.
func (s *Site) needs(status *wire.Status, o *overview, c census) (needs []need) {
	add := func(when bool, n need) {
		if when {
			needs = append(needs, n)
		}
	}
	readOnly := s.opt.Auth == "read_only"
	idle := len(status.Queue.Workers) == 0 && !readOnly
	pending, free := status.Queue.Pending, status.Update.DiskFree
	add(o.queueAway, need{Level: "bad", What: "The queue does not answer",
		Why: "Packages are served, and jobs are kept; they start late until Redis is back. Is it running?"})
	add(idle && pending > 0, need{Level: "bad", What: "No worker is running", Command: "packbase worker",
		Why: plural(pending, "One job waits.", "%d jobs wait.") + " Packages are served, but nothing new is mirrored. Start one:"})
	reconciler, pulse := health.OfWork(o.pulse, nil)
	settled := slices.ContainsFunc(status.Queue.Workers, func(w wire.Worker) bool { return time.Since(w.StartedAt) > health.ReconcilerStalled })
	add(settled && !o.queueAway && !readOnly && reconciler != "ok", need{Level: "bad", What: "Nobody looks after the jobs",
		Why: "A worker runs, but fails to. Jobs that were lost or are tried again later do not start. Its log says why."})
	add(!idle && !readOnly && pulse != "ok", need{Level: "warn", What: "Jobs wait too long",
		Why:  fmt.Sprintf("One has waited for a worker for %v. More workers help if these are busy.", o.pulse.OldestDue.Round(time.Minute)),
		Link: "/jobs?state=queued", To: "Look at them"})
	add(free >= 0 && free < diskFull, need{Level: "bad", What: "The disk is full", Why: "Nothing new can be mirrored until there is space."})
	add(c.unfetchable > 0, need{Level: "bad", What: plural(c.unfetchable, "One package cannot be fetched", "%d packages cannot be fetched"),
		Why: "A client would not get the newest release.", Link: "/packages?filter=unfetchable", To: "Look at them"})
	add(idle && pending == 0, need{Level: "warn", What: "No worker is running", Command: "packbase worker",
		Why: "Packages are served, but nothing new is mirrored. Start one:"})
	add(free >= diskFull && free < diskLow, need{Level: "warn", What: "The disk is nearly full"})
	add(c.review > 0, need{Level: "warn", What: plural(c.review, "One package is frozen and waits for a decision", "%d packages are frozen and wait for a decision"),
		Why: "Upstream changed in a way that somebody should look at.", Link: "/packages?filter=frozen", To: "Decide"})
	add(o.catalog != "", need{Level: "warn", What: "The catalog could not be downloaded", Why: o.catalog})
	add(c.lost > 0, need{Level: "warn", What: plural(c.lost, "One package could not be mirrored", "%d packages could not be mirrored"),
		Why: plural(c.lost, "What is here of it is served, and it is tried again later.", "What is here of these %d is served, and they are tried again later."), Link: "/packages?filter=failing", To: "See why"})
	if c.lost == 0 && o.catalog == "" && len(o.failures) > 0 {
		n := need{Level: "warn", What: plural(len(o.failures), "One job failed", "%d jobs failed"), Link: "#failures", To: "See why"}
		if len(o.failures) == mostFailures {
			n.What = fmt.Sprintf("%d jobs or more failed", mostFailures)
		}
		if len(o.failures) == 1 {
			n.Why, n.Link, n.To = whatFailed(o.failures[0]), "/jobs/"+o.failures[0].ID.String(), "Look at it"
		}
		needs = append(needs, n)
	}
	return needs
}

// whatFailed says what failed and why.
func whatFailed(j jobs.Job) string {
	return strings.TrimSpace((jobView{Job: j}).Work()+" "+j.Package) + ": " + j.ErrorMessage
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return fmt.Sprintf(many, n)
}
