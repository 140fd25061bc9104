package pages

import (
	"cmp"
	"encoding/json"
	"fmt"
	"html/template"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/semver"

	"github.com/francescobianco/packbase/api/browse"
	"github.com/francescobianco/packbase/api/health"
	"github.com/francescobianco/packbase/api/route"
	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/ledger"
	"github.com/francescobianco/packbase/storage/zigpkg"
)

// A packageView is a package in words.
type packageView struct{ storage.Package }

// A condition says how a package is.
type condition struct {
	Level string // ok, warn, bad or idle
	Word  string
	Text  string // a sentence
}

// Health returns how the package is.
func (p packageView) Health() condition {
	switch word := health.Of(&p.Package); word {
	case health.Removed:
		return condition{"idle", word, "It was removed; its name is not used again."}
	case health.Frozen:
		return condition{"warn", word, "It is under review: what is mirrored is served, and nothing new is taken from upstream."}
	case health.Failing:
		return condition{"bad", word, "It could not be mirrored yet."}
	case health.Waiting:
		return condition{"idle", word, "It waits to be mirrored."}
	case health.Unhealthy:
		return condition{"bad", word, "Fetching its newest release back, as a client would, went wrong."}
	case health.Stale:
		return condition{"warn", word, "The last look at upstream failed; what is mirrored is served all the same."}
	case health.Healthy:
		return condition{"ok", word, "Its newest release was fetched back as a client would, and all is well."}
	default:
		return condition{"idle", word, "It was not fetched back yet."}
	}
}

// About is the description, if it says more than the name.
func (p packageView) About() string {
	if strings.EqualFold(p.Description, p.Called()) {
		return ""
	}
	return p.Description
}

// Latest is the tag of the latest release, "" if there is none.
func (p packageView) Latest() string {
	if p.LatestTag == nil {
		return ""
	}
	return *p.LatestTag
}

// Link is the upstream's address, "" if a browser cannot go there.
func (p packageView) Link() string {
	if strings.HasPrefix(p.Upstream, "https://") || strings.HasPrefix(p.Upstream, "http://") {
		return p.Upstream
	}
	return ""
}

// Place is the upstream without what goes without saying.
func (p packageView) Place() string {
	place := strings.TrimPrefix(p.Upstream, "https://")
	if name, ok := strings.CutPrefix(place, "fixture:"); ok {
		return "a local fixture, " + name
	}
	return strings.TrimPrefix(place, "http://")
}

// SyncProblem is why the last sync failed, "" if it did not.
func (p packageView) SyncProblem() string {
	if p.SyncOK == nil || *p.SyncOK {
		return ""
	}
	return p.SyncMessage
}

// NextTry is when an update tries again at the earliest, nil if none does.
func (p packageView) NextTry() *time.Time { return health.NextTry(&p.Package) }

// TriedLater reports whether updates still wait before they try again.
func (p packageView) TriedLater() bool { at := p.NextTry(); return at != nil && at.After(time.Now()) }

// OnlyByHand reports whether no update looks at the package.
func (p packageView) OnlyByHand() bool { return p.Fetchable() && !p.Registered }

// FetchBody is the JSON that asks for a sync: of all tags; of a package without releases, of the branch that HEAD goes with.
func (p *packagePage) FetchBody() (string, error) {
	u := p.Package.CloneURL
	if p.Package.ReleaseCount == 0 && len(p.Branches) > 0 {
		u += "#" + cmp.Or(p.Package.HeadBranch, p.Branches[0].Name)
	}
	b, err := json.Marshal(wire.Fetch{URL: u, Name: p.Package.Name})
	return string(b), err
}

// Fetchable reports whether the page can ask for a sync.
func (p packageView) Fetchable() bool { return p.Link() != "" && p.State == storage.Active }

// A packagePage is the page /<package>.
type packagePage struct {
	frame
	Package  packageView
	Shown    *releaseView // told in full; nil without releases
	Releases []releaseRow // newest first
	Count    int          // of releases, on all pages
	Sizes    *sizeChart   // nil of few
	pager

	Snapshots []releaseRow     // newest first
	Branches  []storage.Branch // the one last asked for first
	Rejected  []storage.RejectedTag
	Moved     []storage.MovedTag
	More      more

	Dependents wire.Dependents // the first of them
	Open       *jobView        // under way for the package
	Browsable  bool            // the files of what is shown can be looked at
}

func (*packagePage) template() string { return "package" }

// more is how many of each are not on the page.
type more struct{ Snapshots, Rejected, Moved int }

// At returns the URL of the n-th page of releases.
func (p *packagePage) At(n int) string {
	return "/" + p.Package.Called() + "?page=" + strconv.Itoa(n) + "#releases"
}

// A releaseRow is a release in a table.
type releaseRow struct {
	storage.Release
	Hidden   string   // why Git clients do not see the tag
	Branches []string // that were last mirrored at this commit
	Moved    bool     // upstream moved or deleted the tag
	Shown    bool
}

// Name is the tag, else the short commit.
func (r releaseRow) Name() string {
	if r.Tag == "" {
		return short(r.CommitOID)
	}
	return r.Tag
}

// Path is where the row's release is shown in full.
func (r releaseRow) Path() string {
	if r.Tag == "" {
		return "/" + r.Called() + "?commit=" + r.CommitOID
	}
	return "/" + r.Called() + "?" + url.Values{"tag": {r.Tag}}.Encode()
}

// Tarball is the path of the release's tarball.
func (r releaseRow) Tarball() string { return route.Tarball(r.Called(), r.Tag, r.CommitOID) }

// Proof is where the proof is that the release is in the log.
func (r releaseRow) Proof() string { return route.Proof(r.Called(), r.Tag, r.CommitOID) }

// CommitLink is the commit's page at upstream, "" if we do not know it.
func (p *packagePage) CommitLink(oid string) string { return commitLink(p.Package.Upstream, oid) }

// Zigs is the range of Zig releases that the release is for.
func (r releaseRow) Zigs() string {
	var fit []string
	for _, f := range r.Fits() {
		if f.How == "yes" {
			fit = append(fit, f.Zig)
		}
	}
	switch len(fit) {
	case 0:
		return "none"
	case 1:
		return fit[0]
	}
	return fit[0] + "\u2009–\u2009" + fit[len(fit)-1]
}

// zigs are the Zig releases that a page tells apart.
var zigs = []string{"0.12", "0.13", "0.14", "0.15", "0.16", "0.17"}

// A fit says whether a Zig release takes this one as a dependency.
type fit struct {
	Zig string
	How string // yes, no, or old: it does, but is older than the package wants
}

// Fits says for each Zig release how this one fits it.
func (r releaseRow) Fits() []fit {
	fits := make([]fit, len(zigs))
	wants := semver.MajorMinor("v" + r.Zig.MinimumZigVersion)
	for i, z := range zigs {
		fits[i] = fit{z, "no"}
		if slices.Contains(r.Zig.UsableWith, z) {
			fits[i].How = "yes"
			if wants != "" && semver.Compare("v"+z, wants) < 0 {
				fits[i].How = "old"
			}
		}
	}
	return fits
}

// A releaseView is a release told in full.
type releaseView struct {
	releaseRow
	Base   string // scheme and host
	Prefix string // the tarball's wrapping folder with its slash, "" if it is flat
	Place  string // the upstream's URL, "" if there is none to clone
	Latest bool
	Log    ledger.Place

	ReadmeName string
	Readme     template.HTML
	Facts      browse.Facts
	DependsOn  []dependencyRow
	Moved      *storage.MovedTag // upstream did that with the tag; nil if it did not
}

// A dependencyRow is a dependency of a release, and what of it is here.
type dependencyRow struct {
	zigpkg.Dependency
	Here link // Text is "" if nothing is
}

// Dependency is what the package is called in the build.zig.zon of a project.
func (r *releaseView) Dependency() string {
	return zigpkg.DependencyName(r.Zig.Name, r.Called())
}

// Import is the statement that gives the package's main module to a program.
func (r *releaseView) Import() string {
	build := &r.Facts.Build
	if len(build.Modules) == 0 {
		return ""
	}
	main := build.Modules[0]
	for _, m := range build.Modules {
		if strings.EqualFold(m, r.Zig.Name) {
			main = m
		}
	}
	return build.Import(r.Dependency(), main)
}

// A refusal is why some Zig releases do not take the package.
type refusal struct{ Zigs, Why string }

// Refusals says why Zig releases refuse the release, those with one reason together.
func (r *releaseView) Refusals() (all []refusal) {
	for _, f := range r.Fits() {
		why := r.Facts.Refused[f.Zig]
		switch last := len(all) - 1; {
		case f.How != "no" || why == "":
		case last >= 0 && all[last].Why == why:
			all[last].Zigs += ", " + f.Zig
		default:
			all = append(all, refusal{f.Zig, why})
		}
	}
	return all
}

// OtherVersion is the version that the manifest says, if the tag says another.
func (r *releaseView) OtherVersion() string {
	tag := "v" + strings.TrimPrefix(r.Tag, "v")
	if v := "v" + r.Zig.Version; semver.IsValid(tag) && semver.IsValid(v) && semver.Compare(tag, v) != 0 {
		return r.Zig.Version
	}
	return ""
}

// Files is the page of the release's files.
func (r *releaseView) Files() string { return refOf(&r.Release).Files("") }

// Diff is the page that compares the release with the one before it.
func (r *releaseView) Diff() string { return refOf(&r.Release).at("/diff") }

// URL is the tarball's.
func (r *releaseView) URL() string { return r.Base + r.Tarball() }

// Usable reports whether any Zig takes the release as a dependency.
func (r *releaseView) Usable() bool { return r.Zig.Hash != "" || r.Zig.LegacyHash != "" }

// Download is the command that gets the tarball without Zig.
func (r *releaseView) Download() string { return "curl -fLO " + shellWord(r.URL()) }

// Save is the command that adds the tarball to a project.
func (r *releaseView) Save() string { return r.fetch(r.URL()) }

// GitURL is the release as Git URL for Zig. A tag that Git clients do not see
// is named by its commit.
func (r *releaseView) GitURL() string {
	ref := r.Tag
	if ref == "" || r.Hidden != "" {
		ref = r.CommitOID
	}
	u := url.URL{Fragment: ref}
	return "git+" + r.Base + "/" + r.Called() + u.String()
}

// SaveGit is the command that adds the Git URL to a project.
func (r *releaseView) SaveGit() string { return r.fetch(r.GitURL()) }

func (r *releaseView) fetch(url string) string {
	return "zig fetch " + zigpkg.SaveFlag(r.Zig.Name, r.Called()) + " " + shellWord(url)
}

var bareName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// Entry is the dependency as build.zig.zon has it.
func (r *releaseView) Entry() string {
	name := r.Zig.Name
	if !bareName.MatchString(name) {
		// Quoted, as the package's name may be a keyword.
		name = "@" + zigpkg.Quote(zigpkg.DependencyName(name, r.Called()))
	}
	hash := r.Zig.Hash
	if hash == "" {
		hash = r.Zig.LegacyHash
	}
	return fmt.Sprintf(".%s = .{\n    .url = %s,\n    .hash = %s,\n},", name, zigpkg.Quote(r.URL()), zigpkg.Quote(hash))
}

// emptyTree has no attributes: the Gits from 2.43 to 2.45 take those of a bare
// repository's HEAD otherwise.
const emptyTree = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"

// Check is the command that compares the release with upstream's commit, with
// nothing but git. Attributes such as export-ignore and eol are not applied to
// releases: in a bare repository there is no worktree to read them from. What
// users may have set for all their repositories, as Git for Windows does, is
// not either.
func (r *releaseView) Check() string {
	prefix := ""
	if r.Prefix != "" {
		prefix = "--prefix=" + shellWord(r.Prefix) + " "
	}
	return "git -c attr.tree=" + emptyTree + " -c core.attributesFile=/dev/null -c core.autocrlf=false -c tar.umask=2 archive --worktree-attributes --format=tar " + prefix + r.CommitOID + " | sha256sum"
}

// Clone is the command that Check wants to be run in, "" if there is nothing
// to clone.
func (r *releaseView) Clone() string {
	if r.Place == "" {
		return ""
	}
	return "git clone --bare " + shellWord(r.Place) + " && cd " + shellWord(strings.TrimSuffix(pathBase(r.Place), ".git")+".git")
}

func pathBase(u string) string { return u[strings.LastIndexByte(u, '/')+1:] }

// commitLink returns the page of a commit at the forges that we know.
func commitLink(upstream, oid string) string {
	u, err := url.Parse(upstream)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" {
		return ""
	}
	switch host := strings.ToLower(u.Hostname()); {
	case host == "bitbucket.org":
		return upstream + "/commits/" + oid
	case strings.HasPrefix(host, "gitlab."), strings.Contains(host, ".gitlab."):
		return upstream + "/-/commit/" + oid
	case host == "github.com", host == "codeberg.org", host == "gitea.com", host == "git.sr.ht",
		strings.HasPrefix(host, "git."), strings.HasPrefix(host, "gitea."), strings.HasPrefix(host, "forgejo."), strings.HasPrefix(host, "code."):
		return upstream + "/commit/" + oid
	}
	return ""
}

// Sync says in words how the last look at upstream went.
func (p packageView) Sync() string {
	switch {
	case p.SyncAt == nil:
		return "Upstream was not looked at yet."
	case p.SyncOK != nil && *p.SyncOK:
		return "Upstream was looked at " + ago(*p.SyncAt, time.Now()) + ", and what can be mirrored of it is here."
	}
	text := "The last look at upstream failed " + ago(*p.SyncAt, time.Now())
	if p.SyncedAt != nil {
		text += "; the one before that was good was " + ago(*p.SyncedAt, time.Now())
	}
	return text + "."
}
