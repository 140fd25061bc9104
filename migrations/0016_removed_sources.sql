CREATE OR REPLACE VIEW sources AS
    SELECT CASE WHEN tag IS NULL THEN 'snapshot' ELSE 'release' END AS kind, id, package, COALESCE(tag, '') AS tag, commit_oid, '' AS url,
        zig_hash, zig_legacy_hash, digest, size, private, zig
    FROM served_releases r
    WHERE NOT EXISTS (SELECT FROM refuted_zig_hashes f WHERE f.release_id = r.id)
    UNION ALL
    SELECT 'archive', id, '', '', '', url, zig_hash, zig_legacy_hash, tarball_digest, tarball_size, private, zig
    FROM archives a
    WHERE NOT EXISTS (SELECT FROM tombstones t WHERE t.zig_legacy_hash = a.zig_legacy_hash);
COMMENT ON VIEW sources IS 'What has one Zig hash and may be served: releases, snapshots and archives, but for archives of what was removed. digest is the tarball that Zig is given.';
