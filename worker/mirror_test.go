package worker_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/worker"
	"github.com/francescobianco/packbase/worker/upstream"
	"github.com/francescobianco/packbase/worker/workertest"
)

// What comes over HTTP is what the same repository gives as a fixture: all
// tags at once in one pack, later the new ones alone, and nothing if there is
// nothing new.
func TestMirrorOverHTTP(t *testing.T) {
	t.Parallel()
	r := workertest.New(t)
	allow, err := upstream.ParseAllow("127.0.0.0/8")
	r.Must(err)
	defer r.Work(func(o *worker.Options) { o.Egress = upstream.Options{Allow: allow} })()
	want := r.Mirror("hello", "v1.0.0", "v1.1.0")

	var packs atomic.Int32
	backend := &cgi.Handler{
		Path: filepath.Join(r.Pipe("", "", "--exec-path"), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + r.Fixtures, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"},
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodPost {
			packs.Add(1)
		}
		backend.ServeHTTP(w, req)
	}))
	defer srv.Close()
	up, err := name.ParseUpstream(srv.URL + "/hello.git")
	r.Must(err)
	fetch := func(pack int32) {
		t.Helper()
		job, _, err := r.RequestFetch(t.Context(), "remote", up)
		r.Must(err)
		r.Eventually("the job has ended", func() bool {
			job, err = r.Jobs.ByID(t.Context(), job.ID)
			r.Must(err)
			return !job.Open()
		})
		if job.State != jobs.Succeeded {
			t.Fatalf("fetch: %s: %s\n%s", job.ErrorCode, job.ErrorMessage, r.Log.String())
		}
		if n := packs.Load(); n != pack {
			t.Errorf("%d packs were asked for, want %d", n, pack)
		}
		got, err := r.Releases(t.Context(), "remote")
		r.Must(err)
		if len(got) != len(want) {
			t.Fatalf("%d releases, want %d", len(got), len(want))
		}
		for i := range want {
			if g, w := got[i], want[i]; g.Tag != w.Tag || g.OID() != w.OID() || g.CommitOID != w.CommitOID || g.TreeOID != w.TreeOID || g.Digest != w.Digest || g.ZigHash != w.ZigHash {
				t.Errorf("got %+v, want %+v", g, w)
			}
		}
	}
	fetch(1)
	fetch(1)
	want = r.Mirror("hello", "v2.0.0")
	fetch(2)
}

// The times in manifests are in the order in which releases are published,
// however long each is built: edges and rebuilds publish in that of the times.
func TestTimesAreInOrder(t *testing.T) {
	t.Parallel()
	r := workertest.New(t)
	defer r.Work()()
	large := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{}).Read(large)
	r.Tag("order", "v1.0.0", map[string]string{"a": string(large)})
	for i := range 6 {
		r.Tag("order", fmt.Sprintf("v1.%d.0", i+1), map[string]string{"a": "small"})
	}
	r.Fetch("order")
	var rows, times []string
	r.Must(r.Pool.QueryRow(t.Context(), `SELECT array_agg(tag ORDER BY id), array_agg(tag ORDER BY created_at, tag) FROM releases`).Scan(&rows, &times))
	if !slices.Equal(rows, times) {
		t.Errorf("published in the order %q, which their times say was %q", rows, times)
	}
}
