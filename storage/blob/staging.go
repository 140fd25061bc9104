package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// A Staging is a local folder, outside all that is served, for files on their
// way into a store. It holds one Stage for each writer at work.
type Staging struct {
	dir string // absolute
}

// OpenStaging returns the staging folder of s if it has its own, as a Disk has,
// so that Put can link a staged file instead of copying it. For any other store
// it returns the one at dir, which it makes if there is none.
func OpenStaging(s Store, dir string) (*Staging, error) {
	if d, ok := s.(*Disk); ok {
		return d.staging, nil
	}
	return newStaging(dir)
}

func newStaging(dir string) (*Staging, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open staging: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open staging: %w", diskError(err))
	}
	return &Staging{dir}, nil
}

// A Stage is an empty folder of one writer, 0700, with a random name. It lives
// until Close, or as long as the process that made it: then Sweep may take it.
type Stage struct {
	Dir string // absolute

	// The folder itself, locked: the kernel lets go of the lock when the
	// process dies, however it dies, so that Sweep need not guess.
	lock *os.File
}

// New makes a Stage. The caller closes it.
func (s *Staging) New() (*Stage, error) {
	for {
		dir, err := os.MkdirTemp(s.dir, "stage-")
		if err != nil {
			return nil, fmt.Errorf("make stage: %w", diskError(err))
		}
		lock, err := lockFolder(dir, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && inPlace(dir, lock) {
			return &Stage{Dir: dir, lock: lock}, nil
		}
		if err == nil {
			lock.Close()
		} else if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("make stage: %w", errors.Join(diskError(err), os.Remove(dir)))
		}
		// A Sweep took it before it was locked.
	}
}

// inPlace reports whether the folder at dir is the open one.
func inPlace(dir string, open *os.File) bool {
	at, err := os.Lstat(dir)
	if err != nil {
		return false
	}
	is, err := open.Stat()
	return err == nil && os.SameFile(at, is)
}

// Close removes the folder and all that is in it.
func (s *Stage) Close() error {
	return errors.Join(os.RemoveAll(s.Dir), s.lock.Close())
}

// copy returns a new file in the stage with the bytes of src, which must match
// digest.
func (s *Stage) copy(ctx context.Context, src *os.File, digest string) (*os.File, error) {
	bytes, err := whole(src)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(s.Dir, "copy"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := match(ctx, io.TeeReader(bytes, f), digest); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Sweep removes each Stage that is older than age and whose process has died.
func (s *Staging) Sweep(ctx context.Context, age time.Duration) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("sweep staging: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// One that is gone by now has been closed.
		info, err := e.Info()
		if err != nil || time.Since(info.ModTime()) < age {
			continue
		}
		errs = append(errs, reclaim(filepath.Join(s.dir, e.Name())))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("sweep staging: %w", err)
	}
	return nil
}

// reclaim removes the stage at dir unless its process lives.
func reclaim(dir string) error {
	lock, err := lockFolder(dir, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	return os.RemoveAll(dir)
}

// lockFolder opens and locks dir as flock(2) with how. Closing unlocks.
func lockFolder(dir string, how int) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		f.Close()
		return nil, &os.PathError{Op: "flock", Path: dir, Err: err}
	}
	return f, nil
}
