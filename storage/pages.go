package storage

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/pg"
)

// A TagRef is as much of a release as it takes to put releases in order.
type TagRef struct {
	ID         int64
	Tag        string // "" for a snapshot
	CommitOID  string
	CommitTime time.Time
	Size       int64 // of the tarball, in bytes
}

// Head returns the index of that of refs which HEAD and main name: the latest
// release; without releases, what the branches asked for came to, else the
// newest commit. It is -1 of none.
func (p *Package) Head(refs []TagRef) int {
	head := -1
	for i, ref := range refs {
		switch {
		case p.LatestTag != nil && ref.Tag == *p.LatestTag, p.LatestTag == nil && ref.CommitOID == p.HeadOID:
			return i
		case head < 0 || ref.CommitTime.After(refs[head].CommitTime):
			head = i
		}
	}
	return head
}

// TagRefs returns the releases and snapshots of pkg, in order of publication.
func (db *DB) TagRefs(ctx context.Context, pkg string) ([]TagRef, error) {
	rows, _ := db.Pool.Query(ctx, `
		SELECT id, COALESCE(tag, '') AS tag, commit_oid, commit_time, size FROM served_releases
		WHERE package = $1 AND ($2 OR NOT private) ORDER BY id`, pkg, access.SeesPrivate(ctx))
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[TagRef])
	if err != nil {
		return nil, fmt.Errorf("tags of %s: %w", pkg, pg.Translate(err))
	}
	return all, nil
}

// A Description is what is told of a package beside its row and its releases.
type Description struct {
	Names      []string      // the first one first, in the order in which it got them
	Branches   []Branch      // whose commit was not removed, the one last asked for first
	Rejected   []RejectedTag // as RejectedTags returns them
	Moved      []MovedTag    // as MovedTags does
	Tombstones []Tombstone   // as Tombstones does
}

// Describe returns the description of pkg, by one question to Postgres.
func (db *DB) Describe(ctx context.Context, pkg string) (d Description, err error) {
	b := &pgx.Batch{}
	sees := access.SeesPrivate(ctx)
	queue(b, &d.Names, pgx.RowTo[string], selectNames, pkg, sees)
	queue(b, &d.Branches, pgx.RowToStructByName[Branch], selectBranches, pkg, sees)
	queue(b, &d.Rejected, pgx.RowToStructByName[RejectedTag], selectRejectedTags, pkg, sees)
	queue(b, &d.Moved, pgx.RowToStructByName[MovedTag], selectMovedTags, pkg, sees)
	queue(b, &d.Tombstones, pgx.RowToStructByName[Tombstone], selectTombstones, pkg, sees)
	if err := db.Pool.SendBatch(ctx, b).Close(); err != nil {
		return Description{}, fmt.Errorf("describe %s: %w", pkg, pg.Translate(err))
	}
	return d, nil
}

func queue[T any](b *pgx.Batch, into *[]T, scan pgx.RowToFunc[T], sql string, args ...any) {
	b.Queue(sql, args...).Query(func(rows pgx.Rows) (err error) {
		*into, err = pgx.CollectRows(rows, scan)
		return err
	})
}

// ReleasesByID returns the releases with the given ids, in the order of ids.
func (db *DB) ReleasesByID(ctx context.Context, ids []int64) ([]Release, error) {
	rows, _ := db.Pool.Query(ctx, `
		SELECT `+releaseColumns+` FROM served_releases
		WHERE id = ANY($1) AND ($2 OR NOT private) ORDER BY array_position($1, id)`, ids, access.SeesPrivate(ctx))
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[Release])
	if err != nil {
		return nil, fmt.Errorf("releases by id: %w", pg.Translate(err))
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
	rows, _ := db.Pool.Query(ctx, `
		SELECT `+releaseColumns+` FROM served_releases
		WHERE tag IS NOT NULL AND (@private OR NOT private) AND `+where+`
		ORDER BY `+order+` DESC LIMIT @limit`, pgx.NamedArgs{"package": pkg, "limit": limit, "private": access.SeesPrivate(ctx)})
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[Release])
	if err != nil {
		return nil, fmt.Errorf("newest releases: %w", pg.Translate(err))
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
	rows, _ := db.Pool.Query(ctx, `
		SELECT date_trunc($1, created_at) AS at, count(*) AS n FROM served_releases
		WHERE created_at >= $2 AND ($3 OR NOT private) GROUP BY 1 ORDER BY 1`, unit, since, access.SeesPrivate(ctx))
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[Count])
	if err != nil {
		return nil, fmt.Errorf("count releases: %w", pg.Translate(err))
	}
	return all, nil
}

// FirstRelease returns when the first release was published, the zero time
// if there is none.
func (db *DB) FirstRelease(ctx context.Context) (time.Time, error) {
	var at *time.Time
	if err := db.Pool.QueryRow(ctx, `SELECT min(created_at) FROM served_releases WHERE $1 OR NOT private`, access.SeesPrivate(ctx)).Scan(&at); err != nil {
		return time.Time{}, fmt.Errorf("first release: %w", pg.Translate(err))
	}
	if at == nil {
		return time.Time{}, nil
	}
	return *at, nil
}
