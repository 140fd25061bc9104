package gitpack

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zlib"
)

// A Repository is a bare repository on disk, read whole.
// gitrepository-layout(5).
type Repository struct {
	Head    string         // the ref that HEAD names, as refs/heads/main
	Refs    map[string]OID // branches and tags, by full name
	Objects *Objects
}

// ReadRepository reads the bare repository in dir, its objects into spool.
// Alternates, partial clones and symbolic links out of dir are not followed:
// what they hold is missing, or an error.
func ReadRepository(ctx context.Context, dir *os.Root, spool *os.File, lim Limits) (*Repository, error) {
	r := &Repository{Refs: map[string]OID{}}
	if err := r.readRefs(dir); err != nil {
		return nil, err
	}
	packs, err := fs.Glob(dir.FS(), "objects/pack/*.pack")
	if err != nil {
		return nil, fmt.Errorf("list packs: %w", err)
	}
	r.Objects = NewObjects(spool)
	for i, name := range packs {
		if err := r.readPack(ctx, dir, name, spool, i == 0, lim); err != nil {
			return nil, fmt.Errorf("read %s: %w", path.Base(name), err)
		}
	}
	return r, r.readLoose(ctx, dir, lim)
}

func (r *Repository) readRefs(dir *os.Root) error {
	head, err := dir.ReadFile("HEAD")
	if err != nil {
		return fmt.Errorf("read repository: %w", err)
	}
	r.Head, _ = strings.CutPrefix(strings.TrimSpace(string(head)), "ref: ")
	packed, err := dir.ReadFile("packed-refs")
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("read repository: %w", err)
	}
	for line := range strings.Lines(string(packed)) {
		text, name, ok := strings.Cut(strings.TrimSpace(line), " ")
		if id, err := ParseOID(text); ok && err == nil {
			r.addRef(name, id)
		}
	}
	return fs.WalkDir(dir.FS(), "refs", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := dir.ReadFile(name)
		if err != nil {
			return fmt.Errorf("read repository: %w", err)
		}
		if id, err := ParseOID(strings.TrimSpace(string(b))); err == nil {
			r.addRef(name, id)
		}
		return nil
	})
}

func (r *Repository) addRef(name string, id OID) {
	if strings.HasPrefix(name, "refs/heads/") || strings.HasPrefix(name, "refs/tags/") {
		r.Refs[name] = id
	}
}

// readPack adds a pack's objects. The first pack goes straight to the spool.
func (r *Repository) readPack(ctx context.Context, dir *os.Root, name string, spool *os.File, first bool, lim Limits) error {
	pack, err := dir.Open(name)
	if err != nil {
		return err
	}
	defer pack.Close()
	if first {
		r.Objects, err = Unpack(ctx, pack, spool, lim, nil)
		return err
	}
	other, err := os.CreateTemp(filepath.Dir(spool.Name()), "spool-*")
	if err != nil {
		return err
	}
	defer os.Remove(other.Name())
	defer other.Close()
	objects, err := Unpack(ctx, pack, other, lim, nil)
	if err != nil {
		return err
	}
	for _, e := range objects.entries {
		if _, ok := r.Objects.byID[e.oid]; ok {
			continue
		}
		if _, err := r.Objects.Add(e.typ, e.size, io.NewSectionReader(other, e.off, e.size)); err != nil {
			return err
		}
	}
	return nil
}

// readLoose adds the objects that are in no pack.
func (r *Repository) readLoose(ctx context.Context, dir *os.Root, lim Limits) error {
	names, err := fs.Glob(dir.FS(), "objects/[0-9a-f][0-9a-f]/*")
	if err != nil {
		return fmt.Errorf("list loose objects: %w", err)
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := r.addLoose(dir, name, lim); err != nil {
			return fmt.Errorf("read loose object %s: %w", path.Base(name), err)
		}
	}
	return nil
}

func (r *Repository) addLoose(dir *os.Root, name string, lim Limits) error {
	f, err := dir.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := zlib.NewReader(f)
	if err != nil {
		return err
	}
	in := bufio.NewReader(z)
	header, err := in.ReadString(0)
	if err != nil {
		return err
	}
	word, text, _ := strings.Cut(strings.TrimSuffix(header, "\x00"), " ")
	size, err := strconv.ParseInt(text, 10, 64)
	if err != nil || size < 0 || size > lim.ObjectBytes {
		return errorf(CodeObjectTooLarge, "object has the size %.20q", text)
	}
	for typ := Commit; typ <= Tag; typ++ {
		if typ.String() == word {
			_, err = r.Objects.Add(typ, size, in)
			return err
		}
	}
	return fmt.Errorf("unknown type %.20q", word)
}

// History returns all objects that tips lead to, with the parents of commits:
// commits and tags first, then trees and blobs, each once and after what names
// it. It returns CodeIncomplete if one is missing.
func (o *Objects) History(ctx context.Context, tips []OID, lim Limits) ([]OID, error) {
	seen := map[OID]bool{}
	var commits, trees, all []OID
	queue := slices.Clone(tips)
	for len(queue) > 0 {
		id := queue[0]
		queue = queue[1:]
		if seen[id] {
			continue
		}
		seen[id] = true
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		obj, ok := o.Stat(id)
		if !ok {
			return nil, errorf(CodeIncomplete, "object %s is missing", id)
		}
		raw, err := o.Read(id, obj.Type, lim.ObjectBytes)
		if err != nil {
			return nil, err
		}
		switch obj.Type {
		case Tag:
			tag, err := ParseTag(raw)
			if err != nil {
				return nil, err
			}
			queue = append(queue, tag.Object)
		case Commit:
			commit, err := ParseCommit(raw)
			if err != nil {
				return nil, err
			}
			queue = append(queue, commit.Parents...)
			trees = append(trees, commit.Tree)
		default:
			return nil, errorf(codeTagNotCommit, "%s %s is neither a commit nor a tag", obj.Type, id)
		}
		commits = append(commits, id)
	}
	all = commits
	for len(trees) > 0 {
		id := trees[len(trees)-1]
		trees = trees[:len(trees)-1]
		if seen[id] {
			continue
		}
		seen[id] = true
		all = append(all, id)
		raw, err := o.Read(id, Tree, lim.ObjectBytes)
		if err != nil {
			return nil, err
		}
		entries, _, err := parseTree(raw, lim)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			switch {
			case e.mode == ModeDir:
				trees = append(trees, e.id)
			case e.mode == ModeSubmodule || seen[e.id]:
			default:
				seen[e.id] = true
				if _, ok := o.Stat(e.id); !ok {
					return nil, errorf(CodeIncomplete, "object %s is missing", e.id)
				}
				all = append(all, e.id)
			}
		}
	}
	return all, nil
}

// WritePackIndex writes the index that Git wants beside a pack, for a segment
// that is served as one. gitformat-pack(5), "Version 2 pack-*.idx files".
func WritePackIndex(w io.Writer, segment io.ReaderAt, x *SegmentIndex) error {
	order := make([]int, x.Len())
	for i := range order {
		order[i] = i
	}
	sort.Slice(order, func(a, b int) bool { return bytes.Compare(x.IDs[order[a]][:], x.IDs[order[b]][:]) < 0 })

	b := []byte("\xfftOc\x00\x00\x00\x02")
	n := 0
	for first := range 256 {
		for n < len(order) && int(x.IDs[order[n]][0]) <= first {
			n++
		}
		b = binary.BigEndian.AppendUint32(b, uint32(n))
	}
	for _, i := range order {
		b = append(b, x.IDs[i][:]...)
	}
	for _, i := range order {
		end := x.Size() - sha1.Size
		if i+1 < x.Len() {
			end = x.offset(i + 1)
		}
		sum := crc32.NewIEEE()
		if _, err := io.Copy(sum, io.NewSectionReader(segment, x.offset(i), end-x.offset(i))); err != nil {
			return fmt.Errorf("write pack index: %w", err)
		}
		b = binary.BigEndian.AppendUint32(b, sum.Sum32())
	}
	var large []byte
	for _, i := range order {
		off := uint64(x.offset(i))
		if off >= 1<<31 {
			b = binary.BigEndian.AppendUint32(b, 1<<31|uint32(len(large)/8))
			large = binary.BigEndian.AppendUint64(large, off)
			continue
		}
		b = binary.BigEndian.AppendUint32(b, uint32(off))
	}
	b = append(b, large...)
	trailer := make([]byte, sha1.Size)
	if _, err := segment.ReadAt(trailer, x.Size()-sha1.Size); err != nil && err != io.EOF {
		return fmt.Errorf("write pack index: %w", err)
	}
	b = append(b, trailer...)
	sum := sha1.Sum(b)
	if _, err := w.Write(append(b, sum[:]...)); err != nil {
		return fmt.Errorf("write pack index: %w", err)
	}
	return nil
}
