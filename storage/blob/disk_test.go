package blob_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/blob/blobtest"
)

func TestDisk(t *testing.T) {
	t.Parallel()
	blobtest.Run(t, func(t *testing.T) blobtest.Fixture {
		dir := t.TempDir()
		return blobtest.Fixture{Store: openDisk(t, dir), Path: diskPath(dir), Big: 1 << 20}
	})
}

func openDisk(t testing.TB, dir string) *blob.Disk {
	t.Helper()
	d, err := blob.OpenDisk(dir)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func diskPath(dir string) func(string) string {
	return func(digest string) string { return filepath.Join(dir, "blobs", digest[:2], digest) }
}

func digestOf(r io.Reader) string {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return err.Error()
	}
	return hex.EncodeToString(h.Sum(nil))
}

func newStage(t *testing.T, s blob.Store, dir string) *blob.Stage {
	t.Helper()
	staging, err := blob.OpenStaging(s, dir)
	if err != nil {
		t.Fatal(err)
	}
	stage, err := staging.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stage.Close() })
	return stage
}

// storeDir returns a folder for a child's store, with a folder outside of its
// staging.
func storeDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "outside"), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func checkNoStage(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "staging"))
	if err != nil || len(entries) > 0 {
		t.Errorf("left in staging: %v, %v", entries, err)
	}
}

// A staged file becomes the blob; any other is copied, and may change later.
func TestDiskLinksStagedFilesOnly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := openDisk(t, dir)
	stage := newStage(t, d, "unused")
	for name, from := range map[string]string{"staged": stage.Dir, "outside": t.TempDir()} {
		b := []byte(name)
		src := writeFile(from, b)
		defer src.Close()
		if err := d.Put(t.Context(), blobtest.Digest(b), src); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		was, err := src.Stat()
		if err != nil {
			t.Fatal(err)
		}
		stored, err := os.Lstat(diskPath(dir)(blobtest.Digest(b)))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := os.SameFile(was, stored), name == "staged"; got != want {
			t.Errorf("%s: linked = %v, want %v", name, got, want)
		}
		if stored.Mode() != 0o444 {
			t.Errorf("%s: mode = %v, want read-only", name, stored.Mode())
		}
	}
	if err := stage.Close(); err != nil {
		t.Error(err)
	}
	checkNoStage(t, dir)
}

// CR-15: what is no regular file is refused, and Put puts it right.
func TestDiskRefusesOtherFiles(t *testing.T) {
	t.Parallel()
	openedBothWays(t, testRefusesOtherFiles)
}

// openedBothWays runs a test with and without openat2(2).
func openedBothWays(t *testing.T, test func(t *testing.T, dir string, d *blob.Disk)) {
	t.Run("openat2", func(t *testing.T) {
		dir := t.TempDir()
		test(t, dir, openDisk(t, dir))
	})
	t.Run("without", func(t *testing.T) {
		dir := t.TempDir()
		test(t, dir, openDisk(t, dir).WithoutOpenat2())
	})
}

func testRefusesOtherFiles(t *testing.T, dir string, d *blob.Disk) {
	good := []byte("good")
	digest := blobtest.Put(t, d, good)
	other := blobtest.Put(t, d, []byte("other"))
	path := diskPath(dir)(digest)
	tests := []struct {
		name string
		make func() error
	}{
		{"link to a file outside", func() error { return os.Symlink("/etc/passwd", path) }},
		{"link to another blob", func() error { return os.Symlink("../"+other[:2]+"/"+other, path) }},
		{"link to itself", func() error { return os.Symlink(digest, path) }},
		{"folder", func() error { return os.Mkdir(path, 0o755) }},
		{"fifo", func() error { return syscall.Mkfifo(path, 0o644) }},
	}
	for _, tt := range tests {
		if err := errors.Join(os.Remove(path), tt.make()); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Open(t.Context(), digest); !errors.Is(err, blob.ErrMismatch) {
			t.Errorf("%s: Open: err = %v, want ErrMismatch", tt.name, err)
		}
		if _, err := d.Stat(t.Context(), digest); !errors.Is(err, blob.ErrMismatch) {
			t.Errorf("%s: Stat: err = %v, want ErrMismatch", tt.name, err)
		}
		if infos := blobtest.List(t, d); len(infos) != 1 || infos[0].Digest != other {
			t.Errorf("%s: List = %v, want the other blob only", tt.name, infos)
		}
		blobtest.Put(t, d, good)
		if got := blobtest.Read(t, d, digest); !bytes.Equal(got, good) {
			t.Errorf("%s: after Put: read %q", tt.name, got)
		}
	}
}

func TestDiskRefusesFolderOutside(t *testing.T) {
	t.Parallel()
	openedBothWays(t, testRefusesFolderOutside)
}

func testRefusesFolderOutside(t *testing.T, dir string, d *blob.Disk) {
	outside := t.TempDir()
	b := []byte("content")
	digest := blobtest.Digest(b)
	if err := os.Symlink(outside, filepath.Dir(diskPath(dir)(digest))); err != nil {
		t.Fatal(err)
	}
	if err := d.Put(t.Context(), digest, blobtest.File(t, b)); err == nil {
		t.Error("Put through a link that leaves the store: no error")
	}
	if err := os.WriteFile(filepath.Join(outside, digest), b, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Open(t.Context(), digest); err == nil {
		t.Error("Open through a link that leaves the store: no error")
	}
}

// A pipe in the place of a folder is not waited for.
func TestDiskIsNoPipe(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := blob.ReadDisk(pipe); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("err = %v", err)
	}
}

// IM-09: processes put right and wrong bytes under the same digests.
func TestDiskProcessesRace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	openDisk(t, dir)
	type run struct {
		cmd  *exec.Cmd
		out  bytes.Buffer
		want string
	}
	var runs []*run
	for i := range 4 {
		r := &run{cmd: child(t, "race", dir), want: "ok"}
		if i%2 == 1 {
			r.cmd.Env = append(r.cmd.Env, "BLOB_TEST_WRONG=1")
			r.want = "mismatch"
		}
		r.cmd.Stdout, r.cmd.Stderr = &r.out, os.Stderr
		if err := r.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		runs = append(runs, r)
	}
	for i, r := range runs {
		if err := r.cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		if got, want := r.out.String(), strings.Repeat(r.want+"\n", 100); got != want {
			t.Errorf("process %d: not all %q: %q", i, r.want, got)
		}
	}
	d := openDisk(t, dir)
	infos := blobtest.List(t, d)
	if len(infos) != 100 {
		t.Errorf("%d blobs, want 100", len(infos))
	}
	for _, info := range infos {
		if err := blob.Verify(t.Context(), d, info.Digest); err != nil {
			t.Error(err)
		}
	}
	checkNoStage(t, dir)
}

// A killed process leaves whole blobs, all that it said were durable, and
// stages that Sweep takes.
func TestDiskKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := openDisk(t, dir)
	for i := range 10 {
		cmd := child(t, "loop", dir)
		cmd.Env = append(cmd.Env, "TMPDIR="+t.TempDir())
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var said []string
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			said = append(said, lines.Text())
			if len(said) == 1 {
				// Somewhere within the puts that follow.
				time.AfterFunc(time.Duration(i)*700*time.Microsecond, func() { cmd.Process.Kill() })
			}
		}
		cmd.Wait()
		for _, digest := range said {
			if err := blob.Verify(t.Context(), d, digest); err != nil {
				t.Errorf("said to be durable: %v", err)
			}
		}
	}
	for _, info := range blobtest.List(t, d) {
		if err := blob.Verify(t.Context(), d, info.Digest); err != nil {
			t.Error(err)
		}
	}
	if err := d.Sweep(t.Context(), 0); err != nil {
		t.Error(err)
	}
	checkNoStage(t, dir)
}

func TestSweepStaging(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := openDisk(t, dir)
	live := newStage(t, d, "")
	cmd := child(t, "stage", dir)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	other := strings.TrimSpace(line)
	old := time.Now().Add(-10 * time.Hour)
	for _, stage := range []string{live.Dir, other} {
		if err := os.Chtimes(stage, old, old); err != nil {
			t.Fatal(err)
		}
	}

	sweep := func(age time.Duration) {
		t.Helper()
		if err := d.Sweep(t.Context(), age); err != nil {
			t.Fatal(err)
		}
	}
	sweep(time.Hour)
	for name, stage := range map[string]string{"own": live.Dir, "other process's": other} {
		if _, err := os.Stat(stage); err != nil {
			t.Errorf("Sweep took a living stage, the %s: %v", name, err)
		}
	}
	cmd.Process.Kill()
	cmd.Wait()
	sweep(20 * time.Hour)
	if _, err := os.Stat(other); err != nil {
		t.Errorf("Sweep took a young stage: %v", err)
	}
	sweep(time.Hour)
	if _, err := os.Stat(other); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Sweep left the stage of a dead process: err = %v", err)
	}
}

func TestStagingOfAnotherStore(t *testing.T) {
	t.Parallel()
	s3, err := blob.Open("s3://bucket")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "a", "staging")
	stage := newStage(t, s3, dir)
	if filepath.Dir(stage.Dir) != dir {
		t.Errorf("stage = %s, want one in %s", stage.Dir, dir)
	}
	info, err := os.Stat(stage.Dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("stage: mode = %v, %v, want 0700", info.Mode(), err)
	}
}

// strace skips the test if it can't trace here.
func strace(t *testing.T, args ...string) []string {
	t.Helper()
	if err := exec.Command("strace", "-o", os.DevNull, "true").Run(); err != nil {
		t.Skipf("strace: %v", err)
	}
	return append([]string{"strace", "-f"}, args...)
}

// CR-05: write < fsync(file) < link < fsync(folder), for every blob.
func TestDiskSyncOrder(t *testing.T) {
	t.Parallel()
	dir := storeDir(t)
	log := filepath.Join(t.TempDir(), "log")
	out, err := child(t, "order", dir, strace(t, "-y", "-s", "100", "-o", log,
		"-e", "trace=write,pwrite64,copy_file_range,fsync,linkat,renameat,renameat2,link,rename")...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var (
		written = map[string]bool{} // by path, since the last fsync
		synced  = map[string]bool{} // files, and blobs of which the folder was synced
		linked  []string            // paths of blobs
		fsync   = regexp.MustCompile(`fsync\(\d+<([^>]+)>\) += 0`)
		write   = regexp.MustCompile(`(?:write|pwrite64|copy_file_range)\(\d+<([^>]+)>.* = [1-9]`)
		link    = regexp.MustCompile(`linkat\(\d+<([^>]+)>, "([^"]+)", \d+<([^>]+)>, "([^"]+)", .* = 0`)
	)
	for _, call := range traced(t, log) {
		if m := write.FindStringSubmatch(call); m != nil {
			written[m[1]], synced[m[1]] = true, false
		} else if m := fsync.FindStringSubmatch(call); m != nil {
			written[m[1]], synced[m[1]] = false, true
			for _, blob := range linked {
				if filepath.Dir(blob) == m[1] {
					synced[blob] = true
				}
			}
		} else if m := link.FindStringSubmatch(call); m != nil {
			from, to := filepath.Join(m[1], m[2]), filepath.Join(m[3], m[4])
			if written[from] || !synced[from] {
				t.Errorf("linked before it was synced: %s", call)
			}
			linked = append(linked, to)
		} else if strings.Contains(call, "rename") && strings.Contains(call, dir) {
			t.Errorf("a rename: %s", call)
		}
	}
	if len(linked) != 20 {
		t.Errorf("%d links in the log, want 20", len(linked))
	}
	for _, blob := range linked {
		if !synced[blob] {
			t.Errorf("folder not synced after the link of %s", blob)
		}
	}
}

// traced returns the calls of a strace log, in the order in which they ended.
func traced(t *testing.T, log string) []string {
	t.Helper()
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	var calls []string
	begun := map[string]string{} // by thread
	for line := range strings.Lines(string(b)) {
		thread, call, _ := strings.Cut(strings.TrimSpace(line), " ")
		call = strings.TrimSpace(call)
		if start, ok := strings.CutSuffix(call, "<unfinished ...>"); ok {
			begun[thread] = strings.TrimSpace(start)
			continue
		}
		if strings.HasPrefix(call, "<... ") {
			_, end, _ := strings.Cut(call, "resumed>")
			call = begun[thread] + end
		}
		calls = append(calls, call)
	}
	return calls
}

// CR-06 and R-20: calls fail, once. The first Put says what is the matter, and
// the second is as good as new.
func TestDiskCallsFail(t *testing.T) {
	t.Parallel()
	const notStored, linked, copied = "not stored", "stored, linked: true", "stored, linked: false"
	tests := []struct {
		name    string
		inject  string
		outside bool
		want    []string
	}{
		{"nothing, staged", "fsync:error=EIO:when=99", false, []string{"ok", linked, "ok", linked}},
		{"nothing, outside", "fsync:error=EIO:when=99", true, []string{"ok", copied, "ok", copied}},
		// The bytes that were not synced are never linked, though a second
		// fsync of theirs would succeed.
		{"fsync of the file", "fsync:error=EIO:when=1", false, []string{"unavailable", notStored, "ok", copied}},
		{"fsync of the copy", "fsync:error=EIO:when=1", true, []string{"unavailable", notStored, "ok", copied}},
		{"fsync of the folder", "fsync:error=EIO:when=2", false, []string{"unavailable", linked, "ok", linked}},
		{"fsync of the folder above", "fsync:error=EIO:when=3", false, []string{"unavailable", linked, "ok", linked}},
		{"fsync, no space", "fsync:error=ENOSPC:when=1", true, []string{"full", notStored, "ok", copied}},
		{"link, no space", "linkat:error=ENOSPC:when=1", false, []string{"full", notStored, "ok", linked}},
		{"link, no quota", "linkat:error=EDQUOT:when=1", false, []string{"full", notStored, "ok", linked}},
		{"link, read-only", "linkat:error=EROFS:when=1", false, []string{"unavailable", notStored, "ok", linked}},
		{"folder, no inodes", "mkdirat:error=ENOSPC:when=2+", false, []string{"full", notStored, "full", notStored}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := storeDir(t)
			openDisk(t, dir)
			cmd := child(t, "twice", dir, strace(t, "-o", os.DevNull, "-e", "inject="+tt.inject)...)
			if tt.outside {
				cmd.Env = append(cmd.Env, "BLOB_TEST_OUTSIDE=1")
			}
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Split(strings.TrimSpace(string(out)), "\n"); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			checkNoStage(t, dir)
		})
	}
}

// net must recognise the file in a Blob.
func TestDiskServesBySendfile(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "log")
	out, err := child(t, "serve", storeDir(t), strace(t, "-o", log, "-e", "trace=sendfile")...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if calls := traced(t, log); !slices.ContainsFunc(calls, func(c string) bool { return strings.HasPrefix(c, "sendfile(") }) {
		t.Errorf("no sendfile in %q", calls)
	}
}

func TestDiskOutOfFiles(t *testing.T) {
	t.Parallel()
	cmd := child(t, "files", storeDir(t))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if got, want := string(out), "unavailable\nok\n"; err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

// A file system fills up, becomes read-only, and gets better (CR-07).
func TestDiskFull(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("mount: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	remount := func(flags uintptr, options string) {
		t.Helper()
		if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT|flags, options); err != nil {
			t.Fatal(err)
		}
	}
	d := openDisk(t, dir)
	small := blobtest.Put(t, d, blobtest.Bytes(1, 100_000))
	big := blobtest.Bytes(2, 2<<20)
	put := func() error { return d.Put(t.Context(), blobtest.Digest(big), blobtest.File(t, big)) }

	if free, err := d.Free(t.Context()); err != nil || free <= 0 || free > 1<<20 {
		t.Errorf("Free = %d, %v, want less than 1 MiB", free, err)
	}
	for range 3 {
		if err := put(); !errors.Is(err, blob.ErrFull) {
			t.Errorf("full: Put: err = %v, want ErrFull", err)
		}
	}
	checkNoStage(t, dir)
	if free, err := d.Free(t.Context()); err != nil || free < 800_000 {
		t.Errorf("after Put: Free = %d, %v, want the space back", free, err)
	}
	if err := blob.Verify(t.Context(), d, small); err != nil {
		t.Errorf("full: %v", err)
	}

	remount(syscall.MS_RDONLY, "size=1m")
	if err := put(); !errors.Is(err, blob.ErrUnavailable) {
		t.Errorf("read-only: Put: err = %v, want ErrUnavailable", err)
	}
	if err := blob.Verify(t.Context(), openDisk(t, dir), small); err != nil {
		t.Errorf("read-only: %v", err)
	}

	remount(0, "size=8m")
	if err := put(); err != nil {
		t.Errorf("better: Put: %v", err)
	}
	if err := blob.Verify(t.Context(), d, blobtest.Digest(big)); err != nil {
		t.Errorf("better: %v", err)
	}
}

func BenchmarkDisk(b *testing.B) {
	d := openDisk(b, b.TempDir())
	content := blobtest.Bytes(1, 100_000)
	digest := blobtest.Put(b, d, content)
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			f, err := d.Open(b.Context(), digest)
			if err != nil {
				b.Fatal(err)
			}
			f.Close()
		}
	})
	b.Run("put", func(b *testing.B) {
		i := 0
		for b.Loop() {
			i++
			blobtest.Put(b, d, fmt.Append(content[:99_000], i))
		}
	})
}
