package client

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/francescobianco/packbase/api/route"
	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/cmd/packbase/term"
	"github.com/francescobianco/packbase/storage/jobs"
)

func (p *program) jobsCommand() *cobra.Command {
	var state, pkg, follow string
	var limit int
	cmd := &cobra.Command{
		Use:   "jobs",
		Short: "List jobs, newest first; follow, retry or cancel one",
		Example: `  packbase jobs
  packbase jobs --state failed --package hello
  packbase jobs --follow c8051a01`,
		Args: cobra.NoArgs,
	}
	r := p.addRemote(cmd)
	f := cmd.Flags()
	f.StringVar(&state, "state", "", "only those that are queued, running, succeeded, failed or cancelled")
	f.StringVar(&pkg, "package", "", "only those of a package")
	f.StringVar(&follow, "follow", "", "show how far the job with this id is, until it ends")
	addLimit(cmd, &limit)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := p.client(r)
		if err != nil {
			return err
		}
		if follow != "" {
			if err := jobArg(follow); err != nil {
				return err
			}
			return p.followJob(cmd, r, c, follow)
		}
		raw, err := c.get(cmd.Context(), route.Jobs, query("state", state, "package", pkg, "limit", strconv.Itoa(limit)))
		return show(p, r, raw, err, drawJobs)
	}
	p.completeFlags(cmd, r)
	cmd.AddCommand(
		p.jobCommand("retry", route.Retry, "Have a job done again that ended without success"),
		p.jobCommand("cancel", route.Cancel, "End a job that is queued, or have a running one stop"),
	)
	return cmd
}

func (p *program) completeFlags(cmd *cobra.Command, r *remote) {
	states := []cobra.Completion{jobs.Queued, jobs.Running, jobs.Succeeded, jobs.Failed, jobs.Cancelled}
	// The errors are about flags that are not there.
	_ = cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(states, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("package", p.completePackage(r))
}

// jobCommand returns `packbase jobs retry` or `cancel`.
func (p *program) jobCommand(verb, path, short string) *cobra.Command {
	cmd := &cobra.Command{
		Use:     verb + " ID",
		Short:   short,
		Example: "  packbase jobs " + verb + " c8051a01",
		Args:    cobra.ExactArgs(1),
	}
	r := p.addRemote(cmd)
	cmd.GroupID = "" // of the commands at the top only
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := jobArg(args[0]); err != nil {
			return err
		}
		c, err := p.client(r)
		if err != nil {
			return err
		}
		raw, err := c.post(cmd.Context(), route.Path(path, args[0]), nil)
		return show(p, r, raw, err, func(s *term.Screen, j wire.Job) { drawJob(s, job{Job: j}) })
	}
	return cmd
}

func jobArg(id string) error {
	if u, err := uuid.Parse(id); !jobs.ValidShortID(id) && (err != nil || u.String() != id) {
		return term.Usage("%q is not the id of a job, nor its last %d digits; `packbase jobs` lists them", id, jobs.ShortID)
	}
	return nil
}

func (p *program) followJob(cmd *cobra.Command, r *remote, c *client, id string) error {
	j, err := p.followFor(cmd.Context(), c, id, 0)
	if err != nil {
		return err
	}
	if r.json {
		return errors.Join(p.printJob(j), j.err())
	}
	drawJob(p.Screen(p.Stdout), j)
	return j.err()
}

func drawJobs(s *term.Screen, page wire.Jobs) {
	if len(page.Jobs) == 0 {
		s.Printf("no jobs\n")
		return
	}
	var rows [][]term.Cell
	for _, each := range page.Jobs {
		j := job{Job: each}
		id := j.ID
		if s.Terminal() {
			id = id[max(0, len(id)-jobs.ShortID):]
		}
		rows = append(rows, []term.Cell{{Text: id}, {Text: j.State, Colour: term.StateColour(j.State)}, {Text: j.name()}, {Text: s.Ago(&j.CreatedAt)}, {Text: took(s, j)}, {Text: outcome(j)}})
	}
	s.Table([]string{"JOB", "STATE", "PACKAGE", "ASKED FOR", "TOOK", "OUTCOME"}, rows)
	drawMore(s, page.Next != "")
}

// took returns how long the job has run.
func took(s *term.Screen, j job) string {
	switch {
	case j.StartedAt == nil:
		return "-"
	case j.EndedAt == nil:
		return term.Shortly(s.Now().Sub(*j.StartedAt))
	}
	return term.Shortly(j.EndedAt.Sub(*j.StartedAt))
}

// outcome says how far the job is, or how it ended.
func outcome(j job) string {
	switch {
	case j.State == jobs.Running:
		return fmt.Sprintf("%s %s", j.step(), amount(j.Progress))
	case j.State == jobs.Succeeded && j.Kind == jobs.FetchPackage:
		done := j.Fetched()
		return fmt.Sprintf("%s, %d new", term.Plural(done.Count, "release"), done.Created)
	case j.Error.Code != "":
		return j.Error.Code + ": " + j.Error.Message
	}
	return "-"
}

func drawJob(s *term.Screen, j job) {
	rows := [][]term.Cell{
		term.Field("job", j.ID),
		term.Field("kind", j.Kind),
		term.Field("package", j.Package),
		term.Field("state", j.State, term.StateColour(j.State)),
		term.Field("attempts", strconv.Itoa(j.Attempts)),
		term.Field("asked for", s.When(&j.CreatedAt)),
		term.Field("took", took(s, j)),
		term.Field("outcome", outcome(j)),
	}
	if j.Target != "" {
		rows = append(rows, term.Field("only", j.Target))
	}
	if j.NextTryAt != nil {
		rows = append(rows, term.Field("next attempt", s.When(j.NextTryAt)))
	}
	s.Fields(rows...)
}
