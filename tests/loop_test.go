package tests_test

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/francescobianco/packbase/tests/harness"
)

// Asked as a proxy for itself, packbase answers with its own pages, and never asks itself; a prefix URL of it, however often
// nested, leads nowhere. A host that is down is said to be so, once for all who ask, and keeps nobody else waiting.
func TestProxyOfItselfAndOfTheDead(t *testing.T) {
	t.Parallel()
	dead := fmt.Sprintf("127.0.0.1:%d", harness.FreePort(t))
	s := harness.Start(t, "PACKBASE_PULL="+dead, "PACKBASE_JOB_ATTEMPTS=2")
	up := harness.NewUpstream(t)
	repo := up.Repo("lib")
	repo.Tag("v1.0.0", repo.Commit(harness.Files{"a.zig": "a"}))
	s.Fetch(repo.URL)
	self, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	through := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(self)}, Timeout: harness.Slack(30 * time.Second)}
	get := func(target string) (status int, reason string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("User-Agent", "zig/0.15.2 (std.http)")
		resp, err := through.Do(req)
		if err != nil {
			t.Fatalf("%s: %v", target, err)
		}
		resp.Body.Close()
		return resp.StatusCode, resp.Header.Get("X-Packbase-Reason")
	}
	// Go's client asks no proxy for loopback: a name of the server that is none of those.
	_, port, _ := net.SplitHostPort(self.Host)
	for _, host := range []string{self.Host, "localhost:" + port} {
		conn, err := net.Dial("tcp", self.Host)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET http://%s/p/lib/tag/v1.0.0.tar.gz HTTP/1.1\r\nHost: %s\r\nUser-Agent: zig/0.15.2 (std.http)\r\nConnection: close\r\n\r\n", host, host)
		answer := make([]byte, 15)
		_, err = conn.Read(answer)
		conn.Close()
		if err != nil || string(answer) != "HTTP/1.1 200 OK" {
			t.Errorf("%s as a proxy for itself: %q, %v", host, answer, err)
		}
	}
	nested := s.URL + strings.Repeat("/u/http/"+self.Host, 20) + "/x.tar.gz"
	if status, reason := get(nested); status != http.StatusOK || !strings.Contains(reason, "leads back to this packbase") {
		t.Errorf("itself below itself: %d, %q", status, reason)
	}
	began := time.Now()
	for range 2 {
		status, reason := get(s.URL + "/u/http/" + dead + "/x.tar.gz")
		if status != http.StatusOK || !strings.Contains(reason, "could not be fetched") || !strings.Contains(reason, "upstream_un") {
			t.Errorf("a host that is down: %d, %q", status, reason)
		}
		s.Get("/p/lib/tag/v1.0.0.tar.gz")
	}
	t.Logf("a host that is down was told of in %v", time.Since(began).Round(time.Millisecond))
	var jobs struct{ Jobs []struct{ Kind string } }
	s.Do("GET", "/api/jobs?limit=100", "", nil).Into(t, &jobs)
	fetches := 0
	for _, j := range jobs.Jobs {
		if j.Kind == "archive:fetch" {
			fetches++
		}
	}
	if fetches != 1 {
		t.Errorf("%d downloads were begun, want one", fetches)
	}
}
