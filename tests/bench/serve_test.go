package bench

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage/pktline"
	"github.com/francescobianco/packbase/tests/harness"
)

// BenchmarkServe compares tarballs and depth-1 fetches with nginx that serves
// a file as large, and with git http-backend behind nginx, by wrk. All of them
// write a log of requests. PACKBASE_BENCH_REPO, if set, is what is fetched.
//
// Of a fetch, packbase's side is measured once for the three rows that it is in. What a handler of net/http reaches that
// writes the same from memory, and nothing else, is told beside: no server that is written with it can do better.
func BenchmarkServe(b *testing.B) {
	const rounds = 5
	up := harness.NewUpstream(b)
	random := rand.New(rand.NewPCG(1, 2))
	packages := []struct {
		name        string
		files, size int
		target      float64
	}{{"small", 8, 4_500, 0.8}, {"middle", 100, 5_300, 0.9}, {"large", 300, 29_500, 0.95}}
	for _, p := range packages {
		files := harness.Files{}
		for i := range p.files {
			files[fmt.Sprintf("src/file%d.zig", i)] = text(random, p.size)
		}
		repo := up.Repo(p.name)
		repo.Tag("v1.0.0", repo.Commit(files))
	}
	s := harness.Start(b, "PACKBASE_LOG=text,info")
	for _, p := range packages {
		s.Fetch(up.URL + "/" + p.name)
	}
	nginx, backend := startPeers(b, filepath.Dir(up.Repo("small").Dir))
	bare := startBare(b)

	for _, p := range packages {
		path := "/p/" + p.name + "/tag/v1.0.0.tar.gz"
		bare.content = s.Get(path)
		n := nginx.serveFile(b, p.name+".tar.gz", bare.content)
		ratio, detail := pairs(rounds, func() float64 { return wrk(b, 50, s.URL+path, "").rate },
			func() float64 { return wrk(b, 50, nginx.URL+"/"+p.name+".tar.gz", "").rate })
		result(fmt.Sprintf("tarball of %d KB against nginx, 50 connections", n/1000), atLeast(p.target, "×"), ratio,
			"requests/s: %s; net/http alone %s", detail, number(wrk(b, 50, bare.URL, "").rate))
	}

	name, tag := "middle", "v1.0.0"
	if own := os.Getenv("PACKBASE_BENCH_REPO"); own != "" {
		name = "own"
		up.Repo(name).Git("fetch", "-q", own, "refs/tags/*:refs/tags/*", "HEAD:refs/heads/main")
		s.Fetch(up.URL + "/" + name)
		tag = s.Info(name).LatestTag
	}
	commit := s.Info(name).Release(b, tag).Commit
	path := "/" + name + "/git-upload-pack"
	url, script := s.URL+path, fetchScript(b, commit)
	bare.content = depthOne(b, url, commit)
	n := nginx.serveFile(b, "pack", bare.content)
	what := fmt.Sprintf("depth-1 fetch of %d KB, 8 connections, against ", n/1000)
	var ours, theirs, file, ourTime, theirTime []float64
	for range rounds {
		rate, used := fetchLoad(b, url, script, s.API.PID())
		ours, ourTime = append(ours, rate), append(ourTime, used)
		rate, used = fetchLoad(b, nginx.URL+"/git"+path, script, nginx.pid, backend)
		theirs, theirTime = append(theirs, rate), append(theirTime, used)
		file = append(file, wrk(b, 8, nginx.URL+"/pack", "").rate)
	}
	before := ownTime(b)
	alone := wrk(b, 8, bare.URL, script)
	aloneTime := (ownTime(b) - before).Seconds() * 1000 / alone.requests
	ratio, detail := ratios(ours, theirs)
	result(what+"http-backend", atLeast(80, "×"), ratio, "requests/s: %s", detail)
	ratio, detail = ratios(ourTime, theirTime)
	result("the same: processor time", atMost(1./15, "×"), ratio, "ms: %s; net/http alone %s", detail, number(aloneTime))
	ratio, detail = ratios(ours, file)
	result(what+"a file of nginx", atLeast(0.7, "×"), ratio, "requests/s: %s; net/http alone %s", detail, number(alone.rate))
}

// A bareServer is a server of one content, with net/http and nothing else.
type bareServer struct {
	*httptest.Server
	content []byte
}

func startBare(b *testing.B) *bareServer {
	bare := &bareServer{}
	bare.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.Itoa(len(bare.content)))
		_, _ = w.Write(bare.content)
	}))
	b.Cleanup(bare.Close)
	return bare
}

// ownTime returns the processor time of this process, without its children.
func ownTime(b *testing.B) time.Duration {
	b.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// BenchmarkClones tells how much memory 200 clients that clone 100 MB at once
// take.
func BenchmarkClones(b *testing.B) {
	const clients, files, size = 200, 100, 1 << 20
	up := harness.NewUpstream(b)
	noise := rand.NewChaCha8([32]byte{})
	content := harness.Files{}
	for i := range files {
		buf := make([]byte, size)
		_, _ = noise.Read(buf)
		content[fmt.Sprintf("%d.bin", i)] = string(buf)
	}
	repo := up.Repo("big")
	repo.Tag("v1.0.0", repo.Commit(content))
	s := harness.Start(b, "PACKBASE_LOG=text,info")
	s.Fetch(repo.URL)
	commit := s.Info("big").Release(b, "v1.0.0").Commit
	depthOne(b, s.URL+"/big/git-upload-pack", commit) // warms
	idle := rss(b, s.API.PID())
	peak := idle
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for {
				resp, err := http.DefaultClient.Do(fetchRequest(b, s.URL+"/big/git-upload-pack", commit))
				if err != nil {
					b.Error(err)
					return
				}
				n, err := io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				switch {
				case resp.StatusCode == http.StatusServiceUnavailable: // in a queue, as Git's and Zig's users would be
					time.Sleep(100 * time.Millisecond)
					continue
				case err != nil || n < files*size:
					b.Errorf("clone: status %d, %d bytes, %v", resp.StatusCode, n, err)
				}
				return
			}
		})
	}
	go func() { wg.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		case <-time.After(20 * time.Millisecond):
			peak = max(peak, rss(b, s.API.PID()))
		}
	}
	result(fmt.Sprintf("api: %d clones of %d MB at once, above idle", clients, files*size/1_000_000), atMost(128, "MB"), float64(peak-idle)/1_000_000, "%d MB of idle", idle/1_000_000)
}

// text returns lines of n bytes that compresses to a bit more than half.
func text(random *rand.Rand, n int) string {
	var s strings.Builder
	for s.Len() < n {
		fmt.Fprintf(&s, "%016x\n", random.Uint64())
	}
	return s.String()[:n]
}

// A peer is an nginx that serves files, and Git's repositories below /git.
type peer struct {
	URL, dir string
	pid      int
}

// keep makes nginx serve content at /name and returns its length.
func (p *peer) serveFile(b *testing.B, name string, content []byte) int {
	b.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, "files", name), content, 0o644); err != nil {
		b.Fatal(err)
	}
	return len(content)
}

// startPeers runs nginx and fcgiwrap, and returns the process id of that, too.
func startPeers(b *testing.B, repositories string) (*peer, int) {
	b.Helper()
	dir := b.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "files"), 0o755); err != nil {
		b.Fatal(err)
	}
	out, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		b.Fatal(err)
	}
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;" // else it would drop to one who may not look here
	}
	port := harness.FreePort(b)
	config := fmt.Sprintf(`%s
daemon off; worker_processes 2; pid nginx.pid; error_log error.log; events { worker_connections 1024; }
http {
	access_log access.log;
	sendfile on; tcp_nopush on; keepalive_requests 1000000;
	client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
	server {
		listen 127.0.0.1:%d;
		root %s/files;
		location ~ ^/git(/.*)$ {
			fastcgi_pass unix:%[3]s/fcgi.sock;
			fastcgi_param SCRIPT_FILENAME %[4]s/git-http-backend;
			fastcgi_param GIT_PROJECT_ROOT %[5]s;
			fastcgi_param GIT_HTTP_EXPORT_ALL 1;
			fastcgi_param GIT_PROTOCOL $http_git_protocol;
			fastcgi_param PATH_INFO $1;
			fastcgi_param QUERY_STRING $query_string;
			fastcgi_param REQUEST_METHOD $request_method;
			fastcgi_param CONTENT_TYPE $content_type;
			fastcgi_param CONTENT_LENGTH $content_length;
			fastcgi_param REMOTE_ADDR $remote_addr;
			fastcgi_param HOME %[3]s;
		}
	}
}
`, user, port, dir, strings.TrimSpace(string(out)), repositories)
	if err := os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(config), 0o600); err != nil {
		b.Fatal(err)
	}
	// It marks the repositories as ours, whoever owns them.
	if err := os.WriteFile(filepath.Join(dir, ".gitconfig"), []byte("[safe]\ndirectory = *\n[uploadpack]\nallowAnySHA1InWant = true\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	backend := run(b, "fcgiwrap", "-c", "4", "-s", "unix:"+filepath.Join(dir, "fcgi.sock"))
	p := &peer{URL: fmt.Sprintf("http://127.0.0.1:%d", port), dir: dir}
	p.pid = run(b, "nginx", "-p", dir, "-c", filepath.Join(dir, "nginx.conf"), "-e", "stderr")
	harness.Eventually(b, "nginx and git http-backend answer", func() bool {
		resp, err := http.Get(p.URL + "/git/small/info/refs?service=git-upload-pack")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return p, backend
}

// run runs a server until the benchmark ends.
func run(b *testing.B, name string, args ...string) (pid int) {
	b.Helper()
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		b.Skipf("%v; `make bench` installs it", err)
	}
	b.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) // fcgiwrap leaves its children behind
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

// A load is what wrk measured.
type load struct {
	rate, requests float64
	median, p99    time.Duration
}

// wrk asks for url as often as it can for a second.
func wrk(b *testing.B, connections int, url, script string) *load {
	b.Helper()
	args := []string{"-t" + strconv.Itoa(min(2, connections)), "-c" + strconv.Itoa(connections), "-d1s", "--latency"}
	if script != "" {
		args = append(args, "-s", script)
	}
	out, err := exec.Command("wrk", append(args, url)...).CombinedOutput()
	if err != nil {
		b.Skipf("wrk: %v; `make bench` installs it\n%s", err, out)
	}
	if bytes.Contains(out, []byte("Non-2xx")) || bytes.Contains(out, []byte("Socket errors")) && !bytes.Contains(out, []byte("connect 0, read 0, write 0")) {
		b.Fatalf("wrk %s:\n%s", url, out)
	}
	l := &load{}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) > 2 && f[1] == "requests" {
			l.requests, err = strconv.ParseFloat(f[0], 64)
		} else if len(f) == 2 {
			switch f[0] {
			case "Requests/sec:":
				l.rate, err = strconv.ParseFloat(f[1], 64)
			case "50%":
				l.median, err = time.ParseDuration(f[1])
			case "99%":
				l.p99, err = time.ParseDuration(f[1])
			}
		}
		if err != nil {
			b.Fatalf("wrk: %v\n%s", err, out)
		}
	}
	return l
}

// fetch is what Zig sends to fetch a commit.
func fetch(commit string) string {
	return pktline.Lines("command=fetch", pktline.Delim,
		"no-progress\n", "ofs-delta\n", "deepen 1\n", "want "+commit+"\n", "done\n", pktline.Flush)
}

func fetchRequest(b *testing.B, url, commit string) *http.Request {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, url, strings.NewReader(fetch(commit)))
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-git-upload-pack-request")
	req.Header.Set("Git-Protocol", "version=2")
	return req
}

// depthOne returns the answer to a fetch.
func depthOne(b *testing.B, url, commit string) []byte {
	b.Helper()
	resp, err := http.DefaultClient.Do(fetchRequest(b, url, commit))
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		b.Fatalf("fetch: %s, %v", resp.Status, err)
	}
	return body
}

// fetchScript is the fetch for wrk.
func fetchScript(b *testing.B, commit string) string {
	b.Helper()
	file := filepath.Join(b.TempDir(), "fetch.lua")
	script := fmt.Sprintf("wrk.method = 'POST'\nwrk.body = %q\nwrk.headers['Content-Type'] = 'application/x-git-upload-pack-request'\nwrk.headers['Git-Protocol'] = 'version=2'\n", fetch(commit))
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		b.Fatal(err)
	}
	return file
}

// fetchLoad is wrk with 8 connections: requests a second, and the milliseconds that processes took for one.
func fetchLoad(b *testing.B, url, script string, pids ...int) (rate, used float64) {
	b.Helper()
	before := cpu(pids)
	l := wrk(b, 8, url, script)
	return l.rate, (cpu(pids) - before).Seconds() * 1000 / l.requests
}

// cpu returns the processor time of processes and their children, also those that have ended.
func cpu(pids []int) (total time.Duration) {
	const tick = 10 * time.Millisecond
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // it has ended, and its parent has its time
		}
		f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		for _, ticks := range f[11:15] { // utime, stime, cutime, cstime of proc(5)
			n, _ := strconv.Atoi(ticks)
			total += time.Duration(n) * tick
		}
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
		var below []int
		for _, child := range strings.Fields(string(children)) {
			n, _ := strconv.Atoi(child)
			below = append(below, n)
		}
		total += cpu(below)
	}
	return total
}

// rss returns the bytes of memory that a process has.
func rss(b *testing.B, pid int) int {
	b.Helper()
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		b.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(statm))[1])
	if err != nil {
		b.Fatal(err)
	}
	return pages * os.Getpagesize()
}
