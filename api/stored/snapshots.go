package stored

import (
	"context"
	"sync"

	"github.com/francescobianco/packbase/storage"
)

// Snapshots tell whether anything was committed since. However many ask, Postgres has one question at a time,
// and each waits for one that began after it asked: what was committed by then is in it.
type Snapshots struct {
	db *storage.DB

	mu     sync.Mutex
	asking bool
	next   *snapshot // of those who ask while another question is under way; nil without any
}

// A snapshot is the answer to one question.
type snapshot struct {
	done chan struct{} // closed when the rest is there
	text string
	err  error
}

// NewSnapshots returns the snapshots of a database.
func NewSnapshots(db *storage.DB) *Snapshots { return &Snapshots{db: db} }

// Now returns the snapshot of a moment after the call: see storage's Snapshot.
func (s *Snapshots) Now(ctx context.Context) (string, error) {
	s.mu.Lock()
	mine := s.next
	if mine == nil {
		mine = &snapshot{done: make(chan struct{})}
		s.next = mine
	}
	if !s.asking {
		s.asking = true
		go s.ask(context.WithoutCancel(ctx))
	}
	s.mu.Unlock()
	select {
	case <-mine.done:
		return mine.text, mine.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// ask answers until nobody waits.
func (s *Snapshots) ask(ctx context.Context) {
	for {
		s.mu.Lock()
		now := s.next
		s.next = nil
		s.asking = now != nil
		s.mu.Unlock()
		if now == nil {
			return
		}
		short, cancel := context.WithTimeout(ctx, epochTimeout)
		now.text, now.err = s.db.Snapshot(short)
		cancel()
		close(now.done)
	}
}
