package api

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/zigpkg"
)

const immutable = "public, max-age=31536000, immutable"

// getTagFile serves GET /p/{package}/tag/{tag}.tar.gz and .json.
//
// The suffix is cut once, so each path names one object, also when a tag
// itself ends in ".json".
func (s *Server) getTagFile(w http.ResponseWriter, r *http.Request) error {
	tag, isManifest, err := cutSuffix(chi.URLParam(r, "*"))
	if err != nil {
		return err
	}
	pkg := chi.URLParam(r, "package")
	if name.ValidPackage(pkg) != nil || name.ValidTag(tag) != nil {
		return errNoTarball(pkg, tag)
	}
	rel, err := s.releases.byTag(r.Context(), pkg, tag)
	if err != nil {
		return notFound(err, errNoTarball(pkg, tag))
	}
	return s.serveRelease(w, r, rel, isManifest)
}

// getCommitFile serves GET /p/{package}/commit/{oid}.tar.gz and .json.
func (s *Server) getCommitFile(w http.ResponseWriter, r *http.Request) error {
	oid, isManifest, err := cutSuffix(chi.URLParam(r, "file"))
	if err != nil {
		return err
	}
	pkg := chi.URLParam(r, "package")
	if name.ValidPackage(pkg) != nil || !name.ValidOID(oid) || oid != strings.ToLower(oid) {
		return &Error{Status: http.StatusNotFound, Code: "not_found", Message: "want the 40 lowercase hex digits of a commit id"}
	}
	rel, err := s.releases.byCommit(r.Context(), pkg, oid)
	if err != nil {
		return notFound(err, &Error{Status: http.StatusNotFound, Code: "not_found",
			Message: fmt.Sprintf("the commit %s of %q is not mirrored; POST /api/fetch with the upstream's URL and #%s mirrors it", oid, pkg, oid)})
	}
	return s.serveRelease(w, r, rel, isManifest)
}

// getBranchTarball serves GET /p/{package}/branch/{name}.tar.gz: the last
// mirrored commit of a branch. Only the branch moves; the answer names its commit.
func (s *Server) getBranchTarball(w http.ResponseWriter, r *http.Request) error {
	branch, ok := strings.CutSuffix(chi.URLParam(r, "*"), wire.TarballSuffix)
	pkg := chi.URLParam(r, "package")
	none := &Error{Status: http.StatusNotFound, Code: "not_found",
		Message: fmt.Sprintf("no commit of that branch of %q is mirrored; POST /api/fetch with the upstream's URL and #branch mirrors its tip", pkg)}
	if !ok || name.ValidPackage(pkg) != nil || name.ValidTag(branch) != nil {
		return none
	}
	oid, err := s.db.BranchCommit(r.Context(), pkg, branch)
	if err != nil {
		return notFound(err, none)
	}
	rel, err := s.releases.byCommit(r.Context(), pkg, oid)
	if err != nil {
		return fmt.Errorf("branch %s of %s: %w", branch, pkg, err)
	}
	w.Header().Set("X-Packbase-Commit", oid)
	w.Header().Set("Cache-Control", "no-cache")
	return s.serveFile(w, r, tarballOf(&rel))
}

// getZigPackage serves GET /z/{zig-hash}.tar.gz.
func (s *Server) getZigPackage(w http.ResponseWriter, r *http.Request) error {
	hash, ok := strings.CutSuffix(chi.URLParam(r, "file"), wire.TarballSuffix)
	none := &Error{Status: http.StatusNotFound, Code: "not_found", Message: "no package with that Zig hash is stored here"}
	if !ok {
		return none
	}
	if err := zigpkg.ValidHash(hash); err != nil {
		return &Error{Status: http.StatusNotFound, Code: "not_found", Message: "that is not a Zig package hash: " + err.Error()}
	}
	rel, err := s.releases.byZigHash(r.Context(), hash)
	if errors.Is(err, fault.ErrNotFound) {
		src, err := s.trees.ByHash(r.Context(), hash)
		if err != nil {
			return notFound(err, none)
		}
		return s.serveSource(w, r, src)
	}
	if err != nil {
		return err
	}
	return s.serveRelease(w, r, rel, false)
}

// cutSuffix tells a tarball's name from a manifest's.
func cutSuffix(name string) (base string, isManifest bool, err error) {
	if base, ok := strings.CutSuffix(name, wire.TarballSuffix); ok {
		return base, false, nil
	}
	if base, ok := strings.CutSuffix(name, wire.ManifestSuffix); ok {
		return base, true, nil
	}
	return "", false, &Error{Status: http.StatusNotFound, Code: "not_found", Message: "a tarball's path ends in .tar.gz, a manifest's in .json"}
}

func errNoTarball(pkg, tag string) *Error {
	return &Error{Status: http.StatusNotFound, Code: "not_found",
		Message: fmt.Sprintf("%q has no release %q here; /api/info/%s lists those it has", pkg, tag, url.PathEscape(pkg))}
}

// notFound replaces ErrNotFound by words.
func notFound(err error, words *Error) error {
	if toError(err).Status == http.StatusNotFound {
		return words
	}
	return err
}

func (s *Server) serveRelease(w http.ResponseWriter, r *http.Request, rel storage.Release, isManifest bool) error {
	w.Header().Set("Cache-Control", cacheable(rel.Private))
	if isManifest {
		return s.serveFile(w, r, file{digest: rel.ManifestDigest, size: -1, at: rel.CreatedAt, contentType: "application/json"})
	}
	return s.serveFile(w, r, tarballOf(&rel))
}

// A file is a blob as an answer.
type file struct {
	digest      string
	size        int64     // that it must have; -1 if no row says so
	at          time.Time // when it was made; zero if that is of no use
	contentType string
}

func tarballOf(rel *storage.Release) file {
	return file{digest: rel.Digest, size: rel.Size, at: rel.CreatedAt, contentType: "application/gzip"}
}

// serveFile answers with the bytes of a blob, or the part that is asked for.
func (s *Server) serveFile(w http.ResponseWriter, r *http.Request, f file) error {
	open := s.promised.open
	if r.Header.Get("Range") == "" {
		open = s.promised.stream
	}
	body, err := open(r.Context(), f.digest)
	if err != nil {
		return fmt.Errorf("open blob %s: %w", f.digest, err)
	}
	defer body.Close()
	if f.size >= 0 && body.Size() != f.size {
		return fmt.Errorf("blob %s has %d bytes, not %d", f.digest, body.Size(), f.size)
	}
	h := w.Header()
	h.Set("Content-Type", f.contentType)
	h.Set("ETag", `"`+f.digest+`"`)
	h.Set("X-Content-Type-Options", "nosniff")
	// Many ranges at once cost more than they are good for, and units that are
	// not known are to be ignored. RFC 9110, section 14.2.
	if ranges := r.Header.Get("Range"); strings.Contains(ranges, ",") || !strings.HasPrefix(ranges, "bytes=") {
		r.Header.Del("Range")
	}
	http.ServeContent(blobWriter{w}, r, "", f.at, body)
	if err := blob.Damaged(body); err != nil {
		// Too late for a status: the answer is shorter than its Content-Length,
		// for which the server closes the connection.
		s.promised.complain(r.Context(), f.digest, err)
	}
	return nil
}

// A blobWriter keeps caches from what http.ServeContent refuses.
type blobWriter struct{ http.ResponseWriter }

func (b blobWriter) WriteHeader(status int) {
	if status >= http.StatusBadRequest {
		b.Header().Set("Cache-Control", "no-store")
	}
	b.ResponseWriter.WriteHeader(status)
}

// ReadFrom keeps sendfile(2) in reach.
func (b blobWriter) ReadFrom(src io.Reader) (int64, error) { return io.Copy(b.ResponseWriter, src) }
