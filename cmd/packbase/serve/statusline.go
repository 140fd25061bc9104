package serve

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/cmd/packbase/term"
	"github.com/francescobianco/packbase/storage/jobs"
)

// statusEvery is how often the line is drawn.
const statusEvery = time.Second

// A statusLine is the last line of a terminal, drawn again and again. What is written to it goes above.
type statusLine struct {
	screen func() *term.Screen // as wide as it is now

	mu   sync.Mutex
	line string
}

func (l *statusLine) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.screen()
	if l.line != "" {
		s.Printf("\r\x1b[K")
	}
	n, err := s.Out.Write(b)
	l.draw(s)
	return n, err
}

// set draws another line; "" takes it away.
func (l *statusLine) set(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.screen()
	if l.line != "" {
		s.Printf("\r\x1b[K")
	}
	l.line = line
	l.draw(s)
}

// draw leaves the last column free: writing there makes some terminals wrap.
func (l *statusLine) draw(s *term.Screen) {
	if l.line != "" {
		s.Printf("\r%s\x1b[K", term.Cut(term.Printable(l.line), s.Width-1))
	}
}

// follow draws how a server is until ctx ends.
func (l *statusLine) follow(ctx context.Context, at string, status func(context.Context) (*wire.Status, error)) {
	tick := time.NewTicker(statusEvery)
	defer tick.Stop()
	defer l.set("")
	for {
		st, err := status(ctx)
		if ctx.Err() != nil {
			return
		}
		l.set(statusText(at, st, err))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// statusText says how a server is: where it listens, what is there, what is being done, and what is not well.
func statusText(at string, st *wire.Status, err error) string {
	parts := []string{"listening on " + at}
	if err != nil {
		return strings.Join(append(parts, "Postgres does not answer"), " · ")
	}
	parts = append(parts, term.Plural(st.PackagesTotal, "package")+", "+term.Plural(st.Releases, "release"))
	if r := st.Replication; r != nil && r.Halted != "" {
		parts = append(parts, "replication halted")
	} else if r != nil && r.Seq < r.Head {
		parts = append(parts, fmt.Sprintf("replicating (%s/%s)", humanize.Comma(r.Seq), humanize.Comma(r.Head)))
	}
	if st.Update.State == jobs.Running {
		parts = append(parts, fmt.Sprintf("updating (%d/%d)", st.Update.Done, st.Update.Total))
	}
	var doing []wire.Doing
	for _, w := range st.Queue.Workers {
		for _, d := range w.Jobs {
			if d.Kind != jobs.UpdateCatalog {
				doing = append(doing, d)
			}
		}
	}
	if len(doing) > 0 {
		parts = append(parts, doingText(doing))
	}
	if st.Queue.Pending > 0 {
		parts = append(parts, humanize.Comma(int64(st.Queue.Pending))+" waiting")
	}
	for _, c := range []struct {
		n    int
		what string
	}{{st.PackagesUnhealthy, "failing"}, {st.PackagesFrozen, "frozen"}, {st.Blobs.Damaged, "damaged"}} {
		if c.n > 0 {
			parts = append(parts, term.Number(c.n)+" "+c.what)
		}
	}
	return strings.Join(parts, " · ")
}

var verbs = map[string]string{
	jobs.FetchPackage: "mirroring", jobs.ProbePackage: "probing", jobs.FetchArchive: "storing", jobs.CaptureTree: "capturing", jobs.CheckTree: "checking",
}

// doingText names the first of the jobs under way.
func doingText(doing []wire.Doing) string {
	d := doing[0]
	text := strings.TrimSpace(cmp.Or(verbs[d.Kind], d.Kind) + " " + d.Package)
	if d.Progress.Total > 0 {
		text += fmt.Sprintf(" (%s/%s)", humanize.Comma(d.Progress.Done), humanize.Comma(d.Progress.Total))
	}
	if len(doing) > 1 {
		text += fmt.Sprintf(" and %d more", len(doing)-1)
	}
	return text
}
