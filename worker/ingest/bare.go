package ingest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/gitpack"
)

const (
	branchPrefix = "refs/heads/"
	tagPrefix    = "refs/tags/"
)

// A bareFixture is a local bare repository. It is read whole, history included.
type bareFixture struct {
	repo  *gitpack.Repository
	spool *os.File
}

func openBareFixture(ctx context.Context, req Request, folder *os.Root) (source, error) {
	defer folder.Close()
	if err := linksOut(folder); err != nil {
		return nil, err
	}
	if _, err := folder.Stat("HEAD"); err != nil {
		return nil, fault.New("fixture_not_found", fmt.Sprintf("the fixture %s is not a bare repository", filepath.Base(req.CloneURL)))
	}
	spool, err := os.Create(filepath.Join(req.Dir, "repository"))
	if err != nil {
		return nil, fmt.Errorf("make spool: %w", err)
	}
	repo, err := gitpack.ReadRepository(ctx, folder, spool, req.Limits.Git)
	if err != nil {
		spool.Close()
		return nil, err
	}
	return &bareFixture{repo: repo, spool: spool}, nil
}

// linksOut refuses a repository of which a part that is read is a symlink out of it: that part is not here.
func linksOut(folder *os.Root) error {
	for _, part := range []string{"HEAD", "packed-refs", "refs", "objects"} {
		err := fs.WalkDir(folder.FS(), part, func(name string, d fs.DirEntry, err error) error {
			if d != nil && d.IsDir() {
				return err
			}
			info, err := folder.Lstat(name)
			if err != nil || info.Mode().Type() != fs.ModeSymlink {
				return nil // reading it says what is wrong
			}
			if _, err := folder.Stat(name); err != nil {
				return fault.New("fixture_unfit", fmt.Sprintf("%q in the fixture is a symlink that leads out of it, or to nothing; put there what it names", name))
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bareFixture) close() {
	b.spool.Close()
	os.Remove(b.spool.Name())
}

func (b *bareFixture) refs() sourceRefs {
	has := newSourceRefs()
	for name, id := range b.repo.Refs {
		if branch, ok := strings.CutPrefix(name, branchPrefix); ok {
			has.addBranch(branch, id)
		} else {
			has.addTag(strings.TrimPrefix(name, tagPrefix), id)
		}
	}
	return has
}

// objects fills spool with a copy of all: the worker takes it, and the history is made of what is here.
func (b *bareFixture) objects(_ context.Context, _ []gitpack.OID, spool *os.File) (*gitpack.Objects, error) {
	if _, err := io.Copy(spool, io.NewSectionReader(b.spool, 0, math.MaxInt64)); err != nil {
		return nil, fmt.Errorf("copy objects: %w", err)
	}
	return b.repo.Objects, nil
}

func (b *bareFixture) whole() (objects *gitpack.Objects, head string, err error) {
	return b.repo.Objects, cmp.Or(b.repo.Head, "refs/heads/main"), nil
}

// A local source is read whole.
type local interface {
	source
	// whole returns all that it holds, and the ref that is its HEAD.
	whole() (objects *gitpack.Objects, head string, err error)
}

// history stages everything that the source's branches and tags lead to.
func (m *mirror) history(ctx context.Context, src local) error {
	objects, head, err := src.whole()
	if err != nil {
		return err
	}
	refs := map[string]string{}
	var tips []gitpack.OID
	has := src.refs()
	for prefix, named := range map[string]map[string]gitpack.OID{branchPrefix: has.branches, tagPrefix: has.tags} {
		for name, id := range named {
			refs[prefix+name] = id.String()
			tips = append(tips, id)
		}
	}
	slices.SortFunc(tips, func(x, y gitpack.OID) int { return bytes.Compare(x[:], y[:]) })
	ids, err := objects.History(ctx, tips, m.req.Limits.Git)
	if err != nil || len(ids) == 0 {
		return err
	}
	name, file, err := m.stage(".history")
	if err != nil {
		return err
	}
	defer file.Close()
	index, err := gitpack.WriteSegment(ctx, file, objects, ids)
	if err != nil {
		return fmt.Errorf("write history: %w", err)
	}
	indexName, indexFile, err := m.stage(".idx")
	if err != nil {
		return err
	}
	defer indexFile.Close()
	if err := gitpack.WritePackIndex(indexFile, file, index); err != nil {
		return err
	}
	trailer := make([]byte, len(gitpack.OID{}))
	if _, err := file.ReadAt(trailer, index.Size()-int64(len(trailer))); err != nil {
		return fmt.Errorf("read trailer: %w", err)
	}
	if err := errors.Join(file.Close(), indexFile.Close()); err != nil {
		return fmt.Errorf("write history: %w", err)
	}
	return m.events.send(Event{History: &History{
		Head: head, Refs: refs, Name: hex.EncodeToString(trailer), File: name, Index: indexName,
	}})
}
