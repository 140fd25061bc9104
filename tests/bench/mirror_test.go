package bench

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/tests/harness"
)

// BenchmarkMirror compares mirroring all tags of a repository, from request to
// last release visible, with what one would do by hand: git clone --bare, and
// for each tag git archive and sha256sum. A repository of one's own:
// PACKBASE_BENCH_REPO=/path/to/repo.git.
func BenchmarkMirror(b *testing.B) {
	const rounds = 5
	up := harness.NewUpstream(b)
	repo := up.Repo("bench")
	if own := os.Getenv("PACKBASE_BENCH_REPO"); own != "" {
		repo.Git("fetch", "-q", own, "refs/tags/*:refs/tags/*")
	} else {
		history(repo, 80, 150)
	}
	tags := strings.Fields(repo.Git("tag"))
	var ours, theirs []time.Duration
	var stored string
	var child, worker []int64
	for range rounds {
		theirs = append(theirs, byHand(b, repo.URL, tags))
		srv := harness.Start(b)
		most := watchMemory(srv.Worker)
		start := time.Now()
		got := srv.Fetch(repo.URL)
		ours = append(ours, time.Since(start))
		if got.Created == 0 {
			b.Fatal("nothing was mirrored")
		}
		inChild, inWorker := most()
		child, worker = append(child, inChild), append(worker, inWorker)
		stored = disk(b, srv)
		srv.Stop()
	}
	m, p := median(ours), median(theirs)
	fmt.Fprintf(os.Stderr, "mirror %d tags: packbase %v, git clone --bare + git archive + sha256sum %v: %.1f times as fast (goal 15)\n",
		len(tags), m.Round(time.Millisecond), p.Round(time.Millisecond), float64(p)/float64(m))
	fmt.Fprintf(os.Stderr, "memory: %d MB of the largest child (goal 256), %d MB of the worker\n", median(child)/1_000_000, median(worker)/1_000_000)
	repo.Git("gc", "--quiet")
	pack, _ := filepath.Glob(filepath.Join(repo.Dir, "objects/pack/*.pack"))
	info, err := os.Stat(pack[0])
	if err != nil {
		b.Fatal(err)
	}
	fmt.Fprintf(os.Stderr, "%s; Git's own pack is %d KB\n", stored, info.Size()/1000)
}

// BenchmarkMirrorLarge tells what memory the mirroring of a large repository takes: 45 MB in each tag, a quarter of it new.
func BenchmarkMirrorLarge(b *testing.B) {
	for _, tags := range []int{5, 15} {
		up := harness.NewUpstream(b)
		repo := up.Repo("large")
		noise := rand.NewChaCha8([32]byte{})
		files := harness.Files{}
		for t := range tags {
			for i := range 45 {
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
		start := time.Now()
		s.Fetch(repo.URL)
		took := time.Since(start)
		child, worker := most()
		fmt.Fprintf(os.Stderr, "mirror %d tags of 45 MB: %v, %d MB of the largest child (goal 256, flat in tags), %d MB of the worker\n",
			tags, took.Round(time.Millisecond), child/1_000_000, worker/1_000_000)
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

// disk says what a registry with one package stores.
func disk(b *testing.B, s *harness.Server) string {
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
	return fmt.Sprintf("disk: segments and indexes %d KB, tarballs %d KB: %.3f (target 0.25)", objects/1000, tarballs/1000, float64(objects)/float64(tarballs))
}

func byHand(b *testing.B, url string, tags []string) time.Duration {
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
	return time.Since(start)
}

// history makes a repository with a number of tags over files that change a
// little from one tag to the next, by git fast-import.
func history(repo *harness.Repo, tags, files int) {
	random := rand.New(rand.NewPCG(1, 2))
	content := make([]string, files)
	for i := range content {
		content[i] = source(random, 40+random.IntN(400))
	}
	var in strings.Builder
	for t := range tags {
		for range 6 {
			content[random.IntN(files)] = source(random, 40+random.IntN(400))
		}
		fmt.Fprintf(&in, "commit refs/heads/main\ncommitter A <a@example.org> %d +0000\ndata 3\nmsg\n", 1_700_000_000+t*86_400)
		for i, c := range content {
			fmt.Fprintf(&in, "M 100644 inline src/dir%d/file%d.zig\ndata %d\n%s\n", i%9, i, len(c), c)
		}
		fmt.Fprintf(&in, "\nreset refs/tags/v0.%d.0\nfrom refs/heads/main\n\n", t)
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

func median[T cmp.Ordered](all []T) T {
	slices.Sort(all)
	return all[len(all)/2]
}
