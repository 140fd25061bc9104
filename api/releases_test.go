package api_test

import (
	"bytes"
	"net/http"
	"testing"
)

// What was served once is served on when Postgres is away, and what is not
// known is not denied then.
func TestReleasesInMemory(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	r := g.publish("hello", tagged{tag: "v1", files: zon("hello", "1.0.0")}, tagged{tag: "v2", files: zon("hello", "2.0.0")})[0]
	s, postgres := g.gated()
	paths := []string{"/p/hello/tag/v1.tar.gz", "/p/hello/tag/v1.json", "/p/hello/commit/" + r.CommitOID + ".tar.gz", "/z/" + r.ZigHash + ".tar.gz",
		"/api/list", "/api/search?q=hello", "/hello/info/refs?service=git-upload-pack"}
	before := map[string]*answer{}
	for _, path := range paths {
		if before[path] = s.get(path); before[path].StatusCode != http.StatusOK {
			t.Fatalf("GET %s = %d %s", path, before[path].StatusCode, before[path].body)
		}
	}
	if a := s.get("/p/hello/tag/v3.tar.gz"); a.StatusCode != http.StatusNotFound {
		t.Errorf("a tag that is not there = %d, want 404", a.StatusCode)
	}
	postgres.shut()
	for _, path := range paths {
		a := s.get(path)
		if a.StatusCode != http.StatusOK || !bytes.Equal(a.body, before[path].body) || a.Header.Get("ETag") != before[path].Header.Get("ETag") {
			t.Errorf("GET %s without Postgres = %d %.200s, want what it was", path, a.StatusCode, a.body)
		}
	}
	for _, path := range []string{"/p/hello/tag/v2.tar.gz", "/p/hello/tag/v3.tar.gz", "/other/info/refs?service=git-upload-pack"} {
		if a := s.get(path); a.StatusCode != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" {
			t.Errorf("GET %s without Postgres = %d, want 503 with Retry-After", path, a.StatusCode)
		}
	}
}

func BenchmarkTarball(b *testing.B) {
	g := newRegistry(b)
	g.publish("hello", tagged{tag: "v1", files: zon("hello", "1.0.0")})
	h := g.server.Handler()
	for b.Loop() {
		w := discard{http.Header{}}
		req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, "http://packbase/p/hello/tag/v1.tar.gz", nil)
		if err != nil {
			b.Fatal(err)
		}
		h.ServeHTTP(w, req)
	}
}

// discard is an answer that nobody reads.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}
