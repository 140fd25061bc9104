package client

import (
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/francescobianco/packbase/api/route"
	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/cmd/packbase/term"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/name"
)

func (p *program) tokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "token",
		GroupID: "use",
		Short:   "Make, list and revoke tokens",
		Long: `Make, list and revoke tokens. A token of the scope read sees private packages, one of
the scope write also has packages mirrored, and one of the scope admin also decides
about packages and tokens, as PACKBASE_TOKEN does.`,
		Example: `  packbase token create --scope read --name ci --expires 90d
  packbase token list
  packbase token revoke ci`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, sub := range []*cobra.Command{p.tokenCreateCommand(), p.tokenListCommand(), p.tokenRevokeCommand()} {
		sub.GroupID = ""
		cmd.AddCommand(sub)
	}
	return cmd
}

func (p *program) tokenCreateCommand() *cobra.Command {
	var name, scope, expires string
	cmd := &cobra.Command{
		Use:   "create --name NAME",
		Short: "Make a token, and print it this once",
		Long: `Make a token, and print it: it is stored nowhere, so this is the only time. For Zig
and Git it is the password in the URL: http://x:TOKEN@host/package.`,
		Example: `  packbase token create --scope read --name ci --expires 90d
  packbase token create --scope write --name mirror-bot`,
		Args: cobra.NoArgs,
	}
	r := p.addRemote(cmd)
	cmd.Flags().StringVar(&name, "name", "", "what the token is called")
	cmd.Flags().StringVar(&scope, "scope", access.ScopeRead, "read, write or admin")
	cmd.Flags().StringVar(&expires, "expires", "", "how long it is good for, as in 90d or 12h (default for ever)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if name == "" {
			return term.Usage("--name is missing: it says what the token is for, and revokes it")
		}
		in := wire.CreateToken{Name: name, Scope: scope}
		if expires != "" {
			d, err := parseDays(expires)
			if err != nil {
				return err
			}
			in.Expires = time.Now().Add(d).UTC().Format(time.RFC3339)
		}
		c, err := p.client(r)
		if err != nil {
			return err
		}
		raw, err := c.post(cmd.Context(), route.Tokens, in)
		return show(p, r, raw, err, func(s *term.Screen, t wire.NewToken) { s.Printf("%s\n", term.Printable(t.Secret)) })
	}
	return cmd
}

// parseDays is time.ParseDuration with days.
func parseDays(text string) (time.Duration, error) {
	days, ok := strings.CutSuffix(text, "d")
	if n, err := strconv.Atoi(days); ok && err == nil && n > 0 && n <= 36500 {
		return time.Duration(n) * 24 * time.Hour, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return d, nil
	}
	return 0, term.Usage("--expires: %q is not a duration like 90d or 12h", text)
}

func (p *program) tokenListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the tokens, with when each was used last",
		Example: "  packbase token list",
		Args:    cobra.NoArgs,
	}
	r := p.addRemote(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := p.client(r)
		if err != nil {
			return err
		}
		raw, err := c.get(cmd.Context(), route.Tokens, nil)
		return show(p, r, raw, err, func(s *term.Screen, all wire.Tokens) {
			var rows [][]term.Cell
			for _, t := range all.Tokens {
				expires := "never"
				if t.ExpiresAt != nil {
					expires = t.ExpiresAt.Local().Format(time.DateOnly)
				}
				used := "never"
				if t.LastUsedAt != nil {
					used = s.Ago(t.LastUsedAt)
				}
				rows = append(rows, term.Cells(t.Name, t.Scope, expires, used))
			}
			s.Table([]string{"NAME", "SCOPE", "EXPIRES", "USED"}, rows)
		})
	}
	return cmd
}

func (p *program) tokenRevokeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "revoke NAME",
		Short:   "End a token for good",
		Example: "  packbase token revoke ci",
		Args:    cobra.ExactArgs(1),
	}
	r := p.addRemote(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := p.client(r)
		if err != nil {
			return err
		}
		raw, err := c.post(cmd.Context(), route.Path(route.Revoke, args[0]), nil)
		return show(p, r, raw, err, func(s *term.Screen, _ wire.Revoked) { s.Printf("%s is revoked\n", term.Printable(args[0])) })
	}
	return cmd
}

func (p *program) removeCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "remove PACKAGE [TAG|COMMIT] | URL --reason TEXT",
		Short: "Remove a release, a package or an archive, for good",
		Long: `Remove a release, or all releases of a commit, or the whole package: they are served
to nobody any more, here and on edges, and all who ask are told the reason. The name
and the tags are never used again. The bytes go with the next packbase gc.

URL is that of an archive, as a build.zig.zon has it: nothing is stored for it again.`,
		Example: `  packbase remove https://example.org/x.tar.gz --reason "holds a key"
  packbase remove hello v1.0.0 --reason "holds a key"
  packbase remove hello --reason "asked for by its author"`,
		Args: cobra.RangeArgs(1, 2),
	}
	r := p.addRemote(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "why, for all who ask for it")
	cmd.ValidArgsFunction = p.completePackage(r)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		in := wire.Remove{Package: args[0], Reason: reason}
		if len(args) == 1 && strings.Contains(args[0], "://") {
			in = wire.Remove{Archive: &args[0], Reason: reason}
		} else if err := packageArg(args[0]); err != nil {
			return err
		}
		if reason == "" {
			return term.Usage("--reason is missing: all who ask for what was removed are told it")
		}
		switch {
		case len(args) == 1:
		case args[1] == "":
			return term.Usage("the tag is empty; leave it out to remove all of %s", args[0])
		case name.ValidOID(args[1]):
			in.Commit = &args[1]
		default:
			in.Tag = &args[1]
		}
		c, err := p.client(r)
		if err != nil {
			return err
		}
		raw, err := c.post(cmd.Context(), route.Remove, in)
		return show(p, r, raw, err, drawRemoval)
	}
	return cmd
}

func drawRemoval(s *term.Screen, done wire.Removed) {
	for _, it := range done.Removed {
		name := "@" + it.Tag
		if it.Tag == "" {
			name = "#" + it.Commit
		}
		s.Printf("removed %s\n", term.Printable(done.Package+name))
	}
	if done.Freed {
		s.Printf("removed %s; nothing was published under it, so the name is free\n", term.Printable(done.Package))
	}
	same := "the same commit is still served as "
	if done.Archive != "" {
		same = "the same files are still served as "
		s.Printf("removed %s\n", term.Printable(done.Archive))
	}
	for _, tag := range done.Left {
		s.Printf("%s\n", s.Paint(term.Yellow, same+term.Printable(tag)))
	}
}
