package edges

import (
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage/storagetest"
	"github.com/francescobianco/packbase/tests/harness"
)

// clean fails unless fsck and verify find nothing on the server's data.
func clean(t testing.TB, s *harness.Server) {
	t.Helper()
	for _, command := range []string{"fsck", "verify"} {
		if out, stderr, err := harness.Run(t, s.Env, command); err != nil {
			t.Errorf("%v\n%s%s", err, out, stderr)
		}
	}
}

// slowly returns the URL of a proxy to base that takes its time for blobs.
func slowly(t testing.TB, base string, each time.Duration) string {
	t.Helper()
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(u)
	proxy.ErrorLog = log.New(io.Discard, "", 0) // edges are killed while they wait for it
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/api/blobs/") {
			select {
			case <-r.Context().Done():
			case <-time.After(each):
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// ED-01. An edge that is killed while it copies shows whole releases only, the
// same as its central, never fewer than before, and goes on where it was.
func TestKilledEdge(t *testing.T) {
	t.Parallel()
	const packages, tags = 5, 4
	up := harness.NewUpstream(t)
	central := harness.Start(t)
	repos := make([]*harness.Repo, packages)
	for i := range repos {
		repos[i] = up.Repo(fmt.Sprintf("pkg%d", i))
		for tag := range tags {
			repos[i].Annotate(fmt.Sprintf("v1.%d.0", tag), repos[i].Release(fmt.Sprint("v1.", tag, ".0")))
		}
		central.Fetch(repos[i].URL)
	}
	edge := harness.StartEdge(t, slowly(t, central.URL, 10*time.Millisecond))
	before := map[string]string{}
	for round := range rounds {
		repo := repos[round%packages]
		repo.Release(fmt.Sprintf("v2.%d.0", round))
		central.Fetch(repo.URL)
		time.Sleep(rand.N(300 * time.Millisecond))
		edge.Worker.Kill9()
		all, now := served(t, central), served(t, edge)
		within(t, now, all)
		within(t, before, now)
		before = now
		edge.Worker.Start()
	}
	inStep(t, edge, central)
	all := served(t, central)
	same(t, served(t, edge), all)
	for i := range repos {
		name := fmt.Sprintf("pkg%d", i)
		got, err := clone(t, edge.URL, name)
		want, err2 := clone(t, central.URL, name)
		if err != nil || err2 != nil || got != want {
			t.Errorf("%s: the edge's clone has (%v) %s, the central's (%v) %s", name, err, got, err2, want)
		}
	}
	edge.Stop()
	clean(t, edge)
}

// An edge of an edge, and what is said of health there.
func TestEdgeOfEdge(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	hello := up.Repo("hello")
	hello.Release("v1.0.0")
	central := harness.Start(t)
	central.Fetch(hello.URL)
	first := harness.StartEdge(t, central.URL)
	second := harness.StartEdge(t, first.URL)
	hello.Annotate("v1<&>", hello.Release("v1.1.0"))
	central.Fetch(hello.URL)
	branch := hello.Commit(harness.Files{"b.zig": "b"})
	central.Fetch(hello.URL + "#" + branch)

	// Trees with one thing at the root are wrapped in a folder with the tag in
	// its name, so two tags of a commit have two tarballs. The commit's path
	// must keep to the first.
	folder := up.Repo("folder")
	commit := folder.Commit(harness.Files{"src/a.zig": "a"})
	folder.Tag("v2", commit)
	central.Fetch(folder.URL)
	path := "/p/folder/commit/" + commit + ".tar.gz"
	tarball := sha(central.Get(path))
	folder.Tag("v1", commit)
	central.Fetch(folder.URL)
	central.API.Restart()
	central.AwaitAPI()
	inStep(t, second, central)
	for _, s := range []*harness.Server{central, first, second} {
		if got := sha(s.Get(path)); got != tarball {
			t.Errorf("%s%s has the digest %s, had %s", s.URL, path, got, tarball)
		}
	}
	want := served(t, central)
	if len(want) < 6 {
		t.Fatalf("the central serves %d things, want two releases and a snapshot", len(want))
	}
	same(t, served(t, first), want)
	same(t, served(t, second), want)

	var here, there struct {
		Healthy    bool
		Commit     string `json:"fetch_probe_commit"`
		Error      string `json:"fetch_probe_error"`
		Smart      bool   `json:"smart_http_ready"`
		PseudoGit  bool   `json:"pseudo_git_fetchable"`
		LatestTag  string `json:"latest_tag"`
		LatestSize int64  `json:"latest_size_bytes"`
		SizeBytes  int64  `json:"size_bytes"`
	}
	harness.Eventually(t, "the edge has probed", func() bool {
		decode(t, second.Get("/api/info/hello"), &here)
		return here.Healthy
	})
	decode(t, central.Get("/api/info/hello"), &there)
	if here != there {
		t.Errorf("info on the edge = %+v, on the central %+v", here, there)
	}
}

// ED-05. With the central gone, an edge serves all that it has, also when it is
// started again; with its own Postgres gone, too, what one needs to build.
func TestCentralGone(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	hello, other := up.Repo("hello"), up.Repo("other")
	hello.Release("v1.0.0")
	hello.Annotate("v2.0.0", hello.Release("v2.0.0"))
	other.Release("v1.0.0")
	central := harness.Start(t)
	central.Fetch(hello.URL)
	central.Fetch(other.URL)
	postgres, databaseURL := throughPostgres(t, storagetest.NewURL(t))
	edge := harness.StartEdge(t, central.URL, "PACKBASE_DATABASE_URL="+databaseURL)
	inStep(t, edge, central)
	want := served(t, edge)
	refs, err := clone(t, edge.URL, "hello")
	if err != nil {
		t.Fatal(err)
	}
	central.Kill9()

	cloneAgain := func(state string) {
		t.Helper()
		for _, pkg := range []string{"hello", "hello", "git/other"} {
			began := time.Now()
			if got, err := clone(t, edge.URL, pkg); err != nil || pkg == "hello" && got != refs {
				t.Errorf("%s: clone of %s = %q, %v, want %q", state, pkg, got, err, refs)
			}
			if took := time.Since(began); took > harness.Slack(15*time.Second) {
				t.Errorf("%s: the clone of %s took %v", state, pkg, took)
			}
		}
	}
	edge.Restart()
	same(t, served(t, edge), want)
	cloneAgain("central gone")

	// All of it is in memory before anybody asks, so nothing was seen here yet.
	edge.API.Restart()
	edge.AwaitAPI()
	harness.Eventually(t, "the edge keeps what it serves in memory", func() bool { return edge.API.Said("packages kept in memory") })
	for _, state := range []string{"down", "frozen"} {
		postgres.set(t, state)
		for path, digest := range want {
			if strings.HasPrefix(path, "/") {
				if got := sha(edge.Get(path)); got != digest {
					t.Errorf("%s: GET %s = %s, want %s", state, path, got, digest)
				}
			}
		}
		cloneAgain("Postgres " + state)
		for _, path := range []string{"/healthz", "/api/list", "/api/search?q=hello"} {
			edge.Get(path)
		}
		if a := edge.Do(http.MethodGet, "/readyz", "", nil); a.Status != http.StatusServiceUnavailable {
			t.Errorf("Postgres %s: /readyz = %d, want 503", state, a.Status)
		}
		if a := edge.Do(http.MethodGet, "/p/hello/tag/v9.tar.gz", "", nil); a.Status != http.StatusServiceUnavailable {
			t.Errorf("Postgres %s: a tarball that nobody knows = %d, want 503", state, a.Status)
		}
	}
	postgres.set(t, "up")
	harness.Eventually(t, "the status is told again", func() bool {
		return edge.Do(http.MethodGet, "/api/status", "", nil).Status == http.StatusOK
	})
	central.Restart()
	hello.Release("v3.0.0")
	central.Fetch(hello.URL)
	inStep(t, edge, central)
	same(t, served(t, edge), served(t, central))
}

// Real zig builds from an edge whose central is away.
func TestZigFromEdge(t *testing.T) {
	t.Parallel()
	zigs := harness.Zigs(t)
	up := harness.NewUpstream(t)
	central := harness.Start(t)
	for _, z := range zigs {
		name := "pkg" + strings.ReplaceAll(z.Version, ".", "")
		repo := up.Repo(name)
		repo.Tag("v1.0.0", repo.Commit(z.Package(name, "1.0.0", "from an edge")))
		central.Fetch(repo.URL)
	}
	edge := harness.StartEdge(t, central.URL)
	inStep(t, edge, central)
	central.Stop()
	for _, z := range zigs {
		t.Run(z.Version, func(t *testing.T) {
			t.Parallel()
			z := z.For(t)
			name := "pkg" + strings.ReplaceAll(z.Version, ".", "")
			info := edge.Info(name)
			release := info.Release(t, "v1.0.0")
			for _, u := range []string{"git+" + edge.URL + "/" + name + "#v1.0.0", edge.URL + release.URL, edge.URL + "/z/" + z.Hash(release) + ".tar.gz"} {
				z.Forget(t.TempDir())
				if got, err := z.Fetch(u); err != nil || got != z.Hash(release) {
					t.Errorf("zig fetch %s = %q, %v, want %s", u, got, err, z.Hash(release))
				}
			}
			project := z.Project("app", name)
			if out, err := z.Run(project, "fetch", "--save="+name, edge.URL+release.URL); err != nil {
				t.Fatal(out, err)
			}
			if out, err := z.Run(project, "build"); err != nil {
				t.Fatal(out, err)
			}
			if got, err := os.ReadFile(project + "/zig-out/root.zig"); err != nil || !strings.Contains(string(got), "from an edge") {
				t.Errorf("built %q, %v", got, err)
			}
		})
	}
}

// A read-only api on a Postgres that cannot be written to, as a replica of the
// central's, and on the central's blobs.
func TestReadOnlyAPI(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	hello := up.Repo("hello")
	hello.Release("v1.0.0")
	central := harness.Start(t)
	central.Fetch(hello.URL)
	edge := central.AddAPI("edge-api", "PACKBASE_READ_ONLY=true", "PACKBASE_TOKEN=", "PACKBASE_REDIS_URL=",
		"PACKBASE_DATABASE_URL="+central.DatabaseURL+"&default_transaction_read_only=on")
	same(t, served(t, edge), served(t, central))
	if _, err := clone(t, edge.URL, "hello"); err != nil {
		t.Error(err)
	}
	for _, path := range []string{"/", "/hello", "/api/status", "/api/jobs", "/api/check/hello", "/api/changes"} {
		edge.Get(path)
	}
	if a := edge.Do(http.MethodPost, "/api/fetch", `{"url":"`+hello.URL+`"}`, nil); a.Code() != "read_only" {
		t.Errorf("fetch at a read-only api = %d %s, want read_only", a.Status, a.Body)
	}
}

// ED-07. Whatever would write is refused on an edge, with where to go.
func TestEdgeRefusesWrites(t *testing.T) {
	t.Parallel()
	central := harness.Start(t)
	edge := harness.StartEdge(t, central.URL)
	edge.Token = central.Token // even with it
	for _, target := range []string{
		"/api/fetch", "/api/fetch?wait=5", "/api/update", "/api/update?wait=5", "/api/check", "/api/review/hello",
		"/api/jobs/0198c0de-0000-7000-8000-000000000000/retry", "/api/jobs/0198c0de-0000-7000-8000-000000000000/cancel",
	} {
		a := edge.Do(http.MethodPost, target, `{"url":"https://example.org/a/b"}`, nil)
		if a.Status != http.StatusForbidden || a.Code() != "read_only" || !strings.Contains(string(a.Body), central.URL) {
			t.Errorf("POST %s = %d %s, want 403 read_only that names %s", target, a.Status, a.Body, central.URL)
		}
	}
	if a := edge.Do(http.MethodPost, "/hello/git-receive-pack", "0000", nil); a.Status != http.StatusForbidden {
		t.Errorf("push = %d, want 403", a.Status)
	}
	for _, method := range []string{http.MethodPut, http.MethodDelete, http.MethodPatch} {
		if a := edge.Do(method, "/p/hello/tag/v1.tar.gz", "x", nil); a.Status != http.StatusMethodNotAllowed {
			t.Errorf("%s of a tarball = %d, want 405", method, a.Status)
		}
	}
	for _, path := range []string{"/", "/api/list", "/api/jobs", "/api/status", "/healthz", "/readyz"} {
		edge.Get(path)
	}
	for _, env := range edge.Env {
		if name, value, _ := strings.Cut(env, "="); value != "" && (name == "PACKBASE_REDIS_URL" || strings.Contains(value, central.Token)) {
			t.Errorf("the edge has %s", name)
		}
	}
}
