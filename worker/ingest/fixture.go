package ingest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/zigpkg"
)

// fixtureTime is the commit time of fixtures, so that the same folder gives
// the same ids everywhere.
var fixtureTime = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

// A fixture is a plain source tree. Its one tag is "v" and the version of its
// build.zig.zon, else v0.1.0.
type fixture struct {
	req    Request
	folder *os.Root
	tag    string
	commit gitpack.OID
	spool  *os.File // of whole; nil before that
}

func openFixture(req Request, folder *os.Root) (source, error) {
	f := &fixture{req: req, folder: folder, tag: "v0.1.0"}
	src, err := folder.ReadFile(zigpkg.ManifestName)
	if err == nil {
		if man, err := zigpkg.ParseManifest(src); err == nil {
			f.tag = "v" + man.Version
		}
	}
	// The commit's id needs the objects; they are made again when asked for.
	spool, err := os.CreateTemp(req.Dir, "fixture")
	if err != nil {
		return nil, fmt.Errorf("make spool: %w", err)
	}
	defer os.Remove(spool.Name())
	defer spool.Close()
	_, err = f.load(spool)
	return f, err
}

func (f *fixture) close() {
	f.folder.Close()
	if f.spool != nil {
		f.spool.Close()
		os.Remove(f.spool.Name())
	}
}

func (f *fixture) whole() (objects *gitpack.Objects, head string, err error) {
	if f.spool, err = os.CreateTemp(f.req.Dir, "fixture"); err != nil {
		return nil, "", fmt.Errorf("make spool: %w", err)
	}
	objects, err = f.load(f.spool)
	return objects, branchPrefix + "main", err
}

func (f *fixture) refs() sourceRefs {
	return sourceRefs{
		tags:     map[string]gitpack.OID{f.tag: f.commit},
		branches: map[string]gitpack.OID{"main": f.commit},
	}
}

func (f *fixture) objects(_ context.Context, _ []gitpack.OID, spool *os.File) (*gitpack.Objects, error) {
	return f.load(spool)
}

// load stores the folder as one commit.
func (f *fixture) load(spool *os.File) (*gitpack.Objects, error) {
	objects := gitpack.NewObjects(spool)
	var files []gitpack.File
	err := fs.WalkDir(f.folder.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return nil
		}
		file, err := f.add(objects, name, d)
		files = append(files, file)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read fixture: %w", err)
	}
	tree, err := objects.WriteTree(files, nil)
	if err != nil {
		return nil, err
	}
	who := fmt.Sprintf("packbase <packbase@localhost> %d +0000", fixtureTime.Unix())
	raw := fmt.Sprintf("tree %s\nauthor %s\ncommitter %s\n\n%s %s\n", tree, who, who, f.req.Package, f.tag)
	f.commit, err = objects.Add(gitpack.Commit, int64(len(raw)), strings.NewReader(raw))
	return objects, err
}

// add stores a file of the folder.
func (f *fixture) add(objects *gitpack.Objects, name string, d fs.DirEntry) (gitpack.File, error) {
	info, err := d.Info()
	if err != nil {
		return gitpack.File{}, err
	}
	file := gitpack.File{Path: name, Mode: gitpack.ModeFile, Size: info.Size()}
	switch {
	case info.Mode().Type() == fs.ModeSymlink:
		target, err := f.folder.Readlink(name)
		if err != nil {
			return file, err
		}
		file.Mode, file.Size = gitpack.ModeSymlink, int64(len(target))
		file.OID, err = objects.Add(gitpack.Blob, file.Size, strings.NewReader(target))
		return file, err
	case !info.Mode().IsRegular():
		return file, fmt.Errorf("%s is neither a file nor a symlink", name)
	case info.Mode()&0o100 != 0:
		file.Mode = gitpack.ModeExecutable
	}
	body, err := f.folder.Open(name)
	if err != nil {
		return file, err
	}
	defer body.Close()
	file.OID, err = objects.Add(gitpack.Blob, file.Size, body)
	return file, err
}

// fixtureCopy is the fixture in the child's folder: it is copied before the
// child gives up all other files.
const fixtureCopy = "fixture"

// copyFixture copies the fixture that req names, if it names one, without what
// Git and Zig keep in a folder of theirs.
func copyFixture(req Request) error {
	name, ok := strings.CutPrefix(req.CloneURL, name.FixtureScheme)
	if !ok {
		return nil
	}
	from, err := openFixtureFolder(req, name)
	if err != nil {
		return err
	}
	defer from.Close()
	left := req.Limits.Git.InflatedBytes
	err = fs.WalkDir(unwaiting{from}, ".", func(name string, d fs.DirEntry, err error) error {
		to := filepath.Join(req.Dir, fixtureCopy, name)
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == ".zig-cache" || d.Name() == "zig-out"):
			return fs.SkipDir
		case d.Name() == ".git":
			return nil // of a worktree or a submodule: where its repository lies
		case d.IsDir():
			return os.Mkdir(to, 0o700)
		case d.Type() == fs.ModeSymlink:
			target, err := from.Readlink(name)
			return errors.Join(err, os.Symlink(target, to))
		case !d.Type().IsRegular():
			return unfit(name)
		}
		n, err := copyFile(from, name, to, left)
		left -= n
		return err
	})
	if err != nil {
		return fmt.Errorf("copy fixture: %w", err)
	}
	return nil
}

func unfit(name string) error {
	return fault.New("fixture_unfit", fmt.Sprintf("%q in the fixture is neither a file nor a folder nor a symlink; take it out", name))
}

// An unwaiting folder may be changed while it is read: what became a pipe since it was listed is opened without waiting for
// somebody to write to it.
type unwaiting struct{ *os.Root }

func (f unwaiting) Open(name string) (fs.File, error) { return f.open(name) }

func (f unwaiting) open(name string) (*os.File, error) {
	return f.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
}

// copyFile copies a file of at most so many bytes, and returns how many they were.
func copyFile(folder *os.Root, name, to string, most int64) (n int64, err error) {
	src, err := unwaiting{folder}.open(name)
	if err != nil {
		return 0, err
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, unfit(name)
	}
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600|info.Mode()&0o100)
	if err != nil {
		return 0, err
	}
	if n = info.Size(); n <= most {
		n, err = io.Copy(dst, io.LimitReader(src, most+1)) // it may grow
	}
	if err == nil && n > most {
		err = fault.New(gitpack.CodeInflatedTooLarge, fmt.Sprintf("the files of the fixture, with %q, have more bytes than PACKBASE_MAX_INFLATED allows", name))
	}
	return n, errors.Join(err, dst.Close())
}
