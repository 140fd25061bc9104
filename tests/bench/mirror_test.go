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
	for range rounds {
		theirs = append(theirs, byHand(b, repo.URL, tags))
		srv := harness.Start(b)
		start := time.Now()
		got := srv.Fetch(repo.URL)
		ours = append(ours, time.Since(start))
		if got.Created == 0 {
			b.Fatal("nothing was mirrored")
		}
		stored = disk(b, srv)
		srv.Stop()
	}
	m, p := median(ours), median(theirs)
	fmt.Fprintf(os.Stderr, "mirror %d tags: packbase %v, git clone --bare + git archive + sha256sum %v: %.1f times as fast (target 5)\n",
		len(tags), m.Round(time.Millisecond), p.Round(time.Millisecond), float64(p)/float64(m))
	repo.Git("gc", "--quiet")
	pack, _ := filepath.Glob(filepath.Join(repo.Dir, "objects/pack/*.pack"))
	info, err := os.Stat(pack[0])
	if err != nil {
		b.Fatal(err)
	}
	fmt.Fprintf(os.Stderr, "%s; Git's own pack is %d KB\n", stored, info.Size()/1000)
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
