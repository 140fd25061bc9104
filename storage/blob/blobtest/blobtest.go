// Package blobtest holds implementations of blob.Store to its contract, and
// runs a real S3 server for tests.
package blobtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/francescobianco/packbase/storage/blob"
)

// A Fixture is an empty store and a way behind its back.
type Fixture struct {
	Store blob.Store
	Path  func(digest string) string // the local file that holds the blob
	Big   int                        // bytes of a blob that is uploaded in parts, or otherwise big
}

// Run holds the stores that open returns to the contract of blob.Store.
// Each call of open returns a new, empty store.
func Run(t *testing.T, open func(t *testing.T) Fixture) {
	tests := []struct {
		name string
		test func(t *testing.T, f Fixture)
	}{
		{"round trip", testRoundTrip},
		{"reading", testReading},
		{"put again", testPutAgain},
		{"put reads from the beginning", testPutOffset},
		{"wrong digest", testWrongDigest},
		{"invalid digest", testInvalidDigest},
		{"absent", testAbsent},
		{"age", testAge},
		{"concurrent puts", testConcurrentPuts},
		{"wrong bytes are replaced", testRepair},
		{"quarantine", testQuarantine},
		{"restore", testRestore},
		{"list", testList},
		{"delete", testDelete},
		{"ended context", testEndedContext},
		{"sweep spares blobs", testSweep},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.test(t, open(t))
		})
	}
}

// Bytes returns n bytes that look random and are the same for the same seed.
func Bytes(seed uint64, n int) []byte {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	b := make([]byte, n)
	rand.NewChaCha8(key).Read(b)
	return b
}

// Digest returns the digest of b.
func Digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// File returns an open file with the bytes b, outside any store. The test
// closes it.
func File(t testing.TB, b []byte) *os.File {
	t.Helper()
	return fileIn(t, t.TempDir(), b)
}

func fileIn(t testing.TB, dir string, b []byte) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "file"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	return f
}

// Put puts b into s under its digest, which it returns.
func Put(t testing.TB, s blob.Store, b []byte) string {
	t.Helper()
	digest := Digest(b)
	if err := s.Put(t.Context(), digest, File(t, b)); err != nil {
		t.Fatalf("Put: %v", err)
	}
	return digest
}

// Read returns all bytes of a blob.
func Read(t testing.TB, s blob.Store, digest string) []byte {
	t.Helper()
	b, err := s.Open(t.Context(), digest)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	defer b.Close()
	got, err := io.ReadAll(b)
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	return got
}

// List returns all that s lists.
func List(t testing.TB, s blob.Store) []blob.Info {
	t.Helper()
	var infos []blob.Info
	for info, err := range s.List(t.Context()) {
		if err != nil {
			t.Fatalf("List: %v", err)
		}
		infos = append(infos, info)
	}
	return infos
}

func testRoundTrip(t *testing.T, f Fixture) {
	for _, size := range []int{0, 1, 100_000, f.Big} {
		want := Bytes(uint64(size), size)
		digest := Put(t, f.Store, want)
		if got := Read(t, f.Store, digest); !bytes.Equal(got, want) {
			t.Errorf("%d bytes: read %d other bytes", size, len(got))
		}
		if err := blob.Verify(t.Context(), f.Store, digest); err != nil {
			t.Errorf("%d bytes: Verify: %v", size, err)
		}
		info, err := f.Store.Stat(t.Context(), digest)
		if err != nil || info.Size != int64(size) || info.Digest != digest {
			t.Errorf("%d bytes: Stat = %v, %v", size, info, err)
		}
	}
}

func testReading(t *testing.T, f Fixture) {
	for _, size := range []int{0, 1, 3_000_000} {
		want := Bytes(1, size)
		b, err := f.Store.Open(t.Context(), Put(t, f.Store, want))
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if b.Size() != int64(size) {
			t.Errorf("Size = %d, want %d", b.Size(), size)
		}
		if age := time.Since(b.ModTime()); age > blob.Fresh {
			t.Errorf("age = %v, want a new blob", age)
		}
		for _, off := range []int64{0, 1, int64(size) / 2, int64(size) - 1, int64(size), int64(size) + 10} {
			testReadAt(t, b, want, off)
			testSeek(t, b, want, off)
		}
	}

	// iotest.TestReader reads byte by byte and at many offsets.
	want := Bytes(2, 20)
	b, err := f.Store.Open(t.Context(), Put(t, f.Store, want))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := iotest.TestReader(b, want); err != nil {
		t.Error(err)
	}
}

func testReadAt(t *testing.T, b blob.Blob, content []byte, off int64) {
	t.Helper()
	if off < 0 {
		return
	}
	want := content[min(off, int64(len(content))):]
	want = want[:min(len(want), 1000)]
	got := make([]byte, 1000)
	n, err := b.ReadAt(got, off)
	if !bytes.Equal(got[:n], want) {
		t.Errorf("%d bytes: ReadAt(%d) = %d bytes, want %d equal ones", len(content), off, n, len(want))
	}
	if n < len(got) && err != io.EOF || n == len(got) && err != nil && err != io.EOF {
		t.Errorf("%d bytes: ReadAt(%d) = %d, %v", len(content), off, n, err)
	}
}

func testSeek(t *testing.T, b blob.Blob, content []byte, off int64) {
	t.Helper()
	if off < 0 {
		if _, err := b.Seek(off, io.SeekStart); err == nil {
			t.Errorf("Seek(%d): no error", off)
		}
		return
	}
	want := content[min(off, int64(len(content))):]
	at, err := b.Seek(off-int64(len(content)), io.SeekEnd)
	if err != nil || at != off {
		t.Errorf("Seek to %d = %d, %v", off, at, err)
	}
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes: read %d bytes after Seek(%d), want %d equal ones; err = %v", len(content), len(got), off, len(want), err)
	}
}

func testPutAgain(t *testing.T, f Fixture) {
	want := Bytes(3, f.Big)
	digest := Put(t, f.Store, want)
	before, err := os.Stat(f.Path(digest))
	if err != nil {
		t.Fatal(err)
	}
	Put(t, f.Store, want)
	after, err := os.Stat(f.Path(digest))
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(before, after) {
		t.Error("the second Put replaced the blob")
	}
	if err := blob.Verify(t.Context(), f.Store, digest); err != nil {
		t.Error(err)
	}
}

func testPutOffset(t *testing.T, f Fixture) {
	want := Bytes(4, 1000)
	src := File(t, want)
	if _, err := src.Seek(10, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if err := f.Store.Put(t.Context(), Digest(want), src); err != nil {
		t.Fatal(err)
	}
	if got := Read(t, f.Store, Digest(want)); !bytes.Equal(got, want) {
		t.Errorf("read %d bytes, want all %d", len(got), len(want))
	}
	if off, err := src.Seek(0, io.SeekCurrent); err != nil || off != 10 {
		t.Errorf("offset of src = %d, %v, want it left at 10", off, err)
	}
}

func testWrongDigest(t *testing.T, f Fixture) {
	good := Bytes(5, 1000)
	digest := Digest(good)
	for _, size := range []int{0, 999, 1000, f.Big} {
		err := f.Store.Put(t.Context(), digest, File(t, Bytes(6, size)))
		if !errors.Is(err, blob.ErrMismatch) {
			t.Errorf("Put of %d wrong bytes: err = %v, want ErrMismatch", size, err)
		}
	}
	if _, err := f.Store.Stat(t.Context(), digest); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after wrong bytes: Stat: err = %v, want none stored", err)
	}

	Put(t, f.Store, good)
	if err := f.Store.Put(t.Context(), digest, File(t, Bytes(6, 1000))); !errors.Is(err, blob.ErrMismatch) {
		t.Errorf("Put of wrong bytes over right ones: err = %v, want ErrMismatch", err)
	}
	if got := Read(t, f.Store, digest); !bytes.Equal(got, good) {
		t.Error("wrong bytes replaced right ones")
	}
}

func testInvalidDigest(t *testing.T, f Fixture) {
	good := Digest(nil)
	ctx := t.Context()
	for name, digest := range map[string]string{
		"empty":           "",
		"short":           good[1:],
		"long":            good + "0",
		"upper case":      "E3B0" + good[4:],
		"not hex":         "g" + good[1:],
		"slash":           good + "/",
		"parent":          "../" + good[3:],
		"NUL":             good[:63] + "\x00",
		"line feed":       good[:63] + "\n",
		"invalid UTF-8":   good[:63] + "\xff",
		"quarantine path": "../quarantine/" + good[14:],
	} {
		_, openErr := f.Store.Open(ctx, digest)
		_, statErr := f.Store.Stat(ctx, digest)
		for method, err := range map[string]error{
			"Put":        f.Store.Put(ctx, digest, File(t, nil)),
			"Open":       openErr,
			"Stat":       statErr,
			"Delete":     f.Store.Delete(ctx, digest),
			"Quarantine": f.Store.Quarantine(ctx, digest),
			"Restore":    f.Store.Restore(ctx, digest),
			"Verify":     blob.Verify(ctx, f.Store, digest),
		} {
			if !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("%s: %s: err = %v, want fs.ErrInvalid", name, method, err)
			}
		}
	}
}

func testAbsent(t *testing.T, f Fixture) {
	ctx, digest := t.Context(), Digest([]byte("absent"))
	_, openErr := f.Store.Open(ctx, digest)
	_, statErr := f.Store.Stat(ctx, digest)
	for method, err := range map[string]error{
		"Open":   openErr,
		"Stat":   statErr,
		"Verify": blob.Verify(ctx, f.Store, digest),
	} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: err = %v, want fs.ErrNotExist", method, err)
		}
	}
	if err := f.Store.Quarantine(ctx, digest); err != nil {
		t.Errorf("Quarantine: %v", err)
	}
	if infos := List(t, f.Store); len(infos) != 0 {
		t.Errorf("List = %v, want none", infos)
	}
}

func testAge(t *testing.T, f Fixture) {
	want := Bytes(7, f.Big)
	src := File(t, want)
	old := time.Now().Add(-100 * time.Hour)
	if err := os.Chtimes(src.Name(), old, old); err != nil {
		t.Fatal(err)
	}
	checkYoung := func(name string) {
		t.Helper()
		if err := f.Store.Put(t.Context(), Digest(want), src); err != nil {
			t.Fatalf("%s: Put: %v", name, err)
		}
		info, err := f.Store.Stat(t.Context(), Digest(want))
		if age := time.Since(info.ModTime); err != nil || age > blob.Fresh {
			t.Errorf("%s: age = %v, err = %v, want less than %v", name, age, err, blob.Fresh)
		}
	}
	checkYoung("new blob of an old file")
	if err := os.Chtimes(f.Path(Digest(want)), old, old); err != nil {
		t.Fatal(err)
	}
	if info := List(t, f.Store)[0]; time.Since(info.ModTime) < 99*time.Hour {
		t.Errorf("List: age = %v, want 100h", time.Since(info.ModTime))
	}
	checkYoung("old blob")
	if got := Read(t, f.Store, Digest(want)); !bytes.Equal(got, want) {
		t.Errorf("renewed blob: read %d other bytes", len(got))
	}
}

func testConcurrentPuts(t *testing.T, f Fixture) {
	good := Bytes(8, f.Big)
	digest := Digest(good)
	var wg sync.WaitGroup
	for i := range 12 {
		content, want := good, error(nil)
		if i%3 == 0 {
			content, want = Bytes(uint64(100+i), f.Big), blob.ErrMismatch
		}
		src := File(t, content)
		wg.Go(func() {
			if err := f.Store.Put(t.Context(), digest, src); !errors.Is(err, want) {
				t.Errorf("Put: err = %v, want %v", err, want)
			}
			if want == nil {
				if err := blob.Verify(t.Context(), f.Store, digest); err != nil {
					t.Errorf("after Put: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if infos := List(t, f.Store); len(infos) != 1 {
		t.Errorf("List = %v, want one blob", infos)
	}
}

// damages are what happens to files behind the back of a store.
func damages(good []byte) map[string][]byte {
	flipped := slices.Clone(good)
	flipped[len(good)/2] ^= 1
	return map[string][]byte{
		"one bit":     flipped,
		"cut":         good[:len(good)-1],
		"empty":       nil,
		"appended to": append(slices.Clone(good), 0),
		"other blob":  Bytes(9, len(good)),
	}
}

// overwrite changes the file behind a blob, keeping what belongs to it.
func overwrite(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func testRepair(t *testing.T, f Fixture) {
	good := Bytes(10, 5000)
	digest := Put(t, f.Store, good)
	for name, bad := range damages(good) {
		overwrite(t, f.Path(digest), bad)
		if err := blob.Verify(t.Context(), f.Store, digest); !errors.Is(err, blob.ErrMismatch) {
			t.Errorf("%s: Verify: err = %v, want ErrMismatch", name, err)
		}
		Put(t, f.Store, good)
		if got := Read(t, f.Store, digest); !bytes.Equal(got, good) {
			t.Errorf("%s: after Put: read %d other bytes", name, len(got))
		}
	}
}

func testQuarantine(t *testing.T, f Fixture) {
	good := Bytes(11, 5000)
	digest := Put(t, f.Store, good)
	if err := f.Store.Quarantine(t.Context(), digest); err != nil {
		t.Fatalf("Quarantine of a good blob: %v", err)
	}
	if got := Read(t, f.Store, digest); !bytes.Equal(got, good) {
		t.Fatal("Quarantine harmed a good blob")
	}
	for name, bad := range damages(good) {
		overwrite(t, f.Path(digest), bad)
		if err := f.Store.Quarantine(t.Context(), digest); err != nil {
			t.Errorf("%s: Quarantine: %v", name, err)
		}
		if _, err := f.Store.Open(t.Context(), digest); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: after Quarantine: Open: err = %v, want fs.ErrNotExist", name, err)
		}
		Put(t, f.Store, good)
	}
	if infos := List(t, f.Store); len(infos) != 1 {
		t.Errorf("List = %v, want the good blob only", infos)
	}
}

func testRestore(t *testing.T, f Fixture) {
	good := Bytes(12, 5000)
	digest := Put(t, f.Store, good)
	dir := filepath.Join(f.Path(digest), "../../../quarantine")
	if err := f.Store.Restore(t.Context(), digest); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Restore of nothing: err = %v, want fs.ErrNotExist", err)
	}
	for range 2 {
		overwrite(t, f.Path(digest), good[1:])
		if err := f.Store.Quarantine(t.Context(), digest); err != nil {
			t.Fatal(err)
		}
		Put(t, f.Store, good)
	}
	if err := f.Store.Delete(t.Context(), digest); err != nil {
		t.Fatal(err)
	}
	if err := f.Store.Restore(t.Context(), digest); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Restore of wrong bytes: err = %v, want fs.ErrNotExist", err)
	}
	lie, err := os.ReadDir(dir)
	if err != nil || len(lie) != 2 {
		t.Fatalf("%d in quarantine, %v", len(lie), err)
	}
	overwrite(t, filepath.Join(dir, lie[1].Name()), good)
	if err := f.Store.Restore(t.Context(), digest); err != nil {
		t.Fatal(err)
	}
	if got := Read(t, f.Store, digest); !bytes.Equal(got, good) {
		t.Errorf("%d bytes were restored", len(got))
	}
	if lie, err := os.ReadDir(dir); err != nil || len(lie) != 1 {
		t.Errorf("%d in quarantine, %v; want the wrong one only", len(lie), err)
	}
}

func testList(t *testing.T, f Fixture) {
	var want []string
	for i := range 30 {
		want = append(want, Put(t, f.Store, fmt.Append(nil, "blob ", i)))
	}
	slices.Sort(want)
	// What is not a blob is not listed.
	stray := filepath.Dir(f.Path(want[0]))
	if err := os.WriteFile(filepath.Join(stray, "stray"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, info := range List(t, f.Store) {
		got = append(got, info.Digest)
		if stat, err := f.Store.Stat(t.Context(), info.Digest); err != nil || stat.Size != info.Size {
			t.Errorf("Stat = %v, %v, want %v as listed", stat, err, info)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("List = %v\nwant %v", got, want)
	}
	for range f.Store.List(t.Context()) {
		break // must not hang or panic
	}
}

func testDelete(t *testing.T, f Fixture) {
	keep, gone := Put(t, f.Store, []byte("keep")), Put(t, f.Store, []byte("gone"))
	for range 2 { // deleting what is not there is no error
		if err := f.Store.Delete(t.Context(), gone); err != nil {
			t.Errorf("Delete: %v", err)
		}
	}
	if _, err := f.Store.Open(t.Context(), gone); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open: err = %v, want fs.ErrNotExist", err)
	}
	if infos := List(t, f.Store); len(infos) != 1 || infos[0].Digest != keep {
		t.Errorf("List = %v, want %s only", infos, keep)
	}
	Put(t, f.Store, []byte("gone")) // and back again
	if err := blob.Verify(t.Context(), f.Store, gone); err != nil {
		t.Error(err)
	}
}

func testEndedContext(t *testing.T, f Fixture) {
	content := Bytes(12, f.Big)
	digest := Put(t, f.Store, Bytes(13, 3_000_000))
	b, err := f.Store.Open(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	b.Close()

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Store.Put(ctx, Digest(content), File(t, content)); !errors.Is(err, context.Canceled) {
		t.Errorf("Put: err = %v, want context.Canceled", err)
	}
	if _, err := f.Store.Open(ctx, digest); !errors.Is(err, context.Canceled) {
		t.Errorf("Open: err = %v, want context.Canceled", err)
	}
	if err := blob.Verify(ctx, f.Store, digest); !errors.Is(err, context.Canceled) {
		t.Errorf("Verify: err = %v, want context.Canceled", err)
	}
	var listErr error
	for _, listErr = range f.Store.List(ctx) {
	}
	if !errors.Is(listErr, context.Canceled) {
		t.Errorf("List: err = %v, want context.Canceled: a part must not look like all", listErr)
	}
	if _, err := f.Store.Stat(t.Context(), Digest(content)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after a cancelled Put: Stat: err = %v, want fs.ErrNotExist", err)
	}
}

func testSweep(t *testing.T, f Fixture) {
	digest := Put(t, f.Store, Bytes(14, f.Big))
	if err := f.Store.Sweep(t.Context(), 0); err != nil {
		t.Errorf("Sweep: %v", err)
	}
	if err := blob.Verify(t.Context(), f.Store, digest); err != nil {
		t.Errorf("after Sweep: %v", err)
	}
	if _, err := f.Store.Free(t.Context()); err != nil {
		t.Errorf("Free: %v", err)
	}
}
