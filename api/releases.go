package api

import (
	"context"
	"errors"
	"slices"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/francescobianco/packbase/api/directory"
	"github.com/francescobianco/packbase/api/git"
	"github.com/francescobianco/packbase/api/stored"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/release"
)

// maxCachedReleases is how many are kept in memory. A release is named by its tag, its
// commit and two Zig hashes, each of which takes about 1 KB.
const maxCachedReleases = 4 * git.RoomForReleases

// findTimeout bounds a question that an index answers in no time.
const findTimeout = 5 * time.Second

// A releaseCache answers from memory which release a path names.
//
// Releases never change, so what was found once is true until the epoch ends,
// whether Postgres answers or not. What was not found is not kept: it may be
// published any moment.
type releaseCache struct {
	db    *storage.DB
	epoch *stored.Epoch
	cache *lru.Cache[string, cachedRelease]
}

type cachedRelease struct {
	storage.Release
	epoch int64
}

func newReleaseCache(db *storage.DB, e *stored.Epoch) *releaseCache {
	cache, _ := lru.New[string, cachedRelease](maxCachedReleases) // the error is about sizes below one
	return &releaseCache{db: db, epoch: e, cache: cache}
}

// byTag is storage's ReleaseByTag. Like those of byCommit and byZigHash, its
// releases lack the field Zig.
func (c *releaseCache) byTag(ctx context.Context, pkg, tag string) (storage.Release, error) {
	return c.find(ctx, "tag "+pkg+" "+tag, func(ctx context.Context) (storage.Release, error) { return c.db.ReleaseByTag(ctx, pkg, tag) })
}

func (c *releaseCache) byCommit(ctx context.Context, pkg, oid string) (storage.Release, error) {
	return c.find(ctx, "commit "+pkg+" "+oid, func(ctx context.Context) (storage.Release, error) { return c.db.ReleaseByCommit(ctx, pkg, oid) })
}

func (c *releaseCache) byZigHash(ctx context.Context, hash string) (storage.Release, error) {
	return c.find(ctx, "zig "+hash, func(ctx context.Context) (storage.Release, error) { return c.db.ReleaseByZigHash(ctx, hash) })
}

func (c *releaseCache) find(ctx context.Context, key string, query func(context.Context) (storage.Release, error)) (storage.Release, error) {
	epoch := c.epoch.Now(ctx)
	if r, ok := c.cache.Get(key); ok && r.epoch == epoch && (!r.Private || access.SeesPrivate(ctx)) {
		return r.Release, nil
	}
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	r, err := query(ctx)
	if err != nil {
		return r, err
	}
	r.Zig = release.Zig{} // the largest part, and no path needs it
	c.cache.Add(key, cachedRelease{r, epoch})
	return r, nil
}

// warm asks for a release in all ways that a path can name it.
func (c *releaseCache) warm(ctx context.Context, r *storage.Release) (err error) {
	if r.Tag != "" {
		_, err = c.byTag(ctx, r.Package, r.Tag)
	}
	if err == nil {
		_, err = c.byCommit(ctx, r.Package, r.CommitOID)
	}
	for _, hash := range []string{r.ZigHash, r.ZigLegacyHash} {
		if err == nil && hash != "" {
			// It is not found by a hash that was refuted.
			if _, err = c.byZigHash(ctx, hash); errors.Is(err, fault.ErrNotFound) {
				err = nil
			}
		}
	}
	return err
}

// warmEvery is how often Warm looks for packages that changed.
const warmEvery = 5 * time.Second

// Warm keeps in memory what it takes to serve every package, the newest first,
// up to the bounds of the caches, until ctx ends. An edge does so to serve on
// when its Postgres is away, also what nobody has asked it for.
func (s *Server) Warm(ctx context.Context) {
	tick := time.NewTicker(warmEvery)
	defer tick.Stop()
	ctx = access.SeePrivate(ctx)
	warmed, epoch := map[string]int64{}, s.epoch.Now(ctx) // revisions, by package
	for {
		if now := s.epoch.Now(ctx); now != epoch {
			warmed, epoch = map[string]int64{}, now
		}
		if v, err := s.directory.Current(ctx); err == nil {
			s.warmPackages(ctx, v.Packages, warmed)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *Server) warmPackages(ctx context.Context, packages []*directory.Listing, warmed map[string]int64) {
	newest := slices.SortedFunc(slices.Values(packages), func(a, b *directory.Listing) int { return b.UpdatedAt.Compare(a.UpdatedAt) })
	room, first := git.RoomForReleases, len(warmed) == 0
	for i, p := range newest {
		room -= p.ReleaseCount + p.SnapshotCount
		if i >= git.MaxCachedRepositories || room < 0 {
			break
		}
		if !p.Local() || warmed[p.Name] == p.Revision {
			continue
		}
		err := s.warm(ctx, p.Name)
		if err == nil && p.Shown != "" {
			err = s.warm(ctx, p.Shown)
		}
		if err != nil {
			if ctx.Err() == nil {
				s.log.WarnContext(ctx, "package not kept in memory", "package", p.Name, "err", err)
			}
			return
		}
		warmed[p.Name] = p.Revision
	}
	if first && len(warmed) > 0 {
		s.log.InfoContext(ctx, "packages kept in memory", "count", len(warmed), "of", len(packages))
	}
}

// warm keeps what it takes to serve a package by one of its names.
func (s *Server) warm(ctx context.Context, pkg string) error {
	releases, err := s.db.Releases(ctx, pkg)
	if err != nil {
		return err
	}
	for i := range releases {
		releases[i].Package = pkg
		if err := s.releases.warm(ctx, &releases[i]); err != nil {
			return err
		}
	}
	return s.git.Warm(ctx, pkg, releases)
}
