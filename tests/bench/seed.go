// Package bench measures packbase against its peers, side by side in one run.
// It prints ratios and never fails a build: `make bench`.
package bench

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Seed fills an empty, migrated registry with packages, each with perPackage
// releases. The rows are as a worker writes them, but that none is in the log;
// there are no blobs behind them.
func Seed(ctx context.Context, databaseURL string, packages, perPackage int) error {
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "SET session_replication_role = replica"); err != nil { // without triggers
		return err
	}
	start := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	name := func(i int) string {
		return fmt.Sprintf("%s-%05d", []string{"http", "json", "clap", "log", "raylib", "sqlite", "zap", "xev"}[i%8], i)
	}
	digest := func(kind string, i, j int) string {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %d", kind, i, j))
		return hex.EncodeToString(sum[:])
	}
	copyRows := func(table string, columns []string, n int, row func(k int) []any) error {
		_, err := conn.CopyFrom(ctx, pgx.Identifier{table}, columns, pgx.CopyFromSlice(n, func(k int) ([]any, error) { return row(k), nil }))
		if err != nil {
			return fmt.Errorf("seed %s: %w", table, err)
		}
		return nil
	}
	total := packages * perPackage
	latest := fmt.Sprintf("v1.%d.0", perPackage-1)
	err = copyRows("packages", []string{"name", "upstream", "clone_url", "language", "description", "latest_tag", "latest_size",
		"release_count", "size_bytes", "registered", "healthy", "smart_http_ready", "pseudo_git_fetchable", "sync_ok", "sync_at", "synced_at"},
		packages, func(i int) []any {
			url := "https://git.example.org/owner" + fmt.Sprint(i%500) + "/" + name(i)
			return []any{name(i), url, url, []string{"zig", "c", "shell"}[i%3], "A package about number " + fmt.Sprint(i), latest, int64(40_000),
				perPackage, int64(40_000 * perPackage), i%2 == 0, i%50 != 0, true, true, true, start, start}
		})
	if err != nil {
		return err
	}
	err = copyRows("blobs", []string{"digest", "size"}, 2*total, func(k int) []any {
		kind := []string{"tarball", "manifest"}[k%2]
		return []any{digest(kind, k/2/perPackage, k/2%perPackage), int64(40_000)}
	})
	if err != nil {
		return err
	}
	err = copyRows("releases", []string{"package", "tag", "commit_oid", "tree_oid", "commit_time", "digest", "size", "content_digest", "md5",
		"crc32", "manifest_digest", "zig_hash", "zig_legacy_hash", "zig", "created_at"}, total, func(k int) []any {
		i, j := k/perPackage, k%perPackage
		d := digest("tarball", i, j)
		at := start.Add(time.Duration(k) * time.Minute)
		return []any{name(i), fmt.Sprintf("v1.%d.0", j), d[:40], d[10:50], at, d, int64(40_000), d, d[:32], d[:8], digest("manifest", i, j),
			fmt.Sprintf("pkg-1.%d.0-%.44s", j, d), "1220" + d, `{"name":"pkg","version":"1.0.0","usable_with":["0.14","0.15","0.16","0.17"]}`, at}
	})
	if err != nil {
		return err
	}
	err = copyRows("jobs", []string{"id", "kind", "package", "state", "attempts", "created_at", "started_at", "ended_at", "result"}, packages, func(i int) []any {
		at := start.Add(time.Duration(i) * time.Minute)
		return []any{digestUUID(digest("job", i, 0)), "package:fetch", name(i), "succeeded", 1, at, at, at, `{}`}
	})
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "ANALYZE")
	return err
}

func digestUUID(d string) string {
	return d[:8] + "-" + d[8:12] + "-7" + d[13:16] + "-8" + d[17:20] + "-" + d[20:32]
}
