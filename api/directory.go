package api

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/francescobianco/packbase/api/stored"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
)

// A directory keeps all packages in memory, so that lists, search and status
// cost the same with ten packages and with ten thousand. It asks Postgres for
// what changed, at most once in directoryAge, unless there are news.
type directory struct {
	db    *storage.DB
	epoch *stored.Epoch
	news  *news

	mu     sync.Mutex
	asked  time.Time // when Postgres was last asked
	heard  uint64    // the news by then
	failed error     // how that ended
	since  time.Time // the newest change seen
	of     int64     // the epoch of byName
	byName map[string]*listing
	views  perReader[*view]
}

const (
	directoryAge     = time.Second
	directoryTimeout = 3 * time.Second
	// A transaction may commit some time after its rows say they changed.
	directoryOverlap = 15 * time.Second
)

// A listing is a package as lists show it.
type listing struct {
	storage.Package
	folded string // name, description and upstream in lower case, apart by NUL
}

// A view is the directory at one moment. It does not change.
type view struct {
	packages []*listing          // sorted by name as bytes
	upstream map[string]*listing // by upstream; also those that were removed, and those without releases
	totals   totals
}

type totals struct {
	Packages, Local, Registered, Healthy, Unhealthy, Frozen int
	Releases, MovedTags                                     int
	Bytes                                                   int64
	Languages                                               map[string]int
}

func newDirectory(db *storage.DB, e *stored.Epoch, news *news) *directory {
	none := &view{totals: totals{Languages: map[string]int{}}}
	return &directory{db: db, epoch: e, news: news, byName: map[string]*listing{}, views: perReader[*view]{none, none}}
}

// look returns the packages as they are now, give or take directoryAge, and
// with all news.
// When Postgres is away it returns the last view, with the error, too.
func (d *directory) look(ctx context.Context) (*view, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	heard := d.news.Load()
	if time.Since(d.asked) < directoryAge && heard == d.heard {
		return *d.views.of(ctx), d.failed
	}
	epoch := d.epoch.Now(ctx)
	if epoch != d.of {
		d.since = time.Time{}
	}
	since := d.since
	if !since.IsZero() {
		since = since.Add(-directoryOverlap)
	}
	// Others wait for this answer: it must come soon, and not end with a client.
	ask, cancel := context.WithTimeout(access.SeePrivate(context.WithoutCancel(ctx)), directoryTimeout)
	defer cancel()
	changed, err := d.db.ChangedPackages(ask, since)
	d.asked, d.heard, d.failed = time.Now(), heard, err
	if err != nil {
		return *d.views.of(ctx), err
	}
	stale := false
	if epoch != d.of { // names may be gone
		d.byName, d.of, stale = map[string]*listing{}, epoch, true
	}
	for i := range changed {
		p := &changed[i]
		if old, ok := d.byName[p.Name]; ok && old.ChangedAt.Equal(p.ChangedAt) {
			continue
		}
		stale = true
		d.byName[p.Name] = &listing{Package: *p, folded: strings.ToLower(p.Name + "\x00" + p.Description + "\x00" + p.Upstream)}
		if p.ChangedAt.After(d.since) {
			d.since = p.ChangedAt
		}
	}
	if stale {
		d.views = perReader[*view]{newView(d.byName, true), newView(d.byName, false)}
	}
	return *d.views.of(ctx), nil
}

// last is look for those who can do with packages as they were when Postgres
// last answered. It returns an error if it never did.
func (d *directory) last(ctx context.Context) (*view, error) {
	v, err := d.look(ctx)
	if len(v.packages) > 0 {
		return v, nil
	}
	return v, err
}

func newView(byName map[string]*listing, private bool) *view {
	v := &view{packages: make([]*listing, 0, len(byName)), upstream: make(map[string]*listing, len(byName)), totals: totals{Languages: map[string]int{}}}
	for _, p := range byName {
		if p.Private && !private {
			continue
		}
		if other := v.upstream[p.Upstream]; other == nil || p.before(other) {
			v.upstream[p.Upstream] = p
		}
		if p.State == storage.Removed || p.ReleaseCount == 0 && !p.Registered {
			continue
		}
		v.packages = append(v.packages, p)
		v.totals.add(p)
	}
	slices.SortFunc(v.packages, func(a, b *listing) int { return strings.Compare(a.Name, b.Name) })
	return v
}

// before tells which of two packages stands for the upstream that both have: one that was not removed, the one with
// more releases, the first by name.
func (p *listing) before(other *listing) bool {
	if removed := p.State == storage.Removed; removed != (other.State == storage.Removed) {
		return !removed
	}
	return cmp.Or(cmp.Compare(other.ReleaseCount, p.ReleaseCount), strings.Compare(p.Name, other.Name)) < 0
}

func (t *totals) add(p *listing) {
	t.Packages++
	t.Releases += p.ReleaseCount
	t.Bytes += p.SizeBytes
	t.MovedTags += p.MovedCount
	if p.ReleaseCount > 0 {
		t.Local++
	}
	if p.Registered {
		t.Registered++
	}
	if p.Healthy {
		t.Healthy++
	} else {
		t.Unhealthy++
	}
	if p.State == storage.Frozen {
		t.Frozen++
	}
	if p.Language != "" {
		t.Languages[p.Language]++
	}
}

// search returns the packages whose name, description or upstream contains
// every word of query, the best first: the name itself, a name that begins
// so, a name that contains it, then the others.
func (v *view) search(query string) []*listing {
	words := strings.Fields(strings.ToLower(query))
	if len(words) == 0 {
		return nil
	}
	var found []*listing
	for _, p := range v.packages {
		if containsAll(p.folded, words) {
			found = append(found, p)
		}
	}
	slices.SortStableFunc(found, func(a, b *listing) int {
		return cmp.Or(cmp.Compare(rank(a, words), rank(b, words)), cmp.Compare(b.ReleaseCount, a.ReleaseCount))
	})
	return found
}

func containsAll(text string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}

func rank(p *listing, words []string) int {
	name, _, _ := strings.Cut(p.folded, "\x00")
	switch first := words[0]; {
	case name == first:
		return 0
	case strings.HasPrefix(name, first):
		return 1
	case strings.Contains(name, first):
		return 2
	}
	return 3
}
