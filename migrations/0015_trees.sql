CREATE TABLE archives (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    url             text NOT NULL CHECK (length(url) BETWEEN 1 AND 2048),
    zig_hash        text NOT NULL DEFAULT '',
    zig_legacy_hash text NOT NULL CHECK (zig_legacy_hash ~ '^1220[0-9a-f]{64}$'),
    digest          text NOT NULL REFERENCES blobs (digest),
    size            bigint NOT NULL CHECK (size > 0),
    content_type    text NOT NULL,
    disposition     text NOT NULL DEFAULT '',
    final_url       text NOT NULL DEFAULT '',
    format          text NOT NULL CHECK (format IN ('tar', 'tar.gz', 'tar.xz', 'tar.zst', 'zip')),
    tarball_digest  text NOT NULL REFERENCES blobs (digest),
    tarball_size    bigint NOT NULL CHECK (tarball_size > 0),
    record_digest   text NOT NULL REFERENCES blobs (digest),
    private         boolean NOT NULL DEFAULT false,
    zig             jsonb NOT NULL DEFAULT '{}',
    created_at      timestamptz NOT NULL,
    UNIQUE (url, zig_legacy_hash)
);
CREATE INDEX archives_zig_hash ON archives (zig_hash) WHERE zig_hash <> '';
CREATE INDEX archives_zig_legacy_hash ON archives (zig_legacy_hash);
CREATE INDEX archives_digest ON archives (digest);
CREATE INDEX archives_tarball ON archives (tarball_digest);
CREATE INDEX archives_record ON archives (record_digest);
COMMENT ON TABLE archives IS 'What one URL answered, frozen: other bytes of the same files are the same archive, other files are another one.';
COMMENT ON COLUMN archives.url IS 'As name.Dependency has it: no user, no fragment.';
COMMENT ON COLUMN archives.digest IS 'The bytes as they came.';
COMMENT ON COLUMN archives.tarball_digest IS 'What Zig is given: the same, if every Zig since 0.13 reads it, else our own tar.gz of the same files.';
COMMENT ON COLUMN archives.record_digest IS 'Blob of a JSON record, from which the row can be rebuilt.';
COMMENT ON COLUMN archives.private IS 'Credentials were needed to have it: it is shown to those who see private packages.';

CREATE OR REPLACE FUNCTION refuse_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% are frozen: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER archives_frozen BEFORE UPDATE OR DELETE ON archives
    FOR EACH ROW EXECUTE FUNCTION refuse_frozen();
CREATE TRIGGER archives_kept BEFORE TRUNCATE ON archives
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_frozen();

CREATE TABLE moved_archives (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    url             text NOT NULL,
    old_legacy_hash text NOT NULL,
    new_hash        text NOT NULL DEFAULT '',
    new_legacy_hash text NOT NULL,
    seen_at         timestamptz NOT NULL DEFAULT now(),
    UNIQUE (url, new_legacy_hash)
);
COMMENT ON TABLE moved_archives IS 'URLs that answer other files than those that are frozen. The archive stays.';

CREATE TABLE trees (
    name           text PRIMARY KEY CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$'),
    revision       integer NOT NULL,
    private        boolean NOT NULL DEFAULT false,
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX trees_name_folded ON trees (lower(name));
COMMENT ON TABLE trees IS 'The dependencies of a project, and theirs.';
COMMENT ON COLUMN trees.private IS 'Who asked for it wants it shown to those who see private packages only; so is a tree of which anything is private.';

CREATE TABLE tree_revisions (
    tree           text NOT NULL REFERENCES trees (name),
    revision       integer NOT NULL CHECK (revision > 0),
    roots          jsonb NOT NULL,
    roots_digest   text NOT NULL CHECK (roots_digest ~ '^[0-9a-f]{64}$'),
    state          text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'whole', 'holes')),
    problems       jsonb NOT NULL DEFAULT '[]',
    created_at     timestamptz NOT NULL DEFAULT now(),
    ended_at       timestamptz,
    PRIMARY KEY (tree, revision)
);
COMMENT ON COLUMN tree_revisions.roots IS 'The manifests that the capture began with: [{"file","text"}].';
COMMENT ON COLUMN tree_revisions.problems IS 'Dependencies that cannot be nodes, and why: [{"parent","name","reason"}].';

CREATE TABLE tree_nodes (
    tree           text NOT NULL,
    revision       integer NOT NULL,
    hash           text NOT NULL,
    urls           text[] NOT NULL,
    parents        text[] NOT NULL,
    lazy           boolean NOT NULL,
    depth          integer NOT NULL,
    state          text NOT NULL CHECK (state IN ('waiting', 'stored', 'hole')),
    code           text NOT NULL DEFAULT '',
    reason         text NOT NULL DEFAULT '',
    tried          jsonb NOT NULL DEFAULT '[]',
    job            uuid,
    upstream_state text NOT NULL DEFAULT '' CHECK (upstream_state IN ('', 'same', 'moved', 'gone', 'away')),
    upstream_at    timestamptz,
    PRIMARY KEY (tree, revision, hash),
    FOREIGN KEY (tree, revision) REFERENCES tree_revisions (tree, revision)
);
CREATE INDEX tree_nodes_hash ON tree_nodes (hash);
CREATE INDEX tree_nodes_job ON tree_nodes (job) WHERE job IS NOT NULL;
COMMENT ON TABLE tree_nodes IS 'A dependency in a tree, known by the hash that manifests pin.';
COMMENT ON COLUMN tree_nodes.parents IS 'Hashes of the nodes that name it; empty text for a root manifest.';
COMMENT ON COLUMN tree_nodes.tried IS 'Where it could not be had: [{"kind","url","ref","code","message"}]. While there is a job, the last is what that tries.';
COMMENT ON COLUMN tree_nodes.job IS 'The open job that is to bring it.';
COMMENT ON COLUMN tree_nodes.upstream_state IS 'What upstream answered when it was last asked: the survival report.';

CREATE VIEW sources AS
    SELECT CASE WHEN tag IS NULL THEN 'snapshot' ELSE 'release' END AS kind, id, package, COALESCE(tag, '') AS tag, commit_oid, '' AS url,
        zig_hash, zig_legacy_hash, digest, size, private, zig
    FROM served_releases r
    WHERE NOT EXISTS (SELECT FROM refuted_zig_hashes f WHERE f.release_id = r.id)
    UNION ALL
    SELECT 'archive', id, '', '', '', url, zig_hash, zig_legacy_hash, tarball_digest, tarball_size, private, zig
    FROM archives;
COMMENT ON VIEW sources IS 'What has one Zig hash and may be served: releases, snapshots and archives. digest is the tarball that Zig is given.';

CREATE OR REPLACE VIEW blob_names AS
    SELECT digest, package, true AS served, 'tarball' AS use FROM served_releases
    UNION ALL SELECT manifest_digest, package, true, 'manifest' FROM served_releases
    UNION ALL SELECT pack_digest, package, true, 'history' FROM histories
    UNION ALL SELECT index_digest, package, true, 'history index' FROM histories
    UNION ALL SELECT digest, package, false, 'segment' FROM segments
    UNION ALL SELECT index_digest, package, false, 'segment index' FROM segments
    UNION ALL SELECT record_digest, name, false, 'record' FROM packages WHERE record_digest IS NOT NULL
    UNION ALL SELECT digest, '', NOT private, 'archive' FROM archives
    UNION ALL SELECT tarball_digest, '', NOT private, 'archive tarball' FROM archives
    UNION ALL SELECT record_digest, '', NOT private, 'archive record' FROM archives;

ALTER TABLE jobs ADD COLUMN pin text NOT NULL DEFAULT '';
COMMENT ON COLUMN jobs.pin IS 'Of archive:fetch: the Zig hash that what comes has to have, empty for whatever comes; of tree:capture: the revision.';
COMMENT ON COLUMN jobs.target IS 'The one tag, commit or branch asked for, empty for all tags; the URL of an archive; the name of a tree.';
ALTER TABLE jobs DROP CONSTRAINT jobs_kind_check,
    ADD CONSTRAINT jobs_kind_check CHECK (kind IN ('package:fetch', 'package:probe', 'catalog:update', 'archive:fetch', 'tree:capture'));
DROP INDEX jobs_open, jobs_open_update;
CREATE UNIQUE INDEX jobs_open ON jobs (kind, package, target, pin) WHERE state IN ('queued', 'running') AND kind <> 'catalog:update';
CREATE UNIQUE INDEX jobs_open_update ON jobs (kind, state) WHERE state IN ('queued', 'running') AND kind = 'catalog:update';

CREATE FUNCTION seen_job(kind text, package text, all_packages boolean) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT all_packages OR kind NOT IN ('archive:fetch', 'tree:capture') AND seen(package, false)
$$;
COMMENT ON FUNCTION seen_job IS 'Whether a reader sees a job. What a tree needs may be private, which is known only when it is here.';
