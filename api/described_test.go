package api_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// What is told of a package is what is committed, whichever of its rows changed, however long ago it was asked for; and what
// is committed about others is no reason to read it again.
func TestDescriptionIsWhatIsCommitted(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	trace := g.traced()
	g.publish("p", tagged{tag: "v1.0.0", files: zon("p", "1.0.0")}, tagged{tag: "v1.1.0", files: zon("p", "1.1.0")}, tagged{branch: "dev", files: zon("p", "1.2.0")})
	g.publish("other", tagged{tag: "v1.0.0", files: zon("other", "1.0.0")})
	g.exec(`INSERT INTO package_names (name, package) VALUES ('Alias', 'p');
		INSERT INTO rejected_tags (package, tag, oid, code, reason) VALUES ('p', 'v0', '', 'limit', 'large');
		INSERT INTO moved_tags (package, tag, old_oid) VALUES ('p', 'v1.0.0', repeat('a', 40))`)
	servers := []*registry{g.serve(), g.serve()}
	paths := []string{"/api/info/p", "/api/info/ALIAS?limit=1", "/api/check/p"}
	before := map[string]string{}
	shown := 0
	check := func(what string) {
		t.Helper()
		fresh, other := g.serve(), false
		for _, path := range paths {
			for _, header := range [][]string{nil, {"Authorization", "Bearer " + token}} {
				want := fresh.get(path, header...)
				for i, s := range servers {
					if got := s.get(path, header...); got.StatusCode != want.StatusCode || got.StatusCode == 200 && string(got.body) != string(want.body) {
						t.Errorf("%s: server %d still answers to %s: %d\n%s\nwant %d\n%s", what, i, path, got.StatusCode, got.body, want.StatusCode, want.body)
					}
				}
				key := fmt.Sprint(path, header)
				other = other || before[key] != string(want.body)
				before[key] = string(want.body)
			}
		}
		if other {
			shown++
		}
	}
	check("at first")

	// Every column of every table that a description is read from, other than what the schema lets nobody change.
	rows, _ := g.db.Pool.Query(t.Context(), `
		SELECT table_name::text, column_name::text, CASE data_type WHEN 'boolean' THEN 'NOT ' || column_name WHEN 'text' THEN quote_literal(repeat('b', 40))
			WHEN 'timestamp with time zone' THEN 'now() + interval ''1 hour''' ELSE column_name || ' + 1' END
		FROM information_schema.columns WHERE table_schema = current_schema() AND table_name IN ('packages', 'branches', 'rejected_tags', 'moved_tags')
			AND column_name NOT IN ('name', 'package', 'id', 'state', 'record_digest', 'described_in') AND is_generated = 'NEVER'`)
	columns, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ Table, Column, Other string }])
	g.must(err)
	for _, c := range columns {
		of := map[bool]string{true: "name", false: "package"}[c.Table == "packages"]
		g.exec(fmt.Sprintf(`UPDATE %s SET %s = %s WHERE %s = 'p'`, c.Table, c.Column, c.Other, of))
		check(c.Table + "." + c.Column)
	}
	if len(columns) < 40 || shown < 30 {
		t.Errorf("of %d columns %d are shown, as it seems", len(columns), shown)
	}
	g.exec(fmt.Sprintf(`UPDATE packages SET latest_tag = 'v1.1.0', private = false, upstream = '%s' WHERE name = 'p'`, upstreamOf(t, "p").Canonical))
	check("public again")
	shown = 0
	for i, sql := range []string{
		`INSERT INTO branches (package, branch, commit_oid) SELECT package, 'new', commit_oid FROM releases WHERE tag = 'v1.0.0' AND package = 'p'`,
		`DELETE FROM branches WHERE branch = 'new'`,
		`INSERT INTO rejected_tags (package, tag, oid, code, reason) VALUES ('p', 'v2', '', 'limit', 'large')`,
		`DELETE FROM rejected_tags WHERE tag = 'v2'`,
		`INSERT INTO moved_tags (package, tag, old_oid) VALUES ('p', 'v1.1.0', repeat('a', 40))`,
		`DELETE FROM moved_tags WHERE tag = 'v1.1.0'`,
		`INSERT INTO package_names (name, package) VALUES ('third', 'p')`,
		`INSERT INTO releases (package, tag, commit_oid, tree_oid, commit_time, digest, size, content_digest, md5, crc32, manifest_digest)
			SELECT package, 'v1.0.1', commit_oid, tree_oid, commit_time, digest, size, content_digest, md5, crc32, manifest_digest FROM releases WHERE tag = 'v1.0.0' AND package = 'p'`,
		`INSERT INTO tombstones (package, tag, commit_oid, reason) SELECT package, tag, commit_oid, 'because' FROM releases WHERE tag = 'v1.0.0' AND package = 'p'`,
		`UPDATE packages SET state = 'frozen' WHERE name = 'p'`,
		`INSERT INTO log_keys (vkey) VALUES ('a key of the past')`,
		`DELETE FROM log_keys`,
	} {
		if strings.HasSuffix(sql, "log_keys") {
			sql = `ALTER TABLE log_keys DISABLE TRIGGER USER; ` + sql + `; ALTER TABLE log_keys ENABLE TRIGGER USER`
		}
		g.exec(sql)
		if check(sql); shown != i+1 {
			t.Errorf("it is not shown: %s", sql)
			shown = i + 1
		}
	}
	shown = 0
	g.sequence()
	if check("logged"); shown != 1 {
		t.Error("it is not shown that it is logged")
	}

	// What no trigger tells of is not seen, though others are told of: so answers are kept.
	g.exec(`SET session_replication_role = replica; UPDATE packages SET description = 'behind the back' WHERE name = 'p'`)
	g.exec(`UPDATE packages SET description = 'also' WHERE name = 'other'`)
	g.publish("third-party", tagged{tag: "v1.0.0", files: zon("third", "1.0.0")})
	g.sequence()
	for _, path := range paths {
		if a := servers[0].get(path); strings.Contains(string(a.body), "behind the back") {
			t.Errorf("%s was made again, for the sake of other packages", path)
		}
	}
	g.exec(`UPDATE packages SET state = 'removed', state_reason = 'gone' WHERE name = 'p'`)
	check("removed")

	told := map[string]string{
		"access": "its epoch is asked for", "log_keys": "asked for", "log_checkpoints": "asked for",
		"log_entries": "they are shown once a checkpoint has them", "segments": "files of a commit are what they are",
		"packages": "", "releases": "", "package_names": "", "tombstones": "", "branches": "", "rejected_tags": "", "moved_tags": "",
	}
	for _, table := range trace.tables(g) {
		why, known := told[table]
		if !known || why == "" && !g.hasTrigger(table) {
			t.Errorf("descriptions are read from %s, and no change of that is told", table)
		}
		delete(told, table)
	}
	if delete(told, "access"); len(told) > 0 {
		t.Errorf("no description is read from %q", slices.Collect(maps.Keys(told)))
	}
}

func (g *registry) hasTrigger(table string) (has bool) {
	g.t.Helper()
	g.must(g.db.Pool.QueryRow(g.t.Context(), `SELECT EXISTS (SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
		WHERE tgrelid = $1::regclass AND tgenabled = 'O' AND proname IN ('note_described', 'note_change'))`, table).Scan(&has))
	return has
}

// traced notes what the servers that are started from now on ask Postgres.
func (g *registry) traced() *trace {
	g.t.Helper()
	tr := &trace{asked: map[string][]any{}}
	cfg := g.db.Pool.Config()
	cfg.ConnConfig.Tracer = tr
	pool, err := pgxpool.NewWithConfig(g.t.Context(), cfg)
	g.must(err)
	g.db.Close()
	g.db.Pool = pool
	return tr
}

// A trace is what Postgres was asked.
type trace struct {
	mu    sync.Mutex
	asked map[string][]any // the last arguments, by SQL
}

func (tr *trace) note(sql string, args []any) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if strings.HasPrefix(strings.TrimSpace(sql), "SELECT") {
		tr.asked[sql] = args
	}
}

func (tr *trace) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	tr.note(q.SQL, q.Args)
	return ctx
}

func (tr *trace) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}

func (tr *trace) TraceBatchQuery(_ context.Context, _ *pgx.Conn, q pgx.TraceBatchQueryData) {
	tr.note(q.SQL, q.Args)
}

func (tr *trace) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
func (tr *trace) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

// tables returns the tables that a description of the package other is read from: those that are locked while it is.
func (tr *trace) tables(g *registry) []string {
	g.t.Helper()
	s := g.serve()
	tr.mu.Lock()
	clear(tr.asked)
	tr.mu.Unlock()
	if a := s.get("/api/info/other"); a.StatusCode != 200 {
		g.t.Fatalf("other: %d %s", a.StatusCode, a.body)
	}
	tx, err := g.db.Pool.Begin(g.t.Context())
	g.must(err)
	defer func() { _ = tx.Rollback(context.WithoutCancel(g.t.Context())) }()
	tr.mu.Lock()
	asked := maps.Clone(tr.asked)
	tr.mu.Unlock()
	for sql, args := range asked {
		rows, err := tx.Query(g.t.Context(), sql, args...)
		g.must(err)
		rows.Close()
		g.must(rows.Err())
	}
	rows, _ := tx.Query(g.t.Context(), `SELECT DISTINCT relname::text FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
		WHERE pid = pg_backend_pid() AND relkind = 'r' AND relnamespace = current_schema()::regnamespace`)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	g.must(err)
	return tables
}
