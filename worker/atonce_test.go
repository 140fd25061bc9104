package worker_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/tree"
	"github.com/francescobianco/packbase/worker"
	"github.com/francescobianco/packbase/worker/workertest"
)

// Jobs that begin at once all find room, as none has stored anything. What they
// publish together is within the quota all the same.
func TestQuotaOfJobsAtOnce(t *testing.T) {
	t.Parallel()
	const jobsAtOnce, quota = 3, 3_000
	r, up := workertest.New(t), newFileServer(t)
	r.Work(allowed(t), func(o *worker.Options) { o.Concurrency, o.Quota.Total = jobsAtOnce, quota })
	var begun sync.WaitGroup // each has looked at its room before it downloads
	begun.Add(jobsAtOnce)
	trees, ctx := tree.New(r.DB.DB), access.SeePrivate(t.Context())
	var ids []uuid.UUID
	for i := range jobsAtOnce {
		content := files(fmt.Sprint(i))
		content["noise"] = noise(byte(i), 1_000)
		body := gz(t, tarOf(t, "", content))
		url := up.serve(fmt.Sprintf("/%d.tar.gz", i), func(w http.ResponseWriter, r *http.Request) {
			begun.Done()
			begun.Wait()
			sends("application/gzip", body)(w, r)
		})
		id, _, err := trees.RequestArchive(ctx, url, "")
		r.Must(err)
		ids = append(ids, id)
	}
	var codes []string
	for _, id := range ids {
		r.Eventually("the job has ended", func() bool {
			job, err := r.Jobs.ByID(ctx, id)
			r.Must(err)
			if job.State == jobs.Failed {
				codes = append(codes, job.ErrorCode)
			}
			return !job.Open()
		})
	}
	stored, err := r.Scrub.Bytes(ctx)
	r.Must(err)
	if stored > quota || len(codes) == 0 || len(codes) == jobsAtOnce || slices.ContainsFunc(codes, func(c string) bool { return c != "quota_bytes" }) {
		t.Errorf("%d bytes are stored, and jobs failed with %q; want at most %d, and a quota_bytes for what is too much", stored, codes, quota)
	}
}

// noise returns n bytes that no compressor makes smaller.
func noise(seed byte, n int) string {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return string(b)
}

// Many tags of one large file are as few bytes in a local folder as upstream.
func TestFixtureRatio(t *testing.T) {
	t.Parallel()
	r := workertest.New(t)
	r.Work(func(o *worker.Options) { o.Quota.Ratio = 1 })
	for i := range 20 {
		r.Tag("many", fmt.Sprintf("v1.%d.0", i), map[string]string{"noise": noise(7, 1<<20)})
	}
	job := r.Fetch("many")
	releases, err := r.Releases(t.Context(), "many")
	r.Must(err)
	if job.ErrorCode != "quota_ratio" || len(releases) < 14 || len(releases) > 17 {
		t.Errorf("%q %s: %d releases; want about 16 and a quota_ratio", job.ErrorCode, job.ErrorMessage, len(releases))
	}
}
