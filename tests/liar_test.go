package tests_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/francescobianco/packbase/storage/bundle"
	"github.com/francescobianco/packbase/tests/harness"
)

// A server that lies, or somebody between, brings nothing into a cache that is not proved, and nothing onto a terminal but text.
func TestLiar(t *testing.T) {
	t.Parallel()
	s, up := harness.Start(t), harness.NewUpstream(t)
	hashes, deps := map[string]string{}, map[string]string{}
	for _, name := range []string{"one", "two"} {
		repo := up.Repo(name)
		commit := repo.Commit(harness.Files{"src/root.zig": "// " + name + "\n", "build.zig.zon": fmt.Sprintf(
			".{ .name = .%s, .version = \"1.0.0\", .fingerprint = 0x%08x12345678, .paths = .{\"\"} }\n", name, crc32.ChecksumIEEE([]byte(name)))})
		repo.Tag("v1.0.0", commit)
		s.Fetch(repo.URL)
		hashes[name] = s.Info(name).Release(t, "v1.0.0").Zig.Hash
		deps[name] = fmt.Sprintf(".%s = .{ .url = \"git+%s#%s\", .hash = \"%s\" }, ", name, repo.URL, commit, hashes[name])
	}
	s.Log(4)
	base, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	var lie atomic.Pointer[http.HandlerFunc]
	honest := httputil.NewSingleHostReverseProxy(base)
	liar := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/log/") && r.Header.Get("Authorization") != "" {
			t.Errorf("%s is asked for with a token", r.URL.Path)
		}
		if f := lie.Load(); f != nil {
			(*f)(w, r)
			return
		}
		honest.ServeHTTP(w, r)
	}))
	defer liar.Close()
	tell := func(f http.HandlerFunc) { lie.Store(&f) }
	project, cache := t.TempDir(), t.TempDir()
	env := append(s.Env, "PACKBASE_URL="+liar.URL, "XDG_CONFIG_HOME="+t.TempDir(), "PATH=/nonexistent", "PACKBASE_TOKEN="+s.Token)
	run := func(args ...string) (string, error) {
		out, errs, err := harness.Run(t, env, args...)
		return out + errs, err
	}
	write := func(deps string) {
		text := ".{ .name = .app, .version = \"0.0.0\", .fingerprint = " + fmt.Sprintf("0x%08x12345678", crc32.ChecksumIEEE([]byte("app"))) + ", .paths = .{\"\"}, .dependencies = .{ " + deps + "} }\n"
		if err := os.WriteFile(filepath.Join(project, "build.zig.zon"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(deps["one"])
	for _, args := range [][]string{{"trust"}, {"warm", "--require-proof", "--cache-dir", cache, project}} {
		if said, err := run(args...); err != nil {
			t.Fatalf("%q: %v, %s", args, err, said)
		}
	}

	// What is not proved comes as another hash of what is, and is there already.
	write(deps["one"] + deps["two"])
	body := s.Get("/p/two/tag/v1.0.0.tar.gz")
	sum := sha256.Sum256(body)
	tell(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/api/bundle":
			m := bundle.Manifest{Packages: []bundle.Package{{Hash: hashes["one"], Aliases: []string{hashes["two"]}, SHA256: hex.EncodeToString(sum[:]), Size: int64(len(body))}}}
			if err := bundle.Write(w, m, func(bundle.Package) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }); err != nil {
				t.Error(err)
			}
		case strings.Contains(r.URL.Path, hashes["two"]):
			http.NotFound(w, r)
		default:
			honest.ServeHTTP(w, r)
		}
	})
	said, err := run("warm", "--require-proof", "--cache-dir", cache, project)
	if err == nil || !strings.Contains(said, hashes["two"]+": no proof") {
		t.Errorf("what has no proof is warmed: %v, %s", err, said)
	}
	if found, _ := filepath.Glob(filepath.Join(cache, "p", hashes["two"]+"*")); len(found) > 0 {
		t.Errorf("stored without a proof: %v", found)
	}

	// Reasons come with what could steer a terminal.
	tell(func(w http.ResponseWriter, r *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		fmt.Fprint(c, "HTTP/1.1 500 \x1b]0;owned\x07\x1b[2J\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		c.Close()
	})
	for _, args := range [][]string{{"compare", "--with", s.URL}, {"watch", "https://example.org/*"}} {
		said, err := run(args...)
		if err == nil || !strings.Contains(said, "500") || strings.ContainsAny(said, "\x1b\x07") {
			t.Errorf("%q: %v, %q; want an error that is text", args, err, said)
		}
	}
}
