package project

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func zon(deps string) string {
	return ".{\n    .name = .p,\n    .version = \"0.0.0\",\n    .fingerprint = 0x82079eb112345678,\n    .paths = .{\"\"},\n    .dependencies = .{" + deps + "},\n}\n"
}

func TestManifests(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{
		"app/build.zig.zon":        zon(`.a = .{ .path = "libs/a" }, .c = .{ .path = "../c" }, .bare = .{ .path = "libs/bare" }`),
		"app/libs/a/build.zig.zon": zon(`.root = .{ .path = "../.." }, .c = .{ .path = "../../../c/" }`),
		"app/libs/bare/build.zig":  "",
		"c/build.zig.zon":          zon(""),
	})
	all, err := Manifests(filepath.Join(dir, "app"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range all {
		got = append(got, m.File)
	}
	if want := []string{"build.zig.zon", "libs/a/build.zig.zon", "../c/build.zig.zon"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestManifestsRefuses(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{
		"bad/build.zig.zon":   zon(`.a = .{ .path = "a" }`),
		"bad/a/build.zig.zon": ".{\n    .name = ,\n}\n",
		"empty/build.zig":     "",
	})
	for folder, want := range map[string]string{"bad": "a/build.zig.zon:2:13: ", "empty": "there is no build.zig.zon", "nosuch": "there is no build.zig.zon"} {
		if _, err := Manifests(filepath.Join(dir, folder)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: err = %v, want %q", folder, err, want)
		}
	}
}

func TestReadsArchives(t *testing.T) {
	t.Parallel()
	for version, want := range map[string][2]bool{
		"0.13.0": {false, true}, "0.15.2": {false, true}, "0.16.0": {true, true}, "0.17.0-dev.1428+abc": {true, true}, "1.0.0": {true, true}, "": {true, false},
	} {
		if archives, known := ReadsArchives(version); [2]bool{archives, known} != want {
			t.Errorf("ReadsArchives(%q) = %v, %v, want %v", version, archives, known, want)
		}
	}
}

// What is no file is not waited for.
func TestManifestIsAPipe(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{"build.zig.zon": zon(`.a = .{ .path = "a" }`), "a/build.zig": ""})
	pipe := filepath.Join(dir, "a", "build.zig.zon")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() {
		_, err := Manifests(dir)
		read <- err
	}()
	select {
	case err := <-read:
		if err == nil || !strings.Contains(err.Error(), pipe+": it is no regular file") {
			t.Errorf("%v, want that %s is no regular file", err, pipe)
		}
	case <-time.After(time.Minute):
		t.Error("the pipe is waited for")
	}
}
