// Package smarthttp serves packages to Git clients: the smart HTTP protocol,
// read only, versions 0, 1 and 2, from stored packs. It runs no Git, inflates
// nothing and, for a single release, hashes nothing.
//
// A package looks like a shallow repository: HEAD is refs/heads/main, there
// is a ref for each tag, and no commit has its parents. Clients are told so in
// every version of the protocol, so that a plain git clone works, too.
//
// gitprotocol-http(5), gitprotocol-v2(5), gitprotocol-pack(5).
package smarthttp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/gitpack"
)

// A Store knows packages and their packs. It is safe for concurrent use.
type Store interface {
	// Repository returns what Git clients see of a package. It returns an
	// *Error if there is nothing to see, with the reason in words.
	Repository(ctx context.Context, pkg string) (*Repository, error)
	// Packs returns the packs of those ids that are a commit or the tag
	// object of a release of repo; others are left out. The pack of a tag
	// object holds it; that of a commit may hold tag objects, too.
	Packs(ctx context.Context, repo *Repository, ids []gitpack.OID) (map[gitpack.OID]gitpack.Stored, error)
	// Segment opens a segment by its position in repo.Set. The context holds
	// until the segment is closed.
	Segment(ctx context.Context, repo *Repository, i int) (gitpack.Segment, error)
}

// A Repository is a package as Git clients see it. It is shared by requests
// and must not change.
type Repository struct {
	Package   string
	Head      gitpack.OID   // commit of HEAD and refs/heads/main
	Refs      []Ref         // all others, sorted by name as bytes
	Snapshots []gitpack.OID // commits without a ref
	Set       *gitpack.Set
	Segments  []string               // what the store calls the segments of Set
	Removed   map[gitpack.OID]string // commits and tag objects that were removed, and why
}

// A Ref is a name for a commit or a tag object.
type Ref struct {
	Name   string      // in full, as refs/tags/v1.0.0
	OID    gitpack.OID // what upstream's ref names
	Peeled gitpack.OID // the commit behind a tag object; zero if OID is a commit
}

// Commit returns the commit that r leads to.
func (r Ref) Commit() gitpack.OID {
	if r.Peeled.IsZero() {
		return r.OID
	}
	return r.Peeled
}

const mainRef = "refs/heads/main"

// all yields HEAD and then every ref, in Git's order.
func (repo *Repository) all() iter.Seq[Ref] {
	return func(yield func(Ref) bool) {
		i, _ := slices.BinarySearchFunc(repo.Refs, mainRef, func(r Ref, name string) int {
			return cmp.Compare(r.Name, name)
		})
		first := []Ref{{Name: "HEAD", OID: repo.Head}}
		main := []Ref{{Name: mainRef, OID: repo.Head}}
		for _, refs := range [][]Ref{first, repo.Refs[:i], main, repo.Refs[i:]} {
			for _, r := range refs {
				if !yield(r) {
					return
				}
			}
		}
	}
}

// An Error is an answer other than 200. Git shows Message to its user when it
// comes to info/refs, the first request of every command.
type Error struct {
	Status     int           // HTTP status
	Code       string        // for programs, as in the JSON API
	Message    string        // for people, one sentence
	RetryAfter time.Duration // when to try again; 0 for no such advice
}

func (e *Error) Error() string { return e.Message }

func badRequest(format string, args ...any) error {
	return &Error{Status: http.StatusBadRequest, Code: "invalid", Message: fmt.Sprintf(format, args...)}
}

// A refusal is an ERR packet: Git's way to refuse a request that is well
// formed. Git prints it after "fatal: remote error: ".
type refusal string

func (r refusal) Error() string { return string(r) }

func refuse(format string, args ...any) error {
	return refusal(fmt.Sprintf(format, args...))
}

// Options are the limits of a Handler. Zero fields mean the defaults.
type Options struct {
	Agent string // sent to clients; default "packbase"

	MaxBody     int64 // bytes of a request body as sent; default 8 MiB
	MaxInflated int64 // bytes of it without gzip; default 16 MiB
	MaxWants    int   // default 65536
	MaxHaves    int   // also of shallow lines; default 65536

	// Packs are served so many at once, of so many clients' and so many of a
	// package's. What is cheap, lists of refs above all, waits for no turn.
	Fetches        int // default 512
	ClientFetches  int // default 256
	PackageFetches int // default 384

	// Bodies that want or have much are read so many at once.
	LargeBodies       int // default 8
	ClientLargeBodies int // default 2

	Wait   time.Duration                // for a turn, before 503; default 10 s
	Client func(r *http.Request) string // who shares turns; default the address

	// Window is how many bytes to ask a segment for at once; 0, the default,
	// suits local files, 256 KiB a remote store. Each fetch holds as much.
	Window int
}

func (o Options) withDefaults() Options {
	o.Agent = cmp.Or(o.Agent, "packbase")
	o.MaxBody = cmp.Or(o.MaxBody, 8<<20)
	o.MaxInflated = cmp.Or(o.MaxInflated, 16<<20)
	o.MaxWants = cmp.Or(o.MaxWants, 1<<16)
	o.MaxHaves = cmp.Or(o.MaxHaves, 1<<16)
	o.Fetches = cmp.Or(o.Fetches, 512)
	o.ClientFetches = cmp.Or(o.ClientFetches, 256)
	o.PackageFetches = cmp.Or(o.PackageFetches, 384)
	o.LargeBodies = cmp.Or(o.LargeBodies, 8)
	o.ClientLargeBodies = cmp.Or(o.ClientLargeBodies, 2)
	o.Wait = cmp.Or(o.Wait, 10*time.Second)
	if o.Client == nil {
		o.Client = func(r *http.Request) string {
			host, _, _ := net.SplitHostPort(r.RemoteAddr) // "" is as good a key
			return host
		}
	}
	return o
}

// A Handler serves packages. Routing is the caller's.
type Handler struct {
	store  Store
	opts   Options
	log    *slog.Logger
	packs  *turns
	bodies *turns // large ones
	kept   *kept
}

// New returns a handler of the packages in store.
func New(store Store, opts Options, log *slog.Logger) *Handler {
	opts = opts.withDefaults()
	return &Handler{
		store:  store,
		opts:   opts,
		log:    log,
		packs:  newTurns(opts.Fetches, opts.ClientFetches, opts.PackageFetches),
		bodies: newTurns(opts.LargeBodies, opts.ClientLargeBodies, opts.LargeBodies),
		kept:   newKept(),
	}
}

// InfoRefs serves GET <package>/info/refs?service=git-upload-pack.
func (h *Handler) InfoRefs(w http.ResponseWriter, r *http.Request, pkg string) {
	if err := h.infoRefs(w, r, pkg); err != nil {
		h.fail(w, r, pkg, err)
	}
}

// UploadPack serves POST <package>/git-upload-pack.
func (h *Handler) UploadPack(w http.ResponseWriter, r *http.Request, pkg string) {
	if err := h.uploadPack(w, r, pkg); err != nil {
		h.fail(w, r, pkg, err)
	}
}

// Advertise serves GET <repository>/info/refs of a repository that is not there yet, to clients of version 2: they
// are told of what there is only when they ask for it by name. ok is false for others, and nothing is written.
func (h *Handler) Advertise(w http.ResponseWriter, r *http.Request) (ok bool) {
	if protocolVersion(r) != 2 || checkService(r, true) != nil {
		return false
	}
	noCache(w, r)
	w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
	_ = h.send(w, func(p *packetWriter) { advertiseCapabilities(p, h.opts.Agent) }) // the client may have gone
	return true
}

func (h *Handler) infoRefs(w http.ResponseWriter, r *http.Request, pkg string) error {
	if err := checkService(r, true); err != nil {
		return err
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return methodNotAllowed(w, "GET, HEAD")
	}
	repo, err := h.store.Repository(r.Context(), pkg)
	if err != nil {
		return err
	}
	noCache(w, r)
	w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
	version := protocolVersion(r)
	return h.send(w, func(p *packetWriter) { advertise(p, repo, version, h.opts.Agent) })
}

func (h *Handler) uploadPack(w http.ResponseWriter, r *http.Request, pkg string) error {
	if err := checkService(r, false); err != nil {
		return err
	}
	if r.Method != http.MethodPost {
		return methodNotAllowed(w, "POST")
	}
	if t := r.Header.Get("Content-Type"); t != "application/x-git-upload-pack-request" {
		return &Error{Status: http.StatusUnsupportedMediaType, Code: "invalid",
			Message: "the Content-Type must be application/x-git-upload-pack-request"}
	}
	repo, err := h.store.Repository(r.Context(), pkg)
	if err != nil {
		return err
	}
	version := protocolVersion(r)
	req, err := h.readRequest(w, r, pkg, version)
	if err != nil {
		return err
	}
	defer req.free()
	noCache(w, r)
	w.Header().Set("Content-Type", resultType)
	switch req.command {
	case probe:
		return h.send(w, func(*packetWriter) {})
	case lsRefs:
		return h.send(w, func(p *packetWriter) { listRefs(p, repo, req) })
	}
	end, err := h.packs.acquire(r.Context(), h.opts.Client(r), pkg, h.opts.Wait)
	if err != nil {
		return err
	}
	defer end()
	return h.fetch(w, r, repo, req, version)
}

const resultType = "application/x-git-upload-pack-result"

// checkService refuses every service but git-upload-pack, which info/refs must
// and git-upload-pack may name.
func checkService(r *http.Request, required bool) error {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return badRequest("the query is malformed")
	}
	services := query["service"]
	for _, s := range services {
		if s != "git-upload-pack" {
			return &Error{Status: http.StatusForbidden, Code: "read_only",
				Message: "packages are read-only: only git-upload-pack is served"}
		}
	}
	if required && len(services) != 1 {
		return &Error{Status: http.StatusForbidden, Code: "dumb_http",
			Message: "dumb HTTP is not served: use a Git that speaks smart HTTP"}
	}
	return nil
}

func methodNotAllowed(w http.ResponseWriter, allow string) error {
	w.Header().Set("Allow", allow)
	return &Error{Status: http.StatusMethodNotAllowed, Code: "invalid", Message: "use " + allow}
}

// protocolVersion returns the highest version that the client asks for.
// git(1), GIT_PROTOCOL.
func protocolVersion(r *http.Request) int {
	version := 0
	for field := range strings.SplitSeq(r.Header.Get("Git-Protocol"), ":") {
		switch field {
		case "version=1":
			version = max(version, 1)
		case "version=2":
			version = 2
		}
	}
	return version
}

// noCache sets the headers that git http-backend sets, and keeps what is private out of caches that serve others.
func noCache(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Expires", "Fri, 01 Jan 1980 00:00:00 GMT")
	h.Set("Pragma", "no-cache")
	control := "no-cache, max-age=0, must-revalidate"
	if access.SeesPrivate(r.Context()) {
		control = "private, " + control
	}
	h.Set("Cache-Control", control)
}

// fail answers an error and logs it: clients show no more than a part of it.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, pkg string, err error) {
	log := h.log.With("package", pkg, "agent", r.UserAgent())
	var broken *brokenAnswer
	if errors.As(err, &broken) {
		// Too late for a status. The answer is shorter than its Content-Length,
		// for which the server closes the connection.
		if r.Context().Err() == nil {
			log.WarnContext(r.Context(), "git answer broken off", "err", err)
		}
		return
	}
	noCache(w, r)
	var refused refusal
	if errors.As(err, &refused) {
		log.InfoContext(r.Context(), "git request refused", "reason", string(refused))
		w.Header().Set("Content-Type", resultType)
		w.Header().Set("X-Packbase-Error", "refused")
		_ = h.send(w, func(p *packetWriter) { p.linef("ERR %s", refused) }) // the client may have gone
		return
	}
	var e *Error
	if !errors.As(err, &e) {
		e = &Error{Status: http.StatusInternalServerError, Code: "internal", Message: "internal error"}
		if r.Context().Err() == nil {
			log.ErrorContext(r.Context(), "git request failed", "err", err)
		}
	} else {
		log.InfoContext(r.Context(), "git request refused", "status", e.Status, "code", e.Code, "reason", e.Message)
	}
	if e.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((e.RetryAfter+time.Second-1)/time.Second)))
	}
	if e.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="packbase"`)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Packbase-Error", e.Code)
	w.Header().Del("Content-Length")
	w.WriteHeader(e.Status)
	fmt.Fprintln(w, e.Message)
}

// busy is the answer when no turn came up in time. Clients that were refused
// together must not come back together.
func busy() error {
	return &Error{Status: http.StatusServiceUnavailable, Code: "busy",
		Message:    "too many fetches at once: try again in a few seconds",
		RetryAfter: time.Duration(1+rand.IntN(5)) * time.Second}
}
