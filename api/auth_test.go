package api_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/francescobianco/packbase/api"
	"github.com/francescobianco/packbase/storage/jobs"
)

// writes are all routes that need the token. Whoever adds one adds it here.
var writes = []string{
	"POST /api/check",
	"POST /api/fetch",
	"POST /api/jobs/{id}/cancel",
	"POST /api/jobs/{id}/retry",
	"POST /api/remove",
	"POST /api/rename",
	"POST /api/review/{package}",
	"POST /api/tokens",
	"POST /api/tokens/{name}/revoke",
	"POST /api/trees",
	"POST /api/trees/{name}/retry",
	"POST /api/visibility/{package}",
}

// guarded are those of them that need one even where the others need none.
var guarded = []string{"POST /api/tokens", "POST /api/tokens/{name}/revoke", "POST /api/visibility/{package}"}

// public are the routes that take other methods than GET from anybody: an
// update is limited by time, Git's requests read, and pushes are refused.
var public = []string{
	"POST /api/bundle", // writes nothing: a tree goes in, its bundle comes out
	"POST /api/proofs",
	"POST /api/update",
	"POST /git/{repo}/git-upload-pack", "POST /{repo}/git-upload-pack",
	"* /git/{repo}/git-receive-pack", "* /{repo}/git-receive-pack",
}

// AU-01.
func TestWritesNeedToken(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	var got []string
	for _, route := range routesOf(t, g.server.Handler()) {
		_, pattern, _ := strings.Cut(route, " ")
		if !strings.HasPrefix(route, "GET ") && !slices.Contains(public, route) && !slices.Contains(public, "* "+pattern) {
			got = append(got, route)
		}
	}
	if !slices.Equal(got, writes) {
		t.Fatalf("routes that write: %q, want %q", got, writes)
	}
	edge := g.serve(func(o *api.Options) { o.ReadOnly = true })
	open := g.serve(func(o *api.Options) { o.Token, o.Open = "", true })
	none := g.serve(func(o *api.Options) { o.Token = "" }) // AU-02
	tests := []struct {
		name   string
		on     *registry
		header []string
		status int
		code   string
	}{
		{"no token", g, nil, 401, "unauthorized"},
		{"empty header", g, []string{"Authorization", ""}, 401, "unauthorized"},
		{"no token in it", g, []string{"Authorization", "Bearer"}, 401, "unauthorized"},
		{"token alone", g, []string{"Authorization", token}, 401, "unauthorized"},
		{"other scheme", g, []string{"Authorization", "Basic " + token}, 401, "unauthorized"},
		{"another token", g, []string{"Authorization", "Bearer another"}, 403, "forbidden"},
		{"half of the token", g, []string{"Authorization", "Bearer " + token[:len(token)/2]}, 403, "forbidden"},
		{"more than the token", g, []string{"Authorization", "Bearer " + token + "x"}, 403, "forbidden"},
		{"other case", g, []string{"Authorization", "Bearer " + strings.ToUpper(token)}, 403, "forbidden"},
		{"NUL-like bytes", g, []string{"Authorization", "Bearer " + token + "\xff"}, 403, "forbidden"},
		{"token second", g, []string{"Authorization", "Bearer another", "Authorization", "Bearer " + token}, 403, "forbidden"},
		{"in a cookie", g, []string{"Cookie", "token=" + token}, 401, "unauthorized"},
		{"in another header", g, []string{"X-Packbase-Token", token, "Proxy-Authorization", "Bearer " + token}, 401, "unauthorized"},
		{"from this machine", g, []string{"X-Forwarded-For", "127.0.0.1", "X-Real-IP", "127.0.0.1", "Forwarded", "for=127.0.0.1"}, 401, "unauthorized"},
		{"edge", edge, []string{"Authorization", "Bearer " + token}, 403, "read_only"},
		{"none configured", none, nil, 503, "no_token_configured"},
		{"none configured, empty token", none, []string{"Authorization", "Bearer "}, 503, "no_token_configured"},
		{"none configured, some token", none, []string{"Authorization", "Bearer x"}, 503, "no_token_configured"},
	}
	for _, route := range writes {
		method, pattern, _ := strings.Cut(route, " ")
		path := strings.NewReplacer("{id}", uuid.NewString(), "{package}", "nope", "{name}", "nope").Replace(pattern)
		for _, tt := range tests {
			for _, query := range []string{"", "?token=" + token + "&access_token=" + token} {
				a := tt.on.do(method, path+query, `{"url":"https://git.example/o/r","package":"nope","decision":"keep"}`, tt.header...)
				if a.StatusCode != tt.status || a.code() != tt.code {
					t.Errorf("%s %s: status %d %s, want %d %s", route, tt.name, a.StatusCode, a.code(), tt.status, tt.code)
				}
				if challenge := a.Header.Get("WWW-Authenticate") != ""; challenge != (tt.status == http.StatusUnauthorized) {
					t.Errorf("%s %s: WWW-Authenticate is there: %v", route, tt.name, challenge)
				}
			}
		}
		for _, ok := range []*answer{
			g.do(method, path, "{}", "Authorization", "Bearer "+token), g.do(method, path, "{}", "Authorization", "bearer   "+token), open.do(method, path, "{}"),
		} {
			if ok.code() == "no_token_configured" && slices.Contains(guarded, route) {
				continue
			}
			if ok.StatusCode == 401 || ok.StatusCode == 403 || ok.StatusCode >= 500 {
				t.Errorf("%s with the token: status %d", route, ok.StatusCode)
			}
		}
	}
	if jobs, err := g.db.Jobs.List(t.Context(), jobs.Filter{Limit: 1}); err != nil || len(jobs) > 0 {
		t.Errorf("jobs = %v, %v, want none", jobs, err)
	}
}

// Whatever clients send, the log has one JSON object a line and no secret
// (AU-08, R-29).
func TestLogInjection(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	g.publish("hello", tagged{tag: "v1", files: zon("hello", "1.0.0")})
	away := g.withoutPostgres()
	const forged = `{"level":"ERROR","msg":"forged"}`
	for _, on := range []*registry{g, away} {
		for _, path := range []string{
			"/%0d%0a" + forged, "/x%0a" + strings.ReplaceAll(forged, `"`, "%22"), "/%1b[31mred", "/%c2%9b31m", "/%e2%80%a8", "/p/%0a/tag/x",
			"/api/info/" + strings.Repeat("x", 30_000), "/?token=s3cret-query", "/api/list?access_token=s3cret-query", "/hello/info/refs?service=%0aforged",
			"/git/hello/info/refs?service=git-upload-pack&x=s3cret-query",
		} {
			on.raw("GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\nUser-Agent: a\tb\x1b[2J\xff\r\n\r\n")
			on.raw("GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\nUser-Agent: a\tb\xff" + forged + "\r\nX-Request-Id: \xff" + forged + "\r\nReferer: https://u:s3cret-referer@x/\r\n\r\n")
		}
		for _, id := range []string{"a\tb", forged, strings.Repeat("x", 65), "a b", "\xff", "../x"} {
			a := on.get("/healthz", "X-Request-Id", id)
			if got := a.Header.Get("X-Request-Id"); got == id || len(got) > 64 {
				t.Errorf("X-Request-Id %q was taken over", id)
			}
		}
		if got := on.get("/healthz", "X-Request-Id", "trace-1.A_b").Header.Get("X-Request-Id"); got != "trace-1.A_b" {
			t.Errorf("X-Request-Id %q, want the request's own", got)
		}
		on.post("/api/fetch", `{"url":"https://user:s3cret-url@git.example/o/r"}`)
		on.post("/api/fetch", `{"url":"https://user:s3cret-url@git.example:x/o/r","name":"`+"\\n"+`forged"}`)
		on.do(http.MethodPost, "/api/fetch", "{}", "Authorization", "Bearer s3cret-token")
		on.do("FOO\x60", "/%0a", "")
	}
	for _, on := range []*registry{g, away} {
		lines := 0
		for scan := bufio.NewScanner(strings.NewReader(on.log.String())); scan.Scan(); lines++ {
			var line struct{ Time, Level, Msg string }
			if err := json.Unmarshal(scan.Bytes(), &line); err != nil || line.Time == "" || line.Msg == "forged" {
				t.Errorf("line of the log: %v: %.300q", err, scan.Text())
			}
		}
		if lines < 20 {
			t.Errorf("%d lines in the log, want one for each request", lines)
		}
		for _, secret := range []string{"s3cret", token, "\x1b", "\r"} {
			if i := strings.Index(on.log.String(), secret); i >= 0 {
				t.Errorf("%q is in the log: %q", secret, fmt.Sprintf("%.200s", on.log.String()[max(0, i-100):]))
			}
		}
	}
}

// A page of another site cannot have a browser write here, also where writes
// need no token.
func TestCrossSiteWrites(t *testing.T) {
	t.Parallel()
	g := newRegistry(t, func(o *api.Options) { o.Token, o.Open, o.Cooldown = "", true, 0 })
	body := `{"url":"https://git.example/owner/xx"}`
	tests := []struct {
		name   string
		header []string
		status int
	}{
		{"no browser", nil, 202},
		{"the dashboard", []string{"Sec-Fetch-Site", "same-origin", "Origin", g.url}, 202},
		{"the dashboard in an old browser", []string{"Origin", g.url}, 202},
		{"typed by the user", []string{"Sec-Fetch-Site", "none"}, 202},
		{"another site", []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}, 403},
		{"another host of the site", []string{"Sec-Fetch-Site", "same-site", "Origin", "https://evil.example"}, 403},
		{"another site in an old browser", []string{"Origin", "https://evil.example"}, 403},
		{"a file", []string{"Origin", "null"}, 403},
	}
	for _, tt := range tests {
		for _, path := range []string{"/api/fetch", "/api/update"} {
			a := g.do(http.MethodPost, path, body, append(tt.header, "Content-Type", "text/plain")...)
			if a.StatusCode != tt.status {
				t.Errorf("%s %s: status %d, want %d: %s", path, tt.name, a.StatusCode, tt.status, a.body)
			}
		}
	}
}

// Pages of other origins read here if the settings say so, and never write.
func TestOrigins(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	g.publish("hello", tagged{tag: "v1.0.0", files: zon("hello", "1.0.0")})
	const app, other = "https://app.example.org", "https://other.example.org"
	open := g.serve(func(o *api.Options) { o.Origins = []string{app} })
	all := g.serve(func(o *api.Options) { o.Origins = []string{"*"} })
	for _, path := range []string{"/api/info/hello", "/p/hello/tag/v1.0.0.tar.gz", "/api/info/nope"} {
		for _, tt := range []struct {
			name   string
			on     *registry
			origin string
			want   string
		}{
			{"no setting", g, app, ""}, {"named", open, app, app}, {"another", open, other, ""}, {"all", all, other, "*"}, {"no origin", open, "", ""},
		} {
			a := tt.on.get(path, "Origin", tt.origin)
			if got := a.Header.Get("Access-Control-Allow-Origin"); got != tt.want || a.Header.Get("Access-Control-Allow-Credentials") != "" {
				t.Errorf("%s: %s is for %q, want %q", tt.name, path, got, tt.want)
			}
			if tt.want != "" && !strings.Contains(a.Header.Get("Access-Control-Expose-Headers"), "X-Packbase-Error") {
				t.Errorf("%s: %s shows no headers", tt.name, path)
			}
		}
	}
	preflight := func(on *registry, method string) *answer {
		return on.do(http.MethodOptions, "/api/info/hello", "", "Origin", app, "Access-Control-Request-Method", method, "Access-Control-Request-Headers", "authorization")
	}
	if a := preflight(open, "GET"); a.StatusCode >= 300 || a.Header.Get("Access-Control-Allow-Origin") != app || !strings.EqualFold(a.Header.Get("Access-Control-Allow-Headers"), "authorization") {
		t.Errorf("may a page read with a token: %d %v", a.StatusCode, a.Header)
	}
	if a := preflight(open, "POST"); a.Header.Get("Access-Control-Allow-Origin") != "" || a.Header.Get("Access-Control-Allow-Methods") != "" {
		t.Errorf("may a page write: %d %v", a.StatusCode, a.Header)
	}
	if a := preflight(g, "GET"); a.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("may a page read where no setting says so: %d", a.StatusCode)
	}
}
