CREATE TABLE tombstones (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    package         text NOT NULL REFERENCES packages (name),
    tag             text CHECK (tag <> ''),
    tag_oid         text CHECK (tag_oid ~ '^[0-9a-f]{40}$'),
    commit_oid      text NOT NULL CHECK (commit_oid ~ '^[0-9a-f]{40}$'),
    digest          text NOT NULL DEFAULT '',
    manifest_digest text NOT NULL DEFAULT '',
    zig_hash        text NOT NULL DEFAULT '',
    zig_legacy_hash text NOT NULL DEFAULT '',
    reason          text NOT NULL CHECK (reason <> ''),
    removed_at      timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX tombstones_tag ON tombstones (package, tag) WHERE tag IS NOT NULL;
CREATE UNIQUE INDEX tombstones_snapshot ON tombstones (package, commit_oid) WHERE tag IS NULL;
CREATE INDEX tombstones_commit ON tombstones (package, commit_oid);
CREATE INDEX tombstones_digest ON tombstones (digest) WHERE digest <> '';
CREATE INDEX tombstones_manifest ON tombstones (manifest_digest) WHERE manifest_digest <> '';
CREATE INDEX tombstones_zig_hash ON tombstones (zig_hash) WHERE zig_hash <> '';
CREATE INDEX tombstones_zig_legacy_hash ON tombstones (zig_legacy_hash) WHERE zig_legacy_hash <> '';
COMMENT ON TABLE tombstones IS 'Releases and snapshots that an operator removed. Their rows stay, their tags are never used again, and their bytes are served to nobody.';

CREATE TRIGGER tombstones_frozen BEFORE DELETE OR UPDATE ON tombstones
    FOR EACH ROW EXECUTE FUNCTION refuse_frozen();
CREATE TRIGGER tombstones_access AFTER INSERT ON tombstones
    FOR EACH STATEMENT EXECUTE FUNCTION note_access();

CREATE OR REPLACE VIEW served_releases AS
    SELECT r.id, r.package, r.tag, r.tag_oid, r.commit_oid, r.tree_oid, r.commit_time, r.digest, r.size, r.content_digest, r.md5, r.crc32,
        r.manifest_digest, r.zig_hash, r.zig_legacy_hash, r.zig, r.created_at, p.private
    FROM releases r JOIN packages p ON p.name = r.package
    WHERE p.state <> 'removed' AND NOT EXISTS (
        SELECT FROM tombstones t
        WHERE t.package = r.package AND t.commit_oid = r.commit_oid AND COALESCE(t.tag, '') = COALESCE(r.tag, ''));

CREATE OR REPLACE VIEW blob_names AS
    SELECT digest, package, true AS served, 'tarball' AS use FROM served_releases
    UNION ALL SELECT manifest_digest, package, true, 'manifest' FROM served_releases
    UNION ALL SELECT pack_digest, package, true, 'history' FROM histories
    UNION ALL SELECT index_digest, package, true, 'history index' FROM histories
    UNION ALL SELECT digest, package, false, 'segment' FROM segments
    UNION ALL SELECT index_digest, package, false, 'segment index' FROM segments
    UNION ALL SELECT record_digest, name, false, 'record' FROM packages WHERE record_digest IS NOT NULL;
