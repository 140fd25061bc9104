CREATE TABLE watch (
    one            boolean PRIMARY KEY DEFAULT true CHECK (one),
    at             timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE watch IS 'When a worker last looked for lost jobs. After a gap or a step back, leases are given that time: Postgres was away, or its clock was set.';
INSERT INTO watch DEFAULT VALUES;
