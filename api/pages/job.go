package pages

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/jobs"
)

// A jobList is the page /jobs.
type jobList struct {
	frame
	State string // what is shown; "" for all
	Jobs  []jobView
	Next  string // the path of older ones
}

func (*jobList) template() string { return "jobs" }

// States are those that the list can be cut down to.
func (*jobList) States() []string {
	return []string{"", jobs.Running, jobs.Queued, jobs.Failed, jobs.Succeeded, jobs.Cancelled}
}

// A jobPage is the page /jobs/<id>.
type jobPage struct {
	frame
	Job jobView
	// Workers is how many there are, -1 if not known.
	Workers  int
	Upstream packageView // of the job's package; of no name without one
	// Children of an update: how many have ended, of how many.
	Done, Total int
}

func (*jobPage) template() string { return "job" }

// Left guesses how long the step under way still takes.
func (p *jobPage) Left() string {
	if p.Total == 0 || p.Job.StartedAt == nil {
		return ""
	}
	return timeLeft(int64(p.Done), int64(p.Total), *p.Job.StartedAt, time.Now())
}

// getJobList serves GET /jobs?state=&before= to browsers.
func (s *Site) getJobList(w http.ResponseWriter, r *http.Request) error {
	frame, err := s.frame(r, "Jobs", "jobs")
	if err != nil {
		return err
	}
	f, err := s.opt.Jobs(r)
	if err != nil {
		return err
	}
	jobs, err := s.db.Jobs.List(r.Context(), f)
	if err != nil {
		return err
	}
	page := &jobList{frame: frame, State: f.State, Jobs: jobViews(jobs)}
	if len(jobs) == f.Limit {
		q := r.URL.Query()
		q.Set("before", jobs[len(jobs)-1].ID.String())
		page.Next = "/jobs?" + q.Encode()
	}
	return s.renderer.render(w, http.StatusOK, page)
}

// getJobPage serves GET /jobs/{id} to browsers.
func (s *Site) getJobPage(w http.ResponseWriter, r *http.Request) error {
	frame, err := s.frame(r, "Job", "job")
	if err != nil {
		return err
	}
	job, err := s.opt.Job(r)
	if err != nil {
		return err
	}
	page := &jobPage{frame: frame, Job: jobView{Job: job}, Workers: -1}
	page.Title = strings.TrimSpace(page.Job.Work() + " " + job.Package)
	if job.Package != "" {
		p, err := s.db.PackageByName(r.Context(), job.Package)
		if err != nil && !errors.Is(err, fault.ErrNotFound) && !errors.Is(err, fault.ErrGone) {
			return err
		}
		page.Upstream = packageView{p}
	}
	switch {
	case job.State == jobs.Queued:
		status, err := s.opt.Status(r.Context())
		if err != nil {
			return err
		}
		page.Workers = len(status.Queue.Workers)
	case job.State == jobs.Running && job.Kind == jobs.UpdateCatalog && job.RunID != nil:
		if page.Done, page.Total, err = s.db.Jobs.RunProgress(r.Context(), *job.RunID); err != nil {
			return err
		}
	}
	return s.renderer.render(w, http.StatusOK, page)
}

// A jobView is a job in words.
type jobView struct{ jobs.Job }

// jobViews wraps jobs.
func jobViews(all []jobs.Job) []jobView {
	jobs := make([]jobView, len(all))
	for i, j := range all {
		jobs[i] = jobView{j}
	}
	return jobs
}

// Open reports whether the job has not ended. Templates cannot call the
// method of the pointer.
func (j jobView) Open() bool { return j.Job.Open() }

// Work says what the job is for, without the package.
func (j jobView) Work() string { return work(j.Kind) }

func work(kind string) string {
	switch kind {
	case jobs.FetchPackage:
		return "Mirror"
	case jobs.ProbePackage:
		return "Check"
	case jobs.UpdateCatalog:
		return "Update all packages"
	case jobs.FetchArchive:
		return "Download"
	case jobs.CaptureTree:
		return "Capture"
	case jobs.CheckTree:
		return "Ask upstream for"
	}
	return kind
}

// Level is how the job's state looks: ok, warn, bad, busy or idle.
func (j jobView) Level() string {
	switch j.State {
	case jobs.Succeeded:
		return "ok"
	case jobs.Failed:
		return "bad"
	case jobs.Running:
		return "busy"
	case jobs.Queued:
		if j.Attempts > 0 {
			return "warn"
		}
	}
	return "idle"
}

// Word is the job's state.
func (j jobView) Word() string {
	switch {
	case j.Open() && j.Cancelling:
		return "stopping"
	case j.State == jobs.Queued && j.Attempts > 0:
		return "will try again"
	case j.State == jobs.Succeeded:
		return "done"
	}
	return j.State
}

// CanRetry reports whether the job may run again.
func (j jobView) CanRetry() bool { return j.State == jobs.Failed || j.State == jobs.Cancelled }

// Took is how long the job ran, or has run so far; 0 if it never did.
func (j jobView) Took() time.Duration {
	switch {
	case j.StartedAt == nil:
		return 0
	case j.EndedAt == nil:
		return time.Since(*j.StartedAt)
	}
	return j.EndedAt.Sub(*j.StartedAt)
}

// When is the last moment that something happened to the job.
func (j jobView) When() time.Time {
	switch {
	case j.EndedAt != nil:
		return *j.EndedAt
	case j.StartedAt != nil:
		return *j.StartedAt
	}
	return j.CreatedAt
}

// Steps are what the job shows of its progress.
func (j jobView) Steps() steps { return newSteps(wire.Progress(j.Progress)) }

// steps is progress in words.
type steps struct {
	Step        string // what is being done
	Amount      string // how much of it: "3 of 14 tags"
	Done, Total int64  // Total is 0 if it is not known
}

func newSteps(p wire.Progress) steps {
	s := steps{Step: stepWords(p.Step), Done: p.Done, Total: p.Total}
	amount := number[int64]
	if p.Unit == "bytes" {
		amount = size
	}
	switch {
	case p.Total > 0:
		s.Amount = amount(p.Done) + " of " + amount(p.Total)
	case p.Done > 0:
		s.Amount = amount(p.Done)
	}
	if s.Amount != "" && p.Unit != "bytes" {
		s.Amount += " " + p.Unit
	}
	return s
}

func stepWords(step string) string {
	switch step {
	case "list refs":
		return "Asking upstream for its tags"
	case "download":
		return "Downloading from upstream"
	case "unpack":
		return "Unpacking what came"
	case "check":
		return "Checking every file"
	case "store":
		return "Storing Git objects"
	case "build":
		return "Building tarballs"
	case "probe":
		return "Fetching it back as a client would"
	case "download catalog":
		return "Downloading the catalog"
	case "capture":
		return "Having brought what is missing"
	case "look":
		return "Asking upstream which packages changed"
	case "plan":
		return "Looking what changed"
	case "":
		return "Starting"
	}
	return strings.ToUpper(step[:1]) + step[1:]
}

// A trailStep is one of the steps that a job goes through.
type trailStep struct {
	Text  string
	State string // done, now, failed or later
}

// fetchSteps are those of a fetch, in their order.
var fetchSteps = []string{"list refs", "download", "unpack", "check", "build", "store", "probe"}

// Trail says where a fetch is among its steps, or where it failed; nothing of
// other jobs, of one that has not begun, or had nothing to do.
func (j jobView) Trail() (trail []trailStep) {
	at := slices.Index(fetchSteps, j.Progress.Step)
	if j.Kind != jobs.FetchPackage || at < 0 || j.State == jobs.Succeeded && j.Fetched().Created == 0 {
		return nil
	}
	for i, step := range fetchSteps {
		s := trailStep{stepWords(step), "later"}
		switch {
		case i < at || j.State == jobs.Succeeded:
			s.State = "done"
		case i == at && j.State == jobs.Failed:
			s.State = "failed"
		case i == at:
			s.State = "now"
		}
		trail = append(trail, s)
	}
	return trail
}

// Fetched returns what a fetch that succeeded did.
func (j jobView) Fetched() (r wire.FetchResult) {
	_ = json.Unmarshal(j.Result, &r) // what cannot be read is left out
	return r
}

// Captured returns what a capture that succeeded found.
func (j jobView) Captured() (c wire.Captured) {
	_ = json.Unmarshal(j.Result, &c) // what cannot be read is left out
	return c
}

// Tree is the path of the page of a capture's tree.
func (j jobView) Tree() string { return treePath(j.Target) }

// Updated returns what an update that succeeded found and did.
func (j jobView) Updated() (n wire.Counters) {
	_ = json.Unmarshal(j.Result, &n) // what cannot be read is left out
	return n
}
