package proxy

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/storage/name"
)

// A shelf is a store in memory. What can be pulled is put on it then.
type shelf struct {
	archives map[string]string
	repos    map[string]string
	pullable map[string]string
	pulls    []string
}

func (s *shelf) ServeArchive(w http.ResponseWriter, _ *http.Request, d name.Dependency) error {
	body, ok := s.archives[d.URL]
	if !ok {
		return ErrMissing
	}
	w.Header().Set("Content-Type", "application/gzip")
	io.WriteString(w, body)
	return nil
}

func (s *shelf) Pull(_ http.ResponseWriter, _ *http.Request, d name.Dependency) error {
	s.pulls = append(s.pulls, d.URL)
	body, ok := s.pullable[d.URL]
	if !ok {
		return NotOpened(d, "http://m/why")
	}
	s.archives[d.URL] = body
	return nil
}

func (s *shelf) ServeGit(w http.ResponseWriter, r *http.Request, d name.Dependency, service string) error {
	pkg, ok := s.repos[d.Repository]
	if !ok {
		return ErrMissing
	}
	body, err := io.ReadAll(r.Body)
	fmt.Fprintf(w, "git %s %s %s (%d, %v)", pkg, service, d.Ref, len(body), err)
	return nil
}

func serve(t *testing.T, names ...string) (*shelf, *Proxy, string) {
	t.Helper()
	s := &shelf{
		archives: map[string]string{"https://files.example.org/a%2Fb//x.tar.gz?y=%20": "x", "http://files.example.org/plain.zip": "plain", "http://github.com/plain.zip": "plain over http"},
		repos:    map[string]string{"https://github.com/o/r": "r"},
		pullable: map[string]string{"https://github.com/o/r/archive/v1.tar.gz": "v1"},
	}
	var p *Proxy
	srv := httptest.NewUnstartedServer(nil)
	p = New(s, Options{
		Own:    Own(names, func(host string) bool { return host == "github.com" }),
		Client: func(r *http.Request) string { host, _, _ := net.SplitHostPort(r.RemoteAddr); return host },
		Fail:   func(w http.ResponseWriter, _ *http.Request, err error) { http.Error(w, err.Error(), 500) },
	})
	srv.Config.Handler = p.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "own "+r.URL.Path) }))
	srv.Start()
	t.Cleanup(srv.Close)
	return s, p, srv.Listener.Addr().String()
}

// ask sends a request line and a Host as they are.
func ask(t *testing.T, addr, line, host, agent string) (*http.Response, string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: %s\r\nUser-Agent: %s\r\nContent-Length: 0\r\n\r\n", line, host, agent)
	method, _, _ := strings.Cut(line, " ")
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return resp, string(body)
}

const zig = "zig/0.15.2 (std.http)"

// What is meant for other hosts never reaches a route of ours, and the other way round.
func TestWrap(t *testing.T) {
	t.Parallel()
	_, _, addr := serve(t)
	tests := []struct {
		line, host string
		status     int
		want       string
	}{
		{"GET https://files.example.org/a%2Fb//x.tar.gz?y=%20", "files.example.org", 200, "x"},
		{"GET https://us:pw@FILES.example.org:443/a%2Fb//x.tar.gz?y=%20", "files.example.org:443", 200, "x"},
		{"GET http://files.example.org/plain.zip", "files.example.org", 200, "plain"},
		{"GET https://files.example.org/plain.zip", "files.example.org", 404, "files.example.org/plain.zip is not mirrored here"},
		{"GET https://github.com/p/hello/tag/v1.tar.gz", "github.com", 404, "github.com/p/hello/tag/v1.tar.gz is not mirrored here"},
		{"GET https://github.com/o/r.git/info/refs?service=git-upload-pack", "github.com", 200, "git r info/refs"},
		{"POST https://github.com/o/r/git-upload-pack", "github.com", 200, "git r git-upload-pack"},
		{"POST https://github.com/o/r/git-receive-pack", "github.com", 405, "an archive is fetched with GET"},
		{"DELETE https://github.com/o/r", "github.com", 405, "only GET and POST"},
		{"GET ftp://files.example.org/x.tar", "files.example.org", 400, "Zig fetches http"},
		{"GET https://github.com/o/r/archive/v1.tar.gz", "github.com", 200, "v1"}, // by a pull
		{"GET /o/r/archive/v1.tar.gz", "github.com", 200, "v1"},                   // through nginx
		{"GET /h.tar.gz", "plain.github.com", 200, "own /h.tar.gz"},
		{"GET /plain.zip", "github.com", 200, "plain over http"}, // it had the scheme, which nginx drops
		{"GET /p/hello", "github.com", 404, "github.com/p/hello is not mirrored here"},
		{"GET /p/hello", "packbase.example.org", 200, "own /p/hello"},
		{"GET http://" + addr + "/p/hello", addr, 200, "own /p/hello"},
		{"GET /u/https/files.example.org/a%2Fb//x.tar.gz?y=%20", addr, 200, "x"},
		{"GET http://" + addr + "/u/http/files.example.org/plain.zip", addr, 200, "plain"},
		{"GET /u/https/github.com/o/r/info/refs?service=git-upload-pack", addr, 200, "git r info/refs"},
		{"GET /u/http/" + addr + "/p/hello", addr, 200, "own /p/hello"},
		{"GET /u/http/" + addr + "/u/http/" + addr + "/p/hello", addr, 508, "leads back"},
		{"GET http://" + addr + "/u/http/" + addr + "/p/hello", addr, 200, "own /p/hello"},
		{"GET /u/gopher/files.example.org/x", addr, 404, "a prefix URL is /u/https/host/path"},
	}
	for _, tt := range tests {
		resp, body := ask(t, addr, tt.line, tt.host, "curl/8")
		if resp.StatusCode != tt.status || !strings.Contains(body, tt.want) {
			t.Errorf("%s (Host %s): got %d %q, want %d %q", tt.line, tt.host, resp.StatusCode, body, tt.status, tt.want)
		}
		if foreign := !strings.HasPrefix(body, "own"); foreign && !resp.Close {
			t.Errorf("%s: the connection stays open", tt.line)
		}
	}
}

// With names set, everything else is foreign.
func TestNames(t *testing.T) {
	t.Parallel()
	_, _, addr := serve(t, "packbase.example.org")
	for host, want := range map[string]string{
		"packbase.example.org": "own", "packbase.example.org:8443": "own", "other.example.org": "other.example.org/p/x is not mirrored", "127.0.0.1": "own",
	} {
		if _, body := ask(t, addr, "GET /p/x", host, "curl/8"); !strings.Contains(body, want) {
			t.Errorf("Host %s: got %q, want %q", host, body, want)
		}
	}
}

// Zig is told why in the one way that it prints, others by a status.
func TestRefusal(t *testing.T) {
	t.Parallel()
	_, p, addr := serve(t)
	const reason = "h.example.org/x.tar.gz is not mirrored here; `packbase capture` brings a project's whole tree; see http://m/why"
	resp, body := ask(t, addr, "GET https://h.example.org/x.tar.gz", "h.example.org", zig)
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "packbase: "+reason || body != "" {
		t.Errorf("zig: got %d %v %q", resp.StatusCode, resp.Header, body)
	}
	resp, body = ask(t, addr, "GET https://h.example.org/r/info/refs?service=git-upload-pack", "h.example.org", zig)
	if resp.StatusCode != 404 || resp.Header.Get("X-Packbase-Reason") == "" {
		t.Errorf("zig with git: got %d %v %q", resp.StatusCode, resp.Header, body)
	}
	resp, _ = ask(t, addr, "CONNECT h.example.org:443", "h.example.org:443", zig)
	if resp.StatusCode != 405 || resp.ContentLength != 0 || !resp.Close {
		t.Errorf("CONNECT: got %d %v", resp.StatusCode, resp.Header)
	}
	from := func(client string) *http.Request { return &http.Request{RemoteAddr: client + ":1"} }
	why := p.Why(from("127.0.0.1"))
	if len(why) != 2 || why[1] != reason || !slices.ContainsFunc(why, func(s string) bool { return strings.HasPrefix(s, "h.example.org/r is") }) {
		t.Errorf("why = %q", why)
	}
	if other := p.Why(from("192.0.2.1")); len(other) != 0 {
		t.Errorf("another client is told %q", other)
	}
}

// Nothing that a URL has hidden reaches the terminal on which Zig prints a reason, or /why.
func TestReasonIsText(t *testing.T) {
	t.Parallel()
	_, p, at := serve(t)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+at+"/u/https/h.example/%1B%C2%9B31m%E2%80%AE%E2%81%A6%FFx.zip", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("User-Agent", "zig/0.16.0 (std.http)")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	const want = "h.example/  31m  \ufffdx.zip is not mirrored here"
	for where, text := range map[string]string{
		"Content-Type": resp.Header.Get("Content-Type"), "X-Packbase-Reason": resp.Header.Get("X-Packbase-Reason"),
		"why": p.Why(&http.Request{RemoteAddr: "127.0.0.1:1"})[0],
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s: %q, want %q", where, text, want)
		}
	}
}

// What a request of Git wants is found without taking anything from it.
func TestWanted(t *testing.T) {
	t.Parallel()
	const commit = "7e9f8b1a7e9f8b1a7e9f8b1a7e9f8b1a7e9f8b1a"
	fetch := "0012command=fetch\n0015agent=zig/0.13.0\n0001000eofs-delta\n0010no-progress\n000ddeepen 1\n"
	list := func(prefixes ...string) string {
		body := "0014command=ls-refs\n0001"
		for _, p := range prefixes {
			body += fmt.Sprintf("%04xref-prefix %s\n", len(p)+16, p)
		}
		return body + "0000"
	}
	for name, tt := range map[string]struct{ body, want string }{
		"zig":            {fetch + "0032want " + commit + "\n0009done\n0000", commit},
		"zig 0.14":       {fetch + "004awant " + commit + strings.Repeat("\x00", 24) + "\n0009done\n0000", commit},
		"version 0":      {"0045want " + commit + " ofs-delta agent=git\n00000009done\n", commit},
		"a tag":          {list("v1", "refs/heads/v1"), "v1"},
		"a tag, in full": {list("refs/tags/v1"), "v1"},
		"HEAD":           {list("HEAD", "refs/heads/"), ""},
		"nothing":        {"", ""},
		"cut":            {"0032want " + commit[:10], ""},
		"no length":      {"zzzzwant " + commit, ""},
		"long":           {fetch + strings.Repeat("0032have "+commit+"\n", 10_000), ""},
	} {
		for _, zipped := range []bool{false, true} {
			body := tt.body
			if zipped {
				var b bytes.Buffer
				z := gzip.NewWriter(&b)
				io.WriteString(z, body)
				z.Close()
				body = b.String()
			}
			r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
			if zipped {
				r.Header.Set("Content-Encoding", "gzip")
			}
			got, err := wanted(r)
			if err != nil || got != tt.want {
				t.Errorf("%s: wanted = %q, %v, want %q", name, got, err, tt.want)
			}
			if again, err := io.ReadAll(r.Body); err != nil || string(again) != body {
				t.Errorf("%s: the body is another then: %d bytes, %v, want %d", name, len(again), err, len(body))
			}
		}
	}
}
