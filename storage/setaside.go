package storage

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
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
func (db *DB) SetChangeAside(ctx context.Context, s SetAside, follows Change) error {
	err := db.tx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			INSERT INTO set_aside (seq, body, package, tag, private, reason, retry_at)
			VALUES ($1, $2, $3, $4, $5, $6, now() + interval '1 minute')
			ON CONFLICT (seq) DO UPDATE SET body = EXCLUDED.body, package = EXCLUDED.package, tag = EXCLUDED.tag,
				private = EXCLUDED.private, reason = EXCLUDED.reason`,
			s.Seq, s.Body, s.Package, s.Tag, s.Private, s.Reason)
		if err != nil {
			return err
		}
		return advance(ctx, tx, follows)
	})
	if err != nil {
		return fmt.Errorf("set change %d aside: %w", s.Seq, translate(err))
	}
	return nil
}

// SetAsideFailed notes that a change still cannot be taken over. It is tried
// again after two minutes, and after twice as long each time, at most an hour.
func (db *DB) SetAsideFailed(ctx context.Context, seq int64, reason string) error {
	_, err := db.pool.Exec(ctx, `
		UPDATE set_aside SET reason = $2, tries = tries + 1,
			retry_at = now() + LEAST(interval '1 minute' * power(2, LEAST(tries, 10)), interval '1 hour')
		WHERE seq = $1`, seq, reason)
	if err != nil {
		return fmt.Errorf("change %d stays aside: %w", seq, translate(err))
	}
	return nil
}

// SetAsideDone forgets a change that was taken over after all.
func (db *DB) SetAsideDone(ctx context.Context, seq int64) error {
	_, err := db.pool.Exec(ctx, `DELETE FROM set_aside WHERE seq = $1`, seq)
	if err != nil {
		return fmt.Errorf("change %d is here: %w", seq, translate(err))
	}
	return nil
}

// RetrySetAside has all changes that were set aside tried again now.
func (db *DB) RetrySetAside(ctx context.Context) error {
	_, err := db.pool.Exec(ctx, `UPDATE set_aside SET retry_at = now() WHERE retry_at > now()`)
	if err != nil {
		return fmt.Errorf("retry what was set aside: %w", translate(err))
	}
	return nil
}

// SetAsideVisibility says whether a package is private whose changes were set
// aside: it may not be here yet.
func (db *DB) SetAsideVisibility(ctx context.Context, pkg string, private bool) error {
	_, err := db.pool.Exec(ctx, `UPDATE set_aside SET private = $2 WHERE package = $1`, pkg, private)
	if err != nil {
		return fmt.Errorf("visibility of %s: %w", pkg, translate(err))
	}
	return nil
}

// DueSetAside returns changes that are due to be tried again.
func (db *DB) DueSetAside(ctx context.Context, limit int) ([]SetAside, error) {
	return db.setAside(ctx, `WHERE retry_at <= now() ORDER BY retry_at LIMIT $1`, limit)
}

// SetAsideOf returns the changes of pkg that were set aside.
func (db *DB) SetAsideOf(ctx context.Context, pkg string) ([]SetAside, error) {
	return db.setAside(ctx, `WHERE package = $1 ORDER BY seq`, pkg)
}

// AllSetAside returns the first changes that were set aside, and how many
// there are.
func (db *DB) AllSetAside(ctx context.Context, limit int) (some []SetAside, count int, err error) {
	const visible = `WHERE ($1 OR NOT private) AND seen(package, $1) `
	if some, err = db.setAside(ctx, visible+`ORDER BY seq LIMIT $2`, SeesPrivate(ctx), limit); err != nil {
		return nil, 0, err
	}
	if len(some) < limit {
		return some, len(some), nil
	}
	if err = db.pool.QueryRow(ctx, `SELECT count(*) FROM set_aside `+visible, SeesPrivate(ctx)).Scan(&count); err != nil {
		return nil, 0, fmt.Errorf("count what was set aside: %w", translate(err))
	}
	return some, max(count, len(some)), nil // some may be mended by now
}

func (db *DB) setAside(ctx context.Context, where string, args ...any) ([]SetAside, error) {
	rows, _ := db.pool.Query(ctx, `SELECT `+setAsideColumns+` FROM set_aside `+where, args...)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[SetAside])
	if err != nil {
		return nil, fmt.Errorf("changes set aside: %w", translate(err))
	}
	return all, nil
}
