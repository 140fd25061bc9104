package stored

import (
	"context"
	"sync"

	"github.com/francescobianco/packbase/storage"
)

// Rows tell whether anything was committed since. However many ask, Postgres has one question at a time,
// and each waits for one that began after it asked: what was committed by then is in the answer.
type Rows struct {
	db *storage.DB

	mu     sync.Mutex
	asking bool
	next   *question // of those who ask while another one is under way; nil without any
}

// A question is asked for all who wait for it.
type question struct {
	done    chan struct{} // closed when the rest is there
	version string
	err     error
}

// NewRows returns the rows of a database.
func NewRows(db *storage.DB) *Rows { return &Rows{db: db} }

// Version returns storage's RowsVersion, as of a moment after the call.
func (r *Rows) Version(ctx context.Context) (string, error) {
	r.mu.Lock()
	mine := r.next
	if mine == nil {
		mine = &question{done: make(chan struct{})}
		r.next = mine
	}
	if !r.asking {
		r.asking = true
		go r.ask(context.WithoutCancel(ctx))
	}
	r.mu.Unlock()
	select {
	case <-mine.done:
		return mine.version, mine.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// ask asks until nobody waits.
func (r *Rows) ask(ctx context.Context) {
	for {
		r.mu.Lock()
		now := r.next
		r.next = nil
		r.asking = now != nil
		r.mu.Unlock()
		if now == nil {
			return
		}
		short, cancel := context.WithTimeout(ctx, epochTimeout)
		now.version, now.err = r.db.RowsVersion(short)
		cancel()
		close(now.done)
	}
}
