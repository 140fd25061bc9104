// Package name knows what things are called: packages, tags and branches, upstreams, and the URLs of
// dependencies; and which of two tags is the later release.
package name

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
)

// MaxURL is the length that no dependency's URL exceeds, in bytes.
const MaxURL = 2048

// A Dependency is what the .url of a build.zig.zon stands for.
type Dependency struct {
	// URL is the key under which an answer is stored: scheme, host in lower case without a default port,
	// path and query as written, no user, no fragment. For Git it begins with "git+", without a query,
	// "/" and ".git" at its end.
	URL string
	Git bool
	Ref string // for Git: the fragment, a commit as a rule; "" for the default branch

	// Of an archive that a known forge makes of a repository: where that is, and the ref.
	Repository string // https://host/owner/repo; for Git the repository itself
	Snapshot   string // the commit, tag or branch; "" if the archive is of nothing known
}

// ErrDependency says what is wrong with the URL of a dependency.
var ErrDependency = errors.New("not the URL of a dependency")

// ParseDependency reads a dependency's URL as Zig does. User and password are dropped: they are neither
// stored nor shown. It returns ErrDependency for what Zig does not fetch.
func ParseDependency(raw string) (Dependency, error) {
	if len(raw) > MaxURL {
		return Dependency{}, fmt.Errorf("%w: it has %d bytes, at most %d are read", ErrDependency, len(raw), MaxURL)
	}
	rest, isGit := strings.CutPrefix(raw, "git+")
	// Messages do not quote the URL: there may be a password in it.
	u, err := url.Parse(rest)
	if err != nil || u.Opaque != "" {
		return Dependency{}, fmt.Errorf("%w: it cannot be read", ErrDependency)
	}
	// url.Parse folds the scheme's case, Zig does not.
	if !strings.HasPrefix(rest, "https://") && !strings.HasPrefix(rest, "http://") {
		return Dependency{}, fmt.Errorf("%w: Zig fetches http, https, git+http and git+https only", ErrDependency)
	}
	if u.Hostname() == "" {
		return Dependency{}, fmt.Errorf("%w: it names no host", ErrDependency)
	}
	u.User = nil
	u.Host = strings.ToLower(u.Host)
	if port := u.Port(); port == "443" && u.Scheme == "https" || port == "80" && u.Scheme == "http" {
		u.Host = strings.TrimSuffix(u.Host, ":"+port)
	}
	fragment := u.Fragment
	u.Fragment, u.RawFragment = "", ""
	if !isGit {
		d := Dependency{URL: u.String()}
		d.Repository, d.Snapshot = forgeArchive(u)
		return d, nil
	}
	u.RawQuery, u.ForceQuery = "", false
	u.Path, u.RawPath = strings.TrimSuffix(strings.TrimRight(path.Clean("/"+u.Path), "/"), ".git"), ""
	if u.Path == "" {
		return Dependency{}, fmt.Errorf("%w: it names no repository", ErrDependency)
	}
	if ValidOID(fragment) {
		fragment = strings.ToLower(fragment)
	}
	return Dependency{URL: "git+" + u.String(), Git: true, Ref: fragment, Repository: u.String(), Snapshot: fragment}, nil
}

// The one table of forges: how the paths of their archives are made. {repo} is all before, {ref} may have
// slashes, {ext} is a suffix of archives. Hosts are those that serve such paths; "" is any host.
var forges = []struct {
	host    string
	archive *regexp.Regexp // groups: repository's path, ref
	repo    string         // the host that has the repository; "" for the same
}{
	{"github.com", regexp.MustCompile(`^(/[^/]+/[^/]+)/archive/(?:refs/(?:tags|heads)/)?(.+)` + extension), ""},
	{"github.com", regexp.MustCompile(`^(/[^/]+/[^/]+)/(?:tarball|zipball)/(?:refs/(?:tags|heads)/)?(.+)$`), ""},
	{"codeload.github.com", regexp.MustCompile(`^(/[^/]+/[^/]+)/(?:legacy\.)?(?:tar\.gz|zip)/(?:refs/(?:tags|heads)/)?(.+)$`), "github.com"},
	{"git.sr.ht", regexp.MustCompile(`^(/~[^/]+/[^/]+)/archive/(.+)` + extension), ""},
	// GitLab, with any number of groups.
	{"", regexp.MustCompile(`^(/.+?)/-/archive/([^/]+(?:/[^/]+)*?)(?:/[^/]+)?` + extension), ""},
	// Codeberg, Forgejo and Gitea; their names of commits, tags and branches share one place.
	{"", regexp.MustCompile(`^(/[^/]+/[^/]+)/archive/(?:refs/(?:tags|heads)/)?(.+)` + extension), ""},
}

const extension = `\.(?:tar\.gz|tgz|zip|tar\.xz|tar\.zst|tar)$`

// forgeArchive tells which snapshot of which repository the archive at u is, as forges make them; "" if
// it is none of theirs.
func forgeArchive(u *url.URL) (repository, ref string) {
	for _, f := range forges {
		if f.host != "" && f.host != u.Host || f.host == "" && slices.Contains([]string{"github.com", "codeload.github.com", "git.sr.ht"}, u.Host) {
			continue
		}
		m := f.archive.FindStringSubmatch(u.Path)
		if m == nil {
			continue
		}
		repo := url.URL{Scheme: u.Scheme, Host: u.Host, Path: strings.TrimSuffix(m[1], ".git")}
		if f.repo != "" {
			repo.Host = f.repo
		}
		ref := m[2]
		if ValidOID(ref) {
			ref = strings.ToLower(ref)
		}
		return repo.String(), ref
	}
	return "", ""
}

// Forges are the hosts that packages are usually at, and those that serve their archives.
var Forges = []string{"github.com", "codeload.github.com", "codeberg.org", "gitlab.com", "git.sr.ht"}

// servers are the hosts that forges redirect to for their archives, and for files of releases and of repositories.
var servers = map[string][]string{
	"github.com": {"codeload.github.com", "objects.githubusercontent.com", "raw.githubusercontent.com", "release-assets.githubusercontent.com"},
}

// Servers returns a host, and those that it redirects to if it is a known forge.
func Servers(host string) []string { return append([]string{host}, servers[host]...) }

// Archives returns the URLs at which the forge of a repository may have an archive of a commit, the likeliest
// first; none if its forge is not known by the host.
func Archives(repository, commit string) []string {
	u, err := url.Parse(repository)
	if err != nil {
		return nil
	}
	base := path.Base(u.Path)
	switch u.Host {
	case "github.com", "codeberg.org", "git.sr.ht":
		return []string{repository + "/archive/" + commit + ".tar.gz"}
	case "gitlab.com", "gitlab.gnome.org", "gitlab.freedesktop.org", "invent.kde.org", "salsa.debian.org":
		return []string{repository + "/-/archive/" + commit + "/" + base + "-" + commit + ".tar.gz"}
	}
	return nil
}
