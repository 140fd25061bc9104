package main

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage"
)

func (p *program) jobsCommand() *cobra.Command {
	var state, pkg, follow string
	var limit int
	cmd := &cobra.Command{
		Use:   "jobs",
		Short: "List jobs, newest first; follow, retry or cancel one",
		Example: `  packbase jobs
  packbase jobs --state failed --package hello
  packbase jobs --follow 01a209ca-80e4-77ed-97ac-e240c8051a01`,
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
		raw, err := c.get(cmd.Context(), wire.JobsRoute, query("state", state, "package", pkg, "limit", strconv.Itoa(limit)))
		return show(p, r, raw, err, drawJobs)
	}
	p.completeFlags(cmd, r)
	cmd.AddCommand(
		p.jobCommand("retry", wire.RetryRoute, "Have a job done again that ended without success"),
		p.jobCommand("cancel", wire.CancelRoute, "End a job that is queued, or have a running one stop"),
	)
	return cmd
}

func (p *program) completeFlags(cmd *cobra.Command, r *remote) {
	states := []cobra.Completion{storage.Queued, storage.Running, storage.Succeeded, storage.Failed, storage.Cancelled}
	// The errors are about flags that are not there.
	_ = cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(states, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("package", p.completePackage(r))
}

// jobCommand returns `packbase jobs retry` or `cancel`.
func (p *program) jobCommand(verb, route, short string) *cobra.Command {
	cmd := &cobra.Command{
		Use:     verb + " ID",
		Short:   short,
		Example: "  packbase jobs " + verb + " 01a209ca-80e4-77ed-97ac-e240c8051a01",
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
		raw, err := c.post(cmd.Context(), wire.Path(route, args[0]), nil)
		return show(p, r, raw, err, func(s *screen, j wire.Job) { drawJob(s, job{Job: j}) })
	}
	return cmd
}

func jobArg(id string) error {
	if u, err := uuid.Parse(id); err != nil || u.String() != id {
		return usage("%q is not the id of a job; `packbase jobs` lists them", id)
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
	drawJob(p.screen(p.stdout), j)
	return j.err()
}

func drawJobs(s *screen, page wire.Jobs) {
	if len(page.Jobs) == 0 {
		s.printf("no jobs\n")
		return
	}
	var rows [][]cell
	for _, each := range page.Jobs {
		j := job{Job: each}
		rows = append(rows, []cell{{text: j.ID}, {j.State, stateColour(j.State)}, {text: j.name()}, {text: s.ago(&j.CreatedAt)}, {text: took(s, j)}, {text: outcome(j)}})
	}
	s.table([]string{"JOB", "STATE", "PACKAGE", "ASKED FOR", "TOOK", "OUTCOME"}, rows)
	drawMore(s, page.Next != "")
}

// took returns how long the job has run.
func took(s *screen, j job) string {
	switch {
	case j.StartedAt == nil:
		return "-"
	case j.EndedAt == nil:
		return shortly(s.now().Sub(*j.StartedAt))
	}
	return shortly(j.EndedAt.Sub(*j.StartedAt))
}

// outcome says how far the job is, or how it ended.
func outcome(j job) string {
	switch {
	case j.State == storage.Running:
		return fmt.Sprintf("%s %s", j.step(), amount(j.Progress))
	case j.State == storage.Succeeded && j.Kind == storage.FetchPackage:
		done := j.Fetched()
		return fmt.Sprintf("%s, %d new", plural(done.Count, "release"), done.Created)
	case j.Error.Code != "":
		return j.Error.Code + ": " + j.Error.Message
	}
	return "-"
}

func drawJob(s *screen, j job) {
	rows := [][]cell{
		field("job", j.ID),
		field("kind", j.Kind),
		field("package", j.Package),
		{{text: "state"}, {j.State, stateColour(j.State)}},
		field("attempts", strconv.Itoa(j.Attempts)),
		field("asked for", s.when(&j.CreatedAt)),
		field("took", took(s, j)),
		field("outcome", outcome(j)),
	}
	if j.Target != "" {
		rows = append(rows, field("only", j.Target))
	}
	if j.NextTryAt != nil {
		rows = append(rows, field("next attempt", s.when(j.NextTryAt)))
	}
	s.fields(rows...)
}
