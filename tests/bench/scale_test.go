package bench

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/francescobianco/packbase/tests/harness"
)

// BenchmarkScale measures reads of a registry with 10,000 packages and 200,000
// releases, by one client and by 50 at once, with wrk on the same processors,
// and then those of a crowd and proofs. What net/http reaches that writes the
// same answer from memory is told beside, as in BenchmarkServe.
func BenchmarkScale(b *testing.B) {
	const packages = 10_000
	up := harness.NewUpstream(b)
	model := up.Repo("model")
	history(model, "v1.%d.0", 20, 25, 3)
	s := harness.Start(b, "PACKBASE_LOG=text,info")
	s.Fetch(model.URL)
	s.Worker.Stop() // it would prove all at once
	if err := Seed(b.Context(), s.DatabaseURL, "model", packages, 20); err != nil {
		b.Fatal(err)
	}
	s.Get("/api/status") // fills the directory
	alone := startBare(b)
	row := func(path, what, lua string, rounds int) {
		script := filepath.Join(b.TempDir(), "script.lua")
		if err := os.WriteFile(script, []byte(lua), 0o600); err != nil {
			b.Fatal(err)
		}
		alone.content = s.Get(path)
		ms := func(d time.Duration) float64 { return d.Seconds() * 1000 }
		result(what+": median", atMost(5, "ms"), ms(wrk(b, 1, s.URL+path, script).median), "")
		var ours, theirs, rates []float64
		for range rounds {
			many := wrk(b, 50, s.URL+path, script)
			ours, rates = append(ours, ms(many.p99)), append(rates, many.rate)
			theirs = append(theirs, ms(wrk(b, 50, alone.URL+path, script).p99))
		}
		result(what+": p99 at 50", atMost(20, "ms"), median(ours), "%.0f requests/s; net/http alone %.1f ms", median(rates), median(theirs))
	}
	const clap = "/api/info/clap-00042"
	row(clap, clap, "", 3)
	row(clap, "the same, any of 10,000 packages, for the first time", anyPackage, 1)
	for i := range packages { // as a stranger: what those with a token are told is kept apart
		resp, err := http.Get(s.URL + "/api/info/" + name(i))
		if err != nil {
			b.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	row(clap, "the same, any of 10,000 packages, asked for before", anyPackage, 3)
	for _, path := range []string{"/api/search?q=json", "/api/search?q=number+77", "/api/status"} {
		row(path, path, "", 3)
	} // 50 clients of one address may not have /api/list, of 328 KB, at once
	crowd(b, s, packages)
	s.Stop()
	hundredProofs(b, s)
}

// BenchmarkStart measures how long an api takes until it answers about a
// million releases, and what memory it has then.
func BenchmarkStart(b *testing.B) {
	s := harness.Start(b, "PACKBASE_LOG=text,info")
	s.Worker.Stop()
	if err := Seed(b.Context(), s.DatabaseURL, "", 50_000, 20); err != nil {
		b.Fatal(err)
	}
	var ready, status []time.Duration
	for range 3 {
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
	result("start with 1,000,000 releases", atMost(10, "s"), median(ready).Seconds(), "and a status after %.2f s", median(status).Seconds())
	result("the same: memory of api", atMost(1000, "MB"), float64(rss(b, s.API.PID()))/1_000_000, "")
}

// anyPackage has wrk ask for the descriptions of all packages, in no order.
const anyPackage = `
		local names = {[0] = "http", "json", "clap", "log", "raylib", "sqlite", "zap", "xev"}
		request = function()
			local i = math.random(0, 9999)
			return wrk.format("GET", string.format("/api/info/%s-%05d", names[i % 8], i))
		end`
