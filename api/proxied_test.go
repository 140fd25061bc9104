package api_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/francescobianco/packbase/api"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/release/releasetest"
	"github.com/francescobianco/packbase/storage/tree"
)

const zigAgent = "zig/0.15.2 (std.http)"

// via asks as a client of a proxy does. target is a URL, or a path; header is names and values.
func (g *registry) via(ctx context.Context, method, target, body string, header ...string) (*answer, error) {
	g.t.Helper()
	conn := g.dial()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n", method, target, g.addr, len(body))
	for i := 0; i < len(header); i += 2 {
		fmt.Fprintf(conn, "%s: %s\r\n", header[i], header[i+1])
	}
	fmt.Fprintf(conn, "\r\n%s", body)
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return &answer{resp, b}, err
}

func (g *registry) mustVia(method, target, body string, header ...string) *answer {
	g.t.Helper()
	a, err := g.via(g.t.Context(), method, target, body, header...)
	if err != nil {
		g.t.Fatalf("%s %s: %v", method, target, err)
	}
	return a
}

func with(f files, path, content string) files {
	f[path] = content
	return f
}

// What a forge makes of a commit or a tag is answered with the release of that, unless attributes make another
// tree of it.
func TestProxiedArchives(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	rels := g.publish("hello",
		tagged{tag: "v1.0.0", files: zon("hello", "1.0.0")},
		tagged{tag: "v1.1.0", files: with(zon("hello", "1.1.0"), ".gitattributes", "# docs\n*.md text eol=lf -diff\n*.png binary\n")},
		tagged{tag: "a/b", files: with(zon("hello", "1.2.0"), ".gitattributes", "*.txt text\ndocs export-ignore\n")},
		tagged{tag: "v1.3.0", files: with(zon("hello", "1.3.0"), ".gitattributes", "*.bat eol=crlf\n")},
		tagged{tag: "", branch: "dev", files: zon("hello", "1.4.0")})
	g.publish("gone", tagged{tag: "v1.0.0", files: zon("gone", "1.0.0")})
	if a := g.post("/api/remove", `{"package":"gone","tag":"v1.0.0","reason":"it had a secret"}`); a.StatusCode != http.StatusOK {
		t.Fatalf("remove: %d %s", a.StatusCode, a.body)
	}
	const forge, none = "https://git.example/owner/hello/archive/", -1
	for _, tt := range []struct {
		url    string
		agent  string
		want   int // which release, or none
		status int
		reason string
	}{
		{forge + rels[0].CommitOID + ".tar.gz", zigAgent, 0, 200, ""},
		{forge + strings.ToUpper(rels[0].CommitOID) + ".tar.gz", zigAgent, 0, 200, ""},
		{forge + rels[0].CommitOID[:7] + ".tar.gz", zigAgent, 0, 200, ""},
		{forge + rels[0].CommitOID[:6] + ".tar.gz", zigAgent, none, 200, "is not mirrored here"},
		{forge + "refs/tags/v1.0.0.zip", zigAgent, 0, 200, ""}, // the type counts, not the name
		{forge + "refs/tags/v1.0.0.zip", "curl/8", none, 404, "is not mirrored here"},
		{forge + "v1.0.0.tar.gz", "curl/8", 0, 200, ""},
		{forge + "v1.1.0.tar.gz", zigAgent, 1, 200, ""},
		{forge + "a/b.tar.gz", zigAgent, none, 200, "is not mirrored here"},
		{forge + "v1.3.0.tar.gz", zigAgent, none, 200, "is not mirrored here"},
		{forge + "refs/heads/dev.tar.gz", zigAgent, 4, 200, ""},
		{forge + "v9.tar.gz", zigAgent, none, 200, "git.example/owner/hello/archive/v9.tar.gz is not mirrored here"},
		{"http://git.example/owner/hello/archive/v1.0.0.tar.gz", zigAgent, none, 200, "is not mirrored here"},
		{"https://us:pw@git.example:443/owner/hello/archive/v1.0.0.tar.gz#x", zigAgent, 0, 200, ""},
		{"https://git.example:8443/owner/hello/archive/v1.0.0.tar.gz", zigAgent, none, 200, "is not mirrored here"},
		{"https://git.example/owner/gone/archive/v1.0.0.tar.gz", zigAgent, none, 200, "it had a secret"},
		{"https://git.example/owner/gone/archive/v1.0.0.tar.gz", "curl/8", none, 410, "it had a secret"},
		{"https://git.example/owner/hello/-/archive/v1.0.0/hello-v1.0.0.tar.gz", zigAgent, 0, 200, ""},
		{"https://git.example/p/hello/tag/v1.0.0.tar.gz", zigAgent, none, 200, "is not mirrored here"},
	} {
		forms := []string{tt.url, "/u/" + strings.Replace(tt.url, "://", "/", 1)}
		for _, target := range forms {
			target, _, _ = strings.Cut(target, "#")
			a := g.mustVia("GET", target, "", "User-Agent", tt.agent)
			if a.StatusCode != tt.status || !a.Close {
				t.Errorf("%s: status %d, close %v, want %d: %s", target, a.StatusCode, a.Close, tt.status, a.body)
			}
			if tt.want == none {
				if reason := a.Header.Get("X-Packbase-Reason"); !strings.Contains(reason, tt.reason) || tt.agent == zigAgent && a.Header.Get("Content-Type") != "packbase: "+reason {
					t.Errorf("%s: %v, want the reason %q", target, a.Header, tt.reason)
				}
				continue
			}
			want := g.get("/p/hello/commit/" + rels[tt.want].CommitOID + ".tar.gz")
			if !bytes.Equal(a.body, want.body) || a.Header.Get("Content-Type") != "application/gzip" || a.ContentLength != int64(len(want.body)) {
				t.Errorf("%s: %d bytes, %v, want those of %s", target, len(a.body), a.Header, rels[tt.want].Tag)
			}
			if got := a.Header.Get("Vary"); (got == "User-Agent") != strings.HasSuffix(tt.url, ".zip") {
				t.Errorf("%s: Vary %q, want User-Agent where others are answered something else", target, got)
			}
		}
	}
	if a := g.get("/why"); !strings.Contains(string(a.body), "it had a secret") || !strings.Contains(string(a.body), "v9.tar.gz is not mirrored here") {
		t.Errorf("/why = %s, want the reasons", a.body)
	}
	if logged := g.log.String(); strings.Contains(logged, "us:pw") || strings.Contains(logged, "pw@") {
		t.Error("the log has a password")
	}
	metrics := 0
	for _, line := range strings.Split(g.log.String(), "\n") {
		if strings.Contains(line, `"path":"//git.example/owner/hello/archive/v1.0.0.tar.gz"`) {
			metrics++
		}
	}
	if metrics == 0 {
		t.Error("the log does not say which host a request was meant for")
	}
}

// keep stores an archive as a worker does: what one zip came to.
func (g *registry) addArchive(url, what string) (a tree.Archive) {
	g.t.Helper()
	whole, tarball, record := g.put([]byte("zip of "+what)), g.put([]byte("tarball of "+what)), g.put([]byte("record of "+url))
	a = tree.Archive{URL: url, ZigLegacyHash: "1220" + tarball.Digest, Digest: whole.Digest, Size: whole.Size, ContentType: "application/zip",
		Disposition: `attachment; filename="x.zip"`, Format: "zip", TarballDigest: tarball.Digest, TarballSize: tarball.Size,
		RecordDigest: record.Digest, RecordSize: record.Size, Private: strings.Contains(what, "private"), CreatedAt: time.Now()}
	_, _, err := tree.New(g.db.DB).Publish(context.WithoutCancel(g.t.Context()), a, true)
	g.must(err)
	return a
}

// What is stored of a URL is what it answered first: to Zig as a tar.gz, to others as it came.
func TestProxiedStored(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	rel := g.publish("gone", tagged{tag: "v1.0.0", files: zon("gone", "1.0.0")})[0]
	g.publish("hello", tagged{tag: "v1.0.0", files: zon("hello", "1.0.0")})
	const file = "https://files.example.org/a%2Fb//x.zip?y=%20"
	g.addArchive(file, "x")
	g.addArchive(file, "something later")
	g.addArchive("https://files.example.org/secret.zip", "private x")
	g.addArchive("https://git.example/owner/hello/archive/v1.0.0.tar.gz", "what the forge made")
	for _, tt := range []struct {
		target, header, value string
		status                int
		want                  string
	}{
		{file, "User-Agent", zigAgent, 200, "tarball of x"},
		{file, "User-Agent", "curl/8", 200, "zip of x"},
		{"https://us:pw@FILES.example.org:443/a%2Fb//x.zip?y=%20", "User-Agent", zigAgent, 200, "tarball of x"},
		{"/u/https/files.example.org/a%2Fb//x.zip?y=%20", "User-Agent", zigAgent, 200, "tarball of x"},
		{"https://files.example.org/a/b//x.zip?y=%20", "User-Agent", "curl/8", 404, "is not mirrored here"},
		{"https://files.example.org/a%2Fb//x.zip", "User-Agent", "curl/8", 404, "is not mirrored here"},
		{"http://files.example.org/a%2Fb//x.zip?y=%20", "User-Agent", "curl/8", 404, "is not mirrored here"},
		{"https://files.example.org/secret.zip", "User-Agent", "curl/8", 404, "is not mirrored here"},
		{"https://files.example.org/secret.zip", "Proxy-Authorization", "Bearer " + token, 200, "zip of private x"},
		{"https://files.example.org/secret.zip", "User-Agent", "curl/9", 404, "is not mirrored here"}, // though it is in memory now
		{"https://git.example/owner/hello/archive/v1.0.0.tar.gz", "User-Agent", zigAgent, 200, "tarball of what the forge made"},
	} {
		a := g.mustVia("GET", tt.target, "", tt.header, tt.value)
		if a.StatusCode != tt.status || !strings.HasPrefix(string(a.body), tt.want) && !strings.Contains(a.Header.Get("X-Packbase-Reason"), tt.want) {
			t.Errorf("%s for %s: %d %s, want %d %s", tt.target, tt.value, a.StatusCode, a.body, tt.status, tt.want)
		}
		if kind := a.Header.Get("Content-Type"); tt.status == 200 && (kind == "application/gzip") != (tt.value == zigAgent) {
			t.Errorf("%s for %s: Content-Type %q", tt.target, tt.value, kind)
		}
		if got := a.Header.Get("Vary"); tt.status == 200 && got != "User-Agent" {
			t.Errorf("%s for %s: Vary %q, want User-Agent: a cache would answer others with this", tt.target, tt.value, got)
		}
		if control := a.Header.Get("Cache-Control"); strings.Contains(tt.target, "secret") && strings.Contains(control, "public") {
			t.Errorf("%s: Cache-Control %q", tt.target, control)
		}
	}
	// What a tree pins for a URL, where Zig alone is answered, is not kept: another one may be pinned.
	trees, hello := tree.New(g.db.DB), g.publish("pinned", tagged{tag: "v1.0.0", files: zon("pinned", "1.0.0")})[0]
	const pinned = "https://files.example.org/pinned.tar.gz"
	_, err := trees.Begin(t.Context(), "app", []tree.Root{{File: "build.zig.zon", Text: asManifest(hello.ZigHash)}}, false)
	g.must(err)
	g.must(trees.Put(t.Context(), "app", 1, tree.Whole, []tree.Node{{Hash: hello.ZigHash, URLs: []string{pinned}, Parents: []string{""}, State: tree.Stored}}, nil))
	if a := g.mustVia("GET", pinned, "", "User-Agent", zigAgent); a.StatusCode != http.StatusOK || a.Header.Get("ETag") != `"`+hello.Digest+`"` || a.Header.Get("Cache-Control") != "no-cache" || a.Header.Get("Vary") != "User-Agent" {
		t.Errorf("%s: %d %v", pinned, a.StatusCode, a.Header)
	}
	// What was removed is removed, whichever way it came.
	const copied = "https://files.example.org/gone.zip"
	a := g.addArchive(copied, "gone")
	g.exec(`ALTER TABLE archives DISABLE TRIGGER USER`)
	g.exec(fmt.Sprintf(`UPDATE archives SET zig_legacy_hash = '%s' WHERE url = '%s'`, rel.ZigLegacyHash, copied))
	if got := g.mustVia("GET", copied, "", "User-Agent", "curl/8"); got.StatusCode != http.StatusOK || int64(len(got.body)) != a.Size {
		t.Errorf("before the removal: %d %s", got.StatusCode, got.body)
	}
	if got := g.post("/api/remove", `{"package":"gone","tag":"v1.0.0","reason":"it had a secret"}`); got.StatusCode != http.StatusOK {
		t.Fatalf("remove: %d %s", got.StatusCode, got.body)
	}
	if got := g.mustVia("GET", copied, "", "User-Agent", "curl/8"); got.StatusCode != http.StatusGone || !strings.Contains(string(got.body), "it had a secret") {
		t.Errorf("after the removal: %d %s, want 410 and why", got.StatusCode, got.body)
	}
}

// Git, by prefix URL and as a proxy, is that of the package bound to the upstream.
func TestProxiedGit(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	rel := g.publish("hello", tagged{tag: "v1.0.0", files: zon("hello", "1.0.0")})[0]
	const refs = "/info/refs?service=git-upload-pack"
	const body = "0014command=ls-refs\n0001" + "0009peel\n" + "001aref-prefix refs/tags/\n" + "0000"
	want := g.do("POST", "/hello/git-upload-pack", body, "Content-Type", "application/x-git-upload-pack-request", "Git-Protocol", "version=2")
	if want.StatusCode != http.StatusOK || !bytes.Contains(want.body, []byte(rel.CommitOID)) {
		t.Fatalf("ls-refs: %d %s", want.StatusCode, want.body)
	}
	for _, repo := range []string{"https://git.example/owner/hello", "https://git.example/owner/hello.git", "https://GIT.example:443/owner/hello", "/u/https/git.example/owner/hello"} {
		if a := g.mustVia("GET", repo+refs, "", "User-Agent", zigAgent, "Git-Protocol", "version=2"); a.StatusCode != http.StatusOK || !a.Close {
			t.Errorf("%s: %d %v %s", repo, a.StatusCode, a.Header, a.body)
		}
		a := g.mustVia("POST", repo+"/git-upload-pack", body, "User-Agent", zigAgent, "Git-Protocol", "version=2", "Content-Type", "application/x-git-upload-pack-request")
		if !bytes.Equal(a.body, want.body) {
			t.Errorf("%s: ls-refs = %d %q, want %q", repo, a.StatusCode, a.body, want.body)
		}
	}
	for repo, status := range map[string]int{"https://git.example/owner/none": 404, "http://git.example/owner/hello": 404, "https://git.example/hello": 404} {
		if a := g.mustVia("GET", repo+refs, "", "User-Agent", zigAgent); a.StatusCode != status || !strings.Contains(a.Header.Get("X-Packbase-Reason"), "is not mirrored here") {
			t.Errorf("%s: %d %v, want %d and why", repo, a.StatusCode, a.Header, status)
		}
	}
	if a := g.mustVia("GET", "https://git.example/owner/hello/HEAD", ""); a.StatusCode != http.StatusNotFound {
		t.Errorf("dumb HTTP: %d", a.StatusCode)
	}
}

// What is private is for tokens: of a proxy's client in Proxy-Authorization, as its Authorization is for upstream.
func TestProxiedPrivate(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	g.publish("secretive", tagged{tag: "v1.0.0", files: zon("secretive", "1.0.0")})
	g.must(g.db.SetVisibility(access.SeePrivate(t.Context()), "secretive", true))
	g.publish("hello", tagged{tag: "v1.0.0", files: zon("hello", "1.0.0")})
	if a := g.post("/api/visibility/secretive", `{"visibility":"private"}`); a.StatusCode != http.StatusOK {
		t.Fatalf("visibility: %d %s", a.StatusCode, a.body)
	}
	bearer, password := "Bearer "+token, "Basic "+base64.StdEncoding.EncodeToString([]byte(token+":"))
	const archive, refs = "https://git.example/owner/secretive/archive/v1.0.0.tar.gz", "https://git.example/owner/secretive/info/refs?service=git-upload-pack"
	prefix := func(target string) string { return "/u/" + strings.Replace(target, "://", "/", 1) }
	for _, tt := range []struct {
		target, header, value string
		want                  int
	}{
		{archive, "X", "", 404},
		{archive, "Authorization", bearer, 404}, // it is for upstream, and none of ours
		{archive, "Proxy-Authorization", bearer, 200},
		{archive, "Proxy-Authorization", password, 200},
		{archive, "Proxy-Authorization", "Bearer " + access.TokenPrefix + "revoked", 401},
		{prefix(archive), "X", "", 404},
		{prefix(archive), "Proxy-Authorization", bearer, 404},
		{prefix(archive), "Authorization", bearer, 200},
		{refs, "X", "", 407},
		{refs, "Proxy-Authorization", password, 200},
		{prefix(refs), "X", "", 401},
		{prefix(refs), "Authorization", password, 200},
		{"https://git.example/owner/hello/archive/v1.0.0.tar.gz", "Authorization", "Bearer " + access.TokenPrefix + "upstreams", 200},
	} {
		a := g.mustVia("GET", tt.target, "", tt.header, tt.value)
		if a.StatusCode != tt.want {
			t.Errorf("%s with %s: status %d, want %d: %s", tt.target, tt.header, a.StatusCode, tt.want, a.body)
		}
		if tt.want == 200 && !strings.Contains(tt.target, "hello") && strings.Contains(a.Header.Get("Cache-Control"), "public") {
			t.Errorf("%s: Cache-Control %q", tt.target, a.Header.Get("Cache-Control"))
		}
	}
	// What was refused to somebody with a token is not told to others of his address.
	const gone = "https://git.example/owner/gone/archive/v1.0.0.tar.gz"
	g.publish("gone", tagged{tag: "v1.0.0", files: zon("gone", "1.0.0")})
	g.must(g.db.SetVisibility(access.SeePrivate(t.Context()), "gone", true))
	if a := g.post("/api/remove", `{"package":"gone","reason":"it had a secret"}`); a.StatusCode != http.StatusOK {
		t.Fatalf("remove: %d %s", a.StatusCode, a.body)
	}
	if a := g.mustVia("GET", gone, "", "Proxy-Authorization", bearer); a.StatusCode != http.StatusGone {
		t.Errorf("%s with a token: %d %s, want 410", gone, a.StatusCode, a.body)
	}
	if why := g.get("/why"); strings.Contains(string(why.body), "it had a secret") {
		t.Errorf("/why without a token: %s", why.body)
	}
	if why := g.get("/why", "Authorization", bearer); !strings.Contains(string(why.body), "it had a secret") {
		t.Errorf("/why with a token: %s", why.body)
	}
	// Not there, or not to be seen: the words are the same.
	seen := g.mustVia("GET", archive, "").body
	none := g.mustVia("GET", strings.Replace(archive, "secretive", "nothing-xx", 1), "").body
	if strings.Replace(string(seen), "secretive", "nothing-xx", 1) != string(none) {
		t.Errorf("private: %s, not there: %s", seen, none)
	}
}

// puller has every fetch publish one commit, a release if a tag is asked for.
func (g *registry) puller(pace time.Duration, commits chan<- storage.Release) {
	g.work(func(ctx context.Context, c jobs.Claim) error {
		if c.Job.Kind == jobs.FetchArchive && !strings.Contains(c.Job.Target, "broken") {
			time.Sleep(pace)
			g.addArchive(c.Job.Target, "pulled")
			return g.db.Jobs.End(ctx, c, jobs.Outcome{State: jobs.Succeeded, Result: map[string]any{}})
		}
		if c.Job.Kind == jobs.FetchArchive {
			return g.db.Jobs.End(ctx, c, jobs.Outcome{State: jobs.Failed, Code: "not_an_archive", Message: "upstream sends a page"})
		}
		if c.Job.Kind != jobs.FetchPackage {
			return g.db.Jobs.End(ctx, c, jobs.Outcome{State: jobs.Succeeded, Result: map[string]any{}})
		}
		time.Sleep(pace) // a slow upstream
		p := &publication{registry: g, claim: c, src: releasetest.New(g.t)}
		p.add(tagged{tag: c.Job.Target, files: zon("pulled", "1.0.0")}, 1)
		p.segment()
		rel := p.publish(p.roots[0])
		select {
		case commits <- rel:
		default:
		}
		return g.db.Jobs.End(ctx, c, jobs.Outcome{State: jobs.Succeeded, Result: map[string]any{}, Sync: &jobs.Sync{OK: true}})
	})
}

func (g *registry) fetches() int {
	g.t.Helper()
	ids, err := g.db.Jobs.List(access.SeePrivate(g.t.Context()), jobs.Filter{Limit: 1000})
	g.must(err)
	n := 0
	for i := range ids {
		if ids[i].Kind == jobs.FetchPackage || ids[i].Kind == jobs.FetchArchive {
			n++
		}
	}
	return n
}

// Nobody gets a tunnel, however many ask, and others are served on.
func TestConnects(t *testing.T) {
	t.Parallel()
	g := newRegistry(t, func(o *api.Options) { o.Pull = []string{"git.example"} })
	var all sync.WaitGroup
	for i := range 300 {
		target := []string{"git.example:443", "127.0.0.1:22", g.addr, "[::1]:80", "git.example:25"}[i%5]
		all.Go(func() {
			a, err := g.via(t.Context(), "CONNECT", target, "", "User-Agent", zigAgent)
			if err != nil || a.StatusCode != http.StatusMethodNotAllowed || a.ContentLength != 0 || !a.Close {
				t.Errorf("CONNECT %s: %+v, %v, want 405 without a body on a connection that is closed", target, a, err)
			}
		})
	}
	if a := g.get("/api/list"); a.StatusCode != http.StatusOK {
		t.Errorf("meanwhile: %d", a.StatusCode)
	}
	all.Wait()
	if n := g.fetches(); n != 0 {
		t.Errorf("%d jobs", n)
	}
}

// A stampede of clients is one job, and all are answered when it has ended. Nothing else makes a job.
func TestPull(t *testing.T) {
	t.Parallel()
	g := newRegistry(t, func(o *api.Options) { o.Pull = []string{"git.example"} })
	g.puller(300*time.Millisecond, nil)
	for _, target := range []string{
		"https://elsewhere.example/o/r/archive/v1.tar.gz", "https://git.example:8443/o/r/archive/v1.tar.gz", "https://git.example.elsewhere.example/o/r/archive/v1.tar.gz",
		"https://git.example@127.0.0.1/o/r/archive/v1.tar.gz", "http://127.0.0.1:1/o/r/archive/v1.tar.gz", "http://[::1]/o/r/archive/v1.tar.gz", "https://git.example./o/r/archive/v1.tar.gz",
	} {
		if a := g.mustVia("GET", target, "", "User-Agent", zigAgent); !strings.Contains(a.Header.Get("Content-Type"), "packbase: ") {
			t.Errorf("%s: %d %v, want a refusal", target, a.StatusCode, a.Header)
		}
		repo, _, _ := strings.Cut(target, "/archive/")
		if a := g.mustVia("GET", repo+"/info/refs?service=git-upload-pack", "", "Git-Protocol", "version=2"); a.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %d, want 404", repo, a.StatusCode)
		}
	}
	if n := g.fetches(); n != 0 {
		t.Fatalf("%d jobs after requests for hosts that are not open, want none", n)
	}
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			a, err := g.via(t.Context(), "GET", "https://git.example/o/r/archive/v1.0.0.tar.gz", "", "User-Agent", zigAgent)
			if err != nil || a.StatusCode != http.StatusOK || a.Header.Get("Content-Type") != "application/gzip" {
				t.Errorf("pull: %+v, %v", a, err)
			}
		})
	}
	all.Wait()
	if n := g.fetches(); n != 1 {
		t.Errorf("%d jobs for 100 clients of one URL, want 1", n)
	}
}

// lsRefs is the request for a tag, as Zig makes it.
func lsRefs(tag string) string {
	body := "0014command=ls-refs\n0001"
	for _, prefix := range []string{tag, "refs/heads/" + tag, "refs/tags/" + tag} {
		body += fmt.Sprintf("%04xref-prefix %s\n", len(prefix)+16, prefix)
	}
	return body + "0000"
}

// Of Git, what a client asks for by name is pulled, and nothing before.
func TestPullGit(t *testing.T) {
	t.Parallel()
	g := newRegistry(t, func(o *api.Options) { o.Pull = []string{"git.example"} })
	g.puller(0, nil)
	const repo = "https://git.example/o/r"
	git := []string{"User-Agent", zigAgent, "Git-Protocol", "version=2", "Content-Type", "application/x-git-upload-pack-request"}
	if a := g.mustVia("GET", repo+"/info/refs?service=git-upload-pack", "", git...); a.StatusCode != http.StatusOK || !bytes.Contains(a.body, []byte("ls-refs")) {
		t.Errorf("info/refs: %d %s", a.StatusCode, a.body)
	}
	if n := g.fetches(); n != 0 {
		t.Errorf("%d jobs before anything was asked for", n)
	}
	for i, tag := range []string{"v1.0.0", "v1.1.0", "v1.0.0"} { // the second is a new tag of a package that is there
		a := g.mustVia("POST", repo+"/git-upload-pack", lsRefs(tag), git...)
		if a.StatusCode != http.StatusOK || !bytes.Contains(a.body, []byte("refs/tags/"+tag)) {
			t.Errorf("ls-refs of %s: %d %s", tag, a.StatusCode, a.body)
		}
		if n := g.fetches(); n != min(i+1, 2) {
			t.Errorf("%d jobs after %d questions", n, i+1)
		}
	}
	// Strangers do not take the names that others may want.
	if pkg, err := g.db.PackageByName(t.Context(), "git.example.o.r"); err != nil || pkg.Upstream != "https://git.example/o/r" {
		t.Errorf("package = %+v, %v", pkg, err)
	}
}

// What was removed is told to be, also once its upstream was asked for under another name, of which nothing came.
func TestPullRemoved(t *testing.T) {
	t.Parallel()
	g := newRegistry(t, func(o *api.Options) { o.Pull = []string{"git.example"} })
	g.publish("gone", tagged{tag: "v1.0.0", files: zon("gone", "1.0.0")})
	if a := g.post("/api/remove", `{"package":"gone","reason":"it had a secret"}`); a.StatusCode != http.StatusOK {
		t.Fatalf("remove: %d %s", a.StatusCode, a.body)
	}
	for _, name := range []string{"", "again"} {
		if name != "" {
			if a := g.post("/api/fetch", `{"url":"https://git.example/owner/gone","name":"`+name+`"}`); a.StatusCode != http.StatusAccepted {
				t.Fatalf("fetch: %d %s", a.StatusCode, a.body)
			}
		}
		const repo = "https://git.example/owner/gone"
		for _, at := range []string{repo + "/info/refs?service=git-upload-pack", repo + "/archive/v1.0.0.tar.gz"} {
			if a := g.mustVia("GET", at, "", "User-Agent", "curl/8"); a.StatusCode != http.StatusGone || !strings.Contains(string(a.body), "it had a secret") {
				t.Errorf("%s, asked for as %q: %d %s, want 410 and why", at, name, a.StatusCode, a.body)
			}
		}
	}
}

// Who had one repository pulled does not keep others from one whose owner, name, scheme or case of letters give the
// same name.
func TestPullsOfOneName(t *testing.T) {
	t.Parallel()
	g := newRegistry(t, func(o *api.Options) { o.Pull = []string{"git.example"} })
	g.puller(0, nil)
	for _, repo := range []string{"https://git.example/a.b/c", "https://git.example/a/b.c", "https://git.example/A/b.c", "http://git.example/a/b.c"} {
		a := g.mustVia("POST", repo+"/git-upload-pack", lsRefs("v1.0.0"),
			"User-Agent", zigAgent, "Git-Protocol", "version=2", "Content-Type", "application/x-git-upload-pack-request")
		if a.StatusCode != http.StatusOK || !bytes.Contains(a.body, []byte("refs/tags/v1.0.0")) {
			t.Errorf("%s: %d %s", repo, a.StatusCode, a.body)
		}
	}
	all, err := g.db.Packages(t.Context())
	if err != nil || len(all) != 4 {
		t.Errorf("%d packages, %v, want 4", len(all), err)
	}
}

// Who waits too long is told so, who cannot be helped is told why, and asks nobody again; who goes leaves no trace.
func TestPullEnds(t *testing.T) {
	t.Parallel()
	g := newRegistry(t, func(o *api.Options) { o.Pull, o.PullWait = []string{"git.example"}, time.Second })
	a := g.mustVia("GET", "https://git.example/o/slow/archive/v1.0.0.tar.gz", "", "User-Agent", "curl/8")
	if a.StatusCode != http.StatusGatewayTimeout || !strings.Contains(string(a.body), "still being fetched after 1s") {
		t.Errorf("slow: %d %s", a.StatusCode, a.body)
	}
	// What only strangers wait for goes last, until somebody with a token wants it, too.
	body := "0014command=ls-refs\n00010016ref-prefix v1.0.0\n0000"
	g.mustVia("POST", "https://git.example/o/hurry/git-upload-pack", body, "Git-Protocol", "version=2", "Content-Type", "application/x-git-upload-pack-request")
	pulled := func() (n int) {
		g.must(g.db.Pool.QueryRow(t.Context(), `SELECT count(*) FROM jobs WHERE pull AND state = 'queued'`).Scan(&n))
		return n
	}
	before := pulled()
	wanted := g.do("POST", "/api/fetch", `{"url":"git+https://git.example/o/hurry#v1.0.0","name":"git.example.o.hurry"}`, "Authorization", "Bearer "+token)
	if after := pulled(); before != 2 || after != 1 || wanted.StatusCode != http.StatusAccepted || g.fetches() != 2 {
		t.Errorf("%d pulls before it is wanted, %d then: %d %s", before, after, wanted.StatusCode, wanted.body)
	}
	patient := g.serve(func(o *api.Options) { o.Pull, o.PullWait = []string{"git.example"}, time.Minute })
	ctx, leave := context.WithCancel(t.Context())
	var gone sync.WaitGroup
	for i := range 9 {
		gone.Go(func() {
			if a, err := patient.via(ctx, "GET", fmt.Sprintf("https://git.example/o/gone%d/archive/v1.0.0.tar.gz", i%3), ""); err == nil {
				t.Errorf("gone: %d although nobody works", a.StatusCode)
			}
		})
	}
	eventually(t, "as many are fetched as may be", func() bool { return g.fetches() >= 5 })
	leave()
	gone.Wait()
	g.puller(0, nil)
	for range 2 {
		a := patient.mustVia("GET", "https://git.example/o/broken/archive/v1.0.0.tar.gz", "", "User-Agent", zigAgent)
		if want := "could not be fetched: upstream sends a page (not_an_archive)"; !strings.Contains(a.Header.Get("Content-Type"), want) {
			t.Errorf("broken: %d %v, want %q", a.StatusCode, a.Header, want)
		}
	}
	if n := g.fetches(); n != 2+3+1 {
		t.Errorf("%d jobs, want one for each URL", n)
	}
	edge := g.serve(func(o *api.Options) { o.Pull, o.ReadOnly = []string{"git.example"}, true })
	if a := edge.mustVia("GET", "https://git.example/o/other/archive/v1.0.0.tar.gz", ""); a.StatusCode != http.StatusNotFound {
		t.Errorf("an edge: %d, want 404: it fetches nothing", a.StatusCode)
	}
}

// Who joins a fetch of somebody with a token, which may use credentials, is not told how that ends: what there is for
// them is what they see.
func TestPullJoinsTokens(t *testing.T) {
	t.Parallel()
	g := newRegistry(t, func(o *api.Options) { o.Pull = []string{"git.example"} })
	ctx := access.SeePrivate(t.Context())
	url := func(repo string) string { return "https://git.example/o/" + repo + "/archive/v1.0.0.tar.gz" }
	asked := map[string]chan *answer{}
	for _, repo := range []string{"there", "none"} {
		_, _, err := tree.New(g.db.DB).RequestArchive(ctx, url(repo), "")
		g.must(err)
		for who, header := range map[string][]string{"": nil, " with a token": {"Proxy-Authorization", "Bearer " + token}} {
			as := make(chan *answer, 1)
			asked[repo+who] = as
			go func() {
				a, err := g.via(ctx, "GET", url(repo), "", header...)
				if err != nil {
					t.Error(err)
					a = &answer{Response: &http.Response{}}
				}
				as <- a
			}()
		}
	}
	eventually(t, "all wait", func() bool { return g.server.Followers() == 4 })
	g.work(func(ctx context.Context, c jobs.Claim) error {
		o := jobs.Outcome{State: jobs.Succeeded, Result: map[string]any{}}
		if strings.Contains(c.Job.Target, "none") {
			o = jobs.Outcome{State: jobs.Failed, Code: "not_an_archive", Message: "what was to be seen with credentials"}
		}
		if c.Job.Pull {
			o.Code, o.Message = "upstream_auth", "what everybody is told"
		}
		return g.db.Jobs.End(ctx, c, o)
	})
	there, none := <-asked["there"], <-asked["none"]
	if there.StatusCode != http.StatusNotFound || none.StatusCode != there.StatusCode || strings.Replace(string(none.body), "none", "there", 1) != string(there.body) {
		t.Errorf("a stranger is told %d %s, and %d %s, want the same of both", there.StatusCode, there.body, none.StatusCode, none.body)
	}
	if own := <-asked["there with a token"]; own.StatusCode != http.StatusNotFound {
		t.Errorf("with a token: %d %s, want 404: nothing was stored", own.StatusCode, own.body)
	}
	if own := <-asked["none with a token"]; !strings.Contains(string(own.body), "with credentials") {
		t.Errorf("with a token: %d %s, want why", own.StatusCode, own.body)
	}
	if own := g.mustVia("GET", url("none"), ""); !strings.Contains(string(own.body), "what everybody is told") {
		t.Errorf("a pull of their own: %d %s, want how that ended", own.StatusCode, own.body)
	}
}

// Those who go while they wait take nothing from those who stay: what the server looks at for the ones, the others may see.
func TestPullOutlivesItsClients(t *testing.T) {
	t.Parallel()
	g := newRegistry(t, func(o *api.Options) {
		o.Pull, o.Proxies = []string{"git.example"}, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	const url, going = "https://git.example/o/r/archive/v1.0.0.tar.gz", 20
	for i := range going {
		ctx, leave := context.WithCancel(t.Context())
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			if a, err := g.via(ctx, "GET", url, "", "X-Forwarded-For", fmt.Sprint("192.0.2.", i)); err == nil {
				t.Errorf("who goes is answered: %d %s", a.StatusCode, a.body)
			}
		}()
		eventually(t, "it waits", func() bool { return g.server.Followers() == i+1 })
		leave()
		<-gone
	}
	stays := make(chan *answer, 1)
	go func() {
		a, err := g.via(t.Context(), "GET", url, "")
		if err != nil {
			t.Error(err)
		}
		stays <- a
	}()
	eventually(t, "one more waits", func() bool { return g.server.Followers() == going+1 })
	select {
	case a := <-stays:
		t.Errorf("who stays is answered before the job has ended: %d %s", a.StatusCode, a.body)
	case <-time.After(2 * time.Second):
	}
	g.work(func(ctx context.Context, c jobs.Claim) error {
		return g.db.Jobs.End(ctx, c, jobs.Outcome{State: jobs.Failed, Code: "not_an_archive", Message: "it is a page"})
	})
	if a := <-stays; !strings.Contains(string(a.body), "not_an_archive") {
		t.Errorf("who stays is told %d %s, want how the job ended", a.StatusCode, a.body)
	}
}

// A page of another site cannot have a browser fetch anything here.
func TestPullFromPages(t *testing.T) {
	t.Parallel()
	g := newRegistry(t, func(o *api.Options) { o.Pull = []string{"git.example"} })
	for _, site := range []string{"cross-site", "same-site"} {
		a := g.mustVia("GET", "/u/https/git.example/o/r/archive/v1.0.0.tar.gz", "", "Sec-Fetch-Site", site)
		if a.StatusCode != http.StatusNotFound || g.fetches() != 0 {
			t.Errorf("%s: %d, %d jobs, want a refusal", site, a.StatusCode, g.fetches())
		}
	}
}
