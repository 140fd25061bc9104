package stored

import (
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage/storagetest"
)

// What was decided while Postgres did not answer holds as soon as it does.
func TestEpochAfterOutage(t *testing.T) {
	t.Parallel()
	db := storagetest.NewOwner(t)
	e := NewEpoch(db)
	before := e.Now(t.Context())
	tx, err := db.Pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context())
	// Nothing is read of a table that is locked so: questions have no answer.
	if _, err := tx.Exec(t.Context(), `LOCK TABLE access IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	e.Renew(t.Context())
	if now := e.Now(t.Context()); now != before {
		t.Errorf("without an answer the epoch is %d, want %d as before", now, before)
	}
	if _, err := tx.Exec(t.Context(), `UPDATE access SET epoch = epoch + 1`); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The next question is due 250 ms after the last one; one that is asked just before the commit may wait for its end.
	for back := time.Now(); e.Now(t.Context()) == before; time.Sleep(10 * time.Millisecond) {
		if time.Since(back) > 4*time.Second {
			t.Fatalf("%v after Postgres answers again, what was in memory still counts", time.Since(back).Round(time.Millisecond))
		}
	}
}
