package release

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"

	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/tarball"
)

// entries yields the tarball's entries, in Git's order.
func entries(objects *gitpack.Objects, tree gitpack.Listing) iter.Seq2[tarball.Entry, error] {
	return func(yield func(tarball.Entry, error) bool) {
		dirs := tree.Dirs
		for _, f := range tree.Files {
			for len(dirs) > 0 && dirs[0].Path+"/" < f.Path {
				dir := tarball.Entry{Path: dirs[0].Path, Mode: tarball.Directory, OID: dirs[0].OID.String()}
				if !yield(dir, nil) {
					return
				}
				dirs = dirs[1:]
			}
			e, err := fileEntry(objects, f)
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

func fileEntry(objects *gitpack.Objects, f gitpack.File) (e tarball.Entry, err error) {
	e = tarball.Entry{Path: f.Path, OID: f.OID.String()}
	switch {
	case f.Mode == gitpack.ModeSubmodule:
		e.Mode = tarball.Submodule
	case f.Mode == gitpack.ModeSymlink:
		e.Mode = tarball.Symlink
		e.Target, err = readString(objects, f)
	default:
		e.Mode, e.Size = tarball.File, f.Size
		if f.Mode&0o100 != 0 {
			e.Mode = tarball.Executable
		}
		e.Open = func() (io.Reader, error) { return objects.Open(f.OID) }
	}
	return e, err
}

func readString(objects *gitpack.Objects, f gitpack.File) (string, error) {
	b, err := objects.Read(f.OID, gitpack.Blob, 1<<16)
	return string(b), err
}

// readTree is the way back: it reads a tarball and stores the tree that it was
// made from.
func readTree(objects *gitpack.Objects, man *Manifest, targz io.Reader, lim tarball.Limits) (gitpack.OID, error) {
	odd, empty, err := readOdd(man.Git.Entries)
	if err != nil {
		return gitpack.OID{}, err
	}
	var files []gitpack.File
	header, info, err := tarball.Read(targz, man.Tarball.Prefix, lim, func(e tarball.Entry, body io.Reader) error {
		f, isFile, err := readEntry(objects, e, body)
		if isFile && err == nil {
			if o, ok := odd[f.Path]; ok {
				f.Mode = o.Mode
			}
			files = append(files, f)
		}
		return err
	})
	if err != nil {
		return gitpack.OID{}, err
	}
	if tarballOf(info, man.Tarball.Prefix, man.Tarball.Form) != man.Tarball {
		return gitpack.OID{}, errors.New("the tarball's digests are not those of the manifest")
	}
	if header.Commit != man.Commit {
		return gitpack.OID{}, fmt.Errorf("the tarball is of the commit %s, not %s", header.Commit, man.Commit)
	}
	for _, f := range odd {
		if f.Mode == gitpack.ModeSubmodule {
			files = append(files, f)
		}
	}
	return objects.WriteTree(files, empty)
}

// readEntry stores an entry's content. Submodules and directories are no files:
// the manifest and the paths say where they are.
func readEntry(objects *gitpack.Objects, e tarball.Entry, body io.Reader) (f gitpack.File, isFile bool, err error) {
	f = gitpack.File{Path: e.Path, Size: e.Size}
	switch e.Mode {
	case tarball.File:
		f.Mode = gitpack.ModeFile
	case tarball.Executable:
		f.Mode = gitpack.ModeExecutable
	case tarball.Symlink:
		f.Mode = gitpack.ModeSymlink
		f.OID, err = add(objects, gitpack.Blob, []byte(e.Target))
		return f, true, err
	default:
		return f, false, nil
	}
	f.OID, err = objects.Add(gitpack.Blob, e.Size, body)
	return f, true, err
}

// oddEntries lists what the tarball cannot express.
func oddEntries(tree gitpack.Listing) []TreeEntry {
	var odd []TreeEntry
	for _, f := range tree.Files {
		switch f.Mode {
		case gitpack.ModeFile, gitpack.ModeExecutable, gitpack.ModeSymlink:
		case gitpack.ModeSubmodule:
			odd = append(odd, TreeEntry{Path: f.Path, Mode: octal(f.Mode), OID: f.OID.String()})
		default:
			odd = append(odd, TreeEntry{Path: f.Path, Mode: octal(f.Mode)})
		}
	}
	for _, dir := range tree.EmptyDirs {
		odd = append(odd, TreeEntry{Path: dir, Mode: octal(gitpack.ModeDir)})
	}
	return odd
}

func octal(mode uint32) string { return strconv.FormatUint(uint64(mode), 8) }

// readOdd is the way back: it returns the odd files by their paths, and the
// paths of the empty directories.
func readOdd(entries []TreeEntry) (odd map[string]gitpack.File, empty []string, err error) {
	odd = map[string]gitpack.File{}
	for _, e := range entries {
		mode, err := strconv.ParseUint(e.Mode, 8, 32)
		if err != nil {
			return nil, nil, fmt.Errorf("manifest: mode %q of %q", e.Mode, e.Path)
		}
		if mode == gitpack.ModeDir {
			empty = append(empty, e.Path)
			continue
		}
		f := gitpack.File{Path: e.Path, Mode: uint32(mode)}
		if e.OID != "" {
			if f.OID, err = gitpack.ParseOID(e.OID); err != nil {
				return nil, nil, fmt.Errorf("manifest: %w", err)
			}
		}
		odd[e.Path] = f
	}
	return odd, empty, nil
}

// submodules returns where upstream has submodules, all of which are odd.
func submodules(odd []TreeEntry) []Submodule {
	var all []Submodule
	for _, e := range odd {
		if e.OID != "" {
			all = append(all, Submodule{Path: e.Path, Commit: e.OID})
		}
	}
	return all
}
