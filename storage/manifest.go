package storage

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/francescobianco/packbase/storage/name"
)

// ManifestVersion is the version of the manifest's format.
const ManifestVersion = 1

// MaxManifestSize bounds a manifest, in bytes.
const MaxManifestSize = 64 << 20

// A Manifest is the JSON beside a tarball. With the tarball it is enough to
// rebuild the release's row and its Git objects.
type Manifest struct {
	Version     int              `json:"packbase_manifest"`
	Package     string           `json:"package"`
	Upstream    string           `json:"upstream"`
	CloneURL    string           `json:"clone_url"`
	Tag         string           `json:"tag,omitempty"`
	Commit      string           `json:"commit"`
	Tree        string           `json:"tree"`
	TagObject   string           `json:"tag_object,omitempty"`
	CommitTime  time.Time        `json:"commit_time"`
	CreatedAt   time.Time        `json:"created_at"`
	Fence       int64            `json:"fence"` // of the claim that wrote it: of two for one tag, the higher was published
	Description string           `json:"description,omitempty"`
	Private     bool             `json:"private,omitempty"` // the package was when this was published
	Tarball     ManifestTarball  `json:"tarball"`
	Zig         Zig              `json:"zig"`
	Git         ManifestGit      `json:"git"`
	Submodules  []SubmoduleEntry `json:"submodules,omitempty"`
}

// ManifestTarball describes the tarball.
type ManifestTarball struct {
	Digest        string `json:"digest"`
	Size          int64  `json:"size"`
	MD5           string `json:"md5"`
	CRC32         string `json:"crc32"`
	ContentDigest string `json:"content_digest"`
	ContentSize   int64  `json:"content_size"`
	Prefix        string `json:"prefix,omitempty"` // the wrapping directory, with its slash
	Form          int    `json:"form,omitempty"`   // the tarball.Form that makes these bytes again; 0 is the first
}

// ManifestGit holds what Git knows and a tarball does not.
type ManifestGit struct {
	Commit  []byte      `json:"commit"`            // the raw commit object
	Tags    [][]byte    `json:"tags,omitempty"`    // raw tag objects, outermost first
	Entries []TreeEntry `json:"entries,omitempty"` // tree entries that the tarball does not show
	Segment int         `json:"segment"`           // the segment that holds the newest of its objects
}

// A TreeEntry is a tree entry that the tarball cannot express: a submodule,
// an empty subtree, or a file with an odd mode.
type TreeEntry struct {
	Path string `json:"path"`
	Mode string `json:"mode"`          // octal, as in the tree
	OID  string `json:"oid,omitempty"` // of a submodule
}

// A SubmoduleEntry is a path where upstream has a submodule. It is not mirrored.
type SubmoduleEntry struct {
	Path   string `json:"path"`
	Commit string `json:"commit"`
}

// Encode returns the manifest's bytes.
func (m *Manifest) Encode() ([]byte, error) { return encodeDocument(m) }

// Check returns an *InvalidError if no packbase would publish the release: its
// tag is no name, or what it was cloned from is not its upstream.
func (m *Manifest) Check() error {
	if m.Tag != "" {
		if err := name.ValidTag(m.Tag); err != nil {
			return err
		}
	}
	return name.Upstream{Canonical: m.Upstream, CloneURL: m.CloneURL}.Check()
}

// encodeDocument returns v as the JSON that blobs hold: its first field says
// what it is.
func encodeDocument(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode document: %w", err)
	}
	return buf.Bytes(), nil
}

// RecordVersion is the version of the package record's format.
const RecordVersion = 1

// A PackageRecord is what is known of a package besides its releases. It is
// stored as a blob when it changes, so that it can be rebuilt, too.
type PackageRecord struct {
	Version     int               `json:"packbase_package"`
	Package     string            `json:"package"`
	Upstream    string            `json:"upstream"`
	CloneURL    string            `json:"clone_url"`
	Fence       int64             `json:"fence"` // of the claim that wrote it: the highest is the newest
	State       string            `json:"state"`
	StateReason string            `json:"state_reason,omitempty"`
	Language    string            `json:"language,omitempty"`
	Description string            `json:"description,omitempty"`
	Registered  bool              `json:"registered,omitempty"`
	Releases    int               `json:"releases,omitempty"` // releases and snapshots that are served
	Private     bool              `json:"private,omitempty"`
	Rejected    []RejectedTag     `json:"rejected_tags,omitempty"`
	Moved       []MovedTag        `json:"moved_tags,omitempty"`
	Removed     []Tombstone       `json:"removed,omitempty"`
	Branches    map[string]string `json:"branches,omitempty"`
	SyncOK      bool              `json:"sync_ok"`
	SyncCode    string            `json:"sync_code,omitempty"`
	SyncMessage string            `json:"sync_message,omitempty"`
	SyncedAt    *time.Time        `json:"synced_at,omitempty"`
	Probe       Probe             `json:"probe"`
}

// Encode returns the record's bytes.
func (r *PackageRecord) Encode() ([]byte, error) { return encodeDocument(r) }

// Same reports whether two records tell the same, apart from when.
func (r *PackageRecord) Same(other *PackageRecord) bool {
	a, b := *r, *other
	for _, x := range []*PackageRecord{&a, &b} {
		x.Fence, x.SyncedAt, x.Probe.ProbedAt = 0, nil, nil
	}
	left, err := a.Encode()
	if err != nil {
		return false
	}
	right, err := b.Encode()
	return err == nil && bytes.Equal(left, right)
}

// ParsePackageRecord reads a record that Encode wrote.
func ParsePackageRecord(b []byte) (*PackageRecord, error) {
	var r PackageRecord
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("parse package record: %w", err)
	}
	if r.Version != RecordVersion {
		return nil, fmt.Errorf("parse package record: version %d, want %d", r.Version, RecordVersion)
	}
	r.CloneURL = name.HideFolder(r.CloneURL)
	return &r, nil
}

// ParseManifest reads a manifest that Encode wrote.
func ParseManifest(b []byte) (*Manifest, error) {
	var m Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("parse manifest: %w", err)
	}
	if m.Version != ManifestVersion {
		return nil, fmt.Errorf("parse manifest: version %d, want %d", m.Version, ManifestVersion)
	}
	m.CloneURL = name.HideFolder(m.CloneURL)
	return &m, nil
}

// Release returns the row that the manifest stands for. digest is the
// SHA-256 of the manifest itself.
func (m *Manifest) Release(digest string) Release {
	return Release{
		Package:        m.Package,
		Tag:            m.Tag,
		TagOID:         m.TagObject,
		CommitOID:      m.Commit,
		TreeOID:        m.Tree,
		CommitTime:     m.CommitTime,
		Digest:         m.Tarball.Digest,
		Size:           m.Tarball.Size,
		ContentDigest:  m.Tarball.ContentDigest,
		MD5:            m.Tarball.MD5,
		CRC32:          m.Tarball.CRC32,
		ManifestDigest: digest,
		ZigHash:        m.Zig.Hash,
		ZigLegacyHash:  m.Zig.LegacyHash,
		Zig:            m.Zig,
		CreatedAt:      m.CreatedAt,
	}
}
