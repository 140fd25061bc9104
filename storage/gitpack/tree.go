package gitpack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// The modes that Git writes into trees. Of regular files, old tools wrote
// other permission bits as well.
const (
	ModeDir        = 0o040000
	ModeFile       = 0o100644
	ModeExecutable = 0o100755
	ModeSymlink    = 0o120000
	ModeSubmodule  = 0o160000

	modeType = 0o170000
)

// A File is one path of a tree: regular file, executable, symlink or submodule.
type File struct {
	Path string // without leading slash
	Mode uint32 // as stored: one of the Mode constants, or 0100000 and any permission bits
	OID  OID    // of the blob; of a submodule, the commit elsewhere
	Size int64  // bytes of the blob; 0 for a submodule
}

// IsRegular reports whether f is a regular file, executable or not.
func (f File) IsRegular() bool { return f.Mode&modeType == ModeFile&modeType }

// A Listing is a whole tree.
type Listing struct {
	Files     []File   // in Git's order, that of the bytes of their paths
	Dirs      []File   // directories, empty ones too, in Git's order; OID is the tree
	Trees     []OID    // every tree object once, in the order met, the root first
	EmptyDirs []string // paths of subtrees without entries, in the same order as Files

	// Clashes are pairs of names in one directory, as paths, that are one name
	// where case or Unicode normalization does not count.
	Clashes [][2]string

	links map[string]string // targets of symlinks, by path
}

// Files lists everything below the tree root, after checking that it is fit to
// be passed on and that every object in it is present.
//
// Refused is what git fsck --strict refuses in trees, with all disguises of
// .git; and names that are not UTF-8, have control characters, backslashes or
// more than lim.ComponentBytes. Paths that differ in case or Unicode
// normalization only are Clashes, unless one of them is a symlink: where they
// are one path, the other would lead through it to somewhere else. Names that
// only Windows dislikes ("con", "a:b", a dot or space at the end) and invisible
// or right-to-left characters are accepted, as Git does. So are permission bits
// other than Git's on regular files. The content of files is for Fsck.
//
// A symlink must lead to a path in the tree that need not exist, and stay in
// the tree on the way, also where it leads through other symlinks.
//
// The time it takes and the memory are bounded by lim.TreeEntries, whatever
// the number of paths that shared subtrees make.
func (o *Objects) Files(ctx context.Context, root OID, lim Limits) (Listing, error) {
	w := &treeWalk{objects: o, lim: lim, met: make(map[OID]bool)}
	if err := w.walk(ctx, root, "", 1); err != nil {
		return Listing{}, err
	}
	if err := w.checkClashes(); err != nil {
		return Listing{}, err
	}
	if err := w.checkSymlinks(ctx); err != nil {
		return Listing{}, err
	}
	return w.Listing, nil
}

type treeWalk struct {
	Listing
	objects *Objects
	lim     Limits
	met     map[OID]bool
	entries int
}

// walk adds the tree id, whose paths start with prefix: "" or "dir/".
func (w *treeWalk) walk(ctx context.Context, id OID, prefix string, depth int) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("list tree: %w", err)
	}
	if depth > w.lim.TreeDepth {
		return errorf(codeTooDeep, "tree has more than %d levels of directories", w.lim.TreeDepth)
	}
	entries, err := w.read(id, prefix)
	if err != nil {
		return err
	}
	if !w.met[id] {
		w.met[id] = true
		w.Trees = append(w.Trees, id)
	}
	if len(entries) == 0 && prefix != "" {
		w.EmptyDirs = append(w.EmptyDirs, strings.TrimSuffix(prefix, "/"))
	}
	for _, e := range entries {
		path := prefix + e.name
		if len(path) > w.lim.PathBytes {
			return errorf(codePathTooLong, "path has %d bytes, more than %d: %.80q...", len(path), w.lim.PathBytes, path)
		}
		if e.mode == ModeDir {
			w.Dirs = append(w.Dirs, File{Path: path, Mode: e.mode, OID: e.id})
			err = w.walk(ctx, e.id, path+"/", depth+1)
		} else {
			err = w.add(path, e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// read returns the entries of the tree id. They count before any of them is
// followed, so what is in memory at any depth is within the limit.
func (w *treeWalk) read(id OID, prefix string) ([]treeEntry, error) {
	left := w.lim.TreeEntries - w.entries
	longest := len("100644 ") + w.lim.ComponentBytes + 1 + len(OID{})
	raw, err := w.objects.Read(id, Tree, int64(left)*int64(longest))
	if e := (*Error)(nil); errors.As(err, &e) && e.Code == CodeObjectTooLarge {
		return nil, w.tooMany()
	}
	if err != nil {
		return nil, err
	}
	entries, clashes, err := parseTree(raw, w.lim)
	if e := (*Error)(nil); errors.As(err, &e) {
		return nil, errorf(e.Code, "directory %q: %s", "/"+prefix, e.Message)
	}
	for _, c := range clashes {
		w.Clashes = append(w.Clashes, [2]string{prefix + c[0], prefix + c[1]})
	}
	if w.entries += len(entries); w.entries > w.lim.TreeEntries {
		return nil, w.tooMany()
	}
	return entries, nil
}

func (w *treeWalk) tooMany() error {
	return errorf(codeTooManyEntries, "tree has more than %d entries", w.lim.TreeEntries)
}

func (w *treeWalk) add(path string, e treeEntry) error {
	f := File{Path: path, Mode: e.mode, OID: e.id}
	if e.mode != ModeSubmodule {
		blob, ok := w.objects.Stat(e.id)
		if !ok {
			return errorf(CodeIncomplete, "blob %s of %q is missing", e.id, path)
		}
		if blob.Type != Blob {
			return errorf(codeWrongType, "object %s of %q is a %s, not a blob", e.id, path, blob.Type)
		}
		f.Size = blob.Size
	}
	w.Files = append(w.Files, f)
	return nil
}

// checkClashes refuses symlinks among the paths that are one path on some
// systems. Those of two directories that clash can clash, too.
func (w *treeWalk) checkClashes() error {
	if len(w.Clashes) == 0 {
		return nil
	}
	type first struct {
		path string
		link bool
	}
	met := make(map[string]first, len(w.Files)+len(w.Dirs))
	for _, f := range slices.Concat(w.Dirs, w.Files) {
		key, link := foldName(f.Path), f.Mode == ModeSymlink
		if other, ok := met[key]; ok && (link || other.link) {
			return errorf(codeTreeCaseCollision, "%q and %q are one path on some systems, and one of them is a symlink", other.path, f.Path)
		} else if !ok {
			met[key] = first{f.Path, link}
		}
	}
	return nil
}

type treeEntry struct {
	mode uint32
	name string
	id   OID
}

// before reports whether e stands before f in a tree: directories as if their
// names ended in a slash.
func (e treeEntry) before(f treeEntry) bool { return e.sortKey() < f.sortKey() }

func (e treeEntry) sortKey() string {
	if e.mode == ModeDir {
		return e.name + "/"
	}
	return e.name
}

// parseTree reads the content of a tree object and checks everything in it
// that does not depend on other objects. It also returns pairs of names that
// are one name on some systems.
func parseTree(raw []byte, lim Limits) (entries []treeEntry, clashes [][2]string, err error) {
	names := make(map[string]bool)
	folded := make(map[string]string)
	for len(raw) > 0 {
		e, rest, err := parseTreeEntry(raw)
		if err != nil {
			return nil, nil, err
		}
		raw = rest
		if err := checkEntry(e, lim); err != nil {
			return nil, nil, err
		}
		if names[e.name] {
			return nil, nil, errorf(codeTreeDuplicate, "two entries are named %q", e.name)
		}
		names[e.name] = true
		key := foldName(e.name)
		if other, ok := folded[key]; ok {
			clashes = append(clashes, [2]string{other, e.name})
		} else {
			folded[key] = e.name
		}
		if n := len(entries); n > 0 && !entries[n-1].before(e) {
			return nil, nil, errorf(codeTreeMalformed, "%q is not in order", e.name)
		}
		entries = append(entries, e)
	}
	return entries, clashes, nil
}

// parseTreeEntry reads "mode name NUL id" from the front of raw.
func parseTreeEntry(raw []byte) (e treeEntry, rest []byte, err error) {
	head, rest, ok := bytes.Cut(raw, []byte{0})
	mode, name, ok2 := strings.Cut(string(head), " ")
	if !ok || !ok2 || len(rest) < len(e.id) {
		return e, nil, errorf(codeTreeMalformed, "cut short")
	}
	n, err := strconv.ParseUint(mode, 8, 18)
	if err != nil || mode[0] == '0' {
		return e, nil, errorf(codeTreeMode, "%.80q has mode %.20q", name, mode)
	}
	e.mode, e.name = uint32(n), name
	return e, rest[copy(e.id[:], rest):], nil
}

func checkEntry(e treeEntry, lim Limits) error {
	switch {
	case e.mode&modeType == ModeFile&modeType:
	case e.mode == ModeDir, e.mode == ModeSymlink, e.mode == ModeSubmodule:
	default:
		return errorf(codeTreeMode, "%.80q has mode %o", e.name, e.mode)
	}
	if len(e.name) > lim.ComponentBytes {
		return errorf(codeNameTooLong, "name has %d bytes, more than %d: %.80q...", len(e.name), lim.ComponentBytes, e.name)
	}
	if why := badName(e.name); why != "" {
		return errorf(codeTreeName, "%q %s", e.name, why)
	}
	if isDotGitmodules(e.name) && e.mode&modeType != ModeFile&modeType {
		return errorf(codeTreeName, "%q is not a regular file", e.name)
	}
	if e.id.IsZero() {
		return errorf(codeTreeMalformed, "%q has the null id", e.name)
	}
	return nil
}

// badName says why name may not be in a tree, or "".
func badName(name string) string {
	switch {
	case plainName(name) == "": // also ".", ".." and ""
		return "is no name on some systems"
	case strings.Contains(name, "/"):
		return "has a slash"
	case isDotGit(name):
		return "is Git's own on some systems"
	}
	return badText(name)
}

// badText says what no name and no symlink target may have, or "".
func badText(s string) string {
	switch {
	case !utf8.ValidString(s):
		return "is not UTF-8"
	case strings.Contains(s, `\`):
		return "has a backslash"
	case strings.ContainsFunc(s, unicode.IsControl):
		return "has a control character"
	}
	return ""
}

// plainName undoes what macOS and Windows ignore in names: some invisible
// characters; dots and spaces at the end; what follows a colon.
func plainName(name string) string {
	name, _, _ = strings.Cut(name, ":")
	name = strings.Map(func(r rune) rune {
		switch {
		case '\u200c' <= r && r <= '\u200f', '\u202a' <= r && r <= '\u202e',
			'\u206a' <= r && r <= '\u206f', r == '\ufeff':
			return -1
		}
		return r
	}, name)
	return strings.TrimRight(name, ". ")
}

// isDotGit reports whether some system takes name for .git.
// git/utf8.c is_hfs_dotgit, git/path.c is_ntfs_dotgit.
func isDotGit(name string) bool {
	name = plainName(name)
	return strings.EqualFold(name, ".git") || strings.EqualFold(name, "git~1")
}

// isDotGitmodules reports whether some system takes name for .gitmodules.
func isDotGitmodules(name string) bool { return isDotFile(name, "gitmodules", "gi7eba") }

// isDotGitattributes reports whether some system takes name for .gitattributes.
func isDotGitattributes(name string) bool { return isDotFile(name, "gitattributes", "gi7d29") }

// isDotFile reports whether some system takes name for "." and plain, which
// Windows may shorten, in the end to something that begins with hashed.
// git/utf8.c is_hfs_dot_str, git/path.c is_ntfs_dot_generic.
func isDotFile(name, plain, hashed string) bool {
	name = strings.ToLower(plainName(name))
	if name == "."+plain {
		return true
	}
	short, number, _ := strings.Cut(name, "~")
	if short == plain[:6] {
		return len(number) == 1 && "1" <= number && number <= "4"
	}
	// When those four are taken, Windows hashes the name.
	_, err := strconv.ParseUint(number, 10, 32)
	return err == nil && len(name) == 8 && number[0] != '0' && strings.HasPrefix(hashed, short)
}

// foldName returns the same string for all names that a file system which
// ignores case and Unicode normalization takes for one.
func foldName(name string) string {
	for i := range len(name) {
		if name[i] >= utf8.RuneSelf {
			return norm.NFD.String(cases.Fold().String(norm.NFD.String(name)))
		}
	}
	return strings.ToLower(name)
}

// WriteTree stores the tree objects of files and empty directories, which may
// come in any order, and returns the root. Sizes are not used, blobs need not
// be there. It is the inverse of Files for what Files accepts; of other input
// the caller learns by the root that it gets.
func (o *Objects) WriteTree(files []File, emptyDirs []string) (OID, error) {
	all := slices.Clone(files)
	for _, dir := range emptyDirs {
		all = append(all, File{Path: dir + "/", Mode: ModeDir})
	}
	slices.SortFunc(all, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return o.writeTree(all, 0)
}

// writeTree stores the tree of files, in order, whose paths all start with the
// same skip bytes.
func (o *Objects) writeTree(files []File, skip int) (OID, error) {
	var raw bytes.Buffer
	last := treeEntry{}
	for i := 0; i < len(files); {
		f := files[i]
		name, _, isDir := strings.Cut(f.Path[skip:], "/")
		e := treeEntry{mode: f.Mode, name: name, id: f.OID}
		n := 1
		if isDir {
			prefix := f.Path[:skip+len(name)+1]
			for i+n < len(files) && strings.HasPrefix(files[i+n].Path, prefix) {
				n++
			}
			below := files[i : i+n]
			if f.Mode == ModeDir && f.Path == prefix {
				below = below[1:]
			}
			id, err := o.writeTree(below, len(prefix))
			if err != nil {
				return OID{}, err
			}
			e.mode, e.id = ModeDir, id
		}
		if name == "" || strings.Contains(name, "\x00") || i > 0 && !last.before(e) {
			return OID{}, fmt.Errorf("write tree: path %q does not fit in", f.Path)
		}
		fmt.Fprintf(&raw, "%o %s\x00%s", e.mode, e.name, e.id[:])
		last = e
		i += n
	}
	return o.Add(Tree, int64(raw.Len()), io.Reader(&raw))
}
