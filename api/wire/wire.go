// Package wire is the JSON of the HTTP API: what api writes is what the command
// line and the tests read. The paths are those of package route.
//
// Fields are only ever added. A reader ignores those that it does not know:
// the other side may be newer.
package wire

// An Error is every answer that is not 2xx.
type Error struct {
	Status    string `json:"status"` // error; not_found for a package that is not there
	Code      string `json:"code"`   // for programs, snake_case
	Message   string `json:"message"`
	Package   string `json:"package,omitempty"` // that is not there
	JobID     string `json:"job_id,omitempty"`  // the job that failed, if one did
	RequestID string `json:"request_id"`
}
