-- Packages are looked for by what their build.zig.zon calls itself.
CREATE INDEX releases_zig_name ON releases ((zig->>'name'));
CREATE INDEX releases_zig_fingerprint ON releases ((zig->>'fingerprint'));
