//go:build pins

package pins

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/tests/harness"
)

// TestMain runs the tests where the forges' names are this machine: in a mount namespace with an /etc/hosts of its own.
func TestMain(m *testing.M) {
	if os.Getenv("PACKBASE_PINS_INSIDE") != "" {
		harness.Main(m)
	}
	file, err := os.CreateTemp("", "hosts-")
	if err == nil {
		_, err = fmt.Fprintf(file, "127.0.0.1 localhost %s\n", strings.Join(hosts, " "))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	cmd := exec.Command("unshare", slices.Concat([]string{"-m", "sh", "-c", `mount --bind "$0" /etc/hosts && exec "$@"`, file.Name()}, os.Args)...)
	cmd.Env = append(os.Environ(), "PACKBASE_PINS_INSIDE=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	err = cmd.Run()
	os.Remove(file.Name())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

var hosts = []string{"github.com", "codeload.github.com", "codeberg.org", "gitlab.com", "git.sr.ht", "pkg.machengine.org", "deps.files.ghostty.org",
	"invent.kde.org", "gitlab.gnome.org", "gitlab.freedesktop.org", "bitbucket.org"}

// A project is what is built: repo at ref, with the Zig that it wants.
type project struct{ repo, ref, zig string }

func (p project) String() string { return p.repo + "@" + p.ref }

// Real projects build unedited with all upstreams dead, in each of the ways.
//
//	PACKBASE_PINS_PROJECTS  owner/name@ref=zig, separated by commas
func TestProjects(t *testing.T) {
	f := newForge(t)
	s := harness.Start(t, f.env()...)
	zigs := map[string]*harness.Zig{}
	for _, z := range harness.Zigs(t) {
		zigs[z.Version] = z
	}
	var all []*checkout
	for _, each := range strings.Split(os.Getenv("PACKBASE_PINS_PROJECTS"), ",") {
		repo, rest, _ := strings.Cut(each, "@")
		ref, zig, ok := strings.Cut(rest, "=")
		if !ok || zigs[zig] == nil {
			t.Fatalf("%q is no owner/name@ref=zig with a Zig at hand", each)
		}
		b := &checkout{t: t, project: project{repo, ref, zig}, z: zigs[zig].For(t), s: s, dir: t.TempDir()}
		b.checkOut()
		all = append(all, b)
	}
	for _, b := range all {
		b.capture()
	}
	f.stop()
	table := []string{"| project | Zig | nodes | holes | warm | proxy | run | prefix | bundle |", "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"}
	for _, b := range all {
		table = append(table, b.row())
		t.Log(table[len(table)-1])
	}
	t.Log("\n" + strings.Join(table, "\n"))
}

// All pins are captured as the dependencies of one project. What is stored has the hash that is pinned.
func TestPinsCaptured(t *testing.T) {
	f := newForge(t)
	s := harness.Start(t, f.env()...)
	var zon strings.Builder
	// One pin has a hash that Zig 0.16 and later refuse: the manifest is one of earlier ones.
	zon.WriteString(".{ .name = \"pins\", .version = \"0.0.0\", .paths = .{\"\"}, .dependencies = .{\n")
	for i, p := range f.pins {
		fmt.Fprintf(&zon, ".d%d = .{ .url = %q, .hash = %q },\n", i, p.URL, p.Hash)
	}
	zon.WriteString("} }\n")
	body, err := json.Marshal(wire.Capture{Name: "pins", Manifest: zon.String()})
	if err != nil {
		t.Fatal(err)
	}
	var queued wire.CaptureQueued
	a := s.Do("POST", "/api/trees", string(body), nil)
	if a.Into(t, &queued); a.Status != http.StatusAccepted {
		t.Fatalf("capture: %d %s", a.Status, a.Body)
	}
	until := time.Now().Add(time.Hour)
	for ; time.Now().Before(until); time.Sleep(5 * time.Second) {
		if j := s.Job(queued.JobID); j.State != "queued" && j.State != "running" {
			break
		}
	}
	var info wire.TreeInfo
	if err := json.Unmarshal(s.Get("/api/trees/pins"), &info); err != nil {
		t.Fatal(err)
	}
	states := map[string]string{}
	for _, n := range info.Packages {
		states[n.Hash] = n.State
		if n.Code != "" {
			states[n.Hash] = n.Code + ": " + n.Reason
		}
	}
	count := map[string]int{}
	for _, p := range f.pins {
		state := states[p.Hash]
		count[strings.SplitN(state, ":", 2)[0]]++
		if state != "stored" {
			t.Logf("HOLE %s %s: %s", p.URL, p.Hash, state)
		}
	}
	t.Log(count, "pins;", len(info.Packages), "nodes")
}

// A checkout is a project's files, to be built.
type checkout struct {
	project
	t    *testing.T
	z    *harness.Zig
	s    *harness.Server
	dir  string
	tree wire.TreeInfo
}

func (b *checkout) checkOut() {
	b.t.Helper()
	out, err := exec.Command("git", "-c", "safe.directory=*", "-C", mirror(b.repo), "archive", "--format=tar", b.ref).Output()
	if err != nil {
		b.t.Fatalf("%v: %v", b, err)
	}
	for r := tar.NewReader(bytes.NewReader(out)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			b.t.Fatal(err)
		}
		path := filepath.Join(b.dir, h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path, 0o755)
		case tar.TypeSymlink:
			err = os.Symlink(h.Linkname, path)
		case tar.TypeReg:
			var content []byte
			if content, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(path, content, h.FileInfo().Mode())
			}
		}
		if err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *checkout) packbase(args ...string) error {
	stdout, stderr, err := harness.Run(b.t, append(slices.Clone(b.s.Env), "PACKBASE_URL="+b.s.URL), args...)
	if err != nil {
		return fmt.Errorf("%w\n%s%s", err, stdout, stderr)
	}
	return nil
}

func (b *checkout) capture() {
	if err := b.packbase("capture", "--wait", "--name", b.name(), b.dir); err != nil {
		b.t.Logf("%v: %v", b, err)
	}
	if err := json.Unmarshal(b.s.Get("/api/trees/"+b.name()), &b.tree); err != nil {
		b.t.Fatal(err)
	}
	for _, n := range b.tree.Packages {
		if n.State != "stored" {
			b.t.Logf("%v: HOLE %v lazy %v: %s: %s", b, n.URLs, n.Lazy, n.Code, n.Reason)
		}
	}
}

func (b *checkout) name() string { return strings.ToLower(filepath.Base(b.repo)) + "-" + b.ref }

func (b *checkout) build(before error) error {
	if before != nil {
		return before
	}
	start := time.Now()
	_, err := b.z.Run(b.dir, "build")
	b.t.Logf("%v: %.0f s", b, time.Since(start).Seconds())
	return err
}

func (b *checkout) row() string {
	verdicts := []string{}
	way := func(name string, build func() error) {
		b.z.Forget(b.dir)
		err := build()
		b.z.Env = nil
		verdicts = append(verdicts, "yes")
		if err != nil {
			verdicts[len(verdicts)-1] = "no"
			b.t.Errorf("%v %s: %.4000s", b, name, err)
		}
	}
	way("warm", func() error {
		return b.build(b.packbase("warm", "--zig", b.z.Path, "--cache-dir", b.z.Cache, b.dir))
	})
	way("proxy", func() error {
		b.z.Env = []string{"http_proxy=" + b.s.URL, "https_proxy=" + b.s.URL}
		return b.build(nil)
	})
	way("run", func() error {
		cmd := exec.Command(harness.Binary(b.t), "run", "--url", b.s.URL, "--", b.z.Path, "build")
		cmd.Dir = b.dir
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + b.dir, "ZIG_GLOBAL_CACHE_DIR=" + b.z.Cache}
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	way("prefix", b.prefix)
	file := filepath.Join(b.t.TempDir(), "tree.tar")
	way("bundle", func() error {
		err := b.packbase("bundle", "-o", file, b.dir)
		if err == nil {
			err = b.packbase("warm", "--from", file, "--zig", b.z.Path, "--cache-dir", b.z.Cache, b.dir)
		}
		return b.build(err)
	})
	os.Remove(file)
	holes := 0
	for _, n := range b.tree.Packages {
		if n.State != "stored" {
			holes++
		}
	}
	return fmt.Sprintf("| %v | %s | %d | %d | %s |", b.project, b.zig, len(b.tree.Packages), holes, strings.Join(verdicts, " | "))
}

// prefix fetches each package by its URLs behind the server's.
func (b *checkout) prefix() error {
	for _, n := range b.tree.Packages {
		if n.State != "stored" {
			continue
		}
		for _, u := range n.URLs {
			git := strings.HasPrefix(u, "git+")
			prefixed := b.s.URL + "/u/" + strings.Replace(strings.TrimPrefix(u, "git+"), "://", "/", 1)
			if git {
				prefixed = "git+" + prefixed
			}
			hash, err := b.z.Fetch(prefixed)
			if err != nil {
				return fmt.Errorf("%s: %w", prefixed, err)
			}
			if hash != n.Hash && !strings.HasPrefix(n.Hash, "1220") && !b.z.LegacyHash() {
				return fmt.Errorf("%s is %s, want %s", prefixed, hash, n.Hash)
			}
		}
	}
	return nil
}

func mirror(repo string) string {
	return filepath.Join(os.Getenv("PACKBASE_PINS_MIRRORS"), strings.ReplaceAll(repo, "/", "+"), "repo")
}

// A forge answers for all hosts: Git, and archives that it makes as a forge does.
type forge struct {
	t      *testing.T
	server *http.Server
	ca     string
	pins   []pin
	byURL  map[string]pin
	repos  map[string]string // owner/name in lower case, of folders and of pinned URLs
}

var owned = regexp.MustCompile(`^/([^/]+/[^/]+?)(?:\.git)?(/.*)?$`)

func newForge(t *testing.T) *forge {
	t.Helper()
	f := &forge{t: t, byURL: map[string]pin{}, repos: map[string]string{}}
	dirs, err := os.ReadDir(os.Getenv("PACKBASE_PINS_MIRRORS"))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		repo := strings.Replace(d.Name(), "+", "/", 1)
		f.repos[strings.ToLower(repo)] = repo
	}
	file, err := os.Open(os.Getenv("PACKBASE_PINS"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var p pin
		if err := json.Unmarshal(lines.Bytes(), &p); err != nil {
			t.Fatal(err)
		}
		f.pins = append(f.pins, p)
		f.byURL[strings.TrimPrefix(p.URL, "https://")] = p
		_, path, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(p.URL, "git+"), "https://"), "/")
		path, _, _ = strings.Cut(path, "#")
		path, _, _ = strings.Cut(path, "?")
		if m := owned.FindStringSubmatch("/" + strings.TrimSuffix(path, "/")); m != nil && f.repos[strings.ToLower(m[1])] == "" {
			f.repos[strings.ToLower(m[1])] = p.Repo
		}
	}
	f.start()
	t.Cleanup(f.stop)
	return f
}

func (f *forge) env() []string {
	return []string{"PACKBASE_UPSTREAM_ALLOW=127.0.0.0/8", "SSL_CERT_FILE=" + f.ca, "PACKBASE_WORKER_CONCURRENCY=4"}
}

func (f *forge) stop() { f.server.Close() }

func (f *forge) start() {
	f.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "forges"}, DNSNames: hosts, IsCA: true,
		BasicConstraintsValid: true, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		f.t.Fatal(err)
	}
	f.ca = filepath.Join(f.t.TempDir(), "ca.pem")
	if err := os.WriteFile(f.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		f.t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:443")
	if err != nil {
		f.t.Fatal(err)
	}
	f.server = &http.Server{Handler: f, TLSConfig: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}}
	go func() { _ = f.server.ServeTLS(ln, "", "") }()
}

var (
	archived  = regexp.MustCompile(`^/(?:-/)?archive/(?:refs/(?:tags|heads)/)?(.+?)(?:/[^/]+)?\.(tar\.gz|tgz|zip)$`)
	codeloads = regexp.MustCompile(`^/(tar\.gz|zip)/(?:refs/(?:tags|heads)/)?(.+)$`)
)

func (f *forge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m := owned.FindStringSubmatch(r.URL.Path)
	repo := ""
	if m != nil {
		repo = f.repos[strings.ToLower(m[1])]
	}
	pinned, isPinned := f.byURL[r.Host+r.URL.Path]
	switch {
	case repo != "" && (m[2] == "/info/refs" || m[2] == "/git-upload-pack"):
		f.git(w, r, repo, m[2])
	case repo != "" && r.Host == "github.com" && archived.MatchString(m[2]):
		a := archived.FindStringSubmatch(m[2])
		http.Redirect(w, r, "https://codeload.github.com/"+m[1]+"/"+strings.Replace(a[2], "tgz", "tar.gz", 1)+"/"+a[1], http.StatusFound)
	case repo != "" && r.Host == "codeload.github.com" && codeloads.MatchString(m[2]):
		c := codeloads.FindStringSubmatch(m[2])
		f.archive(w, repo, c[2], c[1])
	case repo != "" && archived.MatchString(m[2]):
		a := archived.FindStringSubmatch(m[2])
		f.archive(w, repo, a[1], a[2])
	case isPinned:
		f.archive(w, pinned.Repo, pinned.Commit, "tar.gz")
	default:
		http.NotFound(w, r)
	}
}

func (f *forge) archive(w http.ResponseWriter, repo, ref, format string) {
	out, err := exec.Command("git", "-c", "safe.directory=*", "-C", mirror(repo), "archive", "--format="+format,
		"--prefix="+filepath.Base(repo)+"-"+strings.TrimPrefix(ref, "v")+"/", ref).Output()
	if err != nil {
		http.Error(w, "no such ref", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = w.Write(out)
}

func (f *forge) git(w http.ResponseWriter, r *http.Request, repo, path string) {
	exe, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		f.t.Error(err)
		return
	}
	r.URL.Path = "/" + strings.ReplaceAll(repo, "/", "+") + "/repo" + path
	h := cgi.Handler{Path: filepath.Join(strings.TrimSpace(string(exe)), "git-http-backend"), Stderr: io.Discard, Env: []string{
		"GIT_PROJECT_ROOT=" + os.Getenv("PACKBASE_PINS_MIRRORS"), "GIT_HTTP_EXPORT_ALL=1", "GIT_PROTOCOL=" + r.Header.Get("Git-Protocol"),
		"GIT_CONFIG_COUNT=2", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
		"GIT_CONFIG_KEY_1=uploadpack.allowAnySHA1InWant", "GIT_CONFIG_VALUE_1=true"}}
	h.ServeHTTP(w, r)
}
