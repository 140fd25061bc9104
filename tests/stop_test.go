package tests_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/francescobianco/packbase/tests/harness"
)

// A worker that is told to end hands its job back, at once and without
// spending an attempt. The next one does it.
func TestWorkerStopped(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	repo := up.Repo("hello")
	repo.Release("v1.0.0")
	s := harness.Start(t, "PACKBASE_JOB_ATTEMPTS=1")
	hold := newGate()
	up.Answer(hold)
	job := s.Ask(repo.URL)
	hold.await(t)

	began := time.Now()
	s.Worker.Stop()
	if took := time.Since(began); took > harness.Slack(10*time.Second) {
		t.Errorf("the worker took %v to end, want at most 10s", took)
	}
	if j := s.Job(job); j.State != "queued" || j.Attempts != 0 {
		t.Errorf("job is %s after %d attempts, want queued after none", j.State, j.Attempts)
	}
	if dirs := entries(t, filepath.Join(s.Root, "staging")); len(dirs) > 0 {
		t.Errorf("the worker left %q", dirs)
	}
	up.Answer(nil)
	hold.open()
	s.Worker.Start()
	if j := s.WaitJob(job); j.State != "succeeded" || j.Attempts != 1 {
		t.Errorf("job is %s after %d attempts, want succeeded after one", j.State, j.Attempts)
	}
}

// An api that is told to end finishes the downloads under way. Requests that
// only wait are answered with what is known: nobody is cut off, and nobody
// holds it up.
func TestAPIStopped(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	large, hello, other := up.Repo("large"), up.Repo("hello"), up.Repo("other")
	content := make([]byte, 16<<20)
	_, _ = rand.Read(content) // it never fails
	large.Tag("v1.0.0", large.Commit(harness.Files{"random": string(content)}))
	hello.Release("v1.0.0")
	s := harness.Start(t, "PACKBASE_STOP_TIMEOUT=5m")
	s.Fetch(large.URL)
	info := s.Info("large")
	r := info.Release(t, "v1.0.0")
	hold := newGate()
	defer hold.open()
	up.Answer(hold)
	job := s.Ask(hello.URL)
	hold.await(t)

	download := slowly(t, s.URL+r.URL)
	events := open(t, s.URL+"/api/jobs/"+job+"/events")
	waiting := make(chan *harness.Answer, 1)
	go func() {
		a, err := s.TryDo(http.MethodPost, "/api/fetch?wait=100", `{"url":"`+other.URL+`"}`, nil)
		if err != nil {
			t.Errorf("the waiting request was cut: %v", err)
		}
		waiting <- a
	}()
	harness.Eventually(t, "the waiting request has its job", func() bool {
		return bytes.Contains(s.Get("/api/jobs?package=other"), []byte(`"state"`))
	})

	began := time.Now()
	s.API.Signal(syscall.SIGTERM)
	if a := <-waiting; a != nil && a.Status != http.StatusAccepted {
		t.Errorf("the waiting request got %d %s, want 202", a.Status, a.Body)
	}
	if _, err := io.Copy(io.Discard, events); err != nil {
		t.Errorf("the events were cut: %v", err)
	}
	if took := time.Since(began); took > harness.Slack(10*time.Second) {
		t.Errorf("those who waited were let go after %v, want at most 10s", took)
	}
	if !s.API.Running() {
		t.Error("the api ended before the download")
	}
	body, err := io.ReadAll(download)
	if err != nil {
		t.Errorf("the download was cut: %v", err)
	}
	checkSums(t, r, body)
	if err := s.API.Wait(); err != nil {
		t.Errorf("the api ended with %v, want exit status 0", err)
	}
}

// What clients do not read or send to its end does not keep an api longer than
// PACKBASE_STOP_TIMEOUT, and a worker not longer than its jobs need to be
// handed back. Both end well.
func TestStopTimeout(t *testing.T) {
	t.Parallel()
	const timeout = 3 * time.Second
	up := harness.NewUpstream(t)
	large, hello := up.Repo("large"), up.Repo("hello")
	content := make([]byte, 32<<20)
	_, _ = rand.Read(content) // it never fails
	large.Tag("v1.0.0", large.Commit(harness.Files{"random": string(content)}))
	hello.Release("v1.0.0")
	s := harness.Start(t, "PACKBASE_STOP_TIMEOUT="+timeout.String())
	s.Fetch(large.URL)
	info := s.Info("large")
	r := info.Release(t, "v1.0.0")
	hold := newGate()
	defer hold.open()
	up.Answer(hold)
	job := s.Ask(hello.URL)
	hold.await(t)

	slowly(t, s.URL+r.URL) // and never read
	for range 20 {
		open(t, s.URL+"/api/jobs/"+job+"/events")
	}
	half, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer half.Close()
	if _, err := io.WriteString(half, "POST /large/git-upload-pack HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n0011"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for _, p := range []*harness.Process{s.API, s.Worker} {
		p.Signal(syscall.SIGTERM)
	}
	for name, p := range map[string]*harness.Process{"api": s.API, "worker": s.Worker} {
		if err := p.Wait(); err != nil {
			t.Errorf("the %s ended with %v, want exit status 0", name, err)
		}
	}
	if took := time.Since(began); took > harness.Slack(timeout) {
		t.Errorf("they took %v to end, want %v and a moment", took, timeout)
	} else {
		t.Logf("they took %v to end", took)
	}
}

// open starts a GET request and returns the body of its answer.
func open(t *testing.T, url string) io.Reader {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: status = %d, want 200", url, resp.StatusCode)
	}
	return resp.Body
}

// slowly is open on a connection that holds little, so that the server cannot
// send all before it is read.
func slowly(t *testing.T, url string) io.Reader {
	t.Helper()
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil {
			err = conn.(*net.TCPConn).SetReadBuffer(64 << 10)
		}
		return conn, err
	}
	client := http.Client{Transport: &http.Transport{DialContext: dial, DisableCompression: true}}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp.Body
}

// What was answered is in the log of an api that was told to end, also what was answered just before.
func TestLogWhenStopped(t *testing.T) {
	t.Parallel()
	const each = 100
	s := harness.Start(t)
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			for range each {
				s.Get("/api/list")
			}
		})
	}
	all.Wait()
	s.API.Stop()
	if n := strings.Count(s.API.Log(), "path=/api/list "); n != 5*each {
		t.Errorf("%d of %d requests are in the log", n, 5*each)
	}
}
