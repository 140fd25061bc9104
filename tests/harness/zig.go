package harness

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage/storagetest"
)

// A Zig is one Zig program with a package cache of its own.
type Zig struct {
	Path    string
	Version string // as in "0.15.2"
	Cache   string // the global cache; the packages are in its folder p
	Env     []string

	t     testing.TB
	minor int // the 15 of 0.15.2
}

// Zigs returns the programs that PACKBASE_TEST_ZIGS lists, separated by
// colons, each with an empty package cache. Without it the test is skipped,
// or fails if CI is set.
func Zigs(t testing.TB) []*Zig {
	t.Helper()
	var zigs []*Zig
	for _, path := range filepath.SplitList(storagetest.Env(t, "PACKBASE_TEST_ZIGS")) {
		zigs = append(zigs, newZig(t, path))
	}
	return zigs
}

func newZig(t testing.TB, path string) *Zig {
	t.Helper()
	out, err := exec.Command(path, "version").Output()
	if err != nil {
		t.Fatalf("%s version: %v", path, err)
	}
	z := &Zig{Path: path, Version: strings.TrimSpace(string(out)), Cache: newZigCache(t), t: t}
	parts := strings.Split(z.Version, ".")
	if z.minor, err = strconv.Atoi(parts[min(1, len(parts)-1)]); err != nil {
		t.Fatalf("%s version: got %q, want three numbers", path, out)
	}
	return z
}

// For returns the same Zig, with an empty package cache, for a subtest.
func (z *Zig) For(t testing.TB) *Zig {
	t.Helper()
	return newZig(t, z.Path)
}

// newZigCache makes a global cache without packages. What Zig compiled for
// itself is shared with the user's cache: "zig fetch" of 0.17 is a program
// that takes a minute to compile. Both are on the same disk, as Zig renames
// files from one to the other.
func newZigCache(t testing.TB) string {
	t.Helper()
	users, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	shared := cmp.Or(os.Getenv("ZIG_GLOBAL_CACHE_DIR"), filepath.Join(users, "zig"))
	if err := os.MkdirAll(shared, 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(filepath.Dir(shared), "packbase-test-zig-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	// Zig 0.16 unpacks no zip into a cache that it has not used before.
	if err := os.Mkdir(filepath.Join(dir, "tmp"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"b", "h", "o", "z"} {
		err := os.MkdirAll(filepath.Join(shared, name), 0o755)
		if err := errors.Join(err, os.Symlink(filepath.Join(shared, name), filepath.Join(dir, name))); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Forget empties the package cache, and that of the project in dir.
func (z *Zig) Forget(project string) {
	z.t.Helper()
	for _, dir := range []string{filepath.Join(z.Cache, "p"), filepath.Join(project, "zig-pkg")} {
		if err := os.RemoveAll(dir); err != nil {
			z.t.Fatal(err)
		}
	}
}

// Run runs zig in the project and returns what it printed. An error has what
// it complained about.
func (z *Zig) Run(project string, args ...string) (string, error) {
	z.t.Helper()
	// Zig has no time limits of its own; the first run of 0.17 takes minutes.
	ctx, cancel := context.WithTimeout(z.t.Context(), 10*timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, z.Path, args...)
	cmd.Dir = project
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + project, "TMPDIR=" + os.TempDir(), "ZIG_GLOBAL_CACHE_DIR=" + z.Cache}
	cmd.Env = append(cmd.Env, z.Env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("zig %s %s: %w: %s", z.Version, strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// Fetch returns the hash that `zig fetch` prints for a URL.
func (z *Zig) Fetch(url string) (hash string, err error) {
	z.t.Helper()
	out, err := z.Run(z.Project("fetch", ""), "fetch", url)
	return strings.TrimSpace(out), err
}

// LegacyHash reports whether this Zig prints the hashes of up to 0.13.
func (z *Zig) LegacyHash() bool { return z.minor <= 13 }

// Hash returns the hash that this Zig should print for a release.
func (z *Zig) Hash(r wire.Tarball) string {
	if z.LegacyHash() {
		return r.Zig.LegacyHash
	}
	return r.Zig.Hash
}

// Manifest returns a build.zig.zon that this Zig accepts, of a package or a
// project, without dependencies.
func (z *Zig) Manifest(name, version string) string {
	if z.minor <= 13 {
		return fmt.Sprintf(".{\n    .name = %q,\n    .version = %q,\n    .paths = .{\"\"},\n    .dependencies = .{},\n}\n", name, version)
	}
	fingerprint := uint64(crc32.ChecksumIEEE([]byte(name)))<<32 | 0x12345678
	return fmt.Sprintf(".{\n    .name = .%s,\n    .version = %q,\n    .fingerprint = %#x,\n    .paths = .{\"\"},\n    .dependencies = .{},\n}\n",
		name, version, fingerprint)
}

// Package returns the files of a package for this Zig: a module of its own
// name in src/root.zig, which says text.
func (z *Zig) Package(name, version, text string) Files {
	return Files{
		"build.zig.zon": z.Manifest(name, version),
		"build.zig": "pub fn build(b: *@import(\"std\").Build) void {\n" +
			"    _ = b.addModule(\"" + name + "\", .{ .root_source_file = b.path(\"src/root.zig\") });\n}\n",
		"src/root.zig": fmt.Sprintf("pub const text = %q;\n", text),
	}
}

// Project makes a new project in a folder of its own and returns that. With
// uses, the name of a dependency to be saved, `zig build` copies that one's
// src/root.zig to zig-out/root.zig: it takes the dependency, and not much
// time.
func (z *Zig) Project(name, uses string) string {
	z.t.Helper()
	dir := z.t.TempDir()
	build := "pub fn build(b: *@import(\"std\").Build) void {\n    _ = b;\n}\n"
	if uses != "" {
		build = "pub fn build(b: *@import(\"std\").Build) void {\n" +
			"    const used = b.dependency(\"" + uses + "\", .{});\n" +
			"    b.getInstallStep().dependOn(&b.addInstallFile(used.path(\"src/root.zig\"), \"root.zig\").step);\n}\n"
	}
	for file, content := range map[string]string{"build.zig": build, "build.zig.zon": z.Manifest(name, "0.0.0")} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644); err != nil {
			z.t.Fatal(err)
		}
	}
	return dir
}
