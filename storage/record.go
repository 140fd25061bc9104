package storage

import (
	"bytes"
	"fmt"
	"time"

	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/strangejson"
)

// recordVersion is the version of the package record's format.
const recordVersion = 1

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
	Names       []string          `json:"names,omitempty"` // it was renamed to, in that order
	Shown       string            `json:"shown,omitempty"` // of all names the one in use; "" for Package
	Rejected    []RejectedTag     `json:"rejected_tags,omitempty"`
	Moved       []MovedTag        `json:"moved_tags,omitempty"`
	Removed     []Tombstone       `json:"removed,omitempty"`
	Branches    map[string]string `json:"branches,omitempty"`
	Head        string            `json:"head,omitempty"`        // HEAD without releases, where no branch may be any more
	HeadBranch  string            `json:"head_branch,omitempty"` // that it goes with; "" in earlier records
	SyncOK      bool              `json:"sync_ok"`
	SyncCode    string            `json:"sync_code,omitempty"`
	SyncMessage string            `json:"sync_message,omitempty"`
	SyncedAt    *time.Time        `json:"synced_at,omitempty"`
	Probe       Probe             `json:"probe"`
}

// Encode returns the record's bytes.
func (r *PackageRecord) Encode() ([]byte, error) {
	one := *r
	one.Version = recordVersion
	return release.EncodeDocument(&one)
}

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
	if err := strangejson.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("parse package record: %w", err)
	}
	if r.Version != recordVersion {
		return nil, fmt.Errorf("parse package record: version %d, want %d", r.Version, recordVersion)
	}
	for branch, commit := range r.Branches {
		if name.ValidRef(branch) != nil || !name.ValidOID(commit) {
			return nil, fmt.Errorf("parse package record: it has a branch %.100q at %.50q", branch, commit)
		}
	}
	if r.Head != "" && !name.ValidOID(r.Head) {
		return nil, fmt.Errorf("parse package record: its HEAD is at %.50q", r.Head)
	}
	if r.HeadBranch != "" && name.ValidRef(r.HeadBranch) != nil {
		return nil, fmt.Errorf("parse package record: its HEAD goes with %.100q", r.HeadBranch)
	}
	r.CloneURL = name.HideFolder(r.CloneURL)
	return &r, nil
}
