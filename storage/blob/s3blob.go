package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/minio/minio-go/v7"
)

// The ranges that an s3Blob asks for grow while it is read on and on: a short
// piece costs little more than itself, a whole blob few requests.
const (
	firstRange = 1 << 20  // bytes
	lastRange  = 64 << 20 // bytes
)

// An s3Blob reads an object in ranges, and goes on where it was when a
// connection breaks.
type s3Blob struct {
	ctx    context.Context // that of Open: io.Reader has no place for one
	end    context.CancelCauseFunc
	store  *S3
	info   Info
	off    int64         // where the next Read begins
	length int64         // of the last range, 0 if the next is the first since Seek
	body   io.ReadCloser // what is left of the last range, nil if nothing is
	left   int64         // bytes that body still has
}

func (b *s3Blob) Size() int64        { return b.info.Size }
func (b *s3Blob) ModTime() time.Time { return b.info.ModTime }

func (b *s3Blob) Read(p []byte) (int, error) {
	if b.off >= b.info.Size {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	if b.store.patience > 0 {
		defer time.AfterFunc(b.store.patience, func() { b.end(ErrUnavailable) }).Stop()
	}
	for attempt := 0; ; attempt++ {
		n, err := b.readOn(p)
		if n > 0 {
			return n, nil // an error will come again, or will not
		}
		ended := refused(err) || attempt == attempts || pause(b.ctx, attempt) != nil
		if cause := context.Cause(b.ctx); cause != nil {
			err, ended = cause, true
		}
		if ended {
			return 0, fmt.Errorf("read blob %s: %w", b.info.Digest, s3Error(err))
		}
	}
}

// readOn reads from the open range, or else from the next one.
func (b *s3Blob) readOn(p []byte) (int, error) {
	if b.body == nil {
		if err := b.nextRange(); err != nil {
			return 0, err
		}
	}
	n, err := b.body.Read(p[:min(int64(len(p)), b.left)])
	b.off += int64(n)
	b.left -= int64(n)
	if b.left == 0 || err != nil {
		b.drop()
	}
	if n == 0 && err == nil {
		err = io.ErrNoProgress
	}
	return n, err
}

func (b *s3Blob) nextRange() error {
	length := min(max(2*b.length, firstRange), lastRange, b.info.Size-b.off)
	body, err := b.store.getRange(b.ctx, b.info.Digest, b.off, length)
	if err != nil {
		return err
	}
	b.body, b.left, b.length = body, length, length
	return nil
}

// getRange returns the bytes of the blob from off on, which must be length many.
func (s *S3) getRange(ctx context.Context, digest string, off, length int64) (io.ReadCloser, error) {
	var opts minio.GetObjectOptions
	if err := opts.SetRange(off, off+length-1); err != nil {
		return nil, err
	}
	body, o, header, err := s.core.GetObject(ctx, s.bucket, s.key(digest), opts)
	var e minio.ErrorResponse
	if errors.As(err, &e) && e.StatusCode == 0 {
		return nil, err // minio can't make sense of the answer, and has not tried again
	}
	if err != nil {
		return nil, s3Error(err)
	}
	var first int64
	_, err = fmt.Sscanf(header.Get("Content-Range"), "bytes %d-", &first)
	if err != nil || first != off || o.Size != length {
		body.Close()
		return nil, fmt.Errorf("server answered range %q of %d bytes, want %d bytes from %d", header.Get("Content-Range"), o.Size, length, off)
	}
	return body, nil
}

func (b *s3Blob) drop() {
	if b.body != nil {
		b.body.Close()
		b.body = nil
	}
}

// ReadAt implements io.ReaderAt with a reader of its own.
func (b *s3Blob) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read blob %s: %w: negative offset", b.info.Digest, fs.ErrInvalid)
	}
	size := max(min(b.info.Size, off+int64(len(p))), off)
	// To this reader the blob ends where p does, so it asks for no more.
	at := &s3Blob{store: b.store, info: b.info, off: off, length: lastRange}
	at.ctx, at.end = context.WithCancelCause(b.ctx)
	at.info.Size = size
	defer at.Close()
	n, err := io.ReadFull(at, p[:size-off])
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

func (b *s3Blob) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += b.off
	case io.SeekEnd:
		offset += b.info.Size
	}
	if offset < 0 {
		return 0, fmt.Errorf("seek blob %s: %w: negative offset", b.info.Digest, fs.ErrInvalid)
	}
	if offset != b.off {
		b.drop()
		b.off, b.length = offset, 0
	}
	return offset, nil
}

func (b *s3Blob) Close() error {
	b.drop()
	b.end(nil)
	return nil
}
