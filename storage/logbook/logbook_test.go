package logbook_test

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/francescobianco/packbase/storage/logbook"
)

// The vectors of docs/log.md are entries, and hash as it says.
func TestSpecification(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/log.md")
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]bool{}
	for _, v := range regexp.MustCompile("(?s)```text\n(packbase/1 .*?)```\nleaf `([0-9a-f]{64})`, identity `([0-9a-f]{64})`").FindAllSubmatch(doc, -1) {
		e, err := logbook.ParseEntry(v[1])
		if err != nil {
			t.Errorf("%v:\n%s", err, v[1])
			continue
		}
		kinds[e.Kind()] = true
		leaf, identity := tlog.RecordHash(v[1]), logbook.Identity(v[1])
		if got := hex.EncodeToString(leaf[:]); got != string(v[2]) {
			t.Errorf("leaf of %s is %s, docs/log.md says %s", e.Kind(), got, v[2])
		}
		if got := hex.EncodeToString(identity[:]); got != string(v[3]) {
			t.Errorf("identity of %s is %s, docs/log.md says %s", e.Kind(), got, v[3])
		}
		if string(e.Text()) != string(v[1]) {
			t.Errorf("%s is written as\n%s", e.Kind(), e.Text())
		}
	}
	for _, kind := range []string{"release", "snapshot", "archive", "moved", "gone", "withdrawn", "claim", "key", "epoch"} {
		if !kinds[kind] {
			t.Errorf("docs/log.md has no vector of %s", kind)
		}
	}
}

const gone = "packbase/1 gone\nupstream https://github.com/o/r\nref refs/tags/v1\nold 0123456789abcdef0123456789abcdef01234567\nseen 2026-11-29T07:00:00Z\n"

func TestParseEntry(t *testing.T) {
	t.Parallel()
	if _, err := logbook.ParseEntry([]byte(gone)); err != nil {
		t.Fatal(err)
	}
	change := func(old, now string) string {
		if !strings.Contains(gone, old) {
			t.Fatalf("%q is not in the entry", old)
		}
		return strings.Replace(gone, old, now, 1)
	}
	long := strings.Repeat("a", 1025)
	for name, text := range map[string]string{
		"empty":               "",
		"no line feed":        strings.TrimSuffix(gone, "\n"),
		"two line feeds":      gone + "\n",
		"another format":      change("packbase/1", "packbase/2"),
		"another kind":        change("gone", "lost"),
		"no kind":             change("packbase/1 gone\n", ""),
		"line missing":        change("ref refs/tags/v1\n", ""),
		"line twice":          change("ref refs/tags/v1\n", "ref refs/tags/v1\nref refs/tags/v1\n"),
		"another order":       change("upstream https://github.com/o/r\nref refs/tags/v1\n", "ref refs/tags/v1\nupstream https://github.com/o/r\n"),
		"one line more":       change("seen ", "new 0123456789abcdef0123456789abcdef01234567\nseen "),
		"branch":              change("refs/tags/", "refs/heads/"),
		"no commit":           change("old 0", "old g"),
		"short commit":        change("old 01", "old 0"),
		"no value":            change("refs/tags/v1", ""),
		"space before":        change("upstream https", "upstream  https"),
		"space behind":        change("o/r\n", "o/r \n"),
		"carriage return":     change("o/r\n", "o/r\r\n"),
		"escape":              change("o/r", "o/\x1b[2Jr"),
		"not UTF-8":           change("o/r", "o/\xff"),
		"local time":          change("07:00:00Z", "07:00:00+01:00"),
		"fraction":            change("07:00:00Z", "07:00:00.5Z"),
		"no such day":         change("11-29", "11-31"),
		"long value":          change("https://github.com/o/r", long),
		"long entry":          change("upstream https://github.com/o/r\n", "upstream "+long+"\nupstream "+long+"\n"),
		"digest is no digest": change("upstream https://github.com/o/r", "upstream-sha256 abc"),
		"digest of a commit":  change("old ", "old-sha256 "),
	} {
		if e, err := logbook.ParseEntry([]byte(text)); err == nil {
			t.Errorf("%s: read as %v", name, e)
		}
	}
	sum := sha256.Sum256([]byte(long))
	if _, err := logbook.ParseEntry([]byte(change("upstream https://github.com/o/r", "upstream-sha256 "+hex.EncodeToString(sum[:])))); err != nil {
		t.Errorf("long value as its digest: %v", err)
	}
}

// Two that say the same have one identity, whenever they saw it.
func TestIdentity(t *testing.T) {
	t.Parallel()
	later := strings.Replace(gone, "07:00:00", "08:00:00", 1)
	other := strings.Replace(gone, "tags/v1", "tags/v2", 1)
	if logbook.Identity([]byte(gone)) != logbook.Identity([]byte(later)) || logbook.Identity([]byte(gone)) == logbook.Identity([]byte(other)) {
		t.Error("the identity is not that of what is said")
	}
}

func FuzzParseEntry(f *testing.F) {
	f.Add([]byte(gone))
	f.Fuzz(func(t *testing.T, text []byte) {
		e, err := logbook.ParseEntry(text)
		if err == nil && string(e.Text()) != string(text) {
			t.Errorf("%q is written as %q", text, e.Text())
		}
	})
}

// Trees that grow by one leaf have the hashes and tiles that x/mod says, and go on from what was written.
func TestEdge(t *testing.T) {
	t.Parallel()
	const most = 70_000 // of which two levels are full
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		var out []tlog.Hash
		for _, i := range indexes {
			out = append(out, stored[i])
		}
		return out, nil
	})
	tiles := map[tlog.Tile][]byte{} // without width
	put := func(level int, n int64, data []byte) {
		tiles[tlog.Tile{H: 8, L: level, N: n}] = append([]byte(nil), data...)
	}
	open := func(x tlog.Tile) ([]byte, error) { x.W = 0; return tiles[x], nil }
	e := &logbook.Edge{}
	for n := range int64(most) {
		leaf := tlog.RecordHash([]byte{byte(n), byte(n >> 8), byte(n >> 16)})
		more, err := tlog.StoredHashesForRecordHash(n, leaf, reader)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, more...)
		e.Append(leaf, put)
		if n > 600 && n%997 != 0 && (n+1)%256 != 0 {
			continue
		}
		e.Partial(put)
		want, err := tlog.TreeHash(n+1, reader)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := e.Tree(); err != nil || got.Hash != want || got.N != n+1 {
			t.Fatalf("tree of %d: %v, %v; want %v", n+1, got, err, want)
		}
		if e, err = logbook.OpenEdge(n+1, open); err != nil {
			t.Fatal(err)
		}
	}
	e.Partial(put)
	for _, x := range logbook.NewTiles(0, most) {
		if !logbook.InTree(x, most) || x.L < 0 {
			continue
		}
		want, err := tlog.ReadTileData(x, reader)
		if got, _ := open(x); err != nil || len(got) < len(want) || string(got[:len(want)]) != string(want) {
			t.Errorf("tile %v differs: %v", x, err)
		}
	}
	for _, x := range []tlog.Tile{{H: 8, L: 0, N: 273, W: 113}, {H: 8, L: 0, N: 274, W: 1}, {H: 8, L: -1, N: 1 << 40, W: 256}, {H: 8, L: 2, N: 0, W: 2}, {H: 8, L: 9, N: 0, W: 1}} {
		if logbook.InTree(x, most) {
			t.Errorf("%v is in a tree of %d", x, most)
		}
	}
	if _, err := logbook.OpenEdge(5, func(tlog.Tile) ([]byte, error) { return make([]byte, 4*32), nil }); err == nil {
		t.Error("an edge is made of a tile that is too short")
	}
}

func TestCheckpoint(t *testing.T) {
	t.Parallel()
	key, err := logbook.NewSigner("mirror.example/log")
	if err != nil {
		t.Fatal(err)
	}
	again, err := logbook.ParseSigner(key.Secret + "\n")
	if err != nil || again.Public != key.Public {
		t.Fatalf("key read again: %v, %v", again.Public, err)
	}
	tree := tlog.Tree{N: 7, Hash: tlog.RecordHash([]byte("x"))}
	signed, err := key.Sign(tree)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := logbook.OpenCheckpoint(signed, logbook.Policy(key.Public)); err != nil || got != tree {
		t.Errorf("opened %v, %v", got, err)
	}
	other, err := logbook.NewSigner("mirror.example/log")
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func() ([]byte, []byte){
		"another key": func() ([]byte, []byte) { return signed, logbook.Policy(other.Public) },
		"another size": func() ([]byte, []byte) {
			return []byte(strings.Replace(string(signed), "\n7\n", "\n8\n", 1)), logbook.Policy(key.Public)
		},
		"another name": func() ([]byte, []byte) {
			return []byte(strings.Replace(string(signed), "mirror", "other", 1)), logbook.Policy(key.Public)
		},
		"cut":       func() ([]byte, []byte) { return signed[:len(signed)-10], logbook.Policy(key.Public) },
		"empty":     func() ([]byte, []byte) { return nil, logbook.Policy(key.Public) },
		"no policy": func() ([]byte, []byte) { return signed, nil },
	} {
		if tree, err := logbook.OpenCheckpoint(change()); err == nil {
			t.Errorf("%s: opened as %v", name, tree)
		}
	}
	for _, secret := range []string{"", "x", key.Public, key.Secret[:len(key.Secret)-4]} {
		if _, err := logbook.ParseSigner(secret); err == nil {
			t.Errorf("%q is read as a key", secret)
		} else if secret != "" && len(secret) > 1 && strings.Contains(err.Error(), secret) {
			t.Error("the error quotes the key")
		}
	}
	for _, name := range []string{"", "a b", "a+b", "a\nb", "a#b"} {
		if _, err := logbook.NewSigner(name); err == nil {
			t.Errorf("a log may be called %q", name)
		}
	}
}
