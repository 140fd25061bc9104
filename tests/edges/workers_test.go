package edges

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/francescobianco/packbase/tests/harness"
)

// Two apis and four workers share a Postgres and a Redis. Killing any of them
// loses no job and publishes nothing twice.
func TestManyWorkers(t *testing.T) {
	t.Parallel()
	long(t)
	const packages, tags = 8, 3
	up := harness.NewUpstream(t)
	repos := make([]*harness.Repo, packages)
	for i := range repos {
		repos[i] = up.Repo(fmt.Sprintf("pkg%d", i))
		repos[i].Release("v0.1.0")
	}
	s := harness.Start(t)
	second := s.AddAPI("api-2")
	workers := []*harness.Process{s.Worker}
	for i := range 3 {
		workers = append(workers, s.AddWorker(fmt.Sprintf("worker-%d", i+2)))
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	jobs := map[string]bool{}
	for tag := range tags {
		for i, repo := range repos {
			repo.Release(fmt.Sprintf("v1.%d.0", tag))
			asked := []*harness.Server{s, second}[i%2]
			jobs[asked.Ask(repo.URL)] = true
		}
		victim := rnd.IntN(len(workers))
		time.Sleep(time.Duration(rnd.IntN(200)) * time.Millisecond)
		workers[victim].SignalGroup(9)
		if tag == 1 {
			second.API.Kill9()
			second.API.Start()
			second.AwaitAPI()
		}
		workers[victim].Start()
	}
	for id := range jobs {
		if j := s.WaitJob(id); j.State != "succeeded" {
			t.Errorf("job %s of %s = %s %+v, want succeeded", id, j.Package, j.State, j.Error)
		}
	}
	for i := range repos {
		name := fmt.Sprintf("pkg%d", i)
		s.Fetch(repos[i].URL) // what was released while its job ran
		here, there := s.Info(name), second.Info(name)
		if here.TarballCount != tags+1 || there.TarballCount != tags+1 {
			t.Errorf("%s has %d releases at one api and %d at the other, want %d", name, here.TarballCount, there.TarballCount, tags+1)
		}
	}
	same(t, served(t, s), served(t, second))
	clean(t, s)
}

// TestUpdateTimes prints how long a catalog update of packages with slow
// upstreams takes with one, two and four workers.
func TestUpdateTimes(t *testing.T) {
	long(t)
	const packages, delay = 24, 300 * time.Millisecond
	up := harness.NewUpstream(t)
	for i := range packages {
		repo := up.Repo(fmt.Sprintf("pkg%d", i))
		repo.Commit(harness.Files{"noise.bin": noise(uint64(i), 200<<10)})
		for tag := range 4 {
			repo.Release(fmt.Sprintf("v1.%d.0", tag))
		}
	}
	var table strings.Builder
	tw := tabwriter.NewWriter(&table, 0, 0, 3, ' ', 0)
	fmt.Fprintf(tw, "upstream hosts\tworkers\tjobs at once\tfirst update\twith nothing new\n")
	for _, hosts := range []int{1, packages} {
		catalog := slowCatalog(t, up, packages, hosts, delay)
		for _, workers := range []int{1, 2, 4} {
			t.Run(fmt.Sprintf("%d_hosts_%d_workers", hosts, workers), func(t *testing.T) {
				s := harness.Start(t, "PACKBASE_SOURCE=file://"+catalog, "PACKBASE_UPDATE_COOLDOWN=0s", "PACKBASE_WORKER_CONCURRENCY=2")
				for i := range workers - 1 {
					s.AddWorker(fmt.Sprintf("worker-%d", i+2), "PACKBASE_WORKER_CONCURRENCY=2")
				}
				first, second := update(t, s, packages*4), update(t, s, 0)
				fmt.Fprintf(tw, "%d\t%d\t%d\t%.1f s\t%.1f s\n", hosts, workers, 2*workers, first.Seconds(), second.Seconds())
			})
		}
	}
	tw.Flush()
	t.Logf("update of %d packages with 4 releases each, upstreams that answer after %v:\n%s", packages, delay, table.String())
}

// update runs a catalog update to its end and returns how long it took.
func update(t *testing.T, s *harness.Server, created int) time.Duration {
	t.Helper()
	began := time.Now()
	a := s.Do(http.MethodPost, "/api/update?wait=300", "", nil)
	var done struct {
		Status  string
		Created int `json:"tarballs_created"`
		Failed  int `json:"source_repo_failed"`
	}
	a.Into(t, &done)
	if done.Status != "ok" || done.Created != created || done.Failed != 0 {
		t.Errorf("update = %d %s, want ok and %d tarballs created", a.Status, a.Body, created)
	}
	return time.Since(began)
}

// slowCatalog writes a catalog of packages that lie at so many hosts, each of
// which answers late, and returns its path.
func slowCatalog(t *testing.T, up *harness.Upstream, packages, hosts int, delay time.Duration) string {
	t.Helper()
	to, err := url.Parse(up.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(to)
	late := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(delay)
		proxy.ServeHTTP(w, r)
	})
	urls := make([]string, hosts)
	for i := range urls {
		srv := httptest.NewServer(late)
		t.Cleanup(srv.Close)
		urls[i] = srv.URL
	}
	type entry struct {
		ID         string            `json:"id"`
		Title      string            `json:"title"`
		Repository map[string]string `json:"repository"`
	}
	var list struct {
		Protocol string  `json:"protocol"`
		Packages []entry `json:"packages"`
	}
	list.Protocol = "v1"
	for i := range packages {
		name := fmt.Sprintf("pkg%d", i)
		list.Packages = append(list.Packages, entry{name, name, map[string]string{"url": urls[i%hosts] + "/" + name}})
	}
	raw, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "catalog.json")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
