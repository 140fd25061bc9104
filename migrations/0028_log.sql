-- The log: every publication is an entry of an append-only Merkle log (docs/log.md). What is published and what is to be
-- logged are one transaction, whoever publishes: triggers write it. Workers give numbers to what is pending.
CREATE TABLE log_pending (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key            bytea NOT NULL CHECK (length(key) = 32),
    entry          text NOT NULL CHECK (octet_length(entry) <= 2048),
    package        text NOT NULL DEFAULT '',
    private        boolean NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX log_pending_public ON log_pending (id) WHERE NOT private;
CREATE INDEX log_pending_package ON log_pending (package);
CREATE INDEX log_pending_key ON log_pending (key);
COMMENT ON TABLE log_pending IS 'Entries that have no number yet. What is private stays here until it is public.';
COMMENT ON COLUMN log_pending.key IS 'SHA-256 of the entry without its last line, seen: what is said again is logged once.';

CREATE TABLE log_entries (
    idx            bigint PRIMARY KEY CHECK (idx >= 0),
    key            bytea NOT NULL UNIQUE,
    entry          text NOT NULL
);
COMMENT ON TABLE log_entries IS 'The log, from 0 without gaps.';

CREATE TABLE log_tiles (
    level          integer NOT NULL CHECK (level >= 0),
    n              bigint NOT NULL CHECK (n >= 0),
    data           bytea NOT NULL CHECK (length(data) BETWEEN 32 AND 8192 AND length(data) % 32 = 0),
    PRIMARY KEY (level, n)
);
COMMENT ON TABLE log_tiles IS 'Hashes of the tree, as tiles of c2sp.org/tlog-tiles. The last one of a level grows until it is full.';

CREATE TABLE log_head (
    one            boolean PRIMARY KEY DEFAULT true CHECK (one),
    size           bigint NOT NULL,
    root           bytea NOT NULL CHECK (length(root) = 32)
);
INSERT INTO log_head (size, root) VALUES (0, sha256(''));
COMMENT ON TABLE log_head IS 'The tree of all entries. Its row is locked by whoever adds to the log.';

CREATE TABLE log_checkpoints (
    size           bigint PRIMARY KEY,
    root           bytea NOT NULL,
    note           text NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE log_checkpoints IS 'What was signed: one head of each size, for ever.';

CREATE TABLE log_keys (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    vkey           text NOT NULL UNIQUE,
    created_at     timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE log_keys IS 'Public keys that sign the log, as c2sp.org/signed-note writes them.';

CREATE FUNCTION refuse_shrunk_log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF TG_TABLE_NAME = 'log_head' THEN
            IF NEW.size > OLD.size THEN
                RETURN NEW;
            END IF;
        ELSIF substr(NEW.data, 1, length(OLD.data)) = OLD.data AND (NEW.level, NEW.n) = (OLD.level, OLD.n) THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'the log only grows: % of % refused', TG_OP, TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER log_head_grows BEFORE UPDATE OR DELETE ON log_head FOR EACH ROW EXECUTE FUNCTION refuse_shrunk_log();
CREATE TRIGGER log_head_kept BEFORE TRUNCATE ON log_head FOR EACH STATEMENT EXECUTE FUNCTION refuse_shrunk_log();
CREATE TRIGGER log_tiles_grow BEFORE UPDATE OR DELETE ON log_tiles FOR EACH ROW EXECUTE FUNCTION refuse_shrunk_log();
CREATE TRIGGER log_tiles_kept BEFORE TRUNCATE ON log_tiles FOR EACH STATEMENT EXECUTE FUNCTION refuse_shrunk_log();
CREATE TRIGGER log_entries_frozen BEFORE UPDATE OR DELETE ON log_entries FOR EACH ROW EXECUTE FUNCTION refuse_frozen();
CREATE TRIGGER log_entries_kept BEFORE TRUNCATE ON log_entries FOR EACH STATEMENT EXECUTE FUNCTION refuse_frozen();
CREATE TRIGGER log_checkpoints_frozen BEFORE UPDATE OR DELETE ON log_checkpoints FOR EACH ROW EXECUTE FUNCTION refuse_frozen();
CREATE TRIGGER log_checkpoints_kept BEFORE TRUNCATE ON log_checkpoints FOR EACH STATEMENT EXECUTE FUNCTION refuse_frozen();
CREATE TRIGGER log_keys_frozen BEFORE UPDATE OR DELETE ON log_keys FOR EACH ROW EXECUTE FUNCTION refuse_frozen();
CREATE TRIGGER log_keys_kept BEFORE TRUNCATE ON log_keys FOR EACH STATEMENT EXECUTE FUNCTION refuse_frozen();

-- The text of entries, without seen. docs/log.md is their specification, package logbook reads them.
CREATE FUNCTION log_line(key text, value text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN COALESCE(value, '') = '' THEN ''
        WHEN octet_length(value) > 1024 THEN key || '-sha256 ' || encode(sha256(convert_to(value, 'UTF8')), 'hex') || E'\n'
        ELSE key || ' ' || value || E'\n' END
$$;
CREATE FUNCTION log_release(r releases, upstream text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT log_line('packbase/1', CASE WHEN r.tag IS NULL THEN 'snapshot' ELSE 'release' END) || log_line('upstream', upstream)
        || log_line('ref', 'refs/tags/' || r.tag) || log_line('commit', r.commit_oid) || log_line('tag', r.tag_oid) || log_line('tree', r.tree_oid)
        || log_line('content', 'sha256:' || r.content_digest) || log_line('tarball', 'sha256:' || r.digest || ' ' || r.size)
        || log_line('zig', r.zig_hash) || log_line('zig-legacy', r.zig_legacy_hash)
$$;
CREATE FUNCTION log_archive(a archives) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT log_line('packbase/1', 'archive') || log_line('url', a.url) || log_line('body', 'sha256:' || a.digest || ' ' || a.size)
        || log_line('zig', a.zig_hash) || log_line('zig-legacy', a.zig_legacy_hash)
$$;
CREATE FUNCTION log_moved(m moved_tags, upstream text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT log_line('packbase/1', CASE WHEN m.new_oid = '' THEN 'gone' ELSE 'moved' END) || log_line('upstream', upstream)
        || log_line('ref', 'refs/tags/' || m.tag) || log_line('old', m.old_oid) || log_line('new', m.new_oid)
$$;
CREATE FUNCTION log_moved(m moved_archives) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT log_line('packbase/1', 'moved') || log_line('url', m.url) || log_line('old', m.old_legacy_hash) || log_line('new', m.new_legacy_hash)
$$;
CREATE FUNCTION log_withdrawn(t tombstones, upstream text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT log_line('packbase/1', 'withdrawn') || log_line('upstream', upstream) || log_line('ref', 'refs/tags/' || t.tag) || log_line('commit', t.commit_oid)
$$;
CREATE FUNCTION log_withdrawn(t archive_tombstones) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT log_line('packbase/1', 'withdrawn') || log_line('url', t.url)
$$;
CREATE FUNCTION log_claim(upstream text, name text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT log_line('packbase/1', 'claim') || log_line('upstream', upstream) || log_line('name', name)
$$;
CREATE FUNCTION log_key(body text) RETURNS bytea LANGUAGE sql STABLE AS $$
    SELECT sha256(convert_to(body, 'UTF8'))
$$;

CREATE FUNCTION log_add(body text, package text, private boolean) RETURNS void LANGUAGE sql AS $$
    INSERT INTO log_pending (key, entry, package, private)
    VALUES (log_key(body), body || log_line('seen', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')), package, private)
$$;

CREATE VIEW log_rows AS
    SELECT 1 AS place, r.id, log_claim(p.upstream, p.name) AS body, p.name AS package, p.private
    FROM packages p JOIN LATERAL (SELECT min(id) AS id FROM releases WHERE package = p.name) r ON r.id IS NOT NULL
    UNION ALL SELECT 2, r.id, log_release(r, p.upstream), p.name, p.private FROM releases r JOIN packages p ON p.name = r.package
    UNION ALL SELECT 3, n.id, log_claim(p.upstream, n.name), p.name, p.private FROM package_names n JOIN packages p ON p.name = n.package
    UNION ALL SELECT 4, a.id, log_archive(a), '', a.private FROM archives a
    UNION ALL SELECT 5, m.id, log_moved(m, p.upstream), p.name, p.private FROM moved_tags m JOIN packages p ON p.name = m.package
    UNION ALL SELECT 6, m.id, log_moved(m), '', EXISTS (SELECT FROM archives a WHERE a.url = m.url AND a.private) FROM moved_archives m
    UNION ALL SELECT 7, t.id, log_withdrawn(t, p.upstream), p.name, p.private FROM tombstones t JOIN packages p ON p.name = t.package
    UNION ALL SELECT 8, 0, log_withdrawn(t), '', t.private FROM archive_tombstones t;
COMMENT ON VIEW log_rows IS 'What rows have to be in the log, or pending: the entries without seen.';

CREATE FUNCTION log_row() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    up     text := '';
    hidden boolean;
BEGIN
    IF TG_TABLE_NAME = 'archives' THEN
        PERFORM log_add(log_archive(NEW), '', NEW.private);
        RETURN NULL;
    ELSIF TG_TABLE_NAME = 'moved_archives' THEN
        PERFORM log_add(log_moved(NEW), '', EXISTS (SELECT FROM archives a WHERE a.url = NEW.url AND a.private));
        RETURN NULL;
    ELSIF TG_TABLE_NAME = 'archive_tombstones' THEN
        PERFORM log_add(log_withdrawn(NEW), '', NEW.private);
        RETURN NULL;
    END IF;
    SELECT p.upstream, p.private INTO up, hidden FROM packages p WHERE p.name = NEW.package;
    IF TG_TABLE_NAME = 'releases' THEN
        IF NOT EXISTS (SELECT FROM releases r WHERE r.package = NEW.package AND r.id < NEW.id) THEN
            PERFORM log_add(log_claim(up, NEW.package), NEW.package, hidden);
        END IF;
        PERFORM log_add(log_release(NEW, up), NEW.package, hidden);
    ELSIF TG_TABLE_NAME = 'package_names' THEN
        PERFORM log_add(log_claim(up, NEW.name), NEW.package, hidden);
    ELSIF TG_TABLE_NAME = 'moved_tags' THEN
        PERFORM log_add(log_moved(NEW, up), NEW.package, hidden);
    ELSE
        PERFORM log_add(log_withdrawn(NEW, up), NEW.package, hidden);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER releases_logged AFTER INSERT ON releases FOR EACH ROW EXECUTE FUNCTION log_row();
CREATE TRIGGER package_names_logged AFTER INSERT ON package_names FOR EACH ROW EXECUTE FUNCTION log_row();
CREATE TRIGGER archives_logged AFTER INSERT ON archives FOR EACH ROW EXECUTE FUNCTION log_row();
CREATE TRIGGER moved_tags_logged AFTER INSERT ON moved_tags FOR EACH ROW EXECUTE FUNCTION log_row();
CREATE TRIGGER moved_archives_logged AFTER INSERT ON moved_archives FOR EACH ROW EXECUTE FUNCTION log_row();
CREATE TRIGGER tombstones_logged AFTER INSERT ON tombstones FOR EACH ROW EXECUTE FUNCTION log_row();
CREATE TRIGGER archive_tombstones_logged AFTER INSERT ON archive_tombstones FOR EACH ROW EXECUTE FUNCTION log_row();

CREATE FUNCTION log_visibility() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE log_pending SET private = NEW.private WHERE package = NEW.name;
    RETURN NULL;
END $$;
CREATE TRIGGER packages_logged AFTER UPDATE OF private ON packages
    FOR EACH ROW WHEN (OLD.private <> NEW.private) EXECUTE FUNCTION log_visibility();

-- What was published before there was a log stands between two entries that say so.
DO $$
BEGIN
    IF EXISTS (SELECT FROM log_rows WHERE NOT private) THEN
        PERFORM log_add(log_line('packbase/1', 'epoch') || log_line('history', 'begin'), '', false);
        PERFORM log_add(body, package, private) FROM (SELECT body, package, private FROM log_rows ORDER BY place, id) r;
        PERFORM log_add(log_line('packbase/1', 'epoch') || log_line('history', 'end'), '', false);
    END IF;
END $$;
