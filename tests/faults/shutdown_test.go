package faults

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/tests/harness"
)

// OP-01: told to end, packbase says first that it is not ready, lets downloads
// finish, hands its jobs back without spending an attempt, and exits with 0.
func TestTermination(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	g := newGate(t, up)
	s := harness.Start(t, append(quick, "PACKBASE_DRAIN=4s", "PACKBASE_STOP_TIMEOUT=5m")...)
	large := up.Repo("large")
	tagReleases(t, large, 0, 1, 20<<20)
	s.Fetch(large.URL)
	info := s.Info("large")
	r := info.Release(t, "v0.0.0")
	for n := range rounds(2, 30) {
		var repos []*harness.Repo
		var ids []string
		arrived, open := g.hold()
		for i := range 3 {
			repo := up.Repo(fmt.Sprintf("job-%d-%d", n, i))
			tagReleases(t, repo, 0, 2, 1000)
			repos = append(repos, repo)
			ids = append(ids, s.Ask(g.of(repo)))
			<-arrived
		}
		var downloads []*download
		for range 20 {
			downloads = append(downloads, begin(t, s.URL+r.URL))
		}
		s.Worker.Signal(syscall.SIGTERM)
		s.API.Signal(syscall.SIGTERM)
		harness.Within(t, 3*time.Second, "readyz says 503", func() bool {
			a, err := s.TryDo(http.MethodGet, "/readyz", "", nil)
			return err == nil && a.Status == http.StatusServiceUnavailable
		})
		s.Get("/api/list") // served on, for those who have not heard
		for _, d := range downloads {
			if got := d.finish(t); got != r.SHA256 {
				t.Errorf("download that was under way has %s, want %s", got, r.SHA256)
			}
		}
		for _, p := range []*harness.Process{s.Worker, s.API} {
			if err := p.Wait(); err != nil {
				t.Errorf("ended with %v, want exit status 0", err)
			}
		}
		open()
		s.Restart()
		c := newChecker(t, s)
		c.settled(settleTime, ids...)
		for _, id := range ids {
			if job := s.Job(id); job.State != jobs.Succeeded || job.Attempts != 1 {
				t.Errorf("job = %+v, want success at the first attempt that counts", job)
			}
		}
		c.clean()
		c.tags(repos...)
	}
}

// A download is one that has begun.
type download struct {
	body io.ReadCloser
	head []byte
}

func begin(t *testing.T, url string) *download {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Transport{DisableKeepAlives: true, DisableCompression: true, ReadBufferSize: 4 << 10}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	d := &download{body: resp.Body, head: make([]byte, 1000)}
	if _, err := io.ReadFull(d.body, d.head); err != nil {
		t.Fatal(err)
	}
	return d
}

// finish reads the rest and returns the SHA-256 of all.
func (d *download) finish(t *testing.T) string {
	t.Helper()
	defer d.body.Close()
	sum := sha256.New()
	sum.Write(d.head)
	if _, err := io.Copy(sum, d.body); err != nil {
		t.Errorf("download was cut: %v", err)
	}
	return hex.EncodeToString(sum.Sum(nil))
}
