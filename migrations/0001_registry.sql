CREATE TABLE packages (
    name           text PRIMARY KEY CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$'),
    upstream       text NOT NULL,
    clone_url      text NOT NULL,
    state          text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'frozen', 'removed')),
    state_reason   text NOT NULL DEFAULT '',
    language       text NOT NULL DEFAULT '',
    description    text NOT NULL DEFAULT '',
    latest_tag     text,
    latest_size    bigint NOT NULL DEFAULT 0,
    release_count  integer NOT NULL DEFAULT 0,
    size_bytes     bigint NOT NULL DEFAULT 0,
    fence          bigint NOT NULL DEFAULT 0,
    revision       bigint NOT NULL DEFAULT 0,
    sync_at        timestamptz,
    sync_ok        boolean,
    sync_code      text NOT NULL DEFAULT '',
    sync_message   text NOT NULL DEFAULT '',
    sync_failures  integer NOT NULL DEFAULT 0,
    synced_at      timestamptz,
    next_sync_at   timestamptz,
    record_digest  text,
    registered     boolean NOT NULL DEFAULT false,
    moved_count    integer NOT NULL DEFAULT 0,
    smart_http_ready     boolean NOT NULL DEFAULT false,
    pseudo_git_fetchable boolean NOT NULL DEFAULT false,
    probe_commit   text NOT NULL DEFAULT '',
    probe_error    text NOT NULL DEFAULT '',
    healthy        boolean NOT NULL DEFAULT false,
    probed_at      timestamptz,
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now(),
    changed_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE UNIQUE INDEX packages_name_folded ON packages (lower(name));
CREATE INDEX packages_changed ON packages (changed_at);

CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.changed_at := clock_timestamp();
    RETURN NEW;
END $$;
CREATE TRIGGER packages_changed BEFORE UPDATE ON packages
    FOR EACH ROW EXECUTE FUNCTION note_change();

COMMENT ON TABLE packages IS 'A name and the one upstream it is bound to.';
COMMENT ON COLUMN packages.upstream IS 'Canonical URL, the identity that owns the name: https://host/owner/repo, or fixture:name.';
COMMENT ON COLUMN packages.clone_url IS 'The URL that is dialled; its canonical form is upstream.';
COMMENT ON COLUMN packages.fence IS 'Fencing number: taken by each job that starts on the package; a job with an older one cannot publish.';
COMMENT ON COLUMN packages.revision IS 'Raised by whatever changes what Git clients see; keys caches.';
COMMENT ON COLUMN packages.latest_tag IS 'Highest stable semver release, else highest pre-release, else the newest commit. Null without releases.';
COMMENT ON COLUMN packages.record_digest IS 'Blob of the package record, from which the row can be rebuilt.';
COMMENT ON COLUMN packages.registered IS 'The catalog has a usable entry for it.';
COMMENT ON COLUMN packages.moved_count IS 'Released tags that upstream moved or deleted.';
COMMENT ON COLUMN packages.probe_commit IS 'What the last probe fetched back through our own Git interface; healthy says that all went well.';
COMMENT ON COLUMN packages.changed_at IS 'When the row last changed in any way; what keeps packages in memory asks for later ones.';
COMMENT ON COLUMN packages.sync_at IS 'When the last sync ended; sync_ok, sync_code and sync_message say how.';
COMMENT ON COLUMN packages.synced_at IS 'When a sync last succeeded. A failure never moves it.';

CREATE TABLE blobs (
    digest         text PRIMARY KEY CHECK (digest ~ '^[0-9a-f]{64}$'),
    size           bigint NOT NULL CHECK (size >= 0),
    created_at     timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE blobs IS 'Stored bytes that a row names; the bytes are durable before the row exists.';

ALTER TABLE packages ADD FOREIGN KEY (record_digest) REFERENCES blobs (digest);

CREATE TABLE releases (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    package         text NOT NULL REFERENCES packages (name),
    tag             text CHECK (tag <> ''),
    tag_oid         text CHECK (tag_oid ~ '^[0-9a-f]{40}$'),
    commit_oid      text NOT NULL CHECK (commit_oid ~ '^[0-9a-f]{40}$'),
    tree_oid        text NOT NULL CHECK (tree_oid ~ '^[0-9a-f]{40}$'),
    commit_time     timestamptz NOT NULL,
    digest          text NOT NULL REFERENCES blobs (digest),
    size            bigint NOT NULL CHECK (size > 0),
    content_digest  text NOT NULL CHECK (content_digest ~ '^[0-9a-f]{64}$'),
    md5             text NOT NULL CHECK (md5 ~ '^[0-9a-f]{32}$'),
    crc32           text NOT NULL CHECK (crc32 ~ '^[0-9a-f]{8}$'),
    manifest_digest text NOT NULL REFERENCES blobs (digest),
    zig_hash        text NOT NULL DEFAULT '',
    zig_legacy_hash text NOT NULL DEFAULT '',
    zig             jsonb NOT NULL DEFAULT '{}',
    created_at      timestamptz NOT NULL DEFAULT now(),
    CHECK (tag IS NOT NULL OR tag_oid IS NULL)
);
CREATE UNIQUE INDEX releases_tag ON releases (package, tag) WHERE tag IS NOT NULL;
CREATE UNIQUE INDEX releases_snapshot ON releases (package, commit_oid) WHERE tag IS NULL;
CREATE INDEX releases_commit ON releases (package, commit_oid);
CREATE INDEX releases_tag_oid ON releases (package, tag_oid) WHERE tag_oid IS NOT NULL;
CREATE INDEX releases_zig_hash ON releases (zig_hash) WHERE zig_hash <> '';
CREATE INDEX releases_zig_legacy_hash ON releases (zig_legacy_hash) WHERE zig_legacy_hash <> '';
CREATE INDEX releases_digest ON releases (digest);
CREATE INDEX releases_manifest ON releases (manifest_digest);
CREATE INDEX releases_created ON releases (created_at);

COMMENT ON TABLE releases IS 'One tag of a package, or one commit without a tag (a snapshot: tag is null), frozen.';
COMMENT ON COLUMN releases.tag_oid IS 'Id of the annotated tag object; null for a lightweight tag.';
COMMENT ON COLUMN releases.content_digest IS 'SHA-256 of the tar stream: equals git archive --format=tar <commit> | sha256sum.';
COMMENT ON COLUMN releases.zig IS 'What build.zig.zon says, and how Zig reads it.';

CREATE FUNCTION refuse_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'releases are frozen: % refused', TG_OP USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER releases_frozen BEFORE UPDATE OR DELETE ON releases
    FOR EACH ROW EXECUTE FUNCTION refuse_frozen();
CREATE TRIGGER releases_kept BEFORE TRUNCATE ON releases
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_frozen();

CREATE TABLE packs (
    release_id     bigint PRIMARY KEY REFERENCES releases (id),
    bitmap         bytea NOT NULL,
    objects        integer NOT NULL CHECK (objects > 0),
    size           bigint NOT NULL CHECK (size > 0),
    trailer        bytea NOT NULL CHECK (length(trailer) = 20)
);
COMMENT ON TABLE packs IS 'What a depth-1 fetch of a release answers. Derived: rebuilt from tarballs and manifests.';
COMMENT ON COLUMN packs.bitmap IS 'Roaring bitmap over the ordinals of the package''s objects.';
COMMENT ON COLUMN packs.trailer IS 'SHA-1 of header and entries, the pack''s last 20 bytes.';

CREATE TABLE segments (
    package        text NOT NULL REFERENCES packages (name),
    seq            integer NOT NULL CHECK (seq >= 0),
    first_ordinal  bigint NOT NULL CHECK (first_ordinal >= 0),
    objects        integer NOT NULL CHECK (objects > 0),
    digest         text NOT NULL REFERENCES blobs (digest),
    index_digest   text NOT NULL REFERENCES blobs (digest),
    size           bigint NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (package, seq)
);
CREATE INDEX segments_digest ON segments (digest);
CREATE INDEX segments_index_digest ON segments (index_digest);
COMMENT ON TABLE segments IS 'Append-only packfiles of a package''s Git objects. Derived: rebuilt from tarballs and manifests.';

CREATE TABLE branches (
    package        text NOT NULL REFERENCES packages (name),
    branch         text NOT NULL,
    commit_oid     text NOT NULL CHECK (commit_oid ~ '^[0-9a-f]{40}$'),
    seen_at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (package, branch)
);
COMMENT ON TABLE branches IS 'The last mirrored commit of a branch that was asked for.';

CREATE TABLE rejected_tags (
    package        text NOT NULL REFERENCES packages (name),
    tag            text NOT NULL,
    oid            text NOT NULL,
    code           text NOT NULL,
    reason         text NOT NULL,
    seen_at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (package, tag)
);
COMMENT ON TABLE rejected_tags IS 'Tags that cannot be published as they are; tried again when upstream moves them.';

CREATE TABLE moved_tags (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    package        text NOT NULL REFERENCES packages (name),
    tag            text NOT NULL,
    old_oid        text NOT NULL,
    new_oid        text NOT NULL DEFAULT '',
    accepted       boolean NOT NULL DEFAULT false,
    seen_at        timestamptz NOT NULL DEFAULT now(),
    UNIQUE (package, tag, new_oid)
);
COMMENT ON TABLE moved_tags IS 'Upstream tags that no longer name what was released. The release stays.';
COMMENT ON COLUMN moved_tags.accepted IS 'An operator knows of it: it is no reason to freeze the package.';
COMMENT ON COLUMN moved_tags.new_oid IS 'What upstream''s tag names now; empty when upstream deleted it.';

CREATE TABLE runs (
    id                 bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    state              text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'running', 'succeeded', 'failed')),
    source_changed     boolean NOT NULL DEFAULT false,
    source_packages    integer NOT NULL DEFAULT 0,
    source_added       integer NOT NULL DEFAULT 0,
    source_updated     integer NOT NULL DEFAULT 0,
    source_removed     integer NOT NULL DEFAULT 0,
    source_skipped     integer NOT NULL DEFAULT 0,
    source_repo_failed integer NOT NULL DEFAULT 0,
    repos_scanned      integer NOT NULL DEFAULT 0,
    packages_total     integer NOT NULL DEFAULT 0,
    packages_synced    integer NOT NULL DEFAULT 0,
    packages_probed    integer NOT NULL DEFAULT 0,
    tarballs_created   integer NOT NULL DEFAULT 0,
    tarballs_present   integer NOT NULL DEFAULT 0,
    created_at         timestamptz NOT NULL DEFAULT now(),
    started_at         timestamptz,
    updated_at         timestamptz NOT NULL DEFAULT now(),
    ended_at           timestamptz
);
CREATE INDEX runs_open ON runs (id) WHERE state IN ('queued', 'running');
CREATE INDEX runs_created ON runs (created_at);
COMMENT ON TABLE runs IS 'One catalog update with its counters.';

CREATE TABLE jobs (
    id             uuid PRIMARY KEY,
    kind           text NOT NULL CHECK (kind IN ('package:fetch', 'package:probe', 'catalog:update')),
    package        text NOT NULL DEFAULT '',
    target         text NOT NULL DEFAULT '',
    state          text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    attempts       integer NOT NULL DEFAULT 0,
    crashes        integer NOT NULL DEFAULT 0,
    run_at         timestamptz NOT NULL DEFAULT now(),
    enqueued_at    timestamptz,
    cancelling     boolean NOT NULL DEFAULT false,
    worker         text NOT NULL DEFAULT '',
    lease          uuid,
    lease_until    timestamptz,
    progress       jsonb NOT NULL DEFAULT '{}',
    error_code     text NOT NULL DEFAULT '',
    error_message  text NOT NULL DEFAULT '',
    result         jsonb,
    run_id         bigint REFERENCES runs (id),
    created_at     timestamptz NOT NULL DEFAULT now(),
    started_at     timestamptz,
    ended_at       timestamptz,
    CHECK ((state IN ('succeeded', 'failed', 'cancelled')) = (ended_at IS NOT NULL)),
    CHECK ((state = 'running') = (lease IS NOT NULL))
);
CREATE UNIQUE INDEX jobs_open ON jobs (kind, package, target) WHERE state IN ('queued', 'running') AND package <> '';
CREATE UNIQUE INDEX jobs_open_update ON jobs (kind, state) WHERE state IN ('queued', 'running') AND package = '';
CREATE UNIQUE INDEX jobs_running_package ON jobs (package) WHERE state = 'running' AND package <> '';
CREATE INDEX jobs_due ON jobs (run_at) WHERE state = 'queued';
CREATE INDEX jobs_leases ON jobs (lease_until) WHERE state = 'running';
CREATE INDEX jobs_newest ON jobs (created_at DESC, id DESC);
CREATE INDEX jobs_by_package ON jobs (package, created_at DESC, id DESC);
CREATE INDEX jobs_by_state ON jobs (state, created_at DESC, id DESC);
CREATE INDEX jobs_by_run ON jobs (run_id) WHERE run_id IS NOT NULL;

COMMENT ON TABLE jobs IS 'Our unit of work. The row is the truth; the queue only says that there is something to do.';
COMMENT ON COLUMN jobs.target IS 'The one tag, commit or branch asked for; empty for all tags.';
COMMENT ON COLUMN jobs.crashes IS 'How often the job''s worker vanished; at three the job is quarantined.';
COMMENT ON COLUMN jobs.enqueued_at IS 'When the queue was last told; null when it is yet to be told.';
COMMENT ON COLUMN jobs.lease_until IS 'Null while a catalog update waits for its children: no worker holds it then.';
COMMENT ON COLUMN jobs.lease IS 'Names this one claim of the job; a worker whose lease was taken over cannot report.';

CREATE TABLE workers (
    id             text PRIMARY KEY,
    concurrency    integer NOT NULL,
    release        text NOT NULL DEFAULT '',
    started_at     timestamptz NOT NULL DEFAULT now(),
    seen_at        timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE workers IS 'Who works on jobs; rows not seen for a minute are stale.';

CREATE TABLE upstream_hosts (
    host           text PRIMARY KEY,
    next_at        timestamptz NOT NULL
);
COMMENT ON TABLE upstream_hosts IS 'When a host may be asked next: spacing between requests, and waits that it asked for.';

CREATE TABLE catalog (
    one            boolean PRIMARY KEY DEFAULT true CHECK (one),
    source         text NOT NULL,
    digest         text NOT NULL DEFAULT '',
    fetched_at     timestamptz,
    error_code     text NOT NULL DEFAULT '',
    error_message  text NOT NULL DEFAULT ''
);
COMMENT ON TABLE catalog IS 'The one catalog: where it came from and how the last download went.';

CREATE TABLE catalog_entries (
    id             text PRIMARY KEY,
    name           text NOT NULL,
    upstream       text NOT NULL,
    clone_url      text NOT NULL,
    language       text NOT NULL DEFAULT '',
    description    text NOT NULL DEFAULT '',
    source_updated text NOT NULL DEFAULT '',
    synced_updated text NOT NULL DEFAULT '',
    problem        text NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX catalog_entries_name ON catalog_entries (lower(name)) WHERE problem = '';
COMMENT ON COLUMN catalog_entries.source_updated IS 'The entry''s updated_at as the catalog wrote it.';
COMMENT ON COLUMN catalog_entries.synced_updated IS 'source_updated as it was when a sync of the package last succeeded.';
COMMENT ON COLUMN catalog_entries.problem IS 'Why the entry is not used; empty when it is.';
