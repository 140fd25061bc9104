//go:build clients

package clients

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// A program is a client of its own, whose source is in a folder of testdata
// with the versions of what it needs.
type program struct {
	name    string
	folder  string   // of testdata
	version string   // pattern of the version in a file of the folder, as "file: pattern"
	tools   []string // that build and run it
	build   string   // shell command; runs in a copy of the folder
	command func(dir string) []string
}

const pip = "python3 -m pip install --quiet --only-binary=:all: --target=lib --requirement=requirements.txt"

// cargo builds by our Cargo.lock, which lacks where crates come from: cargo
// says that in a lock of its own. It takes a minute or two, the first time.
const cargo = `mv Cargo.lock pinned
	cargo -q generate-lockfile
	source=$(grep -m1 '^source = ' Cargo.lock)
	sed "/^checksum = /i $source" pinned > Cargo.lock
	cargo -q build --locked --target-dir=../gix-target
	cp ../gix-target/debug/packbase-gix .`

var all = []program{
	{
		name: "dulwich", folder: "python", version: `requirements.txt: dulwich==(.*)`,
		tools: []string{"python3"}, build: pip,
		command: func(dir string) []string { return python(dir, "with_dulwich.py") },
	},
	{
		name: "pygit2", folder: "python", version: `requirements.txt: pygit2==(.*)`,
		tools: []string{"python3"}, build: pip,
		command: func(dir string) []string { return python(dir, "with_pygit2.py") },
	},
	{
		name: "isomorphic-git", folder: "isomorphic", version: `package.json: "isomorphic-git": "(.*)"`,
		tools:   []string{"npm", "node"},
		build:   "npm ci --ignore-scripts --no-audit --no-fund",
		command: func(dir string) []string { return []string{"node", filepath.Join(dir, "main.js")} },
	},
	{
		name: "gix", folder: "gix", version: `Cargo.toml: gix = .* version = "=([^"]*)"`,
		tools: []string{"cargo"}, build: cargo,
		command: func(dir string) []string { return []string{filepath.Join(dir, "packbase-gix")} },
	},
	{
		name: "JGit", folder: "jgit", version: `pom.xml: org.eclipse.jgit</artifactId>\s*<version>([\d.]*\d)`,
		tools:   []string{"mvn", "javac", "java"},
		build:   "mvn -q -B dependency:copy-dependencies -DoutputDirectory=lib && javac -cp 'lib/*' -d . Main.java",
		command: func(dir string) []string { return []string{"java", "-cp", dir + ":" + dir + "/lib/*", "Main"} },
	},
}

func python(dir, script string) []string {
	return []string{"env", "PYTHONPATH=" + filepath.Join(dir, "lib"), "python3", filepath.Join(dir, script)}
}

// args returns the arguments of a client that is a program.
func (p place) args(s step) []string {
	switch s {
	case list:
		return []string{p.url}
	case byTag, byCommit:
		return []string{p.url, p.dir, p.ref}
	case fetch, fetchDepth:
		return []string{p.dir}
	}
	return []string{p.url, p.dir}
}

// programs returns the clients that have to be built, building those that
// are not. One whose tools are missing is left out, or fails the test if CI
// is set.
func programs(t testing.TB) []client {
	t.Helper()
	var clients []client
	for _, p := range all {
		if missing := p.missing(); len(missing) > 0 {
			if os.Getenv("CI") != "" {
				t.Errorf("%s cannot be tested without %q", p.name, missing)
			}
			t.Logf("%s is not tested, for want of %q", p.name, missing)
			continue
		}
		dir, err := p.install()
		if err != nil {
			t.Fatalf("build %s: %v", p.name, err)
		}
		command := p.command(dir)
		clients = append(clients, client{
			name: p.title(t),
			do: func(t testing.TB, s step, at place) (string, error) {
				args := append(append(command[1:len(command):len(command)], string(s)), at.args(s)...)
				return execute(t, command[0], args...)
			},
		})
	}
	return clients
}

func (p *program) missing() (tools []string) {
	for _, tool := range p.tools {
		if _, err := exec.LookPath(tool); err != nil {
			tools = append(tools, tool)
		}
	}
	return tools
}

// title returns the name of the program with its version.
func (p *program) title(t testing.TB) string {
	t.Helper()
	file, pattern, _ := strings.Cut(p.version, ": ")
	content, err := os.ReadFile(filepath.Join("testdata", p.folder, file))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(pattern).FindSubmatch(content)
	if found == nil {
		t.Fatalf("%s has no version in %s", p.name, file)
	}
	return p.name + " " + string(found[1])
}

// install builds the program in the cache, unless that was done before, and
// returns where it is.
func (p *program) install() (dir string, err error) {
	source := filepath.Join("testdata", p.folder)
	sum, err := hashTree(source)
	if err != nil {
		return "", err
	}
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	dir = filepath.Join(cache, p.folder+"-"+sum)
	done := filepath.Join(dir, "done")
	if _, err := os.Stat(done); err == nil {
		return dir, nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	if err := os.CopyFS(dir, os.DirFS(source)); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-ec", p.build)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", p.build, err, out)
	}
	return dir, os.WriteFile(done, nil, 0o644)
}

// cacheDir is where built clients are kept: beside the Zigs of tests/env.
func cacheDir() (string, error) {
	cache := os.Getenv("PACKBASE_CACHE")
	if cache == "" {
		users, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		cache = filepath.Join(users, "packbase")
	}
	return filepath.Abs(filepath.Join(cache, "clients"))
}

// hashTree returns a short hash of the files of a folder.
func hashTree(dir string) (string, error) {
	h := sha256.New()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		fmt.Fprintf(h, "%s %d\n%s", path, len(content), content)
		return err
	})
	return fmt.Sprintf("%x", h.Sum(nil)[:8]), err
}
