package storage

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/feed"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/pg"
)

// Rename has the package pkg shown as to. Its rows keep the name that they
// have, and every name that it ever had goes on meaning it, so nothing that was
// served under one of them changes. It returns what the package is then.
//
// It returns an *InvalidError if to is no name or the package has published
// nothing, ErrNotFound if there is no such package, a *GoneError if it was
// removed, and a *TakenError if to means another package or ever did.
func (db *DB) Rename(ctx context.Context, pkg, to string) (p Package, err error) {
	if err := name.ValidPackage(to); err != nil {
		return Package{}, err
	}
	err = db.Tx(ctx, func(tx pgx.Tx) error {
		if err := lockName(ctx, tx, to); err != nil {
			return err
		}
		if p, err = lockPackage(ctx, tx, pkg); err != nil || p.Called() == to {
			return err
		}
		if err := addName(ctx, tx, p.Name, to); err != nil {
			return err
		}
		if p.Shown = to; to == p.Name {
			p.Shown = ""
		}
		if _, err := tx.Exec(ctx, `UPDATE packages SET shown = $2, revision = revision + 1 WHERE name = $1`, p.Name, p.Shown); err != nil {
			return err
		}
		return feed.AddNews(ctx, tx, feed.Body{Package: p.Name, Renamed: to}, p.Private)
	})
	if err != nil {
		return Package{}, fmt.Errorf("rename %q to %q: %w", pkg, to, pg.Translate(err))
	}
	return p, nil
}

// lockName has one transaction at a time claim a name, in any case of letters.
func lockName(ctx context.Context, tx pgx.Tx, name string) error {
	_, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtext('packbase claim ' || lower($1)))`, name)
	return err
}

// addName has a locked name mean the package of that first name, if it does not yet.
func addName(ctx context.Context, tx pgx.Tx, first, name string) error {
	if strings.EqualFold(name, first) {
		return nil
	}
	var published bool
	var owner *string
	err := tx.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM releases WHERE package = $1) OR EXISTS (SELECT FROM tombstones WHERE package = $1),
			(SELECT name FROM packages WHERE lower(name) = lower(first_name($2)))`, first, name).Scan(&published, &owner)
	switch {
	case err != nil:
		return err
	case owner != nil && *owner == first:
		return nil
	case owner != nil:
		return &fault.TakenError{Name: name}
	case !published:
		return fault.Invalid("package", "nothing was ever published under %q: remove it, and fetch it under the name that you want", first)
	}
	_, err = tx.Exec(ctx, `INSERT INTO package_names (name, package) VALUES ($1, $2)`, name, first)
	return err
}

const selectNames = `
	SELECT name FROM (
		SELECT 0 AS id, name, name AS package FROM packages
		UNION ALL SELECT id, name, package FROM package_names) n
	WHERE package = first_name($1) AND seen(package, $2) ORDER BY id`

func namesOf(ctx context.Context, q pg.Querier, pkg string) ([]string, error) {
	rows, _ := q.Query(ctx, selectNames, pkg, access.SeesPrivate(ctx))
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("names of %s: %w", pkg, pg.Translate(err))
	}
	return all, nil
}

// announceNames tells edges all names of a package, the one that is shown last.
func announceNames(ctx context.Context, tx pgx.Tx, pkg string) error {
	p, err := packageRow(ctx, tx, pkg)
	if err != nil || p.State == Removed {
		return err
	}
	names, err := namesOf(ctx, tx, p.Name)
	if err != nil || len(names) == 1 && p.Shown == "" {
		return err
	}
	for _, to := range append(names[1:], p.Called()) {
		if err := feed.AddNews(ctx, tx, feed.Body{Package: p.Name, Renamed: to}, p.Private); err != nil {
			return err
		}
	}
	return nil
}
