package tests

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/francescobianco/packbase/tests/harness"
)

// Upstreams that trickle keep no job of another one waiting, however many jobs
// they have, before a pack begins or within it.
func TestSlowUpstreams(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	// None of these is cut while the test looks.
	s := harness.Start(t, "PACKBASE_WORKER_CONCURRENCY=2", "PACKBASE_MIN_RATE=1KiB")
	var slow []string
	for host := range 2 {
		link := harness.NewLink(t, up.URL)
		link.Slow(2500)
		for i := range 6 {
			repo := up.Repo(fmt.Sprintf("slow-%d-%d", host, i))
			repo.Tag("v1.0.0", repo.Commit(harness.Files{"data.bin": noise(byte(i), 1<<20)}))
			slow = append(slow, s.Ask(strings.Replace(repo.URL, up.URL, link.URL, 1)))
		}
	}
	trickle := harness.NewUpstream(t)
	tip := trickle.Repo("trickle").Release("v1.0.0")
	trickle.Answer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
			first := tip + " refs/tags/v1.0.0\x00shallow side-band-64k\n"
			fmt.Fprintf(w, "001e# service=git-upload-pack\n0000%04x%s0000", len(first)+4, first)
			return
		}
		w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
		for _, err := io.WriteString(w, "0008NAK\n"); err == nil; _, err = io.WriteString(w, "0005\x02") {
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
				return
			case <-time.After(time.Second):
			}
		}
	}))
	slow = append(slow, s.Ask(trickle.URL+"/trickle"))
	harness.Eventually(t, "slow pulls are under way", func() bool { return s.Job(slow[0]).State == "running" && s.Job(slow[6]).State == "running" })

	for i := range 3 {
		repo := up.Repo(fmt.Sprintf("good-%d", i))
		repo.Release("v1.0.0")
		began := time.Now()
		s.Fetch(repo.URL)
		t.Logf("a good job took %v", time.Since(began))
		if took := time.Since(began); took > 40*time.Second {
			t.Errorf("a good job took %v among slow ones, want not much more than 10 s", took)
		}
	}
	open := 0
	for _, id := range slow {
		if job := s.Job(id); job.Open() {
			open++
		} else {
			t.Errorf("job of a slow upstream: %s %+v", job.State, job.Error)
		}
	}
	if open < len(slow) {
		t.Errorf("%d slow jobs go on, want %d", open, len(slow))
	}
}
