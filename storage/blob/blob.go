// Package blob stores immutable bytes under their digest. It hides where the
// bytes lie and how they are made durable.
//
// A digest is the SHA-256 of a blob as 64 lowercase hex digits. It is the only
// key: no name that an upstream chose ever becomes a path. Both stores lay
// their blobs out alike, so one can be copied to the other file by file:
//
//	blobs/ab/abcd...        the blob, immutable
//	quarantine/abcd....rand bytes that did not match their digest, kept to look at
//	staging/                Disk only: files on their way in; see Staging
package blob

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"strings"
	"time"
)

// A Store keeps blobs. Its two implementations, Disk and S3, are held to this
// contract by blobtest.Run.
//
// All methods may be called concurrently, also by other processes and other
// machines that share the storage. Retrying what may pass is the store's own
// job: an error that it returns is worth a new attempt of the whole job, not of
// the call. All methods stop when ctx ends.
//
// Errors can be tested with errors.Is: fs.ErrNotExist, fs.ErrInvalid (what was
// given is no digest), ErrMismatch, ErrFull and ErrUnavailable. Anything else
// is unexpected.
type Store interface {
	// Put makes the bytes of src durable under digest. When it returns nil, a
	// blob with exactly these bytes is there, will survive a power cut, and is
	// younger than Fresh, so that a sweep that spares young blobs leaves the
	// caller time to commit the row that names it.
	//
	// Put is create-only: it never replaces bytes that match their digest. If
	// the blob is there already, Put checks it and renews its age; if its bytes
	// are wrong, Put moves them to quarantine and stores the right ones. So Put
	// may be repeated, and of many at once all succeed and one blob results.
	//
	// The bytes of src are hashed here, whatever the caller believes: if they
	// are not those of digest, Put returns ErrMismatch and stores nothing. There
	// is no moment at which a part of a blob can be seen, and after an error or
	// a crash no blob is there that was not made durable.
	//
	// Put reads src from its beginning, wherever its offset stands, and leaves
	// the offset alone. A file in a Stage is not copied but linked: nobody may
	// write to it any more, and it becomes read-only.
	Put(ctx context.Context, digest string, src *os.File) error

	// Open returns the blob for reading. The caller closes it. Reading stops
	// when ctx ends. Open does not hash the bytes; compare Size with the size
	// recorded, and see Verify.
	// It returns fs.ErrNotExist if there is none.
	Open(ctx context.Context, digest string) (Blob, error)

	// Stat tells of a blob without reading it.
	// It returns fs.ErrNotExist if there is none.
	Stat(ctx context.Context, digest string) (Info, error)

	// List yields all blobs in the order of their digests, those put or deleted
	// meanwhile perhaps. It ends after the first error.
	List(ctx context.Context) iter.Seq2[Info, error]

	// Delete removes the blob, if there is one. It is for collecting garbage
	// only: it does not look at the blob's age, and cannot know of a Put that
	// has just found the blob there. The caller keeps both away.
	Delete(ctx context.Context, digest string) error

	// Quarantine moves a blob whose bytes do not match its digest out of the
	// way, so that it is never served again and Put can store the right bytes.
	// It hashes the blob itself: a blob that is in order stays, and so the one
	// that somebody else has repaired meanwhile is safe. No blob is no error.
	Quarantine(ctx context.Context, digest string) error

	// Restore puts back what lies in quarantine for the digest and turns out to have its bytes: a disk or a server that
	// read wrong may read right again. It returns fs.ErrNotExist if nothing has.
	Restore(ctx context.Context, digest string) error

	// Sweep removes what writers that crashed left behind, if it is older than
	// age, and never a blob. An S3 can't tell whether a writer lives: there age
	// must be longer than any Put takes.
	Sweep(ctx context.Context, age time.Duration) error

	// Free returns how many bytes can still be stored, -1 if there is no limit
	// that the store knows of.
	Free(ctx context.Context) (int64, error)
}

// A Blob is an open blob. Like an *os.File, it may be read through ReadAt by
// many goroutines, but has only one offset for Read and Seek.
//
// A blob of a Disk is an *os.File underneath, so that http.ServeContent sends
// it with sendfile(2).
type Blob interface {
	io.ReadSeekCloser
	io.ReaderAt
	Size() int64        // bytes that are there, which may be wrong
	ModTime() time.Time // when put, or when its age was last renewed
}

// An Info describes a stored blob.
type Info struct {
	Digest  string    // 64 lowercase hex digits
	Size    int64     // bytes that are there, which may be wrong
	ModTime time.Time // when put, or when its age was last renewed
}

// Fresh is the greatest age of a blob at the moment Put returns. What sweeps
// blobs spares all that are younger than Fresh and the longest job together.
const Fresh = time.Hour

// Errors that callers may test for with errors.Is, besides fs.ErrNotExist and
// fs.ErrInvalid.
var (
	// ErrMismatch: the bytes are not those of the digest.
	ErrMismatch = errors.New("bytes do not match the digest")
	// ErrFull: no space, no inodes or no quota left.
	ErrFull = errors.New("storage full")
	// ErrUnavailable: the storage is read-only, out of file descriptors, fails
	// to read or write, cannot be reached, or does not let us in.
	ErrUnavailable = errors.New("storage unavailable")
)

// Open returns the store that rawURL names:
//
//	file:///srv/packbase    a Disk; what follows file:// is the folder, taken
//	file://./data           literally, relative to the working directory
//	s3://bucket/prefix?...  an S3; see OpenS3 for the parameters
//
// The error names the part of rawURL that is wrong, and never prints a secret.
func Open(rawURL string) (Store, error) {
	scheme, rest, _ := strings.Cut(rawURL, "://")
	switch scheme {
	case "file":
		return OpenDisk(rest)
	case "s3":
		return OpenS3(rawURL)
	}
	return nil, errors.New("blob store: the URL must begin with file:// or s3://")
}

// Window returns how many bytes it is best to ask a blob of s for at once, 0
// if that does not matter.
func Window(s Opener) int {
	if _, remote := s.(*S3); remote {
		return 256 << 10
	}
	return 0
}

// Verify reads the blob in s and returns nil if its bytes are those of digest,
// ErrMismatch if they are others, fs.ErrNotExist if there is no blob.
func Verify(ctx context.Context, s Store, digest string) error {
	b, err := s.Open(ctx, digest)
	if err != nil {
		return err
	}
	defer b.Close()
	return match(ctx, b, digest)
}

// An Opener opens blobs, as a Store does.
type Opener interface {
	Open(ctx context.Context, digest string) (Blob, error)
}

// ReadAll returns the bytes of a document or an index, after comparing them with
// the digest. It is no way to read what may be large.
func ReadAll(ctx context.Context, blobs Opener, digest string) ([]byte, error) {
	const most = 1 << 30
	b, err := blobs.Open(ctx, digest)
	if err != nil {
		return nil, fmt.Errorf("open blob: %w", err)
	}
	defer b.Close()
	raw, err := io.ReadAll(io.LimitReader(b, most))
	if err != nil {
		return nil, fmt.Errorf("read blob: %w", err)
	}
	sum := sha256.Sum256(raw)
	return raw, compare(sum[:], digest)
}

// match reads r to its end and returns ErrMismatch if its SHA-256 is not digest.
func match(ctx context.Context, r io.Reader, digest string) error {
	sum := sha256.New()
	if err := copyTo(ctx, sum, r); err != nil {
		return fmt.Errorf("read %s: %w", digest, err)
	}
	return compare(sum.Sum(nil), digest)
}

func compare(sum []byte, digest string) error {
	if got := hex.EncodeToString(sum); got != digest {
		return fmt.Errorf("%w: got %s, want %s", ErrMismatch, got, digest)
	}
	return nil
}

// copyTo is io.Copy that stops when ctx ends.
func copyTo(ctx context.Context, w io.Writer, r io.Reader) error {
	// The struct hides ReadFrom and WriteTo, which would not ask ctx.
	_, err := io.CopyBuffer(struct{ io.Writer }{w}, ctxReader{ctx, r}, make([]byte, 256<<10))
	return err
}

type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// whole returns the bytes of src, wherever its offset stands.
func whole(src *os.File) (*io.SectionReader, error) {
	info, err := src.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w: not a regular file", src.Name(), fs.ErrInvalid)
	}
	return io.NewSectionReader(src, 0, info.Size()), nil
}

// checkSource returns the bytes of src if they match digest, which must be valid.
func checkSource(ctx context.Context, digest string, src *os.File) (*io.SectionReader, error) {
	if err := checkDigest(digest); err != nil {
		return nil, err
	}
	bytes, err := whole(src)
	if err != nil {
		return nil, err
	}
	if err := match(ctx, bytes, digest); err != nil {
		return nil, err
	}
	return bytes, nil
}

// checkDigest returns fs.ErrInvalid if digest is not 64 lowercase hex digits.
// Only what has passed it becomes part of a path or of a key.
func checkDigest(digest string) error {
	ok := len(digest) == 2*sha256.Size && strings.Trim(digest, "0123456789abcdef") == ""
	if !ok {
		return fmt.Errorf("digest %.80q: %w: not 64 lowercase hex digits", digest, fs.ErrInvalid)
	}
	return nil
}

// blobPath returns where a blob lies, below the root of the store.
func blobPath(digest string) string {
	return "blobs/" + digest[:2] + "/" + digest
}

// quarantinePath returns where a blob with wrong bytes goes, each to its own place.
func quarantinePath(digest string) string {
	return "quarantine/" + digest + "." + rand.Text()
}

// attempts bounds every loop that tries again.
const attempts = 5
