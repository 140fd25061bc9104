package tree

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/pg"
)

// A Dependent is a place in a tree where a release of a package stands.
type Dependent struct {
	Tree    string
	Hash    string   // that is pinned there
	Tag     string   // of the release; "" of a snapshot
	Commit  string   // of it
	Parents []string // hashes of those that name it, at most 20; "" for the tree's own manifests
	Named   int      // by how many
}

// Dependents returns where the newest revisions of trees have releases and snapshots of a package, by tree and hash, those
// after the given place.
func (s *Store) Dependents(ctx context.Context, pkg, tree, hash string, limit int) ([]Dependent, error) {
	rows, _ := s.db.Pool.Query(ctx, `
		WITH pins AS (
			SELECT DISTINCT ON (hash) hash, tag, commit_oid FROM sources, unnest(ARRAY[zig_hash, zig_legacy_hash]) AS p (hash)
			WHERE package = $1 AND kind <> 'archive' AND hash <> '' AND ($2 OR NOT private) ORDER BY hash, id),
		places AS (
			SELECT t.name, t.revision, t.private, n.hash, p.tag, p.commit_oid, n.parents[1:20] AS parents, cardinality(n.parents) AS named
			FROM pins p JOIN tree_nodes n ON n.hash = p.hash JOIN trees t ON t.name = n.tree AND t.revision = n.revision
			WHERE (lower(t.name), n.hash) > (lower($3), $4)
			ORDER BY lower(t.name), n.hash)
		SELECT name, hash, tag, commit_oid, parents, named FROM places
		WHERE $2 OR NOT private AND NOT EXISTS (
			SELECT FROM tree_nodes h WHERE h.tree = places.name AND h.revision = places.revision AND `+hidden+`)
		ORDER BY lower(name), hash LIMIT $5`, pkg, access.SeesPrivate(ctx), tree, hash, limit)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Dependent])
	if err != nil {
		return nil, fmt.Errorf("dependents of %s: %w", pkg, pg.Translate(err))
	}
	return all, nil
}
