package storage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/pg"
	"github.com/francescobianco/packbase/storage/release"
)

// PackageRecord returns what is known of pkg besides its releases, with the
// fence of the last claim, and the digest of the record that is stored, "" if there is none.
func (db *DB) PackageRecord(ctx context.Context, pkg string) (rec *PackageRecord, held string, err error) {
	p, err := packageRow(ctx, db.Pool, pkg)
	if err != nil {
		return nil, "", err
	}
	rec = &PackageRecord{
		Package: p.Name, Upstream: p.Upstream, CloneURL: p.CloneURL, State: p.State, StateReason: p.StateReason,
		Language: p.Language, Description: p.Description, Registered: p.Registered, Private: p.Private, Branches: map[string]string{}, Head: p.HeadOID, HeadBranch: p.HeadBranch,
		SyncOK: p.SyncOK == nil || *p.SyncOK, SyncCode: p.SyncCode, SyncMessage: p.SyncMessage, SyncedAt: p.SyncedAt, Probe: p.Probe,
	}
	if rec.Rejected, err = db.RejectedTags(ctx, p.Name); err != nil {
		return nil, "", err
	}
	if rec.Removed, err = db.Tombstones(ctx, p.Name); err != nil {
		return nil, "", err
	}
	if rec.Moved, err = db.MovedTags(ctx, p.Name); err != nil {
		return nil, "", err
	}
	names, err := namesOf(ctx, db.Pool, p.Name)
	if err != nil {
		return nil, "", err
	}
	rec.Names, rec.Shown = names[1:], p.Shown
	branches, err := branchesOf(ctx, db.Pool, p.Name)
	for _, b := range branches {
		rec.Branches[b.Name] = b.Commit
	}
	if err == nil {
		err = db.Pool.QueryRow(ctx, `
			SELECT COALESCE(record_digest, ''), fence, (SELECT count(*) FROM served_releases WHERE package = $1)
			FROM packages WHERE name = $1`, p.Name).Scan(&held, &rec.Fence, &rec.Releases)
	}
	if err != nil {
		return nil, "", fmt.Errorf("record of %s: %w", pkg, pg.Translate(err))
	}
	return rec, held, nil
}

// SetRecord names the blob of the claimed package's record.
func (db *DB) SetRecord(ctx context.Context, c jobs.Claim, record blob.Ref) error {
	err := db.Tx(ctx, func(tx pgx.Tx) error {
		if err := jobs.HoldFence(ctx, tx, c); err != nil {
			return err
		}
		return setRecord(ctx, tx, c.Job.Package, record)
	})
	if err != nil {
		return fmt.Errorf("keep record of %s: %w", c.Job.Package, pg.Translate(err))
	}
	return nil
}

// SetLaterRecord names the blob of a record whose fence is the next of its package, which no claim has. If the package has a
// later one by now, or a job that works on it and will write one, nothing happens.
func (db *DB) SetLaterRecord(ctx context.Context, rec *PackageRecord, record blob.Ref) error {
	err := db.Tx(ctx, func(tx pgx.Tx) error {
		later, err := tx.Exec(ctx, `
			UPDATE packages SET fence = $2 WHERE name = $1 AND fence = $2 - 1
				AND NOT EXISTS (SELECT FROM jobs WHERE package = $1 AND state = 'running')`, rec.Package, rec.Fence)
		if err != nil || later.RowsAffected() == 0 {
			return err
		}
		return setRecord(ctx, tx, rec.Package, record)
	})
	if err != nil {
		return fmt.Errorf("keep record of %s: %w", rec.Package, pg.Translate(err))
	}
	return nil
}

// ReplaceRecord names another record, if the old one is still named.
func (db *DB) ReplaceRecord(ctx context.Context, pkg, old string, record blob.Ref) error {
	err := db.Tx(ctx, func(tx pgx.Tx) error {
		if err := putBlobRow(ctx, tx, record); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE packages SET record_digest = $3 WHERE name = $1 AND record_digest = $2`, pkg, old, record.Digest)
		return err
	})
	if err != nil {
		return fmt.Errorf("replace record of %s: %w", pkg, pg.Translate(err))
	}
	return nil
}

func setRecord(ctx context.Context, tx pgx.Tx, pkg string, record blob.Ref) error {
	if err := putBlobRow(ctx, tx, record); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `UPDATE packages SET record_digest = $2 WHERE name = $1`, pkg, record.Digest)
	return err
}

// An Adoption is releases of one package that come from blobs and not from
// upstream.
type Adoption struct {
	Record       *PackageRecord // nil if there is none
	RecordBlob   blob.Ref
	Publications []Publication // in order of publication
	Private      bool          // the package, if it is not here yet
	Unproven     bool          // nothing tells whether it is
	Segments     []release.Segment
	Indexes      []blob.Ref // of the segments
}

// Adopt makes the rows of releases that come from blobs, and of their package
// if it has none yet. It returns ErrConflict if that contradicts what is here.
func (db *DB) Adopt(ctx context.Context, name string, from Adoption) error {
	err := db.Tx(ctx, func(tx pgx.Tx) error {
		if err := adoptPackage(ctx, tx, name, from); err != nil {
			return err
		}
		if from.Record != nil {
			if err := putTombstones(ctx, tx, name, from.Record.Removed); err != nil {
				return err
			}
		}
		for i, s := range from.Segments {
			s.Package = name
			if err := appendSegment(ctx, tx, s, from.Indexes[i]); err != nil {
				return err
			}
		}
		for _, p := range from.Publications {
			if _, err := publish(ctx, tx, p, true); err != nil && !errors.Is(err, fault.ErrGone) {
				return err
			}
		}
		if from.Record == nil {
			return nil
		}
		if err := adoptRecord(ctx, tx, from.Record, from.RecordBlob); err != nil {
			return err
		}
		return adoptNames(ctx, tx, name, from.Record)
	})
	if err != nil {
		return fmt.Errorf("adopt %s: %w", name, pg.Translate(err))
	}
	return nil
}

// adoptPackage makes the package's row, or checks that it is the same one.
func adoptPackage(ctx context.Context, tx pgx.Tx, pkg string, from Adoption) error {
	var claims []name.Upstream
	var fence int64
	var created time.Time
	for _, p := range from.Publications {
		claims = append(claims, name.Upstream{Canonical: p.Upstream, CloneURL: p.CloneURL})
		if created.IsZero() || p.Release.CreatedAt.Before(created) {
			created = p.Release.CreatedAt
		}
	}
	if r := from.Record; r != nil {
		claims, fence = append(claims, name.Upstream{Canonical: r.Upstream, CloneURL: r.CloneURL}), r.Fence
	}
	var up name.Upstream
	for i, c := range claims {
		if i > 0 && c.Canonical != up.Canonical {
			return fmt.Errorf("%w: its releases are of %q and of %q", fault.ErrConflict, fault.Clip(up.Canonical), fault.Clip(c.Canonical))
		}
		if err := c.Check(); err != nil {
			return err
		}
		up = c
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO packages (name, upstream, clone_url, fence, created_at, updated_at, private, state_reason)
		VALUES ($1, $2, $3, $4, COALESCE($5, now()), COALESCE($5, now()), $6, CASE WHEN $7 THEN $8 ELSE '' END)
		ON CONFLICT DO NOTHING`, pkg, up.Canonical, up.CloneURL, fence, nullTime(created), from.Private, from.Unproven, Unproven)
	if err != nil {
		return err
	}
	owner, err := claimName(ctx, tx, pkg, up)
	if err == nil && owner != pkg {
		err = fmt.Errorf("%w: the package is called %s here", fault.ErrConflict, owner)
	}
	return err
}

func nullTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func adoptRecord(ctx context.Context, tx pgx.Tx, r *PackageRecord, in blob.Ref) error {
	batch := &pgx.Batch{}
	batch.Queue(`
		UPDATE packages
		SET state = @state, state_reason = @reason, language = @language, description = @description, registered = @registered,
			sync_at = @synced, sync_ok = @ok, sync_code = @code, sync_message = @message, synced_at = @synced,
			smart_http_ready = @ready, pseudo_git_fetchable = @fetchable, probe_commit = @commit, probe_error = @error,
			healthy = @healthy, probed_at = @probed, moved_count = @moved, private = @private
		WHERE name = @package`,
		pgx.NamedArgs{"package": r.Package, "private": r.Private, "state": r.State, "reason": r.StateReason, "language": r.Language,
			"description": r.Description, "registered": r.Registered, "synced": r.SyncedAt, "ok": r.SyncOK, "code": r.SyncCode,
			"message": r.SyncMessage, "ready": r.Probe.SmartHTTPReady, "fetchable": r.Probe.PseudoGitFetchable,
			"commit": r.Probe.ProbeCommit, "error": r.Probe.ProbeError, "healthy": r.Probe.Healthy, "probed": r.Probe.ProbedAt,
			"moved": len(r.Moved)})
	for _, t := range r.Rejected {
		// By which rules is not recorded: it is tried again.
		batch.Queue(`INSERT INTO rejected_tags (package, tag, oid, code, reason, seen_at, retry_at) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			r.Package, t.Tag, t.OID, t.Code, t.Reason, t.SeenAt, t.RetryAt)
	}
	for _, t := range r.Moved {
		batch.Queue(`INSERT INTO moved_tags (package, tag, old_oid, new_oid, accepted, seen_at) VALUES ($1, $2, $3, $4, $5, $6)`,
			r.Package, t.Tag, t.Old, t.New, t.Accepted, t.SeenAt)
	}
	for branch, oid := range r.Branches {
		batch.Queue(`INSERT INTO branches (package, branch, commit_oid) VALUES ($1, $2, $3)`, r.Package, branch, oid)
	}
	// A record that names no branch was made before the sync of its job, and what that says of branches may be newer.
	batch.Queue(`
		UPDATE packages SET head_oid = COALESCE((
			SELECT commit_oid FROM releases
			WHERE package = $1 AND (commit_oid = $2 OR commit_oid IN (SELECT commit_oid FROM branches WHERE package = $1))
			ORDER BY commit_oid = $2 AND $3 <> '' DESC, commit_time DESC, commit_oid = $2 DESC LIMIT 1), '')
		WHERE name = $1`, r.Package, r.Head, r.HeadBranch)
	batch.Queue(`
		UPDATE packages SET head_branch = COALESCE((
			SELECT branch FROM branches WHERE package = $1 ORDER BY branch = $2 DESC, commit_oid = head_oid DESC, branch LIMIT 1), '')
		WHERE name = $1`, r.Package, r.HeadBranch)
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return err
	}
	return setRecord(ctx, tx, r.Package, in)
}

// adoptNames has a package answer to the names that its record tells of.
func adoptNames(ctx context.Context, tx pgx.Tx, pkg string, r *PackageRecord) error {
	for _, to := range r.Names {
		if err := name.ValidPackage(to); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO package_names (name, package) VALUES ($1, $2)`, to, pkg); err != nil {
			return err
		}
	}
	_, err := tx.Exec(ctx, `UPDATE packages SET shown = $2 WHERE name = $1`, pkg, r.Shown)
	if err != nil {
		return err
	}
	return announceNames(ctx, tx, pkg)
}

// An Inconsistency is a row that contradicts another.
type Inconsistency struct{ Code, Subject, Problem string }

// Inconsistencies returns what rows say against each other; the schema's own
// constraints already hold.
func (db *DB) Inconsistencies(ctx context.Context) ([]Inconsistency, error) {
	rows, _ := db.Pool.Query(ctx, `
		SELECT 'package_counts' AS code, p.name AS subject,
			'the summary says ' || p.release_count || ' releases, ' || p.snapshot_count || ' snapshots and ' || p.size_bytes || ' bytes, there are '
				|| r.n || ', ' || r.snapshots || ' and ' || r.bytes AS problem
		FROM packages p
		JOIN LATERAL (SELECT count(tag) AS n, count(*) - count(tag) AS snapshots, COALESCE(sum(size), 0) AS bytes FROM served_releases WHERE package = p.name) r ON true
		WHERE p.release_count <> r.n OR p.snapshot_count <> r.snapshots OR p.size_bytes <> r.bytes
		UNION ALL
		SELECT 'package_latest', p.name, 'the latest release ' || p.latest_tag || ' is not there'
		FROM packages p
		WHERE p.latest_tag IS NOT NULL AND NOT EXISTS (SELECT FROM served_releases r WHERE r.package = p.name AND r.tag = p.latest_tag)
		UNION ALL
		SELECT 'segment_gap', s.package, 'segment ' || s.seq || ' begins at object ' || s.first_ordinal || ', not at ' || s.expected
		FROM (
			SELECT package, seq, first_ordinal,
				COALESCE(sum(objects) OVER (PARTITION BY package ORDER BY seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS expected,
				row_number() OVER (PARTITION BY package ORDER BY seq) - 1 AS position
			FROM segments) s
		WHERE s.first_ordinal <> s.expected OR s.seq <> s.position
		UNION ALL
		SELECT 'job_stuck', id::text, 'the job is running under a lease that ended ' || lease_until
		FROM jobs WHERE state = 'running' AND lease_until < now() - interval '5 minutes'
		UNION ALL
		SELECT 'job_stuck', id::text, 'the job was due ' || run_at || ' and no worker took it'
		FROM jobs WHERE state = 'queued' AND run_at < now() - interval '1 day'`)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Inconsistency])
	if err != nil {
		return nil, fmt.Errorf("inconsistencies: %w", pg.Translate(err))
	}
	return all, nil
}
