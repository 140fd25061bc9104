package blob_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/blob/blobtest"
)

// A counted store counts the bytes that are read through it, and may make the
// first read wait.
type counted struct {
	blob.Store
	read  atomic.Int64
	opens atomic.Int64
	began chan struct{} // closed by the first read
	hold  chan struct{} // which then waits for this to be closed
	once  sync.Once
}

func (c *counted) Open(ctx context.Context, digest string) (blob.Blob, error) {
	c.opens.Add(1)
	b, err := c.Store.Open(ctx, digest)
	return &countedBlob{b, c}, err
}

type countedBlob struct {
	blob.Blob
	c *counted
}

func (b *countedBlob) Stat() (fs.FileInfo, error) {
	return b.Blob.(interface{ Stat() (fs.FileInfo, error) }).Stat()
}

func (b *countedBlob) Read(p []byte) (int, error) {
	b.c.once.Do(func() {
		if b.c.hold != nil {
			close(b.c.began)
			<-b.c.hold
		}
	})
	n, err := b.Blob.Read(p)
	b.c.read.Add(int64(n))
	return n, err
}

func newDisk(t *testing.T) (d *blob.Disk, path func(digest string) string) {
	t.Helper()
	dir := t.TempDir()
	d, err := blob.OpenDisk(dir)
	if err != nil {
		t.Fatal(err)
	}
	return d, func(digest string) string { return filepath.Join(dir, "blobs", digest[:2], digest) }
}

func putBytes(t *testing.T, s blob.Store, raw []byte) (digest string) {
	t.Helper()
	digest = blobtest.Digest(raw)
	if err := s.Put(t.Context(), digest, blobtest.File(t, raw)); err != nil {
		t.Fatal(err)
	}
	return digest
}

// overwrite writes to the very file, with the time of modification that it had.
func overwrite(t *testing.T, path string, raw []byte) {
	t.Helper()
	info, err := os.Stat(path)
	if err == nil {
		err = errors.Join(os.Chmod(path, 0o644), os.WriteFile(path, raw, 0o644), os.Chtimes(path, info.ModTime(), info.ModTime()))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func openAll(t *testing.T, s blob.Store, digest string) ([]byte, error) {
	t.Helper()
	b, err := s.Open(t.Context(), digest)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	return io.ReadAll(b)
}

// A blob is read once and trusted as long as nobody touches it; then it is
// read again, whatever its times say.
func TestCheckedReadsOnce(t *testing.T) {
	t.Parallel()
	disk, path := newDisk(t)
	under := &counted{Store: disk}
	c := blob.Check(under, 0)
	raw := blobtest.Bytes(1, 100_000)
	digest := putBytes(t, disk, raw)
	reads := func(want int64, do func()) {
		t.Helper()
		before := under.read.Load()
		do()
		if got := under.read.Load() - before; got != want {
			t.Errorf("%d bytes were read, want %d", got, want)
		}
	}
	open := func() {
		t.Helper()
		b, err := c.Open(t.Context(), digest)
		if err != nil {
			t.Fatal(err)
		}
		b.Close()
	}
	reads(100_000, open)
	reads(0, open)
	wrong := bytes.Clone(raw)
	wrong[5] ^= 1
	overwrite(t, path(digest), wrong)
	reads(100_000, func() {
		for range 3 { // what is known as wrong is not read again and again
			if _, err := c.Open(t.Context(), digest); !errors.Is(err, blob.ErrMismatch) {
				t.Errorf("open of wrong bytes: %v", err)
			}
		}
	})
	overwrite(t, path(digest), raw)
	reads(100_000, open)
	reads(0, open)
	if _, err := c.Open(t.Context(), blobtest.Digest(nil)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open of none: %v", err)
	}
}

// Many who ask for a blob that nobody has read cost one reading, and one who
// goes away takes it from nobody.
func TestCheckedAtOnce(t *testing.T) {
	t.Parallel()
	disk, _ := newDisk(t)
	under := &counted{Store: disk, began: make(chan struct{}), hold: make(chan struct{})}
	c := blob.Check(under, 0)
	raw := blobtest.Bytes(2, 1_000_000)
	digest := putBytes(t, disk, raw)
	first, leave := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		_, err := c.Open(first, digest)
		gone <- err
	}()
	<-under.began
	leave()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("who went away: %v", err)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if got, err := openAll(t, c, digest); err != nil || !bytes.Equal(got, raw) {
				t.Errorf("%d bytes (%v)", len(got), err)
			}
		})
	}
	close(under.hold)
	wg.Wait()
	if got, want := under.read.Load(), int64(21*len(raw)); got != want {
		t.Errorf("%d bytes were read, want %d: once to check, and once by each", got, want)
	}
}

// A stream is as good as Open, in one reading: wrong bytes never come whole.
func TestCheckedStream(t *testing.T) {
	t.Parallel()
	disk, path := newDisk(t)
	under := &counted{Store: disk}
	raw := blobtest.Bytes(3, 20<<20)
	digest := putBytes(t, disk, raw)
	small := putBytes(t, disk, raw[:1000])
	stream := func(c *blob.Checked, digest string) ([]byte, error, error) {
		t.Helper()
		b, err := c.Stream(t.Context(), digest)
		if err != nil {
			return nil, err, nil
		}
		defer b.Close()
		// As http.ServeContent does.
		if n, err := b.Seek(0, io.SeekEnd); err != nil || n != b.Size() {
			t.Errorf("the end is at %d (%v)", n, err)
		}
		if _, err := b.Seek(0, io.SeekStart); err != nil {
			t.Error(err)
		}
		got, err := io.ReadAll(b)
		return got, err, blob.Damaged(b)
	}
	c := blob.Check(under, 0)
	if got, err, damaged := stream(c, digest); err != nil || damaged != nil || !bytes.Equal(got, raw) {
		t.Errorf("right bytes: %d, %v, %v", len(got), err, damaged)
	}
	if n := under.read.Load(); n != int64(len(raw)) {
		t.Errorf("%d bytes were read, want each once", n)
	}
	// What a stream has checked needs no more checks.
	before := under.read.Load()
	b, err := c.Open(t.Context(), digest)
	if err != nil || under.read.Load() != before {
		t.Errorf("open after a stream read %d bytes (%v)", under.read.Load()-before, err)
	}
	b.Close()
	for name, at := range map[string]int{"first byte": 0, "middle": len(raw) / 2, "last byte": len(raw) - 1} {
		wrong := bytes.Clone(raw)
		wrong[at] ^= 0x80
		overwrite(t, path(digest), wrong)
		for range 2 {
			got, err, _ := stream(c, digest)
			if !errors.Is(err, blob.ErrMismatch) || len(got) >= len(raw) {
				t.Errorf("%s: %d of %d bytes came, %v", name, len(got), len(raw), err)
			}
		}
	}
	overwrite(t, path(digest), raw[:len(raw)-1])
	if got, err, _ := stream(c, digest); !errors.Is(err, blob.ErrMismatch) || len(got) >= len(raw)-1 {
		t.Errorf("cut: %d bytes, %v", len(got), err)
	}
	overwrite(t, path(digest), raw)
	s, err := blob.Check(under, 0).Stream(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.ReadAt(make([]byte, 10), 5); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a stream is read anywhere: %v", err)
	}
	if _, err := s.Seek(5, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(make([]byte, 10)); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a stream is read from its middle: %v", err)
	}
	overwrite(t, path(small), raw[1:1001])
	if _, err, _ := stream(blob.Check(under, 0), small); !errors.Is(err, blob.ErrMismatch) {
		t.Errorf("small: %v", err)
	}
}

// What is in a bucket is checked alike.
func testCheckedS3(t *testing.T, server *blobtest.S3Server) {
	bucket := server.NewBucket(t)
	s := openURL(t, bucket.URL)
	c := blob.Check(s, 0)
	raw := blobtest.Bytes(4, 50_000)
	digest := putBytes(t, s, raw)
	if got, err := openAll(t, c, digest); err != nil || !bytes.Equal(got, raw) {
		t.Errorf("%d bytes (%v)", len(got), err)
	}
	wrong := bytes.Clone(raw)
	wrong[7] ^= 1
	overwrite(t, bucket.Path(digest), wrong)
	b, err := c.Stream(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if got, err := io.ReadAll(b); !errors.Is(err, blob.ErrMismatch) || len(got) == len(raw) {
		t.Errorf("wrong bytes under the same time: %d bytes, %v", len(got), err)
	}
	// A server that gave something wrong for a time changes nothing when it gives the right bytes again.
	overwrite(t, bucket.Path(digest), raw)
	if _, err := c.Open(t.Context(), digest); !errors.Is(err, blob.ErrMismatch) {
		t.Errorf("at once: %v", err)
	}
	c.Age(digest)
	if got, err := openAll(t, c, digest); err != nil || !bytes.Equal(got, raw) {
		t.Errorf("right bytes after wrong ones: %d bytes (%v)", len(got), err)
	}
	if err := os.WriteFile(bucket.Path(digest), wrong, 0o644); err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(5 * time.Second) // its server tells seconds
	if err := os.Chtimes(bucket.Path(digest), later, later); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Open(t.Context(), digest); !errors.Is(err, blob.ErrMismatch) {
		t.Errorf("wrong bytes: %v", err)
	}
}

// A small blob that is opened all the time is opened in memory, and damage and loss show all the same.
func TestCheckedHot(t *testing.T) {
	t.Parallel()
	disk, path := newDisk(t)
	under := &counted{Store: disk}
	c := blob.Check(under, 0)
	raw, large := blobtest.Bytes(1, 64<<10), blobtest.Bytes(2, 64<<10+1)
	small, big := putBytes(t, disk, raw), putBytes(t, disk, large)
	hundred := func(digest string, want []byte) (inStore int64) {
		for i := range 100 {
			open := c.Open
			if i%2 == 0 {
				open = c.Stream
			}
			b, err := open(t.Context(), digest)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(b)
			if _, seek := b.Seek(0, io.SeekStart); err != nil || seek != nil || !bytes.Equal(got, want) || b.Size() != int64(len(want)) || b.ModTime().IsZero() {
				t.Errorf("opening %d: %d bytes, %v, %v", i, len(got), err, seek)
			}
			b.Close()
		}
		return under.opens.Swap(0)
	}
	until := time.Now().Add(time.Minute)
	for n := hundred(small, raw); n >= 50; n = hundred(small, raw) { // a machine that stands still cools it
		if time.Now().After(until) {
			t.Fatalf("a small blob that is opened a hundred times is opened %d times in the store", n)
		}
	}
	if n := hundred(big, large); n < 100 {
		t.Errorf("a large blob that is opened a hundred times is opened %d times in the store", n)
	}
	overwrite(t, path(small), make([]byte, len(raw)))
	for until = time.Now().Add(time.Minute); ; {
		if _, err := openAll(t, c, small); errors.Is(err, blob.ErrMismatch) {
			break
		}
		if time.Now().After(until) {
			t.Fatal("damage of what is in memory never shows")
		}
	}
	if err := os.Remove(path(small)); err != nil {
		t.Fatal(err)
	}
	if _, err := openAll(t, c, small); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a blob that is gone: %v", err)
	}
}
