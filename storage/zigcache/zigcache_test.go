package zigcache

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/klauspost/compress/gzip"

	"github.com/francescobianco/packbase/storage/archive"
)

const zon = ".{\n    .name = .foo,\n    .version = \"1.2.3\",\n    .fingerprint = 0x8c73652112345678,\n    .paths = .{ \"src\", \"build.zig.zon\" },\n}\n"

func tarball(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	w := tar.NewWriter(z)
	for name, text := range files {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(text)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, text)
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func hashes(t *testing.T, b []byte) (hash, legacy string) {
	t.Helper()
	scratch, err := os.Create(filepath.Join(t.TempDir(), "scratch"))
	if err != nil {
		t.Fatal(err)
	}
	defer scratch.Close()
	p, err := archive.Unpack(t.Context(), bytes.NewReader(b), int64(len(b)), archive.TarGz, scratch)
	if err != nil {
		t.Fatal(err)
	}
	_, sum, err := p.Describe()
	if err != nil {
		t.Fatal(err)
	}
	return sum.Hash, sum.Legacy
}

func put(t *testing.T, c Cache, hash string, b []byte) error {
	t.Helper()
	return c.Put(t.Context(), hash, bytes.NewReader(b), int64(len(b)))
}

func TestPut(t *testing.T) {
	t.Parallel()
	b := tarball(t, map[string]string{"x/build.zig.zon": zon, "x/src/run.sh": "#!/bin/sh\n", "x/src/a.zig": "aaa", "x/left/out": "no"})
	hash, legacy := hashes(t, b)
	c := Cache{Dir: t.TempDir(), Folders: true, Archives: true}
	for _, h := range []string{hash, legacy} {
		if c.Has(h) {
			t.Fatalf("Has(%s) in an empty cache", h)
		}
		if err := put(t, c, h, b); err != nil {
			t.Fatal(err)
		}
		if !c.Has(h) {
			t.Errorf("Has(%s) = false after Put", h)
		}
	}
	got := map[string]fs.FileMode{}
	err := fs.WalkDir(os.DirFS(filepath.Join(c.Dir, "p")), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			info, err := d.Info()
			got[name] = info.Mode()
			return err
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]fs.FileMode{}
	for _, h := range []string{hash, legacy} {
		want[h+".tar.gz"], want[h+"/build.zig.zon"], want[h+"/src/a.zig"], want[h+"/src/run.sh"] = 0o644, 0o644, 0o644, 0o755
	}
	for name, mode := range want {
		if got[name] != mode {
			t.Errorf("%s: mode %v, want %v", name, got[name], mode)
		}
	}
	if len(got) != len(want) {
		t.Errorf("got %d files, want %d: %v", len(got), len(want), got)
	}
	if left, _ := os.ReadDir(filepath.Join(c.Dir, "tmp")); len(left) > 0 {
		t.Errorf("left in tmp: %v", left)
	}
}

// What is there stays, and what is refused leaves nothing.
func TestPutRefuses(t *testing.T) {
	t.Parallel()
	b := tarball(t, map[string]string{"build.zig.zon": zon, "src/a.zig": "aaa"})
	hash, _ := hashes(t, b)
	c := Cache{Dir: t.TempDir(), Folders: true, Archives: true}
	other := tarball(t, map[string]string{"build.zig.zon": zon, "src/a.zig": "bbb"})
	for name, tt := range map[string]struct {
		hash string
		body []byte
		want error // nil for any
	}{
		"other files":  {hash, other, ErrMismatch},
		"cut":          {hash, b[:len(b)-20], archive.ErrUnfit},
		"path as hash": {"../../x", b, nil},
	} {
		if err := put(t, c, tt.hash, tt.body); err == nil || tt.want != nil && !errors.Is(err, tt.want) {
			t.Errorf("%s: err = %v, want %v", name, err, tt.want)
		}
		if c.Has(hash) {
			t.Errorf("%s: something was stored", name)
		}
	}
	if err := os.MkdirAll(filepath.Join(c.Dir, "p", hash), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := put(t, c, hash, b); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(filepath.Join(c.Dir, "p", hash)); len(left) > 0 {
		t.Errorf("a folder that was there has now %v", left)
	}
}

// What has no manifest can be checked as what has one.
func TestCheck(t *testing.T) {
	t.Parallel()
	const deps = ".{ .name = .foo, .version = \"1.2.3\", .fingerprint = 0x8c73652112345678, .paths = .{\"\"}, .dependencies = .{ .a = .{ .path = \"a\" } } }"
	for text, want := range map[string]int{"": 0, zon: 0, deps: 1} {
		files := map[string]string{"x/src/a.zig": "aaa"}
		if text != "" {
			files["x/build.zig.zon"] = text
		}
		b := tarball(t, files)
		hash, legacy := hashes(t, b)
		for _, h := range []string{hash, legacy} {
			if got, err := Check(t.Context(), h, bytes.NewReader(b), int64(len(b))); err != nil || len(got) != want {
				t.Errorf("%s: %d dependencies, %v, want %d", h, len(got), err, want)
			}
		}
		if _, err := Check(t.Context(), "1220"+hash[:4], bytes.NewReader(b), int64(len(b))); !errors.Is(err, ErrMismatch) {
			t.Errorf("another hash: %v, want ErrMismatch", err)
		}
	}
}

// What lies where a proof should is read to a limit, and not waited for.
func TestProof(t *testing.T) {
	t.Parallel()
	b := tarball(t, map[string]string{"x/src/a.zig": "aaa"})
	hash, _ := hashes(t, b)
	c := Cache{Dir: t.TempDir()}
	if err := c.PutProof(hash, []byte("proof")); err != nil {
		t.Fatal(err)
	}
	if proof, err := c.Proof(hash); err != nil || string(proof) != "proof" {
		t.Errorf("got %q, %v", proof, err)
	}
	for name, place := range map[string]func(string) error{
		"pipe":  func(to string) error { return syscall.Mkfifo(to, 0o600) },
		"large": func(to string) error { return errors.Join(os.WriteFile(to, nil, 0o600), os.Truncate(to, 8<<30)) },
		"zeros": func(to string) error { return os.Symlink("/dev/zero", to) },
	} {
		if err := errors.Join(os.Remove(c.proof(hash)), place(c.proof(hash))); err != nil {
			t.Fatal(err)
		}
		if proof, err := c.Proof(hash); err == nil {
			t.Errorf("%s: got %d bytes, want an error", name, len(proof))
		}
	}
}
