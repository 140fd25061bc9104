package pages

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/go-chi/chi/v5"

	"github.com/francescobianco/packbase/api/answer"
	"github.com/francescobianco/packbase/api/browse"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/zigpkg"
)

const (
	maxShown = 512 << 10 // bytes of a file on a page
	maxRaw   = 4 << 20   // bytes of a file by itself
	maxDiff  = 500       // files on the page of a comparison
	maxLink  = 4 << 10   // bytes of what a link names
)

// A ref says in a URL which release of a package is meant.
type ref struct {
	pkg         string // as it is called
	tag, commit string // one of them
}

func refOf(rel *storage.Release) ref {
	if rel.Tag == "" {
		return ref{pkg: rel.Called(), commit: rel.CommitOID}
	}
	return ref{pkg: rel.Called(), tag: rel.Tag}
}

// at returns the address of what shows the release, with more in its query.
func (f ref) at(page string, more ...string) string {
	q := url.Values{}
	if f.tag != "" {
		q.Set("tag", f.tag)
	} else {
		q.Set("commit", f.commit)
	}
	for i := 0; i+1 < len(more); i += 2 {
		if more[i+1] != "" {
			q.Set(more[i], more[i+1])
		}
	}
	return "/" + f.pkg + page + "?" + q.Encode()
}

// Files is the address of a file or folder of the release.
func (f ref) Files(p string) string { return f.at("/files", "path", p) }

// Raw is the address of a file's bytes.
func (f ref) Raw(p string) string { return f.at("/files", "path", p, "raw", "1") }

// Page is the address of the release.
func (f ref) Page() string { return f.at("") }

// A filesPage shows a folder or a file of a release.
type filesPage struct {
	frame
	ref
	Of      releaseRow
	Path    string
	Crumbs  []crumb
	Entries []fileRow     // of a folder
	Doc     template.HTML // the folder's README, or the document
	DocName string
	Text    string // of a file
	Why     string // a file is not shown
	Size    int64
	Image   bool
	IsFile  bool
}

func (*filesPage) template() string { return "files" }

// A crumb is a folder on the way to what is shown.
type crumb struct{ Name, Path string }

// A fileRow is an entry of a folder.
type fileRow struct {
	gitpack.File
	Name string
	Full string // path in the release
}

// Kind says what the entry is, in a word.
func (f fileRow) Kind() string {
	switch f.Mode {
	case gitpack.ModeDir:
		return "folder"
	case gitpack.ModeSymlink:
		return "link"
	case gitpack.ModeSubmodule:
		return "submodule, not in the release"
	}
	return ""
}

// released returns the release that the query names, of the package in the path.
func (s *Site) released(r *http.Request) (p packageView, rel storage.Release, err error) {
	if p.Package, err = s.servedPackage(r.Context(), chi.URLParam(r, "repo")); err != nil {
		return p, rel, err
	}
	all, err := s.order(r.Context(), p.Package)
	if err != nil {
		return p, rel, err
	}
	id, err := s.shownID(r, &p, all)
	if err != nil {
		return p, rel, err
	}
	found, err := s.db.ReleasesByID(r.Context(), []int64{id})
	if err == nil && len(found) == 0 {
		err = notFoundPage(fault.ErrNotFound, "Nothing of %s is here yet.", p.Called())
	}
	if err != nil {
		return p, rel, err
	}
	return p, found[0], nil
}

// getFiles shows a file or a folder to a browser.
func (s *Site) getFiles(w http.ResponseWriter, r *http.Request) error {
	if r.URL.Query().Get("raw") != "" {
		return s.getRaw(w, r)
	}
	p, rel, err := s.released(r)
	if err != nil {
		return err
	}
	page := &filesPage{ref: refOf(&rel), Of: releaseRow{Release: rel}, Path: strings.Trim(r.URL.Query().Get("path"), "/")}
	if page.frame, err = s.frame(r, path.Base("/"+page.Path)+" of "+p.Called()+" "+page.Of.Name(), "package"); err != nil {
		return err
	}
	for i, c := range page.Path {
		if c == '/' {
			page.Crumbs = append(page.Crumbs, crumb{path.Base(page.Path[:i]), page.Path[:i]})
		}
	}
	if err := s.fillPath(r.Context(), page); err != nil {
		return notFoundPage(err, "There is no file “%s” in %s %s.", answer.Cut(page.Path, 200), p.Called(), page.Of.Name())
	}
	return s.renderLarge(w, r, func() (view, error) { return page, nil })
}

func (s *Site) fillPath(ctx context.Context, page *filesPage) error {
	tree, err := s.files.At(ctx, &page.Of.Release)
	if err != nil {
		return err
	}
	f := gitpack.File{Mode: gitpack.ModeDir}
	if page.Path != "" {
		if f, err = tree.Stat(ctx, page.Path); err != nil {
			return err
		}
	}
	if f.Mode == gitpack.ModeDir {
		return s.folder(ctx, page, tree)
	}
	page.IsFile = true
	return s.file(ctx, page, tree, f)
}

// folder fills in the entries, folders first, and the README.
func (s *Site) folder(ctx context.Context, p *filesPage, tree *browse.Tree) error {
	entries, err := tree.Folder(ctx, p.Path)
	if err != nil {
		return err
	}
	for _, folders := range []bool{true, false} {
		for _, e := range entries {
			if (e.Mode == gitpack.ModeDir) == folders {
				p.Entries = append(p.Entries, fileRow{File: e, Name: e.Path, Full: path.Join(p.Path, e.Path)})
			}
		}
	}
	p.DocName, p.Doc = s.readReadme(ctx, tree, p.ref, p.Path, entries)
	return nil
}

// readReadme renders the README of a folder, if it has one that can be shown.
func (s *Site) readReadme(ctx context.Context, tree *browse.Tree, at ref, dir string, entries []gitpack.File) (string, template.HTML) {
	f, ok := release.Readme(entries)
	if !ok {
		return "", ""
	}
	name := f.Path
	f.Path = path.Join(dir, name)
	doc, err := s.document(ctx, tree, at, f)
	if err != nil {
		return "", "" // too large, or damaged: the rest of the page is of use
	}
	return name, doc.html
}

// document renders a document of at most maxDocument bytes, unless it was rendered before.
func (s *Site) document(ctx context.Context, tree *browse.Tree, at ref, f gitpack.File) (document, error) {
	key := at.Files(f.Path)
	if doc, ok := s.documents.Get(key); ok && doc.oid == f.OID {
		return doc, nil
	}
	text, err := tree.Read(ctx, f, maxDocument)
	if err != nil {
		return document{}, err
	}
	doc := document{f.OID, int64(len(text)), renderDocument(f.Path, text, place{dir: path.Dir(f.Path), page: at.Files, raw: at.Raw})}
	s.documents.Add(key, doc)
	return doc, nil
}

// A document is a README, or another file of Markdown, as it is shown.
type document struct {
	oid  gitpack.OID
	size int64 // bytes of the file
	html template.HTML
}

// maxDocuments bounds those in memory; one takes some 10 KB, at most about 1 MB.
const maxDocuments = 64

// file fills in what a file has in it, if a page can show that.
func (s *Site) file(ctx context.Context, p *filesPage, tree *browse.Tree, f gitpack.File) error {
	switch {
	case f.Mode == gitpack.ModeSubmodule:
		p.Why = "A submodule: upstream names the commit " + f.OID.String() + " of another repository here, which is not in the release."
		return nil
	case f.Mode == gitpack.ModeSymlink:
		to, err := tree.Read(ctx, f, maxLink)
		p.Why = "A link to " + strings.ToValidUTF8(string(to), "\uFFFD") + "."
		return err
	case imageType(f.Path) != "":
		p.Image = true
		return nil
	case isMarkdown(f.Path):
		doc, err := s.document(ctx, tree, p.ref, f)
		if !isTooLarge(err) {
			p.DocName, p.Doc, p.Size = path.Base(f.Path), doc.html, doc.size
			return err
		}
	}
	text, err := tree.Read(ctx, f, maxShown)
	switch {
	case isTooLarge(err):
		p.Why = "It is too large to be shown here."
	case err != nil:
		return err
	case !isText(text):
		p.Why = "It is no text."
	default:
		p.Text = string(text)
	}
	p.Size = int64(len(text))
	return nil
}

func isText(content []byte) bool { return bytes.IndexByte(content, 0) < 0 && utf8.Valid(content) }

func isTooLarge(err error) bool {
	var known *gitpack.Error
	return errors.As(err, &known) && known.Code == gitpack.CodeObjectTooLarge
}

// imageType returns the media type of images that browsers show, by the name.
func imageType(name string) string {
	return map[string]string{
		".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp", ".avif": "image/avif", ".svg": "image/svg+xml",
	}[strings.ToLower(path.Ext(name))]
}

// getRaw serves the bytes of a file: to look at, and to be no page of ours.
func (s *Site) getRaw(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), pageTime)
	defer cancel()
	r = r.WithContext(ctx)
	p, rel, err := s.released(r)
	if err != nil {
		return err
	}
	name := strings.Trim(r.URL.Query().Get("path"), "/")
	none := func(err error) error {
		return notFoundPage(err, "There is no file “%s” in %s.", answer.Cut(name, 200), p.Called())
	}
	tree, err := s.files.At(ctx, &rel)
	if err != nil {
		return none(err)
	}
	f, err := tree.Stat(ctx, name)
	if err == nil && !f.IsRegular() {
		err = fault.ErrNotFound
	}
	if err != nil {
		return none(err)
	}
	return s.opt.Large(w, r, func(out io.Writer) error {
		content, err := tree.Read(ctx, f, maxRaw)
		if isTooLarge(err) {
			return answer.New("not_found", fmt.Sprintf("The file has more than %d bytes: take it from the tarball of %s.", maxRaw, rel.Called()))
		}
		if err != nil {
			return err
		}
		h := w.Header()
		h.Set("Content-Type", rawType(name, content))
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "private, max-age=300") // it may be removed, or become private
		_, err = out.Write(content)
		return err
	})
}

func rawType(name string, content []byte) string {
	switch kind := imageType(name); {
	case kind != "":
		return kind
	case isText(content):
		return "text/plain; charset=utf-8"
	}
	return "application/octet-stream"
}

// A diffPage shows which files two releases do not have alike.
type diffPage struct {
	frame
	Package  packageView
	From, To releaseRow
	Changes  []changeRow
	More     bool
	Counts   struct{ Added, Removed, Changed, Hashed int }
	Hashes   bool // it is known which files make up the Zig hashes
}

func (*diffPage) template() string { return "diff" }

// A changeRow is a file that differs.
type changeRow struct {
	Path, How string
	Old, New  string // addresses, "" where it is not
	Hashed    bool   // it made the Zig hash another one
}

// getDiff compares two releases for a browser: ?tag= or ?commit= with the one
// that ?from= names, a tag or a commit, else the release before it.
func (s *Site) getDiff(w http.ResponseWriter, r *http.Request) error {
	p, to, err := s.released(r)
	if err != nil {
		return err
	}
	from, err := s.before(r, &p, &to)
	if err != nil {
		return err
	}
	page := &diffPage{Package: p, From: releaseRow{Release: from}, To: releaseRow{Release: to}}
	if page.frame, err = s.frame(r, p.Called()+": from "+page.From.Name()+" to "+page.To.Name(), "package"); err != nil {
		return err
	}
	trees := make([]*browse.Tree, 2)
	for i, rel := range []*storage.Release{&from, &to} {
		if trees[i], err = s.files.At(r.Context(), rel); err != nil {
			return notFoundPage(err, "The files of %s cannot be compared here: there are too many.", p.Called())
		}
	}
	changes, more, err := browse.Diff(r.Context(), trees[0], trees[1], maxDiff)
	if err != nil {
		return err
	}
	old, errOld := hashed(r.Context(), trees[0], &from)
	new, errNew := hashed(r.Context(), trees[1], &to)
	if err := errors.Join(errOld, errNew); err != nil {
		return err
	}
	page.fill(changes, more, old, new)
	return s.renderLarge(w, r, func() (view, error) { return page, nil })
}

// hashed tells which files make up the Zig hash of a release; it is nil of one without.
func hashed(ctx context.Context, tree *browse.Tree, rel *storage.Release) (func(string) bool, error) {
	if rel.ZigHash == "" && rel.ZigLegacyHash == "" {
		return nil, nil
	}
	f, err := tree.Stat(ctx, zigpkg.ManifestName)
	if errors.Is(err, fault.ErrNotFound) {
		return (*zigpkg.Manifest)(nil).Includes, nil
	}
	if err != nil {
		return nil, err
	}
	text, err := tree.Read(ctx, f, maxShown)
	if isTooLarge(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m, err := zigpkg.ParseManifest(text)
	if err != nil {
		return nil, nil // a link, perhaps
	}
	return m.Includes, nil
}

func (p *diffPage) fill(changes []browse.Change, more bool, hashedOld, hashedNew func(string) bool) {
	p.More, p.Hashes = more, hashedOld != nil && hashedNew != nil
	from, to := refOf(&p.From.Release), refOf(&p.To.Release)
	for _, c := range changes {
		row := changeRow{Path: c.Path, Old: from.Files(c.Path), New: to.Files(c.Path)}
		switch {
		case c.Old.Mode == 0:
			row.How, row.Old = "added", ""
			p.Counts.Added++
		case c.New.Mode == 0:
			row.How, row.New = "removed", ""
			p.Counts.Removed++
		default:
			row.How = "changed"
			if c.Old.OID == c.New.OID {
				row.How = fmt.Sprintf("mode %o, was %o", c.New.Mode, c.Old.Mode)
			}
			p.Counts.Changed++
		}
		if p.Hashes && (hashedOld(c.Path) && c.Old.Mode != 0 || hashedNew(c.Path) && c.New.Mode != 0) && (c.Old.OID != c.New.OID || !c.Old.IsRegular() || !c.New.IsRegular()) {
			row.Hashed = true
			p.Counts.Hashed++
		}
		p.Changes = append(p.Changes, row)
	}
}

// before returns the release to compare with.
func (s *Site) before(r *http.Request, p *packageView, to *storage.Release) (rel storage.Release, err error) {
	all, err := s.order(r.Context(), p.Package)
	if err != nil {
		return rel, err
	}
	refs := slices.Concat(all.tags, all.snapshots) // the newest first
	var i int
	none := fmt.Sprintf("There is no release of %s before this one to compare it with.", p.Called())
	if want := r.URL.Query().Get("from"); want != "" {
		i = slices.IndexFunc(refs, func(ref storage.TagRef) bool { return ref.Tag == want || ref.Tag == "" && ref.CommitOID == want })
		none = fmt.Sprintf("There is no release “%s” of %s here.", answer.Cut(want, 200), p.Called())
	} else {
		i = 1 + slices.IndexFunc(refs, func(ref storage.TagRef) bool { return ref.ID == to.ID })
	}
	if i < 0 || i == len(refs) {
		return rel, answer.New("not_found", none)
	}
	found, err := s.db.ReleasesByID(r.Context(), []int64{refs[i].ID})
	if err == nil && len(found) == 0 {
		err = answer.New("not_found", none) // removed meanwhile
	}
	if err != nil {
		return rel, err
	}
	return found[0], nil
}
