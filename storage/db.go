package storage

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/francescobianco/packbase/storage/pg"
)

// A DB is packbase's Postgres. It is safe for concurrent use.
//
// Each method is one transaction. Errors are those of this package, wrapped.
type DB struct {
	*pg.DB
	pool   *pgxpool.Pool
	shares blobShares
}

// Open connects to the database at url, a postgres:// URL.
// Each statement may take 30 s, each wait for a connection 5 s.
func Open(ctx context.Context, url string) (*DB, error) {
	db, err := pg.Open(ctx, url)
	if err != nil {
		return nil, err
	}
	return &DB{DB: db, pool: db.Pool, shares: blobShares{turn: make(chan struct{}, 1)}}, nil
}

// tx runs fn in a transaction, again if Postgres asks for that.
func (db *DB) tx(ctx context.Context, fn func(pgx.Tx) error) error { return db.Tx(ctx, fn) }

type querier = pg.Querier

// ErrNewerSchema says that the database was migrated by a newer packbase.
var ErrNewerSchema = pg.ErrNewerSchema
