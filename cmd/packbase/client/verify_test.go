package client

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/storage/zigcache"
)

// What a package in the cache names by paths is looked for within it, as where it is a tarball, and in the end found.
func TestDependenciesOf(t *testing.T) {
	t.Parallel()
	cache := zigcache.Cache{Dir: t.TempDir()}
	hash := "1220" + strings.Repeat("a", 64)
	manifest := func(deps string) string {
		return `.{ .name = "x", .version = "1.0.0", .paths = .{""}, .dependencies = .{ ` + deps + ` } }`
	}
	url := func(name string) string {
		return "." + name + ` = .{ .url = "https://example.org/` + name + `", .hash = "` + hash + `" }, `
	}
	paths := `.a = .{ .path = "a" }, .b = .{ .path = "b" }, .sub = .{ .path = "sub" }, .out = .{ .path = "../../out" }, .bad = .{ .path = "bad" }, `
	dir := cache.Folder(hash)
	for file, text := range map[string]string{
		filepath.Join(dir, "build.zig.zon"):           manifest(url("one") + paths),
		filepath.Join(dir, "sub", "build.zig.zon"):    manifest(url("two") + `.up = .{ .path = ".." }`),
		filepath.Join(dir, "bad", "build.zig.zon"):    "no manifest",
		filepath.Join(cache.Dir, "out/build.zig.zon"): manifest(url("three")),
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for _, link := range []string{"a", "b"} { // paths without end
		if err := os.Symlink(".", filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	deps, ok, err := dependenciesOf(t.Context(), cache, hash)
	var found []string
	for _, d := range deps {
		if d.URL != "" {
			found = append(found, d.Name)
		}
	}
	if err != nil || !ok || !slices.Equal(found, []string{"one", "two"}) {
		t.Errorf("got %q, %t, %v", found, ok, err)
	}
}
