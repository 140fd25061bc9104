package pages

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"net/http"
	"net/url"
	"time"

	"github.com/google/uuid"

	"github.com/francescobianco/packbase/api/answer"
	"github.com/francescobianco/packbase/api/route"
	"github.com/francescobianco/packbase/storage"
)

// feedLength is the most entries of a feed.
const feedLength = 50

// RFC 4287.
type atomFeed struct {
	XMLName xml.Name    `xml:"http://www.w3.org/2005/Atom feed"`
	ID      string      `xml:"id"`
	Title   string      `xml:"title"`
	Updated string      `xml:"updated"`
	Author  string      `xml:"author>name"`
	Links   []atomLink  `xml:"link"`
	Entries []atomEntry `xml:"entry"`
}

type atomLink struct {
	Rel    string `xml:"rel,attr"`
	Type   string `xml:"type,attr,omitempty"`
	Href   string `xml:"href,attr"`
	Length int64  `xml:"length,attr,omitempty"`
}

type atomEntry struct {
	ID        string     `xml:"id"`
	Title     string     `xml:"title"`
	Published string     `xml:"published"`
	Updated   string     `xml:"updated"`
	Links     []atomLink `xml:"link"`
	Summary   string     `xml:"summary"`
}

// getFeed serves GET /feed.atom: what was published last, of all packages.
func (s *Site) getFeed(w http.ResponseWriter, r *http.Request) error {
	releases, err := s.db.NewestReleases(r.Context(), "", feedLength)
	if err != nil {
		return err
	}
	return writeFeed(w, r, "/", "packbase: new releases", time.Unix(0, 0), releases)
}

// getPackageFeed serves GET /{package}.atom.
func (s *Site) getPackageFeed(w http.ResponseWriter, r *http.Request, name string) error {
	p, err := s.servedPackage(r.Context(), name)
	if err != nil {
		return err
	}
	releases, err := s.db.NewestReleases(r.Context(), p.Name, feedLength)
	if err != nil {
		return err
	}
	return writeFeed(w, r, "/"+p.Name, p.Called()+": new releases", p.CreatedAt, releases)
}

// writeFeed answers with the feed of the page at path. since is when an empty
// feed last changed.
func writeFeed(w http.ResponseWriter, r *http.Request, path, title string, since time.Time, releases []storage.Release) error {
	base, err := answer.BaseURL(r)
	if err != nil {
		return err
	}
	f := atomFeed{
		ID: feedID("feed " + path), Title: title, Updated: atomTime(since), Author: "packbase",
		Links: []atomLink{
			{Rel: "self", Type: "application/atom+xml", Href: base + r.URL.EscapedPath()},
			{Rel: "alternate", Type: "text/html", Href: base + path},
		},
	}
	for i := range releases {
		f.Entries = append(f.Entries, newAtomEntry(base, &releases[i]))
	}
	if len(releases) > 0 {
		f.Updated = atomTime(releases[0].CreatedAt)
	}
	body, err := xml.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	body = append([]byte(xml.Header), body...)
	sum := sha256.Sum256(body)
	h := w.Header()
	h.Set("Content-Type", "application/atom+xml; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	// It holds URLs made from the request's Host: it is for this client alone.
	h.Set("Cache-Control", "private, no-cache")
	h.Set("ETag", `"`+hex.EncodeToString(sum[:16])+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
	return nil
}

func newAtomEntry(base string, rel *storage.Release) atomEntry {
	page := base + "/" + rel.Called() + "?" + url.Values{"tag": {rel.Tag}}.Encode()
	return atomEntry{
		ID: feedID(rel.Package + "@" + rel.Tag), Title: rel.Called() + " " + rel.Tag,
		Published: atomTime(rel.CreatedAt), Updated: atomTime(rel.CreatedAt),
		Links: []atomLink{
			{Rel: "alternate", Type: "text/html", Href: page},
			{Rel: "enclosure", Type: "application/gzip", Href: base + route.Tarball(rel.Called(), rel.Tag, rel.CommitOID), Length: rel.Size},
		},
		Summary: "Commit " + rel.CommitOID + ", Zig hash " + rel.ZigHash,
	}
}

// feedID names a thing for ever, whatever host it is read from.
// RFC 4287, section 4.2.6; RFC 9562, section 5.5.
func feedID(what string) string {
	return "urn:uuid:" + uuid.NewSHA1(uuid.NameSpaceURL, []byte("packbase:"+what)).String()
}

func atomTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }
