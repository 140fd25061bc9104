ALTER TABLE changes ADD COLUMN news text, ADD COLUMN news_private boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN changes.news IS 'What a change says that is of no release; its body then holds nothing but the SHA-256 of this, as of a private package, so that edges which do not know such changes go on.';
COMMENT ON COLUMN changes.news_private IS 'The news is for those who see private packages.';

ALTER TABLE replication ADD COLUMN news boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN replication.news IS 'The feed was read by a packbase that knows news.';

ALTER TABLE branches ADD COLUMN announced text NOT NULL DEFAULT '';
COMMENT ON COLUMN branches.announced IS 'The commit of which the feed tells; another one than commit_oid is about to be told of.';
