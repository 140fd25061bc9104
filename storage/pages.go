package storage

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// A TagRef is as much of a release as it takes to put releases in order.
type TagRef struct {
	ID         int64
	Tag        string // "" for a snapshot
	CommitTime time.Time
}

// TagRefs returns the releases and snapshots of pkg, in order of publication.
func (db *DB) TagRefs(ctx context.Context, pkg string) ([]TagRef, error) {
	rows, _ := db.pool.Query(ctx, `
		SELECT id, COALESCE(tag, '') AS tag, commit_time FROM served_releases
		WHERE package = $1 AND ($2 OR NOT private) ORDER BY id`, pkg, SeesPrivate(ctx))
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[TagRef])
	if err != nil {
		return nil, fmt.Errorf("tags of %s: %w", pkg, translate(err))
	}
	return all, nil
}

// ReleasesByID returns the releases with the given ids, in the order of ids.
func (db *DB) ReleasesByID(ctx context.Context, ids []int64) ([]Release, error) {
	rows, _ := db.pool.Query(ctx, `
		SELECT `+releaseColumns+` FROM served_releases
		WHERE id = ANY($1) AND ($2 OR NOT private) ORDER BY array_position($1, id)`, ids, SeesPrivate(ctx))
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[Release])
	if err != nil {
		return nil, fmt.Errorf("releases by id: %w", translate(err))
	}
	return all, nil
}

// NewestReleases returns the releases of pkg, of all packages if it is "",
// that were published last, the newest first. Snapshots do not count.
func (db *DB) NewestReleases(ctx context.Context, pkg string, limit int) ([]Release, error) {
	where, order := `package = @package`, `id`
	if pkg == "" {
		where, order = `true`, `created_at`
	}
	rows, _ := db.pool.Query(ctx, `
		SELECT `+releaseColumns+` FROM served_releases
		WHERE tag IS NOT NULL AND (@private OR NOT private) AND `+where+`
		ORDER BY `+order+` DESC LIMIT @limit`, pgx.NamedArgs{"package": pkg, "limit": limit, "private": SeesPrivate(ctx)})
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[Release])
	if err != nil {
		return nil, fmt.Errorf("newest releases: %w", translate(err))
	}
	return all, nil
}

// A Count is how many releases and snapshots were published in the unit of
// time that begins at At.
type Count struct {
	At time.Time // UTC
	N  int
}

// ReleaseCounts counts what was published since, by unit: "hour", "day",
// "week" (from Monday) or "month". Units without any are left out.
func (db *DB) ReleaseCounts(ctx context.Context, unit string, since time.Time) ([]Count, error) {
	rows, _ := db.pool.Query(ctx, `
		SELECT date_trunc($1, created_at) AS at, count(*) AS n FROM served_releases
		WHERE created_at >= $2 AND ($3 OR NOT private) GROUP BY 1 ORDER BY 1`, unit, since, SeesPrivate(ctx))
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[Count])
	if err != nil {
		return nil, fmt.Errorf("count releases: %w", translate(err))
	}
	return all, nil
}

// FirstRelease returns when the first release was published, the zero time
// if there is none.
func (db *DB) FirstRelease(ctx context.Context) (time.Time, error) {
	var at *time.Time
	if err := db.pool.QueryRow(ctx, `SELECT min(created_at) FROM served_releases WHERE $1 OR NOT private`, SeesPrivate(ctx)).Scan(&at); err != nil {
		return time.Time{}, fmt.Errorf("first release: %w", translate(err))
	}
	if at == nil {
		return time.Time{}, nil
	}
	return *at, nil
}

// Failures returns the jobs that failed within a week and that nobody has
// asked for again since, newest first.
func (db *DB) Failures(ctx context.Context, limit int) ([]Job, error) {
	rows, _ := db.pool.Query(ctx, `
		SELECT `+jobColumns+` FROM jobs j
		WHERE state = 'failed' AND created_at > now() - interval '7 days' AND seen(package, $2)
			AND NOT EXISTS (SELECT FROM jobs later
				WHERE later.package = j.package AND later.kind = j.kind AND later.target = j.target
					AND (later.created_at, later.id) > (j.created_at, j.id))
		ORDER BY created_at DESC, id DESC LIMIT $1`, limit, SeesPrivate(ctx))
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[Job])
	if err != nil {
		return nil, fmt.Errorf("failures: %w", translate(err))
	}
	return all, nil
}

// CatalogState returns why the catalog could not be had the last time, and
// when it last was; "" if all is well or there is none.
func (db *DB) CatalogState(ctx context.Context, source string) (problem string, fetchedAt *time.Time, err error) {
	rows, _ := db.pool.Query(ctx, `SELECT error_message AS problem, fetched_at FROM catalog WHERE source = $1`, source)
	type state struct {
		Problem   string
		FetchedAt *time.Time
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[state])
	if err != nil {
		return "", nil, fmt.Errorf("catalog state: %w", translate(err))
	}
	if len(all) == 0 {
		return "", nil, nil
	}
	return all[0].Problem, all[0].FetchedAt, nil
}
