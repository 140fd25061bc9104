package engines

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// LockRoot makes root if need be and claims it for this process, until unlock
// is first called or the process ends in whatever way. It never waits: if another
// process has the lock, the error names root and that process.
func LockRoot(root string) (unlock func() error, err error) {
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, fmt.Errorf("lock %s: %w", root, err)
	}
	return lock(filepath.Join(root, "lock"))
}

// lock claims path, making the file if need be, and writes our pid into it.
// The file stays: removing it would let two processes lock two files.
func lock(path string) (unlock func() error, err error) {
	dir := filepath.Dir(path)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		defer f.Close()
		return nil, fmt.Errorf("lock %s: in use by process %s", dir, firstWord(f))
	case err != nil:
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	if err := rewrite(f, fmt.Sprintln(os.Getpid())); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	// Closing is not enough: a child that is being started has a copy of f until
	// its exec.
	return sync.OnceValue(func() error { return errors.Join(unix.Flock(int(f.Fd()), unix.LOCK_UN), f.Close()) }), nil
}

// rewrite makes s the content of f.
func rewrite(f *os.File, s string) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(s), 0)
	return err
}

// firstWord returns the first word of a small file, which in lock and pid
// files is a pid, or "unknown".
func firstWord(f *os.File) string {
	buf := make([]byte, 64)
	n, _ := f.ReadAt(buf, 0) // io.EOF, as the file is shorter
	if words := strings.Fields(string(buf[:n])); len(words) > 0 {
		return words[0]
	}
	return "unknown"
}
