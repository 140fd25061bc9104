package gitpack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
)

const (
	maxSymlinkBytes = 4095 // Linux makes none that is longer
	// maxLinkBytes bounds the targets of all symlinks of a tree, in memory.
	maxLinkBytes = 16 << 20
	// maxFollowed is how many symlinks one path may lead through. Linux
	// follows 40, Windows 63: what has more leads nowhere.
	maxFollowed = 64
	// maxLinkSteps bounds the names that are looked up in one tree, as symlinks
	// through symlinks can make a path of 4 KiB one of 4 MiB.
	maxLinkSteps = 4 << 20
)

// links are the targets of symlinks, by path. Names are compared as fold
// makes them.
type links struct {
	targets map[string]string
	fold    func(string) string
	longest int // path that can be a symlink, in bytes
	steps   int // names that may still be looked up
}

func newLinks(targets map[string]string, fold func(string) string) *links {
	l := &links{targets: make(map[string]string, len(targets)), fold: fold, steps: maxLinkSteps}
	for path, target := range targets {
		l.targets[fold(path)] = target
		l.longest = max(l.longest, len(fold(path)))
	}
	return l
}

func exactly(name string) string { return name }

// A leaves is why a path is refused: it would lead out of the tree.
type leaves string

func (l leaves) Error() string { return string(l) }

// resolve follows a path from the root as an operating system would. Names
// that are not there count as directories. It returns "" if there are more
// symlinks on the way than anybody follows. Its error is a leaves, or one of
// codeSymlinkTarget.
func (l *links) resolve(path string) (string, error) {
	var at []byte // each name with a slash before it
	followed := 0
	rest := []string{path} // the front of the path is at the end
	for len(rest) > 0 {
		name, more, ok := strings.Cut(rest[len(rest)-1], "/")
		if rest = rest[:len(rest)-1]; ok {
			rest = append(rest, more)
		}
		if l.steps--; l.steps < 0 {
			return "", errorf(codeSymlinkTarget, "the symlinks of the tree lead through more than %d names", maxLinkSteps)
		}
		parent := at[:max(0, bytes.LastIndexByte(at, '/'))]
		switch {
		case name == "" || name == ".":
			continue
		case name == ".." && len(at) == 0:
			return "", leaves("out of the tree")
		case name == "..":
			at = parent
			continue
		case isDotGit(name):
			return "", leaves("into .git")
		}
		parent = at
		at = append(append(at, '/'), l.fold(name)...)
		if len(at)-1 > l.longest {
			continue
		}
		if target, ok := l.targets[string(at[1:])]; ok {
			if followed++; followed > maxFollowed {
				return "", nil
			}
			at, rest = parent, append(rest, target)
		}
	}
	return strings.TrimPrefix(string(at), "/"), nil
}

// Resolve returns the path that name leads to by way of the tree's symlinks,
// which need not exist. It is "" if there are more of them than anybody follows.
func (t *Listing) Resolve(name string) string {
	to, err := newLinks(t.links, exactly).resolve(name)
	if err != nil {
		return "" // of what Files accepts nothing leaves the tree
	}
	return to
}

// checkSymlinks reads the targets of all symlinks and checks that no path by
// way of them leaves the tree, wherever it is unpacked.
func (w *treeWalk) checkSymlinks(ctx context.Context) error {
	w.links = map[string]string{}
	shared := map[OID]string{}
	size := int64(0)
	for _, f := range w.Files {
		if f.Mode != ModeSymlink {
			continue
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("list tree: %w", err)
		}
		target, ok := shared[f.OID]
		if !ok {
			var err error
			if target, err = w.linkTarget(f); err != nil {
				return err
			}
			if size += f.Size; size > maxLinkBytes {
				return errorf(codeSymlinkTarget, "the symlinks of the tree have more than %d bytes", maxLinkBytes)
			}
			shared[f.OID] = target
		}
		w.links[f.Path] = target
	}
	if len(w.links) == 0 {
		return nil
	}
	for _, fold := range []func(string) string{exactly, foldName} {
		if err := w.followAll(ctx, newLinks(w.links, fold)); err != nil {
			return err
		}
	}
	return nil
}

func (w *treeWalk) followAll(ctx context.Context, l *links) error {
	for _, f := range w.Files {
		if f.Mode != ModeSymlink {
			continue
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("list tree: %w", err)
		}
		_, err := l.resolve(f.Path)
		if why := leaves(""); errors.As(err, &why) {
			return errorf(codeSymlinkEscape, "symlink %q leads %s", f.Path, why)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// linkTarget reads the target of a symlink and checks what can be told from
// it alone. Errors do not show it: everybody reads them, and that of a local
// folder may tell where things are on this machine.
func (w *treeWalk) linkTarget(f File) (string, error) {
	if f.Size > maxSymlinkBytes {
		return "", errorf(codeSymlinkTarget, "target of symlink %q has %d bytes, more than %d", f.Path, f.Size, maxSymlinkBytes)
	}
	raw, err := w.objects.Read(f.OID, Blob, maxSymlinkBytes)
	if err != nil {
		return "", err
	}
	target := string(raw)
	// That is up from the deepest directory, and down again to one as deep.
	if bytes.Count(raw, []byte("/")) > 2*w.lim.TreeDepth {
		return "", errorf(codeSymlinkTarget, "target of symlink %q has more than %d slashes", f.Path, 2*w.lim.TreeDepth)
	}
	if target == "" {
		return "", errorf(codeSymlinkTarget, "target of symlink %q is empty", f.Path)
	}
	if why := badText(target); why != "" {
		return "", errorf(codeSymlinkTarget, "target of symlink %q %s", f.Path, why)
	}
	drive := len(target) > 1 && target[1] == ':' // of Windows
	if target[0] == '/' || drive {
		return "", errorf(codeSymlinkEscape, "symlink %q leads to an absolute path", f.Path)
	}
	return target, nil
}
