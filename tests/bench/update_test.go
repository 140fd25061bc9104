package bench

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/tests/harness"
)

// BenchmarkUpdate measures an update of 5,000 packages of one forge that answers at once and has nothing new. One of them is
// mirrored, the others are rows like its own.
func BenchmarkUpdate(b *testing.B) {
	const packages = 5_000
	up := harness.NewUpstream(b)
	repo := up.Repo("pkg-0")
	repo.Release("v1.0.0")
	at, err := url.Parse(up.URL)
	if err != nil {
		b.Fatal(err)
	}
	git := httputil.NewSingleHostReverseProxy(at)
	recorded := httptest.NewRecorder()
	git.ServeHTTP(recorded, httptest.NewRequestWithContext(b.Context(), http.MethodGet, strings.TrimPrefix(repo.URL, up.URL)+"/info/refs?service=git-upload-pack", nil))
	var lists, others atomic.Int64
	forge := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/info/refs") {
			others.Add(1)
			git.ServeHTTP(w, r)
			return
		}
		lists.Add(1)
		w.Header().Set("Content-Type", recorded.Header().Get("Content-Type"))
		_, _ = w.Write(recorded.Body.Bytes())
	}))
	b.Cleanup(forge.Close)
	source := filepath.Join(b.TempDir(), "catalog.json")
	catalog := func(n int) {
		type entry struct {
			ID         string            `json:"id"`
			Repository map[string]string `json:"repository"`
		}
		all := make([]entry, n)
		for i := range all {
			all[i] = entry{fmt.Sprintf("pkg-%d", i), map[string]string{"url": fmt.Sprintf("%s/pkg-%d", forge.URL, i)}}
		}
		raw, err := json.Marshal(map[string]any{"protocol": "v1", "packages": all})
		if err == nil {
			err = os.WriteFile(source, raw, 0o644)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	catalog(1)
	s := harness.Start(b, "PACKBASE_SOURCE=file://"+source, "PACKBASE_UPDATE_COOLDOWN=1ms")
	update := func() (n wire.Counters) {
		s.Do(http.MethodPost, "/api/update?wait=600", "", nil).Into(b, &n)
		return n
	}
	if n := update(); n.PackagesSynced != 1 {
		b.Fatalf("the first update: %+v", n)
	}
	conn, err := pgx.Connect(b.Context(), s.DatabaseURL)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close(b.Context())
	for _, sql := range []string{
		`INSERT INTO packages (name, upstream, clone_url, release_count, registered, sync_ok, synced_at, refs_seen)
			SELECT 'pkg-' || i, regexp_replace(upstream, '0$', i::text), regexp_replace(clone_url, '0$', i::text), 1, true, true, now(), refs_seen
			FROM packages, generate_series(1, $1 - 1) i WHERE name = 'pkg-0'`,
		`INSERT INTO catalog_entries (id, name, upstream, clone_url, source_updated, synced_updated)
			SELECT 'pkg-' || i, 'pkg-' || i, regexp_replace(upstream, '0$', i::text), regexp_replace(clone_url, '0$', i::text), source_updated, synced_updated
			FROM catalog_entries, generate_series(1, $1 - 1) i WHERE id = 'pkg-0'`,
	} {
		if _, err := conn.Exec(b.Context(), sql, packages); err != nil {
			b.Fatal(err)
		}
	}
	catalog(packages)
	lists.Store(0)
	others.Store(0)
	start := time.Now()
	n := update()
	took := time.Since(start)
	verdict := "met"
	if took > time.Minute || n.PackagesSynced != packages || lists.Load() > packages || others.Load() > 0 {
		verdict = "not met"
	}
	fmt.Fprintf(os.Stderr, "update of %d packages, nothing new: %v, %d lists and %d other requests, %d synced; worker %d MB at most (goal 1m0s, one list for each): %s\n",
		packages, took.Round(100*time.Millisecond), lists.Load(), others.Load(), n.PackagesSynced, peak(s.Worker.PID())>>20, verdict)
}

// peak returns the most memory that a process has had, in bytes, 0 if it has ended.
func peak(pid int) (bytes int64) {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	_, _ = fmt.Sscan(after, &bytes) // in KiB
	return bytes << 10
}
