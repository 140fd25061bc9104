// Package storage holds what packbase knows of packages and their frozen
// releases, in Postgres; the rooms below it know of jobs, the catalog, the feed
// and the rest, and Open wires them.
//
// It hides SQL, transactions and SQLSTATE. The bytes themselves lie in a
// blob.Store; a row names a blob only after its bytes are durable there.
package storage

import (
	"cmp"
	"time"

	"github.com/francescobianco/packbase/storage/release"
)

// A Package is a name and the one upstream it is bound to.
type Package struct {
	Name        string
	Upstream    string // canonical; see ParseUpstream
	CloneURL    string // what is dialled
	State       string // active, frozen or removed
	StateReason string // why it is not active, for people
	FrozenFor   string // the same as a code, where it decides something: frozenKept or frozenPrivate
	Language    string
	Description string

	LatestTag     *string // nil without releases
	LatestSize    int64   // bytes of the latest release's tarball
	ReleaseCount  int     // releases; snapshots do not count
	SnapshotCount int     // commits that are here without a tag
	SizeBytes     int64   // bytes of all tarballs

	SyncAt       *time.Time // when the last sync ended; nil before the first
	SyncOK       *bool
	SyncCode     string // why it failed
	SyncMessage  string
	SyncFailures int        // in a row
	SyncedAt     *time.Time // when a sync last succeeded
	NextSyncAt   *time.Time // not before, after failures; see health.NextTry

	Registered bool   // in the catalog
	Private    bool   // only who sees private packages may be shown it
	Shown      string // the name that an operator gave it; "" for Name
	MovedCount int    // released tags that upstream moved or deleted
	Probe

	HeadOID    string    `db:"head_oid"` // HEAD without releases; "" if no branch was asked for
	HeadBranch string    // that HEAD goes with then
	Revision   int64     // changes with whatever Git clients can see
	CreatedAt  time.Time // when the name was bound
	UpdatedAt  time.Time // when something was last published
	ChangedAt  time.Time // when anything here last changed
}

// Called returns what people are shown as the package's name. The package
// answers to it as to Name, which never changes.
func (p Package) Called() string { return cmp.Or(p.Shown, p.Name) }

// Local reports whether anything of the package is here: releases, or snapshots alone.
func (p Package) Local() bool { return p.ReleaseCount+p.SnapshotCount > 0 }

// A Probe is how the newest release fetched back through our own Git interface.
type Probe struct {
	SmartHTTPReady     bool       `db:"smart_http_ready" json:"smart_http_ready"` // refs are served
	PseudoGitFetchable bool       `json:"pseudo_git_fetchable"`                   // a fetch gave the whole commit
	ProbeCommit        string     `json:"commit,omitempty"`
	ProbeError         string     `json:"error,omitempty"`
	Healthy            bool       `json:"healthy"`
	ProbedAt           *time.Time `json:"probed_at,omitempty"` // nil before the first
}

// States of a package.
const (
	Active  = "active"
	Frozen  = "frozen"  // under review: served, but not synced
	Removed = "removed" // a tombstone: not served, the name is never used again
)

// A Release is one tag of a package, frozen as a tarball; without a tag it is
// a snapshot of one commit.
//
// Releases are immutable: a tag that moves upstream does not change the
// release already published for it.
type Release struct {
	ID             int64     // in order of publication
	Package        string    // package name, as in /p/{package}
	Tag            string    // upstream Git tag, without "refs/tags/"; "" for a snapshot
	TagOID         string    // the annotated tag's object; "" for a lightweight tag
	CommitOID      string    // commit the tag named when fetched: 40 lowercase hex digits
	TreeOID        string    // the commit's tree
	CommitTime     time.Time // the committer's time
	Digest         string    // SHA-256 of the tar.gz: 64 lowercase hex digits; the blob's key
	Size           int64     // length of the tar.gz in bytes
	ContentDigest  string    // SHA-256 of the tar stream within
	MD5            string    // of the tar.gz
	CRC32          string    // of the tar.gz, IEEE
	ManifestDigest string    // the manifest's blob
	ZigHash        string    // as Zig 0.14 and later print it; "" if they would refuse
	ZigLegacyHash  string    // as Zig up to 0.13 prints it
	Zig            release.Zig
	CreatedAt      time.Time // when published, UTC
	Private        bool      // its package is: only who sees private packages may be shown it
	Shown          string    // its package's
}

// Called returns what people are shown as the name of the release's package.
func (r *Release) Called() string { return cmp.Or(r.Shown, r.Package) }

// OID returns what refs/tags/<tag> names: the tag object, else the commit.
func (r *Release) OID() string {
	if r.TagOID != "" {
		return r.TagOID
	}
	return r.CommitOID
}

// A Pack is the precomputed answer to a depth-1 fetch of a release.
type Pack struct {
	Bitmap  []byte // roaring, over the ordinals of the package's objects
	Objects uint32
	Size    int64 // bytes of the whole pack
	Trailer []byte
}

// A RejectedTag is a tag that was not published as it is.
type RejectedTag struct {
	Tag     string    `json:"tag"`
	OID     string    `json:"oid"` // what upstream's ref names; "" if it is not told
	Code    string    `json:"code"`
	Reason  string    `json:"reason"`
	SeenAt  time.Time `json:"seen_at"`
	RetryAt time.Time `json:"retry_at,omitzero"` // when it is tried again
	Rules   string    `json:"-"`                 // names what it was judged by; other rules try it again
}

// A MovedTag records that upstream's tag no longer names what was released.
type MovedTag struct {
	Tag      string    `json:"tag"`
	Old      string    `json:"old"`
	New      string    `json:"new"`      // "" when upstream deleted the tag
	Accepted bool      `json:"accepted"` // an operator knows of it
	SeenAt   time.Time `json:"seen_at"`
}
