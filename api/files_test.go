package api_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/api/wire"
)

const png = "\x89PNG\r\n\x1a\n\x00 <script>alert(1)</script>"

// What a build.zig offers and who refuses a build.zig.zon is on the page, and in info.
func TestBuildFacts(t *testing.T) {
	t.Parallel()
	s := newPageSite(t)
	f := zon("hello", "1.0.0")
	f["build.zig"] = `pub fn build(b: *std.Build) void {
		const target = b.standardTargetOptions(.{});
		_ = b.addModule("internals", .{}); _ = b.addModule("hello", .{ .target = target });
		_ = b.option(bool, "tls", "Speak <b>TLS</b>");
	}`
	s.publish("hello", tagged{tag: "v1.0.0", files: f}, tagged{tag: "v1.1.0", files: files{"build.zig.zon": `.{ .name = "hello", .version = "1.1.0", .paths = .{""} }`}})

	page := s.page("/hello?tag=v1.0.0", http.StatusOK)
	s.wantIn(page, `exe.root_module.addImport(&#34;hello&#34;, b.dependency(&#34;hello&#34;, .{`+"\n    .target = target,\n"+`}).module(&#34;hello&#34;));`,
		"<code>internals</code>", "Speak &lt;b&gt;TLS&lt;/b&gt;", "1\u00a0build option<", "<b>0.12, 0.13</b> <bdi>build.zig.zon:1:12: expected string literal</bdi>")
	page = s.page("/hello", http.StatusOK)
	s.wantIn(page, "<b>0.16, 0.17</b> <bdi>build.zig.zon:1:12: expected enum literal</bdi>")
	for _, not := range []string{"addImport", "build option", "Modules"} {
		if strings.Contains(page, not) {
			t.Errorf("a page without build.zig has %q", not)
		}
	}

	var info wire.Package
	s.must(json.Unmarshal(s.get("/api/info/hello").body, &info))
	if b := info.Build; b == nil || b.Tag != "v1.1.0" || len(b.Modules) != 0 || b.Refused["0.17"] != "1:12: expected enum literal" || b.Refused["0.13"] != "" {
		t.Errorf("info has %+v of the latest release", b)
	}
	s.publish("hello", tagged{tag: "v1.2.0", files: f})
	info = wire.Package{}
	s.must(json.Unmarshal(s.get("/api/info/hello").body, &info))
	if b := info.Build; b == nil || b.Tag != "v1.2.0" || len(b.Modules) != 2 || !strings.Contains(b.Modules[1].Import, `.module("hello")`) || len(b.Options) != 1 || b.Options[0].Name != "tls" {
		t.Errorf("info has %+v of the latest release", b)
	}
}

// What a release depends on leads to what is here of it.
func TestDependenciesAreLinked(t *testing.T) {
	t.Parallel()
	s := newPageSite(t)
	dep := s.publish("dep", tagged{tag: "v1.0.0", files: zon("dep", "1.0.0")})[0]
	s.pkg("far", "On a forge", "v9")
	f := zon("hello", "1.0.0")
	f["build.zig.zon"] = strings.Replace(f["build.zig.zon"], ".paths", `.dependencies = .{
		.dep = .{ .url = "https://example.org/dep.tar.gz", .hash = "`+dep.Zig.Hash+`" },
		.far = .{ .url = "git+https://github.com/owner/far#0123456789012345678901234567890123456789", .hash = "far-1.0.0-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" },
		.none = .{ .url = "https://example.org/none.tar.gz", .hash = "none-1.0.0-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" },
		.beside = .{ .path = "beside" } }, .paths`, 1)
	s.publish("hello", tagged{tag: "v2.0.0", files: f})
	s.exec(`UPDATE packages SET moved_count = 1 WHERE name = 'hello'`)
	s.exec(`INSERT INTO moved_tags (package, tag, old_oid, new_oid) VALUES ('hello', 'v2.0.0', $1, $2)`, strings.Repeat("1", 40), strings.Repeat("2", 40))
	page := s.page("/hello", http.StatusOK)
	s.wantIn(page, `<a href="/dep?tag=v1.0.0"><bdi>dep v1.0.0</bdi></a>`, `<a href="/far"><bdi>far, not this release</bdi></a>`,
		`none</bdi> <span class="soft">not here</span>`, `beside</bdi> <bdi class="soft from">beside`,
		"Upstream moved this tag.", "The tag is not the version.", `<a class="state warn" href="#moved">moved</a></td>`)
}

// A release can be looked at: its README, its files, and what changed in it.
func TestFilesPages(t *testing.T) {
	t.Parallel()
	s := newPageSite(t)
	first := files{
		"README.md":     "# Hello\n\n![logo](docs/logo.png) [guide](docs/guide.md#use) <script>alert(2)</script>\n",
		"docs/logo.png": png, "docs/guide.md": "# Use\n\n[back](../README.md)\n", "src/a.zig": "const a = \"<b>\";\n",
		"src/same/x.zig": "x", "src/\u202egiz.b": "if (\u2067admin) // \x1b[2J\tyes\r\n", "bin": "\x00\x01", "old.zig": "old", "page.html": "<script>alert(3)</script>",
		"long": strings.Repeat("a", 600<<10), "longer": strings.Repeat("a", 4<<20+1), "long.md": strings.Repeat("# a\n\nb\n", 20<<10),
	}
	second := files{}
	for name, text := range first {
		second[name] = text
	}
	delete(second, "old.zig")
	second["src/a.zig"], second["new/b.zig"] = "const a = 2;\n", "b"
	s.publish("hello", tagged{tag: "v1.0.0", files: first}, tagged{tag: "v1.1.0", files: second})

	some := zon("some", "1.0.0")
	some["build.zig.zon"] = strings.Replace(some["build.zig.zon"], `.paths = .{""}`, `.paths = .{ "build.zig.zon", "src" }`, 1)
	some["src/a.zig"], some["docs/a.md"], some["src/gone.zig"] = "a", "a", "a"
	other := maps.Clone(some)
	other["src/a.zig"], other["docs/a.md"] = "b", "b"
	delete(other, "src/gone.zig")
	s.publish("some", tagged{tag: "v1.0.0", files: some}, tagged{tag: "v1.0.1", files: other})
	docs := maps.Clone(other)
	docs["docs/a.md"] = "c"
	s.publish("some", tagged{tag: "v1.0.2", files: docs})

	at := func(p string) string { return "/hello/files?path=" + url.QueryEscape(p) + "&tag=v1.0.0" }
	for path, want := range map[string][]string{
		"/hello":                  {`<h3 id="doc-hello">Hello</h3>`, `href="/hello/files?tag=v1.1.0"`, `href="/hello/diff?tag=v1.1.0"`, `src="/hello/files?path=docs%2Flogo.png&amp;raw=1&amp;tag=v1.1.0"`},
		"/hello?tag=v1.0.0":       {`href="/hello/files?path=docs%2Fguide.md&amp;tag=v1.0.0#doc-use"`},
		"/hello/files?tag=v1.0.0": {"old.zig", `href="/hello/files?path=docs&amp;tag=v1.0.0"`, ">folder<", "Hello</h3>"},
		"/hello/files":            {"new/", "page.html"},
		at("docs"):                {"logo.png", "guide.md"},
		at("docs/guide.md"):       {"Use</h3>", `href="/hello/files?path=README.md&amp;tag=v1.0.0"`},
		at("src/a.zig"):           {"const a = &#34;&lt;b&gt;&#34;;"},
		at("src"):                 {"src%2F%E2%80%AEgiz.b&amp;", "\uFFFDgiz.b<"},
		at("src/\u202egiz.b"):     {"if (\uFFFDadmin) // \uFFFD[2J\tyes"},
		at("page.html"):           {"&lt;script&gt;alert(3)&lt;/script&gt;"},
		at("bin"):                 {"It is no text."},
		at("long.md"):             {`<pre class="file"`}, // Markdown takes time
		at("long"):                {"too large to be shown"},
		at("docs/logo.png"):       {`<img class="shown"`},
		"/hello/diff":             {"3\u00a0files differ", "old.zig", "removed", "new/b.zig", "added", "src/a.zig", "changed"},
		"/some/diff?tag=v1.0.1": {"2 in the Zig hash", `docs/a.md</bdi></td><td>changed</td><td><span class="soft">not in the hash`, `src/a.zig</bdi></td><td>changed</td><td>in the hash`,
			`src/gone.zig</bdi></td><td>removed</td><td>in the hash`},
		"/some/diff":                         {"none in the Zig hash"},
		"/hello/diff?tag=v1.0.0&from=v1.1.0": {"3\u00a0files differ", "new/b.zig", "removed"},
		"/hello/diff?tag=v1.0.0&from=v1.0.0": {"No file differs"},
	} {
		page := s.page(path, http.StatusOK)
		s.wantIn(page, want...)
		if strings.Contains(page, "<script>alert") || strings.Contains(page, "same/x") || strings.Contains(page, "packbase {") {
			t.Errorf("GET %s: the page has a script of upstream, a folder that is equal, or a release for packbase's own", path)
		}
	}
	for _, path := range []string{at("nope"), at("src/nope"), at("../hello"), at("src//a.zig"), at("src/./a.zig"), at("src/a.zig/x"), at("README.md/" + strings.Repeat("x/", 5000)),
		"/hello/files?tag=v9", "/nope/files", "/hello/diff?tag=v1.0.0", "/hello/diff?from=v9", "/nope/diff", at("src") + "&raw=1", at("longer") + "&raw=1", at("") + "&raw=1"} {
		s.page(path, http.StatusNotFound)
	}
	for p, kind := range map[string]string{"docs/logo.png": "image/png", "page.html": "text/plain; charset=utf-8", "bin": "application/octet-stream", "long": "text/plain; charset=utf-8"} {
		for _, path := range []string{at(p) + "&raw=1", at(p)} {
			accept := browser
			if path == at(p) {
				accept = "*/*"
			}
			a := s.ask(path, accept)
			if a.StatusCode != http.StatusOK || string(a.body) != first[p] || a.Header.Get("Content-Type") != kind {
				t.Errorf("GET %s: %d %s, %d bytes; want %s and the file", path, a.StatusCode, a.Header.Get("Content-Type"), len(a.body), kind)
			}
			if csp := a.Header.Get("Content-Security-Policy"); !strings.HasSuffix(csp, "sandbox") || a.Header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("GET %s: a file could be a page of ours: %q", path, csp)
			}
		}
	}
	s.exec(`UPDATE packages SET private = true`)
	again := s.again()
	for _, path := range []string{"/hello/files", "/hello/diff", at("bin") + "&raw=1"} {
		again.page(path, http.StatusNotFound)
		if a := again.ask(path, browser, "Authorization", "Bearer "+token); a.StatusCode != http.StatusOK || !strings.Contains(a.Header.Get("Cache-Control"), "no-store") && !strings.Contains(a.Header.Get("Cache-Control"), "private") {
			t.Errorf("GET %s with a token: %d, %q", path, a.StatusCode, a.Header.Get("Cache-Control"))
		}
	}
}
