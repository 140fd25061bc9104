// Package directory has all packages in memory, for lists, search, status and
// pages.
package directory

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/francescobianco/packbase/api/fresh"
	"github.com/francescobianco/packbase/api/health"
	"github.com/francescobianco/packbase/api/stored"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
)

// A Directory keeps all packages in memory, so that lists, search and status
// cost the same with ten packages and with ten thousand. It asks Postgres for
// what changed, at most once in a second, unless there are news.
type Directory struct {
	db    *storage.DB
	epoch *stored.Epoch
	views fresh.Value[fresh.PerReader[*View]]

	// What the views are made from, for ask.
	asked  time.Time // before the last question that was answered; zero for never
	of     int64     // the epoch of byName
	byName map[string]*Listing
	made   fresh.PerReader[*View]
}

const (
	timeout = 3 * time.Second
	// A transaction may commit some time after its rows say they changed, and a
	// question may be some time on its way.
	overlap = 15*time.Second + timeout
)

// A Listing is a package as lists show it.
type Listing struct {
	storage.Package
	folded string // the name in use, the first one, description and upstream in lower case, apart by NUL
}

// A View is the directory at one moment. It does not change.
type View struct {
	Number   uint64              // of this moment; both readers' views have the same
	Packages []*Listing          // sorted by name as bytes
	Upstream map[string]*Listing // by upstream; also those that were removed, and those without releases
	Totals   Totals
}

// Totals are sums over the packages of a view.
type Totals struct {
	Packages, Local, Registered                int
	Healthy, Unhealthy, Stale, Waiting, Frozen int // each package in one of them: health.Class
	Releases, Snapshots, MovedTags             int
	Bytes                                      int64
	Languages                                  map[string]int
}

// New returns the directory of a database, empty until somebody looks.
func New(db *storage.DB, e *stored.Epoch, news *fresh.News) *Directory {
	none := &View{Totals: Totals{Languages: map[string]int{}}}
	d := &Directory{db: db, epoch: e, byName: map[string]*Listing{}, made: fresh.PerReader[*View]{All: none, Public: none}}
	d.views.News, d.views.Failures = news, true
	return d
}

// Current returns the packages as they are now, give or take a second, and with
// all news.
// When Postgres is away it returns the last view, with the error, too.
func (d *Directory) Current(ctx context.Context) (*View, error) {
	views, err := d.views.Get(ctx, d.ask)
	return *views.Of(ctx), err
}

func (d *Directory) ask(ctx context.Context) (fresh.PerReader[*View], error) {
	epoch := d.epoch.Now(ctx)
	if epoch != d.of {
		d.asked = time.Time{}
	}
	// Others wait for this answer: it must come soon, and not end with a client.
	ctx, cancel := context.WithTimeout(access.SeePrivate(context.WithoutCancel(ctx)), timeout)
	defer cancel()
	asking := time.Now()
	changed, err := d.changed(ctx)
	if err != nil {
		return d.made, err
	}
	d.asked = asking
	stale := false
	if epoch != d.of { // names may be gone
		d.byName, d.of, stale = map[string]*Listing{}, epoch, true
	}
	for i := range changed {
		p := &changed[i]
		if old, ok := d.byName[p.Name]; ok && old.ChangedAt.Equal(p.ChangedAt) {
			continue
		}
		stale = true
		d.byName[p.Name] = &Listing{Package: *p, folded: strings.ToLower(p.Called() + "\x00" + p.Name + "\x00" + p.Description + "\x00" + withoutScheme(p.Upstream))}
	}
	if stale {
		number := d.made.All.Number + 1
		d.made = fresh.PerReader[*View]{All: newView(d.byName, true), Public: newView(d.byName, false)}
		d.made.All.Number, d.made.Public.Number = number, number
	}
	return d.made, nil
}

// changed returns the packages that may be other than in byName.
func (d *Directory) changed(ctx context.Context) ([]storage.Package, error) {
	if d.asked.IsZero() {
		return d.db.Packages(ctx)
	}
	ago := max(time.Since(d.asked), time.Now().Round(0).Sub(d.asked)) // only a wall clock goes on while a machine is suspended
	return d.db.ChangedPackages(ctx, ago+overlap)
}

// Last is Current for those who can do with packages as they were when Postgres
// last answered. It returns an error if it never did.
func (d *Directory) Last(ctx context.Context) (*View, error) {
	v, err := d.Current(ctx)
	if len(v.Packages) > 0 {
		return v, nil
	}
	return v, err
}

func newView(byName map[string]*Listing, private bool) *View {
	v := &View{Packages: make([]*Listing, 0, len(byName)), Upstream: make(map[string]*Listing, len(byName)), Totals: Totals{Languages: map[string]int{}}}
	for _, p := range byName {
		if p.Private && !private {
			continue
		}
		if other := v.Upstream[p.Upstream]; other == nil || p.before(other) {
			v.Upstream[p.Upstream] = p
		}
		if p.State == storage.Removed || !p.Local() && !p.Registered {
			continue
		}
		v.Packages = append(v.Packages, p)
		v.Totals.add(p)
	}
	slices.SortFunc(v.Packages, func(a, b *Listing) int { return strings.Compare(a.Called(), b.Called()) })
	return v
}

// before tells which of two packages stands for the upstream that both have: one that has something, one that was removed,
// the one with more releases, the first by name. What was removed is not had again by asking for it under a new name.
func (p *Listing) before(other *Listing) bool {
	if has := p.Local(); has != other.Local() {
		return has
	}
	if removed := p.State == storage.Removed; removed != (other.State == storage.Removed) {
		return removed
	}
	return cmp.Or(p.byCount(other), strings.Compare(p.Name, other.Name)) < 0
}

func (t *Totals) add(p *Listing) {
	t.Packages++
	t.Releases += p.ReleaseCount
	t.Snapshots += p.SnapshotCount
	t.Bytes += p.SizeBytes
	t.MovedTags += p.MovedCount
	if p.Local() {
		t.Local++
	}
	if p.Registered {
		t.Registered++
	}
	switch health.Class(&p.Package) {
	case health.Healthy:
		t.Healthy++
	case health.Unhealthy:
		t.Unhealthy++
	case health.Stale:
		t.Stale++
	case health.Frozen:
		t.Frozen++
	default:
		t.Waiting++
	}
	if p.Language != "" {
		t.Languages[p.Language]++
	}
}

// byCount puts who has more before who has less.
func (p *Listing) byCount(other *Listing) int {
	return cmp.Or(cmp.Compare(other.ReleaseCount, p.ReleaseCount), cmp.Compare(other.SnapshotCount, p.SnapshotCount))
}

// Search returns the packages whose name, description or upstream contains
// every word of query, but for a URL's scheme, the best first: the name itself, a name that begins
// so, a name that contains it, then the others.
func (v *View) Search(query string) []*Listing {
	words := strings.Fields(strings.ToLower(query))
	for i := range words {
		words[i] = withoutScheme(words[i])
	}
	if len(words) == 0 {
		return nil
	}
	var found []*Listing
	for _, p := range v.Packages {
		if containsAll(p.folded, words) {
			found = append(found, p)
		}
	}
	slices.SortStableFunc(found, func(a, b *Listing) int {
		return cmp.Or(cmp.Compare(rank(a, words), rank(b, words)), a.byCount(b))
	})
	return found
}

// withoutScheme returns a URL without what all URLs have: who looks for http
// means a name, and who pastes a URL its place.
func withoutScheme(u string) string {
	if _, rest, ok := strings.Cut(u, "://"); ok && rest != "" {
		return rest
	}
	return u
}

func containsAll(text string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}

func rank(p *Listing, words []string) int {
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
