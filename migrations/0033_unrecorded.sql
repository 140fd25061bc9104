-- Every package that is here has a record among the blobs: those of edges, too.
CREATE INDEX packages_unrecorded ON packages (name) WHERE record_digest IS NULL AND release_count + snapshot_count > 0;
