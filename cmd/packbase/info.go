package main

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

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage"
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
		raw, err := c.get(cmd.Context(), wire.Path(wire.InfoRoute, args[0]), nil)
		return show(p, r, raw, err, func(s *screen, info wire.Package) { drawPackage(s, c, info) })
	}
	return cmd
}

func (p *program) infoRelease(ctx context.Context, r *remote, c *client, pkg, tag string) error {
	if err := storage.ValidTag(tag); err != nil {
		return usageError{err}
	}
	if r.json {
		path := wire.ManifestPath(pkg, tag, "")
		if storage.ValidOID(tag) {
			path = wire.ManifestPath(pkg, "", tag)
		}
		raw, err := c.get(ctx, path, nil)
		return show(p, r, raw, err, func(*screen, struct{}) {})
	}
	raw, err := c.get(ctx, wire.Path(wire.InfoRoute, pkg), nil)
	if err != nil {
		return err
	}
	info, err := decode[wire.Package](raw)
	if err != nil {
		return err
	}
	t := find(&info, tag, tag)
	if t == nil {
		return &answerError{Status: http.StatusNotFound, Message: fmt.Sprintf("%s has no release %q here", pkg, tag) +
			"\n`packbase info " + pkg + "` lists those it has."}
	}
	drawRelease(p.screen(p.stdout), c, info, t)
	return nil
}

func drawPackage(s *screen, c *client, info wire.Package) {
	s.printf("%s\n", s.paint(bold, printable(info.Package)))
	if info.Description != "" {
		s.printf("%s\n", printable(info.Description))
	}
	s.printf("\n")
	s.fields(packageFields(s, info)...)
	if len(info.Tarballs)+len(info.Snapshots) > 0 {
		s.printf("\n")
		drawTarballs(s, info)
	}
	drawTagTroubles(s, info)
	if t := find(&info, info.LatestTag, ""); t != nil {
		drawUse(s, c, info.Package, t)
	}
}

func packageFields(s *screen, info wire.Package) [][]cell {
	state := info.State
	if info.StateReason != "" {
		state += ": " + info.StateReason
	}
	rows := [][]cell{
		field("upstream", info.Upstream),
		{{text: "state"}, {state, stateColour(info.State)}},
		field("releases", fmt.Sprintf("%d, %s", info.TarballCount, size(info.SizeBytes))),
		field("latest", info.LatestTag),
		field("in the catalog", yesNo(info.Registered)),
	}
	if info.Private {
		rows = append(rows, field("read by", "those with a token"))
	}
	if info.Language != "" {
		rows = append(rows, field("language", info.Language))
	}
	return append(rows, syncField(s, info), healthField(info))
}

func syncField(s *screen, info wire.Package) []cell {
	sync := info.LastSync
	switch {
	case sync == nil:
		return field("last sync", "not yet")
	case sync.OK || sync.Error.Code == "":
		return []cell{{text: "last sync"}, {"ok, " + s.when(&sync.At), green}}
	}
	text := fmt.Sprintf("failed %s: %s; the last good one was %s", s.when(&sync.At), sync.Error.Message, s.when(sync.LastOKAt))
	return []cell{{text: "last sync"}, {text, red}}
}

func healthField(info wire.Package) []cell {
	switch {
	case info.Healthy:
		return []cell{{text: "health"}, {"ok, fetched back as a client would", green}}
	case info.FetchProbeError != "":
		return []cell{{text: "health"}, {"a client cannot fetch it: " + info.FetchProbeError, red}}
	}
	return field("health", "not probed yet")
}

func drawTarballs(s *screen, info wire.Package) {
	var rows [][]cell
	for _, t := range slices.Concat(info.Tarballs, info.Snapshots) {
		tag := cell{text: t.Tag}
		if t.Tag == info.LatestTag {
			tag.colour = green
		}
		note := ""
		switch {
		case t.Tag == "":
			note = "snapshot"
		case t.GitHidden != "":
			note = "not in Git: " + t.GitHidden
		case t.Zig.Problem != "":
			note = t.Zig.Problem
		}
		row := []cell{tag, {text: size(t.Size)}, {text: short(t.Commit)}, {text: s.ago(&t.CreatedAt)}, {text: strings.Join(t.Zig.UsableWith, " ")}}
		if note != "" {
			row = append(row, cell{note, dim})
		}
		rows = append(rows, row)
	}
	s.table([]string{"TAG", "SIZE", "COMMIT", "MIRRORED", "ZIG"}, rows)
}

// short returns enough of an id to tell it from others.
func short(oid string) string { return oid[:min(12, len(oid))] }

// drawTagTroubles writes which tags are not what upstream shows now.
func drawTagTroubles(s *screen, info wire.Package) {
	if len(info.RejectedTags) > 0 {
		s.printf("\nNot mirrored:\n")
		var rows [][]cell
		for _, t := range info.RejectedTags {
			rows = append(rows, []cell{{"  " + t.Tag, yellow}, {text: t.Reason}})
		}
		s.table(nil, rows)
	}
	if len(info.MovedTags) > 0 {
		s.printf("\nMoved upstream, kept here as they were:\n")
		var rows [][]cell
		for _, t := range info.MovedTags {
			to := short(t.New)
			if t.New == "" {
				to = "deleted"
			}
			rows = append(rows, []cell{{"  " + t.Tag, yellow}, {text: short(t.Old) + " -> " + to}, {text: s.ago(&t.SeenAt)}})
		}
		s.table(nil, rows)
	}
}

func drawRelease(s *screen, c *client, info wire.Package, t *wire.Tarball) {
	s.printf("%s\n\n", s.paint(bold, printable(info.Package+" "+releaseName(t))))
	file := c.url(t.URL, nil)
	s.fields(
		field("tarball", file),
		field("manifest", strings.TrimSuffix(file, wire.TarballSuffix)+wire.ManifestSuffix),
		field("size", size(t.Size)),
		field("sha256", t.SHA256),
		field("sha256 of the tar", t.ContentDigest),
		field("commit", t.Commit),
		field("tree", t.Tree),
		field("tag object", t.TagObject),
		field("committed", s.when(&t.CommitTime)),
		field("mirrored", s.when(&t.CreatedAt)),
		field("zig hash", t.Zig.Hash),
		field("zig hash to 0.13", t.Zig.LegacyHash),
		field("zig name", t.Zig.Name),
		field("zig version", t.Zig.Version),
		field("minimum zig", t.Zig.MinimumZigVersion),
		field("usable with", strings.Join(t.Zig.UsableWith, " ")),
	)
	if t.GitHidden != "" {
		s.printf("\n%s Git clients do not see it: %s\n", s.paint(yellow, "warn"), printable(t.GitHidden))
	}
	if len(t.Zig.Dependencies) > 0 {
		s.printf("\n")
		var rows [][]cell
		for _, d := range t.Zig.Dependencies {
			where := d.URL
			if where == "" {
				where = d.Path
			}
			rows = append(rows, cells(d.Name, d.Hash, where))
		}
		s.table([]string{"DEPENDENCY", "HASH", "FROM"}, rows)
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
			raw, err = c.get(cmd.Context(), wire.Path(wire.CheckedRoute, args[0]), nil)
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
	raw, err := c.call(ctx, http.MethodPost, wire.CheckRoute, wait, wire.Check{Package: pkg}, limit+callTimeout)
	if err != nil {
		return nil, err
	}
	q, err := decode[wire.Queued](raw)
	if err == nil && q.Status == "queued" {
		err = &goingOnError{limit, "The job goes on: `packbase jobs --follow " + q.JobID + "`."}
	}
	return raw, err
}

func drawCheck(s *screen, info wire.Checked) {
	word := "FAIL"
	if info.LiveProbeOK {
		word = "ok"
	}
	s.printf("%s %s\n\n", s.paint(stateColour(word), word), printable(info.Package.Package))
	s.fields(
		field("probed commit", info.FetchProbeCommit),
		field("probe error", info.FetchProbeError),
		healthField(info.Package),
		syncField(s, info.Package),
	)
}

func (p *program) reviewCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "review PACKAGE accept|keep",
		Short: "Decide about a package that is frozen, as its upstream is not what it was",
		Long: `Decide about a package that is frozen, as its upstream is not what it was: accept
has what upstream has now mirrored again, keep leaves the package as it is for
good. What was mirrored before never changes.`,
		Example: `  packbase info hello
  packbase review hello accept`,
		Args: cobra.ExactArgs(2),
	}
	r := p.addRemote(cmd)
	cmd.ValidArgsFunction = p.completePackage(r)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := packageArg(args[0]); err != nil {
			return err
		}
		if args[1] != "accept" && args[1] != "keep" {
			return usage("%q: want accept or keep", args[1])
		}
		c, err := p.client(r)
		if err != nil {
			return err
		}
		raw, err := c.post(cmd.Context(), wire.Path(wire.ReviewRoute, args[0]), wire.Review{Decision: args[1]})
		return show(p, r, raw, err, func(s *screen, info wire.Checked) { s.fields(packageFields(s, info.Package)...) })
	}
	return cmd
}
