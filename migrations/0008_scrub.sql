CREATE OR REPLACE VIEW blob_names AS
    SELECT digest, package, true AS served, 'tarball' AS use FROM releases
    UNION ALL SELECT manifest_digest, package, true, 'manifest' FROM releases
    UNION ALL SELECT pack_digest, package, true, 'history' FROM histories
    UNION ALL SELECT index_digest, package, true, 'history index' FROM histories
    UNION ALL SELECT digest, package, false, 'segment' FROM segments
    UNION ALL SELECT index_digest, package, false, 'segment index' FROM segments
    UNION ALL SELECT record_digest, name, false, 'record' FROM packages WHERE record_digest IS NOT NULL;
COMMENT ON VIEW blob_names IS 'What keeps a blob, has it read again and mended: each row that names one, with its package. Every foreign key to blobs is in it. Served ones may be had by digest, too.';
CREATE INDEX packages_record ON packages (record_digest) WHERE record_digest IS NOT NULL;

ALTER TABLE blobs
    ADD COLUMN checked_at timestamptz,
    ADD COLUMN damaged_at timestamptz,
    ADD COLUMN problem    text NOT NULL DEFAULT '',
    ADD COLUMN mend_at    timestamptz,
    ADD COLUMN mend_tries integer NOT NULL DEFAULT 0;
CREATE INDEX blobs_checked ON blobs ((COALESCE(checked_at, created_at)));
CREATE INDEX blobs_to_mend ON blobs (mend_at) WHERE mend_at IS NOT NULL;
COMMENT ON COLUMN blobs.checked_at IS 'When the bytes were last read and found right; null: when they were stored.';
COMMENT ON COLUMN blobs.damaged_at IS 'Since when the bytes are known as wrong or lost and could not be made again; null while all is well.';
COMMENT ON COLUMN blobs.mend_at IS 'When to read it and mend it if need be; later with every failure. Null while all is well.';
