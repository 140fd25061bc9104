package upstream

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage/gitpack"
)

// git runs git in dir, apart from the settings of this machine.
func git(t testing.TB, dir string, args ...string) string {
	t.Helper()
	return gitInput(t, dir, "", args...)
}

func gitInput(t testing.TB, dir, input string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Stdin = strings.NewReader(input)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org", "GIT_AUTHOR_DATE=1700000000 +0000",
		"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.org", "GIT_COMMITTER_DATE=1700000000 +0000")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// newForge serves the repositories under root with git http-backend.
func newForge(t testing.TB, root string) (base string, c *Client) {
	t.Helper()
	execPath := git(t, "", "--exec-path")
	return newServer(t, &cgi.Handler{
		Path: filepath.Join(execPath, "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null"},
	})
}

// newServer serves h on loopback, which the returned client may dial. Its
// limits are short, to let tests of deadlines end soon.
func newServer(t testing.TB, h http.Handler) (base string, c *Client) {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	return srv.URL, newClient(t, Options{})
}

func newClient(t testing.TB, o Options) *Client {
	t.Helper()
	if o.Allow == nil {
		o.Allow = parse(t, "127.0.0.0/8")
	}
	c := New(o)
	t.Cleanup(c.base.CloseIdleConnections)
	return c
}

func parse(t testing.TB, s string) []Allow {
	t.Helper()
	a, err := ParseAllow(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func oid(t testing.TB, s string) gitpack.OID {
	t.Helper()
	id, err := gitpack.ParseOID(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// wantCode checks that err is an Error with code.
func wantCode(t testing.TB, err error, code string) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Code != code {
		t.Fatalf("err = %v, want code %s", err, code)
	}
	if e.Message == "" || e.Message != printable(e.Message, 1<<20) {
		t.Errorf("message = %q, want one printable line", e.Message)
	}
	return e
}

func connect(t testing.TB, c *Client, url string) *Session {
	t.Helper()
	s, err := c.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// newRepo makes a repository with an annotated tag v1.0.0, a lightweight tag
// v1.1.0, a tag release/2 of the branch dev, and a commit under no ref.
func newRepo(t testing.TB, root string) (dir, hidden string) {
	t.Helper()
	dir = filepath.Join(root, "hello.git")
	git(t, root, "init", "-q", "-b", "trunk", dir)
	commit := func(text string) string {
		if err := os.WriteFile(filepath.Join(dir, "README.md"), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		git(t, dir, "add", ".")
		git(t, dir, "commit", "-q", "-m", text)
		return git(t, dir, "rev-parse", "HEAD")
	}
	commit("one")
	hidden = git(t, dir, "commit-tree", "-m", "hidden", "HEAD^{tree}")
	git(t, dir, "tag", "-a", "-m", "first", "v1.0.0")
	commit("two")
	git(t, dir, "tag", "v1.1.0")
	git(t, dir, "branch", "dev")
	git(t, dir, "tag", "-a", "-m", "nested", "release/2")
	return dir, hidden
}

func TestConnect(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir, _ := newRepo(t, root)
	base, c := newForge(t, root)
	id := func(rev string) gitpack.OID { return oid(t, git(t, dir, "rev-parse", rev)) }
	refs := connect(t, c, base+"/hello.git/.git").Refs()

	if refs.Head != "refs/heads/trunk" || refs.HeadOID != id("HEAD") {
		t.Errorf("head = %s %v, want refs/heads/trunk %v", refs.Head, refs.HeadOID, id("HEAD"))
	}
	tags := []Ref{
		{"release/2", id("release/2"), id("release/2^{}")},
		{"v1.0.0", id("v1.0.0"), id("v1.0.0^{}")},
		{"v1.1.0", id("v1.1.0"), gitpack.OID{}},
	}
	if !slices.Equal(refs.Tags, tags) {
		t.Errorf("tags = %v, want %v", refs.Tags, tags)
	}
	branches := []Ref{{Name: "dev", OID: id("dev")}, {Name: "trunk", OID: id("trunk")}}
	if !slices.Equal(refs.Branches, branches) {
		t.Errorf("branches = %v, want %v", refs.Branches, branches)
	}
	if len(refs.Skipped) > 0 {
		t.Errorf("skipped = %v, want none", refs.Skipped)
	}
}

// A look says whether anything is other than at the last session, and is one request.
func TestLook(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir, hidden := newRepo(t, root)
	base, c := newForge(t, root)
	url := base + "/hello.git/.git"
	look := func() string {
		t.Helper()
		digest, err := c.Look(t.Context(), url)
		if err != nil || len(digest) != 64 {
			t.Fatalf("look: %q, %v", digest, err)
		}
		if s := connect(t, c, url); s.Digest != digest {
			t.Errorf("a session has %q, a look %q", s.Digest, digest)
		}
		return digest
	}
	seen := map[string]string{look(): "before"}
	for _, change := range [][]string{
		{"tag", "v1.2.0"}, {"tag", "-f", "v1.1.0", "v1.0.0^{}"}, {"tag", "-f", "-a", "-m", "again", "v1.0.0", "v1.0.0^{}"}, {"tag", "-d", "v1.2.0"},
		{"branch", "next", "dev"}, {"branch", "-f", "next", hidden}, {"symbolic-ref", "HEAD", "refs/heads/dev"}, {"update-ref", "refs/tags/HEAD", hidden},
	} {
		git(t, dir, change...)
		digest := look()
		if was, ok := seen[digest]; ok {
			t.Errorf("git %v: nothing changed since %s", change, was)
		}
		seen[digest] = fmt.Sprint(change)
	}
	git(t, dir, "update-ref", "refs/pull/1/head", hidden)
	if digest := look(); seen[digest] == "" {
		t.Error("a pull request, which is not mirrored, changes what is seen")
	}
	if _, err := c.Look(t.Context(), base+"/other.git"); err == nil {
		t.Error("a repository that is not there can be looked at")
	}
}

func TestConnectEmpty(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	git(t, root, "init", "-q", "--bare", "empty.git")
	base, c := newForge(t, root)
	s := connect(t, c, base+"/empty.git")
	if refs := s.Refs(); len(refs.Tags)+len(refs.Branches) > 0 || !refs.HeadOID.IsZero() {
		t.Errorf("refs = %v, want none", refs)
	}
	err := s.FetchPack(t.Context(), []gitpack.OID{{1}}, io.Discard, nil)
	wantCode(t, err, CodeNoSuchCommit)
}

func TestFetchPack(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir, hidden := newRepo(t, root)
	base, c := newForge(t, root)
	url := base + "/hello.git/.git"
	tests := []struct {
		name  string
		allow bool // any id may be wanted
		wants []string
		code  string
	}{
		{"all tags", false, []string{"v1.0.0", "v1.1.0", "release/2"}, ""},
		{"one annotated tag", false, []string{"v1.0.0"}, ""},
		{"one lightweight tag", false, []string{"v1.1.0"}, ""},
		{"a tag twice", false, []string{"v1.1.0", "v1.1.0"}, ""},
		{"hidden commit", false, []string{hidden}, CodeNoSuchCommit},
		{"hidden commit, allowed", true, []string{hidden}, ""},
		{"hidden commit and a tag", true, []string{hidden, "v1.0.0"}, ""},
		{"no such commit", true, []string{strings.Repeat("1", 40)}, CodeNoSuchCommit},
	}
	for _, tt := range tests { // in order: the server's setting changes
		git(t, dir, "config", "uploadpack.allowAnySHA1InWant", fmt.Sprint(tt.allow))
		s := connect(t, c, url)
		var wants []gitpack.OID
		for _, w := range tt.wants {
			wants = append(wants, oid(t, git(t, dir, "rev-parse", w)))
		}
		var pack bytes.Buffer
		var seen int64
		err := s.FetchPack(t.Context(), wants, &pack, func(n int64) { seen = n })
		if tt.code != "" {
			wantCode(t, err, tt.code)
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if seen != int64(pack.Len()) {
			t.Errorf("%s: progress = %d, want %d", tt.name, seen, pack.Len())
		}
		commits := make(map[string]bool)
		for _, w := range tt.wants {
			commits[git(t, dir, "rev-parse", w+"^{commit}")] = true
		}
		if got := packCommits(t, pack.Bytes(), wants); !maps.Equal(got, commits) {
			t.Errorf("%s: commits = %v, want %v", tt.name, got, commits)
		}
	}
}

// packCommits indexes pack with git, checks that wants are in it, and returns
// the ids of its commits.
func packCommits(t testing.TB, pack []byte, wants []gitpack.OID) map[string]bool {
	t.Helper()
	dir := t.TempDir()
	git(t, dir, "init", "-q", "--bare")
	gitInput(t, dir, string(pack), "index-pack", "--stdin")
	commits := make(map[string]bool)
	ids := make(map[string]bool)
	for line := range strings.Lines(git(t, dir, "cat-file", "--batch-all-objects", "--batch-check=%(objectname) %(objecttype)")) {
		id, kind, _ := strings.Cut(strings.TrimSpace(line), " ")
		ids[id] = true
		if kind == "commit" {
			commits[id] = true
		}
	}
	for _, w := range wants {
		if !ids[w.String()] {
			t.Errorf("pack lacks %v", w)
		}
	}
	return commits
}

func TestManyTags(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir, _ := newRepo(t, root)
	head := git(t, dir, "rev-parse", "HEAD")
	var create strings.Builder
	for i := range 500 {
		fmt.Fprintf(&create, "create refs/tags/n/%d %s\n", i, head)
	}
	gitInput(t, dir, create.String(), "update-ref", "--stdin")
	base, c := newForge(t, root)
	s := connect(t, c, base+"/hello.git/.git")
	if n := len(s.Refs().Tags); n != 503 {
		t.Errorf("tags = %d, want 503", n)
	}
	var wants []gitpack.OID
	for _, tag := range s.Refs().Tags {
		wants = append(wants, tag.OID)
	}
	var pack bytes.Buffer
	if err := s.FetchPack(t.Context(), wants, &pack, nil); err != nil {
		t.Fatal(err)
	}
	packCommits(t, pack.Bytes(), wants)
}

// A session that lists and fetches needs one connection.
func TestOneConnection(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	newRepo(t, root)
	peers := make(map[string]bool)
	execPath := git(t, "", "--exec-path")
	backend := &cgi.Handler{
		Path: filepath.Join(execPath, "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1"},
	}
	base, c := newServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peers[r.RemoteAddr] = true // requests come one after the other
		backend.ServeHTTP(w, r)
	}))
	s := connect(t, c, base+"/hello.git/.git")
	for _, tag := range s.Refs().Tags {
		if err := s.FetchPack(t.Context(), []gitpack.OID{tag.OID}, io.Discard, nil); err != nil {
			t.Fatal(err)
		}
	}
	if len(peers) != 1 {
		t.Errorf("connections = %d, want 1", len(peers))
	}
}

func TestFetchPackErrors(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	newRepo(t, root)
	base, c := newForge(t, root)
	s := connect(t, c, base+"/hello.git/.git")
	wants := []gitpack.OID{s.Refs().HeadOID}

	full := errors.New("disk full")
	if err := s.FetchPack(t.Context(), wants, failingWriter{full}, nil); !errors.Is(err, full) {
		t.Errorf("full disk: err = %v, want %v", err, full)
	}
	if err := s.FetchPack(t.Context(), nil, io.Discard, nil); err == nil {
		t.Error("nothing wanted: err = nil")
	}
	s.limits.PackBytes = 100
	wantCode(t, s.FetchPack(t.Context(), wants, io.Discard, nil), CodePackTooLarge)
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

// TestAgainstGit measures a fetch of all tags against git's own; it runs only
// with PACKBASE_TEST_REPOSITORY, the path of a bare repository.
func TestAgainstGit(t *testing.T) {
	dir := os.Getenv("PACKBASE_TEST_REPOSITORY")
	if dir == "" {
		t.Skip("PACKBASE_TEST_REPOSITORY is not set")
	}
	base, c := newForge(t, filepath.Dir(dir))
	url := base + "/" + filepath.Base(dir)
	var ours, theirs []time.Duration
	for range 5 {
		start := time.Now()
		s := connect(t, c, url)
		var wants []gitpack.OID
		for _, tag := range s.Refs().Tags {
			wants = append(wants, tag.OID)
		}
		f, err := os.Create(filepath.Join(t.TempDir(), "pack"))
		if err != nil {
			t.Fatal(err)
		}
		var size int64
		if err := s.FetchPack(t.Context(), wants, f, func(n int64) { size = n }); err != nil {
			t.Fatal(err)
		}
		f.Close()
		ours = append(ours, time.Since(start))

		clone := t.TempDir()
		start = time.Now()
		git(t, clone, "init", "-q", "--bare")
		git(t, clone, "fetch", "-q", "--depth", "1", url, "refs/tags/*:refs/tags/*")
		theirs = append(theirs, time.Since(start))
		if len(ours) == 1 {
			t.Logf("%d tags; pack: ours %d bytes, git's %s", len(wants), size,
				git(t, clone, "count-objects", "-v"))
		}
	}
	slices.Sort(ours)
	slices.Sort(theirs)
	t.Logf("median: ours %v, git's %v, ratio %.2f", ours[2], theirs[2], ours[2].Seconds()/theirs[2].Seconds())
}
