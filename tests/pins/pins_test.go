//go:build pins

// Package pins holds the hashes that real projects pin to ours and to those of every Zig.
//
//	PACKBASE_PINS          a file of JSON lines {"url", "hash", "repo": "owner/name", "commit"}
//	PACKBASE_PINS_MIRRORS  a folder of bare repositories, each in owner+name/repo
//	PACKBASE_TEST_ZIGS     the Zig programs
package pins

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/tarball"
)

type pin struct {
	URL    string `json:"url"`
	Hash   string `json:"hash"`
	Repo   string `json:"repo"`
	Commit string `json:"commit"`
}

// The tarball of each pinned commit has the hash that is pinned, and unpacks to it in every Zig that takes the package.
func TestPins(t *testing.T) {
	file, err := os.Open(os.Getenv("PACKBASE_PINS"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	dir := t.TempDir()
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer server.Close()
	done := map[string]*built{}
	count := map[string]int{}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var p pin
		if err := json.Unmarshal(lines.Bytes(), &p); err != nil {
			t.Fatal(err)
		}
		count["pins"]++
		key := p.Repo + "@" + p.Commit
		b, ok := done[key]
		if !ok {
			b = build(t, p, dir)
			done[key] = b
			if b.err == nil {
				b.zigs(t, server.URL)
			}
		}
		switch {
		case b.err != nil:
			count["not to be had"]++
			t.Logf("NONE %s: %v", key, b.err)
		case p.Hash == b.zig.Hash || p.Hash == b.zig.LegacyHash:
			count["equal"]++
		default:
			count["different"]++
			t.Errorf("DIFF %s: pinned %s, ours %s %s %q", p.URL, p.Hash, b.zig.Hash, b.zig.LegacyHash, b.zig.Problem)
		}
		os.Remove(filepath.Join(dir, b.name))
	}
	count["tarballs"] = len(done)
	t.Log(count)
}

type built struct {
	key  string
	name string // of the tarball's file
	zig  release.Zig
	err  error
}

func build(t *testing.T, p pin, dir string) *built {
	b := &built{key: p.Repo + "@" + p.Commit, name: strings.ReplaceAll(p.Repo, "/", "+") + "-" + p.Commit + ".tar.gz"}
	b.err = func() error {
		repo := filepath.Join(os.Getenv("PACKBASE_PINS_MIRRORS"), strings.ReplaceAll(p.Repo, "/", "+"), "repo")
		spool, err := os.Create(filepath.Join(t.TempDir(), "spool"))
		if err != nil {
			return err
		}
		defer os.Remove(spool.Name())
		defer spool.Close()
		objects := gitpack.NewObjects(spool)
		if err := load(objects, repo, p.Commit); err != nil {
			return err
		}
		commit, err := gitpack.ParseOID(p.Commit)
		if err != nil {
			return err
		}
		root, err := release.Resolve(objects, "", commit, gitpack.DefaultLimits())
		if err != nil {
			return err
		}
		scratch, err := os.Create(filepath.Join(t.TempDir(), "scratch"))
		if err != nil {
			return err
		}
		defer os.Remove(scratch.Name())
		defer scratch.Close()
		out, err := os.Create(filepath.Join(dir, b.name))
		if err != nil {
			return err
		}
		defer out.Close()
		man, err := release.NewBuilder(scratch, tarball.MaxSize, gitpack.DefaultLimits()).Build(t.Context(), out, objects, &root, release.Manifest{Package: "pin"})
		if err == nil {
			b.zig = man.Zig
		}
		return err
	}()
	return b
}

// load reads all objects of a commit.
func load(objects *gitpack.Objects, repo, commit string) error {
	ids, err := exec.Command("git", "-C", repo, "rev-list", "--objects", "--no-walk", "--no-object-names", commit).Output()
	if err != nil {
		return fmt.Errorf("rev-list: %w", err)
	}
	cmd := exec.Command("git", "-C", repo, "cat-file", "--batch")
	cmd.Stdin = bytes.NewReader(ids)
	all, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("cat-file: %w", err)
	}
	types := map[string]gitpack.Type{"commit": gitpack.Commit, "tree": gitpack.Tree, "blob": gitpack.Blob}
	for len(all) > 0 {
		line, rest, _ := bytes.Cut(all, []byte("\n"))
		f := strings.Fields(string(line))
		if len(f) != 3 {
			return fmt.Errorf("git says %q", line)
		}
		n, err := strconv.Atoi(f[2])
		if err != nil {
			return err
		}
		if _, err := objects.Add(types[f[1]], int64(n), bytes.NewReader(rest[:n])); err != nil {
			return err
		}
		all = rest[n+1:]
	}
	return nil
}

// zigs fetches the tarball with every Zig.
func (b *built) zigs(t *testing.T, url string) {
	for _, zig := range filepath.SplitList(os.Getenv("PACKBASE_TEST_ZIGS")) {
		version := filepath.Base(filepath.Dir(zig))
		minor := strings.Join(strings.Split(version, ".")[:2], ".")
		project := t.TempDir()
		if err := os.WriteFile(filepath.Join(project, "build.zig"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		args := []string{"fetch", url + "/" + b.name}
		if minor < "0.17" {
			args = append(args, "--global-cache-dir", filepath.Join(project, "cache"))
		}
		cmd := exec.Command(zig, args...)
		cmd.Dir = project
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		got := strings.TrimSpace(string(out))
		usable := slices.Contains(b.zig.UsableWith, minor)
		want := b.zig.Hash
		if minor < "0.14" {
			want = b.zig.LegacyHash
		}
		// Only a dependency may do without it.
		noPaths := strings.Contains(stderr.String(), "missing top-level 'paths' field")
		exit := 0
		if cmd.ProcessState != nil {
			exit = cmd.ProcessState.ExitCode()
		}
		switch {
		case err == nil && got == want:
			t.Logf("FETCHED %s %s", version, b.key)
		case err != nil && exit == 1 && (!usable || noPaths):
			t.Logf("REFUSED %s %s: %.200s", version, b.key, stderr.String())
		default:
			t.Errorf("WRONG %s %s: exit %d, printed %q, want %q, usable %v: %.300s", version, b.key, exit, got, want, usable, stderr.String())
		}
		os.RemoveAll(project)
	}
}
