ALTER TABLE trees ADD COLUMN checked_at timestamptz;
COMMENT ON COLUMN trees.checked_at IS 'When upstream was last to be asked for what the tree needs; null until then.';

ALTER TABLE jobs DROP CONSTRAINT jobs_kind_check,
    ADD CONSTRAINT jobs_kind_check CHECK (kind IN ('package:fetch', 'package:probe', 'catalog:update', 'archive:fetch', 'tree:capture', 'tree:check'));

CREATE OR REPLACE FUNCTION seen_job(kind text, package text, all_packages boolean) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT all_packages OR kind NOT IN ('archive:fetch', 'tree:capture', 'tree:check') AND seen(package, false)
$$;
