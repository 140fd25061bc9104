package blob

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
)

// An over is a Store that reads what another one has, and writes to its own.
type over struct {
	*Disk
	below *Disk
}

// Over returns the store of who may read below, and not write there: what is
// missing or damaged there is put into own, which is asked first. What lies below
// is another's to look after: Delete refuses it, and Quarantine leaves it.
func Over(own, below *Disk) Store { return &over{own, below} }

// ReadDisk returns the store in the folder dir for reading. It makes nothing in
// it: blobs may come later.
func ReadDisk(dir string) (*Disk, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open blob store: %w", err)
	}
	d, err := openFolder(dir)
	if err != nil {
		return nil, fmt.Errorf("open blob store: %w", diskError(err))
	}
	return d, nil
}

// Folder returns the folder of s, "" if s is none.
func Folder(s Store) string {
	if d, ok := s.(*Disk); ok {
		return d.dir
	}
	return ""
}

// Put implements Store.
func (o *over) Put(ctx context.Context, digest string, src *os.File) error {
	if _, err := checkSource(ctx, digest, src); err != nil {
		return fmt.Errorf("put blob: %w", err)
	}
	if _, err := o.Disk.Stat(ctx, digest); errors.Is(err, fs.ErrNotExist) && Verify(ctx, o.below, digest) == nil {
		return nil
	}
	return o.Disk.Put(ctx, digest, src)
}

// Open implements Store.
func (o *over) Open(ctx context.Context, digest string) (Blob, error) {
	b, err := o.Disk.Open(ctx, digest)
	if errors.Is(err, fs.ErrNotExist) {
		return o.below.Open(ctx, digest)
	}
	return b, err
}

// Stat implements Store.
func (o *over) Stat(ctx context.Context, digest string) (Info, error) {
	info, err := o.Disk.Stat(ctx, digest)
	if errors.Is(err, fs.ErrNotExist) {
		return o.below.Stat(ctx, digest)
	}
	return info, err
}

// List implements Store.
func (o *over) List(ctx context.Context) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		next, stop := iter.Pull2(o.below.List(ctx))
		defer stop()
		there, err, more := next()
		for own, ownErr := range o.Disk.List(ctx) {
			for ; more && err == nil && there.Digest < own.Digest; there, err, more = next() {
				if !yield(there, nil) {
					return
				}
			}
			if more && err == nil && there.Digest == own.Digest {
				there, err, more = next()
			}
			if ownErr = cmp.Or(ownErr, err); !yield(own, ownErr) || ownErr != nil {
				return
			}
		}
		for ; more; there, err, more = next() {
			if !yield(there, err) {
				return
			}
		}
	}
}

// ErrOthers says that a blob cannot be deleted from here.
var ErrOthers = errors.New("which is another packbase's")

// Delete implements Store.
func (o *over) Delete(ctx context.Context, digest string) error {
	if err := o.Disk.Delete(ctx, digest); err != nil {
		return err
	}
	if _, err := o.below.Stat(ctx, digest); err == nil {
		return fmt.Errorf("delete blob: %w: %s lies in %s, %w", ErrUnavailable, digest, o.below.dir, ErrOthers)
	}
	return nil
}
