package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/francescobianco/packbase/tests/harness"
)

// BenchmarkScale measures reads of a registry with 10,000 packages and 200,000
// releases, by one client and by 50 at once, with wrk on the same processors.
func BenchmarkScale(b *testing.B) {
	s := harness.Start(b, "PACKBASE_LOG=text,info")
	s.Worker.Stop() // it would find that there are no blobs
	if err := Seed(b.Context(), s.DatabaseURL, 10_000, 20); err != nil {
		b.Fatal(err)
	}
	s.Get("/api/status") // fills the directory
	fmt.Fprintf(os.Stderr, "%-40s %10s %10s %10s\n", "10,000 packages, 200,000 releases", "median", "p99 at 50", "goal")
	row := func(path, what, goal, lua string) {
		script := filepath.Join(b.TempDir(), "script.lua")
		if err := os.WriteFile(script, []byte(lua), 0o600); err != nil {
			b.Fatal(err)
		}
		one, many := wrk(b, 1, s.URL+path, script), wrk(b, 50, s.URL+path, script)
		fmt.Fprintf(os.Stderr, "%-40s %10s %10s %10s\n", what, one.median, many.p99, goal)
	}
	const goal = "5ms, 20ms"
	const clap = "/api/info/clap-00042"
	row(clap, clap, goal, "")
	row(clap, "the same, any of the 10,000", goal, anyPackage)
	for _, path := range []string{"/api/search?q=json", "/api/search?q=number+77", "/api/status"} {
		row(path, path, goal, "")
	}
	row("/api/jobs?limit=50", "/api/jobs?limit=50", "", "") // 50 clients of one address may not have /api/list, of 328 KB, at once
	for _, path := range []string{"/", "/packages?q=clap", "/clap-00042"} {
		row(path, "page "+path, "", `wrk.headers["Accept"] = "text/html"`)
	}
}

// BenchmarkStart measures how long an api takes until it answers about a
// million releases, and what memory it has then.
func BenchmarkStart(b *testing.B) {
	s := harness.Start(b, "PACKBASE_LOG=text,info")
	s.Worker.Stop()
	if err := Seed(b.Context(), s.DatabaseURL, 50_000, 20); err != nil {
		b.Fatal(err)
	}
	var ready, status []time.Duration
	for range 5 {
		s.API.Stop()
		began := time.Now()
		s.API.Start()
		s.AwaitAPI()
		ready = append(ready, time.Since(began))
		s.Get("/api/status")
		status = append(status, time.Since(began))
	}
	s.Get("/api/list")
	s.Get("/api/search?q=json")
	fmt.Fprintf(os.Stderr, "50,000 packages, 1,000,000 releases: ready after %v, with a status after %v (goal 10s); %d MB then (goal 1,000)\n",
		median(ready).Round(time.Millisecond), median(status).Round(time.Millisecond), rss(b, s.API.PID())/1_000_000)
}

// anyPackage has wrk ask for the descriptions of all packages, in no order.
const anyPackage = `
		local names = {[0] = "http", "json", "clap", "log", "raylib", "sqlite", "zap", "xev"}
		request = function()
			local i = math.random(0, 9999)
			return wrk.format("GET", string.format("/api/info/%s-%05d", names[i % 8], i))
		end`
