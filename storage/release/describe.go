package release

import (
	"bytes"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/text"
	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"

	"github.com/francescobianco/packbase/storage/gitpack"
)

const (
	maxRead        = 8 << 10 // bytes of a README that are looked at
	maxDescription = 200     // bytes
	fewWords       = 4       // that a sentence has
)

// description returns what the README says that the package is.
func description(objects *gitpack.Objects, tree gitpack.Listing) string {
	f, ok := Readme(tree.Files)
	if !ok {
		return ""
	}
	body, err := objects.Open(f.OID)
	if err != nil {
		return "" // a convenience, not worth a release
	}
	head, err := io.ReadAll(io.LimitReader(body, maxRead))
	if err != nil {
		return ""
	}
	return describe(head)
}

// Readme returns the README among the files of a folder: Markdown before text.
func Readme(files []gitpack.File) (found gitpack.File, ok bool) {
	for _, want := range []string{"readme.md", "readme.markdown", "readme", "readme.txt", "readme.rst", "readme.adoc", "readme.org"} {
		for _, f := range files {
			if f.IsRegular() && strings.EqualFold(f.Path, want) {
				return f, true
			}
		}
	}
	return found, false
}

var readmes = goldmark.New(goldmark.WithExtensions(extension.GFM)).Parser()

// describe returns the first paragraph of a README that is a sentence, without
// its markup: no badges, table, list, quote or notice of copyright, and nothing
// below the third heading. Where there is none, a heading that is one will do.
func describe(readme []byte) string {
	if !utf8.Valid(readme) {
		readme = bytes.ToValidUTF8(readme, nil)
	}
	headings, title := 0, ""
	for n := readmes.Parse(text.NewReader(readme)).FirstChild(); n != nil && headings <= 2; n = n.NextSibling() {
		var said string
		switch n := n.(type) {
		case *ast.Heading: // what comes after some is how to use it
			headings++
			if said := strings.Join(strings.Fields(plainText(n, readme)), " "); title == "" && isSentence(said) {
				title = shorten(said)
			}
		case *ast.Paragraph:
			said = plainText(n, readme)
		case *ast.HTMLBlock:
			said = htmlText(n, readme)
		}
		if said = strings.Join(strings.Fields(said), " "); isSentence(said) {
			return shorten(said)
		}
	}
	return title
}

// plainText returns the text of a paragraph, without what is linked as a badge is.
func plainText(n ast.Node, source []byte) string {
	var b strings.Builder
	_ = ast.Walk(n, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			return ast.WalkContinue, nil
		}
		switch n := n.(type) {
		case *ast.Image, *ast.RawHTML:
			return ast.WalkSkipChildren, nil
		case *ast.Text:
			b.Write(n.Segment.Value(source))
			if n.SoftLineBreak() || n.HardLineBreak() {
				b.WriteByte(' ')
			}
		case *ast.String:
			b.Write(n.Value)
		}
		return ast.WalkContinue, nil
	})
	return html.UnescapeString(b.String())
}

// htmlText returns the text of a block of HTML, but for headings and links.
func htmlText(n *ast.HTMLBlock, source []byte) string {
	var raw, b strings.Builder
	for i := range n.Lines().Len() {
		line := n.Lines().At(i)
		raw.Write(line.Value(source))
	}
	hidden := 0
	for z := html.NewTokenizer(strings.NewReader(raw.String())); ; {
		switch kind := z.Next(); kind {
		case html.ErrorToken:
			return b.String()
		case html.TextToken:
			if hidden == 0 {
				b.WriteString(z.Token().Data)
			}
		case html.StartTagToken, html.EndTagToken:
			switch z.Token().DataAtom {
			case atom.H1, atom.H2, atom.H3, atom.A, atom.Summary, atom.Table, atom.Script, atom.Style, atom.Li:
				if kind == html.StartTagToken {
					hidden++
				} else {
					hidden = max(hidden-1, 0)
				}
			}
		}
	}
}

// isSentence reports whether text says something.
func isSentence(text string) bool {
	first, _ := utf8.DecodeRuneInString(text)
	lower := strings.ToLower(text)
	switch {
	case strings.ContainsFunc(text, unicode.IsControl), !unicode.IsLetter(first) && !unicode.IsNumber(first) && first != '"' && first != '“':
		return false
	case strings.HasPrefix(lower, "copyright"), strings.HasPrefix(lower, "spdx-"), strings.HasPrefix(lower, "permission is hereby"), strings.HasPrefix(lower, "licensed under"):
		return false
	}
	words, wide := 0, 0
	for word := range strings.FieldsSeq(text) {
		if strings.ContainsFunc(word, unicode.IsLetter) {
			words++
		}
	}
	for _, r := range text {
		if unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Hangul) {
			wide++
		}
	}
	return words >= fewWords || wide >= 2*fewWords
}

// shorten cuts text after a sentence, else after a word.
func shorten(text string) string {
	if len(text) <= maxDescription {
		return text
	}
	text = strings.ToValidUTF8(text[:maxDescription], "")
	if end := strings.LastIndex(text, ". "); end > maxDescription/3 {
		return text[:end+1]
	}
	if end := strings.LastIndexByte(text, ' '); end > 0 {
		text = text[:end]
	}
	return strings.TrimRight(text, ",;:–-") + "…"
}
