package smarthttp

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// versions are those of the protocol that a client may choose.
var versions = []string{"0", "1", "2"}

// eachVersion runs a test for each version against one mirror of u.
func eachVersion(t *testing.T, u *upstream, test func(t *testing.T, c *client)) {
	url := serve(t, newMirror(t, u), Options{})
	for _, v := range versions {
		t.Run("v"+v, func(t *testing.T) {
			t.Parallel()
			test(t, &client{t: t, version: v, url: url + "/pkg", up: &upstream{t, u.dir}})
		})
	}
}

// A client runs git against a mirror of up.
type client struct {
	t       *testing.T
	version string
	url     string
	up      *upstream
}

func (c *client) git(dir string, args ...string) string {
	c.t.Helper()
	return git(c.t, dir, append([]string{"-c", "protocol.version=" + c.version}, args...)...)
}

func (c *client) clone(args ...string) (dir string) {
	c.t.Helper()
	dir = filepath.Join(c.t.TempDir(), "clone")
	c.git(".", append(append([]string{"clone", "-q"}, args...), c.url, dir)...)
	return dir
}

// check checks a whole clone, and that names in it are upstream's, without
// their history.
func (c *client) check(dir string, names ...string) {
	c.t.Helper()
	if out := git(c.t, dir, "fsck", "--strict", "--full"); strings.Contains(out, "missing") || strings.Contains(out, "broken") {
		c.t.Errorf("git fsck: %s", out)
	}
	for _, name := range names {
		name, upstreamName, ok := strings.Cut(name, "=")
		if !ok {
			upstreamName = name
		}
		if got, want := git(c.t, dir, "rev-parse", name), c.up.git("rev-parse", upstreamName); got != want {
			c.t.Errorf("%s = %s, want %s", name, got, want)
		}
		// What is listed is there, fsck says so.
		if got, want := git(c.t, dir, "rev-list", "--objects", name), c.up.git("rev-list", "--objects", "--no-walk", upstreamName); !sameLines(got, want) {
			c.t.Errorf("%s leads to other objects than upstream", name)
		}
	}
}

func sameLines(a, b string) bool {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	slices.Sort(x)
	slices.Sort(y)
	return slices.Equal(x, y)
}

func TestClone(t *testing.T) {
	t.Parallel()
	eachVersion(t, newUpstream(t), func(t *testing.T, c *client) {
		dir := c.clone()
		c.check(dir, "v1", "v2", "v3", "v4", "light", "nested", "HEAD=v4^{}")
		if got, err := os.ReadFile(filepath.Join(dir, "src/version")); string(got) != "v4" {
			t.Errorf("src/version = %q, %v, want v4", got, err)
		}
		if got := git(t, dir, "status", "--porcelain", "--branch"); got != "## main...origin/main" {
			t.Errorf("status = %q", got)
		}
		for _, args := range [][]string{{"fetch"}, {"fetch", "--tags"}, {"fetch", "--unshallow"}, {"fetch", "--depth=3"}, {"pull", "-q"}} {
			if got := c.git(dir, args...); strings.Contains(got, "rejected") {
				t.Errorf("git %s of nothing new: %s", args, got)
			}
		}
		git(t, dir, "gc", "-q", "--prune=now")
		c.check(dir, "v1", "HEAD=v4^{}")
	})
}

func TestCloneForms(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"depth 1", []string{"--depth=1"}, "HEAD=v4^{}"},
		{"depth 2", []string{"--depth=2"}, "HEAD=v4^{}"},
		{"depth 1 of a tag", []string{"--depth=1", "--branch=v2"}, "HEAD=v2^{}"},
		{"a tag", []string{"--branch=v2"}, "v2"},
		{"a lightweight tag", []string{"--depth=1", "--branch=light"}, "light"},
		{"a tag of a tag", []string{"--depth=1", "--branch=nested"}, "nested"},
		{"single branch without tags", []string{"--single-branch", "--no-tags"}, "HEAD=v4^{}"},
		{"mirror", []string{"--mirror"}, "v1"},
	}
	eachVersion(t, newUpstream(t), func(t *testing.T, c *client) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				c := *c
				c.t = t
				c.check(c.clone(tt.args...), tt.want)
			})
		}
	})
}

// A depth-1 clone of a tag must not transfer other releases.
func TestCloneTransfersOneRelease(t *testing.T) {
	t.Parallel()
	eachVersion(t, newUpstream(t), func(t *testing.T, c *client) {
		dir := c.clone("--depth=1", "--branch=v2")
		want := strings.Count(c.up.git("rev-list", "--objects", "--no-walk", "v2"), "\n")
		got := strings.Count(git(t, dir, "cat-file", "--batch-all-objects", "--batch-check"), "\n")
		if got != want {
			t.Errorf("%d objects, want %d", got+1, want+1)
		}
	})
}

func TestFetchCommit(t *testing.T) {
	t.Parallel()
	eachVersion(t, newUpstream(t), func(t *testing.T, c *client) {
		for _, name := range []string{"main", "v1^{}", "v3"} {
			dir := t.TempDir()
			git(t, dir, "init", "-q")
			c.git(dir, "fetch", "-q", "--depth=1", c.url, c.up.git("rev-parse", name))
			c.check(dir, "FETCH_HEAD="+name)
			// Without --depth git takes no new shallow commits unless told so.
			dir = t.TempDir()
			git(t, dir, "init", "-q")
			c.git(dir, "fetch", "-q", "--update-shallow", c.url, c.up.git("rev-parse", name))
			c.check(dir, "FETCH_HEAD="+name)
		}
		dir := t.TempDir()
		git(t, dir, "init", "-q")
		tree := c.up.git("rev-parse", "v1^{tree}")
		out, err := run(t, dir, "-c", "protocol.version="+c.version, "fetch", "--depth=1", c.url, tree)
		if err == nil || !strings.Contains(out, "not our ref "+tree) {
			t.Errorf("fetch of a tree: %v, %s", err, out)
		}
	})
}

func TestLsRemote(t *testing.T) {
	t.Parallel()
	eachVersion(t, newUpstream(t), func(t *testing.T, c *client) {
		head := c.up.git("rev-parse", "v4^{}")
		want := "ref: refs/heads/main\tHEAD\n" + head + "\tHEAD\n" + head + "\trefs/heads/main\n" +
			c.up.git("ls-remote", "--tags", ".")
		if got := c.git(".", "ls-remote", "--symref", c.url); got != want {
			t.Errorf("ls-remote =\n%s\nwant\n%s", got, want)
		}
		want = c.up.git("ls-remote", ".", "v3*")
		if got := c.git(".", "ls-remote", c.url, "v3*"); got != want {
			t.Errorf("ls-remote v3* =\n%s\nwant\n%s", got, want)
		}
	})
}

func TestFetchNewTag(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		clone []string
		fetch []string
		v0    bool // works in versions 0 and 1
	}{
		{"plain", nil, nil, false},
		{"plain after depth 1", []string{"--depth=1", "--no-single-branch"}, nil, false},
		{"tags", nil, []string{"--tags"}, false},
		{"update shallow", nil, []string{"--update-shallow"}, true},
		{"depth 1", []string{"--depth=1"}, []string{"--depth=1", "--tags"}, true},
		{"one tag", []string{"--depth=1"}, []string{"--depth=1", "origin", "tag", "v5"}, true},
		{"unshallow", []string{"--depth=1"}, []string{"--unshallow", "--tags"}, true},
		{"deepen", nil, []string{"--depth=10"}, true},
	}
	for _, v := range versions {
		t.Run("v"+v, func(t *testing.T) {
			t.Parallel()
			u := newUpstream(t)
			m := newMirror(t, u)
			c := &client{t: t, version: v, url: serve(t, m, Options{}) + "/pkg", up: u}
			dirs := map[string]string{}
			for _, tt := range tests {
				dirs[tt.name] = c.clone(tt.clone...)
			}
			u.commit("v5")
			u.git("tag", "-a", "-m", "another name", "z4", "v4^{}") // of a commit that clients have
			m.sync(u)
			for _, tt := range tests {
				t.Run(tt.name, func(t *testing.T) {
					c := *c
					c.t = t
					dir := dirs[tt.name]
					args := append([]string{"fetch"}, tt.fetch...)
					if !tt.v0 && v != "2" {
						// As from git's own server; nothing a server can do.
						out, err := run(t, dir, append([]string{"-c", "protocol.version=" + v}, args...)...)
						if err == nil || !strings.Contains(out, "did not send all necessary objects") {
							t.Errorf("git fetch: %v, %s", err, out)
						}
						c.check(dir, "v4")
						return
					}
					c.git(dir, args...)
					c.check(dir, "v5", "HEAD=v4^{}")
					if again := c.git(dir, args...); strings.Contains(again, "v5") {
						t.Errorf("fetch again: %s", again)
					}
				})
			}
		})
	}
}

// A client that has upstream's history must not lose it, and may have commits
// without their tag objects.
func TestFetchIntoFullClone(t *testing.T) {
	t.Parallel()
	for _, merged := range []bool{false, true} {
		u := newUpstream(t)
		m := newMirror(t, u)
		m.merged = merged
		m.sync(u)
		url := serve(t, m, Options{}) + "/pkg"
		for _, v := range versions {
			c := &client{t: t, version: v, url: url, up: u}
			dir := filepath.Join(t.TempDir(), "full")
			git(t, ".", "clone", "-q", "--no-local", "--no-tags", u.dir, dir)
			c.git(dir, "fetch", "--no-tags", c.url, "refs/tags/*:refs/tags/*")
			git(t, dir, "fsck", "--strict")
			if got, want := git(t, dir, "rev-list", "--count", "v4"), "4"; got != want {
				t.Errorf("version %s: v4 has %s commits, want %s", v, got, want)
			}
			if got := git(t, dir, "rev-parse", "--is-shallow-repository"); got != "false" {
				t.Errorf("version %s: shallow = %s, want false", v, got)
			}
		}
	}
}

func TestNegotiateOnly(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	c := &client{t: t, version: "2", url: serve(t, newMirror(t, u), Options{}) + "/pkg", up: u}
	dir := c.clone()
	want := u.git("rev-parse", "v1^{}")
	if got := c.git(dir, "fetch", "--negotiate-only", "--negotiation-tip="+want, "origin"); got != want {
		t.Errorf("in common: %q, want %q", got, want)
	}
}

// Wants of many tags make git gzip its request, and many haves make it send
// several.
func TestManyTags(t *testing.T) {
	t.Parallel()
	const tags = 300
	u := &upstream{t, t.TempDir()}
	u.git("init", "-q", "-b", "main")
	var b strings.Builder
	for i := range tags {
		fmt.Fprintf(&b, "commit refs/heads/main\ncommitter c <c@example.org> %d +0000\ndata 1\nx\n", 1_700_000_000+i)
		fmt.Fprintf(&b, "M 644 inline f%d\ndata 1\nx\nreset refs/tags/v%03d\nfrom refs/heads/main\n\n", i%3, i)
	}
	cmd := exec.Command("git", "fast-import", "--quiet")
	cmd.Dir, cmd.Stdin = u.dir, strings.NewReader(b.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git fast-import: %v\n%s", err, out)
	}
	m := newMirror(t, u)
	url := serve(t, m, Options{}) + "/pkg"
	dirs := map[string]string{}
	for _, v := range versions {
		c := &client{t: t, version: v, url: url, up: u}
		dirs[v] = c.clone()
		c.check(dirs[v], "v299")
		if got := len(strings.Fields(git(t, dirs[v], "tag"))); got != tags {
			t.Errorf("v%s: %d tags, want %d", v, got, tags)
		}
	}
	u.commit("v999")
	m.sync(u)
	for _, v := range versions {
		c := &client{t: t, version: v, url: url, up: u}
		c.git(dirs[v], "fetch", "-q", "--update-shallow")
		c.check(dirs[v], "v999")
	}
}

func TestErrorsInTerminal(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	m := newMirror(t, u)
	url := serve(t, m, Options{})
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"no package", []string{"ls-remote", url + "/nope"}, "remote: there is no package nope"},
		{"no releases", []string{"clone", url + "/empty", t.TempDir()}, "remote: package empty has no releases yet: its last fetch failed"},
		{"internal", []string{"ls-remote", url + "/broken"}, "remote: internal error"},
		{"push", []string{"push", url + "/pkg", "main"}, "remote: packages are read-only"},
		{"filter", []string{"fetch", "--filter=blob:none", "--depth=1", url + "/pkg", "main"}, ""},
		{"since", []string{"fetch", "--shallow-since=2001-01-01", url + "/pkg", "v1"}, "deepen-since is not supported"},
		{"exclude", []string{"fetch", "--shallow-exclude=v1", url + "/pkg", "v2"}, "deepen-not is not supported"},
		{"unknown ref", []string{"fetch", url + "/pkg", "v77"}, "couldn't find remote ref v77"},
	}
	for _, tt := range tests {
		out, err := run(t, u.dir, tt.args...)
		if (err == nil) != (tt.want == "") || !strings.Contains(out, tt.want) {
			t.Errorf("%s: %v, %q, want %q", tt.name, err, out, tt.want)
		}
	}
}

// While no turn is free, refs are listed as ever, and packs are refused.
func TestBusy(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	full := New(newMirror(t, u), Options{Fetches: 1, Wait: time.Millisecond}, slog.New(slog.DiscardHandler))
	end, err := full.packs.acquire(t.Context(), "other", "other", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	url := serveHandler(t, full) + "/pkg"
	for _, v := range versions {
		if out, err := run(t, u.dir, "-c", "protocol.version="+v, "ls-remote", url); err != nil || !strings.Contains(out, "refs/tags/v4") {
			t.Errorf("v%s: ls-remote: %v, %q", v, err, out)
		}
		if out, err := run(t, u.dir, "-c", "protocol.version="+v, "clone", url, t.TempDir()); err == nil || !strings.Contains(out, "HTTP 503") {
			t.Errorf("v%s: clone: %v, %q, want 503", v, err, out)
		}
	}
	end()
	if out, err := run(t, u.dir, "clone", url, t.TempDir()); err != nil {
		t.Errorf("clone: %v, %q", err, out)
	}
}
