package client

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/francescobianco/packbase/api/route"
	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/cmd/packbase/term"
)

func (p *program) listCommand() *cobra.Command {
	var local, registered bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the packages",
		Long: `List the names of the packages, one a line: those with a release or a
snapshot here (local) and those in the catalog (registered).`,
		Example: `  packbase list
  packbase list --registered
  packbase list --local --json`,
		Args: cobra.NoArgs,
	}
	r := p.addRemote(cmd)
	cmd.Flags().BoolVar(&local, "local", false, "only those with a release or a snapshot here")
	cmd.Flags().BoolVar(&registered, "registered", false, "only those in the catalog")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if local && registered {
			return term.Usage("--local and --registered cannot be used together")
		}
		c, err := p.client(r)
		if err != nil {
			return err
		}
		raw, err := c.get(cmd.Context(), route.List, nil)
		return show(p, r, raw, err, func(s *term.Screen, n wire.List) {
			names := n.Packages
			switch {
			case local:
				names = n.Local
			case registered:
				names = n.Registered
			}
			drawNames(s, names, n.Local)
			if len(names) == 0 {
				p.Screen(p.Stderr).Printf("no packages; `packbase fetch URL` mirrors one\n")
			}
		})
	}
	return cmd
}

// drawNames writes names, and for people of which of them nothing is here yet.
func drawNames(s *term.Screen, names, local []string) {
	has := make(map[string]bool, len(local))
	for _, name := range local {
		has[name] = true
	}
	for _, name := range names {
		note := ""
		if s.Terminal() && !has[name] {
			note = s.Paint(term.Dim, "  not mirrored")
		}
		s.Printf("%s%s\n", term.Printable(name), note)
	}
}

func (p *program) searchCommand() *cobra.Command {
	var limit int
	var zigName, fingerprint string
	cmd := &cobra.Command{
		Use:   "search [WORDS...]",
		Short: "Search names, descriptions and upstreams, or what Zig calls packages",
		Example: `  packbase search http
  packbase search --limit 100 argument parser
  packbase search --zig-name hello --fingerprint 0x3610a68601d3a5e9`,
	}
	r := p.addRemote(cmd)
	cmd.Flags().StringVar(&zigName, "zig-name", "", "only packages with a release of this .name in its build.zig.zon")
	cmd.Flags().StringVar(&fingerprint, "fingerprint", "", "only packages with a release of this .fingerprint in its build.zig.zon")
	addLimit(cmd, &limit)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 && zigName == "" && fingerprint == "" {
			return term.Usage("want words to look for, or --zig-name, or --fingerprint")
		}
		c, err := p.client(r)
		if err != nil {
			return err
		}
		raw, err := c.get(cmd.Context(), route.Search, query("q", strings.Join(args, " "), "zig_name", zigName, "fingerprint", fingerprint, "limit", strconv.Itoa(limit)))
		return show(p, r, raw, err, drawFound)
	}
	return cmd
}

func addLimit(cmd *cobra.Command, limit *int) {
	cmd.Flags().IntVar(limit, "limit", 20, "how many to show")
}

func drawFound(s *term.Screen, f wire.Found) {
	if len(f.Results) == 0 {
		s.Printf("nothing found\n")
		return
	}
	var rows [][]term.Cell
	for _, r := range f.Results {
		latest := term.Cell{Text: r.LatestTag}
		if r.LatestTag == "" && r.Snapshots > 0 {
			latest = term.Cell{Text: term.Plural(r.Snapshots, "snapshot"), Colour: term.Dim}
		}
		rows = append(rows, []term.Cell{{Text: r.Package, Colour: term.Bold}, latest, {Text: r.Upstream}, {Text: r.Description}})
	}
	s.Table([]string{"PACKAGE", "LATEST", "UPSTREAM", "DESCRIPTION"}, rows)
	drawMore(s, f.Total > len(f.Results))
}

// drawMore says that not all was shown.
func drawMore(s *term.Screen, more bool) {
	if more {
		s.Printf("%s\n", s.Paint(term.Dim, "there are more: --limit"))
	}
}

// completeTimeout bounds what a shell waits for after a tab.
const completeTimeout = 2 * time.Second

type completer = func(cmd *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective)

// completePackage completes one package name.
func (p *program) completePackage(r *remote) completer {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		n, err := complete[wire.List](cmd.Context(), p, r, route.List)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return words(n.Packages), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeRelease completes a package name, then a tag.
func (p *program) completeRelease(r *remote) completer {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) != 1 || packageArg(args[0]) != nil {
			return p.completePackage(r)(cmd, args, toComplete)
		}
		info, err := complete[wire.Package](cmd.Context(), p, r, route.Path(route.Info, args[0]))
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		tags := make([]string, len(info.Tarballs))
		for i, t := range info.Tarballs {
			tags[i] = t.Tag
		}
		return words(tags), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	}
}

// words returns what may be listed in a terminal: a server may say anything.
func words(all []string) []cobra.Completion {
	return slices.DeleteFunc(all, func(word string) bool { return term.Printable(word) != word })
}

func complete[T any](ctx context.Context, p *program, r *remote, path string) (T, error) {
	var none T
	c, err := p.client(r)
	if err != nil {
		return none, err
	}
	raw, err := c.call(ctx, "GET", path, nil, nil, completeTimeout)
	if err != nil {
		return none, err
	}
	return decode[T](raw)
}
