ALTER TABLE jobs ADD COLUMN pull boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN jobs.pull IS 'Only clients without a token wait for it: others go first.';
