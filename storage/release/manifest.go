// Package release is what packbase turns on: the files of one upstream commit
// as Git objects, as one deterministic tarball, and as a manifest that ties the
// two to upstream's ids and to Zig's hashes.
package release

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/strangejson"
)

// ManifestVersion is the version of the manifest's format.
const ManifestVersion = 1

// MaxManifestSize bounds a manifest, in bytes.
const MaxManifestSize = 64 << 20

// A Manifest is the JSON beside a tarball. With the tarball it is enough to
// rebuild the release's row and its Git objects.
type Manifest struct {
	Version     int         `json:"packbase_manifest"`
	Package     string      `json:"package"`
	Upstream    string      `json:"upstream"`
	CloneURL    string      `json:"clone_url"`
	Tag         string      `json:"tag,omitempty"`
	Commit      string      `json:"commit"`
	Tree        string      `json:"tree"`
	TagObject   string      `json:"tag_object,omitempty"`
	CommitTime  time.Time   `json:"commit_time"`
	CreatedAt   time.Time   `json:"created_at"`
	Fence       int64       `json:"fence"` // of the claim that wrote it: of two for one tag, the higher was published
	Description string      `json:"description,omitempty"`
	Private     bool        `json:"private,omitempty"` // the package was when this was published
	Tarball     Tarball     `json:"tarball"`
	Zig         Zig         `json:"zig"`
	Git         Git         `json:"git"`
	Submodules  []Submodule `json:"submodules,omitempty"`
}

// Tarball describes the tarball.
type Tarball struct {
	Digest        string `json:"digest"`
	Size          int64  `json:"size"`
	MD5           string `json:"md5"`
	CRC32         string `json:"crc32"`
	ContentDigest string `json:"content_digest"`
	ContentSize   int64  `json:"content_size"`
	Prefix        string `json:"prefix,omitempty"` // the wrapping directory, with its slash
	Form          int    `json:"form,omitempty"`   // the tarball.Form that makes these bytes again; 0 is the first
}

// Git holds what Git knows and a tarball does not.
type Git struct {
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

// A Submodule is a path where upstream has a submodule. It is not mirrored.
type Submodule struct {
	Path   string `json:"path"`
	Commit string `json:"commit"`
}

// Encode returns the manifest's bytes.
func (m *Manifest) Encode() ([]byte, error) { return EncodeDocument(m) }

// Check returns an *InvalidError if no packbase would publish the release: its
// tag is no name, its description no text, what it was cloned from is not its
// upstream, or it is called otherwise than the folder that it comes from.
func (m *Manifest) Check() error {
	if strings.ContainsRune(m.Description, 0) {
		return fault.Invalid("description", "it has a NUL, which is no text")
	}
	if m.Tag != "" {
		if err := name.ValidTag(m.Tag); err != nil {
			return err
		}
	}
	if folder, ok := strings.CutPrefix(m.Upstream, name.FixtureScheme); ok && folder != m.Package {
		return fault.Invalid("package", "it is called %q, and comes from the folder of %q", fault.Clip(m.Package), fault.Clip(folder))
	}
	return name.Upstream{Canonical: m.Upstream, CloneURL: m.CloneURL}.Check()
}

// EncodeDocument returns v as the JSON that blobs hold: its first field says
// what it is.
func EncodeDocument(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode document: %w", err)
	}
	return buf.Bytes(), nil
}

// IsDocument reports whether a blob that starts so is one of those, which whoever rebuilds from blobs believes.
func IsDocument(start []byte) bool { return bytes.HasPrefix(start, []byte("{\n  \"packbase_")) }

// ParseManifest reads a manifest that Encode wrote.
func ParseManifest(b []byte) (*Manifest, error) {
	var m Manifest
	if err := strangejson.Unmarshal(b, &m); err != nil { // an edge reads those of its central
		return nil, fmt.Errorf("parse manifest: %w", err)
	}
	if m.Version != ManifestVersion {
		return nil, fmt.Errorf("parse manifest: version %d, want %d", m.Version, ManifestVersion)
	}
	m.CloneURL = name.HideFolder(m.CloneURL)
	return &m, nil
}

// LoadManifest reads a manifest from its blob.
func LoadManifest(ctx context.Context, blobs blob.Opener, digest string) (*Manifest, error) {
	raw, err := blob.ReadAll(ctx, blobs, digest)
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	return ParseManifest(raw)
}
