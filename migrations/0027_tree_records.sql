ALTER TABLE trees ADD COLUMN told boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN trees.told IS 'The feed has told strangers of it, and not yet that it is private.';

ALTER TABLE tree_revisions
    ADD COLUMN record_digest text REFERENCES blobs (digest),
    ADD COLUMN record_private boolean NOT NULL DEFAULT false,
    ADD COLUMN recorded_at timestamptz;
CREATE INDEX tree_revisions_record ON tree_revisions (record_digest);
CREATE INDEX tree_revisions_unrecorded ON tree_revisions (ended_at) WHERE recorded_at IS NULL;
COMMENT ON COLUMN tree_revisions.record_digest IS 'Blob of a JSON record, from which the revision and its nodes can be rebuilt, and which edges are given.';
COMMENT ON COLUMN tree_revisions.record_private IS 'The record says that it is private.';
COMMENT ON COLUMN tree_revisions.recorded_at IS 'When the record was last compared with the rows; null if they may differ.';

CREATE FUNCTION private_tree(of text, at integer) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT t.private OR EXISTS (
        SELECT FROM tree_nodes h CROSS JOIN LATERAL (
            SELECT s.private FROM sources s
            WHERE s.zig_hash = h.hash AND s.zig_hash <> '' OR s.zig_legacy_hash = h.hash AND s.zig_legacy_hash <> ''
            ORDER BY s.private LIMIT 1) s
        WHERE h.tree = t.name AND h.revision IN (at, t.revision) AND s.private)
    FROM trees t WHERE t.name = of
$$;
COMMENT ON FUNCTION private_tree IS 'Whether a revision of a tree is for those who see private packages: it is as private as anything in it, or in the newest one.';

-- Not left to the program: packages become private and public in many ways.
CREATE FUNCTION note_tree_privacy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE tree_revisions r SET recorded_at = NULL
    FROM releases s CROSS JOIN LATERAL unnest(ARRAY[s.zig_hash, s.zig_legacy_hash]) h (hash) JOIN tree_nodes n ON n.hash = h.hash
    WHERE s.package = NEW.name AND h.hash <> '' AND r.tree = n.tree AND r.revision <= n.revision;
    RETURN NULL;
END $$;
CREATE TRIGGER packages_tree_privacy AFTER UPDATE OF private ON packages
    FOR EACH ROW WHEN (OLD.private <> NEW.private) EXECUTE FUNCTION note_tree_privacy();

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
    UNION ALL SELECT record_digest, '', false, 'removal' FROM archive_tombstones WHERE record_digest IS NOT NULL
    UNION ALL SELECT record_digest, '', NOT (record_private OR private_tree(tree, revision)), 'tree record' FROM tree_revisions
        WHERE record_digest IS NOT NULL;
