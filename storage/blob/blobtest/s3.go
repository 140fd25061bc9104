package blobtest

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// An S3Server is a real S3 server, versitygw, over a folder.
type S3Server struct {
	dir   string // each folder in it is a bucket
	proxy http.Handler
}

// Credentials that an S3Server accepts.
const (
	AccessKey = "blobtest"
	SecretKey = "blobtest-secret"
)

// StartS3 starts a server that lives as long as the test. The caller has set
// AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to AccessKey and SecretKey.
//
// The server is built by the go command from the module tests/tools/s3, which
// takes a minute the first time. Where it can't be built, or with -short, the
// test is skipped; with CI set it fails.
func StartS3(t *testing.T) *S3Server {
	t.Helper()
	program := versitygw(t)
	dir := t.TempDir()

	// A socket needs no free port. Its path must be short (unix(7)).
	run, err := os.MkdirTemp("", "s3")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	socket := filepath.Join(run, "s")
	var log bytes.Buffer
	cmd := exec.Command(program, "--quiet", "--port", socket, "posix", dir)
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+AccessKey, "ROOT_SECRET_KEY="+SecretKey)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("versitygw: %s", log.String())
		}
	})

	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		conn, err := dial(t.Context(), "", "")
		if err == nil {
			conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("versitygw does not listen: %v", err)
		}
	}
	return &S3Server{dir: dir, proxy: &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "s3" },
		Transport: &http.Transport{DialContext: dial, DisableCompression: true},
		// A client that went away is no news.
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}}
}

// A Bucket is a new bucket, with a proxy before it that can be made to fail.
type Bucket struct {
	URL string // for blob.Open: parts of the least size, 5 MiB
	Dir string // the objects are files below it

	proxy   http.Handler
	handler atomic.Pointer[http.Handler]
}

// NewBucket makes an empty bucket, whose proxy lives as long as the test.
func (s *S3Server) NewBucket(t *testing.T) *Bucket {
	t.Helper()
	dir, err := os.MkdirTemp(s.dir, "bucket")
	if err != nil {
		t.Fatal(err)
	}
	b := &Bucket{Dir: dir, proxy: s.proxy}
	b.Through(nil)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		(*b.handler.Load()).ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	b.URL = "s3://" + filepath.Base(dir) + "/pre/fix?part_size=5242880&endpoint=" + url.QueryEscape(server.URL)
	return b
}

// Through makes all requests from now on go to what fault returns, which may
// pass them on to next. Without a fault nothing is in their way.
func (b *Bucket) Through(fault func(next http.Handler) http.Handler) {
	handler := b.proxy
	if fault != nil {
		handler = fault(handler)
	}
	b.handler.Store(&handler)
}

// Path returns the file that holds the blob.
func (b *Bucket) Path(digest string) string {
	return filepath.Join(b.Dir, "pre", "fix", "blobs", digest[:2], digest)
}

// versitygw returns the path of the program, built if it is not yet.
func versitygw(t *testing.T) string {
	t.Helper()
	skip := t.Skipf
	if os.Getenv("CI") != "" {
		skip = t.Fatalf
	} else if testing.Short() {
		t.Skip("needs an S3 server")
	}
	gomod, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		skip("find the module: %v", err)
	}
	cmd := exec.Command("go", "tool", "-n", "versitygw")
	cmd.Dir = filepath.Join(filepath.Dir(strings.TrimSpace(string(gomod))), "tests", "tools", "s3")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		skip("build versitygw: %v\n%s", err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}
