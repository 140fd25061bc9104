package api_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/url"
	"testing"

	"github.com/francescobianco/packbase/api/wire"
)

// Packages are found by the name and the fingerprint of their build.zig.zon, by those who may see them; pages follow each other.
func TestSearchByZigName(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	for _, pkg := range []string{"zig-clap", "copy.of.zig-clap", "other", "secret"} {
		zigName := "clap"
		if pkg == "other" {
			zigName = "other"
		}
		g.publish(pkg, tagged{tag: "v1.0.0", files: zon(zigName, "1.0.0")}, tagged{tag: "v1.1.0", files: zon(zigName, "1.1.0")})
	}
	if a := g.post("/api/visibility/secret", `{"visibility":"private"}`); a.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	var info wire.Package
	g.get("/api/info/zig-clap").into(t, &info)
	print := info.Tarballs[0].Zig.Fingerprint
	search := func(query string, header ...string) (names []string, pages int) {
		t.Helper()
		for next := "/api/search?" + query; next != ""; pages++ {
			var found wire.Found
			g.get(next, header...).into(t, &found)
			for _, m := range found.Results {
				names = append(names, m.Package)
			}
			if next = found.Next; pages > 10 {
				t.Fatalf("%s: more than ten pages", query)
			}
		}
		return names, pages
	}
	for query, want := range map[string]int{
		"zig_name=clap": 2, "zig_name=cla": 0, "zig_name=CLAP": 0, "zig_name=clap&q=copy": 1, "zig_name=other": 1, "q=clap": 2,
		"fingerprint=" + print: 2, "fingerprint=0x1": 0, "zig_name=other&fingerprint=" + print: 0, "zig_name=clap&fingerprint=" + print: 2,
		"zig_name=" + url.QueryEscape("' OR ''='"): 0,
	} {
		if names, pages := search(query); len(names) != want || pages != 1 {
			t.Errorf("%s finds %q on %d pages, want %d", query, names, pages, want)
		}
	}
	if names, _ := search("zig_name=clap", "Authorization", "Bearer "+token); len(names) != 3 {
		t.Errorf("with a token: %q, want the private one, too", names)
	}
	if names, pages := search("zig_name=clap&limit=1"); len(names) != 2 || pages != 2 || names[0] == names[1] {
		t.Errorf("one a page: %q on %d pages", names, pages)
	}
	for _, bad := range []string{"", "q=", "zig_name=%00", "fingerprint=1", "fingerprint=0x", "fingerprint=0x11112222333344445"} {
		if a := g.get("/api/search?" + bad); a.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d %s", bad, a.StatusCode, a.body)
		}
	}
}

// What can be large is sent compressed to who takes that, and not again to who has it.
func TestLargeAnswersAreSentOnce(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	g.publish("hello", tagged{tag: "v1.0.0", files: zon("hello", "1.0.0")}, tagged{tag: "v1.1.0", files: zon("hello", "1.1.0")})
	for _, path := range []string{"/api/info/hello", "/api/check/hello", "/api/versions/hello", "/api/dependents/hello",
		"/api/list", "/api/search?q=hello", "/api/jobs", "/api/trees"} {
		whole := g.get(path)
		tag := whole.Header.Get("ETag")
		if whole.StatusCode != http.StatusOK || tag == "" || whole.Header.Get("Content-Encoding") != "" || whole.Header.Get("Cache-Control") != "no-cache" {
			t.Errorf("%s: %d, %v", path, whole.StatusCode, whole.Header)
		}
		if again := g.get(path, "If-None-Match", tag); again.StatusCode != http.StatusNotModified || len(again.body) != 0 {
			t.Errorf("%s again: %d, %d bytes, want 304 and none", path, again.StatusCode, len(again.body))
		}
		if other := g.get(path, "If-None-Match", `W/"other"`); other.StatusCode != http.StatusOK || !bytes.Equal(other.body, whole.body) {
			t.Errorf("%s with another tag: %d", path, other.StatusCode)
		}
	}
	whole := g.get("/api/info/hello")
	small := g.get("/api/info/hello", "Accept-Encoding", "gzip")
	if small.Header.Get("Content-Encoding") != "gzip" || len(small.body) >= len(whole.body)*2/3 {
		t.Fatalf("%v, %d bytes of %d", small.Header, len(small.body), len(whole.body))
	}
	zr, err := gzip.NewReader(bytes.NewReader(small.body))
	if err != nil {
		t.Fatal(err)
	}
	if raw, err := io.ReadAll(zr); err != nil || !bytes.Equal(raw, whole.body) {
		t.Errorf("unpacked it is %d bytes, %v, want %d", len(raw), err, len(whole.body))
	}
	g.publish("hello", tagged{tag: "v1.2.0", files: zon("hello", "1.2.0")})
	if a := g.get("/api/info/hello", "If-None-Match", whole.Header.Get("ETag")); a.StatusCode != http.StatusOK {
		t.Errorf("after a change: %d, want 200", a.StatusCode)
	}
	if a := g.get("/api/info/nope"); a.Header.Get("ETag") != "" || a.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("an error: %v", a.Header)
	}
}
