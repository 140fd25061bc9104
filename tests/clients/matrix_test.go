package clients

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/tests/harness"
)

// A world is a package with its upstream, and what clients should get of it.
type world struct {
	t        testing.TB
	server   *harness.Server
	upstream *harness.Repo
	// shallow is served by git http-backend and holds what packbase does: all
	// tags without their history.
	shallow  *harness.Repo
	info     harness.Info
	refs     map[string]string // ids by name, of HEAD too, as upstream says; tags also with ^{}
	tarballs map[string][]byte // by tag, without gzip
}

const (
	commitTag = "v1.0.0" // whose commit is fetched by its id
	oldTag    = "v1.1.0" // what is fetched by its name
	lastTag   = "v2.0.0"
	newTag    = "v2.1.0" // what is added
)

// newWorld makes a package of all that Git knows: files of every kind, a
// submodule, tags of every kind.
func newWorld(t testing.TB) *world {
	up := harness.NewUpstream(t)
	w := &world{t: t, upstream: up.Repo("pkg"), shallow: up.Repo("shallow"), server: harness.Start(t)}
	random := make([]byte, 200_000) // for several packets
	rand.NewChaCha8([32]byte{1}).Read(random)
	r := w.upstream
	r.Tag(commitTag, w.develop(harness.Files{
		"README.md": "one\n", "empty": "", "run.sh*": "#!/bin/sh\n", "link@": "src/root.zig",
		"src/root.zig": "pub const x = 1;\n", "src/deep/er/ü.txt": "ü\n", "data.bin": string(random),
		"vendor/sub&": "1234567890123456789012345678901234567890",
	}))
	r.Annotate(oldTag, w.develop(harness.Files{"README.md": "two\n", "src/deep-": ""}))
	r.Tag("same-as-"+oldTag, r.Git("rev-parse", oldTag+"^{commit}"))
	r.Tag("branch/with/slashes", w.develop(harness.Files{"README.md": "three\n", "src/a/b.zig": ""}))
	r.Annotate("inner", w.develop(harness.Files{"README.md": "four\n", "link@": "README.md"}))
	r.Annotate(lastTag, "inner")
	w.publish()
	return w
}

// develop makes commits of which the last is to be tagged, as people do, and
// returns that one: its parent is no tag's.
func (w *world) develop(files harness.Files) string {
	w.upstream.Commit(harness.Files{"TODO": "more\n"})
	files["TODO-"] = ""
	return w.upstream.Commit(files)
}

// addTag adds a tag upstream and publishes it.
func (w *world) addTag() {
	w.upstream.Annotate(newTag, w.develop(harness.Files{"README.md": "five\n", "src/new.zig": "// new\n"}))
	w.publish()
}

// publish brings the servers up to date, and then what is known of them.
func (w *world) publish() {
	w.t.Helper()
	w.server.Fetch(w.upstream.URL)
	w.shallow.Git("fetch", "-q", "--depth=1", "file://"+w.upstream.Dir, "+refs/tags/*:refs/tags/*", "+refs/heads/main:refs/heads/main")
	if w.shallow.Git("rev-parse", "--is-shallow-repository") != "true" {
		w.t.Fatal("the repository to compare with is not shallow")
	}
	w.info = w.server.Info("pkg")
	w.refs = map[string]string{"HEAD": w.upstream.Git("rev-parse", "HEAD")}
	for line := range strings.Lines(w.upstream.Git("show-ref", "--dereference")) {
		id, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		w.refs[name] = id
	}
	w.tarballs = map[string][]byte{}
	for _, r := range w.info.Tarballs {
		z, err := gzip.NewReader(bytes.NewReader(w.server.Get(r.URL)))
		if err != nil {
			w.t.Fatal(err)
		}
		if w.tarballs[r.Tag], err = io.ReadAll(z); err != nil {
			w.t.Fatal(err)
		}
	}
}

// tagOf returns the tag whose files a step leads to.
func (w *world) tagOf(s step) string {
	switch s {
	case byTag:
		return oldTag
	case byCommit:
		return commitTag
	case fetch, fetchDepth:
		return newTag
	}
	return lastTag
}

// commit returns the id of a tag's commit.
func (w *world) commit(tag string) string {
	return cmp.Or(w.refs["refs/tags/"+tag+"^{}"], w.refs["refs/tags/"+tag])
}

// place returns where a client does a step: each client and server has a
// folder, with a clone for each step that makes one.
func (w *world) place(s step, url, folder string) place {
	dirs := map[step]step{fetch: clone, fetchDepth: depth}
	at := place{url: url, dir: filepath.Join(folder, string(cmp.Or(dirs[s], s))), ref: w.tagOf(s)}
	if s == byCommit {
		at.ref = w.commit(commitTag)
	}
	return at
}

// check checks what a step left behind.
func (w *world) check(t testing.TB, s step, at place, stdout string) error {
	if s == list {
		return w.checkList(stdout)
	}
	tag := w.tagOf(s)
	if err := w.checkRepository(t, at.dir, tag); err != nil {
		return err
	}
	switch s {
	case fetch, fetchDepth:
		return w.checkRefs(t, at.dir, newTag)
	case clone:
		if err := w.checkRefs(t, at.dir, slices.Collect(maps.Keys(w.tarballs))...); err != nil {
			return err
		}
	}
	if head, err := execute(t, "git", "-C", at.dir, "rev-parse", "HEAD"); strings.TrimSpace(head) != w.commit(tag) {
		return fmt.Errorf("HEAD = %s, %v, want %s", head, err, w.commit(tag))
	}
	return checkWorkTree(at.dir, w.tarballs[tag])
}

// checkList checks a list of refs: all of upstream's, and no others.
func (w *world) checkList(stdout string) error {
	got := map[string]string{}
	for line := range strings.Lines(stdout) {
		f := strings.Fields(line)
		if len(f) != 2 || w.refs[f[1]] != f[0] {
			return fmt.Errorf("listed %q, want %q", strings.TrimSpace(line), w.refs)
		}
		got[f[1]] = f[0]
	}
	for name, id := range w.refs {
		// Not every client asks for HEAD, or tells what is behind a tag object.
		if got[name] == "" && name != "HEAD" && !strings.HasSuffix(name, "^{}") {
			return fmt.Errorf("%s %s is missing", id, name)
		}
	}
	return nil
}

// checkRepository checks that git finds nothing wrong in a clone and that the
// commit of a tag has the files of its tarball.
func (w *world) checkRepository(t testing.TB, dir, tag string) error {
	out, err := execute(t, "git", "-C", dir, "fsck", "--strict", "--full", "--no-dangling")
	if err != nil || out != "" {
		return fmt.Errorf("git fsck in the clone: %s (%v)", strings.Join(strings.Fields(out), " "), err)
	}
	archive, err := execute(t, "git", "-C", dir, "archive", "--format=tar", w.commit(tag))
	if err != nil {
		return fmt.Errorf("git archive: %w", err)
	}
	if archive != string(w.tarballs[tag]) {
		return fmt.Errorf("git archive of %s in the clone differs from the tarball", tag)
	}
	return nil
}

// checkRefs checks that a clone has tags with upstream's ids.
func (w *world) checkRefs(t testing.TB, dir string, tags ...string) error {
	out, err := execute(t, "git", "-C", dir, "show-ref", "--tags", "--dereference")
	if err != nil {
		return fmt.Errorf("list tags: %w", err)
	}
	for _, tag := range tags {
		for _, name := range []string{"refs/tags/" + tag, "refs/tags/" + tag + "^{}"} {
			if id := w.refs[name]; id != "" && !strings.Contains(out, id+" "+name+"\n") {
				return fmt.Errorf("%s is missing, want %s", name, id)
			}
		}
	}
	return nil
}

// checkWorkTree checks that a work tree has the files of a tarball and no
// others. Folders are as they may: not every client makes empty ones.
func checkWorkTree(dir string, tarball []byte) error {
	want, err := tarFiles(tarball)
	if err != nil {
		return err
	}
	got := map[string]string{}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if d != nil && d.Name() == ".git" {
				return filepath.SkipDir
			}
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		got[name], err = describe(path, d)
		return err
	})
	if err != nil {
		return err
	}
	for name := range want {
		if got[name] != want[name] {
			return fmt.Errorf("work tree: %s = %.60q, want %.60q", name, got[name], want[name])
		}
		delete(got, name)
	}
	if len(got) > 0 {
		return fmt.Errorf("work tree: %q are not in the tarball", slices.Sorted(maps.Keys(got)))
	}
	return nil
}

// describe returns the kind and content of a file.
func describe(path string, d fs.DirEntry) (string, error) {
	if d.Type() == fs.ModeSymlink {
		target, err := os.Readlink(path)
		return "link " + target, err
	}
	info, err := d.Info()
	if err != nil {
		return "", err
	}
	content, err := os.ReadFile(path)
	return fmt.Sprintf("file %t %s", info.Mode()&0o100 != 0, content), err
}

// tarFiles returns the files of a tarball as describe does.
func tarFiles(tarball []byte) (map[string]string, error) {
	files := map[string]string{}
	r := tar.NewReader(bytes.NewReader(tarball))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		switch h.Typeflag {
		case tar.TypeReg:
			files[h.Name] = fmt.Sprintf("file %t %s", h.Mode&0o100 != 0, content)
		case tar.TypeSymlink:
			files[h.Name] = "link " + h.Linkname
		}
	}
}

// A row is what one client did: an error for each step, with packbase and with
// git http-backend.
type row struct {
	client
	packbase, git map[step]error
}

// Every client does every step. What it cannot do with packbase it must not be
// able to do with Git's own server either, where that has as little history.
func TestMatrix(t *testing.T) {
	t.Parallel()
	var rows []*row
	for _, c := range slices.Concat(lightClients(t), programs(t)) {
		rows = append(rows, &row{c, map[step]error{}, map[step]error{}})
	}
	w := newWorld(t)
	folder := t.TempDir()
	w.doAll(t, "before", before, rows, folder)
	w.addTag()
	w.doAll(t, "after", after, rows, folder)
	table := makeTable(rows)
	fmt.Print(table)
	if *tableFile != "" {
		if err := os.WriteFile(*tableFile, []byte(table), 0o644); err != nil {
			t.Error(err)
		}
	}
}

func (w *world) doAll(t *testing.T, name string, steps []step, rows []*row, folder string) {
	t.Run(name, func(t *testing.T) {
		for i, r := range rows {
			t.Run(r.name, func(t *testing.T) {
				t.Parallel()
				for _, s := range steps {
					home := filepath.Join(folder, fmt.Sprint(i))
					r.packbase[s] = w.do(t, &r.client, s, w.place(s, w.server.URL+"/pkg", filepath.Join(home, "packbase")))
					r.git[s] = w.do(t, &r.client, s, w.place(s, w.shallow.URL, filepath.Join(home, "git")))
					if r.packbase[s] != nil && r.git[s] == nil {
						t.Errorf("%s: %v; git http-backend can", titles[s], r.packbase[s])
					}
				}
			})
		}
	})
}

// do does a step and checks what it left behind.
func (w *world) do(t testing.TB, c *client, s step, at place) error {
	if err := os.MkdirAll(filepath.Dir(at.dir), 0o755); err != nil {
		t.Fatal(err)
	}
	stdout, err := c.do(t, s, at)
	if err != nil {
		return err
	}
	if c.check != nil {
		return c.check(w, s, stdout)
	}
	return w.check(t, s, at, stdout)
}

// makeTable returns what the clients did, as Markdown for the README.
func makeTable(rows []*row) string {
	var b, notes strings.Builder
	steps := slices.Concat(before, after)
	b.WriteString("| client |")
	for _, s := range steps {
		fmt.Fprintf(&b, " %s |", titles[s])
	}
	b.WriteString("\n|" + strings.Repeat(" --- |", 1+len(steps)) + "\n")
	numbers := map[string]int{}
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s |", r.name)
		for _, s := range steps {
			ours, theirs := r.packbase[s], r.git[s]
			switch {
			case ours == nil && theirs == nil:
				b.WriteString(" yes |")
			case ours == nil:
				b.WriteString(" yes* |")
			case errors.Is(ours, errNoStep):
				b.WriteString(" – |")
			default:
				note := fmt.Sprintf("`%s`; with Git's server `%s`", reason(ours), reason(theirs))
				if numbers[note] == 0 {
					numbers[note] = len(numbers) + 1
					fmt.Fprintf(&notes, "%d. %s\n", numbers[note], note)
				}
				fmt.Fprintf(&b, " no (%d) |", numbers[note])
			}
		}
		b.WriteString("\n")
	}
	b.WriteString("\n\\* Git's own server cannot do this from a repository without history.\n\n" + notes.String())
	return b.String()
}

var (
	ids  = regexp.MustCompile(`[0-9a-f]{40}`)
	urls = regexp.MustCompile(`(https?:/)?/[-\w./:]+`)
)

// reason returns the last line of what a client complained about, without what
// differs from run to run.
func reason(err error) string {
	if err == nil {
		return "works"
	}
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	last := urls.ReplaceAllString(ids.ReplaceAllString(lines[len(lines)-1], "ID"), "…")
	if len(last) > 100 {
		last = last[:strings.LastIndexByte(last[:100], ' ')] + " …"
	}
	return last
}
