package api

import (
	"net/http"
	"time"

	"github.com/francescobianco/packbase/api/answer"
	"github.com/francescobianco/packbase/api/route"
	"github.com/francescobianco/packbase/api/stored"
	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/tree"
)

// getArchive serves GET /api/archives?url=.
func (s *Server) getArchive(w http.ResponseWriter, r *http.Request) error {
	d, err := name.ParseDependency(r.URL.Query().Get("url"))
	if err != nil || d.Git {
		return answer.New("invalid", "url: want the http or https URL of an archive, as a build.zig.zon has it")
	}
	a, err := s.trees.ByURL(r.Context(), d.URL)
	if err != nil {
		return answer.OrNotFound(err, answer.New("not_found", "what that URL answers is not stored here; `packbase capture` brings what a project needs"))
	}
	moves, err := s.trees.Moves(r.Context(), d.URL)
	if err != nil {
		return err
	}
	place, err := s.ledger.ArchivePlace(r.Context(), a.URL, a.ZigLegacyHash)
	if err != nil {
		return err
	}
	out := wire.Archive{
		URL: a.URL, ZigHash: a.ZigHash, ZigLegacyHash: a.ZigLegacyHash, SHA256: a.Digest, SizeBytes: a.Size, ContentType: a.ContentType,
		Format: a.Format, FinalURL: a.FinalURL, TarballSHA256: a.TarballDigest, TarballBytes: a.TarballSize,
		MinimumZig: a.Zig.MinimumZigVersion, CreatedAt: a.CreatedAt, MovedSince: make([]wire.Moved, len(moves)), DependencyCount: len(a.Zig.Dependencies),
		Logged: newLogged(place, route.Path(route.Zig, a.ZigLegacyHash+route.ProofSuffix)),
	}
	for i, m := range moves {
		out.MovedSince[i] = wire.Moved{ZigHash: m.NewHash, ZigLegacyHash: m.NewLegacyHash, SeenAt: m.SeenAt}
	}
	answer.JSON(w, http.StatusOK, out)
	return nil
}

// serveSource answers with the tarball that Zig is given for a hash.
func (s *Server) serveSource(w http.ResponseWriter, r *http.Request, src tree.Source) error {
	w.Header().Set("Cache-Control", stored.Cacheable(src.Private))
	return s.promised.Serve(w, r, sourceFile(src))
}

func sourceFile(src tree.Source) stored.File {
	return stored.File{Digest: src.Digest, Size: src.Size, At: time.Unix(0, 0), ContentType: "application/gzip"}
}
