ALTER TABLE catalog_entries ADD COLUMN policy jsonb NOT NULL DEFAULT '{}';
COMMENT ON COLUMN catalog_entries.policy IS 'What of the package updates mirror, and how often they look: the entry''s own "packbase", checked.';
