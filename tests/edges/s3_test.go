package edges

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage/blob/blobtest"
	"github.com/francescobianco/packbase/storage/storagetest"
	"github.com/francescobianco/packbase/tests/harness"
)

// A meter counts what a bucket is asked for.
type meter struct{ gets, bytes atomic.Int64 }

func (m *meter) through(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			m.gets.Add(1)
			w = &countingWriter{w, &m.bytes}
		}
		next.ServeHTTP(w, r)
	})
}

func (m *meter) reset() (gets, bytes int64) { return m.gets.Swap(0), m.bytes.Swap(0) }

type countingWriter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *countingWriter) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	return c.ResponseWriter.Write(b)
}

func awsEnv(bucket *blobtest.Bucket) []string {
	return []string{"PACKBASE_BLOBS=" + bucket.URL, "AWS_ACCESS_KEY_ID=" + blobtest.AccessKey, "AWS_SECRET_ACCESS_KEY=" + blobtest.SecretKey}
}

// The whole product on an S3 bucket.
func TestS3(t *testing.T) {
	t.Parallel()
	server := blobtest.StartS3(t)
	bucket := server.NewBucket(t)
	var m meter
	bucket.Through(m.through)
	up := harness.NewUpstream(t)
	hello, big := up.Repo("hello"), up.Repo("big")
	hello.Annotate("v1.0.0", hello.Release("v1.0.0"))
	files := harness.Files{"noise.bin": noise(1, 6<<20)} // more than a part
	for i := range 400 {
		files[fmt.Sprintf("src/%03d.zig", i)] = noise(uint64(i), 2000)
	}
	big.Tag("v1.0.0", big.Commit(files))
	s := harness.Start(t, awsEnv(bucket)...)
	s.Fetch(hello.URL)
	s.Fetch(big.URL)
	hello.Release("v2.0.0")
	s.Fetch(hello.URL)
	all := served(t, s)

	release := func(pkg, tag string) wire.Tarball {
		info := s.Info(pkg)
		return info.Release(t, tag)
	}
	s3Ranges(t, s, release("big", "v1.0.0"))
	s3Clones(t, s, &m)
	s3Edge(t, s, server, all)
	s3Repair(t, s, bucket, release("hello", "v1.0.0").SHA256)
	s3Rebuild(t, s, bucket, all)
	s3Away(t, s, bucket, release("hello", "v2.0.0").URL)
	s3Frozen(t, s, bucket, release("hello", "v2.0.0").URL, release("hello", "v1.0.0").URL)
}

// s3Frozen looks at what is said while the bucket answers nothing any more, of a tarball that was read before, too.
func s3Frozen(t *testing.T, s *harness.Server, bucket *blobtest.Bucket, read, unread string) {
	t.Helper()
	thaw := make(chan struct{})
	wait := func(r *http.Request) {
		select {
		case <-thaw:
		case <-r.Context().Done():
		}
	}
	bucket.Through(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				wait(r)
			}
			next.ServeHTTP(w, r)
		})
	})
	var all sync.WaitGroup
	for path, header := range map[string]http.Header{
		read: nil, unread: nil, read + "?": {"Range": {"bytes=10-20"}},
	} {
		all.Go(func() {
			began := time.Now()
			a := s.Do(http.MethodGet, path, "", header)
			if took := time.Since(began); a.Status != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" || took > 45*time.Second {
				t.Errorf("%s of a frozen bucket = %d after %v, %v", path, a.Status, took, a.Header)
			}
			for _, name := range []string{"ETag", "Content-Range", "Accept-Ranges"} {
				if a.Header.Get(name) != "" {
					t.Errorf("%s of a frozen bucket says %s: %s", path, name, a.Header.Get(name))
				}
			}
		})
	}
	if a := s.Do(http.MethodGet, "/hello", "", http.Header{"Accept": {"text/html"}}); a.Status != http.StatusOK {
		t.Errorf("the page while the bucket is frozen = %d %s", a.Status, a.Body)
	}
	all.Wait()
	bucket.Through(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			wait(r)
			next.ServeHTTP(w, r)
		})
	})
	var ready wire.Ready
	s.Do(http.MethodGet, "/readyz", "", nil).Into(t, &ready)
	if deps := ready.Dependencies; deps["blobs"] != "down" || deps["postgres"] != "ok" || deps["redis"] != "ok" {
		t.Errorf("/readyz while the bucket is frozen: %v", deps)
	}
	close(thaw)
	bucket.Through(nil)
	s.AwaitAPI()
	s.Get(read)
}

// s3Ranges asks for parts of a tarball as HTTP has them.
func s3Ranges(t *testing.T, s *harness.Server, r wire.Tarball) {
	t.Helper()
	whole := s.Get(r.URL)
	for _, tt := range []struct {
		header, value string
		status        int
		body          []byte
	}{
		{"Range", "bytes=0-99", http.StatusPartialContent, whole[:100]},
		{"Range", "bytes=1000000-3999999", http.StatusPartialContent, whole[1_000_000:4_000_000]},
		{"Range", "bytes=-10", http.StatusPartialContent, whole[len(whole)-10:]},
		{"Range", fmt.Sprintf("bytes=%d-", len(whole)), http.StatusRequestedRangeNotSatisfiable, nil},
		{"If-None-Match", `"` + r.SHA256 + `"`, http.StatusNotModified, nil},
		{"If-None-Match", `"x"`, http.StatusOK, whole},
	} {
		a := s.Do(http.MethodGet, r.URL, "", http.Header{tt.header: {tt.value}})
		if a.Status != tt.status || tt.body != nil && sha(a.Body) != sha(tt.body) {
			t.Errorf("%s: %s = %d with %d bytes, want %d with %d", tt.header, tt.value, a.Status, len(a.Body), tt.status, len(tt.body))
		}
	}
	if a := s.Do(http.MethodHead, r.URL, "", nil); a.Status != http.StatusOK || a.Header.Get("Content-Length") != fmt.Sprint(len(whole)) {
		t.Errorf("HEAD = %d, Content-Length %s, want %d", a.Status, a.Header.Get("Content-Length"), len(whole))
	}
}

// s3Clones measures what a clone costs.
func s3Clones(t *testing.T, s *harness.Server, m *meter) {
	t.Helper()
	for _, pkg := range []string{"hello", "big"} {
		for _, when := range []string{"first", "second"} {
			m.reset()
			began := time.Now()
			if _, err := clone(t, s.URL, pkg); err != nil {
				t.Fatal(err)
			}
			gets, bytes := m.reset()
			t.Logf("%s clone of %s: %d requests to S3, %d KiB, %v", when, pkg, gets, bytes>>10, time.Since(began).Round(time.Millisecond))
			if gets > 10 {
				t.Errorf("%s clone of %s took %d requests, want no more than 10", when, pkg, gets)
			}
		}
	}
}

// s3Edge replicates to another bucket.
func s3Edge(t *testing.T, s *harness.Server, server *blobtest.S3Server, all map[string]string) {
	t.Helper()
	edge := harness.StartEdge(t, s.URL, awsEnv(server.NewBucket(t))...)
	inStep(t, edge, s)
	same(t, served(t, edge), all)
	if _, err := clone(t, edge.URL, "big"); err != nil {
		t.Error(err)
	}
	edge.Stop()
	clean(t, edge)
}

// s3Repair collects garbage, and mends a blob that has rotten.
func s3Repair(t *testing.T, s *harness.Server, bucket *blobtest.Bucket, digest string) {
	t.Helper()
	clean(t, s)
	garbage := strings.Repeat("ab", 32)
	if err := os.MkdirAll(filepath.Dir(bucket.Path(garbage)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bucket.Path(garbage), []byte("garbage"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, stderr, err := harness.Run(t, s.Env, "gc", "--grace", "0s")
	if _, left := os.Stat(bucket.Path(garbage)); err != nil || !os.IsNotExist(left) {
		t.Errorf("gc: %v, the garbage: %v\n%s%s", err, left, out, stderr)
	}
	raw, err := os.ReadFile(bucket.Path(digest))
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/2] ^= 1
	if err := os.WriteFile(bucket.Path(digest), raw, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, _, err := harness.Run(t, s.Env, "verify"); err == nil || !strings.Contains(out, digest) {
		t.Errorf("verify of a rotten blob: %v\n%s", err, out)
	}
	if out, stderr, err := harness.Run(t, s.Env, "verify", "--repair"); err != nil {
		t.Errorf("%v\n%s%s", err, out, stderr)
	}
	clean(t, s)
}

// s3Rebuild makes a database anew from nothing but the bucket.
func s3Rebuild(t *testing.T, s *harness.Server, bucket *blobtest.Bucket, all map[string]string) {
	t.Helper()
	env := append(awsEnv(bucket), "PACKBASE_DATABASE_URL="+storagetest.NewURL(t), "PACKBASE_ROOT="+t.TempDir(), "PACKBASE_READ_ONLY=true")
	if out, stderr, err := harness.Run(t, env, "rebuild"); err != nil {
		t.Fatalf("%v\n%s%s", err, out, stderr)
	}
	again := s.AddAPI("rebuilt-api", env...)
	same(t, served(t, again), all)
	if _, err := clone(t, again.URL, "big"); err != nil {
		t.Error(err)
	}
}

// s3Away looks at what is said while the bucket cannot be reached.
func s3Away(t *testing.T, s *harness.Server, bucket *blobtest.Bucket, path string) {
	t.Helper()
	bucket.Through(func(http.Handler) http.Handler { return harness.Status(http.StatusServiceUnavailable) })
	if a := s.Do(http.MethodGet, path, "", nil); a.Status != http.StatusServiceUnavailable || a.Code() != "storage_unavailable" {
		t.Errorf("a tarball without the bucket = %d %s, want 503 storage_unavailable", a.Status, a.Body)
	}
	if a := s.Do(http.MethodGet, "/readyz", "", nil); a.Status != http.StatusServiceUnavailable {
		t.Errorf("/readyz without the bucket = %d, want 503", a.Status)
	}
	bucket.Through(nil)
	s.AwaitAPI()
	s.Get(path)
}
