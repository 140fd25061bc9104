package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/francescobianco/packbase/api/answer"
	"github.com/francescobianco/packbase/api/directory"
	"github.com/francescobianco/packbase/api/route"
	"github.com/francescobianco/packbase/api/wire"
)

// searchPackages serves GET /api/search?q=&zig_name=&fingerprint=&limit=&offset=.
func (s *Server) searchPackages(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	limit, err := limitOf(r, 50, 500)
	if err != nil {
		return err
	}
	offset, err := offsetOf(r)
	if err != nil {
		return err
	}
	v, err := s.directory.Last(r.Context())
	if err != nil {
		return err
	}
	of := basis{view: v.Number}
	if q.Get("zig_name") != "" || q.Get("fingerprint") != "" {
		of = basis{} // Postgres knows these
	}
	return s.sendKept(w, r, of, func() (any, error) {
		found, err := s.search(r.Context(), v, q)
		if err != nil {
			return nil, err
		}
		out := wire.Found{Query: q.Get("q"), Total: len(found), Results: []wire.Match{}}
		for _, p := range page(found, offset, limit) {
			out.Results = append(out.Results, newFoundBody(p))
		}
		if next := offset + limit; next < len(found) {
			q.Set("offset", strconv.Itoa(next))
			out.Next = route.Search + "?" + q.Encode()
		}
		return out, nil
	})
}

// search returns the packages of a view that all of a query's conditions hold for, the best first.
func (s *Server) search(ctx context.Context, v *directory.View, q url.Values) ([]*directory.Listing, error) {
	words, name, fingerprint := q.Get("q"), q.Get("zig_name"), q.Get("fingerprint")
	if name == "" && fingerprint == "" && words == "" {
		return nil, answer.New("invalid", "q: want 1 to 200 bytes of text to look for, or zig_name, or fingerprint")
	}
	for field, text := range map[string]string{"q": words, "zig_name": name} {
		if len(text) > 200 || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
			return nil, answer.New("invalid", field+": want 1 to 200 bytes of text to look for")
		}
	}
	if fingerprint != "" {
		digits, ok := strings.CutPrefix(strings.ToLower(fingerprint), "0x")
		n, err := strconv.ParseUint(digits, 16, 64)
		if !ok || err != nil {
			return nil, answer.New("invalid", "fingerprint: want it as build.zig.zon has it, like 0x3610a68601d3a5e9")
		}
		fingerprint = fmt.Sprintf("%#016x", n)
	}
	found := v.Packages
	if words != "" {
		found = v.Search(words)
	}
	if name == "" && fingerprint == "" {
		return found, nil
	}
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	named, err := s.trees.Named(ctx, name, fingerprint)
	if err != nil {
		return nil, err
	}
	// What the reader may not see is not in the directory.
	return slices.DeleteFunc(slices.Clone(found), func(p *directory.Listing) bool { return !slices.Contains(named, p.Name) }), nil
}

func newFoundBody(p *directory.Listing) wire.Match {
	b := wire.Match{Package: p.Called(), Description: p.Description, Upstream: p.Upstream, Language: p.Language,
		Releases: p.ReleaseCount, Snapshots: p.SnapshotCount, Healthy: p.Healthy, UpdatedAt: p.UpdatedAt}
	if p.LatestTag != nil {
		b.LatestTag = *p.LatestTag
	}
	return b
}

func offsetOf(r *http.Request) (int, error) {
	text := r.URL.Query().Get("offset")
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > 10_000_000 {
		return 0, answer.New("invalid", "offset: want a number from 0")
	}
	return n, nil
}
