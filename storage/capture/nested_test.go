package capture

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/storage/zigpkg"
)

// tarballOf returns a tar.gz of files, by path.
func tarballOf(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	w := tar.NewWriter(zipped)
	for file, text := range files {
		if err := w.WriteHeader(&tar.Header{Name: file, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), zipped.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zonOf(deps ...string) string {
	return `.{ .name = "p", .version = "0.0.0", .paths = .{""}, .dependencies = .{` + strings.Join(deps, ",") + `} }`
}

// What a package needs is also what the packages within it need, wherever
// these lie, each once, and however its tarball is wrapped.
func TestNestedDependencies(t *testing.T) {
	t.Parallel()
	url := func(name string) string {
		return fmt.Sprintf(`.%s = .{ .url = "https://example.org/%[1]s.tar.gz", .hash = "1220%s" }`, name, strings.Repeat(name, 64))
	}
	local := func(name, path string) string { return fmt.Sprintf(`.%s = .{ .path = %q }`, name, path) }
	files := map[string]string{
		"build.zig.zon":            zonOf(url("a"), local("x", "libs/x"), local("out", "../../out"), local("none", "none")),
		"libs/x/build.zig.zon":     zonOf(url("b"), local("y", "../y")),
		"libs/y/build.zig.zon":     zonOf(url("c"), local("x", "../x"), local("bad", "../bad")),
		"libs/bad/build.zig.zon":   "no manifest",
		"libs/other/build.zig.zon": zonOf(url("d")),
		"src/main.zig":             "",
	}
	wrapped := map[string]string{}
	for file, text := range files {
		wrapped["p-1.0/"+file] = text
	}
	root, err := zigpkg.ParseManifest([]byte(files["build.zig.zon"]))
	if err != nil {
		t.Fatal(err)
	}
	for form, files := range map[string]map[string]string{"flat": files, "wrapped": wrapped} {
		opened := 0
		tarball := tarballOf(t, files)
		r := NewReader(func(context.Context, string) (io.ReadCloser, error) {
			opened++
			return io.NopCloser(bytes.NewReader(tarball)), nil
		})
		for range 2 {
			deps, err := r.Dependencies(t.Context(), "digest", root.Dependencies)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, d := range deps {
				if d.URL != "" {
					got = append(got, d.Name)
				}
			}
			if !slices.Equal(got, []string{"a", "b", "c"}) {
				t.Errorf("%s: %v, want a, b, c", form, got)
			}
		}
		if opened != 1 {
			t.Errorf("%s: read %d times", form, opened)
		}
	}
}

func TestNestedDependenciesAreBounded(t *testing.T) {
	t.Parallel()
	files := map[string]string{"build.zig.zon": zonOf(`.x = .{ .path = "x" }`)}
	for i := range 3 {
		files[fmt.Sprint(i, "/build.zig.zon")] = strings.Repeat(" ", maxNested/2)
	}
	tarball := tarballOf(t, files)
	r := NewReader(func(context.Context, string) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(tarball)), nil
	})
	if _, err := r.Dependencies(t.Context(), "digest", []zigpkg.Dependency{{Name: "x", Path: "x"}}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("err = %v, want ErrTooLarge", err)
	}
}
