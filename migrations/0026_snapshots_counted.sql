ALTER TABLE packages ADD COLUMN snapshot_count integer NOT NULL DEFAULT 0;
COMMENT ON COLUMN packages.snapshot_count IS 'Commits that are served without a tag. A package of these alone is as much here as one with releases.';

-- Not left to the program: workers of the version before this one publish snapshots, too.
CREATE FUNCTION count_snapshot() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE packages SET snapshot_count = snapshot_count + 1 WHERE name = NEW.package;
    RETURN NULL;
END $$;
CREATE TRIGGER releases_counted AFTER INSERT ON releases
    FOR EACH ROW WHEN (NEW.tag IS NULL) EXECUTE FUNCTION count_snapshot();

UPDATE packages p SET snapshot_count = n.n
FROM (SELECT package, count(*) AS n FROM served_releases WHERE tag IS NULL GROUP BY package) n
WHERE n.package = p.name;
