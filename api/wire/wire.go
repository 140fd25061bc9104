// Package wire is the HTTP API as bytes: its routes, and the JSON that goes
// over them. What api writes is what the command line and the tests read.
//
// Fields are only ever added. A reader ignores those that it does not know:
// the other side may be newer.
package wire

import (
	"net/url"
	"strings"
)

// Routes, as the route table has them. Path fills in a parameter.
const (
	HealthRoute = "/healthz"
	ReadyRoute  = "/readyz"

	OpenAPIRoute    = "/api/openapi.yaml"
	ListRoute       = "/api/list"
	SearchRoute     = "/api/search"
	StatusRoute     = "/api/status"
	InfoRoute       = "/api/info/{package}"
	CheckRoute      = "/api/check"
	CheckedRoute    = "/api/check/{package}"
	FetchRoute      = "/api/fetch"
	UpdateRoute     = "/api/update"
	JobsRoute       = "/api/jobs"
	JobRoute        = "/api/jobs/{id}"
	EventsRoute     = "/api/jobs/{id}/events"
	RetryRoute      = "/api/jobs/{id}/retry"
	CancelRoute     = "/api/jobs/{id}/cancel"
	ReviewRoute     = "/api/review/{package}"
	VisibilityRoute = "/api/visibility/{package}"
	RemoveRoute     = "/api/remove"
	TokensRoute     = "/api/tokens"
	RevokeRoute     = "/api/tokens/{name}/revoke"
	ChangesRoute    = "/api/changes"
	BlobRoute       = "/api/blobs/{digest}"

	TagRoute    = "/p/{package}/tag/*"
	CommitRoute = "/p/{package}/commit/{file}"
	BranchRoute = "/p/{package}/branch/*"
	ZigRoute    = "/z/{file}"
)

// What the paths of a release's files end in.
const (
	TarballSuffix  = ".tar.gz"
	ManifestSuffix = ".json"
)

// Path returns the path of a route with values for its parameters, in their
// order, spelled as the server wants it.
func Path(route string, values ...string) string {
	var path strings.Builder
	for segment := range strings.SplitSeq(route[1:], "/") {
		path.WriteByte('/')
		if segment == "*" || strings.HasPrefix(segment, "{") {
			segment, values = values[0], values[1:]
		}
		path.WriteString(segment)
	}
	return (&url.URL{Path: path.String()}).EscapedPath()
}

// TarballPath returns where the tarball of a release is; of a snapshot, with
// the tag "".
func TarballPath(pkg, tag, commit string) string { return filePath(pkg, tag, commit, TarballSuffix) }

// ManifestPath returns where the manifest beside a tarball is.
func ManifestPath(pkg, tag, commit string) string { return filePath(pkg, tag, commit, ManifestSuffix) }

func filePath(pkg, tag, commit, suffix string) string {
	if tag == "" {
		return Path(CommitRoute, pkg, commit+suffix)
	}
	return Path(TagRoute, pkg, tag+suffix)
}

// An Error is every answer that is not 2xx, but for a NotFound.
type Error struct {
	Status    string `json:"status"` // error
	Code      string `json:"code"`   // for programs, snake_case
	Message   string `json:"message"`
	JobID     string `json:"job_id,omitempty"` // the job that failed, if one did
	RequestID string `json:"request_id"`
}

// NotFound is the answer for a package that is not there.
type NotFound struct {
	Package string `json:"package"`
	Status  string `json:"status"` // not_found
}
