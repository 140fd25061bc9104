package storage

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/feed"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/pg"
)

// A Tombstone stands for a release or snapshot that was removed.
type Tombstone struct {
	Package        string    `json:"-"`
	Tag            string    `json:"tag,omitempty"` // "" for a snapshot
	TagOID         string    `json:"tag_oid,omitempty"`
	CommitOID      string    `json:"commit"`
	Digest         string    `json:"digest,omitempty"`
	ManifestDigest string    `json:"manifest_digest,omitempty"`
	ZigHash        string    `json:"zig_hash,omitempty"`
	ZigLegacyHash  string    `json:"zig_legacy_hash,omitempty"`
	Reason         string    `json:"reason"`
	RemovedAt      time.Time `json:"removed_at"`
}

// OID returns what upstream's ref named.
func (t *Tombstone) OID() string {
	if t.TagOID != "" {
		return t.TagOID
	}
	return t.CommitOID
}

func (t *Tombstone) gone() *fault.GoneError {
	what := t.Package + "@" + t.Tag
	if t.Tag == "" {
		what = t.Package + "#" + t.CommitOID
	}
	return &fault.GoneError{What: what, Reason: t.Reason, At: t.RemovedAt}
}

const tombstoneColumns = `
	package, COALESCE(tag, '') AS tag, COALESCE(tag_oid, '') AS tag_oid, commit_oid, digest, manifest_digest,
	zig_hash, zig_legacy_hash, reason, removed_at`

// Tombstones returns what was removed of pkg, in that order.
func (db *DB) Tombstones(ctx context.Context, pkg string) ([]Tombstone, error) {
	return tombstonesOf(ctx, db.Pool, pkg)
}

const selectTombstones = `SELECT ` + tombstoneColumns + ` FROM tombstones WHERE package = $1 AND seen(package, $2) ORDER BY id`

func tombstonesOf(ctx context.Context, q pg.Querier, pkg string) ([]Tombstone, error) {
	rows, _ := q.Query(ctx, selectTombstones, pkg, access.SeesPrivate(ctx))
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[Tombstone])
	if err != nil {
		return nil, fmt.Errorf("tombstones of %s: %w", pkg, pg.Translate(err))
	}
	return all, nil
}

// orGone returns the *GoneError of what was looked for in vain, if it was
// removed, else err. where is a condition on tombstones with two arguments.
func (db *DB) orGone(ctx context.Context, err error, where, a, b string) error {
	if !errors.Is(err, fault.ErrNotFound) {
		return err
	}
	rows, _ := db.Pool.Query(ctx, `
		SELECT `+tombstoneColumns+` FROM tombstones WHERE (`+where+`) AND seen(package, $3) ORDER BY id LIMIT 1`, a, b, access.SeesPrivate(ctx))
	t, terr := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Tombstone])
	if terr == nil {
		return t.gone()
	}
	if terr = pg.Translate(terr); !errors.Is(terr, fault.ErrNotFound) {
		return fmt.Errorf("look for tombstones: %w", terr)
	}
	return err
}

// checkRemoved returns a *GoneError if the release must not be published: its
// tag was removed, or its commit was, and no release of that is left. A commit
// that was removed is not published under another name of its upstream either,
// and under a tag of it that was removed not even while others serve it.
// What is adopted was published elsewhere, and other tags of its commit may
// come later: then its own removal alone counts.
func checkRemoved(ctx context.Context, tx pgx.Tx, r Release, adopted bool) error {
	rows, _ := tx.Query(ctx, `
		SELECT `+tombstoneColumns+` FROM tombstones t
		WHERE package = @package AND (tag = @tag OR tag IS NULL AND @tag = '' AND commit_oid = @commit)
			OR NOT @adopted AND commit_oid = @commit
			AND package IN (SELECT o.name FROM packages o JOIN packages p USING (upstream) WHERE p.name = @package)
			AND (tag = @tag OR NOT EXISTS (SELECT FROM served_releases s WHERE s.package = t.package AND s.commit_oid = t.commit_oid))
		ORDER BY package <> @package, id LIMIT 1`, pgx.NamedArgs{"package": r.Package, "tag": r.Tag, "commit": r.CommitOID, "adopted": adopted})
	t, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Tombstone])
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return err
	case t.Package != r.Package: // which may be private
		t.Package, t.Tag, t.Reason = r.Package, r.Tag, "another package of this upstream had it"
	}
	return t.gone()
}

// A Removal says what to remove, and why.
type Removal struct {
	Package string
	Tag     string // that release; ""
	Commit  string // all releases and snapshots of that commit; "" with Tag: the package
	Reason  string
	At      time.Time // when an edge's central did; zero for now
}

// A RemovalResult is what a removal did.
type RemovalResult struct {
	Package  string
	Releases []Tombstone
	Left     []string // tags of the same commits, which still serve the same files; package@tag if of another package
	Freed    bool     // nothing was ever published: the name may be used again
	Job      jobs.Job // the probe that keeps a record of it
}

// maxReason is the longest reason of a removal, in bytes.
const maxReason = 500

// Remove serves what r names to nobody any more. The rows stay, and what was
// removed is never published again. Of a package under which nothing was ever
// published nothing is left. It returns ErrNotFound if there is no such thing,
// ErrGone if it was removed before.
func (db *DB) Remove(ctx context.Context, r Removal) (done RemovalResult, err error) {
	if err := ValidReason(r.Reason); err != nil {
		return RemovalResult{}, err
	}
	if r.At.IsZero() {
		r.At = time.Now()
	}
	err = db.Tx(ctx, func(tx pgx.Tx) error {
		p, err := lockPackage(ctx, tx, r.Package)
		if err != nil {
			return err
		}
		r.Package, done = p.Name, RemovalResult{Package: p.Name}
		if r.Tag == "" && r.Commit == "" {
			err = removePackage(ctx, tx, r, &done)
		} else {
			err = removeReleases(ctx, tx, r, &done)
		}
		if err != nil || done.Freed {
			return err
		}
		if done.Left, err = stillServed(ctx, tx, done); err != nil {
			return err
		}
		done.Job, _, err = jobs.Add(ctx, tx, jobs.Job{Kind: jobs.ProbePackage, Package: p.Name})
		return err
	})
	if err != nil {
		return RemovalResult{}, fmt.Errorf("remove %s: %w", r.Package, pg.Translate(err))
	}
	return done, nil
}

// ValidReason returns a fault.ErrInvalid if nobody could be told the reason of a removal.
func ValidReason(reason string) error {
	switch {
	case strings.TrimSpace(reason) == "":
		return fault.Invalid("reason", "a reason is missing: all who ask for what was removed are told it")
	case len(reason) > maxReason:
		return fault.Invalid("reason", "a reason has at most %d bytes, this one has %d", maxReason, len(reason))
	}
	return nil
}

// lockPackage locks the row of a package that was not removed.
func lockPackage(ctx context.Context, tx pgx.Tx, name string) (Package, error) {
	if _, err := tx.Exec(ctx, `SELECT FROM packages WHERE lower(name) = lower(first_name($1)) FOR UPDATE`, name); err != nil {
		return Package{}, err
	}
	return packageByName(ctx, tx, name)
}

func removePackage(ctx context.Context, tx pgx.Tx, r Removal, done *RemovalResult) error {
	var published bool
	err := tx.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM releases WHERE package = $1) OR EXISTS (SELECT FROM tombstones WHERE package = $1)
			OR EXISTS (SELECT FROM package_names WHERE package = $1)`, r.Package).Scan(&published)
	if err != nil {
		return err
	}
	if published {
		if done.Releases, err = bury(ctx, tx, r, `true`); err != nil {
			return err
		}
		if err := feed.Add(ctx, tx, feed.Body{Package: r.Package, Decision: feed.DecisionRemoved, Reason: r.Reason}); err != nil {
			return err
		}
	}
	batch := &pgx.Batch{}
	for _, table := range []string{"segments", "histories", "rejected_tags"} {
		batch.Queue(`DELETE FROM `+table+` WHERE package = $1`, r.Package)
	}
	batch.Queue(`
		UPDATE jobs SET cancelling = true,
			state = CASE WHEN state = 'queued' THEN 'cancelled' ELSE state END, ended_at = CASE WHEN state = 'queued' THEN now() END,
			error_code = 'removed', error_message = 'the package was removed'
		WHERE package = $1 AND state IN ('queued', 'running')`, r.Package)
	if !published {
		done.Freed = true
		batch.Queue(`DELETE FROM jobs USING packages p WHERE package = $1 AND p.name = $1 AND p.private AND ended_at IS NOT NULL`, r.Package) // else whoever is next shows them
		batch.Queue(`DELETE FROM branches WHERE package = $1`, r.Package)
		batch.Queue(`DELETE FROM moved_tags WHERE package = $1`, r.Package)
		batch.Queue(`DELETE FROM packages WHERE name = $1`, r.Package)
		return tx.SendBatch(ctx, batch).Close()
	}
	batch.Queue(`
		UPDATE packages
		SET state = 'removed', state_reason = $2, fence = fence + 1, revision = revision + 1, registered = false, description = '',
			latest_tag = NULL, latest_size = 0, release_count = 0, snapshot_count = 0, size_bytes = 0, updated_at = $3,
			smart_http_ready = false, pseudo_git_fetchable = false, healthy = false, probe_commit = '', probe_error = ''
		WHERE name = $1`, r.Package, r.Reason, r.At)
	return tx.SendBatch(ctx, batch).Close()
}

func removeReleases(ctx context.Context, tx pgx.Tx, r Removal, done *RemovalResult) (err error) {
	where := `tag = @tag AND (@commit = '' OR commit_oid = @commit)`
	if r.Tag == "" {
		where = `commit_oid = @commit`
	}
	if done.Releases, err = bury(ctx, tx, r, where); err != nil {
		return err
	}
	if len(done.Releases) == 0 {
		if gone := checkRemoved(ctx, tx, Release{Package: r.Package, Tag: r.Tag, CommitOID: r.Commit}, false); gone != nil {
			return gone
		}
		return fault.ErrNotFound
	}
	for _, t := range done.Releases {
		err := feed.Add(ctx, tx, feed.Body{Package: r.Package, Tag: t.Tag, Commit: t.CommitOID, Decision: feed.DecisionRemoved, Reason: r.Reason})
		if err != nil {
			return err
		}
	}
	// The history of a local repository is one pack: it cannot be served in part.
	if _, err := tx.Exec(ctx, `DELETE FROM histories WHERE package = $1`, r.Package); err != nil {
		return err
	}
	return recount(ctx, tx, r.Package)
}

// stillServed returns what serves the commits that were removed.
func stillServed(ctx context.Context, tx pgx.Tx, done RemovalResult) ([]string, error) {
	commits := make([]string, 0, len(done.Releases))
	for _, t := range done.Releases {
		commits = append(commits, t.CommitOID)
	}
	rows, _ := tx.Query(ctx, `
		SELECT CASE WHEN package = $1 THEN COALESCE(tag, '#' || commit_oid) ELSE package || COALESCE('@' || tag, '#' || commit_oid) END
		FROM served_releases WHERE commit_oid = ANY($2) ORDER BY package <> $1, id`, done.Package, commits)
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// bury makes tombstones of the releases that where holds for.
func bury(ctx context.Context, tx pgx.Tx, r Removal, where string) ([]Tombstone, error) {
	rows, _ := tx.Query(ctx, `
		INSERT INTO tombstones (package, tag, tag_oid, commit_oid, digest, manifest_digest, zig_hash, zig_legacy_hash, reason, removed_at)
		SELECT package, tag, tag_oid, commit_oid, digest, manifest_digest, zig_hash, zig_legacy_hash, @reason, @at
		FROM served_releases WHERE package = @package AND `+where+`
		ORDER BY id RETURNING `+tombstoneColumns,
		pgx.NamedArgs{"package": r.Package, "tag": r.Tag, "commit": r.Commit, "reason": r.Reason, "at": r.At})
	return pgx.CollectRows(rows, pgx.RowToStructByName[Tombstone])
}

// putTombstones stores what a record or a central tells of removed releases.
func putTombstones(ctx context.Context, tx pgx.Tx, pkg string, all []Tombstone) error {
	for _, t := range all {
		_, err := tx.Exec(ctx, `
			INSERT INTO tombstones (package, tag, tag_oid, commit_oid, digest, manifest_digest, zig_hash, zig_legacy_hash, reason, removed_at)
			VALUES ($1, NULLIF($2, ''), NULLIF($3, ''), $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING`,
			pkg, t.Tag, t.TagOID, t.CommitOID, t.Digest, t.ManifestDigest, t.ZigHash, t.ZigLegacyHash, t.Reason, t.RemovedAt)
		if err != nil {
			return err
		}
	}
	return nil
}

// FollowRemoval does on an edge what its central did, also when what was
// removed has never been here.
func (db *DB) FollowRemoval(ctx context.Context, r Removal) error {
	_, err := db.Remove(ctx, r)
	if errors.Is(err, fault.ErrGone) {
		return nil
	}
	if !errors.Is(err, fault.ErrNotFound) || r.Commit == "" {
		return err
	}
	err = db.Tx(ctx, func(tx pgx.Tx) error {
		p, err := lockPackage(ctx, tx, r.Package)
		if err != nil {
			return err
		}
		t := Tombstone{Tag: r.Tag, CommitOID: r.Commit, Reason: r.Reason, RemovedAt: time.Now()}
		if err := putTombstones(ctx, tx, p.Name, []Tombstone{t}); err != nil {
			return err
		}
		return feed.Add(ctx, tx, feed.Body{Package: p.Name, Tag: r.Tag, Commit: r.Commit, Decision: feed.DecisionRemoved, Reason: r.Reason})
	})
	if err != nil {
		return fmt.Errorf("follow removal in %s: %w", r.Package, pg.Translate(err))
	}
	return nil
}

// recount brings the package's summary up to date with what is served of it.
func recount(ctx context.Context, tx pgx.Tx, pkg string) error {
	releases, err := releasesOf(ctx, tx, pkg)
	if err != nil {
		return err
	}
	var latest *Release
	count, snapshots, bytes := 0, 0, int64(0)
	for i := range releases {
		r := &releases[i]
		bytes += r.Size
		if r.Tag == "" {
			snapshots++
			continue
		}
		count++
		if latest == nil || name.CompareTags(r.Tag, r.CommitTime, latest.Tag, latest.CommitTime) > 0 {
			latest = r
		}
	}
	var tag *string
	size := int64(0)
	if latest != nil {
		tag, size = &latest.Tag, latest.Size
	}
	_, err = tx.Exec(ctx, `
		UPDATE packages
		SET description = CASE WHEN latest_tag IS DISTINCT FROM $2 THEN '' ELSE description END,
			latest_tag = $2, latest_size = $3, release_count = $4, snapshot_count = $5, size_bytes = $6, revision = revision + 1
		WHERE name = $1`, pkg, tag, size, count, snapshots, bytes)
	return err
}
