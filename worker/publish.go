package worker

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"time"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/tarball"
	"github.com/francescobianco/packbase/worker/ingest"
)

// maxIndex bounds an index that the child staged, in bytes: that of 16 million
// objects.
const maxIndex = 1 << 30

// appendSegment stores a staged segment, before the releases that need it.
func (f *fetch) appendSegment(ctx context.Context, s ingest.Segment) error {
	f.job.setProgress(jobs.Progress{Step: "store", Total: int64(s.Objects), Unit: "objects"})
	file, err := f.unstage(s.Index)
	if err != nil {
		return err
	}
	defer file.Close()
	raw, err := io.ReadAll(io.NewSectionReader(file, 0, maxIndex))
	if err != nil {
		return fmt.Errorf("read staged index: %w", err)
	}
	index, err := gitpack.UnmarshalIndex(raw)
	if err != nil {
		return fmt.Errorf("read staged index: %v", err)
	}
	packed, err := f.put(ctx, s.File)
	if err != nil {
		return err
	}
	if err := f.charge(ctx, packed.Size, &f.usage.objects); err != nil {
		return err // the blob has no name: it is swept
	}
	indexed, err := f.putFile(ctx, file)
	if err != nil {
		return err
	}
	f.segments = f.segments.With(release.Segment{Package: f.pkg.Name, Digest: packed.Digest, IndexDigest: indexed.Digest, Size: packed.Size}, index)
	return f.w.db.AppendSegment(ctx, f.job.Claim, f.segments.Last(), indexed)
}

// setHistory stores the history of a local bare repository.
func (f *fetch) setHistory(ctx context.Context, h *ingest.History) error {
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

// store makes the bytes of a staged release durable.
func (f *fetch) store(ctx context.Context, r *ingest.Release, segments *release.Segments) (storage.Publication, error) {
	man := r.Manifest
	man.Package, man.Upstream, man.CloneURL, man.Private = f.pkg.Name, f.pkg.Upstream, f.pkg.CloneURL, f.pkg.Private
	man.Fence = f.job.Fence
	man.CreatedAt = time.Now().UTC().Truncate(time.Microsecond) // as Postgres keeps it
	var pub storage.Publication
	if err := man.Check(); err != nil {
		return pub, err
	}
	file, err := f.unstage(r.File)
	if err != nil {
		return pub, err
	}
	defer file.Close()
	proof, err := f.prove(ctx, &man, io.NewSectionReader(file, 0, math.MaxInt64))
	if err != nil {
		return pub, err
	}
	man.Zig = proof.Zig
	if _, err := f.putAs(ctx, file, man.Tarball.Digest); err != nil {
		return pub, err
	}
	manifest, err := f.putDocument(ctx, &man)
	if err != nil {
		return pub, err
	}
	stored, err := segments.Stored(ctx, proof.Commit, proof.IDs)
	if err != nil {
		return pub, err
	}
	return storage.PublicationOf(&man, manifest, stored), nil
}

// openProvers makes as many provers as there are processors: a proof takes one.
func (f *fetch) openProvers() (closeAll func(), err error) {
	f.provers = make(chan *release.Prover, runtime.GOMAXPROCS(0))
	closeAll = func() {
		for len(f.provers) > 0 {
			(<-f.provers).Close()
		}
	}
	for range cap(f.provers) {
		p, err := release.NewProver(f.dir)
		if err != nil {
			closeAll()
			return nil, err
		}
		f.provers <- p
	}
	return closeAll, nil
}

// prove works out what a staged release is from its tarball: what the child says
// of it is not believed.
func (f *fetch) prove(ctx context.Context, man *release.Manifest, targz io.Reader) (*release.Proof, error) {
	prover := <-f.provers
	defer func() { f.provers <- prover }()
	proof, err := prover.Prove(ctx, man, targz, tarball.Limits{Size: f.w.opt.Limits.Tarball}, f.w.opt.Limits.Git)
	if err == nil && man.Tag != "" && f.refs.Tags[man.Tag] != proof.OID.String() {
		err = fmt.Errorf("%w: the tag names %q", release.ErrUntrue, f.refs.Tags[man.Tag])
	}
	if errors.Is(err, release.ErrUntrue) {
		return nil, fault.New("ingest_untrue",
			fmt.Sprintf("what the process that reads upstream says of %s is not what its files say: %v",
				cmp.Or(man.Tag, man.Commit), err))
	}
	return proof, err
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
	if created {
		f.created++
		f.w.log.InfoContext(ctx, "release published", "package", r.Package, "tag", r.Tag, "commit", r.CommitOID, "size", r.Size)
	}
	if f.job.Job.Crashes > 0 && f.created == 1 {
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

// putDocument stores a JSON document as a blob.
func (f *fetch) putDocument(ctx context.Context, doc interface{ Encode() ([]byte, error) }) (blob.Ref, error) {
	b, err := doc.Encode()
	if err != nil {
		return blob.Ref{}, err
	}
	file, err := os.CreateTemp(f.dir, "document-*.json")
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
