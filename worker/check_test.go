package worker_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/tree"
	"github.com/francescobianco/packbase/worker"
	"github.com/francescobianco/packbase/worker/workertest"
)

// Upstream is asked now and then whether it still has what a tree needs, for no more than headers; what is gone, what is
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
	up.serve("/o/r/info/refs", sends("application/x-git-upload-pack-advertisement", []byte("001e# service=git-upload-pack\n")))
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
	add(made[:67]+"4", tree.Same, "git+"+up.URL+"/o/r#0123456789012345678901234567890123456789")
	add(made[:67]+"5", tree.Gone, "git+"+up.URL+"/o/none#0123456789012345678901234567890123456789")
	c, err := trees.Begin(ctx, "app", []tree.Root{{File: "build.zig.zon", Text: zon("app")}}, false)
	r.Must(err)
	capture(t, r, c.Job) // of nothing
	r.Must(trees.Put(ctx, "app", c.Revision, tree.Whole, nodes, nil))

	r.Eventually("upstream was asked for all", func() bool {
		app, err := trees.ByName(ctx, "app")
		r.Must(err)
		return app.CheckedAt != nil && app.Lost == 3 && app.Untold == 1
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
