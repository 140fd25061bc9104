package api

import (
	"net/http"

	"github.com/go-chi/chi/v5"

	"github.com/francescobianco/packbase/api/answer"
	"github.com/francescobianco/packbase/api/wire"
)

// getVersions serves GET /api/versions/{package}: its tags, as Renovate's
// custom datasources read them. https://docs.renovatebot.com/modules/datasource/custom/
func (s *Server) getVersions(w http.ResponseWriter, r *http.Request) error {
	base, err := answer.BaseURL(r)
	if err != nil {
		return err
	}
	pkg := chi.URLParam(r, "package")
	p, err := s.db.PackageByName(r.Context(), pkg)
	if err != nil {
		return answer.OrNotFound(err, answer.NoPackage(pkg))
	}
	raw, err := s.answers.make(r.Context(), func() (any, error) {
		refs, err := s.db.TagRefs(r.Context(), p.Name)
		out := wire.Versions{Homepage: base + "/" + p.Called(), SourceURL: p.Upstream, Releases: []wire.Version{}}
		for _, ref := range refs {
			if ref.Tag != "" {
				out.Releases = append(out.Releases, wire.Version{Version: ref.Tag, ReleaseTimestamp: ref.CommitTime.UTC(), Digest: ref.CommitOID})
			}
		}
		return out, err
	})
	if err != nil {
		return err
	}
	return s.answers.send(w, r, s.clientOf(r), raw)
}
