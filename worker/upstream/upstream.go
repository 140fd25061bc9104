// Package upstream reads foreign Git repositories over HTTP. It is the only
// code that dials upstream: it hides go-git's transport, the network, its
// deadlines and limits, the address checks and the credentials.
//
// A [Session] lists the refs of one repository and streams packs of depth 1
// out of it, in protocol version 0 (gitprotocol-http(5), gitprotocol-pack(5)).
// go-git speaks the protocol; a guard under it bounds and cleans what go-git
// gets to parse, for go-git itself limits nothing. None of its object storage
// is used, nor its registry of protocols: there is no way to ssh, git or file.
//
// Every connection, those of [Client.HTTP] included, obeys the same rules:
//
//   - http and https only, HTTP/1.1, no proxy, no cookies;
//   - the address that is really connected to is public and its port is 80 or
//     443, unless an [Allow] says otherwise;
//   - at most 3 redirects, for GET only, never from https to http;
//   - credentials come from a netrc file and go to the host that was asked
//     for, over https (or over http to a place that an Allow names), and are
//     not sent along with a redirect to another origin;
//   - each step has a deadline, and what is read has a limit.
//
// What upstream does wrong is an [*Error] with a code. Other errors are those
// of the caller's context and of the caller's writer.
package upstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"

	"github.com/francescobianco/packbase/storage/gitpack"
)

// Options say what a Client may do.
type Options struct {
	Allow     []Allow  // places that are open although the address rules close them
	Netrc     string   // path of a netrc file, read for each session; "" for none
	Hosts     []string // the only ones dialled, each with its port unless that is 80 or 443; nil for any
	Limits    Limits   // a zero field means the default
	UserAgent string   // header; "" means "packbase"

	// Of a process without files and network, see [Options.Through].
	login func(*url.URL) (Login, error)                                         // in place of Netrc
	dial  func(ctx context.Context, network, hostport string) (net.Conn, error) // in place of name lookup, address rules and connect
}

// Limits bound what one repository may cost. Sizes are bytes.
type Limits struct {
	Refs         int   // branches and tags of one list
	RefListBytes int64 // one ref list as sent, refs of other kinds included
	PackBytes    int64 // one pack

	Connect time.Duration // name lookup and TCP connect
	TLS     time.Duration // TLS handshake
	Header  time.Duration // from the request to the end of the answer's header
	Begin   time.Duration // from the request for a pack to its first byte: upstream counts objects
	Idle    time.Duration // without a byte; also the window that MinRate is measured in
	Total   time.Duration // one Connect or one FetchPack
	MinRate int64         // bytes a second, on average over Idle, once a list or a pack has begun
}

// DefaultLimits returns the limits that stand in for zero fields.
func DefaultLimits() Limits {
	return Limits{
		Refs:         50_000,
		RefListBytes: 64 << 20,
		PackBytes:    2 << 30,
		Connect:      10 * time.Second,
		TLS:          10 * time.Second,
		Header:       30 * time.Second,
		Begin:        2 * time.Minute,
		Idle:         60 * time.Second,
		Total:        time.Hour, // who keeps to MinRate comes to an end
		MinRate:      4 << 10,
	}
}

// orDefaults returns l with its zero fields replaced.
func (l Limits) orDefaults() Limits {
	d := DefaultLimits()
	return Limits{
		Refs:         cmp.Or(l.Refs, d.Refs),
		RefListBytes: cmp.Or(l.RefListBytes, d.RefListBytes),
		PackBytes:    cmp.Or(l.PackBytes, d.PackBytes),
		Connect:      cmp.Or(l.Connect, d.Connect),
		TLS:          cmp.Or(l.TLS, d.TLS),
		Header:       cmp.Or(l.Header, d.Header),
		Begin:        cmp.Or(l.Begin, d.Begin),
		Idle:         cmp.Or(l.Idle, d.Idle),
		Total:        cmp.Or(l.Total, d.Total),
		MinRate:      cmp.Or(l.MinRate, d.MinRate),
	}
}

// A Client dials upstream. It is safe for concurrent use.
type Client struct {
	allow  allowList
	hosts  []string
	netrc  string
	login  func(*url.URL) (Login, error) // the credentials for a host, or zero ones
	dialer func(ctx context.Context, network, hostport string) (net.Conn, error)
	limits Limits
	agent  string
	base   *http.Transport
}

// New returns a Client that obeys o.
func New(o Options) *Client {
	c := &Client{
		allow:  o.Allow,
		hosts:  o.Hosts,
		netrc:  o.Netrc,
		login:  o.login,
		dialer: o.dial,
		limits: o.Limits.orDefaults(),
		agent:  cmp.Or(o.UserAgent, "packbase"),
	}
	if c.dialer == nil {
		c.dialer = c.dial
	}
	if c.login == nil {
		c.login = c.netrcLogin
	}
	c.base = c.newTransport()
	return c
}

// HTTP returns a client for downloads that are not Git, such as the catalog.
// Its errors, those of reading a body included, wrap an [*Error]. Of the limits
// only the deadlines and MinRate hold: the status, the length of the body and
// the total time are for the caller to judge.
func (c *Client) HTTP() *http.Client {
	return &http.Client{Transport: &roundTripper{client: c}}
}

// Refs are the branches and tags of a repository.
type Refs struct {
	Head     string       // the ref that HEAD names, such as "refs/heads/main"; "" if unknown
	HeadOID  gitpack.OID  // what HEAD points to; zero in an empty repository
	Tags     []Ref        // by name, bytewise
	Branches []Ref        // by name, bytewise
	Skipped  []SkippedRef // branches and tags with a name that Git forbids, in upstream's order
}

// A Ref is one branch or tag as upstream lists it.
type Ref struct {
	Name   string      // without "refs/tags/" or "refs/heads/"; passes git check-ref-format
	OID    gitpack.OID // the object that the ref names: an annotated tag's own id
	Peeled gitpack.OID // what the annotated tag leads to; zero for a branch or a lightweight tag
}

// A SkippedRef is a ref that is not in the list, and why.
type SkippedRef struct {
	Name   string // with "refs/", escaped and cut to about 100 bytes: fit for a log
	Reason string
}

// A Session reads one repository. It is not safe for concurrent use.
type Session struct {
	limits Limits
	refs   Refs
	caps   *capability.List // nil if upstream has no refs
	git    transport.UploadPackSession
	guard  *guard

	// Digest is of all that packbase uses of the ref list, and of whether
	// credentials were needed: while it stays, nothing there has changed. See
	// [Client.Look].
	Digest string
}

// Connect lists the refs of the repository at rawURL, in one round trip. An
// empty repository is no error.
//
// Credentials are sent only where upstream wants some: what strangers may read
// is told from what they may not.
func (c *Client) Connect(ctx context.Context, rawURL string) (*Session, error) {
	u, err := parseURL(rawURL)
	if err != nil {
		return nil, err
	}
	ctx, cancel := c.limits.total(ctx)
	defer cancel()
	var s *Session
	private, err := c.asNeeded(u, func(as Login) (err error) {
		s, err = c.connect(ctx, u, as)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.Digest = digestOf(s.Digest, private)
	return s, nil
}

// asNeeded has ask read what is at u as a stranger, and with the credentials
// for it where upstream wants some: then it is private.
func (c *Client) asNeeded(u *url.URL, ask func(Login) error) (private bool, err error) {
	refused := ask(Login{})
	if !wantsLogin(refused) {
		return false, refused
	}
	login, err := c.login(u)
	if err != nil {
		return false, err
	}
	if login.isZero() {
		return false, refused
	}
	return true, ask(login)
}

// MaxLooks is how many looks at one host use connections again.
const MaxLooks = 4

// Look returns what Digest is of a session that begins now, in one round trip as [Client.Connect], and keeps no list.
func (c *Client) Look(ctx context.Context, rawURL string) (digest string, err error) {
	u, err := parseURL(rawURL)
	if err != nil {
		return "", err
	}
	ctx, cancel := c.limits.total(ctx)
	defer cancel()
	private, err := c.asNeeded(u, func(as Login) (err error) {
		digest, err = c.look(ctx, u, as)
		return err
	})
	if err != nil {
		return "", err
	}
	return digestOf(digest, private), nil
}

func (c *Client) look(ctx context.Context, u *url.URL, as Login) (digest string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String()+"/info/refs?service=git-upload-pack", nil)
	if err != nil {
		return "", fmt.Errorf("look at upstream: %w", err)
	}
	s := &Session{limits: c.limits, guard: &guard{next: &roundTripper{client: c, origin: u, login: as}, limits: c.limits}}
	resp, err := (&http.Client{Transport: s.guard}).Do(req)
	if err != nil {
		return "", s.explain(ctx, err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return "", s.explain(ctx, err)
	}
	return s.guard.digest, nil
}

// digestOf returns the digest of a session, of that of its list.
func digestOf(list string, private bool) string {
	if private {
		return "private " + list
	}
	return list
}

// wantsLogin reports whether the answer to a stranger may be another one than
// to somebody known: forges hide what is private in many ways.
func wantsLogin(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code {
	case CodeAuth, CodeNotFound, CodeRedirect, CodeRefused, CodeNotGit:
		return true
	}
	return false
}

func (c *Client) connect(ctx context.Context, u *url.URL, as Login) (*Session, error) {
	g := &guard{next: &roundTripper{client: c, origin: u, login: as}, limits: c.limits}
	git, err := openGit(u, g)
	if err != nil {
		return nil, fmt.Errorf("open session: %w", err)
	}
	s := &Session{limits: c.limits, git: git, guard: g}
	adv, err := git.AdvertisedReferencesContext(ctx)
	switch {
	case errors.Is(err, transport.ErrEmptyRemoteRepository):
		s.refs.Skipped, s.Digest = g.skipped, g.digest
		return s, nil
	case err != nil:
		return nil, s.explain(ctx, err)
	}
	s.refs, s.caps = newRefs(adv), adv.Capabilities
	s.refs.Skipped, s.Digest = g.skipped, g.digest
	return s, nil
}

// openGit returns go-git's session for u over rt.
func openGit(u *url.URL, rt http.RoundTripper) (transport.UploadPackSession, error) {
	endpoint, err := transport.NewEndpoint(u.String())
	if err != nil {
		return nil, err
	}
	return githttp.NewClient(&http.Client{Transport: rt}).NewUploadPackSession(endpoint, nil)
}

// parseURL reads an absolute http or https URL that names a repository.
func parseURL(raw string) (*url.URL, error) {
	bad := func(format string, args ...any) error {
		return &Error{Code: CodeURL, Message: "the upstream URL " + fmt.Sprintf(format, args...)}
	}
	if i := strings.IndexFunc(raw, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\\' }); i >= 0 {
		return nil, bad("has a control character, space or backslash at byte %d", i)
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return nil, bad("does not parse; write https://host/owner/repository")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, bad("is neither http nor https; no other protocol is spoken")
	case u.User != nil:
		return nil, bad("has a user or password; put them into the netrc file (PACKBASE_NETRC)")
	case u.Hostname() == "" || u.Opaque != "":
		return nil, bad("has no host")
	case strings.Contains(raw, "%"):
		return nil, bad("has percent escapes; write it without") // go-git would send them decoded
	case strings.HasSuffix(u.Host, ":") || u.Port() == "0" || len(u.Port()) > 5:
		return nil, bad("has no usable port")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, bad("has a query or fragment; remove it")
	}
	u.Path = strings.TrimRight(u.Path, "/")
	return u, nil
}

// newRefs sorts what go-git has parsed.
func newRefs(adv *packp.AdvRefs) Refs {
	var refs Refs
	if adv.Head != nil {
		refs.HeadOID = gitpack.OID(*adv.Head)
	}
	for _, v := range adv.Capabilities.Get(capability.SymRef) {
		if target, ok := strings.CutPrefix(v, "HEAD:"); ok {
			refs.Head = target
		}
	}
	for name, id := range adv.References {
		if short, ok := strings.CutPrefix(name, tagPrefix); ok {
			refs.Tags = append(refs.Tags, Ref{short, gitpack.OID(id), gitpack.OID(adv.Peeled[name])})
		} else if short, ok := strings.CutPrefix(name, branchPrefix); ok {
			refs.Branches = append(refs.Branches, Ref{Name: short, OID: gitpack.OID(id)})
		}
	}
	byName := func(a, b Ref) int { return strings.Compare(a.Name, b.Name) }
	slices.SortFunc(refs.Tags, byName)
	slices.SortFunc(refs.Branches, byName)
	return refs
}

// Refs returns what upstream listed when the session began.
func (s *Session) Refs() Refs { return s.refs }

// FetchPack writes one pack to w that holds the wanted objects and all that
// they reach, without the parents of commits. Nothing in it has been checked:
// not even its trailer. The ids may be of any object; upstream decides whether
// it gives out one that it did not list.
//
// progress, if not nil, is called with the bytes written so far. After an
// error w has part of a pack.
func (s *Session) FetchPack(ctx context.Context, wants []gitpack.OID, w io.Writer, progress func(bytes int64)) error {
	if len(wants) == 0 {
		return errors.New("fetch pack: nothing wanted")
	}
	if s.caps == nil {
		return &Error{Code: CodeNoSuchCommit, Message: "upstream is empty: it has no commit to fetch"}
	}
	for _, c := range []capability.Capability{capability.Shallow, capability.Sideband64k} {
		if !s.caps.Supports(c) {
			return &Error{Code: CodeUnsupported, Message: fmt.Sprintf(
				"the upstream server lacks the Git capability %q; it has to run a newer Git", c)}
		}
	}
	ctx, cancel := s.limits.total(ctx)
	defer cancel()

	s.guard.wants = len(wants)
	resp, err := s.git.UploadPack(ctx, s.request(wants))
	if err != nil {
		return s.explain(ctx, err)
	}
	defer resp.Close()
	return s.copyPack(resp, w, progress)
}

// request asks for wants at depth 1, without a word about what we have.
func (s *Session) request(wants []gitpack.OID) *packp.UploadPackRequest {
	req := packp.NewUploadPackRequestFromCapabilities(s.caps)
	req.Depth = packp.DepthCommits(1)
	for _, id := range wants {
		req.Wants = append(req.Wants, plumbing.Hash(id))
	}
	for _, c := range []capability.Capability{capability.Shallow, capability.NoProgress} {
		if s.caps.Supports(c) {
			req.Capabilities.Set(c) // cannot fail: neither takes an argument
		}
	}
	return req
}

// Close ends the session. Connections that could be used again are closed.
func (s *Session) Close() error {
	s.guard.next.CloseIdleConnections()
	return s.git.Close()
}

// total bounds one operation.
func (l Limits) total(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, l.Total, &Error{
		Code:    CodeTimeout,
		Message: fmt.Sprintf("upstream needed more than %v in all", l.Total),
	})
}
