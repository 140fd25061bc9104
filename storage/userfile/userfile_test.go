package userfile_test

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/francescobianco/packbase/storage/userfile"
)

func TestRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(at("file"), []byte("12345678"), 0o600))
	must(os.Symlink("file", at("link")))
	must(syscall.Mkfifo(at("pipe"), 0o600))
	must(os.Symlink("pipe", at("link to a pipe")))
	l, err := net.Listen("unix", at("socket"))
	must(err)
	defer l.Close()
	for name, problem := range map[string]string{
		at("file"): "", at("link"): "", "/dev/null": "",
		at("pipe"): "no regular file", at("link to a pipe"): "no regular file", at("socket"): "no such device", dir: "is a directory", "/dev": "is a directory",
		"/dev/zero": "more than 8 bytes", "/proc/self/status": "more than 8 bytes",
	} {
		b, err := userfile.Read(name, 8)
		if (err == nil) != (problem == "") || err != nil && !strings.Contains(err.Error(), problem) {
			t.Errorf("%s: %q, %v; want an error with %q", name, b, err, problem)
		}
	}
	if _, err := userfile.Open(at("nothing")); !os.IsNotExist(err) {
		t.Errorf("err = %v, want %v", err, fs.ErrNotExist)
	}

	must(os.WriteFile(at("large"), nil, 0o600))
	must(os.Truncate(at("large"), 1<<40))
	allocated := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := userfile.Read(at("large"), 8<<20); err == nil || !strings.Contains(err.Error(), "more than") {
				b.Fatal(err)
			}
		}
	})
	if got := allocated.AllocedBytesPerOp(); got > 64<<10 {
		t.Errorf("a file that is too large takes %d bytes to refuse", got)
	}

	files := userfile.Folder{Dir: dir, Most: 8}
	if b, err := fs.ReadFile(files, "file"); string(b) != "12345678" || err != nil {
		t.Errorf("file in a folder: %q, %v", b, err)
	}
	for _, name := range []string{"pipe", ".", "../" + filepath.Base(dir) + "/file"} {
		if _, err := fs.ReadFile(files, name); err == nil {
			t.Errorf("%s in a folder was read", name)
		}
		if _, err := files.Open(name); err == nil {
			t.Errorf("%s in a folder was opened", name)
		}
	}

	r, w, err := os.Pipe()
	must(err)
	defer r.Close()
	go func() {
		_, _ = w.WriteString("given")
		w.Close()
	}()
	if b, err := userfile.Read(fmt.Sprintf("/dev/fd/%d", r.Fd()), 8); string(b) != "given" || err != nil {
		t.Errorf("a pipe that the shell gives: %q, %v", b, err)
	}
}
