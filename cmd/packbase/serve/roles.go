package serve

import (
	"cmp"
	"context"
	"io"
	"log/slog"
	"os"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/francescobianco/packbase/cmd/packbase/term"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/worker/confine"
	"github.com/francescobianco/packbase/worker/ingest"
)

// A program is one run of a command that is a server, or a part of one.
type program struct{ *term.Program }

// Commands returns the servers, and what belongs to their set-up.
func Commands(run *term.Program) []*cobra.Command {
	p := &program{run}
	return append(p.childCommands(), p.upCommand(), p.apiCommand(), p.workerCommand(), p.migrateCommand(), p.healthCommand(), p.configCommand(), p.replicateCommand())
}

func (p *program) apiCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "api",
		GroupID: "serve",
		Short:   "Answer HTTP: the API, tarballs, Git and the pages",
		Example: "  PACKBASE_DATABASE_URL=postgres://... PACKBASE_REDIS_URL=redis://... PACKBASE_TOKEN=... packbase api",
		Args:    cobra.NoArgs,
	}
	cfg := AddSettings(p.Program, cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		out := &lines{w: os.Stderr}
		defer out.end()
		log := out.logger(cfg)
		cfg.Reload(ctx, log)
		s, err := openChecked(ctx, cfg, log)
		if err != nil {
			return err
		}
		defer s.Close()
		reg := prometheus.NewRegistry()
		srv, err := NewAPI(cfg, s, reg, log)
		if err != nil {
			return err
		}
		if err := ServeAdmin(ctx, cfg, reg); err != nil {
			return err
		}
		ln, err := listen(cfg)
		if err != nil {
			return err
		}
		log.Info("listening", "addr", ln.Addr().String())
		return serveHTTP(ctx, cfg, srv, ln, log)
	}
	return cmd
}

func (p *program) workerCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "worker",
		GroupID: "serve",
		Short:   "Do the jobs: mirror packages, update the catalog",
		Example: "  PACKBASE_DATABASE_URL=postgres://... PACKBASE_REDIS_URL=redis://... packbase worker --worker-concurrency 4",
		Args:    cobra.NoArgs,
	}
	cfg := AddSettings(p.Program, cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		log := cfg.Logger(os.Stderr)
		cfg.Reload(ctx, log)
		s, err := openChecked(ctx, cfg, log)
		if err != nil {
			return err
		}
		defer s.Close()
		reg := prometheus.NewRegistry()
		w, err := NewWorker(cfg, s, reg, log)
		if err != nil {
			return err
		}
		if err := ServeAdmin(ctx, cfg, reg); err != nil {
			return err
		}
		logWalls(ctx, log)
		if err := requestLocal(ctx, cfg, s); err != nil {
			log.Warn("local packages are not asked for yet", "err", err)
		}
		log.Info("working", "concurrency", cfg.Concurrency)
		return w.Run(ctx)
	}
	return cmd
}

// openChecked opens the stores of a server that runs by itself: the schema is
// there already, and its role ought not to own it.
func openChecked(ctx context.Context, cfg *Config, log *slog.Logger) (*Stores, error) {
	s, err := OpenStores(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := s.DB.CheckSchema(ctx); err != nil {
		s.Close()
		return nil, err
	}
	warnOwner(ctx, s.DB, log)
	return s, nil
}

func (p *program) migrateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "migrate",
		GroupID: "serve",
		Short:   "Bring the database's schema up to date",
		Example: "  PACKBASE_DATABASE_URL=postgres://... packbase migrate",
		Args:    cobra.NoArgs,
	}
	cfg := AddSettings(p.Program, cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if cfg.DatabaseURL == "" {
			return term.Usage("PACKBASE_DATABASE_URL is not set")
		}
		return Migrate(cmd.Context(), cfg)
	}
	return cmd
}

// Migrate brings the schema up to date, and admits the servers' role to it.
func Migrate(ctx context.Context, cfg *Config) error {
	db, err := storage.Open(ctx, cmp.Or(cfg.MigrateURL, cfg.DatabaseURL))
	if err != nil {
		return err
	}
	defer db.Close()
	if err := db.Migrate(ctx); err != nil || cfg.MigrateURL == "" {
		return err
	}
	server, err := pgconn.ParseConfig(cfg.DatabaseURL)
	if err != nil {
		return term.Usage("PACKBASE_DATABASE_URL: not a postgres:// URL that can be read")
	}
	return db.Admit(ctx, server.User, server.Password)
}

// warnOwner says that a server has more of the database than it needs.
func warnOwner(ctx context.Context, db *storage.DB, log *slog.Logger) {
	if over, err := db.Overpowered(ctx); err == nil && over {
		log.Warn("this server's role owns the tables and could switch off what keeps releases as they are; give migrate PACKBASE_MIGRATE_DATABASE_URL and servers another role")
	}
}

// childCommands are the worker's child processes.
func (p *program) childCommands() []*cobra.Command {
	child := func(name, short string, main func(context.Context, io.Reader, io.Writer) error) *cobra.Command {
		return &cobra.Command{
			Use:    name,
			Short:  short,
			Hidden: true,
			Args:   cobra.NoArgs,
			RunE:   func(cmd *cobra.Command, _ []string) error { return main(cmd.Context(), p.Stdin, p.Stdout) },
		}
	}
	return []*cobra.Command{
		child("ingest", "Mirror one package for a worker", ingest.Main),
		child("confine", "Become another program for a worker", confine.Exec),
		child("walls", "Try what stands around a child process", confine.Report),
		child("download", "Talk with one upstream for a worker", ingest.Download),
		child("download-archive", "Download one archive for a worker", ingest.DownloadArchive),
		child("unpack-archive", "Unpack one archive for a worker", ingest.UnpackArchive),
	}
}

func (p *program) configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "config",
		GroupID: "keep",
		Short:   "Print the settings that are in force",
		Example: "  PACKBASE_PORT=8081 packbase config",
		Args:    cobra.NoArgs,
	}
	cfg := AddSettings(p.Program, cmd)
	cmd.PreRunE = nil
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		values, err := readSettings(p.Program, cfg, cmd.Flags())
		if err != nil {
			return err
		}
		return printSettings(p.Stdout, values)
	}
	return cmd
}
