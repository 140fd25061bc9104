package storage

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/pg"
)

const packageColumns = `
	name, upstream, clone_url, state, state_reason, frozen_for, language, description,
	latest_tag, latest_size, release_count, snapshot_count, size_bytes,
	sync_at, sync_ok, sync_code, sync_message, sync_failures, synced_at, next_sync_at,
	registered, moved_count, smart_http_ready, pseudo_git_fetchable, probe_commit, probe_error, healthy, probed_at,
	private, shown, head_oid, head_branch, revision, created_at, updated_at, changed_at`

// PackageByName returns the package that name means, in any case of letters:
// its first one, or one that it was renamed to.
// It returns ErrNotFound if there is none, a *GoneError if it was removed.
func (db *DB) PackageByName(ctx context.Context, name string) (Package, error) {
	return packageByName(ctx, db.Pool, name)
}

func packageByName(ctx context.Context, q pg.Querier, name string) (Package, error) {
	p, err := packageRow(ctx, q, name)
	if err == nil && p.State == Removed {
		err = &fault.GoneError{What: p.Name, Reason: p.StateReason, At: p.UpdatedAt}
	}
	return p, err
}

// packageRow is packageByName also for a package that was removed.
func packageRow(ctx context.Context, q pg.Querier, name string) (Package, error) {
	rows, _ := q.Query(ctx, `
		SELECT `+packageColumns+` FROM packages
		WHERE lower(name) = lower(first_name($1)) AND ($2 OR NOT private)`, name, access.SeesPrivate(ctx))
	p, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Package])
	if err != nil {
		return Package{}, fmt.Errorf("package %q: %w", name, pg.Translate(err))
	}
	return p, nil
}

// claimName binds name to the upstream, or returns a *BoundError.
//
// A name whose owner never published anything, whose last sync failed and
// for which nothing is under way passes to the new claim: a mistyped URL
// must not hold a name for ever, and nobody can depend on it yet.
//
// It is the one way for a URL to become one that is dialled.
func claimName(ctx context.Context, tx pgx.Tx, name string, up name.Upstream) (owner string, err error) {
	if err := up.Check(); err != nil {
		return "", fmt.Errorf("claim %q: %w", name, err)
	}
	// One claim of a name at a time: ON CONFLICT watches the folded name alone,
	// and of two claims at once one would fail on the primary key.
	if err := lockName(ctx, tx, name); err != nil {
		return "", fmt.Errorf("claim %q: %w", name, pg.Translate(err))
	}
	asked := name
	if err := tx.QueryRow(ctx, `SELECT first_name($1)`, asked).Scan(&name); err != nil {
		return "", fmt.Errorf("claim %q: %w", asked, pg.Translate(err))
	}
	// What was known of the upstream before goes with it, and so do its jobs if it was private: the new one may not be.
	_, err = tx.Exec(ctx, `
		WITH claimed AS (INSERT INTO packages (name, upstream, clone_url, private)
		VALUES (@name, @upstream, @clone_url, @private)
		ON CONFLICT (lower(name)) DO UPDATE
		SET upstream = EXCLUDED.upstream, clone_url = EXCLUDED.clone_url, private = EXCLUDED.private, fence = packages.fence + 1, record_digest = NULL,
			sync_at = NULL, sync_ok = NULL, sync_code = '', sync_message = '', sync_failures = 0, next_sync_at = NULL
		WHERE packages.upstream <> EXCLUDED.upstream
			AND packages.state = 'active'
			AND packages.sync_ok = false
			AND NOT EXISTS (SELECT FROM releases r WHERE r.package = packages.name)
			AND NOT EXISTS (SELECT FROM package_names n WHERE n.package = packages.name)
			AND NOT EXISTS (SELECT FROM jobs j WHERE j.package = packages.name AND j.state IN ('queued', 'running'))
			AND NOT EXISTS (SELECT FROM catalog_entries c WHERE lower(c.name) = lower(packages.name)
				AND c.upstream = packages.upstream AND c.problem = '')
		RETURNING name),
		told AS (DELETE FROM jobs USING packages before, claimed
			WHERE jobs.package = claimed.name AND before.name = claimed.name AND before.private)
		DELETE FROM rejected_tags WHERE package IN (SELECT name FROM claimed)`,
		pgx.NamedArgs{"name": name, "upstream": up.Canonical, "clone_url": up.CloneURL, "private": up.Private})
	if err != nil {
		return "", fmt.Errorf("claim %q: %w", name, pg.Translate(err))
	}
	var upstream, shown string
	var private, published bool
	gone := &fault.GoneError{}
	err = tx.QueryRow(ctx, `
		SELECT name, shown, upstream, private, EXISTS (SELECT FROM releases r WHERE r.package = p.name),
			CASE WHEN state = 'removed' THEN name ELSE '' END, state_reason, updated_at
		FROM packages p WHERE lower(name) = lower($1) FOR UPDATE`, name).
		Scan(&owner, &shown, &upstream, &private, &published, &gone.What, &gone.Reason, &gone.At)
	if err != nil {
		return "", fmt.Errorf("claim %q: %w", name, pg.Translate(err))
	}
	switch {
	case upstream != up.Canonical && private && !access.SeesPrivate(ctx):
		return "", &fault.BoundError{Package: asked}
	case gone.What != "" && (!private || access.SeesPrivate(ctx)):
		return "", gone
	case upstream != up.Canonical:
		return "", &fault.BoundError{Package: cmp.Or(shown, owner), Upstream: upstream}
	case up.Private && !private && published:
		return "", fault.Conflict("%q is here for everybody already; `packbase visibility %s private` changes that", name, name)
	case up.Private && !private:
		return owner, setPrivate(ctx, tx, owner, true)
	}
	return owner, nil
}

// A Branch is a branch that was asked for, or that the catalog has followed.
type Branch struct {
	Name   string // without "refs/heads/"
	Commit string // the last that was mirrored of it
}

const selectBranches = `
	SELECT branch AS name, commit_oid AS commit FROM branches b
	WHERE package = $1 AND seen(package, $2) AND EXISTS (
		SELECT FROM served_releases r WHERE r.package = b.package AND r.commit_oid = b.commit_oid)
	ORDER BY seen_at DESC, branch`

func branchesOf(ctx context.Context, q pg.Querier, pkg string) ([]Branch, error) {
	rows, _ := q.Query(ctx, `
		SELECT branch AS name, commit_oid AS commit FROM branches WHERE package = $1 ORDER BY seen_at DESC, branch`, pkg)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Branch])
	if err != nil {
		return nil, fmt.Errorf("branches of %s: %w", pkg, pg.Translate(err))
	}
	return all, nil
}

// BranchCommit returns the last mirrored commit of a branch.
func (db *DB) BranchCommit(ctx context.Context, pkg, branch string) (string, error) {
	var oid string
	err := db.Pool.QueryRow(ctx, `
		SELECT commit_oid FROM branches WHERE package = `+seenName+` AND branch = $2 AND seen(package, $3)`, pkg, branch, access.SeesPrivate(ctx)).Scan(&oid)
	if err != nil {
		return "", fmt.Errorf("branch %s of %s: %w", branch, pkg, pg.Translate(err))
	}
	return oid, nil
}

// Packages returns all packages, in no particular order.
func (db *DB) Packages(ctx context.Context) ([]Package, error) {
	rows, _ := db.Pool.Query(ctx, `
		SELECT `+packageColumns+` FROM packages
		WHERE $1 OR NOT private`, access.SeesPrivate(ctx))
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[Package])
	if err != nil {
		return nil, fmt.Errorf("packages: %w", pg.Translate(err))
	}
	return all, nil
}

// ChangedPackages returns the packages that changed within d until now, by
// Postgres's clock, in no particular order.
func (db *DB) ChangedPackages(ctx context.Context, d time.Duration) ([]Package, error) {
	rows, _ := db.Pool.Query(ctx, `
		SELECT `+packageColumns+` FROM packages
		WHERE changed_at >= now() - $1::interval AND ($2 OR NOT private)`, d, access.SeesPrivate(ctx))
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[Package])
	if err != nil {
		return nil, fmt.Errorf("changed packages: %w", pg.Translate(err))
	}
	return all, nil
}

// RecordProbe stores how the newest release of pkg fetched back.
func (db *DB) RecordProbe(ctx context.Context, pkg string, p Probe) error {
	err := db.Tx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			UPDATE packages
			SET smart_http_ready = $2, pseudo_git_fetchable = $3, probe_commit = $4, probe_error = $5, healthy = $6, probed_at = now()
			WHERE name = $1`, pkg, p.SmartHTTPReady, p.PseudoGitFetchable, p.ProbeCommit, p.ProbeError, p.Healthy)
		if err != nil {
			return err
		}
		return jobs.HoldLease(ctx, tx)
	})
	if err != nil {
		return fmt.Errorf("record probe of %s: %w", pkg, pg.Translate(err))
	}
	return nil
}

// Unprobed returns the packages whose newest release has not been fetched back.
func (db *DB) Unprobed(ctx context.Context) ([]string, error) {
	rows, _ := db.Pool.Query(ctx, `
		SELECT p.name FROM packages p
		WHERE EXISTS (SELECT FROM served_releases r WHERE r.package = p.name)
			AND NOT EXISTS (
				SELECT FROM served_releases r
				WHERE r.package = p.name AND r.commit_oid = p.probe_commit AND (r.tag = p.latest_tag OR p.latest_tag IS NULL))
		ORDER BY p.name`)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("packages not probed: %w", pg.Translate(err))
	}
	return names, nil
}

// Freeze puts the claimed package under review: it is served as it is, and
// not synced until somebody decides.
func (db *DB) Freeze(ctx context.Context, c jobs.Claim, reason string) error {
	err := db.Tx(ctx, func(tx pgx.Tx) error {
		if err := jobs.HoldFence(ctx, tx, c); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE packages SET state = 'frozen', state_reason = $2 WHERE name = $1`, c.Job.Package, reason)
		return err
	})
	if err != nil {
		return fmt.Errorf("freeze %s: %w", c.Job.Package, pg.Translate(err))
	}
	return nil
}

// What frozen_for says. The schema has it from the reason, so that what records
// and older servers say counts, too.
const (
	frozenKept    = "kept"    // an operator decided to leave it as it is
	frozenPrivate = "private" // accepted, the package becomes private
)

// AwaitsReview reports whether the package is frozen until an operator decides.
func (p *Package) AwaitsReview() bool { return p.State == Frozen && p.FrozenFor != frozenKept }

// FrozenPrivate is the reason of a public package whose upstream wants
// credentials now.
const FrozenPrivate = "upstream wants credentials now, and the releases here can be read by anybody: accept makes the package private and mirrors it again, keep leaves it public as it is"

// Unproven is the reason of a package that was rebuilt from blobs that do not tell whether it is private, and is private until
// somebody decides.
const Unproven = "rebuilt without a record, so it is private until somebody decides: packbase visibility NAME public, or private"

// Review decides about a frozen package. Accepted, its moved tags are known
// and new ones are mirrored again; else it stays as it is for good.
// It returns ErrConflict if the package is not frozen.
func (db *DB) Review(ctx context.Context, pkg string, accept bool) error {
	err := db.Tx(ctx, func(tx pgx.Tx) error {
		var name, state, cause string
		err := tx.QueryRow(ctx, `
			SELECT name, state, frozen_for FROM packages
			WHERE lower(name) = lower(first_name($1)) AND ($2 OR NOT private) FOR UPDATE`, pkg, access.SeesPrivate(ctx)).Scan(&name, &state, &cause)
		if err != nil {
			return err
		}
		if state != Frozen {
			return fault.Conflict("%s is not frozen: there is nothing to decide about", pkg)
		}
		if !accept {
			_, err := tx.Exec(ctx, `UPDATE packages SET state_reason = 'kept as it was by an operator' WHERE name = $1`, name)
			return err
		}
		if cause == frozenPrivate {
			if err := changeVisibility(ctx, tx, name, true); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, `UPDATE moved_tags SET accepted = true WHERE package = $1`, name); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE packages SET state = 'active', state_reason = '', next_sync_at = NULL WHERE name = $1`, name)
		return err
	})
	if err != nil {
		return fmt.Errorf("review %s: %w", pkg, pg.Translate(err))
	}
	return nil
}
