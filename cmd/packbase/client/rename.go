package client

import (
	"github.com/spf13/cobra"

	"github.com/francescobianco/packbase/api/route"
	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/cmd/packbase/term"
)

func (p *program) renameCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rename PACKAGE NAME",
		Short: "Show a package under another name",
		Long: `Show a package under another name, on edges too. It goes on answering to all names
that it ever had, with the same bytes and without a redirect, so nothing that anybody
has pinned breaks; and none of them ever means another package.`,
		Example: "  packbase rename owner.repo repo",
		Args:    cobra.ExactArgs(2),
	}
	r := p.addRemote(cmd)
	cmd.ValidArgsFunction = p.completePackage(r)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		for _, arg := range args {
			if err := packageArg(arg); err != nil {
				return err
			}
		}
		c, err := p.client(r)
		if err != nil {
			return err
		}
		raw, err := c.post(cmd.Context(), route.Rename, wire.Rename{Package: args[0], Name: args[1]})
		return show(p, r, raw, err, func(s *term.Screen, info wire.Checked) { s.Fields(packageFields(s, info.Package)...) })
	}
	return cmd
}
