package worker_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/tree"
	"github.com/francescobianco/packbase/worker"
	"github.com/francescobianco/packbase/worker/workertest"
)

// zon is a manifest with dependencies, each a URL and a hash.
func zon(name string, deps ...[2]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, ".{ .name = .%s, .version = \"1.0.0\", .fingerprint = 0x%08x00000001, .paths = .{\"\"}, .dependencies = .{\n", name, crc32.ChecksumIEEE([]byte(name)))
	for i, d := range deps {
		hash := ""
		if d[1] != "" {
			hash = fmt.Sprintf(", .hash = %q", d[1])
		}
		fmt.Fprintf(&b, "    .d%d = .{ .url = %q%s },\n", i, d[0], hash)
	}
	return b.String() + "} }\n"
}

func capture(t *testing.T, r *workertest.Registry, id uuid.UUID) worker.CaptureResult {
	t.Helper()
	ctx := access.SeePrivate(t.Context())
	var job jobs.Job
	r.Eventually("the capture has ended", func() bool {
		var err error
		job, err = r.Jobs.ByID(ctx, id)
		r.Must(err)
		return !job.Open()
	})
	var result worker.CaptureResult
	if job.State != jobs.Succeeded {
		t.Fatalf("capture: %s %s: %s", job.State, job.ErrorCode, job.ErrorMessage)
	}
	r.Must(json.Unmarshal(job.Result, &result))
	return result
}

// A capture brings what dependencies depend on, lists holes with reasons that never hide the rest, finds by Git what a
// forge's archive does not give, asks upstream nothing for an unchanged tree, and fills holes only when told to.
func TestCapture(t *testing.T) {
	t.Parallel()
	r, up := workertest.New(t), newFileServer(t)
	r.Work(allowed(t), func(o *worker.Options) { o.Concurrency = 1 }) // a capture must not hold what its jobs need
	ctx, trees := t.Context(), tree.New(r.DB.DB)
	tarball := func(text, zon string) []byte {
		return gz(t, tarOf(t, "x/", map[string]string{"build.zig": text, "build.zig.zon": zon}))
	}
	// Hashes come from archives that are not the tree's own.
	hash := func(body []byte) string {
		_, got := fetchArchive(t, r, up.serve("/of/"+uuid.NewString(), sends("application/gzip", body)), "")
		return got.ZigHash
	}
	leaf := tarball("leaf", zon("leaf"))
	gone := "1220" + strings.Repeat("7", 64)
	middle := tarball("middle", zon("middle", [2]string{up.URL + "/leaf.tar.gz", hash(leaf)}, [2]string{up.URL + "/gone.tar.gz", gone}))
	wrong := "1220" + strings.Repeat("8", 64)
	up.serve("/wrong.tar.gz", sends("application/gzip", tarball("other", zon("other"))))
	middleHash := hash(middle)
	roots := []tree.Root{{File: "build.zig.zon", Text: zon("root",
		[2]string{up.URL + "/middle.tar.gz", middleHash}, [2]string{up.URL + "/wrong.tar.gz", wrong}, [2]string{up.URL + "/nohash.tar.gz", ""})}}

	// What is stored under its hash is not asked for, wherever it came from.
	before := up.asked.Load()
	c, err := trees.Begin(ctx, "root", roots, false)
	r.Must(err)
	got := capture(t, r, c.Job)
	if want := (worker.CaptureResult{Tree: "root", Revision: 1, Nodes: 4, Stored: 2, Holes: 2}); got != want {
		t.Errorf("captured %+v, want %+v", got, want)
	}
	if n := up.asked.Load() - before; n != 2 {
		t.Errorf("upstream was asked %d times, want for the two holes", n)
	}
	nodes, problems, err := trees.Nodes(ctx, "root", 1)
	r.Must(err)
	byHash := map[string]tree.Node{}
	for _, n := range nodes {
		byHash[n.Hash] = n
	}
	if n := byHash[gone]; n.State != tree.Hole || n.Code != "upstream_not_found" || !strings.Contains(n.Reason, up.URL+"/gone.tar.gz") || n.Depth != 2 {
		t.Errorf("what is gone: %+v", n)
	}
	if n := byHash[wrong]; n.State != tree.Hole || n.Code != "hash_mismatch" || !strings.Contains(n.Reason, wrong) {
		t.Errorf("what has another hash: %+v", n)
	}
	if len(problems) != 1 || !strings.Contains(problems[0].Reason, "hash") {
		t.Errorf("problems = %+v, want the dependency without a hash", problems)
	}
	if state, err := trees.ByName(ctx, "root"); err != nil || state.State != tree.Holes || state.Missing != 2 {
		t.Errorf("tree = %+v, %v", state, err)
	}

	before = up.asked.Load()
	again, err := trees.Begin(ctx, "root", roots, false)
	r.Must(err)
	capture(t, r, again.Job)
	if n := up.asked.Load() - before; n != 0 {
		t.Errorf("an unchanged tree asks upstream %d times", n)
	}
	// Only the hole is asked for again, in every way.
	third := zon("third")
	up.serve("/gone.tar.gz", sends("application/gzip", tarball("third", third)))
	up.serve("/wrong.tar.gz", http.NotFound)
	retried, err := trees.Retry(ctx, "root")
	r.Must(err)
	capture(t, r, retried.Job)
	if n := up.asked.Load() - before; n != 2 {
		t.Errorf("retry asks upstream %d times, want for the two holes", n)
	}

	// A new revision of the manifest is another capture, of what is new alone.
	next, err := trees.Begin(ctx, "root", []tree.Root{{File: "build.zig.zon", Text: zon("root", [2]string{up.URL + "/leaf.tar.gz", hash(leaf)})}}, false)
	r.Must(err)
	before = up.asked.Load()
	if got := capture(t, r, next.Job); got.Revision != 2 || got.Nodes != 1 || got.Holes != 0 || up.asked.Load() != before {
		t.Errorf("the next revision: %+v", got)
	}
}

// A tree whose hole tells of a private package is for those who see that.
func TestCaptureOfPrivate(t *testing.T) {
	t.Parallel()
	r, up := workertest.New(t), newFileServer(t)
	up.serve("/o/r/info/refs", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
	r.Work(allowed(t))
	rel := r.Mirror("r", "v1.0.0")[0]
	ref, err := name.ParseUpstream(up.URL + "/o/r")
	r.Must(err)
	trees, wrong := tree.New(r.DB.DB), "1220"+strings.Repeat("8", 64)
	for i, it := range []struct {
		state  string
		hidden bool
	}{{`private = false, state = 'active'`, false}, {`private = true, state = 'active'`, true}, {`private = true, state = 'frozen', state_reason = 'secret'`, true}} {
		_, err := r.Pool.Exec(t.Context(), `UPDATE packages SET upstream = $1, clone_url = $1, `+it.state+` WHERE name = 'r'`, ref.Canonical)
		r.Must(err)
		at := fmt.Sprint("app", i)
		c, err := trees.Begin(t.Context(), at, []tree.Root{{File: "build.zig.zon", Text: zon("root", [2]string{"git+" + ref.Canonical + "#" + rel.CommitOID, wrong})}}, false)
		r.Must(err)
		if got := capture(t, r, c.Job); got.Holes != 1 {
			t.Fatalf("%s: %+v, want a hole", it.state, got)
		}
		if seen, err := trees.ByName(t.Context(), at); errors.Is(err, fault.ErrNotFound) != it.hidden {
			t.Errorf("%s: a stranger is shown %+v, %v", it.state, seen, err)
		}
	}
}

// The same of files that were there for credentials alone, and are not what is pinned.
func TestCaptureOfPrivateFiles(t *testing.T) {
	t.Parallel()
	r, up := workertest.New(t), newFileServer(t)
	netrc := filepath.Join(t.TempDir(), "netrc")
	r.Must(os.WriteFile(netrc, []byte("machine 127.0.0.1 login us password s3cret\n"), 0o600))
	r.Work(allowed(t), func(o *worker.Options) { o.Egress.Netrc = netrc })
	closed := func(h http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, req *http.Request) {
			if _, _, ok := req.BasicAuth(); !ok {
				http.NotFound(w, req)
				return
			}
			h(w, req)
		}
	}
	other := sends("application/gzip", gz(t, tarOf(t, "a/", files("other"))))
	trees, wrong := tree.New(r.DB.DB), "1220"+strings.Repeat("8", 64)
	for i, it := range []struct {
		code   string
		h      http.HandlerFunc
		hidden bool
	}{
		{"hash_mismatch", other, false},
		{"hash_mismatch", closed(other), true},
		{"not_an_archive", closed(sends("text/secret", nil)), true},
		{"upstream_not_found", closed(http.NotFound), false}, // credentials are shown wherever there is nothing without
	} {
		at := fmt.Sprint("app", i)
		url := up.serve("/"+at+".tar.gz", it.h)
		c, err := trees.Begin(t.Context(), at, []tree.Root{{File: "build.zig.zon", Text: zon("root", [2]string{url, wrong})}}, false)
		r.Must(err)
		capture(t, r, c.Job)
		nodes, _, err := trees.Nodes(t.Context(), at, 1)
		if err != nil || nodes[0].Code != it.code {
			t.Fatalf("%s: %+v, %v, want a hole: %s", at, nodes, err, it.code)
		}
		if seen, err := trees.ByName(t.Context(), at); errors.Is(err, fault.ErrNotFound) != it.hidden {
			t.Errorf("%s: a stranger is shown %+v, %v", at, seen, err)
		}
	}
}

// What a package within a dependency needs is needed.
func TestCaptureNested(t *testing.T) {
	t.Parallel()
	r, up := workertest.New(t), newFileServer(t)
	r.Work(allowed(t))
	trees := tree.New(r.DB.DB)
	leaf := gz(t, tarOf(t, "x/", map[string]string{"build.zig.zon": zon("leaf")}))
	_, got := fetchArchive(t, r, up.serve("/of/leaf", sends("application/gzip", leaf)), "")
	outer := strings.Replace(zon("outer"), ".dependencies = .{", `.dependencies = .{ .inner = .{ .path = "inner" },`, 1)
	inner := zon("inner", [2]string{up.URL + "/leaf.tar.gz", got.ZigHash})
	_, whole := fetchArchive(t, r, up.serve("/outer.tar.gz", sends("application/gzip",
		gz(t, tarOf(t, "x/", map[string]string{"build.zig.zon": outer, "inner/build.zig.zon": inner})))), "")
	c, err := trees.Begin(t.Context(), "root", []tree.Root{{File: "build.zig.zon",
		Text: zon("root", [2]string{up.URL + "/outer.tar.gz", whole.ZigHash})}}, false)
	r.Must(err)
	if got := capture(t, r, c.Job); got.Nodes != 2 || got.Stored != 2 {
		t.Errorf("captured %+v, want the package and what is needed by the one within it", got)
	}
}

// The old and the new hash of the same files are two nodes, and one package.
func TestCaptureBothHashes(t *testing.T) {
	t.Parallel()
	r, up := workertest.New(t), newFileServer(t)
	r.Work(allowed(t), func(o *worker.Options) { o.Concurrency = 4 })
	trees := tree.New(r.DB.DB)
	var deps [][2]string
	for i := range 12 {
		body := gz(t, tarOf(t, "x/", map[string]string{"build.zig": fmt.Sprint(i), "build.zig.zon": zon(fmt.Sprint("n", i))}))
		// The hash is known before it is served under the URL that the manifest has.
		_, got := fetchArchive(t, r, up.serve(fmt.Sprint("/of/", i), sends("application/gzip", body)), "")
		deps = append(deps, [2]string{up.serve(fmt.Sprint("/n", i), sends("application/gzip", body)), got.LegacyHash}, [2]string{up.URL + "/mirror", got.ZigHash})
	}
	c, err := trees.Begin(t.Context(), "wide", []tree.Root{{File: "build.zig.zon", Text: zon("wide", deps...)}}, false)
	r.Must(err)
	if got := capture(t, r, c.Job); got.Nodes != 24 || got.Stored != 24 {
		t.Errorf("captured %+v, want 24 nodes of 12 packages", got)
	}
}

// The same hash by five URLs is one package: they are asked in turn, each once, until one gives it; the others are told of.
func TestCaptureFiveURLs(t *testing.T) {
	t.Parallel()
	r, other, up := workertest.New(t), workertest.New(t), newFileServer(t)
	right := sends("application/gzip", gz(t, tarOf(t, "x/", map[string]string{"build.zig.zon": zon("leaf")})))
	stop := other.Work(allowed(t))
	_, got := fetchArchive(t, other, up.serve("/of/leaf", right), "")
	stop()
	r.Work(allowed(t))
	trees := tree.New(r.DB.DB)
	var deps [][2]string
	for i := range 5 {
		deps = append(deps, [2]string{fmt.Sprint(up.URL, "/u", i), got.ZigHash})
	}
	up.serve("/u3", right)
	before := up.asked.Load()
	c, err := trees.Begin(t.Context(), "five", []tree.Root{{File: "build.zig.zon", Text: zon("five", deps...)}}, false)
	r.Must(err)
	if got := capture(t, r, c.Job); got.Nodes != 1 || got.Stored != 1 {
		t.Errorf("captured %+v, want one package", got)
	}
	nodes, _, err := trees.Nodes(t.Context(), "five", 1)
	r.Must(err)
	if n := nodes[0]; len(n.URLs) != 5 || len(n.Tried) != 3 || n.Tried[2].Code != "upstream_not_found" {
		t.Errorf("node: %+v, want five URLs, of which three were tried in vain", n)
	}
	if n := up.asked.Load() - before; n != 4 {
		t.Errorf("upstream was asked %d times, want 4", n)
	}
}

// A URL whose files have changed may be pinned to the old and to the new ones in one tree: both are had.
func TestCaptureOldAndNew(t *testing.T) {
	t.Parallel()
	r, up := workertest.New(t), newFileServer(t)
	r.Work(allowed(t))
	bodies, hashes := [2][]byte{}, [2]string{}
	for i := range bodies {
		bodies[i] = gz(t, tarOf(t, "x/", map[string]string{"build.zig": fmt.Sprint(i), "build.zig.zon": zon("x")}))
		_, of := fetchArchive(t, r, up.serve(fmt.Sprint("/of/", i), sends("application/gzip", bodies[i])), "")
		hashes[i] = of.ZigHash
	}
	other := workertest.New(t) // has none of them
	other.Work(allowed(t))
	url := up.serve("/x.tar.gz", sends("application/gzip", bodies[0]))
	pins := func(which ...int) []tree.Root {
		var deps [][2]string
		for _, i := range which {
			deps = append(deps, [2]string{url, hashes[i]})
		}
		return []tree.Root{{File: "build.zig.zon", Text: zon("app", deps...)}}
	}
	trees := tree.New(other.DB.DB)
	c, err := trees.Begin(t.Context(), "app", pins(0), false)
	other.Must(err)
	capture(t, other, c.Job)
	up.serve("/x.tar.gz", sends("application/gzip", bodies[1]))
	c, err = trees.Begin(t.Context(), "app", pins(0, 1), false)
	other.Must(err)
	if got := capture(t, other, c.Job); got.Nodes != 2 || got.Stored != 2 {
		t.Errorf("captured %+v, want both", got)
	}
	if held, err := trees.ByURL(t.Context(), url); err != nil || held.ZigHash != hashes[0] {
		t.Errorf("the URL is %s, %v, want what it answered first", held.ZigHash, err)
	}
}
