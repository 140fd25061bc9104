package bench

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/francescobianco/packbase/tests/harness"
	"github.com/francescobianco/packbase/tests/harness/archives"
)

// BenchmarkTree compares what a project with 30 packages, of which a third come by Git, takes into an empty cache: by Zig
// itself from upstreams on this machine, by `packbase warm`, and by Zig through the proxy.
func BenchmarkTree(b *testing.B) {
	const rounds, packages = 5, 30
	for _, z := range harness.Zigs(b) {
		up, s, web := harness.NewUpstream(b), harness.Start(b, "PACKBASE_LOG=text,info"), newShelf(b)
		dir := z.Project("root", "")
		dependOn(b, filepath.Join(dir, "build.zig.zon"), dependencies(b, z, up, web, packages)...)
		env := append(slices.Clone(s.Env), "PACKBASE_URL="+s.URL)
		packbase := func(env []string, args ...string) {
			b.Helper()
			if stdout, stderr, err := harness.Run(b, env, args...); err != nil {
				b.Fatalf("%v\n%s%s", err, stdout, stderr)
			}
		}
		packbase(env, "capture", "--wait", dir)

		timed := func(do ...func()) (medians [3]float64) {
			var all [3][]float64
			for range rounds {
				for i := range do { // in turns: the machine may be busy for a while
					z.Forget(dir)
					start := time.Now()
					do[i]()
					all[i] = append(all[i], time.Since(start).Seconds())
				}
			}
			for i := range all {
				medians[i] = median(all[i])
			}
			return medians
		}
		fetch := func(env ...string) func() {
			return func() {
				z.Env = env
				if _, err := z.Run(dir, fetchAll(z)...); err != nil {
					b.Fatal(err)
				}
			}
		}
		warm := []string{"warm", "--require-all", "--zig", z.Path, "--cache-dir", z.Cache, dir}
		took := timed(fetch(), fetch("http_proxy="+s.URL, "https_proxy="+s.URL), func() { packbase(env, warm...) })
		alone, proxied, warmed := took[0], took[1], took[2]
		counted, requests := counting(b, s.URL)
		z.Forget(dir)
		packbase(append(slices.Clone(env), "PACKBASE_URL="+counted), warm...)
		asked := requests.Load()
		up.Stop()
		web.Close()
		fetch()() // what was warmed is all that Zig wants
		what := fmt.Sprintf("tree of %d packages, zig %s: ", packages, z.Version)
		result(what+"warm against zig alone", atLeast(5, "×"), alone/warmed, "%.2f s to %.2f s", alone, warmed)
		result(what+"proxy against zig alone", atLeast(1, "×"), alone/proxied, "%.2f s to %.2f s", alone, proxied)
		result(what+"requests of warm", atMost(1, ""), float64(asked), "")
		s.Stop()
	}
}

func fetchAll(z *harness.Zig) []string {
	if strings.HasPrefix(z.Version, "0.13.") || strings.HasPrefix(z.Version, "0.14.") {
		return []string{"build", "--fetch"}
	}
	return []string{"build", "--fetch=all"}
}

// counting returns the URL of a server that passes all on, and how many requests it has seen.
func counting(b *testing.B, to string) (string, *atomic.Int64) {
	b.Helper()
	target, err := url.Parse(to)
	if err != nil {
		b.Fatal(err)
	}
	n, proxy := &atomic.Int64{}, httputil.NewSingleHostReverseProxy(target)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		proxy.ServeHTTP(w, r)
	}))
	b.Cleanup(srv.Close)
	return srv.URL, n
}

// A shelf is a web server of files.
type shelf struct {
	*httptest.Server
	files map[string][]byte
}

func newShelf(b *testing.B) *shelf {
	b.Helper()
	s := &shelf{files: map[string][]byte{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/gzip")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.files[r.URL.Path]))
	}))
	b.Cleanup(s.Close)
	return s
}

// dependencies makes n packages, each of which needs two others as long as there are some, and returns how to depend on the
// first.
func dependencies(b *testing.B, z *harness.Zig, up *harness.Upstream, web *shelf, n int) []string {
	b.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	lines := map[int]string{}
	for i := n - 1; i >= 0; i-- {
		name := fmt.Sprintf("n%d", i)
		files := z.Package(name, "1.0.0", name)
		for f := range 60 {
			files[fmt.Sprintf("src/file%d.zig", f)] = text(random, 5_000)
		}
		files["build.zig.zon"] = depending(files["build.zig.zon"], lines[2*i+1], lines[2*i+2])
		at := fmt.Sprintf("%s/%s.tar.gz", web.URL, name)
		if i%3 == 0 {
			repo := up.Repo(name)
			at = repo.GitURL(repo.Commit(files))
		} else {
			web.files["/"+name+".tar.gz"] = archives.TarGz(b, files)
		}
		hash, err := z.Fetch(at)
		if err != nil {
			b.Fatal(err)
		}
		lines[i] = fmt.Sprintf(".%s = .{ .url = %q, .hash = %q },", name, at, hash)
	}
	return []string{lines[0]}
}

func depending(manifest string, lines ...string) string {
	return strings.Replace(manifest, ".dependencies = .{}", ".dependencies = .{"+strings.Join(lines, " ")+"}", 1)
}

func dependOn(b *testing.B, file string, lines ...string) {
	b.Helper()
	text, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, []byte(depending(string(text), lines...)), 0o600)
	}
	if err != nil {
		b.Fatal(err)
	}
}

// BenchmarkBundles tells how much memory 200 clients take that read a bundle of 300 MB at once.
func BenchmarkBundles(b *testing.B) {
	const clients, packages, files, size, reading = 200, 3, 10, 10 << 20, 10 * time.Second
	web := newShelf(b)
	s := harness.Start(b, "PACKBASE_LOG=text,info", "PACKBASE_PULL="+strings.TrimPrefix(web.URL, "http://"))
	noise := rand.NewChaCha8([32]byte{})
	var lines []string
	for i := range packages {
		content := map[string]string{}
		for f := range files {
			buf := make([]byte, size)
			_, _ = noise.Read(buf)
			content[fmt.Sprintf("%d.bin", f)] = string(buf)
		}
		path := fmt.Sprintf("/%d.tar.gz", i)
		web.files[path] = archives.TarGz(b, content)
		at := web.URL + path
		s.Get("/u/" + strings.Replace(at, "://", "/", 1)) // it pulls
		var a struct {
			Hash string `json:"zig_legacy_hash"`
		}
		s.Do("GET", "/api/archives?url="+url.QueryEscape(at), "", nil).Into(b, &a)
		lines = append(lines, fmt.Sprintf(".a%d = .{ .url = %q, .hash = %q },", i, at, a.Hash))
		delete(web.files, path)
	}
	manifest := depending(".{ .name = \"root\", .version = \"1.0.0\", .paths = .{\"\"}, .dependencies = .{} }", lines...)
	ask := func() io.ReadCloser {
		body := fmt.Sprintf(`{"manifests":[{"file":"build.zig.zon","text":%q}]}`, manifest)
		resp, err := http.Post(s.URL+"/api/bundle", "application/json", strings.NewReader(body))
		if err != nil {
			b.Error(err)
			return io.NopCloser(strings.NewReader(""))
		}
		if resp.StatusCode != http.StatusOK || resp.ContentLength < packages*files*size {
			b.Errorf("bundle: %s, %d bytes", resp.Status, resp.ContentLength)
		}
		return resp.Body
	}
	first := ask()
	_, _ = io.Copy(io.Discard, first) // what is read for the first time is hashed
	first.Close()
	idle := rss(b, s.API.PID())
	var moved atomic.Int64
	var wg sync.WaitGroup
	var bodies []io.ReadCloser
	for range clients {
		bodies = append(bodies, ask())
	}
	for _, body := range bodies {
		wg.Go(func() {
			n, _ := io.Copy(io.Discard, body)
			moved.Add(n)
		})
	}
	peak := idle
	for end := time.Now().Add(reading); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		peak = max(peak, rss(b, s.API.PID()))
	}
	for _, body := range bodies {
		body.Close()
	}
	wg.Wait()
	result(fmt.Sprintf("api: %d clients of a bundle of %d MB, above idle", clients, packages*files*size/1_000_000), atMost(128, "MB"), float64(peak-idle)/1_000_000,
		"%d MB of idle, %d MB/s", idle/1_000_000, moved.Load()/int64(reading.Seconds())/1_000_000)
}
