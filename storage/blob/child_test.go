package blob_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/blob/blobtest"
)

// children are what the test binary does instead of testing when BLOB_TEST_CHILD
// names one of them: to be killed, traced, or to be another process.
var children = map[string]func(dir string){
	"order": childOrder,
	"twice": childTwice,
	"race":  childRace,
	"loop":  childLoop,
	"stage": childStage,
	"serve": childServe,
	"files": childFiles,
}

// child returns the command that runs one of children on the store in dir, by
// way of the program and arguments before it, such as strace.
func child(t *testing.T, mode, dir string, before ...string) *exec.Cmd {
	t.Helper()
	argv := append(before, os.Args[0])
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "BLOB_TEST_CHILD="+mode, "BLOB_TEST_DIR="+dir)
	return cmd
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// kind names the errors that callers may test for.
func kind(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, blob.ErrFull):
		return "full"
	case errors.Is(err, blob.ErrUnavailable):
		return "unavailable"
	case errors.Is(err, blob.ErrMismatch):
		return "mismatch"
	}
	return "unexpected: " + err.Error()
}

// writeFile returns a new file in dir with the bytes b, open.
func writeFile(dir string, b []byte) *os.File {
	f := must(os.CreateTemp(dir, "src-"))
	must(f.Write(b))
	return f
}

// childOrder puts 20 blobs, every other one from outside of staging.
func childOrder(dir string) {
	d := must(blob.OpenDisk(dir))
	stage := must(must(blob.OpenStaging(d, "")).New())
	defer stage.Close()
	for i := range 20 {
		b := blobtest.Bytes(uint64(i), 1000)
		from := stage.Dir
		if i%2 == 1 {
			from = filepath.Join(dir, "outside")
		}
		if err := d.Put(context.Background(), blobtest.Digest(b), writeFile(from, b)); err != nil {
			panic(err)
		}
	}
}

// childTwice puts one staged file two times, and prints what comes of it.
func childTwice(dir string) {
	runtime.LockOSThread() // strace counts the calls of each thread
	d := must(blob.OpenDisk(dir))
	stage := must(must(blob.OpenStaging(d, "")).New())
	defer stage.Close()
	from := stage.Dir
	if os.Getenv("BLOB_TEST_OUTSIDE") != "" {
		from = filepath.Join(dir, "outside")
	}
	b := blobtest.Bytes(1, 1000)
	src := writeFile(from, b)
	for range 2 {
		fmt.Println(kind(d.Put(context.Background(), blobtest.Digest(b), src)))
		info := must(src.Stat())
		if stored, err := os.Lstat(diskPath(dir)(blobtest.Digest(b))); err == nil {
			fmt.Println("stored, linked:", os.SameFile(info, stored))
		} else {
			fmt.Println("not stored")
		}
	}
}

// childRace puts 100 blobs, or other bytes under their digests.
func childRace(dir string) {
	d := must(blob.OpenDisk(dir))
	wrong := os.Getenv("BLOB_TEST_WRONG") != ""
	stage := must(must(blob.OpenStaging(d, "")).New())
	defer stage.Close()
	for i := range 100 {
		b := blobtest.Bytes(uint64(i), 1000)
		digest := blobtest.Digest(b)
		if wrong {
			b[i] ^= 1
		}
		fmt.Println(kind(d.Put(context.Background(), digest, writeFile(stage.Dir, b))))
	}
}

// childLoop puts blobs, one in four of them again, until it is killed.
func childLoop(dir string) {
	d := must(blob.OpenDisk(dir))
	seed := uint64(time.Now().UnixNano())
	for i := uint64(0); ; i++ {
		b := blobtest.Bytes(seed+i-i%4/3, 100_000)
		if err := d.Put(context.Background(), blobtest.Digest(b), writeFile(os.TempDir(), b)); err != nil {
			panic(err)
		}
		fmt.Println(blobtest.Digest(b))
	}
}

// childStage makes a stage, prints where, and waits to be killed.
func childStage(dir string) {
	stage := must(must(blob.OpenStaging(must(blob.OpenDisk(dir)), "")).New())
	writeFile(stage.Dir, []byte("left behind"))
	fmt.Println(stage.Dir)
	select {}
}

// childServe serves a blob as the API does.
func childServe(dir string) {
	d := must(blob.OpenDisk(dir))
	b := blobtest.Bytes(1, 1<<20)
	src := writeFile(filepath.Join(dir, "outside"), b)
	if err := d.Put(context.Background(), blobtest.Digest(b), src); err != nil {
		panic(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := must(d.Open(r.Context(), blobtest.Digest(b)))
		defer body.Close()
		w.Header().Set("Content-Type", "application/gzip")
		http.ServeContent(w, r, "", body.ModTime(), body)
	}))
	defer server.Close()
	res := must(http.Get(server.URL))
	if got := digestOf(res.Body); got != blobtest.Digest(b) {
		panic("served other bytes: " + got)
	}
}

// childFiles puts a blob with no file descriptor left, and then with enough.
func childFiles(dir string) {
	d := must(blob.OpenDisk(dir))
	b := blobtest.Bytes(1, 1000)
	src := writeFile(filepath.Join(dir, "outside"), b)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		panic(err)
	}
	for _, files := range []uint64{uint64(src.Fd()) + 1, limit.Cur} {
		limit.Cur = files
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			panic(err)
		}
		fmt.Println(kind(d.Put(context.Background(), blobtest.Digest(b), src)))
	}
}
