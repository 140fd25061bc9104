// Package upkeep has the commands of whoever runs a packbase on this machine:
// they check its data and its set-up, and mend what can be mended.
package upkeep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/francescobianco/packbase/cmd/packbase/client"
	"github.com/francescobianco/packbase/cmd/packbase/serve"
	"github.com/francescobianco/packbase/cmd/packbase/term"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/engines"
	"github.com/francescobianco/packbase/storage/zigpkg"
	"github.com/francescobianco/packbase/worker/upkeep"
)

// errFindings makes a check that found something exit with 1.
var errFindings = errors.New("there are findings")

// A program is one run of a command that looks after a registry's data.
type program struct{ *term.Program }

// Commands returns the commands that look after a registry's data.
func Commands(run *term.Program) []*cobra.Command {
	p := &program{run}
	return []*cobra.Command{p.fsckCommand(), p.verifyCommand(), p.gcCommand(), p.rebuildCommand(), p.doctorCommand(), p.logCommand(), p.watchCommand()}
}

// command returns a command that works on the data of a registry, whether
// its servers run or not. Without PACKBASE_DATABASE_URL that is the private
// Postgres below the root folder.
func (p *program) command(cmd *cobra.Command, do func(context.Context, *upkeep.Auditor) error) *cobra.Command {
	cmd.GroupID = "keep"
	cmd.Args = cobra.NoArgs
	asJSON := cmd.Flags().Bool("json", false, "print findings as JSON, one a line")
	cfg := serve.AddSettings(p.Program, cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := access.SeePrivate(cmd.Context())
		stop, err := p.engine(ctx, cfg)
		if err != nil {
			return err
		}
		defer stop()
		s, err := serve.OpenStores(ctx, cfg)
		if err != nil {
			return err
		}
		defer s.Close()
		// The servers' role may do all this, and may not migrate.
		if s.DB.CheckSchema(ctx) != nil {
			if err := s.DB.Migrate(ctx); err != nil {
				return err
			}
		}
		staging, err := blob.OpenStaging(s.Blobs, filepath.Join(cfg.Root, "staging"))
		if err != nil {
			return fmt.Errorf("PACKBASE_ROOT: %w", err)
		}
		found := 0
		a := &upkeep.Auditor{DB: s.DB, Blobs: s.Blobs, Staging: staging, Log: serve.LogOptions(cfg, s.Blobs).Folder, Progress: p.progress(), Report: func(f upkeep.Finding) {
			if !f.Mended {
				found++
			}
			p.printFinding(f, *asJSON)
		}}
		if err := do(ctx, a); err != nil {
			return err
		}
		if found > 0 {
			return fmt.Errorf("%w: %d", errFindings, found)
		}
		return nil
	}
	return cmd
}

// engine makes the private Postgres answer: the one that a running
// packbase has, or one that is started for this command alone.
func (p *program) engine(ctx context.Context, cfg *serve.Config) (stop func(), err error) {
	nothing := func() {}
	cfg.ReadOnly = true // no Redis is needed
	if cfg.DatabaseURL != "" {
		return nothing, nil
	}
	if url, ok := engines.Running(cfg.Root); ok {
		cfg.DatabaseURL = url
		return nothing, nil
	}
	eng, err := engines.Start(ctx, cfg.Root, engines.Options{NoRedis: true}, cfg.Logger(os.Stderr))
	if err != nil {
		return nil, err
	}
	cfg.DatabaseURL = eng.DatabaseURL()
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		if err := eng.Stop(ctx); err != nil {
			fmt.Fprintln(p.Stderr, "packbase: stop postgres:", err)
		}
	}, nil
}

func (p *program) progress() func(string, int, int) {
	last := time.Time{}
	return func(step string, done, total int) {
		if time.Since(last) < 2*time.Second {
			return
		}
		last = time.Now()
		if total == 0 { // nobody knows
			fmt.Fprintf(p.Stderr, "%s: %d\n", step, done)
			return
		}
		fmt.Fprintf(p.Stderr, "%s: %d of %d\n", step, done, total)
	}
}

func (p *program) printFinding(f upkeep.Finding, asJSON bool) {
	if asJSON {
		_ = json.NewEncoder(p.Stdout).Encode(f)
		return
	}
	fmt.Fprintf(p.Stdout, "%s  %s: %s\n", f.Code, term.Printable(f.Subject), term.Printable(f.Problem))
}

func (p *program) fsckCommand() *cobra.Command {
	return p.command(&cobra.Command{
		Use:     "fsck",
		Short:   "Check that rows, blobs and Git objects agree",
		Long:    "Check that rows agree with each other, with the blobs that they name, and with the log. Reads no blob's content; see verify.\nExits with 1 if there are findings.",
		Example: "  packbase fsck --root ./data",
	}, func(ctx context.Context, a *upkeep.Auditor) error { return a.Fsck(ctx) })
}

func (p *program) verifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify [DIR | FILE]",
		Short: "Check a project, a bundle, or every byte of a server",
		Long: `With a folder or a file: check that all that the project in DIR depends on, or all
that is in a FILE that packbase bundle made, is proved to be in a log that packbase
trust knows. The server says what its log has; where it is away, or with --offline,
proofs in Zig's cache, which packbase warm keeps there, or in the file will do. Tells
what was moved or is gone upstream since. Exits with 1 if something is not proved, or
was withdrawn. It is what is meant in a folder with a build.zig.zon, too.

Without: read every blob that a row names, compare it with its digest, and compare
the files in each tarball with upstream's commit id, those of each archive with its
Zig hashes. Wrong bytes are moved to quarantine. Exits with 1 if there are findings
that were not mended.

With --evidence it explains a file that packbase compare or a server wrote, in
which two logs contradict each other, and needs nothing but that file.`,
		Example: "  packbase verify ~/src/zls\n  packbase verify --offline zls.tar\n  packbase verify --root ./data --repair\n" +
			"  packbase verify --evidence evidence-1f0c9d3ab27e4456.json",
	}
	repair := cmd.Flags().Bool("repair", false, "of a server: make wrong or missing tarballs again from the Git objects, if that gives equal bytes")
	var v client.Verification
	v.AddFlags(cmd)
	p.command(cmd, func(ctx context.Context, a *upkeep.Auditor) error { return a.Verify(ctx, *repair) })
	server := cmd.RunE
	cmd.Args = cobra.MaximumNArgs(1)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		// No server keeps its data where a project is: whoever says nothing else means that.
		if _, err := os.Stat(zigpkg.ManifestName); err == nil && len(args) == 0 && !*repair && !cmd.Flags().Changed("root") && !cmd.Flags().Changed("database-url") {
			args = []string{"."}
		}
		switch {
		case len(args) == 0:
			return server(cmd, args)
		case *repair:
			return term.Usage("--repair is of a server's blobs, not of %s", args[0])
		}
		v.JSON, _ = cmd.Flags().GetBool("json")
		return v.Run(cmd.Context(), p.Program, args[0])
	}
	return p.orEvidence(cmd)
}

func (p *program) gcCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "gc",
		Short:   "Remove blobs that nothing names",
		Long:    "Remove blobs that no row names and that are older than the grace time. Nothing that a package needs is ever removed.",
		Example: "  packbase gc --root ./data --dry-run",
	}
	dryRun := cmd.Flags().Bool("dry-run", false, "only say what would be removed")
	grace := cmd.Flags().Duration("grace", upkeep.Grace, "age below which nothing is removed")
	return p.command(cmd, func(ctx context.Context, a *upkeep.Auditor) error {
		report := a.Report
		a.Report = func(f upkeep.Finding) {
			f.Mended = true // to find garbage is what it is for
			report(f)
		}
		n, bytes, err := a.GC(ctx, *grace, *dryRun)
		verb := "removed"
		if *dryRun {
			verb = "would remove"
		}
		fmt.Fprintf(p.Stderr, "%s %d blobs, %s\n", verb, n, humanize.IBytes(uint64(bytes)))
		return err
	})
}

func (p *program) rebuildCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rebuild",
		Short: "Make the database's rows again from the blobs",
		Long: `Make the rows of every package that the database does not have from the
manifests and tarballs among the blobs, and the Git segments anew, byte for
byte; then those of archives. What is there stays as it is. Lists every release
and archive that cannot be made again, and exits with 1 then.

A package comes back private, and is listed, unless all that the blobs tell of
it agrees that it is public. If the blobs have no record of it, as those that an
edge of 0.1 kept, --public makes it public, also afterwards.`,
		Example: "  PACKBASE_DATABASE_URL=postgres://... packbase rebuild --root ./copy-of-the-blobs",
	}
	public := cmd.Flags().Bool("public", false, "packages without a record, of which nothing says that they are private, are public")
	return p.command(cmd, func(ctx context.Context, a *upkeep.Auditor) error {
		a.Public = *public
		return a.Rebuild(ctx)
	})
}
