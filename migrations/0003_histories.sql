CREATE TABLE histories (
    package        text PRIMARY KEY REFERENCES packages (name),
    head           text NOT NULL DEFAULT '',
    refs           jsonb NOT NULL DEFAULT '{}',
    pack_name      text NOT NULL CHECK (pack_name ~ '^[0-9a-f]{40}$'),
    pack_digest    text NOT NULL REFERENCES blobs (digest),
    index_digest   text NOT NULL REFERENCES blobs (digest)
);
COMMENT ON TABLE histories IS 'The whole history of a package that comes from a local bare repository, served over dumb HTTP.';
COMMENT ON COLUMN histories.refs IS 'Branches and tags by full name, with the ids that they name.';
COMMENT ON COLUMN histories.pack_name IS 'The pack''s own SHA-1, as in objects/pack/pack-<name>.pack.';
