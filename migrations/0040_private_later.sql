-- A tree becomes private, too, when what it had no files for is here, and is private: its record says so, and edges hide it.

CREATE FUNCTION note_private_files() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TABLE_NAME = 'releases' THEN
        IF NOT EXISTS (SELECT FROM packages p WHERE p.name = NEW.package AND p.private) THEN
            RETURN NULL;
        END IF;
    ELSIF NOT NEW.private THEN
        RETURN NULL;
    END IF;
    UPDATE tree_revisions r SET recorded_at = NULL
    FROM unnest(ARRAY[NEW.zig_hash, NEW.zig_legacy_hash]) h (hash) JOIN tree_nodes n ON n.hash = h.hash
    WHERE h.hash <> '' AND r.tree = n.tree AND r.revision <= n.revision;
    RETURN NULL;
END $$;
CREATE TRIGGER releases_tree_privacy AFTER INSERT ON releases FOR EACH ROW EXECUTE FUNCTION note_private_files();
CREATE TRIGGER archives_tree_privacy AFTER INSERT ON archives FOR EACH ROW EXECUTE FUNCTION note_private_files();
