package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage"
)

// counterFields say what an update found and did.
func counterFields(n *wire.Counters) [][]cell {
	return [][]cell{
		field("catalog", fmt.Sprintf("%s: %d added, %d updated, %d removed, %d skipped",
			plural(n.SourcePackages, "package"), n.SourceAdded, n.SourceUpdated, n.SourceRemoved, n.SourceSkipped)),
		field("upstreams", fmt.Sprintf("%d scanned, %d synced, %d failed", n.ReposScanned, n.PackagesSynced, n.SourceRepoFailed)),
		field("tarballs", fmt.Sprintf("%d new, %d present", n.TarballsCreated, n.TarballsPresent)),
	}
}

func (p *program) statusCommand() *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how the server is",
		Example: `  packbase status
  packbase status --watch`,
		Args: cobra.NoArgs,
	}
	r := p.addRemote(cmd)
	cmd.Flags().BoolVar(&watch, "watch", false, "show it again each second, until Ctrl-C")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := p.client(r)
		if err != nil {
			return err
		}
		if watch {
			return p.watchStatus(cmd.Context(), r, c)
		}
		raw, err := c.get(cmd.Context(), wire.StatusRoute, nil)
		return show(p, r, raw, err, func(s *screen, st wire.Status) { drawStatus(s, c, st) })
	}
	return cmd
}

// watchStatus shows the status each second until ctx ends. A server that goes
// away may come back, unless it was not there at first.
func (p *program) watchStatus(ctx context.Context, r *remote, c *client) error {
	s := p.screen(p.stdout)
	for first := true; ; first = false {
		raw, err := c.get(ctx, wire.StatusRoute, nil)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && first:
			return err
		case r.json:
			s.printf("%s", raw)
		default:
			s.turn(first, statusPage(s, c, raw, err))
		}
		if pause(ctx, time.Second) != nil {
			return nil
		}
	}
}

// statusPage returns what the screen should show.
func statusPage(s *screen, c *client, raw []byte, err error) string {
	var page strings.Builder
	frame := *s
	frame.out = &page
	var st wire.Status
	if err == nil {
		st, err = decode[wire.Status](raw)
	}
	if err != nil {
		frame.printf("%s\n", err)
	} else {
		drawStatus(&frame, c, st)
	}
	return page.String()
}

// turn puts a page in the place of the one before. Each line is written over
// the old one, as a screen that is wiped first flickers.
func (s *screen) turn(first bool, page string) {
	if !s.terminal() {
		s.printf("%s\n", page)
		return
	}
	if first {
		s.printf("\x1b[2J")
	}
	lines := strings.Split(strings.TrimSuffix(page, "\n"), "\n")
	lines = lines[:min(len(lines), s.height-1)]
	s.printf("\x1b[H%s\x1b[K\n\x1b[J", strings.Join(lines, "\x1b[K\n"))
}

func drawStatus(s *screen, c *client, st wire.Status) {
	s.printf("%s at %s\n\n", s.paint(bold, "packbase "+printable(st.Release)), c.base)
	s.fields(
		field("packages", fmt.Sprintf("%s, with %s of %s", number(st.PackagesTotal), plural(st.Releases, "release"), size(st.Bytes))),
		[]cell{{text: "healthy"}, {number(st.PackagesHealthy), green}},
		[]cell{{text: "unhealthy"}, {number(st.PackagesUnhealthy), alarm(st.PackagesUnhealthy)}},
		[]cell{{text: "frozen"}, {number(st.PackagesFrozen), alarm(st.PackagesFrozen)}},
		field("moved tags", number(st.MovedTags)),
		[]cell{{text: "bytes"}, {bytesText(s, &st), alarm(st.Blobs.Behind + st.Blobs.Damaged)}},
		field("languages", countsText(st.Languages)),
		field("disk free", sizeText(st.Update.DiskFree)),
		field("writes need", st.Auth),
	)
	s.printf("\n%s\n", s.paint(bold, "update"))
	s.fields(updateFields(s, &st.Update)...)
	if st.Replication != nil {
		drawReplication(s, st)
	}
	drawQueue(s, st)
}

// bytesText says how the reading of all stored bytes stands.
func bytesText(s *screen, st *wire.Status) string {
	b := &st.Blobs
	text := "all read since " + s.when(b.CheckedSince)
	if b.CheckedSince == nil {
		text = "none are stored"
	}
	if b.Behind > 0 {
		text += fmt.Sprintf("; %s overdue", plural(b.Behind, "blob"))
	}
	if b.Damaged > 0 {
		text += fmt.Sprintf("; %s damaged or lost", plural(b.Damaged, "blob"))
	}
	return text
}

func drawReplication(s *screen, st wire.Status) {
	r := st.Replication
	s.printf("\n%s\n", s.paint(bold, "replication"))
	rows := [][]cell{field("central", printable(r.Central)), field("changes", fmt.Sprintf("%s of %s", humanize.Comma(r.Seq), humanize.Comma(r.Head))),
		{{text: "set aside"}, {number(r.SetAside), alarm(r.SetAside)}}}
	if r.Halted != "" {
		rows = append(rows, []cell{{text: "halted"}, {printable(r.Halted), red}})
	}
	s.fields(rows...)
}

func updateFields(s *screen, u *wire.Update) [][]cell {
	rows := [][]cell{{{text: "state"}, {u.State, stateColour(u.State)}}}
	if u.State == storage.Running {
		rows = append(rows, field("done", fmt.Sprintf("%d of %s", u.Done, plural(u.Total, "package"))))
	}
	if u.StartedAt == nil {
		return append(rows, field("last", "never"))
	}
	rows = append(rows, field("began", s.when(u.StartedAt)))
	if u.EndedAt != nil {
		rows = append(rows, field("ended", s.when(u.EndedAt)), []cell{{text: "outcome"}, {u.LastState, stateColour(u.LastState)}})
	}
	return append(rows, counterFields(&u.Counters)...)
}

func drawQueue(s *screen, st wire.Status) {
	q := &st.Queue
	s.printf("\n%s\n", s.paint(bold, "queue"))
	s.fields(
		field("pending", fmt.Sprint(q.Pending)),
		field("active", fmt.Sprint(q.Active)),
		field("scheduled", fmt.Sprint(q.Scheduled)),
		field("to try again", fmt.Sprint(q.Retry)),
		[]cell{{text: "failed in a day"}, {fmt.Sprint(q.Failed), alarm(q.Failed)}},
	)
	s.printf("\n")
	if len(q.Workers) == 0 {
		s.printf("%s\n", s.paint(red, "no worker is alive: jobs wait until `packbase worker` runs"))
		return
	}
	var rows [][]cell
	for _, w := range q.Workers {
		rows = append(rows, cells(w.ID, fmt.Sprintf("%d of %d", len(w.Jobs), w.Concurrency), doingText(w.Jobs)))
	}
	s.table([]string{"WORKER", "JOBS", "DOING"}, rows)
}

func doingText(jobs []wire.Doing) string {
	var parts []string
	for _, d := range jobs {
		parts = append(parts, strings.TrimSpace(fmt.Sprintf("%s %s %s", cmp.Or(d.Package, d.Kind), d.Progress.Step, amount(d.Progress))))
	}
	return strings.Join(parts, ", ")
}

func alarm(n int) colour {
	if n > 0 {
		return red
	}
	return plain
}

func sizeText(n int64) string {
	if n < 0 {
		return "-"
	}
	return size(n)
}

func countsText(counts map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, counts[name]))
	}
	return strings.Join(parts, ", ")
}
