package api

import (
	"fmt"
	"testing"
	"time"
)

// One client has some of the places to wait, and gives them back.
func TestWaiting(t *testing.T) {
	t.Parallel()
	p := newPulls()
	var leave []func(func())
	enter := func(client, what string) bool {
		l, ok := p.enter(client, what)
		if ok {
			leave = append(leave, l)
		}
		return ok
	}
	for i := range clientsPulls {
		if !enter("a", fmt.Sprint(i)) {
			t.Fatalf("no place for pull %d of a client", i)
		}
	}
	if enter("a", "one more") || !enter("a", "0") || !enter("b", "one more") {
		t.Error("a client has its number of pulls, others have theirs, and what is waited for may have more that wait")
	}
	for range clientsWaiting - clientsPulls - 1 {
		if !enter("a", "0") {
			t.Fatal("no place for a client that waits for the same")
		}
	}
	if enter("a", "0") {
		t.Error("a client waits as often as it likes")
	}
	for i := 0; ; i++ {
		if !enter(fmt.Sprint("c", i/100), "x") {
			break
		}
		if i > mostWaiting {
			t.Fatal("any number may wait")
		}
	}
	// Whoever goes has left what was begun for it.
	ended := make(chan struct{})
	leave[0](func() { <-ended })
	leave[0] = nil
	for _, l := range leave[1:] {
		l(func() { <-ended })
	}
	if p.waiting != 0 || enter("a", "one more") || enter("a", "another") {
		t.Errorf("%d wait after all have gone, and a client begins anew before anything has ended", p.waiting)
	}
	close(ended)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		p.mu.Lock()
		n := len(p.clients)
		p.mu.Unlock()
		if n == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d clients are left when all has ended", n)
		}
	}
	if p.waiting != 0 || len(p.clients) != 0 || !enter("a", "one more") {
		t.Errorf("%d wait after all have gone, of %d clients", p.waiting, len(p.clients))
	}
}

// Followers returns how many wait for a job.
func (s *Server) Followers() (n int) {
	w := s.watch.All
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, more := range w.followers {
		n += more
	}
	return n
}
