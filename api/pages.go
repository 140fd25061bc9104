package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"golang.org/x/mod/semver"

	"packbase/api/web"
	"packbase/storage"
)

// pageTime bounds what a page waits for; then it says what is away.
const pageTime = 3 * time.Second

// page adapts two handlers of one path: html for browsers, which also get
// errors as pages, and plain for all others.
func (s *Server) page(html, plain func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	others := s.handle(plain)
	browsers := s.handleWith(s.writeProblem, func(w http.ResponseWriter, r *http.Request) error {
		ctx, cancel := context.WithTimeout(r.Context(), pageTime)
		defer cancel()
		return html(w, r.WithContext(ctx))
	})
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Vary", "Accept")
		if prefersHTML(r) && !strings.HasPrefix(r.URL.Path, "/api/") {
			browsers(w, r)
			return
		}
		others(w, r)
	}
}

// prefersHTML reports whether the client is a browser: it names text/html,
// and wants JSON no more than that. RFC 9110, section 12.5.1.
func prefersHTML(r *http.Request) bool {
	html := quality(r, "text/html")
	return html > 0 && html >= quality(r, "application/json")
}

func quality(r *http.Request, mediaType string) float64 {
	for _, line := range r.Header.Values("Accept") {
		for part := range strings.SplitSeq(line, ",") {
			name, params, _ := strings.Cut(part, ";")
			if !strings.EqualFold(strings.TrimSpace(name), mediaType) {
				continue
			}
			for param := range strings.SplitSeq(params, ";") {
				if text, ok := strings.CutPrefix(strings.TrimSpace(param), "q="); ok {
					q, _ := strconv.ParseFloat(text, 64) // what is no number is not wanted
					return q
				}
			}
			return 1
		}
	}
	return 0
}

var hostPattern = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$`)

// baseURL returns the scheme and host under which the client knows us.
//
// The host is the client's word, so what is made from it is never cached for
// others.
func baseURL(r *http.Request) (string, error) {
	if len(r.Host) > 255 || !hostPattern.MatchString(r.Host) {
		return "", &Error{Status: http.StatusBadRequest, Code: "host_invalid", Message: "the Host header does not name a host"}
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	if proto := r.Header.Get("X-Forwarded-Proto"); proto == "http" || proto == "https" {
		scheme = proto
	}
	return scheme + "://" + r.Host, nil
}

func (s *Server) frame(r *http.Request, title, section string) (web.Frame, error) {
	base, err := baseURL(r)
	return web.Frame{
		Title: title, Section: section, Base: base, Auth: s.authWord(), Central: s.opt.Central,
		Release: s.opt.Release, Feed: "/feed.atom",
	}, err
}

// writeProblem answers with an error as a page.
func (s *Server) writeProblem(w http.ResponseWriter, r *http.Request, e *Error) {
	frame, _ := s.frame(r, problemTitle(e.Status), "") // a bad host is the problem already
	p := &web.Problem{Frame: frame, Status: e.Status, Message: e.Message}
	if e.Status >= 500 {
		p.ID = middleware.GetReqID(r.Context())
	}
	if e.Status == http.StatusNotFound {
		if e.Code == "not_found" && e.Message == toError(storage.ErrNotFound).Message {
			p.Message = "Nothing is at this address."
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		v, _ := s.directory.look(r.Context()) // the last view is good enough
		for _, l := range near(v.packages, strings.TrimSuffix(name, ".git"), 6) {
			p.Near = append(p.Near, web.Package{Package: l.Package})
		}
	}
	if e.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(seconds(e.RetryAfter)))
	}
	w.Header().Set("X-Packbase-Error", e.Code)
	if err := s.site.Render(w, e.Status, p); err != nil {
		s.log.ErrorContext(r.Context(), "page not rendered", "err", err)
		writeError(w, r, e)
	}
}

const databaseAway = "The database does not answer. What this page shows may be old."

func problemTitle(status int) string {
	switch status {
	case http.StatusNotFound:
		return "Not found"
	case http.StatusServiceUnavailable:
		return "Back in a moment"
	case http.StatusInternalServerError:
		return "Something failed"
	}
	return http.StatusText(status)
}

func noSuchPage(http.ResponseWriter, *http.Request) error { return storage.ErrNotFound }

// near returns the packages whose names are most like name, the nearest first.
func near(all []*listing, name string, most int) []*listing {
	name = strings.ToLower(name)
	if name == "" || len(name) > storage.MaxPackageName {
		return nil
	}
	type candidate struct {
		*listing
		far int
	}
	var found []candidate
	for _, p := range all {
		other := strings.ToLower(p.Name)
		far := distance(name, other)
		if len(name) > 2 && (strings.Contains(other, name) || strings.Contains(name, other) && len(other) > 2) {
			far = min(far, 2)
		}
		if far <= 1+len(name)/4 {
			found = append(found, candidate{p, far})
		}
	}
	slices.SortStableFunc(found, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.far, b.far), cmp.Compare(b.ReleaseCount, a.ReleaseCount))
	})
	var names []*listing
	for _, c := range found[:min(most, len(found))] {
		names = append(names, c.listing)
	}
	return names
}

// distance is how many letters to insert, drop or replace to get from a to b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := corner
			if a[i] != b[j] {
				change++
			}
			corner = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// An overview is what the dashboard asks of Postgres and Redis besides the
// status.
type overview struct {
	failures  []storage.Job
	recent    []storage.Job
	catalog   string // why it could not be had
	queueAway bool
}

func (s *Server) workOutOverview(ctx context.Context) (*overview, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pageTime)
	defer cancel()
	var o overview
	var err error
	if o.failures, err = s.db.Failures(ctx, 8); err != nil {
		return nil, err
	}
	if o.recent, err = s.db.Jobs(ctx, storage.JobFilter{Limit: 10}); err != nil {
		return nil, err
	}
	if s.opt.Source != "" {
		if o.catalog, _, err = s.db.CatalogState(ctx, s.opt.Source); err != nil {
			return nil, err
		}
	}
	o.queueAway = s.queue != nil && s.queue.Ping(ctx) != nil
	return &o, nil
}

func (s *Server) workOutChart(ctx context.Context) (web.Chart, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pageTime)
	defer cancel()
	first, err := s.db.FirstRelease(ctx)
	if err != nil || first.IsZero() {
		return web.Chart{}, err
	}
	now := time.Now()
	unit, since := web.ChartSpan(now.Sub(first), now)
	counts, err := s.db.ReleaseCounts(ctx, unit, since)
	if err != nil {
		return web.Chart{}, err
	}
	return web.NewChart(unit, since, now, counts), nil
}

// getDashboard serves GET / to browsers. When Postgres is away it shows what
// is in memory, with 503.
func (s *Server) getDashboard(w http.ResponseWriter, r *http.Request) error {
	frame, err := s.frame(r, "", "dashboard")
	if err != nil {
		return err
	}
	ctx := r.Context()
	d := &web.Dashboard{Frame: frame, DiskFree: -1}
	v, err := s.directory.look(ctx)
	c := s.countPackages(d, v)
	if err == nil {
		err = s.fillDashboard(ctx, d, c)
	}
	if err == nil {
		return s.site.Render(w, http.StatusOK, d)
	}
	if e := toError(err); e.Status != http.StatusServiceUnavailable {
		return err
	}
	s.log.WarnContext(ctx, "dashboard shows what is in memory", "err", err)
	d.Gone = true
	d.Needs = []web.Need{{Level: "bad", What: "The database does not answer",
		Why: "Only what is in memory is served until Postgres is back. Is it running?"}}
	w.Header().Set("Retry-After", "5")
	return s.site.Render(w, http.StatusServiceUnavailable, d)
}

// A census counts packages by what an operator may have to do about them.
type census struct{ unhealthy, review, lost int }

// lostCause is after how many failures in a row a package's upstream is taken
// as gone for good: what is mirrored is served, and it needs nobody any more.
const lostCause = 10

func (s *Server) countPackages(d *web.Dashboard, v *view) (c census) {
	t := v.totals
	d.Packages, d.Releases, d.Bytes, d.Frozen = t.Packages, t.Releases, t.Bytes, t.Frozen
	d.Shares = shares(t.Languages, 8)
	for _, p := range v.packages {
		if p.MovedCount > 0 {
			d.Moved += p.MovedCount
		}
		switch class(p) {
		case "healthy":
			d.Healthy++
		case "unhealthy":
			d.Unhealthy++
			if p.SyncOK == nil || *p.SyncOK {
				c.unhealthy++
			}
		case "stale":
			d.Stale++
		case "waiting":
			d.Waiting++
		}
		if p.State == storage.Frozen && p.StateReason != storage.KeptByOperator {
			c.review++
		}
		if p.State == storage.Active && p.SyncOK != nil && !*p.SyncOK && p.SyncFailures < lostCause {
			c.lost++
		}
	}
	if len(v.packages) == 1 && (web.Package{Package: v.packages[0].Package}).Link() == "" && v.packages[0].ReleaseCount > 0 {
		d.Start = v.packages[0].Name
	}
	return c
}

func shares(counts map[string]int, most int) []web.Share {
	var all []web.Share
	whole := 0
	for name, n := range counts {
		all = append(all, web.Share{Name: name, N: n})
		whole = max(whole, n)
	}
	slices.SortFunc(all, func(a, b web.Share) int {
		return cmp.Or(cmp.Compare(b.N, a.N), strings.Compare(a.Name, b.Name))
	})
	all = all[:min(most, len(all))]
	for i := range all {
		all[i].Whole = whole
	}
	return all
}

func (s *Server) fillDashboard(ctx context.Context, d *web.Dashboard, c census) error {
	status, err := s.status.get(ctx, s.workOutStatus)
	if err != nil {
		return err
	}
	o, err := s.overview.get(ctx, s.workOutOverview)
	if err != nil {
		return err
	}
	// Counting takes a second for some hundred thousand releases.
	age := min(time.Second+time.Duration(d.Releases)*300*time.Microsecond, time.Minute)
	if d.Chart, err = s.chart.within(ctx, age, s.workOutChart); err != nil {
		return err
	}
	u := status.Update
	d.Update = web.Update{State: u.State, Job: u.JobID, StartedAt: u.StartedAt, EndedAt: u.EndedAt, Done: u.Done, Total: u.Total,
		LastState: u.LastState, Source: s.opt.Source, Counters: u.Counters}
	d.Queue, d.Workers, d.DiskFree = status.Queue.QueueCounts, status.Queue.Workers, u.DiskFree
	d.Failures, d.Recent = web.Jobs(o.failures), web.Jobs(o.recent)
	d.Needs = s.needs(status, o, c)
	return nil
}

// Free space below which an operator is told, in bytes.
const (
	diskLow  = 5_000_000_000
	diskFull = 1_000_000_000
)

// needs returns what waits for the operator, the worst first.
func (s *Server) needs(status *statusBody, o *overview, c census) (needs []web.Need) {
	add := func(when bool, n web.Need) {
		if when {
			needs = append(needs, n)
		}
	}
	idle := len(status.Queue.Workers) == 0 && !s.opt.ReadOnly
	pending, free := status.Queue.Pending, status.Update.DiskFree
	add(o.queueAway, web.Need{Level: "bad", What: "The queue does not answer",
		Why: "Packages are served, and jobs are kept; they start late until Redis is back. Is it running?"})
	add(idle && pending > 0, web.Need{Level: "bad", What: "No worker is running", Command: "packbase worker",
		Why: plural(pending, "One job waits.", "%d jobs wait.") + " Packages are served, but nothing new is mirrored. Start one:"})
	add(free >= 0 && free < diskFull, web.Need{Level: "bad", What: "The disk is full", Why: "Nothing new can be mirrored until there is space."})
	add(c.unhealthy > 0, web.Need{Level: "bad", What: plural(c.unhealthy, "One package is unhealthy", "%d packages are unhealthy"),
		Why: "A client would not get the newest release.", Link: "/packages?filter=unhealthy", To: "Look at them"})
	add(idle && pending == 0, web.Need{Level: "warn", What: "No worker is running", Command: "packbase worker",
		Why: "Packages are served, but nothing new is mirrored. Start one:"})
	add(free >= diskFull && free < diskLow, web.Need{Level: "warn", What: "The disk is nearly full"})
	add(c.review > 0, web.Need{Level: "warn", What: plural(c.review, "One package is frozen and waits for a decision", "%d packages are frozen and wait for a decision"),
		Why: "Upstream changed in a way that somebody should look at.", Link: "/packages?filter=frozen", To: "Decide"})
	add(o.catalog != "", web.Need{Level: "warn", What: "The catalog could not be downloaded", Why: o.catalog})
	add(c.lost > 0, web.Need{Level: "warn", What: plural(c.lost, "One package could not be mirrored", "%d packages could not be mirrored"),
		Why: plural(c.lost, "What is here of it is served, and it is tried again later.", "What is here of these %d is served, and they are tried again later."), Link: "/packages?filter=failing", To: "See why"})
	if c.lost == 0 && o.catalog == "" && len(o.failures) > 0 {
		n := web.Need{Level: "warn", What: plural(len(o.failures), "One job failed", "%d jobs failed"), Link: "/jobs?state=failed", To: "See why"}
		if len(o.failures) == 1 {
			n.Why, n.Link, n.To = whatFailed(o.failures[0]), "/jobs/"+o.failures[0].ID.String(), "Look at it"
		}
		needs = append(needs, n)
	}
	return needs
}

// whatFailed says what failed and why.
func whatFailed(j storage.Job) string {
	return strings.TrimSpace((web.Job{Job: j}).Work()+" "+j.Package) + ": " + j.ErrorMessage
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return fmt.Sprintf(many, n)
}

// getPackageList serves GET /packages?q=&sort=&filter=&language=&page= to browsers.
func (s *Server) getPackageList(w http.ResponseWriter, r *http.Request) error {
	frame, err := s.frame(r, "Packages", "packages")
	if err != nil {
		return err
	}
	v, err := s.directory.look(r.Context())
	status := http.StatusOK
	if err != nil {
		if toError(err).Status != http.StatusServiceUnavailable {
			return err
		}
		status, frame.Away = http.StatusServiceUnavailable, databaseAway
		w.Header().Set("Retry-After", "5")
	}
	q := r.URL.Query()
	frame.Query = cut(q.Get("q"), 200)
	l := &web.PackageList{Frame: frame, Sort: q.Get("sort"), Filter: q.Get("filter"), Language: cut(q.Get("language"), 100), All: len(v.packages)}
	found := v.packages
	if frame.Query != "" {
		found = v.search(frame.Query)
	} else if l.Sort == "" {
		l.Sort = "name"
	}
	l.Filters, l.Langs = filters(found, l.Filter), shares(languages(found, l.Filter), 8)
	found = slices.DeleteFunc(slices.Clone(found), func(p *listing) bool {
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

func cut(s string, most int) string { return strings.ToValidUTF8(s[:min(len(s), most)], "") }

// class is the one word for how a package is, of those in classes.
func class(p *listing) string {
	switch word := (web.Package{Package: p.Package}).Health().Word; word {
	case "healthy", "frozen", "stale":
		return word
	case "failing", "unhealthy":
		return "unhealthy"
	}
	return "waiting"
}

// matches reports whether a filter of the list lets the package pass.
func matches(p *listing, filter string) bool {
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
func filters(all []*listing, chosen string) []web.Filter {
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

func languages(all []*listing, filter string) map[string]int {
	n := map[string]int{}
	for _, p := range all {
		if p.Language != "" && matches(p, filter) {
			n[p.Language]++
		}
	}
	return n
}

// sortListings sorts packages. Without a known order they stay as they are.
func sortListings(all []*listing, by string) {
	order := map[string]func(a, b *listing) int{
		"name":     func(a, b *listing) int { return strings.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name)) },
		"releases": func(a, b *listing) int { return cmp.Compare(b.ReleaseCount, a.ReleaseCount) },
		"size":     func(a, b *listing) int { return cmp.Compare(b.SizeBytes, a.SizeBytes) },
		"updated":  func(a, b *listing) int { return b.UpdatedAt.Compare(a.UpdatedAt) },
	}[by]
	if order != nil {
		slices.SortStableFunc(all, order)
	}
}

// getRepo serves GET /{package} and its feed and badge.
func (s *Server) getRepo(w http.ResponseWriter, r *http.Request) {
	name := chi.URLParam(r, "repo")
	if pkg, ok := strings.CutSuffix(name, ".atom"); ok {
		s.handle(func(w http.ResponseWriter, r *http.Request) error { return s.getPackageFeed(w, r, pkg) })(w, r)
		return
	}
	if pkg, ok := strings.CutSuffix(name, ".svg"); ok {
		s.handle(func(w http.ResponseWriter, r *http.Request) error { return s.getBadge(w, r, pkg) })(w, r)
		return
	}
	s.page(
		func(w http.ResponseWriter, r *http.Request) error { return s.getPackagePage(w, r, name) },
		func(w http.ResponseWriter, r *http.Request) error {
			body, err := s.describe(r, strings.TrimSuffix(name, ".git"))
			if err != nil {
				return s.noPackage(w, name, err)
			}
			writeJSON(w, http.StatusOK, body)
			return nil
		},
	)(w, r)
}

// servedPackage returns a package that is there to be looked at.
func (s *Server) servedPackage(ctx context.Context, name string) (storage.Package, error) {
	none := &Error{Status: http.StatusNotFound, Code: "not_found", Message: fmt.Sprintf("There is no package “%s” here.", cut(name, storage.MaxPackageName))}
	if storage.ValidPackage(name) != nil {
		return storage.Package{}, none
	}
	p, err := s.db.PackageByName(ctx, name)
	if err != nil {
		return storage.Package{}, notFound(err, none)
	}
	if p.State == storage.Removed {
		none.Message = fmt.Sprintf("The package “%s” was removed; its name is not used again.", p.Name)
		return storage.Package{}, none
	}
	return p, nil
}

// Rows of a kind on a package's page.
const (
	releasesEach = 25
	othersMost   = 20
)

// getPackagePage shows one package to a browser.
func (s *Server) getPackagePage(w http.ResponseWriter, r *http.Request, name string) error {
	ctx := r.Context()
	p, err := s.servedPackage(ctx, strings.TrimSuffix(name, ".git"))
	if err != nil {
		return err
	}
	if p.Name != name {
		http.Redirect(w, r, "/"+p.Name, http.StatusFound)
		return nil
	}
	frame, err := s.frame(r, p.Name, "package")
	if err != nil {
		return err
	}
	frame.Feed = "/" + p.Name + ".atom"
	page := &web.PackagePage{Frame: frame, Package: web.Package{Package: p}}
	if err := s.fillReleases(r, page); err != nil {
		return err
	}
	if page.Rejected, err = s.db.RejectedTags(ctx, p.Name); err != nil {
		return err
	}
	if page.Moved, err = s.db.MovedTags(ctx, p.Name); err != nil {
		return err
	}
	slices.Reverse(page.Moved)
	page.More.Rejected, page.Rejected = cutRows(page.Rejected)
	page.More.Moved, page.Moved = cutRows(page.Moved)
	jobs, err := s.db.Jobs(ctx, storage.JobFilter{Package: p.Name, Limit: 1})
	if err != nil {
		return err
	}
	if len(jobs) > 0 && jobs[0].Open() {
		page.Open = &web.Job{Job: jobs[0]}
	}
	return s.site.Render(w, http.StatusOK, page)
}

func cutRows[T any](all []T) (more int, rows []T) {
	rows = all[:min(len(all), othersMost)]
	return len(all) - len(rows), rows
}

// fillReleases puts the releases asked for on the page: those of one page of
// the table, and one in full. Only these are read whole, however many there are.
func (s *Server) fillReleases(r *http.Request, page *web.PackagePage) error {
	all, err := s.order(r.Context(), page.Package.Package)
	if err != nil {
		return err
	}
	shown, err := s.shownID(r, &page.Package, all)
	if err != nil {
		return err
	}
	var from, to int
	page.Count = len(all.tags)
	page.Pager, from, to = web.NewPager(r.URL.Query().Get("page"), len(all.tags), releasesEach)
	more, snapshots := cutRows(all.snapshots)
	page.More.Snapshots = more
	var ids []int64
	for _, ref := range slices.Concat(all.tags[from:to], snapshots) {
		ids = append(ids, ref.ID)
	}
	releases, err := s.db.ReleasesByID(r.Context(), append(ids, shown))
	if err != nil {
		return err
	}
	for i, rel := range releases {
		row := web.Row{Release: rel, Hidden: all.hidden[rel.Tag], Shown: rel.ID == shown}
		if row.Shown && page.Shown == nil {
			page.Shown = &web.Release{Row: row, Base: page.Base, Place: page.Package.Link(), Prefix: s.wrapper(r.Context(), rel),
				Latest: rel.Tag != "" && rel.Tag == page.Package.Latest()}
		}
		switch {
		case i >= len(ids): // the one shown, if it is in neither table
		case rel.Tag == "":
			page.Snapshots = append(page.Snapshots, row)
		default:
			page.Releases = append(page.Releases, row)
		}
	}
	return nil
}

// An order is all releases of a package as it was at one revision, the newest
// first. Keeping it saves sorting thousands of tags for each request.
type order struct {
	revision        int64
	tags, snapshots []storage.TagRef
	hidden          map[string]string // why Git clients do not see a tag
}

// keptOrders bounds the orders in memory; one takes about 100 bytes a tag.
const keptOrders = 64

func (s *Server) order(ctx context.Context, p storage.Package) (*order, error) {
	if o, ok := s.orders.Get(p.Name); ok && o.revision == p.Revision {
		return o, nil
	}
	refs, err := s.db.TagRefs(ctx, p.Name)
	if err != nil {
		return nil, err
	}
	o := &order{revision: p.Revision}
	published := make([]storage.Release, 0, len(refs))
	for _, ref := range refs {
		if ref.Tag == "" {
			o.snapshots = append(o.snapshots, ref)
			continue
		}
		o.tags = append(o.tags, ref)
		published = append(published, storage.Release{Tag: ref.Tag})
	}
	o.hidden = storage.HiddenTags(published)
	slices.Reverse(o.snapshots)
	sortTags(o.tags)
	s.orders.Add(p.Name, o)
	return o, nil
}

// sortTags puts versions before other tags, the highest version first and the
// newest tag first. Other than in storage.CompareTags a pre-release stands
// right below its release: here people read, and nobody takes the first.
func sortTags(tags []storage.TagRef) {
	versions := make(map[string]string, len(tags))
	for _, ref := range tags {
		if v := "v" + strings.TrimPrefix(ref.Tag, "v"); semver.IsValid(v) {
			versions[ref.Tag] = v
		}
	}
	slices.SortFunc(tags, func(a, b storage.TagRef) int {
		// What is no version compares as less than any.
		return cmp.Or(semver.Compare(versions[b.Tag], versions[a.Tag]), b.CommitTime.Compare(a.CommitTime), strings.Compare(b.Tag, a.Tag))
	})
}

// shownID returns the release that the request wants in full: ?tag= or
// ?commit=, else the latest, else the newest. It is 0 if there is none.
func (s *Server) shownID(r *http.Request, p *web.Package, all *order) (int64, error) {
	q := r.URL.Query()
	if oid := q.Get("commit"); storage.ValidOID(oid) {
		rel, err := s.db.ReleaseByCommit(r.Context(), p.Name, strings.ToLower(oid))
		return rel.ID, notFoundPage(err, "The commit %s of %s is not mirrored.", oid, p.Name)
	}
	if tag := cmp.Or(q.Get("tag"), p.Latest()); tag != "" {
		i := slices.IndexFunc(all.tags, func(ref storage.TagRef) bool { return ref.Tag == tag })
		if i < 0 {
			return 0, notFoundPage(storage.ErrNotFound, "There is no release “%s” of %s here.", cut(tag, storage.MaxTagName), p.Name)
		}
		return all.tags[i].ID, nil
	}
	if len(all.snapshots) > 0 {
		return all.snapshots[0].ID, nil
	}
	return 0, nil
}

func notFoundPage(err error, format string, args ...any) error {
	if errors.Is(err, storage.ErrNotFound) {
		return &Error{Status: http.StatusNotFound, Code: "not_found", Message: fmt.Sprintf(format, args...)}
	}
	return err
}

// wrapper returns the folder that a release's tarball is wrapped in. The
// manifest says so; one that cannot be read, or is very large, does not.
func (s *Server) wrapper(ctx context.Context, rel storage.Release) string {
	body, err := s.blobs.Open(ctx, rel.ManifestDigest)
	if err != nil {
		return ""
	}
	defer body.Close()
	var manifest struct {
		Tarball struct {
			Prefix string `json:"prefix"`
		} `json:"tarball"`
	}
	_ = json.NewDecoder(io.LimitReader(body, 1<<20)).Decode(&manifest)
	return manifest.Tarball.Prefix
}

// getJobList serves GET /jobs?state=&before= to browsers.
func (s *Server) getJobList(w http.ResponseWriter, r *http.Request) error {
	frame, err := s.frame(r, "Jobs", "jobs")
	if err != nil {
		return err
	}
	f, err := jobFilter(r)
	if err != nil {
		return err
	}
	jobs, err := s.db.Jobs(r.Context(), f)
	if err != nil {
		return err
	}
	page := &web.JobList{Frame: frame, State: f.State, Jobs: web.Jobs(jobs)}
	if len(jobs) == f.Limit {
		q := r.URL.Query()
		q.Set("before", jobs[len(jobs)-1].ID.String())
		page.Next = "/jobs?" + q.Encode()
	}
	return s.site.Render(w, http.StatusOK, page)
}

// getJobPage serves GET /jobs/{id} to browsers.
func (s *Server) getJobPage(w http.ResponseWriter, r *http.Request) error {
	frame, err := s.frame(r, "Job", "job")
	if err != nil {
		return err
	}
	job, err := s.jobOf(r)
	if err != nil {
		return err
	}
	page := &web.JobPage{Frame: frame, Job: web.Job{Job: job}, Workers: -1}
	page.Title = strings.TrimSpace(page.Job.Work() + " " + job.Package)
	switch {
	case job.State == storage.Queued:
		status, err := s.status.get(r.Context(), s.workOutStatus)
		if err != nil {
			return err
		}
		page.Workers = len(status.Queue.Workers)
	case job.State == storage.Running && job.Kind == storage.UpdateCatalog && job.RunID != nil:
		if page.Done, page.Total, err = s.db.RunProgress(r.Context(), *job.RunID); err != nil {
			return err
		}
	}
	return s.site.Render(w, http.StatusOK, page)
}

// getAsset serves GET /assets/{hash}/{file}.
func (s *Server) getAsset(w http.ResponseWriter, r *http.Request) error {
	if !s.site.HasAsset(r.URL.Path) {
		return storage.ErrNotFound
	}
	s.site.ServeAsset(w, r)
	return nil
}

// getIcon serves GET /favicon.ico, for what asks without being told where.
func (s *Server) getIcon(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Cache-Control", "public, max-age=86400")
	http.Redirect(w, r, s.site.Icon(), http.StatusFound)
	return nil
}

// getRobots serves GET /robots.txt: pages may be indexed, bytes need not be. RFC 9309.
func getRobots(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "public, max-age=86400")
	_, _ = io.WriteString(w, "User-agent: *\nDisallow: /api/\nDisallow: /p/\nDisallow: /z/\nDisallow: /git/\nDisallow: /jobs\n")
}
