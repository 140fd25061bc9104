package wire

import (
	"encoding/json"
	"time"

	"github.com/francescobianco/packbase/storage/zigpkg"
)

// List names the packages, sorted.
type List struct {
	Local      []string `json:"local_packages"` // those with a release or a snapshot here
	Packages   []string `json:"packages"`
	Registered []string `json:"registered_packages"` // those in the catalog
}

// Found is what a search found, the best first.
type Found struct {
	Query   string  `json:"query"`
	Total   int     `json:"total"`
	Results []Match `json:"results"`        // one page of them
	Next    string  `json:"next,omitempty"` // the path of the next one
}

// A Match is a package that a search found.
type Match struct {
	Package     string    `json:"package"`
	Description string    `json:"description"`
	Upstream    string    `json:"upstream"`
	Language    string    `json:"language"`
	LatestTag   string    `json:"latest_tag"`
	Releases    int       `json:"tarball_count"`
	Snapshots   int       `json:"snapshot_count"`
	Healthy     bool      `json:"healthy"`
	UpdatedAt   time.Time `json:"updated_at"`
}

// A Package is all that is told of a package.
type Package struct {
	Package          string        `json:"package"`
	Names            []string      `json:"names"` // all that it answers to, the first one first
	Available        bool          `json:"available"`
	Registered       bool          `json:"registered"`
	Private          bool          `json:"private"`
	Local            bool          `json:"local"`
	TarballDir       bool          `json:"tarball_dir_present"`
	TarballCount     int           `json:"tarball_count"`
	LatestTag        string        `json:"latest_tag"`
	LatestSize       int64         `json:"latest_size_bytes"`
	SizeBytes        int64         `json:"size_bytes"`
	Tarballs         []Tarball     `json:"tarballs"` // one page of the releases, the newest first
	Snapshots        []Tarball     `json:"snapshots"`
	Head             string        `json:"head"`     // the commit that HEAD and main name
	Build            *Build        `json:"build"`    // of the release that HEAD names; nil if its files cannot be read
	Branches         []Branch      `json:"branches"` // those that were asked for, the last one first
	SmartHTTPReady   bool          `json:"smart_http_ready"`
	PseudoGit        bool          `json:"pseudo_git_fetchable"`
	FetchProbeCommit string        `json:"fetch_probe_commit"`
	FetchProbeError  Null          `json:"fetch_probe_error"`
	Healthy          bool          `json:"healthy"`
	UpdatedAt        time.Time     `json:"updated_at"`
	UpdatedUnix      int64         `json:"updated_at_unix"` // the same in seconds since 1970, as the first packbase has it
	Language         string        `json:"language"`
	Description      string        `json:"description"`
	State            string        `json:"state"` // active, frozen or removed
	StateReason      string        `json:"state_reason,omitempty"`
	Upstream         string        `json:"upstream"`
	RejectedTags     []RejectedTag `json:"rejected_tags"`
	MovedTags        []MovedTag    `json:"moved_tags"`
	RemovedTags      []RemovedTag  `json:"removed_tags"`
	LastSync         *Sync         `json:"last_sync"`
	Counts           Counts        `json:"counts"`
	Next             string        `json:"next,omitempty"` // the path of the next page of tarballs
}

// A Build is what a release has for those who depend on it: what its build.zig
// seems to offer, found without running it, and who refuses its build.zig.zon.
type Build struct {
	Tag     string            `json:"tag,omitempty"`
	Commit  string            `json:"git_commit_oid"`
	Modules []Module          `json:"modules"`
	Options []zigpkg.Option   `json:"options"`
	Refused map[string]string `json:"refused_by"` // by Zig release: why
}

// A Module is one of a build.zig.
type Module struct {
	Name   string `json:"name"`
	Import string `json:"import"` // the statement for the build.zig of a project
}

// A Branch is a branch of upstream that was asked for.
type Branch struct {
	Name   string `json:"name"`
	Commit string `json:"git_commit_oid"` // the last that was mirrored of it
	URL    string `json:"url"`            // path of its tarball
}

// Null is text that is null where there is none.
type Null string

func (n Null) MarshalJSON() ([]byte, error) {
	if n == "" {
		return []byte("null"), nil
	}
	return json.Marshal(string(n))
}

// Checked is a package with what a probe of now found, or the last one.
type Checked struct {
	Package
	LiveProbeOK bool `json:"live_probe_ok"`
}

// Counts says how many there are, where not all are told.
type Counts struct {
	Snapshots int `json:"snapshots"`
	Rejected  int `json:"rejected_tags"`
	Moved     int `json:"moved_tags"`
	Removed   int `json:"removed_tags"`
}

// A Tarball is a release, or a snapshot, which has no tag.
type Tarball struct {
	Tag             string    `json:"tag,omitempty"`
	URL             string    `json:"url"` // path of the tarball
	Size            int64     `json:"size_bytes"`
	ManifestPresent bool      `json:"manifest_present"`
	Commit          string    `json:"git_commit_oid"`
	Tree            string    `json:"git_tree_oid"`
	TagObject       string    `json:"git_tag_oid,omitempty"`
	SHA256          string    `json:"tarball_sha256"`
	MD5             string    `json:"tarball_md5"`
	CRC32           string    `json:"tarball_crc32"`
	ContentDigest   string    `json:"content_digest"` // SHA-256 of the tar
	CommitTime      time.Time `json:"commit_time"`
	CreatedAt       time.Time `json:"created_at"`
	Zig             Zig       `json:"zig"`
	GitHidden       string    `json:"git_hidden,omitempty"` // why Git clients do not see the tag
	Logged
}

// Logged says where in the log something is.
type Logged struct {
	Log   string `json:"log,omitempty"`   // "index 12"; "pending", or "private" without one; "" where there is no log
	Proof string `json:"proof,omitempty"` // path of the proof, once there is an index
}

// Zig is what Zig makes of a release.
type Zig struct {
	Hash              string              `json:"hash"`        // "" if the Zigs that write it refuse the package
	LegacyHash        string              `json:"legacy_hash"` // as Zig up to 0.13 writes it
	Name              string              `json:"name,omitempty"`
	Version           string              `json:"version,omitempty"`
	Fingerprint       string              `json:"fingerprint,omitempty"`
	MinimumZigVersion string              `json:"minimum_zig_version,omitempty"`
	Dependencies      []zigpkg.Dependency `json:"dependencies,omitempty"`
	UsableWith        []string            `json:"usable_with,omitempty"` // Zig releases that accept it as a dependency
	Problem           string              `json:"problem,omitempty"`     // why no Zig accepts it
	Warnings          []string            `json:"warnings,omitempty"`
	License           string              `json:"license,omitempty"` // SPDX id, by its text; "" if it is not known
}

// Versions are the tags of a package, oldest first, as Renovate's custom
// datasources read them.
type Versions struct {
	Releases  []Version `json:"releases"`
	SourceURL string    `json:"sourceUrl"`
	Homepage  string    `json:"homepage"`
}

// A Version is one tag.
type Version struct {
	Version          string    `json:"version"`
	ReleaseTimestamp time.Time `json:"releaseTimestamp"` // the committer's time
	Digest           string    `json:"digest"`           // the commit
}

// A RejectedTag is a tag of upstream that is not mirrored.
type RejectedTag struct {
	Tag     string    `json:"tag"`
	OID     string    `json:"oid"`
	Code    string    `json:"code"`
	Reason  string    `json:"reason"`
	SeenAt  time.Time `json:"seen_at"`
	RetryAt time.Time `json:"retry_at,omitzero"`
}

// A MovedTag is a released tag that upstream moved, or deleted.
type MovedTag struct {
	Tag      string    `json:"tag"`
	Old      string    `json:"old"`
	New      string    `json:"new"`      // "" when upstream deleted the tag
	Accepted bool      `json:"accepted"` // an operator knows of it
	SeenAt   time.Time `json:"seen_at"`
}

// A RemovedTag is a release that was removed here; a snapshot, without a tag.
type RemovedTag struct {
	Tag       string    `json:"tag,omitempty"`
	TagOID    string    `json:"tag_oid,omitempty"`
	CommitOID string    `json:"commit"`
	Reason    string    `json:"reason"`
	RemovedAt time.Time `json:"removed_at"`
}

// Sync is how the last look at upstream went.
type Sync struct {
	At        time.Time  `json:"at"`
	OK        bool       `json:"ok"`
	Error     Failure    `json:"error,omitzero"`
	NextTryAt *time.Time `json:"next_try_at,omitempty"`
	LastOKAt  *time.Time `json:"last_ok_at,omitempty"`
}

// Check asks for a package to be probed.
type Check struct {
	Package string `json:"package"`
}

// Review decides about a package that is frozen.
type Review struct {
	Decision string `json:"decision"` // accept or keep
}

// Visibility says who may read a package.
type Visibility struct {
	Visibility string `json:"visibility"` // public or private
}

// Rename asks for a package to be shown under another name.
type Rename struct {
	Package string `json:"package"` // any of its names
	Name    string `json:"name"`
}

// Remove asks for a release, a commit, or without these a whole package to be
// served to nobody any more.
type Remove struct {
	Package string  `json:"package,omitempty"`
	Archive *string `json:"archive,omitempty"` // instead: the URL of an archive
	Tag     *string `json:"tag,omitempty"`     // with neither a tag nor a commit, all of the package
	Commit  *string `json:"commit,omitempty"`
	Reason  string  `json:"reason"`
}

// Removed is the answer to Remove.
type Removed struct {
	Status  string           `json:"status"` // removed
	Package string           `json:"package,omitempty"`
	Archive string           `json:"archive,omitempty"`
	Removed []RemovedRelease `json:"removed"`
	Left    []string         `json:"still_served"`  // other tags of the same commits, or what has the same files
	Freed   bool             `json:"name_released"` // nothing was published under the name
}

// A RemovedRelease is one of those that were removed.
type RemovedRelease struct {
	Tag    string `json:"tag,omitempty"`
	Commit string `json:"commit"`
}

// CreateToken asks for a token.
type CreateToken struct {
	Name    string `json:"name"`
	Scope   string `json:"scope"`             // read, write or admin
	Expires string `json:"expires,omitempty"` // RFC 3339; "" for never
}

// Tokens lists tokens.
type Tokens struct {
	Tokens []Token `json:"tokens"`
}

// A Token is a token without its secret.
type Token struct {
	Name       string     `json:"name"`
	Scope      string     `json:"scope"`
	CreatedAt  time.Time  `json:"created_at"`
	ExpiresAt  *time.Time `json:"expires_at"`   // nil for never
	LastUsedAt *time.Time `json:"last_used_at"` // nil before the first time
}

// NewToken is a token with its secret, which is shown this once.
type NewToken struct {
	Token
	Secret string `json:"token"`
}

// Revoked is the answer to a revocation.
type Revoked struct {
	Name   string `json:"name"`
	Status string `json:"status"` // revoked
}
