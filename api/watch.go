package api

import (
	"context"
	"reflect"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/jobs"
)

// A jobWatch looks at the jobs that somebody follows: at all of them with one
// question to Postgres, at most once in watchAge, however many follow.
type jobWatch struct {
	db      *storage.DB
	private bool // who follows may see private packages

	mu        sync.Mutex
	followers map[uuid.UUID]int
	jobs      map[uuid.UUID]*jobs.Job // as last seen; another pointer is another state
	asked     time.Time               // when Postgres was last asked
	failed    error                   // how that ended
}

const (
	watchAge     = 100 * time.Millisecond
	watchTimeout = 3 * time.Second
)

func newJobWatch(db *storage.DB, private bool) *jobWatch {
	return &jobWatch{db: db, private: private, followers: map[uuid.UUID]int{}, jobs: map[uuid.UUID]*jobs.Job{}}
}

// follow has the job looked at until done is called. It returns the job as
// the others that follow it saw it last.
func (w *jobWatch) follow(job jobs.Job) (seen *jobs.Job, done func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.followers[job.ID]++
	if w.jobs[job.ID] == nil {
		w.jobs[job.ID] = &job
	}
	return w.jobs[job.ID], func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.followers[job.ID]--; w.followers[job.ID] == 0 {
			delete(w.followers, job.ID)
			delete(w.jobs, job.ID)
		}
	}
}

// current returns a job that is followed, as it is give or take watchAge, or
// ErrNotFound. The pointer is the one of the last call if nothing changed.
func (w *jobWatch) current(id uuid.UUID) (*jobs.Job, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.asked) >= watchAge {
		w.failed = w.ask()
		w.asked = time.Now()
	}
	if w.failed != nil {
		return nil, w.failed
	}
	if w.jobs[id] == nil {
		return nil, fault.ErrNotFound
	}
	return w.jobs[id], nil
}

func (w *jobWatch) ask() error {
	// All wait for this answer: it must come soon, and neither end with a client nor depend on which one asks.
	ctx, cancel := context.WithTimeout(context.Background(), watchTimeout)
	defer cancel()
	if w.private {
		ctx = access.SeePrivate(ctx)
	}
	ids := make([]uuid.UUID, 0, len(w.followers))
	for id := range w.followers {
		ids = append(ids, id)
	}
	found, err := w.db.Jobs.ByIDs(ctx, ids)
	if err != nil {
		return err
	}
	before := w.jobs
	w.jobs = make(map[uuid.UUID]*jobs.Job, len(found))
	for i := range found {
		job := &found[i]
		if old := before[job.ID]; old != nil && reflect.DeepEqual(old, job) {
			job = old
		}
		w.jobs[job.ID] = job
	}
	return nil
}
