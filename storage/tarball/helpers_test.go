package tarball

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"io"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// commitOID is a commit for trees that are in no repository.
const commitOID = "0123456789abcdef0123456789abcdef01234567"

// A tree is built in code: entries by path, without directories.
type tree map[string]leaf

type leaf struct {
	mode    Mode
	content string // or target
}

func (l leaf) oid() string {
	if l.mode == Submodule {
		return commitOID
	}
	sum := sha1.Sum(fmt.Appendf(nil, "blob %d\x00%s", len(l.content), l.content))
	return hex.EncodeToString(sum[:])
}

// entries lists the tree as Build wants it.
func (tr tree) entries() []Entry {
	var es []Entry
	dirs := map[string]bool{".": true}
	for p, l := range tr {
		e := Entry{Path: p, Mode: l.mode, OID: l.oid()}
		switch l.mode {
		case Symlink:
			e.Target = l.content
		case File, Executable:
			e.Size = int64(len(l.content))
			e.Open = func() (io.Reader, error) { return strings.NewReader(l.content), nil }
		}
		es = append(es, e)
		for d := path.Dir(p); !dirs[d]; d = path.Dir(d) {
			dirs[d] = true
			es = append(es, Entry{Path: d, Mode: Directory})
		}
	}
	slices.SortFunc(es, func(a, b Entry) int { return strings.Compare(sortKey(a), sortKey(b)) })
	tr.nameDirectories(es)
	return es
}

func sortKey(e Entry) string {
	if e.Mode == Directory {
		return e.Path + "/"
	}
	return e.Path
}

// nameDirectories computes the object ids of the directories, deepest first.
func (tr tree) nameDirectories(es []Entry) {
	modes := map[Mode]string{File: "100644", Executable: "100755", Symlink: "120000", Submodule: "160000", Directory: "40000"}
	content := map[string][]byte{}
	for i := len(es) - 1; i >= 0; i-- {
		e := &es[i]
		if e.Mode == Directory {
			b := content[e.Path]
			sum := sha1.Sum(append(fmt.Appendf(nil, "tree %d\x00", len(b)), b...))
			e.OID = hex.EncodeToString(sum[:])
		}
		raw, err := hex.DecodeString(e.OID)
		if err != nil {
			panic(err)
		}
		line := append(fmt.Appendf(nil, "%s %s\x00", modes[e.Mode], path.Base(e.Path)), raw...)
		d := path.Dir(e.Path)
		content[d] = append(line, content[d]...)
	}
}

func all(es []Entry) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for _, e := range es {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func scratch(t testing.TB) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "scratch"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func build(t testing.TB, b *Builder, h Header, es []Entry) ([]byte, Info) {
	t.Helper()
	var buf bytes.Buffer
	info, err := b.Build(t.Context(), &buf, h, all(es))
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes(), info
}

// A repo is a bare repository of the real git.
type repo struct {
	dir string
}

func (r repo) git(t testing.TB, stdin string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_ATTR_NOSYSTEM=1", "HOME="+r.dir)
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", args[0], err, stderr.Bytes())
	}
	return out
}

// newRepo returns a repository with one commit of tr, and its id.
func newRepo(t testing.TB, tr tree, when time.Time) (repo, string) {
	t.Helper()
	r := repo{t.TempDir()}
	r.git(t, "", "init", "-q", "--bare")
	var s strings.Builder
	fmt.Fprintf(&s, "commit refs/heads/main\ncommitter A <a@example.com> %d +0200\ndata 0\n", when.Unix())
	modes := map[Mode]string{File: "100644", Executable: "100755", Symlink: "120000"}
	for _, p := range slices.Sorted(maps.Keys(tr)) {
		l := tr[p]
		if l.mode == Submodule {
			fmt.Fprintf(&s, "M 160000 %s %s\n", l.oid(), p)
			continue
		}
		fmt.Fprintf(&s, "M %s inline %s\ndata %d\n%s\n", modes[l.mode], p, len(l.content), l.content)
	}
	r.git(t, s.String(), "fast-import", "--quiet", "--date-format=raw")
	return r, strings.TrimSpace(string(r.git(t, "", "rev-parse", "main")))
}

// noise returns n bytes that do not compress, always the same for the same seed.
func noise(seed uint64, n int) string {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	b := make([]byte, n)
	r.Read(b)
	return string(b)
}

// prose returns n bytes that do compress.
func prose(seed uint64, n int) string {
	words := strings.Fields("const std = @import fn pub try return if else while for switch struct enum union error self allocator")
	r := rand.New(rand.NewPCG(seed, 1))
	var b strings.Builder
	for b.Len() < n {
		b.WriteString(words[r.IntN(len(words))])
		b.WriteByte(" \n\t;"[r.IntN(4)])
		if r.IntN(8) == 0 {
			fmt.Fprint(&b, r.Uint32())
		}
	}
	return b.String()[:n]
}
