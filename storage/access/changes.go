package access

import (
	"context"
	"fmt"
	"strings"

	"github.com/francescobianco/packbase/storage/pg"
)

// Changes are what was committed between two moments.
type Changes struct {
	Now      string   // this moment, for the next question: the same if nothing was committed. "" on a standby, where that is not known
	Era      string   // another one makes all that was known before void: Postgres was started, a dump was restored, or a right to read was taken away
	Log      string   // how far the log is signed
	Packages []string // of which something else is told now, by all their names, in lower case
	More     bool     // there are others
}

const maxChanges = 1000 // packages

// moment is a text that is another one after each commit, and after a start of Postgres; "" on a standby, where
// pg_current_snapshot() leaves transactions out.
const moment = `CASE WHEN pg_is_in_recovery() THEN '' ELSE pg_current_snapshot() || ' ' || pg_postmaster_start_time() END`

// Changes returns what was committed since it returned last; since nothing, it names no packages. That one is gone
// altogether is another era.
func (s *Store) Changes(ctx context.Context, last Changes) (c Changes, err error) {
	var now string // as a rule the same, which is asked many thousand times a second
	if err := s.db.Pool.QueryRow(ctx, `SELECT `+moment).Scan(&now); err != nil {
		return Changes{}, fmt.Errorf("changes: %w", pg.Translate(err))
	}
	if last.Packages, last.More = nil, false; now == last.Now {
		return last, nil
	}
	since, _, _ := strings.Cut(last.Now, " ")
	// A dump has rows of before, and tables of its own. Transactions from the limit on are of another Postgres, whose dump this one was made from.
	err = s.db.Pool.QueryRow(ctx, `
		WITH changed AS (
			SELECT name FROM packages
			WHERE described_in >= pg_snapshot_xmin(NULLIF($1, '')::pg_snapshot) AND described_in < pg_snapshot_xmax(pg_current_snapshot())
				AND NOT pg_visible_in_snapshot(described_in, NULLIF($1, '')::pg_snapshot)
			ORDER BY described_in LIMIT $2)
		SELECT `+moment+`, concat_ws(' ', pg_postmaster_start_time(), to_regclass('packages')::oid, (SELECT epoch FROM access)),
			(SELECT count(*) FROM log_keys) || ' ' || (SELECT COALESCE(max(size), 0) FROM log_checkpoints),
			ARRAY(SELECT lower(name) FROM changed UNION ALL SELECT lower(n.name) FROM package_names n JOIN changed c ON c.name = n.package),
			(SELECT count(*) FROM changed) = $2`, since, maxChanges).Scan(&c.Now, &c.Era, &c.Log, &c.Packages, &c.More)
	if err != nil {
		return Changes{}, fmt.Errorf("changes: %w", pg.Translate(err))
	}
	return c, nil
}
