package faults

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/francescobianco/packbase/tests/harness"
)

// A gate stands before an upstream: it counts what passes, and lets a test
// act at the very moment when packbase asks for something.
type gate struct {
	URL string

	mu    sync.Mutex
	hook  func(r *http.Request) // called before a request for a pack passes
	after func(r *http.Request) // called when its whole answer has been sent
	lists map[string]int        // requests by repository
	packs map[string]int
}

func newGate(t *testing.T, up *harness.Upstream) *gate {
	t.Helper()
	to, err := url.Parse(up.URL)
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{lists: map[string]int{}, packs: map[string]int{}}
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		before, after := g.count(r)
		if before != nil {
			before(r)
		}
		proxy.ServeHTTP(w, r)
		if after != nil {
			_ = http.NewResponseController(w).Flush()
			after(r)
		}
	}))
	t.Cleanup(srv.Close)
	g.URL = srv.URL
	return g
}

func (g *gate) count(r *http.Request) (before, after func(*http.Request)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	repo := strings.Split(r.URL.Path, "/")[1]
	if r.Method == http.MethodGet {
		g.lists[repo]++
		return nil, nil
	}
	g.packs[repo]++
	return g.hook, g.after
}

// onPack has hook called before each request for a pack passes, nil for none.
func (g *gate) onPack(hook func(r *http.Request)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hook = hook
}

// afterPack has hook called when a pack has been sent.
func (g *gate) afterPack(hook func(r *http.Request)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.after = hook
}

// hold keeps requests for packs waiting until release is called, or the asker
// goes. arrived gets a value for each.
func (g *gate) hold() (arrived <-chan struct{}, release func()) {
	in, open := make(chan struct{}, 1000), make(chan struct{})
	g.onPack(func(r *http.Request) {
		in <- struct{}{}
		select {
		case <-open:
		case <-r.Context().Done():
		}
	})
	return in, sync.OnceFunc(func() {
		g.onPack(nil)
		close(open)
	})
}

// requests returns how often a repository was listed and fetched from.
func (g *gate) requests(repo string) (lists, packs int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.lists[repo], g.packs[repo]
}

// of returns the URL of a repository behind the gate.
func (g *gate) of(repo *harness.Repo) string {
	u, _ := url.Parse(repo.URL) // made by the harness
	return g.URL + u.Path
}
