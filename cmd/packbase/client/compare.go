package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/francescobianco/packbase/cmd/packbase/term"
	"github.com/francescobianco/packbase/storage/otherlog"
)

// mostDifferences is how many differences of two logs are told.
const mostDifferences = 1000

func (p *program) compareCommand() *cobra.Command {
	var with, dir string
	cmd := &cobra.Command{
		Use:   "compare --with URL",
		Short: "Compare the logs of two mirrors",
		Long: `Read the logs of two packbases, and tell what they contradict each other in: what
a tag, a commit or a URL is, and when something was seen. That one has what the
other has not is no difference, nor is a tag of which one of them says that it
moved. Each difference is written into a file of evidence, two signed statements,
which packbase verify --evidence explains to anybody. Exit code 1 if there is any.

What packbase trust knows of a log must hold; of other logs the key that they
show is taken for theirs.`,
		Example: "  packbase compare --with https://mirror.example.org --url https://packbase.example.org",
		Args:    cobra.NoArgs,
	}
	r := p.addRemote(cmd)
	_ = cmd.Flags().MarkHidden("json") // it is there
	cmd.Flags().StringVar(&with, "with", "", "URL of the other packbase")
	cmd.Flags().StringVar(&dir, "dir", ".", "folder for the files of evidence")
	_ = cmd.MarkFlagRequired("with") // it is there
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var readings [2]otherlog.Reading
		for i, url := range []string{r.url, with} {
			if err := p.readLog(cmd.Context(), &remote{url: url, token: r.token, tokenFile: r.tokenFile}, &readings[i]); err != nil {
				return err
			}
		}
		found, err := otherlog.Compare(cmd.Context(), &readings[0], &readings[1], mostDifferences)
		if err != nil {
			return err
		}
		s := p.Screen(p.Stdout)
		for _, e := range found {
			f, err := e.Check()
			if err != nil {
				return err
			}
			name, raw := e.File()
			file := filepath.Join(dir, name)
			if err := os.WriteFile(file, raw, 0o644); err != nil {
				return fmt.Errorf("write evidence: %w", err)
			}
			s.Printf("%s %s: %s\n", s.Paint(term.Red, "differ"), term.Printable(f.About), file)
		}
		if n := len(found); n > 0 {
			return fmt.Errorf("the logs contradict each other: %s; packbase verify --evidence FILE explains one", term.Plural(n, "time"))
		}
		s.Printf("%s %s\n", s.Paint(term.Green, "ok"), "the two logs agree in all that both have")
		return nil
	}
	return cmd
}

// readLog reads the whole log of a server, as it is trusted, if it is.
func (p *program) readLog(ctx context.Context, r *remote, into *otherlog.Reading) error {
	c, err := p.client(r)
	if err != nil {
		return err
	}
	var seen otherlog.Memory
	t, err := p.trusted(c.base)
	switch {
	case err == nil:
		seen = otherlog.Memory{Policy: []byte(t.Policy), Checkpoint: []byte(t.Checkpoint)}
	case !errors.Is(err, errUntrusted):
		return err
	}
	l, err := otherlog.Open(ctx, c.http, c.base.String(), seen)
	if err != nil {
		return err
	}
	return into.Read(ctx, l)
}
