package pages

import (
	"github.com/francescobianco/packbase/storage/zigpkg"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/release"
)

func TestWords(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct{ name, got, want string }{
		{"small number", number(999), "999"},
		{"large number", number(1234567), "1\u202f234\u202f567"},
		{"negative number", number(-1234), "-1\u202f234"},
		{"one", counted(1, "tag", "tags"), "1\u00a0tag"},
		{"none", counted(0, "tag", "tags"), "0\u00a0tags"},
		{"no bytes", size(0), "0\u00a0B"},
		{"bytes", size(1023), "1023\u00a0B"},
		{"kibibytes", size(1536), "1.5\u00a0KiB"},
		{"mebibytes", size(1 << 20), "1.0\u00a0MiB"},
		{"gibibytes", size(61 << 30), "61\u00a0GiB"},
		{"milliseconds", span(41 * time.Millisecond), "41\u00a0ms"},
		{"seconds", span(2300 * time.Millisecond), "2.3\u00a0s"},
		{"minutes", span(7 * time.Minute), "7\u00a0min"},
		{"negative span", span(-time.Second), "0\u00a0ms"},
		{"now", ago(now.Add(-44*time.Second), now), "just now"},
		{"a minute", ago(now.Add(-50*time.Second), now), "1 minute ago"},
		{"hours", ago(now.Add(-5*time.Hour), now), "5 hours ago"},
		{"days", ago(now.AddDate(0, 0, -3), now), "3 days ago"},
		{"months", ago(now.AddDate(0, -6, 0), now), "6 months ago"},
		{"years", ago(now.AddDate(-7, 0, 0), now), "7 years ago"},
		{"soon", ago(now.Add(10*time.Second), now), "in a moment"},
		{"later", ago(now.Add(2*time.Hour), now), "in 2 hours"},
		{"time left", timeLeft(25, 100, now.Add(-time.Minute), now), "about 3\u00a0min left"},
		{"no time left yet", timeLeft(0, 100, now.Add(-time.Minute), now), ""},
		{"nearly done", timeLeft(99, 100, now.Add(-time.Minute), now), "a few seconds left"},
		{"plain word", shellWord("http://a/p/b/tag/v1.0.tar.gz"), "http://a/p/b/tag/v1.0.tar.gz"},
		{"fragment", shellWord("git+http://a/b#v1"), "git+http://a/b#v1"},
		{"command in a word", shellWord("v1$(reboot)"), "'v1$(reboot)'"},
		{"quote in a word", shellWord("it's"), `'it'\''s'`},
		{"no word", shellWord(""), "''"},
		{"comment", shellWord("#a"), "'#a'"},
		{"Zig string", zigpkg.Quote("a\"\\\n"), `"a\"\\\x0a"`},
		{"sentence", sentence("upstream is gone"), "Upstream is gone."},
		{"sentence with its end", sentence("Is it?"), "Is it?"},
		{"sentence that begins with a URL", sentence("https://a.example/x: it is gone"), "https://a.example/x: it is gone."},
		{"sentence that goes on", sentence("it has 3 files and so on…"), "It has 3 files and so on…"},
		{"sentence that ends within", sentence(`it says "No."`), `It says "No."`},
		{"sentence of a word in brackets", sentence("it is gone (for good)"), "It is gone (for good)."},
		{"empty sentence", sentence(""), ""},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, tt.got, tt.want)
		}
	}
}

func TestCommitLink(t *testing.T) {
	t.Parallel()
	for upstream, want := range map[string]string{
		"https://github.com/a/b":           "https://github.com/a/b/commit/c",
		"https://codeberg.org/a/b":         "https://codeberg.org/a/b/commit/c",
		"https://gitlab.com/a/b/c":         "https://gitlab.com/a/b/c/-/commit/c",
		"https://gitlab.example.org/a/b":   "https://gitlab.example.org/a/b/-/commit/c",
		"https://bitbucket.org/a/b":        "https://bitbucket.org/a/b/commits/c",
		"https://git.sr.ht/~a/b":           "https://git.sr.ht/~a/b/commit/c",
		"https://unknown.example/a/b":      "",
		"fixture:hello":                    "",
		"javascript://github.com/%0aalert": "",
	} {
		if got := commitLink(upstream, "c"); got != want {
			t.Errorf("commitLink(%q) = %q, want %q", upstream, got, want)
		}
	}
}

func TestEntry(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ zigName, pkg, want string }{
		{"clap", "zig-clap", ".clap = "},
		{"", "test", `.@"test" = `}, // a keyword
		{"", "http.zig", `.@"http_zig" = `},
	} {
		r := releaseView{releaseRow: releaseRow{Release: storage.Release{Package: tt.pkg, Tag: "v1", Zig: release.Zig{Name: tt.zigName, LegacyHash: "1220"}}}, Base: "http://a"}
		want := tt.want + ".{\n    .url = \"http://a/p/" + tt.pkg + "/tag/v1.tar.gz\",\n    .hash = \"1220\",\n},"
		if got := r.Entry(); got != want {
			t.Errorf("entry of %s: %s, want %s", tt.pkg, got, want)
		}
	}
}

func TestChart(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 30, 0, 0, time.UTC)
	for _, tt := range []struct {
		age  time.Duration
		unit string
		bars int
	}{{time.Minute, "hour", 36}, {7 * 24 * time.Hour, "day", 42}, {200 * 24 * time.Hour, "week", 52}, {5 * 365 * 24 * time.Hour, "month", 48}} {
		unit, since := chartSpan(tt.age, now)
		c := newChart(unit, since, now, []storage.Count{{At: since, N: 2}, {At: now.Add(999 * time.Hour), N: 0}})
		if unit != tt.unit || len(c.Bars) != tt.bars {
			t.Errorf("after %v: %d bars, one a %s, want %d, one a %s", tt.age, len(c.Bars), unit, tt.bars, tt.unit)
		}
		if first := c.Bars[0]; first.N != 2 || first.H != float64(c.Height) {
			t.Errorf("after %v: first bar is %+v, want 2 at full height", tt.age, first)
		}
	}
}
