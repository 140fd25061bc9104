// Package proxy_test holds nginx and Caddy, as docker/ configures them, to
// what clients of packbase need of them: nothing is changed, held back or cut.
package proxy_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/pktline"
	"github.com/francescobianco/packbase/tests/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

const (
	large    = 24 << 20 // bytes of the large package, which do not compress
	manyTags = 1500     // whose wants are more than Git keeps in memory to send at once
)

func TestProxies(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	small := up.Repo("small")
	small.Release("v1.0.0")
	small.Release("release/v1.1.0+a")
	noise := make([]byte, large)
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
	big := up.Repo("big")
	big.Tag("v1.0.0", big.Commit(harness.Files{"noise.bin": string(noise), "a.zig": "const a = 1;\n"}))
	fillTags(up.Repo("many"))
	s := harness.Start(t, "PACKBASE_NAMES=localhost")
	for _, name := range []string{"small", "big", "many"} {
		s.Fetch(up.URL + "/" + name)
	}
	rebind(t, s, "small", "https://github.com/o/small")
	hanging := harness.NewUpstream(t) // with jobs that go on
	hanging.Answer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))

	tests := []struct {
		name  string
		start func(t *testing.T, api string, pairs ...string) *proxy
		pairs []string
	}{
		{"nginx", startNginx, nil},
		// As those have it who do not read ours.
		{"nginx that buffers", startNginx, []string{"proxy_request_buffering off", "proxy_request_buffering on", "proxy_buffering off", "proxy_buffering on"}},
		{"caddy", startCaddy, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := tt.start(t, s.URL, tt.pairs...)
			t.Run("same answers", func(t *testing.T) { p.sameAnswers(t, s) })
			t.Run("bodies", func(t *testing.T) { p.bodies(t, s) })
			t.Run("events", func(t *testing.T) {
				p.events(t, s.Ask(hanging.URL+"/"+strings.ReplaceAll(tt.name, " ", "-")))
			})
			t.Run("git", p.git)
			t.Run("zig", func(t *testing.T) { p.zig(t, s) })
			if p.Plain != "" {
				t.Run("zig's proxy", func(t *testing.T) { p.zigProxy(t, s) })
			}
		})
	}
}

// fillTags makes many commits with a tag each, faster than one by one.
func fillTags(repo *harness.Repo) {
	var in strings.Builder
	for i := range manyTags {
		fmt.Fprintf(&in, "commit refs/heads/main\ncommitter C O Mitter <committer@example.com> %d +0000\ndata 0\n", 1_700_000_000+i)
		fmt.Fprintf(&in, "M 644 inline a.zig\ndata <<END\n%d\nEND\n\nreset refs/tags/v0.%d.0\nfrom refs/heads/main\n\n", i, i)
	}
	repo.GitInput(in.String(), "fast-import", "--quiet")
}

// An exchange is a request and what came back.
type exchange struct {
	method, path string
	header       http.Header
	body         func() io.Reader // chunked unless its length can be seen
}

// ask sends the request and returns the status, what matters of the header,
// and the body.
func (e exchange) ask(t *testing.T, client *http.Client, base string) (summary string, body []byte, major int) {
	t.Helper()
	var in io.Reader
	if e.body != nil {
		in = e.body()
	}
	req, err := http.NewRequestWithContext(t.Context(), e.method, base+e.path, in)
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range e.header {
		req.Header[name] = values
	}
	resp, err := client.Transport.RoundTrip(req) // no redirects
	if err != nil {
		t.Fatalf("%s %s: %v", e.method, e.path, err)
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err != nil {
		t.Fatalf("%s %s: read answer: %v", e.method, e.path, err)
	}
	summary = resp.Status
	for _, name := range []string{"Content-Type", "Content-Encoding", "Content-Range", "Accept-Ranges", "ETag", "Last-Modified",
		"Cache-Control", "Vary", "Location", "Www-Authenticate", "X-Packbase-Error"} {
		summary += fmt.Sprintf("\n%s: %q", name, resp.Header.Values(name))
	}
	// What has no body may come without its length.
	if e.method != http.MethodHead && resp.StatusCode == http.StatusOK && resp.ContentLength >= 0 {
		summary += fmt.Sprintf("\nContent-Length: %d", resp.ContentLength)
	}
	return summary, body, resp.ProtoMajor
}

// same fails unless the answer through the proxy is the one without it.
func (p *proxy) same(t *testing.T, s *harness.Server, e exchange) {
	t.Helper()
	direct := &http.Client{Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true}}
	want, wantBody, _ := e.ask(t, direct, s.URL)
	for _, http2 := range []bool{false, true} {
		got, body, major := e.ask(t, p.client(t, http2), p.URL)
		if (major == 2) != http2 {
			t.Errorf("%s %s: HTTP/%d", e.method, e.path, major)
		}
		if strings.Replace(got, "HTTP/2.0", "HTTP/1.1", 1) != want || !bytes.Equal(body, wantBody) {
			t.Errorf("%s %s: got\n%s\nand %d bytes, want\n%s\nand %d bytes", e.method, e.path, got, len(body), want, len(wantBody))
		}
	}
}

func (p *proxy) sameAnswers(t *testing.T, s *harness.Server) {
	digest := s.Info("small").Release(t, "v1.0.0").SHA256
	get := func(path string, header http.Header) exchange {
		return exchange{method: http.MethodGet, path: path, header: header}
	}
	for _, e := range []exchange{
		get("/p/small/tag/v1.0.0.tar.gz", nil),
		get("/p/small/tag/v1.0.0.tar.gz", http.Header{"Accept-Encoding": {"gzip, br"}}),
		get("/p/small/tag/v1.0.0.tar.gz", http.Header{"Range": {"bytes=10-99"}}),
		get("/p/small/tag/v1.0.0.tar.gz", http.Header{"If-None-Match": {`"` + digest + `"`}}),
		{method: http.MethodHead, path: "/p/small/tag/v1.0.0.tar.gz"},
		get("/p/small/tag/release/v1.1.0+a.tar.gz", nil),
		get("/p/small/tag/v1.0.0.json", http.Header{"Accept-Encoding": {"gzip, br"}}),
		get("/p/big/tag/v1.0.0.tar.gz", nil),
		get("/api/list", http.Header{"Accept-Encoding": {"gzip, br"}}),
		get("/small/info/refs?service=git-upload-pack", http.Header{"Git-Protocol": {"version=2"}}),
		get("/small/info/refs?service=git-upload-pack", nil),
		get("/many.git/info/refs?service=git-upload-pack", http.Header{"Accept-Encoding": {"deflate, gzip"}}),
		get("/u/https/github.com/o/small/archive/v1.0.0.tar.gz", nil),
		get("/u/https/github.com/o/small/archive/refs/tags/release/v1.1.0+a.tar.gz", http.Header{"User-Agent": {"zig/0.15.2 (std.http)"}}),
		get("/u/https/github.com/o/small/info/refs?service=git-upload-pack", http.Header{"Git-Protocol": {"version=2"}}),
		get("/u/https/files.example.org/a%2Fb//x.tar.gz?y=%20", nil),
		get("/u/https/files.example.org/a%2Fb//x.tar.gz?y=%20", http.Header{"User-Agent": {"zig/0.15.2 (std.http)"}}),
	} {
		p.same(t, s, e)
	}
	// What is told to clients to ask for is by HTTPS, whatever they say.
	for _, path := range []string{"/small", "/feed.atom", "/api/versions/small"} {
		e := get(path, http.Header{"Accept": {"text/html"}, "X-Forwarded-Proto": {"http"}})
		if _, body, _ := e.ask(t, p.client(t, true), p.URL); !bytes.Contains(body, []byte(p.URL+"/")) || bytes.Contains(body, []byte(strings.Replace(p.URL, "https", "http", 1)+"/")) {
			t.Errorf("GET %s: want URLs of %s and none by HTTP\n%s", path, p.URL, body)
		}
	}
	// Errors have an id of their own: only the status counts. The spelling of
	// a path must reach the api, which accepts one.
	for _, path := range []string{"/p/small/tag/nope.tar.gz", "/p/small/tag/v1.0.0%2Etar.gz", "/p/small/tag/release%2Fv1.1.0+a.tar.gz"} {
		want := s.Do(http.MethodGet, path, "", nil).Status
		if got, _, _ := get(path, nil).ask(t, p.client(t, true), p.URL); !strings.HasPrefix(got, fmt.Sprint(want)) {
			t.Errorf("GET %s: got %s, want %d", path, got, want)
		}
	}
}

// bodies sends requests as Git and Zig do: chunked, compressed, and long.
func (p *proxy) bodies(t *testing.T, s *harness.Server) {
	commit := s.Info("small").Release(t, "v1.0.0").Commit
	header := http.Header{"Content-Type": {"application/x-git-upload-pack-request"}, "Git-Protocol": {"version=2"}}
	zipped := header.Clone()
	zipped.Set("Content-Encoding", "gzip")
	list := []byte(pktline.Lines("command=ls-refs\n", pktline.Delim, "peel\n", "symrefs\n", pktline.Flush))
	fetch := []byte(pktline.Lines("command=fetch", pktline.Delim, "no-progress\n", "ofs-delta\n", "want "+commit+"\n", "done\n", pktline.Flush))
	long := []string{"command=fetch", pktline.Delim, "no-progress\n", "want " + commit + "\n"}
	for i := range 50_000 { // 2.5 MB
		long = append(long, fmt.Sprintf("have %040x\n", i+1))
	}
	chunked := func(b []byte) func() io.Reader {
		return func() io.Reader { return io.MultiReader(bytes.NewReader(b)) }
	}
	for name, e := range map[string]exchange{
		"chunked ls-refs": {header: header, body: chunked(list)},
		"chunked fetch":   {header: header, body: chunked(fetch)},
		"sized fetch":     {header: header, body: func() io.Reader { return bytes.NewReader(fetch) }},
		"gzip":            {header: zipped, body: func() io.Reader { return bytes.NewReader(gzipped(t, fetch)) }},
		"gzip, chunked":   {header: zipped, body: chunked(gzipped(t, fetch))},
		"long, chunked":   {header: header, body: chunked([]byte(pktline.Lines(append(long, "done\n", pktline.Flush)...)))},
	} {
		t.Run(name, func(t *testing.T) {
			e.method, e.path = http.MethodPost, "/small/git-upload-pack"
			p.same(t, s, e)
		})
	}
}

func gzipped(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// events wants to see the job while it runs.
func (p *proxy) events(t *testing.T, job string) {
	for _, http2 := range []bool{false, true} {
		resp, err := p.client(t, http2).Get(p.URL + "/api/jobs/" + job + "/events")
		if err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(resp.Body).ReadString('\n')
		resp.Body.Close()
		if line != "event: job\n" {
			t.Errorf("first line of events: got %q, %v, want a job", line, err)
		}
	}
}

func (p *proxy) git(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		want string // a file that is there then
	}{
		{"small", []string{"clone", p.URL + "/small"}, "README.md"},
		{"version 0", []string{"-c", "protocol.version=0", "clone", p.URL + "/git/small.git"}, "README.md"},
		{"http 1", []string{"-c", "http.version=HTTP/1.1", "clone", p.URL + "/small"}, "README.md"},
		{"big", []string{"clone", "--depth=1", "--branch=v1.0.0", p.URL + "/big.git"}, "noise.bin"},
		// Its wants do not fit into the buffer, so they are sent in chunks.
		{"many", []string{"-c", "http.postBuffer=65536", "clone", p.URL + "/many"}, "a.zig"},
		{"many, version 0", []string{"-c", "http.postBuffer=65536", "-c", "protocol.version=0", "clone", p.URL + "/many"}, "a.zig"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			args := append([]string{"-c", "http.sslCAInfo=" + p.CA}, tt.args...)
			if _, err := harness.Git(t, dir, "", append(args, "out")...); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(filepath.Join(dir, "out", tt.want)); err != nil {
				t.Error(err)
			}
			if tags, err := harness.Git(t, filepath.Join(dir, "out"), "", "tag"); strings.HasPrefix(tt.name, "many") && strings.Count(tags, "\n") != manyTags {
				t.Errorf("got %d tags, want %d (%v)", strings.Count(tags, "\n"), manyTags, err)
			}
		})
	}
}

// zig fetches by HTTPS, from Git and tarballs. Zig trusts what the machine
// trusts, so it runs where the machine seems to trust the proxy alone.
func (p *proxy) zig(t *testing.T, s *harness.Server) {
	const trusted = "/etc/ssl/certs/ca-certificates.crt"
	unshare := []string{"unshare", "--mount", "--map-root-user", "--"}
	if os.Geteuid() == 0 {
		unshare = []string{"unshare", "--mount", "--"}
	}
	if out, err := exec.Command(unshare[0], append(unshare[1:], "mount", "--bind", p.CA, trusted)...).CombinedOutput(); err != nil {
		t.Skipf("cannot make Zig trust a certificate: %v: %s", err, out)
	}
	for _, z := range harness.Zigs(t) {
		t.Run(z.Version, func(t *testing.T) {
			z := z.For(t)
			script := fmt.Sprintf("#!/bin/sh\nexec %s sh -c 'mount --bind %s %s && exec %s \"$@\"' zig \"$@\"\n",
				strings.Join(unshare, " "), p.CA, trusted, z.Path)
			z.Path = filepath.Join(t.TempDir(), "zig")
			// Linux does not execute what a child that is being started has open.
			syscall.ForkLock.RLock()
			err := os.WriteFile(z.Path, []byte(script), 0o700)
			syscall.ForkLock.RUnlock()
			if err != nil {
				t.Fatal(err)
			}
			for _, pkg := range []string{"small", "big"} {
				want := z.Hash(s.Info(pkg).Release(t, "v1.0.0"))
				for _, from := range []string{"git+" + p.URL + "/" + pkg + "#v1.0.0", p.URL + "/p/" + pkg + "/tag/v1.0.0.tar.gz"} {
					z.Forget(t.TempDir())
					if got, err := z.Fetch(from); got != want {
						t.Errorf("zig fetch %s: got %s, %v, want %s", from, got, err, want)
					}
				}
			}
		})
	}
}

// rebind has a package be of another upstream.
func rebind(t *testing.T, s *harness.Server, pkg, upstream string) {
	t.Helper()
	db, err := pgx.Connect(t.Context(), s.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(t.Context())
	if _, err := db.Exec(t.Context(), `UPDATE packages SET upstream = $2, clone_url = $2, changed_at = now() WHERE name = $1`, pkg, upstream); err != nil {
		t.Fatal(err)
	}
}

// zigProxy fetches by upstream's URLs, through what http_proxy names.
func (p *proxy) zigProxy(t *testing.T, s *harness.Server) {
	for _, z := range harness.Zigs(t) {
		want := z.Hash(s.Info("small").Release(t, "v1.0.0"))
		z.Env = []string{"http_proxy=" + p.Plain, "https_proxy=" + p.Plain}
		for _, from := range []string{"git+https://github.com/o/small#v1.0.0", "https://github.com/o/small/archive/v1.0.0.tar.gz"} {
			z.Forget(t.TempDir())
			if got, err := z.Fetch(from); got != want {
				t.Errorf("zig %s fetch %s: got %s, %v, want %s", z.Version, from, got, err, want)
			}
		}
		const none = "https://files.example.org/none.tar.gz"
		if _, err := z.Fetch(none); err == nil || !strings.Contains(err.Error(), "files.example.org/none.tar.gz is not mirrored here") {
			t.Errorf("zig %s fetch %s: %v, want the reason", z.Version, none, err)
		}
	}
}
