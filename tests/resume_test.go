package tests

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/tests/harness"
)

// noise returns bytes that do not compress.
func noise(seed byte, size int) string {
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return string(b)
}

// A line that is cut again and again costs a batch each time, not all that
// came before: what is published stays, and an attempt that published
// something is not the last one.
func TestCutPulls(t *testing.T) {
	t.Parallel()
	const tags, size = 12, 256 << 10
	up := harness.NewUpstream(t)
	repo := up.Repo("large")
	for i := range tags {
		repo.Tag(fmt.Sprintf("v1.%d.0", i), repo.Commit(harness.Files{"data.bin": noise(byte(i), size)}))
	}
	link := harness.NewLink(t, up.URL)
	link.Cut(4*size + size/2)
	s := harness.Start(t, "PACKBASE_JOB_ATTEMPTS=2")
	job := s.WaitJob(s.Ask(strings.Replace(repo.URL, up.URL, link.URL, 1)))
	if job.State != "succeeded" {
		t.Errorf("job %s after %d attempts: %+v", job.State, job.Attempts, job.Error)
	}
	if n := s.Info("large").TarballCount; n != tags {
		t.Errorf("%d releases, want %d", n, tags)
	}
	// All at once, and then each of the rest at most once more.
	if moved, most := link.Moved(), int64(4*tags*size); moved > most {
		t.Errorf("%d bytes were downloaded, want %d at most", moved, most)
	}
}
