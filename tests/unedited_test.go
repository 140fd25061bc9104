package tests_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/tests/harness"
)

// A project builds unedited although its dependencies, and theirs, name hosts that this machine cannot even resolve:
// with the proxy variables, in `packbase run`, and by prefix URLs in its own manifest. All upstreams have stopped.
func TestUnedited(t *testing.T) {
	t.Parallel()
	for _, z := range harness.Zigs(t) {
		t.Run(z.Version, func(t *testing.T) {
			t.Parallel()
			u := &unedited{t: t, z: z.For(t), up: harness.NewUpstream(t), s: harness.Start(t)}
			b := u.mirror("b", "https://codeberg.org/o/b")
			git := u.dependency("b", "git+https://codeberg.org/o/b?ref=v1.0.0#"+b.Commit, b)
			a := u.mirror("a", "https://github.com/o/a", git)
			c := u.mirror("c", "https://git.example.org/o/c")
			u.up.Stop()
			forge := u.dependency("a", "https://github.com/o/a/archive/"+a.Commit+".tar.gz", a)
			gitea := u.dependency("c", "https://git.example.org/o/c/archive/v1.0.0.zip", c)

			u.z.Env = []string{"http_proxy=" + u.s.URL, "https_proxy=" + u.s.URL}
			u.builds("proxy", forge, gitea)
			u.refuses("https://github.com/o/none/archive/v1.tar.gz", c, "github.com/o/none/archive/v1.tar.gz is not mirrored here")
			u.z.Env = nil
			u.builds("prefix", u.dependency("a", u.s.URL+"/u/https/git.example.org/o/c/archive/v1.0.0.tar.gz", c),
				strings.Replace(git, "git+https://", "git+"+u.s.URL+"/u/https/", 1))
			u.z.Path = u.script(fmt.Sprintf("exec %s run --url %s -- %s \"$@\"", harness.Binary(t), u.s.URL, u.z.Path))
			u.builds("run", forge, gitea)
			// Zig would not say why.
			u.refuses("git+https://github.com/o/none#"+a.Commit, c, "not to be had from "+u.s.URL+":\n  github.com/o/none is not mirrored here")
		})
	}
}

type unedited struct {
	t  *testing.T
	z  *harness.Zig
	up *harness.Upstream
	s  *harness.Server
}

// mirror mirrors a package, and has it be of another upstream.
func (u *unedited) mirror(name, upstream string, dependencies ...string) wire.Tarball {
	u.t.Helper()
	files := u.z.Package(name, "1.0.0", name)
	files["build.zig.zon"] = depending(files["build.zig.zon"], dependencies)
	repo := u.up.Repo(name)
	repo.Tag("v1.0.0", repo.Commit(files))
	u.s.Fetch(repo.URL)
	db, err := pgx.Connect(u.t.Context(), u.s.DatabaseURL)
	if err != nil {
		u.t.Fatal(err)
	}
	defer db.Close(u.t.Context())
	if _, err := db.Exec(u.t.Context(), `UPDATE packages SET upstream = $2, clone_url = $2, changed_at = now() WHERE name = $1`, name, upstream); err != nil {
		u.t.Fatal(err)
	}
	return u.s.Info(name).Release(u.t, "v1.0.0")
}

// dependency returns the lines that `zig fetch --save` would write.
func (u *unedited) dependency(name, url string, rel wire.Tarball) string {
	return fmt.Sprintf(".%s = .{ .url = %q, .hash = %q },", name, url, u.z.Hash(rel))
}

func depending(manifest string, dependencies []string) string {
	return strings.Replace(manifest, ".dependencies = .{}", ".dependencies = .{"+strings.Join(dependencies, " ")+"}", 1)
}

func (u *unedited) project(dependencies ...string) string {
	u.t.Helper()
	dir := u.z.Project("project", "a")
	file := filepath.Join(dir, "build.zig.zon")
	text, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, []byte(depending(string(text), dependencies)), 0o600)
	}
	if err != nil {
		u.t.Fatal(err)
	}
	u.z.Forget(dir)
	return dir
}

func (u *unedited) builds(way string, dependencies ...string) {
	u.t.Helper()
	dir := u.project(dependencies...)
	_, err := u.z.Run(dir, "build")
	if err == nil {
		_, err = os.Stat(filepath.Join(dir, "zig-out", "root.zig"))
	}
	if err != nil {
		u.t.Errorf("%s: %v", way, err)
	}
}

// refuses has a project want a package that is here by a URL that is not.
func (u *unedited) refuses(url string, rel wire.Tarball, want string) {
	u.t.Helper()
	dir := u.project(u.dependency("a", url, rel))
	if _, err := u.z.Run(dir, "build"); err == nil || !strings.Contains(err.Error(), want) {
		u.t.Errorf("%s: %v, want %q", url, err, want)
	}
}

// script makes a program of a line for the shell.
func (u *unedited) script(line string) string {
	u.t.Helper()
	file := filepath.Join(u.t.TempDir(), "zig")
	// Linux does not execute what a child that is being started has open.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+line+"\n"), 0o700); err != nil {
		u.t.Fatal(err)
	}
	return file
}

// A stranger who has another branch pulled does not move HEAD of a package without releases; who has a token and asks for it does.
func TestPulledBranch(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	repo := up.Repo("r")
	main := repo.Commit(harness.Files{"a.txt": "main"})
	s := harness.Start(t, "PACKBASE_PULL="+strings.TrimPrefix(up.URL, "http://"))
	s.Fetch(repo.GitURL("main"))
	dev := repo.Commit(harness.Files{"a.txt": "dev"})
	repo.Git("branch", "dev", dev)
	repo.Git("branch", "--force", "main", main)
	at := s.URL + "/u/" + strings.Replace(repo.URL, "://", "/", 1)
	if _, err := harness.Git(t, t.TempDir(), "", "clone", "--quiet", "--depth=1", "--branch=dev", at, "."); err != nil {
		t.Fatal(err)
	}
	if info := s.Info("r"); info.Head != main || len(info.Branches) != 2 {
		t.Errorf("HEAD is at %s after a pull, with the branches %+v, want %s and two", info.Head, info.Branches, main)
	}
	s.Fetch(repo.GitURL("dev"))
	if info := s.Info("r"); info.Head != dev {
		t.Errorf("HEAD is at %s once dev was asked for, want %s", info.Head, dev)
	}
}

// What is missing is fetched while Zig waits, as a file or by Git, once for all; then nobody is asked again.
func TestPulled(t *testing.T) {
	t.Parallel()
	files, repos := harness.NewUpstream(t), harness.NewUpstream(t)
	archive := zipped(t, harness.Files{"a.txt": "a", "b/c.txt": "c"})
	files.Answer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/zip")
		_, _ = w.Write(archive) // the client may have gone
	}))
	commit := repos.Repo("r").Commit(harness.Files{"a.txt": "a"}) // without a tag
	urls := []string{files.URL + "/a%2Fb//x.zip?y=1", "git+" + repos.URL + "/r#" + commit}
	s := harness.Start(t, "PACKBASE_PULL="+strings.TrimPrefix(files.URL, "http://")+","+strings.TrimPrefix(repos.URL, "http://"))
	hashes := map[string]string{} // by URL and form
	fetch := func(z *harness.Zig, when string) {
		z.Env = []string{"http_proxy=" + s.URL, "https_proxy=" + s.URL}
		for _, url := range urls {
			hash, err := z.Fetch(url)
			form := fmt.Sprint(url, z.LegacyHash())
			if err != nil || hash == "" || hashes[form] != "" && hashes[form] != hash {
				t.Errorf("%s: zig %s fetch %s: %q, %v, want %q", when, z.Version, url, hash, err, hashes[form])
			}
			hashes[form] = hash
		}
	}
	zigs := harness.Zigs(t)
	for _, z := range zigs {
		fetch(z, "pulled")
	}
	if n := files.Requests(); n != 1 {
		t.Errorf("upstream was asked %d times for a file, want once", n)
	}
	files.Stop()
	repos.Stop()
	for _, z := range zigs {
		z.Forget(t.TempDir())
		fetch(z, "stored")
	}
}
