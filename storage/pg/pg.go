// Package pg is the connection to Postgres that all rooms below storage share: its pool, transactions, migrations, and
// what its errors mean.
package pg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/francescobianco/packbase/migrations"
)

// A DB is packbase's Postgres. It is safe for concurrent use.
type DB struct {
	Pool *pgxpool.Pool
	dial pgconn.DialFunc // to connect beside the pool
}

// Open connects to the database at url, a postgres:// URL.
// Each statement may take 30 s, each wait for a connection 5 s.
func Open(ctx context.Context, url string) (*DB, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		// The parser's error may quote the password.
		return nil, errors.New("database URL: not a postgres:// URL that can be read")
	}
	set := func(key, value string) {
		if _, ok := cfg.ConnConfig.RuntimeParams[key]; !ok {
			cfg.ConnConfig.RuntimeParams[key] = value
		}
	}
	set("application_name", "packbase")
	set("timezone", "UTC")
	set("statement_timeout", "30s")
	set("lock_timeout", "20s")
	// A process that froze in a transaction keeps what it locked no longer than
	// a worker that vanished keeps its jobs.
	set("idle_in_transaction_session_timeout", "10s")
	cfg.ConnConfig.ConnectTimeout = 5 * time.Second
	dial := cfg.ConnConfig.DialFunc
	limitSilence(&cfg.ConnConfig.Config)
	cfg.MaxConns = max(cfg.MaxConns, 16)
	cfg.MaxConnIdleTime = 5 * time.Minute
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	db := &DB{Pool: pool, dial: dial}
	if err := db.Ping(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("open database: %w", err)
	}
	return db, nil
}

// Close waits for queries under way and ends all connections.
func (db *DB) Close() { db.Pool.Close() }

// Ping reports whether the database answers within 3 s.
func (db *DB) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	return db.Pool.Ping(ctx)
}

// Tx runs fn in a transaction, again if Postgres asks for that.
func (db *DB) Tx(ctx context.Context, fn func(pgx.Tx) error) error {
	for attempt := 0; ; attempt++ {
		err := pgx.BeginFunc(ctx, db.Pool, fn)
		if err == nil || attempt == 4 || !isTransient(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Duration(attempt+1) * 20 * time.Millisecond):
		}
	}
}

// ErrNewerSchema says that the database was migrated by a newer packbase.
var ErrNewerSchema = errors.New("the database was migrated by a newer packbase; run that release or a later one")

// Migrate brings the schema up to date; a newer one that this binary can run
// on is left as it is. Of several callers at once, one migrates and the others
// wait for it. Where nothing is to be done, no rights are needed.
func (db *DB) Migrate(ctx context.Context) error {
	if db.CheckSchema(ctx) == nil {
		return nil
	}
	steps, err := fs.Glob(migrations.FS, "*.sql")
	if err != nil {
		return fmt.Errorf("list migrations: %w", err)
	}
	conn, err := db.Connect(ctx)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	// Waiting for another runner may take as long as its longest step.
	const lock = `
		SET lock_timeout = 0; SET statement_timeout = 0;
		SELECT pg_advisory_lock(hashtext('packbase migrate ' || current_schema()))`
	if _, err := conn.Exec(ctx, lock); err != nil {
		return fmt.Errorf("migrate: lock: %w", err)
	}
	const table = `CREATE TABLE IF NOT EXISTS schema_migrations (
		version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())`
	if _, err := conn.Exec(ctx, table); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	at, err := schemaVersion(ctx, conn)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	if at > len(steps) {
		return checkNewer(ctx, conn, len(steps))
	}
	for i, name := range steps[at:] {
		if err := applyStep(ctx, conn, at+i+1, name); err != nil {
			return fmt.Errorf("migrate %s: %w", name, err)
		}
	}
	return nil
}

func applyStep(ctx context.Context, conn *pgx.Conn, version int, name string) error {
	if n, err := strconv.Atoi(name[:4]); err != nil || n != version {
		return fmt.Errorf("file is out of sequence: want number %04d", version)
	}
	sql, err := fs.ReadFile(migrations.FS, name)
	if err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, string(sql)); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO schema_migrations (version, name) VALUES ($1, $2)`, version, name)
		return err
	})
}

// A Querier is the pool or a transaction.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func schemaVersion(ctx context.Context, q Querier) (version int, err error) {
	err = q.QueryRow(ctx, `SELECT COALESCE(max(version), 0) FROM schema_migrations`).Scan(&version)
	return version, err
}

// CheckSchema reports whether this binary can run on the database's schema.
func (db *DB) CheckSchema(ctx context.Context) error {
	steps, err := fs.Glob(migrations.FS, "*.sql")
	if err != nil {
		return fmt.Errorf("list migrations: %w", err)
	}
	at, err := schemaVersion(ctx, db.Pool)
	switch {
	case err != nil:
		return fmt.Errorf("the database has no packbase schema; run `packbase migrate` first (%v)", err)
	case at < len(steps):
		return fmt.Errorf("the database is at step %d of %d; run `packbase migrate` first", at, len(steps))
	case at > len(steps):
		return checkNewer(ctx, db.Pool, len(steps))
	}
	return nil
}

// checkNewer returns ErrNewerSchema unless a program that knows so many steps
// may run on the newer schema, as the release before may.
func checkNewer(ctx context.Context, q Querier, known int) error {
	var needs int
	if err := q.QueryRow(ctx, `SELECT max(needs) FROM schema_migrations`).Scan(&needs); err != nil {
		return fmt.Errorf("look at the schema: %w", err)
	}
	if needs > known {
		return ErrNewerSchema
	}
	return nil
}
