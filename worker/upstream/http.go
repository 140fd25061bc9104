package upstream

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"
)

const (
	maxRedirects   = 3
	maxHeaderBytes = 64 << 10
)

// newTransport returns the transport under every request. HTTP/2 is left out:
// a session is two requests, one after the other, and one parser less is fed
// by strangers. Bodies are not inflated, so none can be a bomb.
func (c *Client) newTransport() *http.Transport {
	t := &http.Transport{
		Proxy:                  nil,
		DialContext:            c.dialer,
		TLSHandshakeTimeout:    c.limits.TLS,
		ResponseHeaderTimeout:  c.limits.Header,
		MaxResponseHeaderBytes: maxHeaderBytes,
		DisableCompression:     true,
		IdleConnTimeout:        30 * time.Second,
		MaxIdleConnsPerHost:    MaxLooks,
		Protocols:              new(http.Protocols),
	}
	t.Protocols.SetHTTP1(true)
	return t
}

// A roundTripper adds to the transport what it does not know: credentials,
// the rules for redirects, deadlines for a body, and codes for errors.
type roundTripper struct {
	client *Client
	origin *url.URL // of the session; nil: that of the first request of each chain
	login  Login    // for origin, if there is one
	hops   int      // redirects that are followed; 0 for maxRedirects
}

// CloseIdleConnections is found by http.Client.
func (t *roundTripper) CloseIdleConnections() { t.client.base.CloseIdleConnections() }

// RoundTrip returns an answer whose Body is a *body, or an error that
// [netError] made.
func (t *roundTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	limits := t.client.limits
	ctx, cancel := context.WithCancelCause(req.Context())
	// Also ends a request that upstream does not read, which no deadline of
	// the transport does.
	timer := time.AfterFunc(limits.Connect+limits.TLS+limits.Header, func() { cancel(errSlow()) })
	defer timer.Stop()

	out := req.Clone(ctx)
	out.Header.Set("User-Agent", t.client.agent)
	if err := t.authorize(out, req); err != nil {
		cancel(nil)
		if req.Body != nil {
			req.Body.Close() // the contract of http.RoundTripper
		}
		return nil, err
	}
	resp, err := t.client.base.RoundTrip(out)
	if err != nil {
		err = netError(ctx, err)
		cancel(nil)
		return nil, err
	}
	resp.Request = req
	resp.Body = newBody(ctx, cancel, resp.Body, limits)
	if isRedirect(resp) {
		if err := t.checkRedirect(req, resp); err != nil {
			resp.Body.Close()
			return nil, err
		}
	}
	return resp, nil
}

// authorize adds the credentials for the origin, unless the chain of redirects
// that led to req has left it, be it for a moment: then those that who asked
// added go, too, which http.Client leaves to subdomains and other ports.
func (t *roundTripper) authorize(out, req *http.Request) error {
	origin, login := t.origin, t.login
	if origin == nil {
		first := req
		for first.Response != nil {
			first = first.Response.Request
		}
		var err error
		origin = first.URL
		if login, err = t.client.login(origin); err != nil {
			return err
		}
	}
	for hop := req; ; hop = hop.Response.Request {
		if !sameOrigin(hop.URL, origin) {
			out.Header.Del("Authorization")
			return nil
		}
		if hop.Response == nil {
			break
		}
	}
	if !login.isZero() {
		out.SetBasicAuth(login.User, login.Password)
	}
	return nil
}

func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && foldHost(a.Hostname()) == foldHost(b.Hostname()) && portOf(a) == portOf(b)
}

// portOf returns the port that u names or means, or 0.
func portOf(u *url.URL) uint16 {
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	switch {
	case err == nil:
		return uint16(port)
	case u.Port() == "" && u.Scheme == "https":
		return 443
	case u.Port() == "" && u.Scheme == "http":
		return 80
	}
	return 0
}

// isRedirect reports whether http.Client would follow resp.
func isRedirect(resp *http.Response) bool {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return resp.Header.Get("Location") != ""
	}
	return false
}

// checkRedirect judges the redirect that answers req. The address behind it is
// judged when it is dialled.
func (t *roundTripper) checkRedirect(req *http.Request, resp *http.Response) error {
	refuse := func(why string) error {
		return &Error{Code: CodeRedirect, Status: resp.StatusCode, Message: "upstream redirects " + why + "; use the final URL"}
	}
	most := cmp.Or(t.hops, maxRedirects)
	hops := 1
	for r := req; r.Response != nil; r = r.Response.Request {
		hops++
	}
	to, err := resp.Location()
	switch {
	case err != nil:
		return refuse("to something that is not a URL")
	case req.Method != http.MethodGet && req.Method != http.MethodHead:
		return refuse("a " + req.Method + " request")
	case hops > most:
		return refuse(fmt.Sprintf("more than %d times", most))
	case to.Scheme != "https" && to.Scheme != "http":
		return refuse("to a protocol other than http and https")
	case to.Scheme == "http" && req.URL.Scheme == "https":
		return refuse("from https to http")
	case to.User != nil:
		return refuse("to a URL with a user or password")
	case to.Hostname() == "":
		return refuse("to a URL without a host")
	}
	return nil
}

// A body is that of an answer, with a limit and a lowest rate.
type body struct {
	src    io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	left   int64  // bytes that may still be read
	over   *Error // when left is used up
	err    error  // the first failure, for those who lose it on the way

	begin  *time.Timer // ends what does not begin; nil if there is no such limit
	window time.Duration
	seen   atomic.Int64 // bytes in this window
	need   atomic.Int64 // bytes that this window has to bring
	rate   atomic.Int64 // need of the windows to come
}

// newBody wraps src, which ends with ctx, without a limit and at limits.MinRate.
func newBody(ctx context.Context, cancel context.CancelCauseFunc, src io.ReadCloser, limits Limits) *body {
	b := &body{src: src, ctx: ctx, cancel: cancel, left: 1<<63 - 1, window: limits.Idle}
	b.need.Store(limits.minBytes())
	b.rate.Store(limits.minBytes())
	time.AfterFunc(b.window, b.tick)
	return b
}

// minBytes is what has to arrive in each window of Idle.
func (l Limits) minBytes() int64 {
	return max(1, int64(float64(l.MinRate)*l.Idle.Seconds()))
}

// tick ends the request if too little came since the last tick.
func (b *body) tick() {
	if b.ctx.Err() != nil {
		return
	}
	if b.seen.Swap(0) < b.need.Swap(b.rate.Load()) {
		b.cancel(errSlow())
		return
	}
	time.AfterFunc(b.window, b.tick)
}

// begun tells that what is waited for has begun.
func (b *body) begun(rate int64) {
	b.begin.Stop()
	b.rate.Store(rate)
}

func errNotBegun(after time.Duration) *Error {
	return &Error{Code: CodeTimeout, Message: fmt.Sprintf("upstream did not begin to send a pack within %v", after)}
}

func errSlow() *Error {
	return &Error{Code: CodeTimeout, Message: "upstream stopped sending, or sends too slowly"}
}

func (b *body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.src.Read(p)
	b.seen.Add(int64(n))
	b.left -= int64(n)
	switch {
	case b.left < 0:
		b.err = b.over
	case err == io.EOF:
		return n, io.EOF
	case err != nil:
		b.err = netError(b.ctx, err)
	}
	return n, b.err
}

func (b *body) Close() error {
	if b.begin != nil {
		b.begin.Stop()
	}
	b.cancel(nil)
	return b.src.Close()
}

// netrcLogin returns what the netrc file has for the host of u. Over http
// credentials are sent only to a place that an [Allow] opens explicitly: as host and
// port, or as a prefix that has the address which u itself spells.
func (c *Client) netrcLogin(u *url.URL) (Login, error) {
	if c.netrc == "" {
		return Login{}, nil
	}
	if u.Scheme != "https" {
		ip, _ := netip.ParseAddr(u.Hostname())
		if !c.allow.opens(u.Hostname(), ip.Unmap(), portOf(u)) {
			return Login{}, nil
		}
	}
	l, err := readNetrc(c.netrc, u)
	if err != nil {
		// The error itself would show a path to clients.
		return Login{}, &Error{Code: CodeAuth, passing: true, Message: "the netrc file (PACKBASE_NETRC) is not readable; fix its path or mode"}
	}
	return l, nil
}
