package storage_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"packbase/migrations"
	"packbase/storage"
	"packbase/storage/storagetest"
)

// Several processes that start at once migrate once (DB-07).
func TestMigrateAtOnce(t *testing.T) {
	t.Parallel()
	url := storagetest.NewURL(t)
	f := &fixture{t: t, ctx: t.Context()}
	dbs := make([]*storage.DB, 4)
	for i := range dbs {
		db, err := storage.Open(t.Context(), url)
		f.must(err)
		t.Cleanup(db.Close)
		dbs[i] = db
	}
	if err := dbs[0].CheckSchema(t.Context()); err == nil || !strings.Contains(err.Error(), "migrate") {
		t.Errorf("empty database: %v, want advice to migrate", err)
	}
	f.must(errors.Join(at(2*len(dbs), func(i int) error { return dbs[i%len(dbs)].Migrate(t.Context()) })...))
	for _, db := range dbs {
		f.must(db.CheckSchema(t.Context()))
		f.must(db.Migrate(t.Context()))
	}
}

// The steps that were applied are those that there are, in order.
func TestMigrations(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	steps, err := fs.Glob(migrations.FS, "*.sql")
	f.must(err)
	if got := f.count(`SELECT count(*) FROM schema_migrations`); got != len(steps) || got == 0 {
		t.Errorf("%d steps applied, want %d", got, len(steps))
	}
	last := f.count(`SELECT max(version) FROM schema_migrations`)
	f.must(f.exec(`DELETE FROM schema_migrations WHERE version = $1`, last))
	if err := f.CheckSchema(f.ctx); err == nil || errors.Is(err, storage.ErrNewerSchema) {
		t.Errorf("a step behind: %v, want advice to migrate", err)
	}
	// The first step's tables are there: it fails, and leaves no trace.
	f.must(f.exec(`DELETE FROM schema_migrations`))
	if err := f.Migrate(f.ctx); err == nil {
		t.Error("a step that fails was taken as applied")
	}
	if got := f.count(`SELECT count(*) FROM schema_migrations`); got != 0 {
		t.Errorf("at step %d after a failure, want 0", got)
	}
}

func TestNewerSchema(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.must(f.exec(`INSERT INTO schema_migrations (version, name) VALUES (9999, '9999_tomorrow.sql')`))
	f.want("migrate", f.Migrate(f.ctx), storage.ErrNewerSchema)
	f.want("check", f.CheckSchema(f.ctx), storage.ErrNewerSchema)
}

// Blobs are swept only while no job is about to name some.
func TestShareBlobs(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	first, err := f.ShareBlobs(f.ctx)
	f.must(err)
	second, err := f.ShareBlobs(f.ctx) // jobs do not wait for each other
	f.must(err)
	owned := make(chan error, 1)
	go func() {
		release, err := f.OwnBlobs(f.ctx)
		if err == nil {
			release()
		}
		owned <- err
	}()
	first()
	select {
	case <-owned:
		t.Fatal("the blobs were owned while they were shared")
	default:
	}
	second()
	f.must(<-owned)
}
