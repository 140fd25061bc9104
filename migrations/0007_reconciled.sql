ALTER TABLE watch ADD COLUMN reconciled_at timestamptz;
COMMENT ON COLUMN watch.reconciled_at IS 'When a worker last ended a whole round of looking after the jobs without an error. Null: never.';
