package faults

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/tests/harness"
)

// quick are settings with which packbase recovers in a second or two.
var quick = []string{"PACKBASE_LEASE=1s", "PACKBASE_RECONCILE=100ms", "PACKBASE_WORKER_CONCURRENCY=3"}

// CR-01: the worker's processes, and sometimes the api's too, are killed at
// any time while packages are mirrored and read.
func TestKill9Random(t *testing.T) {
	t.Parallel()
	rnd := random(t)
	up := harness.NewUpstream(t)
	s := harness.Start(t, quick...)
	c := newChecker(t, s)
	stop := c.read(8)
	defer stop()

	k := &killing{t: t, c: c, up: up, rnd: rnd}
	began := time.Now()
	k.round(0, false)
	k.undisturbed = time.Since(began)
	for n := 1; n <= rounds(15, 200) && !t.Failed(); n++ {
		k.round(n, true)
	}
	stop()
	for _, repo := range c.repos {
		c.tags(repo)
	}
	c.rebuilt()
	c.repaired()
}

// killing is one run of TestKill9Random.
type killing struct {
	t           *testing.T
	c           *checker
	up          *harness.Upstream
	rnd         *rand.Rand
	undisturbed time.Duration // that a round takes when nobody is killed
}

// round mirrors three packages of five tags.
func (k *killing) round(n int, kill bool) {
	repos := k.repos(fmt.Sprint(n))
	requests := k.up.Requests()
	asked := make(chan []string)
	go func() { asked <- k.ask(repos) }()
	if !kill {
		k.c.settled(settleTime, <-asked...)
		return
	}
	after := upTo(k.rnd, k.undisturbed*6/5)
	both := k.rnd.IntN(3) == 0
	<-time.After(after)
	k.c.s.Worker.SignalGroup(syscall.SIGKILL)
	if both {
		k.c.s.API.SignalGroup(syscall.SIGKILL)
		k.c.s.API.Start()
	}
	jobs := <-asked
	k.c.s.AwaitAPI()
	// What is visible is complete at any time, not only after recovery.
	k.c.complete(repos[n%len(repos)])
	k.c.s.Worker.Start()
	jobs = append(jobs, k.ask(repos)...)
	k.c.settled(settleTime, jobs...)
	k.c.clean()
	k.c.tags(repos...)
	k.c.clone(repos[n%len(repos)])
	// I6: listed and fetched once, or twice where a worker died, and listed for the second request.
	if got, most := k.up.Requests()-requests, len(repos)*5; got > most {
		k.t.Errorf("I6: round %d: upstream got %d requests, want at most %d", n, got, most)
	}
	if k.t.Failed() {
		k.t.Errorf("round %d: killed after %v of %v, api too: %v", n, after, k.undisturbed, both)
	}
}

// repos makes three packages of five tags.
func (k *killing) repos(suffix string) (repos []*harness.Repo) {
	for _, name := range []string{"a", "b", "c"} {
		repo := k.up.Repo(name + "-" + suffix)
		tagReleases(k.t, repo, 0, 5, 100_000)
		repos = append(repos, repo)
	}
	k.c.know(repos...)
	return repos
}

// ask has packages mirrored and returns the jobs that were acknowledged. An
// answer, if there is one, must be that.
func (k *killing) ask(repos []*harness.Repo) (jobs []string) {
	for _, repo := range repos {
		a, job := k.askFor(repo)
		if a != nil && job == "" {
			k.t.Errorf("ask for %s: status = %d, want 202\n%s", repo.URL, a.Status, a.Body)
		}
		if job != "" {
			jobs = append(jobs, job)
		}
	}
	return jobs
}

// askAnyhow is ask for when packbase may say that it cannot now.
func (k *killing) askAnyhow(repos []*harness.Repo) (jobs []string) {
	for _, repo := range repos {
		a, job := k.askFor(repo)
		if a != nil && job == "" && (a.Status != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "") {
			k.t.Errorf("ask for %s: status = %d, want 202, or 503 with Retry-After\n%s", repo.URL, a.Status, a.Body)
		}
		if job != "" {
			jobs = append(jobs, job)
		}
	}
	return jobs
}

// askFor returns no answer if nobody was there, or had the time to give one.
func (k *killing) askFor(repo *harness.Repo) (a *harness.Answer, job string) {
	a, err := k.c.s.TryDo(http.MethodPost, "/api/fetch", fmt.Sprintf(`{"url":%q}`, repo.URL), nil)
	if err != nil {
		return nil, ""
	}
	if a.Status == http.StatusAccepted {
		var f wire.Fetched
		a.Into(k.t, &f)
		job = f.JobID
	}
	return a, job
}

// read lets clients read what there is until stop is called. An answer that
// they get whole must be right.
func (c *checker) read(clients int) (stop func()) {
	var wg sync.WaitGroup
	end := make(chan struct{})
	for n := range clients {
		wg.Go(func() {
			tick := time.NewTicker(200 * time.Millisecond)
			defer tick.Stop()
			for rnd := rand.New(rand.NewPCG(uint64(n), 1)); ; {
				select {
				case <-end:
					return
				case <-tick.C:
					c.readOne(rnd)
				}
			}
		})
	}
	return sync.OnceFunc(func() {
		close(end)
		wg.Wait()
	})
}

// readOne reads one release of a package.
func (c *checker) readOne(rnd *rand.Rand) {
	pkg := c.anyPackage(rnd)
	if pkg == "" {
		return
	}
	answer := c.tryGet("/api/info/" + pkg)
	if answer == nil {
		return
	}
	var info harness.Info
	answer.Into(c.t, &info)
	if len(info.Tarballs) == 0 {
		return
	}
	r := info.Tarballs[rnd.IntN(len(info.Tarballs))]
	c.observeRelease(pkg, r)
	if b := c.tryGet(r.URL); b != nil {
		c.observe(sum(b.Body), "tarball", pkg, r.Tag)
		if sum(b.Body) != r.SHA256 {
			c.t.Errorf("I2: tarball of %s@%s is %s, info says %s", pkg, r.Tag, sum(b.Body), r.SHA256)
		}
	}
	c.readRefs(pkg)
}

func (c *checker) anyPackage(rnd *rand.Rand) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	skip := 0
	if len(c.repos) > 0 {
		skip = rnd.IntN(len(c.repos))
	}
	for name := range c.repos {
		if skip--; skip < 0 {
			return name
		}
	}
	return ""
}

// readRefs reads what Git clients see first, in protocol version 0.
func (c *checker) readRefs(pkg string) {
	refs := c.tryGet("/git/" + url.PathEscape(pkg) + "/info/refs?service=git-upload-pack")
	if refs == nil {
		return
	}
	for line := range strings.Lines(string(refs.Body)) {
		oid, name, ok := strings.Cut(strings.TrimSpace(line), " refs/tags/")
		if ok && len(oid) >= 40 {
			c.observe(oid[len(oid)-40:], "refs", pkg, name)
		}
	}
}

// tryGet returns an answer with status 200, or nil if there is nothing yet or
// nobody to say so.
func (c *checker) tryGet(path string) *harness.Answer {
	a, err := c.s.TryDo(http.MethodGet, path, "", nil)
	switch {
	case err != nil, a.Status == http.StatusNotFound, c.away && a.Status == http.StatusServiceUnavailable:
		return nil
	case a.Status != http.StatusOK:
		c.t.Errorf("I8: GET %s: status = %d, want 200 or 404\n%s", path, a.Status, a.Body)
		return nil
	}
	return a
}
