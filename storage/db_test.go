package storage_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/francescobianco/packbase/migrations"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/pg"
	"github.com/francescobianco/packbase/storage/storagetest"
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
	if err := f.CheckSchema(f.ctx); err == nil || errors.Is(err, pg.ErrNewerSchema) {
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
	f.must(f.Migrate(f.ctx))
	f.must(f.CheckSchema(f.ctx))
	f.must(f.DB.Migrate(f.ctx)) // the role of servers may not, and need not
	f.must(f.exec(`UPDATE schema_migrations SET needs = 9998`))
	f.want("migrate", f.Migrate(f.ctx), pg.ErrNewerSchema)
	f.want("check", f.CheckSchema(f.ctx), pg.ErrNewerSchema)
}

// Blobs are swept only while no job is about to name some.
func TestShareBlobs(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	first, err := f.Scrub.Share(f.ctx)
	f.must(err)
	second, err := f.Scrub.Share(f.ctx) // jobs do not wait for each other
	f.must(err)
	owned := make(chan error, 1)
	go func() {
		release, err := f.Scrub.Own(f.ctx)
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

// Jobs share the blobs on one connection, however many there are; who wants to
// own the blobs waits for those who have them, and not for those who come
// later; and a lock that Postgres lost is taken anew.
func TestManyShareBlobs(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const locks = ` FROM pg_locks WHERE locktype = 'advisory' AND objid = (hashtext('packbase blobs ' || current_schema())::bigint & 4294967295)::oid`
	held := func() int { return f.count(`SELECT count(*)` + locks + ` AND granted`) }
	waiting := func(n int) func() bool {
		return func() bool { return f.count(`SELECT count(*)`+locks+` AND NOT granted`) == n }
	}
	share := func(n int) (release func()) {
		t.Helper()
		all := make([]func(), n)
		f.must(errors.Join(at(n, func(i int) (err error) { all[i], err = f.Scrub.Share(f.ctx); return err })...))
		return func() {
			for _, release := range all {
				release()
			}
		}
	}
	early := share(120)
	if n := held(); n != 1 {
		t.Errorf("120 jobs hold the lock on %d connections, want 1", n)
	}
	owner := make(chan func(), 1)
	go func() {
		release, err := f.Scrub.Own(f.ctx)
		if err != nil {
			t.Error(err)
		}
		owner <- release
	}()
	eventually(t, "somebody waits to own the blobs", waiting(1))
	late := make(chan func(), 1)
	go func() {
		release, err := f.Scrub.Share(f.ctx)
		if err != nil {
			t.Error(err)
		}
		late <- release
	}()
	eventually(t, "who comes later waits behind the owner", waiting(2))
	early()
	release := <-owner
	if len(late) > 0 {
		t.Error("the blobs are shared and owned at once")
	}
	release()
	defer (<-late)()

	f.must(f.exec(`SELECT pg_terminate_backend(pid)` + locks))
	eventually(t, "the lock is lost", func() bool { return held() == 0 })
	defer share(1)()
	if held() != 1 {
		t.Error("a lock that was lost is joined")
	}
}

// eventually polls until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
	}
}
