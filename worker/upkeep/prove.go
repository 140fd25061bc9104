package upkeep

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/tarball"
	"github.com/francescobianco/packbase/worker/ingest"
)

// A Proof is what a manifest and a tarball tell, whoever made them.
type Proof struct {
	Commit  gitpack.OID
	OID     gitpack.OID   // of the outermost tag object, else of the commit
	Objects []gitpack.OID // all objects of the release, each once
	Zig     release.Zig   // what Zig makes of the files
}

// Prove holds all that a manifest says of its tarball to the tarball itself,
// and to the commit and tag objects that the manifest holds: digests, files,
// Git's ids and Zig's hashes. It returns ErrUntrue if they do not agree. The
// files go through a file in dir that nobody else can open.
func Prove(ctx context.Context, dir string, man *release.Manifest, targz io.Reader, lim ingest.Limits) (*Proof, error) {
	spool, err := os.CreateTemp(dir, "proof-*")
	if err != nil {
		return nil, fmt.Errorf("make spool: %w", err)
	}
	defer spool.Close()
	if err := os.Remove(spool.Name()); err != nil {
		return nil, fmt.Errorf("make spool: %w", err)
	}
	objects := gitpack.NewObjects(spool)
	r, err := newRoot(objects, man, targz, tarball.Limits{Size: lim.Tarball})
	if err != nil {
		return nil, untrue(err)
	}
	tree, zig, err := r.admit(ctx, objects, lim.Git)
	if err != nil {
		return nil, untrue(err)
	}
	return &Proof{Commit: r.commit, OID: r.oid, Objects: r.objects(tree), Zig: zig}, nil
}

// admit is checkFiles for a release that is not published yet: it refuses what
// Git or Zig would trip over, too, as the process that reads upstream does.
// What is published stays, whatever the rules were then.
func (r *root) admit(ctx context.Context, objects *gitpack.Objects, lim gitpack.Limits) (gitpack.Listing, release.Zig, error) {
	tree, zig, err := r.checkFiles(ctx, objects, lim)
	switch {
	case err != nil:
		return tree, zig, err
	case name.ValidOID(r.manifest.Tag):
		return tree, zig, fmt.Errorf("the tag %s is named like a commit: who pins that commit would get the tag", r.manifest.Tag)
	}
	return tree, zig, objects.Fsck(r.commit, r.tags, tree)
}

// checkFiles lists the files, and compares what Zig makes of them with what the
// manifest says. It returns errZig if just that differs.
func (r *root) checkFiles(ctx context.Context, objects *gitpack.Objects, lim gitpack.Limits) (gitpack.Listing, release.Zig, error) {
	tree, err := objects.Files(ctx, r.tree, lim)
	if err != nil {
		return tree, release.Zig{}, err
	}
	zig, err := ingest.DescribeZig(objects, tree)
	if err != nil {
		return tree, zig, err
	}
	r.zig = zig
	if said := r.manifest.Zig; said.Hash != zig.Hash || said.LegacyHash != zig.LegacyHash {
		return tree, zig, fmt.Errorf("%w: %q and %q, the manifest says %q and %q", errZig, zig.Hash, zig.LegacyHash, said.Hash, said.LegacyHash)
	}
	return tree, zig, nil
}

// errZig says that a manifest names Zig hashes that its files do not have.
var errZig = errors.New("the files have the Zig hashes")

// objects returns all that the release is made of, each once, in the order of
// a segment.
func (r *root) objects(tree gitpack.Listing) []gitpack.OID {
	var ids []gitpack.OID
	seen := map[gitpack.OID]bool{}
	for id := range ingest.Reachable(r.tags, r.commit, tree) {
		if !seen[id] {
			seen[id] = true
			ids = append(ids, id)
		}
	}
	return ids
}

// A root is a release with its Git objects in hand.
type root struct {
	manifest *release.Manifest
	digest   string // of the manifest
	oid      gitpack.OID
	commit   gitpack.OID
	tags     []gitpack.OID // outermost first
	tree     gitpack.OID

	zig       release.Zig // what Zig makes of the files; set by checkFiles
	untrueZig bool        // the files have other Zig hashes than the manifest says
}

// load reads a release from its manifest and tarball into objects, and checks
// that they give the ids that upstream had.
func (a *Auditor) load(ctx context.Context, objects *gitpack.Objects, digest string) (*root, error) {
	raw, err := a.read(ctx, digest)
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	man, err := release.ParseManifest(raw)
	if err != nil {
		return nil, err
	}
	b, err := a.Blobs.Open(ctx, man.Tarball.Digest)
	if err != nil {
		return nil, fmt.Errorf("open tarball: %w", err)
	}
	defer b.Close()
	r, err := newRoot(objects, man, b, tarball.Limits{})
	if err != nil {
		return nil, fmt.Errorf("tarball %s: %w", man.Tarball.Digest, err)
	}
	r.digest = digest
	return r, nil
}

// newRoot reads a tarball into objects, and checks that it and what its
// manifest holds give the digests and ids that the manifest says.
func newRoot(objects *gitpack.Objects, man *release.Manifest, targz io.Reader, lim tarball.Limits) (*root, error) {
	if err := man.Check(); err != nil {
		return nil, err
	}
	r := &root{manifest: man}
	var err error
	if r.tree, err = loadTree(objects, man, targz, lim); err != nil {
		return nil, err
	}
	if r.tree.String() != man.Tree {
		return nil, fmt.Errorf("the tarball holds the tree %s, the manifest says %s", r.tree, man.Tree)
	}
	if r.commit, err = add(objects, gitpack.Commit, man.Git.Commit); err != nil {
		return nil, err
	}
	info, err := gitpack.ParseCommit(man.Git.Commit)
	switch {
	case err != nil:
		return nil, err
	case r.commit.String() != man.Commit:
		return nil, fmt.Errorf("the commit in the manifest has the id %s, not %s", r.commit, man.Commit)
	case info.Tree != r.tree:
		return nil, fmt.Errorf("the commit %s has the tree %s, not %s", r.commit, info.Tree, r.tree)
	case !info.CommitterTime.Equal(man.CommitTime):
		return nil, fmt.Errorf("the commit %s is of %s, not of %s", r.commit, info.CommitterTime, man.CommitTime)
	}
	if !slices.Equal(man.Submodules, submodules(man.Git.Entries)) {
		return nil, errors.New("the submodules in the manifest are not those of the tree")
	}
	return r, r.loadTags(objects)
}

func submodules(entries []release.TreeEntry) []release.Submodule {
	var all []release.Submodule
	for _, e := range entries {
		if e.OID != "" {
			all = append(all, release.Submodule{Path: e.Path, Commit: e.OID})
		}
	}
	return all
}

// loadTags stores the tag objects, which lead to the commit one by one.
func (r *root) loadTags(objects *gitpack.Objects) error {
	r.oid = r.commit
	for _, raw := range slices.Backward(r.manifest.Git.Tags) {
		tag, err := gitpack.ParseTag(raw)
		if err != nil {
			return err
		}
		if tag.Object != r.oid {
			return fmt.Errorf("a tag object in the manifest names %s, not %s", tag.Object, r.oid)
		}
		if r.oid, err = add(objects, gitpack.Tag, raw); err != nil {
			return err
		}
		r.tags = append([]gitpack.OID{r.oid}, r.tags...)
	}
	want := ""
	if len(r.tags) > 0 {
		want = r.oid.String()
	}
	if r.manifest.TagObject != want {
		return fmt.Errorf("the tag object in the manifest has the id %q, not %q", want, r.manifest.TagObject)
	}
	return nil
}

// loadTree reads a tarball and stores the tree that it was made from.
func loadTree(objects *gitpack.Objects, man *release.Manifest, targz io.Reader, lim tarball.Limits) (gitpack.OID, error) {
	odd, empty, err := oddEntries(man.Git.Entries)
	if err != nil {
		return gitpack.OID{}, err
	}
	var files []gitpack.File
	header, info, err := tarball.Read(targz, man.Tarball.Prefix, lim, func(e tarball.Entry, body io.Reader) error {
		f, keep, err := fileOf(objects, e, body)
		if keep && err == nil {
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
	held := release.Tarball{Digest: info.Digest, Size: info.Size, MD5: info.MD5, CRC32: info.CRC32,
		ContentDigest: info.ContentDigest, ContentSize: info.ContentSize, Prefix: man.Tarball.Prefix, Form: man.Tarball.Form}
	if held != man.Tarball {
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
