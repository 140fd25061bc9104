package bench

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/ledger"
	"github.com/francescobianco/packbase/storage/logbook"
	"github.com/francescobianco/packbase/storage/storagetest"
	"github.com/francescobianco/packbase/storage/zigcache"
	"github.com/francescobianco/packbase/tests/harness"
)

// BenchmarkLog holds the log to its goals: what an entry costs beside the database, how soon there is a proof while much is
// published, and what it takes to prove a hundred packages of a log with 200,000 releases without a network.
func BenchmarkLog(b *testing.B) {
	sequencing(b)
	proofsInTime(b)
	hundredProofs(b)
}

// sequencing measures processor time: the machine has other things to do.
func sequencing(b *testing.B) {
	const entries, goal = 200_000, 2.0
	used := func() time.Duration {
		var u syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	entry, edge := make([]byte, 700), &logbook.Edge{}
	before := used()
	for range entries {
		edge.Append(tlog.RecordHash(entry), func(int, int64, []byte) {})
	}
	if _, err := edge.Tree(); err != nil {
		b.Fatal(err)
	}
	each := float64((used() - before).Nanoseconds()) / entries / 1000
	verdict("µs of an entry beside the database, of 200,000", each, goal, each <= goal, "")
}

// proofsInTime publishes from eight upstreams at once, and measures from when a tarball is there to when its proof is.
func proofsInTime(b *testing.B) {
	const upstreams, tags, goal = 8, 40, 5.0
	s, up := harness.Start(b, "PACKBASE_LOG=text,info"), harness.NewUpstream(b)
	var paths []string
	for i := range upstreams {
		repo := up.Repo(fmt.Sprintf("r%d", i))
		history(repo, tags, 20)
		for t := range tags {
			paths = append(paths, fmt.Sprintf("/p/r%d/tag/v0.%d.0", i, t))
		}
	}
	there := func(path string) bool {
		resp, err := http.Head(s.URL + path)
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}
	for i := range upstreams {
		s.Ask(fmt.Sprintf("%s/r%d", up.URL, i))
	}
	var mu sync.Mutex
	var waits []float64
	var wg sync.WaitGroup
	for part := range slices.Chunk(paths, tags) {
		wg.Go(func() {
			seen := map[string]time.Time{}
			for left := slices.Clone(part); len(left) > 0; time.Sleep(20 * time.Millisecond) {
				left = slices.DeleteFunc(left, func(path string) bool {
					if seen[path].IsZero() && there(path+".tar.gz") {
						seen[path] = time.Now()
					}
					if seen[path].IsZero() || !there(path+".tlog-proof") {
						return false
					}
					mu.Lock()
					defer mu.Unlock()
					waits = append(waits, time.Since(seen[path]).Seconds())
					return true
				})
			}
		})
	}
	wg.Wait()
	slices.Sort(waits)
	p99 := waits[len(waits)*99/100]
	verdict(fmt.Sprintf("s to a proof, p99 of %d releases", len(waits)), p99, goal, p99 <= goal, fmt.Sprintf("median %.2f s, longest %.2f s", median(waits), waits[len(waits)-1]))
	s.Stop()
}

// hundredProofs has packbase verify, a process of its own, prove a project with a hundred dependencies.
func hundredProofs(b *testing.B) {
	const packages, goalTime, goalSize, rounds = 100, 100.0, 200.0, 11
	url := storagetest.NewURL(b)
	storagetest.Migrate(b, url)
	if err := Seed(b.Context(), url, 10_000, 20); err != nil {
		b.Fatal(err)
	}
	db, err := storage.Open(b.Context(), url)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	dir, cache := b.TempDir(), zigcache.Cache{Dir: b.TempDir()}
	seq := ledger.NewSequencer(db.DB, ledger.Options{Folder: ledger.FolderBeside(dir), KeyFile: filepath.Join(dir, "log.key")})
	store := ledger.New(db.DB)
	for {
		if _, err := seq.Step(b.Context()); err != nil {
			b.Fatal(err)
		}
		if st, err := store.State(b.Context()); err != nil || st.Pending == 0 && st.Signed == st.Tree.N {
			break
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	var hashes, lines []string
	rows, err := db.Pool.Query(b.Context(), `SELECT zig_legacy_hash FROM releases WHERE id = ANY($1)`, random.Perm(200_000)[:packages+1])
	if err != nil {
		b.Fatal(err)
	}
	for rows.Next() && len(hashes) < packages {
		var hash string
		if err := rows.Scan(&hash); err != nil {
			b.Fatal(err)
		}
		hashes = append(hashes, hash)
		lines = append(lines, fmt.Sprintf(".p%d = .{ .url = \"https://files.example/%d.tar.gz\", .hash = %q },", len(hashes), len(hashes), hash))
	}
	rows.Close()
	checkpoint, said, err := store.Proofs(b.Context(), hashes)
	if err != nil || len(said) != packages {
		b.Fatalf("%d proofs, %v", len(said), err)
	}
	all := wire.Proofs{Checkpoint: checkpoint}
	for hash, one := range said {
		all.Proofs = append(all.Proofs, wire.Proof{Hash: hash, Proof: one.Proof})
		if err := cache.PutProof(hash, []byte(one.Proof+checkpoint)); err != nil {
			b.Fatal(err)
		}
		if err := os.MkdirAll(cache.Folder(hash), 0o755); err != nil {
			b.Fatal(err)
		}
	}
	raw, err := json.Marshal(all)
	if err != nil {
		b.Fatal(err)
	}
	manifest := ".{ .name = \"root\", .version = \"1.0.0\", .paths = .{\"\"}, .dependencies = .{ " + strings.Join(lines, " ") + " } }"
	if err := os.WriteFile(filepath.Join(dir, "build.zig.zon"), []byte(manifest), 0o600); err != nil {
		b.Fatal(err)
	}
	env := []string{"XDG_CONFIG_HOME=" + b.TempDir(), "HOME=" + dir}
	run := func(args ...string) float64 {
		b.Helper()
		start := time.Now()
		if out, errs, err := harness.Run(b, env, args...); err != nil {
			b.Fatalf("%v\n%s%s", err, out, errs)
		}
		return float64(time.Since(start).Microseconds()) / 1000
	}
	run("trust", "--offline", "--policy", filepath.Join(dir, "log/policy"), "https://mirror.example")
	var took, none []float64
	for range rounds { // in turns: the machine may be busy for a while
		took, none = append(took, run("verify", "--offline", "--cache-dir", cache.Dir, dir)), append(none, run("version"))
	}
	ms, kb := max(0, median(took)-median(none)), float64(len(raw))/1000
	verdict("ms to verify 100 dependencies offline", ms, goalTime, ms <= goalTime, fmt.Sprintf("above %.0f ms that a process takes that does nothing", median(none)))
	verdict("KB of their proofs, of a log with 210,000 entries", kb, goalSize, kb <= goalSize, "")
}
