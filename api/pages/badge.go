package pages

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"net/http"
	"time"
	"unicode/utf8"
)

// getBadge serves GET /{package}.svg: the latest release and how the package
// is, for READMEs. It holds no URL, so all may cache it for a while.
func (s *Site) getBadge(w http.ResponseWriter, r *http.Request, name string) error {
	p, err := s.servedPackage(r.Context(), name)
	if err != nil {
		return err
	}
	pkg := packageView{Package: p}
	text, colour := pkg.Latest(), badgeColour(pkg.Health().Level)
	switch {
	case text == "" && p.Local():
		text = counted(p.SnapshotCount, "snapshot", "snapshots")
	case text == "":
		text = "no releases"
	}
	h := w.Header()
	h.Set("Content-Type", "image/svg+xml; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "public, max-age=120")
	if p.Private {
		h.Set("Cache-Control", "private, max-age=120")
	}
	h.Set("Access-Control-Allow-Origin", "*")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(badge("packbase", text, colour)))
	return nil
}

// White text has a contrast of 4.5 and more on each.
func badgeColour(level string) string {
	switch level {
	case "ok":
		return "#14763f"
	case "warn":
		return "#96590a"
	case "bad":
		return "#b3261e"
	}
	return "#5f5f5f"
}

// badge draws two words side by side, as READMEs have them.
func badge(left, right, colour string) []byte {
	if utf8.RuneCountInString(right) > 40 {
		right = string([]rune(right)[:39]) + "…"
	}
	a, b := textWidth(left)+12, textWidth(right)+12
	var buf bytes.Buffer
	fmt.Fprintf(&buf, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="20" role="img" aria-label="%s: %s">`, a+b, escape(left), escape(right))
	fmt.Fprintf(&buf, `<title>%s: %s</title>`, escape(left), escape(right))
	fmt.Fprintf(&buf, `<clipPath id="r"><rect width="%d" height="20" rx="4"/></clipPath>`, a+b)
	fmt.Fprintf(&buf, `<g clip-path="url(#r)"><rect width="%d" height="20" fill="#33312d"/><rect x="%d" width="%d" height="20" fill="%s"/></g>`, a, a, b, colour)
	buf.WriteString(`<g fill="#fff" font-family="Verdana,DejaVu Sans,Geneva,sans-serif" font-size="11" text-anchor="middle">`)
	fmt.Fprintf(&buf, `<text x="%.1f" y="14" textLength="%d">%s</text>`, float64(a)/2, a-12, escape(left))
	fmt.Fprintf(&buf, `<text x="%.1f" y="14" textLength="%d">%s</text></g></svg>`, float64(a)+float64(b)/2, b-12, escape(right))
	return buf.Bytes()
}

// textWidth guesses how wide s is in 11 px Verdana, in pixels. textLength
// makes it so.
func textWidth(s string) int {
	w := 0.0
	for _, r := range s {
		switch {
		case r == '.' || r == 'i' || r == 'l' || r == 'j' || r == ',' || r == ':' || r == '\'' || r == '|':
			w += 3.6
		case r == '-' || r == 't' || r == 'f' || r == 'r' || r == '/':
			w += 4.8
		case r == 'm' || r == 'w' || r == 'M' || r == 'W':
			w += 10
		case r > 0x2e80: // wide scripts
			w += 11
		default:
			w += 6.9
		}
	}
	return int(w + 0.5)
}

func escape(s string) string {
	var buf bytes.Buffer
	_ = xml.EscapeText(&buf, []byte(s)) // a Buffer takes all
	return buf.String()
}
