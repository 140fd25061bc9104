package worker_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/worker/workertest"
)

func TestMain(m *testing.M) { workertest.Main(m) }

// A fetch, an update and a check each notice a tarball that is lost or
// damaged, and mend it.
func TestJobsMend(t *testing.T) {
	t.Parallel()
	r := workertest.New(t)
	r.Work()
	rel := r.Mirror("hello", "v1.0.0", "v2.0.0")
	end := func(job jobs.Job, err error) {
		t.Helper()
		r.Must(err)
		r.Eventually("job ended", func() bool {
			job, err = r.Jobs.ByID(t.Context(), job.ID)
			r.Must(err)
			return !job.Open()
		})
		if job.State != jobs.Succeeded {
			t.Errorf("%s: %s %s", job.Kind, job.State, job.ErrorMessage)
		}
	}
	jobs := map[string]func(){
		"fetch": func() { end(r.Fetch("hello"), nil) },
		"check": func() {
			job, _, err := r.Jobs.RequestProbe(t.Context(), "hello")
			end(job, err)
		},
		"update": func() {
			job, _, err := r.Jobs.RequestUpdate(t.Context(), 0)
			end(job, err)
		},
	}
	harms := map[string]func([]byte) []byte{"lost": nil, "flip": workertest.Flip, "cut": func(b []byte) []byte { return b[:len(b)-1] }}
	for name, do := range jobs {
		for harm, change := range harms {
			r.Spoil(rel[0].Digest, change) // not the newest, which a probe reads
			do()
			ok := func() bool { return blob.Verify(t.Context(), r.Blobs, rel[0].Digest) == nil }
			if name == "update" {
				r.Eventually(name+" mends what is "+harm, ok)
			} else if !ok() {
				t.Errorf("%s does not mend what is %s", name, harm)
			}
			r.Eventually("it is known that all is well", func() bool { // else that would be said of what is spoilt next
				due, err := r.Scrub.Due(t.Context(), 1)
				r.Must(err)
				return len(due) == 0
			})
		}
	}
}

// A fetch of a package of which too much is lost to be mended says so, and goes on once the bytes are back.
func TestFetchOfLost(t *testing.T) {
	t.Parallel()
	r := workertest.New(t)
	r.Work()
	lost := r.Mirror("hello", "v1.0.0")[0].Digest
	segments, err := r.Segments(t.Context(), "hello")
	r.Must(err)
	raw := map[string][]byte{}
	for _, digest := range []string{lost, segments[0].Digest, segments[0].IndexDigest} {
		raw[digest], err = os.ReadFile(r.Path(digest))
		r.Must(err)
		r.Spoil(digest, nil)
	}
	r.Tag("hello", "v2.0.0", map[string]string{"a": "new"})
	if job := r.Fetch("hello"); job.ErrorCode != "storage_lost" || !strings.Contains(job.ErrorMessage, "hello") {
		t.Errorf("%s %s: %s, want storage_lost", job.State, job.ErrorCode, job.ErrorMessage)
	}
	for digest, b := range raw {
		r.Must(os.WriteFile(r.Path(digest), b, 0o444))
	}
	if job := r.Fetch("hello"); job.State != jobs.Succeeded {
		t.Errorf("with its bytes back: %s %s: %s", job.State, job.ErrorCode, job.ErrorMessage)
	}
}

// The error of a job that has ended promises no further try: of a package that no catalog lists there is none.
func TestFailurePromisesNothing(t *testing.T) {
	t.Parallel()
	r := workertest.New(t)
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }))
	closed := httptest.NewServer(nil)
	closed.Close()
	defer broken.Close()
	r.Work(workertest.Loopback)
	for url, code := range map[string]string{broken.URL: "upstream_unavailable", closed.URL: "upstream_unreachable"} {
		up, err := name.ParseUpstream(url + "/o/" + code)
		r.Must(err)
		job, _, err := r.RequestFetch(t.Context(), code, up)
		r.Must(err)
		r.Eventually("the job has ended", func() bool {
			job, err = r.Jobs.ByID(t.Context(), job.ID)
			r.Must(err)
			return !job.Open()
		})
		if job.ErrorCode != code || strings.Contains(job.ErrorMessage, "retried") {
			t.Errorf("%s: %s, want %s and no promise", job.ErrorCode, job.ErrorMessage, code)
		}
	}
}
