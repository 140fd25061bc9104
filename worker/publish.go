package worker

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/worker/ingest"
)

// batch publishes the releases of what the child took out of upstream's packs.
// The child says where the objects are, and which of them are releases. What
// they are is worked out here, and all that is published is made from them.
func (f *fetch) batch(ctx context.Context, b *ingest.Batch) error {
	if err := f.privatize(ctx); err != nil { // it may have got credentials since it listed refs
		return err
	}
	spool, err := f.unstage(b.Spool)
	if err != nil {
		return err
	}
	defer os.Remove(spool.Name())
	defer spool.Close()
	layout, err := f.unstage(b.Layout)
	if err != nil {
		return err
	}
	defer os.Remove(layout.Name())
	defer layout.Close()
	objects, err := f.objects(ctx, spool, layout)
	if err != nil {
		return untrue(err)
	}
	roots, err := f.roots(ctx, objects, b.Roots)
	if err != nil {
		return untrue(err)
	}
	if err := f.segment(ctx, objects, roots); err != nil {
		return err
	}
	return f.publishAll(ctx, objects, roots)
}

// untrue returns the job's outcome for what the child says that is not so.
func untrue(err error) error {
	e := ingest.AsFault(err)
	if e == nil {
		return err
	}
	return fault.New("ingest_untrue", "what the process that reads upstream says is not what its files say: "+e.Message)
}

func (f *fetch) objects(ctx context.Context, spool, layout *os.File) (*gitpack.Objects, error) {
	lim := f.w.opt.Limits.Git
	most := 32 * int64(lim.Objects) // bytes: more than so many objects take
	raw, err := io.ReadAll(io.NewSectionReader(layout, 0, most))
	if err != nil {
		return nil, fmt.Errorf("read layout: %w", err)
	}
	return gitpack.ReadObjects(ctx, spool, raw, lim)
}

// A root is a release to publish.
type root struct {
	release.Root
	of ingest.Root
}

// roots returns the releases, the oldest first.
func (f *fetch) roots(ctx context.Context, objects *gitpack.Objects, said []ingest.Root) ([]*root, error) {
	if len(said) > ingest.BatchTags {
		return nil, fault.New("ingest_untrue", fmt.Sprintf("there are %d releases at once, more than %d", len(said), ingest.BatchTags))
	}
	var all []*root
	for _, of := range said {
		if want := f.refs.Tags[of.Tag]; of.Tag != "" && want != of.OID.String() {
			return nil, fault.New("ingest_untrue", fmt.Sprintf("the tag %.100q names %q, not %s", of.Tag, want, of.OID))
		}
		r, err := release.Check(ctx, objects, of.Tag, of.OID, f.w.opt.Limits.Git)
		if err != nil {
			return nil, err
		}
		all = append(all, &root{r, of})
	}
	slices.SortFunc(all, func(a, b *root) int {
		return name.CompareTags(a.Tag, a.Info.CommitterTime, b.Tag, b.Info.CommitterTime)
	})
	return all, nil
}

// segment stores a segment of the objects that no earlier one holds, before the
// releases that need it.
func (f *fetch) segment(ctx context.Context, objects *gitpack.Objects, roots []*root) error {
	all := make([]*release.Root, len(roots))
	for i, r := range roots {
		all[i] = &r.Root
	}
	fresh, err := f.segments.Fresh(ctx, objects, all, f.w.opt.Limits.Git)
	if err != nil || len(fresh) == 0 {
		return err
	}
	f.job.setProgress(jobs.Progress{Step: "store", Total: int64(len(fresh)), Unit: "objects"})
	file, err := os.CreateTemp(f.dir, "segment-*")
	if err != nil {
		return fmt.Errorf("stage segment: %w", err)
	}
	defer os.Remove(file.Name())
	defer file.Close()
	index, err := gitpack.WriteSegment(ctx, file, objects, fresh)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("stat segment: %w", err)
	}
	raw, err := index.MarshalBinary()
	if err != nil {
		return err
	}
	if err := f.charge(ctx, info.Size()+int64(len(raw)), 0); err != nil {
		return err
	}
	packed, err := f.putFile(ctx, file)
	if err != nil {
		return err
	}
	indexed, err := f.putBytes(ctx, raw)
	if err != nil {
		return err
	}
	f.segments = f.segments.With(release.Segment{Package: f.pkg.Name, Digest: packed.Digest, IndexDigest: indexed.Digest, Size: packed.Size}, index)
	return f.w.db.AppendSegment(ctx, f.job.Claim, f.segments.Last(), indexed)
}

// setHistory stores the history of a local bare repository.
func (f *fetch) setHistory(ctx context.Context, h *ingest.History) error {
	if !strings.HasPrefix(f.pkg.CloneURL, name.FixtureScheme) {
		return fault.New("ingest_untrue", "the process that reads upstream has a history of what is no local repository")
	}
	pack, err := f.put(ctx, h.File)
	if err != nil {
		return err
	}
	index, err := f.put(ctx, h.Index)
	if err != nil {
		return err
	}
	return f.w.db.SetHistory(ctx, f.job.Claim, storage.History{Head: h.Head, Refs: h.Refs, PackName: h.Name}, pack, index)
}

// releasesAtOnce is how many releases are built and made durable at a time: the
// one takes a processor, the other waits for the disk.
const releasesAtOnce = 16

// publishedAtOnce is how many releases become visible in one transaction at most.
const publishedAtOnce = 16

// heavy is how many bytes of a manifest or a build.zig.zon make a release one
// that is built alone: they are in memory, several times over.
const heavy = 1 << 20

// alone waits until no other heavy release is built by the worker, if r is one,
// until done is called. Who waits for it in the order of its job has no other
// job wait that is before it there.
func (w *Worker) alone(ctx context.Context, r *release.Root) (done func(), err error) {
	if max(r.Described, r.Zon) < heavy {
		return func() {}, nil
	}
	select {
	case w.heavy <- struct{}{}:
		return func() { <-w.heavy }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// A built is a release whose bytes are durable, or why it cannot be published,
// or why there is no room for it.
type built struct {
	storage.Publication
	refused *fault.Error
	full    error

	file     *os.File // the tarball
	of       *release.Manifest
	manifest []byte // the same, encoded
}

// publishAll builds the releases, several at once, and makes them visible one by
// one, in their order. In that order room is taken for them, too: what there is
// none for stops nothing before it.
func (f *fetch) publishAll(ctx context.Context, objects *gitpack.Objects, roots []*root) error {
	g, ctx := errgroup.WithContext(ctx)
	slots := make(chan chan built, releasesAtOnce)
	g.Go(func() error {
		defer close(slots)
		before := make(chan struct{})
		close(before)
		var last time.Time
		for _, r := range roots {
			at := nextTime(last)
			last = at
			slot, turn, after := make(chan built, 1), before, make(chan struct{})
			before = after
			select {
			case slots <- slot:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			done, err := f.w.alone(ctx, &r.Root)
			if err != nil {
				return err
			}
			g.Go(func() error {
				defer done()
				made, err := f.build(ctx, objects, r, at)
				if err == nil {
					select {
					case <-turn:
						if made.refused == nil {
							made.full = f.charge(ctx, made.of.Tarball.Size+int64(len(made.manifest)), 1)
						}
						close(after)
						err = f.keep(ctx, objects, r, &made)
					case <-ctx.Done():
						err = context.Cause(ctx)
					}
				}
				if made.file != nil {
					made.file.Close()
					os.Remove(made.file.Name())
				}
				if err != nil {
					return fmt.Errorf("build %s: %w", cmp.Or(r.Tag, r.Commit.String()), err)
				}
				slot <- made
				return nil
			})
		}
		return nil
	})
	g.Go(func() error {
		var ready []built
		done := 0
		settle := func() error {
			err := f.settle(ctx, roots[done:], ready)
			done, ready = done+len(ready), nil
			f.job.setProgress(jobs.Progress{Step: "build", Done: int64(done), Total: int64(len(roots)), Unit: "tags"})
			return err
		}
		for slot := range slots {
			var made built
			select {
			case made = <-slot:
			default: // what is ready waits for none that is not
				if err := settle(); err != nil {
					return err
				}
				select {
				case made = <-slot:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
			if ready = append(ready, made); len(ready) < publishedAtOnce {
				continue
			}
			if err := settle(); err != nil {
				return err
			}
		}
		return settle()
	})
	return g.Wait()
}

// settle makes releases visible, or says why one cannot be published: those
// before it are.
func (f *fetch) settle(ctx context.Context, roots []*root, ready []built) error {
	var good []storage.Publication
	for i, made := range ready {
		r, e := roots[i], made.refused
		if e == nil && made.full == nil {
			good = append(good, made.Publication)
			continue
		}
		if err := f.publishTogether(ctx, good); err != nil {
			return err
		}
		good = nil
		var err error
		switch {
		case made.full != nil:
			err = made.full
		case r.of.Targeted():
			err = e
		case r.of.Branch != "":
			err = f.unfitBranch(ctx, ingest.Unfit{Branch: r.of.Branch, Code: e.Code, Reason: e.Message})
		default:
			err = f.reject(ctx, storage.RejectedTag{Tag: r.Tag, OID: r.OID.String(), Code: e.Code, Reason: e.Message})
		}
		if err != nil {
			return err
		}
	}
	return f.publishTogether(ctx, good)
}

// nextTime returns the time that it is, and one after last in any case. Edges and rebuilds publish in the order of the
// times in manifests, which has to be that of the rows here: the first release of a commit is what its path names.
func nextTime(last time.Time) time.Time {
	now := time.Now().UTC().Truncate(time.Microsecond) // as Postgres keeps it
	if now.After(last) {
		return now
	}
	return last.Add(time.Microsecond)
}

// build stages the tarball and the manifest of a release.
func (f *fetch) build(ctx context.Context, objects *gitpack.Objects, r *root, at time.Time) (made built, err error) {
	if made.file, err = os.CreateTemp(f.dir, "tarball-*"); err != nil {
		return made, fmt.Errorf("stage tarball: %w", err)
	}
	if made.refused = describable(r.Described); made.refused != nil {
		return made, nil
	}
	of := release.Manifest{Package: f.pkg.Name, Upstream: f.pkg.Upstream, CloneURL: f.pkg.CloneURL, Private: f.pkg.Private, Fence: f.job.Fence}
	made.of, err = f.builder.Build(ctx, made.file, objects, &r.Root, of)
	if made.refused = ingest.AsFault(err); made.refused != nil {
		return made, nil
	}
	if err != nil {
		return made, err
	}
	if err := made.of.Check(); err != nil {
		return made, err
	}
	made.of.CreatedAt = at
	if made.manifest, err = made.of.Encode(); err != nil {
		return made, err
	}
	made.refused = describable(int64(len(made.manifest)))
	return made, nil
}

// maxDescribed bounds a manifest that is new, in bytes. It is less than what
// anybody reads: who encodes one has it in memory five times over. And as each
// of its tree entries takes 62 bytes or more, there are fewer of them than
// strangejson.MaxElements, beyond which nobody reads one.
const maxDescribed = 28 << 20

// describable returns why a manifest of so many bytes is not kept, or nil.
func describable(n int64) *fault.Error {
	if n <= maxDescribed {
		return nil
	}
	return fault.New("manifest_too_large", fmt.Sprintf("what describes the release takes %d bytes, more than %d: its tag objects or submodules are too large",
		n, maxDescribed))
}

// keep makes what was built durable, if it may be published and there is room for it.
func (f *fetch) keep(ctx context.Context, objects *gitpack.Objects, r *root, made *built) error {
	if made.refused != nil || made.full != nil {
		made.of, made.manifest = nil, nil
		return nil
	}
	if _, err := f.putAs(ctx, made.file, made.of.Tarball.Digest); err != nil {
		return err
	}
	manifest, err := f.putBytes(ctx, made.manifest)
	if err != nil {
		return err
	}
	ids, err := r.Objects(ctx, objects, f.w.opt.Limits.Git)
	if err != nil {
		return err
	}
	stored, err := f.segments.Stored(ctx, r.Commit, ids)
	made.Publication = storage.PublicationOf(made.of, manifest, stored)
	made.of, made.manifest = nil, nil // they may be large, and others are before it
	return err
}

// publishTogether makes stored releases visible, in one transaction if that
// works, else one by one: then one of them is at fault, or there is room for a few.
func (f *fetch) publishTogether(ctx context.Context, all []storage.Publication) error {
	if len(all) > 1 {
		created, err := f.w.db.Publish(ctx, f.job.Claim, all...)
		if err == nil {
			return f.published(ctx, created)
		}
	}
	for _, pub := range all {
		if err := f.publish(ctx, pub); err != nil {
			return err
		}
	}
	return nil
}

// publish makes a stored release visible.
func (f *fetch) publish(ctx context.Context, pub storage.Publication) error {
	r := &pub.Release
	created, err := f.w.db.Publish(ctx, f.job.Claim, pub)
	if errors.Is(err, fault.ErrGone) && r.Tag != "" {
		const month = 30 * 24 * time.Hour
		t := storage.RejectedTag{Tag: r.Tag, OID: r.OID(), Code: "removed", Reason: verdict(err).Message, Rules: f.w.rules}
		return f.w.db.RejectTag(ctx, f.job.Claim, t, month, month)
	}
	if err != nil {
		return err
	}
	return f.published(ctx, created)
}

func (f *fetch) published(ctx context.Context, all []storage.Publication) error {
	for i := range all {
		r := &all[i].Release
		f.w.log.InfoContext(ctx, "release published", "package", r.Package, "tag", r.Tag, "commit", r.CommitOID, "size", r.Size)
	}
	first := f.created == 0 && len(all) > 0
	if f.created += len(all); first && f.job.Job.Crashes > 0 {
		return f.w.db.Jobs.ClearCrashes(ctx, f.job.Claim)
	}
	return nil
}

// recordOnly stores the record of a package for a job that fetches nothing.
func (w *Worker) recordOnly(ctx context.Context, j *job) error {
	// While this is held, the record is not swept before it is named.
	unlock, err := w.db.Scrub.Share(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	stage, err := w.opt.Staging.New()
	if err != nil {
		return fmt.Errorf("make staging folder: %w", err)
	}
	defer stage.Close()
	a := w.auditor()
	return a.RecordJob(ctx, j.Claim, j.sync, stage.Dir)
}

// putBytes makes a blob of b.
func (f *fetch) putBytes(ctx context.Context, b []byte) (blob.Ref, error) {
	file, err := os.CreateTemp(f.dir, "document-*")
	if err != nil {
		return blob.Ref{}, fmt.Errorf("stage document: %w", err)
	}
	defer file.Close()
	if _, err := file.Write(b); err != nil {
		return blob.Ref{}, fmt.Errorf("stage document: %w", err)
	}
	sum := sha256.Sum256(b)
	return f.putAs(ctx, file, hex.EncodeToString(sum[:]))
}

// put makes a staged file a blob.
func (f *fetch) put(ctx context.Context, name string) (blob.Ref, error) {
	file, err := f.unstage(name)
	if err != nil {
		return blob.Ref{}, err
	}
	defer file.Close()
	return f.putFile(ctx, file)
}

func (f *fetch) putFile(ctx context.Context, file *os.File) (blob.Ref, error) {
	hash := sha256.New()
	if _, err := io.Copy(hash, io.NewSectionReader(file, 0, f.w.opt.Limits.File)); err != nil {
		return blob.Ref{}, fmt.Errorf("hash staged file: %w", err)
	}
	return f.putAs(ctx, file, hex.EncodeToString(hash.Sum(nil)))
}

// putAs is putFile for a file whose digest somebody told; the store checks it.
func (f *fetch) putAs(ctx context.Context, file *os.File, digest string) (blob.Ref, error) {
	defer os.Remove(file.Name())
	info, err := file.Stat()
	if err != nil {
		return blob.Ref{}, fmt.Errorf("stat staged file: %w", err)
	}
	if err := f.w.blobs.Put(ctx, digest, file); err != nil {
		return blob.Ref{}, fmt.Errorf("put blob: %w", err)
	}
	return blob.Ref{Digest: digest, Size: info.Size()}, nil
}
