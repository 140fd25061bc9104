package smarthttp

import (
	"context"
	"slices"
	"sync"
	"time"
)

// turns limits how many requests do something at once: in all, of one client
// and of one package. When there are more, whose client has the fewest turns
// is next, and of equals who came first.
type turns struct {
	all, perClient, perPackage int

	mu       sync.Mutex
	running  int
	clients  map[string]int // running
	packages map[string]int // running
	queued   map[string]int // waiting, by client
	waiting  []*waiter      // in the order in which they came
}

// A waiter is a request for a turn. All that wait are those that cannot have one now.
type waiter struct {
	client, pkg string
	turn        chan struct{} // closed when it is the waiter's
}

func newTurns(all, perClient, perPackage int) *turns {
	return &turns{all: all, perClient: perClient, perPackage: perPackage,
		clients: map[string]int{}, packages: map[string]int{}, queued: map[string]int{}}
}

// acquire waits for a turn and returns how to end it, which may be done twice. It
// returns busy if wait passes first, or at once if as many wait as could run.
func (t *turns) acquire(ctx context.Context, client, pkg string, wait time.Duration) (end func(), err error) {
	w := &waiter{client, pkg, make(chan struct{})}
	end = sync.OnceFunc(func() { t.end(w) })
	if !t.enter(w) {
		return nil, busy()
	}
	select {
	case <-w.turn:
		return end, nil
	default:
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-w.turn:
		return end, nil
	case <-timer.C:
		err = busy()
	case <-ctx.Done():
		err = ctx.Err()
	}
	if !t.leave(w) { // it was given a turn at the last moment
		return end, nil
	}
	return nil, err
}

// enter lets w run or wait. It reports false if there is no room for either.
func (t *turns) enter(w *waiter) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.free(w) {
		t.begin(w)
		return true
	}
	if len(t.waiting) >= t.all || t.queued[w.client] >= t.perClient {
		return false
	}
	t.waiting = append(t.waiting, w)
	t.queued[w.client]++
	return true
}

// leave takes w out of those who wait. It reports false if w waits no more.
func (t *turns) leave(w *waiter) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.Index(t.waiting, w)
	if i >= 0 {
		t.dequeue(i)
	}
	return i >= 0
}

// end ends the turn of w, which lets others begin theirs.
func (t *turns) end(w *waiter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running--
	add(t.clients, w.client, -1)
	add(t.packages, w.pkg, -1)
	for {
		next := -1
		for i, other := range t.waiting {
			if t.free(other) && (next < 0 || t.clients[other.client] < t.clients[t.waiting[next].client]) {
				next = i
			}
		}
		if next < 0 {
			return
		}
		other := t.waiting[next]
		t.dequeue(next)
		t.begin(other)
	}
}

// free reports whether w can have a turn.
func (t *turns) free(w *waiter) bool {
	return t.running < t.all && t.clients[w.client] < t.perClient && t.packages[w.pkg] < t.perPackage
}

func (t *turns) begin(w *waiter) {
	t.running++
	add(t.clients, w.client, 1)
	add(t.packages, w.pkg, 1)
	close(w.turn)
}

func (t *turns) dequeue(i int) {
	add(t.queued, t.waiting[i].client, -1)
	t.waiting = slices.Delete(t.waiting, i, i+1)
}

// add keeps no zeros.
func add(counts map[string]int, key string, n int) {
	if counts[key] += n; counts[key] == 0 {
		delete(counts, key)
	}
}
