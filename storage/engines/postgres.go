package engines

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
)

// newPostgres prepares the engine whose cluster is dir/postgres/data.
func newPostgres(dir string, ephemeral bool, log *slog.Logger) (*engine, error) {
	home := filepath.Join(dir, "postgres")
	data := filepath.Join(home, "data")
	bin, err := findPostgres(data)
	if err != nil {
		return nil, err
	}
	account, err := makeHome(home, "postgres", "nobody")
	if err != nil {
		return nil, fmt.Errorf("make folder of postgres: %w", err)
	}
	sockets, err := account.socketDir(home, ".s.PGSQL.5432")
	if err != nil {
		return nil, err
	}
	e := newEngine("postgres", home, account, log)
	e.quit = syscall.SIGINT // "fast shutdown"
	// A blank as %20: pgx and libpq leave + alone.
	e.url = "postgres://packbase@/postgres?host=" + strings.ReplaceAll(url.QueryEscape(sockets), "+", "%20")
	argv := []string{filepath.Join(bin, "postgres"), "-D", data}
	for _, setting := range postgresSettings(sockets, ephemeral) {
		argv = append(argv, "-c", setting)
	}
	e.serve = func(ctx context.Context) error {
		if err := e.makeCluster(ctx, filepath.Join(bin, "initdb"), data, ephemeral); err != nil {
			return err
		}
		e.env = []string{"PG_GRANDPARENT_PID=" + postmaster(data)}
		return e.run(ctx, argv...)
	}
	e.ping = func(ctx context.Context) error { return e.pingPostgres(ctx, data) }
	return e, nil
}

func postgresSettings(sockets string, ephemeral bool) []string {
	settings := []string{
		"listen_addresses=",
		// A list of quoted names.
		`unix_socket_directories="` + strings.ReplaceAll(sockets, `"`, `""`) + `"`,
		"shared_buffers=128MB",
		"max_connections=100",
		"timezone=UTC",
		"log_timezone=UTC",
		"log_checkpoints=off",
		"jit=off", // our queries are short
		// systemd deletes the shared memory of a user who logs out.
		"dynamic_shared_memory_type=mmap",
	}
	if ephemeral {
		settings = append(settings, "max_connections=400",
			"fsync=off", "synchronous_commit=off", "full_page_writes=off")
	}
	return settings
}

// makeCluster makes the cluster unless there is one. A cluster appears under
// its name when it is complete.
func (e *engine) makeCluster(ctx context.Context, initdb, data string, ephemeral bool) error {
	if _, err := os.Stat(data); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	fresh := data + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	argv := []string{initdb, "-D", fresh, "--username=packbase", "--auth=trust",
		"--encoding=UTF8", "--locale=C.UTF-8", "--data-checksums", "--no-instructions"}
	if ephemeral {
		argv = append(argv, "--no-sync")
	}
	if err := e.run(ctx, argv...); err != nil {
		return fmt.Errorf("make cluster: %w", err)
	}
	if err := os.Rename(fresh, data); err != nil {
		return err
	}
	home, err := os.Open(e.home)
	if err != nil {
		return err
	}
	return errors.Join(home.Sync(), home.Close())
}

// postmaster returns the pid in the cluster's postmaster.pid, or "". Postgres
// does not start while that process lives, unless it is named as its
// grandparent, for the case that the pid has been given to another process
// (CreateLockFile in miscinit.c). It checks the shared memory of the cluster
// all the same, so a server that someone else has started is still detected.
func postmaster(data string) string {
	b, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return ""
	}
	pid, _, _ := bytes.Cut(b, []byte("\n"))
	return string(pid)
}

func (e *engine) pingPostgres(ctx context.Context, data string) error {
	if postmaster(data) != e.pid() {
		return errors.New("ping postgres: the cluster is not ours yet")
	}
	conn, err := pgconn.Connect(ctx, e.url)
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// Postgres returns the program that Start runs with the cluster in dir, or will
// make one with there. Its error says what to install.
func Postgres(dir string) (program string, err error) {
	bin, err := findPostgres(filepath.Join(dir, "postgres", "data"))
	if err != nil {
		return "", err
	}
	return filepath.Join(bin, "postgres"), nil
}

// findPostgres returns the folder of the programs to run the cluster data with:
// those of its own major version, or for a new one the first in PATH, then the
// newest.
func findPostgres(data string) (bin string, err error) {
	want, err := clusterVersion(data)
	if err != nil {
		return "", err
	}
	var found []string
	for _, bin := range postgresDirs() {
		if _, err := exec.LookPath(filepath.Join(bin, "initdb")); err != nil {
			continue
		}
		version, err := postgresVersion(filepath.Join(bin, "postgres"))
		if err != nil {
			continue
		}
		if want == "" || want == version {
			return bin, nil
		}
		found = append(found, version)
	}
	if len(found) == 0 {
		return "", errors.New("find postgres: no postgres and initdb in PATH or /usr/lib/postgresql: apt-get install postgresql")
	}
	return "", fmt.Errorf("find postgres: the cluster in %s needs Postgres %s and there is only %s: apt-get install postgresql-%s, or move the data with its pg_dumpall",
		data, want, strings.Join(slices.Compact(found), ", "), want)
}

// clusterVersion returns the major version that made the cluster, as "15", or
// "" if there is no cluster.
func clusterVersion(data string) (string, error) {
	b, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read version of cluster: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// postgresVersion returns the major version of a postgres program, as "15".
func postgresVersion(program string) (string, error) {
	out, err := exec.Command(program, "--version").Output() // "postgres (PostgreSQL) 15.18 (Debian 15.18-0)"
	if err != nil {
		return "", err
	}
	fields := strings.Fields(string(out))
	if len(fields) < 3 {
		return "", fmt.Errorf("%s --version printed %q", program, out)
	}
	return leadingDigits(fields[2]), nil
}

// postgresDirs returns the folders in which distributions keep Postgres.
func postgresDirs() []string {
	var versioned []string
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/lib/postgresql*/bin", "/usr/libexec/postgresql*"} {
		dirs, _ := filepath.Glob(pattern) // the patterns are good
		versioned = append(versioned, dirs...)
	}
	slices.SortStableFunc(versioned, func(a, b string) int { return cmp.Compare(number(b), number(a)) })
	dirs := append(filepath.SplitList(os.Getenv("PATH")), versioned...)
	return append(dirs, "/usr/local/pgsql/bin", "/usr/local/bin", "/usr/bin")
}

// number returns the first number in s, or 0.
func number(s string) int {
	i := strings.IndexAny(s, "0123456789")
	if i < 0 {
		return 0
	}
	n, _ := strconv.Atoi(leadingDigits(s[i:]))
	return n
}

func leadingDigits(s string) string {
	return s[:len(s)-len(strings.TrimLeft(s, "0123456789"))]
}
