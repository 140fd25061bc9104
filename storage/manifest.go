package storage

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
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
	Description string           `json:"description,omitempty"`
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
func (m *Manifest) Encode() ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(m); err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	return buf.Bytes(), nil
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
