package api_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/storage/jobs"
)

// posts are all paths that take JSON.
var posts = []string{"/api/fetch", "/api/check", "/api/review/hello"}

// Bodies are one JSON object and nothing else (HT-08). Unknown fields are
// refused, as a misspelled option must not be ignored.
func TestBodies(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	const bad, large = http.StatusBadRequest, http.StatusRequestEntityTooLarge
	url := `"url":"https://git.example/owner/xx"`
	tests := []struct {
		name   string
		body   string
		status int
	}{
		{"empty", "", bad},
		{"space", " \r\n\t", bad},
		{"not JSON", "<html>", bad},
		{"form", "url=https%3A%2F%2Fgit.example", bad},
		{"null", "null", bad},
		{"number", "1", bad},
		{"string", `"x"`, bad},
		{"array", "[]", bad},
		{"array of it", "[{" + url + "}]", bad},
		{"empty object", "{}", bad},
		{"wrong type", `{"url":1}`, bad},
		{"wrong type within", `{"url":{"url":"x"}}`, bad},
		{"list of it", `{"url":["https://git.example/owner/xx"]}`, bad},
		{"NaN", `{"url":NaN}`, bad},
		{"unknown field", "{" + url + `,"nmae":"y"}`, bad},
		{"null for nothing", "{" + url + `,"name":null}`, bad},
		{"key twice", "{" + url + "," + url + "}", bad},
		{"key twice in another case", "{" + url + `,"URL":"https://git.example/owner/y"}`, bad},
		{"unfinished", "{" + url, bad},
		{"comma at the end", "{" + url + ",}", bad},
		{"comment", "{" + url + "/* */}", bad},
		{"byte order mark", "\ufeff{" + url + "}", bad},
		{"UTF-16", "\xff\xfe{\x00}\x00", bad},
		{"not UTF-8", `{"url":"https://git.example/owner/` + "\xff" + `"}`, bad},
		{"second object", "{" + url + "}{" + url + "}", bad},
		{"trailing brace", "{" + url + "}}", bad},
		{"trailing bracket", "{" + url + "}]", bad},
		{"trailing word", "{" + url + "} x", bad},
		{"trailing NUL", "{" + url + "}\x00", bad},
		{"deep arrays", strings.Repeat("[", 60_000), bad},
		{"deep objects", strings.Repeat(`{"a":`, 12_000), bad},
		{"deep value", `{"url":` + strings.Repeat("[", 30_000) + strings.Repeat("]", 30_000) + "}", bad},
		{"10 MiB", `{"url":"` + strings.Repeat("x", 10<<20) + `"}`, large},
		{"10 MiB of space", strings.Repeat(" ", 10<<20) + "{" + url + "}", large},
		{"65,537 bytes", "{" + url + strings.Repeat(" ", 65_537-len(url)-2) + "}", large},
	}
	for _, tt := range tests {
		for _, path := range posts {
			if a := g.post(path, tt.body); a.StatusCode != tt.status {
				t.Errorf("%s %s: status %d, want %d: %.200s", path, tt.name, a.StatusCode, tt.status, a.body)
			} else if strings.Contains(string(a.body), "struct {") {
				t.Errorf("%s %s: speaks of Go: %s", path, tt.name, a.body)
			}
		}
	}
	if jobs, err := g.db.Jobs.List(t.Context(), jobs.Filter{Limit: 1}); err != nil || len(jobs) > 0 {
		t.Errorf("jobs = %v, %v, want none", jobs, err)
	}
	exact := "{" + url + strings.Repeat(" ", 65_536-len(url)-2) + "}"
	for _, body := range []string{exact, " {" + url + " } \n", `{"url":"https:\/\/git.example\/owner\/xx"}`} {
		if a := g.post("/api/fetch", body); a.StatusCode != http.StatusAccepted {
			t.Errorf("status %d, want 202: %.200s", a.StatusCode, a.body)
		}
	}
}

// Compressed bodies are for Git; a bomb is refused before it is unpacked
// (HT-06).
func TestCompressedBodies(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	g.publish("hello", tagged{tag: "v1", files: zon("hello", "1.0.0")})
	list := []byte(pkt("command=ls-refs") + "0000")
	bomb := gzippedZeros(t, 64<<20)
	broken := gzipped(list)
	broken[len(broken)-5] ^= 1 // in the CRC
	tests := []struct {
		name string
		body []byte
		git  []int // statuses that Git's clients may get
	}{
		{"64 MiB of zeros", bomb, []int{400, 413}},
		{"20 MiB of packets", gzipped([]byte(pkt("command=ls-refs") + "0001" + strings.Repeat(pkt("ref-prefix "+strings.Repeat("x", 60_000)), 350))), []int{413}},
		{"nested", gzipped(gzipped(list)), []int{400}},
		{"truncated", gzipped(list)[:len(gzipped(list))-9], []int{400}},
		{"wrong CRC", broken, []int{400}},
		{"no gzip", list, []int{400}},
		{"good", gzipped(list), []int{200}},
	}
	for _, tt := range tests {
		for _, path := range posts {
			a := g.post(path, string(tt.body), "Content-Encoding", "gzip")
			if a.StatusCode != http.StatusBadRequest && a.StatusCode != http.StatusRequestEntityTooLarge {
				t.Errorf("%s %s: status %d, want 400 or 413", path, tt.name, a.StatusCode)
			}
		}
		a := g.do(http.MethodPost, "/git/hello/git-upload-pack", string(tt.body),
			"Content-Encoding", "gzip", "Content-Type", "application/x-git-upload-pack-request", "Git-Protocol", "version=2")
		if !contains(tt.git, a.StatusCode) {
			t.Errorf("upload-pack %s: status %d, want one of %v: %.200s", tt.name, a.StatusCode, tt.git, a.body)
		}
	}
}

func contains(all []int, n int) bool {
	for _, x := range all {
		if x == n {
			return true
		}
	}
	return false
}

func gzippedZeros(t *testing.T, n int) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	zeros := make([]byte, 1<<20)
	for range n >> 20 {
		if _, err := z.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Text that Postgres cannot hold, or nobody should, never gets as far (DB-06).
func TestPoisonedText(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	g.publish("hello", tagged{tag: "v1", files: zon("hello", "1.0.0")})
	check := func(what string, a *answer, good ...int) {
		t.Helper()
		if !contains(append(good, 400, 404, 413, 431), a.StatusCode) {
			t.Errorf("%s: status %d, want 400, 404, 413 or 431: %.300s", what, a.StatusCode, a.body)
		}
	}
	long := strings.Repeat("x", 100_000) // more than bodies and headers may have
	// As JSON writes them, or as bytes.
	for _, text := range []string{`\u0000`, `a\u0000b`, "\x00", "\xff", "a\xffb", `\ud800`, `a\udfff`, `\ud800\ud800`, `\u001b[31m`, `\u202e`, `\r\nX: y`, `'; DROP TABLE jobs; --`, `\\`, long} {
		name := fmt.Sprintf("%.20q", text)
		check("name "+name, g.post("/api/fetch", `{"url":"https://git.example/owner/hello","name":"`+text+`"}`))
		check("url "+name, g.post("/api/fetch", `{"url":"`+text+`"}`))
		check("host "+name, g.post("/api/fetch", `{"url":"https://git`+text+`.example/owner/xx"}`))
		check("path "+name, g.post("/api/fetch", `{"url":"https://git.example/owner/x`+text+`"}`))
		check("fragment "+name, g.post("/api/fetch", `{"url":"https://git.example/owner/hello#x`+text+`"}`), 202)
		check("package "+name, g.post("/api/check", `{"package":"`+text+`"}`))
		check("decision "+name, g.post("/api/review/hello", `{"decision":"`+text+`"}`))
	}
	for _, text := range []string{"%00", "a%00b", "%ff", "%c0%80", "%ed%a0%80", "%1b%5b31m", "%0d%0aX:y", "%27%3B", "%ef%bf%bd", long} {
		name := fmt.Sprintf("%.20q", text)
		for _, path := range []string{"/api/info/", "/api/check/", "/api/jobs/", "/api/blobs/", "/p/hello/tag/", "/p/hello/commit/", "/p/hello/branch/", "/z/",
			"/", "/jobs/", "/assets/x/", "/git/hello/objects/"} {
			check("GET "+path+name, g.get(path+text))
			check("GET "+path+name+".tar.gz", g.get(path+text+".tar.gz"))
		}
		for _, path := range []string{"/git/" + text + "/info/refs?service=git-upload-pack", "/" + text + "/info/refs?service=git-upload-pack",
			"/git/hello/info/refs?service=" + text, "/p/" + text + "/tag/v1.tar.gz"} {
			check("GET "+fmt.Sprintf("%.40q", path), g.get(path), 403)
		}
		for _, query := range []string{"jobs?state=", "jobs?package=", "jobs?before=", "jobs?limit=", "search?q=", "search?q=a&limit=", "search?q=a&offset=",
			"changes?since=", "changes?limit=", "changes?wait="} {
			good := 400
			if strings.HasPrefix(query, "search?q=") {
				good = 200 // nothing but memory is searched
			}
			check("GET /api/"+query+name, g.get("/api/"+query+text), good)
		}
		for _, query := range []string{"packages?q=", "packages?sort=", "packages?filter=", "packages?language=", "packages?page=", "jobs?state=", "jobs?before="} {
			check("GET /"+query+name, g.get("/"+query+text, "Accept", "text/html"), 200)
		}
		check("POST /api/fetch?wait="+name, g.post("/api/fetch?wait="+text, `{"url":"https://git.example/owner/hello"}`))
		check("POST /api/update?wait="+name, g.post("/api/update?wait="+text, ""))
		check("POST /api/review/"+name, g.post("/api/review/"+text, `{"decision":"keep"}`))
		check("POST /api/jobs/"+name+"/retry", g.post("/api/jobs/"+text+"/retry", ""))
	}
	for _, name := range []string{"Prefer", "If-None-Match", "If-Range", "Range", "Accept", "Git-Protocol", "User-Agent", "X-Request-Id", "Content-Type", "Authorization"} {
		value := "wait=\xff\xfe;\x80"
		check("header "+name, g.post("/api/fetch", `{"url":""}`, name, value), 401, 403)
		check("header "+name, g.get("/p/hello/tag/v1.tar.gz", name, value), 200)
		check("header "+name, g.get("/git/hello/info/refs?service=git-upload-pack", name, value), 200)
	}
	a := g.post("/api/fetch", `{"url":"https://git.example/owner/hello"}`)
	if a.StatusCode != http.StatusAccepted {
		t.Errorf("afterwards: status %d, want 202: %s", a.StatusCode, a.body)
	}
}
