// Package engines runs a private Postgres and a private Redis for packbase up.
//
// Both are child processes that listen on unix sockets only, and keep
// everything below one root folder:
//
//	lock                      held by the packbase process that uses the root, with its pid (LockRoot)
//	engines/lock              the same for the engines (Start)
//	engines/postgres.pid      held by every Postgres process: free only when the last has gone
//	engines/postgres.url      for other commands while it runs (Running)
//	engines/postgres.log      what Postgres prints; cut at 16 MiB, the part before kept as postgres.log.1
//	engines/postgres/         mode 0700: the socket
//	engines/postgres/data/    the cluster
//	engines/redis.pid, engines/redis.log
//	engines/redis/            mode 0700: the socket
//	engines/redis/appendonlydir/
//
// The socket of a root that is too deep for a socket address (107 bytes) is
// in a folder of its own, mode 0700, below os.TempDir.
//
// Access: no password and no TCP port. Whoever may enter the 0700 folder of a
// socket, which is the user of the engine and root, is the database's
// superuser "packbase".
//
// Users: as root, an engine runs as the owner of its folder, which at first is
// the user postgres or redis of the distribution's packages, or else nobody.
// Otherwise it runs as ourselves.
//
// Life: the kernel asks an engine to shut down cleanly when packbase dies,
// however it dies, and the next Start waits for that, insists after a while,
// and starts new ones. An engine that ends by itself is started again. Engines
// have process groups of their own, so that a Ctrl-C reaches packbase alone,
// which needs them until its last job has been handed back.
//
// Durability: Postgres syncs every commit. Redis syncs its append-only file
// once a second: a power cut may cost the last second of the queue, which the
// reconciler restores from the rows of the jobs. Syncing each of the several
// writes of every job would buy nothing.
package engines

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

// startTimeout bounds Start. It covers the recovery of a large database.
const startTimeout = 5 * time.Minute

// Options say how to run the engines. The zero value runs both, durably.
type Options struct {
	NoPostgres bool // do not run Postgres: an external one is used
	NoRedis    bool // do not run Redis: an external one is used

	// Ephemeral trades durability for speed: nothing is synced, and Redis
	// keeps nothing. For tests.
	Ephemeral bool
}

// Engines are the running engines of one root.
type Engines struct {
	postgres, redis *engine // nil if not asked for
	unlock          func() error
	cancel          context.CancelFunc
	trimmed         chan struct{} // closed when trim has ended
}

// Start starts the engines below root and returns when they answer. It makes
// what is missing, and first ends what an earlier packbase left running.
//
// Cancelling ctx ends the starting, not the engines: that is Stop's.
func Start(ctx context.Context, root string, opts Options, log *slog.Logger) (*Engines, error) {
	dir, err := makeDir(root)
	if err != nil {
		return nil, err
	}
	unlock, err := lock(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	e := &Engines{unlock: unlock, trimmed: make(chan struct{})}
	if !opts.NoPostgres {
		e.postgres, err = newPostgres(dir, opts.Ephemeral, log)
	}
	if err == nil && !opts.NoRedis {
		e.redis, err = newRedis(dir, opts.Ephemeral, log)
	}
	if err != nil {
		return nil, errors.Join(err, unlock())
	}

	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	e.cancel = cancel
	go e.trim(run)
	for _, engine := range e.all() {
		go engine.supervise(run)
	}
	ctx, done := context.WithTimeout(ctx, startTimeout)
	defer done()
	for _, engine := range e.all() {
		if err := engine.await(ctx); err != nil {
			stop, done := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
			defer done()
			return nil, errors.Join(err, e.Stop(stop))
		}
	}
	if err := os.WriteFile(filepath.Join(dir, urlFile), []byte(e.DatabaseURL()), 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("note URL: %w", err), e.Stop(ctx))
	}
	return e, nil
}

// makeDir makes and returns the engines folder of root, as an absolute path
// without symbolic links.
func makeDir(root string) (string, error) {
	dir := filepath.Join(root, "engines")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make folder of engines: %w", err)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("make folder of engines: %w", err)
	}
	return filepath.EvalSymlinks(dir)
}

func (e *Engines) all() []*engine {
	var all []*engine
	for _, engine := range []*engine{e.postgres, e.redis} {
		if engine != nil {
			all = append(all, engine)
		}
	}
	return all
}

// DatabaseURL returns the URL of the private Postgres for pgx, or "" if there
// is none. It stays the same when Postgres is restarted.
func (e *Engines) DatabaseURL() string {
	if e.postgres == nil {
		return ""
	}
	return e.postgres.url
}

// RedisURL returns the URL of the private Redis in the form of go-redis,
// unix:///path/of/socket, or "" if there is none. It stays the same when Redis
// is restarted.
func (e *Engines) RedisURL() string {
	if e.redis == nil {
		return ""
	}
	return e.redis.url
}

// Stop shuts the engines down cleanly: Postgres ends its sessions and writes a
// checkpoint, Redis syncs its file. When ctx ends first it returns an error,
// and the engines go on shutting down; they are killed after 30 seconds.
// More calls do nothing more.
func (e *Engines) Stop(ctx context.Context) error {
	e.cancel()
	for _, engine := range e.all() {
		select {
		case <-engine.ended:
		case <-ctx.Done():
			return fmt.Errorf("stop %s: %w", engine.name, ctx.Err())
		}
	}
	<-e.trimmed
	return e.unlock()
}

// trim keeps the logs short until ctx ends.
func (e *Engines) trim(ctx context.Context) {
	defer close(e.trimmed)
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		for _, engine := range e.all() {
			if err := engine.trimLog(); err != nil {
				engine.log.Warn("log of engine not cut", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
