// Package proxy lets a zig that knows nothing of packbase take all its packages from it: by http_proxy and
// https_proxy, or by prefix URLs, /u/https/host/path.
//
// Zig asks a proxy for a tunnel, and when that is refused for the URL itself, in absolute form and clear text, https
// or not. Nothing is ever forwarded: answers are stored archives, stored releases and Git from packbase's own
// store; what is missing may be pulled by a worker, if the operator has opened its host. This is no open proxy.
//
// Zig prints next to nothing of an answer. What all versions print verbatim is a Content-Type that they do not know, so
// that is how a tarball is refused; the last refusals are kept for GET /why.
package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode"

	"github.com/francescobianco/packbase/storage/name"
)

// A Store has what is answered.
type Store interface {
	// ServeArchive answers with what is stored for a dependency that is no Git repository.
	// It returns ErrMissing, and has not written, if there is nothing.
	ServeArchive(w http.ResponseWriter, r *http.Request, d name.Dependency) error
	// ServeGit answers a request of Git's smart protocol; service is InfoRefs or UploadPack. Of the latter, d has the
	// ref that is asked for. It returns ErrMissing, and has not written, if there is no such repository, or if it
	// lacks the ref and may be pulled.
	ServeGit(w http.ResponseWriter, r *http.Request, d name.Dependency, service string) error
	// Pull has a dependency fetched that is missing, and returns when that has ended. The error is a *Refusal
	// if it is not to be had.
	Pull(w http.ResponseWriter, r *http.Request, d name.Dependency) error
}

// The requests of Git's smart protocol, by the end of their path.
const (
	InfoRefs   = "info/refs"
	UploadPack = "git-upload-pack"
)

// ErrMissing says that nothing is stored.
var ErrMissing = errors.New("not stored")

// A Refusal is why there is no answer, for people to read.
type Refusal struct {
	Status int
	Reason string
}

func (e *Refusal) Error() string { return e.Reason }

// Options are a proxy's settings.
type Options struct {
	// Own tells whether a host, with its port if the client named one, is packbase itself, which was asked at the
	// port that port returns. absolute says that it came with a URL in absolute form.
	Own    func(host string, port func() string, absolute bool) bool
	Client func(*http.Request) string                      // who is told of which refusals
	Fail   func(http.ResponseWriter, *http.Request, error) // answers with an error that is no Refusal
}

// A Proxy answers for other hosts. Make one with New.
type Proxy struct {
	store Store
	opt   Options
	why   refusals
}

// New returns a proxy.
func New(store Store, opt Options) *Proxy { return &Proxy{store: store, opt: opt} }

// Foreign tells whether a request is meant for another host.
func (p *Proxy) Foreign(r *http.Request) bool {
	if r.URL.IsAbs() {
		return !p.opt.Own(r.URL.Host, port(r), true)
	}
	return r.Host != "" && !p.opt.Own(r.Host, port(r), false)
}

// port returns what tells the port at which a request came.
func port(r *http.Request) func() string {
	return func() string {
		addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		if !ok {
			return ""
		}
		_, port, _ := net.SplitHostPort(addr.String()) // a socket without one is no place that a URL names
		return port
	}
}

// Wrap returns a handler that answers what is meant for other hosts, and prefix URLs, and leaves the rest to own. It
// comes before any route: else https://github.com/p/x would be our own page.
func (p *Proxy) Wrap(own http.Handler) http.Handler {
	// A Zig whose idle connection was closed fails, so none is left idle.
	closing := func(w http.ResponseWriter) { w.Header().Set("Connection", "close") }
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch foreign := p.Foreign(r); {
		case r.Method == http.MethodConnect:
			closing(w)
			// The one refusal after which every Zig asks for the URL itself.
			w.Header().Set("Content-Length", "0")
			w.WriteHeader(http.StatusMethodNotAllowed)
		case foreign && r.URL.IsAbs():
			closing(w)
			p.serve(w, r, r.RequestURI)
		case foreign:
			closing(w)
			// A reverse proxy made origin form of it, and the scheme is lost; nearly all are https.
			p.serve(w, r, "https://"+r.Host+r.RequestURI)
		case strings.HasPrefix(r.URL.Path, "/u/"):
			closing(w)
			p.prefix(w, r, own)
		default:
			own.ServeHTTP(w, r)
		}
	})
}

// prefix serves /u/{scheme}/{host}/{path}, the path and the query as they come.
func (p *Proxy) prefix(w http.ResponseWriter, r *http.Request, own http.Handler) {
	uri := r.RequestURI
	if r.URL.IsAbs() {
		uri = (&url.URL{Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery}).String()
	}
	rest, _ := strings.CutPrefix(uri, "/u/")
	scheme, rest, ok := strings.Cut(rest, "/")
	if !ok || scheme != "http" && scheme != "https" {
		p.refuse(w, r, "", &Refusal{http.StatusNotFound, "a prefix URL is /u/https/host/path"})
		return
	}
	target := scheme + "://" + rest
	u, err := url.Parse(target)
	if err != nil || !p.opt.Own(u.Host, port(r), true) {
		p.serve(w, r, target)
		return
	}
	// What is ours needs no prefix. One round only: a URL could go round for as long as it is.
	if strings.HasPrefix(u.Path, "/u/") {
		p.refuse(w, r, "", &Refusal{http.StatusLoopDetected, "that prefix URL leads back to this packbase, which has prefix URLs of its own"})
		return
	}
	r2 := r.Clone(r.Context())
	r2.URL, r2.RequestURI = &url.URL{Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery}, u.RequestURI()
	own.ServeHTTP(w, r2)
}

// serve answers for target, a URL as it came.
func (p *Proxy) serve(w http.ResponseWriter, r *http.Request, target string) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != http.MethodPost {
		p.refuse(w, r, target, &Refusal{http.StatusMethodNotAllowed, "only GET and POST of packages are answered for other hosts"})
		return
	}
	d, service, err := parse(target)
	if err != nil {
		p.refuse(w, r, target, &Refusal{http.StatusBadRequest, err.Error()})
		return
	}
	if service == UploadPack && r.Method == http.MethodPost {
		if d.Ref, err = wanted(r); err != nil {
			p.refuse(w, r, target, &Refusal{http.StatusBadRequest, "the request of Git cannot be read"})
			return
		}
	}
	if err := p.answer(w, r, d, service); err != nil {
		p.refuse(w, r, target, err)
	}
}

// parse tells Git's requests from archives. service is "" for an archive.
func parse(target string) (d name.Dependency, service string, err error) {
	before, query, _ := strings.Cut(target, "?")
	for _, s := range []string{InfoRefs, UploadPack} {
		if repo, ok := strings.CutSuffix(before, "/"+s); ok && (s != InfoRefs || query == "service=git-upload-pack") {
			d, err = name.ParseDependency("git+" + repo)
			return d, s, err
		}
	}
	d, err = name.ParseDependency(target)
	return d, "", err
}

// answer answers from the store, after a pull if need be.
func (p *Proxy) answer(w http.ResponseWriter, r *http.Request, d name.Dependency, service string) error {
	err := p.stored(w, r, d, service)
	if errors.Is(err, ErrMissing) && !r.URL.IsAbs() && p.Foreign(r) {
		err = p.stored(w, r, overHTTP(d), service) // the scheme was lost: see Wrap
	}
	if !errors.Is(err, ErrMissing) {
		return err
	}
	if err := p.store.Pull(w, r, d); err != nil {
		return err
	}
	if err = p.stored(w, r, d, service); errors.Is(err, ErrMissing) {
		return &Refusal{http.StatusNotFound, d.URL + " was looked for, and is not here for you"}
	}
	return err
}

// overHTTP returns the same dependency at its http URL.
func overHTTP(d name.Dependency) name.Dependency {
	d.URL, d.Repository = strings.Replace(d.URL, "https://", "http://", 1), strings.Replace(d.Repository, "https://", "http://", 1)
	return d
}

func (p *Proxy) stored(w http.ResponseWriter, r *http.Request, d name.Dependency, service string) error {
	if service == "" {
		if r.Method == http.MethodPost {
			return &Refusal{http.StatusMethodNotAllowed, "an archive is fetched with GET"}
		}
		return p.store.ServeArchive(w, r, d)
	}
	return p.store.ServeGit(w, r, d, service)
}

// refuse answers that there is nothing, and notes why.
func (p *Proxy) refuse(w http.ResponseWriter, r *http.Request, target string, err error) {
	var refusal *Refusal
	if !errors.As(err, &refusal) {
		p.opt.Fail(w, r, err)
		return
	}
	reason := strings.Map(header, refusal.Reason)
	p.why.add(p.opt.Client(r), reason)
	h := w.Header()
	h.Set("X-Packbase-Reason", reason)
	h.Set("Cache-Control", "no-store")
	status := refusal.Status
	switch foreign := p.Foreign(r); {
	case status == http.StatusUnauthorized && foreign:
		status = http.StatusProxyAuthRequired
		h.Set("Proxy-Authenticate", `Basic realm="packbase"`)
	case status == http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Basic realm="packbase"`)
	}
	if IsZig(r) && r.Method == http.MethodGet && !strings.Contains(target, "/info/refs?") {
		h.Set("Content-Type", "packbase: "+reason)
		h.Set("Content-Length", "0")
		w.WriteHeader(http.StatusOK)
		return
	}
	http.Error(w, reason, status)
}

// header keeps a reason fit for a header, and for the terminal that Zig prints it on: it quotes URLs of strangers.
func header(c rune) rune {
	if !unicode.IsPrint(c) {
		return ' '
	}
	return c
}

// IsZig tells whether a request is of Zig's package manager.
func IsZig(r *http.Request) bool { return strings.HasPrefix(r.UserAgent(), "zig/") }

// Why returns the last refusals of whoever sent the request, the newest first.
func (p *Proxy) Why(r *http.Request) []string {
	all := p.why.of(p.opt.Client(r))
	slices.Reverse(all)
	return all
}

// NotOpened is the refusal for a host that the operator has not opened.
func NotOpened(d name.Dependency, page string) *Refusal {
	u, _ := url.Parse(strings.TrimPrefix(d.URL, "git+"))
	what := strings.TrimPrefix(u.Host+u.Path, "www.")
	return &Refusal{http.StatusNotFound, fmt.Sprintf("%s is not mirrored here; `packbase capture` brings a project's whole tree; see %s", what, page)}
}
