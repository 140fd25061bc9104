package api

import (
	"cmp"
	"net/http"
	"slices"
	"strings"

	"github.com/francescobianco/packbase/api/answer"
	"github.com/francescobianco/packbase/api/directory"
	"github.com/francescobianco/packbase/api/health"
	"github.com/francescobianco/packbase/api/web"
)

// getPackageList serves GET /packages?q=&sort=&filter=&language=&page= to browsers.
func (s *Server) getPackageList(w http.ResponseWriter, r *http.Request) error {
	frame, err := s.frame(r, "Packages", "packages")
	if err != nil {
		return err
	}
	v, err := s.directory.Look(r.Context())
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
	l := &web.PackageList{Frame: frame, Sort: q.Get("sort"), Filter: q.Get("filter"), Language: answer.Cut(q.Get("language"), 100), All: len(v.Packages)}
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
	l.Pager, from, to = web.NewPager(q.Get("page"), len(found), 50)
	l.Found = len(found)
	for _, p := range found[from:to] {
		l.Packages = append(l.Packages, web.Package{Package: p.Package})
	}
	return s.site.Render(w, status, l)
}

// class is the one word for how a package is, of those in classes.
func class(p *directory.Listing) string {
	switch word := health.Of(&p.Package); word {
	case health.Healthy, health.Frozen, health.Stale:
		return word
	case health.Failing, health.Unhealthy:
		return health.Unhealthy
	}
	return health.Waiting
}

// matches reports whether a filter of the list lets the package pass.
func matches(p *directory.Listing, filter string) bool {
	switch filter {
	case "":
		return true
	case "local":
		return p.ReleaseCount > 0
	case "registered":
		return p.Registered
	case "moved":
		return p.MovedCount > 0
	case "failing":
		return p.SyncOK != nil && !*p.SyncOK
	}
	return class(p) == filter
}

// filters counts what each filter lets pass. Those that let nothing pass and
// are not of use every day are left out.
func filters(all []*directory.Listing, chosen string) []web.Filter {
	out := []web.Filter{
		{Name: "", Label: "All"}, {Name: "healthy", Label: "Healthy"}, {Name: "unhealthy", Label: "Unhealthy"}, {Name: "stale", Label: "Stale"},
		{Name: "failing", Label: "Failing"}, {Name: "frozen", Label: "Frozen"}, {Name: "waiting", Label: "Waiting"}, {Name: "moved", Label: "Moved tags"},
		{Name: "registered", Label: "Registered"}, {Name: "local", Label: "Local"},
	}
	for i := range out {
		for _, p := range all {
			if matches(p, out[i].Name) {
				out[i].N++
			}
		}
	}
	return slices.DeleteFunc(out, func(f web.Filter) bool {
		switch f.Name {
		case "", "healthy", "unhealthy", chosen:
			return false
		case "failing": // for links to it: the others say the same
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
			return strings.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name))
		},
		"releases": func(a, b *directory.Listing) int { return cmp.Compare(b.ReleaseCount, a.ReleaseCount) },
		"size":     func(a, b *directory.Listing) int { return cmp.Compare(b.SizeBytes, a.SizeBytes) },
		"updated":  func(a, b *directory.Listing) int { return b.UpdatedAt.Compare(a.UpdatedAt) },
	}[by]
	if order != nil {
		slices.SortStableFunc(all, order)
	}
}
