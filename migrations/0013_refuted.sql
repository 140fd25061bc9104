CREATE TABLE refuted_zig_hashes (
    release_id     bigint PRIMARY KEY REFERENCES releases (id),
    seen_at        timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE refuted_zig_hashes IS 'Releases whose files do not have the Zig hashes of their row, as earlier builds could publish them. They are not found by these.';
CREATE TRIGGER refuted_access AFTER INSERT ON refuted_zig_hashes
    FOR EACH ROW EXECUTE FUNCTION note_access();
