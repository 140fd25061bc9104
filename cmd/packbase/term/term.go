// Package term is where a command meets its user: arguments that are wrong,
// tables, colours, sizes and times. On a terminal what it writes fits the
// screen, elsewhere it is plain lines.
package term

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
	"github.com/mattn/go-runewidth"
	"golang.org/x/sys/unix"
)

// A Program is one run of the command: what it knows of where it runs.
type Program struct {
	Release        string // of packbase
	Getenv         func(string) string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// UsageError is a mistake in a flag or a variable.
type UsageError struct{ error }

func Usage(format string, args ...any) error { return UsageError{fmt.Errorf(format, args...)} }

// A Screen is where a command writes for people.
type Screen struct {
	Out    io.Writer
	Width  int  // columns of the terminal; 0 if out is none
	Height int  // its lines
	Colour bool // only on a terminal, and not with NO_COLOR (no-color.org)
	Now    func() time.Time
}

func (p *Program) Screen(out io.Writer) *Screen {
	s := &Screen{Out: out, Now: time.Now}
	f, ok := out.(*os.File)
	if !ok {
		return s
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return s
	}
	// Serial lines and some containers do not tell theirs.
	s.Width, s.Height = cmp.Or(int(size.Col), 80), cmp.Or(int(size.Row), 24)
	s.Colour = p.Getenv("NO_COLOR") == "" && p.Getenv("TERM") != "dumb"
	return s
}

// Terminal reports whether lines can be drawn again.
func (s *Screen) Terminal() bool { return s.Width > 0 }

func (s *Screen) Printf(format string, args ...any) { fmt.Fprintf(s.Out, format, args...) }

// A Colour is a parameter of "select graphic rendition" (ECMA-48, 8.3.117).
type Colour string

const (
	Plain  Colour = ""
	Bold   Colour = "1"
	Dim    Colour = "2"
	Red    Colour = "31"
	Green  Colour = "32"
	Yellow Colour = "33"
)

func (s *Screen) Paint(c Colour, text string) string {
	if !s.Colour || c == Plain || text == "" {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// StateColour is that of the states of jobs, updates and findings.
func StateColour(state string) Colour {
	switch state {
	case "succeeded", "ok", "idle", "active", "yes":
		return Green
	case "failed", "FAIL", "removed", "no":
		return Red
	case "queued", "running", "warn", "cooldown", "frozen", "cancelled":
		return Yellow
	}
	return Plain
}

// Turn puts a page in the place of the one before. Each line is written over
// the old one, as a screen that is wiped first flickers.
func (s *Screen) Turn(first bool, page string) {
	if !s.Terminal() {
		s.Printf("%s\n", page)
		return
	}
	if first {
		s.Printf("\x1b[2J")
	}
	lines := strings.Split(strings.TrimSuffix(page, "\n"), "\n")
	lines = lines[:min(len(lines), s.Height-1)]
	s.Printf("\x1b[H%s\x1b[K\n\x1b[J", strings.Join(lines, "\x1b[K\n"))
}

// A Cell is one field of a table.
type Cell struct {
	Text   string
	Colour Colour
}

func Cells(texts ...string) []Cell {
	row := make([]Cell, len(texts))
	for i, text := range texts {
		row[i] = Cell{Text: text}
	}
	return row
}

// Table writes rows below their header, if it has one, with aligned columns.
//
// text/tabwriter counts the bytes that make colours as columns, so it is not
// used here.
func (s *Screen) Table(header []string, rows [][]Cell) {
	if header != nil {
		head := Cells(header...)
		for i := range head {
			head[i].Colour = Bold
		}
		rows = append([][]Cell{head}, rows...)
	}
	var widths []int
	for _, row := range rows {
		for i := range row {
			row[i].Text = orDash(Printable(row[i].Text))
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], runewidth.StringWidth(row[i].Text))
		}
	}
	s.fit(widths)
	for _, row := range rows {
		s.row(row, widths)
	}
}

// gap is what is between two columns of a table.
const gap = 2

// fit makes columns narrower until a row stays on one line of the terminal: the
// last one first, then whichever is widest, as far as something is left of each.
func (s *Screen) fit(widths []int) {
	const least = 10
	if !s.Terminal() || len(widths) == 0 {
		return
	}
	over, last := gap*(len(widths)-1)-s.Width, len(widths)-1
	for _, w := range widths {
		over += w
	}
	cut := min(max(over, 0), max(widths[last]-least, 0))
	widths[last] -= cut
	for over -= cut; over > 0; over-- {
		widest := slices.Index(widths, slices.Max(widths))
		if widths[widest] <= least {
			return
		}
		widths[widest]--
	}
}

func (s *Screen) row(row []Cell, widths []int) {
	var line strings.Builder
	for i, c := range row {
		text := Cut(c.Text, widths[i])
		line.WriteString(s.Paint(c.Colour, text))
		if i < len(row)-1 {
			line.WriteString(strings.Repeat(" ", widths[i]-runewidth.StringWidth(text)+gap))
		}
	}
	s.Printf("%s\n", line.String())
}

// Fields writes names with their values, a line each.
func (s *Screen) Fields(rows ...[]Cell) {
	for _, row := range rows {
		row[0].Text = "  " + row[0].Text
	}
	// Values are to be read, and copied, as a whole.
	whole := *s
	whole.Width = 0
	whole.Table(nil, rows)
}

// Field is a row for Fields, whose value may have a colour.
func Field(name, value string, colour ...Colour) []Cell {
	row := Cells(name, value)
	for _, c := range colour {
		row[1].Colour = c
	}
	return row
}

// Cut returns text in at most width columns, of which some characters take two.
func Cut(text string, width int) string {
	if width < 1 {
		return ""
	}
	return runewidth.Truncate(text, width, "…")
}

// Printable returns text on one line without what could steer a terminal:
// names and messages come from strangers' repositories.
func Printable(text string) string {
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

// PrintableLines is Printable for text of several lines.
func PrintableLines(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = Printable(line)
	}
	return strings.Join(lines, "\n")
}

func orDash(text string) string {
	if strings.TrimSpace(text) == "" {
		return text + "-"
	}
	return text
}

func YesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func Size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// Number returns "12,345".
func Number(n int) string { return humanize.Comma(int64(n)) }

// Plural returns "1 release", "2 releases", "3 repositories".
func Plural(n int, noun string) string {
	return Number(n) + " " + english.PluralWord(n, noun, "")
}

// When returns a time as people say it and as clocks show it, in the zone of now.
func (s *Screen) When(t *time.Time) string {
	if t == nil || t.IsZero() {
		return "-"
	}
	now := s.Now()
	return fmt.Sprintf("%s (%s)", humanize.RelTime(*t, now, "ago", "from now"), t.In(now.Location()).Format("2006-01-02 15:04:05 MST"))
}

// Ago is the short form of when, for tables: as people say it on a terminal,
// as clocks show it elsewhere.
func (s *Screen) Ago(t *time.Time) string {
	now := s.Now()
	switch {
	case t == nil || t.IsZero():
		return "-"
	case s.Terminal():
		return humanize.RelTime(*t, now, "ago", "from now")
	}
	return t.In(now.Location()).Format("2006-01-02 15:04:05")
}

// Shortly returns a duration that people wait for.
func Shortly(d time.Duration) string {
	if d < 10*time.Second {
		return max(d, 0).Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// Quote returns text as one word of a POSIX shell. Tags are named by
// strangers and may hold what a shell would run.
func Quote(text string) string {
	const safe = "-_./:+#@%=,~"
	odd := strings.ContainsFunc(text, func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune(safe, r)
	})
	if !odd && text != "" {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
