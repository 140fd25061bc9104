package jobs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/pg"
)

// A Sync is how one look at a package's upstream ended.
type Sync struct {
	OK       bool
	Code     string            // why it failed
	Message  string            // the same in words
	Wait     time.Duration     // before the next try, when it failed
	Branches map[string]string // the tips of those that were asked for or are followed, all of which are here
	Listed   []string          // those of them that the catalog names
	Catalog  string            // the catalog's updated_at when the sync began
	Seen     string            // digest of all that decided what is mirrored; "" after a look at less than all
}

// RecordSync stores how a sync of the claimed package ended.
// A failure never moves synced_at.
func (s *Store) RecordSync(ctx context.Context, c Claim, sync Sync) error {
	err := s.db.Tx(ctx, func(tx pgx.Tx) error {
		if err := HoldFence(ctx, tx, c); err != nil {
			return err
		}
		return recordSync(ctx, tx, c, sync)
	})
	if err != nil {
		return fmt.Errorf("record sync of %s: %w", c.Job.Package, pg.Translate(err))
	}
	return nil
}

func recordSync(ctx context.Context, tx pgx.Tx, c Claim, s Sync) error {
	pkg := c.Job.Package
	_, err := tx.Exec(ctx, `
		UPDATE packages
		SET sync_at = now(), sync_ok = @ok, sync_code = @code, sync_message = @message,
			sync_failures = CASE WHEN @ok THEN 0 ELSE sync_failures + 1 END,
			synced_at = CASE WHEN @ok THEN now() ELSE synced_at END,
			next_sync_at = CASE WHEN @ok THEN NULL ELSE now() + @wait::interval END,
			refs_seen = COALESCE(NULLIF(@seen, ''), refs_seen)
		WHERE name = @package`,
		pgx.NamedArgs{"package": pkg, "ok": s.OK, "code": s.Code, "message": s.Message, "wait": s.Wait, "seen": s.Seen})
	if err != nil {
		return err
	}
	if s.OK {
		_, err = tx.Exec(ctx, `
			UPDATE catalog_entries SET synced_updated = $2
			WHERE problem = '' AND lower(name) IN (SELECT lower($1) UNION ALL SELECT lower(n.name) FROM package_names n WHERE n.package = $1)`, pkg, s.Catalog)
	}
	if err != nil {
		return err
	}
	return recordBranches(ctx, tx, c, s)
}

// RecordBranches notes where the sync's branches of the claimed package are, before it has ended.
func (s *Store) RecordBranches(ctx context.Context, c Claim, sync Sync) error {
	err := s.db.Tx(ctx, func(tx pgx.Tx) error {
		if err := HoldFence(ctx, tx, c); err != nil {
			return err
		}
		return recordBranches(ctx, tx, c, sync)
	})
	if err != nil {
		return fmt.Errorf("record branches of %s: %w", c.Job.Package, pg.Translate(err))
	}
	return nil
}

// HeadAfter returns where HEAD of the claimed package is once the sync is recorded, and which branch it goes with.
func (s *Store) HeadAfter(ctx context.Context, c Claim, sync Sync) (commit, branch string, err error) {
	undo := errors.New("nothing is to be changed")
	err = s.db.Tx(ctx, func(tx pgx.Tx) error {
		if err := HoldFence(ctx, tx, c); err != nil {
			return err
		}
		if err := recordBranches(ctx, tx, c, sync); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, `SELECT head_oid, head_branch FROM packages WHERE name = $1`, c.Job.Package).Scan(&commit, &branch)
		return cmp.Or(err, undo)
	})
	if !errors.Is(err, undo) {
		return "", "", fmt.Errorf("head of %s: %w", c.Job.Package, pg.Translate(err))
	}
	return commit, branch, nil
}

func recordBranches(ctx context.Context, tx pgx.Tx, c Claim, s Sync) error {
	if len(s.Branches) == 0 {
		return nil
	}
	// The row tells whether somebody with a token has asked for what strangers have pulled.
	var target string
	err := tx.QueryRow(ctx, `SELECT COALESCE((SELECT target FROM jobs WHERE id = $1 AND NOT pull), '')`, c.Job.ID).Scan(&target)
	for _, branch := range slices.Sorted(maps.Keys(s.Branches)) {
		if err == nil {
			err = RecordBranch(ctx, tx, c.Job.Package, branch, s.Branches[branch], branch == target || slices.Contains(s.Listed, branch))
		}
	}
	return err
}

// RecordBranch notes where a branch is. HEAD goes with one that was asked for, and with the same from then on, unless that
// would be back in time. Strangers ask for none; what comes first has HEAD all the same.
func RecordBranch(ctx context.Context, tx pgx.Tx, pkg, branch, commit string, asked bool) error {
	var moved bool
	err := tx.QueryRow(ctx, `
		INSERT INTO branches (package, branch, commit_oid) VALUES ($1, $2, $3)
		ON CONFLICT (package, branch) DO UPDATE SET commit_oid = EXCLUDED.commit_oid, seen_at = now()
		RETURNING $3 IS DISTINCT FROM (SELECT commit_oid FROM branches WHERE package = $1 AND branch = $2)`, // as it was
		pkg, branch, commit).Scan(&moved)
	if err != nil {
		return err
	}
	head, err := tx.Exec(ctx, `
		UPDATE packages p
		SET revision = revision + 1, head_oid = $3, head_branch = $2
		WHERE name = $1 AND (head_oid <> $3 OR $5) AND (head_oid = '' OR head_branch = $2 OR $4)
			AND NOT COALESCE((SELECT max(commit_time) FROM releases WHERE package = p.name AND commit_oid = p.head_oid)
				> (SELECT max(commit_time) FROM releases WHERE package = p.name AND commit_oid = $3), false)`,
		pkg, branch, commit, asked, moved)
	switch goes := err == nil && head.RowsAffected() > 0; {
	case err != nil:
	case moved && !goes:
		_, err = tx.Exec(ctx, `UPDATE packages SET revision = revision + 1 WHERE name = $1`, pkg)
	case goes && !moved: // edges have been told that it does not
		_, err = tx.Exec(ctx, `UPDATE branches SET announced = '' WHERE package = $1 AND branch = $2`, pkg, branch)
	}
	return err
}

// HoldFence locks the claimed package's row until the transaction ends.
// It returns ErrLost if a later job has taken the package.
func HoldFence(ctx context.Context, tx pgx.Tx, c Claim) error {
	var fence int64
	err := tx.QueryRow(ctx, `SELECT fence FROM packages WHERE name = $1 FOR UPDATE`, c.Job.Package).Scan(&fence)
	if err != nil {
		return err
	}
	if fence != c.Fence {
		return ErrLost
	}
	return nil
}

type claimKey struct{}

// WithClaim is the context of a job that is worked on under a claim.
func WithClaim(ctx context.Context, c Claim) context.Context {
	return context.WithValue(ctx, claimKey{}, c)
}

// HoldLease is for a transaction that stores what a job without a package's fence found: until its end nobody takes the
// job over, as its row is locked. It returns ErrLost if another worker has done so. Without a claim in the context there
// is nobody who could.
func HoldLease(ctx context.Context, tx pgx.Tx) error {
	c, ok := ctx.Value(claimKey{}).(Claim)
	if !ok {
		return nil
	}
	var held bool
	err := tx.QueryRow(ctx, `SELECT true FROM jobs WHERE id = $1 AND lease = $2 AND state = 'running' FOR UPDATE`, c.Job.ID, c.Lease).Scan(&held)
	if errors.Is(err, pgx.ErrNoRows) {
		return ErrLost
	}
	return err
}
