package tests_test

import (
	"bytes"
	"compress/gzip"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"html"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/tests/harness"
)

// generatedTags is how many tags TestIdentity checks. One takes about 50 ms.
const generatedTags = 40

// What is served is what upstream has, checked with nothing but git: the tar
// stream is that of `git archive`, what is unpacked has the same tree, and a
// clone has the same ids.
func TestIdentity(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	repo := generate(up.Repo("generated"))
	s := harness.Start(t)
	if f := s.Fetch(repo.URL); f.Created != generatedTags {
		t.Fatalf("created %d releases, want %d: %+v", f.Created, generatedTags, s.Info("generated").RejectedTags)
	}
	// Everything below is answered without upstream.
	up.Stop()

	t.Run("tarballs", func(t *testing.T) {
		t.Parallel()
		info := s.Info("generated")
		for _, r := range info.Tarballs {
			checkTarball(t, s, repo, r)
		}
	})
	t.Run("clone", func(t *testing.T) {
		t.Parallel()
		clone := filepath.Join(t.TempDir(), "clone")
		git(t, ".", "clone", "--quiet", s.URL+"/git/generated.git", clone)
		checkClone(t, repo, clone, "refs/tags")
	})
	t.Run("shallow clones", func(t *testing.T) {
		t.Parallel()
		for i := 0; i < generatedTags; i += 7 {
			clone := filepath.Join(t.TempDir(), "clone")
			git(t, ".", "clone", "--quiet", "--depth=1", "--branch="+generatedTag(i), s.URL+"/generated", clone)
			checkClone(t, repo, clone, "refs/tags/"+generatedTag(i))
			if n := git(t, clone, "rev-list", "--count", "HEAD"); n != "1" {
				t.Errorf("%s: a clone of depth 1 has %s commits", generatedTag(i), n)
			}
		}
	})
	t.Run("git pull from tag to tag", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		git(t, dir, "init", "--quiet")
		for i := range generatedTags {
			git(t, dir, "fetch", "--quiet", "--depth=1", s.URL+"/generated", "tag", generatedTag(i))
		}
		checkClone(t, repo, dir, "refs/tags")
	})
}

func generatedTag(i int) string { return fmt.Sprintf("v0.%d.0", i) }

// generate fills a repository with tags, the same at every run: each changes
// a part of the one before, some are annotated and some have odd trees.
func generate(repo *harness.Repo) *harness.Repo {
	rng := rand.New(rand.NewPCG(1, 2))
	long := strings.Repeat("long/", 30)
	names := []string{
		"build.zig", "a-b", "a.b", "a/b", "run.sh*", "bin/tool*", "link@", "deep/link@", "src/é.zig", "src/日本/語.zig", "with space/x y",
		"quote'\"", ".hidden", "z/.gitignore", strings.Repeat("x", 99), strings.Repeat("y", 100), strings.Repeat("z", 101),
		strings.Repeat("n", 250), long + "file", long + strings.Repeat("m", 90), long + strings.Repeat("k", 180) + "*", "vendor/sub&",
	}
	contents := []string{"", "a", "text\n", "\x00\xff\r\n", strings.Repeat("0123456789abcdef", 32), strings.Repeat("block", 10_000)}
	have := map[string]bool{}
	for i := range generatedTags {
		files := harness.Files{}
		for range 1 + rng.IntN(8) {
			name := names[rng.IntN(len(names))]
			plain := strings.TrimRight(name, "*@&")
			if have[plain] && len(have) > 2 && rng.IntN(3) == 0 {
				delete(have, plain)
				delete(files, name)
				files[plain+"-"] = ""
				continue
			}
			delete(files, plain+"-")
			have[plain] = true
			switch name[len(name)-1] {
			case '&':
				files[name] = fmt.Sprintf("%040x", rng.Uint64())
			case '@':
				files[name] = []string{"build.zig", "nosuch", "run.sh", "./a.b"}[rng.IntN(4)]
			default:
				files[name] = contents[rng.IntN(len(contents))] + fmt.Sprint(rng.IntN(3))
			}
		}
		commit := repo.Commit(files)
		switch tag := generatedTag(i); {
		case i == 10: // nothing in it
			repo.Tag(tag, repo.CommitTree())
		case i == 11: // all in one folder, which tar readers may strip
			repo.Tag(tag, repo.CommitTree("040000 tree "+repo.Git("rev-parse", commit+"^{tree}")+"\tonly"))
		case i%5 == 1:
			repo.Annotate(tag, commit)
		default:
			repo.Tag(tag, commit)
		}
	}
	return repo
}

// checkTarball compares a release with upstream's commit.
func checkTarball(t *testing.T, s *harness.Server, repo *harness.Repo, r wire.Tarball) {
	t.Helper()
	commit := repo.Git("rev-parse", "refs/tags/"+r.Tag+"^{commit}")
	if tree := repo.Git("rev-parse", commit+"^{tree}"); r.Commit != commit || r.Tree != tree {
		t.Errorf("%s: commit and tree = %s %s, want %s %s", r.Tag, r.Commit, r.Tree, commit, tree)
	}
	var manifest struct {
		Tarball struct {
			Prefix        string
			ContentDigest string `json:"content_digest"`
		}
	}
	if err := json.Unmarshal(s.Get(strings.TrimSuffix(r.URL, ".tar.gz")+".json"), &manifest); err != nil {
		t.Fatal(err)
	}
	tarball := s.Get(r.URL)
	checkSums(t, r, tarball)
	gz, err := gzip.NewReader(bytes.NewReader(tarball))
	if err != nil {
		t.Fatalf("%s: %v", r.Tag, err)
	}
	gz.Multistream(false) // Zig reads one member only
	tar, err := io.ReadAll(gz)
	if err != nil {
		t.Fatalf("%s: %v", r.Tag, err)
	}
	archive := []byte(repo.Git("archive", "--format=tar", "--prefix="+manifest.Tarball.Prefix, commit))
	if !bytes.Equal(tar, archive) {
		t.Errorf("%s: tar stream of %d bytes is not that of git archive, of %d bytes", r.Tag, len(tar), len(archive))
	}
	sum := sha256.Sum256(archive)
	if want := hex.EncodeToString(sum[:]); r.ContentDigest != want || manifest.Tarball.ContentDigest != want {
		t.Errorf("%s: content_digest = %s, in the manifest %s, want that of git archive, %s", r.Tag, r.ContentDigest, manifest.Tarball.ContentDigest, want)
	}
	if got := treeOf(t, repo, tar, manifest.Tarball.Prefix, commit); got != r.Tree {
		t.Errorf("%s: what is unpacked has tree %s, want %s", r.Tag, got, r.Tree)
	}
}

func checkSums(t *testing.T, r wire.Tarball, tarball []byte) {
	t.Helper()
	sum := sha256.Sum256(tarball)
	if got := hex.EncodeToString(sum[:]); got != r.SHA256 {
		t.Errorf("%s: sha256 = %s, want %s", r.Tag, got, r.SHA256)
	}
	if got := fmt.Sprintf("%x", md5.Sum(tarball)); got != r.MD5 {
		t.Errorf("%s: md5 = %s, want %s", r.Tag, got, r.MD5)
	}
	if got := fmt.Sprintf("%08x", crc32.ChecksumIEEE(tarball)); got != r.CRC32 {
		t.Errorf("%s: crc32 = %s, want %s", r.Tag, got, r.CRC32)
	}
	if int64(len(tarball)) != r.Size {
		t.Errorf("%s: %d bytes, want %d", r.Tag, len(tarball), r.Size)
	}
}

// treeOf unpacks a tarball with tar and lets git tell the tree's id. Of a
// submodule a tarball has the folder only, so those come from the commit.
func treeOf(t *testing.T, repo *harness.Repo, tar []byte, prefix, commit string) string {
	t.Helper()
	dir := t.TempDir()
	unpacked := filepath.Join(dir, prefix)
	if err := os.MkdirAll(unpacked, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, dir, string(tar), "tar", "-xf", "-")
	git(t, unpacked, "init", "--quiet")
	git(t, unpacked, "add", "--all", "--force", ".")
	for line := range strings.Lines(repo.Git("ls-tree", "-r", commit)) {
		mode, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " commit ")
		if oid, path, ok := strings.Cut(name, "\t"); ok && mode == "160000" {
			git(t, unpacked, "update-index", "--add", "--cacheinfo", mode+","+oid+","+path)
		}
	}
	return git(t, unpacked, "write-tree")
}

// checkClone compares the refs below a prefix with upstream's.
func checkClone(t *testing.T, repo *harness.Repo, clone, refs string) {
	t.Helper()
	git(t, clone, "fsck", "--strict", "--no-dangling")
	list := []string{"for-each-ref", "--format=%(refname) %(objecttype) %(objectname) %(tree) %(*objectname) %(*tree)", refs}
	if got, want := git(t, clone, list...), repo.Git(list...); got != want {
		t.Errorf("%s: refs = \n%s\nwant upstream's\n%s", refs, got, want)
	}
}

// git runs git in a folder and returns what it printed, without the last
// newline.
func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := harness.Git(t, dir, "", args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(out, "\n")
}

// Tags are served in the hundreds like one, and only what is new is fetched.
func TestManyTags(t *testing.T) {
	t.Parallel()
	const many = 500
	up := harness.NewUpstream(t)
	repo := up.Repo("many")
	repo.Release("v0.0.0")
	s := harness.Start(t)
	if f := s.Fetch(repo.URL); f.Created != 1 {
		t.Errorf("created %d releases, want 1", f.Created)
	}

	var in strings.Builder
	for i := 1; i < many; i++ {
		fmt.Fprintf(&in, "commit refs/tags/v0.%d.0\ncommitter C <c@example.com> %d +0000\ndata 0\n", i, 1_800_000_000+i)
		fmt.Fprintf(&in, "M 100644 inline n.txt\ndata <<E\n%d\nE\nM 100644 inline same.txt\ndata <<E\nsame\nE\n", i)
	}
	repo.GitInput(in.String(), "fast-import", "--quiet")
	if f := s.Fetch(repo.URL); f.Created != many-1 || f.Count != many || f.Tag != "v0.499.0" {
		t.Errorf("fetched %+v, want %d more of %d", f, many-1, many)
	}
	before := up.Requests()
	if f := s.Fetch(repo.URL); f.Created != 0 || f.Present != many {
		t.Errorf("fetched %+v, want none", f)
	}
	if n := up.Requests() - before; n != 1 {
		t.Errorf("a fetch of nothing new took %d requests, want 1", n)
	}

	clone := filepath.Join(t.TempDir(), "clone")
	git(t, ".", "clone", "--quiet", s.URL+"/many", clone)
	checkClone(t, repo, clone, "refs/tags")
	info := s.Info("many")
	for _, i := range []int{0, 1, 250, 499} {
		r := info.Release(t, fmt.Sprintf("v0.%d.0", i))
		checkTarball(t, s, repo, r)
	}
	if len(info.Tarballs) != many || info.Tarballs[0].Tag != "v0.499.0" || info.Tarballs[many-1].Tag != "v0.0.0" {
		t.Errorf("info lists %d tags from %s, want %d, newest first", len(info.Tarballs), info.Tarballs[0].Tag, many)
	}
}

// Tags that nobody could or should unpack are rejected, each for its own
// reason. The others of the same repository are published.
func TestRejectedTags(t *testing.T) {
	t.Parallel()
	repo := harness.NewUpstream(t).Repo("odd")
	repo.Release("v1.0.0")
	blob := repo.Blob("content")
	tree := repo.GitInput("100644 blob "+blob+"\tfile\n", "mktree")
	// entry is one of a tree object; git's own tools would refuse it.
	entry := func(mode, name, oid string) string {
		raw, err := hex.DecodeString(oid)
		if err != nil {
			t.Fatal(err)
		}
		return mode + " " + name + "\x00" + string(raw)
	}
	commitOf := func(entries ...string) string {
		return repo.Git("commit-tree", "-m", "odd", repo.GitInput(strings.Join(entries, ""), "hash-object", "-w", "--literally", "-t", "tree", "--stdin"))
	}
	tests := []struct {
		tag, oid string
		want     string // code; "" for published
	}{
		{"of-blob", blob, "tag_not_commit"},
		{"of-tree", tree, "tag_not_commit"},
		{"dot-git", commitOf(entry("40000", ".git", tree)), "tree_name"},
		{"dot-git-case", commitOf(entry("40000", ".GiT", tree)), "tree_name"},
		{"dot-dot", commitOf(entry("40000", "..", tree)), "tree_name"},
		{"dot", commitOf(entry("40000", ".", tree)), "tree_name"},
		{"slash", commitOf(entry("100644", "a/b", blob)), "tree_name"},
		{"backslash", commitOf(entry("100644", `a\b`, blob)), "tree_name"},
		{"twice", commitOf(entry("100644", "a", blob), entry("100644", "a", blob)), "tree_duplicate"},
		{"file-and-folder", commitOf(entry("100644", "a", blob), entry("40000", "a", tree)), "tree_duplicate"},
		{"unsorted", commitOf(entry("100644", "b", blob), entry("100644", "a", blob)), "tree_malformed"},
		{"bad-mode", commitOf(entry("100777", "a", blob), entry("177777", "b", blob)), "tree_mode"},
		{"absolute-link", repo.CommitTree("120000 blob " + repo.Blob("/etc/passwd") + "\tlink"), "symlink_escape"},
		{"old-mode", commitOf(entry("100664", "a", blob)), ""},
		{"submodule", repo.CommitTree("160000 commit " + repo.Git("rev-parse", "v1.0.0") + "\tsub"), ""},
	}
	for _, tt := range tests {
		repo.Tag(tt.tag, tt.oid)
	}
	s := harness.Start(t)
	s.Fetch(repo.URL)

	info := s.Info("odd")
	for _, tt := range tests {
		got := ""
		for _, r := range info.RejectedTags {
			if r.Tag == tt.tag {
				got = r.Code
				if r.Reason == "" || r.OID != tt.oid {
					t.Errorf("%s: rejected %+v, want a reason and oid %s", tt.tag, r, tt.oid)
				}
			}
		}
		if got != tt.want {
			t.Errorf("%s: rejected with %q, want %q", tt.tag, got, tt.want)
		}
		want := http.StatusNotFound
		if tt.want == "" {
			want = http.StatusOK
		}
		if a := s.Do(http.MethodGet, "/p/odd/tag/"+tt.tag+".tar.gz", "", nil); a.Status != want {
			t.Errorf("%s: GET tarball = %d, want %d", tt.tag, a.Status, want)
		}
	}
	git(t, ".", "clone", "--quiet", "--branch=v1.0.0", s.URL+"/odd", filepath.Join(t.TempDir(), "clone"))
}

// run runs a program in a folder, with something to read.
func run(t *testing.T, dir, stdin, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// What the page says to paste prints the digest that it names, also of a tree
// whose attributes change what plain git archive prints.
func TestCheckCommand(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	s := harness.Start(t)
	home := t.TempDir() // of somebody who has settings
	for file, text := range map[string]string{
		".gitconfig": "[core]\n\tautocrlf = true\n\tattributesFile = ~/attributes\n[tar]\n\tumask = user\n",
		"attributes": "*.zig eol=crlf\n*.txt export-ignore\n",
	} {
		if err := os.WriteFile(filepath.Join(home, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, files := range map[string]harness.Files{
		"plain": {"a.zig": "const a = 1;\n", "b.zig": "const b = 1;\n"},
		"attributes": {
			".gitattributes": "*.txt text eol=crlf\n*.c ident\nversion export-subst\ndocs export-ignore\nutf16 text working-tree-encoding=UTF-16\n",
			"a.txt":          "a\nb\n", "a.c": "/* $Id$ */\n", "version": "$Format:%H$\n", "docs/x": "x", "utf16": "x\n",
			"sub/.gitattributes": "* export-ignore\n", "sub/x": "x",
		},
		"wrapped": {"only/.gitattributes": "*.txt eol=crlf\n", "only/a.txt": "a\n"},
	} {
		repo := up.Repo(name)
		oid := repo.Commit(files)
		repo.Tag("v1.0.0", oid)
		s.Fetch(repo.URL)
		info := s.Info(name)
		digest := info.Release(t, "v1.0.0").ContentDigest
		page := html.UnescapeString(string(s.Do(http.MethodGet, "/"+name, "", http.Header{"Accept": {"text/html"}}).Body))
		commands := regexp.MustCompile(`git clone --bare [^<]*|git -c [^<]*sha256sum`).FindAllString(page, -1)
		if len(commands) < 2 || !strings.Contains(page, digest) {
			t.Errorf("%s: the page has the commands %q, want one to clone and one to check %s", name, commands, digest)
			continue
		}
		shell := exec.CommandContext(t.Context(), "sh", "-c", commands[0]+" && "+commands[len(commands)-1])
		shell.Dir = t.TempDir()
		shell.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "GIT_CONFIG_NOSYSTEM=1"}
		out, err := shell.Output()
		if err != nil || !strings.HasPrefix(string(out), digest) {
			t.Errorf("%s: %q printed %q, %v; want %s", name, commands, out, err, digest)
		}
		plain := sha256.Sum256([]byte(repo.Git("archive", "--format=tar", oid)))
		if same := hex.EncodeToString(plain[:]) == digest; same != (name == "plain") {
			t.Errorf("%s: plain git archive prints the same: %v", name, same)
		}
	}
}
