package tarball

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// BenchmarkBuild builds a package of twenty tags, in each of which a few files change.
func BenchmarkBuild(b *testing.B) {
	tr := tree{}
	for i := range 300 {
		tr[fmt.Sprintf("src/%d/%d.zig", i%10, i)] = leaf{File, prose(uint64(i), 100*(i+1))}
	}
	var tags [][]Entry
	for tag := range uint64(20) {
		for i := range uint64(10) {
			n := tag*37%300 + i
			tr[fmt.Sprintf("src/%d/%d.zig", n%10, n)] = leaf{File, prose(tag, 20000)}
		}
		tags = append(tags, tr.entries())
	}
	for b.Loop() {
		bld := NewBuilder(scratch(b), Form2, Limits{})
		for i, es := range tags {
			_, info := build(b, bld, Header{commitOID, when.Add(time.Duration(i) * time.Hour), ""}, es)
			b.SetBytes(info.ContentSize * int64(len(tags)))
		}
	}
}

// BenchmarkRepository builds all tags of the repository that PACKBASE_BENCH_REPO names, two at a time,
// against "git archive --format=tar.gz" for each, which uses one processor. It compares processor
// time, which says the same on a busy machine. Tags with missing objects are left out.
func BenchmarkRepository(b *testing.B) {
	dir := os.Getenv("PACKBASE_BENCH_REPO")
	if dir == "" {
		b.Skip("PACKBASE_BENCH_REPO is not set")
	}
	r := repo{dir}
	blobs := map[string]string{}
	var headers []Header
	var tags [][]Entry
	for line := range strings.Lines(string(r.git(b, "", "for-each-ref", "--format=%(refname)", "refs/tags"))) {
		commit := strings.TrimSpace(string(r.git(b, "", "rev-parse", strings.TrimSpace(line)+"^{commit}")))
		seconds, err := strconv.ParseInt(strings.TrimSpace(string(r.git(b, "", "show", "-s", "--format=%ct", commit))), 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		if es, ok := listTree(b, r, commit, blobs); ok {
			headers = append(headers, Header{commit, time.Unix(seconds, 0), ""})
			tags = append(tags, es)
		}
	}

	start, peer := processorTime(b, syscall.RUSAGE_CHILDREN), int64(0)
	for _, h := range headers {
		peer += int64(len(r.git(b, "", "archive", "--format=tar.gz", h.Commit)))
	}
	git := processorTime(b, syscall.RUSAGE_CHILDREN) - start

	var size atomic.Int64
	start = processorTime(b, syscall.RUSAGE_SELF)
	for b.Loop() {
		size.Store(0)
		bld := NewBuilder(scratch(b), Form2, Limits{})
		next := make(chan int, len(tags))
		for i := range tags {
			next <- i
		}
		close(next)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				for i := range next {
					info, err := bld.Build(b.Context(), io.Discard, headers[i], all(tags[i]))
					if err != nil {
						b.Error(err)
					}
					size.Add(info.Size)
				}
			})
		}
		wg.Wait()
	}
	ours := (processorTime(b, syscall.RUSAGE_SELF) - start) / time.Duration(b.N)
	b.ReportMetric(git.Seconds(), "git-cpu-s")
	b.ReportMetric(ours.Seconds(), "cpu-s")
	b.ReportMetric(2*git.Seconds()/ours.Seconds(), "x-git/2-cores")
	b.ReportMetric(float64(size.Load())/float64(peer), "size/git")
	b.ReportMetric(float64(len(tags)), "tags")
}

func processorTime(b *testing.B, who int) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(who, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// listTree lists a commit's tree, and adds its blobs to those known. It reports whether all are there.
func listTree(b *testing.B, r repo, commit string, blobs map[string]string) ([]Entry, bool) {
	modes := map[string]Mode{"100644": File, "100755": Executable, "120000": Symlink, "160000": Submodule, "040000": Directory}
	var es []Entry
	var want strings.Builder
	for line := range strings.SplitSeq(strings.TrimSuffix(string(r.git(b, "", "ls-tree", "-r", "-t", "-z", commit)), "\x00"), "\x00") {
		meta, path, _ := strings.Cut(line, "\t")
		f := strings.Fields(meta)
		es = append(es, Entry{Path: path, Mode: modes[f[0]], OID: f[2]})
		if _, ok := blobs[f[2]]; !ok && f[1] == "blob" {
			fmt.Fprintln(&want, f[2])
		}
	}
	for out := r.git(b, want.String(), "cat-file", "--batch"); len(out) > 0; {
		line, rest, _ := bytes.Cut(out, []byte("\n"))
		f := strings.Fields(string(line))
		if f[1] == "missing" {
			return nil, false
		}
		n, err := strconv.Atoi(f[2])
		if err != nil {
			b.Fatal(err)
		}
		blobs[f[0]] = string(rest[:n])
		out = rest[n+1:]
	}
	for i := range es {
		e := &es[i]
		content := blobs[e.OID]
		switch e.Mode {
		case Symlink:
			e.Target = content
		case File, Executable:
			e.Size = int64(len(content))
			e.Open = func() (io.Reader, error) { return strings.NewReader(content), nil }
		}
	}
	return es, true
}
