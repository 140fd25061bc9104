package clients

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	git5 "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/storage/memory"

	"github.com/francescobianco/packbase/tests/harness"
)

// lightClients returns the clients that need nothing built.
func lightClients(t testing.TB) []client {
	t.Helper()
	clients := []client{gitClient(t, "0"), gitClient(t, "1"), gitClient(t, "2"), goGit(t)}
	if os.Getenv("PACKBASE_TEST_ZIGS") != "" || os.Getenv("CI") != "" {
		for _, z := range harness.Zigs(t) {
			clients = append(clients, zigClient(z))
		}
	}
	return clients
}

// execute runs a program with a home of its own and returns what it printed.
func execute(t testing.TB, name string, args ...string) (stdout string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = environment(t.TempDir())
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%w: %s", err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// gitClient returns git, told to speak a protocol version.
func gitClient(t testing.TB, version string) client {
	t.Helper()
	installed, err := execute(t, "git", "version")
	if err != nil {
		t.Fatalf("git version: %v", err)
	}
	do := func(t testing.TB, s step, at place) (string, error) {
		switch s {
		case list:
			return git(t, version, "ls-remote", at.url)
		case clone:
			return git(t, version, "clone", "-q", at.url, at.dir)
		case depth:
			return git(t, version, "clone", "-q", "--depth=1", at.url, at.dir)
		case byTag:
			return git(t, version, "clone", "-q", "--depth=1", "--branch="+at.ref, at.url, at.dir)
		case byCommit:
			if out, err := git(t, version, "init", "-q", at.dir); err != nil {
				return out, err
			}
			if out, err := git(t, version, "-C", at.dir, "fetch", "-q", "--depth=1", at.url, at.ref); err != nil {
				return out, err
			}
			return git(t, version, "-C", at.dir, "checkout", "-q", "--detach", "FETCH_HEAD")
		case fetch:
			return git(t, version, "-C", at.dir, "fetch", "-q")
		case fetchDepth:
			return git(t, version, "-C", at.dir, "fetch", "-q", "--depth=1", "--tags")
		}
		return "", errNoStep
	}
	return client{name: strings.Replace(strings.TrimSpace(installed), " version", "", 1) + ", protocol " + version, do: do}
}

func git(t testing.TB, version string, args ...string) (string, error) {
	t.Helper()
	return execute(t, "git", append([]string{"-c", "protocol.version=" + version, "-c", "init.defaultBranch=main"}, args...)...)
}

func goGit(t testing.TB) client {
	do := func(t testing.TB, s step, at place) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		opts := &git5.CloneOptions{URL: at.url, Tags: git5.AllTags}
		var err error
		switch s {
		case list:
			return goGitList(ctx, at.url)
		case byCommit:
			err = goGitCommit(ctx, at)
		case fetch:
			err = goGitFetch(ctx, at.dir, &git5.FetchOptions{Tags: git5.AllTags})
		case fetchDepth:
			err = goGitFetch(ctx, at.dir, &git5.FetchOptions{Tags: git5.AllTags, Depth: 1})
		case depth:
			opts.Depth = 1
			_, err = git5.PlainCloneContext(ctx, at.dir, false, opts)
		case byTag:
			opts.ReferenceName, opts.SingleBranch, opts.Depth = plumbing.NewTagReferenceName(at.ref), true, 1
			_, err = git5.PlainCloneContext(ctx, at.dir, false, opts)
		default:
			_, err = git5.PlainCloneContext(ctx, at.dir, false, opts)
		}
		return "", err
	}
	return client{name: "go-git " + goGitVersion(t), do: do}
}

// goGitVersion returns the version that go.mod pins.
func goGitVersion(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", "github.com/go-git/go-git/v5").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(strings.TrimPrefix(string(out), "v"))
}

func goGitList(ctx context.Context, url string) (string, error) {
	remote := git5.NewRemote(memory.NewStorage(), &config.RemoteConfig{Name: "origin", URLs: []string{url}})
	refs, err := remote.ListContext(ctx, &git5.ListOptions{})
	var b strings.Builder
	for _, ref := range refs {
		if ref.Type() == plumbing.HashReference {
			fmt.Fprintf(&b, "%s %s\n", ref.Hash(), ref.Name())
		}
	}
	return b.String(), err
}

func goGitCommit(ctx context.Context, at place) error {
	repo, err := git5.PlainInit(at.dir, false)
	if err != nil {
		return err
	}
	if _, err := repo.CreateRemote(&config.RemoteConfig{Name: "origin", URLs: []string{at.url}}); err != nil {
		return err
	}
	spec := config.RefSpec(at.ref + ":refs/heads/fetched")
	if err := repo.FetchContext(ctx, &git5.FetchOptions{RefSpecs: []config.RefSpec{spec}, Depth: 1, Tags: git5.NoTags}); err != nil {
		return err
	}
	tree, err := repo.Worktree()
	if err != nil {
		return err
	}
	return tree.Checkout(&git5.CheckoutOptions{Hash: plumbing.NewHash(at.ref)})
}

func goGitFetch(ctx context.Context, dir string, opts *git5.FetchOptions) error {
	repo, err := git5.PlainOpen(dir)
	if err != nil {
		return err
	}
	return repo.FetchContext(ctx, opts)
}

// zigClient returns `zig fetch`: it knows no clones, and each fetch is one of
// depth 1.
func zigClient(z *harness.Zig) client {
	do := func(t testing.TB, s step, at place) (string, error) {
		url := "git+" + at.url
		switch s {
		case depth:
		case byTag, byCommit, fetch:
			url += "#" + at.ref
		default:
			return "", errNoStep
		}
		return z.For(t).Fetch(url)
	}
	check := func(w *world, s step, stdout string) error {
		if want := z.Hash(w.info.Release(w.t, w.tagOf(s))); stdout != want {
			return fmt.Errorf("zig printed %q, want %q, the hash of the tarball", stdout, want)
		}
		return nil
	}
	return client{name: "Zig " + z.Version, do: do, check: check}
}
