package wire

import (
	"encoding/json"
	"time"
)

// Fetch asks for a package to be mirrored.
type Fetch struct {
	URL     string `json:"url"`
	Name    string `json:"name,omitempty"`    // of the package; "" for the last part of the URL
	Private bool   `json:"private,omitempty"` // from the beginning
}

// Queued is the answer of a request that made a job and does not wait for it.
type Queued struct {
	JobID    string `json:"job_id"`
	Location string `json:"location"` // path of the job
	Package  string `json:"package,omitempty"`
	RunID    *int64 `json:"run_id,omitempty"` // of an update
	Status   string `json:"status"`           // queued, or started for an update
	Docs     string `json:"docs,omitempty"`   // how to wait, for those who expect a fetch to answer when it is done
}

// Postponed is the answer of an update that does not begin now.
type Postponed struct {
	Queued     bool   `json:"queued"`
	RetryAfter int    `json:"retry_after"` // seconds
	Status     string `json:"status"`      // queued, behind the one that runs, or cooldown
}

// Fetched is the answer of a fetch that was waited for.
type Fetched struct {
	Status string `json:"status"` // ok
	JobID  string `json:"job_id"`
	URL    string `json:"url,omitempty"` // path of the tarball
	FetchResult
}

// FetchResult is what a fetch did.
type FetchResult struct {
	Package string `json:"package"`
	Tag     string `json:"tag"` // the newest release, or the one asked for
	Commit  string `json:"commit,omitempty"`
	Created int    `json:"tarballs_created"`
	Present int    `json:"tarballs_present"` // releases that were there already
	Count   int    `json:"tarball_count"`    // releases that are there now
}

// Updated is the answer of an update that was waited for.
type Updated struct {
	Status string `json:"status"` // ok
	JobID  string `json:"job_id"`
	Counters
}

// Counters say what an update found and did.
type Counters struct {
	SourceChanged     bool `json:"source_changed"`
	SourcePackages    int  `json:"source_packages"`
	SourceAdded       int  `json:"source_added"`
	SourceUpdated     int  `json:"source_updated"`
	SourceRemoved     int  `json:"source_removed"`
	SourceSkipped     int  `json:"source_skipped"`
	SourceRepoFailed  int  `json:"source_repo_failed"`
	SourceRepoCloned  int  `json:"source_repo_cloned"`  // packages that were synced for the first time
	SourceRepoUpdated int  `json:"source_repo_updated"` // the others that were synced
	ReposScanned      int  `json:"repos_scanned"`
	PackagesTotal     int  `json:"packages_total"`
	PackagesSynced    int  `json:"packages_synced"`
	PackagesProbed    int  `json:"packages_probed"`
	TarballsCreated   int  `json:"tarballs_created"`
	TarballsPresent   int  `json:"tarballs_present"`
}

// Jobs is a list of jobs, the newest first.
type Jobs struct {
	Jobs []Job  `json:"jobs"`
	Next string `json:"next,omitempty"` // the path of the next page
}

// A Job is a job as clients see it.
type Job struct {
	ID        string          `json:"id"`
	Kind      string          `json:"kind"`
	Package   string          `json:"package,omitempty"`
	Target    string          `json:"target,omitempty"`
	State     string          `json:"state"` // queued, running, succeeded, failed or cancelled
	Attempts  int             `json:"attempts"`
	Worker    string          `json:"worker,omitempty"`
	Progress  Progress        `json:"progress"`
	Error     Failure         `json:"error,omitzero"`
	Result    json.RawMessage `json:"result,omitempty"` // a FetchResult, or Counters
	RunID     *int64          `json:"run_id,omitempty"`
	NextTryAt *time.Time      `json:"next_try_at,omitempty"`
	CreatedAt time.Time       `json:"created_at"`
	StartedAt *time.Time      `json:"started_at,omitempty"`
	EndedAt   *time.Time      `json:"ended_at,omitempty"`
}

// Open reports whether the job has not ended.
func (j Job) Open() bool { return j.State == "queued" || j.State == "running" }

// Fetched returns what a fetch did, nothing for other jobs.
func (j Job) Fetched() (r FetchResult) {
	_ = json.Unmarshal(j.Result, &r) // other jobs have other results
	return r
}

// Progress is how far a job is.
type Progress struct {
	Step  string `json:"step,omitempty"`
	Done  int64  `json:"done"`
	Total int64  `json:"total"` // 0 if not known
	Unit  string `json:"unit,omitempty"`
}

// A Failure is why a job failed.
type Failure struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}
