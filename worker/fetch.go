package worker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"packbase/storage"
	"packbase/storage/blob"
	"packbase/storage/gitpack"
	"packbase/worker/ingest"
)

// FetchResult is what a fetch job did.
type FetchResult struct {
	Package string `json:"package"`
	Tag     string `json:"tag"` // the newest release, or the one asked for
	Commit  string `json:"commit,omitempty"`
	Created int    `json:"tarballs_created"`
	Present int    `json:"tarballs_present"` // releases that were there already
	Count   int    `json:"tarball_count"`    // releases that are there now
}

// Tarballs implements what a run counts.
func (r FetchResult) Tarballs() (created, present int) { return r.Created, r.Present }

// fetchPackage publishes the upstream tags that are not yet releases.
//
// Bytes come first, rows second, tag by tag: a crash between them leaves
// blobs that no row names, which are swept later, and the next run goes on
// where this one stopped.
func (w *Worker) fetchPackage(ctx context.Context, j *job) (any, error) {
	pkg, err := w.db.PackageByName(ctx, j.Job.Package)
	if err != nil {
		return nil, err
	}
	j.failures = pkg.SyncFailures
	if pkg.State != storage.Active {
		return nil, errFrozen(pkg.Name, pkg.StateReason)
	}
	if err := w.queueAtHost(ctx, pkg.CloneURL); err != nil {
		return nil, err
	}
	// While this is held, no blob is swept that the job is about to name.
	release, err := w.db.ShareBlobs(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	stage, err := w.opt.Staging.New()
	if err != nil {
		return nil, fmt.Errorf("make staging folder: %w", err)
	}
	defer stage.Close()
	f := &fetch{w: w, job: j, pkg: pkg, dir: stage.Dir}
	if err := f.load(ctx); err != nil {
		return nil, err
	}
	if err := f.ingest(ctx); err != nil {
		return nil, f.pauseHost(ctx, err)
	}
	if f.created > 0 || pkg.ProbedAt == nil {
		j.setProgress(storage.Progress{Step: "probe"})
		if _, err := w.probe.Probe(ctx, pkg.Name); err != nil {
			return nil, err
		}
	}
	result, err := f.result(ctx)
	if err != nil {
		return nil, err
	}
	return result, f.putRecord(ctx)
}

func errFrozen(pkg, reason string) error {
	return &Error{Code: "package_frozen", Final: true,
		Message: fmt.Sprintf("%s is under review and not synced: %s; POST /api/review/%s with {\"decision\":\"accept\"} mirrors it again", pkg, reason, pkg)}
}

// Politeness towards one upstream host, over all workers.
const (
	hostSpacing  = 100 * time.Millisecond
	hostJobs     = 6
	hostPatience = 2 * time.Second
)

// queueAtHost waits for the host's turn, or has the job come back for it.
func (w *Worker) queueAtHost(ctx context.Context, cloneURL string) error {
	host := hostOf(cloneURL)
	if host == "" {
		return nil
	}
	running, err := w.db.RunningAt(ctx, host)
	if err != nil {
		return err
	}
	if running > hostJobs {
		return &later{jitter(time.Second)}
	}
	wait, err := w.db.ReserveHost(ctx, host, hostSpacing)
	if err != nil {
		return err
	}
	if wait > hostPatience {
		return &later{wait}
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(wait):
		return nil
	}
}

// pauseHost keeps all workers from a host that asked for a rest.
func (f *fetch) pauseHost(ctx context.Context, err error) error {
	var e *Error
	if errors.As(err, &e) && e.RetryAfter > 0 {
		return errors.Join(err, f.w.db.PauseHost(ctx, hostOf(f.pkg.CloneURL), e.RetryAfter))
	}
	return err
}

// A fetch is one run of fetchPackage.
type fetch struct {
	w   *Worker
	job *job
	pkg storage.Package
	dir string

	releases []storage.Release
	segments []storage.Segment
	indexes  []*gitpack.SegmentIndex
	set      *gitpack.Set // of indexes
	refs     ingest.Refs
	created  int
	catalog  string // the catalog's updated_at when the look at upstream began
}

// load reads what the package has.
func (f *fetch) load(ctx context.Context) (err error) {
	if f.catalog, err = f.w.db.CatalogUpdated(ctx, f.pkg.Name); err != nil {
		return err
	}
	if f.releases, err = f.w.db.Releases(ctx, f.pkg.Name); err != nil {
		return err
	}
	if f.segments, err = f.w.db.Segments(ctx, f.pkg.Name); err != nil {
		return err
	}
	for i, s := range f.segments {
		raw, err := readBlob(ctx, f.w.blobs, s.IndexDigest)
		if err != nil {
			return fmt.Errorf("read index of segment %d: %w", s.Seq, err)
		}
		if err := os.WriteFile(f.indexFile(i), raw, 0o600); err != nil {
			return fmt.Errorf("stage index: %w", err)
		}
		index, err := gitpack.UnmarshalIndex(raw)
		if err != nil {
			return fmt.Errorf("read index of segment %d: %v", s.Seq, err)
		}
		f.indexes = append(f.indexes, index)
	}
	f.set = gitpack.NewSet(f.indexes...)
	return nil
}

func (f *fetch) indexFile(i int) string { return filepath.Join(f.dir, fmt.Sprintf("held-%d", i)) }

func (f *fetch) request(rejected []storage.RejectedTag) ingest.Request {
	req := ingest.Request{
		Package:  f.pkg.Name,
		Upstream: f.pkg.Upstream,
		CloneURL: f.pkg.CloneURL,
		Target:   f.job.Job.Target,
		Released: map[string]string{},
		Rejected: map[string]string{},
		Dir:      f.dir,
		Egress:   f.w.opt.Egress,
		Limits:   f.w.opt.Limits,
	}
	for i := range f.releases {
		if r := &f.releases[i]; r.Tag != "" {
			req.Released[r.Tag] = r.OID()
		}
	}
	for _, t := range rejected {
		req.Rejected[t.Tag] = t.OID
	}
	for i := range f.segments {
		req.Indexes = append(req.Indexes, f.indexFile(i))
	}
	return req
}

// ingest runs the child process and publishes what it stages.
func (f *fetch) ingest(ctx context.Context) error {
	rejected, err := f.w.db.RejectedTags(ctx, f.pkg.Name)
	if err != nil {
		return err
	}
	input, err := json.Marshal(f.request(rejected))
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := f.w.opt.Ingest(ctx)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("start ingest: %w", err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start ingest: %w", err)
	}
	stderr := &tail{}
	cmd.Stderr = stderr
	// The death signal is sent when the thread that started the child ends,
	// so that thread must be there as long as the child is.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start ingest: %w", err)
	}
	// The pipe stays open: its end tells the child that nobody waits for it.
	_, werr := stdin.Write(input)
	done, err := f.follow(ctx, stdout)
	if err != nil {
		cancel()
	}
	stdin.Close()
	if exit := cmd.Wait(); err == nil && (exit != nil || !done || werr != nil) {
		return f.crashed(ctx, exit, stderr)
	}
	return err
}

// crashed explains why the child ended without a word.
func (f *fetch) crashed(ctx context.Context, exit error, stderr *tail) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	said := stderr.String()
	f.w.log.WarnContext(ctx, "ingest ended early", "package", f.pkg.Name, "exit", exit, "stderr", said)
	switch {
	case strings.Contains(said, syscall.ENOSPC.Error()), strings.Contains(said, syscall.EDQUOT.Error()):
		return fmt.Errorf("ingest: %w", blob.ErrFull)
	case strings.Contains(said, syscall.EFBIG.Error()):
		return &Error{Code: "too_large", Message: "mirroring needs a file larger than the limit allows", Final: true}
	case strings.Contains(said, "out of memory"), strings.Contains(said, "cannot allocate memory"):
		return &Error{Code: "out_of_memory", Message: "mirroring needs more memory than the limit allows", Final: true}
	}
	return &Error{Code: "ingest_failed", Message: "the process that reads upstream ended early; the worker's log has the details"}
}

// follow handles the child's events until it is done. Releases are made
// durable several at once, as that is mostly waiting for the disk, and made
// visible one by one in the child's order.
func (f *fetch) follow(ctx context.Context, out io.Reader) (done bool, err error) {
	g, ctx := errgroup.WithContext(ctx)
	publications := make(chan chan storage.Publication, 4)
	g.Go(func() error {
		for next := range publications {
			select {
			case pub := <-next:
				if err := f.publish(ctx, pub); err != nil {
					return err
				}
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
	stage := func(r *ingest.Release) error {
		ready := make(chan storage.Publication, 1)
		select {
		case publications <- ready:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		set, segments := f.set, f.segments
		g.Go(func() error {
			pub, err := f.store(ctx, r, set, segments)
			ready <- pub
			return err
		})
		return nil
	}
	done, err = f.events(ctx, json.NewDecoder(out), stage)
	close(publications)
	if werr := g.Wait(); werr != nil {
		return false, werr // what ended the others, if anything did
	}
	return done, err
}

func (f *fetch) events(ctx context.Context, dec *json.Decoder, stage func(*ingest.Release) error) (done bool, err error) {
	for {
		var ev ingest.Event
		if err := dec.Decode(&ev); err != nil {
			return false, nil // it ended, or talks nonsense: either way it crashed
		}
		switch {
		case ev.Done:
			return true, nil
		case ev.Error != nil:
			return true, &Error{Code: ev.Error.Code, Message: ev.Error.Message, Final: ev.Error.Final, RetryAfter: ev.Error.RetryAfter}
		case ev.Progress != nil:
			f.job.setProgress(*ev.Progress)
		case ev.Refs != nil:
			err = f.see(ctx, *ev.Refs)
		case ev.Rejected != nil:
			err = f.w.db.RejectTag(ctx, f.job.Claim, *ev.Rejected)
		case ev.Segment != nil:
			err = f.appendSegment(ctx, *ev.Segment)
		case ev.History != nil:
			err = f.keepHistory(ctx, ev.History)
		case ev.Release != nil:
			err = stage(ev.Release)
		}
		if err != nil {
			return false, err
		}
	}
}

// see records released tags that upstream moved or deleted. When no released
// tag is what it was, this may be another repository: the package is frozen
// before anything new is taken from it.
func (f *fetch) see(ctx context.Context, refs ingest.Refs) error {
	f.refs = refs
	accepted, err := f.acceptedMoves(ctx)
	if err != nil {
		return err
	}
	var moves []storage.MovedTag
	known, same, moved := 0, 0, 0
	for i := range f.releases {
		r := &f.releases[i]
		if r.Tag == "" {
			continue
		}
		known++
		now := refs.Tags[r.Tag]
		switch {
		case now == r.OID(), accepted[r.Tag+" "+now]:
			same++
		case now != "":
			moved++
		}
		if now != r.OID() {
			moves = append(moves, storage.MovedTag{Tag: r.Tag, Old: r.OID(), New: now})
		}
	}
	if len(moves) == 0 {
		return nil
	}
	if err := f.w.db.RecordMoves(ctx, f.job.Claim, moves); err != nil {
		return err
	}
	if known == 0 || same > 0 || moved == 0 {
		return nil
	}
	reason := fmt.Sprintf("all %d released tags name other commits upstream: this may be another repository", known)
	if err := f.w.db.Freeze(ctx, f.job.Claim, reason); err != nil {
		return err
	}
	return errFrozen(f.pkg.Name, reason)
}

// acceptedMoves returns the moves that an operator accepted, as "tag oid".
func (f *fetch) acceptedMoves(ctx context.Context) (map[string]bool, error) {
	moves, err := f.w.db.MovedTags(ctx, f.pkg.Name)
	if err != nil {
		return nil, err
	}
	accepted := map[string]bool{}
	for _, m := range moves {
		if m.Accepted {
			accepted[m.Tag+" "+m.New] = true
		}
	}
	return accepted, nil
}

// appendSegment stores a staged segment, before the releases that need it.
func (f *fetch) appendSegment(ctx context.Context, s ingest.Segment) error {
	f.job.setProgress(storage.Progress{Step: "store", Total: int64(s.Objects), Unit: "objects"})
	raw, err := os.ReadFile(filepath.Join(f.dir, filepath.Base(s.Index)))
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
	indexed, err := f.put(ctx, s.Index)
	if err != nil {
		return err
	}
	segment := storage.Segment{
		Package: f.pkg.Name, Seq: len(f.segments), FirstOrdinal: int64(f.set.Len()),
		Objects: index.Len(), Digest: packed.Digest, IndexDigest: indexed.Digest, Size: packed.Size,
	}
	if err := f.w.db.AppendSegment(ctx, f.job.Claim, segment, indexed); err != nil {
		return err
	}
	f.segments, f.indexes = append(f.segments, segment), append(f.indexes, index)
	f.set = gitpack.NewSet(f.indexes...)
	return nil
}

// keepHistory stores the history of a local bare repository.
func (f *fetch) keepHistory(ctx context.Context, h *ingest.History) error {
	pack, err := f.put(ctx, h.File)
	if err != nil {
		return err
	}
	index, err := f.put(ctx, h.Index)
	if err != nil {
		return err
	}
	return f.w.db.KeepHistory(ctx, f.job.Claim, storage.History{Head: h.Head, Refs: h.Refs, PackName: h.Name}, pack, index)
}

// store makes the bytes of a staged release durable.
func (f *fetch) store(ctx context.Context, r *ingest.Release, set *gitpack.Set, segments []storage.Segment) (storage.Publication, error) {
	man := r.Manifest
	man.Package, man.Upstream, man.CloneURL = f.pkg.Name, f.pkg.Upstream, f.pkg.CloneURL
	man.Fence = f.job.Fence
	man.CreatedAt = time.Now().UTC().Truncate(time.Microsecond) // as Postgres keeps it
	var pub storage.Publication
	if _, err := f.putAs(ctx, r.File, man.Tarball.Digest); err != nil {
		return pub, err
	}
	manifest, err := f.putDocument(ctx, &man)
	if err != nil {
		return pub, err
	}
	commit, err := gitpack.ParseOID(man.Commit)
	if err != nil {
		return pub, err
	}
	stored, err := set.StoredBitmap(commit, r.Bitmap, f.w.opener(ctx, segments))
	if err != nil {
		return pub, fmt.Errorf("pack of %s: %w", commit, err)
	}
	return storage.Publication{
		Release:     man.Release(manifest.Digest),
		Pack:        storage.Pack{Bitmap: stored.Bitmap, Objects: stored.Objects, Size: stored.Size, Trailer: stored.Trailer[:]},
		Manifest:    manifest,
		Description: man.Description,
	}, nil
}

// publish makes a stored release visible.
func (f *fetch) publish(ctx context.Context, pub storage.Publication) error {
	created, err := f.w.db.Publish(ctx, f.job.Claim, pub)
	if err != nil {
		return err
	}
	r := &pub.Release
	if created {
		f.created++
		f.w.log.InfoContext(ctx, "release published", "package", r.Package, "tag", r.Tag, "commit", r.CommitOID, "size", r.Size)
	}
	if f.job.Job.Crashes > 0 && f.created == 1 {
		return f.w.db.ClearCrashes(ctx, f.job.Claim)
	}
	return nil
}

// putRecord stores what is known of the package besides its releases, if that
// changed, so that it can be rebuilt from blobs.
func (f *fetch) putRecord(ctx context.Context) error {
	rec, held, err := f.w.db.PackageRecord(ctx, f.pkg.Name)
	if err != nil {
		return err
	}
	rec.Fence = f.job.Fence
	if s := f.job.sync; s != nil {
		now := time.Now().UTC().Truncate(time.Second)
		rec.SyncOK, rec.SyncCode, rec.SyncMessage, rec.SyncedAt = s.OK, s.Code, s.Message, &now
	}
	if held != "" {
		raw, err := readBlob(ctx, f.w.blobs, held)
		if err == nil {
			if old, err := storage.ParsePackageRecord(raw); err == nil && old.Same(rec) {
				return nil
			}
		}
	}
	put, err := f.putDocument(ctx, rec)
	if err != nil {
		return err
	}
	return f.w.db.KeepRecord(ctx, f.job.Claim, put)
}

// putDocument stores a JSON document as a blob.
func (f *fetch) putDocument(ctx context.Context, doc interface{ Encode() ([]byte, error) }) (storage.Blob, error) {
	b, err := doc.Encode()
	if err != nil {
		return storage.Blob{}, err
	}
	file, err := os.CreateTemp(f.dir, "document-*.json")
	if err != nil {
		return storage.Blob{}, fmt.Errorf("stage document: %w", err)
	}
	defer file.Close()
	if _, err := file.Write(b); err != nil {
		return storage.Blob{}, fmt.Errorf("stage document: %w", err)
	}
	sum := sha256.Sum256(b)
	return f.putAs(ctx, filepath.Base(file.Name()), hex.EncodeToString(sum[:]))
}

// put makes a staged file a blob, and removes it from the folder.
func (f *fetch) put(ctx context.Context, name string) (storage.Blob, error) {
	// The name comes from the child: it must not lead out of the folder.
	file, err := os.Open(filepath.Join(f.dir, filepath.Base(name)))
	if err != nil {
		return storage.Blob{}, fmt.Errorf("open staged file: %w", err)
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return storage.Blob{}, fmt.Errorf("hash staged file: %w", err)
	}
	return f.putAs(ctx, name, hex.EncodeToString(hash.Sum(nil)))
}

// putAs is put for a file whose digest somebody told; the store checks it.
func (f *fetch) putAs(ctx context.Context, name, digest string) (storage.Blob, error) {
	file, err := os.Open(filepath.Join(f.dir, filepath.Base(name)))
	if err != nil {
		return storage.Blob{}, fmt.Errorf("open staged file: %w", err)
	}
	defer os.Remove(file.Name())
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return storage.Blob{}, fmt.Errorf("open staged file: %w", err)
	}
	if err := f.w.blobs.Put(ctx, digest, file); err != nil {
		return storage.Blob{}, fmt.Errorf("put blob: %w", err)
	}
	return storage.Blob{Digest: digest, Size: info.Size()}, nil
}

// opener opens segments from the blob store.
func (w *Worker) opener(ctx context.Context, segments []storage.Segment) gitpack.Opener {
	return func(i int) (gitpack.Segment, error) { return w.blobs.Open(ctx, segments[i].Digest) }
}

// result looks at what the package has now.
func (f *fetch) result(ctx context.Context) (FetchResult, error) {
	pkg, err := f.w.db.PackageByName(ctx, f.pkg.Name)
	if err != nil {
		return FetchResult{}, err
	}
	r := FetchResult{Package: pkg.Name, Created: f.created, Count: pkg.ReleaseCount, Present: pkg.ReleaseCount - f.created}
	f.job.sync = &storage.Sync{OK: true, Catalog: f.catalog}
	switch target := f.job.Job.Target; {
	case f.refs.Commit != "":
		r.Commit, r.Present = f.refs.Commit, pkg.ReleaseCount
		// A look at one commit says nothing about the package's tags.
		f.job.sync = f.branchSync()
	case target != "":
		r.Tag = target
		if err := f.targetRejected(ctx, target); err != nil {
			return FetchResult{}, err
		}
	case pkg.LatestTag != nil:
		r.Tag = *pkg.LatestTag
	default:
		return FetchResult{}, &Error{Code: "no_releases", Final: true,
			Message: "none of upstream's tags can be published; /api/info/" + pkg.Name + " says why, tag by tag"}
	}
	return r, nil
}

func (f *fetch) branchSync() *storage.Sync {
	if f.refs.Branch == "" {
		return nil
	}
	return &storage.Sync{OK: true, Branch: f.refs.Branch, Commit: f.refs.Commit}
}

// targetRejected returns why the one tag asked for was not published.
func (f *fetch) targetRejected(ctx context.Context, tag string) error {
	rejected, err := f.w.db.RejectedTags(ctx, f.pkg.Name)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(rejected, func(t storage.RejectedTag) bool { return t.Tag == tag })
	if i < 0 {
		return nil
	}
	return &Error{Code: "tag_rejected", Message: fmt.Sprintf("the tag %s cannot be published: %s", tag, rejected[i].Reason), Final: true}
}

// readBlob returns a small blob's bytes.
func readBlob(ctx context.Context, blobs blob.Store, digest string) ([]byte, error) {
	const most = 1 << 30
	b, err := blobs.Open(ctx, digest)
	if err != nil {
		// The row promises the blob, so its absence is our fault: %v, not %w.
		return nil, fmt.Errorf("open blob: %v", err)
	}
	defer b.Close()
	raw, err := io.ReadAll(io.LimitReader(b, most))
	if err != nil {
		return nil, fmt.Errorf("read blob: %w", err)
	}
	if sum := sha256.Sum256(raw); hex.EncodeToString(sum[:]) != digest {
		return nil, errors.New("the blob's bytes are not those of its digest; run `packbase verify`")
	}
	return raw, nil
}

// A tail keeps the last of what is written to it.
type tail struct{ buf bytes.Buffer }

func (t *tail) Write(b []byte) (int, error) {
	const most = 8 << 10
	t.buf.Write(b)
	if over := t.buf.Len() - most; over > 0 {
		t.buf.Next(over)
	}
	return len(b), nil
}

func (t *tail) String() string { return t.buf.String() }
