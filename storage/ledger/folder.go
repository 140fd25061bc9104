package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sys/unix"

	"github.com/francescobianco/packbase/storage/logbook"
	"github.com/francescobianco/packbase/storage/userfile"
)

// A Folder has the log as files, at the paths below /log/ at which they are served: any server of static files will do.
// All but the checkpoints and the policy never change.
type Folder struct{ Dir string }

// signedFile has the checkpoint that was signed last, before anybody is shown it: the database, a witness or a reader. What
// they have seen, the folder has, so a database of an earlier time can go on from it.
const signedFile = "checkpoint.signed"

// FolderBeside returns the folder of the log beside the blobs in a folder.
func FolderBeside(blobs string) Folder { return Folder{filepath.Join(blobs, "log")} }

// files are those of the folder, to be read.
func (f Folder) files() userfile.Folder { return userfile.Folder{Dir: f.Dir, Most: logbook.MaxFile} }

// lock has one process at a time write the folder, which is made if it is not there. It returns errBusy if one does.
func (f Folder) lock() (unlock func() error, err error) {
	if err := os.MkdirAll(f.Dir, 0o755); err != nil {
		return nil, err
	}
	d, err := os.Open(f.Dir)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = errBusy
	}
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d.Close, nil
}

// Checkpoint returns the checkpoint, nil if there is none.
func (f Folder) Checkpoint() ([]byte, error) {
	signed, err := f.files().ReadFile(logbook.CheckpointFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return signed, err
}

// Signed returns the checkpoint of the largest tree that was signed, be it shown yet or not; nil if there is none.
func (f Folder) Signed() ([]byte, error) {
	shown, err := f.Checkpoint()
	if err != nil {
		return nil, err
	}
	signed, err := f.files().ReadFile(signedFile)
	if errors.Is(err, fs.ErrNotExist) {
		return shown, nil
	}
	if err != nil || sizeOf(signed) <= sizeOf(shown) {
		return shown, err
	}
	return signed, nil
}

// sizeOf returns how many entries a checkpoint says that its tree has, be it signed by whomever; -1 if it is none.
func sizeOf(checkpoint []byte) int64 {
	text, _, _ := strings.Cut(string(checkpoint), "\n\n")
	c, err := torchwood.ParseCheckpoint(text + "\n")
	if err != nil {
		return -1
	}
	return c.N
}

// open returns the tiles of a tree that the folder shows, and the hash of that tree as it was when it had so many entries.
func (f Folder) open(ctx context.Context, shown tlog.Tree, size int64) (torchwood.TileReader, tlog.Hash, error) {
	tiles, err := torchwood.NewTileFS(f.files())
	if err != nil {
		return nil, tlog.Hash{}, err
	}
	hash, err := tlog.TreeHash(size, torchwood.TileHashReaderWithContext(ctx, shown, tiles))
	return tiles, hash, err
}

// partialAge is how long the tiles of older checkpoints that were not full stay, for readers that have such a checkpoint.
const partialAge = time.Hour

// writeTiles writes tiles, each durably, and removes partial ones that nobody needs any more.
func (f Folder) writeTiles(tiles []tlog.Tile, data func(tlog.Tile) ([]byte, error)) error {
	folders := map[string]bool{}
	for _, t := range tiles {
		b, err := data(t)
		if err != nil {
			return err
		}
		name := filepath.Join(f.Dir, torchwood.TilePath(t))
		if err := writeFile(name, b, folders); err != nil {
			return err
		}
		if err := tidy(t, name); err != nil {
			return err
		}
	}
	for folder := range folders {
		if err := syncFolder(folder); err != nil {
			return err
		}
	}
	return nil
}

// tidy removes partial tiles: old ones beside the one of that name, and those of the tile before a full one.
func tidy(t tlog.Tile, name string) error {
	folder, age := filepath.Dir(name), partialAge
	if t.W == torchwood.TileWidth {
		if t.N == 0 {
			return nil
		}
		before := t
		before.N--
		folder = filepath.Join(strings.TrimSuffix(name, torchwood.TilePath(t)), torchwood.TilePath(before)) + ".p"
		age = 0
	}
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if info, bad := e.Info(); bad == nil && time.Since(info.ModTime()) > age {
			err = errors.Join(err, os.Remove(filepath.Join(folder, e.Name())))
		}
	}
	if age == 0 {
		err = errors.Join(err, os.Remove(folder))
	}
	return err
}

// writeFile has a file with those bytes under a name, whole or not at all. Folders that have to be synced are noted.
func writeFile(name string, data []byte, folders map[string]bool) error {
	folder := filepath.Dir(name)
	if err := makeFolder(folder, folders); err != nil {
		return err
	}
	folders[folder] = true
	if was, err := userfile.Read(name, logbook.MaxFile); err == nil && bytes.Equal(was, data) {
		return nil
	}
	tmp, err := os.CreateTemp(folder, ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), name)
}

// makeFolder makes a folder and those above it, and notes which have to be synced for that.
func makeFolder(folder string, folders map[string]bool) error {
	err := os.Mkdir(folder, 0o755)
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeFolder(filepath.Dir(folder), folders); err == nil {
			err = os.Mkdir(folder, 0o755)
		}
	}
	if err == nil {
		folders[filepath.Dir(folder)] = true
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func syncFolder(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// replace writes a file that may be there already, durably.
func (f Folder) replace(name string, data []byte) error {
	folders := map[string]bool{}
	err := writeFile(filepath.Join(f.Dir, name), data, folders)
	for folder := range folders {
		if err == nil {
			err = syncFolder(folder)
		}
	}
	if err != nil {
		return fmt.Errorf("write %s of the log: %w", name, err)
	}
	return nil
}
