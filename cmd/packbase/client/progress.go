package client

import (
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/mattn/go-runewidth"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/cmd/packbase/term"
)

// A progress shows how far a job is: on a terminal one line that is drawn
// again and again, elsewhere a line for each step.
type progress struct {
	s        *term.Screen
	step     string
	since    time.Time // when the step began
	reported time.Time // when a line was last written; not on a terminal
}

// reportInterval is how often a long step is told of where there is no terminal.
const reportInterval = 10 * time.Second

// maxCounted is more than any job has of anything. A server may say anything, and with more there would be no reckoning.
const maxCounted = 1 << 50

func (g *progress) show(j job) {
	now := g.s.Now()
	step := j.step()
	isNew := step != g.step
	if isNew {
		g.step, g.since = step, now
	}
	line := progressLine(g.s, j, now.Sub(g.since))
	switch {
	case g.s.Terminal():
		g.s.Printf("\r%s\x1b[K", line)
	case isNew || now.Sub(g.reported) >= reportInterval:
		g.reported = now
		g.s.Printf("%s\n", line)
	}
}

// clear takes the line away, so that others can be written.
func (g *progress) clear() {
	if g.s.Terminal() && g.step != "" {
		g.s.Printf("\r\x1b[K")
	}
}

// progressLine returns the state of j, whose step began elapsed ago, as one
// line that fits the screen.
func progressLine(s *term.Screen, j job, elapsed time.Duration) string {
	left := term.Printable(fmt.Sprintf("%s  %s", j.name(), j.step()))
	if j.State != "running" {
		return cutLine(s, left)
	}
	p := j.Progress
	p.Done, p.Total = min(max(p.Done, 0), maxCounted), min(p.Total, maxCounted)
	var right []string
	if done := amount(p); done != "" {
		right = append(right, done)
	}
	if p.Total > 0 {
		right = append(right, fmt.Sprintf("%d%%", 100*min(p.Done, p.Total)/p.Total))
	}
	if rest := timeLeft(p, elapsed); rest != "" {
		right = append(right, rest)
	}
	// The bar leaves room for the longest text that is usual at its right, so
	// that it keeps its length.
	const least, most, text = 10, 30, 45
	room := s.Width - runewidth.StringWidth(left) - text
	if p.Total > 0 && room >= least {
		left += "  " + bar(p, min(room, most))
	}
	return cutLine(s, strings.Join(append([]string{left}, right...), "  "))
}

// cutLine leaves the last column free: writing there makes some terminals wrap.
func cutLine(s *term.Screen, line string) string {
	if !s.Terminal() {
		return line
	}
	return term.Cut(line, s.Width-1)
}

func bar(p wire.Progress, width int) string {
	full := int(int64(width) * min(p.Done, p.Total) / p.Total)
	return "[" + strings.Repeat("=", full) + strings.Repeat(" ", width-full) + "]"
}

// amount returns "4/7 tags", "3.1 MiB/7.0 MiB", or what is known of it.
func amount(p wire.Progress) string {
	switch {
	case p.Unit == "bytes" && p.Total > 0:
		return term.Size(p.Done) + "/" + term.Size(p.Total)
	case p.Unit == "bytes":
		return term.Size(p.Done)
	case p.Total > 0:
		return strings.TrimSpace(humanize.Comma(p.Done) + "/" + humanize.Comma(p.Total) + " " + term.Printable(p.Unit))
	case p.Done > 0:
		return strings.TrimSpace(humanize.Comma(p.Done) + " " + term.Printable(p.Unit))
	}
	return ""
}

// timeLeft supposes that the step goes on as fast as it went so far.
func timeLeft(p wire.Progress, elapsed time.Duration) string {
	// What is said too early is wrong too often.
	if p.Total <= 0 || p.Done <= 0 || p.Done >= p.Total || elapsed < time.Second {
		return ""
	}
	rest := float64(elapsed) * float64(p.Total-p.Done) / float64(p.Done)
	return term.Shortly(time.Duration(rest).Round(time.Second)) + " left"
}
