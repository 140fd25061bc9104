package api_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"
)

// published returns a registry with the package hello, and one path of every
// route that answers GET.
func published(t *testing.T) (*registry, []string) {
	t.Helper()
	g := newRegistry(t)
	rels := g.publish("hello", tagged{tag: "v1.0.0", files: zon("hello", "1.0.0")}, tagged{tag: "a/b", files: zon("hello", "1.1.0")},
		tagged{branch: "main", files: zon("hello", "1.2.0")})
	jobs := g.get("/api/jobs")
	var list struct{ Jobs []struct{ ID string } }
	jobs.into(t, &list)
	id := list.Jobs[0].ID
	return g, []string{
		"/", "/healthz", "/readyz", "/robots.txt", "/feed.atom", "/packages", "/jobs", "/jobs/" + id, "/hello", "/hello.atom", "/hello.svg",
		"/api/openapi.yaml", "/api/jobs", "/api/jobs/" + id, "/api/jobs/" + id + "/events", "/api/list", "/api/status", "/api/changes",
		"/api/info/hello", "/api/check/hello", "/api/search?q=hello", "/api/blobs/" + rels[0].Digest,
		"/p/hello/tag/v1.0.0.tar.gz", "/p/hello/tag/a/b.json", "/p/hello/commit/" + rels[0].CommitOID + ".json", "/p/hello/branch/main.tar.gz",
		"/z/" + rels[0].ZigHash + ".tar.gz", "/git/hello/info/refs?service=git-upload-pack", "/hello.git/info/refs?service=git-upload-pack",
	}
}

// Each resource has one spelling (HT-01, R-23): whatever else a path could
// mean to a proxy, to a cache or to a disk is refused.
func TestPathForms(t *testing.T) {
	t.Parallel()
	g, paths := published(t)
	for _, target := range paths {
		path, query, _ := strings.Cut(target, "?")
		if query != "" {
			query = "?" + query
		}
		if got := statusOf(g.raw(requestLine("GET", target))); got != http.StatusOK {
			t.Errorf("GET %s: status %d, want 200", target, got)
		}
		last := path[len(path)-1:]
		cut := path[:len(path)-1]
		dir, base := path[:strings.LastIndex(path, "/")], path[strings.LastIndex(path, "/"):]
		forms := []string{
			"/" + path, path + "/.", path + "/..", path + "//", "/." + path, "/x/.." + path, "/%2e" + path, "/%2E%2E" + path, "/%2e%2e%2f.." + path,
			path + "%00", path + "%0a", path + "%0d%0aX:%20y", path + "%7f", path + "%ff", path + "%c0%ae", path + "%ed%a0%80", path + "%E2%80%AE",
			path + "%2f", path + "%5c", path + `\`, path + ";a=b", path + "#x", path + "%23", path + "%", path + "%zz", path + "\x80", path + "é", path + " ",
			dir + "%2f" + base[1:], dir + "/%2f" + base[1:], dir + "%5c" + base[1:], dir + "/%2e%2e" + base, dir + "/x/.." + base,
			strings.Repeat("/..", 20) + "/etc/passwd", "/%2F%2F%2F..%2F..%2Fetc%2Fpasswd",
		}
		if path != "/" {
			forms = append(forms, fmt.Sprintf("%s%%%02x", cut, last), fmt.Sprintf("%s%%25%02x", cut, last), path+"/", path+"+")
		}
		for _, form := range forms {
			switch got := statusOf(g.raw(requestLine("GET", form+query))); got {
			case http.StatusBadRequest, http.StatusNotFound:
			default:
				t.Errorf("GET %q: status %d, want 400 or 404", form, got)
			}
		}
	}
	// Absolute form, RFC 9112, section 3.2.2: of ours, and of another's.
	for target, want := range map[string]int{g.url + "/p/hello/tag/v1.0.0.tar.gz": http.StatusOK, "http://elsewhere.example/p/hello/tag/v1.0.0.tar.gz": http.StatusNotFound} {
		if got := statusOf(g.raw(requestLine("GET", target))); got != want {
			t.Errorf("GET %s: status %d, want %d", target, got, want)
		}
	}
}

func requestLine(method, target string) string {
	return method + " " + target + " HTTP/1.1\r\nHost: packbase.example\r\nConnection: close\r\n\r\n"
}

// Every route refuses every method but its own, with what it takes (HT-09).
func TestMethods(t *testing.T) {
	t.Parallel()
	g, _ := published(t)
	routes := map[string][]string{} // methods by path
	for _, route := range routesOf(t, g.server.Handler()) {
		method, pattern, _ := strings.Cut(route, " ")
		path := strings.NewReplacer("{package}", "hello", "{repo}", "hello", "{id}", uuid.NewString(), "{name}", "ci", "{file}", "x.tar.gz",
			"{digest}", "0", "{hash}", "0", "*", "x.tar.gz").Replace(pattern)
		routes[path] = append(routes[path], method)
	}
	methods := []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY", "PROPFIND", "get", "Post", "X"}
	for path, takes := range routes {
		if slices.Contains(takes, "GET") {
			takes = append(takes, "HEAD")
		}
		all := strings.HasSuffix(path, "/git-receive-pack") // it takes all, and refuses all
		for _, method := range methods {
			if slices.Contains(takes, method) && !all || method == http.MethodConnect { // which has no path
				continue
			}
			got := g.raw(requestLine(method, path))
			want := http.StatusMethodNotAllowed
			if all && slices.Contains(takes, method) {
				want = http.StatusForbidden
			}
			if statusOf(got) != want {
				t.Errorf("%s %s: %.40q, want %d", method, path, got, want)
			}
			if want != http.StatusMethodNotAllowed || all {
				continue
			}
			slices.Sort(takes)
			if allow := headerOf(got, "Allow"); allow != strings.Join(takes, ", ") {
				t.Errorf("%s %s: Allow %q, want %q", method, path, allow, takes)
			}
		}
	}
	if got := g.raw("CONNECT git.example:443 HTTP/1.1\r\nHost: git.example:443\r\n\r\n"); statusOf(got) != http.StatusMethodNotAllowed || headerOf(got, "Content-Length") != "0" {
		t.Errorf("CONNECT: %q, want 405 without a body, after which Zig goes on", got)
	}
	for _, method := range slices.DeleteFunc(methods, func(m string) bool { return m == http.MethodConnect }) {
		for _, path := range []string{"/api/nope", "/p/hello", "/x/y/z", "/.git/config", "/metrics/x", "/debug/pprof/"} {
			if got := g.raw(requestLine(method, path)); statusOf(got) != http.StatusNotFound {
				t.Errorf("%s %s: %.40q, want 404", method, path, got)
			}
		}
	}
}

// headerOf returns a header of the first answer in what raw returned.
func headerOf(answers, name string) string {
	head, _, _ := strings.Cut(answers, "\r\n\r\n")
	for line := range strings.SplitSeq(head, "\r\n") {
		if key, value, ok := strings.Cut(line, ": "); ok && strings.EqualFold(key, name) {
			return value
		}
	}
	return ""
}

// Nothing is routed twice: a path that one route takes is not also another's.
func TestRoutesAreApart(t *testing.T) {
	t.Parallel()
	g, paths := published(t)
	routes := g.server.Handler().(chi.Routes)
	seen := map[string]string{}
	for _, target := range paths {
		path, _, _ := strings.Cut(target, "?")
		pattern := patternOf(t, routes, http.MethodGet, path)
		if other, ok := seen[pattern]; ok && pattern != "/{repo}" && pattern != "/p/{package}/tag/*" {
			t.Errorf("%s and %s are both %s", path, other, pattern)
		}
		seen[pattern] = path
	}
}
