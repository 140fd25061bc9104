-- How often a host lets itself be asked is known by what it refuses, and kept for all workers.
ALTER TABLE upstream_hosts
    ADD COLUMN turn_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN pace interval NOT NULL DEFAULT '0';
COMMENT ON COLUMN upstream_hosts.turn_at IS 'When whoever asked last for a turn may begin.';
COMMENT ON COLUMN upstream_hosts.pace IS 'Between two requests, at least: longer after each rest that the host wants, shorter with each request that it answers. 0 until the first.';
