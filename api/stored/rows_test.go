package stored

import (
	"context"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/francescobianco/packbase/storage/storagetest"
)

// Who asks after something was committed is not told what was true before, however many ask at once.
func TestRowsVersion(t *testing.T) {
	t.Parallel()
	db := storagetest.NewOwner(t)
	if _, err := db.Pool.Exec(t.Context(), `CREATE TABLE counts (n int)`); err != nil {
		t.Fatal(err)
	}
	r := NewRows(db)
	now := func() string {
		text, err := r.Version(t.Context())
		if err != nil || text == "" {
			t.Errorf("version = %q, %v", text, err)
		}
		return text
	}
	for i, before := 0, now(); ; i++ { // others have their schemas in this Postgres
		after := now()
		if after == before {
			break
		}
		before = after
		if i == 1000 {
			t.Fatal("each version is another one, though nothing is committed")
		}
	}
	stop := make(chan struct{})
	var others, wg sync.WaitGroup
	for range 8 {
		others.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					now()
				}
			}
		})
	}
	for range 4 {
		wg.Go(func() {
			for range 50 {
				before := now()
				if _, err := db.Pool.Exec(t.Context(), `INSERT INTO counts VALUES (1)`); err != nil {
					t.Error(err)
				}
				if after := now(); after == before {
					t.Errorf("a row was committed, and the version is still %q", after)
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	others.Wait()

	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if _, err := r.Version(ctx); err != nil && !errors.Is(err, gone) {
		t.Errorf("who has gone is told %v", err)
	}
}

// A mark holds until its package changes, or all that is known is void.
func TestMarks(t *testing.T) {
	t.Parallel()
	db := storagetest.NewOwner(t)
	exec := func(on interface {
		Exec(context.Context, string, ...any) (pgconn.CommandTag, error)
	}, sql string) {
		t.Helper()
		if _, err := on.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	exec(db.Pool, `INSERT INTO packages (name, upstream, clone_url) SELECT 'p' || n, n, n FROM generate_series(1, 1200) n;
		INSERT INTO package_names (name, package) VALUES ('Alias', 'p1')`)
	r := NewRows(db)
	now := func(name string) Mark {
		t.Helper()
		m, err := r.Of(t.Context(), name)
		if err != nil || !m.Known() {
			t.Errorf("mark of %s: %v, %v", name, m, err)
		}
		return m
	}
	tx, err := db.Pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	exec(tx, `UPDATE packages SET language = 'c' WHERE name = 'p3'`)
	for _, tt := range []struct {
		what    string
		do      func()
		changed string
	}{
		{"nothing", func() {}, ""},
		{"a package", func() { exec(db.Pool, `UPDATE packages SET language = 'c' WHERE name = 'p1'`) }, "P1 alias"},
		{"what no description tells", func() {
			exec(db.Pool, `UPDATE workers SET release = ''; INSERT INTO workers (id, concurrency) VALUES ('w', 1)`)
		}, ""},
		{"a row of another table", func() {
			exec(db.Pool, `INSERT INTO branches (package, branch, commit_oid) VALUES ('p2', 'b', repeat('a', 40))`)
		}, "p2"},
		{"what began before all that", func() {
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
		}, "p3"},
		{"a transaction that is undone", func() { exec(db.Pool, `BEGIN; UPDATE packages SET language = 'd' WHERE name = 'p3'; ROLLBACK`) }, ""},
		{"all packages", func() { exec(db.Pool, `UPDATE packages SET language = 'd'`) }, "p1 alias p2 p3 p4"},
		{"a right", func() { exec(db.Pool, `UPDATE access SET epoch = epoch + 1`) }, "p1 alias p2 p3 p4"},
		{"the dump of a Postgres with more transactions", func() {
			exec(db.Pool, `SET session_replication_role = replica; UPDATE packages SET described_in = '9000000000000'; RESET session_replication_role`)
		}, ""},
		{"a package of that", func() { exec(db.Pool, `DELETE FROM branches`) }, "p2"},
	} {
		before := map[string]Mark{}
		for _, name := range []string{"p1", "P1", "alias", "p2", "p3", "p4"} {
			before[name] = now(name)
		}
		tt.do()
		for name, m := range before {
			if got, want := !m.Holds(now(name)), slices.Contains(strings.Fields(strings.ToLower(tt.changed)), strings.ToLower(name)); got != want {
				t.Errorf("%s: %s changed: %v, want %v", tt.what, name, got, want)
			}
		}
	}
	m := now("p1")
	exec(db.Pool, `INSERT INTO log_keys (vkey) VALUES ('k')`)
	if after := now("p1"); m.Holds(after) || !m.WithoutLog().Holds(after) {
		t.Error("the log has a key, and a mark holds, or one without the log does not")
	}
	if (Mark{}).Holds(Mark{}) {
		t.Error("what is not known holds")
	}
}

// What is known of rows is void once they are those of a dump, which say of no change since that it is undone. So is what was kept
// under an epoch: not even as many decisions as were lost make that one again.
func TestMarksAfterRestore(t *testing.T) {
	t.Parallel()
	db := storagetest.NewOwner(t)
	base := storagetest.Env(t, "PACKBASE_TEST_DATABASE_URL")
	tool := func(in, name string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Stdin = strings.NewReader(in)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return string(out)
	}
	var schema string
	if err := db.Pool.QueryRow(t.Context(), `INSERT INTO packages (name, upstream, clone_url) VALUES ('p', 'p', 'p') RETURNING current_schema()`).Scan(&schema); err != nil {
		t.Fatal(err)
	}
	dump := tool("", "pg_dump", "--clean", "--schema", schema, base)
	if _, err := db.Pool.Exec(t.Context(), `UPDATE packages SET language = 'c'`); err != nil {
		t.Fatal(err)
	}
	r := NewRows(db)
	of := func() Mark {
		m, err := r.Of(t.Context(), "p")
		if err != nil || !m.Known() {
			t.Fatalf("mark: %v, %v", m, err)
		}
		return m
	}
	e := NewEpoch(db)
	before, epoch := of(), e.Now(t.Context())
	tool(dump, "psql", "--quiet", "--single-transaction", "--set", "ON_ERROR_STOP=1", base)
	if before.WithoutLog().Holds(of()) {
		t.Error("the database is an older one, and a mark holds")
	}
	if e.Renew(t.Context()); e.Now(t.Context()) == epoch {
		t.Error("the database is an older one, and what was kept of rows holds")
	}

	epochs := map[string]bool{}
	for i := range 3 { // from the same one each time
		tx, err := db.Pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var after string
		if err := tx.QueryRow(t.Context(), `UPDATE packages SET private = NOT private RETURNING private`).Scan(new(bool)); err != nil {
			t.Fatal(err)
		}
		if err := tx.QueryRow(t.Context(), `SELECT epoch::text FROM access`).Scan(&after); err != nil {
			t.Fatal(err)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		if epochs[after] = true; len(epochs) != i+1 {
			t.Errorf("two decisions make epoch %s", after)
		}
	}
}
