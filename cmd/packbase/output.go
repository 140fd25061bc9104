package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"
)

// A screen is where a command writes for people.
type screen struct {
	out    io.Writer
	width  int  // columns of the terminal; 0 if out is none
	height int  // its lines
	colour bool // only on a terminal, and not with NO_COLOR (no-color.org)
	now    func() time.Time
}

func (p *program) screen(out io.Writer) *screen {
	s := &screen{out: out, now: time.Now}
	f, ok := out.(*os.File)
	if !ok {
		return s
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return s
	}
	// Serial lines and some containers do not tell theirs.
	s.width, s.height = cmp.Or(int(size.Col), 80), cmp.Or(int(size.Row), 24)
	s.colour = p.getenv("NO_COLOR") == "" && p.getenv("TERM") != "dumb"
	return s
}

// terminal reports whether lines can be drawn again.
func (s *screen) terminal() bool { return s.width > 0 }

func (s *screen) printf(format string, args ...any) { fmt.Fprintf(s.out, format, args...) }

// A colour is a parameter of "select graphic rendition" (ECMA-48, 8.3.117).
type colour string

const (
	plain  colour = ""
	bold   colour = "1"
	dim    colour = "2"
	red    colour = "31"
	green  colour = "32"
	yellow colour = "33"
)

func (s *screen) paint(c colour, text string) string {
	if !s.colour || c == plain || text == "" {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// stateColour is that of the states of jobs, updates and findings.
func stateColour(state string) colour {
	switch state {
	case "succeeded", "ok", "idle", "active", "yes":
		return green
	case "failed", "FAIL", "removed", "no":
		return red
	case "queued", "running", "warn", "cooldown", "frozen", "cancelled":
		return yellow
	}
	return plain
}

// A cell is one field of a table.
type cell struct {
	text   string
	colour colour
}

func cells(texts ...string) []cell {
	row := make([]cell, len(texts))
	for i, text := range texts {
		row[i] = cell{text: text}
	}
	return row
}

// table writes rows below their header, if it has one, with aligned columns.
//
// text/tabwriter counts the bytes that make colours as columns, so it is not
// used here.
func (s *screen) table(header []string, rows [][]cell) {
	if header != nil {
		head := cells(header...)
		for i := range head {
			head[i].colour = bold
		}
		rows = append([][]cell{head}, rows...)
	}
	var widths []int
	for _, row := range rows {
		for i := range row {
			row[i].text = orDash(printable(row[i].text))
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i].text))
		}
	}
	for _, row := range rows {
		s.row(row, widths)
	}
}

// row writes one row. On a terminal its last field is cut so that the row
// stays on one line, unless nothing would be left of it.
func (s *screen) row(row []cell, widths []int) {
	const gap, least = 2, 10
	var line strings.Builder
	column, last := 0, len(row)-1
	for i, c := range row[:last] {
		line.WriteString(s.paint(c.colour, c.text))
		line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text)+gap))
		column += widths[i] + gap
	}
	text := row[last].text
	if room := s.width - column; room >= least {
		text = cut(text, room)
	}
	s.printf("%s%s\n", line.String(), s.paint(row[last].colour, text))
}

// fields writes names with their values, a line each.
func (s *screen) fields(rows ...[]cell) {
	for _, row := range rows {
		row[0].text = "  " + row[0].text
	}
	// Values are to be read, and copied, as a whole.
	whole := *s
	whole.width = 0
	whole.table(nil, rows)
}

func field(name, value string) []cell { return cells(name, value) }

// cut returns text in at most width columns.
func cut(text string, width int) string {
	if utf8.RuneCountInString(text) <= width {
		return text
	}
	if width < 1 {
		return ""
	}
	return string([]rune(text)[:width-1]) + "…"
}

// printable returns text on one line without what could steer a terminal:
// names and messages come from strangers' repositories.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsPrint(r):
			return r
		case unicode.IsSpace(r):
			return ' '
		}
		return unicode.ReplacementChar
	}, text)
}

func orDash(text string) string {
	if strings.TrimSpace(text) == "" {
		return text + "-"
	}
	return text
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// number returns "12,345".
func number(n int) string { return humanize.Comma(int64(n)) }

// plural returns "1 release", "2 releases".
func plural(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return number(n) + " " + noun
}

// when returns a time as people say it and as clocks show it, in the zone of now.
func (s *screen) when(t *time.Time) string {
	if t == nil || t.IsZero() {
		return "-"
	}
	now := s.now()
	return fmt.Sprintf("%s (%s)", humanize.RelTime(*t, now, "ago", "from now"), t.In(now.Location()).Format("2006-01-02 15:04:05 MST"))
}

// ago is the short form of when, for tables: as people say it on a terminal,
// as clocks show it elsewhere.
func (s *screen) ago(t *time.Time) string {
	now := s.now()
	switch {
	case t == nil || t.IsZero():
		return "-"
	case s.terminal():
		return humanize.RelTime(*t, now, "ago", "from now")
	}
	return t.In(now.Location()).Format("2006-01-02 15:04:05")
}

// shortly returns a duration that people wait for.
func shortly(d time.Duration) string {
	if d < 10*time.Second {
		return max(d, 0).Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// quote returns text as one word of a POSIX shell. Tags are named by
// strangers and may hold what a shell would run.
func quote(text string) string {
	const safe = "-_./:+#@%=,~"
	odd := strings.ContainsFunc(text, func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune(safe, r)
	})
	if !odd && text != "" {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
