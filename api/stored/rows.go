package stored

import (
	"context"
	"hash/maphash"
	"strings"
	"sync"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
)

// Rows tell whether anything was committed since. However many ask, Postgres has one question at a time,
// and each waits for one that began after it asked: what was committed by then is in the answer.
type Rows struct {
	db *storage.DB

	mu     sync.Mutex
	asking bool
	next   *question // of those who ask while another one is under way; nil without any
	last   access.Changes
	era    uint64       // how often all that was known became void
	marks  [8192]uint64 // how often something else was to be told of packages, by the hash of a name
	seed   maphash.Seed
}

// A Mark is what answers about a package are made of, as far as it can change. The zero Mark is not known.
type Mark struct {
	era, pkg uint64
	log      string
}

// Known reports whether Postgres could say.
func (m Mark) Known() bool { return m.era > 0 }

// WithoutLog returns the mark of an answer that tells nothing of the log that can change.
func (m Mark) WithoutLog() Mark { m.log = ""; return m }

// Holds reports whether what was made at m is what would be made now.
func (m Mark) Holds(now Mark) bool {
	return m.Known() && m.era == now.era && m.pkg == now.pkg && (m.log == "" || m.log == now.log)
}

// A question is asked for all who wait for it.
type question struct {
	done    chan struct{} // closed when the rest is there
	version string
	err     error
}

// NewRows returns the rows of a database.
func NewRows(db *storage.DB) *Rows { return &Rows{db: db, seed: maphash.MakeSeed()} }

// Of returns the mark of the package called name, as of a moment after the call.
func (r *Rows) Of(ctx context.Context, name string) (Mark, error) {
	version, err := r.Version(ctx)
	if err != nil || version == "" {
		return Mark{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return Mark{r.era, *r.mark(strings.ToLower(name)), r.last.Log}, nil
}

func (r *Rows) mark(name string) *uint64 {
	return &r.marks[maphash.String(r.seed, name)%uint64(len(r.marks))]
}

// Version returns a text that is the same for two calls only if nothing was committed between them, as of a moment after
// the call. It is "" on a standby, where that is not known.
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
		last := r.last
		r.mu.Unlock()
		if now == nil {
			return
		}
		short, cancel := context.WithTimeout(ctx, epochTimeout)
		changes, err := r.db.Access.Changes(short, last)
		cancel()
		if now.version, now.err = changes.Now, err; err == nil {
			r.note(changes)
		}
		close(now.done)
	}
}

// note takes over what changed since the last question.
func (r *Rows) note(c access.Changes) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.Era != r.last.Era || c.More || r.last.Now == "" {
		r.era++
	}
	for _, name := range c.Packages {
		*r.mark(name)++
	}
	r.last = c
}
