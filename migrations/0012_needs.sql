ALTER TABLE schema_migrations ADD COLUMN needs integer NOT NULL DEFAULT 0;
COMMENT ON COLUMN schema_migrations.needs IS 'How many steps a program must know to run on this schema; the largest counts.';
