package api_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/storage/jobs"
)

// Parts of a tarball are what RFC 9110, section 14 says, and never more bytes
// than the whole (HT-04).
func TestRanges(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	rel := g.publish("hello", tagged{tag: "v1", files: zon("hello", "1.0.0")})[0]
	const path = "/p/hello/tag/v1.tar.gz"
	whole := g.get(path)
	if whole.StatusCode != http.StatusOK || int64(len(whole.body)) != rel.Size {
		t.Fatalf("status %d with %d bytes, want 200 with %d", whole.StatusCode, len(whole.body), rel.Size)
	}
	size := len(whole.body)
	etag, modified := whole.Header.Get("ETag"), whole.Header.Get("Last-Modified")
	const (
		ok      = http.StatusOK
		partial = http.StatusPartialContent
		none    = http.StatusRequestedRangeNotSatisfiable
	)
	tests := []struct {
		name     string
		header   []string
		status   int
		from, to int // of the bytes wanted
	}{
		{"first byte", []string{"Range", "bytes=0-0"}, partial, 0, 1},
		{"middle", []string{"Range", "bytes=10-19"}, partial, 10, 20},
		{"rest", []string{"Range", "bytes=10-"}, partial, 10, size},
		{"last bytes", []string{"Range", "bytes=-5"}, partial, size - 5, size},
		{"more last bytes than there are", []string{"Range", "bytes=-999999"}, partial, 0, size},
		{"beyond the end", []string{"Range", "bytes=5-999999"}, partial, 5, size},
		{"after the end", []string{"Range", fmt.Sprintf("bytes=%d-", size)}, none, 0, 0},
		{"inverted", []string{"Range", "bytes=5-2"}, none, 0, 0},
		{"overflow", []string{"Range", "bytes=99999999999999999999-"}, none, 0, 0},
		{"negative", []string{"Range", "bytes=--5"}, none, 0, 0},
		{"letters", []string{"Range", "bytes=a-b"}, none, 0, 0},
		{"no number", []string{"Range", "bytes=-"}, none, 0, 0},
		{"other unit", []string{"Range", "lines=0-1"}, ok, 0, size},
		{"two", []string{"Range", "bytes=0-1,3-4"}, ok, 0, size},
		{"1,000", []string{"Range", "bytes=0-" + strings.Repeat(",0-", 1000)}, ok, 0, size},
		{"two headers", []string{"Range", "bytes=0-0", "Range", "bytes=1-1"}, partial, 0, 1},
		{"if it is the same", []string{"Range", "bytes=0-3", "If-Range", etag}, partial, 0, 4},
		{"if it is another", []string{"Range", "bytes=0-3", "If-Range", `"other"`}, ok, 0, size},
		{"if it is weakly the same", []string{"Range", "bytes=0-3", "If-Range", "W/" + etag}, ok, 0, size},
		{"if it is of that time", []string{"Range", "bytes=0-3", "If-Range", modified}, partial, 0, 4},
		{"if it is older", []string{"Range", "bytes=0-3", "If-Range", "Mon, 02 Jan 2006 15:04:05 GMT"}, ok, 0, size},
		{"unless it is the same", []string{"If-None-Match", etag}, http.StatusNotModified, 0, 0},
		{"unless it is one of many", []string{"If-None-Match", `"a", W/` + etag}, http.StatusNotModified, 0, 0},
		{"unless it is there", []string{"If-None-Match", "*"}, http.StatusNotModified, 0, 0},
		{"unless it is another", []string{"If-None-Match", `"a"`}, ok, 0, size},
		{"unless it is not newer", []string{"If-Modified-Since", modified}, http.StatusNotModified, 0, 0},
		{"the tag counts more than the time", []string{"If-None-Match", `"a"`, "If-Modified-Since", modified}, ok, 0, size},
		{"only if it is the same", []string{"If-Match", etag}, ok, 0, size},
		{"only if it is another", []string{"If-Match", `"a"`}, http.StatusPreconditionFailed, 0, 0},
		{"only if it is older", []string{"If-Unmodified-Since", "Mon, 02 Jan 2006 15:04:05 GMT"}, http.StatusPreconditionFailed, 0, 0},
	}
	for _, tt := range tests {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			a := g.do(method, path, "", tt.header...)
			if a.StatusCode != tt.status {
				t.Errorf("%s %s: status %d, want %d", method, tt.name, a.StatusCode, tt.status)
				continue
			}
			if tt.status >= 300 {
				continue
			}
			want := whole.body[tt.from:tt.to]
			if a.ContentLength != int64(len(want)) || method == http.MethodGet && !bytes.Equal(a.body, want) {
				t.Errorf("%s %s: %d bytes, want bytes %d to %d", method, tt.name, a.ContentLength, tt.from, tt.to)
			}
			if got, want := a.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-%d/%d", tt.from, tt.to-1, size); tt.status == partial && got != want {
				t.Errorf("%s %s: Content-Range %q, want %q", method, tt.name, got, want)
			}
		}
	}
}

// A cache in front may keep what is named by its bytes, for ever and for
// everybody, and nothing else (HT-05).
func TestCaching(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	rels := g.publish("hello", tagged{tag: "v1", files: zon("hello", "1.0.0")}, tagged{branch: "main", files: zon("hello", "2.0.0")})
	rel, tip := rels[0], rels[1]
	const forever = "public, max-age=31536000, immutable"
	for path, digest := range map[string]string{
		"/p/hello/tag/v1.tar.gz":                        rel.Digest,
		"/p/hello/tag/v1.json":                          rel.ManifestDigest,
		"/p/hello/commit/" + rel.CommitOID + ".tar.gz":  rel.Digest,
		"/p/hello/commit/" + rel.CommitOID + ".json":    rel.ManifestDigest,
		"/z/" + rel.ZigHash + ".tar.gz":                 rel.Digest,
		"/z/" + rel.ZigLegacyHash + ".tar.gz":           rel.Digest,
		"/api/blobs/" + rel.ManifestDigest:              rel.ManifestDigest,
		"/p/hello/tag/v1.tar.gz?x=1&tag=../../etc/what": rel.Digest,
	} {
		a := g.get(path)
		if sum := fmt.Sprintf("%x", sha256.Sum256(a.body)); sum != digest || a.Header.Get("ETag") != `"`+sum+`"` {
			t.Errorf("%s: bytes %s with ETag %s, want %s for both", path, sum, a.Header.Get("ETag"), digest)
		}
		if got := a.Header.Get("Cache-Control"); got != forever {
			t.Errorf("%s: Cache-Control %q, want %q", path, got, forever)
		}
		for _, name := range []string{"Content-Encoding", "Set-Cookie", "Vary"} {
			if got := a.Header.Get(name); got != "" {
				t.Errorf("%s: %s %q, want none", path, name, got)
			}
		}
		if got := a.Header.Get("X-Content-Type-Options"); got != "nosniff" {
			t.Errorf("%s: X-Content-Type-Options %q, want nosniff", path, got)
		}
	}
	branch := g.get("/p/hello/branch/main.tar.gz")
	if cache, commit := branch.Header.Get("Cache-Control"), branch.Header.Get("X-Packbase-Commit"); cache != "no-cache" || commit != tip.CommitOID {
		t.Errorf("branch: Cache-Control %q, commit %s; want no-cache, %s", cache, commit, tip.CommitOID)
	}
	// Whatever a cache may keep must not depend on what its key leaves out.
	spoof := []string{"Host", "evil.example", "X-Forwarded-Host", "evil.example", "X-Forwarded-Proto", "https", "Forwarded", "host=evil.example",
		"X-Original-URL", "/api/list", "X-Rewrite-Url", "/api/list", "X-Http-Method-Override", "POST", "Accept-Encoding", "gzip", "Cookie", "a=b", "Origin", "https://evil.example"}
	for _, path := range []string{"/p/hello/tag/v1.tar.gz", "/p/hello/tag/v1.json", "/api/info/hello", "/api/list", "/api/openapi.yaml", "/hello.svg", "/robots.txt",
		"/git/hello/info/refs?service=git-upload-pack", "/feed.atom", "/", "/hello", "/packages", "/jobs", "/favicon.ico", "/p/hello/branch/no.tar.gz"} {
		for _, accept := range []string{"*/*", "text/html"} {
			plain, spoofed := g.get(path, "Accept", accept), g.get(path, append([]string{"Accept", accept}, spoof...)...)
			if plain.StatusCode != spoofed.StatusCode || plain.Header.Get("Location") != spoofed.Header.Get("Location") {
				t.Errorf("%s: status %d, want %d as without spoofed headers", path, spoofed.StatusCode, plain.StatusCode)
			}
			cache := spoofed.Header.Get("Cache-Control")
			shared := !strings.Contains(cache, "no-store") && !strings.Contains(cache, "no-cache") && !strings.Contains(cache, "private")
			if shared && !bytes.Equal(plain.body, spoofed.body) {
				t.Errorf("%s: Cache-Control %q, and the body depends on headers that are no part of a cache's key", path, cache)
			}
			if strings.Contains(string(spoofed.body), "evil.example") && shared {
				t.Errorf("%s: names the client's host where caches keep it", path)
			}
		}
	}
	for _, path := range []string{"/", "/packages", "/jobs", "/hello"} {
		if got := g.get(path).Header.Get("Vary"); got != "Accept" {
			t.Errorf("%s: Vary %q, want Accept", path, got)
		}
	}
}

// Events end when the job does, and say how.
func TestEvents(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	doc := readContract(t, g.get("/api/openapi.yaml").body)
	c := g.claim("hello")
	resp, err := http.Get(g.url + "/api/jobs/" + c.Job.ID.String() + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var states []string
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		doc.validate("event", "/components/schemas/Job", []byte(data))
		var job struct{ State string }
		if err := json.Unmarshal([]byte(data), &job); err != nil {
			t.Fatal(err)
		}
		if states = append(states, job.State); len(states) == 1 {
			g.must(g.db.Jobs.End(t.Context(), c, jobs.Outcome{State: jobs.Failed, Code: "no_tags", Message: "there are none"}))
		}
	}
	if !slices.Equal(states, []string{"running", "failed"}) {
		t.Errorf("states %q, want running, failed, and no more", states)
	}
}
