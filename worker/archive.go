package worker

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/archive"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/tree"
	"github.com/francescobianco/packbase/storage/zigpkg"
	"github.com/francescobianco/packbase/worker/ingest"
	"github.com/francescobianco/packbase/worker/upstream"
)

// ArchiveResult is what an archive:fetch did.
type ArchiveResult struct {
	URL        string `json:"archive"`
	ZigHash    string `json:"zig_hash"`
	LegacyHash string `json:"zig_legacy_hash"`
	Size       int64  `json:"size_bytes"` // as it came
	Created    bool   `json:"created"`
	Moved      bool   `json:"moved"` // the URL answered other files before, which it stays with
}

// fetchArchive stores what a URL answers, under the hash that its files have.
//
// One child talks with upstream and another one parses what came. Which hash it
// has is worked out here, from the tarball that Zig will be given.
func (w *Worker) fetchArchive(ctx context.Context, j *job) (any, error) {
	d, err := name.ParseDependency(j.Job.Target)
	if err != nil || d.Git {
		return nil, fault.New(upstream.CodeURL, "an archive is at an http or https URL")
	}
	// While this is held, no blob is swept that the job is about to name.
	unlock, err := w.db.Scrub.Share(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	as := ctx
	if j.Job.Pull { // what is private, or was, is as if it were not here
		as = access.HidePrivate(ctx)
	}
	if here, err := w.archiveHere(as, d.URL, j.Job.Pin); err != nil || here != nil {
		return here, err
	}
	a := &archiveFetch{fetch: fetch{w: w, job: j, pkg: storage.Package{CloneURL: d.URL}, segments: release.NewSegments(nil), patience: patience{room: w.aside, leave: j.leave}}}
	defer a.patience.done()
	if err := a.queueAtHost(ctx); err != nil {
		return nil, err
	}
	stage, err := a.stage()
	if err != nil {
		return nil, err
	}
	defer stage.Close()
	if err := errors.Join(a.measure(ctx), a.room(ctx)); err != nil {
		return nil, err
	}
	result, err := a.run(ctx, d.URL)
	if err != nil {
		return nil, a.pauseHost(ctx, err)
	}
	return result, nil
}

// archiveHere returns the result for what is here already, else nil: the pinned
// hash, wherever it came from, or without a pin what the URL answered.
func (w *Worker) archiveHere(ctx context.Context, at, pin string) (any, error) {
	if pin != "" {
		src, err := w.trees.ByHash(ctx, pin)
		if errors.Is(err, fault.ErrNotFound) {
			return nil, nil
		}
		return ArchiveResult{URL: at, ZigHash: src.ZigHash, LegacyHash: src.ZigLegacyHash, Size: src.Size}, err
	}
	held, err := w.trees.ByURL(ctx, at)
	if errors.Is(err, fault.ErrNotFound) {
		return nil, nil
	}
	return ArchiveResult{URL: at, ZigHash: held.ZigHash, LegacyHash: held.ZigLegacyHash, Size: held.Size}, err
}

// An archiveFetch is one run of fetchArchive. Of fetch it has the staging
// folders, the quota and the manners towards a host.
type archiveFetch struct {
	fetch
	row  tree.Archive
	body *os.File // as it came
}

func (a *archiveFetch) run(ctx context.Context, at string) (*ArchiveResult, error) {
	a.row.URL = at
	var err error
	if a.body, err = os.Create(filepath.Join(a.dir, "body")); err != nil {
		return nil, fmt.Errorf("stage archive: %w", err)
	}
	defer a.body.Close()
	if err := a.download(ctx); err != nil {
		return nil, err
	}
	a.usage.received.Store(a.row.Size)
	if err := a.charge(ctx, a.row.Size, 0); err != nil {
		return nil, err
	}
	a.job.setProgress(jobs.Progress{Step: "unpack"})
	tarball, err := a.unpack(ctx)
	if err != nil {
		return nil, err
	}
	defer tarball.Close()
	if err := a.describe(ctx, tarball); err != nil {
		return nil, err
	}
	if err := a.checkPin(ctx); err != nil {
		return nil, err
	}
	return a.store(ctx, tarball)
}

// download has a child get the file, and keeps its bytes.
func (a *archiveFetch) download(ctx context.Context) error {
	a.patience.waits(true)
	defer a.patience.waits(false)
	outer := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The death signal is sent when the thread that started a child ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c, frames, err := a.downloader(ctx)
	if err != nil {
		return err
	}
	defer c.end(cancel)
	defer frames.Close()
	sum := &countingHash{Hash: sha256.New(), job: a.job}
	err = ingest.ReadArchive(frames, func(h ingest.ArchiveHead) error { return a.head(h, sum) }, io.MultiWriter(a.body, sum))
	if errors.Is(err, ingest.ErrEnded) {
		cancel()
		return a.crashed(outer, c.wait(), c.stderr.String())
	}
	a.row.Digest, a.row.Size, a.row.Private = hex.EncodeToString(sum.Sum(nil)), sum.n, a.broker.Gave()
	return err
}

// downloader starts the child that talks with upstream, and dials for it until
// ctx ends. Its output is frames.
func (a *archiveFetch) downloader(ctx context.Context) (c *child, frames *os.File, err error) {
	if err := a.openBroker(a.row.URL); err != nil {
		return nil, nil, err
	}
	theirs, err := dialFor(ctx, a.broker, a.dir)
	if err != nil {
		return nil, nil, err
	}
	frames, out, err := os.Pipe()
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("start download: %w", err), theirs.Close())
	}
	c = a.w.child(ctx, "download-archive")
	c.cmd.Stdout = out
	c.give(theirs, out)
	c.cmd.ExtraFiles = c.cmd.ExtraFiles[:1] // the second is its output
	err = c.start(ingest.ArchiveRequest{
		URL: a.row.URL, Dir: filepath.Join(a.dir, downloadFolder), Limits: a.w.opt.Limits,
		Egress: upstream.Options{Limits: a.w.opt.Egress.Limits, UserAgent: a.w.opt.Egress.UserAgent},
	})
	if err != nil {
		return nil, nil, errors.Join(err, frames.Close())
	}
	return c, frames, nil
}

// A countingHash also tells how far the download is.
type countingHash struct {
	hash.Hash
	job      *job
	n, total int64
}

func (h *countingHash) Write(b []byte) (int, error) {
	h.n += int64(len(b))
	h.job.setProgress(jobs.Progress{Step: ingest.StepDownload, Done: h.n, Total: max(h.total, 0), Unit: "bytes"})
	return h.Hash.Write(b)
}

// head takes what upstream says of the file, or refuses it before it comes.
func (a *archiveFetch) head(h ingest.ArchiveHead, sum *countingHash) error {
	a.job.secret = a.broker.Gave()
	sum.total = h.Length
	a.row.ContentType, a.row.Disposition, a.row.FinalURL = h.ContentType, h.Disposition, h.FinalURL
	u, err := url.Parse(a.row.URL)
	if err != nil {
		return err
	}
	format, err := archive.FormatOf(h.ContentType, h.Disposition, u.Path)
	switch {
	case err != nil:
		return fault.New("not_an_archive", err.Error())
	case h.Encoding == "", h.Encoding == "identity":
	case h.Encoding == "gzip" && format == archive.Tar:
		// Zig undoes it; what is left is a tar.gz with another name.
		format, a.row.ContentType, a.row.Disposition = archive.TarGz, "application/gzip", ""
	default:
		return fault.New("not_an_archive", fmt.Sprintf("upstream sends a %s with the Content-Encoding %q, which no Zig asked for", format, h.Encoding))
	}
	a.row.Format = string(format)
	return nil
}

// unpack has a child parse the archive, and returns the tarball that Zig is given.
func (a *archiveFetch) unpack(ctx context.Context) (*os.File, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	body, err := os.Open(a.body.Name())
	if err != nil {
		return nil, fmt.Errorf("open archive: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := a.w.child(ctx, "unpack-archive")
	c.give(body) // open, not by a name: the file stays ours
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start unpacking: %w", err), body.Close())
	}
	if err := c.start(ingest.UnpackRequest{Format: archive.Format(a.row.Format), Dir: a.staged, Limits: a.w.opt.Limits}); err != nil {
		return nil, err
	}
	const most = 64 << 10
	var u ingest.Unpacked
	said := json.NewDecoder(io.LimitReader(out, most)).Decode(&u)
	if exit := c.wait(); said != nil || exit != nil {
		return nil, a.crashed(ctx, cmp.Or(exit, said), c.stderr.String())
	}
	switch e := u.Error; {
	case e != nil && e.Code == "":
		return nil, errors.New("unpack archive: an error without a code")
	case e != nil:
		return nil, e
	case u.Plain && a.row.Format == string(archive.TarGz):
		return os.Open(a.body.Name())
	}
	return a.unstage(u.Flat)
}

// describe works out what Zig makes of the tarball. What a child says of it is
// not believed.
func (a *archiveFetch) describe(ctx context.Context, tarball *os.File) error {
	scratch, err := os.CreateTemp(a.dir, "scratch-*")
	if err != nil {
		return fmt.Errorf("make scratch file: %w", err)
	}
	defer scratch.Close()
	if err := os.Remove(scratch.Name()); err != nil {
		return fmt.Errorf("make scratch file: %w", err)
	}
	info, err := tarball.Stat()
	if err != nil {
		return fmt.Errorf("look at tarball: %w", err)
	}
	pkg, err := archive.Unpack(ctx, tarball, info.Size(), archive.TarGz, scratch)
	var man *zigpkg.Manifest
	var sum zigpkg.Hashes
	if err == nil {
		man, sum, err = pkg.Describe()
	}
	switch {
	case errors.Is(err, archive.ErrUnfit), errors.Is(err, archive.ErrTooLarge):
		return fault.New("ingest_untrue", "what the process that unpacks archives staged is none: "+err.Error())
	case err != nil:
		return err
	}
	a.row.ZigHash, a.row.ZigLegacyHash, a.row.TarballSize = sum.Hash, sum.Legacy, info.Size()
	a.row.Zig = release.ZigOf(man, sum)
	a.row.Zig.License = licenseOf(pkg)
	return nil
}

// licenseOf returns the licence of an archive, "" if it is not known.
func licenseOf(pkg *archive.Package) string {
	for _, f := range pkg.Files {
		if !f.Link && release.IsLicense(f.Path) {
			if id := release.License(pkg.Open(f)); id != "" {
				return id
			}
		}
	}
	return ""
}

// checkPin refuses what has another hash than the one asked for.
func (a *archiveFetch) checkPin(ctx context.Context) error {
	pin, row := a.job.Job.Pin, &a.row
	if pin == "" || pin == row.ZigHash || pin == row.ZigLegacyHash {
		return nil
	}
	err := fault.New("hash_mismatch",
		fmt.Sprintf("%s is pinned, and the files have %s (%s)", pin, cmp.Or(row.ZigHash, "no hash of the new form"), row.ZigLegacyHash))
	return errors.Join(err, a.w.trees.NoteMove(ctx, *row))
}

// store makes the bytes durable, then the archive visible.
func (a *archiveFetch) store(ctx context.Context, tarball *os.File) (*ArchiveResult, error) {
	a.job.setProgress(jobs.Progress{Step: "store"})
	row := &a.row
	row.CreatedAt = time.Now().UTC().Truncate(time.Microsecond) // as Postgres keeps it
	row.TarballDigest = row.Digest
	if tarball.Name() != a.body.Name() {
		info, err := tarball.Stat()
		if err != nil {
			return nil, fmt.Errorf("stat tarball: %w", err)
		}
		if err := a.charge(ctx, info.Size(), 0); err != nil {
			return nil, err
		}
		flat, err := a.putFile(ctx, tarball)
		if err != nil {
			return nil, err
		}
		row.TarballDigest, row.TarballSize = flat.Digest, flat.Size
	}
	if _, err := a.putAs(ctx, a.body, row.Digest); err != nil {
		return nil, err
	}
	raw, err := row.Record().Encode()
	if err != nil {
		return nil, err
	}
	record, err := a.putBytes(ctx, raw)
	if err != nil {
		return nil, err
	}
	row.RecordDigest, row.RecordSize = record.Digest, record.Size
	created, moved, err := a.w.trees.Publish(ctx, *row, a.job.Job.Pin != "")
	if (err == nil || errors.Is(err, fault.ErrGone)) && a.job.Job.Pull && !a.shown(ctx) {
		return nil, upstream.ClosedFile()
	}
	if err != nil {
		return nil, err
	}
	a.w.log.InfoContext(ctx, "archive stored", "url", row.URL, "zig_hash", row.ZigHash, "size", row.Size, "created", created, "moved", moved)
	return &ArchiveResult{URL: row.URL, ZigHash: row.ZigHash, LegacyHash: row.ZigLegacyHash, Size: row.Size, Created: created, Moved: moved}, nil
}

// shown reports whether strangers see what became of the archive: by its URL, or that its files were removed elsewhere.
func (a *archiveFetch) shown(ctx context.Context) bool {
	ctx = access.HidePrivate(ctx)
	if _, err := a.w.trees.ByURL(ctx, a.row.URL); !errors.Is(err, fault.ErrNotFound) || errors.Is(err, fault.ErrGone) {
		return true
	}
	_, err := a.w.trees.ByHash(ctx, a.row.ZigLegacyHash)
	return errors.Is(err, fault.ErrGone)
}
