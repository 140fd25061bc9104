package upkeep

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/francescobianco/packbase/cmd/packbase/client"
	"github.com/francescobianco/packbase/cmd/packbase/project"
	"github.com/francescobianco/packbase/cmd/packbase/serve"
	"github.com/francescobianco/packbase/cmd/packbase/term"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/catalog"
	"github.com/francescobianco/packbase/storage/engines"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/queue"
	"github.com/francescobianco/packbase/storage/userfile"
	"github.com/francescobianco/packbase/worker/upstream"
)

func (p *program) doctorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "doctor",
		GroupID: "keep",
		Short:   "Check a set-up, and say what to mend",
		Long: `Check the settings and all that they name, with the same flags and variables as
the servers: a line each with ok, warn or FAIL, and what to do. It changes
nothing, but for a blob that it writes, reads and removes. Exit code 1 if
anything is FAIL.`,
		Example: `  packbase doctor
  PACKBASE_DATABASE_URL=postgres://... PACKBASE_REDIS_URL=redis://... packbase doctor --root /data`,
		Args: cobra.NoArgs,
	}
	cfg := serve.AddSettings(p.Program, cmd)
	// It looks at each setting by itself, and at all of them.
	cmd.PreRunE = nil
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		d := &doctor{p: p, cfg: cfg, s: p.Screen(p.Stdout)}
		d.settings(cmd)
		for _, check := range []func(context.Context){d.token, d.root, d.blobs, d.postgres, d.redis, d.ports, d.files, d.upstream, d.zig, d.proxies, d.walls, d.log} {
			// What Ctrl-C broke off is no finding.
			if err := cmd.Context().Err(); err != nil {
				return err
			}
			check(cmd.Context())
		}
		if d.failed > 0 {
			return fmt.Errorf("%s failed", term.Plural(d.failed, "check"))
		}
		return nil
	}
	return cmd
}

// A doctor looks at a set-up and writes what it finds.
type doctor struct {
	p      *program
	cfg    *serve.Config
	s      *term.Screen
	failed int
}

// checkTimeout bounds a check that asks somebody.
const checkTimeout = 10 * time.Second

func (d *doctor) ok(what, format string, args ...any)   { d.find("ok", what, format, args...) }
func (d *doctor) warn(what, format string, args ...any) { d.find("warn", what, format, args...) }
func (d *doctor) fail(what, format string, args ...any) {
	d.failed++
	d.find("FAIL", what, format, args...)
}

func (d *doctor) find(level, what, format string, args ...any) {
	d.s.Printf("%s  %-9s  %s\n", d.s.Paint(term.StateColour(level), fmt.Sprintf("%-4s", level)), what, term.Printable(fmt.Sprintf(format, args...)))
}

// settings reads each setting, so that all mistakes are found at once.
func (d *doctor) settings(cmd *cobra.Command) {
	set, mistakes := d.cfg.ReadAll(d.p.Program, cmd.Flags())
	for _, err := range mistakes {
		d.fail("settings", "%v", err)
	}
	if len(mistakes) == 0 {
		d.ok("settings", "%d are set, the others are as usual; `packbase config` prints them", set)
	}
}

func (d *doctor) token(context.Context) {
	switch {
	case d.cfg.ReadOnly:
		d.ok("token", "an edge needs none")
	case d.cfg.AuthNone:
		d.warn("token", "PACKBASE_AUTH=none: whoever reaches the port may write; set PACKBASE_TOKEN instead")
	case d.cfg.Token != "":
		d.ok("token", "set")
	case fileExists(filepath.Join(d.cfg.Root, "token")):
		d.ok("token", "`packbase up` made one and keeps it in %s", filepath.Join(d.cfg.Root, "token"))
	case d.cfg.Loopback():
		d.warn("token", "not set: `packbase up` makes one, `packbase api` lets everybody on this machine write")
	default:
		d.warn("token", "not set: `packbase up` makes one, but `packbase api` on %s will not start; set PACKBASE_TOKEN", cmp.Or(d.cfg.Addr, "all addresses"))
	}
}

func fileExists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// Free space of the root folder.
const (
	littleSpace = 5 << 30   // bytes: soon too little
	noSpace     = 500 << 20 // bytes: less than one large package needs
)

func (d *doctor) root(context.Context) {
	dir := d.cfg.Root
	info, err := os.Stat(dir)
	if errors.Is(err, os.ErrNotExist) {
		dir = existing(dir)
		info, err = os.Stat(dir)
	}
	switch {
	case err != nil:
		d.fail("root", "%v; PACKBASE_ROOT names another folder", err)
		return
	case !info.IsDir():
		d.fail("root", "%s is not a folder; PACKBASE_ROOT names another", dir)
		return
	case unix.Access(dir, unix.W_OK|unix.X_OK) != nil:
		d.fail("root", "%s cannot be written to as user %d; change its owner, or PACKBASE_ROOT", dir, os.Getuid())
		return
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		d.fail("root", "%s: %v", dir, err)
		return
	}
	free := int64(fs.Bavail) * int64(fs.Bsize)
	switch {
	case free < noSpace:
		d.fail("root", "only %s free in %s; make room, or set PACKBASE_ROOT", term.Size(free), dir)
	case free < littleSpace:
		d.warn("root", "only %s free in %s", term.Size(free), dir)
	case dir != d.cfg.Root:
		d.ok("root", "%s will be made; %s free", d.cfg.Root, term.Size(free))
	default:
		d.ok("root", "%s can be written to; %s free", dir, term.Size(free))
	}
}

// existing returns the nearest folder above dir that is there.
func existing(dir string) string {
	for {
		if fileExists(dir) || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

func (d *doctor) blobs(ctx context.Context) {
	if dir, ok := strings.CutPrefix(d.cfg.Blobs, "file://"); ok && !fileExists(dir) {
		d.ok("blobs", "%s will be made", dir)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	store, err := blob.Open(d.cfg.Blobs)
	if err != nil {
		d.fail("blobs", "PACKBASE_BLOBS: %v", err)
		return
	}
	if d.cfg.ReadOnly {
		if _, err := store.Free(ctx); err != nil {
			d.fail("blobs", "%v", err)
			return
		}
		d.ok("blobs", "answers; nothing was written, as this is an edge")
		return
	}
	if err := d.tryBlob(ctx, store); err != nil {
		d.fail("blobs", "%v", err)
		return
	}
	d.ok("blobs", "a blob was staged, stored, found and removed")
}

// tryBlob sends a blob of its own the way of all others.
func (d *doctor) tryBlob(ctx context.Context, store blob.Store) (err error) {
	dir := filepath.Join(d.cfg.Root, "staging")
	if !fileExists(d.cfg.Root) {
		// A store elsewhere is tried before there is a root.
		dir = os.TempDir()
	}
	staging, err := blob.OpenStaging(store, dir)
	if err != nil {
		return err
	}
	stage, err := staging.New()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stage.Close()) }()
	text := "packbase doctor " + rand.Text() + "\n"
	name := filepath.Join(stage.Dir, "doctor")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		return err
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.Sum256([]byte(text))
	digest := hex.EncodeToString(sum[:])
	if err := store.Put(ctx, digest, f); err != nil {
		return err
	}
	if err := blob.Verify(ctx, store, digest); err != nil {
		return err
	}
	return store.Delete(ctx, digest)
}

func (d *doctor) postgres(ctx context.Context) {
	databaseURL := d.cfg.DatabaseURL
	if databaseURL == "" {
		program, err := engines.Postgres(d.cfg.Root)
		d.engine("postgres", "PACKBASE_DATABASE_URL", program, err)
		var running bool
		if databaseURL, running = engines.Running(d.cfg.Root); !running {
			return
		}
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	db, err := storage.Open(ctx, databaseURL)
	if err != nil {
		d.fail("postgres", "%v; is PACKBASE_DATABASE_URL right, and does that server let us in?", err)
		return
	}
	defer db.Close()
	if err := db.CheckSchema(ctx); err != nil {
		d.fail("postgres", "%v", err)
		return
	}
	if over, err := db.Overpowered(ctx); err == nil && over && d.cfg.DatabaseURL != "" {
		d.warn("postgres", "its schema is up to date, but the role of PACKBASE_DATABASE_URL owns it: a server that is taken over could switch off what keeps releases as they are; give `packbase migrate` PACKBASE_MIGRATE_DATABASE_URL, and servers another role")
	} else {
		d.ok("postgres", "answers, and its schema is up to date")
	}
	d.bytes(ctx, db)
	if d.cfg.Central != "" {
		d.central(ctx, db)
	}
}

// bytes says what the scrub knows of what is stored.
func (d *doctor) bytes(ctx context.Context, db *storage.DB) {
	st, err := db.Scrub.State(ctx, d.cfg.Scrub)
	switch {
	case err != nil:
		d.fail("bytes", "%v", err)
	case st.Damaged > 0:
		d.fail("bytes", "%s damaged or lost, and not served until mended: `packbase fsck` and `verify` name what to bring back from a backup or an edge", term.Plural(st.Damaged, "blob"))
	case st.Behind > 0:
		d.warn("bytes", "%s not read again within %v (PACKBASE_SCRUB): a worker does that, if one runs", term.Plural(st.Behind, "blob"), d.cfg.Scrub)
	default:
		d.ok("bytes", "none is known as damaged or lost")
	}
}

// longSilent is how long a central does not answer that nobody has to look after: edges ask at least once a minute.
const longSilent = 5 * time.Minute

// central says how the edge stands that db is of.
func (d *doctor) central(ctx context.Context, db *storage.DB) {
	r, err := db.Feed.Replication(ctx)
	if errors.Is(err, fault.ErrNotFound) {
		d.warn("central", "nothing of it is here yet: `packbase replicate` follows it, or `packbase up`")
		return
	}
	var aside int
	if err == nil {
		_, aside, err = db.Feed.AllSetAside(access.SeePrivate(ctx), 1)
	}
	switch {
	case err != nil:
		d.fail("central", "%v", err)
	case r.Halted != "":
		d.fail("central", "replication halted: %s; what is here is served, and nothing new comes: ask who runs %s why, and then start `packbase replicate` or `up` once with --resume", r.Halted, r.Central)
	case r.SyncedAt == nil || time.Since(*r.SyncedAt) > longSilent:
		d.fail("central", "%s was last understood %s; the log of `packbase replicate`, or of `up`, says what is in the way", r.Central, d.s.When(r.SyncedAt))
	case aside > 0:
		d.warn("central", "%s cannot be taken over for now, and will be tried again: /api/status says which, and why", term.Plural(aside, "change"))
	default:
		d.ok("central", "followed to change %d of %d", r.Seq, r.Head)
	}
}

// engine checks what `packbase up` needs to run an engine of its own.
func (d *doctor) engine(what, variable, program string, err error) {
	if err != nil {
		d.fail(what, "%v, or set %s", err, variable)
		return
	}
	d.ok(what, "`packbase up` runs its own: %s", program)
}

func (d *doctor) redis(ctx context.Context) {
	switch {
	case d.cfg.RedisURL == "" && d.cfg.ReadOnly:
		d.ok("redis", "an edge needs none")
		return
	case d.cfg.RedisURL == "":
		program, err := engines.Redis()
		d.engine("redis", "PACKBASE_REDIS_URL", program, err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	q, err := queue.Open(d.cfg.RedisURL)
	if err != nil {
		d.fail("redis", "PACKBASE_REDIS_URL: %v", err)
		return
	}
	defer q.Close()
	opt, err := redis.ParseURL(d.cfg.RedisURL)
	single := err == nil // and not a cluster, or sentinels
	if single {
		// go-redis would write of its own about what it cannot reach.
		err = tryDial(ctx, opt.Network, opt.Addr)
	}
	if !single || err == nil {
		err = q.Ping(ctx)
	}
	switch {
	case err != nil:
		d.fail("redis", "%v; is PACKBASE_REDIS_URL right, and does that server let us in?", err)
	case !single:
		d.warn("redis", redisDoubt)
	default:
		d.redisConfig(ctx, opt)
	}
}

const redisDoubt = "answers, but does not tell its configuration; see to appendonly yes and maxmemory-policy noeviction"

func tryDial(ctx context.Context, network, addr string) error {
	conn, err := (&net.Dialer{Timeout: checkTimeout}).DialContext(ctx, network, addr)
	if err != nil {
		return err
	}
	return conn.Close()
}

// redisConfig checks that Redis loses no messages when it is full or restarts.
func (d *doctor) redisConfig(ctx context.Context, opt *redis.Options) {
	db := redis.NewClient(opt)
	defer db.Close()
	policy, err := db.ConfigGet(ctx, "maxmemory-policy").Result()
	if err != nil {
		d.warn("redis", redisDoubt)
		return
	}
	if got := policy["maxmemory-policy"]; got != "noeviction" {
		d.fail("redis", "drops keys when its memory is full (maxmemory-policy %s); set maxmemory-policy noeviction", got)
		return
	}
	file, err := db.ConfigGet(ctx, "appendonly").Result()
	if err != nil || file["appendonly"] != "yes" {
		d.warn("redis", "answers, but forgets the queue when it restarts, which then is restored slowly from Postgres; set appendonly yes")
		return
	}
	d.ok("redis", "answers, keeps an append-only file, and evicts nothing")
}

func (d *doctor) ports(ctx context.Context) {
	addr := net.JoinHostPort(d.cfg.Addr, strconv.Itoa(d.cfg.Port))
	err := tryListen(addr)
	held := errors.Is(err, unix.EADDRINUSE)
	switch {
	case err == nil:
		d.ok("port", "%s is free", addr)
	case held:
		d.holder(ctx, addr)
	default:
		d.fail("port", "%v; set PACKBASE_ADDR or PACKBASE_PORT", err)
	}
	if d.cfg.AdminAddr == "" {
		return
	}
	switch err := tryListen(d.cfg.AdminAddr); {
	case err == nil:
		d.ok("admin", "%s is free", d.cfg.AdminAddr)
	case held && errors.Is(err, unix.EADDRINUSE):
		d.ok("admin", "%s is in use, as by a packbase that runs", d.cfg.AdminAddr)
	default:
		d.fail("admin", "%v; set PACKBASE_ADMIN_ADDR, or off", err)
	}
}

func tryListen(addr string) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	return ln.Close()
}

// holder finds out whether what has the port is a packbase, and how it is.
func (d *doctor) holder(ctx context.Context, addr string) {
	host := cmp.Or(d.cfg.Addr, "127.0.0.1")
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	base := &url.URL{Scheme: "http", Host: net.JoinHostPort(host, strconv.Itoa(d.cfg.Port))}
	switch ready, err := client.AskReady(ctx, base, d.cfg.Release, checkTimeout); {
	case err != nil:
		d.fail("port", "%s is in use by something else; stop that, or set PACKBASE_PORT", addr)
	case ready.Status != "ready":
		d.warn("port", "%s is a packbase that is not ready: %v; its log says why", base, ready.Dependencies)
	default:
		d.ok("port", "%s is a packbase that is ready", base)
	}
}

// files checks the files that settings name.
func (d *doctor) files(context.Context) {
	if dir := d.cfg.Fixtures; dir != "" {
		if entries, err := os.ReadDir(dir); err != nil {
			d.fail("fixtures", "%v; set PACKBASE_FIXTURES", err)
		} else {
			d.ok("fixtures", "%s has %d entries", dir, len(entries))
		}
	}
	if name := d.cfg.Netrc; name != "" {
		info, err := os.Stat(name)
		switch {
		case err != nil:
			d.fail("netrc", "%v; set PACKBASE_NETRC", err)
		case info.Mode()&0o077 != 0:
			d.warn("netrc", "others may read %s; chmod 600", name)
		default:
			d.ok("netrc", "%s is there, and for its owner only", name)
		}
	}
}

func (d *doctor) upstream(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 3*checkTimeout)
	defer cancel()
	if d.cfg.Source == "" {
		const host = "github.com:443"
		if err := tryDial(ctx, "tcp", host); err != nil {
			d.warn("upstream", "%s cannot be reached (%v); that is as it should be on a site that is cut off", host, err)
			return
		}
		d.ok("upstream", "%s can be reached; no PACKBASE_SOURCE is set, so packages come by `packbase fetch`", host)
		return
	}
	entries, err := d.catalog(ctx)
	if e, ok := errors.AsType[*fault.Error](err); ok {
		d.fail("catalog", "PACKBASE_SOURCE: %s", e.Message)
		return
	}
	if err != nil {
		d.fail("catalog", "PACKBASE_SOURCE: %v", err)
		return
	}
	odd := slices.DeleteFunc(slices.Clone(entries), func(e catalog.Entry) bool { return e.Problem == "" })
	if len(odd) > 0 {
		d.warn("catalog", "%d of %s are left out; the first is %q: %s", len(odd), term.Plural(len(entries), "package"), odd[0].ID, odd[0].Problem)
		return
	}
	d.ok("catalog", "can be read: %s", term.Plural(len(entries), "package"))
}

// catalog reads the catalog.
func (d *doctor) catalog(ctx context.Context) ([]catalog.Entry, error) {
	var body io.ReadCloser
	var err error
	if name, ok := strings.CutPrefix(d.cfg.Source, "file://"); ok {
		body, err = userfile.Open(name)
	} else {
		body, err = d.download(ctx, d.cfg.Source)
	}
	if err != nil {
		return nil, err
	}
	defer body.Close()
	raw, err := io.ReadAll(io.LimitReader(body, catalog.MaxSize))
	if err != nil {
		return nil, fmt.Errorf("read catalog: %w", err)
	}
	return catalog.Parse(raw)
}

func (d *doctor) download(ctx context.Context, source string) (io.ReadCloser, error) {
	web := upstream.New(upstream.Options{Allow: d.cfg.Allow, Netrc: d.cfg.Netrc, UserAgent: "packbase/" + d.cfg.Release}).HTTP()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, source, nil)
	if err != nil {
		return nil, err
	}
	res, err := web.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		res.Body.Close()
		return nil, fmt.Errorf("the server answers %s", res.Status)
	}
	return res.Body, nil
}

func (d *doctor) zig(ctx context.Context) {
	if d.cfg.Zig == "" {
		d.ok("zig", "PACKBASE_ZIG is not set: releases are probed without zig")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	version, err := project.Version(ctx, d.cfg.Zig)
	if err != nil {
		d.fail("zig", "PACKBASE_ZIG: %v; name a zig executable, or unset it", err)
		return
	}
	d.ok("zig", "%s is zig %s", d.cfg.Zig, version)
}

// proxies looks at the variables that Zig reads: what it does not like it ignores without a word.
func (d *doctor) proxies(context.Context) {
	for _, name := range []string{"http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"} {
		value := d.p.Getenv(name)
		if value == "" {
			continue
		}
		switch u, err := url.Parse(value); {
		case strings.HasPrefix(value, "https://"):
			d.warn("proxy", "%s: Zig fails with a proxy by https; `packbase run` speaks https", name)
		case err != nil || !strings.HasPrefix(value, "http://") || u.Host == "":
			d.warn("proxy", "%s: Zig ignores it, and asks upstream: it wants http://host:port, in lower case", name)
		default:
			d.ok("proxy", "%s is one that Zig reads", name)
		}
	}
}

// walls looks at what keeps upstream's bytes from the rest of the machine.
func (d *doctor) walls(ctx context.Context) {
	w, err := serve.Walls(ctx)
	switch {
	case err != nil:
		d.fail("walls", "the process that reads upstream cannot be confined: %v", err)
	case !w.Files():
		d.warn("walls", "of the process that reads upstream %s; it can read what this user can: run the worker on Linux 5.13 or later with Landlock, or as root", w)
	case !w.Seccomp:
		d.warn("walls", "of the process that reads upstream %s; it has a network: run the worker where seccomp is allowed", w)
	default:
		d.ok("walls", "of the process that reads upstream %s", w)
	}
}
