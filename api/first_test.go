package api_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/francescobianco/packbase/api"
	"github.com/francescobianco/packbase/storage/jobs"
)

// What clients and scripts of the first packbase read is there, with its
// types, beside what is newer.
func TestFirstPackbase(t *testing.T) {
	t.Parallel()
	g := newRegistry(t, func(o *api.Options) { o.Cooldown = time.Hour })
	rels := g.publish("hello", tagged{tag: "v1", files: zon("hello", "1.0.0")}, tagged{branch: "main", files: zon("hello", "2.0.0")})

	var info map[string]any
	g.get("/api/info/hello").into(t, &info)
	if v, ok := info["fetch_probe_error"]; !ok || v != nil {
		t.Errorf("fetch_probe_error %v, want null", v)
	}
	isRecent(t, "info", info, "updated_at_unix")

	for path, digest := range map[string]string{
		"/p/hello/tag/v1.manifest.json":   rels[0].ManifestDigest,
		"/p/hello/branch/main.json":       rels[1].ManifestDigest,
		"/p/hello/branch/main.tar.gz":     rels[1].Digest,
		"/p/hello/tag/v1.manifest.tar.gz": "",
		"/p/hello/tag/v2.manifest.json":   "",
		"/p/hello/branch/no.json":         "",
	} {
		a := g.get(path)
		if digest == "" {
			if a.StatusCode != http.StatusNotFound {
				t.Errorf("%s: status %d, want 404", path, a.StatusCode)
			}
		} else if a.Header.Get("ETag") != `"`+digest+`"` || a.Header.Get("Cache-Control") != "no-cache" {
			t.Errorf("%s: ETag %s, Cache-Control %q; want %s, no-cache", path, a.Header.Get("ETag"), a.Header.Get("Cache-Control"), digest)
		}
	}
	// A tag of that name is what its path names.
	odd := g.publish("odd", tagged{tag: "v1", files: zon("odd", "1.0.0")}, tagged{tag: "v1.manifest", files: zon("odd", "2.0.0")})
	if a := g.get("/p/odd/tag/v1.manifest.json"); a.Header.Get("ETag") != `"`+odd[1].ManifestDigest+`"` {
		t.Error("v1.manifest.json is not the manifest of the tag v1.manifest")
	}

	var queued struct{ Docs string }
	g.do(http.MethodPost, "/api/fetch", `{"url":"git+https://git.example/owner/other"}`, "Authorization", "Bearer "+token).into(t, &queued)
	if queued.Docs == "" {
		t.Error("a fetch that is queued does not say how to wait")
	}

	update := func() map[string]any {
		var body struct{ Update map[string]any }
		g.get("/api/status").into(t, &body)
		return body.Update
	}
	for name, want := range map[string]any{"started_at_unix": 0.0, "updated_at_unix": 0.0, "default_seeded": false, "retry_after": 0.0, "queued": false} {
		if got := update()[name]; got != want {
			t.Errorf("before the first update: %s %v, want %v", name, got, want)
		}
	}
	g.do(http.MethodPost, "/api/update", "")
	job, err := g.db.Jobs.OpenUpdate(t.Context())
	g.must(err)
	c, err := g.db.Jobs.Claim(t.Context(), job.ID, "tests", time.Minute)
	g.must(err)
	g.must(g.db.Jobs.StartRun(t.Context(), c))
	g.do(http.MethodPost, "/api/update", "") // queued behind it
	u := update()
	isRecent(t, "update", u, "started_at_unix")
	isRecent(t, "update", u, "updated_at_unix")
	if after, _ := u["retry_after"].(float64); u["queued"] != true || after < 3000 || after > 3600 {
		t.Errorf("queued %v, retry_after %v; want true, about an hour", u["queued"], u["retry_after"])
	}
	g.must(g.db.Jobs.ParkRun(t.Context(), c, jobs.Counters{}))
	g.must(g.db.Jobs.CloseRuns(t.Context()))
}

// isRecent checks that a field is a number of seconds since 1970.
func isRecent(t *testing.T, of string, body map[string]any, field string) {
	t.Helper()
	n, ok := body[field].(float64)
	if ago := time.Since(time.Unix(int64(n), 0)); !ok || ago < -time.Minute || ago > time.Hour {
		t.Errorf("%s: %s is %v, want seconds since 1970", of, field, body[field])
	}
}
