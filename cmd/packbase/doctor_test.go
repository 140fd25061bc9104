package main

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/storage/storagetest"
)

// findings returns what doctor found: the levels of each check, by its name.
func findings(out string) map[string]string {
	found := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^(ok  |warn|FAIL)  (\w+) `).FindAllStringSubmatch(out, -1) {
		found[m[2]] += strings.TrimSpace(m[1])
	}
	return found
}

func TestDoctor(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	foreign := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(foreign.Close)
	catalog := func(text string) string {
		name := filepath.Join(t.TempDir(), "catalog.json")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	const one = `{"id":"1","repository":{"url":"https://git.example/owner/one"}}`
	good := catalog(`{"protocol":"v1","packages":[` + one + `,{"id":"2","title":"two","repository":{"url":"https://git.example/owner/2"}}]}`)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, good) }))
	t.Cleanup(web.Close)
	port := func(server string) string {
		u, err := url.Parse(server)
		if err != nil {
			t.Fatal(err)
		}
		return u.Port()
	}
	// Redis of the tests may keep less than one in earnest should.
	defaults := map[string]string{"settings": "ok", "token": "ok", "root": "ok", "blobs": "ok", "postgres": "ok", "port": "ok", "catalog": "ok", "zig": "ok", "walls": "ok"}
	env := map[string]string{
		"PACKBASE_ROOT": s.cfg.Root, "PACKBASE_TOKEN": testToken, "PACKBASE_ADDR": "127.0.0.1", "PACKBASE_PORT": "0", "PACKBASE_ADMIN_ADDR": "off",
		"PACKBASE_DATABASE_URL": s.cfg.DatabaseURL, "PACKBASE_REDIS_URL": s.cfg.RedisURL, "PACKBASE_SOURCE": "file://" + good,
	}
	left := filepath.Join(t.TempDir(), "zig") // what it started has its output still
	if err := os.WriteFile(left, []byte("#!/bin/sh\nsleep 20 &\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		args  []string
		check string // whose level differs from the defaults
		level string
		says  string
	}{
		{"all in order", nil, "", "", "a blob was staged, stored, found and removed"},
		{"catalog over http", []string{"--source", web.URL, "--upstream-allow", "127.0.0.0/8"}, "", "", "can be read: 2 packages"},
		{"catalog at a private address", []string{"--source", web.URL}, "catalog", "FAIL", "PACKBASE_UPSTREAM_ALLOW"},
		{"catalog that is not there", []string{"--source", "file:///no/such"}, "catalog", "FAIL", "no such file"},
		{"catalog of another kind", []string{"--source", "file://" + catalog(`{"protocol":"v9"}`)}, "catalog", "FAIL", `the protocol "v9", want "v1"`},
		{"catalog that is none", []string{"--source", "file://" + catalog(`<html>`)}, "catalog", "FAIL", "is not the JSON of a catalog"},
		{"catalog of nothing", []string{"--source", "file://" + catalog(`{"protocol":"v1","packages":[]}`)}, "catalog", "FAIL", "lists nothing"},
		{"catalog with odd entries", []string{"--source", "file://" + catalog(`{"protocol":"v1","packages":[`+one+`,{"id":"odd"}]}`)}, "catalog", "warn", `1 of 2 packages are left out; the first is "odd"`},
		{"two bad settings", []string{"--lease", "1ms", "--max-tags", "many"}, "settings", "FAILFAIL", "--max-tags"},
		{"root that will be made", []string{"--root", filepath.Join(s.cfg.Root, "a/b")}, "", "", "a/b will be made"},
		{"root is a file", []string{"--root", good, "--blobs", s.cfg.Blobs}, "root", "FAIL", "is not a folder"},
		{"blobs of no kind", []string{"--blobs", "ftp://x"}, "blobs", "FAIL", "PACKBASE_BLOBS"},
		{"no schema", []string{"--database-url", storagetest.NewURL(t)}, "postgres", "FAIL", "packbase migrate"},
		{"one role for all", []string{"--database-url", s.cfg.MigrateURL}, "postgres", "warn", "PACKBASE_MIGRATE_DATABASE_URL"},
		{"no Postgres", []string{"--database-url", "postgres://localhost:1/x"}, "postgres", "FAIL", "is PACKBASE_DATABASE_URL right"},
		{"no Redis", []string{"--redis-url", "redis://127.0.0.1:1"}, "redis", "FAIL", "is PACKBASE_REDIS_URL right"},
		{"Redis of no kind", []string{"--redis-url", "amqp://127.0.0.1:1"}, "redis", "FAIL", "PACKBASE_REDIS_URL"},
		{"an edge", []string{"--read-only", "--redis-url", ""}, "", "", "an edge needs none"},
		{"port of a packbase", []string{"--port", port(s.url)}, "", "", "is a packbase that is ready"},
		{"port of something else", []string{"--port", port(foreign.URL)}, "port", "FAIL", "in use by something else"},
		{"zig that is not there", []string{"--zig", "/no/such/zig"}, "zig", "FAIL", "PACKBASE_ZIG"},
		{"zig that leaves something behind", []string{"--zig", left}, "zig", "FAIL", "PACKBASE_ZIG"},
		{"netrc that is not there", []string{"--netrc", "/no/such/netrc"}, "netrc", "FAIL", "PACKBASE_NETRC"},
		{"fixtures that are not there", []string{"--fixtures", "/no/such"}, "fixtures", "FAIL", "PACKBASE_FIXTURES"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := cli(t.Context(), env, append([]string{"doctor"}, tt.args...)...)
			code := 0
			if strings.HasPrefix(tt.level, "FAIL") {
				code = exitFailed
			}
			r.check(t, code, tt.says)
			found := findings(r.out)
			for name, want := range defaults {
				if name == tt.check {
					want = tt.level
				}
				if found[name] != want {
					t.Errorf("%s: got %q, want %q in\n%s", name, found[name], want, r.out)
				}
			}
			if tt.check != "" && found[tt.check] != tt.level {
				t.Errorf("%s: got %q, want %q in\n%s", tt.check, found[tt.check], tt.level, r.out)
			}
		})
	}
}
