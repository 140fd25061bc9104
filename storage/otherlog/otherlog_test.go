package otherlog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/francescobianco/packbase/storage/logbook"
)

// write makes a folder that is the log of a key, with those entries.
func write(t *testing.T, dir string, key logbook.Signer, entries ...string) {
	t.Helper()
	var edge logbook.Edge
	var bundle []byte
	var err error
	for _, e := range entries {
		if _, err := logbook.ParseEntry([]byte(e)); err != nil {
			t.Fatalf("%v:\n%s", err, e)
		}
		edge.Append(tlog.RecordHash([]byte(e)), nil)
		if bundle, err = torchwood.AppendTileEntry(bundle, []byte(e)); err != nil {
			t.Fatal(err)
		}
	}
	put := func(path string, data []byte) {
		t.Helper()
		name := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	w := fmt.Sprintf("000.p/%d", len(entries))
	edge.Partial(func(_ int, _ int64, data []byte) { put("tile/0/"+w, data) })
	put("tile/entries/"+w, bundle)
	tree, err := edge.Tree()
	if err != nil {
		t.Fatal(err)
	}
	signed, err := key.Sign(tree)
	if err != nil {
		t.Fatal(err)
	}
	put(logbook.CheckpointFile, signed)
	put(logbook.PolicyFile, logbook.Policy(key.Public))
}

func newKey(t *testing.T, name string) logbook.Signer {
	t.Helper()
	key, err := logbook.NewSigner(name)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func release(ref, commit, content, seen string) string {
	return fmt.Sprintf("packbase/1 release\nupstream https://git.example/o/hello\nref refs/tags/%s\ncommit %s\ntree %s\ncontent sha256:%s\ntarball sha256:%s 1\nseen %s\n",
		ref, strings.Repeat(commit, 40), strings.Repeat("e", 40), strings.Repeat(content, 64), strings.Repeat("0", 64), seen)
}

// What two logs may differ in without a lie is none, and what they may not is.
func TestCompare(t *testing.T) {
	t.Parallel()
	const now, later, before = "2026-11-29T12:00:00Z", "2026-11-29T13:30:00Z", "2026-11-29T11:30:00Z"
	v1 := release("v1", "a", "b", now)
	archive := func(zig, seen string) string {
		return fmt.Sprintf("packbase/1 archive\nurl https://x.example/a.tar.gz\nbody sha256:%s 7\nzig-legacy 1220%s\nseen %s\n", strings.Repeat(zig, 64), strings.Repeat(zig, 64), seen)
	}
	moved := fmt.Sprintf("packbase/1 moved\nupstream https://git.example/o/hello\nref refs/tags/v1\nold %s\nnew %s\nseen %s\n", strings.Repeat("a", 40), strings.Repeat("c", 40), now)
	movedURL := fmt.Sprintf("packbase/1 moved\nurl https://x.example/a.tar.gz\nold 1220%s\nnew 1220%s\nseen %s\n", strings.Repeat("a", 64), strings.Repeat("b", 64), now)
	snapshot := func(content string) string {
		return fmt.Sprintf("packbase/1 snapshot\nupstream https://git.example/o/hello\ncommit %s\ntree %s\ncontent sha256:%s\ntarball sha256:%s 1\nseen %s\n",
			strings.Repeat("a", 40), strings.Repeat("e", 40), strings.Repeat(content, 64), strings.Repeat("0", 64), now)
	}
	zig := func(entry string) string {
		return strings.Replace(entry, "seen ", "zig-legacy 1220"+strings.Repeat("f", 64)+"\nseen ", 1)
	}
	for name, c := range map[string]struct {
		a, b []string
		want string
	}{
		"the same at another time":         {[]string{v1}, []string{release("v1", "a", "b", later)}, ""},
		"more":                             {[]string{v1, release("v2", "c", "d", now)}, []string{v1}, ""},
		"another tarball":                  {[]string{v1}, []string{strings.Replace(v1, strings.Repeat("0", 64)+" 1", strings.Repeat("1", 64)+" 2", 1)}, ""},
		"another commit":                   {[]string{v1}, []string{release("v1", "c", "b", now)}, "tag https://git.example/o/hello refs/tags/v1 [commit]"},
		"another content":                  {[]string{v1}, []string{release("v1", "a", "c", now)}, "tag https://git.example/o/hello refs/tags/v1 [content]"},
		"a move that one tells of":         {[]string{v1, moved}, []string{release("v1", "c", "d", now)}, ""},
		"a move to something else":         {[]string{v1, moved}, []string{release("v1", "d", "d", now)}, "tag https://git.example/o/hello refs/tags/v1 [commit content]"},
		"a commit under two tags":          {[]string{v1}, []string{zig(release("v2", "a", "b", now))}, "commit https://git.example/o/hello " + strings.Repeat("a", 40) + " [zig-legacy]"},
		"a commit wrapped as two tags":     {[]string{v1}, []string{release("v2", "a", "c", now)}, ""},
		"a commit with and without a tag":  {[]string{v1}, []string{zig(snapshot("b"))}, "commit https://git.example/o/hello " + strings.Repeat("a", 40) + " [zig-legacy]"},
		"the same with and without a tag":  {[]string{v1}, []string{snapshot("c")}, ""},
		"another content of a snapshot":    {[]string{snapshot("b")}, []string{snapshot("c")}, "content https://git.example/o/hello " + strings.Repeat("a", 40) + " [content]"},
		"the truth beside a lie":           {[]string{v1}, []string{v1, release("v1", "c", "b", now)}, "tag https://git.example/o/hello refs/tags/v1 [commit]"},
		"the truth after a lie":            {[]string{v1}, []string{release("v1", "a", "c", now), v1}, "tag https://git.example/o/hello refs/tags/v1 [content]"},
		"two contents of a commit":         {[]string{snapshot("b")}, []string{snapshot("b"), snapshot("c")}, "content https://git.example/o/hello " + strings.Repeat("a", 40) + " [content]"},
		"one of two tags of a commit":      {[]string{release("v2", "a", "c", now)}, []string{v1, release("v2", "a", "c", now)}, ""},
		"a move, and other content":        {[]string{release("v1", "c", "b", now)}, []string{moved, release("v1", "c", "d", now), release("v2", "c", "b", now)}, "tag https://git.example/o/hello refs/tags/v1 [content]"},
		"a move, and both":                 {[]string{v1}, []string{v1, moved, release("v1", "c", "d", now)}, ""},
		"a URL, before and after":          {[]string{archive("a", now)}, []string{archive("a", now), movedURL, archive("b", now)}, ""},
		"a URL, and another truth":         {[]string{archive("a", now)}, []string{archive("a", now), archive("b", now)}, "url https://x.example/a.tar.gz [zig-legacy]"},
		"a URL":                            {[]string{archive("a", now)}, []string{archive("b", now)}, "url https://x.example/a.tar.gz [zig-legacy]"},
		"a URL with other bytes":           {[]string{archive("a", now)}, []string{strings.Replace(archive("a", now), " 7\n", " 8\n", 1)}, ""},
		"a date":                           {[]string{release("v2", "c", "d", later), v1}, nil, "dates [seen]"},
		"a little disorder":                {[]string{v1, release("v2", "c", "d", before)}, nil, ""},
		"a date of the other, and content": {[]string{v1}, []string{release("v2", "c", "d", later), release("v1", "a", "c", now)}, "dates [seen] tag https://git.example/o/hello refs/tags/v1 [content]"},
	} {
		var readings [2]Reading
		for i, entries := range [][]string{c.a, c.b} {
			dir := t.TempDir()
			write(t, dir, newKey(t, fmt.Sprint("log", i)), append([]string{"packbase/1 claim\nupstream x\nname x\nseen 2026-11-29T07:00:00Z\n"}, entries...)...)
			l, err := OpenFolder(t.Context(), dir, Memory{})
			if err == nil {
				err = readings[i].Read(t.Context(), l)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		found, err := Compare(t.Context(), &readings[0], &readings[1], 100)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range found {
			_, raw := e.File()
			again, err := ParseEvidence(raw)
			if err != nil {
				t.Fatal(err)
			}
			f, err := again.Check()
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			got = append(got, fmt.Sprint(f.About, " ", f.Differ))
		}
		if got := strings.Join(got, " "); got != c.want {
			t.Errorf("%s: found %q, want %q", name, got, c.want)
		}
	}
}

// The key that a statement says signed it is that key, and nothing beside it.
func TestEvidenceKey(t *testing.T) {
	t.Parallel()
	const now = "2026-11-29T12:00:00Z"
	key, other, dir := newKey(t, "log"), newKey(t, "log"), t.TempDir()
	write(t, dir, key, release("v1", "a", "b", now), release("v1", "a", "c", now))
	l, err := OpenFolder(t.Context(), dir, Memory{})
	if err != nil {
		t.Fatal(err)
	}
	ev, err := newEvidence(t.Context(), [2]place{{l, 0}, {l, 1}})
	if err != nil {
		t.Fatal(err)
	}
	for _, beside := range []string{" ", "#", " # that is " + other.Public, "\n# " + other.Public, "\nlog " + key.Public, "\r"} {
		ev.Statements[1].Key = key.Public + beside
		if f, err := ev.Check(); err == nil {
			t.Errorf("the key %q signed:\n%s", ev.Statements[1].Key, f.Explain())
		}
	}
}

// Two logs that one key signs are one log, or a fork of it, also where what they say does not contradict itself.
func TestCompareForked(t *testing.T) {
	t.Parallel()
	const now = "2026-11-29T12:00:00Z"
	v1, v2, v3 := release("v1", "a", "b", now), release("v2", "c", "d", now), release("v3", "e", "f", now)
	key := newKey(t, "log")
	for name, c := range map[string]struct {
		a, b   []string
		forked bool
	}{
		"the same":         {[]string{v1}, []string{v1}, false},
		"one is behind":    {[]string{v1}, []string{v1, v2}, false},
		"of one length":    {[]string{v1, v2}, []string{v1, v3}, true},
		"one has left out": {[]string{v1, v2, v3}, []string{v1, v3}, true},
	} {
		var readings [2]Reading
		for i, entries := range [][]string{c.a, c.b} {
			dir := t.TempDir()
			write(t, dir, key, entries...)
			l, err := OpenFolder(t.Context(), dir, Memory{})
			if err == nil {
				err = readings[i].Read(t.Context(), l)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		found, err := Compare(t.Context(), &readings[0], &readings[1], 100)
		if len(found) > 0 || (err != nil) != c.forked || err != nil && !strings.Contains(err.Error(), "it was forked") {
			t.Errorf("%s: %v, %v, want that it is said to be forked: %v", name, found, err, c.forked)
		}
	}
}

// A log that was seen may only grow, whoever signs it then.
func TestMemory(t *testing.T) {
	t.Parallel()
	key, dir := newKey(t, "log"), t.TempDir()
	const now = "2026-11-29T12:00:00Z"
	v1, v2 := release("v1", "a", "b", now), release("v2", "c", "d", now)
	write(t, dir, key, v1, v2)
	l, err := OpenFolder(t.Context(), dir, Memory{})
	if err != nil {
		t.Fatal(err)
	}
	for want, do := range map[string]func(dir string){
		"":                       func(dir string) { write(t, dir, key, v1, v2, release("v3", "e", "f", now)) },
		"had 2: it was set back": func(dir string) { write(t, dir, key, v1) },
		"two trees of that size": func(dir string) { write(t, dir, key, v2, v1) },
		"it was forked":          func(dir string) { write(t, dir, key, v2, v1, v1) },
		"signed by the key":      func(dir string) { write(t, dir, newKey(t, "log"), v1, v2) },
		"no such file":           func(string) {},
		"no regular file":        func(dir string) { write(t, dir, key, v1, v2); pipe(t, filepath.Join(dir, logbook.CheckpointFile)) },
		"more than 1048576":      func(dir string) { write(t, dir, key, v1, v2); grow(t, filepath.Join(dir, logbook.CheckpointFile)) },
		"malformed note":         func(dir string) { write(t, dir, key, v1, v2); cut(t, filepath.Join(dir, logbook.CheckpointFile)) },
		"bad result slice":       func(dir string) { write(t, dir, key, v1, v2, v1); cut(t, filepath.Join(dir, "tile/0/000.p/3")) },
	} {
		dir := t.TempDir()
		do(dir)
		if _, err := OpenFolder(t.Context(), dir, l.Memory); err == nil != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func pipe(t *testing.T, file string) {
	t.Helper()
	if err := errors.Join(os.Remove(file), syscall.Mkfifo(file, 0o600)); err != nil {
		t.Fatal(err)
	}
}

func grow(t *testing.T, file string) {
	t.Helper()
	if err := os.Truncate(file, 1<<40); err != nil {
		t.Fatal(err)
	}
}

func cut(t *testing.T, file string) {
	t.Helper()
	if err := os.Truncate(file, 40); err != nil {
		t.Fatal(err)
	}
}
