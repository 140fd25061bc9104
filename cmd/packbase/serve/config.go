package serve

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"gopkg.in/natefinch/lumberjack.v2"

	"github.com/francescobianco/packbase/api/pace"
	"github.com/francescobianco/packbase/cmd/packbase/term"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/logbook"
	"github.com/francescobianco/packbase/storage/userfile"
	"github.com/francescobianco/packbase/worker"
	"github.com/francescobianco/packbase/worker/ingest"
	"github.com/francescobianco/packbase/worker/upstream"
)

// Config is what an operator can set. It is read once, when a command starts.
type Config struct {
	Release       string // of packbase; it is no setting
	Root          string
	Addr          string // without the port; "" for all addresses
	Port          int
	AdminAddr     string // metrics and pprof; "" for none
	Token         string
	MinToken      int // where others can reach the listener, with no proxy in front
	AuthNone      bool
	Source        string
	DatabaseURL   string
	MigrateURL    string // of the owner of the tables; "" if that is DatabaseURL
	RedisURL      string
	Blobs         string
	ReadOnly      bool
	Central       string
	CentralToken  string
	Fixtures      string
	NoHello       bool
	Allow         []upstream.Allow
	Netrc         string
	Zig           string
	LogJSON       bool
	level         *slog.LevelVar
	reloads       chan func(next *Config) // to be called once the settings are read again; nil where they are not
	LogFile       string                  // where up writes it in place of a terminal; it is no setting
	logChosen     bool                    // the settings say how to log
	LogKeyFile    string                  // of the log of what is published
	LogName       string
	Witnesses     logbook.Witnesses // who cosign it
	places        []upstream.Allow  // where they are
	Compare       []string          // URLs of packbases with whose logs it is compared
	comparePlaces []upstream.Allow
	CompareEvery  time.Duration

	Concurrency    int
	UpdateCooldown time.Duration
	UpdateInterval time.Duration
	CheckTrees     time.Duration
	Scrub          time.Duration
	Lease          time.Duration
	Reconcile      time.Duration
	JobTimeout     time.Duration
	JobAttempts    int
	JobBackoff     time.Duration
	Drain          time.Duration
	StopTimeout    time.Duration
	MaxJobs        int
	MinRate        int64 // bytes a second that clients and upstreams must move
	Proxies        []netip.Prefix
	Origins        []string
	Names          []string
	Pull           []string // hosts; nil if nothing was said
	PullWait       time.Duration
	Fallbacks      []string // URLs of other packbases
	FallbackPlaces []upstream.Allow
	Limits         ingest.Limits
	Quota          worker.Quota

	values []value                        // as they were read
	read   func(*Config) ([]value, error) // again
}

// A setting is one flag and the environment variable of the same name.
type setting struct {
	name     string // of the flag; PACKBASE_NAME is the variable
	standard string
	help     string
	secret   bool // never printed; may come from a file named by PACKBASE_NAME_FILE
	set      func(*Config, string) error
}

func (s setting) env() string {
	return "PACKBASE_" + strings.ToUpper(strings.ReplaceAll(s.name, "-", "_"))
}

// settings is the table of all of them.
func settings() []setting {
	lim := ingest.DefaultLimits()
	size := func(n int64) string { return strings.ReplaceAll(humanize.IBytes(uint64(n)), " ", "") }
	number := strconv.Itoa
	return []setting{
		{name: "root", standard: "./data", help: "folder for blobs, staging and the private engines", set: text(func(c *Config) *string { return &c.Root })},
		{name: "addr", help: "address to listen on; empty for all (up: 127.0.0.1)", set: text(func(c *Config) *string { return &c.Addr })},
		{name: "port", standard: "8080", help: "port to listen on", set: count(0, 65535, func(c *Config) *int { return &c.Port })},
		{name: "admin-addr", standard: "127.0.0.1:9090", help: "address of metrics and pprof; off for none", set: adminAddr},
		{name: "token", secret: true, help: "bearer token that writes need", set: token},
		{name: "min-token", standard: "0", help: "characters that the token has at least where more than this machine can reach the port, unless PACKBASE_PROXIES says that a proxy with TLS is in front", set: count(0, 1000, func(c *Config) *int { return &c.MinToken })},
		{name: "auth", help: "none: writes need no token, whoever can reach the port", set: auth},
		{name: "source", help: "URL of the package catalog: http, https or file", set: text(func(c *Config) *string { return &c.Source })},
		{name: "database-url", secret: true, help: "postgres:// URL; empty for a private Postgres (up only)", set: text(func(c *Config) *string { return &c.DatabaseURL })},
		{name: "migrate-database-url", secret: true, help: "postgres:// URL of the tables' owner, for migrate; the role of database-url, made if it is not there, may then only read and write rows", set: text(func(c *Config) *string { return &c.MigrateURL })},
		{name: "redis-url", secret: true, help: "redis:// URL; empty for a private Redis (up only)", set: text(func(c *Config) *string { return &c.RedisURL })},
		{name: "blobs", help: "file:///folder or s3://bucket/prefix?endpoint=...; empty for the root folder", set: text(func(c *Config) *string { return &c.Blobs })},
		{name: "read-only", standard: "false", help: "serve as an edge: no writes, no Redis, no token", set: boolean(func(c *Config) *bool { return &c.ReadOnly })},
		{name: "central", help: "URL of the central that an edge follows, and names to those who want to write; or file:// and the folder of its blobs", set: text(func(c *Config) *string { return &c.Central })},
		{name: "central-token", secret: true, help: "token of the central with the scope read, for an edge that has private packages, too", set: text(func(c *Config) *string { return &c.CentralToken })},
		{name: "fixtures", help: "folder of local packages to import", set: text(func(c *Config) *string { return &c.Fixtures })},
		{name: "no-hello", standard: "false", help: "bring no package hello where there are no packages yet", set: boolean(func(c *Config) *bool { return &c.NoHello })},
		{name: "upstream-allow", help: "private places that may be mirrored: CIDR, CIDR:port or host:port, separated by commas", set: allow},
		{name: "netrc", help: "netrc file with credentials for private upstreams", set: text(func(c *Config) *string { return &c.Netrc })},
		{name: "zig", help: "a zig executable to probe releases with", set: text(func(c *Config) *string { return &c.Zig })},
		{name: "log", standard: "text,info", help: "text or json, and debug, info, warn or error", set: logForm},
		{name: "log-key-file", help: "file with the private key of the log of what is published, made with a new log; empty for log.key in the root folder", set: text(func(c *Config) *string { return &c.LogKeyFile })},
		{name: "log-name", help: "name of a new log, as mirror.example.org/log; empty for the first of the names of this server, else one by chance", set: logName},
		{name: "log-witnesses", help: "file with the witnesses that cosign the log, and which of them have to: lines witness, group and quorum as c2sp.org/tlog-policy has them; empty for none", set: witnesses},
		{name: "log-compare", help: "URLs of other packbases with whose logs that of this one is compared, separated by commas", set: compare},
		{name: "log-compare-interval", standard: "1h", help: "time between two comparisons", set: duration(time.Second, func(c *Config) *time.Duration { return &c.CompareEvery })},
		{name: "worker-concurrency", standard: number(max(2, runtime.NumCPU())), help: "jobs that a worker does at once", set: count(1, 1000, func(c *Config) *int { return &c.Concurrency })},
		{name: "update-cooldown", standard: "15s", help: "shortest time between two catalog updates", set: duration(0, func(c *Config) *time.Duration { return &c.UpdateCooldown })},
		{name: "update-interval", standard: "0", help: "time between catalog updates that start by themselves; 0 for never", set: duration(0, func(c *Config) *time.Duration { return &c.UpdateInterval })},
		{name: "check-trees", standard: "24h", help: "time between looks at what upstream still has of a captured tree; 0 for never", set: duration(0, func(c *Config) *time.Duration { return &c.CheckTrees })},
		{name: "scrub", standard: "720h", help: "time in which all stored bytes are read again and compared with their digests; 0 for never", set: duration(0, func(c *Config) *time.Duration { return &c.Scrub })},
		{name: "lease", standard: "15s", help: "how long a worker that vanished keeps its jobs", set: duration(time.Second, func(c *Config) *time.Duration { return &c.Lease })},
		{name: "reconcile", standard: "2s", help: "how often jobs that the queue forgot are looked for", set: duration(100*time.Millisecond, func(c *Config) *time.Duration { return &c.Reconcile })},
		{name: "job-timeout", standard: "1h", help: "longest time of one attempt at a job", set: duration(time.Second, func(c *Config) *time.Duration { return &c.JobTimeout })},
		{name: "job-attempts", standard: "3", help: "attempts at a job that fails for a passing reason", set: count(1, 100, func(c *Config) *int { return &c.JobAttempts })},
		{name: "job-backoff", standard: "2s", help: "wait before the second attempt; four times as long before each further one", set: duration(0, func(c *Config) *time.Duration { return &c.JobBackoff })},
		{name: "drain", standard: "0s", help: "how long to answer not ready before closing the listener", set: duration(0, func(c *Config) *time.Duration { return &c.Drain })},
		{name: "stop-timeout", standard: "30s", help: "how long answers under way may take once the listener is closed", set: duration(0, func(c *Config) *time.Duration { return &c.StopTimeout })},
		{name: "max-jobs", standard: "10000", help: "open jobs; more are refused until some have ended", set: count(1, 10_000_000, func(c *Config) *int { return &c.MaxJobs })},
		{name: "min-rate", standard: size(pace.Default().Rate), help: "bytes a second that a client or an upstream must move, on average over a minute; who is slower is cut", set: byteSize(func(c *Config) *int64 { return &c.MinRate })},
		{name: "proxies", help: "proxies in front whose X-Forwarded-For is believed, to tell clients apart: CIDRs, separated by commas", set: proxies},
		{name: "cors-origins", help: "origins of pages elsewhere that browsers may let read here, as https://app.example.org, separated by commas; * for all; empty for none", set: origins},
		{name: "names", help: "names of this server, as clients call it, separated by commas; requests for any other host are then a proxy's", set: hosts(func(c *Config) *[]string { return &c.Names })},
		{name: "pull", help: "hosts from which what Zig asks the proxy for is fetched if it is not here, separated by commas; off for none; empty for none, or of up on loopback for the forges", set: pull},
		{name: "pull-wait", standard: "10m", help: "how long a client waits for that", set: duration(time.Second, func(c *Config) *time.Duration { return &c.PullWait })},
		{name: "fallbacks", help: "URLs of other packbases, which are asked by its hash for what a capture cannot have from upstream, separated by commas", set: fallbacks},
		{name: "max-pack", standard: size(lim.Git.PackBytes), help: "bytes downloaded from upstream at once", set: byteSize(func(c *Config) *int64 { return &c.Limits.Git.PackBytes })},
		{name: "max-object", standard: size(lim.Git.ObjectBytes), help: "bytes of one file", set: byteSize(func(c *Config) *int64 { return &c.Limits.Git.ObjectBytes })},
		{name: "max-inflated", standard: size(lim.Git.InflatedBytes), help: "bytes of all files fetched at once", set: byteSize(func(c *Config) *int64 { return &c.Limits.Git.InflatedBytes })},
		{name: "max-objects", standard: number(lim.Git.Objects), help: "Git objects fetched at once", set: count(1, gitpack.MostObjects, func(c *Config) *int { return &c.Limits.Git.Objects })},
		{name: "max-entries", standard: number(lim.Git.TreeEntries), help: "files and folders of one release", set: count(1, gitpack.MostTreeEntries, func(c *Config) *int { return &c.Limits.Git.TreeEntries })},
		{name: "max-tarball", standard: size(lim.Tarball), help: "bytes of one tarball", set: tarballSize},
		{name: "max-tags", standard: number(lim.Tags), help: "tags of one package", set: count(1, 1_000_000, func(c *Config) *int { return &c.Limits.Tags })},
		{name: "max-package-bytes", standard: "20GiB", help: "bytes stored of one package", set: byteSize(func(c *Config) *int64 { return &c.Quota.Package })},
		{name: "max-releases", standard: "25000", help: "releases and snapshots of one package", set: count(1, 10_000_000, func(c *Config) *int { return &c.Quota.Releases })},
		{name: "max-bytes", help: "bytes stored of all packages; empty for no limit", set: byteSize(func(c *Config) *int64 { return &c.Quota.Total })},
		{name: "min-free", standard: "1GiB", help: "bytes of disk that are left free", set: byteSize(func(c *Config) *int64 { return &c.Quota.Free })},
		{name: "max-ratio", standard: "500", help: "bytes that a job may store for each that upstream sends it, beyond 16MiB of a package or archive", set: byteSize(func(c *Config) *int64 { return &c.Quota.Ratio })},
		{name: "ingest-memory", standard: size(lim.Memory), help: "address space of the process that reads upstream", set: byteSize(func(c *Config) *int64 { return &c.Limits.Memory })},
		{name: "ingest-cpu", standard: lim.CPU.String(), help: "processor time of the process that reads upstream", set: duration(time.Second, func(c *Config) *time.Duration { return &c.Limits.CPU })},
	}
}

// AddSettings gives cmd a flag for each setting and reads them all before it runs.
func AddSettings(p *term.Program, cmd *cobra.Command) *Config {
	cfg := &Config{Release: p.Release, Limits: ingest.DefaultLimits(), MinRate: pace.Default().Rate}
	cmd.Flags().String(fileFlag, "", "file with settings, as TOML: port = 8080 [PACKBASE_CONFIG]")
	for _, s := range settings() {
		cmd.Flags().String(s.name, "", fmt.Sprintf("%s [%s]", s.help, s.env()))
		flag := cmd.Flags().Lookup(s.name)
		flag.DefValue = s.standard
		if s.standard == "false" {
			flag.NoOptDefVal = "true"
		}
	}
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		cfg.read = func(c *Config) ([]value, error) { return readSettings(p, c, cmd.Flags()) }
		var err error
		cfg.values, err = cfg.read(cfg)
		return err
	}
	return cfg
}

// A value is a setting with where it came from.
type value struct {
	setting
	text, from string
}

func readSettings(p *term.Program, cfg *Config, flags *pflag.FlagSet) ([]value, error) {
	file, err := readFile(p, flags)
	if err != nil {
		return nil, term.Usage("%w", err)
	}
	var values []value
	for _, s := range settings() {
		v, err := valueOf(p, s, flags, file)
		if err != nil {
			return nil, err
		}
		if v.text != "" {
			if err := s.set(cfg, v.text); err != nil {
				return nil, term.Usage("%s: %w", v.from, err)
			}
		}
		cfg.logChosen = cfg.logChosen || s.name == "log" && v.from != "default"
		values = append(values, v)
	}
	return values, cfg.complete()
}

// ReadAll reads the settings, and goes on after a mistake with what is standard.
// set is how many are not that.
func (c *Config) ReadAll(p *term.Program, flags *pflag.FlagSet) (set int, mistakes []error) {
	file, err := readFile(p, flags)
	if err != nil {
		mistakes = append(mistakes, err)
	}
	for _, s := range settings() {
		v, err := valueOf(p, s, flags, file)
		if err == nil && v.text != "" {
			if err = s.set(c, v.text); err != nil {
				err = fmt.Errorf("%s: %w", v.from, err)
			}
		}
		if err != nil {
			mistakes = append(mistakes, err)
			_ = s.set(c, s.standard)
		}
		if v.from != "default" {
			set++
		}
	}
	if err := c.complete(); err != nil {
		mistakes = append(mistakes, err)
	}
	return set, mistakes
}

func valueOf(p *term.Program, s setting, flags *pflag.FlagSet, file settingsFile) (value, error) {
	if f := flags.Lookup(s.name); f != nil && f.Changed {
		return value{s, f.Value.String(), "--" + s.name}, nil
	}
	if text := p.Getenv(s.env()); text != "" {
		return value{s, text, s.env()}, nil
	}
	env := s.env() + "_FILE"
	if name := p.Getenv(env); s.secret && name != "" {
		b, err := userfile.Read(name, userfile.MaxText)
		if err != nil {
			return value{}, term.Usage("%s: %w", env, err)
		}
		return value{s, strings.TrimSpace(string(b)), env}, nil
	}
	if text, ok := file.values[s.name]; ok {
		return value{s, text, file.name + ": " + s.name}, nil
	}
	return value{s, s.standard, "default"}, nil
}

// complete works out what follows from other settings.
func (c *Config) complete() error {
	root, err := filepath.Abs(c.Root)
	if err != nil {
		return term.Usage("PACKBASE_ROOT: %w", err)
	}
	c.Root = root
	if c.Blobs == "" {
		c.Blobs = "file://" + root
	}
	// A pack may be as long as a file may be, and so may what is in it.
	c.Limits.File = max(c.Limits.Git.PackBytes, c.Limits.Git.InflatedBytes) + 1<<20
	return nil
}

// Loopback reports whether only this machine can reach the public listener.
func (c *Config) Loopback() bool {
	if c.Addr == "localhost" {
		return true
	}
	ip := net.ParseIP(c.Addr)
	return ip != nil && ip.IsLoopback()
}

func (c *Config) Logger(w io.Writer) *slog.Logger {
	opt := &slog.HandlerOptions{Level: c.level}
	if c.LogJSON {
		return slog.New(slog.NewJSONHandler(w, opt))
	}
	if c.LogFile == "" {
		return slog.New(slog.NewTextHandler(w, opt))
	}
	file := &lumberjack.Logger{Filename: c.LogFile, MaxSize: logFileSize, MaxBackups: logFiles}
	return slog.New(slog.NewMultiHandler(
		slog.NewTextHandler(file, opt),
		slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelWarn}))) // what who looks at a terminal should know of
}

// Of the file that up writes on a terminal.
const (
	logFileSize = 16 // MB, then another one is begun
	logFiles    = 3  // that are kept besides
)

func text(at func(*Config) *string) func(*Config, string) error {
	return func(c *Config, s string) error {
		*at(c) = s
		return nil
	}
}

func count(least, most int, at func(*Config) *int) func(*Config, string) error {
	return func(c *Config, s string) error {
		n, err := strconv.Atoi(s)
		if err != nil || n < least || n > most {
			return fmt.Errorf("%q is not a number from %d to %d", s, least, most)
		}
		*at(c) = n
		return nil
	}
}

func boolean(at func(*Config) *bool) func(*Config, string) error {
	return func(c *Config, s string) error {
		b, err := strconv.ParseBool(s)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", s)
		}
		*at(c) = b
		return nil
	}
}

func duration(least time.Duration, at func(*Config) *time.Duration) func(*Config, string) error {
	return func(c *Config, s string) error {
		d, err := time.ParseDuration(s)
		if err != nil {
			return fmt.Errorf("%q is not a duration like 15s or 1h", s)
		}
		if d < least {
			return fmt.Errorf("%s is shorter than %s", d, least)
		}
		*at(c) = d
		return nil
	}
}

func byteSize(at func(*Config) *int64) func(*Config, string) error {
	return func(c *Config, s string) error {
		n, err := humanize.ParseBytes(s)
		if err != nil || n == 0 || n > gitpack.MostBytes {
			return fmt.Errorf("%q is not a size like 64MiB", s)
		}
		*at(c) = int64(n)
		return nil
	}
}

// tarballSize keeps to what every packbase can read back.
func tarballSize(c *Config, s string) error {
	err := byteSize(func(c *Config) *int64 { return &c.Limits.Tarball })(c, s)
	if err == nil && c.Limits.Tarball > ingest.MostTarball {
		return fmt.Errorf("%s is more than a tarball may have, %s", s, humanize.IBytes(ingest.MostTarball))
	}
	return err
}

func adminAddr(c *Config, s string) error {
	if s == "off" {
		return nil
	}
	if _, _, err := net.SplitHostPort(s); err != nil {
		return fmt.Errorf("%q is not host:port", s)
	}
	c.AdminAddr = s
	return nil
}

// goodToken is the length of a token that nobody guesses.
const goodToken = 16

func token(c *Config, s string) error {
	if strings.ContainsAny(s, " \t\r\n") {
		return errors.New("a token has no spaces; `openssl rand -hex 24` makes a good one")
	}
	c.Token = s
	return nil
}

func auth(c *Config, s string) error {
	if s != "none" {
		return fmt.Errorf("%q is not known; the only value is none", s)
	}
	c.AuthNone = true
	return nil
}

func allow(c *Config, s string) (err error) {
	c.Allow, err = upstream.ParseAllow(s)
	return err
}

func proxies(c *Config, s string) error {
	for part := range strings.SplitSeq(s, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(part))
		if err != nil {
			return fmt.Errorf("%q is not a CIDR like 10.0.0.0/8 or 192.0.2.1/32", part)
		}
		c.Proxies = append(c.Proxies, p)
	}
	return nil
}

func origins(c *Config, s string) error {
	for part := range strings.SplitSeq(s, ",") {
		part = strings.TrimSpace(part)
		u, err := url.Parse(part)
		if part != "*" && (err != nil || u.Scheme != "https" && u.Scheme != "http" || part != u.Scheme+"://"+u.Host || strings.Contains(u.Host, "*")) {
			return fmt.Errorf("%q is no origin like https://app.example.org", part)
		}
		c.Origins = append(c.Origins, part)
	}
	return nil
}

// hosts reads names of hosts, with ports or without.
func hosts(at func(*Config) *[]string) func(*Config, string) error {
	return func(c *Config, s string) error {
		all := []string{}
		for part := range strings.SplitSeq(s, ",") {
			part = strings.ToLower(strings.TrimSpace(part))
			if u, err := url.Parse("//" + part); err != nil || u.Host != part || u.Hostname() == "" {
				return fmt.Errorf("%q is not the name of a host, as in packbase.example.org or localhost:8080", part)
			}
			all = append(all, part)
		}
		*at(c) = all
		return nil
	}
}

func pull(c *Config, s string) error {
	if s == "off" {
		c.Pull = []string{}
		return nil
	}
	return hosts(func(c *Config) *[]string { return &c.Pull })(c, s)
}

func fallbacks(c *Config, s string) (err error) {
	c.Fallbacks, c.FallbackPlaces, err = parsePackbases(s)
	return err
}

func compare(c *Config, s string) (err error) {
	c.Compare, c.comparePlaces, err = parsePackbases(s)
	return err
}

func parsePackbases(s string) (urls []string, places []upstream.Allow, err error) {
	for part := range strings.SplitSeq(s, ",") {
		at, place, err := parsePackbase(strings.TrimSpace(part))
		if err != nil {
			return nil, nil, err
		}
		urls, places = append(urls, at), append(places, place)
	}
	return urls, places, nil
}

// parsePackbase reads the URL of another packbase. The operator names it: it may be at a private address, which is place.
func parsePackbase(raw string) (at string, place upstream.Allow, err error) {
	u, err := url.Parse(strings.TrimSuffix(raw, "/"))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", place, errors.New("want the URL of a packbase, like https://packbase.example.org")
	}
	port := cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", place, fmt.Errorf("port %q", port)
	}
	allowed, err := upstream.ParseAllow(fmt.Sprintf("%s:%d", hostForAllow(u.Hostname()), n))
	if err != nil {
		return "", place, err
	}
	return u.String(), allowed[0], nil
}

func hostForAllow(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

func logName(c *Config, s string) error {
	if !logbook.ValidName(s) {
		return fmt.Errorf("%q cannot be the name of a log: want what a URL has behind https://", s)
	}
	c.LogName = s
	return nil
}

func witnesses(c *Config, file string) error {
	text, err := userfile.Read(file, userfile.MaxText)
	if err != nil {
		return err
	}
	if c.Witnesses, err = logbook.ParseWitnesses(text); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	for _, w := range c.Witnesses.All {
		_, place, err := parsePackbase(w.URL)
		if err != nil {
			return fmt.Errorf("%s: witness %s: %w", file, w.Name, err)
		}
		c.places = append(c.places, place)
	}
	return nil
}

func logForm(c *Config, s string) error {
	c.level = &slog.LevelVar{}
	for part := range strings.SplitSeq(s, ",") {
		switch part = strings.TrimSpace(part); part {
		case "text":
			c.LogJSON = false
		case "json":
			c.LogJSON = true
		default:
			if err := c.level.UnmarshalText([]byte(part)); err != nil {
				return errors.New("want text or json, and debug, info, warn or error, as in json,warn")
			}
		}
	}
	return nil
}
