// Package serve has the servers: the settings, and the wiring of api, worker,
// replicate and up.
package serve

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/francescobianco/packbase/api"
	"github.com/francescobianco/packbase/api/git"
	"github.com/francescobianco/packbase/api/pace"
	"github.com/francescobianco/packbase/cmd/packbase/term"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/ledger"
	"github.com/francescobianco/packbase/storage/queue"
	"github.com/francescobianco/packbase/worker"
	"github.com/francescobianco/packbase/worker/confine"
	"github.com/francescobianco/packbase/worker/upstream"
)

// Stores are what every role works on.
type Stores struct {
	DB    *storage.DB
	queue *queue.Queue // nil for an edge
	Blobs blob.Store
}

func OpenStores(ctx context.Context, cfg *Config) (*Stores, error) {
	// From here on there are secrets in memory.
	if err := confine.Hide(); err != nil {
		return nil, err
	}
	if cfg.DatabaseURL == "" {
		return nil, term.Usage("PACKBASE_DATABASE_URL is not set; only `packbase up` brings its own Postgres")
	}
	if cfg.RedisURL == "" && !cfg.ReadOnly {
		return nil, term.Usage("PACKBASE_REDIS_URL is not set; only `packbase up` brings its own Redis")
	}
	blobs, err := blob.Open(cfg.Blobs)
	if err != nil {
		return nil, fmt.Errorf("PACKBASE_BLOBS: %w", err)
	}
	if below, err := centralFolder(cfg); err != nil {
		return nil, err
	} else if below != nil {
		own, ok := blobs.(*blob.Disk)
		if !ok || blob.Folder(own) == blob.Folder(below) {
			return nil, term.Usage("PACKBASE_CENTRAL is a folder: what is made here goes to another one, PACKBASE_ROOT")
		}
		blobs = blob.Over(own, below)
	}
	s := &Stores{Blobs: blobs}
	if cfg.RedisURL != "" {
		if s.queue, err = queue.Open(cfg.RedisURL); err != nil {
			return nil, term.Usage("PACKBASE_REDIS_URL: %w", err)
		}
	}
	if s.DB, err = storage.Open(ctx, cfg.DatabaseURL); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// centralFolder returns the store of a central that is a folder, nil if it is none.
func centralFolder(cfg *Config) (*blob.Disk, error) {
	folder, ok := strings.CutPrefix(cfg.Central, "file://")
	if !ok {
		return nil, nil
	}
	d, err := blob.ReadDisk(folder)
	if err != nil {
		return nil, fmt.Errorf("PACKBASE_CENTRAL: %w", err)
	}
	return d, nil
}

func (s *Stores) Close() error {
	if s.DB != nil {
		s.DB.Close()
	}
	if s.queue != nil {
		return s.queue.Close()
	}
	return nil
}

// NewAPI returns the HTTP side.
// reg may be nil.
func NewAPI(cfg *Config, s *Stores, reg prometheus.Registerer, log *slog.Logger) (*api.Server, error) {
	if cfg.Token == "" && !cfg.ReadOnly && !cfg.AuthNone && !cfg.Loopback() {
		return nil, term.Usage("PACKBASE_TOKEN is not set, and %s can be reached from elsewhere: set a token, or PACKBASE_AUTH=none to let everybody write",
			cmp.Or(cfg.Addr, "the listener"))
	}
	if n := len(cfg.Token); n > 0 && n < goodToken {
		if n < cfg.MinToken && !cfg.Loopback() && len(cfg.Proxies) == 0 {
			return nil, term.Usage("PACKBASE_TOKEN has %d characters, PACKBASE_MIN_TOKEN wants %d where %s can be reached from elsewhere: `openssl rand -hex 24` makes a good one",
				n, cfg.MinToken, cmp.Or(cfg.Addr, "the listener"))
		}
		log.Warn("PACKBASE_TOKEN is so short that it can be guessed; `openssl rand -hex 24` makes a good one", "characters", n)
	}
	open := cfg.Token == "" && !cfg.ReadOnly
	if open {
		log.Warn("writes need no token", "addr", cfg.Addr)
	}
	central := cfg.Central
	if strings.HasPrefix(central, "file://") {
		central = "" // nobody can write to it from elsewhere
	}
	srv := api.New(s.DB, s.queue, s.Blobs, api.Options{
		Release: cfg.Release, Token: cfg.Token, Open: open, ReadOnly: cfg.ReadOnly, Central: central,
		Source: cfg.Source, Changing: apiChanging(cfg), Metrics: reg,
		Scrub: cfg.Scrub, Pace: paceOf(cfg), Proxies: cfg.Proxies,
		Origins: cfg.Origins, Names: cfg.Names, Pull: cfg.Pull,
	}, log)
	cfg.onReload(func(next *Config) { srv.Change(apiChanging(next)) })
	return srv, nil
}

func apiChanging(cfg *Config) api.Changing {
	return api.Changing{Cooldown: cfg.UpdateCooldown, MaxJobs: cfg.MaxJobs, PullWait: cfg.PullWait}
}

func workerChanging(cfg *Config) worker.Changing {
	return worker.Changing{Quota: cfg.Quota, UpdateInterval: cfg.UpdateInterval, UpdateCooldown: cfg.UpdateCooldown}
}

func paceOf(cfg *Config) pace.Limits {
	limits := pace.Default()
	limits.Rate = cfg.MinRate
	return limits
}

// workerMemory is from how many bytes on a worker collects garbage as soon as
// there is some: packages of a million files would leave much of it. Who sets GOMEMLIMIT knows better.
const workerMemory = 320 << 20

// NewWorker returns the job side.
func NewWorker(cfg *Config, s *Stores, reg prometheus.Registerer, log *slog.Logger) (*worker.Worker, error) {
	staging, err := blob.OpenStaging(s.Blobs, filepath.Join(cfg.Root, "staging"))
	if err != nil {
		return nil, fmt.Errorf("PACKBASE_ROOT: %w", err)
	}
	child, err := ownChild()
	if err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(workerMemory)
	}
	w := worker.New(s.DB, s.queue, s.Blobs, worker.Options{
		ID:          fmt.Sprintf("%s-%d-%s", host, os.Getpid(), rand.Text()[:4]),
		Release:     cfg.Release,
		Concurrency: cfg.Concurrency,
		Staging:     staging,
		Lease:       cfg.Lease,
		Reconcile:   cfg.Reconcile,
		JobTimeout:  cfg.JobTimeout,
		MaxAttempts: cfg.JobAttempts,
		Backoff:     cfg.JobBackoff,
		Child:       child,
		Limits:      cfg.Limits,
		Egress: upstream.Options{Allow: slices.Concat(cfg.Allow, cfg.FallbackPlaces), Netrc: cfg.Netrc, UserAgent: "packbase/" + cfg.Release,
			Limits: upstream.Limits{MinRate: cfg.MinRate}},
		Pull:       cfg.Pull,
		Peers:      cfg.Fallbacks,
		Git:        git.Handler(s.DB, s.Blobs, cfg.Release),
		Zig:        cfg.Zig,
		ZigCache:   filepath.Join(cfg.Root, "zig-cache"),
		Source:     cfg.Source,
		Fixtures:   cfg.Fixtures,
		Builtin:    builtin(cfg),
		Changing:   workerChanging(cfg),
		CheckTrees: cfg.CheckTrees,
		Scrub:      cfg.Scrub,
		Log:        LogOptions(cfg, s.Blobs),
		Comparing: worker.Comparing{Peers: cfg.Compare, Every: cfg.CompareEvery, Evidence: filepath.Join(cfg.Root, "evidence"),
			Egress: upstream.Options{Allow: slices.Concat(cfg.Allow, cfg.comparePlaces), UserAgent: "packbase/" + cfg.Release}},
		Metrics: reg,
	}, log)
	cfg.onReload(func(next *Config) { w.Change(workerChanging(next)) })
	return w, nil
}

// LogOptions returns where the log of what is published lies, and its key.
func LogOptions(cfg *Config, blobs blob.Store) ledger.Options {
	name := cfg.LogName
	if name == "" && len(cfg.Names) > 0 {
		name = cfg.Names[0] + "/log"
	}
	return ledger.Options{
		Folder:  ledger.FolderBeside(cmp.Or(blob.Folder(blobs), cfg.Root)),
		KeyFile: cmp.Or(cfg.LogKeyFile, filepath.Join(cfg.Root, "log.key")),
		Name:    name,

		Witnesses: cfg.Witnesses,
		HTTP:      upstream.New(upstream.Options{Allow: slices.Concat(cfg.Allow, cfg.places), UserAgent: "packbase/" + cfg.Release}).HTTP(),
	}
}

// ownChild returns how to run one of the hidden commands, without our
// environment but for what names the certificates to trust.
func ownChild() (func(ctx context.Context, name string) *exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own executable: %w", err)
	}
	return func(ctx context.Context, name string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, self, name)
		cmd.Env = []string{"GOTRACEBACK=single"}
		for _, name := range []string{"SSL_CERT_FILE", "SSL_CERT_DIR"} {
			if value, ok := os.LookupEnv(name); ok {
				cmd.Env = append(cmd.Env, name+"="+value)
			}
		}
		return cmd
	}, nil
}

// Walls returns what stands between upstream's bytes and this machine.
func Walls(ctx context.Context) (confine.Walls, error) {
	child, err := ownChild()
	if err != nil {
		return confine.Walls{}, err
	}
	return confine.Survey(ctx, child, "")
}

// logWalls says it when a worker starts.
func logWalls(ctx context.Context, log *slog.Logger) {
	switch w, err := Walls(ctx); {
	case err != nil:
		log.Warn("child processes cannot be confined", "err", err)
	case w.Files() && w.Seccomp:
		log.Info("child processes are confined", "walls", w.String())
	default:
		log.Warn("child processes are not confined well: `packbase doctor` says what to do", "walls", w.String())
	}
}

// listen opens the public listener, or says who may have the port.
func listen(cfg *Config) (net.Listener, error) {
	ln, err := net.Listen("tcp", net.JoinHostPort(cfg.Addr, strconv.Itoa(cfg.Port)))
	if err != nil {
		return nil, fmt.Errorf("%w; is another packbase running, or should PACKBASE_PORT be another?", err)
	}
	return pace.Listener(ln), nil
}

// ServeAdmin answers metrics and profiles on the admin address until ctx ends.
// It is never part of the public listener.
func ServeAdmin(ctx context.Context, cfg *Config, reg *prometheus.Registry) error {
	if cfg.AdminAddr == "" {
		return nil
	}
	ln, err := net.Listen("tcp", cfg.AdminAddr)
	if err != nil {
		return term.Usage("PACKBASE_ADMIN_ADDR: %w; give another address, or off for none", err)
	}
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		<-ctx.Done()
		srv.Close()
	}()
	go func() { _ = srv.Serve(ln) }() // ends with Close
	return nil
}

// serveHTTP answers on ln until ctx ends, then lets answers under way finish.
func serveHTTP(ctx context.Context, cfg *Config, srv *api.Server, ln net.Listener, log *slog.Logger) error {
	httpSrv := srv.HTTPServer()
	var wg sync.WaitGroup
	defer wg.Wait()
	warm, stopWarm := context.WithCancel(ctx)
	defer stopWarm()
	if cfg.ReadOnly {
		wg.Go(func() { srv.Warm(warm) })
	}
	failed := make(chan error, 1)
	go func() { failed <- httpSrv.Serve(ln) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	srv.Drain()
	time.Sleep(cfg.Drain)
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), cfg.StopTimeout)
	defer cancel()
	if err := httpSrv.Shutdown(stop); err != nil {
		httpSrv.Close()
		log.Warn("some answers were cut", "err", err)
	}
	return nil
}
