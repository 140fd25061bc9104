package ingest

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/gitpack"
)

// lay makes files below a folder; a content "-> x" makes a symbolic link to x.
func lay(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := cutLink(content); ok {
			err = os.Symlink(target, file)
		} else {
			err = os.WriteFile(file, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func cutLink(content string) (target string, ok bool) {
	const arrow = "-> "
	if len(content) > len(arrow) && content[:len(arrow)] == arrow {
		return content[len(arrow):], true
	}
	return "", false
}

// No fixture reads what lies outside of its own folder, whatever a clone URL
// or a symbolic link says.
func TestFixturesStayInTheirFolder(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	secret := filepath.Join(base, "secret")
	fixtures := filepath.Join(base, "fixtures")
	const oid = "0123456789012345678901234567890123456789\n"
	lay(t, base, map[string]string{
		"secret/key":                        ".{ .name = .secret, .version = \"6.6.6\", .fingerprint = 0x1, .paths = .{\"\"} }\n",
		"secret/HEAD":                       "ref: refs/heads/main\n",
		"secret/tag":                        oid,
		"secret.git/HEAD":                   "ref: refs/heads/main\n",
		"fixtures/plain/build.zig.zon":      "-> ../../secret/key",
		"fixtures/plain/src/main.zig":       "// code\n",
		"fixtures/out":                      "-> ../secret",
		"fixtures/absolute":                 "-> " + secret,
		"fixtures/within":                   "-> plain",
		"fixtures/.hidden/file":             "x",
		"fixtures/bare.git/HEAD":            "ref: refs/heads/main\n",
		"fixtures/bare.git/refs/heads/main": "-> ../../../../secret/tag",
		"fixtures/bare.git/packed-refs":     "-> ../../secret/tag",
		"fixtures/bare.git/objects/pack/x":  "",
		"fixtures/head.git/HEAD":            "-> ../../secret/HEAD",
	})
	names, err := Fixtures(fixtures)
	slices.Sort(names)
	if want := []string{"bare.git", "head.git", "plain", "within"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("fixtures: %q (%v), want %q", names, err, want)
	}
	for _, tt := range []struct {
		clone string
		ok    bool
	}{
		{"fixture:plain", true},
		{"fixture:within", true},
		{"fixture:out", false},
		{"fixture:absolute", false},
		{"fixture:../secret", false},
		{"fixture:../secret.git", false},
		{"fixture:" + secret, false},
		{"fixture:" + secret + ".git", false},
		{"fixture:plain/../../secret", false},
		{"fixture:bare.git", false},
		{"fixture:head.git", false},
		{"fixture:missing", false},
		{"fixture:", false},
	} {
		req := Request{Package: "p", CloneURL: tt.clone, Fixtures: fixtures, Dir: t.TempDir(), Limits: DefaultLimits()}
		src, err := openCopied(t, req)
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v, want ok %v", tt.clone, err, tt.ok)
		}
		if err == nil {
			src.close()
		}
		var own *fault.Error
		if req.Fixtures, req.Dir = "", t.TempDir(); tt.ok {
			if _, err := openCopied(t, req); !errors.As(err, &own) || own.Code != "fixture_not_found" {
				t.Errorf("%s without a folder of fixtures: %v", tt.clone, err)
			}
		}
	}
	req := Request{Package: "plain", CloneURL: "fixture:plain", Fixtures: fixtures, Dir: t.TempDir(), Limits: DefaultLimits()}
	src, err := openCopied(t, req)
	if err != nil {
		t.Fatal(err)
	}
	defer src.close()
	if tags := src.refs().tags; len(tags) != 1 || tags["v0.1.0"].IsZero() {
		t.Errorf("the tags of plain are %v: a manifest outside was read", tags)
	}
}

// openCopied opens a fixture as the child does.
func openCopied(t *testing.T, req Request) (source, error) {
	t.Helper()
	if err := copyFixture(req); err != nil {
		return nil, err
	}
	return openSource(t.Context(), req, &eventWriter{w: bufio.NewWriter(io.Discard)})
}

// What Git and Zig keep for themselves in a folder is no part of the fixture, nor is what Git writes instead into worktrees and submodules.
func TestFixtureWithoutWorkFiles(t *testing.T) {
	t.Parallel()
	fixtures, dir := t.TempDir(), t.TempDir()
	lay(t, fixtures, map[string]string{"plain/a": "x", "plain/.git": "gitdir: /home/me/plain/.git/worktrees/x\n", "plain/lib/.git": "gitdir: ../.git/modules/lib\n",
		"plain/lib/z": "x", "plain/link/.git": "-> ../../secret", "plain/own/.git/config": "x", "plain/.zig-cache/x": "x", "plain/zig-out/x": "x"})
	if err := copyFixture(Request{CloneURL: "fixture:plain", Fixtures: fixtures, Dir: dir, Limits: DefaultLimits()}); err != nil {
		t.Fatal(err)
	}
	var files []string
	err := filepath.WalkDir(filepath.Join(dir, fixtureCopy), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, d.Name())
		}
		return err
	})
	if want := []string{"a", "z"}; err != nil || !slices.Equal(files, want) {
		t.Errorf("the fixture has the files %q (%v), want %q", files, err, want)
	}
}

// A fixture that holds something else than files is refused by the name of that.
func TestFixtureOfOtherThanFiles(t *testing.T) {
	t.Parallel()
	fixtures := t.TempDir()
	lay(t, fixtures, map[string]string{"plain/README": "x"})
	if err := syscall.Mkfifo(filepath.Join(fixtures, "plain/pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := copyFixture(Request{CloneURL: "fixture:plain", Fixtures: fixtures, Dir: t.TempDir(), Limits: DefaultLimits()})
	if e := AsFault(err); e == nil || e.Code != "fixture_unfit" || !e.Final || !strings.Contains(e.Message, `"pipe"`) {
		t.Errorf("a named pipe: %v, want it refused by its name", err)
	}
}

// A bare fixture of which a part is a symlink out of it is refused by the name of that, instead of being read without it.
func TestBareFixtureLinksOut(t *testing.T) {
	t.Parallel()
	for part, target := range map[string]string{
		"HEAD": "../other.git/HEAD", "packed-refs": "../other.git/packed-refs", "refs": "../other.git/refs", "objects": "../other.git/objects",
		"refs/heads": "../../other.git/refs/heads", "objects/pack/pack-1.pack": "../../../other.git/pack", "objects/00": "nowhere",
	} {
		fixtures := t.TempDir()
		files := map[string]string{"other.git/HEAD": "ref: refs/heads/main\n", "other.git/refs/heads/main": "x", "other.git/objects/pack/x": "", "other.git/pack": "x",
			"bare.git/hooks": "-> /nowhere", "bare.git/" + part: "-> " + target}
		if part != "HEAD" {
			files["bare.git/HEAD"] = "ref: refs/heads/main\n"
		}
		lay(t, fixtures, files)
		_, err := openCopied(t, Request{CloneURL: "fixture:bare.git", Fixtures: fixtures, Dir: t.TempDir(), Limits: DefaultLimits()})
		if e := AsFault(err); e == nil || e.Code != "fixture_unfit" || !e.Final || !strings.Contains(e.Message, `"`+part+`"`) {
			t.Errorf("%s is a symlink out of the folder: %v, want it refused by its name", part, err)
		}
	}
}

// A fixture is copied before its reader is confined, so the copy has a limit of its own.
func TestLargeFixture(t *testing.T) {
	t.Parallel()
	fixtures, lim := t.TempDir(), DefaultLimits()
	lay(t, fixtures, map[string]string{"plain/a": "12345", "plain/b": "12345"})
	for most, want := range map[int64]string{10: "", 9: `"b"`, 4: `"a"`} {
		lim.Git.InflatedBytes = most
		dir := t.TempDir()
		e := AsFault(copyFixture(Request{CloneURL: "fixture:plain", Fixtures: fixtures, Dir: dir, Limits: lim}))
		if (e == nil) != (want == "") || e != nil && (e.Code != gitpack.CodeInflatedTooLarge || !strings.Contains(e.Message, want)) {
			t.Errorf("at most %d bytes: %v, want it refused for %s", most, e, want)
		}
	}
	lim.Git.InflatedBytes = 1 << 20
	if err := os.Truncate(filepath.Join(fixtures, "plain/b"), 1<<40); err != nil {
		t.Skip(err)
	}
	if e := AsFault(copyFixture(Request{CloneURL: "fixture:plain", Fixtures: fixtures, Dir: t.TempDir(), Limits: lim})); e == nil {
		t.Error("a file with a hole of a terabyte was copied")
	}
}

func TestFixturesAreNoPipe(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Fixtures(pipe); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("err = %v", err)
	}
	if _, err := openFixtureFolder(Request{Fixtures: pipe}, "x"); err == nil {
		t.Error("a package was opened in a pipe")
	}
}

// A folder may be changed while it is copied: what became a pipe since it was listed is not waited for.
func TestFixtureBecomesAPipe(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	folder, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	errs := make(chan error, 3)
	go func() {
		_, err := copyFile(folder, "pipe", filepath.Join(dir, "copy"), 1<<20)
		errs <- err
	}()
	go func() {
		_, err := fs.ReadDir(unwaiting{folder}, "pipe")
		errs <- err
	}()
	go func() {
		_, err := openFixtureFolder(Request{Fixtures: dir}, "pipe")
		errs <- err
	}()
	for range 3 {
		select {
		case err := <-errs:
			if err == nil {
				t.Error("a pipe was read")
			}
		case <-time.After(time.Minute):
			t.Fatal("a pipe is waited for")
		}
	}
}
