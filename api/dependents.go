package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/go-chi/chi/v5"

	"github.com/francescobianco/packbase/api/answer"
	"github.com/francescobianco/packbase/api/route"
	"github.com/francescobianco/packbase/api/wire"
)

// getDependents serves GET /api/dependents/{package}?after=&limit=: the captured trees that have the package.
func (s *Server) getDependents(w http.ResponseWriter, r *http.Request) error {
	limit, err := limitOf(r, 50, 500)
	if err != nil {
		return err
	}
	pkg := chi.URLParam(r, "package")
	p, err := s.db.PackageByName(r.Context(), pkg)
	if err != nil {
		return answer.OrNotFound(err, answer.NoPackage(pkg))
	}
	raw, err := s.answers.make(r.Context(), func() (any, error) {
		return s.dependents(r.Context(), p.Name, r.URL.Query().Get("after"), limit)
	})
	if err != nil {
		return err
	}
	return s.answers.send(w, r, s.clientOf(r), raw)
}

func (s *Server) dependents(ctx context.Context, pkg, after string, limit int) (out wire.Dependents, err error) {
	tree, hash, _ := strings.Cut(after, "/")
	all, err := s.trees.Dependents(ctx, pkg, tree, hash, limit)
	if err != nil {
		return out, err
	}
	var parents []string
	for _, d := range all {
		parents = append(parents, d.Parents...)
	}
	sources, err := s.trees.Sources(ctx, parents)
	if err != nil {
		return out, err
	}
	out = wire.Dependents{Package: pkg, Dependents: make([]wire.Dependent, len(all))}
	for i, d := range all {
		dep := wire.Dependent{Tree: d.Tree, Hash: d.Hash, Tag: d.Tag, Commit: d.Commit, By: []wire.DependentBy{}, Named: d.Named}
		for _, hash := range d.Parents {
			src := sources[hash]
			dep.Direct = dep.Direct || hash == ""
			if hash != "" {
				dep.By = append(dep.By, wire.DependentBy{Hash: hash, Name: src.Zig.Name, Version: src.Zig.Version, Package: src.Package})
			}
		}
		out.Dependents[i] = dep
	}
	if len(all) == limit {
		last := all[limit-1]
		out.Next = route.Path(route.Dependents, pkg) + "?" + url.Values{"after": {last.Tree + "/" + last.Hash}, "limit": {strconv.Itoa(limit)}}.Encode()
	}
	return out, nil
}
