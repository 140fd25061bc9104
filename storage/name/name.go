package name

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/francescobianco/packbase/storage/fault"
)

// Limits of names.
const (
	MaxPackageName = 100  // bytes
	MaxTagName     = 255  // bytes
	MaxUpstreamURL = 2048 // bytes
)

var (
	packageName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
	hostName    = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]*[a-z0-9])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9])?)*$`)
	numeric     = regexp.MustCompile(`^(0x[0-9a-f]*|[0-9]+)$`) // as the last part of a host
	commitOID   = regexp.MustCompile(`^[0-9a-fA-F]{40}$`)
	reserved    = []string{
		"api", "p", "git", "z", "static", "assets", "favicon.ico", "robots.txt",
		"healthz", "readyz", "livez", "metrics", "debug", "feed.atom", "jobs", "packages", "login",
		"u", "v", "x", "log", "trees", "why",
	}
)

// IsWord reports whether s may name something that packbase keeps: as
// ValidPackage has it, without what is forbidden for the sake of routes.
func IsWord(s string) bool { return len(s) <= MaxPackageName && packageName.MatchString(s) }

// ValidPackage checks a package name: 1 to 100 of the characters
// A-Z a-z 0-9 . _ -, beginning with a letter or digit, without "..", not
// ending in ".", ".git", ".lock" or ".atom", and not reserved for a route.
// Its error is an *InvalidError.
func ValidPackage(name string) error {
	lower := strings.ToLower(name)
	switch {
	case name == "":
		return fault.Invalid("name", "a package name is missing")
	case len(name) > MaxPackageName:
		return fault.Invalid("name", "a package name has at most %d bytes, this one has %d", MaxPackageName, len(name))
	case !packageName.MatchString(name):
		return fault.Invalid("name", "%q is not a package name: use letters, digits, '.', '_' and '-', beginning with a letter or digit", fault.Clip(name))
	case strings.Contains(name, ".."), strings.HasSuffix(name, "."):
		return fault.Invalid("name", "%q is not a package name: no \"..\", and no \".\" at the end", name)
	case hasAnySuffix(lower, ".git", ".lock", ".atom", ".svg"):
		return fault.Invalid("name", "%q is not a package name: it must not end in %s", name, path.Ext(name))
	}
	for _, r := range reserved {
		if lower == r {
			return fault.Invalid("name", "%q is reserved; give another \"name\"", name)
		}
	}
	return nil
}

// ValidTag checks a tag or branch name: the rules of git-check-ref-format(1),
// and valid UTF-8 without control characters, at most 255 bytes.
// Its error is an *InvalidError.
func ValidTag(name string) error {
	switch {
	case name == "":
		return fault.Invalid("tag", "a tag name is missing")
	case len(name) > MaxTagName:
		return fault.Invalid("tag", "a tag name has at most %d bytes, this one has %d", MaxTagName, len(name))
	case !utf8.ValidString(name):
		return fault.Invalid("tag", "%q is not a tag name: it is not valid UTF-8", fault.Clip(name))
	case strings.ContainsFunc(name, unicode.IsControl), strings.ContainsAny(name, " ~^:?*[\\"):
		return fault.Invalid("tag", "%q is not a tag name: no control characters, spaces or any of ~^:?*[\\", fault.Clip(name))
	case strings.HasPrefix(name, "-"), strings.Contains(name, ".."), strings.Contains(name, "@{"),
		strings.HasSuffix(name, "."), name == "@":
		return fault.Invalid("tag", "%q is not a tag name: git-check-ref-format(1) forbids it", fault.Clip(name))
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || strings.HasPrefix(part, ".") || strings.HasSuffix(part, ".lock") {
			return fault.Invalid("tag", "%q is not a tag name: git-check-ref-format(1) forbids the part %q", fault.Clip(name), fault.Clip(part))
		}
	}
	return nil
}

// ValidRef checks the name that a tag or branch of an upstream must have to be
// mirrored: ValidTag, and no commit id. 40 hex digits are a commit id and
// nothing else: who pins a commit must not get what somebody named so.
func ValidRef(name string) error {
	if ValidOID(name) {
		return fmt.Errorf("%q is a commit id, which no tag may be named; upstream has to give it another name", name)
	}
	return ValidTag(name)
}

// ValidOID reports whether s is a full Git object id: 40 hex digits.
func ValidOID(s string) bool { return commitOID.MatchString(s) }

// An Upstream is a parsed repository URL.
type Upstream struct {
	Canonical string // the identity: https://host/owner/repo
	CloneURL  string // what is dialled: as given, without fragment and "git+"
	Name      string // the default package name: the last path segment without ".git"
	Target    string // the fragment: a tag, a branch or a commit; "" for all tags
	Private   bool   // a new package of it is private from its beginning
}

// ParseUpstream reads the URL of an upstream as people write it:
// http or https, with or without "git+", ".git" and a #fragment.
// Its error is an *InvalidError.
//
// Two spellings of one repository get the same Canonical: the host is
// lowercase without a default port, the path has no ".git" and no trailing
// slash. https and http of the public ports are different upstreams.
func ParseUpstream(raw string) (Upstream, error) {
	const field = "url"
	switch {
	case raw == "":
		return Upstream{}, fault.Invalid(field, "the upstream's URL is missing; give one like git+https://host/owner/repo")
	case len(raw) > MaxUpstreamURL:
		return Upstream{}, fault.Invalid(field, "an upstream's URL has at most %d bytes, this one has %d", MaxUpstreamURL, len(raw))
	case !utf8.ValidString(raw), strings.ContainsFunc(raw, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) }), strings.Contains(raw, `\`):
		return Upstream{}, fault.Invalid(field, "it has characters that no URL has")
	}
	// Messages do not quote the URL as long as there may be a password in it.
	u, err := url.Parse(strings.TrimPrefix(raw, "git+"))
	if err != nil {
		return Upstream{}, fault.Invalid(field, "it is not a URL; give one like git+https://host/owner/repo")
	}
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return Upstream{}, fault.Invalid(field, "only http and https upstreams are mirrored; give one like git+https://host/owner/repo")
	case u.User != nil:
		return Upstream{}, fault.Invalid(field, "a URL must not carry a user name or password; put credentials into the file that PACKBASE_NETRC names")
	case u.Opaque != "", u.Hostname() == "":
		return Upstream{}, fault.Invalid(field, "it names no host; give one like git+https://host/owner/repo")
	case u.RawQuery != "", u.ForceQuery:
		return Upstream{}, fault.Invalid(field, "an upstream's URL has no query; name a tag or commit as #fragment")
	case !validHost(u):
		return Upstream{}, fault.Invalid(field, "%q is not the name of a host, and its port if it has one", fault.Clip(u.Host))
	case u.EscapedPath() != (&url.URL{Path: u.Path}).EscapedPath(), strings.ContainsFunc(u.Path, unicode.IsControl):
		return Upstream{}, fault.Invalid(field, "the path %q is not spelled canonically", fault.Clip(u.EscapedPath()))
	}
	clean := strings.TrimSuffix(u.Path, "/")
	if strings.Trim(clean, "/") == "" || path.Clean(clean) != clean {
		return Upstream{}, fault.Invalid(field, "the path %q names no repository; give one like git+https://host/owner/repo", fault.Clip(u.Path))
	}
	name := strings.TrimSuffix(path.Base(clean), ".git")
	if name == "" {
		return Upstream{}, fault.Invalid(field, "the path %q names no repository", fault.Clip(u.Path))
	}
	if u.Fragment != "" && !ValidOID(u.Fragment) {
		if err := ValidTag(u.Fragment); err != nil {
			return Upstream{}, fault.Invalid(field, "the fragment %q is neither a tag name nor a full commit id", fault.Clip(u.Fragment))
		}
	}
	target := u.Fragment
	if ValidOID(target) {
		target = strings.ToLower(target)
	}
	u.Fragment, u.RawFragment = "", ""
	u.Host = canonicalHost(u)
	u.Path, u.RawPath = clean, ""
	clone := u.String()
	u.Path = strings.TrimSuffix(clean, ".git")
	return Upstream{Canonical: u.String(), CloneURL: clone, Name: name, Target: target}, nil
}

// FixtureScheme begins the URL of a package that comes from a folder of the
// operator's, PACKBASE_FIXTURES, and not from upstream.
const FixtureScheme = "fixture:"

// FixtureUpstream returns the upstream of the package in a folder of
// PACKBASE_FIXTURES: a plain source tree, or a bare repository called
// name.git. The folder is one path element, so no URL says where it lies.
func FixtureUpstream(folder string) (Upstream, error) {
	name := strings.TrimSuffix(folder, ".git")
	if err := ValidPackage(name); err != nil {
		return Upstream{}, err
	}
	return Upstream{Canonical: FixtureScheme + name, CloneURL: FixtureScheme + folder, Name: name}, nil
}

// Check returns an *InvalidError unless CloneURL is a spelling of Canonical:
// what is dialled must be what owns the name.
func (u Upstream) Check() error {
	parse := ParseUpstream
	if strings.HasPrefix(u.CloneURL, FixtureScheme) {
		parse = func(raw string) (Upstream, error) { return FixtureUpstream(strings.TrimPrefix(raw, FixtureScheme)) }
	}
	same, err := parse(u.CloneURL)
	if err != nil {
		return err
	}
	if same.Canonical != u.Canonical || same.CloneURL != u.CloneURL {
		return fault.Invalid("url", "the clone URL %q is not one of the upstream %q", fault.Clip(u.CloneURL), fault.Clip(u.Canonical))
	}
	return nil
}

// HideFolder takes a fixture's folder for its name alone: earlier releases
// wrote down where it lay.
func HideFolder(cloneURL string) string {
	if folder, ok := strings.CutPrefix(cloneURL, FixtureScheme); ok {
		return FixtureScheme + path.Base(folder)
	}
	return cloneURL
}

// Names returns what a package of the upstream may be called when nobody says
// how, in the order in which they are tried: the repository, with its owner
// before it, and SureNames. One that is no package name is left out.
func (u *Upstream) Names() []string {
	parts := u.parts()
	short := valid(parts[len(parts)-1], strings.Join(parts[max(len(parts)-2, 0):], "."))
	return slices.Compact(append(short, u.SureNames()...))
}

// SureNames returns what a package may be called that a stranger asked for:
// not as others may want for a better known repository. The first has the
// host, the owner and the repository; a.b/c and a/b.c share that, http and
// https, and letters of another case. The other one is no other upstream's.
func (u *Upstream) SureNames() []string {
	parts := u.parts()
	sum := sha256.Sum256([]byte(u.Canonical))
	return valid(strings.Join(parts, "."), fmt.Sprintf("%.80s-%x", parts[len(parts)-1], sum[:6]))
}

// parts returns the host and the elements of the path.
func (u *Upstream) parts() []string {
	_, rest, _ := strings.Cut(u.Canonical, "://")
	host, path, _ := strings.Cut(rest, "/")
	return append([]string{strings.ReplaceAll(host, ":", ".")}, strings.Split(path, "/")...)
}

func valid(names ...string) []string {
	return slices.DeleteFunc(names, func(name string) bool { return ValidPackage(name) != nil })
}

// validHost reports whether u names a host in ASCII, or by an IP address in
// its usual form. 127.1, 0x7f000001 and the like are read as addresses by some
// resolvers and as names by others.
func validHost(u *url.URL) bool {
	host := strings.ToLower(u.Hostname())
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return false
		}
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Zone() == ""
	}
	last := host[strings.LastIndexByte(host, '.')+1:]
	return len(host) <= 253 && hostName.MatchString(host) && !numeric.MatchString(last)
}

func canonicalHost(u *url.URL) string {
	host, port := strings.ToLower(u.Hostname()), u.Port()
	if addr, err := netip.ParseAddr(host); err == nil && addr.Is6() {
		host = "[" + addr.String() + "]"
	}
	if port == "" || u.Scheme == "https" && port == "443" || u.Scheme == "http" && port == "80" {
		return host
	}
	return host + ":" + port
}

func hasAnySuffix(s string, suffixes ...string) bool {
	for _, suffix := range suffixes {
		if strings.HasSuffix(s, suffix) {
			return true
		}
	}
	return false
}
