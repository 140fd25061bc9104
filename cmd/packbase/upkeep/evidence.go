package upkeep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/francescobianco/packbase/cmd/packbase/client"
	"github.com/francescobianco/packbase/cmd/packbase/term"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/logbook"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/otherlog"
	"github.com/francescobianco/packbase/storage/userfile"
	"github.com/francescobianco/packbase/worker/upstream"
)

// orEvidence has the command explain a file of evidence, if one is named.
func (p *program) orEvidence(cmd *cobra.Command) *cobra.Command {
	file := cmd.Flags().String("evidence", "", "explain a file in which two logs contradict each other")
	check := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *file == "" {
			return check(cmd, args)
		}
		raw, err := userfile.Read(*file, 4*userfile.MaxText) // two proofs
		if err != nil {
			return term.Usage("--evidence: %w", err)
		}
		evidence, err := otherlog.ParseEvidence(raw)
		var found otherlog.Finding
		if err == nil {
			found, err = evidence.Check()
		}
		if err != nil {
			return fmt.Errorf("%s proves nothing: %w", *file, err)
		}
		for line := range strings.Lines(found.Explain()) {
			fmt.Fprintln(p.Stdout, term.Printable(strings.TrimSuffix(line, "\n")))
		}
		return nil
	}
	return cmd
}

func (p *program) watchCommand() *cobra.Command {
	var mirror, allow string
	var every time.Duration
	cmd := &cobra.Command{
		Use:     "watch UPSTREAM-PATTERN",
		GroupID: "use",
		Short:   "Tell when a mirror's log has a tag that differs from upstream's",
		Long: `Read the log of a packbase, and compare the tags that it has of the upstreams that
match the pattern with those that upstream has now: a line for each that differs,
and exit code 1. This is for the maintainers of these upstreams; * stands for any
text without a slash. With --every it goes on, and ends at the first difference.`,
		Example: "  packbase watch --url https://packbase.example.org 'https://github.com/me/*'",
		Args:    cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&mirror, "url", "", "where the mirror is [PACKBASE_URL] (default "+client.DefaultURL+")")
	cmd.Flags().StringVar(&allow, "upstream-allow", "", "private places that may be asked, as PACKBASE_UPSTREAM_ALLOW has them")
	cmd.Flags().DurationVar(&every, "every", 0, "look again after that time; 0 for once")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := path.Match(args[0], ""); err != nil {
			return term.Usage("%q is no pattern: want one like https://github.com/me/*", args[0])
		}
		w := &watch{p: p, pattern: args[0], mirror: cmp.Or(mirror, p.Getenv("PACKBASE_URL"), client.DefaultURL), tags: map[string]map[string][]logged{}}
		if text := cmp.Or(allow, p.Getenv("PACKBASE_UPSTREAM_ALLOW")); text != "" {
			places, err := upstream.ParseAllow(text)
			if err != nil {
				return term.Usage("--upstream-allow: %w", err)
			}
			w.allow = places
		}
		for {
			if err := w.look(cmd.Context()); err != nil || every == 0 {
				return err
			}
			select {
			case <-cmd.Context().Done():
				return cmd.Context().Err()
			case <-time.After(every):
			}
		}
	}
	return cmd
}

// A watch compares a mirror's log with upstreams.
type watch struct {
	p       *program
	pattern string
	mirror  string
	allow   []upstream.Allow
	seen    otherlog.Memory
	size    int64
	tags    map[string]map[string][]logged // by upstream and tag: the truth beside a lie takes nothing back
}

// A logged is what the log says of a tag.
type logged struct {
	id    string // of the tag object, or of the commit
	index int64
}

// errDiffers is how a watch ends that found something.
var errDiffers = errors.New("the log has tags that differ from upstream's")

// look reads what is new in the log, and asks all upstreams that match.
func (w *watch) look(ctx context.Context) error {
	l, err := otherlog.Open(ctx, &http.Client{Timeout: time.Minute}, w.mirror, w.seen)
	if err != nil {
		return err
	}
	err = l.Entries(ctx, w.size, func(index int64, e logbook.Entry) error {
		w.size = index + 1
		from, tag := e.Value("upstream"), strings.TrimPrefix(e.Value("ref"), "refs/tags/")
		if ok, _ := path.Match(w.pattern, from); !ok || e.Kind() != "release" || strings.HasPrefix(from, name.FixtureScheme) {
			return nil
		}
		if w.tags[from] == nil {
			w.tags[from] = map[string][]logged{}
		}
		w.tags[from][tag] = append(w.tags[from][tag], logged{cmp.Or(e.Value("tag"), e.Value("commit")), index})
		return nil
	})
	if err != nil {
		return err
	}
	w.seen = l.Memory
	if len(w.tags) == 0 {
		return fmt.Errorf("the log of %s has no release of an upstream like %s", w.mirror, w.pattern)
	}
	differs := 0
	client := upstream.New(upstream.Options{Allow: w.allow, UserAgent: "packbase/" + w.p.Release})
	for _, from := range slices.Sorted(maps.Keys(w.tags)) {
		n, err := w.ask(ctx, client, from)
		if err != nil {
			return fmt.Errorf("%s: %w", from, err)
		}
		differs += n
	}
	if differs > 0 {
		return fmt.Errorf("%w: %d", errDiffers, differs)
	}
	fmt.Fprintf(w.p.Stdout, "ok: what the log of %s has of %s is what upstream has\n", w.mirror, term.Plural(len(w.tags), "repository"))
	return nil
}

// ask compares the tags of one upstream with those that it has now.
func (w *watch) ask(ctx context.Context, client *upstream.Client, from string) (differs int, err error) {
	s, err := client.Connect(ctx, from)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	refs := s.Refs()
	now := map[string]gitpack.OID{}
	for _, r := range refs.Tags {
		now[r.Name] = r.OID
	}
	for _, tag := range slices.Sorted(maps.Keys(w.tags[from])) {
		is, ok := now[tag]
		for _, said := range w.tags[from][tag] {
			switch {
			case !ok:
				differs++
				fmt.Fprintln(w.p.Stdout, term.Printable(fmt.Sprintf("gone %s %s: entry %d says %s, and upstream has no such tag", from, tag, said.index, said.id)))
			case is.String() != said.id:
				differs++
				fmt.Fprintln(w.p.Stdout, term.Printable(fmt.Sprintf("differs %s %s: entry %d says %s, and upstream %s", from, tag, said.index, said.id, is)))
			}
		}
	}
	return differs, nil
}
