package blobtest

import (
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

	"packbase/storage/blob"
)

// An S3Server is a real S3 server, versitygw, over a folder, and a proxy before
// it that can be made to fail.
type S3Server struct {
	URL string // for blob.Open: an empty bucket, parts of the least size
	Dir string // the bucket: objects are files below it

	proxied http.Handler
	handler atomic.Pointer[http.Handler]
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
	root := t.TempDir()
	s := &S3Server{Dir: filepath.Join(root, "data", "bucket")}
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		t.Fatal(err)
	}

	// A socket needs no free port. Its path must be short (unix(7)).
	run, err := os.MkdirTemp("", "s3")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	socket := filepath.Join(run, "s")
	cmd := exec.Command(program, "--quiet", "--port", socket, "posix", filepath.Dir(s.Dir))
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+AccessKey, "ROOT_SECRET_KEY="+SecretKey)
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() && log.Len() > 0 {
			t.Logf("versitygw: %s", log.String())
		}
	})

	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		conn, err := dial(t.Context(), "", "")
		if err == nil {
			conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("versitygw does not listen: %v", err)
		}
		time.Sleep(5 * time.Millisecond)
	}

	s.proxied = &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "s3" },
		Transport: &http.Transport{DialContext: dial, DisableCompression: true},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			w.WriteHeader(http.StatusBadGateway) // a client that went away is no news
		},
	}
	s.Through(nil)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		(*s.handler.Load()).ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		proxy.CloseClientConnections()
		proxy.Close()
	})
	s.URL = "s3://bucket/pre/fix?part_size=5242880&endpoint=" + url.QueryEscape(proxy.URL)
	return s
}

// Through makes all requests from now on go through what fault returns, which
// may pass them on to next. Without a fault nothing is in their way.
func (s *S3Server) Through(fault func(next http.Handler) http.Handler) {
	handler := s.proxied
	if fault != nil {
		handler = fault(handler)
	}
	s.handler.Store(&handler)
}

// Store opens the bucket.
func (s *S3Server) Store(t *testing.T) blob.Store {
	t.Helper()
	store, err := blob.Open(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// Path returns the file that holds the blob.
func (s *S3Server) Path(digest string) string {
	return filepath.Join(s.Dir, "pre", "fix", "blobs", digest[:2], digest)
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
