package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/tests/harness"
)

// crowd tells what clients notice of a crawler that reads everything: how long they wait for what they want, with it beside
// them against without it. Both ask when it is time to, whatever is still under way.
func crowd(b *testing.B, s *harness.Server, packages int) {
	b.Helper()
	const clients, crawler, span, rounds = 300, 200, 2 * time.Second, 9
	wanted, crawled := wants(packages), walk(b, s)
	asks, reads := visitor(s, "127.0.0.1"), visitor(s, "127.0.0.2")
	asks(b, clients, span, wanted) // warms
	var beside, alone, lag []float64
	for range rounds {
		alone = append(alone, p99(asks(b, clients, span, wanted)))
		var wg sync.WaitGroup
		wg.Go(func() { lag = append(lag, p99(reads(b, crawler, span, crawled))) })
		beside = append(beside, p99(asks(b, clients, span, wanted)))
		wg.Wait()
	}
	ratio, detail := ratios(beside, alone)
	result("p99 of 300 requests/s with a crawler of 200/s, against without", atMost(1.5, "×"), ratio, "ms: %s; of the crawler %.3g", detail, median(lag))
}

// A request is a path, and the headers that its kind has.
type request struct {
	path string
	page bool
}

// wants returns what clients ask for next: few packages are wanted by most of them.
func wants(packages int) func() request {
	random := rand.New(rand.NewPCG(1, 2))
	popular, order := rand.NewZipf(random, 1.1, 1, uint64(packages-1)), random.Perm(packages)
	return func() request {
		pkg := name(order[popular.Uint64()])
		switch n := random.IntN(10); {
		case n < 3:
			return request{path: fmt.Sprintf("/p/%s/tag/v1.%d.0.tar.gz", pkg, random.IntN(20))}
		case n < 5:
			return request{path: "/" + pkg + "/info/refs?service=git-upload-pack"}
		case n < 7:
			return request{path: "/api/info/" + pkg}
		case n < 8:
			return request{path: "/api/search?q=" + pkg[:3+random.IntN(len(pkg)-3)]}
		}
		return request{"/" + pkg, true}
	}
}

// walk returns what a crawler reads next, of one package after the other.
func walk(b *testing.B, s *harness.Server) func() request {
	b.Helper()
	var list wire.List
	if err := json.Unmarshal(s.Get("/api/list"), &list); err != nil {
		b.Fatal(err)
	}
	var next []request
	return func() request {
		if len(next) == 0 {
			pkg := list.Packages[0]
			list.Packages = list.Packages[1:]
			next = []request{{"/" + pkg, true}, {"/" + pkg + "/files", true}, {path: "/api/info/" + pkg}}
			for dir := range 9 {
				next = append(next, request{fmt.Sprintf("/%s/files?path=src/dir%d", pkg, dir), true})
			}
			for tag := range 20 {
				next = append(next, request{path: fmt.Sprintf("/p/%s/tag/v1.%d.0.tar.gz", pkg, tag)})
			}
		}
		first := next[0]
		next = next[1:]
		return first
	}
}

// visitor returns a function that sends so many requests a second from an address, and returns how many milliseconds passed
// from when each was due until it was answered.
func visitor(s *harness.Server, from string) func(b *testing.B, rate int, span time.Duration, next func() request) []float64 {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	client := &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, MaxIdleConnsPerHost: 256, DisableCompression: true}}
	ask := func(ctx context.Context, r request) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+r.path, nil)
		if err != nil {
			return err
		}
		if r.page {
			req.Header.Set("Accept", "text/html")
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s, %v", r.path, resp.Status, err)
		}
		return nil
	}
	return func(b *testing.B, rate int, span time.Duration, next func() request) []float64 {
		took := make([]float64, rate*int(span/time.Second))
		var wg sync.WaitGroup
		var failed atomic.Pointer[error]
		begin := time.Now()
		for i := range took {
			due, r := begin.Add(time.Duration(i)*time.Second/time.Duration(rate)), next()
			time.Sleep(time.Until(due))
			wg.Go(func() {
				if err := ask(b.Context(), r); err != nil {
					failed.Store(&err)
				}
				took[i] = time.Since(due).Seconds() * 1000
			})
		}
		wg.Wait()
		if err := failed.Load(); err != nil {
			b.Error(*err)
		}
		return took
	}
}

func p99(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)*99/100]
}
