package release

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/tarball"
)

// form is that of new tarballs.
const form = tarball.Form2

// A Builder builds the tarballs and manifests of a package's releases, several
// at once.
type Builder struct {
	tarballs *tarball.Builder
	git      gitpack.Limits
	zig      *zigFiles
}

// NewBuilder returns a builder that needs a scratch file, as a
// [tarball.Builder] does. size is the most that a tarball may have, in bytes.
func NewBuilder(scratch *os.File, size int64, git gitpack.Limits) *Builder {
	return &Builder{
		tarballs: tarball.NewBuilder(scratch, form, tarball.Limits{Size: size}),
		git:      git,
		zig:      newZigFiles(),
	}
}

// Build writes the tarball of a release to w, and returns man with all that is
// known of the release filled in. man says of which package it is, and from
// where.
func (b *Builder) Build(ctx context.Context, w io.Writer, objects *gitpack.Objects, r *Root, man Manifest) (*Manifest, error) {
	tree, err := objects.Files(ctx, r.Info.Tree, b.git)
	if err != nil {
		return nil, err
	}
	prefix, err := tarball.Wrap(wrapper(man), cmp.Or(r.Tag, r.Commit.String()), entries(objects, tree))
	if err != nil {
		return nil, err
	}
	header := tarball.Header{Commit: r.Commit.String(), Time: r.Info.CommitterTime, Prefix: prefix}
	info, err := b.tarballs.Build(ctx, w, header, entries(objects, tree))
	if err != nil {
		return nil, err
	}
	if man.Zig, err = b.zig.describe(objects, tree); err != nil {
		return nil, err
	}
	man.Version, man.Tag, man.Commit, man.Tree, man.CommitTime = ManifestVersion, r.Tag, r.Commit.String(), r.Info.Tree.String(), r.Info.CommitterTime.UTC()
	man.Description = description(objects, tree)
	man.Tarball = tarballOf(info, prefix, int(form))
	man.Git = Git{Segment: r.Segment, Entries: oddEntries(tree)}
	man.Submodules = submodules(man.Git.Entries)
	return &man, r.raw(objects, &man, b.git.ObjectBytes)
}

// wrapper returns what a tree that must be wrapped is wrapped as: what upstream calls the repository, whatever the package is
// called here, so that all mirrors make the same tarball.
func wrapper(man Manifest) string {
	if _, repository, ok := strings.Cut(man.Upstream, ":"); ok {
		return path.Base(repository)
	}
	return man.Package
}

// raw adds the commit and the tag objects to a manifest.
func (r *Root) raw(objects *gitpack.Objects, man *Manifest, limit int64) (err error) {
	if man.Git.Commit, err = objects.Read(r.Commit, gitpack.Commit, limit); err != nil {
		return err
	}
	for _, id := range r.Tags {
		raw, err := objects.Read(id, gitpack.Tag, limit)
		if err != nil {
			return err
		}
		man.Git.Tags = append(man.Git.Tags, raw)
	}
	if len(r.Tags) > 0 && r.Tag != "" {
		man.TagObject = r.Tags[0].String()
	}
	return nil
}

func tarballOf(info tarball.Info, prefix string, form int) Tarball {
	return Tarball{Digest: info.Digest, Size: info.Size, MD5: info.MD5, CRC32: info.CRC32,
		ContentDigest: info.ContentDigest, ContentSize: info.ContentSize, Prefix: prefix, Form: form}
}

// WriteTarball writes the tarball that a manifest describes from the Git
// objects that it was made from.
func WriteTarball(ctx context.Context, w *os.File, objects *gitpack.Objects, man *Manifest) error {
	root, err := gitpack.ParseOID(man.Tree)
	if err != nil {
		return err
	}
	tree, err := objects.Files(ctx, root, gitpack.StoredLimits())
	if err != nil {
		return err
	}
	scratch, err := os.CreateTemp(filepath.Dir(w.Name()), "chunks-*")
	if err != nil {
		return fmt.Errorf("make scratch file: %w", err)
	}
	defer os.Remove(scratch.Name())
	defer scratch.Close()
	header := tarball.Header{Commit: man.Commit, Time: man.CommitTime, Prefix: man.Tarball.Prefix}
	// Manifests of earlier builds say no form.
	form := cmp.Or(tarball.Form(man.Tarball.Form), tarball.Form1)
	_, err = tarball.NewBuilder(scratch, form, tarball.Limits{}).Build(ctx, w, header, entries(objects, tree))
	return err
}
