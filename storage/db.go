package storage

import (
	"context"

	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/catalog"
	"github.com/francescobianco/packbase/storage/feed"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/pg"
	"github.com/francescobianco/packbase/storage/scrub"
)

// A DB is packbase's Postgres. It is safe for concurrent use.
//
// Each method is one transaction. Errors are those of storage/fault, wrapped.
type DB struct {
	*pg.DB
	Access  *access.Store
	Catalog *catalog.Store
	Feed    *feed.Store
	Jobs    *jobs.Store
	Scrub   *scrub.Store
}

// Open connects to the database at url, a postgres:// URL.
// Each statement may take 30 s, each wait for a connection 5 s.
func Open(ctx context.Context, url string) (*DB, error) {
	db, err := pg.Open(ctx, url)
	if err != nil {
		return nil, err
	}
	return &DB{
		DB: db, Access: access.New(db), Catalog: catalog.New(db), Feed: feed.New(db), Jobs: jobs.New(db), Scrub: scrub.New(db),
	}, nil
}
