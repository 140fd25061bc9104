package feed

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/pg"
)

// A SetAside is a change of the central that this edge cannot take over for
// now. The feed goes on without it, and it is tried again.
type SetAside struct {
	Seq     int64     `json:"seq"`
	Body    string    `json:"-"`       // what the change says, as Change.Open returns it
	Package string    `json:"package"` // "" if the change does not say
	Tag     string    `json:"tag"`
	Private bool      `json:"-"`
	Reason  string    `json:"reason"`
	Tries   int       `json:"tries"`
	Since   time.Time `json:"since"`
	RetryAt time.Time `json:"retry_at"`
}

const setAsideColumns = `seq, body, package, tag, private, reason, tries, since, retry_at`

// SetChangeAside notes why a change cannot be taken over, and that all up to
// it is done with.
func (s *Store) SetChangeAside(ctx context.Context, aside SetAside, follows Change) error {
	err := s.db.Tx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			INSERT INTO set_aside (seq, body, package, tag, private, reason, retry_at)
			VALUES ($1, $2, $3, $4, $5, $6, now() + interval '1 minute')
			ON CONFLICT (seq) DO UPDATE SET body = EXCLUDED.body, package = EXCLUDED.package, tag = EXCLUDED.tag,
				private = EXCLUDED.private, reason = EXCLUDED.reason`,
			aside.Seq, aside.Body, aside.Package, aside.Tag, aside.Private, aside.Reason)
		if err != nil {
			return err
		}
		return advance(ctx, tx, follows)
	})
	if err != nil {
		return fmt.Errorf("set change %d aside: %w", aside.Seq, pg.Translate(err))
	}
	return nil
}

// SetAsideFailed notes that a change still cannot be taken over. It is tried
// again after two minutes, and after twice as long each time, at most an hour.
func (s *Store) SetAsideFailed(ctx context.Context, seq int64, reason string) error {
	_, err := s.db.Pool.Exec(ctx, `
		UPDATE set_aside SET reason = $2, tries = tries + 1,
			retry_at = now() + LEAST(interval '1 minute' * power(2, LEAST(tries, 10)), interval '1 hour')
		WHERE seq = $1`, seq, reason)
	if err != nil {
		return fmt.Errorf("change %d stays aside: %w", seq, pg.Translate(err))
	}
	return nil
}

// SetAsideDone forgets a change that was taken over after all.
func (s *Store) SetAsideDone(ctx context.Context, seq int64) error {
	_, err := s.db.Pool.Exec(ctx, `DELETE FROM set_aside WHERE seq = $1`, seq)
	if err != nil {
		return fmt.Errorf("change %d is here: %w", seq, pg.Translate(err))
	}
	return nil
}

// RetrySetAside has all changes that were set aside tried again now.
func (s *Store) RetrySetAside(ctx context.Context) error {
	_, err := s.db.Pool.Exec(ctx, `UPDATE set_aside SET retry_at = now() WHERE retry_at > now()`)
	if err != nil {
		return fmt.Errorf("retry what was set aside: %w", pg.Translate(err))
	}
	return nil
}

// SetAsideVisibility says whether a package is private whose changes were set
// aside: it may not be here yet.
func (s *Store) SetAsideVisibility(ctx context.Context, pkg string, private bool) error {
	_, err := s.db.Pool.Exec(ctx, `UPDATE set_aside SET private = $2 WHERE package = $1`, pkg, private)
	if err != nil {
		return fmt.Errorf("visibility of %s: %w", pkg, pg.Translate(err))
	}
	return nil
}

// DueSetAside returns changes that are due to be tried again.
func (s *Store) DueSetAside(ctx context.Context, limit int) ([]SetAside, error) {
	return s.setAside(ctx, `WHERE retry_at <= now() ORDER BY retry_at LIMIT $1`, limit)
}

// SetAsideOf returns the changes of pkg that were set aside.
func (s *Store) SetAsideOf(ctx context.Context, pkg string) ([]SetAside, error) {
	return s.setAside(ctx, `WHERE package = $1 ORDER BY seq`, pkg)
}

// AllSetAside returns the first changes that were set aside, and how many
// there are.
func (s *Store) AllSetAside(ctx context.Context, limit int) (some []SetAside, count int, err error) {
	const visible = `WHERE ($1 OR NOT private) AND seen(package, $1) `
	if some, err = s.setAside(ctx, visible+`ORDER BY seq LIMIT $2`, access.SeesPrivate(ctx), limit); err != nil {
		return nil, 0, err
	}
	if len(some) < limit {
		return some, len(some), nil
	}
	if err = s.db.Pool.QueryRow(ctx, `SELECT count(*) FROM set_aside `+visible, access.SeesPrivate(ctx)).Scan(&count); err != nil {
		return nil, 0, fmt.Errorf("count what was set aside: %w", pg.Translate(err))
	}
	return some, max(count, len(some)), nil // some may be mended by now
}

func (s *Store) setAside(ctx context.Context, where string, args ...any) ([]SetAside, error) {
	rows, _ := s.db.Pool.Query(ctx, `SELECT `+setAsideColumns+` FROM set_aside `+where, args...)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[SetAside])
	if err != nil {
		return nil, fmt.Errorf("changes set aside: %w", pg.Translate(err))
	}
	return all, nil
}
