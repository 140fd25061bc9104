package storage_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/jobs"
)

// asked notes what is asked of the database.
type asked struct{ all []pgx.TraceQueryStartData }

func (a *asked) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	a.all = append(a.all, q)
	return ctx
}

func (*asked) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// Rows of a private package are not even found when a stranger asks for them: what is found and then left out takes time, which tells
// that it is there.
func TestPrivateTakesNoTime(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.publish("hello", "v1.0.0")
	r, err := f.ReleaseByTag(t.Context(), "hello", "v1.0.0")
	f.must(err)
	f.must(f.exec(`INSERT INTO branches (package, branch, commit_oid) VALUES ('hello', 'main', $1)`, r.CommitOID))
	f.must(f.exec(`INSERT INTO tombstones (package, tag, commit_oid, digest, manifest_digest, zig_hash, zig_legacy_hash, reason)
		SELECT package, 'v0', commit_oid, digest, manifest_digest, zig_hash, zig_legacy_hash, 'x' FROM releases`))
	f.must(f.SetVisibility(f.ctx, "hello", true))

	var noted asked
	cfg := f.Pool.Config()
	cfg.ConnConfig.Tracer = &noted
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	f.must(err)
	t.Cleanup(pool.Close)
	f.Pool = pool
	for _, pkg := range []string{"hello", "nope"} {
		for _, tag := range []string{"v1.0.0", "v0"} {
			_, err := f.ReleaseByTag(t.Context(), pkg, tag)
			f.want(pkg+"@"+tag, err, fault.ErrNotFound)
		}
		_, err := f.ReleaseByCommit(t.Context(), pkg, r.CommitOID)
		f.want(pkg+"#", err, fault.ErrNotFound)
		_, err = f.BranchCommit(t.Context(), pkg, "main")
		f.want(pkg+" main", err, fault.ErrNotFound)
		if all, err := f.Jobs.List(t.Context(), jobs.Filter{Package: pkg, Limit: 10}); err != nil || len(all) > 0 {
			t.Errorf("jobs of %s: %v, %v", pkg, all, err)
		}
	}
	if len(noted.all) < 10 {
		t.Fatalf("%d questions were noted", len(noted.all))
	}
	conn, err := f.sql.Acquire(t.Context())
	f.must(err)
	defer conn.Release()
	_, err = conn.Exec(t.Context(), `SET enable_seqscan = off`) // as where there are many rows
	f.must(err)
	for _, q := range noted.all {
		var plan string
		f.must(conn.QueryRow(t.Context(), "EXPLAIN (ANALYZE, FORMAT JSON) "+q.SQL, q.Args...).Scan(&plan))
		var nodes any
		f.must(json.Unmarshal([]byte(plan), &nodes))
		for table, found := range rowsFound(nodes) {
			if found > 0 {
				t.Errorf("%d rows of %s were found by %s %v", found, table, strings.Join(strings.Fields(q.SQL), " "), q.Args)
			}
		}
	}
}

// rowsFound returns how many rows of tables a plan found, before it left any out; not those of packages.
func rowsFound(node any) map[string]int {
	found := map[string]int{}
	var walk func(node any)
	walk = func(node any) {
		switch n := node.(type) {
		case []any:
			for _, x := range n {
				walk(x)
			}
		case map[string]any:
			if table := fmt.Sprint(n["Relation Name"]); n["Relation Name"] != nil && !strings.HasPrefix(table, "package") {
				for _, key := range []string{"Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck"} {
					if rows, ok := n[key].(float64); ok {
						found[table] += int(rows)
					}
				}
			}
			for _, x := range n {
				walk(x)
			}
		}
	}
	walk(node)
	return found
}
