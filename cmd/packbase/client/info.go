package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/francescobianco/packbase/api/route"
	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/cmd/packbase/term"
	"github.com/francescobianco/packbase/storage/name"
)

// releaseName returns the tag, or of a snapshot the commit.
func releaseName(t *wire.Tarball) string { return cmp.Or(t.Tag, t.Commit) }

// find returns the release of a tag, else what there is of a commit, or nil.
func find(info *wire.Package, tag, commit string) *wire.Tarball {
	all := slices.Concat(info.Tarballs, info.Snapshots)
	n := slices.IndexFunc(all, func(t wire.Tarball) bool { return tag != "" && t.Tag == tag })
	if n < 0 {
		n = slices.IndexFunc(all, func(t wire.Tarball) bool { return commit != "" && t.Commit == commit })
	}
	if n < 0 {
		return nil
	}
	return &all[n]
}

func (p *program) infoCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "info PACKAGE [TAG]",
		Short: "Show a package, or one of its releases",
		Long: `Show a package and its releases, or all that is known of one release. TAG may
be the full id of a commit that is mirrored without a tag. With --json and TAG
the answer is the release's manifest.`,
		Example: `  packbase info hello
  packbase info hello v0.1.0
  packbase info hello --json`,
		Args: cobra.RangeArgs(1, 2),
	}
	r := p.addRemote(cmd)
	cmd.ValidArgsFunction = p.completeRelease(r)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := packageArg(args[0]); err != nil {
			return err
		}
		c, err := p.client(r)
		if err != nil {
			return err
		}
		if len(args) == 2 {
			return p.infoRelease(cmd.Context(), r, c, args[0], args[1])
		}
		raw, err := c.get(cmd.Context(), route.Path(route.Info, args[0]), nil)
		return show(p, r, raw, err, func(s *term.Screen, info wire.Package) { drawPackage(s, c, info) })
	}
	return cmd
}

func (p *program) infoRelease(ctx context.Context, r *remote, c *client, pkg, tag string) error {
	if err := name.ValidTag(tag); err != nil {
		return term.Usage("%w", err)
	}
	if r.json {
		path := route.Manifest(pkg, tag, "")
		if name.ValidOID(tag) {
			path = route.Manifest(pkg, "", tag)
		}
		raw, err := c.get(ctx, path, nil)
		return show(p, r, raw, err, func(*term.Screen, struct{}) {})
	}
	raw, err := c.get(ctx, route.Path(route.Info, pkg), nil)
	if err != nil {
		return err
	}
	info, err := decode[wire.Package](raw)
	if err != nil {
		return err
	}
	t := find(&info, tag, tag)
	if t == nil {
		return &AnswerError{Status: http.StatusNotFound, Message: fmt.Sprintf("%s has no release %q here", pkg, tag) +
			"\n`packbase info " + pkg + "` lists those it has."}
	}
	drawRelease(p.Screen(p.Stdout), c, info, t)
	return nil
}

func drawPackage(s *term.Screen, c *client, info wire.Package) {
	s.Printf("%s\n", s.Paint(term.Bold, term.Printable(info.Package)))
	if info.Description != "" {
		s.Printf("%s\n", term.Printable(info.Description))
	}
	s.Printf("\n")
	s.Fields(packageFields(s, info)...)
	if len(info.Tarballs)+len(info.Snapshots) > 0 {
		s.Printf("\n")
		drawTarballs(s, info)
	}
	drawTagTroubles(s, info)
	if t := find(&info, info.LatestTag, info.Head); t != nil {
		drawUse(s, c, info.Package, t)
	}
}

func packageFields(s *term.Screen, info wire.Package) [][]term.Cell {
	state := info.State
	if info.StateReason != "" {
		state += ": " + info.StateReason
	}
	rows := [][]term.Cell{
		term.Field("upstream", info.Upstream),
		term.Field("state", state, term.StateColour(info.State)),
		term.Field("releases", fmt.Sprintf("%d, %s", info.TarballCount, term.Size(info.SizeBytes))),
		term.Field("latest", info.LatestTag),
		term.Field("in the catalog", term.YesNo(info.Registered)),
	}
	if info.Counts.Snapshots > 0 {
		rows = append(rows, term.Field("snapshots", term.Number(info.Counts.Snapshots)))
	}
	if len(info.Names) > 1 {
		rows = append(rows, term.Field("answers to", strings.Join(info.Names, ", ")))
	}
	if info.Private {
		rows = append(rows, term.Field("read by", "those with a token"))
	}
	if info.Language != "" {
		rows = append(rows, term.Field("language", info.Language))
	}
	return append(rows, syncField(s, info), healthField(info))
}

func syncField(s *term.Screen, info wire.Package) []term.Cell {
	sync := info.LastSync
	switch {
	case sync == nil:
		return term.Field("last sync", "not yet")
	case sync.OK || sync.Error.Code == "":
		return term.Field("last sync", "ok, "+s.When(&sync.At), term.Green)
	}
	text := fmt.Sprintf("failed %s: %s; the last good one was %s", s.When(&sync.At), sync.Error.Message, s.When(sync.LastOKAt))
	if sync.NextTryAt != nil {
		text += "; an update tries again, at the earliest " + s.When(sync.NextTryAt)
	}
	return term.Field("last sync", text, term.Red)
}

func healthField(info wire.Package) []term.Cell {
	switch {
	case info.Healthy:
		return term.Field("health", "ok, fetched back as a client would", term.Green)
	case info.FetchProbeError != "":
		return term.Field("health", "a client cannot fetch it: "+string(info.FetchProbeError), term.Red)
	}
	return term.Field("health", "not probed yet")
}

func drawTarballs(s *term.Screen, info wire.Package) {
	var rows [][]term.Cell
	for _, t := range slices.Concat(info.Tarballs, info.Snapshots) {
		tag := term.Cell{Text: t.Tag}
		if t.Tag == info.LatestTag && (t.Tag != "" || t.Commit == info.Head) {
			tag.Colour = term.Green
		}
		notes := slices.Clone(t.Zig.UsableWith)
		switch {
		case t.Tag == "":
			notes = append(notes, "snapshot")
			for _, b := range info.Branches {
				if b.Commit == t.Commit {
					notes = append(notes, "branch "+b.Name)
				}
			}
		case t.GitHidden != "":
			notes = append(notes, "not in Git: "+t.GitHidden)
		case t.Zig.Problem != "":
			notes = append(notes, t.Zig.Problem)
		}
		rows = append(rows, []term.Cell{tag, {Text: term.Size(t.Size)}, {Text: short(t.Commit)}, {Text: s.Ago(&t.CreatedAt)}, {Text: strings.Join(notes, ", ")}})
	}
	s.Table([]string{"TAG", "SIZE", "COMMIT", "MIRRORED", "ZIG"}, rows)
}

// short returns enough of an id to tell it from others.
func short(oid string) string { return oid[:min(12, len(oid))] }

// drawTagTroubles writes which tags are not what upstream shows now.
func drawTagTroubles(s *term.Screen, info wire.Package) {
	if len(info.RejectedTags) > 0 {
		s.Printf("\nNot mirrored:\n")
		var rows [][]term.Cell
		for _, t := range info.RejectedTags {
			rows = append(rows, []term.Cell{{Text: "  " + t.Tag, Colour: term.Yellow}, {Text: t.Reason}})
		}
		s.Table(nil, rows)
	}
	if len(info.MovedTags) > 0 {
		s.Printf("\nMoved upstream, kept here as they were:\n")
		var rows [][]term.Cell
		for _, t := range info.MovedTags {
			to := short(t.New)
			if t.New == "" {
				to = "deleted"
			}
			rows = append(rows, []term.Cell{{Text: "  " + t.Tag, Colour: term.Yellow}, {Text: short(t.Old) + " -> " + to}, {Text: s.Ago(&t.SeenAt)}})
		}
		s.Table(nil, rows)
	}
}

func drawRelease(s *term.Screen, c *client, info wire.Package, t *wire.Tarball) {
	s.Printf("%s\n\n", s.Paint(term.Bold, term.Printable(info.Package+" "+releaseName(t))))
	file := c.url(t.URL, nil)
	fields := [][]term.Cell{
		term.Field("tarball", file),
		term.Field("manifest", strings.TrimSuffix(file, route.TarballSuffix)+route.ManifestSuffix),
		term.Field("size", term.Size(t.Size)),
		term.Field("sha256", t.SHA256),
		term.Field("sha256 of the tar", t.ContentDigest),
		term.Field("commit", t.Commit),
		term.Field("tree", t.Tree),
		term.Field("tag object", t.TagObject),
		term.Field("committed", s.When(&t.CommitTime)),
		term.Field("mirrored", s.When(&t.CreatedAt)),
		term.Field("zig hash", t.Zig.Hash),
		term.Field("zig hash to 0.13", t.Zig.LegacyHash),
		term.Field("zig name", t.Zig.Name),
		term.Field("zig version", t.Zig.Version),
		term.Field("minimum zig", t.Zig.MinimumZigVersion),
		term.Field("usable with", strings.Join(t.Zig.UsableWith, " ")),
		term.Field("licence", t.Zig.License),
	}
	if t.Log != "" {
		fields = append(fields, term.Field("log", t.Log))
	}
	if t.Proof != "" {
		fields = append(fields, term.Field("proof", c.url(t.Proof, nil)))
	}
	s.Fields(fields...)
	if t.GitHidden != "" {
		s.Printf("\n%s Git clients do not see it: %s\n", s.Paint(term.Yellow, "warn"), term.Printable(t.GitHidden))
	}
	if len(t.Zig.Dependencies) > 0 {
		s.Printf("\n")
		var rows [][]term.Cell
		for _, d := range t.Zig.Dependencies {
			where := d.URL
			if where == "" {
				where = d.Path
			}
			rows = append(rows, term.Cells(d.Name, d.Hash, where))
		}
		s.Table([]string{"DEPENDENCY", "HASH", "FROM"}, rows)
	}
	drawUse(s, c, info.Package, t)
}

func (p *program) checkCommand() *cobra.Command {
	var stored bool
	var limit time.Duration
	cmd := &cobra.Command{
		Use:   "check PACKAGE",
		Short: "Have the server fetch a package back, as a client would",
		Long: `Have the server fetch the newest release of a package back, as a client would,
and fail if that does not work. With --stored, look at how the last such probe
ended; that needs no token.`,
		Example: `  packbase check hello
  packbase check --stored hello`,
		Args: cobra.ExactArgs(1),
	}
	r := p.addRemote(cmd)
	cmd.ValidArgsFunction = p.completePackage(r)
	cmd.Flags().BoolVar(&stored, "stored", false, "show how the last probe ended, and make none")
	cmd.Flags().DurationVar(&limit, "timeout", time.Minute, "how long to wait for the probe, at most 5m")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := packageArg(args[0]); err != nil {
			return err
		}
		c, err := p.client(r)
		if err != nil {
			return err
		}
		var raw []byte
		if stored {
			raw, err = c.get(cmd.Context(), route.Path(route.Checked, args[0]), nil)
		} else {
			raw, err = c.probe(cmd.Context(), args[0], limit)
		}
		if err := show(p, r, raw, err, drawCheck); err != nil {
			return err
		}
		info, err := decode[wire.Checked](raw)
		if err == nil && !info.LiveProbeOK {
			err = errors.New("the probe failed")
		}
		return err
	}
	return cmd
}

// probe has the package probed and returns it as it then is.
func (c *client) probe(ctx context.Context, pkg string, limit time.Duration) ([]byte, error) {
	wait := query("wait", strconv.Itoa(int(limit.Seconds())))
	raw, err := c.call(ctx, http.MethodPost, route.Check, wait, wire.Check{Package: pkg}, limit+callTimeout)
	if err != nil {
		return nil, err
	}
	q, err := decode[wire.Queued](raw)
	if err == nil && q.Status == "queued" {
		err = &GoingOnError{limit, "The job goes on: `packbase jobs --follow " + q.JobID + "`."}
	}
	return raw, err
}

func drawCheck(s *term.Screen, info wire.Checked) {
	word := "FAIL"
	if info.LiveProbeOK {
		word = "ok"
	}
	s.Printf("%s %s\n\n", s.Paint(term.StateColour(word), word), term.Printable(info.Package.Package))
	s.Fields(
		term.Field("probed commit", info.FetchProbeCommit),
		term.Field("probe error", string(info.FetchProbeError)),
		healthField(info.Package),
		syncField(s, info.Package),
	)
}
