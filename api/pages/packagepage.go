package pages

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/go-chi/chi/v5"
	"golang.org/x/mod/semver"

	"github.com/francescobianco/packbase/api/answer"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
)

// getRepo serves GET /{package} and its feed and badge.
func (s *Site) getRepo(w http.ResponseWriter, r *http.Request) {
	name := chi.URLParam(r, "repo")
	if pkg, ok := strings.CutSuffix(name, ".atom"); ok {
		answer.Handler(s.log, func(w http.ResponseWriter, r *http.Request) error { return s.getPackageFeed(w, r, pkg) })(w, r)
		return
	}
	if pkg, ok := strings.CutSuffix(name, ".svg"); ok {
		answer.Handler(s.log, func(w http.ResponseWriter, r *http.Request) error { return s.getBadge(w, r, pkg) })(w, r)
		return
	}
	s.page(
		func(w http.ResponseWriter, r *http.Request) error { return s.getPackagePage(w, r, name) },
		func(w http.ResponseWriter, r *http.Request) error {
			return s.opt.JSON.Package(w, r, strings.TrimSuffix(name, ".git"))
		},
	)(w, r)
}

// servedPackage returns a package that is there to be looked at.
func (s *Site) servedPackage(ctx context.Context, pkg string) (storage.Package, error) {
	none := answer.New("not_found", fmt.Sprintf("There is no package “%s” here.", answer.Cut(pkg, name.MaxPackageName)))
	if name.ValidPackage(pkg) != nil {
		return storage.Package{}, none
	}
	p, err := s.db.PackageByName(ctx, pkg)
	if err != nil {
		return storage.Package{}, answer.OrNotFound(err, none)
	}
	return p, nil
}

// Rows of a kind on a package's page.
const (
	releasesEach = 25
	othersMost   = 20
)

// getPackagePage shows one package to a browser.
func (s *Site) getPackagePage(w http.ResponseWriter, r *http.Request, name string) error {
	ctx := r.Context()
	p, err := s.servedPackage(ctx, strings.TrimSuffix(name, ".git"))
	if err != nil {
		return err
	}
	if p.Called() != name {
		to := url.URL{Path: "/" + p.Called(), RawQuery: r.URL.RawQuery}
		http.Redirect(w, r, to.String(), http.StatusFound)
		return nil
	}
	frame, err := s.frame(r, p.Called(), "package")
	if err != nil {
		return err
	}
	frame.Feed = "/" + p.Called() + ".atom"
	page := &packagePage{frame: frame, Package: packageView{Package: p}}
	d, err := s.db.Describe(ctx, p.Name)
	if err != nil {
		return err
	}
	page.Branches, page.Rejected, page.Moved = d.Branches, d.Rejected, d.Moved
	if err := s.fillReleases(r, page); err != nil {
		return err
	}
	s.fillFiles(ctx, page)
	if err := s.fillDependencies(ctx, page); err != nil {
		return err
	}
	page.markMoved()
	slices.Reverse(page.Moved)
	page.More.Rejected, page.Rejected = cut(page.Rejected, othersMost)
	page.More.Moved, page.Moved = cut(page.Moved, othersMost)
	if page.Dependents, err = s.opt.Dependents(ctx, p.Name, "", othersMost); err != nil {
		return err
	}
	jobs, err := s.db.Jobs.List(ctx, jobs.Filter{Package: p.Name, Limit: 1})
	if err != nil {
		return err
	}
	if len(jobs) > 0 && jobs[0].Open() {
		page.Open = &jobView{Job: jobs[0]}
	}
	return s.renderer.render(w, http.StatusOK, page)
}

// cut returns the first rows, and how many more there are.
func cut[T any](all []T, most int) (more int, rows []T) {
	rows = all[:min(len(all), most)]
	return len(all) - len(rows), rows
}

// fillReleases puts the releases asked for on the page: those of one page of
// the table, and one in full. Only these are read whole, however many there are.
func (s *Site) fillReleases(r *http.Request, page *packagePage) error {
	all, err := s.order(r.Context(), page.Package.Package)
	if err != nil {
		return err
	}
	shown, err := s.shownID(r, &page.Package, all)
	if err != nil {
		return err
	}
	var from, to int
	page.Count, page.Sizes = len(all.tags), newSizeChart(all.tags)
	want := r.URL.Query().Get("page")
	if i := slices.IndexFunc(all.tags, func(ref storage.TagRef) bool { return ref.ID == shown }); want == "" && i >= 0 && r.URL.Query().Has("tag") {
		want = strconv.Itoa(1 + i/releasesEach) // the one that is shown is in sight
	}
	page.pager, from, to = newPager(want, len(all.tags), releasesEach)
	more, snapshots := cut(all.snapshots, othersMost)
	page.More.Snapshots = more
	var ids []int64
	for _, ref := range slices.Concat(all.tags[from:to], snapshots) {
		ids = append(ids, ref.ID)
	}
	releases, err := s.db.ReleasesByID(r.Context(), append(ids, shown))
	if err != nil {
		return err
	}
	places, err := s.ledger.Places(r.Context(), []int64{shown})
	if err != nil {
		return err
	}
	for i, rel := range releases {
		row := releaseRow{Release: rel, Hidden: all.hidden[rel.Tag], Shown: rel.ID == shown}
		for _, b := range page.Branches {
			if b.Commit == rel.CommitOID {
				row.Branches = append(row.Branches, b.Name)
			}
		}
		if row.Shown && page.Shown == nil {
			page.Shown = &releaseView{releaseRow: row, Base: page.Base, Place: page.Package.Link(), Prefix: s.wrapper(r.Context(), rel),
				Log: places[shown], Latest: rel.Tag != "" && rel.Tag == page.Package.Latest()}
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

// markMoved says at each release what upstream did with its tag.
func (p *packagePage) markMoved() {
	for i, m := range p.Moved {
		if p.Shown != nil && p.Shown.Tag == m.Tag {
			p.Shown.Moved = &p.Moved[i]
		}
		for j := range p.Releases {
			if p.Releases[j].Tag == m.Tag {
				p.Releases[j].Moved = true
			}
		}
	}
}

// fillDependencies says what is here of what the release that is shown depends on: under the hash that it pins, else
// of the same upstream.
func (s *Site) fillDependencies(ctx context.Context, page *packagePage) error {
	if page.Shown == nil || len(page.Shown.Zig.Dependencies) == 0 {
		return nil
	}
	var hashes []string
	for _, d := range page.Shown.Zig.Dependencies {
		hashes = append(hashes, d.Hash)
	}
	sources, err := s.opt.Sources(ctx, hashes)
	if err != nil {
		return err
	}
	view, err := s.directory.Last(ctx)
	if err != nil {
		return err
	}
	for _, d := range page.Shown.Zig.Dependencies {
		row := dependencyRow{Dependency: d}
		if src, ok := sources[d.Hash]; ok && d.Hash != "" {
			row.Here = sourceLink(src.Kind, src.Package, src.Tag, src.Commit, src.URL)
		} else if dep, err := name.ParseDependency(d.URL); err == nil && dep.Repository != "" {
			if up, err := name.ParseUpstream(dep.Repository); err == nil {
				if p := view.Upstream[up.Canonical]; p != nil && p.Local() && p.State != storage.Removed {
					row.Here = link{Text: p.Called() + ", not this release", Href: "/" + p.Called()}
				}
			}
		}
		page.Shown.DependsOn = append(page.Shown.DependsOn, row)
	}
	return nil
}

// fillFiles puts what the files of the release that is shown say on the page.
// Where they cannot be read, the page is complete without.
func (s *Site) fillFiles(ctx context.Context, page *packagePage) {
	if page.Shown == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, pageTime/3)
	defer cancel()
	tree, err := s.files.At(ctx, &page.Shown.Release)
	if err != nil {
		return
	}
	page.Browsable = true
	if facts, err := s.files.Facts(ctx, &page.Shown.Release); err == nil {
		page.Shown.Facts = facts
	}
	if entries, err := tree.Folder(ctx, ""); err == nil {
		page.Shown.ReadmeName, page.Shown.Readme = s.readReadme(ctx, tree, refOf(&page.Shown.Release), "", entries)
	}
}

// An order is all releases of a package as it was at one revision, the newest
// first. Keeping it saves sorting thousands of tags for each request.
type order struct {
	revision        int64
	tags, snapshots []storage.TagRef
	hidden          map[string]string // why Git clients do not see a tag
}

// maxOrders bounds the orders in memory; one takes about 100 bytes a tag.
const maxOrders = 64

func (s *Site) order(ctx context.Context, p storage.Package) (*order, error) {
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
// newest tag first. Other than in name.CompareTags a pre-release stands
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
// ?commit=, else the latest, else the snapshot that HEAD names. It is 0 if there is none.
func (s *Site) shownID(r *http.Request, p *packageView, all *order) (int64, error) {
	q := r.URL.Query()
	if oid := q.Get("commit"); name.ValidOID(oid) {
		rel, err := s.db.ReleaseByCommit(r.Context(), p.Name, strings.ToLower(oid))
		return rel.ID, notFoundPage(err, "The commit %s of %s is not mirrored.", oid, p.Called())
	}
	if tag := cmp.Or(q.Get("tag"), p.Latest()); tag != "" {
		i := slices.IndexFunc(all.tags, func(ref storage.TagRef) bool { return ref.Tag == tag })
		if i < 0 {
			return 0, notFoundPage(fault.ErrNotFound, "There is no release “%s” of %s here.", answer.Cut(tag, name.MaxTagName), p.Called())
		}
		return all.tags[i].ID, nil
	}
	if head := p.Head(all.snapshots); head >= 0 {
		return all.snapshots[head].ID, nil
	}
	return 0, nil
}

func notFoundPage(err error, format string, args ...any) error {
	if errors.Is(err, fault.ErrNotFound) {
		return answer.New("not_found", fmt.Sprintf(format, args...))
	}
	return err
}

// wrapper returns the folder that a release's tarball is wrapped in. The
// manifest says so; one that cannot be read, or is very large, does not.
func (s *Site) wrapper(ctx context.Context, rel storage.Release) string {
	ctx, cancel := context.WithTimeout(ctx, pageTime/3)
	defer cancel()
	body, err := s.blobs.Blobs.Open(ctx, rel.ManifestDigest)
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
