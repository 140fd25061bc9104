package git

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/go-chi/chi/v5"

	"github.com/francescobianco/packbase/api/answer"
	"github.com/francescobianco/packbase/api/stored"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/name"
)

// The dumb protocol serves files: for packages from local bare repositories,
// which keep their history. gitprotocol-http(5), "Dumb Clients".

// dumbInfoRefs serves GET /{repo}/info/refs without a service.
func (g *Server) dumbInfoRefs(w http.ResponseWriter, r *http.Request) error {
	h, err := g.history(r)
	if err != nil {
		return err
	}
	var b strings.Builder
	names := make([]string, 0, len(h.Refs))
	for name := range h.Refs {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(&b, "%s\t%s\n", h.Refs[name], name)
	}
	return writeGitText(w, r, b.String())
}

// dumbHead serves GET /{repo}/HEAD.
func (g *Server) dumbHead(w http.ResponseWriter, r *http.Request) error {
	h, err := g.history(r)
	if err != nil {
		return err
	}
	return writeGitText(w, r, "ref: "+h.Head+"\n")
}

// dumbObject serves GET /{repo}/objects/info/packs, and the one pack and its
// index below /{repo}/objects/pack. There are no loose objects.
func (g *Server) dumbObject(w http.ResponseWriter, r *http.Request) error {
	h, err := g.history(r)
	if err != nil {
		return err
	}
	pack := "pack/pack-" + h.PackName
	switch chi.URLParam(r, "*") {
	case "info/packs":
		return writeGitText(w, r, "P pack-"+h.PackName+".pack\n\n")
	case pack + ".pack":
		return g.serveHistory(w, r, h.PackDigest, "application/x-git-packed-objects")
	case pack + ".idx":
		return g.serveHistory(w, r, h.IndexDigest, "application/x-git-packed-objects-toc")
	}
	return fault.ErrNotFound
}

func (g *Server) serveHistory(w http.ResponseWriter, r *http.Request, digest, contentType string) error {
	b, err := g.db.BlobByDigest(r.Context(), digest)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", stored.Cacheable(access.SeesPrivate(r.Context())))
	return g.blobs.Serve(w, r, stored.File{Digest: digest, Size: b.Size, ContentType: contentType})
}

func (g *Server) history(r *http.Request) (storage.History, error) {
	pkg := repoName(r)
	if name.ValidPackage(pkg) != nil {
		return storage.History{}, answer.NoPackage(pkg)
	}
	if _, err := g.db.PackageByName(r.Context(), pkg); err != nil {
		none := g.none(r.Context(), pkg)
		return storage.History{}, answer.OrNotFound(err, &answer.Error{Status: none.Status, Code: none.Code, Message: none.Message, Basic: true})
	}
	h, err := g.db.HistoryOf(r.Context(), pkg)
	if errors.Is(err, fault.ErrNotFound) {
		return h, &answer.Error{Status: http.StatusForbidden, Code: "smart_http_only",
			Message: "this package is served by the smart HTTP protocol only: use Git 1.6.6 or later"}
	}
	return h, err
}

func writeGitText(w http.ResponseWriter, r *http.Request, body string) error {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Cache-Control", stored.Checked(access.SeesPrivate(r.Context())))
	_, _ = w.Write([]byte(body)) // the client may have gone
	return nil
}
