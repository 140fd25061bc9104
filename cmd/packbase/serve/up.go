package serve

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/francescobianco/packbase/cmd/packbase/term"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/engines"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/userfile"
	"github.com/francescobianco/packbase/worker/ingest"
)

func (p *program) upCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "up",
		GroupID: "serve",
		Short:   "Run all of packbase here, with a Postgres and a Redis of its own",
		Long: `Run all of packbase in one process: api, worker and scheduler, with a private
Postgres and a private Redis below the root folder, unless PACKBASE_DATABASE_URL
and PACKBASE_REDIS_URL name others. Ctrl-C stops everything.

With --central URL it is an edge instead: it follows that packbase and serves
what it has copied, also when the central is away. With --central file:///folder,
or a root that it may not write, it serves the blobs of that folder and follows
the index beside them.`,
		Example: "  packbase up --root ./data --port 8080",
		Args:    cobra.NoArgs,
	}
	resume := cmd.Flags().Bool("resume", false, "of an edge: "+resumeHelp)
	cfg := AddSettings(p.Program, cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if cfg.Addr == "" {
			cfg.Addr = "127.0.0.1"
		}
		if err := edgeOfRoot(cfg, cfg.Logger(os.Stderr)); err != nil {
			return err
		}
		var line *statusLine
		out := &lines{w: os.Stderr}
		defer out.end()
		log := out.logger(cfg)
		if !cfg.logChosen && p.Screen(os.Stderr).Terminal() {
			cfg.LogFile = filepath.Join(cfg.Root, "packbase.log")
			fmt.Fprintln(p.Stderr, "packbase is starting.")
			line = &statusLine{screen: func() *term.Screen { return p.Screen(os.Stderr) }}
			log = cfg.Logger(line)
		}
		if !p.Screen(os.Stderr).Terminal() { // where a hangup is the end of the terminal
			cfg.Reload(cmd.Context(), log)
		}
		cfg.ReadOnly = cfg.ReadOnly || cfg.Central != ""
		if cfg.Pull == nil && cfg.Loopback() {
			cfg.Pull = name.Forges
		}
		return p.up(cmd.Context(), cfg, *resume, line, log)
	}
	return cmd
}

// edgeOfRoot has who may not write the root be an edge of that folder. What such
// an edge keeps itself can be made again: it has a folder for temporary files.
func edgeOfRoot(cfg *Config, log *slog.Logger) error {
	refused := unix.Access(cfg.Root, unix.W_OK|unix.X_OK)
	if cfg.Central != "" || cfg.Blobs != "file://"+cfg.Root || refused == nil || errors.Is(refused, fs.ErrNotExist) {
		return nil
	}
	if _, err := os.Stat(filepath.Join(cfg.Root, "blobs")); err != nil || cfg.Token != "" {
		return term.Usage("PACKBASE_ROOT: %s cannot be written by user %d: %w; give it to that user (chown), or, to serve what another packbase keeps there, set no PACKBASE_TOKEN",
			cfg.Root, os.Geteuid(), refused)
	}
	sum := sha256.Sum256([]byte(cfg.Root))
	own := filepath.Join(os.TempDir(), "packbase-edge-"+hex.EncodeToString(sum[:6]))
	if err := os.Mkdir(own, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make a folder for what an edge keeps: %w", err)
	}
	// Anybody can make folders there.
	var st unix.Stat_t
	if err := unix.Lstat(own, &st); err != nil || st.Mode != unix.S_IFDIR|0o700 || int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s is not a folder of user %d with mode 0700: remove it", own, os.Geteuid())
	}
	log.Warn("the root cannot be written: this is an edge of it", "root", cfg.Root, "because", refused, "keeps", own)
	cfg.Central, cfg.Root, cfg.Blobs = "file://"+cfg.Root, own, "file://"+own
	return nil
}

// up runs everything until ctx ends. resume is for edges; line is nil where there is no terminal.
func (p *program) up(ctx context.Context, cfg *Config, resume bool, line *statusLine, log *slog.Logger) (err error) {
	unlock, err := engines.LockRoot(cfg.Root)
	if err != nil {
		return fmt.Errorf("%w; stop that one, or give this one another folder with --root", err)
	}
	defer unlock()
	// The port is asked for first: it is what most often is in the way.
	ln, err := listen(cfg)
	if err != nil {
		return err
	}
	defer ln.Close()
	tokenFile, err := ensureToken(cfg)
	if err != nil {
		return err
	}
	stop, err := startEngines(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := Migrate(ctx, cfg); err != nil {
		return err
	}
	s, err := OpenStores(ctx, cfg)
	if err != nil {
		return err
	}
	defer s.Close()
	reg := prometheus.NewRegistry()
	srv, err := NewAPI(cfg, s, reg, log)
	if err != nil {
		return err
	}
	work := func(ctx context.Context) error { return follow(ctx, cfg, s, resume, log) }
	if cfg.Central == "" {
		w, err := NewWorker(cfg, s, reg, log)
		if err != nil {
			return err
		}
		logWalls(ctx, log)
		work = w.Run
	}
	if err := ServeAdmin(ctx, cfg, reg); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return serveHTTP(ctx, cfg, srv, ln, log) })
	g.Go(func() error { return work(ctx) })
	seeding, cancel := context.WithTimeout(ctx, 10*time.Second)
	if err := SeedHello(seeding, cfg, s); err != nil && ctx.Err() == nil {
		log.Warn("local packages are not there yet", "err", err)
	}
	cancel()
	if ctx.Err() == nil {
		p.banner(cfg, ln.Addr(), tokenFile)
		if line != nil {
			g.Go(func() error {
				line.follow(access.SeePrivate(ctx), baseURL(ln.Addr()), srv.Status)
				return nil
			})
		}
	}
	return g.Wait()
}

// startEngines starts what no setting names, and returns what stops it.
func startEngines(ctx context.Context, cfg *Config, log *slog.Logger) (stop func() error, err error) {
	opt := engines.Options{NoPostgres: cfg.DatabaseURL != "", NoRedis: cfg.RedisURL != "" || cfg.ReadOnly}
	if opt.NoPostgres && opt.NoRedis {
		return func() error { return nil }, nil
	}
	eng, err := engines.Start(ctx, cfg.Root, opt, log)
	if err != nil {
		return nil, err
	}
	if !opt.NoPostgres {
		cfg.MigrateURL = eng.DatabaseURL()
		if cfg.DatabaseURL, err = asServer(cfg.MigrateURL); err != nil {
			return nil, errors.Join(err, eng.Stop(ctx))
		}
	}
	if !opt.NoRedis {
		cfg.RedisURL = eng.RedisURL()
	}
	return func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		return eng.Stop(ctx)
	}, nil
}

// asServer returns the URL of the private Postgres for a role that owns
// nothing. On the private socket no password is asked for.
func asServer(owner string) (string, error) {
	u, err := url.Parse(owner)
	if err != nil {
		return "", errors.New("the URL of the private Postgres cannot be read")
	}
	u.User = url.User("packbase_server")
	return u.String(), nil
}

// ensureToken makes a token on the first start and finds it again later.
// It returns where the token is kept, "" if the operator set one.
func ensureToken(cfg *Config) (file string, err error) {
	if cfg.Token != "" || cfg.AuthNone || cfg.ReadOnly {
		return "", nil
	}
	file = filepath.Join(cfg.Root, "token")
	b, err := userfile.Read(file, userfile.MaxText)
	if errors.Is(err, fs.ErrNotExist) {
		b = []byte(rand.Text() + "\n")
		err = os.WriteFile(file, b, 0o600)
	}
	if err != nil {
		return "", fmt.Errorf("keep token: %w", err)
	}
	return file, token(cfg, strings.TrimSpace(string(b)))
}

//go:embed hello
var hello embed.FS

// builtin returns the folder of the packages that packbase itself brings.
func builtin(cfg *Config) string { return filepath.Join(cfg.Root, "builtin") }

// SeedHello has the local packages imported, as requestLocal does, and waits
// until hello is there, if that is one of them, or ctx ends.
func SeedHello(ctx context.Context, cfg *Config, s *Stores) error {
	job, err := requestHello(ctx, cfg, s)
	if err != nil {
		return err
	}
	if job == nil {
		return requestFixtures(ctx, cfg, s)
	}
	for job.Open() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("job %s is %s: %w", job.ID, job.State, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
		if *job, err = s.DB.Jobs.ByID(ctx, job.ID); err != nil {
			return err
		}
	}
	if job.State != jobs.Succeeded {
		return fmt.Errorf("job %s is %s: %s", job.ID, job.State, job.ErrorMessage)
	}
	return nil
}

// requestLocal has the packages of PACKBASE_FIXTURES imported, or without
// these the built-in one into a registry that has none: a new instance always
// has something to fetch. Workers find the jobs' rows.
func requestLocal(ctx context.Context, cfg *Config, s *Stores) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, err := requestHello(ctx, cfg, s); err != nil {
		return err
	}
	return requestFixtures(ctx, cfg, s)
}

// requestHello returns the job that imports the built-in package, nil if there
// is no need.
func requestHello(ctx context.Context, cfg *Config, s *Stores) (*jobs.Job, error) {
	if cfg.Fixtures != "" || cfg.ReadOnly || cfg.NoHello {
		return nil, nil
	}
	if err := placeHello(filepath.Join(builtin(cfg), "hello")); err != nil {
		return nil, err
	}
	known, err := s.DB.Packages(ctx)
	if err != nil || len(known) > 0 {
		return nil, err
	}
	up, err := name.FixtureUpstream("hello")
	if err != nil {
		return nil, err
	}
	job, _, err := s.DB.RequestFetch(ctx, up.Name, up)
	return &job, err
}

// placeHello puts the built-in package into folder. Other workers on the same
// volume do so, too: it is never seen in part.
func placeHello(folder string) error {
	files, err := fs.Sub(hello, "hello")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(folder), 0o755); err != nil {
		return err
	}
	fresh, err := os.MkdirTemp(filepath.Dir(folder), ".hello-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(fresh)
	if err := os.CopyFS(filepath.Join(fresh, "new"), files); err != nil {
		return err
	}
	if err := os.Rename(folder, filepath.Join(fresh, "old")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err = os.Rename(filepath.Join(fresh, "new"), folder)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTEMPTY) { // another worker's
		return nil
	}
	return err
}

// requestFixtures has each package of PACKBASE_FIXTURES imported.
func requestFixtures(ctx context.Context, cfg *Config, s *Stores) error {
	if cfg.Fixtures == "" || cfg.ReadOnly {
		return nil
	}
	folders, err := ingest.Fixtures(cfg.Fixtures)
	if err != nil {
		return fmt.Errorf("PACKBASE_FIXTURES: %w", err)
	}
	var all error
	for _, folder := range folders {
		up, err := name.FixtureUpstream(folder)
		if err != nil {
			continue // an update says so
		}
		_, _, err = s.DB.RequestFetch(ctx, up.Name, up)
		all = errors.Join(all, err)
	}
	return all
}

// baseURL returns where a browser on this machine finds a listener.
func baseURL(addr net.Addr) string {
	if at, ok := addr.(*net.TCPAddr); ok && at.IP.IsUnspecified() {
		return fmt.Sprint("http://localhost:", at.Port)
	}
	return "http://" + addr.String()
}

// banner says what to do next.
func (p *program) banner(cfg *Config, addr net.Addr, tokenFile string) {
	url := baseURL(addr)
	where := tokenFile
	switch {
	case cfg.Central != "":
		fmt.Fprintf(p.Stdout, "\npackbase is ready: an edge of %s at %s/\n\nCtrl-C stops it.\n\n", cfg.Central, url)
		return
	case where == "" && cfg.Token == "":
		where = "none is needed"
	case where == "":
		where = "as set by PACKBASE_TOKEN"
	}
	logged := ""
	if cfg.LogFile != "" {
		logged = "  Log     " + cfg.LogFile + "\n"
	}
	fmt.Fprintf(p.Stdout, `
packbase is ready.

  Page    %s/
  Token   %s
  Try     zig fetch --save git+%s/hello#v0.1.0
  Mirror  packbase fetch git+https://github.com/karlseguin/http.zig --wait
%s
Ctrl-C stops it.

`, url, where, url, logged)
}

// printSettings writes the settings as a table, without secrets.
func printSettings(out io.Writer, values []value) error {
	tw := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, v := range values {
		text := v.text
		if v.secret && text != "" {
			text = "(set, not shown)"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\n", v.env(), text, v.from)
	}
	return tw.Flush()
}
