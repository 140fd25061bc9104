package wire

import (
	"cmp"
	"slices"
	"time"
)

// A TreeManifest is a build.zig.zon of a project.
type TreeManifest struct {
	File string `json:"file"` // relative to the project, with slashes
	Text string `json:"text"`
}

// Capture asks for what a project depends on, and what that does.
type Capture struct {
	Name      string         `json:"name"`
	Manifest  string         `json:"manifest,omitempty"`  // the one build.zig.zon; or
	Manifests []TreeManifest `json:"manifests,omitempty"` // that and those of its path dependencies
	Release   string         `json:"release,omitempty"`   // or a release here, PACKAGE@TAG, or snapshot, PACKAGE#COMMIT
	Private   bool           `json:"private,omitempty"`   // shown to those who see private packages
}

// A CaptureQueued is the answer to a Capture that is not waited for.
type CaptureQueued struct {
	Status   string `json:"status"` // queued
	JobID    string `json:"job_id"`
	Location string `json:"location"` // path of the job
	Tree     string `json:"tree"`
	Revision int    `json:"revision"`
}

// Captured is the answer to a Capture that was waited for, and but for status and job_id the result of its job.
type Captured struct {
	Status   string `json:"status"` // ok
	JobID    string `json:"job_id"`
	Tree     string `json:"tree"`
	Revision int    `json:"revision"`
	Nodes    int    `json:"nodes"`
	Stored   int    `json:"stored"`
	Holes    int    `json:"holes"`
}

// A Tree is the dependencies of a project, at one revision.
type Tree struct {
	Name      string     `json:"name"`
	Revision  int        `json:"revision"`
	State     string     `json:"state"` // open, whole or holes
	Nodes     int        `json:"nodes"`
	Missing   int        `json:"missing"` // of them, those that are not stored
	SizeBytes int64      `json:"size_bytes"`
	Lost      int        `json:"lost"`                 // how many upstream has no more, or has other files of
	Untold    int        `json:"untold"`               // of how many it did not say, when it was last asked
	CheckedAt *time.Time `json:"checked_at,omitempty"` // when upstream was asked for all of them
	Private   bool       `json:"private"`
	CreatedAt time.Time  `json:"created_at"`
	UpdatedAt time.Time  `json:"updated_at"`
}

// Trees is a page of a list.
type Trees struct {
	Trees []Tree `json:"trees"`
	Next  string `json:"next,omitempty"` // the path of the next page
}

// A TreeInfo is a tree with all that is in it.
type TreeInfo struct {
	Tree
	Roots    []string      `json:"roots"` // files of the manifests that it begins with
	Packages []TreeNode    `json:"packages"`
	Problems []TreeProblem `json:"problems"` // dependencies that cannot be had by anybody
}

// Below returns the nodes by the hash of who names them, "" for the roots, each in the order of their titles. A node
// stands below each of its parents.
func (t *TreeInfo) Below() map[string][]*TreeNode {
	below := map[string][]*TreeNode{}
	for i := range t.Packages {
		n := &t.Packages[i]
		for _, parent := range n.Parents {
			below[parent] = append(below[parent], n)
		}
	}
	for _, nodes := range below {
		slices.SortFunc(nodes, func(a, b *TreeNode) int { return cmp.Compare(a.Title(), b.Title()) })
	}
	return below
}

// A TreeNode is a package in a tree, known by the hash that manifests pin.
type TreeNode struct {
	Hash    string      `json:"hash"`
	URLs    []string    `json:"urls"`    // where manifests say that it is
	Parents []string    `json:"parents"` // hashes of those that name it; "" for a root
	Lazy    bool        `json:"lazy"`
	Depth   int         `json:"depth"`
	State   string      `json:"state"` // waiting, stored or hole
	Code    string      `json:"code,omitempty"`
	Reason  string      `json:"reason,omitempty"` // why it is a hole
	Tried   []TreeTry   `json:"tried"`
	Source  *TreeSource `json:"source,omitempty"` // what is stored for it

	UpstreamState string     `json:"upstream_state,omitempty"` // same, moved, gone or away
	UpstreamAt    *time.Time `json:"upstream_at,omitempty"`    // when that was so
}

// Title is what people know the package by: its name, else the first URL, else its hash.
func (n *TreeNode) Title() string {
	switch {
	case n.Source != nil && n.Source.Name != "":
		return n.Source.Name
	case len(n.URLs) > 0:
		return n.URLs[0]
	}
	return n.Hash
}

// A TreeTry is a way in which a package could not be had.
type TreeTry struct {
	Kind    string `json:"kind"` // archive, snapshot or peer
	URL     string `json:"url"`
	Ref     string `json:"ref,omitempty"`
	Code    string `json:"code,omitempty"` // "" while it is being tried
	Message string `json:"message,omitempty"`
}

// A TreeSource is what is stored for a node.
type TreeSource struct {
	Kind      string `json:"kind"` // release, snapshot or archive
	Package   string `json:"package,omitempty"`
	Tag       string `json:"tag,omitempty"`
	Commit    string `json:"commit,omitempty"`
	URL       string `json:"url,omitempty"` // of an archive
	Name      string `json:"name,omitempty"`
	Version   string `json:"version,omitempty"`
	License   string `json:"license,omitempty"` // SPDX id, by its text
	SizeBytes int64  `json:"size_bytes"`
	SHA256    string `json:"sha256"` // of the tarball at /z/
}

// A TreeProblem is a dependency that cannot be a node.
type TreeProblem struct {
	Parent string `json:"parent,omitempty"` // hash of the node that names it; "" for a root
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

// WantBundle asks for all that a project depends on as one stream.
type WantBundle struct {
	Manifests []TreeManifest `json:"manifests"`
	Partial   bool           `json:"partial,omitempty"` // what there is will do
}

// Holes is the answer when something of a tree is not stored.
type Holes struct {
	Error
	Holes []Hole `json:"holes"`
}

// A Hole is a package that is not stored.
type Hole struct {
	Hash   string   `json:"hash"`
	URLs   []string `json:"urls"`
	Code   string   `json:"code"`
	Reason string   `json:"reason"`
	Lazy   bool     `json:"lazy,omitempty"` // no build needs it that does not ask for it
}

// An Archive is what one URL answered.
type Archive struct {
	URL             string    `json:"url"`
	ZigHash         string    `json:"zig_hash"`
	ZigLegacyHash   string    `json:"zig_legacy_hash"`
	SHA256          string    `json:"sha256"` // of the bytes as they came
	SizeBytes       int64     `json:"size_bytes"`
	ContentType     string    `json:"content_type"`
	Format          string    `json:"format"`
	FinalURL        string    `json:"final_url,omitempty"` // after redirects, without its query
	TarballSHA256   string    `json:"tarball_sha256"`      // of what Zig is given at /z/
	TarballBytes    int64     `json:"tarball_bytes"`
	MinimumZig      string    `json:"minimum_zig_version,omitempty"`
	CreatedAt       time.Time `json:"created_at"`
	MovedSince      []Moved   `json:"moved"` // what the URL answered later
	DependencyCount int       `json:"dependencies"`
	Logged
}

// WantProofs asks what the log says of packages.
type WantProofs struct {
	Hashes []string `json:"hashes"` // of Zig, in either form
}

// Proofs are what the log says of packages. Each text, with the checkpoint behind it, is a proof (c2sp.org/tlog-proof) with the
// entry as extra data. Packages that have none are left out.
type Proofs struct {
	Checkpoint string  `json:"checkpoint"` // "" if there is no proof
	Proofs     []Proof `json:"proofs"`
}

// A Proof is what the log says of one package.
type Proof struct {
	Hash  string   `json:"hash"`
	Proof string   `json:"proof"`
	Later []string `json:"later"` // that it was moved, is gone or was withdrawn since
}

// Moved is what a URL answers instead of what is frozen.
type Moved struct {
	ZigHash       string    `json:"zig_hash"`
	ZigLegacyHash string    `json:"zig_legacy_hash"`
	SeenAt        time.Time `json:"seen_at"`
}

// Dependents are the places in captured trees where a package stands.
type Dependents struct {
	Package    string      `json:"package"`
	Dependents []Dependent `json:"dependents"`
	Next       string      `json:"next,omitempty"` // the path of the next page
}

// A Dependent is one place in one tree.
type Dependent struct {
	Tree   string        `json:"tree"`
	Hash   string        `json:"hash"` // that is pinned there
	Tag    string        `json:"tag,omitempty"`
	Commit string        `json:"commit"`
	Direct bool          `json:"direct"` // the project itself names it
	By     []DependentBy `json:"by"`     // packages that name it, the first 20
	Named  int           `json:"named"`  // by how many, the project counted
}

// A DependentBy is a package that names another one. Of what is not stored there is the hash alone.
type DependentBy struct {
	Hash    string `json:"hash"`
	Name    string `json:"name,omitempty"`
	Version string `json:"version,omitempty"`
	Package string `json:"package,omitempty"` // here
}
