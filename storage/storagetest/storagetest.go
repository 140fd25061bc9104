// Package storagetest gives tests a migrated database of their own, and a log
// to look into.
package storagetest

import (
	"bytes"
	"context"
	"errors"
	"net/url"
	"os"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage"
)

// NewDB returns a database with the current schema and nothing in it, for
// this test alone, as servers see it. It skips the test when
// PACKBASE_TEST_DATABASE_URL is not set, and fails it then if CI is.
func NewDB(t testing.TB) *storage.DB {
	t.Helper()
	owner := NewURL(t)
	Migrate(t, owner)
	return open(t, AsServer(t, owner))
}

// NewOwner is NewDB as the owner of the tables sees it.
func NewOwner(t testing.TB) *storage.DB {
	t.Helper()
	url := NewURL(t)
	Migrate(t, url)
	return open(t, url)
}

func open(t testing.TB, url string) *storage.DB {
	t.Helper()
	db, err := storage.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

// serverRole is one for all tests. The rights that it is given go with their
// schema.
const serverRole = "packbase_test_server"

// AsServer returns the URL of an owner's database for the role of servers.
func AsServer(t testing.TB, owner string) string {
	t.Helper()
	u, err := url.Parse(owner)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(serverRole, serverRole)
	return u.String()
}

// Migrate brings the schema of an owner's database up to date, for servers too.
func Migrate(t testing.TB, url string) {
	t.Helper()
	db, err := storage.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := errors.Join(db.Migrate(t.Context()), db.Admit(t.Context(), serverRole, serverRole)); err != nil {
		t.Fatal(err)
	}
}

// NewURL returns the URL of an empty schema for this test alone.
// A schema takes milliseconds, a database half a second.
func NewURL(t testing.TB) string {
	t.Helper()
	base := Env(t, "PACKBASE_TEST_DATABASE_URL")
	schema := "test_" + uuid.NewString()
	exec := func(ctx context.Context, sql string) error {
		conn, err := pgx.Connect(ctx, base)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, sql)
		return err
	}
	name := pgx.Identifier{schema}.Sanitize()
	if err := exec(t.Context(), "CREATE SCHEMA "+name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The test's own context has ended by now.
		if err := exec(context.Background(), "DROP SCHEMA "+name+" CASCADE"); err != nil {
			t.Error(err)
		}
	})
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("search_path", schema)
	u.RawQuery = q.Encode()
	return u.String()
}

// Env returns an environment variable that the test needs. Without it the
// test is skipped, or fails if CI is set: `make test` sets all of them.
func Env(t testing.TB, name string) string {
	t.Helper()
	value := os.Getenv(name)
	switch {
	case value != "":
		return value
	case os.Getenv("CI") != "":
		t.Fatalf("%s is not set; run make test", name)
	}
	t.Skipf("%s is not set; run make test", name)
	return ""
}

// A Log keeps what is logged, and can be read meanwhile.
type Log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

// String returns all of it.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
