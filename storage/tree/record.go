package tree

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/strangejson"
)

// A Record is the JSON blob from which the row of an archive can be made again: all that its bytes do not tell.
type Record struct {
	Format      int         `json:"packbase_archive"` // 1
	URL         string      `json:"url"`
	ContentType string      `json:"content_type"`
	Disposition string      `json:"disposition,omitempty"`
	FinalURL    string      `json:"final_url,omitempty"`
	ArchiveType string      `json:"format"`
	Body        RecordRef   `json:"body"`
	Tarball     RecordRef   `json:"tarball"`
	ZigHash     string      `json:"zig_hash,omitempty"`
	LegacyHash  string      `json:"zig_legacy_hash"`
	Zig         release.Zig `json:"zig"`
	Private     bool        `json:"private,omitempty"`
	CreatedAt   time.Time   `json:"created_at"`
}

// A RecordRef names a blob.
type RecordRef struct {
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}

// Record returns what is kept of the archive as a blob.
func (a *Archive) Record() *Record {
	return &Record{
		Format: 1, URL: a.URL, ContentType: a.ContentType, Disposition: a.Disposition, FinalURL: a.FinalURL, ArchiveType: a.Format,
		Body: RecordRef{a.Digest, a.Size}, Tarball: RecordRef{a.TarballDigest, a.TarballSize},
		ZigHash: a.ZigHash, LegacyHash: a.ZigLegacyHash, Zig: a.Zig, Private: a.Private, CreatedAt: a.CreatedAt,
	}
}

// Encode returns the record's bytes.
func (r *Record) Encode() ([]byte, error) {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode record of archive %s: %w", r.URL, err)
	}
	return append(b, '\n'), nil
}

// IsRecord tells a record, as Encode writes it, from other documents.
func IsRecord(raw []byte) bool { return bytes.HasPrefix(raw, []byte("{\n  \"packbase_archive\": ")) }

// ParseRecord reads a record's bytes.
func ParseRecord(raw []byte) (*Record, error) {
	var r Record
	if err := strangejson.Unmarshal(raw, &r); err != nil {
		return nil, fmt.Errorf("read record of archive: %w", err)
	}
	if r.Format != 1 {
		return nil, fmt.Errorf("read record of archive: format %d, this packbase knows 1", r.Format)
	}
	return &r, nil
}

// Archive returns the row that the record, itself the blob digest, tells of.
func (r *Record) Archive(digest string, size int64) Archive {
	return Archive{
		URL: r.URL, ZigHash: r.ZigHash, ZigLegacyHash: r.LegacyHash, Digest: r.Body.Digest, Size: r.Body.Size, ContentType: r.ContentType,
		Disposition: r.Disposition, FinalURL: r.FinalURL, Format: r.ArchiveType, TarballDigest: r.Tarball.Digest, TarballSize: r.Tarball.Size,
		RecordDigest: digest, RecordSize: size, Private: r.Private, Zig: r.Zig, CreatedAt: r.CreatedAt,
	}
}
