package worker_test

import (
	"testing"

	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/jobs"
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
