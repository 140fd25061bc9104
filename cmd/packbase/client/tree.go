package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/francescobianco/packbase/api/route"
	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/cmd/packbase/project"
	"github.com/francescobianco/packbase/cmd/packbase/term"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/zigpkg"
)

// manifestsOf reads the project in the folder that args name, else in this one.
func manifestsOf(args []string) ([]wire.TreeManifest, error) {
	dir := "."
	if len(args) > 0 {
		dir = args[0]
	}
	all, err := project.Manifests(dir)
	if err != nil {
		return nil, term.Usage("%w", err)
	}
	out := make([]wire.TreeManifest, len(all))
	for i, m := range all {
		out[i] = wire.TreeManifest(m)
	}
	return out, nil
}

// treeName is what the tree of a project is called when nobody says how.
func treeName(manifests []wire.TreeManifest) (string, error) {
	man, err := zigpkg.ParseManifest([]byte(manifests[0].Text))
	if err != nil {
		return "", term.Usage("%s:%w", manifests[0].File, err)
	}
	return man.Name, packageArg(man.Name)
}

// captureOf is the request for the project in the folder that args name, or for the release. Its tree is called name, or as
// the project or package is.
func captureOf(args []string, name string) (in wire.Capture, err error) {
	in.Name = name
	if len(args) > 0 {
		if i := strings.IndexAny(args[0], "@#"); i > 0 && packageArg(args[0][:i]) == nil {
			if _, err := os.Stat(args[0]); err != nil { // else it is a folder
				in.Release, in.Name = args[0], cmp.Or(name, args[0][:i])
				return in, nil
			}
		}
	}
	if in.Manifests, err = manifestsOf(args); err == nil && name == "" {
		in.Name, err = treeName(in.Manifests)
	}
	return in, err
}

func (p *program) captureCommand() *cobra.Command {
	var name string
	var wait, private, retry bool
	var limit time.Duration
	cmd := &cobra.Command{
		Use:   "capture [DIR | PACKAGE@TAG]",
		Short: "Have all brought that a project depends on, and what that does",
		Long: `Have everything brought that the project in DIR depends on: what its
build.zig.zon and those of its path dependencies name, the dependencies of that,
and so on, lazy ones included. Nothing in the project is edited. What cannot be
had is listed with the reason. A second capture asks upstream for what is new
only; --retry tries again what was missing.

PACKAGE@TAG is a release that is here, PACKAGE#COMMIT a snapshot: what it needs is
brought.`,
		Example: `  packbase capture --wait
  packbase capture --wait clap@0.10.0
  packbase capture --wait --retry ~/src/zls`,
		Args: cobra.MaximumNArgs(1),
	}
	r := p.addRemote(cmd)
	cmd.Flags().StringVar(&name, "name", "", "name of the tree (default the project's)")
	cmd.Flags().BoolVar(&private, "private", false, "show the tree only to those who see private packages")
	cmd.Flags().BoolVar(&retry, "retry", false, "try again what was missing")
	addWait(cmd, &wait, &limit)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		in, err := captureOf(args, name)
		if err != nil {
			return err
		}
		name, in.Private = in.Name, private
		c, err := p.client(r)
		if err != nil {
			return err
		}
		raw, err := c.post(cmd.Context(), route.Trees, in)
		if err == nil && retry {
			if err = p.followCapture(cmd.Context(), c, raw, limit); err == nil {
				raw, err = c.post(cmd.Context(), route.Path(route.TreeRetry, name), nil)
			}
		}
		if err != nil || !wait {
			return show(p, r, raw, err, drawCapture)
		}
		if err := p.followCapture(cmd.Context(), c, raw, limit); err != nil {
			return err
		}
		raw, err = c.get(cmd.Context(), route.Path(route.Tree, name), nil)
		return show(p, r, raw, err, drawTree)
	}
	return cmd
}

func drawCapture(s *term.Screen, q wire.CaptureQueued) {
	s.Printf("%s is being captured by job %s\n", term.Printable(q.Tree), term.Printable(q.JobID))
	s.Printf("%s\n", s.Paint(term.Dim, "`packbase tree "+term.Printable(q.Tree)+"` shows how far it is."))
}

// followCapture waits for the end of a capture that was asked for.
func (p *program) followCapture(ctx context.Context, c *client, queued []byte, limit time.Duration) error {
	q, err := decode[wire.CaptureQueued](queued)
	if err != nil {
		return err
	}
	return within(ctx, limit, "The capture goes on: `packbase tree "+q.Tree+"`.", func(ctx context.Context) error {
		g := &progress{s: p.Screen(p.Stderr)}
		defer g.clear()
		j, err := c.follow(ctx, q.JobID, c.events, func(j job) {
			if j.Progress.Step == "" {
				return // it gives its place back again and again, and takes another
			}
			j.Package, j.State = q.Tree, jobs.Running
			g.show(j)
		})
		return errors.Join(err, j.err())
	})
}

func (p *program) treeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tree [NAME]",
		Short: "Show a captured tree, or the project's in this folder",
		Example: `  packbase tree
  packbase tree zls
  packbase tree zls --sbom > zls.cdx.json`,
		Args: cobra.MaximumNArgs(1),
	}
	r := p.addRemote(cmd)
	sbom := cmd.Flags().Bool("sbom", false, "print it as a software bill of materials, in CycloneDX 1.6")
	survival := cmd.Flags().Bool("survival", false, "say, for all trees or the one, which would not build today from upstream alone")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := p.client(r)
		if err != nil {
			return err
		}
		if *survival && len(args) == 0 {
			return p.survival(cmd.Context(), r, c)
		}
		name := ""
		if len(args) > 0 {
			name = args[0]
		} else {
			manifests, err := manifestsOf(nil)
			if err != nil {
				return err
			}
			if name, err = treeName(manifests); err != nil {
				return err
			}
		}
		if err := packageArg(name); err != nil {
			return err
		}
		if *sbom {
			raw, err := c.get(cmd.Context(), route.Path(route.TreeSBOM, name), nil)
			if err == nil {
				_, err = p.Stdout.Write(raw)
			}
			return err
		}
		raw, err := c.get(cmd.Context(), route.Path(route.Tree, name), nil)
		if *survival {
			return show(p, r, raw, err, func(s *term.Screen, t wire.TreeInfo) { drawSurvival(s, t.Tree) })
		}
		return show(p, r, raw, err, drawTree)
	}
	return cmd
}

// survival shows one line for each tree, page by page.
func (p *program) survival(ctx context.Context, r *remote, c *client) error {
	for path := route.Trees + "?limit=500"; path != ""; {
		at, query, _ := strings.Cut(path, "?")
		values, err := url.ParseQuery(query)
		if err != nil {
			return err
		}
		raw, err := c.get(ctx, at, values)
		if err == nil {
			var page wire.Trees
			if page, err = decode[wire.Trees](raw); err == nil {
				path = page.Next
			}
		}
		err = show(p, r, raw, err, func(s *term.Screen, page wire.Trees) {
			for _, t := range page.Trees {
				drawSurvival(s, t)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func drawSurvival(s *term.Screen, t wire.Tree) {
	said := s.Paint(term.Green, "upstream has all of it")
	switch {
	case t.Lost > 0:
		said = s.Paint(term.Yellow, fmt.Sprintf("would not build without packbase: upstream lost %d of %s", t.Lost, term.Plural(t.Nodes, "package")))
	case t.CheckedAt != nil && t.Untold > 0:
		said = s.Paint(term.Yellow, fmt.Sprintf("upstream did not say whether it still has %d of %s", t.Untold, term.Plural(t.Nodes, "package")))
	case t.CheckedAt == nil:
		said = s.Paint(term.Dim, "upstream was not asked yet")
	}
	s.Printf("%s  %s\n", term.Printable(t.Name), said)
}

// drawTree draws each package below the first that names it, and in one line where others do.
func drawTree(s *term.Screen, t wire.TreeInfo) {
	s.Printf("%s  %s, %s", s.Paint(term.Bold, term.Printable(t.Name)), term.Plural(t.Nodes, "package"), term.Size(t.SizeBytes))
	switch {
	case t.State == "open":
		s.Printf(", %s", s.Paint(term.Yellow, "being captured"))
	case t.Missing > 0:
		s.Printf(", %s", s.Paint(term.Red, fmt.Sprintf("%d missing", t.Missing)))
	}
	s.Printf("\n")
	d := treeDrawing{s: s, below: t.Below(), drawn: map[string]bool{}}
	d.draw("", "", 0)
	for _, problem := range t.Problems {
		s.Printf("%s %s: %s\n", s.Paint(term.Red, "no package"), term.Printable(problem.Name), term.Printable(problem.Reason))
	}
	for _, n := range t.Packages {
		if n.State == "hole" {
			s.Printf("%s %s\n  %s\n", s.Paint(term.Red, "missing"), term.Printable(n.Hash), term.Printable(n.Reason))
		}
	}
}

// maxDrawn is how deep a tree is drawn. None is as deep, but a server may say anything: each line is as long as it is deep.
const maxDrawn = 1000

type treeDrawing struct {
	s     *term.Screen
	below map[string][]*wire.TreeNode // by the parent's hash
	drawn map[string]bool
}

func (d *treeDrawing) draw(parent, indent string, depth int) {
	if depth > maxDrawn {
		return
	}
	nodes := d.below[parent]
	for i, n := range nodes {
		branch, next := "├── ", "│   "
		if i == len(nodes)-1 {
			branch, next = "└── ", "    "
		}
		d.s.Printf("%s%s%s\n", indent, branch, d.line(n))
		if !d.drawn[n.Hash] {
			d.drawn[n.Hash] = true
			d.draw(n.Hash, indent+next, depth+1)
		}
	}
}

func (d *treeDrawing) line(n *wire.TreeNode) string {
	line := term.Printable(n.Title())
	var notes []string
	if n.Source != nil {
		line = strings.TrimSpace(line + " " + term.Printable(n.Source.Version))
		notes = append(notes, term.Size(n.Source.SizeBytes))
	}
	if n.Lazy {
		notes = append(notes, "lazy")
	}
	if d.drawn[n.Hash] && len(d.below[n.Hash]) > 0 {
		notes = append(notes, "as above")
	}
	if len(notes) > 0 {
		line += "  " + d.s.Paint(term.Dim, strings.Join(notes, ", "))
	}
	switch n.State {
	case "hole":
		line += "  " + d.s.Paint(term.Red, "missing: "+term.Printable(n.Code))
	case "waiting":
		line += "  " + d.s.Paint(term.Yellow, "waiting")
	}
	return line
}
