// Package archive reads what a URL of a build.zig.zon answers, as Zig reads it.
//
// # Format
//
// The Content-Type decides, up to its first ";". Only for application/octet-stream and
// application/x-compressed the Content-Disposition decides, if there is one, and only without it the
// suffix of the URL's path. The types are those of Zig 0.17, which all five releases since 0.13 take
// unless [FormatOf] says otherwise. Source: unpackResource and FileType in lib/compiler/Maker/Fetch.zig
// of Zig 0.17.1, src/Package/Fetch.zig before.
//
// # Files
//
// What an archive unpacks to is its files and symlinks: modes, owners, times and directories do not
// count. If all entries lie in one directory, that is the package's root. In a tar stream, other kinds of
// entries and a path that is there twice are errors, but forgiven if the manifest's .paths leave them out;
// in a zip, they are errors at once, and a symlink is a file that holds its target. Source: lib/std/tar.zig
// and lib/std/zip.zig of Zig 0.17.1.
//
// Where releases of Zig differ, 0.17 counts, and Plain is false. What leads out of the archive crashes it, and is an error
// that is not forgiven here; so is a file that is written through a symlink, and what has a wrong checksum.
package archive

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/francescobianco/packbase/storage/zigpkg"
)

// Limits of what is unpacked.
const (
	MaxContent  = 4 << 30        // bytes of all files
	maxStream   = 2 * MaxContent // bytes of a tar stream, with what is passed over
	MaxEntries  = 400_000        // entries, directories included
	MaxPath     = 4095           // bytes of a path, as of Linux
	MaxTarget   = 4095           // bytes of a symlink's target, likewise
	MaxNames    = 64 << 20       // bytes of all paths and targets
	maxName     = 255            // bytes of a name within a path, as of Linux
	maxFollowed = 40             // symlinks that one path leads through, as of Linux
	maxWindow   = 8 << 20        // bytes that Zig's zstd decoder looks back
	maxDict     = 128 << 20      // bytes that an xz stream may look back; xz -9 wants 64 MiB
)

// Errors that callers may test for with errors.Is.
var (
	// ErrUnfit says that no Zig can use the archive, or that only some can because it is damaged, and why.
	ErrUnfit = errors.New("packbase does not take it")
	// ErrTooLarge says that the archive exceeds a limit.
	ErrTooLarge = errors.New("too large")
)

// A Format is what an archive is, as in its file's name.
type Format string

// The formats that Zig reads.
const (
	Tar    Format = "tar"
	TarGz  Format = "tar.gz"
	TarXz  Format = "tar.xz"
	TarZst Format = "tar.zst"
	Zip    Format = "zip"
)

// FormatOf tells the format of what was answered with the two headers, either of which may be "", for a
// URL with the given path, decoded. It returns ErrUnfit if no Zig would know.
func FormatOf(contentType, disposition, urlPath string) (Format, error) {
	mime, _, _ := strings.Cut(contentType, ";")
	switch strings.ToLower(mime) {
	case "application/x-tar":
		return Tar, nil
	case "application/gzip", "application/x-gzip", "application/tar+gzip", "application/x-tar-gz", "application/x-gtar-compressed":
		return TarGz, nil
	case "application/x-xz":
		return TarXz, nil
	case "application/zstd":
		return TarZst, nil
	case "application/zip", "application/x-zip-compressed", "application/java-archive":
		return Zip, nil
	case "application/octet-stream", "application/x-compressed":
	case "":
		return "", fmt.Errorf("%w: the answer has no Content-Type", ErrUnfit)
	default:
		return "", fmt.Errorf("%w: the Content-Type %.80q is not of an archive", ErrUnfit, contentType)
	}
	if disposition != "" {
		if f := formatOfDisposition(disposition); f != "" {
			return f, nil
		}
		return "", fmt.Errorf("%w: the Content-Disposition %.80q names no archive", ErrUnfit, disposition)
	}
	if f := formatOfName(urlPath); f != "" {
		return f, nil
	}
	return "", fmt.Errorf("%w: the file %.80q is not of a known type", ErrUnfit, path.Base(urlPath))
}

func formatOfName(name string) Format {
	name = strings.ToLower(name)
	for _, f := range []struct {
		format   Format
		suffixes []string
	}{
		{Tar, []string{".tar"}},
		{TarGz, []string{".tgz", ".tar.gz"}},
		{TarXz, []string{".txz", ".tar.xz"}},
		{TarZst, []string{".tzst", ".tar.zst"}},
		{Zip, []string{".zip", ".jar"}},
	} {
		for _, suffix := range f.suffixes {
			if strings.HasSuffix(name, suffix) {
				return f.format
			}
		}
	}
	return ""
}

// formatOfDisposition is fromContentDisposition of Fetch.zig, oddities included.
func formatOfDisposition(header string) Format {
	lower := strings.ToLower(header)
	_, rest, ok := strings.Cut(lower, "attachment;")
	if !ok {
		return ""
	}
	_, rest, ok = strings.Cut(rest, "filename")
	if !ok {
		return ""
	}
	rest = strings.TrimPrefix(rest, "*")
	rest, ok = strings.CutPrefix(rest, "=")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(rest, ";")
	return formatOfName(strings.TrimSuffix(name, `"`))
}

// A File is a file or a symlink of a package.
type File struct {
	Path   string // relative to the package's root
	Target string // of a symlink; a file has none
	Link   bool
	Size   int64 // bytes of a file
	offset int64 // in the scratch file
}

// A Package is what an archive unpacks to.
type Package struct {
	Files    []File // by path
	Root     string // the directory that was cut off; "" if there was none
	Plain    bool   // every Zig since 0.13 reads the archive as it is
	scratch  io.ReaderAt
	problems []problem
}

// A problem is an entry that Zig cannot unpack.
type problem struct{ path, reason string }

// Open returns the content of a file.
func (p *Package) Open(f File) io.Reader { return io.NewSectionReader(p.scratch, f.offset, f.Size) }

// Unpack reads an archive of size bytes; scratch, which is empty, takes the content of its files and must
// live as long as the package. Memory is bounded whatever the archive holds.
func Unpack(ctx context.Context, body io.ReaderAt, size int64, format Format, scratch *os.File) (*Package, error) {
	u := &unpacker{ctx: ctx, scratch: scratch, kinds: map[string]kind{}, roots: map[string]bool{}}
	u.out = bufio.NewWriterSize(scratch, 256<<10)
	p := &Package{scratch: scratch}
	var err error
	switch {
	case size == 0:
		err = fmt.Errorf("%w: it is empty", ErrUnfit)
	case format == Zip:
		err = u.zip(body, size)
	default:
		err = u.compressed(body, size, format)
	}
	if err == nil {
		err = u.out.Flush()
	}
	if err != nil {
		return nil, err
	}
	p.Root = u.root()
	p.Plain = format == TarGz && !u.odd && len(u.roots) > 0 && !u.lone()
	for _, f := range u.files {
		f.Path = cutRoot(f.Path, p.Root)
		p.Files = append(p.Files, f)
	}
	for _, bad := range u.problems {
		p.problems = append(p.problems, problem{cutRoot(bad.path, p.Root), bad.reason})
	}
	slices.SortFunc(p.Files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	return p, nil
}

func cutRoot(name, root string) string {
	if root == "" {
		return name
	}
	return strings.TrimPrefix(name, root+"/")
}

// Describe reads the package's manifest, nil if it has none, and computes its hashes. It returns
// ErrUnfit if the manifest is none, or if an entry that counts cannot be unpacked.
func (p *Package) Describe() (*zigpkg.Manifest, zigpkg.Hashes, error) {
	man, err := p.manifest()
	if err != nil {
		return nil, zigpkg.Hashes{}, err
	}
	for _, bad := range p.problems {
		if man.Includes(bad.path) {
			return nil, zigpkg.Hashes{}, fmt.Errorf("%w: %.200q %s", ErrUnfit, bad.path, bad.reason)
		}
	}
	entries := make([]zigpkg.Entry, 0, len(p.Files))
	for _, f := range p.Files {
		if !man.Includes(f.Path) {
			continue
		}
		e := zigpkg.Entry{Path: f.Path, Size: f.Size}
		if f.Link {
			e.Hash = zigpkg.HashSymlink(f.Path, f.Target)
		} else if e.Hash, _, err = zigpkg.HashFile(f.Path, p.Open(f)); err != nil {
			return nil, zigpkg.Hashes{}, err
		}
		entries = append(entries, e)
	}
	return man, zigpkg.Sum(man, entries), nil
}

// manifest reads build.zig.zon, nil if there is none.
func (p *Package) manifest() (*zigpkg.Manifest, error) {
	f, err := p.manifestFile()
	if f == nil || err != nil {
		return nil, err
	}
	if f.Size > zigpkg.MaxManifestBytes {
		return nil, fmt.Errorf("%w: build.zig.zon is larger than Zig reads", ErrUnfit)
	}
	src, err := io.ReadAll(p.Open(*f))
	if err != nil {
		return nil, err
	}
	man, err := zigpkg.ParseManifest(src)
	if err != nil {
		return nil, fmt.Errorf("%w: build.zig.zon: %v", ErrUnfit, err)
	}
	return man, nil
}

// manifestFile finds build.zig.zon as Zig does, which asks Linux: by way of symlinks, of which one that leads nowhere is no
// manifest. What is outside of the package is another thing on each machine.
func (p *Package) manifestFile() (*File, error) {
	at, rest := "", []string{zigpkg.ManifestName}
	for followed := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch {
		case name == "" || name == ".":
			continue
		case name == ".." && at == "":
			return nil, fmt.Errorf("%w: build.zig.zon is a symlink that leads out of the package", ErrUnfit)
		case name == "..":
			at = strings.TrimPrefix(path.Dir("/"+at), "/")
			continue
		}
		below := path.Join(at, name)
		i, ok := p.search(below)
		switch {
		case !ok && !p.hasFolder(below):
			return nil, nil
		case !ok:
			at = below
		case !p.Files[i].Link && len(rest) == 0:
			return &p.Files[i], nil
		case !p.Files[i].Link:
			return nil, fmt.Errorf("%w: build.zig.zon is a symlink that leads through a file", ErrUnfit)
		case strings.HasPrefix(p.Files[i].Target, "/"):
			return nil, fmt.Errorf("%w: build.zig.zon is a symlink that leads out of the package", ErrUnfit)
		default:
			if followed++; followed > maxFollowed {
				return nil, fmt.Errorf("%w: build.zig.zon is a symlink that leads through more than %d others", ErrUnfit, maxFollowed)
			}
			rest = append(strings.Split(p.Files[i].Target, "/"), rest...)
		}
	}
	return nil, fmt.Errorf("%w: build.zig.zon is a folder", ErrUnfit)
}

// hasFolder reports whether there is a file below name.
func (p *Package) hasFolder(name string) bool {
	i, _ := p.search(name + "/")
	return i < len(p.Files) && strings.HasPrefix(p.Files[i].Path, name+"/")
}

// search returns where a path is in Files, or would be.
func (p *Package) search(name string) (i int, ok bool) {
	return slices.BinarySearchFunc(p.Files, name, func(f File, name string) int { return cmp.Compare(f.Path, name) })
}

type kind uint8

const (
	file kind = iota + 1
	link
	directory
)

// An unpacker collects entries.
type unpacker struct {
	ctx      context.Context
	scratch  *os.File
	out      *bufio.Writer
	at       int64 // where the next content goes in scratch
	entries  int
	names    int // bytes
	files    []File
	kinds    map[string]kind // of what stands at a path
	roots    map[string]bool // first components; "" for what lies at the top
	problems []problem
	odd      bool // older Zigs do not read what newer ones do
}

// root returns the directory that holds everything, "" if there is none.
func (u *unpacker) root() string {
	if len(u.roots) != 1 {
		return ""
	}
	for root := range u.roots {
		return root
	}
	return ""
}

// lone reports whether all there is has one name, that of a file at the top, which Zig takes for the package's root up to 0.14.
func (u *unpacker) lone() bool {
	return len(u.files) == 1 && u.roots[""] && (len(u.roots) == 1 || len(u.roots) == 2 && u.roots[u.files[0].Path])
}

func (u *unpacker) refuse(name, format string, args ...any) {
	u.names += len(name)
	u.problems = append(u.problems, problem{name, fmt.Sprintf(format, args...)})
}

// count counts an entry that is about to be read. What is kept of those before it has a limit.
func (u *unpacker) count() error {
	if err := u.ctx.Err(); err != nil {
		return err
	}
	if u.entries++; u.entries > MaxEntries {
		return fmt.Errorf("%w: more than %d entries", ErrTooLarge, MaxEntries)
	}
	if u.names > MaxNames || len(u.kinds) > 2*MaxEntries {
		return fmt.Errorf("%w: its names take more memory than there is for them", ErrTooLarge)
	}
	return nil
}

// note takes an entry into account for what the package's root is.
func (u *unpacker) note(name string, k kind) error {
	if len(name) > MaxPath {
		return fmt.Errorf("%w: a path of %d bytes", ErrTooLarge, len(name))
	}
	u.names += len(name)
	top, _, nested := strings.Cut(name, "/")
	if !nested && k != directory {
		top = ""
	}
	u.roots[top] = true
	return nil
}

// enter notes what comes into being at a path. It returns false if nothing can be unpacked there.
func (u *unpacker) enter(name string, k kind) (ok bool, err error) {
	if err := u.note(name, k); err != nil {
		return false, err
	}
	for part := range strings.SplitSeq(name, "/") {
		if len(part) > maxName {
			u.refuse(name, "has a name of more than %d bytes", maxName)
			return false, nil
		}
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		switch u.kinds[dir] {
		case file:
			u.refuse(name, "is inside a file")
			return false, nil
		case link:
			// Not forgiven: where it leads to may be what counts.
			return false, fmt.Errorf("%w: %.200q is written through a symlink", ErrUnfit, name)
		case directory:
			dir = "." // and so are those above
		default:
			u.kinds[dir] = directory
		}
		if dir == "." {
			break
		}
	}
	if was := u.kinds[name]; was != 0 && (was != directory || k != directory) {
		u.refuse(name, "is there twice")
		return false, nil
	}
	u.kinds[name] = k
	return true, nil
}

// addFile copies a file's content. size is what its header says.
func (u *unpacker) addFile(name string, size int64, body io.Reader) error {
	if size > MaxContent-u.at {
		return fmt.Errorf("%w: it unpacks to more than %d bytes", ErrTooLarge, int64(MaxContent))
	}
	n, err := io.Copy(u.out, io.LimitReader(body, size))
	if err != nil {
		return broken(err)
	}
	if n != size {
		return fmt.Errorf("%w: it ends inside %.200q", ErrUnfit, name)
	}
	u.files = append(u.files, File{Path: name, Size: size, offset: u.at})
	u.at += size
	return nil
}

func (u *unpacker) compressed(body io.ReaderAt, size int64, format Format) error {
	in := bufio.NewReaderSize(io.NewSectionReader(body, 0, size), 256<<10)
	switch format {
	case Tar:
		return u.tar(in)
	case TarGz:
		z, err := gzip.NewReader(in)
		if err != nil {
			return broken(err)
		}
		z.Multistream(false) // Zig reads the first member only
		return u.tar(z)
	case TarXz:
		if err := checkXz(body, size); err != nil {
			return err
		}
		x, err := xz.ReaderConfig{SingleStream: true}.NewReader(in) // Zig reads the first stream only
		if err != nil {
			return broken(err)
		}
		return u.tar(x)
	case TarZst:
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return broken(err)
		}
		defer z.Close()
		return u.tar(z)
	}
	return fmt.Errorf("%w: the format %q", ErrUnfit, format)
}

// checkXz refuses an xz file without its end, which the library takes for an empty one if there is little
// of it, and one whose first block wants more memory than we give: the library allocates what a header
// asks for. The .xz file format 1.2, sections 2.1.2, 3.1 and 5.3.1.
func checkXz(body io.ReaderAt, size int64) error {
	end := make([]byte, 2)
	if _, err := body.ReadAt(end, size-2); err != nil || string(end) != "YZ" {
		return broken(errors.New("its end is missing"))
	}
	head := make([]byte, 12+1024)
	n, err := body.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if n < 13 {
		return nil // for the library to say
	}
	block := head[12:min(n, 12+(int(head[12])+1)*4)]
	for i := 2; i+2 < len(block); i++ {
		if block[i] != 0x21 || block[i+1] != 1 { // LZMA2, and the length of its properties
			continue
		}
		if bits := block[i+2]; bits > 40 || (2|int64(bits)&1)<<(bits/2+11) > maxDict {
			return fmt.Errorf("%w: unpacking takes more than %d bytes of memory", ErrTooLarge, maxDict)
		}
		return nil
	}
	return nil
}

func (u *unpacker) tar(in io.Reader) error {
	limited := &io.LimitedReader{R: in, N: maxStream}
	t := &tarReader{in: bufio.NewReaderSize(limited, 64<<10)}
	for {
		e, err := t.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && limited.N == 0 {
			return fmt.Errorf("%w: a tar stream of more than %d bytes", ErrTooLarge, int64(maxStream))
		}
		if err != nil {
			return broken(err)
		}
		if err := u.count(); err != nil {
			return err
		}
		if err := u.tarEntry(e, t); err != nil {
			return err
		}
	}
	if u.odd = u.odd || t.odd; u.root() != "" && len(u.files) == 0 {
		return fmt.Errorf("%w: it holds nothing but folders, which Zig does not make", ErrUnfit)
	}
	// Zig does not look at the checksum that comes last; a mirror must.
	_, err := io.Copy(io.Discard, t.in)
	return broken(err)
}

func (u *unpacker) tarEntry(e tarEntry, body io.Reader) error {
	name := clean(e.name)
	u.odd = u.odd || name != e.name && !(e.kind == tarFolder && name+"/" == e.name)
	switch {
	case e.kind == tarFolder:
		if name == "" {
			return nil
		}
		return u.note(name, directory) // comes into being with the first file in it
	case e.kind != tarFile && e.kind != tarSymlink:
		u.refuse(e.name, "has the type %q, which Zig does not unpack", e.kind)
		return nil
	case name == "":
		return fmt.Errorf("%w: %.200q leads out of the archive", ErrUnfit, e.name)
	case e.kind == tarFile:
		ok, err := u.enter(name, file)
		if !ok || err != nil {
			return err
		}
		return u.addFile(name, e.size, body)
	case e.target == "":
		u.refuse(name, "is a symlink to nothing")
		return u.note(name, link)
	case len(e.target) > MaxTarget:
		u.refuse(name, "is a symlink to a path of %d bytes", len(e.target))
		return u.note(name, link)
	}
	ok, err := u.enter(name, link)
	if ok {
		u.names += len(e.target)
		u.files = append(u.files, File{Path: name, Link: true, Target: e.target})
	}
	return err
}

// clean returns the path that Zig makes of a name since 0.16, "" if it leads out of the archive or nowhere.
func clean(name string) string {
	if strings.HasPrefix(name, "/") {
		return ""
	}
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		switch part {
		case "", ".":
		case "..":
			if len(parts) == 0 {
				return ""
			}
			parts = parts[:len(parts)-1]
		default:
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, "/")
}

// broken makes what a library says of bad data an ErrUnfit, and leaves errors of our own machine alone.
func broken(err error) error {
	if err == nil {
		return nil
	}
	var file *fs.PathError
	for _, own := range []error{ErrTooLarge, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, own) {
			return err
		}
	}
	if errors.As(err, &file) {
		return err
	}
	if errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		return fmt.Errorf("%w: it looks back further than Zig's 8 MiB", ErrUnfit)
	}
	return fmt.Errorf("%w: it is damaged or not what its type says: %v", ErrUnfit, err)
}
