-- The counters of the first packbase that runs did not have.
ALTER TABLE runs
    ADD COLUMN source_repo_cloned integer NOT NULL DEFAULT 0,
    ADD COLUMN source_repo_updated integer NOT NULL DEFAULT 0;
COMMENT ON COLUMN runs.source_repo_cloned IS 'Packages that were synced for the first time; source_repo_updated, the others that were synced.';
