package pages

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"
	"unicode"
)

//go:embed templates assets
var files embed.FS

// A renderer renders pages and serves their assets. It is safe for concurrent use.
type renderer struct {
	pages  map[string]*template.Template // by name
	assets string                        // path of the assets: /assets/<hash of them all>
}

// A view is what one URL shows.
type view interface{ template() string }

// A frame is what all pages have around what they show.
type frame struct {
	Title   string
	Section string // of the navigation
	Base    string // scheme and host as the client sees them: https://packages.example
	Query   string // what is searched for
	Auth    string // what writes need: "token", "none"; "read_only" if there are none
	Central string // where a read-only edge has its writes
	Release string // of packbase
	Feed    string // path of the page's Atom feed
	Away    string // why parts of the page are old or missing
}

// newRenderer reads the embedded templates and assets.
func newRenderer() *renderer {
	s := &renderer{pages: map[string]*template.Template{}, assets: "/assets/" + assetsHash()}
	layout := template.Must(template.New("layout.html").Funcs(s.functions()).
		ParseFS(files, "templates/layout.html", "templates/parts.html"))
	names, err := fs.Glob(files, "templates/*.html")
	if err != nil {
		panic(err) // the pattern is a constant
	}
	for _, name := range names {
		page := strings.TrimSuffix(path.Base(name), ".html")
		s.pages[page] = template.Must(template.Must(layout.Clone()).ParseFS(files, name))
	}
	return s
}

// assetsHash names the assets, so that they may be cached for ever.
func assetsHash() string {
	h := sha256.New()
	err := fs.WalkDir(files, "assets", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := files.ReadFile(name)
		fmt.Fprintf(h, "%s %d\n%s", name, len(b), b)
		return err
	})
	if err != nil {
		panic(err) // embedded files are there
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// policy lets a page use our assets and talk to us, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// render answers with a page. It is written only when it is complete.
func (s *renderer) render(w http.ResponseWriter, status int, p view) error {
	var buf bytes.Buffer
	if err := s.write(&buf, p); err != nil {
		return err
	}
	s.head(w.Header())
	w.WriteHeader(status)
	_, _ = w.Write(buf.Bytes()) // the client may have gone
	return nil
}

// write writes a page's HTML.
func (s *renderer) write(w io.Writer, p view) error {
	if err := s.pages[p.template()].ExecuteTemplate(visible{w}, "layout.html", p); err != nil {
		return fmt.Errorf("render %s: %w", p.template(), err)
	}
	return nil
}

// A visible writer shows what would not be seen, or have other text seen in another order than it is copied: names, READMEs and
// sources are strangers'. It is given whole characters.
type visible struct{ io.Writer }

func (w visible) Write(b []byte) (int, error) {
	var before rune // the last that is seen
	_, err := w.Writer.Write(bytes.Map(func(r rune) rune {
		switch {
		case unicode.IsControl(r) && r != '\n' && r != '\t' && r != '\r':
			return unicode.ReplacementChar
		case r <= unicode.MaxASCII:
		case unicode.In(r, unicode.Bidi_Control, unicode.Zl, unicode.Zp):
			return unicode.ReplacementChar
		case unicode.In(r, unicode.Cf, unicode.Variation_Selector, unicode.Other_Default_Ignorable_Code_Point):
			if !joins(before, r) {
				return unicode.ReplacementChar
			}
			return r
		}
		before = r
		return r
	}, b))
	return len(b), err
}

// joins reports whether what is not seen itself makes a difference behind a character: between the letters of many scripts and
// within emoji it does, between Latin ones it only makes two words look like one.
func joins(before, unseen rune) bool {
	return before > '\u024f' || unseen == '\ufe0f' && strings.ContainsRune("0123456789#*©®", before)
}

// head sets the headers that all pages have.
func (*renderer) head(h http.Header) {
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	// Pages hold URLs made from the request's Host: no cache may show them
	// to somebody else.
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Accept")
}

// icon is the path of the site's icon.
func (s *renderer) icon() string { return s.assets + "/icon.svg" }

// serveAsset answers GET /assets/<hash>/<name>.
func (s *renderer) serveAsset(w http.ResponseWriter, r *http.Request) {
	name := path.Base(r.URL.Path)
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	// A page of another release asks for other bytes: those must not be
	// cached under its path.
	h.Set("Cache-Control", "no-cache")
	if path.Dir(r.URL.Path) == s.assets {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	http.ServeFileFS(w, r, files, "assets/"+name)
}

// hasAsset reports whether there is an asset with the path's last element.
func (s *renderer) hasAsset(p string) bool {
	info, err := fs.Stat(files, "assets/"+path.Base(p))
	return err == nil && !info.IsDir()
}

func (s *renderer) functions() template.FuncMap {
	return template.FuncMap{
		"asset":   func(name string) string { return s.assets + "/" + name },
		"number":  number[int],
		"number8": number[int64],
		"counted": counted[int],
		"size":    size,
		"span":    span,
		"short":   short,
		"say":     sentence,
		"ago":     func(t time.Time) string { return ago(t, time.Now()) },
		"exact":   func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
		"day":     func(t time.Time) string { return t.UTC().Format("2006-01-02") },
		"machine": func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"list":    func(v ...any) []any { return v },
	}
}
