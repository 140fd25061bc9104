-- What is told of a package is kept in memory for as long as none of it changes: each change of a row that it is made of
-- says in which transaction it was made, so that one question finds all changes since the last one.
ALTER TABLE packages ADD COLUMN described_in xid8 NOT NULL DEFAULT '0';
CREATE INDEX packages_described ON packages (described_in);
COMMENT ON COLUMN packages.described_in IS 'The transaction that last changed what is told of the package: its row, or one of another table that has the trigger NAME_described.';

CREATE OR REPLACE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.changed_at := clock_timestamp();
    NEW.described_in := pg_current_xact_id();
    RETURN NEW;
END $$;

CREATE FUNCTION note_described() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE packages SET described_in = pg_current_xact_id()
    WHERE name = COALESCE(NEW.package, OLD.package) AND described_in <> pg_current_xact_id();
    RETURN NULL;
END $$;
CREATE TRIGGER releases_described AFTER INSERT ON releases FOR EACH ROW EXECUTE FUNCTION note_described();
CREATE TRIGGER package_names_described AFTER INSERT ON package_names FOR EACH ROW EXECUTE FUNCTION note_described();
CREATE TRIGGER tombstones_described AFTER INSERT ON tombstones FOR EACH ROW EXECUTE FUNCTION note_described();
CREATE TRIGGER branches_described AFTER INSERT OR UPDATE OR DELETE ON branches FOR EACH ROW EXECUTE FUNCTION note_described();
CREATE TRIGGER rejected_tags_described AFTER INSERT OR UPDATE OR DELETE ON rejected_tags FOR EACH ROW EXECUTE FUNCTION note_described();
CREATE TRIGGER moved_tags_described AFTER INSERT OR UPDATE OR DELETE ON moved_tags FOR EACH ROW EXECUTE FUNCTION note_described();

-- Postgres plans what an SQL function with a subquery says each time that a statement calls it, which took longer than to look up the row.
CREATE OR REPLACE FUNCTION first_name(name text) RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN COALESCE((SELECT n.package FROM package_names n WHERE lower(n.name) = lower($1)), $1);
END $$;
CREATE OR REPLACE FUNCTION seen(package text, all_packages boolean) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN all_packages OR NOT EXISTS (SELECT FROM packages p WHERE p.name = $1 AND p.private);
END $$;
