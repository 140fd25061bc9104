package release

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"syscall"

	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/tarball"
)

var (
	// ErrUntrue says that a manifest claims what its tarball and commit belie.
	ErrUntrue = errors.New("untrue")

	// ErrZig says that a manifest names Zig hashes that its files do not have.
	ErrZig = errors.New("the files have the Zig hashes")

	// ErrRefused says that Git or Zig would trip over a release.
	ErrRefused = errors.New("refused")
)

// Untrue makes err an ErrUntrue, unless it tells of our own machine.
func Untrue(err error) error {
	var file *fs.PathError
	var errno syscall.Errno
	for _, own := range []error{blob.ErrFull, blob.ErrUnavailable, blob.ErrMismatch, fs.ErrNotExist, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, own) {
			return err
		}
	}
	if errors.As(err, &file) || errors.As(err, &errno) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUntrue, err)
}

// An Unpacked is a release with its Git objects in hand.
type Unpacked struct {
	Root
	Manifest  *Manifest
	Digest    string // of the manifest
	Zig       Zig    // what Zig makes of the files; set by Admit
	UntrueZig bool   // its hashes are not those that the manifest says; set by Admit

	objects *gitpack.Objects
}

// Load reads a release from the blobs of its manifest and tarball into objects,
// and checks that they give the ids that upstream had. digest is the manifest's.
func Load(ctx context.Context, blobs blob.Opener, objects *gitpack.Objects, digest string) (*Unpacked, error) {
	man, err := LoadManifest(ctx, blobs, digest)
	if err != nil {
		return nil, err
	}
	b, err := blobs.Open(ctx, man.Tarball.Digest)
	if err != nil {
		return nil, fmt.Errorf("open tarball: %w", err)
	}
	defer b.Close()
	r, err := unpack(objects, man, b, tarball.Limits{})
	if err != nil {
		return nil, fmt.Errorf("tarball %s: %w", man.Tarball.Digest, err)
	}
	r.Digest = digest
	return r, nil
}

// unpack reads a tarball into objects, and checks that it and what its manifest
// holds give the digests and ids that the manifest says.
func unpack(objects *gitpack.Objects, man *Manifest, targz io.Reader, lim tarball.Limits) (*Unpacked, error) {
	if err := man.Check(); err != nil {
		return nil, err
	}
	tree, err := readTree(objects, man, targz, lim)
	if err != nil {
		return nil, err
	}
	if tree.String() != man.Tree {
		return nil, fmt.Errorf("the tarball holds the tree %s, the manifest says %s", tree, man.Tree)
	}
	r := &Unpacked{Root: Root{Tag: man.Tag}, Manifest: man, objects: objects}
	if r.Commit, err = add(objects, gitpack.Commit, man.Git.Commit); err != nil {
		return nil, err
	}
	r.Info, err = gitpack.ParseCommit(man.Git.Commit)
	switch {
	case err != nil:
		return nil, err
	case r.Commit.String() != man.Commit:
		return nil, fmt.Errorf("the commit in the manifest has the id %s, not %s", r.Commit, man.Commit)
	case r.Info.Tree != tree:
		return nil, fmt.Errorf("the commit %s has the tree %s, not %s", r.Commit, r.Info.Tree, tree)
	case !r.Info.CommitterTime.Equal(man.CommitTime):
		return nil, fmt.Errorf("the commit %s is of %s, not of %s", r.Commit, r.Info.CommitterTime, man.CommitTime)
	case !slices.Equal(man.Submodules, submodules(man.Git.Entries)):
		return nil, errors.New("the submodules in the manifest are not those of the tree")
	}
	return r, r.addTags()
}

// addTags stores the tag objects, which lead to the commit one by one.
func (r *Unpacked) addTags() error {
	r.OID = r.Commit
	typ := gitpack.Commit
	for _, raw := range slices.Backward(r.Manifest.Git.Tags) {
		tag, err := gitpack.ParseTag(raw)
		if err != nil {
			return err
		}
		if tag.Object != r.OID {
			return fmt.Errorf("a tag object in the manifest names %s, not %s", tag.Object, r.OID)
		}
		if tag.Type != typ {
			return fmt.Errorf("a tag object in the manifest says that %s is a %s, it is a %s", tag.Object, tag.Type, typ)
		}
		typ = gitpack.Tag
		if r.OID, err = add(r.objects, gitpack.Tag, raw); err != nil {
			return err
		}
		r.Tags = append([]gitpack.OID{r.OID}, r.Tags...)
	}
	want := ""
	if len(r.Tags) > 0 {
		want = r.OID.String()
	}
	if r.Manifest.TagObject != want {
		return fmt.Errorf("the tag object in the manifest has the id %q, not %q", want, r.Manifest.TagObject)
	}
	return nil
}

func add(objects *gitpack.Objects, typ gitpack.Type, content []byte) (gitpack.OID, error) {
	return objects.Add(typ, int64(len(content)), bytes.NewReader(content))
}

// Admit refuses what Git or Zig would trip over, as is done before anything is
// published, and compares what Zig makes of the files with what the
// manifest says. It returns ErrRefused, ErrZig, or both.
func (r *Unpacked) Admit(ctx context.Context) error {
	tree, err := r.objects.Files(ctx, r.Info.Tree, gitpack.StoredLimits())
	if err != nil {
		return err
	}
	if r.Zig, err = newZigFiles().describe(r.objects, tree); err != nil {
		return err
	}
	var untrue error
	if said := r.Manifest.Zig; said.Hash != r.Zig.Hash || said.LegacyHash != r.Zig.LegacyHash {
		r.UntrueZig = true
		untrue = fmt.Errorf("%w: %q and %q, the manifest says %q and %q", ErrZig, r.Zig.Hash, r.Zig.LegacyHash, said.Hash, said.LegacyHash)
	}
	err = r.objects.Fsck(r.Commit, r.Tags, tree)
	if name.ValidOID(r.Tag) {
		err = fmt.Errorf("the tag %s is named like a commit: who pins that commit would get the tag", r.Tag)
	}
	switch {
	case err == nil:
		return untrue
	case untrue == nil:
		return fmt.Errorf("%w: %w", ErrRefused, err)
	default:
		return fmt.Errorf("%w: %w; %w", ErrRefused, err, untrue)
	}
}
