package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/tests/harness"
)

// BenchmarkUpdate measures an update of 5,000 packages of one forge that answers at once and has nothing new.
func BenchmarkUpdate(b *testing.B) {
	const packages = 5_000
	var lists atomic.Int64
	r := newUnchanged(b, packages, 1, func(list http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			lists.Add(1)
			list.ServeHTTP(w, r)
		})
	})
	lists.Store(0)
	start := time.Now()
	n := r.update()
	took := time.Since(start)
	if n.PackagesSynced != packages {
		b.Errorf("%d of %d packages were synced", n.PackagesSynced, packages)
	}
	result("update of 5,000 packages, nothing new", atMost(60, "s"), took.Seconds(), "worker %d MB", peak(r.s.Worker.PID())/1_000_000)
	result("the same: requests for a package", atMost(1, ""), float64(lists.Load()+r.others.Load())/packages, "%d other than its list", r.others.Load())
}

// BenchmarkForge updates again and again, for a minute, 20,000 packages of four forges, of which each allows four requests in
// five seconds and asks who wants more to rest. One package in a thousand had a release yesterday, the others years ago.
func BenchmarkForge(b *testing.B) {
	const packages, forges, active, span = 20_000, 4, 1000, 60 * time.Second
	var all []*strict
	r := newUnchanged(b, packages, forges, func(list http.Handler) http.Handler {
		f := &strict{list: list, looked: map[string]int{}}
		all = append(all, f)
		return f
	}, "PACKBASE_JOB_TIMEOUT=30s") // of which looks have half
	r.exec(`UPDATE packages SET latest_tag = 'v1.0.0', synced_at = now() - interval '1 hour' * (0.5 + random())`)
	r.exec(`INSERT INTO releases (package, tag, commit_oid, tree_oid, digest, size, content_digest, md5, crc32, manifest_digest, commit_time)
		SELECT 'pkg-' || i, tag, commit_oid, tree_oid, digest, size, content_digest, md5, crc32, manifest_digest,
			now() - CASE WHEN i % $2 < $3 THEN interval '1 day' ELSE interval '1000 days' END FROM releases, generate_series(1, $1 - 1) i WHERE package = 'pkg-0'`, packages, active*forges, forges)
	for end := time.Now().Add(span); time.Now().Before(end); time.Sleep(time.Second) {
		r.update()
	}
	const steady = 30 * time.Second
	var rate, burst, early, often, seldom float64
	for _, f := range all {
		last, most := f.since(time.Now().Add(-steady))
		rate, burst, early = max(rate, float64(last)/steady.Seconds()), max(burst, float64(most)), early+float64(f.early)
		for path, n := range f.looked {
			var i int
			_, _ = fmt.Sscanf(path, "/pkg-%d/", &i)
			if i%(active*forges) < forges {
				often += float64(n)
			} else {
				seldom += float64(n)
			}
		}
	}
	const what = "20,000 packages of forges that allow 0.8 requests/s: "
	result(what+"requests/s to one", atMost(1, ""), rate, "the most of %d, in the last %v", forges, steady)
	result("the same: requests in one second", atMost(3, ""), burst, "in that time")
	result("the same: requests before a rest was over", atMost(0, ""), early, "")
	result("the same: looks at an active package, against a dormant", atLeast(2, "×"), often/(packages/active)/(seldom/(packages-packages/active)), "%.0f of %d, and %.0f of all others", often, packages/active, seldom)
	result("the same: memory of the worker", atMost(256, "MB"), float64(peak(r.s.Worker.PID()))/1_000_000, "")
}

// A strict forge counts whom it answers, and answers those who ask too much with 429.
type strict struct {
	list http.Handler

	mu     sync.Mutex
	room   float64
	asked  []time.Time
	rest   time.Time // until when it wants none
	early  int
	looked map[string]int // by path
}

func (f *strict) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const rate, most, rest, underWay = 0.8, 4, 5 * time.Second, 200 * time.Millisecond
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if n := len(f.asked); n > 0 {
		f.room = min(most, f.room+rate*now.Sub(f.asked[n-1]).Seconds())
	} else {
		f.room = most
	}
	f.asked = append(f.asked, now)
	if now.Before(f.rest) && f.rest.Sub(now) < rest-underWay {
		f.early++
	}
	if f.room < 1 {
		if now.After(f.rest) {
			f.rest = now.Add(rest)
		}
		w.Header().Set("Retry-After", strconv.Itoa(int(rest.Seconds())))
		w.WriteHeader(http.StatusTooManyRequests)
		return
	}
	f.room--
	f.looked[r.URL.Path]++
	f.list.ServeHTTP(w, r)
}

// since returns how many requests there were, and the most in one second.
func (f *strict) since(begin time.Time) (all, most int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	later := f.asked[sort.Search(len(f.asked), func(i int) bool { return f.asked[i].After(begin) }):]
	for i, from := 0, 0; i < len(later); i++ {
		for later[i].Sub(later[from]) > time.Second {
			from++
		}
		most = max(most, i-from+1)
	}
	return len(later), most
}

// An unchanged is a registry of a catalog whose packages have nothing new. One of them is mirrored, the others are rows like
// its own.
type unchanged struct {
	s      *harness.Server
	others atomic.Int64 // requests to upstream that were not for a list
	update func() wire.Counters
	exec   func(sql string, args ...any)
}

// newUnchanged makes one of pkg-0, pkg-1 ... in turns of some forges. answer makes what answers looks at one of them.
func newUnchanged(b *testing.B, packages, forges int, answer func(list http.Handler) http.Handler, env ...string) *unchanged {
	b.Helper()
	u := &unchanged{}
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
	list := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", recorded.Header().Get("Content-Type"))
		_, _ = w.Write(recorded.Body.Bytes())
	})
	var hosts []string
	for range forges {
		looks := answer(list)
		forge := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/info/refs") {
				looks.ServeHTTP(w, r)
				return
			}
			u.others.Add(1)
			git.ServeHTTP(w, r)
		}))
		b.Cleanup(forge.Close)
		hosts = append(hosts, strings.TrimPrefix(forge.URL, "http://"))
	}
	source := filepath.Join(b.TempDir(), "catalog.json")
	catalog := func(n int) {
		type entry struct {
			ID         string            `json:"id"`
			Repository map[string]string `json:"repository"`
		}
		all := make([]entry, n)
		for i := range all {
			all[i] = entry{fmt.Sprintf("pkg-%d", i), map[string]string{"url": fmt.Sprintf("http://%s/pkg-%d", hosts[i%forges], i)}}
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
	u.s = harness.Start(b, append(env, "PACKBASE_SOURCE=file://"+source, "PACKBASE_UPDATE_COOLDOWN=1ms", "PACKBASE_LOG=text,info")...)
	u.update = func() (n wire.Counters) {
		u.s.Do(http.MethodPost, "/api/update?wait=600", "", nil).Into(b, &n)
		return n
	}
	if n := u.update(); n.PackagesSynced != 1 {
		b.Fatalf("the first update: %+v", n)
	}
	conn, err := pgx.Connect(b.Context(), u.s.DatabaseURL)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close(context.Background()) })
	u.exec = func(sql string, args ...any) {
		b.Helper()
		if _, err := conn.Exec(b.Context(), sql, args...); err != nil {
			b.Fatal(err)
		}
	}
	u.exec("SET session_replication_role = replica") // without triggers
	const there = `regexp_replace(replace(%s, ($2::text[])[1], ($2::text[])[i %% $3 + 1]), '0$', i::text)`
	upstream, clone := fmt.Sprintf(there, "upstream"), fmt.Sprintf(there, "clone_url")
	u.exec(`INSERT INTO packages (name, upstream, clone_url, release_count, registered, sync_ok, synced_at, refs_seen)
		SELECT 'pkg-' || i, `+upstream+`, `+clone+`, 1, true, true, now(), refs_seen
		FROM packages, generate_series(1, $1 - 1) i WHERE name = 'pkg-0'`, packages, hosts, forges)
	u.exec(`INSERT INTO catalog_entries (id, name, upstream, clone_url, source_updated, synced_updated)
		SELECT 'pkg-' || i, 'pkg-' || i, `+upstream+`, `+clone+`, source_updated, synced_updated
		FROM catalog_entries, generate_series(1, $1 - 1) i WHERE id = 'pkg-0'`, packages, hosts, forges)
	catalog(packages)
	u.others.Store(0)
	return u
}

// peak returns the most memory that a process has had, in bytes, 0 if it has ended.
func peak(pid int) (bytes int64) {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	_, _ = fmt.Sscan(after, &bytes) // in KiB
	return bytes << 10
}
