package bench

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/francescobianco/packbase/api"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/storagetest"
)

// BenchmarkScale measures reads of a registry with 10,000 packages and 200,000
// releases, one client at a time and 50 at once.
func BenchmarkScale(b *testing.B) {
	url := storagetest.NewURL(b)
	db, err := storage.Open(b.Context(), url)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	if err := db.Migrate(b.Context()); err != nil {
		b.Fatal(err)
	}
	if err := Seed(b.Context(), url, 10_000, 20); err != nil {
		b.Fatal(err)
	}
	blobs, err := blob.OpenDisk(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	srv := httptest.NewServer(api.New(db, nil, blobs, api.Options{ReadOnly: true}, log).Handler())
	defer srv.Close()
	srv.Client().Transport.(*http.Transport).MaxIdleConnsPerHost = 100
	get(b, srv, "/api/status") // fills the directory
	fmt.Fprintf(os.Stderr, "%-46s %10s %10s %10s\n", "10,000 packages, 200,000 releases", "median", "p99 at 50", "bytes")
	for _, path := range []string{"/api/status", "/api/info/clap-00042", "/api/search?q=json", "/api/search?q=number+77", "/api/list",
		"/api/jobs?limit=50", "/z/1220" + missing + ".tar.gz", "/", "/packages?q=clap", "/clap-00042"} {
		one := times(b, srv, path, 1, 300)
		many := times(b, srv, path, 50, 3000)
		_, n := get(b, srv, path)
		fmt.Fprintf(os.Stderr, "%-46.46s %10s %10s %10d\n", path, one[len(one)/2].Round(10*time.Microsecond), many[len(many)*99/100].Round(10*time.Microsecond), n)
	}
}

const missing = "0000000000000000000000000000000000000000000000000000000000000000"

func get(b *testing.B, srv *httptest.Server, path string) (status, bytes int) {
	req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, srv.URL+path, nil)
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("Accept", "text/html, application/json")
	resp, err := srv.Client().Do(req)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err != nil {
		b.Fatal(err)
	}
	return resp.StatusCode, int(n)
}

// times returns how long each of n requests took, sorted.
func times(b *testing.B, srv *httptest.Server, path string, clients, n int) []time.Duration {
	all := make([]time.Duration, n)
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for i := c; i < n; i += clients {
				start := time.Now()
				get(b, srv, path)
				all[i] = time.Since(start)
			}
		})
	}
	wg.Wait()
	slices.Sort(all)
	return all
}
