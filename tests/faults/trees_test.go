package faults

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
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
	"syscall"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage/archive"
	"github.com/francescobianco/packbase/tests/harness"
	"github.com/francescobianco/packbase/tests/harness/archives"
)

// Zig builds through the proxy, while of what packbase asks upstream one answer in twenty (five, in the short form) is an error, a page, cut, late or
// none, and workers are killed. No build fails of a tree that was stored; one that is not is had at the latest when it is
// asked for again.
func TestProxiedBuilds(t *testing.T) {
	t.Parallel()
	zigs := slices.DeleteFunc(harness.Zigs(t), (*harness.Zig).LegacyHash)
	if len(zigs) == 0 {
		t.Skip("no zig that has the same manifests as the newest")
	}
	o := &orchard{t: t, z: zigs[0], up: harness.NewUpstream(t), files: map[string][]byte{}, rnd: random(t)}
	o.bloom()
	o.s = harness.Start(t, append(quick, "PACKBASE_PULL="+strings.TrimPrefix(o.URL, "http://"), "PACKBASE_WORKER_CONCURRENCY=8")...)
	n, began := rounds(40, 1000), time.Now()
	work := make(chan int)
	var all sync.WaitGroup
	for i := range 4 {
		z := zigs[i%len(zigs)].For(t)
		z.Env = []string{"http_proxy=" + o.s.URL, "https_proxy=" + o.s.URL}
		all.Go(func() {
			for range work {
				o.build(z)
			}
		})
	}
	for i := range n {
		if i%50 == 25 {
			o.s.Worker.SignalGroup(syscall.SIGKILL)
			o.s.Worker.Start()
		}
		work <- i
	}
	close(work)
	all.Wait()
	t.Logf("%d builds of %d trees in %v, %d of trees that were stored; of the others %d failed; %d of %d answers of upstream were faults",
		n, len(o.trees), time.Since(began).Round(time.Second), o.stored, o.failed, o.faults.Load(), o.asked.Load())
	if o.stored == 0 || o.faults.Load() == 0 {
		t.Error("the test tests nothing")
	}
	for _, at := range o.trees {
		if !at.here {
			z := zigs[0].For(t)
			z.Env = []string{"http_proxy=" + o.s.URL, "https_proxy=" + o.s.URL}
			o.healthy.Store(true)
			harness.Within(t, 2*time.Minute, "a tree is had when upstream is well", func() bool { return o.try(z, at) == nil })
		}
	}
}

// An orchard is an upstream of trees that has faults.
type orchard struct {
	t   *testing.T
	URL string
	z   *harness.Zig
	s   *harness.Server
	up  *harness.Upstream

	healthy       atomic.Bool
	asked, faults atomic.Int64

	mu             sync.Mutex
	rnd            *rand.Rand
	files          map[string][]byte
	trees          []*planted
	stored, failed int
}

// A planted tree is the line of a manifest that depends on it.
type planted struct {
	line string
	here bool // a build of it has ended well
}

// bloom starts the upstream: files, and repositories below /git.
func (o *orchard) bloom() {
	to, err := url.Parse(o.up.URL)
	if err != nil {
		o.t.Fatal(err)
	}
	git := httputil.NewSingleHostReverseProxy(to)
	git.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.mu.Lock()
		body, isFile := o.files[r.URL.Path]
		fault := -1
		if o.rnd.IntN(rounds(5, 20)) == 0 && !o.healthy.Load() {
			fault = o.rnd.IntN(7)
		}
		o.mu.Unlock()
		o.asked.Add(1)
		if fault >= 0 {
			o.faults.Add(1)
		}
		switch fault {
		case 0, 1, 2:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader([]int{http.StatusInternalServerError, http.StatusServiceUnavailable, http.StatusTooManyRequests}[fault])
			return
		case 3:
			panic(http.ErrAbortHandler)
		case 4:
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, "<html>back soon</html>")
			return
		case 5:
			w.Header().Set("Content-Length", fmt.Sprint(len(body)+100))
			_, _ = w.Write(body[:len(body)/2])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case 6:
			time.Sleep(2 * time.Second)
		}
		if !isFile {
			git.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/gzip")
		_, _ = w.Write(body)
	}))
	o.t.Cleanup(srv.Close)
	o.URL = srv.URL
}

// plant makes a tree of three packages that nobody has asked for. Of every fourth one comes by Git.
func (o *orchard) plant() *planted {
	o.t.Helper()
	i := len(o.trees)
	line := ""
	for _, name := range []string{"c", "b", "a"} {
		files := o.z.Package(name, "1.0.0", fmt.Sprint(name, i))
		files["build.zig.zon"] = strings.Replace(files["build.zig.zon"], ".dependencies = .{}", ".dependencies = .{"+line+"}", 1)
		body, hash := packed(o.t, files)
		at := fmt.Sprintf("%s/%d/%s.tar.gz", o.URL, i, name)
		if name == "b" && i%4 == 0 {
			repo := o.up.Repo(fmt.Sprintf("o%d/b", i))
			u, _ := url.Parse(repo.URL) // made by the harness
			at = "git+" + o.URL + u.Path + "#" + repo.Commit(files)
		} else {
			o.files[fmt.Sprintf("/%d/%s.tar.gz", i, name)] = body
		}
		line = fmt.Sprintf(".%s = .{ .url = %q, .hash = %q }", name, at, hash)
	}
	tree := &planted{line: line}
	o.trees = append(o.trees, tree)
	return tree
}

// build builds a tree, a new one now and then, with an empty cache.
func (o *orchard) build(z *harness.Zig) {
	o.mu.Lock()
	var at *planted
	if len(o.trees) == 0 || o.rnd.IntN(3) == 0 {
		at = o.plant()
	} else {
		at = o.trees[o.rnd.IntN(len(o.trees))]
	}
	here := at.here
	o.mu.Unlock()
	err := o.try(z, at)
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case here:
		o.stored++
		if err != nil {
			o.t.Errorf("a tree that was stored: %v", err)
		}
	case err != nil:
		o.failed++
		o.t.Logf("a tree that was not stored: %.300s", err.Error())
	}
	at.here = at.here || err == nil
}

func (o *orchard) try(z *harness.Zig, at *planted) error {
	dir := z.Project("root", "")
	file := filepath.Join(dir, "build.zig.zon")
	text, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, []byte(strings.Replace(string(text), ".dependencies = .{}", ".dependencies = .{"+at.line+"}", 1)), 0o600)
	}
	if err != nil {
		o.t.Error(err)
		return err
	}
	z.Forget(dir)
	_, err = z.Run(dir, "build", "--fetch")
	return errors.Join(err, os.RemoveAll(dir))
}

// packed returns files as a tarball, and their hash.
func packed(t *testing.T, files harness.Files) (body []byte, hash string) {
	t.Helper()
	body = archives.TarGz(t, files)
	scratch, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer scratch.Close()
	pkg, err := archive.Unpack(t.Context(), bytes.NewReader(body), int64(len(body)), archive.TarGz, scratch)
	if err != nil {
		t.Fatal(err)
	}
	_, sum, err := pkg.Describe()
	if err != nil {
		t.Fatal(err)
	}
	return body, sum.Hash
}

// held starts a packbase that has an archive of size bytes which do not compress, and returns a folder with a project
// that needs it.
func held(t *testing.T, size int, env ...string) (s *harness.Server, project string) {
	t.Helper()
	noise := make([]byte, size)
	rand.NewChaCha8([32]byte{7}).Read(noise)
	body, hash := packed(t, harness.Files{"noise.bin": string(noise)})
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/gzip")
		_, _ = w.Write(body)
	}))
	defer web.Close()
	s = harness.Start(t, append(env, "PACKBASE_PULL="+strings.TrimPrefix(web.URL, "http://"))...)
	s.Get("/u/" + strings.Replace(web.URL, "://", "/", 1) + "/noise.tar.gz")
	project = t.TempDir()
	manifest := fmt.Sprintf(".{ .name = \"app\", .version = \"1.0.0\", .paths = .{\"\"}, .dependencies = .{ .a = .{ .url = %q, .hash = %q } } }",
		web.URL+"/noise.tar.gz", hash)
	if err := os.WriteFile(filepath.Join(project, "build.zig.zon"), []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	return s, project
}

// A disk that fills while a bundle or a cache is written leaves nothing that looks whole, and says so; the same goes well
// once there is room. A server whose own disk is full gives bundles all the same.
func TestDiskFullOfBundle(t *testing.T) {
	t.Parallel()
	const size = 6 << 20
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=32m"); errors.Is(err, syscall.EPERM) {
		t.Skip("mounting a small disk needs root")
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	s, project := held(t, size)
	run := func(args ...string) error {
		_, stderr, err := harness.Run(t, append(slices.Clone(s.Env), "PACKBASE_URL="+s.URL), args...)
		if err != nil {
			err = fmt.Errorf("%w: %s", err, stderr)
		}
		return err
	}
	filler := filepath.Join(disk, "filler")
	for what, args := range map[string][]string{
		"bundle": {"bundle", "-o", filepath.Join(disk, "x.tar"), project},
		"warm":   {"warm", "--require-all", "--cache-dir", filepath.Join(disk, "cache"), project},
	} {
		if err := os.WriteFile(filler, make([]byte, free(t, disk)-size*2/3), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := run(args...); err == nil || !strings.Contains(err.Error(), "no space left") {
			t.Errorf("%s on a full disk: %v, want that there is no space left", what, err)
		}
		left := files(t, disk)
		if len(left) != 1 {
			t.Errorf("%s on a full disk leaves %q", what, left)
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		if err := run(args...); err != nil {
			t.Errorf("%s with room: %v", what, err)
		}
		for _, name := range files(t, disk) {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	full, project := held(t, size/3, "PACKBASE_ROOT="+filepath.Join(disk, "root"))
	if err := os.WriteFile(filler, make([]byte, free(t, disk)-64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	s = full
	if err := run("bundle", "-o", filepath.Join(t.TempDir(), "x.tar"), project); err != nil {
		t.Errorf("a bundle of a server whose disk is full: %v", err)
	}
	s.Stop()
}

// files returns the names of the files in a folder and below.
func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// 200 clients that read a bundle slowly keep nobody else waiting, and are cut once they move too little.
func TestSlowBundleReaders(t *testing.T) {
	t.Parallel()
	s, project := held(t, 16<<20)
	text, err := os.ReadFile(filepath.Join(project, "build.zig.zon"))
	if err != nil {
		t.Fatal(err)
	}
	body := fmt.Sprintf(`{"manifests":[{"file":"build.zig.zon","text":%q}]}`, text)
	ctx, cut := context.WithCancel(t.Context())
	defer cut()
	var begun, all sync.WaitGroup
	for range 200 {
		begun.Add(1)
		all.Go(func() {
			conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
			if err != nil {
				t.Error(err)
				begun.Done()
				return
			}
			defer conn.Close()
			_ = conn.(*net.TCPConn).SetReadBuffer(16 << 10)
			fmt.Fprintf(conn, "POST /api/bundle HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			resp, err := http.ReadResponse(bufio.NewReaderSize(conn, 4<<10), nil)
			begun.Done()
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Errorf("a slow reader: %+v, %v", resp, err)
				return
			}
			for ctx.Err() == nil {
				if _, err := io.CopyN(io.Discard, resp.Body, 1<<10); err != nil {
					return
				}
				time.Sleep(200 * time.Millisecond)
			}
		})
	}
	begun.Wait()
	for range 3 {
		took := time.Now()
		if out, stderr, err := harness.Run(t, append(slices.Clone(s.Env), "PACKBASE_URL="+s.URL), "bundle", "-o", filepath.Join(t.TempDir(), "x.tar"), project); err != nil {
			t.Errorf("a reader who is not slow: %v\n%s%s", err, out, stderr)
		}
		s.Get("/api/list")
		if d := time.Since(took); d > harness.Slack(10*time.Second) {
			t.Errorf("a reader who is not slow took %v", d)
		}
	}
	cut()
	all.Wait()
	s.Stop() // in time: nobody holds it
}

// A client that goes while it waits for a pull leaves nothing behind but what it asked for, which the next one has without
// upstream.
func TestClientOfPullVanishes(t *testing.T) {
	t.Parallel()
	body, _ := packed(t, harness.Files{"a.txt": "a"})
	arrived, release := make(chan struct{}, 10), make(chan struct{})
	var asked atomic.Int64
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		arrived <- struct{}{}
		<-release
		w.Header().Set("Content-Type", "application/gzip")
		_, _ = w.Write(body)
	}))
	defer web.Close()
	s := harness.Start(t, "PACKBASE_PULL="+strings.TrimPrefix(web.URL, "http://"))
	at := s.URL + "/u/" + strings.Replace(web.URL, "://", "/", 1) + "/x.tar.gz"
	ctx, leave := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
			if err != nil {
				t.Error(err)
				return
			}
			if resp, err := http.DefaultClient.Do(req); err == nil {
				t.Errorf("answered with %s before upstream was", resp.Status)
				resp.Body.Close()
			}
		})
	}
	<-arrived
	leave()
	all.Wait()
	close(release)
	resp, err := http.Get(at)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || !bytes.Equal(got, body) || asked.Load() != 1 {
		t.Errorf("%s, %d bytes, %v; upstream was asked %d times, want once; %.200q", resp.Status, len(got), err, asked.Load(), got)
	}
}
