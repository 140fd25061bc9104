-- A package keeps the name that its releases, manifests and the feed have it under: those never change. What an operator
-- calls it later is another name of it, for ever.
CREATE TABLE package_names (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name           text NOT NULL CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$'),
    package        text NOT NULL REFERENCES packages (name),
    created_at     timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX package_names_folded ON package_names (lower(name));
CREATE INDEX package_names_package ON package_names (package);
COMMENT ON TABLE package_names IS 'What packages were renamed to. Each of these names goes on meaning its package, as its first one does.';
CREATE TRIGGER package_names_frozen BEFORE UPDATE OR DELETE ON package_names
    FOR EACH ROW EXECUTE FUNCTION refuse_frozen();
CREATE TRIGGER package_names_kept BEFORE TRUNCATE ON package_names
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_frozen();

ALTER TABLE packages ADD COLUMN shown text NOT NULL DEFAULT '';
COMMENT ON COLUMN packages.shown IS 'What people are shown as the package''s name, if an operator renamed it; '''' for its first name.';

-- The lock is the one that claims a name.
CREATE FUNCTION refuse_taken_name() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    taken boolean;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('packbase claim ' || lower(NEW.name)));
    IF TG_TABLE_NAME = 'packages' THEN
        SELECT EXISTS (SELECT FROM package_names n WHERE lower(n.name) = lower(NEW.name)) INTO taken;
    ELSE
        SELECT EXISTS (SELECT FROM packages p WHERE lower(p.name) = lower(NEW.name)) INTO taken;
    END IF;
    IF taken THEN
        RAISE unique_violation USING MESSAGE = 'the name ' || NEW.name || ' means another package';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER packages_names BEFORE INSERT ON packages
    FOR EACH ROW EXECUTE FUNCTION refuse_taken_name();
CREATE TRIGGER package_names_packages BEFORE INSERT ON package_names
    FOR EACH ROW EXECUTE FUNCTION refuse_taken_name();

CREATE FUNCTION first_name(name text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT COALESCE((SELECT n.package FROM package_names n WHERE lower(n.name) = lower($1)), $1)
$$;
COMMENT ON FUNCTION first_name IS 'The name under which the package called name has its rows; name itself, if nothing was renamed to it.';

CREATE OR REPLACE VIEW served_releases AS
    SELECT r.id, r.package, r.tag, r.tag_oid, r.commit_oid, r.tree_oid, r.commit_time, r.digest, r.size, r.content_digest, r.md5, r.crc32,
        r.manifest_digest, r.zig_hash, r.zig_legacy_hash, r.zig, r.created_at, p.private, p.shown
    FROM releases r JOIN packages p ON p.name = r.package
    WHERE p.state <> 'removed' AND NOT EXISTS (
        SELECT FROM tombstones t
        WHERE t.package = r.package AND t.commit_oid = r.commit_oid AND COALESCE(t.tag, '') = COALESCE(r.tag, ''));
