// Package zigcache writes packages into Zig's global cache, so that Zig builds without a network.
//
// Zig up to 0.15 looks for the folder p/<hash>, with what the manifest's .paths include, and believes it.
// Zig 0.16 and later look for p/<hash>.tar.gz, which may be any gzipped tar that unpacks to the hash, and
// hash it again. <hash> is what the dependent's manifest says, in either form. Both fit into one cache.
// Source: lib/compiler/Maker/Fetch.zig of Zig 0.17.1, src/Package/Fetch.zig before.
package zigcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/francescobianco/packbase/storage/archive"
	"github.com/francescobianco/packbase/storage/userfile"
	"github.com/francescobianco/packbase/storage/zigpkg"
)

// ErrMismatch says that a tarball does not unpack to the hash that it is to be stored under.
var ErrMismatch = errors.New("the files do not have the hash")

// A Cache is a global cache of Zig.
type Cache struct {
	Dir      string // as "zig env" calls it global_cache_dir
	Folders  bool   // write for Zig up to 0.15
	Archives bool   // write for Zig 0.16 and later
}

// Has tells whether all that is wanted for the hash is there.
func (c Cache) Has(hash string) bool {
	return (!c.Folders || exists(c.Folder(hash))) && (!c.Archives || exists(c.Tarball(hash)))
}

// Folder is where the package with a hash lies unpacked, if it does, and Tarball where its tarball does.
func (c Cache) Folder(hash string) string  { return filepath.Join(c.Dir, "p", hash) }
func (c Cache) Tarball(hash string) string { return filepath.Join(c.Dir, "p", hash+".tar.gz") }

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

// Put stores a package from its tarball, a tar.gz of size bytes, under a hash that Zig can have written.
// It returns ErrMismatch if the tarball is of another package, and errors of package archive. What is there
// is left as it is; what is stored appears as a whole or not at all.
func (c Cache) Put(ctx context.Context, hash string, tarball io.ReaderAt, size int64) (err error) {
	if err := zigpkg.ValidHash(hash); err != nil {
		return err // it becomes a file's name
	}
	if err := os.MkdirAll(filepath.Join(c.Dir, "p"), 0o755); err != nil {
		return fmt.Errorf("make cache: %w", err)
	}
	// Zig renames from here, too: it is on the same disk.
	if err := os.MkdirAll(filepath.Join(c.Dir, "tmp"), 0o755); err != nil {
		return fmt.Errorf("make cache: %w", err)
	}
	tmp, err := os.MkdirTemp(filepath.Join(c.Dir, "tmp"), "packbase-")
	if err != nil {
		return fmt.Errorf("make cache: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	scratch, err := os.Create(filepath.Join(tmp, "scratch"))
	if err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	defer scratch.Close()
	pkg, man, err := unpack(ctx, hash, tarball, size, scratch)
	if err != nil {
		return err
	}
	if c.Folders && !exists(c.Folder(hash)) {
		if err := c.putFolder(pkg, man, filepath.Join(tmp, "package"), hash); err != nil {
			return fmt.Errorf("unpack %s: %w", hash, err)
		}
	}
	if c.Archives && !exists(c.Tarball(hash)) {
		if err := c.putArchive(io.NewSectionReader(tarball, 0, size), filepath.Join(tmp, "tarball"), hash); err != nil {
			return fmt.Errorf("store %s: %w", hash, err)
		}
	}
	return nil
}

// unpack unpacks a tarball that has the hash.
func unpack(ctx context.Context, hash string, tarball io.ReaderAt, size int64, scratch *os.File) (*archive.Package, *zigpkg.Manifest, error) {
	pkg, err := archive.Unpack(ctx, tarball, size, archive.TarGz, scratch)
	if err != nil {
		return nil, nil, err
	}
	man, sum, err := pkg.Describe()
	if err == nil && hash != sum.Hash && hash != sum.Legacy {
		err = fmt.Errorf("%w %s, they have %s", ErrMismatch, hash, sum.Hash)
	}
	return pkg, man, err
}

// Check is Put for who stores nothing. It returns what the package depends on.
func Check(ctx context.Context, hash string, tarball io.ReaderAt, size int64) (deps []zigpkg.Dependency, err error) {
	scratch, err := os.CreateTemp("", "packbase-check-*")
	if err != nil {
		return nil, fmt.Errorf("unpack: %w", err)
	}
	defer scratch.Close()
	if err := os.Remove(scratch.Name()); err != nil {
		return nil, fmt.Errorf("unpack: %w", err)
	}
	_, man, err := unpack(ctx, hash, tarball, size, scratch)
	if err != nil || man == nil { // without a manifest it has no dependencies
		return nil, err
	}
	return man.Dependencies, nil
}

// PutProof stores a proof that a package is in a log beside it, in place of an older one. Zig takes no notice of it.
func (c Cache) PutProof(hash string, proof []byte) error {
	err := zigpkg.ValidHash(hash)
	if err == nil {
		err = os.MkdirAll(filepath.Join(c.Dir, "p"), 0o755)
	}
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Join(c.Dir, "p"), ".packbase-")
	if err != nil {
		return fmt.Errorf("store proof: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(proof)
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), c.proof(hash))
	}
	if err != nil {
		return fmt.Errorf("store proof: %w", err)
	}
	return nil
}

// maxProof is more than any proof has, in bytes.
const maxProof = 1 << 20

// Proof returns the proof of a package, nil if there is none.
func (c Cache) Proof(hash string) ([]byte, error) {
	proof, err := userfile.Read(c.proof(hash), maxProof)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("no proof, remove it: %w", err)
	}
	return proof, nil
}

func (c Cache) proof(hash string) string { return filepath.Join(c.Dir, "p", hash+".tlog-proof") }

func (c Cache) putFolder(pkg *archive.Package, man *zigpkg.Manifest, tmp, hash string) error {
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(tmp)
	if err != nil {
		return err
	}
	defer root.Close()
	buf := make([]byte, 64<<10) // most files are smaller: one read, one write
	for _, f := range pkg.Files {
		if !man.Includes(f.Path) {
			continue
		}
		if err := putFile(root, pkg, f, buf); err != nil {
			return err
		}
	}
	return appear(tmp, c.Folder(hash))
}

func putFile(root *os.Root, pkg *archive.Package, f archive.File, buf []byte) error {
	if dir := path.Dir(f.Path); dir != "." {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if f.Link {
		return root.Symlink(f.Target, f.Path)
	}
	content := pkg.Open(f)
	n, err := io.ReadFull(content, buf)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	mode := fs.FileMode(0o644)
	if executable(buf[:min(n, 4)]) {
		mode = 0o755
	}
	out, err := root.OpenFile(f.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = out.Write(buf[:n])
	if err == nil && n == len(buf) {
		_, err = io.CopyBuffer(struct{ io.Writer }{out}, content, buf)
	}
	return errors.Join(err, out.Close())
}

// executable tells whether Zig makes a file with such a beginning executable: scripts, ELF, Mach-O.
func executable(magic []byte) bool {
	if bytes.HasPrefix(magic, []byte("#!")) {
		return true
	}
	switch string(magic) {
	case "\x7fELF",
		"\xfe\xed\xfa\xce", "\xfe\xed\xfa\xcf", "\xca\xfe\xba\xbe", "\xca\xfe\xba\xbf",
		"\xce\xfa\xed\xfe", "\xcf\xfa\xed\xfe", "\xbe\xba\xfe\xca", "\xbf\xba\xfe\xca":
		return true
	}
	return false
}

func (c Cache) putArchive(tarball io.Reader, tmp, hash string) error {
	out, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, tarball)
	if err := errors.Join(err, out.Close()); err != nil {
		return err
	}
	return appear(tmp, c.Tarball(hash))
}

// appear gives a finished file or folder its name. If another process was faster, its work stays.
func appear(tmp, name string) error {
	err := os.Rename(tmp, name)
	if err != nil && exists(name) {
		return nil
	}
	return err
}
