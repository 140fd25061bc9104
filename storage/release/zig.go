package release

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/zigpkg"
)

// Zig is what a release's build.zig.zon says and how Zig reads it, and its licence.
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
	License           string              `json:"license,omitempty"` // SPDX id of the licence in the root, "" if it is not known
}

// maxZigFiles is how many hashes are remembered before all are forgotten.
const maxZigFiles = 200_000

// zigFiles remembers the hashes of files that several tags share.
type zigFiles struct {
	mu    sync.Mutex
	known map[zigFileKey]zigpkg.FileHash
}

func newZigFiles() *zigFiles { return &zigFiles{known: map[zigFileKey]zigpkg.FileHash{}} }

// A zigFileKey has all that a hash depends on: a link and a file of the same
// bytes differ.
type zigFileKey struct {
	path string
	link bool
	oid  gitpack.OID
}

// describe reads a tree as Zig does. What is wrong with its build.zig.zon is
// part of the answer; an error is one of reading objects.
func (z *zigFiles) describe(objects *gitpack.Objects, tree gitpack.Listing) (Zig, error) {
	var zig Zig
	all := make([]zigpkg.Entry, 0, len(tree.Files))
	for _, f := range tree.Files {
		if f.Mode == gitpack.ModeSubmodule {
			continue // an empty folder to Zig, which is not hashed
		}
		entry, err := z.entry(objects, f)
		if err != nil {
			return zig, err
		}
		all = append(all, entry)
	}
	man, err := zigManifest(objects, tree)
	if err != nil {
		zig.Problem = clip(err.Error())
	} else {
		zig = ZigOf(man, zigpkg.Sum(man, all))
	}
	zig.Warnings = clipAll(slices.Concat(clashWarnings(tree), modeWarnings(tree), zig.Warnings))
	zig.License = licensed(objects, tree)
	return zig, nil
}

// ZigOf returns what Zig makes of a manifest, nil if there is none, and of files with the hashes.
func ZigOf(man *zigpkg.Manifest, sum zigpkg.Hashes) (zig Zig) {
	zig.Hash, zig.LegacyHash, zig.UsableWith = sum.Hash, sum.Legacy, man.UsableWith()
	if man == nil {
		return zig
	}
	if zig.Hash == "" {
		zig.Problem = strings.Join(man.Refusals, "; ")
	}
	zig.Name, zig.Version, zig.MinimumZigVersion = plain(man.Name), man.Version, man.MinimumZigVersion
	if man.Fingerprint != 0 {
		zig.Fingerprint = fmt.Sprintf("%#016x", man.Fingerprint)
	}
	zig.Warnings = slices.Clone(man.Warnings)
	room := maxDependencies
	for i, d := range man.Dependencies {
		if room -= 100 + len(d.Name) + len(d.URL) + len(d.Path) + len(d.Hash); room < 0 {
			zig.Warnings = append(zig.Warnings, fmt.Sprintf("it has %d dependencies, and the first %d are listed", len(man.Dependencies), i))
			break
		}
		d.Name, d.URL, d.Path, d.Hash = plain(d.Name), plain(d.URL), plain(d.Path), plain(d.Hash)
		zig.Dependencies = append(zig.Dependencies, d)
	}
	zig.Version, zig.MinimumZigVersion, zig.Problem = clip(zig.Version), clip(zig.MinimumZigVersion), clip(zig.Problem)
	zig.Warnings = clipAll(zig.Warnings)
	return zig
}

func clipAll(warnings []string) []string {
	warnings = warnings[:min(len(warnings), maxWarnings)]
	for i := range warnings {
		warnings[i] = clip(warnings[i])
	}
	return warnings
}

// What a release's row says of its manifest: one file may be that of many
// tags, and must not fill the database.
const (
	maxDependencies = 32 << 10 // bytes of all
	maxWarnings     = 20
	maxText         = 1000 // bytes
)

func clip(s string) string {
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText], "") + "…"
}

// plain makes text of what an escape may have made of a Zig string: Postgres
// and JSON hold neither NUL nor what is not UTF-8.
func plain(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// clashWarnings says where a tree cannot be unpacked.
func clashWarnings(tree gitpack.Listing) []string {
	const most = 3
	var warnings []string
	for i, c := range tree.Clashes {
		if i == most {
			return append(warnings, fmt.Sprintf("and %d more such pairs", len(tree.Clashes)-most))
		}
		warnings = append(warnings, fmt.Sprintf("%q and %q are one path where case or Unicode form does not count: "+
			"it cannot be unpacked on Windows, nor on macOS as it comes", c[0], c[1]))
	}
	return warnings
}

// modeWarnings says that Zig gets a tree as a tarball only: by Git it reads no modes but those that Git writes today.
func modeWarnings(tree gitpack.Listing) []string {
	for _, f := range tree.Files {
		if f.IsRegular() && f.Mode != gitpack.ModeFile && f.Mode != gitpack.ModeExecutable {
			return []string{fmt.Sprintf("%q has the mode %o, for which Zig refuses to fetch by Git: use the tarball", f.Path, f.Mode)}
		}
	}
	return nil
}

// zigManifest reads build.zig.zon, by way of symlinks, as Zig does. It is nil
// if there is none, or if a symlink of that name leads nowhere. An error is
// one that Zig has, too, for people to read.
func zigManifest(objects *gitpack.Objects, tree gitpack.Listing) (*zigpkg.Manifest, error) {
	name := tree.Resolve(zigpkg.ManifestName)
	if name == "" {
		return nil, errors.New("build.zig.zon is a symlink that leads to itself or to a folder")
	}
	for _, dir := range tree.Dirs {
		if dir.Path == name {
			return nil, errors.New("build.zig.zon is a folder")
		}
	}
	for _, f := range tree.Files {
		switch {
		case strings.HasPrefix(name, f.Path+"/") && f.Mode != gitpack.ModeSubmodule:
			return nil, errors.New("build.zig.zon is a symlink that leads through a file")
		case f.Path != name:
		case f.Mode == gitpack.ModeSubmodule:
			return nil, errors.New("build.zig.zon is a submodule")
		default:
			return readZigManifest(objects, f)
		}
	}
	return nil, nil
}

func (z *zigFiles) entry(objects *gitpack.Objects, f gitpack.File) (zigpkg.Entry, error) {
	key := zigFileKey{f.Path, f.Mode == gitpack.ModeSymlink, f.OID}
	z.mu.Lock()
	hash, ok := z.known[key]
	z.mu.Unlock()
	entry := zigpkg.Entry{Path: f.Path, Hash: hash, Size: f.Size}
	if f.Mode == gitpack.ModeSymlink {
		entry.Size = 0
	}
	if ok {
		return entry, nil
	}
	if f.Mode == gitpack.ModeSymlink {
		target, err := readString(objects, f)
		if err != nil {
			return entry, err
		}
		entry.Hash = zigpkg.HashSymlink(f.Path, target)
	} else {
		body, err := objects.Open(f.OID)
		if err != nil {
			return entry, err
		}
		if entry.Hash, _, err = zigpkg.HashFile(f.Path, body); err != nil {
			return entry, err
		}
	}
	z.mu.Lock()
	if len(z.known) >= maxZigFiles {
		clear(z.known)
	}
	z.known[key] = entry.Hash
	z.mu.Unlock()
	return entry, nil
}

// readZigManifest returns an error that is for people to read.
func readZigManifest(objects *gitpack.Objects, f gitpack.File) (*zigpkg.Manifest, error) {
	src, err := objects.Read(f.OID, gitpack.Blob, zigpkg.MaxManifestBytes)
	if err != nil {
		return nil, errors.New("build.zig.zon is larger than Zig reads")
	}
	return zigpkg.ParseManifest(src)
}
