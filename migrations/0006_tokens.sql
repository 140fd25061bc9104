ALTER TABLE packages ADD COLUMN private boolean NOT NULL DEFAULT false;
CREATE INDEX packages_private ON packages (name) WHERE private;
COMMENT ON COLUMN packages.private IS 'Read with a token only: upstream wanted credentials, or an operator wants it so.';

CREATE TABLE tokens (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name           text NOT NULL CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$'),
    digest         text NOT NULL UNIQUE CHECK (digest ~ '^[0-9a-f]{64}$'),
    scope          text NOT NULL CHECK (scope IN ('read', 'write', 'admin')),
    created_at     timestamptz NOT NULL DEFAULT now(),
    expires_at     timestamptz,
    last_used_at   timestamptz,
    revoked_at     timestamptz
);
CREATE UNIQUE INDEX tokens_name ON tokens (lower(name)) WHERE revoked_at IS NULL;
COMMENT ON TABLE tokens IS 'Who may do what. Each scope may do what those before it may: read, write, admin.';
COMMENT ON COLUMN tokens.digest IS 'SHA-256 of the token, which is random and nowhere stored.';
COMMENT ON COLUMN tokens.last_used_at IS 'To the minute.';

CREATE TABLE access (
    one            boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch          bigint NOT NULL DEFAULT 0
);
INSERT INTO access DEFAULT VALUES;
COMMENT ON TABLE access IS 'Its epoch is raised by whatever takes a right to read away; what apis keep in memory is of one epoch.';

CREATE FUNCTION note_access() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE access SET epoch = epoch + 1;
    RETURN NULL;
END $$;
CREATE TRIGGER tokens_access AFTER UPDATE OF revoked_at ON tokens
    FOR EACH ROW EXECUTE FUNCTION note_access();
CREATE TRIGGER packages_access AFTER UPDATE OF name, state, private ON packages
    FOR EACH ROW WHEN (OLD.name <> NEW.name OR OLD.private <> NEW.private OR (OLD.state = 'removed') <> (NEW.state = 'removed'))
    EXECUTE FUNCTION note_access();
CREATE TRIGGER packages_dropped AFTER DELETE ON packages
    FOR EACH ROW EXECUTE FUNCTION note_access();

CREATE FUNCTION seen(package text, all_packages boolean) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT all_packages OR NOT EXISTS (SELECT FROM packages p WHERE p.name = package AND p.private)
$$;
COMMENT ON FUNCTION seen IS 'Whether a reader sees what is said of a package: one who does not see all packages does not see private ones.';

CREATE VIEW served_releases AS
    SELECT r.id, r.package, r.tag, r.tag_oid, r.commit_oid, r.tree_oid, r.commit_time, r.digest, r.size, r.content_digest, r.md5, r.crc32,
        r.manifest_digest, r.zig_hash, r.zig_legacy_hash, r.zig, r.created_at, p.private
    FROM releases r JOIN packages p ON p.name = r.package;
COMMENT ON VIEW served_releases IS 'The releases that may be read, by those who see their package.';

CREATE VIEW blob_names AS
    SELECT digest, package, true AS served FROM releases
    UNION ALL SELECT manifest_digest, package, true FROM releases
    UNION ALL SELECT pack_digest, package, true FROM histories
    UNION ALL SELECT index_digest, package, true FROM histories
    UNION ALL SELECT digest, package, false FROM segments
    UNION ALL SELECT index_digest, package, false FROM segments
    UNION ALL SELECT record_digest, name, false FROM packages WHERE record_digest IS NOT NULL;
COMMENT ON VIEW blob_names IS 'What keeps a blob: each row that names one, with its package. Served ones may be had by digest, too.';

ALTER TABLE changes ADD COLUMN secret text;
COMMENT ON COLUMN changes.secret IS 'What a change says of a private package; its body then holds nothing but the SHA-256 of this.';
ALTER TABLE replication ADD COLUMN private boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN replication.private IS 'The feed was read with a token, private packages included.';
