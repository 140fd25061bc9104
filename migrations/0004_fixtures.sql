-- A fixture's clone URL names a folder of PACKBASE_FIXTURES; it used to be a path.
UPDATE packages SET clone_url = 'fixture:' || regexp_replace(clone_url, '^.*/', '') WHERE clone_url LIKE 'fixture:/%';
