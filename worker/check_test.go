package worker_test

import (
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/tree"
	"github.com/francescobianco/packbase/worker"
	"github.com/francescobianco/packbase/worker/workertest"
)

// Upstream is asked now and then whether it still has what a tree needs, for no more than headers, and of
// repositories for the one commit, tag or branch; what is gone, what is
// another file, and what does not answer are told apart.
func TestCheckTree(t *testing.T) {
	t.Parallel()
	r, up := workertest.New(t), newFileServer(t)
	ctx, trees := access.SeePrivate(t.Context()), tree.New(r.DB.DB)
	body := gz(t, tarOf(t, "x/", map[string]string{"build.zig": "// x", "build.zig.zon": zon("x")}))
	r.Work(allowed(t), func(o *worker.Options) { o.CheckTrees = 2 * time.Second })
	stored := r.FetchArchive(up.serve("/same.tar.gz", sends("application/gzip", body)))
	other := r.FetchArchive(up.serve("/other.tar.gz", sends("application/gzip", gz(t, tarOf(t, "x/", map[string]string{"build.zig": "// y", "build.zig.zon": zon("x")})))))
	up.serve("/other.tar.gz", sends("application/gzip", append(body, body...)))
	up.serve("/away.tar.gz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	downloads := make(chan string, 100)
	up.serve("/get-only.tar.gz", func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		downloads <- r.Method
		w.Header().Set("Content-Type", "application/gzip")
	})
	git := func(to *httptest.Server) func(path string) string {
		return func(path string) string { return "git+" + to.URL + path }
	}
	new, old, unfiltered := git(gitServer(t, r, "version=2", "true")), git(gitServer(t, r, "", "true")), git(gitServer(t, r, "version=2", "false"))
	r.Tag("hello", "v1.0.0", map[string]string{"a": "1"})
	rel := r.Mirror("hello", "v1.0.0", "v1.1.0")
	first := strings.TrimSpace(r.Pipe(filepath.Join(r.Fixtures, "hello.git"), "", "rev-parse", "v1.0.0^{commit}"))
	orphan := strings.TrimSpace(r.Pipe(filepath.Join(r.Fixtures, "hello.git"), "", "commit-tree", "-m", "x", first+"^{tree}")) // no ref leads to it
	r.Tag("hello", "v1.1.0", map[string]string{"a": "2"})
	want := map[string]string{}
	var nodes []tree.Node
	add := func(hash, state string, urls ...string) {
		want[hash] = state
		nodes = append(nodes, tree.Node{Hash: hash, URLs: urls, Parents: []string{""}, Depth: 1, State: tree.Stored})
	}
	const made = "1220000000000000000000000000000000000000000000000000000000000000000"
	add(stored.ZigLegacyHash, tree.Same, stored.URL)
	add(other.ZigLegacyHash, tree.Moved, other.URL)
	add(made[:67]+"1", tree.Gone, up.URL+"/same.tar.gz", up.URL+"/nothing.tar.gz")
	add(made[:67]+"2", tree.Away, up.URL+"/away.tar.gz")
	add(made[:67]+"3", tree.Same, up.URL+"/get-only.tar.gz")
	const none = "#0123456789012345678901234567890123456789"
	add(made[:67]+"4", tree.Gone, "git+"+up.URL+"/o/none"+none)
	add(made[:67]+"5", tree.Same, new("/hello#"+first))
	add(made[:67]+"6", tree.Same, new("/hello?ref=v1.0.0#"+orphan))
	add(made[:67]+"7", tree.Gone, new("/hello"+none))
	add(made[:67]+"8", tree.Same, new("/hello#main"))
	add(made[:67]+"9", tree.Gone, new("/hello#v9"))
	add(made[:67]+"a", tree.Same, old("/hello#"+first))
	add(made[:67]+"b", tree.Away, old("/hello#"+orphan))
	add(made[:67]+"c", tree.Same, unfiltered("/hello#"+orphan))
	add(made[:67]+"d", tree.Gone, unfiltered("/hello"+none))
	for _, x := range rel {
		add(x.ZigLegacyHash, map[string]string{"v1.0.0": tree.Same, "v1.1.0": tree.Moved}[x.Tag], new("/hello#"+x.Tag))
	}
	c, err := trees.Begin(ctx, "app", []tree.Root{{File: "build.zig.zon", Text: zon("app")}}, false)
	r.Must(err)
	capture(t, r, c.Job) // of nothing
	r.Must(trees.Put(ctx, "app", c.Revision, tree.Whole, nodes, nil))

	r.Eventually("upstream was asked for all", func() bool {
		app, err := trees.ByName(ctx, "app")
		r.Must(err)
		return app.CheckedAt != nil && app.Lost == 7 && app.Untold == 2
	})
	got, _, err := trees.Nodes(ctx, "app", c.Revision)
	r.Must(err)
	for _, n := range got {
		if n.UpstreamState != want[n.Hash] || n.UpstreamAt == nil {
			t.Errorf("%v: %q, want %q", n.URLs, n.UpstreamState, want[n.Hash])
		}
	}
	if n, err := trees.LostTrees(ctx); err != nil || n != 1 {
		t.Errorf("lost trees = %d, %v; want 1", n, err)
	}
	all, err := r.Jobs.List(ctx, jobs.Filter{Limit: 100})
	r.Must(err)
	for _, j := range all {
		if j.Kind == jobs.CheckTree && j.State == jobs.Failed {
			t.Errorf("the check failed: %s %s", j.ErrorCode, j.ErrorMessage)
		}
	}
	if public, err := r.Jobs.List(t.Context(), jobs.Filter{Limit: 100}); err != nil || len(public) == len(all) {
		t.Errorf("a stranger sees all %d jobs, checks of trees too (%v)", len(public), err)
	}
}

// gitServer serves the repositories of fixtures by one version of Git's protocol, with filters or without.
func gitServer(t *testing.T, r *workertest.Registry, protocol, filter string) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(&cgi.Handler{
		Path: filepath.Join(r.Pipe("", "", "--exec-path"), "git-http-backend"),
		Env: []string{"GIT_PROJECT_ROOT=" + r.Fixtures, "GIT_HTTP_EXPORT_ALL=1", "GIT_PROTOCOL=" + protocol, "HTTP_GIT_PROTOCOL=" + protocol,
			"GIT_CONFIG_COUNT=2", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*", "GIT_CONFIG_KEY_1=uploadpack.allowFilter", "GIT_CONFIG_VALUE_1=" + filter},
	})
	t.Cleanup(srv.Close)
	return srv
}
