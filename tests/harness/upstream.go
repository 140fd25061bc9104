package harness

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

// An Upstream serves Git repositories over HTTP as a forge does, by
// git-http-backend(1). It counts requests, and can be told to misbehave.
type Upstream struct {
	URL string // http://127.0.0.1:port

	t        testing.TB
	dir      string
	port     int
	server   *http.Server
	instead  atomic.Pointer[http.Handler]
	login    atomic.Pointer[string]
	requests atomic.Int64
}

// NewUpstream starts an upstream without repositories.
func NewUpstream(t testing.TB) *Upstream {
	t.Helper()
	port := FreePort(t)
	u := &Upstream{URL: fmt.Sprintf("http://127.0.0.1:%d", port), t: t, dir: t.TempDir(), port: port}
	u.Start()
	t.Cleanup(u.Stop)
	return u
}

// Start serves again, on the same address, after Stop.
func (u *Upstream) Start() {
	u.t.Helper()
	var ln net.Listener
	// After Stop the port is free once children that were being started have
	// closed what they inherited.
	Eventually(u.t, "upstream listens again", func() (ok bool) {
		var err error
		ln, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(u.port)))
		return err == nil
	})
	out, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		u.t.Fatalf("git --exec-path: %v", err)
	}
	backend := filepath.Join(strings.TrimSpace(string(out)), "git-http-backend")
	u.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.requests.Add(1)
		if h := u.instead.Load(); h != nil && *h != nil {
			(*h).ServeHTTP(w, r)
			return
		}
		if want := u.login.Load(); want != nil && *want != "" {
			if _, password, _ := r.BasicAuth(); password != *want {
				w.Header().Set("WWW-Authenticate", `Basic realm="upstream"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
		}
		h := cgi.Handler{Path: backend, Stderr: io.Discard, Env: append(gitEnv(),
			"GIT_PROJECT_ROOT="+u.dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_PROTOCOL="+r.Header.Get("Git-Protocol"))}
		h.ServeHTTP(w, r)
	})}
	go func(s *http.Server) { _ = s.Serve(ln) }(u.server)
}

// Stop ends the server and cuts its connections. Then nobody listens there.
func (u *Upstream) Stop() {
	u.t.Helper()
	u.server.Close()
	Eventually(u.t, "nobody listens for upstream", func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(u.URL, "http://"))
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
}

// Requests returns how many requests there were.
func (u *Upstream) Requests() int { return int(u.requests.Load()) }

// Answer lets h answer all requests, from now on. With nil, Git does again.
func (u *Upstream) Answer(h http.Handler) { u.instead.Store(&h) }

// WantPassword serves only those with the password, from now on; all with "".
func (u *Upstream) WantPassword(password string) { u.login.Store(&password) }

// Status returns a handler that answers with a status and a web page.
func Status(code int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(code)
		fmt.Fprintf(w, "<!doctype html><title>%d</title><h1>%s</h1>", code, http.StatusText(code))
	})
}

// Close is a handler that ends the connection without an answer.
func Close() http.Handler {
	return http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
}

// A Repo is one of an upstream's repositories. It is bare, and its branch is
// main. Commits and tags are the same at every run.
type Repo struct {
	URL string // http://127.0.0.1:port/name
	Dir string

	t       testing.TB
	commits int
}

// Repo returns the repository with the given name, a new one if there is
// none yet. The name may have folders, as in "owner/repo".
func (u *Upstream) Repo(name string) *Repo {
	u.t.Helper()
	r := &Repo{URL: u.URL + "/" + name, Dir: filepath.Join(u.dir, name), t: u.t}
	if !notExist(r.Dir) {
		r.commits, _ = strconv.Atoi(r.Git("rev-list", "--all", "--count"))
		return r
	}
	if err := os.MkdirAll(r.Dir, 0o755); err != nil {
		u.t.Fatal(err)
	}
	r.Git("init", "--quiet", "--bare", "--initial-branch=main", ".")
	return r
}

// GitURL returns the URL as `zig fetch` wants it: git+http and a fragment.
// No fragment is added if it is "".
func (r *Repo) GitURL(fragment string) string {
	if fragment != "" {
		fragment = "#" + fragment
	}
	return "git+" + r.URL + fragment
}

// gitEnv is the environment of every git that a test runs: nobody's
// configuration, always the same author.
func gitEnv() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "LC_ALL=C",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=A U Thor", "GIT_AUTHOR_EMAIL=author@example.com",
		"GIT_COMMITTER_NAME=C O Mitter", "GIT_COMMITTER_EMAIL=committer@example.com",
		"GIT_CONFIG_COUNT=4",
		"GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
		"GIT_CONFIG_KEY_1=uploadpack.allowAnySHA1InWant", "GIT_CONFIG_VALUE_1=true",
		"GIT_CONFIG_KEY_2=init.defaultBranch", "GIT_CONFIG_VALUE_2=main",
		"GIT_CONFIG_KEY_3=advice.detachedHead", "GIT_CONFIG_VALUE_3=false",
	}
}

// Git runs git in dir without anybody's configuration. It returns what git
// printed; an error has what it complained about.
func Git(t testing.TB, dir, stdin string, args ...string) (string, error) {
	return gitAt(t, dir, stdin, 0, args...)
}

// gitAt is Git with the date of commits and tags, in days.
func gitAt(t testing.TB, dir, stdin string, day int, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = dir
	date := fmt.Sprintf("%d +0000", 1_700_000_000+day*86_400)
	cmd.Env = append(gitEnv(), "GIT_AUTHOR_DATE="+date, "GIT_COMMITTER_DATE="+date)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// Git runs git in the repository and returns what it printed, without the
// last newline.
func (r *Repo) Git(args ...string) string {
	r.t.Helper()
	return r.GitInput("", args...)
}

// GitInput is Git with something to read on standard input.
func (r *Repo) GitInput(stdin string, args ...string) string {
	r.t.Helper()
	out, err := gitAt(r.t, r.Dir, stdin, r.commits, args...)
	if err != nil {
		r.t.Fatal(err)
	}
	return strings.TrimSuffix(out, "\n")
}

// Files are what a commit changes: contents by path. A mark after the path
// says what it is, as `ls -F` does: "run.sh*" is executable and "link@" is a
// symlink. "lib/sub&" is a submodule, whose content is a commit id, and
// "old-" is removed, a file or a folder.
type Files map[string]string

// Commit adds files to main, over those that are there, and returns the
// commit's id. Each commit is a day after the one before.
func (r *Repo) Commit(files Files) string {
	r.t.Helper()
	r.commits++
	var in strings.Builder
	fmt.Fprintf(&in, "commit refs/heads/main\ncommitter C O Mitter <committer@example.com> %d +0000\n", 1_700_000_000+r.commits*86_400)
	message := fmt.Sprintf("commit %d\n", r.commits)
	fmt.Fprintf(&in, "data %d\n%s\n", len(message), message)
	if r.Git("branch", "--list", "main") != "" {
		fmt.Fprintf(&in, "from refs/heads/main^0\n")
	}
	names := slices.Sorted(maps.Keys(files))
	// Removals come first, or a commit could not replace what it removes.
	for _, removals := range []bool{true, false} {
		for _, name := range names {
			if strings.HasSuffix(name, "-") == removals {
				writeFile(&in, name, files[name])
			}
		}
	}
	r.GitInput(in.String(), "fast-import", "--quiet")
	return r.Git("rev-parse", "main")
}

// writeFile writes a filemodify or filedelete command. git-fast-import(1)
func writeFile(in *strings.Builder, name, content string) {
	mode := "100644"
	if rest, ok := strings.CutSuffix(name, "*"); ok {
		name, mode = rest, "100755"
	} else if rest, ok := strings.CutSuffix(name, "@"); ok {
		name, mode = rest, "120000"
	} else if rest, ok := strings.CutSuffix(name, "&"); ok {
		fmt.Fprintf(in, "M 160000 %s %s\n", content, rest)
		return
	} else if rest, ok := strings.CutSuffix(name, "-"); ok {
		fmt.Fprintf(in, "D %s\n", rest)
		return
	}
	fmt.Fprintf(in, "M %s inline %s\ndata %d\n%s\n", mode, name, len(content), content)
}

// CommitTree makes a commit without parents of a tree that git would not
// make by itself. entries are lines as git-mktree(1) reads them; see
// GitInput for blobs.
func (r *Repo) CommitTree(entries ...string) string {
	r.t.Helper()
	r.commits++
	var lines string
	for _, entry := range entries {
		lines += entry + "\n"
	}
	tree := r.GitInput(lines, "mktree", "--missing")
	return r.GitInput("", "commit-tree", "-m", "made by hand", tree)
}

// Blob stores a blob and returns its id.
func (r *Repo) Blob(content string) string {
	r.t.Helper()
	return r.GitInput(content, "hash-object", "-w", "--stdin")
}

// Tag points a lightweight tag at an object, over one that is there.
func (r *Repo) Tag(name, oid string) {
	r.t.Helper()
	r.Git("update-ref", "refs/tags/"+name, oid)
}

// Annotate points an annotated tag at an object, over one that is there, and
// returns the id of the tag object. The object may be a tag.
func (r *Repo) Annotate(name, oid string) string {
	r.t.Helper()
	r.Git("tag", "--force", "--annotate", "--message", "release "+name, name, oid)
	return r.Git("rev-parse", "refs/tags/"+name)
}

// DeleteTag deletes a tag.
func (r *Repo) DeleteTag(name string) {
	r.t.Helper()
	r.Git("update-ref", "-d", "refs/tags/"+name)
}

// Release makes a commit of a small package and tags it. It returns the
// commit's id.
func (r *Repo) Release(tag string) string {
	r.t.Helper()
	oid := r.Commit(Files{"README.md": "This is " + tag + ".\n", "src/root.zig": "pub const tag = \"" + tag + "\";\n"})
	r.Tag(tag, oid)
	return oid
}
