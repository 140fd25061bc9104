-- Those who cosign the log, and what they said last. What a checkpoint has to be signed with is kept here for the api.
CREATE TABLE log_witnesses (
    vkey           text PRIMARY KEY,
    name           text NOT NULL,
    size           bigint NOT NULL DEFAULT 0,
    cosignature    text NOT NULL DEFAULT '',
    asked_at       timestamptz NOT NULL DEFAULT now(),
    problem        text NOT NULL DEFAULT ''
);
COMMENT ON TABLE log_witnesses IS 'Witnesses of the log, as the worker that signs it knows them.';
COMMENT ON COLUMN log_witnesses.size IS 'Entries of the largest checkpoint that it cosigned; cosignature is its line of the signed note.';
COMMENT ON COLUMN log_witnesses.problem IS 'Why it did not cosign when it was asked last; empty if it did.';

CREATE TABLE log_policy (
    one            boolean PRIMARY KEY DEFAULT true CHECK (one),
    policy         text NOT NULL
);
COMMENT ON TABLE log_policy IS 'The policy of the log, as c2sp.org/tlog-policy writes it; no row before the first start of a worker that knows it.';
