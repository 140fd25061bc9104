-- A branch that only strangers asked for does not take HEAD from the branch that it goes with.
ALTER TABLE packages ADD COLUMN head_branch text NOT NULL DEFAULT '';
COMMENT ON COLUMN packages.head_branch IS 'The branch that HEAD of a package without releases goes with: the last one that was asked for. Empty before the first.';
UPDATE packages p SET head_branch = b.branch
FROM (
    SELECT DISTINCT ON (b.package) b.package, b.branch FROM branches b JOIN packages q ON q.name = b.package
    WHERE q.head_oid <> ''
    ORDER BY b.package, b.commit_oid = q.head_oid DESC, b.seen_at DESC, b.branch) b
WHERE b.package = p.name;
