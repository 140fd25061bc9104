package api_test

import (
	"bytes"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/api/wire"
)

// A renamed package is shown under its new name, and every path that had its
// old one answers as before, on every api.
func TestRename(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	other := g.serve()
	rel := g.publish("owner.repo", tagged{tag: "v1.0.0", annotated: true, branch: "main", files: zon("repo", "1.0.0")})[0]
	g.publish("taken", tagged{tag: "v1.0.0", files: zon("taken", "1.0.0")})
	same := []string{"/p/NAME/tag/v1.0.0.tar.gz", "/p/NAME/tag/v1.0.0.json", "/p/NAME/commit/" + rel.CommitOID + ".tar.gz", "/p/NAME/branch/main.tar.gz",
		"/git/NAME/info/refs?service=git-upload-pack", "/NAME.git/info/refs?service=git-upload-pack"}
	was := map[string][]byte{}
	for _, path := range same {
		a := other.get(strings.ReplaceAll(path, "NAME", "owner.repo"))
		if a.StatusCode != http.StatusOK {
			t.Fatalf("before: %s: %d %s", path, a.StatusCode, a.body)
		}
		was[path] = a.body
	}
	if a := g.get("/p/repo/tag/v1.0.0.tar.gz"); a.StatusCode != http.StatusNotFound {
		t.Fatalf("before: %d", a.StatusCode)
	}
	if a := g.post("/api/rename", `{"package":"owner.repo","name":"Repo"}`); a.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	for _, on := range []*registry{g, other} {
		for _, name := range []string{"owner.repo", "Repo"} {
			for _, path := range same {
				a := on.get(strings.ReplaceAll(path, "NAME", name))
				if a.StatusCode != http.StatusOK || !bytes.Equal(a.body, was[path]) {
					t.Errorf("%s of %s: %d, %d bytes, want 200 and %d", path, name, a.StatusCode, len(a.body), len(was[path]))
				}
			}
			var info wire.Package
			on.get("/api/info/"+name).into(t, &info)
			if info.Package != "Repo" || !slices.Equal(info.Names, []string{"owner.repo", "Repo"}) || info.Tarballs[0].URL != "/p/Repo/tag/v1.0.0.tar.gz" {
				t.Errorf("info of %s: %s, %q, %s", name, info.Package, info.Names, info.Tarballs[0].URL)
			}
		}
		eventually(t, "the list has it", func() bool {
			var list wire.List
			on.get("/api/list").into(t, &list)
			return slices.Equal(list.Packages, []string{"Repo", "taken"})
		})
		for _, query := range []string{"repo", "owner.repo"} {
			var found wire.Found
			on.get("/api/search?q="+query).into(t, &found)
			if len(found.Results) != 1 || found.Results[0].Package != "Repo" {
				t.Errorf("search for %s finds %+v", query, found.Results)
			}
		}
		if a := on.get("/owner.repo?tag=v1.0.0", "Accept", "text/html"); a.StatusCode != http.StatusFound || a.Header.Get("Location") != "/Repo?tag=v1.0.0" {
			t.Errorf("the old page: %d to %q", a.StatusCode, a.Header.Get("Location"))
		}
		if a := on.get("/Repo", "Accept", "text/html"); a.StatusCode != http.StatusOK || !bytes.Contains(a.body, []byte(`<h1 class="title">Repo</h1>`)) {
			t.Errorf("the page: %d %.300s", a.StatusCode, a.body)
		}
	}
	for body, want := range map[string]string{
		`{"package":"taken","name":"OWNER.repo"}`: "name_conflict", `{"package":"Repo","name":"taken"}`: "name_conflict", `{"package":"taken","name":"git"}`: "invalid",
	} {
		if a := g.post("/api/rename", body); a.code() != want {
			t.Errorf("%s: %d %s, want %s", body, a.StatusCode, a.body, want)
		}
	}
	if a := g.post("/api/fetch", `{"url":"https://git.example/somebody/repo"}`); a.code() != "name_conflict" {
		t.Errorf("another upstream takes the new name: %d %s", a.StatusCode, a.body)
	}
}
