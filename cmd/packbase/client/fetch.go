package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/francescobianco/packbase/api/route"
	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/cmd/packbase/term"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/zigpkg"
)

func (p *program) fetchCommand() *cobra.Command {
	var pkg string
	var wait, private bool
	var limit time.Duration
	cmd := &cobra.Command{
		Use:   "fetch URL",
		Short: "Have a package mirrored",
		Long: `Have the tags of a Git repository mirrored, or with #TAG, #BRANCH or #COMMIT
behind its URL only that. The server does it as a job; with --wait the command
stays until the job has ended, and prints what to paste into a project. Ctrl-C
ends the waiting, not the job.

With --json the answer is the queued job's, or with --wait the job as it ended.`,
		Example: `  packbase fetch https://github.com/karlseguin/http.zig
  packbase fetch --wait --timeout 10m git+https://github.com/Hejsil/zig-clap#0.11.0
  packbase fetch --name clap https://github.com/Hejsil/zig-clap`,
		Args: cobra.ExactArgs(1),
	}
	r := p.addRemote(cmd)
	cmd.Flags().StringVar(&pkg, "name", "", "name of the package here (default the last part of the URL)")
	cmd.Flags().BoolVar(&private, "private", false, "let only those with a token read it, from the beginning")
	addWait(cmd, &wait, &limit)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := name.ParseUpstream(args[0]); err != nil {
			return term.Usage("%w", err)
		}
		if pkg != "" {
			if err := packageArg(pkg); err != nil {
				return err
			}
		}
		c, err := p.client(r)
		if err != nil {
			return err
		}
		raw, err := c.post(cmd.Context(), route.Fetch, wire.Fetch{URL: args[0], Name: pkg, Private: private})
		if err != nil || !wait {
			return show(p, r, raw, err, drawQueued)
		}
		q, err := decode[wire.Queued](raw)
		if err != nil {
			return err
		}
		return p.waitFetch(cmd.Context(), r, c, q.JobID, limit)
	}
	return cmd
}

// addWait adds the flags of commands that may wait for a job.
func addWait(cmd *cobra.Command, wait *bool, limit *time.Duration) {
	cmd.Flags().BoolVar(wait, "wait", false, "stay until it is done")
	cmd.Flags().DurationVar(limit, "timeout", 5*time.Minute, "how long to wait; 0 for ever")
}

func drawQueued(s *term.Screen, q wire.Queued) {
	s.Printf("%s is queued as job %s\n", term.Printable(q.Package), term.Printable(q.JobID))
	s.Printf("%s\n", s.Paint(term.Dim, "`packbase jobs --follow "+term.Printable(q.JobID)+"` shows how far it is."))
}

// waitFetch follows a fetch to its end and says how to use the package.
func (p *program) waitFetch(ctx context.Context, r *remote, c *client, id string, limit time.Duration) error {
	j, err := p.followFor(ctx, c, id, limit)
	if err != nil {
		return err
	}
	if r.json {
		return errors.Join(p.printJob(j), j.err())
	}
	if err := j.err(); err != nil {
		return err
	}
	raw, err := c.get(ctx, route.Path(route.Info, j.Package), nil)
	if err != nil {
		return err
	}
	info, err := decode[wire.Package](raw)
	if err != nil {
		return err
	}
	drawFetched(p.Screen(p.Stdout), c, j, info)
	return nil
}

// drawFetched writes what a fetch brought.
func drawFetched(s *term.Screen, c *client, j job, info wire.Package) {
	done, news := j.Fetched(), "nothing new"
	if done.Created > 0 {
		news = fmt.Sprintf("%d new", done.Created)
	}
	here := term.Plural(done.Count, "release")
	if done.Count == 0 {
		here = term.Plural(info.Counts.Snapshots, "snapshot")
	}
	s.Printf("%s %s: %s here, %s\n\n", s.Paint(term.Green, "ok"), term.Printable(j.Package), here, news)
	t := find(&info, done.Tag, done.Commit)
	if t == nil {
		return
	}
	s.Fields(
		term.Field("release", releaseName(t)+", "+term.Size(t.Size)),
		term.Field("tarball", c.url(t.URL, nil)),
		term.Field("zig hash", t.Zig.Hash),
	)
	if n := len(info.RejectedTags); n > 0 {
		s.Printf("\n%s cannot be mirrored: `packbase info %s` says why.\n", term.Plural(n, "tag"), term.Printable(info.Package))
	}
	drawUse(s, c, info.Package, t)
}

// drawUse writes the lines that put a release into a project.
func drawUse(s *term.Screen, c *client, pkg string, t *wire.Tarball) {
	if t.Zig.Problem != "" {
		s.Printf("\n%s zig will not take it as a dependency: %s\n", s.Paint(term.Yellow, "warn"), term.Printable(t.Zig.Problem))
	}
	s.Printf("\nIn a project, either of\n\n")
	s.Printf("  zig fetch %s %s\n", zigpkg.SaveFlag(t.Zig.Name, pkg), term.Quote(term.Printable(c.url(t.URL, nil))))
	if t.GitHidden == "" {
		s.Printf("  zig fetch %s %s\n", zigpkg.SaveFlag(t.Zig.Name, pkg), term.Quote(c.gitURL(pkg, t)))
	}
}

// gitURL returns where Git clients and zig find a release.
func (c *client) gitURL(pkg string, t *wire.Tarball) string {
	u := *c.base
	u.Scheme = "git+" + u.Scheme
	u.Path += "/" + pkg
	u.Fragment = t.Tag
	if t.Tag == "" {
		u.Fragment = t.Commit
	}
	return u.String()
}

func (p *program) updateCommand() *cobra.Command {
	var wait bool
	var limit time.Duration
	cmd := &cobra.Command{
		Use:   "update",
		Short: "Have the catalog read again, and what changed mirrored",
		Long: `Have the catalog read again, and the packages mirrored that changed. One update
runs at a time; a request during one makes one more follow. With --wait the
command stays until all is done, through a cooldown as well; it names what could
not be mirrored, now or before if it waits for its next try, and fails then.`,
		Example: `  packbase update
  packbase update --wait --timeout 30m`,
		Args: cobra.NoArgs,
	}
	r := p.addRemote(cmd)
	addWait(cmd, &wait, &limit)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := p.client(r)
		if err != nil {
			return err
		}
		if wait {
			return p.waitUpdate(cmd.Context(), r, c, limit)
		}
		raw, err := c.post(cmd.Context(), route.Update, nil)
		return show(p, r, raw, err, drawUpdate)
	}
	return cmd
}

// updateAnswer is what POST /api/update may answer without a wait.
type updateAnswer struct {
	wire.Queued
	RetryAfter int64 `json:"retry_after"` // seconds
}

func drawUpdate(s *term.Screen, u updateAnswer) {
	switch u.Status {
	case "started":
		s.Printf("the update has begun as job %s\n", term.Printable(u.JobID))
	case "queued":
		s.Printf("an update is running; one more follows it\n")
	case "cooldown":
		s.Printf("there was an update just now; ask again in %s\n", time.Duration(u.RetryAfter)*time.Second)
	default:
		s.Printf("%s\n", term.Printable(u.Status))
	}
	s.Printf("%s\n", s.Paint(term.Dim, "`packbase status --watch` shows how far it is."))
}

// waitUpdate has an update made and follows it, and its packages, to the end.
func (p *program) waitUpdate(ctx context.Context, r *remote, c *client, limit time.Duration) error {
	var j job
	err := within(ctx, limit, "The update goes on: `packbase status --watch`.", func(ctx context.Context) (err error) {
		g := &progress{s: p.Screen(p.Stderr)}
		defer g.clear()
		j, err = c.update(ctx, g.show)
		return err
	})
	if err != nil {
		return err
	}
	if r.json {
		err = p.printJob(j)
	}
	if err := errors.Join(err, j.err()); err != nil {
		return err
	}
	var n wire.Counters
	if err := json.Unmarshal(j.Result, &n); err != nil {
		return fmt.Errorf("read result of job %s: %w", j.ID, err)
	}
	failed := fmt.Errorf("%s could not be mirrored", term.Plural(n.SourceRepoFailed, "package"))
	if n.SourceRepoFailed == 0 {
		failed = nil
	}
	if r.json {
		return failed
	}
	s := p.Screen(p.Stdout)
	if failed == nil {
		s.Printf("%s the catalog is up to date\n\n", s.Paint(term.Green, "ok"))
	}
	s.Fields(counterFields(&n)...)
	if failed == nil {
		return nil
	}
	raw, err := c.get(ctx, route.Jobs, query("run", strconv.FormatInt(*j.RunID, 10), "state", jobs.Failed, "limit", strconv.Itoa(mostFailures)))
	if err != nil {
		return errors.Join(failed, err)
	}
	page, err := decode[wire.Jobs](raw)
	if err != nil {
		return errors.Join(failed, err)
	}
	drawFailures(s, page.Jobs, n.SourceRepoFailed)
	return failed
}

// mostFailures is how many packages are named that an update could not mirror.
const mostFailures = 100

// drawFailures names the packages of failed jobs, of all that an update could not mirror.
func drawFailures(s *term.Screen, failed []wire.Job, all int) {
	s.Printf("\n")
	var rows [][]term.Cell
	for _, j := range failed {
		rows = append(rows, []term.Cell{{Text: j.Package, Colour: term.Bold}, {Text: j.Error.Message}})
	}
	if len(rows) > 0 {
		s.Table([]string{"FAILED", "WHY"}, rows)
	}
	switch rest := all - len(failed); {
	case rest > 0 && len(failed) == mostFailures:
		s.Printf("and %s more: `packbase jobs --state failed --limit 500`\n", term.Number(rest))
	case rest > 0: // no job was made for it, or it was cancelled, or is no more
		s.Printf("%s of the catalog could not be asked for: its name is another package's here, as the worker's log says, or its job was cancelled\n", term.Plural(rest, "package"))
	}
}

// update returns the job of an update that began after the call, ended.
func (c *client) update(ctx context.Context, seen func(job)) (job, error) {
	for {
		raw, err := c.post(ctx, route.Update, nil)
		if err != nil {
			return job{}, err
		}
		u, err := decode[updateAnswer](raw)
		if err != nil {
			return job{}, err
		}
		switch {
		case u.JobID != "":
			return c.follow(ctx, u.JobID, c.updateEvents, seen)
		case u.Status == "queued":
			// There may be none to follow, as the status lags a little.
			if j, err := c.followUpdates(ctx, seen); err != nil || j.ID != "" {
				return j, err
			}
		}
		seen(job{Job: wire.Job{Kind: jobs.UpdateCatalog, State: "waiting: " + u.Status}})
		if err := pause(ctx, max(time.Second, time.Duration(u.RetryAfter)*time.Second)); err != nil {
			return job{}, err
		}
	}
}

// updateEvents is the source of an update's states. The job itself only waits
// for its packages; how many have ended is in the status.
func (c *client) updateEvents(ctx context.Context, id string, seen func(job)) (job, error) {
	for {
		j, err := c.job(ctx, id)
		if err != nil {
			return j, err
		}
		st, err := c.status(ctx)
		if err != nil {
			return j, err
		}
		if u := st.Update; u.JobID == id && u.Total > 0 {
			j.Progress = wire.Progress{Step: "mirror", Done: int64(u.Done), Total: int64(u.Total), Unit: "packages"}
		}
		seen(j)
		if !j.Open() {
			return j, nil
		}
		if err := pause(ctx, time.Second); err != nil {
			return j, err
		}
	}
}

func (c *client) status(ctx context.Context) (wire.Status, error) {
	raw, err := c.get(ctx, route.Status, nil)
	if err != nil {
		return wire.Status{}, err
	}
	return decode[wire.Status](raw)
}

// followUpdates follows the update that runs, and the one queued behind it.
// It returns the last one.
func (c *client) followUpdates(ctx context.Context, seen func(job)) (last job, err error) {
	for {
		st, err := c.status(ctx)
		if err != nil || st.Update.JobID == "" || st.Update.JobID == last.ID {
			return last, err
		}
		if last, err = c.follow(ctx, st.Update.JobID, c.updateEvents, seen); err != nil {
			return last, err
		}
		// The server works the status out once a second.
		if err := pause(ctx, 1100*time.Millisecond); err != nil {
			return last, err
		}
	}
}
