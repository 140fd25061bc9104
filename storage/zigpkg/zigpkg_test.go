package zigpkg

import (
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// v4Manifest is the manifest of the vectors V4 and V5, 108 bytes.
const v4Manifest = `.{
    .name = .foo,
    .version = "1.2.3",
    .fingerprint = 0x8c73652112345678,
    .paths = .{ "" },
}
`

// A tree holds the files of a package: content by path. A path that ends in @
// is a symlink, and what it holds is the target.
type tree map[string]string

// hash returns what Zig computes for the tree, reading its manifest if it has one.
func (tr tree) hash(t *testing.T) Hashes {
	t.Helper()
	var m *Manifest
	if src, ok := tr[ManifestName]; ok {
		var err error
		if m, err = ParseManifest([]byte(src)); err != nil {
			t.Fatalf("ParseManifest: %v", err)
		}
	}
	return Sum(m, tr.entries(t))
}

func (tr tree) entries(t *testing.T) []Entry {
	t.Helper()
	var entries []Entry
	for path, content := range tr {
		if link, ok := strings.CutSuffix(path, "@"); ok {
			entries = append(entries, Entry{Path: link, Hash: HashSymlink(link, content)})
			continue
		}
		hash, size, err := HashFile(path, strings.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, Entry{path, hash, size})
	}
	return entries
}

// The vectors were printed by real Zig.
func TestSum(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		tree tree
		want Hashes // an empty Legacy is not compared
	}{
		{
			"V1 naked",
			tree{"a.txt": "hello", "b/c.txt": "world"},
			Hashes{
				Hash:   "N-V-__8AAAoAAADGp8bdIAdYHy8tIxQg98g-HkXCLpVMejYf",
				Legacy: "1220c6a7c6dd2007581f2f2d231420f7c83e1e45c22e954c7a361f0b343daa9f0288",
				Size:   10,
			},
		},
		{
			"V2 one file",
			tree{"a.zig": "aaa"},
			Hashes{
				Hash:   "N-V-__8AAAMAAABcr-E1sk8PMfTOvpi9Hds_wwtndnHnR26_",
				Legacy: "12205cafe135b24f0f31f4cebe98bd1ddb3fc30b677671e7476ebf99e2d1e41179ca",
				Size:   3,
			},
		},
		{
			"V3 empty",
			tree{},
			Hashes{
				Hash:   "N-V-__8AAAAAAADjsMRCmPwcFJr79MiZb7kkJ65B5GSbk0yk",
				Legacy: "1220e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
			},
		},
		{
			"V4 manifest with fingerprint",
			tree{"src/a.zig": "aaa", ManifestName: v4Manifest},
			Hashes{
				Hash:   "foo-1.2.3-eFY0Em8AAABeV8ihTM5si41ADwJhcCOfBN0tkTNnrrTM",
				Legacy: "12205e57c8a14cce6c8b8d400f026170239f04dd2d913367aeb4ccca951a7695a139",
				Size:   111,
			},
		},
		{
			"V5 symlinks",
			tree{
				"src/a.zig": "aaa", ManifestName: v4Manifest,
				"out@": "../../../etc/passwd", "abs@": "/etc/passwd", "dang@": "nosuch",
			},
			Hashes{Hash: "foo-1.2.3-eFY0Em8AAACba926g7iNu49X3PQq6koXGAsqLl6LH5UH", Size: 111},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := tt.tree.hash(t)
			if got.Hash != tt.want.Hash {
				t.Errorf("Hash: got %q, want %q", got.Hash, tt.want.Hash)
			}
			if got.Legacy != tt.want.Legacy && tt.want.Legacy != "" {
				t.Errorf("Legacy: got %q, want %q", got.Legacy, tt.want.Legacy)
			}
			if got.Legacy != "1220"+hex.EncodeToString(got.Digest[:]) {
				t.Errorf("Digest: got %x, want that of %s", got.Digest, got.Legacy)
			}
			if got.Size != tt.want.Size {
				t.Errorf("Size: got %d, want %d", got.Size, tt.want.Size)
			}
		})
	}
}

func TestHashFile(t *testing.T) {
	t.Parallel()
	hash, size, err := HashFile("b/c.txt", strings.NewReader("world"))
	const want = "fd79120286fdb787d49ab6bf49c53d3691d1f0b4e0975a76aa2a904f43f1e958"
	if got := hex.EncodeToString(hash[:]); got != want || size != 5 || err != nil {
		t.Errorf("got %s, %d, %v, want %s, 5, nil", got, size, err, want)
	}
	broken := errors.New("broken")
	if _, _, err := HashFile("a", iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("broken reader: err = %v, want %v", err, broken)
	}
}

// V6, from Zig's own tests, and the saturated size.
func TestNewForm(t *testing.T) {
	t.Parallel()
	var digest [32]byte
	hex.Decode(digest[:], []byte("c7f571b7b4e76f3cdb877a7fddf977879dd386fa73579af79d1edb8f3ad9bd9f"))
	got := newForm("nasm", "2.16.1-3", 0xcafebabe, 10<<20, digest)
	if want := "nasm-2.16.1-3-vrr-ygAAoADH9XG3tOdvPNuHen_d-XeHndOG-nNXmved"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	atLimit := newForm("N", "V", 0xffff, 1<<32-1, digest)
	if got := newForm("N", "V", 0xffff, 1<<32, digest); got != atLimit {
		t.Errorf("size of 1<<32: got %s, want that of 1<<32-1, %s", got, atLimit)
	}
}

func TestSumWithoutNewForm(t *testing.T) {
	t.Parallel()
	got := tree{ManifestName: zon("name", `"not.an.identifier"`)}.hash(t)
	if got.Hash != "" || got.Legacy == "" {
		t.Errorf("got new form %q and legacy form %q, want only the latter", got.Hash, got.Legacy)
	}
}

func TestSumKeepsItsArguments(t *testing.T) {
	t.Parallel()
	m := &Manifest{Paths: []string{"b"}}
	entries := []Entry{{Path: "b"}, {Path: "a"}}
	before := slices.Clone(entries)
	Sum(m, entries)
	if !slices.Equal(entries, before) {
		t.Errorf("entries after Sum: got %v, want %v", entries, before)
	}
}

func TestIncludes(t *testing.T) {
	t.Parallel()
	files := []string{"a", "a-b", "a.b", "a/b", "a/b/c", "B", "src/x.zig", "src2"}
	tests := []struct {
		paths string
		want  []string
	}{
		{`""`, files},
		{`"."`, files},
		{`"./"`, files},
		{`"a/.."`, files},
		{`"a"`, []string{"a", "a/b", "a/b/c"}},
		{`"a/"`, []string{"a", "a/b", "a/b/c"}},
		{`"./a//b"`, []string{"a/b", "a/b/c"}},
		{`"x/../src", "B"`, []string{"B", "src/x.zig"}},
		{`"b"`, nil},
		{`"*"`, nil},
		{`"!a"`, nil},
		{`"/a"`, nil},
		{`"../a"`, nil},
		{`".."`, nil},
		{`"/"`, nil},
		{`"a/b/c", "a", "a"`, []string{"a", "a/b", "a/b/c"}},
	}
	for _, tt := range tests {
		m, err := ParseManifest([]byte(zon("paths", ".{"+tt.paths+"}")))
		if err != nil {
			t.Errorf("%s: %v", tt.paths, err)
			continue
		}
		got := slices.DeleteFunc(slices.Clone(files), func(f string) bool { return !m.Includes(f) })
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.paths, got, tt.want)
		}
	}
	if !(*Manifest)(nil).Includes("a") || !new(Manifest).Includes("a") {
		t.Error("without paths: got a file excluded, want every file included")
	}
}

func TestValidHash(t *testing.T) {
	t.Parallel()
	tail := strings.Repeat("A", 44)
	tests := []struct {
		name, hash string
		ok         bool
	}{
		{"legacy", "1220" + strings.Repeat("0f", 32), true},
		{"legacy, upper case", "1220" + strings.Repeat("0F", 32), false},
		{"legacy, short", "1220" + strings.Repeat("0f", 31), false},
		{"legacy, other function", "1320" + strings.Repeat("0f", 32), false},
		{"naked", "N-V-__8AAAoAAADGp8bdIAdYHy8tIxQg98g-HkXCLpVMejYf", true},
		{"named", "foo-1.2.3-eFY0Em8AAABeV8ihTM5si41ADwJhcCOfBN0tkTNnrrTM", true},
		{"dash in the version", "nasm-2.16.1-3-vrr-ygAAoADH9XG3tOdvPNuHen_d-XeHndOG-nNXmved", true},
		{"dashes in the tail", "dvui-0.4.0-dev-AQFJmayi2gAKE7FeJoF61v5U1IV9-SupoEcFutIZYpkC", true},
		{"longest", strings.Repeat("n", 32) + "-1.0.0-" + strings.Repeat("v", 26) + "-" + tail, true},
		{"long name", strings.Repeat("n", 33) + "-1.0.0-" + tail, false},
		{"long version", "n-1.0.0-" + strings.Repeat("v", 27) + "-" + tail, false},
		{"empty", "", false},
		{"tail only", tail, false},
		{"no name", "-1.0.0-" + tail, false},
		{"no version", "foo-" + tail, false},
		{"empty version", "foo--" + tail, false},
		{"no dash before the tail", "foo-1.0.0" + tail, false},
		{"version not canonical", "foo-1_0.0.0-" + tail, false},
		{"version not semantic", "foo-1.0-" + tail, false},
		{"version of a naked package", "foo-V-" + tail, false},
		{"name not an identifier", "a.b-1.0.0-" + tail, false},
		{"standard base64", "foo-1.0.0-+" + tail[1:], false},
		{"line end in the tail", "foo-1.0.0-\n" + tail[1:], false},
		{"padding", "foo-1.0.0-" + tail[1:] + "=", false},
		{"slash", "../1.0.0-" + tail, false},
	}
	for _, tt := range tests {
		if err := ValidHash(tt.hash); (err == nil) != tt.ok {
			t.Errorf("%s: ValidHash(%q): err = %v, want ok = %t", tt.name, tt.hash, err, tt.ok)
		}
	}
}
