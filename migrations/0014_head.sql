ALTER TABLE packages ADD COLUMN head_oid text NOT NULL DEFAULT '';
COMMENT ON COLUMN packages.head_oid IS 'HEAD of a package without releases: the newest commit that a branch asked for was at. Empty before the first.';
UPDATE packages p SET head_oid = r.commit_oid, revision = revision + 1
FROM (SELECT DISTINCT ON (b.package) b.package, b.commit_oid
    FROM branches b JOIN releases s ON s.package = b.package AND s.commit_oid = b.commit_oid
    ORDER BY b.package, s.commit_time DESC) r
WHERE r.package = p.name;
