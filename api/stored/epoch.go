package stored

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/francescobianco/packbase/storage"
)

// An Epoch tells whether what is in memory may still be shown. Postgres is
// asked at most once in epochAge; while it is away, the last answer holds, and
// it is asked again soon: others may decide something as soon as it is back.
type Epoch struct {
	db    *storage.DB
	mu    sync.Mutex
	last  string       // as Postgres told it; guarded by mu
	known atomic.Int64 // how many there were
	until atomic.Int64 // when to ask again, in Unix nanoseconds; 0 before the first answer
}

// NewEpoch returns the epoch of a database.
func NewEpoch(db *storage.DB) *Epoch { return &Epoch{db: db} }

const (
	epochAge     = time.Second
	epochTimeout = 2 * time.Second
	epochRetry   = 250 * time.Millisecond // after a question without an answer
)

// Now returns the epoch. What was put in memory under another one is void.
func (e *Epoch) Now(ctx context.Context) int64 {
	switch until := e.until.Load(); {
	case time.Now().UnixNano() < until:
		return e.known.Load()
	case until == 0:
		e.mu.Lock()
	case !e.mu.TryLock():
		return e.known.Load() // somebody asks at this moment
	}
	defer e.mu.Unlock()
	return e.ask(ctx)
}

// Renew is Now for who has just taken a right away.
func (e *Epoch) Renew(ctx context.Context) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ask(ctx)
}

func (e *Epoch) ask(ctx context.Context) int64 {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), epochTimeout)
	defer cancel()
	age := epochAge
	switch now, err := e.db.Access.Epoch(ctx); {
	case err != nil:
		age = epochRetry
	case now != e.last:
		e.last = now
		e.known.Add(1)
	}
	e.until.Store(time.Now().Add(age).UnixNano())
	return e.known.Load()
}
