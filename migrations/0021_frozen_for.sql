-- Records of packages, and older servers, have the sentence alone: it becomes a code here and nowhere else.
ALTER TABLE packages ADD COLUMN frozen_for text NOT NULL GENERATED ALWAYS AS (CASE state_reason
    WHEN 'kept as it was by an operator' THEN 'kept'
    WHEN 'upstream wants credentials now, and the releases here can be read by anybody: accept makes the package private and mirrors it again, keep leaves it public as it is' THEN 'private'
    ELSE '' END) STORED;
COMMENT ON COLUMN packages.frozen_for IS 'Why the package is frozen, where that decides something: kept, nobody needs to decide any more; private, upstream wants credentials now. '''' otherwise.';
