package client

import (
	"github.com/spf13/cobra"

	"github.com/francescobianco/packbase/api/route"
	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/cmd/packbase/term"
)

func (p *program) reviewCommand() *cobra.Command {
	return p.decideCommand(&cobra.Command{
		Use:   "review PACKAGE accept|keep",
		Short: "Decide about a package that is frozen, as its upstream is not what it was",
		Long: `Decide about a package that is frozen, as its upstream is not what it was: accept
has what upstream has now mirrored again, keep leaves the package as it is for
good. What was mirrored before never changes.`,
		Example: `  packbase info hello
  packbase review hello accept`,
	}, route.Review, "accept", "keep", func(word string) any { return wire.Review{Decision: word} })
}

func (p *program) visibilityCommand() *cobra.Command {
	return p.decideCommand(&cobra.Command{
		Use:   "visibility PACKAGE public|private",
		Short: "Say who may read a package",
		Long: `Say who may read a package: anybody, or those with a token. A package is private by
itself when its upstream wants credentials (PACKBASE_NETRC) at the first look. Edges
follow; what they and others have read already they keep.`,
		Example: "  packbase visibility hello private",
	}, route.Visibility, "public", "private", func(word string) any { return wire.Visibility{Visibility: word} })
}

// decideCommand has cmd post what body makes of its second argument, one of two
// words, for the package that is its first.
func (p *program) decideCommand(cmd *cobra.Command, to, one, other string, body func(word string) any) *cobra.Command {
	cmd.Args = cobra.ExactArgs(2)
	r := p.addRemote(cmd)
	cmd.ValidArgsFunction = p.completePackage(r)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := packageArg(args[0]); err != nil {
			return err
		}
		if args[1] != one && args[1] != other {
			return term.Usage("%q: want %s or %s", args[1], one, other)
		}
		c, err := p.client(r)
		if err != nil {
			return err
		}
		raw, err := c.post(cmd.Context(), route.Path(to, args[0]), body(args[1]))
		return show(p, r, raw, err, func(s *term.Screen, info wire.Checked) { s.Fields(packageFields(s, info.Package)...) })
	}
	return cmd
}
