package term

import (
	"bytes"
	"strings"
	"testing"

	"github.com/mattn/go-runewidth"
)

// A table stays on the lines of a terminal, with its columns below each other, whatever is in it.
func TestTableFits(t *testing.T) {
	t.Parallel()
	rows := func() [][]Cell {
		return [][]Cell{
			Cells("zap", "v0.10.6", "https://github.com/zigzap/zap", "高速なウェブフレームワーク。Zig で書かれています。とても速いです、そして小さいです。"),
			Cells("a-package-with-a-rather-long-name", "v1.0.0-rc.1+build.20261129", "https://git.example.org/some-organisation/with-a-long-name", "🎉 emoji, 漢字 and ten more words that nobody has room for"),
			Cells("日本語", "v1", "", ""),
		}
	}
	for _, width := range []int{60, 80, 120, 200} {
		var out bytes.Buffer
		(&Screen{Out: &out, Width: width, Height: 24}).Table([]string{"PACKAGE", "LATEST", "UPSTREAM", "DESCRIPTION"}, rows())
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		before := func(i int, text string) int { return runewidth.StringWidth(lines[i][:strings.Index(lines[i], text)]) }
		for i, line := range lines {
			if w := runewidth.StringWidth(line); w > width {
				t.Errorf("%d columns: a line takes %d:\n%s", width, w, line)
			}
			if i > 0 && before(i, []string{"", "v0.10", "v1.0", "v1"}[i]) != before(0, "LATEST") {
				t.Errorf("%d columns: the second one is not below its title:\n%s", width, out.String())
			}
		}
		if name := lines[1][:3]; name != "zap" {
			t.Errorf("%d columns: got %q for a short name", width, name)
		}
	}
	var out bytes.Buffer
	(&Screen{Out: &out}).Table(nil, rows())
	if !strings.Contains(out.String(), "nobody has room for") {
		t.Errorf("what is no terminal gets less than all:\n%s", out.String())
	}
}

func TestPrintableLines(t *testing.T) {
	t.Parallel()
	if got, want := PrintableLines("one\x1b[2J\rtwo\n\u202ethree\n"), "one\ufffd[2J two\n\ufffdthree\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestPlural(t *testing.T) {
	t.Parallel()
	for want, got := range map[string]string{
		"1 release": Plural(1, "release"), "2,000 releases": Plural(2000, "release"), "0 repositories": Plural(0, "repository"), "3 witnesses": Plural(3, "witness"),
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
