//go:build clients

package clients

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/francescobianco/packbase/tests/harness"
)

// Packages of very many tags can be mirrored and cloned.
func TestManyTags(t *testing.T) {
	for _, tags := range []int{2_000, 10_000} {
		t.Run(strconv.Itoa(tags), func(t *testing.T) {
			r := harness.NewUpstream(t).Repo("many")
			r.GitInput(manyTags(tags), "fast-import", "--quiet")
			s := harness.Start(t)
			url := s.URL + "/many"
			timed(t, s, "mirror all", func() { mirror(t, s, r.URL) })
			dir := t.TempDir()
			for _, v := range versions {
				clone := filepath.Join(dir, v)
				timed(t, s, "clone with protocol "+v, func() { mustGit(t, v, "clone", "-q", url, clone) })
				if n := strings.Count(mustGit(t, v, "-C", clone, "tag"), "\n"); n != tags {
					t.Errorf("protocol %s: %d tags, want %d", v, n, tags)
				}
				checkClone(t, clone, r.Git("rev-parse", "HEAD"))
			}
			one := filepath.Join(dir, "one")
			timed(t, s, "clone one at depth 1", func() { mustGit(t, "2", "clone", "-q", "--depth=1", "--branch=v0.0.7", url, one) })
			checkClone(t, one, r.Git("rev-parse", "v0.0.7"))

			added := r.Release("v1.0.0")
			timed(t, s, "mirror one more", func() { mirror(t, s, r.URL) })
			clone := filepath.Join(dir, "2")
			timed(t, s, "fetch that", func() { mustGit(t, "2", "-C", clone, "fetch", "-q") })
			mustGit(t, "2", "-C", clone, "checkout", "-q", "v1.0.0")
			checkClone(t, clone, added)
		})
	}
}

// timed logs how long something takes, and the memory of the processes after.
func timed(t *testing.T, s *harness.Server, what string, do func()) {
	t.Helper()
	start := time.Now()
	do()
	t.Logf("%s: %v; resident: worker %d MiB, api %d MiB", what, time.Since(start).Round(time.Millisecond),
		resident(t, s.Worker)>>20, resident(t, s.API)>>20)
}

// mirror is Fetch for what takes long.
func mirror(t *testing.T, s *harness.Server, upstream string) {
	t.Helper()
	job := s.Job(s.Ask(upstream))
	for deadline := time.Now().Add(20 * time.Minute); job.Open(); job = s.Job(job.ID) {
		if time.Now().After(deadline) {
			t.Fatalf("mirroring takes more than 20 min: %+v", job.Progress)
		}
		time.Sleep(100 * time.Millisecond)
	}
	if job.State != "succeeded" {
		t.Fatalf("mirroring: %s, %+v", job.State, job.Error)
	}
}

// mustGit is git for what must not fail.
func mustGit(t *testing.T, version string, args ...string) string {
	t.Helper()
	out, err := git(t, version, args...)
	if err != nil {
		t.Fatalf("git %s: %v", args, err)
	}
	return out
}

// checkClone checks that a clone is whole and at a commit.
func checkClone(t *testing.T, dir, commit string) {
	t.Helper()
	if out, err := git(t, "0", "-C", dir, "fsck", "--strict", "--no-dangling"); out != "" || err != nil {
		t.Errorf("git fsck: %s, %v", out, err)
	}
	if head := strings.TrimSpace(mustGit(t, "0", "-C", dir, "rev-parse", "HEAD")); head != commit {
		t.Errorf("HEAD = %s, want %s", head, commit)
	}
}

// manyTags returns the commands for as many small releases, every tenth of
// them annotated, each with an untagged commit before it.
func manyTags(n int) string {
	var b strings.Builder
	commit := func(when int, files ...string) {
		fmt.Fprintf(&b, "commit refs/heads/main\ncommitter C <c@example.com> %d +0000\ndata 1\nx\n", 1_700_000_000+when)
		for _, name := range files {
			fmt.Fprintf(&b, "M 644 inline %s\ndata %d\n%d\n", name, len(strconv.Itoa(when)), when)
		}
		b.WriteString("\n")
	}
	for i := range n {
		commit(2*i, "src/between")
		commit(2*i+1, "README.md", fmt.Sprintf("src/%d", i%50))
		tag := fmt.Sprintf("v0.%d.%d", i/1000, i%1000)
		if i%10 == 0 {
			fmt.Fprintf(&b, "tag %s\nfrom refs/heads/main\ntagger C <c@example.com> %d +0000\ndata 1\nx\n", tag, 1_700_000_000+2*i)
		} else {
			fmt.Fprintf(&b, "reset refs/tags/%s\nfrom refs/heads/main\n\n", tag)
		}
	}
	return b.String()
}
