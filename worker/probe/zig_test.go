package probe

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/worker/confine"
)

// The test binary is the child that becomes zig.
func TestMain(m *testing.M) {
	if os.Getenv("PACKBASE_TEST_CONFINE") == "" {
		os.Exit(m.Run())
	}
	if err := confine.Exec(context.Background(), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// What zig prints is shown to everybody: where it ran is nobody's business.
func TestWithoutFolder(t *testing.T) {
	t.Parallel()
	const printed = "/tmp/packbase-zig-17/cache/p/a/build.zig.zon:3:1: error: unable to open '/private/tmp/packbase-zig-17/x'\n"
	want := "cache/p/a/build.zig.zon:3:1: error: unable to open 'x'"
	if got := withoutFolder(printed, "/tmp/packbase-zig-17", "/private/tmp/packbase-zig-17"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A zig that is not there is said to be the setting's fault, and not where it was looked for.
func TestZigMissing(t *testing.T) {
	t.Parallel()
	for _, call := range []func(p *Prober) error{
		func(p *Prober) error { return p.copyCache(t.Context(), t.TempDir()) },
		func(p *Prober) error { _, err := p.zig(t.Context(), t.TempDir(), 0, 0, "fetch"); return err },
	} {
		got := said(call(&Prober{Zig: filepath.Join(t.TempDir(), "zig"), ZigCache: t.TempDir()}))
		if want := "the zig that PACKBASE_ZIG names cannot be used: no such file or directory"; got != want {
			t.Errorf("said %q, want %q", got, want)
		}
	}
}

// A zig has its own files to read, whatever else lies in the folder that it is in.
func TestZigReadsItsOwn(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	for name, text := range map[string]string{"zig": "#!/bin/sh\nexec cat \"$0.key\" \"${0%zig}lib/std.zig\"\n", "zig.key": "a secret", "lib/std.zig": "its library"} {
		name = filepath.Join(home, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	p := &Prober{Zig: filepath.Join(home, "zig"), Child: confined}
	out, err := p.zig(t.Context(), t.TempDir(), 0, 0)
	if strings.Contains(out, "a secret") || !strings.Contains(out, "its library") {
		t.Errorf("it read %q, %v", out, err)
	}
}

// No manifest makes zig take the machine's memory: one whose many errors each
// quote all of it is refused, and the longest that zig reads is not.
func TestZigMemory(t *testing.T) {
	zigs := filepath.SplitList(os.Getenv("PACKBASE_TEST_ZIGS"))
	if len(zigs) == 0 {
		t.Skip("PACKBASE_TEST_ZIGS is not set")
	}
	manifest := func(version, paths, dependencies string) string {
		name := `"a"`
		if version >= "0.14" {
			name = ".a, .fingerprint = 0xe8b7be4300000001"
		}
		return ".{ .name = " + name + `, .version = "1.0.0", .paths = .{"", ` + paths + "}, .dependencies = .{" + dependencies + "} }"
	}
	ran := false
	var faults, paths strings.Builder
	for i := range 45_000 {
		fmt.Fprintf(&faults, ".d%d = .{ .x = 1 }, ", i)
	}
	for i := range 700_000 {
		fmt.Fprintf(&paths, "\"p%07d\",\n", i)
	}
	for _, path := range zigs {
		version := filepath.Base(filepath.Dir(path))
		if version >= "0.17" && os.Getenv("PACKBASE_TEST_ZIG_COMPILES") == "" {
			continue // it compiles its fetcher first, for minutes
		}
		ran = true
		cache := t.TempDir()
		for name, zon := range map[string]string{"errors": manifest(version, "", faults.String()), "paths": manifest(version, paths.String(), "")} {
			t.Run(version+"/"+name, func(t *testing.T) {
				if out, err := fetchFolder(t, path, cache, zon); (err == nil) != (name == "paths") {
					t.Errorf("zig says %.200q, %v", out, err)
				}
			})
		}
	}
	if !ran {
		t.Skip("all of PACKBASE_TEST_ZIGS compile first: PACKBASE_TEST_ZIG_COMPILES has them run")
	}
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &used); err != nil {
		t.Fatal(err)
	}
	if most := zigMemory(content{}) >> 10; used.Maxrss > 2*most || used.Maxrss < most {
		t.Errorf("a zig took %d KiB of memory, want that it was stopped soon after %d", used.Maxrss, most)
	}
}

// fetchFolder has zig fetch a folder with a manifest, as a probe would. What zig compiles for itself is kept in cache.
func fetchFolder(t *testing.T, path, cache, zon string) (string, error) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	disk, err := blob.OpenDisk(t.TempDir())
	must(err)
	staging, err := blob.OpenStaging(disk, "")
	must(err)
	p := &Prober{Zig: path, ZigCache: cache, Staging: staging, Child: confined}
	dir, remove, err := p.zigDir()
	must(err)
	defer remove()
	must(os.Mkdir(filepath.Join(dir, "package"), 0o700))
	must(os.WriteFile(filepath.Join(dir, "package", "build.zig.zon"), []byte(zon), 0o600))
	must(p.copyCache(t.Context(), filepath.Join(dir, "cache")))
	kept, err := filepath.Glob(filepath.Join(cache, "zig-*", "*"))
	must(err)
	copied, err := filepath.Glob(filepath.Join(dir, "cache", "*"))
	must(err)
	if len(copied) != len(kept) {
		t.Errorf("of what zig compiled, %q, the probe has %q", kept, copied)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	return p.zig(ctx, dir, 0, zigMemory(content{}), "fetch", "package")
}

// confined is the child that becomes zig.
func confined(ctx context.Context, _ string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Env = []string{"PACKBASE_TEST_CONFINE=1"}
	return cmd
}

// A probe says what the Git interface said, and takes no other answer than 200.
func TestAsk(t *testing.T) {
	t.Parallel()
	p := &Prober{Git: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprint(w, "who asks: ", r.RemoteAddr)
	})}
	for method, want := range map[string][2]string{
		http.MethodGet:  {"who asks: probe", ""},
		http.MethodPost: {"", "status 503, who asks: probe"},
	} {
		var body strings.Builder
		said := ""
		if err := p.ask(t.Context(), &body, method, "/git/hello/git-upload-pack", "0000"); err != nil {
			said = err.Error()
		}
		if got := [2]string{body.String(), said}; got != want {
			t.Errorf("%s: %q, want %q", method, got, want)
		}
	}
}
