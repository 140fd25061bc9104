CREATE TABLE archive_tombstones (
    url            text PRIMARY KEY,
    hashes         text[] NOT NULL DEFAULT '{}',
    private        boolean NOT NULL DEFAULT false,
    reason         text NOT NULL CHECK (reason <> ''),
    removed_at     timestamptz NOT NULL,
    record_digest  text REFERENCES blobs (digest)
);
CREATE INDEX archive_tombstones_hashes ON archive_tombstones USING gin (hashes);
CREATE INDEX archive_tombstones_record ON archive_tombstones (record_digest);
COMMENT ON TABLE archive_tombstones IS 'URLs whose archives an operator removed. The rows of archives stay, nothing is stored for the URL again, and their bytes are served to nobody.';
COMMENT ON COLUMN archive_tombstones.hashes IS 'Zig hashes, of both forms, of what was stored.';
COMMENT ON COLUMN archive_tombstones.private IS 'What was removed was private, and so is that it was.';
COMMENT ON COLUMN archive_tombstones.record_digest IS 'Blob of a JSON record, from which the row can be rebuilt; null until a worker has written it.';
CREATE TRIGGER archive_tombstones_access AFTER INSERT ON archive_tombstones
    FOR EACH STATEMENT EXECUTE FUNCTION note_access();

CREATE OR REPLACE VIEW sources AS
    SELECT CASE WHEN tag IS NULL THEN 'snapshot' ELSE 'release' END AS kind, id, package, COALESCE(tag, '') AS tag, commit_oid, '' AS url,
        zig_hash, zig_legacy_hash, digest, size, private, zig
    FROM served_releases r
    WHERE NOT EXISTS (SELECT FROM refuted_zig_hashes f WHERE f.release_id = r.id)
    UNION ALL
    SELECT 'archive', id, '', '', '', url, zig_hash, zig_legacy_hash, tarball_digest, tarball_size, private, zig
    FROM archives a
    WHERE NOT EXISTS (SELECT FROM tombstones t WHERE t.zig_legacy_hash = a.zig_legacy_hash)
        AND NOT EXISTS (SELECT FROM archive_tombstones t WHERE t.url = a.url);

CREATE OR REPLACE VIEW blob_names AS
    SELECT digest, package, true AS served, 'tarball' AS use FROM served_releases
    UNION ALL SELECT manifest_digest, package, true, 'manifest' FROM served_releases
    UNION ALL SELECT pack_digest, package, true, 'history' FROM histories
    UNION ALL SELECT index_digest, package, true, 'history index' FROM histories
    UNION ALL SELECT digest, package, false, 'segment' FROM segments
    UNION ALL SELECT index_digest, package, false, 'segment index' FROM segments
    UNION ALL SELECT record_digest, name, false, 'record' FROM packages WHERE record_digest IS NOT NULL
    UNION ALL SELECT digest, '', NOT private, 'archive' FROM archives a
        WHERE NOT EXISTS (SELECT FROM archive_tombstones t WHERE t.url = a.url)
    UNION ALL SELECT tarball_digest, '', NOT private, 'archive tarball' FROM archives a
        WHERE NOT EXISTS (SELECT FROM archive_tombstones t WHERE t.url = a.url)
    UNION ALL SELECT record_digest, '', NOT private, 'archive record' FROM archives a
        WHERE NOT EXISTS (SELECT FROM archive_tombstones t WHERE t.url = a.url)
    UNION ALL SELECT record_digest, '', false, 'removal' FROM archive_tombstones WHERE record_digest IS NOT NULL;
