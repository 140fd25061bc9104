package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/francescobianco/packbase/api/answer"
	"github.com/francescobianco/packbase/api/stored"
	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/name"
)

// A caller is whose request it is.
type caller struct {
	scope   string // of the token; "" without one
	unknown bool   // there was a token, and it is none of ours
}

type callerKey struct{}

func callerOf(r *http.Request) caller {
	c, _ := r.Context().Value(callerKey{}).(caller)
	return c
}

// scopes in their order: each may do what those before it may.
var scopes = []string{"", access.ScopeRead, access.ScopeWrite, access.ScopeAdmin}

func (c caller) may(scope string) bool {
	return slices.Index(scopes, c.scope) >= slices.Index(scopes, scope)
}

// authenticate finds out whose request it is, from its header alone: a
// stranger's body is never read. Whoever shows a token of ours sees private
// packages, wherever storage is asked with the request's context.
func (s *Server) authenticate(next http.Handler) http.Handler {
	return s.handle(func(w http.ResponseWriter, r *http.Request) error {
		c, err := s.recognize(r)
		if err != nil {
			return err
		}
		if c != (caller{}) { // as callerOf has it without
			ctx := context.WithValue(r.Context(), callerKey{}, c)
			if c.scope != "" {
				ctx = access.SeePrivate(ctx)
			}
			r = r.WithContext(ctx)
		}
		next.ServeHTTP(w, r)
		return nil
	})
}

func (s *Server) recognize(r *http.Request) (caller, error) {
	header := r.Header
	if s.proxy.Foreign(r) { // the other is for upstream
		header = http.Header{"Authorization": r.Header["Proxy-Authorization"]}
	}
	secret, given := credential(header)
	if !given {
		return caller{}, nil
	}
	got, want := sha256.Sum256([]byte(secret)), sha256.Sum256([]byte(s.opt.Token))
	if s.opt.Token != "" && subtle.ConstantTimeCompare(got[:], want[:]) == 1 {
		return caller{scope: access.ScopeAdmin}, nil
	}
	if !strings.HasPrefix(secret, access.TokenPrefix) {
		return caller{unknown: true}, nil
	}
	t, err := s.tokens.bySecret(r.Context(), secret, got)
	switch {
	case errors.Is(err, fault.ErrNotFound), err == nil && t.Expired():
		// What would be read without the token is not what is asked for.
		if !s.opt.ReadOnly && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
			return caller{}, unauthorized("that token is not known, was revoked or has expired")
		}
		return caller{unknown: true}, nil
	case err != nil:
		return caller{}, err
	}
	return caller{scope: t.Scope}, nil
}

// credential returns the token that a request carries: as a bearer's, or as
// the password, or the user without one, of Basic authentication, which is all
// that Zig and Git send.
func credential(header http.Header) (secret string, given bool) {
	r := &http.Request{Header: header}
	if user, password, ok := r.BasicAuth(); ok {
		if password == "" {
			password = user
		}
		return password, password != ""
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	return token, strings.EqualFold(scheme, "Bearer") && token != ""
}

func unauthorized(message string) *answer.Error {
	return answer.New("unauthorized", message)
}

// authorize lets those pass whose token has the scope.
func (s *Server) authorize(scope string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return s.handle(func(w http.ResponseWriter, r *http.Request) error {
			c := callerOf(r)
			switch {
			case s.opt.ReadOnly:
				return s.readOnly()
			case c.may(scope), s.opt.Token == "" && s.opt.Open:
				next.ServeHTTP(w, r)
				return nil
			case s.opt.Token == "" && c.scope == "":
				return errNoToken
			case c.scope != "":
				return answer.New("forbidden", "this needs a token of the scope "+scope+", and that one has the scope "+c.scope)
			case c.unknown:
				return answer.New("forbidden", "that is not a token of this packbase")
			}
			return unauthorized("this needs a token: send it as `Authorization: Bearer <token>`")
		})
	}
}

var errNoToken = &answer.Error{Status: http.StatusServiceUnavailable, Code: "no_token_configured",
	Message: "writes are off: this packbase has no token; set PACKBASE_TOKEN"}

// guarded refuses what would open private packages to everybody where writes
// need no token.
func (s *Server) guarded(next http.Handler) http.Handler {
	return s.handle(func(w http.ResponseWriter, r *http.Request) error {
		if callerOf(r).scope == "" {
			return errNoToken
		}
		next.ServeHTTP(w, r)
		return nil
	})
}

// maxCachedTokens bounds the tokens in memory.
const maxCachedTokens = 1024

// A tokenCache keeps the tokens that were shown lately, until one is revoked.
type tokenCache struct {
	db    *storage.DB
	epoch *stored.Epoch
	cache *lru.Cache[[sha256.Size]byte, cachedToken]
}

type cachedToken struct {
	access.Token
	epoch int64
	noted time.Time // when its use was last noted
}

func newTokenCache(db *storage.DB, e *stored.Epoch) *tokenCache {
	cache, _ := lru.New[[sha256.Size]byte, cachedToken](maxCachedTokens) // the error is about sizes below one
	return &tokenCache{db: db, epoch: e, cache: cache}
}

// bySecret returns a token that was not revoked, and notes that it is used.
func (c *tokenCache) bySecret(ctx context.Context, secret string, sum [sha256.Size]byte) (access.Token, error) {
	now := c.epoch.Now(ctx)
	t, ok := c.cache.Get(sum)
	if !ok || t.epoch != now {
		ctx, cancel := context.WithTimeout(ctx, findTimeout)
		defer cancel()
		found, err := c.db.Access.TokenBySecret(ctx, secret)
		if err != nil {
			return access.Token{}, err
		}
		t = cachedToken{Token: found, epoch: now, noted: t.noted}
	}
	if time.Since(t.noted) > time.Minute {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_ = c.db.Access.TokenUsed(ctx, t.Name) // a replica of Postgres cannot be written to
		t.noted = time.Now()
	}
	c.cache.Add(sum, t)
	return t.Token, nil
}

// postVisibility serves POST /api/visibility/{package}.
func (s *Server) postVisibility(w http.ResponseWriter, r *http.Request) error {
	pkg := chi.URLParam(r, "package")
	var in wire.Visibility
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	if in.Visibility != "public" && in.Visibility != "private" {
		return answer.New("invalid", `visibility: want "public", for all to read, or "private", for those with a token`)
	}
	if name.ValidPackage(pkg) != nil {
		return answer.NoPackage(pkg)
	}
	if err := s.db.SetVisibility(r.Context(), pkg, in.Visibility == "private"); err != nil {
		return answer.OrNotFound(err, answer.NoPackage(pkg))
	}
	s.decided(r.Context(), pkg)
	return s.answerCheck(w, r, pkg)
}

// postRename serves POST /api/rename: a package is shown under another name,
// and goes on answering to those that it has.
func (s *Server) postRename(w http.ResponseWriter, r *http.Request) error {
	var in wire.Rename
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	if name.ValidPackage(in.Package) != nil {
		return answer.NoPackage(in.Package)
	}
	p, err := s.db.Rename(r.Context(), in.Package, in.Name)
	if err != nil {
		return answer.OrNotFound(err, answer.NoPackage(in.Package))
	}
	s.decided(r.Context(), p.Name)
	return s.answerCheck(w, r, p.Name)
}

// postRemove serves POST /api/remove: a release, a commit or a whole package is
// served to nobody any more.
func (s *Server) postRemove(w http.ResponseWriter, r *http.Request) error {
	var in wire.Remove
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	switch {
	case in.Archive != nil && (in.Package != "" || in.Tag != nil || in.Commit != nil):
		return answer.New("invalid", "give an archive alone, or a package with a tag, a commit or neither")
	case in.Archive != nil:
		return s.removeArchive(w, r, *in.Archive, in.Reason)
	case name.ValidPackage(in.Package) != nil:
		return answer.NoPackage(in.Package)
	case in.Tag != nil && in.Commit != nil:
		return answer.New("invalid", "give a tag or a commit, not both; neither is the whole package")
	case in.Tag != nil && *in.Tag == "": // a variable that was never set, most likely
		return answer.New("invalid", "tag: it is empty; leave it out to remove the whole package")
	case in.Commit != nil && !name.ValidOID(*in.Commit):
		return answer.New("invalid", "commit: want the 40 hex digits of a commit id")
	}
	what := storage.Removal{Package: in.Package, Reason: in.Reason}
	if in.Tag != nil {
		what.Tag = *in.Tag
	}
	if in.Commit != nil {
		what.Commit = strings.ToLower(*in.Commit)
	}
	done, err := s.db.Remove(r.Context(), what)
	if err != nil {
		return answer.OrNotFound(err, answer.New("not_found", fmt.Sprintf("%q has nothing like that here; /api/info/%s lists what it has", in.Package, in.Package)))
	}
	s.epoch.Renew(r.Context())
	s.news.Add(1)
	if !done.Freed {
		s.enqueue(r.Context(), done.Job)
	}
	answer.JSON(w, http.StatusOK, wire.Removed{
		Status: "removed", Package: done.Package, Left: append([]string{}, done.Left...), Freed: done.Freed,
		Removed: each(done.Releases, func(t storage.Tombstone) wire.RemovedRelease {
			return wire.RemovedRelease{Tag: t.Tag, Commit: t.CommitOID}
		}),
	})
	return nil
}

// removeArchive is postRemove for what a URL answered.
func (s *Server) removeArchive(w http.ResponseWriter, r *http.Request, archive, reason string) error {
	d, err := name.ParseDependency(archive)
	if err != nil || d.Git {
		return fault.Invalid("archive", "want the http or https URL of an archive, as a build.zig.zon has it")
	}
	if err := storage.ValidReason(reason); err != nil {
		return err
	}
	left, err := s.trees.Remove(r.Context(), d.URL, reason)
	if err != nil {
		return answer.OrNotFound(err, answer.New("not_found", "what that URL answers is not stored here"))
	}
	s.epoch.Renew(r.Context())
	s.news.Add(1)
	answer.JSON(w, http.StatusOK, wire.Removed{Status: "removed", Archive: d.URL, Left: append([]string{}, left...), Removed: []wire.RemovedRelease{}})
	return nil
}

// decided has a decision about a package hold from now on, and last: a probe
// looks at what is served now, and keeps a record of the package.
func (s *Server) decided(ctx context.Context, pkg string) {
	s.epoch.Renew(ctx)
	s.news.Add(1)
	job, created, err := s.db.Jobs.RequestProbe(ctx, pkg)
	if err != nil {
		s.log.WarnContext(ctx, "decision not recorded", "package", pkg, "err", err)
	}
	if created {
		s.enqueue(ctx, job)
	}
}

// getLogin serves GET /login: it has a browser ask its user for a token, which
// it then sends with every request.
func (s *Server) getLogin(w http.ResponseWriter, r *http.Request) error {
	if callerOf(r).scope == "" {
		e := unauthorized("give a token as the password")
		e.Basic = true
		return e
	}
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, "/", http.StatusFound)
	return nil
}

// createToken serves POST /api/tokens.
func (s *Server) createToken(w http.ResponseWriter, r *http.Request) error {
	var in wire.CreateToken
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	var expires *time.Time
	if in.Expires != "" {
		at, err := time.Parse(time.RFC3339, in.Expires)
		if err != nil {
			return answer.New("invalid", "expires: want a time like 2027-01-31T12:00:00Z")
		}
		expires = &at
	}
	t, secret, err := s.db.Access.CreateToken(r.Context(), in.Name, in.Scope, expires)
	if errors.Is(err, fault.ErrConflict) {
		return answer.New("conflict", "there is a token of that name; revoke it first, or give another name")
	}
	if err != nil {
		return err
	}
	answer.JSON(w, http.StatusCreated, wire.NewToken{Token: wire.Token(t), Secret: secret})
	return nil
}

// listTokens serves GET /api/tokens.
func (s *Server) listTokens(w http.ResponseWriter, r *http.Request) error {
	all, err := s.db.Access.Tokens(r.Context())
	if err != nil {
		return err
	}
	answer.JSON(w, http.StatusOK, wire.Tokens{Tokens: each(all, func(t access.Token) wire.Token { return wire.Token(t) })})
	return nil
}

// revokeToken serves POST /api/tokens/{name}/revoke.
func (s *Server) revokeToken(w http.ResponseWriter, r *http.Request) error {
	name := chi.URLParam(r, "name")
	if err := s.db.Access.RevokeToken(r.Context(), name); err != nil {
		return answer.OrNotFound(err, answer.New("not_found", "there is no token of that name; /api/tokens lists them"))
	}
	s.epoch.Renew(r.Context())
	answer.JSON(w, http.StatusOK, wire.Revoked{Name: name, Status: "revoked"})
	return nil
}
