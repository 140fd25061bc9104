package api

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/go-chi/chi/v5"

	"github.com/francescobianco/packbase/api/answer"
	"github.com/francescobianco/packbase/api/route"
	"github.com/francescobianco/packbase/api/stored"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/zigpkg"
)

// getTagFile serves GET /p/{package}/tag/{tag}.tar.gz, .json and .tlog-proof,
// and the second as .manifest.json, too.
//
// The suffix is cut once, so each path names one object, also when a tag
// itself ends in ".json".
func (s *Server) getTagFile(w http.ResponseWriter, r *http.Request) error {
	if tag, ok := strings.CutSuffix(chi.URLParam(r, "*"), route.ProofSuffix); ok {
		rel, err := s.releases.byTag(r.Context(), chi.URLParam(r, "package"), tag)
		if err != nil {
			err = answer.OrNotFound(err, errNoTarball(chi.URLParam(r, "package"), tag))
		}
		return s.serveProof(w, r, rel, err)
	}
	tag, isManifest, err := cutSuffix(chi.URLParam(r, "*"))
	if err != nil {
		return err
	}
	pkg := chi.URLParam(r, "package")
	if name.ValidPackage(pkg) != nil || name.ValidTag(tag) != nil {
		return errNoTarball(pkg, tag)
	}
	rel, err := s.releases.byTag(r.Context(), pkg, tag)
	// The first packbase's name of a manifest is another's, too, once there is a tag like that.
	if short, ok := strings.CutSuffix(tag, ".manifest"); ok && isManifest && errors.Is(err, fault.ErrNotFound) {
		if rel, err = s.releases.byTag(r.Context(), pkg, short); err == nil {
			w.Header().Set("Cache-Control", stored.Checked(rel.Private))
			s.showLog(w, r, &rel)
			return s.promised.Serve(w, r, stored.ManifestOf(&rel))
		}
	}
	if err != nil {
		return answer.OrNotFound(err, errNoTarball(pkg, tag))
	}
	return s.serveRelease(w, r, rel, isManifest)
}

// getCommitFile serves GET /p/{package}/commit/{oid}.tar.gz, .json and .tlog-proof.
func (s *Server) getCommitFile(w http.ResponseWriter, r *http.Request) error {
	if oid, ok := strings.CutSuffix(chi.URLParam(r, "file"), route.ProofSuffix); ok {
		rel, err := s.releases.byCommit(r.Context(), chi.URLParam(r, "package"), oid)
		return s.serveProof(w, r, rel, err)
	}
	oid, isManifest, err := cutSuffix(chi.URLParam(r, "file"))
	if err != nil {
		return err
	}
	pkg := chi.URLParam(r, "package")
	if name.ValidPackage(pkg) != nil || !name.ValidOID(oid) || oid != strings.ToLower(oid) {
		return answer.New("not_found", "want the 40 lowercase hex digits of a commit id")
	}
	rel, err := s.releases.byCommit(r.Context(), pkg, oid)
	if err != nil {
		return answer.OrNotFound(err, answer.New("not_found",
			fmt.Sprintf("the commit %s of %q is not mirrored; POST /api/fetch with the upstream's URL and #%s mirrors it", oid, pkg, oid)))
	}
	return s.serveRelease(w, r, rel, isManifest)
}

// getBranchFile serves GET /p/{package}/branch/{name}.tar.gz and .json: the last
// mirrored commit of a branch. Only the branch moves; the answer names its commit.
func (s *Server) getBranchFile(w http.ResponseWriter, r *http.Request) error {
	branch, isManifest, err := cutSuffix(chi.URLParam(r, "*"))
	if err != nil {
		return err
	}
	pkg := chi.URLParam(r, "package")
	none := answer.New("not_found",
		fmt.Sprintf("no commit of that branch of %q is mirrored; POST /api/fetch with the upstream's URL and #branch mirrors its tip", pkg))

	if name.ValidPackage(pkg) != nil || name.ValidTag(branch) != nil {
		return none
	}
	oid, err := s.db.BranchCommit(r.Context(), pkg, branch)
	if err != nil {
		return answer.OrNotFound(err, none)
	}
	rel, err := s.releases.byCommit(r.Context(), pkg, oid)
	if err != nil {
		return fmt.Errorf("branch %s of %s: %w", branch, pkg, err)
	}
	w.Header().Set("X-Packbase-Commit", oid)
	w.Header().Set("Cache-Control", stored.Checked(rel.Private))
	if isManifest {
		return s.promised.Serve(w, r, stored.ManifestOf(&rel))
	}
	return s.promised.Serve(w, r, stored.TarballOf(&rel))
}

// getZigPackage serves GET /z/{zig-hash}.tar.gz and .tlog-proof.
func (s *Server) getZigPackage(w http.ResponseWriter, r *http.Request) error {
	hash, proof := strings.CutSuffix(chi.URLParam(r, "file"), route.ProofSuffix)
	hash, ok := strings.CutSuffix(hash, route.TarballSuffix)
	none := answer.New("not_found", "no package with that Zig hash is stored here")
	if ok == proof {
		return none
	}
	if err := zigpkg.ValidHash(hash); err != nil {
		return answer.New("not_found", "that is not a Zig package hash: "+err.Error())
	}
	rel, err := s.releases.byZigHash(r.Context(), hash)
	if errors.Is(err, fault.ErrNotFound) {
		src, err := s.trees.ByHash(r.Context(), hash)
		if err != nil {
			return answer.OrNotFound(err, none)
		}
		if proof {
			text, err := s.ledger.ArchiveProof(r.Context(), src.URL, src.ZigLegacyHash)
			return sendProof(w, r, text, src.Private, err)
		}
		return s.serveSource(w, r, src)
	}
	if proof || err != nil {
		return s.serveProof(w, r, rel, err)
	}
	return s.serveRelease(w, r, rel, false)
}

// cutSuffix tells a tarball's name from a manifest's.
func cutSuffix(name string) (base string, isManifest bool, err error) {
	if base, ok := strings.CutSuffix(name, route.TarballSuffix); ok {
		return base, false, nil
	}
	if base, ok := strings.CutSuffix(name, route.ManifestSuffix); ok {
		return base, true, nil
	}
	return "", false, answer.New("not_found", "a tarball's path ends in .tar.gz, a manifest's in .json")
}

func errNoTarball(pkg, tag string) *answer.Error {
	return answer.New("not_found",
		fmt.Sprintf("%q has no release %q here; /api/info/%s lists those it has", pkg, tag, url.PathEscape(pkg)))

}

func (s *Server) serveRelease(w http.ResponseWriter, r *http.Request, rel storage.Release, isManifest bool) error {
	w.Header().Set("Cache-Control", stored.Cacheable(rel.Private))
	if isManifest {
		s.showLog(w, r, &rel)
		return s.promised.Serve(w, r, stored.ManifestOf(&rel))
	}
	return s.promised.Serve(w, r, stored.TarballOf(&rel))
}
