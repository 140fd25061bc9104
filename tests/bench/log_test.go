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
	"github.com/francescobianco/packbase/storage/zigcache"
	"github.com/francescobianco/packbase/tests/harness"
)

// BenchmarkLog holds the log to its goals: what an entry costs beside the database, and how soon there is a proof while much is
// published. BenchmarkScale has the rest.
func BenchmarkLog(b *testing.B) {
	sequencing(b)
	proofsInTime(b)
}

// sequencing measures processor time: the machine has other things to do.
func sequencing(b *testing.B) {
	const entries = 200_000
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
	result("log: an entry of 200,000, beside the database", atMost(2, "µs"), each, "processor time")
}

// proofsInTime publishes from eight upstreams at once, and measures from when a tarball is there to when its proof is.
func proofsInTime(b *testing.B) {
	const upstreams, tags = 8, 40
	s, up := harness.Start(b, "PACKBASE_LOG=text,info"), harness.NewUpstream(b)
	var paths []string
	for i := range upstreams {
		repo := up.Repo(fmt.Sprintf("r%d", i))
		history(repo, "v0.%d.0", tags, 20, 6)
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
	result(fmt.Sprintf("log: to a proof, p99 of %d releases from %d upstreams", len(waits), upstreams), atMost(5, "s"), p99, "median %.2f s", median(waits))
	s.Stop()
}

// hundredProofs has packbase verify, a process of its own, prove a project with a hundred dependencies, without a network.
// The server is stopped, and its registry as Seed leaves it.
func hundredProofs(b *testing.B, s *harness.Server) {
	b.Helper()
	const packages, rounds = 100, 5
	db, err := storage.Open(b.Context(), s.DatabaseURL)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Pool.Exec(b.Context(), `SELECT log_add(body, package, private) FROM log_rows WHERE package <> 'model'`); err != nil {
		b.Fatal(err)
	}
	dir, cache := b.TempDir(), zigcache.Cache{Dir: b.TempDir()}
	seq := ledger.NewSequencer(db.DB, ledger.Options{Folder: ledger.FolderBeside(s.Root), KeyFile: filepath.Join(s.Root, "log.key")})
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
	rows, err := db.Pool.Query(b.Context(), `SELECT zig_legacy_hash FROM releases WHERE id = ANY($1) AND package <> 'model'`, random.Perm(200_000)[:2*packages])
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
	run("trust", "--offline", "--policy", filepath.Join(s.Root, "log/policy"), "https://mirror.example")
	var took, none []float64
	for range rounds { // in turns: the machine may be busy for a while
		took, none = append(took, run("verify", "--offline", "--cache-dir", cache.Dir, dir)), append(none, run("version"))
	}
	result("log: verify 100 dependencies offline", atMost(100, "ms"), max(0, median(took)-median(none)), "above %.0f ms of a process that does nothing", median(none))
	result("log: their proofs, of 210,000 entries", atMost(200, "KB"), float64(len(raw))/1000, "")
}
