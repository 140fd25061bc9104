-- An update asks upstream what it lists, and has a job for a package only if that is not what it was.
ALTER TABLE packages ADD COLUMN refs_seen text NOT NULL DEFAULT '';
COMMENT ON COLUMN packages.refs_seen IS 'Digest of what upstream listed at the last look that mirrored all of it, and of what decided about that; empty if that is not known.';
