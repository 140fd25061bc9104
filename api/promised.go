package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/blob"
)

// promised opens the blobs that rows promise. What is damaged or lost is never
// served, and told to the workers, which mend it.
type promised struct {
	db    *storage.DB
	blobs *blob.Checked
	log   *slog.Logger
	told  *lru.Cache[string, time.Time] // when a blob was last complained of
}

func newPromised(db *storage.DB, blobs *blob.Checked, log *slog.Logger) *promised {
	told, _ := lru.New[string, time.Time](1024) // the error is about sizes below one
	return &promised{db: db, blobs: blobs, log: log, told: told}
}

const (
	// openTimeout is how long a store may take to open a blob, and to read it
	// if nobody has yet.
	openTimeout = 15 * time.Second

	complainEvery   = 2 * time.Second // of one blob
	complainTimeout = 3 * time.Second
)

var errDamaged = &Error{Status: http.StatusServiceUnavailable, Code: "damaged", RetryAfter: 30 * time.Second,
	Message: "the stored bytes are damaged or lost, and not served until they are mended; try again later"}

// open opens a blob to be read anywhere.
func (p *promised) open(ctx context.Context, digest string) (blob.Blob, error) {
	return p.with(ctx, digest, p.blobs.Open)
}

// stream opens a blob to be read once, from its beginning to its end.
func (p *promised) stream(ctx context.Context, digest string) (blob.Blob, error) {
	return p.with(ctx, digest, p.blobs.Stream)
}

func (p *promised) with(ctx context.Context, digest string, method func(context.Context, string) (blob.Blob, error)) (blob.Blob, error) {
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
	if _, away := p.blobs.Free(ctx); away != nil {
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
func (p *promised) complain(ctx context.Context, digest string, err error) {
	if at, ok := p.told.Get(digest); ok && time.Since(at) < complainEvery {
		return
	}
	p.told.Add(digest, time.Now())
	p.log.ErrorContext(ctx, "blob damaged", "digest", digest, "err", err)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), complainTimeout)
	defer cancel()
	if err := p.db.Scrub.Suspect(ctx, digest); err != nil {
		p.log.WarnContext(ctx, "damaged blob not noted", "digest", digest, "err", err)
	}
}
