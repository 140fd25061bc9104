package tree

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/pg"
	"github.com/francescobianco/packbase/storage/release"
)

// A Source is anything with one Zig hash that may be served: a release, a snapshot or an archive.
type Source struct {
	Pin           string // the hash that was asked for, of either form
	Kind          string // "release", "snapshot" or "archive"
	Package       string // of a release or snapshot
	Tag           string // of a release
	Commit        string // of a release or snapshot
	URL           string // of an archive
	ZigHash       string
	ZigLegacyHash string
	Digest        string // of the tarball that Zig is given
	Size          int64  // of that, in bytes
	Private       bool
	Damaged       bool // the tarball's bytes are wrong or lost, and could not be mended yet
	Zig           release.Zig
}

// bestSource selects what is served for the hash h.hash: the public before the private, releases before archives, the
// first of each. $2 says whether the private is seen.
const bestSource = `
	SELECT kind, package, tag, commit_oid, url, zig_hash, zig_legacy_hash, digest, size, private, zig,
		EXISTS (SELECT FROM blobs b WHERE b.digest = sources.digest AND b.damaged_at IS NOT NULL) AS damaged FROM sources
	WHERE (` + pinned + `) AND ($2 OR NOT private) ` + bestFirst

// hidden tells whether the hash h.hash is of what is private, or was when it was removed: a tree is as private as anything in it.
const hidden = `COALESCE((SELECT private FROM sources WHERE ` + pinned + bestFirst + `), (SELECT true FROM private_hashes WHERE ` + pinned + ` LIMIT 1), false)`

const (
	pinned    = `zig_hash = h.hash AND zig_hash <> '' OR zig_legacy_hash = h.hash AND zig_legacy_hash <> ''`
	bestFirst = ` ORDER BY private, kind = 'archive', id LIMIT 1`
)

// Sources returns what is stored under Zig hashes of either form, by them.
func (s *Store) Sources(ctx context.Context, hashes []string) (map[string]Source, error) {
	rows, _ := s.db.Pool.Query(ctx, `
		SELECT h.hash, s.kind, s.package, s.tag, s.commit_oid, s.url, s.zig_hash, s.zig_legacy_hash, s.digest, s.size, s.private, s.damaged, s.zig
		FROM unnest($1::text[]) AS h (hash) CROSS JOIN LATERAL (`+bestSource+`) s`, hashes, access.SeesPrivate(ctx))
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Source])
	if err != nil {
		return nil, fmt.Errorf("sources of %d hashes: %w", len(hashes), pg.Translate(err))
	}
	found := make(map[string]Source, len(all))
	for _, src := range all {
		found[src.Pin] = src
	}
	return found, nil
}

// Declared returns what the newest revisions of trees have under a URL that their manifests name, or fault.ErrNotFound
// if they pin different files there. It may have come from elsewhere.
func (s *Store) Declared(ctx context.Context, url string) (Source, error) {
	rows, _ := s.db.Pool.Query(ctx, `
		SELECT DISTINCT n.hash FROM tree_nodes n JOIN trees t ON t.name = n.tree AND t.revision = n.revision
		WHERE n.state = 'stored' AND n.urls @> ARRAY[$1] LIMIT 10`, url)
	hashes, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return Source{}, fmt.Errorf("declared %s: %w", url, pg.Translate(err))
	}
	found, err := s.Sources(ctx, hashes)
	if err != nil {
		return Source{}, err
	}
	var one Source
	for _, src := range found {
		if one.Pin != "" && src.ZigLegacyHash != one.ZigLegacyHash {
			found = nil
			break
		}
		one = src
	}
	if len(found) == 0 {
		return Source{}, fmt.Errorf("declared %s: %w", url, fault.ErrNotFound)
	}
	return one, nil
}

// ByHash returns what is stored under a Zig hash of either form, or fault.ErrNotFound, or fault.ErrGone if it was an archive
// that was removed.
func (s *Store) ByHash(ctx context.Context, hash string) (Source, error) {
	found, err := s.Sources(ctx, []string{hash})
	if err != nil {
		return Source{}, err
	}
	src, ok := found[hash]
	if !ok {
		return Source{}, fmt.Errorf("source %s: %w", hash, s.orGone(ctx, fault.ErrNotFound, "", hash))
	}
	return src, nil
}
