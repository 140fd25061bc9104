package release

import "github.com/francescobianco/packbase/storage/zigpkg"

// Zig is what a release's build.zig.zon says and how Zig reads it.
type Zig struct {
	Hash              string              `json:"hash"`        // "" if the Zigs that write it refuse the package
	LegacyHash        string              `json:"legacy_hash"` // as Zig up to 0.13 writes it
	Name              string              `json:"name,omitempty"`
	Version           string              `json:"version,omitempty"`
	Fingerprint       string              `json:"fingerprint,omitempty"` // 0x and 16 hex digits
	MinimumZigVersion string              `json:"minimum_zig_version,omitempty"`
	Dependencies      []zigpkg.Dependency `json:"dependencies,omitempty"`
	UsableWith        []string            `json:"usable_with,omitempty"` // Zig releases that accept it as a dependency
	Problem           string              `json:"problem,omitempty"`     // why no Zig accepts it
	Warnings          []string            `json:"warnings,omitempty"`
}
