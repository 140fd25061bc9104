-- What is known of the logs of other packbases, and what they and this one contradict each other in.
CREATE TABLE log_comparisons (
    peer           text PRIMARY KEY,
    policy         text NOT NULL,
    checkpoint     text NOT NULL,
    compared_at    timestamptz NOT NULL DEFAULT now(),
    problem        text NOT NULL
);
COMMENT ON TABLE log_comparisons IS 'The largest checkpoint that was seen of each log that this one is compared with.';

CREATE TABLE log_differences (
    name           text PRIMARY KEY,
    peer           text NOT NULL,
    about          text NOT NULL,
    evidence       text NOT NULL,
    found_at       timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE log_differences IS 'Two statements of logs that cannot both be true, as packbase verify --evidence reads them.';

-- What was private is published when it becomes public: the log says so, as it would else date it back.
CREATE OR REPLACE FUNCTION log_visibility() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE log_pending SET private = NEW.private,
        entry = CASE WHEN NEW.private THEN entry
            ELSE regexp_replace(entry, E'seen [^\n]*\n$', log_line('seen', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))) END
    WHERE package = NEW.name;
    RETURN NULL;
END $$;
