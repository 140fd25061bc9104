package client

import (
	"bytes"
	"flag"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/cmd/packbase/term"
	"github.com/francescobianco/packbase/storage/jobs"
)

var updateGolden = flag.Bool("update", false, "write the golden files")

// testNow is when the golden files were drawn.
var testNow = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// golden compares got with a file below testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	name = filepath.Join("testdata", name+".golden")
	if *updateGolden {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

// parse reads what a server would answer.
func parse[T any](t *testing.T, name string) T {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := decode[T](raw)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// What people see, with answers that have something of everything, on a
// terminal and elsewhere.
func TestDraw(t *testing.T) {
	t.Parallel()
	base, err := parseBase("https://packbase.example/zig")
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(base, "", "1.0.0")
	info := parse[wire.Package](t, "info")
	fetched := job{Job: wire.Job{Package: "clap", Result: []byte(`{"package":"clap","tag":"v1.1.0","tarballs_created":1,"tarball_count":2}`)}}
	tests := []struct {
		name string
		draw func(*term.Screen)
	}{
		{"info", func(s *term.Screen) { drawPackage(s, c, info) }},
		{"info_release", func(s *term.Screen) { drawRelease(s, c, info, &info.Tarballs[0]) }},
		{"info_snapshot", func(s *term.Screen) { drawRelease(s, c, info, &info.Snapshots[0]) }},
		{"check", func(s *term.Screen) { drawCheck(s, wire.Checked{Package: info}) }},
		{"fetched", func(s *term.Screen) { drawFetched(s, c, fetched, info) }},
		{"queued", func(s *term.Screen) { drawQueued(s, parse[wire.Queued](t, "queued")) }},
		{"search", func(s *term.Screen) { drawFound(s, parse[wire.Found](t, "search")) }},
		{"list", func(s *term.Screen) { drawNames(s, []string{"a", "clap"}, []string{"clap"}) }},
		{"jobs", func(s *term.Screen) { drawJobs(s, parse[wire.Jobs](t, "jobs")) }},
		{"job", func(s *term.Screen) { drawJob(s, job{Job: parse[wire.Jobs](t, "jobs").Jobs[1]}) }},
		{"status", func(s *term.Screen) { drawStatus(s, c, parse[wire.Status](t, "status")) }},
		{"status_watched", func(s *term.Screen) {
			page := statusPage(s, c, []byte(`{"release":"1.0.0","update":{"state":"idle"}}`), nil)
			s.Turn(true, page)
			s.Turn(false, "the server does not answer\n")
		}},
	}
	for _, tt := range tests {
		for _, at := range []struct {
			where         string
			width, height int
		}{{"", 0, 0}, {"_terminal", 72, 24}} {
			t.Run(tt.name+at.where, func(t *testing.T) {
				t.Parallel()
				var out bytes.Buffer
				tt.draw(&term.Screen{Out: &out, Width: at.width, Height: at.height, Colour: at.width > 0, Now: func() time.Time { return testNow }})
				golden(t, tt.name+at.where, out.String())
			})
		}
	}
}

// A job as it goes on, drawn second by second.
func TestProgress(t *testing.T) {
	t.Parallel()
	soon := testNow.Add(4 * time.Second)
	running := func(step string, done, total int64, unit string) wire.Job {
		return wire.Job{Package: "clap", State: jobs.Running, Progress: wire.Progress{Step: step, Done: done, Total: total, Unit: unit}}
	}
	states := []wire.Job{
		{Package: "clap", State: jobs.Queued},
		running("list refs", 0, 0, ""),
		running("download", 700_000, 0, "bytes"),
		running("download", 7_000_000, 0, "bytes"),
		running("unpack", 0, 4000, "objects"),
		running("unpack", 1000, 4000, "objects"),
		running("unpack", 3000, 4000, "objects"),
		running("unpack", 4000, 4000, "objects"),
		running("build", 4, 7, "tags"),
		{Package: "clap", State: jobs.Queued, Attempts: 1, NextTryAt: &soon, Error: wire.Failure{Code: "upstream_timeout", Message: "upstream\x1b[2J is too slow"}},
		{Package: "clap", State: jobs.Succeeded},
	}
	for _, at := range []struct {
		name  string
		width int
	}{{"progress", 0}, {"progress_terminal", 80}, {"progress_narrow", 30}} {
		t.Run(at.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			now := testNow
			g := &progress{s: &term.Screen{Out: &out, Width: at.width, Now: func() time.Time { return now }}}
			for _, j := range states {
				g.show(job{Job: j})
				now = now.Add(time.Second)
			}
			g.clear()
			golden(t, at.name, strings.ReplaceAll(out.String(), "\r", "\n\\r"))
		})
	}
}

// A server may say anything.
func TestStrangeProgress(t *testing.T) {
	t.Parallel()
	s := &term.Screen{Width: 120, Now: func() time.Time { return testNow }}
	for want, p := range map[string]wire.Progress{
		"0%":    {Done: -5, Total: 10, Unit: "tags"},
		"100%":  {Done: math.MaxInt64, Total: math.MaxInt64, Unit: "tags"},
		"0/10":  {Done: math.MinInt64, Total: 10},
		"build": {Step: "build", Done: math.MaxInt64, Total: math.MinInt64},
	} {
		if line := progressLine(s, job{Job: wire.Job{State: jobs.Running, Progress: p}}, time.Minute); !strings.Contains(line, want) {
			t.Errorf("%+v: got %q, want %q in it", p, line, want)
		}
	}
}

// A tree that no project has is drawn as far as it goes onto a screen.
func TestDeepTree(t *testing.T) {
	t.Parallel()
	var deep wire.TreeInfo
	for i := range 20 * maxDrawn {
		parent := ""
		if i > 0 {
			parent = strconv.Itoa(i - 1)
		}
		deep.Packages = append(deep.Packages, wire.TreeNode{Hash: strconv.Itoa(i), Parents: []string{parent}})
	}
	var out bytes.Buffer
	drawTree(&term.Screen{Out: &out}, deep)
	if lines := strings.Count(out.String(), "\n"); lines != maxDrawn+2 {
		t.Errorf("%d lines of %d bytes", lines, out.Len())
	}
}

// What a server says goes to a terminal as text.
func TestUseIsPrintable(t *testing.T) {
	t.Parallel()
	base, err := parseBase("https://packbase.example")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	drawUse(&term.Screen{Out: &out}, newClient(base, "", "1.0.0"), "clap\x1b[2J", &wire.Tarball{URL: "/p/clap\x1b[2J\n.tar.gz", Tag: "v1\x1b[2J"})
	if strings.Contains(out.String(), "\x1b") || strings.Count(out.String(), "\n") != 5 {
		t.Errorf("got %q", out.String())
	}
}

func TestTimeLeft(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name        string
		done, total int64
		elapsed     time.Duration
		want        string
	}{
		{"half", 5, 10, 10 * time.Second, "10s left"},
		{"long", 1, 1001, 10 * time.Second, "2h46m40s left"},
		{"too early", 5, 10, 500 * time.Millisecond, ""},
		{"nothing done", 0, 10, time.Minute, ""},
		{"all done", 10, 10, time.Minute, ""},
		{"more than all", 11, 10, time.Minute, ""},
		{"no total", 5, 0, time.Minute, ""},
	}
	for _, tt := range tests {
		if got := timeLeft(wire.Progress{Done: tt.done, Total: tt.total}, tt.elapsed); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// What strangers name goes into lines that people paste, and onto terminals.
func TestHostileText(t *testing.T) {
	t.Parallel()
	quoted := map[string]string{
		"v1.0.0":                          "v1.0.0",
		"https://h:1/p/x/tag/a%2B.tar.gz": "https://h:1/p/x/tag/a%2B.tar.gz",
		"$(reboot)":                       "'$(reboot)'",
		"it's":                            `'it'\''s'`,
		"a;b":                             "'a;b'",
		"ü":                               "'ü'",
		"":                                "''",
	}
	for text, want := range quoted {
		if got := term.Quote(text); got != want {
			t.Errorf("quote(%q) = %s, want %s", text, got, want)
		}
	}
	printed := map[string]string{
		"zig":             "zig",
		"a\nb\tc":         "a b c",
		"\x1b[31mred":     "\uFFFD[31mred",
		"right\u202Eleft": "right\uFFFDleft",
		"\u009b2J":        "\uFFFD2J",
		"grün 包":          "grün 包",
	}
	for text, want := range printed {
		if got := term.Printable(text); got != want {
			t.Errorf("printable(%q) = %q, want %q", text, got, want)
		}
	}
	c := newClient(must(parseBase(DefaultURL)), "", "1.0.0")
	got := c.gitURL("x", &wire.Tarball{Tag: "a b$(id)%"})
	if want := "git+http://127.0.0.1:8080/x#a%20b$(id)%25"; got != want {
		t.Errorf("gitURL = %s, want %s", got, want)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Terminals get colours, unless somebody does not want them.
func TestScreen(t *testing.T) {
	t.Parallel()
	s := &term.Screen{}
	if got := s.Paint(term.Red, "text"); got != "text" {
		t.Errorf("without colours: got %q", got)
	}
	s.Colour = true
	if got, want := s.Paint(term.Red, "text"), "\x1b[31mtext\x1b[0m"; got != want {
		t.Errorf("with colours: got %q, want %q", got, want)
	}
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := &term.Program{Getenv: func(string) string { return "" }}
	if s := p.Screen(f); s.Terminal() || s.Colour {
		t.Errorf("a file is taken for a terminal: %+v", s)
	}
}

func TestAdvice(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"no_tags", "no_such_ref", "name_conflict", "upstream_not_git", "upstream_address", "upstream_auth", "internal", "upstream_unavailable", ""} {
		e := &jobEndError{ID: "1", State: jobs.Failed, Failure: wire.Failure{Code: code, Message: "it broke"}}
		message, advice, _ := strings.Cut(e.Error(), "\n")
		if message != "job 1 failed: it broke" || !strings.HasSuffix(advice, ".") {
			t.Errorf("%s: got %q, want what to do on a second line", code, e.Error())
		}
	}
}
