package serve

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/francescobianco/packbase/api/git"
	"github.com/francescobianco/packbase/cmd/packbase/term"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/feed"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/ledger"
	"github.com/francescobianco/packbase/worker/peer"
	"github.com/francescobianco/packbase/worker/probe"
	"github.com/francescobianco/packbase/worker/upstream"
)

const resumeHelp = "after replication halted: read the central's feed from its beginning, and go on if all that is here is in it"

func (p *program) replicateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "replicate",
		GroupID: "serve",
		Short:   "Follow a central: copy, check and publish its releases here",
		Long: `Follow another packbase: copy its blobs by digest, check each against the digest
and against upstream's commit id, and publish whole releases here. What was
published is never changed or dropped, whatever the central does later.

Serve the result with ` + "`packbase api --read-only`" + `, or run ` + "`packbase up --central URL`" + `,
which does both with a Postgres of its own.`,
		Example: "  PACKBASE_DATABASE_URL=postgres://... packbase replicate --from https://packbase.example.org",
		Args:    cobra.NoArgs,
	}
	from := cmd.Flags().String("from", "", "URL of the central, or file:// and its folder [PACKBASE_CENTRAL]")
	resume := cmd.Flags().Bool("resume", false, resumeHelp)
	cfg := AddSettings(p.Program, cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		if *from != "" {
			cfg.Central = *from
		}
		cfg.ReadOnly = true // no Redis is needed
		log := cfg.Logger(os.Stderr)
		cfg.Reload(ctx, log)
		s, err := OpenStores(ctx, cfg)
		if err != nil {
			return err
		}
		defer s.Close()
		if err := s.DB.Migrate(ctx); err != nil {
			return err
		}
		if err := ServeAdmin(ctx, cfg, prometheus.NewRegistry()); err != nil {
			return err
		}
		log.Info("working", "central", cfg.Central)
		return follow(ctx, cfg, s, *resume, log)
	}
	return cmd
}

// follow replicates from the central until ctx ends; resume clears a halt.
func follow(ctx context.Context, cfg *Config, s *Stores, resume bool, log *slog.Logger) error {
	central, client, err := reach(cfg)
	if err != nil {
		return err
	}
	staging, err := blob.OpenStaging(s.Blobs, filepath.Join(cfg.Root, "staging"))
	if err != nil {
		return fmt.Errorf("PACKBASE_ROOT: %w", err)
	}
	child, err := ownChild()
	if err != nil {
		return err
	}
	if resume {
		if err := s.DB.Feed.Resume(ctx); err != nil {
			return err
		}
	}
	r := &peer.Replica{
		DB: s.DB, Blobs: s.Blobs, Staging: staging, Central: central, Token: cfg.CentralToken, HTTP: client, Retry: time.Second, Scrub: cfg.Scrub, Log: log,
		Mirror: ledger.NewMirror(s.DB.DB, MirrorOptions(cfg, s.Blobs)),
		Prober: &probe.Prober{DB: s.DB, Staging: staging, Git: git.Handler(s.DB, s.Blobs, cfg.Release), Limits: gitpack.StoredLimits(), Zig: cfg.Zig, ZigCache: filepath.Join(cfg.Root, "zig-cache"), Child: child},
	}
	return r.Run(ctx)
}

// MirrorOptions returns where an edge has its central's log, and the key by which it cosigns that.
func MirrorOptions(cfg *Config, blobs blob.Store) ledger.Options {
	opt := LogOptions(cfg, blobs)
	opt.KeyFile = cmp.Or(cfg.LogKeyFile, filepath.Join(cfg.Root, "mirror.key"))
	if cfg.LogName == "" && len(cfg.Names) > 0 {
		opt.Name = cfg.Names[0] + "/mirror"
	}
	return opt
}

// reach returns the URL of the central, and how to ask it.
func reach(cfg *Config) (central string, client *http.Client, err error) {
	folder, err := centralFolder(cfg)
	if err != nil {
		return "", nil, err
	}
	if folder != nil {
		if cfg.CentralToken != "" {
			return "", nil, term.Usage("PACKBASE_CENTRAL_TOKEN: a central that is a folder tells nothing of private packages")
		}
		dir := blob.Folder(folder)
		return "file://" + dir, &http.Client{Transport: peer.Folder{Index: feed.IndexIn(dir), Blobs: folder}}, nil
	}
	central, place, err := parsePackbase(cfg.Central)
	if err != nil {
		return "", nil, term.Usage("PACKBASE_CENTRAL: %w", err)
	}
	// The operator named the central: it may be at a private address.
	return central, upstream.New(upstream.Options{Allow: append(cfg.Allow, place), UserAgent: "packbase/" + cfg.Release}).HTTP(), nil
}
