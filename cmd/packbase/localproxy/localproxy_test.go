package localproxy

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A remote is a packbase that has one tarball.
func remote(t *testing.T) *httptest.Server {
	t.Helper()
	var body bytes.Buffer
	z := gzip.NewWriter(&body)
	w := tar.NewWriter(z)
	for _, name := range []string{"a.txt", "b/c.txt"} {
		text := map[string]string{"a.txt": "hello", "b/c.txt": "world"}[name]
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(text)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, text)
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer secret" {
			t.Errorf("%s: Authorization = %q, want the token and nothing of the client's", r.RequestURI, r.Header.Get("Authorization"))
		}
		switch r.RequestURI {
		case "/base/u/https/files.example.org/a%2Fb//x.tar.gz?y=%20":
			w.Header().Set("Content-Type", "application/gzip")
			w.Write(body.Bytes())
		default:
			w.Header().Set("X-Packbase-Reason", "no "+r.RequestURI)
			w.Header().Set("Content-Type", "packbase: no "+r.RequestURI)
		}
	}))
	t.Cleanup(srv.Close)
	return srv
}

// What a server says is text when it comes to the terminal on which Zig prints it.
func TestReasonIsText(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "packbase: a\u009b31m\u202eb")
	}))
	t.Cleanup(srv.Close)
	base, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Start(t.Context(), Options{Remote: base, HTTP: &http.Client{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	proxy, err := url.Parse(p.URL)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy)}}
	resp, err := client.Get("http://files.example.org/x.zip")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, want := resp.Header.Get("Content-Type"), "packbase: a 31m b"; got != want {
		t.Errorf("Content-Type = %q, want %q", got, want)
	}
}

func start(t *testing.T, others bool) *Proxy {
	t.Helper()
	base, err := url.Parse(remote(t).URL + "/base")
	if err != nil {
		t.Fatal(err)
	}
	p, err := Start(t.Context(), Options{Remote: base, Token: "secret", Others: others, HTTP: &http.Client{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// Every Zig fetches an https URL through the proxy, and prints why it cannot.
func TestZig(t *testing.T) {
	t.Parallel()
	list := os.Getenv("PACKBASE_TEST_ZIGS")
	if list == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("PACKBASE_TEST_ZIGS is not set")
		}
		t.Skip("PACKBASE_TEST_ZIGS names no zig")
	}
	p := start(t, true)
	for _, path := range filepath.SplitList(list) {
		out, err := zig(t, path, p.URL, "https://us:pw@Files.Example.org/a%2Fb//x.tar.gz?y=%20")
		// V1 of the hash's test vectors.
		if !strings.Contains(out, "N-V-__8AAAoAAADGp8bdIAdYHy8tIxQg98g-HkXCLpVMejYf") && !strings.Contains(out, "1220c6a7c6dd2007581f2f2d231420f7c83e1e45c22e954c7a361f0b343daa9f0288") {
			t.Errorf("%s: got %q, %v", path, out, err)
		}
		out, err = zig(t, path, p.URL, "https://files.example.org/none.tar.gz")
		if err == nil || !strings.Contains(out, "packbase: no /base/u/https/files.example.org/none.tar.gz") {
			t.Errorf("%s: got %q, %v, want the reason", path, out, err)
		}
	}
	if want := []string{"no /base/u/https/files.example.org/none.tar.gz"}; !slices.Equal(p.Reasons(), want) {
		t.Errorf("reasons = %q, want %q", p.Reasons(), want)
	}
}

func zig(t *testing.T, path, proxy, target string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "build.zig"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, "fetch", target)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "http_proxy="+proxy, "https_proxy="+proxy)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// A tunnel is for other programs than zig, and only where that is wanted.
func TestConnect(t *testing.T) {
	t.Parallel()
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { echo.Close() })
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	for _, tt := range []struct {
		agent  string
		others bool
		want   int
	}{
		{"curl/8", true, http.StatusOK},
		{"curl/8", false, http.StatusMethodNotAllowed},
		{"zig/0.15.2 (std.http)", true, http.StatusMethodNotAllowed},
	} {
		p := start(t, tt.others)
		at, err := url.Parse(p.URL)
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", at.Host)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\nUser-Agent: %s\r\nProxy-Authorization: %s\r\n\r\n", echo.Addr(), tt.agent, p.secret)
		r := bufio.NewReader(c)
		resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
		if err != nil || resp.StatusCode != tt.want {
			t.Fatalf("%s: got %v, %v, want %d", tt.agent, resp, err, tt.want)
		}
		if tt.want != http.StatusOK {
			if resp.ContentLength != 0 || !resp.Close {
				t.Errorf("%s: got %v, want no content and a closed connection", tt.agent, resp.Header)
			}
			continue
		}
		io.WriteString(c, "hello\n")
		if line, err := r.ReadString('\n'); line != "hello\n" {
			t.Errorf("through the tunnel: got %q, %v", line, err)
		}
	}
}

// Others on this machine, who do not have the URL of the proxy, get nothing of it: not what its token may do, nor what its
// user may reach. The command itself gets packages.
func TestStrangers(t *testing.T) {
	t.Parallel()
	asked := ""
	packbase := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked += r.Method + " " + r.URL.Path + "\n" }))
	t.Cleanup(packbase.Close)
	base, err := url.Parse(packbase.URL)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Start(t.Context(), Options{Remote: base, Token: "secret", Others: true, HTTP: &http.Client{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	at, err := url.Parse(p.URL)
	if err != nil {
		t.Fatal(err)
	}
	own := at.User
	const zig, git = "zig/0.15.2 (std.http)", "git/2.39.5"
	for _, tt := range []struct {
		user                *url.Userinfo
		agent, method, path string
		want                int
	}{
		{nil, zig, http.MethodGet, "/x", http.StatusProxyAuthRequired},
		{nil, zig, http.MethodPost, "/api/tokens", http.StatusProxyAuthRequired},
		{nil, git, http.MethodGet, "/x", http.StatusProxyAuthRequired},
		{nil, git, http.MethodConnect, "", http.StatusProxyAuthRequired},
		{url.UserPassword("packbase", "guess"), zig, http.MethodGet, "/x", http.StatusProxyAuthRequired},
		{url.UserPassword("packbase", ""), git, http.MethodGet, "/x", http.StatusProxyAuthRequired},
		{own, zig, http.MethodPost, "/api/tokens", http.StatusMethodNotAllowed},
		{own, zig, http.MethodDelete, "/x", http.StatusMethodNotAllowed},
		{own, zig, http.MethodGet, "/x", http.StatusOK},
		{own, zig, http.MethodPost, "/x/git-upload-pack", http.StatusOK},
	} {
		c, err := net.Dial("tcp", at.Host)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		target, auth := packbase.URL+tt.path, ""
		if tt.method == http.MethodConnect {
			target = base.Host
		}
		if tt.user != nil {
			auth = "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(tt.user.String())) + "\r\n"
		}
		fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: %s\r\n%sContent-Length: 0\r\n\r\n", tt.method, target, base.Host, tt.agent, auth)
		resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: tt.method})
		if err != nil || resp.StatusCode != tt.want {
			t.Errorf("%s %s of %s as %v: got %v, %v, want %d", tt.method, target, tt.agent, tt.user, resp, err, tt.want)
		}
	}
	if want := strings.ReplaceAll("GET /u/http/HOST/x\nPOST /u/http/HOST/x/git-upload-pack\n", "HOST", base.Host); asked != want {
		t.Errorf("packbase was asked %q, want %q", asked, want)
	}
}
