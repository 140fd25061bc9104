-- What an api kept must not hold again in a database that is an older one, a dump or a standby that was promoted, once as many
-- rights were taken away there: no two decisions make the same epoch.
CREATE OR REPLACE FUNCTION note_access() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE access SET epoch = epoch + 1 + floor(random() * 1000000000)::bigint;
    RETURN NULL;
END $$;
