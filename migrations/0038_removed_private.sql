-- A tree that has what is private stays private when that is removed.

CREATE VIEW private_hashes AS
    SELECT r.zig_hash, r.zig_legacy_hash FROM releases r JOIN packages p ON p.name = r.package WHERE p.private
    UNION ALL SELECT zig_hash, zig_legacy_hash FROM archives WHERE private;
COMMENT ON VIEW private_hashes IS 'The Zig hashes of what is private, or was when it was removed.';

CREATE OR REPLACE FUNCTION private_tree(of text, at integer) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT t.private OR EXISTS (
        SELECT FROM tree_nodes h
        WHERE h.tree = t.name AND h.revision IN (at, t.revision) AND COALESCE(
            (SELECT s.private FROM sources s
            WHERE s.zig_hash = h.hash AND s.zig_hash <> '' OR s.zig_legacy_hash = h.hash AND s.zig_legacy_hash <> ''
            ORDER BY s.private LIMIT 1),
            (SELECT true FROM private_hashes s
            WHERE s.zig_hash = h.hash AND s.zig_hash <> '' OR s.zig_legacy_hash = h.hash AND s.zig_legacy_hash <> '' LIMIT 1)))
    FROM trees t WHERE t.name = of
$$;
