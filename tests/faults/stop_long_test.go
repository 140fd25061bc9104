//go:build faults

package faults

import (
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/tests/harness"
)

// With the settings that are usual, an api whose clients do not go on reading
// or sending ends 30 seconds after it was told to, and a worker whose children
// wait for upstreams, are fed slowly or stand still in no more than that.
func TestStopWithDefaults(t *testing.T) {
	t.Parallel()
	const documented = 30 * time.Second
	up := harness.NewUpstream(t)
	g := newGate(t, up)
	slow := (&campaign{up: up}).slowly(t)
	s := harness.Start(t, "PACKBASE_WORKER_CONCURRENCY=4", "PACKBASE_LEASE=15s", "PACKBASE_RECONCILE=2s")
	large := up.Repo("large")
	tagReleases(t, large, 0, 1, 20<<20)
	s.Fetch(large.URL)
	info := s.Info("large")
	tarball := s.URL + info.Release(t, "v0.0.0").URL

	arrived, open := g.hold()
	defer open()
	var ids []string
	for n := range 4 {
		repo := up.Repo(fmt.Sprintf("job-%d", n))
		tagReleases(t, repo, 0, 1, 5_000_000) // 50 s on the slow upstream
		if n%2 == 0 {
			ids = append(ids, s.Ask(g.of(repo)))
			<-arrived
		} else {
			ids = append(ids, s.Ask(slow+strings.TrimPrefix(repo.URL, up.URL)))
		}
	}
	harness.Eventually(t, "all jobs have a child", func() bool { return len(s.Worker.Children()) >= 4 })
	if err := syscall.Kill(s.Worker.Children()[0], syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		defer begin(t, tarball).body.Close() // and never read on
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
	for _, p := range []*harness.Process{s.Worker, s.API} {
		p.Signal(syscall.SIGTERM)
	}
	for _, p := range []struct {
		name string
		*harness.Process
	}{{"worker", s.Worker}, {"api", s.API}} {
		if err := p.Wait(); err != nil {
			t.Errorf("the %s ended with %v, want exit status 0", p.name, err)
		}
		took := time.Since(began)
		t.Logf("the %s took %v", p.name, took.Round(100*time.Millisecond))
		if took > documented+harness.Slack(time.Second) {
			t.Errorf("the %s took %v to end, want %v and a moment", p.name, took, documented)
		}
	}
	open()
	s.Restart()
	newChecker(t, s).settled(2*time.Minute, ids...)
	for _, id := range ids {
		if job := s.Job(id); job.State != jobs.Succeeded || job.Attempts != 1 {
			t.Errorf("job = %+v, want success at the first attempt that counts", job)
		}
	}
}
