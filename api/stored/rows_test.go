package stored

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/storagetest"
)

// Who asks after something was committed is not told what was true before, however many ask at once.
func TestRowsVersion(t *testing.T) {
	t.Parallel()
	db, err := storage.Open(t.Context(), storagetest.NewURL(t))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Pool.Exec(t.Context(), `CREATE TABLE counts (n int)`); err != nil {
		t.Fatal(err)
	}
	r := NewRows(db)
	now := func() string {
		text, err := r.Version(t.Context())
		if err != nil || text == "" {
			t.Errorf("version = %q, %v", text, err)
		}
		return text
	}
	if one, two := now(), now(); one != two {
		t.Errorf("nothing was committed between %q and %q", one, two)
	}
	stop := make(chan struct{})
	var others, wg sync.WaitGroup
	for range 8 {
		others.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					now()
				}
			}
		})
	}
	for range 4 {
		wg.Go(func() {
			for range 50 {
				before := now()
				if _, err := db.Pool.Exec(t.Context(), `INSERT INTO counts VALUES (1)`); err != nil {
					t.Error(err)
				}
				if after := now(); after == before {
					t.Errorf("a row was committed, and the version is still %q", after)
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	others.Wait()

	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if _, err := r.Version(ctx); err != nil && !errors.Is(err, gone) {
		t.Errorf("who has gone is told %v", err)
	}
}
