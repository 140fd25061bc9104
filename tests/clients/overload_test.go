//go:build clients

package clients

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/francescobianco/packbase/tests/harness"
)

// When a client runs too many clones, more are refused soon, with the time to
// come back, and then come through. Refs are listed as ever, and other clients
// clone.
func TestOverload(t *testing.T) {
	const size, running, waiting = 24 << 20, 256, 20
	s := newLarge(t, size)
	before := resident(t, s.API)
	commit := s.Info("large").Release(t, "v1.0.0").Commit
	stop := make(chan struct{})
	var slow sync.WaitGroup
	var begun atomic.Int64
	for range running {
		slow.Go(func() {
			body, err := beginFetch(s.URL+"/large", commit, new(net.Dialer))
			if err != nil {
				t.Error(err)
				return
			}
			defer body.Close()
			begun.Add(1)
			<-stop
		})
	}
	release := sync.OnceFunc(func() { close(stop); slow.Wait() })
	defer release()
	harness.Eventually(t, "all slow clones run", func() bool { return begun.Load() == running || t.Failed() })

	checkRefused(t, s, commit)
	// A buffer and what the kernel and Go need for a connection; not the pack.
	grown := resident(t, s.API) - before
	t.Logf("%d slow clones of %d MiB use %d MiB of memory", running, size>>20, grown>>20)
	if most := int64(running * 512 << 10); grown > most {
		t.Errorf("%d slow clones use %d bytes of memory, want %d at most", running, grown, most)
	}

	release()
	cloneAll(t, s.URL+"/large", waiting)
}

// checkRefused checks that one more clone of large is refused, soon, and
// nothing else.
func checkRefused(t *testing.T, s *harness.Server, commit string) {
	t.Helper()
	start := time.Now()
	a := s.Do(http.MethodPost, "/large/git-upload-pack", fetchOf(commit), http.Header{
		"Content-Type": {"application/x-git-upload-pack-request"}, "Git-Protocol": {"version=2"}})
	if after, err := strconv.Atoi(a.Header.Get("Retry-After")); a.Status != http.StatusServiceUnavailable || err != nil || after < 1 || after > 60 {
		t.Errorf("one more: status = %d, Retry-After = %q, want 503 and some seconds", a.Status, a.Header.Get("Retry-After"))
	}
	if d := time.Since(start); d > harness.Slack(15*time.Second) {
		t.Errorf("the refusal took %v, want about 10 s", d)
	}
	for range 9 {
		start := time.Now()
		if _, err := git(t, "2", "ls-remote", s.URL+"/large"); err != nil || time.Since(start) > harness.Slack(5*time.Second) {
			t.Errorf("git ls-remote: %v after %v, want the refs at once", err, time.Since(start))
		}
	}
	other := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
	body, err := beginFetch(s.URL+"/large", commit, other)
	if err != nil {
		t.Fatalf("another client: %v", err)
	}
	defer body.Close()
	if n, err := io.Copy(io.Discard, body); err != nil || n == 0 {
		t.Errorf("another client: %d bytes, %v", n, err)
	}
}

// cloneAll makes clones at once, each trying again until it comes through.
func cloneAll(t *testing.T, url string, n int) {
	var clones sync.WaitGroup
	dir := t.TempDir()
	deadline := time.Now().Add(2 * time.Minute)
	for i := range n {
		clones.Go(func() {
			clone := filepath.Join(dir, strconv.Itoa(i))
			out, err := git(t, versions[i%len(versions)], "clone", "-q", url, clone)
			for err != nil && time.Now().Before(deadline) {
				out, err = git(t, versions[i%len(versions)], "clone", "-q", url, clone)
			}
			if err != nil {
				t.Errorf("clone %d still fails: %s %v", i, out, err)
			}
		})
	}
	clones.Wait()
}

// fetchOf is the body of a request for a commit.
func fetchOf(commit string) string {
	return "0011command=fetch0001" + "0032want " + commit + "\n" + "0009done\n" + "0000"
}

// beginFetch asks for a commit and returns the answer, of which it reads no
// more than the header.
func beginFetch(url, commit string, from *net.Dialer) (io.ReadCloser, error) {
	req, err := http.NewRequest(http.MethodPost, url+"/git-upload-pack", strings.NewReader(fetchOf(commit)))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-git-upload-pack-request")
	req.Header.Set("Git-Protocol", "version=2")
	resp, err := (&http.Transport{DialContext: from.DialContext, DisableKeepAlives: true, ReadBufferSize: 1 << 10}).RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("fetch: status %s", resp.Status)
	}
	return resp.Body, nil
}

// resident returns the resident memory of a process in bytes.
func resident(t testing.TB, p *harness.Process) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); f[0] == "VmRSS:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}
