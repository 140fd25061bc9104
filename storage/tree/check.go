package tree

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/pg"
)

// What upstream answered for a node, the worst of its URLs.
const (
	Same  = "same"  // it has what is pinned, as far as that is told without a download
	Moved = "moved" // it has something else there
	Gone  = "gone"  // it says that there is nothing
	Away  = "away"  // it did not answer, or not so that one could tell
)

// checksAtOnce is how many trees one round has checked at most.
const checksAtOnce = 10

// RequestDueChecks has those trees checked whose turn it is: each once in about the interval, and none before the first
// one after its capture, which has just asked upstream. The interval differs by up to a tenth from tree to tree, so that
// they do not all come at once. The reconciler tells the queue.
func (s *Store) RequestDueChecks(ctx context.Context, interval time.Duration) error {
	err := s.db.Tx(ctx, func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, `
			SELECT t.name FROM trees t JOIN tree_revisions r ON r.tree = t.name AND r.revision = t.revision
			WHERE r.ended_at IS NOT NULL AND GREATEST(t.checked_at, r.ended_at) < now() - $1::interval * (0.9 + (hashtext(t.name) & 1023) / 5120.0)
			ORDER BY t.checked_at NULLS FIRST, t.name LIMIT $2 FOR UPDATE OF t SKIP LOCKED`, interval, checksAtOnce)
		due, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		for _, name := range due {
			if _, _, err := addJob(ctx, tx, jobs.CheckTree, name, "", false); err != nil {
				return err
			}
		}
		_, err = tx.Exec(ctx, `UPDATE trees SET checked_at = now() WHERE name = ANY($1)`, due)
		return err
	})
	if err != nil {
		return fmt.Errorf("request due checks of trees: %w", pg.Translate(err))
	}
	return nil
}

// Unchecked returns nodes of a tree's newest revision of which upstream was not asked since the given time.
func (s *Store) Unchecked(ctx context.Context, name string, since time.Time, limit int) ([]Node, error) {
	rows, _ := s.db.Pool.Query(ctx, `
		SELECT n.hash, n.urls, n.parents, n.lazy, n.depth, n.state, n.code, n.reason, n.tried, n.job, n.upstream_state, n.upstream_at
		FROM tree_nodes n JOIN trees t ON t.name = n.tree AND t.revision = n.revision
		WHERE t.name = $1 AND (n.upstream_at IS NULL OR n.upstream_at < $2) ORDER BY n.depth, n.hash LIMIT $3`, name, since, limit)
	nodes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Node])
	if err != nil {
		return nil, fmt.Errorf("unchecked nodes of tree %s: %w", name, pg.Translate(err))
	}
	return nodes, nil
}

// Checked notes what upstream answered for a node, wherever newest revisions have the same under the same URLs.
func (s *Store) Checked(ctx context.Context, n Node, state string) error {
	err := s.db.Tx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			UPDATE tree_nodes n SET upstream_state = $3, upstream_at = now()
			FROM trees t WHERE t.name = n.tree AND t.revision = n.revision AND n.hash = $1 AND n.urls = $2`, n.Hash, n.URLs, state)
		if err != nil {
			return err
		}
		return jobs.HoldLease(ctx, tx)
	})
	if err != nil {
		return fmt.Errorf("note what upstream has of %s: %w", n.Hash, pg.Translate(err))
	}
	return nil
}

// LostTrees counts the trees that would not build today from their upstreams alone.
func (s *Store) LostTrees(ctx context.Context) (n int, err error) {
	err = s.db.Pool.QueryRow(ctx, `
		SELECT count(DISTINCT n.tree) FROM tree_nodes n JOIN trees t ON t.name = n.tree AND t.revision = n.revision
		WHERE n.upstream_state IN ('gone', 'moved')`).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count lost trees: %w", pg.Translate(err))
	}
	return n, nil
}
