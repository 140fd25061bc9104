package release

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/zigpkg"
)

const goodZon = ".{\n    .name = .foo,\n    .version = \"1.2.3\",\n    .fingerprint = 0x8c73652112345678,\n    .paths = .{ \"\" },\n}\n"

// A build.zig.zon that Zig does not read gives no hash. tests/zig_test.go holds
// the same against Zig.
func TestDescribe(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name          string
		files         map[string]string // a name with "@" is a symlink, with "&" a submodule
		hash, problem string            // their beginning
	}{
		{"none", map[string]string{"a.zig": ""}, "N-V-", ""},
		{"file", map[string]string{"build.zig.zon": goodZon}, "foo-1.2.3-", ""},
		{"symlink to a file", map[string]string{"build.zig.zon@": "real.zon", "real.zon": goodZon}, "foo-1.2.3-", ""},
		{"symlink to a symlink", map[string]string{"build.zig.zon@": "two", "two@": "d/real.zon", "d/real.zon": goodZon}, "foo-1.2.3-", ""},
		{"symlink through a symlink", map[string]string{"build.zig.zon@": "now/real.zon", "now@": "d", "d/real.zon": goodZon}, "foo-1.2.3-", ""},
		{"symlink to nothing", map[string]string{"build.zig.zon@": "nothing"}, "N-V-", ""},
		{"symlink into nothing", map[string]string{"build.zig.zon@": "no/thing"}, "N-V-", ""},
		{"symlink into a submodule", map[string]string{"build.zig.zon@": "sub/x", "sub&": ""}, "N-V-", ""},

		{"folder", map[string]string{"build.zig.zon/x": ""}, "", "build.zig.zon is a folder"},
		{"submodule", map[string]string{"build.zig.zon&": ""}, "", "build.zig.zon is a submodule"},
		{"symlink to a folder", map[string]string{"build.zig.zon@": "d", "d/x": ""}, "", "build.zig.zon is a folder"},
		{"symlink to the root", map[string]string{"build.zig.zon@": "."}, "", "build.zig.zon is a symlink"},
		{"symlink to a submodule", map[string]string{"build.zig.zon@": "sub", "sub&": ""}, "", "build.zig.zon is a submodule"},
		{"symlink to itself", map[string]string{"build.zig.zon@": "build.zig.zon"}, "", "build.zig.zon is a symlink"},
		{"symlink through a file", map[string]string{"build.zig.zon@": "a.zig/x", "a.zig": ""}, "", "build.zig.zon is a symlink"},
	}
	for _, tt := range tests {
		objects, tree := listing(t, tt.files)
		zig, err := newZigFiles().describe(objects, tree)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(zig.Hash, tt.hash) || (zig.Hash == "") != (tt.hash == "") || (zig.LegacyHash == "") != (tt.hash == "") {
			t.Errorf("%s: hash = %q, legacy %q, want %s", tt.name, zig.Hash, zig.LegacyHash, tt.hash)
		}
		if !strings.HasPrefix(zig.Problem, tt.problem) || (zig.Problem == "") != (tt.problem == "") {
			t.Errorf("%s: problem = %q, want %q", tt.name, zig.Problem, tt.problem)
		}
	}
}

// A manifest of an older Zig has no fingerprint, and says so by saying nothing.
func TestFingerprint(t *testing.T) {
	for zon, want := range map[string]string{
		goodZon: "0x8c73652112345678",
		".{ .name = \"foo\", .version = \"1.2.3\", .paths = .{\"\"} }": "",
	} {
		objects, tree := listing(t, map[string]string{"build.zig.zon": zon})
		zig, err := newZigFiles().describe(objects, tree)
		if err != nil || zig.Fingerprint != want {
			t.Errorf("%.30q: fingerprint %q, %v; want %q", zon, zig.Fingerprint, err, want)
		}
	}
}

// What is remembered of one tag's files is right for the next: a link and a file of the same bytes differ.
func TestZigFilesOfSeveralTags(t *testing.T) {
	t.Parallel()
	trees := []map[string]string{{"a": "payload"}, {"a@": "payload"}, {"b": "payload"}, {"a": "payload", "c": ""}, {"a@": "payload", "c": ""}, {"a": "payload"}}
	shared := &zigFiles{known: map[zigFileKey]zigpkg.FileHash{}}
	for i, files := range trees {
		objects, tree := listing(t, files)
		got, err := shared.describe(objects, tree)
		if err != nil {
			t.Fatal(err)
		}
		want, err := newZigFiles().describe(objects, tree)
		if err != nil {
			t.Fatal(err)
		}
		if got.Hash != want.Hash || got.LegacyHash != want.LegacyHash {
			t.Errorf("tag %d: hash = %s after other tags, want %s", i, got.Hash, want.Hash)
		}
	}
}

// Where a tree cannot be unpacked is said, for a few of the names.
func TestClashWarnings(t *testing.T) {
	t.Parallel()
	objects, tree := listing(t, map[string]string{"A": "", "a": "", "B": "", "b": "", "C": "", "c": "", "D": "", "d": "", "E": "", "e": ""})
	zig, err := newZigFiles().describe(objects, tree)
	if err != nil {
		t.Fatal(err)
	}
	if zig.Hash == "" || len(zig.Warnings) != 4 || !strings.HasPrefix(zig.Warnings[0], `"A" and "a" are one path`) || zig.Warnings[3] != "and 2 more such pairs" {
		t.Errorf("hash = %q, warnings = %q", zig.Hash, zig.Warnings)
	}
}

// That no Zig fetches a tree by Git is said.
func TestModeWarnings(t *testing.T) {
	t.Parallel()
	for mode, want := range map[uint32]string{0o100664: `"a" has the mode 100664, for which`, gitpack.ModeFile: "", gitpack.ModeExecutable: "", gitpack.ModeSymlink: ""} {
		objects, tree := listing(t, map[string]string{"a": "b"})
		tree.Files[0].Mode = mode
		zig, err := newZigFiles().describe(objects, tree)
		if got := strings.Join(zig.Warnings, "\n"); err != nil || (got == "") != (want == "") || !strings.HasPrefix(got, want) {
			t.Errorf("mode %o: warnings = %q, %v, want %q", mode, got, err, want)
		}
	}
}

// listing stores files and returns their tree.
func listing(t *testing.T, files map[string]string) (*gitpack.Objects, gitpack.Listing) {
	t.Helper()
	spool, err := os.Create(filepath.Join(t.TempDir(), "spool"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { spool.Close() })
	objects := gitpack.NewObjects(spool)
	var all []gitpack.File
	for name, content := range files {
		f := gitpack.File{Path: strings.TrimRight(name, "@&"), Mode: gitpack.ModeFile}
		if f.OID, err = objects.Add(gitpack.Blob, int64(len(content)), strings.NewReader(content)); err != nil {
			t.Fatal(err)
		}
		switch name[len(name)-1] {
		case '@':
			f.Mode = gitpack.ModeSymlink
		case '&':
			f.Mode = gitpack.ModeSubmodule
		}
		all = append(all, f)
	}
	root, err := objects.WriteTree(all, nil)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := objects.Files(t.Context(), root, gitpack.DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	return objects, tree
}
