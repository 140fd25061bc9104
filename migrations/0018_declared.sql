CREATE INDEX tree_nodes_urls ON tree_nodes USING gin (urls) WHERE state = 'stored';
