package tests_test

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/tests/harness"
)

// Requests that no client library would send are answered, never as an error
// of ours, and one spelling of each path works.
func TestRawRequests(t *testing.T) {
	t.Parallel()
	repo := harness.NewUpstream(t).Repo("hello")
	repo.Release("v1.0.0")
	s := harness.Start(t)
	s.Fetch(repo.URL)
	const tarball = "/p/hello/tag/v1.0.0.tar.gz"
	tests := []struct {
		name, request string // without the last lines
		want          int
	}{
		{"plain", "GET " + tarball + " HTTP/1.1", 200},
		{"HTTP/1.0", "GET " + tarball + " HTTP/1.0", 200},
		{"whole URL", "GET " + s.URL + tarball + " HTTP/1.1", 200},
		{"query", "GET " + tarball + "?ref=v1 HTTP/1.1", 200},
		{"lower case", "get " + tarball + " HTTP/1.1", 405},
		{"empty segment", "GET /" + tarball + " HTTP/1.1", 400},
		{"dots", "GET /p/hello/tag/../tag/v1.0.0.tar.gz HTTP/1.1", 400},
		{"encoded dots", "GET /p/hello/%2e%2e/hello/tag/v1.0.0.tar.gz HTTP/1.1", 400},
		{"encoded slash", "GET /p%2Fhello/tag/v1.0.0.tar.gz HTTP/1.1", 400},
		{"encoded twice", "GET /p/hello/tag/v1%252E0.0.tar.gz HTTP/1.1", 404},
		{"overlong UTF-8", "GET /p/hello/%c0%ae%c0%ae/x HTTP/1.1", 400},
		{"backslash", `GET \p\hello\tag\v1.0.0.tar.gz HTTP/1.1`, 400},
		{"backslash in a path", `GET /p/hello\tag/v1.0.0.tar.gz HTTP/1.1`, 400},
		{"raw UTF-8", "GET /p/hello/tag/\u65e5.tar.gz HTTP/1.1", 400},
		{"raw quote", `GET /p/hello/tag/".tar.gz HTTP/1.1`, 400},
		{"parameters", "GET " + tarball + ";jsessionid=1 HTTP/1.1", 404},
		{"broken escape", "GET /p/hello/tag/%zz.tar.gz HTTP/1.1", 400},
		{"cut escape", "GET /p/hello/tag/% HTTP/1.1", 400},
		{"no slash", "GET p/hello HTTP/1.1", 400},
		{"nothing", "GET  HTTP/1.1", 400},
		{"blank in the path", "GET /p/hello /x HTTP/1.1", 400},
		{"raw bytes", "GET /p/\xff\xfe HTTP/1.1", 400},
		{"NUL", "GET /p/\x00 HTTP/1.1", 400},
		{"star", "OPTIONS * HTTP/1.1", 200},
		{"connect", "CONNECT example.com:443 HTTP/1.1", 405},
		{"long path", "GET /p/" + strings.Repeat("a", 10_000) + "/tag/x.tar.gz HTTP/1.1", 404},
		{"too long a path", "GET /" + strings.Repeat("a", 100_000) + " HTTP/1.1", 431},
		{"large headers", "GET / HTTP/1.1\r\nX: " + strings.Repeat("a", 100_000), 431},
		{"many parameters", "GET /api/list?" + strings.Repeat("a=b&", 10_000) + " HTTP/1.1", 200},
		{"two lengths", "POST /api/fetch HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2", 400},
		{"length and chunks", "POST /api/fetch HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: gzip", 501},
		{"negative length", "POST /api/fetch HTTP/1.1\r\nContent-Length: -1", 400},
		{"no such version", "GET / HTTP/9.9", 505},
		{"not HTTP", "hello", 400},
	}
	for _, tt := range tests {
		if got, err := rawRequest(s, tt.request); err != nil || got != tt.want {
			t.Errorf("%s: %.80q: status = %d, %v, want %d", tt.name, tt.request, got, err, tt.want)
		}
	}
}

// rawRequest sends the beginning of a request and returns the status.
func rawRequest(s *harness.Server, request string) (int, error) {
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return 0, err
	}
	// What is refused early is cut, so an error of this says nothing.
	_, _ = fmt.Fprintf(conn, "%s\r\nHost: packbase\r\nConnection: close\r\n\r\n", request)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// A job is followed while it runs: its events come as they happen and end
// with it.
func TestFollowJob(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	repo := up.Repo("hello")
	repo.Release("v1.0.0")
	s := harness.Start(t)
	hold := newGate()
	up.Answer(hold)
	job := s.Ask(repo.URL)
	hold.await(t)

	resp, err := http.Get(s.URL + "/api/jobs/" + job + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var states []string
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: "))
		if !ok {
			continue
		}
		var j wire.Job
		(&harness.Answer{Body: data}).Into(t, &j)
		if states = append(states, j.State); len(states) == 1 {
			up.Answer(nil)
			hold.open()
		}
	}
	if err := lines.Err(); err != nil {
		t.Errorf("events were cut: %v", err)
	}
	if len(states) < 2 || states[0] != "running" || states[len(states)-1] != "succeeded" {
		t.Errorf("states = %q, want running at first and succeeded at last", states)
	}
}

// Of many that ask at once for one name, one upstream gets it, and all who
// asked for that one are given the same job.
func TestTwoOwners(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	repos := []*harness.Repo{up.Repo("one/lib"), up.Repo("two/lib")}
	for _, repo := range repos {
		repo.Release("v1.0.0")
	}
	up.Answer(harness.Status(http.StatusServiceUnavailable)) // the job stays open
	s := harness.Start(t, "PACKBASE_JOB_BACKOFF=1m")

	const many = 40
	answers := make([]*harness.Answer, many)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() {
			var err error
			answers[i], err = s.TryDo(http.MethodPost, "/api/fetch", `{"url":"`+repos[i%2].URL+`"}`, nil)
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	owner := strings.TrimPrefix(s.Info("lib").Upstream, up.URL+"/")
	jobs := map[string]bool{}
	for i, a := range answers {
		var f wire.Fetched
		a.Into(t, &f)
		want := http.StatusConflict
		if strings.HasSuffix(repos[i%2].URL, owner) {
			want = http.StatusAccepted
			jobs[f.JobID] = true
		}
		if a.Status != want {
			t.Errorf("%s: status = %d, want %d, as the name is of %s\n%s", repos[i%2].URL, a.Status, want, owner, a.Body)
		}
	}
	if len(jobs) != 1 {
		t.Errorf("%d jobs for one package, want one", len(jobs))
	}
}
