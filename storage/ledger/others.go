package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/pg"
)

// A Comparison is what is known of another packbase's log.
type Comparison struct {
	Peer       string    // its URL
	Policy     []byte    // by whom it is signed, since it was seen first
	Checkpoint []byte    // the largest that was seen
	At         time.Time // of the last look
	Problem    string    // why it could not be compared then; "" if it was
}

// Comparisons returns what is known of the logs that this one is compared with, by their URLs.
func (s *Store) Comparisons(ctx context.Context) ([]Comparison, error) {
	rows, _ := s.db.Pool.Query(ctx, `SELECT peer, policy, checkpoint, compared_at, problem FROM log_comparisons ORDER BY peer`)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Comparison])
	if err != nil {
		return nil, fmt.Errorf("comparisons of the log: %w", pg.Translate(err))
	}
	return all, nil
}

// KeepComparison notes how a comparison ended; At is now.
func (s *Store) KeepComparison(ctx context.Context, c Comparison) error {
	_, err := s.db.Pool.Exec(ctx, `
		INSERT INTO log_comparisons (peer, policy, checkpoint, problem) VALUES ($1, $2, $3, $4)
		ON CONFLICT (peer) DO UPDATE SET policy = EXCLUDED.policy, checkpoint = EXCLUDED.checkpoint, problem = EXCLUDED.problem, compared_at = now()`,
		c.Peer, string(c.Policy), string(c.Checkpoint), c.Problem)
	if err != nil {
		return fmt.Errorf("comparison with %s: %w", c.Peer, pg.Translate(err))
	}
	return nil
}

// ForgetComparisons forgets all but those with some peers.
func (s *Store) ForgetComparisons(ctx context.Context, peers []string) error {
	if _, err := s.db.Pool.Exec(ctx, `DELETE FROM log_comparisons WHERE peer <> ALL($1)`, peers); err != nil {
		return fmt.Errorf("comparisons of the log: %w", pg.Translate(err))
	}
	return nil
}

// A Difference is something that another log and this one contradict each other in, or one of them itself.
type Difference struct {
	Name     string // of the file of evidence
	Peer     string
	About    string
	Evidence []byte
	FoundAt  time.Time // set by the database
}

// KeepDifference keeps a difference, and reports whether it is new.
func (s *Store) KeepDifference(ctx context.Context, d Difference) (fresh bool, err error) {
	tag, err := s.db.Pool.Exec(ctx, `
		INSERT INTO log_differences (name, peer, about, evidence) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`, d.Name, d.Peer, d.About, string(d.Evidence))
	if err != nil {
		return false, fmt.Errorf("difference %s: %w", d.Name, pg.Translate(err))
	}
	return tag.RowsAffected() > 0, nil
}

// Differences returns what was found, the newest first: at most so many, and how many there are.
func (s *Store) Differences(ctx context.Context, most int) (found []Difference, all int, err error) {
	rows, _ := s.db.Pool.Query(ctx, `SELECT name, peer, about, evidence, found_at FROM log_differences ORDER BY found_at DESC, name LIMIT $1`, most)
	found, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Difference])
	if err == nil {
		err = s.db.Pool.QueryRow(ctx, `SELECT count(*) FROM log_differences`).Scan(&all)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("differences of logs: %w", pg.Translate(err))
	}
	return found, all, nil
}
