package bench

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/tests/harness"
)

// BenchmarkMirror compares mirroring all tags of a repository, from request to
// last release visible, with what one would do by hand: git clone --bare, and
// for each tag git archive and sha256sum. A repository of one's own:
// PACKBASE_BENCH_REPO=/path/to/repo.git.
func BenchmarkMirror(b *testing.B) {
	up := harness.NewUpstream(b)
	if own := os.Getenv("PACKBASE_BENCH_REPO"); own != "" {
		repo := up.Repo("own")
		repo.Git("fetch", "-q", own, "refs/tags/*:refs/tags/*")
		mirror(b, repo, 5, 15)
		return
	}
	some, many := up.Repo("some"), up.Repo("many")
	history(some, "v0.%d.0", 80, 150, 6)
	mirror(b, some, 3, 15)
	history(many, "v0.%d.0", 500, 60, 3) // of 300 KB
	mirror(b, many, 1, 20)
}

func mirror(b *testing.B, repo *harness.Repo, rounds int, goal float64) {
	b.Helper()
	tags := strings.Fields(repo.Git("tag"))
	fetch := func(s *harness.Server) (seconds float64) {
		start := time.Now()
		got := s.Fetch(repo.URL)
		if got.Created != len(tags) {
			b.Errorf("%d of %d tags were mirrored", got.Created, len(tags))
		}
		return time.Since(start).Seconds()
	}
	var took, busy, worker, children []float64
	times, detail := pairs(rounds, func() float64 { return byHand(b, repo.URL, tags) }, func() float64 {
		s := harness.Start(b, "PACKBASE_LOG=text,info")
		defer s.Stop()
		machine, process, reaped := spent(b, s.Worker.PID())
		seconds := fetch(s)
		machine2, process2, reaped2 := spent(b, s.Worker.PID())
		took, busy = append(took, seconds), append(busy, machine2-machine)
		worker, children = append(worker, process2-process), append(children, reaped2-reaped)
		return seconds
	})
	what := fmt.Sprintf("mirror %d tags", len(tags))
	all := median(slices.Clone(took)) * float64(runtime.NumCPU())
	result(what+" against git clone, archive and sha256sum", atLeast(goal, "×"), times,
		"s: %s; of %.1f processor seconds the machine is at work for %.1f, the worker for %.1f, its children for %.1f",
		detail, all, median(busy), median(worker), median(children))

	// The memory is watched in a run of its own: that takes a good part of a processor.
	s := harness.Start(b, "PACKBASE_LOG=text,info")
	most := watchMemory(s.Worker)
	fetch(s)
	inChild, inWorker := most()
	ratio, stored := disk(b, s)
	s.Stop()
	hashing, making := bounds(b, repo)
	sending := sent(b, repo.URL)
	result(what+" against the bound that hashing sets", atLeast(0.75, "×"), hashing/median(took),
		"%.2f s; to have the packs sent takes %.2f s, to make the same tarballs and segment, and nothing else, %.2f s: at most %.1f × git",
		hashing, sending, making, times*median(took)/(sending+making))
	result(what+": memory of the largest child", atMost(256, "MB"), float64(inChild)/1_000_000, "worker %d MB", inWorker/1_000_000)
	result(what+": disk of segments against tarballs", atMost(0.25, "×"), ratio, "%s", stored)
}

// spent returns the processor seconds that the machine has been at work, and one of its processes with those of its children that have ended.
func spent(b *testing.B, pid int) (machine, process, children float64) {
	b.Helper()
	const second = 100 // clock ticks, proc(5)
	fields := func(name, after string) (ticks []float64) {
		text, err := os.ReadFile(name)
		if err != nil {
			b.Fatal(err)
		}
		line, _, _ := strings.Cut(string(text[strings.LastIndex(string(text), after)+1:]), "\n")
		for _, field := range strings.Fields(line)[1:] {
			n, _ := strconv.ParseFloat(field, 64) // words are none
			ticks = append(ticks, n/second)
		}
		return ticks
	}
	cpu := fields("/proc/stat", "cpu ")
	own := fields(fmt.Sprintf("/proc/%d/stat", pid), ")")
	return cpu[0] + cpu[1] + cpu[2] + cpu[5] + cpu[6], own[10] + own[11], own[12] + own[13]
}

// bounds returns the seconds, on all processors, that no mirror can do without: SHA-256 of what the tarballs of a repository are, packed and
// not, and inflating and SHA-1 of its objects; and those that it takes to make these tarballs and a segment, as a worker does, in files.
func bounds(b *testing.B, repo *harness.Repo) (hashing, making float64) {
	b.Helper()
	dir := b.TempDir()
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	create := func(name string) *os.File {
		file, err := os.Create(filepath.Join(dir, name))
		must(err)
		b.Cleanup(func() { file.Close() })
		return file
	}
	root, err := os.OpenRoot(repo.Dir)
	must(err)
	defer root.Close()
	lim := gitpack.DefaultLimits()
	began := time.Now()
	read, err := gitpack.ReadRepository(b.Context(), root, create("objects"), lim)
	must(err)
	hashing = time.Since(began).Seconds()

	began = time.Now()
	var roots []*release.Root
	for name, id := range read.Refs {
		if tag, ok := strings.CutPrefix(name, "refs/tags/"); ok {
			r, err := release.Check(b.Context(), read.Objects, tag, id, lim)
			must(err)
			roots = append(roots, &r)
		}
	}
	fresh, err := release.NewSegments(nil).Fresh(b.Context(), read.Objects, roots, lim)
	must(err)
	_, err = gitpack.WriteSegment(b.Context(), create("segment"), read.Objects, fresh)
	must(err)
	builder := release.NewBuilder(create("chunks"), 1<<30, lim)
	var bytes atomic.Int64
	g, ctx := errgroup.WithContext(b.Context())
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, r := range roots {
		file := create(fmt.Sprint(i))
		g.Go(func() error {
			man, err := builder.Build(ctx, file, read.Objects, r, release.Manifest{Package: "bench"})
			if err == nil {
				bytes.Add(man.Tarball.Size + man.Tarball.ContentSize)
			}
			return err
		})
	}
	must(g.Wait())
	making = time.Since(began).Seconds()

	began = time.Now()
	sum, buf := sha256.New(), make([]byte, 1<<20)
	for left := bytes.Load(); left > 0; left -= int64(len(buf)) {
		sum.Write(buf)
	}
	hashing += time.Since(began).Seconds()
	return hashing / float64(runtime.GOMAXPROCS(0)), making
}

// BenchmarkMirrorLarge tells what memory the mirroring of a large repository takes: 20 MB in each tag, a quarter of it new.
func BenchmarkMirrorLarge(b *testing.B) {
	for _, tags := range []int{3, 9} { // the same of both is flat
		up := harness.NewUpstream(b)
		repo := up.Repo("large")
		noise := rand.NewChaCha8([32]byte{})
		files := harness.Files{}
		for t := range tags {
			for i := range 20 {
				if t > 0 && i%4 != t%4 {
					continue
				}
				buf := make([]byte, 1<<20)
				_, _ = noise.Read(buf)
				files[fmt.Sprintf("assets/%d.bin", i)] = string(buf)
			}
			repo.Tag(fmt.Sprintf("v0.%d.0", t), repo.Commit(files))
		}
		s := harness.Start(b)
		most := watchMemory(s.Worker)
		s.Fetch(repo.URL)
		child, worker := most()
		result(fmt.Sprintf("mirror %d tags of 20 MB: memory of the largest child", tags), atMost(256, "MB"), float64(child)/1_000_000, "worker %d MB", worker/1_000_000)
		s.Stop()
	}
}

// watchMemory returns a function that tells the most memory that a child of a worker had since, and the worker itself.
func watchMemory(w *harness.Process) (most func() (child, worker int64)) {
	stop, child := make(chan struct{}), make(chan int64)
	go func() {
		var most int64
		for {
			for _, pid := range w.Children() {
				most = max(most, peak(pid))
			}
			select {
			case <-stop:
				child <- most
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	return func() (int64, int64) { close(stop); return <-child, peak(w.PID()) }
}

// disk returns what a registry with one package stores of Git's objects against its tarballs.
func disk(b *testing.B, s *harness.Server) (ratio float64, detail string) {
	b.Helper()
	conn, err := pgx.Connect(b.Context(), s.DatabaseURL)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close(b.Context())
	var objects, tarballs int64
	err = conn.QueryRow(b.Context(), `
		SELECT (SELECT sum(size) FROM blobs WHERE digest IN (SELECT digest FROM segments UNION SELECT index_digest FROM segments))
			+ (SELECT sum(length(bitmap)) FROM packs), (SELECT sum(size) FROM releases)`).Scan(&objects, &tarballs)
	if err != nil {
		b.Fatal(err)
	}
	return float64(objects) / float64(tarballs), fmt.Sprintf("%d KB to %d KB", objects/1000, tarballs/1000)
}

func byHand(b *testing.B, url string, tags []string) (seconds float64) {
	dir := filepath.Join(b.TempDir(), "clone.git")
	start := time.Now()
	if out, err := exec.Command("git", "clone", "-q", "--bare", url, dir).CombinedOutput(); err != nil {
		b.Fatalf("git clone: %v\n%s", err, out)
	}
	for _, tag := range tags {
		file := filepath.Join(filepath.Dir(dir), "out.tar.gz")
		sh := exec.Command("sh", "-c", `git -C "$1" archive --format=tar.gz -o "$3" "$2" && sha256sum "$3"`, "sh", dir, tag, file)
		if out, err := sh.CombinedOutput(); err != nil {
			b.Fatalf("git archive %s: %v\n%s", tag, err, out)
		}
	}
	return time.Since(start).Seconds()
}

// sent returns the seconds that it takes git to get the packs of all tags without their history, which is what a worker asks for.
func sent(b *testing.B, url string) (seconds float64) {
	dir := filepath.Join(b.TempDir(), "shallow.git")
	if out, err := exec.Command("git", "init", "-q", "--bare", dir).CombinedOutput(); err != nil {
		b.Fatalf("git init: %v\n%s", err, out)
	}
	start := time.Now()
	if out, err := exec.Command("git", "-C", dir, "fetch", "-q", "--depth", "1", url, "refs/tags/*:refs/tags/*").CombinedOutput(); err != nil {
		b.Fatalf("git fetch: %v\n%s", err, out)
	}
	return time.Since(start).Seconds()
}

// history makes a repository with a number of tags, named by a format, over
// files of which some change from one tag to the next, by git fast-import.
func history(repo *harness.Repo, tag string, tags, files, changes int) {
	random := rand.New(rand.NewPCG(1, 2))
	content := make([]string, files)
	for i := range content {
		content[i] = source(random, 40+random.IntN(400))
	}
	var in strings.Builder
	for t := range tags {
		for range changes {
			content[random.IntN(files)] = source(random, 40+random.IntN(400))
		}
		fmt.Fprintf(&in, "commit refs/heads/main\ncommitter A <a@example.org> %d +0000\ndata 3\nmsg\n", 1_700_000_000+t*86_400)
		for i, c := range content {
			fmt.Fprintf(&in, "M 100644 inline src/dir%d/file%d.zig\ndata %d\n%s\n", i%9, i, len(c), c)
		}
		fmt.Fprintf(&in, "\nreset refs/tags/"+tag+"\nfrom refs/heads/main\n\n", t)
	}
	repo.GitInput(in.String(), "fast-import", "--quiet", "--force")
}

// source returns text that compresses like source code.
func source(random *rand.Rand, lines int) string {
	words := []string{"const", "std", "=", "@import", "(", ")", "fn", "pub", "return", "error", "var", "while", "if", "else", "u32", "allocator", "try", ";", "{", "}"}
	var b strings.Builder
	for range lines {
		for range 3 + random.IntN(9) {
			if random.IntN(6) == 0 {
				fmt.Fprintf(&b, "x%x ", random.Uint32())
			}
			b.WriteString(words[random.IntN(len(words))] + " ")
		}
		b.WriteByte('\n')
	}
	return b.String()
}
