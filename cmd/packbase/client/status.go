package client

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

	"github.com/francescobianco/packbase/api/route"
	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/cmd/packbase/term"
	"github.com/francescobianco/packbase/storage/jobs"
)

// counterFields say what an update found and did.
func counterFields(n *wire.Counters) [][]term.Cell {
	return [][]term.Cell{
		term.Field("catalog", fmt.Sprintf("%s: %d added, %d updated, %d removed, %d skipped",
			term.Plural(n.SourcePackages, "package"), n.SourceAdded, n.SourceUpdated, n.SourceRemoved, n.SourceSkipped)),
		term.Field("upstreams", fmt.Sprintf("%d scanned, %d synced, %d failed", n.ReposScanned, n.PackagesSynced, n.SourceRepoFailed)),
		term.Field("tarballs", fmt.Sprintf("%d new, %d present", n.TarballsCreated, n.TarballsPresent)),
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
		raw, err := c.get(cmd.Context(), route.Status, nil)
		return show(p, r, raw, err, func(s *term.Screen, st wire.Status) { drawStatus(s, c, st) })
	}
	return cmd
}

// watchStatus shows the status each second until ctx ends. A server that goes
// away may come back, unless it was not there at first.
func (p *program) watchStatus(ctx context.Context, r *remote, c *client) error {
	s := p.Screen(p.Stdout)
	for first := true; ; first = false {
		raw, err := c.get(ctx, route.Status, nil)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && first:
			return err
		case r.json:
			s.Printf("%s", raw)
		default:
			s.Turn(first, statusPage(s, c, raw, err))
		}
		if pause(ctx, time.Second) != nil {
			return nil
		}
	}
}

// statusPage returns what the screen should show.
func statusPage(s *term.Screen, c *client, raw []byte, err error) string {
	var page strings.Builder
	frame := *s
	frame.Out = &page
	var st wire.Status
	if err == nil {
		st, err = decode[wire.Status](raw)
	}
	if err != nil {
		frame.Printf("%s\n", term.PrintableLines(err.Error()))
	} else {
		drawStatus(&frame, c, st)
	}
	return page.String()
}

func drawStatus(s *term.Screen, c *client, st wire.Status) {
	s.Printf("%s at %s\n\n", s.Paint(term.Bold, "packbase "+term.Printable(st.Release)), c.base)
	s.Fields(
		term.Field("packages", packagesText(&st)),
		term.Field("healthy", healthyText(&st), term.Green),
		term.Field("unhealthy", term.Number(st.PackagesUnhealthy), alarm(st.PackagesUnhealthy)),
		term.Field("frozen", term.Number(st.PackagesFrozen), alarm(st.PackagesFrozen)),
		term.Field("moved tags", term.Number(st.MovedTags)),
		term.Field("bytes", bytesText(s, &st), alarm(st.Blobs.Behind+st.Blobs.Damaged)),
		term.Field("languages", countsText(st.Languages)),
		term.Field("disk free", sizeText(st.Update.DiskFree)),
		term.Field("writes need", st.Auth),
	)
	s.Printf("\n%s\n", s.Paint(term.Bold, "update"))
	s.Fields(updateFields(s, &st.Update)...)
	if st.Replication != nil {
		drawReplication(s, st)
	}
	drawQueue(s, st)
}

func packagesText(st *wire.Status) string {
	what := term.Plural(st.Releases, "release")
	if st.Snapshots > 0 {
		what += " and " + term.Plural(st.Snapshots, "snapshot")
	}
	return fmt.Sprintf("%s, with %s of %s", term.Number(st.PackagesTotal), what, term.Size(st.Bytes))
}

// healthyText counts what is healthy, and what is neither that nor unhealthy or frozen.
func healthyText(st *wire.Status) string {
	text := term.Number(st.PackagesHealthy)
	if st.PackagesStale > 0 {
		text += fmt.Sprintf(", and %s stale", term.Number(st.PackagesStale))
	}
	if st.PackagesWaiting > 0 {
		text += fmt.Sprintf(", and %s waiting", term.Number(st.PackagesWaiting))
	}
	return text
}

// bytesText says how the reading of all stored bytes stands.
func bytesText(s *term.Screen, st *wire.Status) string {
	b := &st.Blobs
	text := "all read since " + s.When(b.CheckedSince)
	if b.CheckedSince == nil {
		text = "none are stored"
	}
	if b.Behind > 0 {
		text += fmt.Sprintf("; %s overdue", term.Plural(b.Behind, "blob"))
	}
	if b.Damaged > 0 {
		text += fmt.Sprintf("; %s damaged or lost", term.Plural(b.Damaged, "blob"))
	}
	return text
}

func drawReplication(s *term.Screen, st wire.Status) {
	r := st.Replication
	s.Printf("\n%s\n", s.Paint(term.Bold, "replication"))
	rows := [][]term.Cell{term.Field("central", term.Printable(r.Central)), term.Field("changes", fmt.Sprintf("%s of %s", humanize.Comma(r.Seq), humanize.Comma(r.Head))),
		term.Field("answered", s.When(r.SyncedAt)), term.Field("set aside", term.Number(r.SetAside), alarm(r.SetAside))}
	if r.Halted != "" {
		rows = append(rows, term.Field("halted", term.Printable(r.Halted), term.Red), term.Field("next", "once the cause is known: packbase replicate, or up, with --resume"))
	}
	s.Fields(rows...)
}

func updateFields(s *term.Screen, u *wire.Update) [][]term.Cell {
	rows := [][]term.Cell{term.Field("state", u.State, term.StateColour(u.State))}
	if u.State == jobs.Running {
		rows = append(rows, term.Field("done", fmt.Sprintf("%d of %s", u.Done, term.Plural(u.Total, "package"))))
	}
	if u.StartedAt == nil {
		return append(rows, term.Field("last", "never"))
	}
	rows = append(rows, term.Field("began", s.When(u.StartedAt)))
	if u.EndedAt != nil {
		rows = append(rows, term.Field("ended", s.When(u.EndedAt)), term.Field("outcome", u.LastState, term.StateColour(u.LastState)))
	}
	return append(rows, counterFields(&u.Counters)...)
}

func drawQueue(s *term.Screen, st wire.Status) {
	q := &st.Queue
	s.Printf("\n%s\n", s.Paint(term.Bold, "queue"))
	s.Fields(
		term.Field("pending", fmt.Sprint(q.Pending)),
		term.Field("active", fmt.Sprint(q.Active)),
		term.Field("scheduled", fmt.Sprint(q.Scheduled)),
		term.Field("to try again", fmt.Sprint(q.Retry)),
		term.Field("failed in a day", fmt.Sprint(q.Failed), alarm(q.Failed)),
	)
	s.Printf("\n")
	if len(q.Workers) == 0 {
		s.Printf("%s\n", s.Paint(term.Red, "no worker is alive: jobs wait until `packbase worker` runs"))
		return
	}
	var rows [][]term.Cell
	for _, w := range q.Workers {
		rows = append(rows, term.Cells(w.ID, fmt.Sprintf("%d of %d", len(w.Jobs), w.Concurrency), doingText(w.Jobs)))
	}
	s.Table([]string{"WORKER", "JOBS", "DOING"}, rows)
}

func doingText(jobs []wire.Doing) string {
	var parts []string
	for _, d := range jobs {
		parts = append(parts, strings.TrimSpace(fmt.Sprintf("%s %s %s", cmp.Or(d.Package, d.Kind), d.Progress.Step, amount(d.Progress))))
	}
	return strings.Join(parts, ", ")
}

func alarm(n int) term.Colour {
	if n > 0 {
		return term.Red
	}
	return term.Plain
}

func sizeText(n int64) string {
	if n < 0 {
		return "-"
	}
	return term.Size(n)
}

func countsText(counts map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, counts[name]))
	}
	return strings.Join(parts, ", ")
}
