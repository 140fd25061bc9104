package gitpack

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

// rawTree returns the content of a tree of entries, in the order given.
func rawTree(entries ...treeEntry) string {
	var b bytes.Buffer
	for _, e := range entries {
		fmt.Fprintf(&b, "%o %s\x00%s", e.mode, e.name, e.id[:])
	}
	return b.String()
}

func add(t testing.TB, o *Objects, typ Type, content string) OID {
	t.Helper()
	id, err := o.Add(typ, int64(len(content)), strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// newObjects returns an empty set, the blob "x" in it and the empty tree.
func newObjects(t testing.TB) (o *Objects, blob, empty OID) {
	t.Helper()
	o = NewObjects(tempFile(t, nil))
	return o, add(t, o, Blob, "x"), add(t, o, Tree, "")
}

// UP-14. Git's own verdict is asked, too: what git
// fsck --strict refuses must be refused.
func TestTreeNames(t *testing.T) {
	t.Parallel()
	o, blob, empty := newObjects(t)
	file := func(name string) string { return rawTree(treeEntry{ModeFile, name, blob}) }
	dir := func(name string) string { return rawTree(treeEntry{ModeDir, name, empty}) }
	link := func(name string) string { return rawTree(treeEntry{ModeSymlink, name, blob}) }
	mode := func(mode uint32) string { return rawTree(treeEntry{mode, "a", blob}) }
	two := func(a, b string) string { return rawTree(treeEntry{ModeFile, a, blob}, treeEntry{ModeFile, b, blob}) }

	tests := []struct{ name, tree, want string }{
		{"plain file", file("a"), ""},
		{"empty tree", "", ""},
		{"empty directory", dir("a"), ""},
		{"dot", file("."), codeTreeName},
		{"dot dot", file(".."), codeTreeName},
		{"dot dot directory", dir(".."), codeTreeName},
		{"three dots", file("..."), codeTreeName}, // Windows: the directory itself
		{"dots and spaces", file(".. "), codeTreeName},
		{"empty name", file(""), codeTreeName},
		{"slash", file("a/b"), codeTreeName},
		{"absolute", file("/abs"), codeTreeName},
		{"git", dir(".git"), codeTreeName},
		{"git file", file(".git"), codeTreeName},
		{"git in capitals", dir(".GIT"), codeTreeName},
		{"git with short name", dir("git~1"), codeTreeName},
		{"git with short name in capitals", dir("GIT~1"), codeTreeName},
		{"git with another short name", dir("git~2"), ""},
		{"git with dot", dir(".git."), codeTreeName},
		{"git with space", dir(".git "), codeTreeName},
		{"git with stream", dir(".git::$INDEX_ALLOCATION"), codeTreeName},
		{"git with invisible character", dir(".g\u200cit"), codeTreeName},
		{"git with byte order mark", dir("\ufeff.git"), codeTreeName},
		{"git with both", dir(".g\u200cit. "), codeTreeName},
		{"gitignore", file(".gitignore"), ""},
		{"gitmodules", file(".gitmodules"), ""},
		{"gitmodules symlink", link(".gitmodules"), codeTreeName},
		{"gitmodules symlink in capitals", link(".GITMODULES"), codeTreeName},
		{"gitmodules symlink with short name", link("gitmod~1"), codeTreeName},
		{"gitmodules symlink with hashed name", link("gi7eba~1"), codeTreeName},
		{"gitmodules symlink with long number", link("gi7~1000"), codeTreeName},
		{"gitmodules symlink with invisible character", link(".gitmod\u200cules"), codeTreeName},
		{"gitmodules directory", rawTree(treeEntry{ModeDir, ".gitmodules", blob}), codeTreeName},
		{"symlink with a name like gitmodules", link("gitmod~5"), ""},
		{"duplicate", two("a", "a"), codeTreeDuplicate},
		{"file and directory", rawTree(treeEntry{ModeFile, "a", blob}, treeEntry{ModeDir, "a", empty}), codeTreeDuplicate},
		{"symlink and directory", rawTree(treeEntry{ModeSymlink, "a", blob}, treeEntry{ModeDir, "a", empty}), codeTreeDuplicate},
		{"file and directory apart", rawTree(treeEntry{ModeFile, "a", blob}, treeEntry{ModeFile, "a.c", blob}, treeEntry{ModeDir, "a", empty}), codeTreeDuplicate},
		{"unsorted", two("b", "a"), codeTreeMalformed},
		{"directory sorted as file", rawTree(treeEntry{ModeDir, "a", empty}, treeEntry{ModeFile, "a.c", blob}), codeTreeMalformed},
		{"directory sorted", rawTree(treeEntry{ModeFile, "a.c", blob}, treeEntry{ModeDir, "a", empty}), ""},
		{"submodule sorted as file", rawTree(treeEntry{ModeSubmodule, "a", blob}, treeEntry{ModeFile, "a.c", blob}), ""},
		{"null id", rawTree(treeEntry{ModeFile, "a", OID{}}), codeTreeMalformed},
		{"null submodule", rawTree(treeEntry{ModeSubmodule, "a", OID{}}), codeTreeMalformed},
		{"cut short", file("a")[:20], codeTreeMalformed},
		{"no mode", "a\x00" + string(blob[:]), codeTreeMalformed},
		{"padded mode", "0" + file("a"), codeTreeMode},
		{"padded directory mode", "0" + dir("a"), codeTreeMode},
		{"mode that is no number", "x" + file("a"), codeTreeMode},
		{"endless mode", strings.Repeat("1", 400) + file("a"), codeTreeMode},
		{"mode 100664", mode(0o100664), ""},
		{"mode 100600", mode(0o100600), ""},
		{"mode 104755", mode(0o104755), ""},
		{"mode 0", mode(0), codeTreeMode},
		{"mode 644", mode(0o644), codeTreeMode},
		{"mode 40755", rawTree(treeEntry{0o40755, "a", empty}), codeTreeMode},
		{"mode 120777", mode(0o120777), codeTreeMode},
		{"mode 160644", mode(0o160644), codeTreeMode},
		{"device", mode(0o60644), codeTreeMode},
		{"pipe", mode(0o10644), codeTreeMode},
		{"control character", file("a\x01"), codeTreeName},
		{"newline", file("a\nb"), codeTreeName},
		{"carriage return", dir("a\r"), codeTreeName},
		{"escape", file("\x1b[2J"), codeTreeName},
		{"delete", file("a\x7f"), codeTreeName},
		{"control character of Latin-1", file("a\u0085"), codeTreeName},
		{"backslash", file(`a\b`), codeTreeName},
		{"backslashes up", file(`..\..\a`), codeTreeName},
		{"not UTF-8", file("a\xff"), codeTreeName},
		{"surrogate", file("a\xed\xa0\x80"), codeTreeName},
		{"case", two("README", "readme"), ""},
		{"case of a directory", rawTree(treeEntry{ModeDir, "A", empty}, treeEntry{ModeDir, "a", empty}), ""},
		{"case of a symlink", rawTree(treeEntry{ModeSymlink, "A", blob}, treeEntry{ModeDir, "a", empty}), codeTreeCaseCollision},
		{"case of a symlink and a file", rawTree(treeEntry{ModeFile, "A", blob}, treeEntry{ModeSymlink, "a", blob}), codeTreeCaseCollision},
		{"case beyond ASCII", two("\u00c9", "\u00e9"), ""},
		{"kelvin sign", two("k", "\u212a"), ""},
		{"sharp s", two("strasse", "stra\u00dfe"), ""},
		{"normalization", two("e\u0301", "\u00e9"), ""},
		{"normalization and case", two("E\u0301", "\u00e9"), ""},
		{"one normalization", file("\u00e9"), ""},
		{"other normalization", file("e\u0301"), ""},
		{"255 bytes", file(strings.Repeat("a", 255)), ""},
		{"256 bytes", file(strings.Repeat("a", 256)), codeNameTooLong},
		{"5000 bytes", file(strings.Repeat("a", 5000)), codeNameTooLong},
		{"device of Windows", file("con"), ""},
		{"device of Windows with suffix", file("aux.txt"), ""},
		{"colon", file("a:b"), ""},
		{"dot at end", file("a."), ""},
		{"space at end", file("a "), ""},
		{"right to left", file("a\u202egpj.exe"), ""},
		{"option", file("-rf"), ""},
		{"blank", file(" "), codeTreeName},
	}
	var ids []OID
	for _, tt := range tests {
		id := add(t, o, Tree, tt.tree)
		ids = append(ids, id)
		_, err := o.Files(t.Context(), id, DefaultLimits())
		if got := code(err); got != tt.want {
			t.Errorf("%s: err = %v, want code %q", tt.name, err, tt.want)
		}
		// A bad tree is as bad further down.
		below := add(t, o, Tree, rawTree(treeEntry{ModeDir, "dir", id}))
		if _, err := o.Files(t.Context(), below, DefaultLimits()); code(err) != tt.want {
			t.Errorf("%s in a directory: err = %v, want code %q", tt.name, err, tt.want)
		}
	}
	t.Run("git fsck", func(t *testing.T) {
		refused := fsck(t, func(write func(Type, string)) {
			write(Blob, "x")
			for _, tt := range tests {
				write(Tree, tt.tree)
			}
		})
		for n, tt := range tests {
			// Newer versions of Git refuse unusual permission bits.
			if why, ok := refused[ids[n]]; ok && tt.want == "" && !strings.Contains(why, "Filemode") {
				t.Errorf("%s: accepted, but Git says %s", tt.name, why)
			}
		}
		if len(refused) < 25 {
			t.Errorf("Git refuses %d trees, which is too few to be true", len(refused))
		}
	})
}

// fsck returns what git fsck --strict has against each of the objects, whose
// contents may be anything.
func fsck(t *testing.T, objects func(write func(Type, string))) map[OID]string {
	var p testPack
	objects(func(typ Type, content string) { p.whole(typ, content) })
	dir := t.TempDir()
	git(t, dir, "", "init", "-q", "--bare")
	git(t, dir, string(p.whatItIs()), "index-pack", "--stdin")
	refused := make(map[OID]string)
	out, err := gitCommand(dir, "fsck", "--strict", "--no-dangling").CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		// "error in commit ID: why", or "error: ID: why" of one that is no commit at all.
		rest, ok := strings.CutPrefix(line, "error: ")
		if !ok {
			if rest, ok = strings.CutPrefix(line, "error in "); !ok {
				continue
			}
			_, rest, _ = strings.Cut(rest, " ")
		}
		id, why, _ := strings.Cut(rest, ": ")
		if id, err := ParseOID(id); err == nil {
			refused[id] = why
		}
	}
	return refused
}

// UP-15.
func TestSymlinks(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, path, target, want string }{
		{"file beside", "link", "file", ""},
		{"file below", "link", "dir/file", ""},
		{"file above", "dir/link", "../file", ""},
		{"directory", "link", "dir", ""},
		{"directory with slash", "link", "dir/", ""},
		{"own directory", "dir/link", ".", ""},
		{"root", "dir/link", "..", ""},
		{"dots and slashes", "dir/link", ".././/dir/./file", ""},
		{"dangling", "link", "nothing/here", ""},
		{"out of a missing directory", "link", "nothing/../file", ""},
		{"through a file", "link", "file/below", ""},
		{"itself", "link", "link", ""},
		{"another link", "link", "other", ""},
		{"name with dots", "link", "..file", ""},
		{"colon", "link", "file:stream", ""},
		{"255 slashes", "dir/link", strings.Repeat("./", 255) + "file", ""},

		{"absolute", "link", "/etc/passwd", codeSymlinkEscape},
		{"drive", "link", "C:/windows", codeSymlinkEscape},
		{"above the root", "link", "..", codeSymlinkEscape},
		{"above the root and back", "dir/link", "../../dir/file", codeSymlinkEscape},
		{"far above", "dir/link", strings.Repeat("../", 50) + "etc/passwd", codeSymlinkEscape},
		{"above by way of a directory", "link", "dir/../../x", codeSymlinkEscape},
		{"git", "link", ".git/config", codeSymlinkEscape},
		{"git in disguise", "dir/link", "../.GIT/hooks", codeSymlinkEscape},
		{"git as short name", "link", "git~1", codeSymlinkEscape},

		{"through a link", "link", "other/file", ""},
		{"through a link with slash", "link", "other/", ""},
		{"through a link in other case", "link", "OTHER/file", ""},
		{"through a link and up", "dir/link", "../other/../file", ""},
		{"through itself", "link", "link/x", ""},
		{"through itself and up", "link", "link/../../../x", ""}, // nobody gets that far
		{"through a link below", "link", "dir/inner/x", ""},
		{"up from where a link leads", "link", "deep/../file", ""},
		{"up from where a link leads, and out", "link", "other/../../file", codeSymlinkEscape},
		{"up from a link to the root", "link", "root/../file", codeSymlinkEscape},
		{"up from a link to the root in other case", "link", "ROOT/../file", codeSymlinkEscape},
		{"up from what is a directory in one case and a link in the other", "dir/link", "../Deep/../../file", codeSymlinkEscape},
		{"to git by way of a link", "link", "root/.git/config", codeSymlinkEscape},

		{"empty", "link", "", codeSymlinkTarget},
		{"NUL", "link", "file\x00/etc/passwd", codeSymlinkTarget},
		{"newline", "link", "file\n", codeSymlinkTarget},
		{"backslash", "link", `..\..\x`, codeSymlinkTarget},
		{"not UTF-8", "link", "\xff", codeSymlinkTarget},
		{"5000 bytes", "link", strings.Repeat("a", 5000), codeSymlinkTarget},
		{"4096 bytes", "link", strings.Repeat("a", 4096), codeSymlinkTarget},
		{"4095 bytes", "link", strings.Repeat("a", 4095), ""},
		{"too many slashes", "link", strings.Repeat("./", 257) + "file", codeSymlinkTarget},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o, blob, _ := newObjects(t)
			files := []File{
				{Path: "file", Mode: ModeFile, OID: blob},
				{Path: "dir/file", Mode: ModeFile, OID: blob},
				{Path: "other", Mode: ModeSymlink, OID: add(t, o, Blob, "dir")},
				{Path: "dir/inner", Mode: ModeSymlink, OID: add(t, o, Blob, "file")},
				{Path: "deep", Mode: ModeSymlink, OID: add(t, o, Blob, "dir/a/b")},
				{Path: "root", Mode: ModeSymlink, OID: add(t, o, Blob, ".")},
				{Path: tt.path, Mode: ModeSymlink, OID: add(t, o, Blob, tt.target)},
			}
			root, err := o.WriteTree(files, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := o.Files(t.Context(), root, DefaultLimits()); code(err) != tt.want {
				t.Errorf("err = %v, want code %q", err, tt.want)
			}
		})
	}
}

// Of directories that are one on some systems, what is in them is compared, too.
func TestClashes(t *testing.T) {
	t.Parallel()
	o, blob, _ := newObjects(t)
	link := add(t, o, Blob, "file")
	tests := []struct {
		name  string
		files []File
		want  [][2]string
		code  string
	}{
		{"none", []File{{Path: "A/x", Mode: ModeFile, OID: blob}, {Path: "b/X", Mode: ModeFile, OID: blob}}, nil, ""},
		{"files", []File{{Path: "d/X", Mode: ModeFile, OID: blob}, {Path: "d/x", Mode: ModeFile, OID: blob}}, [][2]string{{"d/X", "d/x"}}, ""},
		{"directories", []File{{Path: "D/x", Mode: ModeFile, OID: blob}, {Path: "d/y", Mode: ModeFile, OID: blob}}, [][2]string{{"D", "d"}}, ""},
		{"a symlink in one", []File{{Path: "D/x", Mode: ModeSymlink, OID: link}, {Path: "d/y", Mode: ModeFile, OID: blob}}, [][2]string{{"D", "d"}}, ""},
		{"a symlink in one, a directory in the other", []File{{Path: "D/x", Mode: ModeSymlink, OID: link}, {Path: "d/X/y", Mode: ModeFile, OID: blob}}, nil, codeTreeCaseCollision},
		{"two symlinks", []File{{Path: "X", Mode: ModeSymlink, OID: link}, {Path: "x", Mode: ModeSymlink, OID: link}}, nil, codeTreeCaseCollision},
	}
	for _, tt := range tests {
		root, err := o.WriteTree(tt.files, nil)
		if err != nil {
			t.Fatal(err)
		}
		tree, err := o.Files(t.Context(), root, DefaultLimits())
		if code(err) != tt.code || !slices.Equal(tree.Clashes, tt.want) {
			t.Errorf("%s: clashes = %q, %v, want %q, code %q", tt.name, tree.Clashes, err, tt.want, tt.code)
		}
	}
}

// Symlinks through symlinks cost what they may cost, and no more.
func TestSymlinkLimits(t *testing.T) {
	t.Parallel()
	o, _, _ := newObjects(t)
	// Each link leads through the next one 100 times.
	var files []File
	for i := range 200 {
		target := strings.Repeat(fmt.Sprintf("l%03d/../", i+1), 100) + "x"
		files = append(files, File{Path: fmt.Sprintf("l%03d", i), Mode: ModeSymlink, OID: add(t, o, Blob, target)})
	}
	root, err := o.WriteTree(files, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.Files(t.Context(), root, DefaultLimits()); err != nil {
		t.Errorf("entangled symlinks: %v", err) // each path ends at the 64th
	}
	// A hundred thousand that lead through 64 others of 256 names each.
	files = nil
	for i := range 64 {
		files = append(files, File{Path: fmt.Sprintf("l%03d", i), Mode: ModeSymlink, OID: add(t, o, Blob, strings.Repeat("./", 255)+fmt.Sprintf("l%03d", i+1))})
	}
	start := add(t, o, Blob, "l000")
	for i := range 90_000 {
		files = append(files, File{Path: fmt.Sprintf("s%06d", i), Mode: ModeSymlink, OID: start})
	}
	if root, err = o.WriteTree(files, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Files(t.Context(), root, DefaultLimits()); code(err) != codeSymlinkTarget {
		t.Errorf("many long ways: err = %v, want %s", err, codeSymlinkTarget)
	}
	// Targets of 4 KiB, all different.
	files = nil
	for i := range 5_000 {
		target := strings.Repeat("a", 4000) + fmt.Sprint(i)
		files = append(files, File{Path: fmt.Sprintf("s%06d", i), Mode: ModeSymlink, OID: add(t, o, Blob, target)})
	}
	if root, err = o.WriteTree(files, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Files(t.Context(), root, DefaultLimits()); code(err) != codeSymlinkTarget {
		t.Errorf("20 MB of targets: err = %v, want %s", err, codeSymlinkTarget)
	}
}

// UP-10, and the lies that a tree can tell about what is in it.
func TestFilesIncomplete(t *testing.T) {
	t.Parallel()
	o, blob, empty := newObjects(t)
	tree := func(e treeEntry) OID {
		return add(t, o, Tree, rawTree(treeEntry{ModeDir, "dir", add(t, o, Tree, rawTree(e))}))
	}
	tests := []struct {
		name string
		root OID
		want string
	}{
		{"complete", tree(treeEntry{ModeFile, "a", blob}), ""},
		{"submodule", tree(treeEntry{ModeSubmodule, "a", OID{1}}), ""},
		{"no root", OID{1}, CodeIncomplete},
		{"no file", tree(treeEntry{ModeFile, "a", OID{1}}), CodeIncomplete},
		{"no symlink", tree(treeEntry{ModeSymlink, "a", OID{1}}), CodeIncomplete},
		{"no directory", tree(treeEntry{ModeDir, "a", OID{1}}), CodeIncomplete},
		{"root is a blob", blob, codeWrongType},
		{"file is a tree", tree(treeEntry{ModeFile, "a", empty}), codeWrongType},
		{"symlink is a tree", tree(treeEntry{ModeSymlink, "a", empty}), codeWrongType},
		{"directory is a blob", tree(treeEntry{ModeDir, "a", blob}), codeWrongType},
	}
	for _, tt := range tests {
		if _, err := o.Files(t.Context(), tt.root, DefaultLimits()); code(err) != tt.want {
			t.Errorf("%s: err = %v, want code %q", tt.name, err, tt.want)
		}
	}
}

// UP-05, UP-06.
func TestFilesLimits(t *testing.T) {
	t.Parallel()
	o, blob, empty := newObjects(t)
	// wide returns a tree of n entries that are all the same object.
	wide := func(mode uint32, id OID, n int) OID {
		var entries []treeEntry
		for i := range n {
			entries = append(entries, treeEntry{mode, fmt.Sprintf("e%08d", i), id})
		}
		return add(t, o, Tree, rawTree(entries...))
	}
	// deep returns a tree of n levels, the root included.
	deep := func(name string, n int) OID {
		id := wide(ModeFile, blob, 1)
		for range n - 1 {
			id = add(t, o, Tree, rawTree(treeEntry{ModeDir, name, id}))
		}
		return id
	}
	bomb := func(mode uint32, leaf OID) OID {
		id := wide(mode, leaf, 10)
		for range 9 {
			id = wide(ModeDir, id, 10)
		}
		return id
	}
	// thick has a large directory at every level.
	flat, err := o.Read(wide(ModeFile, blob, 900), Tree, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	thick := blob
	for n := range 100 {
		mode := uint32(ModeDir)
		if n == 0 {
			mode = ModeFile
		}
		thick = add(t, o, Tree, rawTree(treeEntry{mode, "d", thick})+string(flat))
	}
	lim := DefaultLimits()
	lim.TreeEntries = 10_000
	tests := []struct {
		name string
		root OID
		want string
	}{
		{"10,000 files", wide(ModeFile, blob, 10_000), ""},
		{"10,001 files", wide(ModeFile, blob, 10_001), codeTooManyEntries},
		{"200,000 files", wide(ModeFile, blob, 200_000), codeTooManyEntries},
		{"10^10 files", bomb(ModeFile, blob), codeTooManyEntries},
		{"10^10 empty directories", bomb(ModeDir, empty), codeTooManyEntries},
		{"large directories at all levels", thick, codeTooManyEntries},
		{"128 levels", deep("d", 128), ""},
		{"129 levels", deep("d", 129), codeTooDeep},
		{"5,000 levels", deep("d", 5_000), codeTooDeep},
		{"path of 1,024 bytes", deep(strings.Repeat("d", 202), 6), ""},
		{"path of 1,025 bytes", deep(strings.Repeat("d", 126), 9), codePathTooLong},
	}
	for _, tt := range tests {
		list, err := o.Files(t.Context(), tt.root, lim)
		if code(err) != tt.want {
			t.Errorf("%s: err = %v, want code %q", tt.name, err, tt.want)
		}
		if last := len(list.Files) - 1; tt.name == "path of 1,024 bytes" && len(list.Files[last].Path) != 1024 {
			t.Errorf("%s: it has %d", tt.name, len(list.Files[last].Path))
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := o.Files(ctx, empty, DefaultLimits()); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v, want %v", err, context.Canceled)
	}
}

// Files lists what git ls-tree does, and WriteTree makes git's tree of it.
func TestWriteTree(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	git(t, dir, "", "init", "-q", "--bare")
	blob := strings.TrimSpace(git(t, dir, "x", "hash-object", "-w", "--stdin"))
	empty := strings.TrimSpace(git(t, dir, "", "mktree"))
	commit := strings.Repeat("12", 20)
	var index strings.Builder
	for _, line := range []string{
		"100644 a.c", "100644 a/b", "100755 a/b.sh", "100644 a/b-/x", "120000 a/l", "100644 a-b", "100644 a0",
		"100644 z/z/z/z", "160000 z/sub", "160000 sub", "100644 sub.c", "100644 sub0", "100644 é", "100644 日本/語",
	} {
		mode, path, _ := strings.Cut(line, " ")
		id := blob
		if mode == "160000" {
			id = commit
		}
		fmt.Fprintf(&index, "%s %s\t%s\n", mode, id, path)
	}
	git(t, dir, index.String(), "update-index", "--add", "--index-info")
	top := git(t, dir, "", "ls-tree", "-z", strings.TrimSpace(git(t, dir, "", "write-tree")))
	inner := strings.TrimSpace(git(t, dir, "040000 tree "+empty+"\te\n", "mktree"))
	top += fmt.Sprintf("040000 tree %s\tempty\x00040000 tree %s\tinner\x00", empty, inner)
	root := strings.TrimSpace(git(t, dir, top, "mktree", "-z", "--missing"))
	list := git(t, dir, root, "rev-list", "--objects", "--no-object-names", "--stdin")
	pack := git(t, dir, list, "pack-objects", "-q", "--stdout")

	o, err := unpack(t, []byte(pack), DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	rootID, err := ParseOID(root)
	if err != nil {
		t.Fatal(err)
	}
	got, err := o.Files(t.Context(), rootID, DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	var lines strings.Builder
	for _, f := range got.Files {
		typ, size := "blob", fmt.Sprint(f.Size)
		if f.Mode == ModeSubmodule {
			typ, size = "commit", "-"
		}
		fmt.Fprintf(&lines, "%06o %s %s %7s\t%s\x00", f.Mode, typ, f.OID, size, f.Path)
	}
	if want := git(t, dir, "", "ls-tree", "-r", "-l", "-z", root); lines.String() != want {
		t.Errorf("got  %q\nwant %q", lines.String(), want)
	}
	if want := []string{"empty", "inner/e"}; !slices.Equal(got.EmptyDirs, want) {
		t.Errorf("EmptyDirs = %q, want %q", got.EmptyDirs, want)
	}
	if len(got.Trees)+1 != strings.Count(list, "\n") || got.Trees[0] != rootID {
		t.Errorf("Trees = %v, want all but one of\n%s", got.Trees, list)
	}

	slices.SortFunc(got.Files, func(a, b File) int { return cmp.Compare(a.OID.String()+a.Path, b.OID.String()+b.Path) })
	slices.Reverse(got.EmptyDirs)
	again := NewObjects(tempFile(t, nil))
	if id, err := again.WriteTree(got.Files, got.EmptyDirs); err != nil || id != rootID {
		t.Errorf("WriteTree = %s, %v, want %s", id, err, rootID)
	}
	for _, id := range got.Trees {
		if content(t, again, id) != content(t, o, id) {
			t.Errorf("tree %s is not as it was", id)
		}
	}
}

func TestWriteTreeErrors(t *testing.T) {
	t.Parallel()
	for _, paths := range []string{"", "/a", "a//b", "a/", "a\x00b", "a a", "a/b a/b"} {
		o := NewObjects(tempFile(t, nil))
		var files []File
		for path := range strings.SplitSeq(paths, " ") {
			files = append(files, File{Path: path, Mode: ModeFile, OID: OID{1}})
		}
		if id, err := o.WriteTree(files, nil); err == nil {
			t.Errorf("WriteTree(%q) = %s, want an error", paths, id)
		}
	}
	o := NewObjects(tempFile(t, nil))
	if id, err := o.WriteTree(nil, nil); err != nil || id != oid(Tree, "") {
		t.Errorf("WriteTree() = %s, %v, want the empty tree", id, err)
	}
}

// Whatever tree is accepted has safe paths, and is written again the same.
// names are lines of a type letter and a path, symlinks with their target.
func FuzzFiles(f *testing.F) {
	f.Add("f a\nx b\nl c a\nd e\ns m")
	f.Add("f .git/x\nf a/b\nf A/b\nl d ../x\nl e a/../b\nf git~1")
	f.Add("l a .\nl b a/x\nl c/d ..\nl c/e ../..")
	f.Fuzz(func(t *testing.T, names string) {
		o, blob, _ := newObjects(t)
		var files []File
		var dirs []string
		targets := make(map[string]string)
		for line := range strings.SplitSeq(names, "\n") {
			kind, path, _ := strings.Cut(line, " ")
			file := File{Path: path, Mode: ModeFile, OID: blob, Size: 1}
			switch kind {
			case "x":
				file.Mode = ModeExecutable
			case "s":
				file.Mode, file.Size = ModeSubmodule, 0
			case "d":
				dirs = append(dirs, path)
				continue
			case "l":
				path, target, _ := strings.Cut(path, " ")
				targets[path] = target
				file = File{Path: path, Mode: ModeSymlink, OID: add(t, o, Blob, target), Size: int64(len(target))}
			}
			files = append(files, file)
		}
		root, err := o.WriteTree(files, dirs)
		if err != nil {
			return
		}
		got, err := o.Files(t.Context(), root, DefaultLimits())
		if err != nil {
			if code(err) == err.Error() {
				t.Fatalf("%v is no verdict", err)
			}
			return
		}
		slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
		if !slices.Equal(got.Files, files) {
			t.Fatalf("got %v, want %v", got.Files, files)
		}
		for _, file := range got.Files {
			if path.Clean("/" + file.Path)[1:] != file.Path {
				t.Errorf("path %q is not clean", file.Path)
			}
			at := path.Join(path.Dir(file.Path), targets[file.Path])
			if file.Mode == ModeSymlink && (path.IsAbs(targets[file.Path]) || at == ".." || strings.HasPrefix(at, "../")) {
				t.Errorf("symlink %q leads to %q", file.Path, at)
			}
		}
		if again, err := o.WriteTree(got.Files, got.EmptyDirs); err != nil || again != root {
			t.Errorf("written again as %s, %v, want %s", again, err, root)
		}
	})
}

func BenchmarkFiles(b *testing.B) {
	o, blob, _ := newObjects(b)
	var files []File
	for n := range 20_000 {
		files = append(files, File{Path: fmt.Sprintf("dir%d/sub%d/file%d.zig", n%10, n%300, n), Mode: ModeFile, OID: blob})
	}
	root, err := o.WriteTree(files, nil)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := o.Files(b.Context(), root, DefaultLimits()); err != nil {
			b.Fatal(err)
		}
	}
}
