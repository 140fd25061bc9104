package web

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage/jobs"
)

// A Job is a job in words.
type Job struct{ jobs.Job }

// Jobs wraps jobs.
func Jobs(all []jobs.Job) []Job {
	jobs := make([]Job, len(all))
	for i, j := range all {
		jobs[i] = Job{j}
	}
	return jobs
}

// Open reports whether the job has not ended. Templates cannot call the
// method of the pointer.
func (j Job) Open() bool { return j.Job.Open() }

// Work says what the job is for, without the package.
func (j Job) Work() string { return work(j.Kind) }

func work(kind string) string {
	switch kind {
	case jobs.FetchPackage:
		return "Mirror"
	case jobs.ProbePackage:
		return "Check"
	case jobs.UpdateCatalog:
		return "Update all packages"
	}
	return kind
}

// Level is how the job's state looks: ok, warn, bad, busy or idle.
func (j Job) Level() string {
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
func (j Job) Word() string {
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
func (j Job) CanRetry() bool { return j.State == jobs.Failed || j.State == jobs.Cancelled }

// Took is how long the job ran, or has run so far; 0 if it never did.
func (j Job) Took() time.Duration {
	switch {
	case j.StartedAt == nil:
		return 0
	case j.EndedAt == nil:
		return time.Since(*j.StartedAt)
	}
	return j.EndedAt.Sub(*j.StartedAt)
}

// When is the last moment that something happened to the job.
func (j Job) When() time.Time {
	switch {
	case j.EndedAt != nil:
		return *j.EndedAt
	case j.StartedAt != nil:
		return *j.StartedAt
	}
	return j.CreatedAt
}

// Steps are what the job shows of its progress.
func (j Job) Steps() Steps { return newSteps(wire.Progress(j.Progress)) }

// Steps is progress in words.
type Steps struct {
	Step        string // what is being done
	Amount      string // how much of it: "3 of 14 tags"
	Done, Total int64  // Total is 0 if it is not known
}

func newSteps(p wire.Progress) Steps {
	s := Steps{Step: stepWords(p.Step), Done: p.Done, Total: p.Total}
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
	case "plan":
		return "Looking what changed"
	case "":
		return "Starting"
	}
	return strings.ToUpper(step[:1]) + step[1:]
}

// Fetched returns what a fetch that succeeded did.
func (j Job) Fetched() (r wire.FetchResult) {
	_ = json.Unmarshal(j.Result, &r) // what cannot be read is left out
	return r
}

// Updated returns what an update that succeeded found and did.
func (j Job) Updated() (n wire.Counters) {
	_ = json.Unmarshal(j.Result, &n) // what cannot be read is left out
	return n
}
