package worker

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/dustin/go-humanize"

	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/scrub"
	"github.com/francescobianco/packbase/worker/ingest"
)

// A Quota bounds what is stored. A field of zero is no limit.
type Quota struct {
	Package  int64 // bytes of one package: tarballs, manifests and Git objects; of one archive, as it came and for Zig
	Releases int   // releases and snapshots of one package
	Total    int64 // bytes of all blobs
	Free     int64 // bytes of disk that are left free
	Ratio    int64 // bytes that a job stores for each that upstream sends, beyond ratioFree
}

// ratioFree is how many bytes every package and archive may have: many tags of
// a small tree are no attack.
const ratioFree = 16 << 20

// A usage is what a package and all packages take up, as far as the job that
// is under way knows.
type usage struct {
	quota    Quota
	received atomic.Int64 // bytes of packs or of an archive that upstream sent to the job; those of a local folder

	mu       sync.Mutex // guards what follows
	releases int
	bytes    int64 // of the package: tarballs, manifests and segments
	added    int64 // those of the job
	total    int64 // of all blobs; what jobs at once publish is counted together when they do
}

func (f *fetch) measure(ctx context.Context) error {
	u := &f.usage
	u.quota, u.releases, u.bytes = f.w.changing.Load().Quota, len(f.releases), f.pkg.SizeBytes
	for _, s := range f.segments.Rows {
		u.bytes += s.Size
	}
	manifests, err := f.w.db.Scrub.ManifestBytes(ctx, f.pkg.Name)
	u.bytes += manifests
	if err == nil && u.quota.Total > 0 {
		u.total, err = f.w.db.Scrub.Bytes(ctx)
	}
	return err
}

// room returns why nothing more may be stored, or nil.
func (f *fetch) room(ctx context.Context) error {
	u, q := &f.usage, f.usage.quota
	free, err := f.w.blobs.Free(ctx)
	switch {
	case err == nil && free >= 0 && free < q.Free:
		return fmt.Errorf("%s are left of the disk, which PACKBASE_MIN_FREE keeps: %w", size(free), blob.ErrFull)
	case q.Releases > 0 && u.releases > q.Releases:
		return fault.New("quota_releases",
			fmt.Sprintf("PACKBASE_MAX_RELEASES allows a package %d releases and snapshots", q.Releases))
	case q.Total > 0 && u.total > q.Total:
		return scrub.CheckQuota(u.total, q.Total)
	case q.Package > 0 && u.bytes > q.Package:
		return fault.New("quota_package_bytes",
			fmt.Sprintf("the package would have %s, and PACKBASE_MAX_PACKAGE_BYTES allows %s", size(u.bytes), size(q.Package)))
	}
	return u.fair()
}

// fair returns why so much may not be made of what upstream sent, or nil.
func (u *usage) fair() error {
	received, free := u.received.Load(), max(0, ratioFree-(u.bytes-u.added))
	if u.quota.Ratio == 0 || u.added <= free || u.added-free <= u.quota.Ratio*received {
		return nil
	}
	return fault.New("quota_ratio", fmt.Sprintf("%s that upstream sent would become %s here, and PACKBASE_MAX_RATIO allows %d times as much",
		size(received), size(u.added), u.quota.Ratio))
}

func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// allowance tells the child what there is room for: it knows first whether
// upstream has anything new, and asks for no byte that would be refused.
func (f *fetch) allowance(ctx context.Context, req *ingest.Request) error {
	if most := f.usage.quota.Releases; most > 0 {
		left := max(0, most-f.usage.releases)
		req.MaxNew = &left
	}
	err := f.room(ctx)
	if err == nil {
		return nil
	}
	e := verdict(err)
	if e.Code == "internal" {
		return err
	}
	req.Refuse = e
	return nil
}

// charge counts bytes and releases that are to be kept, and returns why they may not be, or nil. Releases that are built at once call it at once.
func (f *fetch) charge(ctx context.Context, bytes int64, releases int) error {
	u := &f.usage
	u.mu.Lock()
	defer u.mu.Unlock()
	u.bytes, u.added, u.total, u.releases = u.bytes+bytes, u.added+bytes, u.total+bytes, u.releases+releases
	return f.room(ctx)
}
