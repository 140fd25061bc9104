package pages

import (
	"bytes"
	"html/template"
	"net/url"
	"path"
	"regexp"
	"strings"

	"github.com/microcosm-cc/bluemonday"
	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/parser"
	goldmarkhtml "github.com/yuin/goldmark/renderer/html"
	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

const (
	maxDocument = 128 << 10 // bytes of a README that is shown, or of other Markdown
	maxMarks    = 1500      // of a paragraph, and
	maxQuotes   = 24        // quotes in each other: what has more is shown as text
)

// markdown reads what forges read. HTML within is let through, for the
// sanitizer to judge.
var markdown = goldmark.New(
	goldmark.WithExtensions(extension.GFM),
	goldmark.WithParserOptions(parser.WithAutoHeadingID()),
	goldmark.WithRendererOptions(goldmarkhtml.WithUnsafe()),
)

// sanitizer keeps what text is made of.
var sanitizer = func() *bluemonday.Policy {
	p := bluemonday.UGCPolicy()
	p.AllowAttrs("id").Matching(regexp.MustCompile(`^[\pL\pN_-]{1,100}$`)).OnElements("h1", "h2", "h3", "h4", "h5", "h6", "a")
	p.AllowAttrs("align").Matching(regexp.MustCompile(`^(left|center|right)$`)).OnElements("p", "div", "h1", "h2", "h3", "td", "th")
	p.AllowAttrs("checked", "disabled", "type").OnElements("input")
	return p
}()

// isMarkdown reports whether a file is Markdown, by its name.
func isMarkdown(name string) bool {
	ext := strings.ToLower(path.Ext(name))
	return ext == ".md" || ext == ".markdown"
}

// A place makes the links of a document: of what is beside it in the same release.
type place struct {
	dir  string                   // of the document
	page func(path string) string // that shows a file or folder
	raw  func(path string) string // the bytes of a file
}

// renderDocument returns a document as HTML that is safe to show. Nothing in it
// is asked of the network: relative images come from the release, and of others
// their text is left. Links lead to upstream's pages, or to the release's files.
func renderDocument(name string, text []byte, at place) template.HTML {
	text = bytes.ToValidUTF8(bytes.TrimPrefix(text, []byte("\ufeff")), []byte("\uFFFD"))
	if !isMarkdown(name) || tooDense(text) {
		return template.HTML("<pre>" + html.EscapeString(string(text)) + "</pre>")
	}
	var out bytes.Buffer
	if err := markdown.Convert(text, &out); err != nil { // a bytes.Buffer fails at nothing
		return ""
	}
	return template.HTML(at.rewrite(sanitizer.SanitizeBytes(out.Bytes())))
}

// tooDense reports whether text has more marks close together than people
// write: the time that Markdown takes grows with their square.
func tooDense(text []byte) bool {
	marks := 0
	for line := range bytes.Lines(text) {
		if len(bytes.TrimSpace(line)) == 0 {
			marks = 0
		}
		start := line[:len(line)-len(bytes.TrimLeft(line, "> \t"))]
		for _, c := range line {
			if bytes.IndexByte([]byte("*_[]<!`~&"), c) >= 0 {
				marks++
			}
		}
		if marks > maxMarks || bytes.Count(start, []byte(">")) > maxQuotes {
			return true
		}
	}
	return false
}

// rewrite leads links and images of sanitized HTML to where they are here.
func (at place) rewrite(safe []byte) string {
	var out strings.Builder
	for z := html.NewTokenizer(bytes.NewReader(safe)); ; {
		kind := z.Next()
		if kind == html.ErrorToken {
			return out.String()
		}
		t := z.Token()
		if kind != html.TextToken {
			switch t.DataAtom {
			case atom.Img:
				t = at.image(t)
			case atom.Input: // of a list of tasks
				t = box(t)
			}
			at.mark(&t)
		}
		out.WriteString(t.String())
	}
}

// box returns what a list of tasks has before a task as text: nobody can tick it here.
func box(t html.Token) html.Token {
	for _, a := range t.Attr {
		if a.Key == "checked" {
			return html.Token{Type: html.TextToken, Data: "☑"}
		}
	}
	return html.Token{Type: html.TextToken, Data: "☐"}
}

// image returns the image, or its text where it is not in the release.
func (at place) image(t html.Token) html.Token {
	alt := ""
	for i, a := range t.Attr {
		switch a.Key {
		case "alt":
			alt = a.Val
		case "src":
			if p, _, ok := at.local(a.Val); ok {
				t.Attr[i].Val = at.raw(p)
				return t
			}
		}
	}
	return html.Token{Type: html.TextToken, Data: alt}
}

// below says what the headings of a document are on a page that has two above them.
var below = map[atom.Atom]atom.Atom{atom.H1: atom.H3, atom.H2: atom.H4, atom.H3: atom.H5, atom.H4: atom.H6, atom.H5: atom.H6}

// inDocument keeps a document's anchors apart from the page's.
const inDocument = "doc-"

// mark changes what a tag says of its place on the page.
func (at place) mark(t *html.Token) {
	if lower, ok := below[t.DataAtom]; ok {
		t.DataAtom, t.Data = lower, lower.String()
	}
	for i, a := range t.Attr {
		switch {
		case a.Key == "id":
			t.Attr[i].Val = inDocument + a.Val
		case a.Key == "href" && strings.HasPrefix(a.Val, "#"):
			t.Attr[i].Val = "#" + inDocument + a.Val[1:]
		case a.Key == "href":
			if p, fragment, ok := at.local(a.Val); ok {
				t.Attr[i].Val = at.page(p)
				if fragment != "" {
					t.Attr[i].Val += "#" + inDocument + fragment
				}
			}
		}
	}
}

// local returns the path in the release that a relative link names.
func (at place) local(link string) (p, fragment string, ok bool) {
	u, err := url.Parse(link)
	if err != nil || u.Scheme != "" || u.Host != "" || u.Path == "" {
		return "", "", false
	}
	p = path.Join("/", at.dir, u.Path)
	if strings.HasPrefix(u.Path, "/") {
		p = path.Clean(u.Path)
	}
	return strings.TrimPrefix(p, "/"), u.Fragment, true
}
