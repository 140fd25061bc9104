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
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Disk is a Store in a folder of a local file system, which must have hard
// links and flock(2). See Store for the contract.
//
// A blob is written in staging, synced, hashed, and then linked into place:
// link(2) either makes a name for the whole blob or fails because there is one.
// The folder is synced last. A crash before the link leaves a file in staging,
// a crash after it a blob that nobody names yet.
type Disk struct {
	dir     string // absolute
	root    *os.Root
	folder  *os.File // the root, for openat2(2)
	staging *Staging

	openSlowly atomic.Bool // there is no openat2(2)
}

// OpenDisk returns the store in the folder dir, and makes it if there is none.
// A store that is there can be opened, and read, on a read-only file system.
func OpenDisk(dir string) (*Disk, error) {
	if dir == "" {
		return nil, errors.New("open blob store: file:// names no folder")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open blob store: %w", err)
	}
	for _, sub := range []string{"blobs", "quarantine"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("open blob store: %w", diskError(err))
		}
	}
	staging, err := newStaging(filepath.Join(dir, "staging"))
	if err != nil {
		return nil, fmt.Errorf("open blob store: %w", err)
	}
	d, err := openFolder(dir)
	if err != nil {
		return nil, fmt.Errorf("open blob store: %w", diskError(err))
	}
	d.staging = staging
	return d, nil
}

// openFolder returns the store in a folder, to be read.
func openFolder(dir string) (*Disk, error) {
	root, err := os.OpenRoot(dir + "/") // a pipe is not waited for
	if err != nil {
		return nil, err
	}
	folder, err := root.Open(".")
	return &Disk{dir: dir, root: root, folder: folder}, err
}

// Put implements Store.
func (d *Disk) Put(ctx context.Context, digest string, src *os.File) error {
	if err := d.put(ctx, digest, src); err != nil {
		return fmt.Errorf("put blob: %w", diskError(err))
	}
	return nil
}

func (d *Disk) put(ctx context.Context, digest string, src *os.File) error {
	_, err := checkSource(ctx, digest, src)
	if err != nil {
		return err
	}
	for range attempts {
		if err = d.renew(ctx, digest); errors.Is(err, fs.ErrNotExist) {
			err = d.create(ctx, digest, src)
		}
		// Others put, quarantine and delete blobs at the same time.
		if !errors.Is(err, fs.ErrExist) {
			break
		}
	}
	return err
}

// renew makes the blob that is there young, if it is in order.
// It returns fs.ErrNotExist if there is none, or none any more.
func (d *Disk) renew(ctx context.Context, digest string) error {
	err := Verify(ctx, d, digest)
	if IsDamaged(err) {
		if err := d.Quarantine(ctx, digest); err != nil {
			return err
		}
		return fs.ErrNotExist
	}
	if err != nil {
		return err
	}
	if err := d.root.Chtimes(blobPath(digest), time.Time{}, time.Now()); err != nil {
		return err
	}
	// Who linked it may not have come to this yet.
	return d.syncFolders(digest)
}

// create links the bytes of src, which match digest, into place.
// It returns fs.ErrExist if a blob is there.
func (d *Disk) create(ctx context.Context, digest string, src *os.File) error {
	staged, ok := d.staged(src)
	if !ok {
		// Not ours: its owner may write to it later, or it lies on another file
		// system.
		stage, err := d.staging.New()
		if err != nil {
			return err
		}
		defer stage.Close()
		if src, err = stage.copy(ctx, src, digest); err != nil {
			return err
		}
		defer src.Close()
		staged, _ = d.staged(src)
	}
	if err := d.seal(staged, src); err != nil {
		return err
	}
	if err := d.link(staged, digest); err != nil {
		return err
	}
	return d.syncFolders(digest)
}

// staged returns the name of f below the root, if f lies in staging.
func (d *Disk) staged(f *os.File) (name string, ok bool) {
	below, ok := strings.CutPrefix(f.Name(), d.staging.dir+"/")
	if !ok {
		return "", false
	}
	name = "staging/" + below
	named, err := d.root.Lstat(name)
	if err != nil {
		return "", false
	}
	opened, err := f.Stat()
	return name, err == nil && os.SameFile(named, opened)
}

// seal makes the staged file read-only, young and durable.
func (d *Disk) seal(name string, f *os.File) error {
	if err := f.Chmod(0o444); err != nil {
		return err
	}
	if err := d.root.Chtimes(name, time.Time{}, time.Now()); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		// The kernel may have dropped what it could not write and taken the
		// pages for clean: another fsync would succeed. Without its name the
		// file can't be linked by whoever tries again; it will be copied.
		return errors.Join(err, d.root.Remove(name))
	}
	return nil
}

// link gives the staged file its name as a blob.
func (d *Disk) link(name, digest string) error {
	err := d.root.Link(name, blobPath(digest))
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// The first blob that begins with these digits.
	err = d.root.Mkdir(filepath.Dir(blobPath(digest)), 0o755)
	switch {
	case errors.Is(err, fs.ErrNotExist): // the folder of blobs is gone, as when its disk is not mounted
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	case err != nil && !errors.Is(err, fs.ErrExist):
		return err
	}
	return d.root.Link(name, blobPath(digest))
}

// syncFolders makes the name of the blob durable: its folder, and the folder
// of that, which may be new and not yet synced by whoever made it.
func (d *Disk) syncFolders(digest string) error {
	for _, name := range []string{filepath.Dir(blobPath(digest)), "blobs"} {
		f, err := d.root.Open(name)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// Open implements Store.
func (d *Disk) Open(ctx context.Context, digest string) (Blob, error) {
	b, err := d.open(ctx, digest)
	if err != nil {
		return nil, fmt.Errorf("open blob: %w", diskError(err))
	}
	return b, nil
}

func (d *Disk) open(ctx context.Context, digest string) (Blob, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err := checkDigest(digest); err != nil {
		return nil, err
	}
	f, err := d.openFile(digest)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: %w: not a regular file", digest, ErrMismatch)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return diskBlob{f, info}, nil
}

// openFile opens what has the name of a blob, and follows no link: somebody
// could let one blob's name lead to another blob.
func (d *Disk) openFile(digest string) (*os.File, error) {
	if d.openSlowly.Load() {
		return d.openLooked(digest)
	}
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK, // a pipe would be waited for
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	}
	var fd int
	err := error(unix.EAGAIN) // which it says of what is renamed meanwhile
	for try := 0; try < attempts && (err == unix.EAGAIN || err == unix.EINTR); try++ {
		fd, err = unix.Openat2(int(d.folder.Fd()), blobPath(digest), &how)
	}
	switch err {
	case nil:
		return os.NewFile(uintptr(fd), blobPath(digest)), nil
	case unix.ELOOP:
		return nil, fmt.Errorf("%s: %w: a link", digest, ErrMismatch)
	case unix.ENOSYS, unix.EPERM: // an old kernel, or a container's filter that does not know the call
		d.openSlowly.Store(true)
		return d.openLooked(digest)
	}
	return nil, &fs.PathError{Op: "open", Path: blobPath(digest), Err: err}
}

// openLooked is openFile where all that can be done is to look before and after.
func (d *Disk) openLooked(digest string) (*os.File, error) {
	info, err := d.lstat(digest)
	if err != nil {
		return nil, err
	}
	f, err := d.root.Open(blobPath(digest))
	if err != nil {
		return nil, err
	}
	opened, err := f.Stat()
	if err == nil && !os.SameFile(info, opened) {
		err = fmt.Errorf("%s: %w: it changed while it was opened", digest, ErrMismatch)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// lstat returns ErrMismatch for what is no regular file.
func (d *Disk) lstat(digest string) (fs.FileInfo, error) {
	if err := checkDigest(digest); err != nil {
		return nil, err
	}
	info, err := d.root.Lstat(blobPath(digest))
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w: not a regular file", digest, ErrMismatch)
	}
	return info, nil
}

// A diskBlob embeds its file so that net can find the descriptor and use
// sendfile(2).
type diskBlob struct {
	*os.File
	info fs.FileInfo
}

func (b diskBlob) Size() int64        { return b.info.Size() }
func (b diskBlob) ModTime() time.Time { return b.info.ModTime() }

// Stat returns the file as it was when it was opened.
func (b diskBlob) Stat() (fs.FileInfo, error) { return b.info, nil }

// Stat implements Store.
func (d *Disk) Stat(ctx context.Context, digest string) (Info, error) {
	info, err := d.lstat(digest)
	if err != nil {
		return Info{}, fmt.Errorf("stat blob: %w", diskError(err))
	}
	return Info{digest, info.Size(), info.ModTime()}, nil
}

// List implements Store.
func (d *Disk) List(ctx context.Context) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		for shard := range 256 {
			infos, err := d.listShard(ctx, fmt.Sprintf("%02x", shard))
			if err != nil {
				yield(Info{}, fmt.Errorf("list blobs: %w", diskError(err)))
				return
			}
			for _, info := range infos {
				if !yield(info, nil) {
					return
				}
			}
		}
	}
}

func (d *Disk) listShard(ctx context.Context, shard string) ([]Info, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	entries, err := fs.ReadDir(d.root.FS(), "blobs/"+shard)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var infos []Info
	for _, e := range entries {
		if checkDigest(e.Name()) != nil || e.Name()[:2] != shard || !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		infos = append(infos, Info{e.Name(), info.Size(), info.ModTime()})
	}
	return infos, nil
}

// Delete implements Store.
func (d *Disk) Delete(ctx context.Context, digest string) error {
	if err := checkDigest(digest); err != nil {
		return fmt.Errorf("delete blob: %w", err)
	}
	err := d.root.Remove(blobPath(digest))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete blob: %w", diskError(err))
	}
	return nil
}

// Quarantine implements Store. A blob that the disk fails to read (EIO) is taken
// for a wrong one.
func (d *Disk) Quarantine(ctx context.Context, digest string) error {
	if err := d.quarantine(ctx, digest); err != nil {
		return fmt.Errorf("quarantine blob: %w", diskError(err))
	}
	return nil
}

func (d *Disk) quarantine(ctx context.Context, digest string) error {
	// Only one at a time may look and then move, or the second would move what
	// has been repaired since it looked.
	lock, err := lockFolder(filepath.Join(d.dir, "quarantine"), unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer lock.Close()

	err = Verify(ctx, d, digest)
	if IsDamaged(err) {
		err = d.root.Rename(blobPath(digest), quarantinePath(digest))
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Restore implements Store.
func (d *Disk) Restore(ctx context.Context, digest string) error {
	if err := d.restore(ctx, digest); err != nil {
		return fmt.Errorf("restore blob: %w", diskError(err))
	}
	return nil
}

func (d *Disk) restore(ctx context.Context, digest string) error {
	if err := checkDigest(digest); err != nil {
		return err
	}
	names, err := fs.Glob(d.root.FS(), "quarantine/"+digest+".*")
	for _, name := range names {
		if d.matches(ctx, name, digest) {
			return errors.Join(d.root.Rename(name, blobPath(digest)), d.syncFolders(digest))
		}
	}
	return cmp.Or(err, ctx.Err(), fs.ErrNotExist)
}

// matches reports whether a file has the bytes of a digest.
func (d *Disk) matches(ctx context.Context, name, digest string) bool {
	if info, err := d.root.Lstat(name); err != nil || !info.Mode().IsRegular() {
		return false
	}
	f, err := d.root.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	return match(ctx, f, digest) == nil
}

// damaged reports whether err means that the blob's bytes are wrong or can't be
// read from the disk.
func IsDamaged(err error) bool {
	return errors.Is(err, ErrMismatch) || errors.Is(err, syscall.EIO)
}

// Sweep implements Store.
func (d *Disk) Sweep(ctx context.Context, age time.Duration) error {
	return d.staging.Sweep(ctx, age)
}

// Free implements Store. It returns ErrUnavailable if the folder of blobs is
// gone, as when its disk is not mounted.
func (d *Disk) Free(ctx context.Context) (int64, error) {
	if _, err := d.root.Stat("blobs"); err != nil {
		return 0, fmt.Errorf("free space of %s: %w: %v", d.dir, ErrUnavailable, err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(d.dir, &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", d.dir, diskError(err))
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

// diskError adds ErrFull or ErrUnavailable to what the system says.
func diskError(err error) error {
	var errno syscall.Errno
	if !errors.As(err, &errno) || errors.Is(err, ErrFull) || errors.Is(err, ErrUnavailable) {
		return err
	}
	switch errno {
	case syscall.ENOSPC, syscall.EDQUOT:
		return fmt.Errorf("%w: %w", ErrFull, err)
	case syscall.EROFS, syscall.EIO, syscall.EMFILE, syscall.ENFILE, syscall.ENOLCK, syscall.ESTALE:
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}
