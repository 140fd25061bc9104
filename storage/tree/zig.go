package tree

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/pg"
)

// maxNamed is how many packages may share a name or a fingerprint: copies of one.
const maxNamed = 1000

// Named returns the packages, by their first names, of which a release has this name and this fingerprint ("0x" and 16
// hex digits) in its build.zig.zon; "" is for any, but not twice. It tells of private ones, too.
func (s *Store) Named(ctx context.Context, zigName, fingerprint string) ([]string, error) {
	where := `zig->>'fingerprint' = $2 AND ($1 = '' OR zig->>'name' = $1)`
	if fingerprint == "" {
		where = `zig->>'name' = $1 AND $2 = ''`
	}
	rows, _ := s.db.Pool.Query(ctx, `SELECT DISTINCT package FROM releases WHERE `+where+` ORDER BY package LIMIT $3`, zigName, fingerprint, maxNamed)
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("packages that Zig calls %q: %w", zigName, pg.Translate(err))
	}
	return all, nil
}
