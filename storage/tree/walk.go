package tree

import (
	"context"
	"maps"

	"github.com/francescobianco/packbase/storage/capture"
	"github.com/francescobianco/packbase/storage/zigpkg"
)

// A Content is what dependencies lead to, as far as what is stored tells.
type Content struct {
	Nodes    []*capture.Node
	Problems []capture.Problem
	Sources  map[string]Source // of the nodes that are stored, by the hash of the node
}

// Walk is capture.Walk over what is stored. It returns capture.ErrTooLarge.
func (s *Store) Walk(ctx context.Context, deps []zigpkg.Dependency, nested *capture.Reader) (c Content, err error) {
	c.Sources = map[string]Source{}
	c.Nodes, c.Problems, err = capture.Walk(ctx, deps, func(ctx context.Context, hashes []string) (map[string][]zigpkg.Dependency, error) {
		sources, err := s.Sources(ctx, hashes)
		if err != nil {
			return nil, err
		}
		maps.Copy(c.Sources, sources)
		found := make(map[string][]zigpkg.Dependency, len(sources))
		for hash, src := range sources {
			if found[hash], err = nested.Dependencies(ctx, src.Digest, src.Zig.Dependencies); err != nil {
				return nil, err
			}
		}
		return found, nil
	})
	return c, err
}
