package pages

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/francescobianco/packbase/api/answer"
	"github.com/francescobianco/packbase/api/directory"
	"github.com/francescobianco/packbase/api/health"
	"github.com/francescobianco/packbase/storage"
)

// A packageList is the page /packages.
type packageList struct {
	frame
	Packages []packageView
	Sort     string // one of Sorts
	Filter   string // one of Filters' Name
	Language string
	Filters  []filter
	Langs    []share
	Found    int
	All      int
	pager
}

func (*packageList) template() string { return "packages" }

// A filter is one way to look at the list.
type filter struct {
	Name, Label string
	N           int
}

// A column is one by which the list can be sorted.
type column struct{ Name, Label, Class string }

// Columns returns the list's columns.
func (*packageList) Columns() []column {
	return []column{{"name", "Package", "grow"}, {"releases", "Releases", "n"}, {"size", "Size", "n"}, {"updated", "Last release", "n"}}
}

// With returns the list's URL with one part changed; the page number falls away.
func (l *packageList) With(key, value string) string {
	q := url.Values{}
	for _, part := range [][2]string{{"q", l.Query}, {"sort", l.Sort}, {"filter", l.Filter}, {"language", l.Language}, {key, value}} {
		if q.Del(part[0]); part[1] != "" {
			q.Set(part[0], part[1])
		}
	}
	if len(q) == 0 {
		return "/packages"
	}
	return "/packages?" + q.Encode()
}

// At returns the URL of the n-th page.
func (l *packageList) At(n int) string { return l.With("page", strconv.Itoa(n)) }

// A pager cuts a long list into pages.
type pager struct{ Page, Pages int }

// newPager returns the pager of n items and the part of them that it shows.
// page is what the request asked for.
func newPager(page string, n, each int) (p pager, from, to int) {
	p.Pages = max(1, (n+each-1)/each)
	if n, err := strconv.Atoi(page); err == nil {
		p.Page = n // else it is the first
	}
	p.Page = min(max(p.Page, 1), p.Pages)
	from = min((p.Page-1)*each, n)
	return p, from, min(from+each, n)
}

// Before and After are the pages beside this one; 0 if there is none.
func (p pager) Before() int { return p.Page - 1 }

// After is the next page; 0 if there is none.
func (p pager) After() int {
	if p.Page == p.Pages {
		return 0
	}
	return p.Page + 1
}

// getPackageList serves GET /packages?q=&sort=&filter=&language=&page= to browsers.
func (s *Site) getPackageList(w http.ResponseWriter, r *http.Request) error {
	frame, err := s.frame(r, "Packages", "packages")
	if err != nil {
		return err
	}
	v, err := s.directory.Current(r.Context())
	status := http.StatusOK
	if err != nil {
		if answer.FromError(err).Status != http.StatusServiceUnavailable {
			return err
		}
		status, frame.Away = http.StatusServiceUnavailable, databaseAway
		w.Header().Set("Retry-After", "5")
	}
	q := r.URL.Query()
	frame.Query = answer.Cut(q.Get("q"), 200)
	l := &packageList{frame: frame, Sort: q.Get("sort"), Filter: q.Get("filter"), Language: answer.Cut(q.Get("language"), 100), All: len(v.Packages)}
	found := v.Packages
	if frame.Query != "" {
		found = v.Search(frame.Query)
	} else if l.Sort == "" {
		l.Sort = "name"
	}
	l.Filters, l.Langs = filters(found, l.Filter), shares(languages(found, l.Filter), 8)
	found = slices.DeleteFunc(slices.Clone(found), func(p *directory.Listing) bool {
		return !matches(p, l.Filter) || l.Language != "" && p.Language != l.Language
	})
	sortListings(found, l.Sort)
	var from, to int
	l.pager, from, to = newPager(q.Get("page"), len(found), 50)
	l.Found = len(found)
	for _, p := range found[from:to] {
		l.Packages = append(l.Packages, packageView{Package: p.Package})
	}
	return s.renderer.render(w, status, l)
}

// matches reports whether a filter of the list lets the package pass.
func matches(p *directory.Listing, filter string) bool {
	switch filter {
	case "":
		return true
	case "local":
		return p.Local()
	case "registered":
		return p.Registered
	case "moved":
		return p.MovedCount > 0
	case "failing": // and not for so long that it is given up
		return p.State == storage.Active && p.SyncOK != nil && !*p.SyncOK && p.SyncFailures < lostCause
	case "unfetchable": // though upstream could be looked at
		return health.Class(&p.Package) == health.Unhealthy && (p.SyncOK == nil || *p.SyncOK)
	}
	return health.Class(&p.Package) == filter
}

// filters counts what each filter lets pass. Those that let nothing pass and
// are not of use every day are left out.
func filters(all []*directory.Listing, chosen string) []filter {
	out := []filter{
		{Name: "", Label: "All"}, {Name: "healthy", Label: "Healthy"}, {Name: "unhealthy", Label: "Unhealthy"}, {Name: "stale", Label: "Stale"},
		{Name: "failing", Label: "Failing"}, {Name: "unfetchable", Label: "Not to be fetched"}, {Name: "frozen", Label: "Frozen"}, {Name: "waiting", Label: "Waiting"}, {Name: "moved", Label: "Moved tags"},
		{Name: "registered", Label: "Registered"}, {Name: "local", Label: "Local"},
	}
	for i := range out {
		for _, p := range all {
			if matches(p, out[i].Name) {
				out[i].N++
			}
		}
	}
	return slices.DeleteFunc(out, func(f filter) bool {
		switch f.Name {
		case "", "healthy", "unhealthy", chosen:
			return false
		case "failing", "unfetchable": // for links to them: the others say the same
			return true
		}
		return f.N == 0
	})
}

func languages(all []*directory.Listing, filter string) map[string]int {
	n := map[string]int{}
	for _, p := range all {
		if p.Language != "" && matches(p, filter) {
			n[p.Language]++
		}
	}
	return n
}

// sortListings sorts packages. Without a known order they stay as they are.
func sortListings(all []*directory.Listing, by string) {
	order := map[string]func(a, b *directory.Listing) int{
		"name": func(a, b *directory.Listing) int {
			return strings.Compare(strings.ToLower(a.Called()), strings.ToLower(b.Called()))
		},
		"releases": func(a, b *directory.Listing) int {
			return cmp.Or(cmp.Compare(b.ReleaseCount, a.ReleaseCount), cmp.Compare(b.SnapshotCount, a.SnapshotCount))
		},
		"size":    func(a, b *directory.Listing) int { return cmp.Compare(b.SizeBytes, a.SizeBytes) },
		"updated": func(a, b *directory.Listing) int { return b.UpdatedAt.Compare(a.UpdatedAt) },
	}[by]
	if order != nil {
		slices.SortStableFunc(all, order)
	}
}
