CREATE TABLE set_aside (
    seq            bigint PRIMARY KEY,
    body           text NOT NULL,
    package        text NOT NULL DEFAULT '',
    tag            text NOT NULL DEFAULT '',
    private        boolean NOT NULL,
    reason         text NOT NULL,
    tries          integer NOT NULL DEFAULT 1,
    since          timestamptz NOT NULL DEFAULT now(),
    retry_at       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX set_aside_due ON set_aside (retry_at);
COMMENT ON TABLE set_aside IS 'Changes of the central that an edge cannot take over for now, by their numbers: the feed goes on without them.';
COMMENT ON COLUMN set_aside.body IS 'What the change says, opened if it is of a private package.';
