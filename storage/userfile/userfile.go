// Package userfile reads files that a setting or an argument names, or that lie in a folder of somebody else's. It hides what may lie there besides a file: nothing waits for a
// pipe that nobody writes to, and nothing is read that is larger than it may be.
package userfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Open opens a file. Below /dev it may be a device or a pipe, as in --from /dev/stdin, or <(command) in a shell.
func Open(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case info.IsDir():
		err = &fs.PathError{Op: "open", Path: name, Err: syscall.EISDIR}
	case !info.Mode().IsRegular() && !strings.HasPrefix(name, "/dev/"):
		err = &fs.PathError{Op: "open", Path: name, Err: errors.New("it is no regular file")}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Read returns what a file has, at most so many bytes.
func Read(name string, most int64) ([]byte, error) {
	f, err := Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	tooLarge := fmt.Errorf("%s has more than %d bytes", name, most)
	if info, err := f.Stat(); err == nil && info.Size() > most { // else it takes most bytes to find out
		return nil, tooLarge
	}
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = tooLarge
	}
	return b, err
}

// A Folder is an fs.FS of the files in a folder to which others may write. They are read as a whole.
type Folder struct {
	Dir  string
	Most int64 // bytes that a file may have
}

// Open implements fs.FS.
func (f Folder) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	return Open(filepath.Join(f.Dir, name))
}

// ReadFile implements fs.ReadFileFS.
func (f Folder) ReadFile(name string) ([]byte, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	return Read(filepath.Join(f.Dir, name), f.Most)
}

// MaxText is more than a key, a token, credentials or a list of witnesses has, in bytes.
const MaxText = 1 << 20
