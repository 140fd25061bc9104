// Package bench measures packbase against its peers, side by side in one run.
// It ends with a table of goals, figures and verdicts, in less than ten minutes
// on a machine that does nothing else, and never fails a build: `make bench`.
package bench

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Seed fills a migrated registry with packages, each with perPackage releases.
// The rows are as a worker writes them, but that none is in the log. The blobs
// behind them, and the objects for Git, are those of the releases v1.0.0,
// v1.1.0 ... of the package like, which is there; none if that is "".
func Seed(ctx context.Context, databaseURL, like string, packages, perPackage int) error {
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "SET session_replication_role = replica; SET maintenance_work_mem = '256MB'"); err != nil { // without triggers
		return err
	}
	// An index that is made at the end takes half as long.
	rows, _ := conn.Query(ctx, `SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema() AND tablename IN ('releases', 'blobs')
		AND indexname NOT IN (SELECT conname FROM pg_constraint)`)
	indexes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ Name, SQL string }])
	if err != nil {
		return err
	}
	for _, index := range indexes {
		if _, err := conn.Exec(ctx, "DROP INDEX "+index.Name); err != nil {
			return err
		}
	}
	start := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
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
	type bytes struct { // of a release
		Tag, CommitOID, TreeOID, Digest, ContentDigest, MD5, CRC32, ManifestDigest string
		Size                                                                       int64
	}
	rows, _ = conn.Query(ctx, `SELECT tag, commit_oid, tree_oid, digest, content_digest, md5, crc32, manifest_digest, size FROM releases WHERE package = $1`, like)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[bytes])
	if err != nil {
		return err
	}
	known := map[string]bytes{}
	for _, r := range all {
		known[r.Tag] = r
	}
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
		tag := fmt.Sprintf("v1.%d.0", j)
		r, ok := known[tag]
		if !ok {
			r = bytes{tag, d[:40], d[10:50], d, d, d[:32], d[:8], digest("manifest", i, j), 40_000}
		}
		return []any{name(i), tag, r.CommitOID, r.TreeOID, at, r.Digest, r.Size, r.ContentDigest, r.MD5, r.CRC32, r.ManifestDigest,
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
	for _, index := range indexes {
		if _, err := conn.Exec(ctx, index.SQL); err != nil {
			return err
		}
	}
	for _, sql := range []string{
		`INSERT INTO packs (release_id, bitmap, objects, size, trailer) SELECT r.id, o.bitmap, o.objects, o.size, o.trailer
			FROM releases r JOIN releases l ON l.package = $1 AND l.tag = r.tag JOIN packs o ON o.release_id = l.id WHERE r.package <> $1`,
		`INSERT INTO segments (package, seq, first_ordinal, objects, digest, index_digest, size) SELECT p.name, s.seq, s.first_ordinal, s.objects, s.digest, s.index_digest, s.size
			FROM packages p, segments s WHERE s.package = $1 AND p.name <> $1`,
	} {
		if _, err := conn.Exec(ctx, sql, like); err != nil {
			return err
		}
	}
	_, err = conn.Exec(ctx, "ANALYZE")
	return err
}

// name returns what the package i is called.
func name(i int) string {
	return fmt.Sprintf("%s-%05d", []string{"http", "json", "clap", "log", "raylib", "sqlite", "zap", "xev"}[i%8], i)
}

func digestUUID(d string) string {
	return d[:8] + "-" + d[8:12] + "-7" + d[13:16] + "-8" + d[17:20] + "-" + d[20:32]
}
