package worker

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/francescobianco/packbase/storage/fault"
)

// unstage moves a file that the child staged out of its reach, into f.dir, and
// opens it there. The child may be under the control of upstream: its name
// leads nowhere else, it is a regular file with one name and no more bytes
// than the limit, and nobody can write to it any more.
func (f *fetch) unstage(name string) (*os.File, error) {
	refuse := func(why string) error {
		return fault.New("ingest_failed", "the process that reads upstream staged "+why+"; the worker's log has the details").AsFinal()
	}
	if name != filepath.Base(name) || name == "." || name == ".." {
		return nil, refuse("a file outside of its folder")
	}
	taken := filepath.Join(f.dir, "staged-"+name)
	if err := os.Rename(filepath.Join(f.staged, name), taken); err != nil {
		return nil, fmt.Errorf("take staged file: %w", err)
	}
	file, err := os.OpenFile(taken, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) {
		return nil, refuse("what is not a file")
	}
	if err != nil {
		return nil, fmt.Errorf("take staged file: %w", err)
	}
	var st unix.Stat_t
	err = unix.Fstat(int(file.Fd()), &st)
	switch {
	case err != nil:
		err = fmt.Errorf("take staged file: %w", err)
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		err = refuse("what is not a file")
	case st.Nlink != 1:
		err = refuse("a file with another name")
	case st.Size > f.w.opt.Limits.File:
		err = refuse("a file larger than the limit")
	case int(st.Uid) != os.Geteuid():
		err = own(file)
	}
	if err == nil {
		file, err = f.still(file)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// own makes the file ours.
func own(file *os.File) error {
	if err := file.Chown(os.Geteuid(), os.Getegid()); err != nil {
		return fmt.Errorf("take staged file: %w", err)
	}
	if err := file.Chmod(0o600); err != nil {
		return fmt.Errorf("take staged file: %w", err)
	}
	return nil
}

// still returns the file if nobody has it open for writing, else a copy: the
// kernel leases a file to a reader only if it has no writers. fcntl(2),
// "Leases".
func (f *fetch) still(file *os.File) (*os.File, error) {
	if _, err := unix.FcntlInt(file.Fd(), unix.F_SETLEASE, unix.F_RDLCK); err == nil {
		_, err = unix.FcntlInt(file.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
		return file, err
	}
	fresh, err := os.CreateTemp(f.dir, "copy-*")
	if err != nil {
		return file, fmt.Errorf("copy staged file: %w", err)
	}
	if _, err := io.Copy(fresh, io.LimitReader(file, f.w.opt.Limits.File)); err != nil {
		return file, errors.Join(fmt.Errorf("copy staged file: %w", err), fresh.Close())
	}
	if _, err := fresh.Seek(0, io.SeekStart); err != nil {
		return file, errors.Join(err, fresh.Close())
	}
	return fresh, errors.Join(os.Remove(file.Name()), file.Close())
}
