// Package stored has what was published at hand: it serves the blobs that rows
// promise, and tells whether what is in memory may still be shown.
package stored

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/francescobianco/packbase/api/answer"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/blob"
)

// Blobs opens the blobs that rows promise. What is damaged or lost is never
// served, and told to the workers, which mend it.
type Blobs struct {
	db         *storage.DB
	Blobs      *blob.Checked
	Window     int // bytes to ask a blob for at once; 0 if that does not matter
	log        *slog.Logger
	complaints *lru.Cache[string, time.Time] // when a blob was last complained of
}

// New returns the blobs of a store, which are checked when they are read.
func New(db *storage.DB, blobs blob.Store, log *slog.Logger) *Blobs {
	complaints, _ := lru.New[string, time.Time](1024) // the error is about sizes below one
	return &Blobs{db: db, Blobs: blob.Check(blobs, openTimeout), Window: blob.Window(blobs), log: log, complaints: complaints}
}

const (
	// openTimeout is how long a store may take to open a blob, and to read it
	// if nobody has yet; after that, to give another byte of it.
	openTimeout = 15 * time.Second

	complainEvery   = 2 * time.Second // of one blob
	complainTimeout = 3 * time.Second
)

var errDamaged = &answer.Error{Status: http.StatusServiceUnavailable, Code: "damaged", RetryAfter: 30 * time.Second,
	Message: "the stored bytes are damaged or lost, and not served until they are mended; try again later"}

// Refuse returns what is answered instead of the blobs if one is known as damaged or lost: who sends several as one
// answer can only break off, once it has begun.
func (p *Blobs) Refuse(ctx context.Context, digests []string) error {
	damaged, err := p.db.Scrub.AnyDamaged(ctx, digests)
	if err == nil && damaged {
		err = errDamaged
	}
	return err
}

// Open opens a blob to be read anywhere.
func (p *Blobs) Open(ctx context.Context, digest string) (blob.Blob, error) {
	return p.with(ctx, digest, p.Blobs.Open)
}

// Stream opens a blob to be read once, from its beginning to its end.
func (p *Blobs) Stream(ctx context.Context, digest string) (blob.Blob, error) {
	return p.with(ctx, digest, p.Blobs.Stream)
}

func (p *Blobs) with(ctx context.Context, digest string, method func(context.Context, string) (blob.Blob, error)) (blob.Blob, error) {
	if b := p.Blobs.Hot(digest); b != nil {
		return b, nil
	}
	ctx, cancel := context.WithCancelCause(ctx) // ends with the request: the blob is read with it
	timer := time.AfterFunc(openTimeout, func() { cancel(blob.ErrUnavailable) })
	b, err := method(ctx, digest)
	if !timer.Stop() && err == nil {
		b.Close()
		err = blob.ErrUnavailable
	}
	switch cause := context.Cause(ctx); {
	case cause != nil:
		return nil, cause
	case err == nil || errors.Is(err, blob.ErrUnavailable):
		return b, err
	}
	if _, away := p.Blobs.Free(ctx); away != nil {
		return nil, fmt.Errorf("%w: %v", blob.ErrUnavailable, err)
	}
	if !errors.Is(err, blob.ErrMismatch) && !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New(err.Error()) // our fault, of no kind
	}
	p.complain(ctx, digest, err)
	return nil, fmt.Errorf("%w: %v", errDamaged, err)
}

// complain tells the workers of a blob that is damaged or lost. On an edge
// whose database cannot be written to, the log is all there is.
func (p *Blobs) complain(ctx context.Context, digest string, err error) {
	if at, ok := p.complaints.Get(digest); ok && time.Since(at) < complainEvery {
		return
	}
	p.complaints.Add(digest, time.Now())
	p.log.ErrorContext(ctx, "blob damaged", "digest", digest, "err", err)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), complainTimeout)
	defer cancel()
	if err := p.db.Scrub.Suspect(ctx, digest); err != nil {
		p.log.WarnContext(ctx, "damaged blob not noted", "digest", digest, "err", err)
	}
}

const immutable = "public, max-age=31536000, immutable"

// Cacheable is immutable for what anybody may read, and keeps all else out of
// caches that serve others.
func Cacheable(private bool) string {
	if private {
		return strings.Replace(immutable, "public", "private", 1)
	}
	return immutable
}

// Checked has caches ask each time whether what they keep is still so, and keeps what is private out of those that serve
// others.
func Checked(private bool) string {
	if private {
		return "private, no-cache"
	}
	return "no-cache"
}

// A File is a blob as an answer.
type File struct {
	Digest      string
	Size        int64     // that it must have; -1 if no row says so
	At          time.Time // when it was made; zero if that is of no use
	ContentType string
}

// TarballOf returns the tarball of a release.
func TarballOf(rel *storage.Release) File {
	return File{Digest: rel.Digest, Size: rel.Size, At: rel.CreatedAt, ContentType: "application/gzip"}
}

// ManifestOf returns the manifest of a release.
func ManifestOf(rel *storage.Release) File {
	return File{Digest: rel.ManifestDigest, Size: -1, At: rel.CreatedAt, ContentType: "application/json"}
}

// Serve answers with the bytes of a blob, or the part that is asked for.
func (p *Blobs) Serve(w http.ResponseWriter, r *http.Request, f File) error {
	open := p.Open
	if r.Header.Get("Range") == "" {
		open = p.Stream
	}
	body, err := open(r.Context(), f.Digest)
	if err != nil {
		return fmt.Errorf("open blob %s: %w", f.Digest, err)
	}
	defer body.Close()
	if f.Size >= 0 && body.Size() != f.Size {
		err := fmt.Errorf("it has %d bytes, not %d", body.Size(), f.Size)
		p.complain(r.Context(), f.Digest, err)
		return fmt.Errorf("%w: blob %s: %w", errDamaged, f.Digest, err)
	}
	h := w.Header()
	h.Set("Content-Type", f.ContentType)
	h.Set("ETag", `"`+f.Digest+`"`)
	h.Set("X-Content-Type-Options", "nosniff")
	// Many ranges at once cost more than they are good for, and units that are
	// not known are to be ignored. RFC 9110, section 14.2.
	if ranges := r.Header.Get("Range"); strings.Contains(ranges, ",") || !strings.HasPrefix(ranges, "bytes=") {
		r.Header.Del("Range")
	}
	late := &lateWriter{ResponseWriter: w}
	if p.Window > 0 { // in others who opens a blob can read it
		w = late
	}
	http.ServeContent(Uncached(w), r, "", f.At, body)
	damaged := blob.Damaged(body)
	if damaged != nil {
		// If it is too late for a status, the answer is shorter than its Content-Length,
		// for which the server closes the connection.
		p.complain(r.Context(), f.Digest, damaged)
	}
	if late.status > 0 && late.status < http.StatusMultipleChoices && body.Size() > 0 && r.Method != http.MethodHead {
		if damaged != nil {
			return fmt.Errorf("%w: %v", errDamaged, damaged)
		}
		return fmt.Errorf("read blob %s: %w", f.Digest, blob.ErrUnavailable)
	}
	late.begin()
	return nil
}

// A lateWriter promises nothing before it has a first byte.
type lateWriter struct {
	http.ResponseWriter
	status int // that was not written yet
}

func (l *lateWriter) WriteHeader(status int) { l.status = status }

func (l *lateWriter) Write(p []byte) (int, error) {
	l.begin()
	return l.ResponseWriter.Write(p)
}

func (l *lateWriter) begin() {
	if l.status > 0 {
		l.ResponseWriter.WriteHeader(l.status)
		l.status = 0
	}
}

// Uncached returns w as one of which no cache keeps what http.ServeContent refuses.
func Uncached(w http.ResponseWriter) http.ResponseWriter { return blobWriter{w} }

// A blobWriter keeps caches from what http.ServeContent refuses.
type blobWriter struct{ http.ResponseWriter }

func (b blobWriter) WriteHeader(status int) {
	if status >= http.StatusBadRequest {
		b.Header().Set("Cache-Control", "no-store")
	}
	b.ResponseWriter.WriteHeader(status)
}

// ReadFrom keeps sendfile(2) in reach, and what is in memory from being copied.
func (b blobWriter) ReadFrom(src io.Reader) (int64, error) {
	if part, ok := src.(*io.LimitedReader); ok {
		if mem, ok := part.R.(interface {
			io.WriterTo
			Len() int
		}); ok && int64(mem.Len()) <= part.N {
			n, err := mem.WriteTo(b.ResponseWriter)
			part.N -= n
			return n, err
		}
	}
	return io.Copy(b.ResponseWriter, src)
}
