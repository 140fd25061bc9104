CREATE TABLE changes (
    seq            bigint PRIMARY KEY CHECK (seq > 0),
    body           text NOT NULL,
    chain          text NOT NULL CHECK (chain ~ '^[0-9a-f]{64}$'),
    created_at     timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE changes IS 'The feed that edges follow: one row a release, in order of commit, without gaps.';
COMMENT ON COLUMN changes.body IS 'The change as JSON, byte for byte as it is chained.';
COMMENT ON COLUMN changes.chain IS 'SHA-256 of the previous chain, a line feed, and body: whoever knows one link can check all later ones.';

CREATE TRIGGER changes_frozen BEFORE UPDATE OR DELETE ON changes
    FOR EACH ROW EXECUTE FUNCTION refuse_frozen();
CREATE TRIGGER changes_kept BEFORE TRUNCATE ON changes
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_frozen();

CREATE TABLE replication (
    one            boolean PRIMARY KEY DEFAULT true CHECK (one),
    central        text NOT NULL,
    seq            bigint NOT NULL DEFAULT 0,
    chain          text NOT NULL DEFAULT '',
    head           bigint NOT NULL DEFAULT 0,
    halted         text NOT NULL DEFAULT '',
    synced_at      timestamptz
);
COMMENT ON TABLE replication IS 'How far an edge has followed its central.';
COMMENT ON COLUMN replication.halted IS 'Why replication stopped for good: the central contradicts itself. Empty while all is well.';
