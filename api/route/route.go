// Package route is the paths of the HTTP API: as the route table has them, and
// filled in, as pages, the command line and the tests ask for them.
package route

import (
	"net/url"
	"strings"

	"github.com/francescobianco/packbase/storage/feed"
)

// Routes as the route table has them. Path fills in a parameter.
const (
	Health = "/healthz"
	Ready  = "/readyz"

	OpenAPI    = "/api/openapi.yaml"
	List       = "/api/list"
	Search     = "/api/search"
	Status     = "/api/status"
	Info       = "/api/info/{package}"
	Versions   = "/api/versions/{package}"
	Check      = "/api/check"
	Checked    = "/api/check/{package}"
	Fetch      = "/api/fetch"
	Update     = "/api/update"
	Jobs       = "/api/jobs"
	Job        = "/api/jobs/{id}"
	Events     = "/api/jobs/{id}/events"
	Retry      = "/api/jobs/{id}/retry"
	Cancel     = "/api/jobs/{id}/cancel"
	Review     = "/api/review/{package}"
	Visibility = "/api/visibility/{package}"
	Remove     = "/api/remove"
	Rename     = "/api/rename"
	Tokens     = "/api/tokens"
	Revoke     = "/api/tokens/{name}/revoke"
	Changes    = feed.ChangesPath
	Blob       = feed.BlobsPath + "{digest}"

	Tag    = "/p/{package}/tag/*"
	Commit = "/p/{package}/commit/{file}"
	Branch = "/p/{package}/branch/*"
	// The same with `file` in the query, for clients that write a "/" in a parameter of the path as %2F.
	TagFile    = "/p/{package}/tag"
	BranchFile = "/p/{package}/branch"
	Zig        = "/z/{file}"
	Log        = "/log/*"

	Trees      = "/api/trees"
	Tree       = "/api/trees/{name}"
	TreeRetry  = "/api/trees/{name}/retry"
	TreeBundle = "/api/trees/{name}/bundle"
	TreeSBOM   = "/api/trees/{name}/sbom"
	Bundle     = "/api/bundle"
	Proofs     = "/api/proofs"
	Archives   = "/api/archives"
	Dependents = "/api/dependents/{package}"
)

// What the paths of a release's files end in.
const (
	TarballSuffix  = ".tar.gz"
	ManifestSuffix = ".json"
	ProofSuffix    = ".tlog-proof"
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

// Tarball returns where the tarball of a release is; of a snapshot, with
// the tag "".
func Tarball(pkg, tag, commit string) string { return filePath(pkg, tag, commit, TarballSuffix) }

// BranchTarball returns where the tarball of a branch's last mirrored commit is.
func BranchTarball(pkg, branch string) string { return Path(Branch, pkg, branch+TarballSuffix) }

// Manifest returns where the manifest beside a tarball is.
func Manifest(pkg, tag, commit string) string { return filePath(pkg, tag, commit, ManifestSuffix) }

// Proof returns where the proof is that it is in the log.
func Proof(pkg, tag, commit string) string { return filePath(pkg, tag, commit, ProofSuffix) }

func filePath(pkg, tag, commit, suffix string) string {
	if tag == "" {
		return Path(Commit, pkg, commit+suffix)
	}
	return Path(Tag, pkg, tag+suffix)
}
