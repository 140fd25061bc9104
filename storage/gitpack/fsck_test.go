package gitpack

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// fsckCases are objects that Git judges by their content. Of "modules" and
// "attributes" the content is that of the file.
var fsckCases = []struct {
	kind, name, content string
	bad                 bool
	// Only newer versions of Git than 2.39 refuse it.
	newer bool
}{
	{"commit", "plain", commitOf("A <a@b> 1 +0000", "C <c@d> 2 -0130", "m\n"), false, false},
	{"commit", "empty names", commitOf(" <> 0 +0000", " <> 0 +0000", ""), false, false},
	{"commit", "name with brackets", commitOf("A (b) [c] \"d\" <a@b> 1 +0000", "C, D. <c d> 1 +9999", "m"), false, false},
	{"commit", "no author", strings.Replace(commitOf("A <a@b> 1 +0000", "C <c@d> 2 +0000", "m"), "author", "auther", 1), true, false},
	{"commit", "two authors", commitOf("A <a@b> 1 +0000\nauthor B <a@b> 1 +0000", "C <c@d> 2 +0000", "m"), true, false},
	{"commit", "no name", commitOf("<a@b> 1 +0000", "C <c@d> 2 +0000", "m"), true, false},
	{"commit", "no name of the committer", commitOf("A <a@b> 1 +0000", "<c@d> 2 +0000", "m"), true, false},
	{"commit", "no email", commitOf("A 1 +0000", "C <c@d> 2 +0000", "m"), true, false},
	{"commit", "bad email", commitOf("A <a<b> 1 +0000", "C <c@d> 2 +0000", "m"), true, false},
	{"commit", "bad name", commitOf("A> <a@b> 1 +0000", "C <c@d> 2 +0000", "m"), true, false},
	{"commit", "no space before email", commitOf("A<a@b> 1 +0000", "C <c@d> 2 +0000", "m"), true, false},
	{"commit", "no space before date", commitOf("A <a@b>1 +0000", "C <c@d> 2 +0000", "m"), true, false},
	{"commit", "no date", commitOf("A <a@b>", "C <c@d> 2 +0000", "m"), true, false},
	{"commit", "bad date", commitOf("A <a@b> one +0000", "C <c@d> 2 +0000", "m"), true, false},
	{"commit", "zero-padded date", commitOf("A <a@b> 01 +0000", "C <c@d> 2 +0000", "m"), true, false},
	{"commit", "zero-padded date of the committer", commitOf("A <a@b> 1 +0000", "C <c@d> 02 +0000", "m"), true, false},
	{"commit", "date beyond all", commitOf("A <a@b> 18446744073709551615 +0000", "C <c@d> 2 +0000", "m"), true, false},
	{"commit", "no zone", commitOf("A <a@b> 1 +0000", "C <c@d> 2", "m"), true, false},
	{"commit", "long zone", commitOf("A <a@b> 1 +051800", "C <c@d> 2 +0000", "m"), true, false},
	{"commit", "zone of letters", commitOf("A <a@b> 1 UTC", "C <c@d> 2 +0000", "m"), true, false},
	{"commit", "space at the end", commitOf("A <a@b> 1 +0000 ", "C <c@d> 2 +0000", "m"), true, false},
	{"commit", "NUL in the message", commitOf("A <a@b> 1 +0000", "C <c@d> 2 +0000", "m\x00m"), true, false},
	{"commit", "NUL in another header", commitOf("A <a@b> 1 +0000", "C <c@d> 2 +0000\nx \x00", "m"), true, false},
	{"commit", "bad parent", strings.Replace(commitOf("A <a@b> 1 +0000", "C <c@d> 2 +0000", "m"), "author", "parent 12\nauthor", 1), true, false},

	{"tag", "plain", tagOf("v1", "\ntagger T <t@u> 1 +0000"), false, false},
	{"tag", "no tagger", tagOf("v1", ""), false, false},
	{"tag", "another header", tagOf("v1", "\nx y"), false, false},
	{"tag", "bad tag name", tagOf("a..b", "\ntagger T <t@u> 1 +0000"), false, false},
	{"tag", "tagger without email", tagOf("v1", "\ntagger T 1 +0000"), true, false},
	{"tag", "tagger without name", tagOf("v1", "\ntagger <t@u> 1 +0000"), true, false},
	{"tag", "tagger without zone", tagOf("v1", "\ntagger T <t@u> 1"), true, false},
	{"tag", "tagger with a bad zone", tagOf("v1", "\ntagger T <t@u> 1 +00"), true, false},
	{"tag", "tagger with a zero-padded date", tagOf("v1", "\ntagger T <t@u> 01 +0000"), true, false},
	{"tag", "63 bytes", tagOf("", "")[:63], true, false},
	{"tag", "64 bytes", tagOf("v", "")[:63] + "\n", false, false},
	{"tag", "unknown type", strings.Replace(tagOf("v1", ""), "type tree", "type snail", 1), true, false},

	{"modules", "plain", "[submodule \"lib\"]\n\tpath = lib\n\turl = https://example.com/lib.git\n", false, false},
	{"modules", "relative", "[submodule \"lib\"]\n\turl = ../lib.git\n", false, false},
	{"modules", "scp", "[submodule \"lib\"]\n\turl = git@example.com:lib.git\n", false, false},
	{"modules", "no configuration", "= hello\n[submodule \"..\"]\n\turl = -x\n", false, false},
	{"modules", "name up", "[submodule \"../x\"]\n\tpath = lib\n", true, false},
	{"modules", "name up in between", "[submodule \"a/../x\"]\n\tpath = lib\n", true, false},
	{"modules", "name up for Windows", "[submodule \"a\\\\..\\\\x\"]\n\tpath = lib\n", true, false},
	{"modules", "name with dots", "[submodule \"a..b/...\"]\n\tpath = lib\n", false, false},
	{"modules", "no name", "[submodule \"\"]\n\tpath = lib\n", true, false},
	{"modules", "bad name without settings", "[submodule \"..\"]\n", false, false},
	{"modules", "old form", "[submodule.lib]\n\turl = -x\n", true, false},
	{"modules", "other section", "[other \"..\"]\n\turl = -x\n", false, false},
	{"modules", "path like an option", "[submodule \"lib\"]\n\tpath = -x\n", true, false},
	{"modules", "URL like an option", "[submodule \"lib\"]\n\turl = -x\n", true, false},
	{"modules", "URL like an option, quoted", "[SubModule \"lib\"]\n\tURL = \"-x\" ; comment\n", true, false},
	{"modules", "URL like an option over lines", "[submodule \"lib\"] url = \\\n-x", true, false},
	{"modules", "command", "[submodule \"lib\"]\n\tupdate = !sh\n", true, false},
	{"modules", "update", "[submodule \"lib\"]\n\tupdate = rebase\n", false, false},
	{"modules", "newline", "[submodule \"lib\"]\n\turl = https://example.com/\\nhost\n", true, false},
	{"modules", "escaped newline", "[submodule \"lib\"]\n\turl = http://example.com/%0ahost=x\n", true, false},
	{"modules", "escaped newline, relative", "[submodule \"lib\"]\n\turl = ../%0Ahost\n", true, false},
	{"modules", "up to the host", "[submodule \"lib\"]\n\turl = ../../../:evil\n", true, false},
	{"modules", "up to the host with a slash", "[submodule \"lib\"]\n\turl = .././..//x\n", true, false},
	{"modules", "no host", "[submodule \"lib\"]\n\turl = https:///x\n", true, false},
	{"modules", "no host before a port", "[submodule \"lib\"]\n\turl = https://:80/x\n", true, true},
	{"modules", "helper", "[submodule \"lib\"]\n\turl = http::https://example.com/x\n", false, false},
	{"modules", "helper of nothing", "[submodule \"lib\"]\n\turl = https::example.com/x\n", true, false},
	{"modules", "bad port", "[submodule \"lib\"]\n\turl = https://example.com:70000/x\n", true, true},
	{"modules", "port 0", "[submodule \"lib\"]\n\turl = https://example.com:00/x\n", true, true},
	{"modules", "padded port", "[submodule \"lib\"]\n\turl = https://example.com:00080/x\n", false, false},
	{"modules", "IPv6", "[submodule \"lib\"]\n\turl = https://[::1]:80/x\n", false, false},
	{"modules", "bad host", "[submodule \"lib\"]\n\turl = https://exa$mple.com/x\n", true, true},
	{"modules", "bad escape", "[submodule \"lib\"]\n\turl = https://example.com/%x\n", true, true},
	{"modules", "above the root", "[submodule \"lib\"]\n\turl = https://example.com/a/../../x\n", true, true},
	{"modules", "above the root, escaped", "[submodule \"lib\"]\n\turl = https://example.com/%2e%2E/x\n", true, true},
	{"modules", "user", "[submodule \"lib\"]\n\turl = https://u:p@example.com/x?y#z\n", false, false},
	{"modules", "after a mistake", "[submodule \"lib\"]\n\turl = \\x\n\tpath = -x\n", false, false},
	{"modules", "before a mistake", "[submodule \"lib\"]\n\tpath = -x\n\turl = \"\n", true, false},
	{"modules", "byte order mark and carriage returns", "\ufeff[submodule \"lib\"]\r\n\turl = -x\r\n", true, true},

	{"attributes", "plain", "* text=auto\n", false, false},
	{"attributes", "2,047 bytes", strings.Repeat("a", 2047) + "\nb\n", false, false},
	{"attributes", "2,048 bytes", strings.Repeat("a", 2048) + "\n", true, false},
	{"attributes", "2,047 bytes without an end", "b\n" + strings.Repeat("a", 2047), false, false},
	{"attributes", "2,048 bytes without an end", "b\n" + strings.Repeat("a", 2048), true, false},
	{"attributes", "after a NUL", "a\x00" + strings.Repeat("a", 3000), false, false},
	{"attributes", "before a NUL", strings.Repeat("a", 3000) + "\x00", true, false},
}

// emptyTree is the id of the tree without entries.
const emptyTree = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"

func commitOf(author, committer, message string) string {
	return "tree " + emptyTree + "\nauthor " + author + "\ncommitter " + committer + "\n\n" + message
}

func tagOf(name, rest string) string {
	return "object " + emptyTree + "\ntype tree\ntag " + name + rest + "\n\nm\n"
}

func TestFsck(t *testing.T) {
	t.Parallel()
	d := newDifferential(t)
	for _, tt := range fsckCases {
		d.add(tt.kind, tt.content)
	}
	refused := d.git(t)
	for i, tt := range fsckCases {
		c := d.cases[i]
		if (c.err != nil) != tt.bad {
			t.Errorf("%s, %s: err = %v, want bad: %v", tt.kind, tt.name, c.err, tt.bad)
		}
		if why, bad := refused[c.blame]; bad != tt.bad && !tt.newer {
			t.Errorf("%s, %s: git fsck says %q, the test bad: %v", tt.kind, tt.name, why, tt.bad)
		}
	}
}

// Whatever objects are made of, we accept none that git fsck --strict
// refuses, and refuse none for what Git and we should agree on.
// PACKBASE_TEST_LONG is how many new ones to try, instead of a few old ones.
func TestFsckDifferential(t *testing.T) {
	t.Parallel()
	count, seed := 3000, uint64(1)
	if n, err := strconv.Atoi(os.Getenv("PACKBASE_TEST_LONG")); err == nil {
		count, seed = n, rand.Uint64()
	}
	t.Logf("seed %d", seed)
	d := newDifferential(t)
	g := generator{rand.New(rand.NewPCG(seed, 0))}
	for range count {
		d.add(g.object())
	}
	refused := d.git(t)
	both, ours := 0, 0
	for _, c := range d.cases {
		why, bad := refused[c.blame]
		switch {
		case bad && c.err == nil:
			t.Errorf("accepted, but Git says %q: %s %q", why, c.kind, c.content)
		case bad:
			both++
		case c.err != nil:
			ours++
			// Of a folder named .gitattributes Git blames what is in it.
			blamed := c.kind == "tree" && code(c.err) == codeTreeConfig
			// Up to the first colon Git decodes nothing.
			decoded := escapedNewline.MatchString(c.content)
			if !blamed && !decoded && !strictness[code(c.err)] && !newStrictness.MatchString(c.err.Error()) {
				t.Errorf("Git accepts, we say %q: %s %q", c.err, c.kind, c.content)
			}
		}
	}
	t.Logf("%d objects: %d refused by both, %d by us alone", len(d.cases), both, ours)
	if both < count/10 || both > count*9/10 {
		t.Errorf("Git refuses %d of %d objects, which tries nothing", both, count)
	}
}

var escapedNewline = regexp.MustCompile(`(?i)%0a[^\n]*(\\\n[^\n]*)*:`)

// newStrictness is what versions of Git differ in, and dates that we cannot
// write down or that only C reads.
var newStrictness = regexp.MustCompile(`new versions of Git|between 1970 and 9999|> ([+ ]|\\[trvf]|"$)`)

// strictness is what we refuse although Git does not.
var strictness = map[string]bool{
	CodeIncomplete: true, codeWrongType: true, codeTreeName: true, codeTreeMode: true,
	codeTreeCaseCollision: true, codeNameTooLong: true, codeTagNotCommit: true,
}

// A differential holds our verdict on objects against Git's.
type differential struct {
	objects *Objects
	blob    OID
	cases   []fsckCase
}

type fsckCase struct {
	kind, content string
	blame         OID // the object that Git would name
	err           error
}

func newDifferential(t testing.TB) *differential {
	d := &differential{}
	d.objects, d.blob, _ = newObjects(t)
	return d
}

func (d *differential) add(kind, content string) {
	c := fsckCase{kind: kind, content: content}
	put := func(typ Type, content string) OID {
		id, err := d.objects.Add(typ, int64(len(content)), strings.NewReader(content))
		if err != nil {
			panic(err)
		}
		return id
	}
	listed := func(name string, mode uint32) error {
		_, err := d.list(put(Tree, rawTree(treeEntry{mode, name, c.blame})))
		return err
	}
	switch kind {
	case "commit":
		c.blame = put(Commit, content)
		var info CommitInfo
		if info, c.err = ParseCommit([]byte(content)); c.err == nil {
			_, c.err = d.objects.Read(info.Tree, Tree, 0)
		}
		if c.err == nil {
			c.err = d.objects.Fsck(c.blame, nil, Listing{})
		}
	case "tag":
		c.blame = put(Tag, content)
		if _, _, c.err = d.objects.Peel(c.blame); code(c.err) == "" || code(c.err) == codeTagNotCommit {
			commit := put(Commit, commitOf("A <a> 1 +0000", "A <a> 1 +0000", ""))
			c.err = d.objects.Fsck(commit, []OID{c.blame}, Listing{})
		}
	case "tree":
		c.blame = put(Tree, content)
		_, c.err = d.list(c.blame)
	case "modules":
		c.blame = put(Blob, content)
		c.err = listed(".gitmodules", ModeFile)
	case "attributes":
		c.blame = put(Blob, content)
		c.err = listed(".gitattributes", ModeFile)
	}
	d.cases = append(d.cases, c)
}

func (d *differential) list(root OID) (Listing, error) {
	tree, err := d.objects.Files(context.Background(), root, DefaultLimits())
	if err == nil {
		err = d.objects.fsckFiles(tree)
	}
	return tree, err
}

// git returns what git fsck --strict has against the objects.
func (d *differential) git(t *testing.T) map[OID]string {
	return fsck(t, func(write func(Type, string)) {
		for i, e := range d.objects.entries {
			raw, err := d.objects.Read(e.oid, e.typ, 1<<30)
			if err != nil {
				t.Fatal(i, err)
			}
			write(e.typ, string(raw))
		}
	})
}

// Whatever an object is, there is a verdict on it, and what is accepted is
// understood: a tree is written again as it was, a commit names its tree first.
func FuzzObject(f *testing.F) {
	for _, tt := range fsckCases {
		f.Add(tt.kind, tt.content)
	}
	g := generator{rand.New(rand.NewPCG(1, 0))}
	for range 100 {
		kind, content := g.object()
		f.Add(kind, content)
	}
	f.Fuzz(func(t *testing.T, kind, content string) {
		d := newDifferential(t)
		d.add(kind, content)
		switch err := d.cases[0].err; {
		case err != nil && code(err) == err.Error():
			t.Fatalf("%v is no verdict", err)
		case err != nil:
		case kind == "tree":
			tree, err := d.list(d.cases[0].blame)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := d.objects.WriteTree(tree.Files, tree.EmptyDirs); err != nil || again != d.cases[0].blame {
				t.Errorf("written again as %s, %v, want %s", again, err, d.cases[0].blame)
			}
		case kind == "commit":
			info, err := ParseCommit([]byte(content))
			if err != nil || !strings.HasPrefix(content, "tree "+info.Tree.String()+"\n") {
				t.Errorf("tree %s, %v", info.Tree, err)
			}
		}
	})
}

// A generator makes objects that are good, or bad in one or two places.
type generator struct{ *rand.Rand }

func (g generator) pick(from ...string) string { return from[g.IntN(len(from))] }

// rarely returns what, or more often usual.
func (g generator) rarely(usual string, what ...string) string {
	if g.IntN(8) > 0 {
		return usual
	}
	return g.pick(what...)
}

func (g generator) object() (kind, content string) {
	switch kind = g.pick("commit", "commit", "tag", "tree", "modules"); kind {
	case "commit":
		content = g.commit()
	case "tag":
		content = g.tag()
	case "tree":
		return kind, g.tree()
	case "modules":
		content = g.modules()
	}
	for g.IntN(4) == 0 {
		content = g.mutate(content)
	}
	return kind, content
}

// mutate changes, adds or removes a byte.
func (g generator) mutate(s string) string {
	at := g.IntN(len(s) + 1)
	b := g.pick(" ", "\n", "\x00", "<", ">", "0", "-", "+", "9", "a", "\t", "\r", "[", "]", "\"", "\\", "=", "#", "/", ".", ":", "%", "@")
	switch g.IntN(3) {
	case 0:
		return s[:at] + b + s[at:]
	case 1:
		return s[:at] + b + s[min(at+1, len(s)):]
	}
	return s[:at] + s[min(at+1, len(s)):]
}

func (g generator) ident() string {
	name := g.rarely("A U Thor ", "", " ", "A", "A>", "A\t", "é ", "A, \"B\" ", "\xff ")
	email := g.rarely("<a@example.com>", "<>", "<a b>", "a@b", "<a", "a>", "<a<b>", "<<a>>", "<a>>")
	date := g.rarely(" 1700000000", "", " 0", " 00", " 01", "  1", " -1", " +1", " 1e3", " 253402300799", " 253402300800",
		" 9223372036854775807", " 9223372036854775808", " 18446744073709551615", " 99999999999999999999")
	zone := g.rarely(" +0100", "", " ", " +000", " +00000", " 0000", " -9999", " UTC", " +00:00", " +0000 ")
	return name + email + date + zone
}

func (g generator) commit() string {
	id := g.rarely(emptyTree, emptyTree[1:], emptyTree+"0", strings.ToUpper(emptyTree), someID, "")
	lines := []string{"tree " + id, "author " + g.ident(), "committer " + g.ident()}
	if g.IntN(10) == 0 {
		lines = append(lines, g.pick("encoding latin-1", "gpgsig -----BEGIN\n \n -----END", "mergetag x", "x"))
	}
	lines = g.shuffle(lines)
	return strings.Join(lines, "\n") + g.rarely("\n\nm\n", "", "\n", "\n\n", "\n\n\x00", "\n\nm")
}

func (g generator) tag() string {
	lines := []string{
		"object " + g.rarely(emptyTree, someID, "x", ""),
		"type " + g.rarely("tree", "commit", "tag", "blob", "snail", ""),
		"tag " + g.rarely("v1", "", "a..b", "a b", "refs/x", ".x", "é"),
	}
	if g.IntN(4) > 0 {
		lines = append(lines, "tagger "+g.ident())
	}
	lines = g.shuffle(lines)
	return strings.Join(lines, "\n") + g.rarely("\n\nm\n", "", "\n", "\n\n", "\n\n\x00")
}

// shuffle repeats, drops or swaps a line, rarely.
func (g generator) shuffle(lines []string) []string {
	i := g.IntN(len(lines))
	switch g.IntN(24) {
	case 0:
		return append(lines[:i:i], lines[i+1:]...)
	case 1:
		return append(lines[:i:i], append([]string{lines[i]}, lines[i:]...)...)
	case 2:
		lines[0], lines[i] = lines[i], lines[0]
	}
	return lines
}

func (g generator) tree() string {
	blob, tree := "\x11\xf6\xad\x8e\xc5\x2a\x29\x84\xab\xaa\xfd\x7c\x3b\x51\x65\x03\x78\x5c\x20\x72", "\x4b\x82\x5d\xc6\x42\xcb\x6e\xb9\xa0\x60\xe5\x4b\xf8\xd6\x92\x88\xfb\xee\x49\x04"
	var b strings.Builder
	name := byte('a')
	for range 1 + g.IntN(4) {
		mode, id := "100644", blob
		switch g.IntN(6) {
		case 0:
			mode, id = "40000", tree
		case 1:
			mode = g.pick("100755", "120000", "160000")
		case 2:
			mode = g.rarely(mode, "0100644", "100664", "100000", "040000", "644", "40755", "120777", "170000", "", "x")
		}
		odd := g.rarely(string(name), "", ".", "..", ".git", ".GIT", "git~1", ".git.", ".gıt", ".g\u200cit", "a/b", "/", ".gitmodules",
			".gitattributes", "gitmod~1", "gitatt~1", "gi7d29~1", ".GitModules ", "\xff", "a\nb", strings.Repeat("n", 300))
		id = g.rarely(id, string(make([]byte, 20)), tree, blob[:19])
		fmt.Fprintf(&b, "%s %s\x00%s", mode, odd, id)
		name += byte(g.IntN(3))
	}
	return b.String()
}

func (g generator) modules() string {
	var b strings.Builder
	for range 1 + g.IntN(3) {
		b.WriteString(g.rarely("[submodule \"lib\"]", "[submodule \"../x\"]", "[submodule \"a/..\"]", "[submodule \"\"]", "[submodule.x]", "[submodule]",
			"[SUBMODULE  \"a\\\"b\"]", "[submodule \"a\nb\"]", "[other \"..\"]", "[submodule \"a\\\\..\"]", "[submodule \"x\" ]", "[submodule\"x\"]", "[]"))
		b.WriteString(g.rarely("\n\t", " ", "\r\n", "# c\n", ";\n", ""))
		for range g.IntN(3) {
			b.WriteString(g.pick("url", "url", "url", "path", "update", "URL", "branch", "u-1"))
			b.WriteString(g.rarely(" = ", "=", "\t=\t", "", " "))
			b.WriteString(g.value())
			b.WriteString(g.rarely("\n\t", "\r\n", " # c\n", " ; c\n", "", "\\\n", " \t\n"))
		}
	}
	return b.String()
}

func (g generator) value() string {
	switch g.IntN(4) {
	case 0:
		return g.pick("lib", "-x", "\"-x\"", "!sh", "checkout", "\"a b\"", "\\\"", "\\x", "a\\nb", "", "\"", "a;b", "a  b")
	case 1:
		return g.pick("./", "../", ".././", "..//", "../:", "", "/", "git://h/", "git@h:", "file:///", "ext::") + g.pick("x", "../x", "/x", ":x", "%0a", "\\n", "a/%0A", "-x", "a b")
	}
	return g.rarely("https://", "http://", "ftp://", "ftps::http://", "http::", "https::x", "HTTPS://", "https:/", "ssh://") +
		g.rarely("", "u@", "u:p@", "u%@", "%41@", "@", "a@b@") +
		g.rarely("h.example", "", "h:80", "h:", "h:0", "h:00443", "h:65536", "h:x", ":80", "[::1]", "[::1]:8", "h_-.x", "h$", "h%41", "h h", "a:b:1", "]") +
		g.rarely("/x/y.git", "", "/", "?q", "#f", "/..", "/a/../..", "/a/..", "/./x", "/%2e%2e", "//..", "/%", "/%4", "/%zz", "/%0a", "/a\\nb", "/x?%", "/%00", "/..a", "/a?/../..")
}
