package api

import (
	"fmt"
	"testing"
)

// One client has some of the places to wait, and gives them back.
func TestWaiting(t *testing.T) {
	t.Parallel()
	p := newPulls()
	var leave []func()
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
	for _, l := range leave {
		l()
	}
	if p.waiting != 0 || len(p.clients) != 0 || !enter("a", "one more") {
		t.Errorf("%d wait after all have gone, of %d clients", p.waiting, len(p.clients))
	}
}
