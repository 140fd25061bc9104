ALTER TABLE rejected_tags
    ADD COLUMN rules    text NOT NULL DEFAULT '',
    ADD COLUMN tries    integer NOT NULL DEFAULT 1,
    ADD COLUMN retry_at timestamptz NOT NULL DEFAULT now();
COMMENT ON TABLE rejected_tags IS 'Tags that were not published as they are; tried again when upstream moves them, when the rules change, and at retry_at.';
COMMENT ON COLUMN rejected_tags.rules IS 'Names the release of packbase and the limits that it was judged by.';
COMMENT ON COLUMN rejected_tags.tries IS 'How often in a row it failed for this reason.';
