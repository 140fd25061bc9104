package smarthttp

import (
	"context"
	"sync"
	"time"
)

// turns limits how many fetches run at once: in all, and of one package.
type turns struct {
	all        chan struct{} // holds a token for each running fetch
	perPackage int

	mu       sync.Mutex
	packages map[string]*packageTurns
}

type packageTurns struct {
	running chan struct{}
	users   int // running and waiting; at 0 the entry goes
}

func newTurns(all, perPackage int) *turns {
	return &turns{
		all:        make(chan struct{}, all),
		perPackage: perPackage,
		packages:   make(map[string]*packageTurns),
	}
}

// take waits for a turn and returns how to end it. It returns busy if wait
// passes first.
func (t *turns) take(ctx context.Context, pkg string, wait time.Duration) (end func(), err error) {
	p := t.enter(pkg)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	// First the package's: those who wait for a busy package must not keep
	// the others out.
	for i, c := range []chan struct{}{p.running, t.all} {
		select {
		case c <- struct{}{}:
			continue
		case <-timer.C:
			err = busy()
		case <-ctx.Done():
			err = ctx.Err()
		}
		if i > 0 {
			<-p.running
		}
		t.leave(pkg)
		return nil, err
	}
	return func() {
		<-t.all
		<-p.running
		t.leave(pkg)
	}, nil
}

func (t *turns) enter(pkg string) *packageTurns {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.packages[pkg]
	if p == nil {
		p = &packageTurns{running: make(chan struct{}, t.perPackage)}
		t.packages[pkg] = p
	}
	p.users++
	return p
}

func (t *turns) leave(pkg string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.packages[pkg]
	if p.users--; p.users == 0 {
		delete(t.packages, pkg)
	}
}
