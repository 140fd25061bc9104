// Package capture brings whole trees of dependencies into the store: it walks from the manifests of a project to
// those of its dependencies and on, and says for each node where it may be had.
//
// A node is known by the hash that manifests pin; URLs are hints. What is stored under that hash is never
// asked for again, so a second capture of an unchanged tree asks nobody.
package capture

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/zigpkg"
)

// Limits of one tree.
const (
	MaxNodes = 10_000
	MaxDepth = 100
	maxURLs  = 20 // of one node
)

// ErrTooLarge says that a tree exceeds a limit.
var ErrTooLarge = errors.New("the tree is too large")

// A Node is a dependency in a tree.
type Node struct {
	Hash    string   // as manifests pin it
	URLs    []string // as manifests write them, without users and fragments that name nobody; each once
	Lazy    bool     // all that depend on it say so
	Depth   int      // of the shortest way from a root; 1 for what a root names
	Parents []string // hashes of the nodes that name it; "" for a root
	Stored  bool

	neededBy []string // of Parents, those that do not say that it is lazy
}

// A Problem is a dependency that cannot be a node.
type Problem struct {
	Parent string // hash of the node that names it; "" for a root
	Name   string // as its manifest calls it
	Reason string
}

// Dependencies returns the dependencies of what is stored under hashes, by hash. One under which nothing is has none.
type Dependencies func(ctx context.Context, hashes []string) (map[string][]zigpkg.Dependency, error)

// Walk returns the nodes that the roots lead to, as far as what is stored tells, nearest first, and what cannot
// be one. stored is asked once for all that is as near. Path dependencies are for it to follow; see Reader.
func Walk(ctx context.Context, roots []zigpkg.Dependency, stored Dependencies) (nodes []*Node, problems []Problem, err error) {
	w := &walk{known: map[string]*Node{}}
	if err := w.add("", 1, roots); err != nil {
		return nil, nil, err
	}
	for begin := 0; begin < len(w.nodes); {
		level := w.nodes[begin:]
		begin = len(w.nodes)
		hashes := make([]string, len(level))
		for i, n := range level {
			hashes[i] = n.Hash
		}
		found, err := stored(ctx, hashes)
		if err != nil {
			return nil, nil, err
		}
		for _, n := range level {
			var deps []zigpkg.Dependency
			if deps, n.Stored = found[n.Hash]; !n.Stored {
				continue
			}
			if err := w.add(n.Hash, n.Depth+1, deps); err != nil {
				return nil, nil, err
			}
		}
	}
	return w.nodes, w.problems, nil
}

// Unusable returns the hashes of stored packages that need what is not stored, and are lazy themselves or only needed by
// what is. Zig goes without a lazy package until a build asks for it, but looks into one that is there, and fails for what
// is missing in it: it is better off without these.
func Unusable(nodes []*Node) map[string]bool {
	neededBy := map[string][]string{}
	var missing []string
	for _, n := range nodes {
		neededBy[n.Hash] = n.neededBy
		if !n.Stored {
			missing = append(missing, n.Hash)
		}
	}
	required, incomplete := Required(nodes), closure(missing, neededBy)
	unusable := map[string]bool{}
	for _, n := range nodes {
		unusable[n.Hash] = n.Stored && incomplete[n.Hash] && !required[n.Hash]
	}
	return unusable
}

// Required returns the hashes of the packages that every build needs: there is a way to them without a lazy dependency.
func Required(nodes []*Node) map[string]bool {
	needs := map[string][]string{}
	for _, n := range nodes {
		for _, parent := range n.neededBy {
			needs[parent] = append(needs[parent], n.Hash)
		}
	}
	return closure([]string{""}, needs)
}

// closure returns what next leads to from begin, and that itself.
func closure(begin []string, next map[string][]string) map[string]bool {
	reached := map[string]bool{}
	for todo := begin; len(todo) > 0; todo = todo[1:] {
		if hash := todo[0]; !reached[hash] {
			reached[hash] = true
			todo = append(todo, next[hash]...)
		}
	}
	return reached
}

type walk struct {
	nodes    []*Node
	known    map[string]*Node
	problems []Problem
}

func (w *walk) add(parent string, depth int, deps []zigpkg.Dependency) error {
	for _, dep := range deps {
		if dep.URL == "" {
			continue
		}
		if reason := unfit(dep); reason != "" {
			if len(w.problems) < MaxNodes {
				w.problems = append(w.problems, Problem{Parent: parent, Name: dep.Name, Reason: reason})
			}
			continue
		}
		n := w.known[dep.Hash]
		if n == nil {
			switch {
			case len(w.nodes) == MaxNodes:
				return fmt.Errorf("%w: it has more than %d packages", ErrTooLarge, MaxNodes)
			case depth > MaxDepth:
				return fmt.Errorf("%w: it is more than %d packages deep", ErrTooLarge, MaxDepth)
			}
			n = &Node{Hash: dep.Hash, Lazy: true, Depth: depth}
			w.known[dep.Hash] = n
			w.nodes = append(w.nodes, n)
		}
		n.Lazy = n.Lazy && dep.Lazy
		n.Parents = appendNew(n.Parents, parent)
		if !dep.Lazy {
			n.neededBy = appendNew(n.neededBy, parent)
		}
		if url := Declared(dep.URL); len(n.URLs) < maxURLs {
			n.URLs = appendNew(n.URLs, url)
		}
	}
	return nil
}

// unfit says why Zig would not fetch a dependency; "" if it would.
func unfit(dep zigpkg.Dependency) string {
	if dep.Hash == "" {
		return "it has no hash; `zig fetch --save` writes one"
	}
	if err := zigpkg.ValidHash(dep.Hash); err != nil {
		return err.Error()
	}
	if _, err := name.ParseDependency(dep.URL); err != nil {
		return err.Error()
	}
	return ""
}

// Declared returns the URL of a dependency in the one form that is stored and shown: as name.Dependency
// has it, with the ref of a Git URL as its fragment. The URL is one that ParseDependency reads.
func Declared(raw string) string {
	d, err := name.ParseDependency(raw)
	if err != nil {
		return ""
	}
	if d.Git && d.Ref != "" {
		return d.URL + "#" + d.Ref
	}
	return d.URL
}

func appendNew(all []string, s string) []string {
	if slices.Contains(all, s) {
		return all
	}
	return append(all, s)
}

// Kinds of ways.
const (
	ByArchive  = "archive"  // download what a URL answers
	BySnapshot = "snapshot" // fetch one commit, tag or branch of a repository by Git
	ByPeer     = "peer"     // ask another packbase for the hash
)

// A Way is where a node may be had.
type Way struct {
	Kind string `json:"kind"`
	URL  string `json:"url"`           // the archive's, the repository's, or the other packbase's
	Ref  string `json:"ref,omitempty"` // of a snapshot
}

// Ways lists where a node may be had, in the order in which to try: each URL as it is written, then the archive of a
// Git commit and the commit of a forge's archive, then other packbases.
func Ways(n *Node, peers []string) []Way {
	var ways, others []Way
	for _, raw := range n.URLs {
		d, err := name.ParseDependency(raw)
		if err != nil {
			continue
		}
		if !d.Git {
			ways = append(ways, Way{Kind: ByArchive, URL: d.URL})
			if d.Repository != "" {
				others = append(others, Way{Kind: BySnapshot, URL: d.Repository, Ref: d.Snapshot})
			}
			continue
		}
		ways = append(ways, Way{Kind: BySnapshot, URL: d.Repository, Ref: d.Ref})
		if name.ValidOID(d.Ref) {
			for _, url := range name.Archives(d.Repository, d.Ref) {
				others = append(others, Way{Kind: ByArchive, URL: url})
			}
		}
	}
	for _, peer := range peers {
		others = append(others, Way{Kind: ByPeer, URL: peer})
	}
	var all []Way
	for _, way := range append(ways, others...) {
		if !slices.Contains(all, way) {
			all = append(all, way)
		}
	}
	return all
}
