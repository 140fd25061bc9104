package faults

import (
	"fmt"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/tests/harness"
)

// Kilobytes of upstream of which there are megabytes to tell, under many tags
// and in two packages at once, take the worker no more memory than one tag.
func TestHeavyReleases(t *testing.T) {
	t.Parallel()
	const most = 400 << 20 // bytes
	s := harness.Start(t)
	up := harness.NewUpstream(t)
	var tree, zon strings.Builder
	dir := strings.Repeat("d", 100)
	fmt.Fprintf(&tree, "commit refs/heads/main\ncommitter C <c@example.com> 1700000000 +0000\ndata 1\nm\nM 100644 inline .gitmodules\ndata 0\n")
	for i := range 30_000 {
		fmt.Fprintf(&tree, "M 160000 %040x %s/%s/s%05d\n", 1, dir, dir, i)
	}
	zon.WriteString(`.{.name="zon",.version="1.0.0",.paths=.{""},.dependencies=.{` + "\n")
	for i := range 85_000 {
		fmt.Fprintf(&zon, ".a%05d=.{.url=\"https://example.org/%05d.tgz\",.hash=\"1220%064x\"},\n", i, i, i)
	}
	zon.WriteString("}}\n")
	var jobs []string
	for i := range 2 {
		subs, large := up.Repo(fmt.Sprint("subs-", i)), up.Repo(fmt.Sprint("zon-", i))
		subs.GitInput(tree.String(), "-c", "fastimport.unpackLimit=1", "fast-import", "--quiet")
		large.Commit(harness.Files{"build.zig.zon": zon.String()})
		for n := range 8 {
			subs.Tag(fmt.Sprintf("v1.%d.0", n), subs.Git("rev-parse", "main"))
			large.Tag(fmt.Sprintf("v1.%d.0", n), large.Git("rev-parse", "main"))
		}
		jobs = append(jobs, s.Ask(subs.URL), s.Ask(large.URL))
	}
	for _, id := range jobs {
		s.WaitJob(id)
	}
	if n := s.Info("subs-0").TarballCount; n == 0 {
		t.Error("subs-0 has no release, want some")
	}
	if n := s.Info("zon-1").TarballCount; n != 8 {
		t.Errorf("zon-1 has %d releases, want 8", n)
	}
	peak := peakMemory(s.Worker.PID())
	t.Logf("the worker took up to %d MiB", peak>>20)
	if peak == 0 || peak > most && !harness.RaceEnabled {
		t.Errorf("the worker took %d MiB, want at most %d", peak>>20, most>>20)
	}
}
