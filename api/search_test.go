package api_test

import (
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
