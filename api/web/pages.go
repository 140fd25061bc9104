package web

import (
	"net/url"
	"strconv"
	"time"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage/jobs"
)

// A Dashboard is the page /.
type Dashboard struct {
	Frame
	Needs []Need // what waits for the operator, the worst first

	Packages, Healthy, Unhealthy, Stale, Waiting, Frozen int
	Releases, Moved                                      int
	Bytes                                                int64
	DiskFree                                             int64 // -1 if not known

	Update   Update
	Queue    wire.Queue
	Failures []Job
	Recent   []Job
	Chart    Chart
	Shares   []Share // of languages, the largest first
	Start    string  // a package to try, when there is little else here
	Gone     bool    // the database is away: what needs it is left out
}

func (*Dashboard) template() string { return "dashboard" }

// A Need is one thing that waits for the operator.
type Need struct {
	Level   string // bad or warn
	What    string // a sentence
	Why     string // more of it
	Command string // that mends it
	Link    string // where to look
	To      string
}

// Level is the worst of all needs, ok if there is none.
func (d *Dashboard) Level() string {
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
func (d *Dashboard) Headline() string {
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

// An Update is what is known of the update of all packages.
type Update struct {
	wire.Update
	Source string // the catalog's URL; "" for none
}

// Left guesses the time that a running update still takes.
func (u Update) Left() string {
	if u.StartedAt == nil {
		return ""
	}
	return timeLeft(int64(u.Done), int64(u.Total), *u.StartedAt, time.Now())
}

// Steps of a job that a worker has.
func (d *Dashboard) Steps(p wire.Progress) Steps { return newSteps(p) }

// Work names a kind of jobs.
func (d *Dashboard) Work(kind string) string { return work(kind) }

// A Share is a part of a whole.
type Share struct {
	Name     string
	N, Whole int
}

// A PackageList is the page /packages.
type PackageList struct {
	Frame
	Packages []Package
	Sort     string // one of Sorts
	Filter   string // one of Filters' Name
	Language string
	Filters  []Filter
	Langs    []Share
	Found    int
	All      int
	Pager
}

func (*PackageList) template() string { return "packages" }

// A Filter is one way to look at the list.
type Filter struct {
	Name, Label string
	N           int
}

// Column is a column by which the list can be sorted.
type Column struct{ Name, Label, Class string }

// Columns returns the list's columns.
func (*PackageList) Columns() []Column {
	return []Column{{"name", "Package", "grow"}, {"releases", "Releases", "n"}, {"size", "Size", "n"}, {"updated", "Last release", "n"}}
}

// With returns the list's URL with one part changed; the page number falls away.
func (l *PackageList) With(key, value string) string {
	q := url.Values{}
	for _, part := range [][2]string{{"q", l.Query}, {"sort", l.Sort}, {"filter", l.Filter}, {"language", l.Language}, {key, value}} {
		if q.Del(part[0]); part[1] != "" {
			q.Set(part[0], part[1])
		}
	}
	if len(q) == 0 {
		return "/packages"
	}
	return "/packages?" + q.Encode()
}

// At returns the URL of the n-th page.
func (l *PackageList) At(n int) string { return l.With("page", strconv.Itoa(n)) }

// A Pager cuts a long list into pages.
type Pager struct{ Page, Pages int }

// NewPager returns the pager of n items and the part of them that it shows.
// page is what the request asked for.
func NewPager(page string, n, each int) (p Pager, from, to int) {
	p.Pages = max(1, (n+each-1)/each)
	if n, err := strconv.Atoi(page); err == nil {
		p.Page = n // else it is the first
	}
	p.Page = min(max(p.Page, 1), p.Pages)
	from = min((p.Page-1)*each, n)
	return p, from, min(from+each, n)
}

// Before and After are the pages beside this one; 0 if there is none.
func (p Pager) Before() int { return p.Page - 1 }

// After is the next page; 0 if there is none.
func (p Pager) After() int {
	if p.Page == p.Pages {
		return 0
	}
	return p.Page + 1
}

// A JobList is the page /jobs.
type JobList struct {
	Frame
	State string // what is shown; "" for all
	Jobs  []Job
	Next  string // the path of older ones
}

func (*JobList) template() string { return "jobs" }

// States are those that the list can be cut down to.
func (*JobList) States() []string {
	return []string{"", jobs.Running, jobs.Queued, jobs.Failed, jobs.Succeeded, jobs.Cancelled}
}

// A JobPage is the page /jobs/<id>.
type JobPage struct {
	Frame
	Job Job
	// Workers is how many there are, -1 if not known.
	Workers int
	// Children of an update: how many have ended, of how many.
	Done, Total int
}

func (*JobPage) template() string { return "job" }

// Left guesses how long the step under way still takes.
func (p *JobPage) Left() string {
	if p.Total == 0 || p.Job.StartedAt == nil {
		return ""
	}
	return timeLeft(int64(p.Done), int64(p.Total), *p.Job.StartedAt, time.Now())
}

// A Problem is a page that says why there is no other.
type Problem struct {
	Frame
	Status  int
	Message string
	Near    []Package // what may have been meant
	ID      string    // of the request, when the log has more
}

func (*Problem) template() string { return "problem" }
