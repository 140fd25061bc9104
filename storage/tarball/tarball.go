// Package tarball writes and reads the canonical tar.gz of a Git tree.
// It hides the layout: whoever has the same tree, commit and wrapper gets the same bytes.
//
// # The tar stream
//
// The stream is byte for byte what "git archive --format=tar [--prefix=p/] commit" prints with Git's
// defaults, if no .gitattributes file says export-ignore, export-subst or anything about line ends:
// attributes are not applied. That is (git's archive.c and archive-tar.c):
//
//   - a pax global header whose comment is the commit; every time is the commit's;
//   - modes under tar.umask 0002: 0664, 0775, directories 0775, symlinks 0777; owner root, 0;
//   - entries in Git's tree order; a directory comes just before the first thing inside it that is
//     not a directory, and not at all if there is none; a submodule is an empty directory;
//   - paths over 100 bytes are split into the ustar prefix if they can be, else they and long link targets
//     go into a pax extended header, and the short field names the object instead;
//   - zeros up to a multiple of 10240 bytes, at least 1024 of them.
//
// # The gzip layer
//
// One gzip member (RFC 1952) with the header 1f 8b 08, six zeros and 255 (unknown system). Its deflate
// stream is made of chunks, each deflated by itself at level 6, and an empty last
// block. A chunk is a piece of one large file, cut where its content says, or all that is between two large files. Tags share
// most of their large files, so their chunks are deflated once, kept in a scratch file and used again
// for all tags of a package. They share no header: each holds the commit time.
//
// A chunk is deflated in pieces of 32767 bytes or less, which may refer to earlier ones. Each ends with a sync flush, that
// is an empty stored block; the next section says why.
//
// The bytes of a tarball depend on nothing but its tar stream and the [Form]: not on what was built before or is built
// at the same time. They do depend on the compressor, which go.mod pins and golden tests watch.
//
// # Zig 0.15
//
// The inflate of Zig 0.15 (streamInner in lib/std/compress/flate/Decompress.zig) crashes on streams that obey RFC 1951.
// It writes into a window of 64 KiB. A call fills what is free of it, which is 32 KiB or more, and ends when it
// is full, or at the end of a fixed or stored block; from a dynamic block it goes on to the next. Three things go wrong:
//
//   - a match of a fixed block is written even if it is longer than what is free (remaining -= length);
//   - a stored block, even an empty one, needs a free byte, and there is none after a dynamic block
//     that fills the window to its end (writableSliceGreedyPreserve);
//   - a stored block gives back the bytes that were read ahead (in.seek -= n_bytes), and they are gone if the input was moved
//     to peek at the last code of a dynamic block and that code has less than four bits.
//
// Form1, a sync flush after each chunk only, met the first in 2 % of real packages. In Form2 each piece is met by a new
// call, and does not fill what it has free. For the third, a piece that ends with a short code is deflated by itself, with
// an empty fixed block between it and the sync flush: after that, nothing is peeked at.
package tarball

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"
	"unicode/utf8"
)

// What any tarball may hold at most; Limits may ask for less.
const (
	MaxSize        = 2 << 30  // bytes of a tar.gz
	MaxContentSize = 16 << 30 // bytes of its tar stream
	MaxEntries     = 1 << 20  // entries, directories included
	MaxPath        = 1024     // bytes of an entry's path, without the wrapper
	MaxTarget      = 4096     // bytes of a symlink's target
	MaxPrefix      = 100      // bytes of a wrapper, its "/" included; longer ones would need an extended header
)

// Limits bound what is written or read. A zero field stands for the constant of the same name.
type Limits struct {
	Size        int64 // bytes of the tar.gz; see MaxSize
	ContentSize int64 // bytes of the tar stream; see MaxContentSize
	Entries     int   // entries, directories included; see MaxEntries
}

func (l Limits) orMax() Limits {
	if l.Size == 0 {
		l.Size = MaxSize
	}
	if l.ContentSize == 0 {
		l.ContentSize = MaxContentSize
	}
	if l.Entries == 0 {
		l.Entries = MaxEntries
	}
	return l
}

// Errors that callers may test for with errors.Is.
var (
	// ErrInvalid says that a tree cannot be written, or that a tarball is not one that Build writes.
	ErrInvalid = errors.New("invalid")
	// ErrTooLarge says that a tarball would exceed a limit, or does.
	ErrTooLarge = errors.New("too large")
)

// A Mode says what an entry is.
type Mode uint8

// The kinds of entries in a Git tree.
const (
	File Mode = iota + 1
	Executable
	Symlink
	Submodule
	Directory
)

// An Entry is one thing in a Git tree.
type Entry struct {
	Path   string // relative, components separated by "/", no "/" at the end; at most MaxPath bytes
	Mode   Mode
	OID    string // object id, 40 lowercase hex digits, that no other content has; needed where Path or Target has more than 100 bytes
	Size   int64  // bytes of content; File and Executable only
	Target string // what a Symlink holds; at most MaxTarget bytes

	// Open returns the Size bytes of a File or an Executable; called at most once by each Build.
	Open func() (io.Reader, error)
}

// A Header is what a tarball says beyond its entries.
type Header struct {
	Commit string    // commit the tree belongs to: 40 lowercase hex digits
	Time   time.Time // committer's time, UTC, whole seconds, not before 1970
	Prefix string    // the wrapper: "" for a flat tarball, else one component and a "/", as from Wrap
}

// An Info names the bytes of a tarball. Hashes are lowercase hex digits.
type Info struct {
	Digest        string // SHA-256 of the tar.gz
	MD5           string // of the tar.gz
	CRC32         string // of the tar.gz, IEEE polynomial: 8 digits
	Size          int64  // bytes of the tar.gz
	ContentDigest string // SHA-256 of the tar stream
	ContentSize   int64  // bytes of the tar stream
}

// Wrap decides whether a tree must be wrapped, and returns the prefix for it: "" or "<pkg>-<tag>/".
//
// Zig strips a directory that holds all of a tarball, so a tree with one thing at its root would
// lose that. Any other tree stays flat, which all releases of Zig unpack to the same files.
// "/" in a tag becomes "-", as Zig strips one component; long names are cut to MaxPrefix.
// The entries are read up to the second name at the root. An error of theirs is returned as it is.
func Wrap(pkg, tag string, entries iter.Seq2[Entry, error]) (string, error) {
	root := ""
	for e, err := range entries {
		if err != nil {
			return "", err
		}
		name, _, _ := strings.Cut(e.Path, "/")
		if e.Mode == Directory {
			continue // not in the tarball unless something else in it is
		}
		if root != "" && root != name {
			return "", nil
		}
		root = name
	}
	if root == "" {
		return "", nil
	}
	p := strings.ReplaceAll(pkg+"-"+tag, "/", "-")
	for len(p) >= MaxPrefix {
		_, n := utf8.DecodeLastRuneInString(p)
		p = p[:len(p)-n]
	}
	return p + "/", nil
}

func checkHeader(h Header) error {
	switch {
	case !isOID(h.Commit):
		return fmt.Errorf("commit %q is not 40 hex digits: %w", h.Commit, ErrInvalid)
	case h.Time.Unix() < 0:
		// Git takes such a time for one far in the future.
		return fmt.Errorf("commit time %d is before 1970: %w", h.Time.Unix(), ErrInvalid)
	case h.Prefix == "":
		return nil
	case len(h.Prefix) > MaxPrefix || !strings.HasSuffix(h.Prefix, "/"):
		return fmt.Errorf("prefix %q: %w", h.Prefix, ErrInvalid)
	}
	name := strings.TrimSuffix(h.Prefix, "/")
	if strings.Contains(name, "/") {
		return fmt.Errorf("prefix %q: %w", h.Prefix, ErrInvalid)
	}
	return checkPath(name)
}

func isOID(s string) bool {
	return len(s) == 40 && strings.Trim(s, "0123456789abcdef") == ""
}

// checkPath refuses what is not a plain relative path.
func checkPath(p string) error {
	if len(p) > MaxPath {
		return fmt.Errorf("path of %d bytes: %w", len(p), ErrTooLarge)
	}
	if strings.ContainsRune(p, 0) {
		return fmt.Errorf("path %q has a NUL: %w", p, ErrInvalid)
	}
	for name := range strings.SplitSeq(p, "/") {
		if name == "" || name == "." || name == ".." {
			return fmt.Errorf("path %q is not plain: %w", p, ErrInvalid)
		}
	}
	return nil
}

// check refuses an entry that cannot be written, whatever comes before it.
func (e *Entry) check() error {
	if err := checkPath(e.Path); err != nil {
		return err
	}
	switch {
	case e.Mode < File || e.Mode > Directory:
		return fmt.Errorf("%q has mode %d: %w", e.Path, e.Mode, ErrInvalid)
	case e.Size < 0 || e.Size > 0 && e.Mode != File && e.Mode != Executable:
		return fmt.Errorf("%q has size %d: %w", e.Path, e.Size, ErrInvalid)
	case e.Size > MaxContentSize:
		return fmt.Errorf("%q has %d bytes: %w", e.Path, e.Size, ErrTooLarge)
	case (e.Mode == Symlink) != (e.Target != "") || strings.ContainsRune(e.Target, 0):
		return fmt.Errorf("%q has target %q: %w", e.Path, e.Target, ErrInvalid)
	case len(e.Target) > MaxTarget:
		return fmt.Errorf("%q has a target of %d bytes: %w", e.Path, len(e.Target), ErrTooLarge)
	}
	return nil
}

// An order checks that entries come as in a Git tree: in its order, none twice, each after its directory.
type order struct {
	last  string   // the key of the entry before: its path, with a "/" if it is a directory
	dirs  []Entry  // the directories around the last entry, outermost first
	files []string // paths of entries other than directories that begin the last key, shortest first
}

func (o *order) add(e Entry) error {
	key := e.Path
	if e.Mode == Directory {
		key += "/"
	}
	if key <= o.last {
		return fmt.Errorf("%q after %q is out of order: %w", key, o.last, ErrInvalid)
	}
	o.last = key

	for n := len(o.dirs); n > 0 && !strings.HasPrefix(key, o.dirs[n-1].Path+"/"); n-- {
		o.dirs = o.dirs[:n-1]
	}
	parent := ""
	if n := len(o.dirs); n > 0 {
		parent = o.dirs[n-1].Path + "/"
	}
	if strings.LastIndexByte(e.Path, '/')+1 != len(parent) {
		return fmt.Errorf("%q comes without its directory: %w", e.Path, ErrInvalid)
	}

	// Between a file "a" and a directory "a" there may be "a-b": only the paths that begin the key can clash.
	for n := len(o.files); n > 0 && !strings.HasPrefix(key, o.files[n-1]); n-- {
		o.files = o.files[:n-1]
	}
	if e.Mode != Directory {
		o.files = append(o.files, e.Path)
		return nil
	}
	if n := len(o.files); n > 0 && o.files[n-1] == e.Path {
		return fmt.Errorf("%q is there twice: %w", e.Path, ErrInvalid)
	}
	o.dirs = append(o.dirs, e)
	return nil
}
