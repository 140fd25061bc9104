package storage_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/name"
)

func TestParseUpstream(t *testing.T) {
	t.Parallel()
	oid := strings.Repeat("AB", 20)
	same := "https://git.example/owner/repo"
	tests := []struct {
		raw  string
		want name.Upstream // CloneURL "" if it is the canonical one
	}{
		// One repository, many spellings (IM-04).
		{"https://git.example/owner/repo", name.Upstream{Canonical: same, Name: "repo"}},
		{"git+https://git.example/owner/repo", name.Upstream{Canonical: same, Name: "repo"}},
		{"https://git.example/owner/repo/", name.Upstream{Canonical: same, Name: "repo"}},
		{"https://git.example/owner/repo.git", name.Upstream{Canonical: same, Name: "repo", CloneURL: same + ".git"}},
		{"https://git.example/owner/repo.git/", name.Upstream{Canonical: same, Name: "repo", CloneURL: same + ".git"}},
		{"https://Git.EXAMPLE/owner/repo", name.Upstream{Canonical: same, Name: "repo"}},
		{"HTTPS://git.example/owner/repo", name.Upstream{Canonical: same, Name: "repo"}},
		{"https://git.example:443/owner/repo", name.Upstream{Canonical: same, Name: "repo"}},
		{"https://git.example:/owner/repo", name.Upstream{Canonical: same, Name: "repo"}},
		{"https://git.example/owner/repo#v1.0.0", name.Upstream{Canonical: same, Name: "repo", Target: "v1.0.0"}},
		{"https://git.example/owner/repo#a/b", name.Upstream{Canonical: same, Name: "repo", Target: "a/b"}},
		{"https://git.example/owner/repo#" + oid, name.Upstream{Canonical: same, Name: "repo", Target: strings.ToLower(oid)}},
		{"https://git.example/owner/repo#", name.Upstream{Canonical: same, Name: "repo"}},

		// Others, that look alike.
		{"http://git.example/owner/repo", name.Upstream{Canonical: "http://git.example/owner/repo", Name: "repo"}},
		{"http://git.example:80/owner/repo", name.Upstream{Canonical: "http://git.example/owner/repo", Name: "repo"}},
		{"http://git.example:443/owner/repo", name.Upstream{Canonical: "http://git.example:443/owner/repo", Name: "repo"}},
		{"https://git.example:8443/owner/repo", name.Upstream{Canonical: "https://git.example:8443/owner/repo", Name: "repo"}},
		{"https://git.example/Owner/repo", name.Upstream{Canonical: "https://git.example/Owner/repo", Name: "repo"}},
		{"https://git.example/owner/repo.git.git", name.Upstream{Canonical: same + ".git", Name: "repo.git", CloneURL: same + ".git.git"}},
		{"https://git.example/repo", name.Upstream{Canonical: "https://git.example/repo", Name: "repo"}},
		{"https://git.example/a/b/c/repo", name.Upstream{Canonical: "https://git.example/a/b/c/repo", Name: "repo"}},
		{"https://git.example/owner/http.zig", name.Upstream{Canonical: "https://git.example/owner/http.zig", Name: "http.zig"}},
		{"https://xn--bcher-kva.example/o/r", name.Upstream{Canonical: "https://xn--bcher-kva.example/o/r", Name: "r"}},
		{"https://localhost/o/r", name.Upstream{Canonical: "https://localhost/o/r", Name: "r"}},
		{"http://127.0.0.1:3000/o/r", name.Upstream{Canonical: "http://127.0.0.1:3000/o/r", Name: "r"}},
		{"https://[2001:DB8:0:0::1]/o/r", name.Upstream{Canonical: "https://[2001:db8::1]/o/r", Name: "r"}},
		{"https://[::ffff:127.0.0.1]/o/r", name.Upstream{Canonical: "https://[::ffff:127.0.0.1]/o/r", Name: "r"}}, // the dialer refuses it
	}
	for _, tt := range tests {
		if tt.want.CloneURL == "" {
			tt.want.CloneURL = tt.want.Canonical
		}
		if got, err := name.ParseUpstream(tt.raw); err != nil || got != tt.want {
			t.Errorf("%s: %+v, %v; want %+v", tt.raw, got, err, tt.want)
		}
	}
}

// Upstreams are strangers' input: what is not plainly a URL of a repository
// never becomes a row (EG-01, EG-02).
func TestParseUpstreamRefuses(t *testing.T) {
	t.Parallel()
	refused := []string{
		"", " ", "repo", "owner/repo", "git.example/owner/repo", "/etc", "./repo", "../repo", "C:\\repo", "//git.example/owner/repo", "https://", "https:///owner/repo",
		"https://git.example", "https://git.example/", "https://git.example//", "https://git.example/.git", "https:git.example/owner/repo",
		// Schemes that run programs, read files or speak to others.
		"file:///etc", "git+file:///etc", "ssh://git.example/owner/repo", "git+ssh://git@git.example/owner/repo", "git@git.example:owner/repo",
		"git://git.example/owner/repo", "ext::sh -c id", "ftp://git.example/o/r", "gopher://git.example/o/r", "dict://git.example/o/r", "data:text/plain,x",
		"javascript:alert(1)", "git+git+https://git.example/o/r", "-oProxyCommand=id", "--upload-pack=id", "https+git://git.example/o/r", "HTTPS",
		// Credentials, which rows must not hold.
		"https://user@git.example/o/r", "https://user:secret@git.example/o/r", "https://:secret@git.example/o/r", "https://@git.example/o/r",
		"https://git.example@evil.example/o/r", "https://user:secret@git.example:bad/o/r", "https://user:se cret@git.example/o/r", "https:user:secret@git.example/o/r",
		// Hosts that a second reader takes for another.
		"https://127.1/o/r", "https://2130706433/o/r", "https://0x7f000001/o/r", "https://0x7f.1/o/r", "https://0177.0.0.1/o/r", "https://127.0.0.01/o/r",
		"https://1.2.3.4.5/o/r", "https://git.example./o/r", "https://localhost./o/r", "https://.example/o/r", "https://git..example/o/r", "https://-git.example/o/r",
		"https://git.example-/o/r", "https://bücher.example/o/r", "https://gıt.example/o/r", "https://git%2eexample/o/r", "https://git.example%00/o/r",
		"https://git.exam\ufffdple/o/r", "https://git.example\\@evil.example/o/r", "https://git.example,evil.example/o/r", "https://git example/o/r",
		"https://[::1%25eth0]/o/r", "https://[fe80::1%eth0]/o/r", "https://[::1/o/r", "https://::1/o/r", "https://[127.0.0.1]x/o/r", "https://*/o/r",
		"https://" + strings.Repeat("a.", 130) + "example/o/r",
		// Ports.
		"https://git.example:0/o/r", "https://git.example:65536/o/r", "https://git.example:99999999999999999999/o/r", "https://git.example:-1/o/r", "https://git.example:ssh/o/r",
		// Paths and what follows.
		"https://git.example/o//r", "https://git.example/o/./r", "https://git.example/o/../r", "https://git.example/o/r/..", "https://git.example/o/%2e%2e/r",
		"https://git.example/o%2fr", "https://git.example/o/r%00", "https://git.example/o/r%0a", "https://git.example/o/%72", "https://git.example/o/r\\x",
		"https://git.example/o/r?x=1", "https://git.example/o/r?", "https://git.example/o/r.git?service=x", "https://git.example/o/r#..", "https://git.example/o/r#a b",
		"https://git.example/o/r#-x", "https://git.example/o/r#a..b", "https://git.example/o/r#a%00b", "https://git.example/o/r#refs/../x", "https://git.example/o/r#x.lock",
		"https://git.example/o/r\n", "https://git.example/o/r\r\nHost: x", "\thttps://git.example/o/r", "https://git.example/o/r\x00", "https://git.example/o/\xff", "https://git.example/o/r\u2028",
		"https://git.example/" + strings.Repeat("x", name.MaxUpstreamURL),
	}
	for _, raw := range refused {
		up, err := name.ParseUpstream(raw)
		var bad *fault.InvalidError
		if !errors.As(err, &bad) || !errors.Is(err, fault.ErrInvalid) {
			t.Errorf("%.80q: %+v, %v; want an InvalidError", raw, up, err)
			continue
		}
		if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "se cret") {
			t.Errorf("%q: the message %q tells the password", raw, err)
		}
	}
}

// What ParseUpstream returns is canonical: parsed again, it is the same.
func TestParseUpstreamIsStable(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	parts := []string{"git+", "https://", "http://", "git.example", "GIT.example", ":443", ":80", "/owner", "/repo", ".git", "/", "#v1", "#", "é", "%41", "%2f", "?", "@", "127.0.0.1", "[::1]", "_", "-", "."}
	accepted := 0
	for range 50_000 {
		raw := parts[r.IntN(3)]
		for range r.IntN(7) {
			raw += parts[r.IntN(len(parts))]
		}
		up, err := name.ParseUpstream(raw)
		if err != nil {
			continue
		}
		accepted++
		for _, text := range []string{up.Canonical, up.CloneURL} {
			again, err := name.ParseUpstream(text)
			if err != nil || again.Canonical != up.Canonical && !strings.HasSuffix(up.Canonical, ".git") {
				t.Fatalf("%q gives %q, which gives %q, %v", raw, text, again.Canonical, err)
			}
		}
	}
	if accepted < 100 {
		t.Errorf("%d of the URLs were accepted, want a test of some hundreds", accepted)
	}
}

func TestCompareTags(t *testing.T) {
	t.Parallel()
	old, later := time.Unix(1_000, 0), time.Unix(2_000, 0)
	type tag struct {
		name string
		at   time.Time
	}
	ascending := []tag{
		{"nightly", old}, {"a", later}, {"release", later}, // no versions: by time, then by name
		{"v0.1.0-alpha", later}, {"v0.9.0-rc.1", later}, {"0.9.0-rc.2", old}, {"v2.0.0-alpha.9", old}, {"v2.0.0-alpha.10", old},
		{"v0.0.1", later}, {"0.2", old}, {"v0.9.0", later}, {"v0.10.0", old}, {"v1", later}, {"1.0.1", old}, {"v1.2", old}, {"v1.10.0", old}, {"v10.0.0", old},
	}
	for i, a := range ascending {
		for j, b := range ascending {
			if got, want := name.CompareTags(a.name, a.at, b.name, b.at), i-j; i != j && (got < 0) != (want < 0) {
				t.Errorf("CompareTags(%s, %s) = %d, want the sign of %d", a.name, b.name, got, want)
			}
		}
	}
	for _, equal := range [][2]string{{"v1.2", "v1.2.0"}, {"v1.0.0", "1.0.0"}, {"v1.0.0+a", "v1.0.0+b"}} {
		if name.CompareTags(equal[0], old, equal[1], later) >= 0 || name.CompareTags(equal[1], later, equal[0], old) <= 0 {
			t.Errorf("%s and %s are one version, want the newer commit to be later", equal[0], equal[1])
		}
	}
}

func TestHiddenTags(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		tags   []string // in order of publication
		hidden []string
	}{
		{"none", []string{"v1", "v2", "", "a/b", "a/c"}, nil},
		{"folder after file", []string{"a", "a/b"}, []string{"a/b"}},
		{"file after folder", []string{"a/b", "a"}, []string{"a"}},
		{"deep folder after file", []string{"a", "a/b/c/d"}, []string{"a/b/c/d"}},
		{"file within a folder", []string{"a/b/c", "a/b"}, []string{"a/b"}},
		{"case", []string{"v1", "V1"}, []string{"V1"}},
		{"case, the other first", []string{"V1", "v1"}, []string{"v1"}},
		{"case of a folder", []string{"A/b", "a/c"}, nil},
		{"case and folder", []string{"A", "a/b"}, []string{"a/b"}},
		{"Unicode form", []string{"caf\u00e9", "cafe\u0301"}, []string{"cafe\u0301"}},
		{"prefix that is no folder", []string{"a", "ab", "a-b"}, nil},
		{"a hidden tag hides nothing", []string{"a", "a/b", "a/b/c", "A/B"}, []string{"a/b", "a/b/c", "A/B"}},
		{"named like a commit", []string{strings.Repeat("ab", 20), strings.Repeat("AB", 20), strings.Repeat("ab", 20) + "c"}, []string{strings.Repeat("ab", 20), strings.Repeat("AB", 20)}},
		{"snapshots are not seen", []string{"", "", "v1"}, nil},
	}
	for _, tt := range tests {
		releases := make([]storage.Release, len(tt.tags))
		for i, tag := range tt.tags {
			releases[i].Tag = tag
		}
		hidden := storage.HiddenTags(releases)
		for _, tag := range tt.tags {
			if got, want := hidden[tag] != "", slices.Contains(tt.hidden, tag); got != want {
				t.Errorf("%s: %q hidden: %v (%s), want %v", tt.name, tag, got, hidden[tag], want)
			}
		}
	}
}

func TestShownBranches(t *testing.T) {
	t.Parallel()
	releases := []storage.Release{{Tag: "v1", CommitOID: "1"}, {CommitOID: "2"}}
	tests := []struct {
		name     string
		branches []string // the one last asked for first
		shown    []string
	}{
		{"none", nil, nil},
		{"several", []string{"next", "feature/x", "feature/y"}, []string{"next", "feature/x", "feature/y"}},
		{"ours", []string{"main", "MAIN", "HEAD", "main/x", "x/main"}, []string{"x/main"}},
		{"of a release", []string{"v1", "v2"}, []string{"v2"}},
		{"the last one wins", []string{"a", "a/b", "b/c", "b"}, []string{"a", "b/c"}},
		{"named like a commit", []string{strings.Repeat("ab", 20)}, nil},
	}
	for _, tt := range tests {
		var branches []storage.Branch
		for _, name := range tt.branches {
			branches = append(branches, storage.Branch{Name: name, Commit: "2"})
		}
		var shown []string
		for _, b := range storage.ShownBranches(branches, releases) {
			shown = append(shown, b.Name)
		}
		if !slices.Equal(shown, tt.shown) {
			t.Errorf("%s: shown %q, want %q", tt.name, shown, tt.shown)
		}
	}
	if got := storage.ShownBranches([]storage.Branch{{Name: "gone", Commit: "3"}}, releases); len(got) != 0 {
		t.Errorf("shown %v, whose commit is not here", got)
	}
}

// The validator and the database agree on what a package may be called
// (NM-01); the validator also keeps names from routes and suffixes.
func TestValidPackage(t *testing.T) {
	t.Parallel()
	schema := regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`) // the CHECK of packages.name
	for _, good := range []string{"a", "A", "0", "hello", "http.zig", "zig-clap", "a_b", "a.b.c", "x.gitx", "gitx", "apis", strings.Repeat("a", 100)} {
		if err := name.ValidPackage(good); err != nil || !schema.MatchString(good) {
			t.Errorf("%s: %v, want it valid", good, err)
		}
	}
	bad := []string{"", ".", "..", "a..b", ".a", "-a", "_a", "a.", "a/b", "a b", "a\x00", "a\n", "é", "а" /* Cyrillic */, "a.git", "a.GIT", "a.lock", "a.atom", "a.svg",
		"a%2f", "a\\b", "a:b", "a@b", "a+b", strings.Repeat("a", 101)}
	for _, called := range []string{"api", "p", "git", "z", "static", "assets", "favicon.ico", "robots.txt", "healthz", "readyz", "livez", "metrics", "debug", "jobs", "packages", "feed.atom"} {
		bad = append(bad, called, strings.ToUpper(called)) // NM-02
	}
	for _, called := range bad {
		var invalid *fault.InvalidError
		if err := name.ValidPackage(called); !errors.As(err, &invalid) {
			t.Errorf("%q: %v, want an InvalidError", called, err)
		}
	}
	r := rand.New(rand.NewPCG(3, 4))
	const letters = "aZ0._-/ \x00é+%"
	for range 20_000 {
		var b strings.Builder
		for range r.IntN(8) {
			b.WriteByte(letters[r.IntN(len(letters))])
		}
		if called := b.String(); name.ValidPackage(called) == nil && !schema.MatchString(called) {
			t.Errorf("%q is valid, but the database refuses it", called)
		}
	}
}

// Tags obey git-check-ref-format(1), and hold no byte that a log, a page or a
// terminal would act upon.
func TestValidTag(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"v1", "1.0.0", "v1.0.0-rc.1+build", "a/b/c", "v1.tar.gz", "v1.json", "é", "日本", "a@b", "v1'", "v1\"", "<b>", "$(x)", "%2e", strings.Repeat("a", 255)} {
		if err := name.ValidTag(good); err != nil {
			t.Errorf("%q: %v, want it valid", good, err)
		}
	}
	for _, bad := range []string{"", "/", "a/", "/a", "a//b", ".a", "a/.b", "a.lock", "a.lock/b", "a..b", "a.", "a b", "a~", "a^", "a:b", "a?", "a*", "a[", "a\\b", "@", "a@{b", "-a",
		"a\x00", "a\n", "a\x1b[31m", "a\x7f", "a\u0085", "\xff", "a\xc0\xaf", strings.Repeat("a", 256)} {
		var invalid *fault.InvalidError
		if err := name.ValidTag(bad); !errors.As(err, &invalid) {
			t.Errorf("%q: %v, want an InvalidError", bad, err)
		}
	}
}

func TestBoundErrorIsConflict(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("request: %w", &fault.BoundError{Package: "x", Upstream: "https://git.example/a/x"})
	if !errors.Is(err, fault.ErrConflict) || !strings.Contains(err.Error(), "https://git.example/a/x") {
		t.Errorf("%v, want a conflict that names the owner", err)
	}
}

// Names that are given by themselves go from short to sure.
func TestUpstreamNames(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"https://github.com/owner/repo":                       "repo owner.repo github.com.owner.repo repo-d7606d02f5e0",
		"https://git.example:8443/a/b/c.git":                  "c b.c git.example.8443.a.b.c c-a02a9b98a811",
		"https://git.example/repo":                            "repo git.example.repo repo-850f5fd67e69",
		"https://github.com/zig/api":                          "zig.api github.com.zig.api api-76336ee68892",
		"https://github.com/owner/" + strings.Repeat("x", 99): strings.Repeat("x", 99) + " " + strings.Repeat("x", 80) + "-6e42f5ccd183",
	} {
		up, err := name.ParseUpstream(url)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(up.Names(), " "); got != want {
			t.Errorf("%s: names = %q, want %q", url, got, want)
		}
	}
}
