package pages

import (
	"strings"
	"testing"
	"time"
)

var here = place{dir: "docs", page: func(p string) string { return "/pkg/files?path=" + p }, raw: func(p string) string { return "/pkg/raw?path=" + p }}

// What a README may do on a page: text, links to what is beside it, images of
// the release; no script, no style, nothing from elsewhere.
func TestRenderDocument(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ text, want string }{
		{"# One\n\ntwo *three*", "<h3 id=\"doc-one\">One</h3>\n<p>two <em>three</em></p>"},
		{"[a](b.md#C) [d](/e) [f](../g) [h](#one)", `<a href="/pkg/files?path=docs/b.md#doc-C"`},
		{"[d](/e)", `<a href="/pkg/files?path=e"`},
		{"[f](../g)", `<a href="/pkg/files?path=g"`},
		{"[f](../../../g)", `<a href="/pkg/files?path=g"`},
		{"[h](#one)", `<a href="#doc-one"`},
		{"[x](https://example.org/y)", `<a href="https://example.org/y" rel="nofollow"`},
		{"![logo](img/logo.png)", `<img src="/pkg/raw?path=docs/img/logo.png" alt="logo"`},
		{"[![CI](https://example.org/ci.svg)](https://example.org/ci)", `rel="nofollow">CI</a>`},
		{`<img src="https://example.org/t.gif">`, ""},
		{`<img src="//example.org/t.gif" alt="t">`, "t"},
		{"<p align=\"center\"><b>x</b></p>", `<p align="center"><b>x</b></p>`},
		{"| a |\n| - |\n| b |", "<td>b</td>"},
		{"- [x] done\n- [ ] open", "<li>☑ done</li>\n<li>☐ open</li>"},
		{"<script>alert(1)</script>x", "x"},
		{"[x](javascript:alert(1))", "x"},
		{"[x](data:text/html,y)", "x"},
		{`<a href="x" onclick="y" style="z" class="w">l</a>`, `<a href="/pkg/files?path=docs/x" rel="nofollow">l</a>`},
		{`<form action="/api/fetch"><button>b</button></form>`, "b"},
		{`<iframe src="/"></iframe><object data="/"></object><svg onload="x"></svg><style>*{}</style>`, ""},
		{"&lt;script&gt; `<script>`", "&lt;script&gt; <code>&lt;script&gt;</code>"},
		{"\xff<b>", "\uFFFD"},
	} {
		got := string(renderDocument("README.md", []byte(tt.text), here))
		if !strings.Contains(got, tt.want) {
			t.Errorf("%q is shown as\n%s\nwant %s", tt.text, got, tt.want)
		}
		for _, bad := range []string{"<script", "onclick", "onload", "style=", "<style", "<form", "<button", "<iframe", "<object", "<svg", "javascript:", "data:", `src="http`, `src="//`, "class="} {
			if strings.Contains(got, bad) {
				t.Errorf("%q is shown with %s:\n%s", tt.text, bad, got)
			}
		}
	}
	if got := renderDocument("README", []byte("# <b>"), here); got != "<pre># &lt;b&gt;</pre>" {
		t.Errorf("a text is shown as %s", got)
	}
}

// No text keeps a page from being shown for long: all of it is denser than
// people write, or quick.
func TestRenderDocumentBound(t *testing.T) {
	t.Parallel()
	for _, part := range []string{"[", "[]", "*a_", "> ", "> - ", "- ", "`a", "[a](", "<a", "![", "|a", "<div>", "&#", "~a~~", "[a]: <b\n", "1. ", "a\n", "(", "\\", "|-", "<!--", "[^a]", "- [ ] "} {
		paragraph := strings.Repeat(part, maxMarks) + "\n\n"
		text := []byte(strings.Repeat(paragraph, max(1, maxDocument/len(paragraph))))
		began := time.Now()
		renderDocument("README.md", text[:min(len(text), maxDocument)], here)
		if took := time.Since(began); took > time.Minute {
			t.Errorf("%q: %v", part, took)
		}
	}
	quotes := strings.Repeat(">", maxQuotes) + " a\n"
	if tooDense([]byte(quotes)) || !tooDense([]byte(">"+quotes)) {
		t.Error("quotes in each other are not bounded")
	}
	marks := strings.Repeat("*", maxMarks)
	if tooDense([]byte(marks+"\n\n"+marks)) || !tooDense([]byte(marks+"\n*")) {
		t.Error("marks of a paragraph are not bounded")
	}
}
