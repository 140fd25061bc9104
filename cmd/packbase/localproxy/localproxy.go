// Package localproxy is the loopback proxy of `packbase run`: it stands between one command's zig and a packbase
// that is elsewhere, speaks TLS and the token to it, and tells the reasons that Zig does not print.
//
// Zig cannot speak TLS to a proxy, nor through one; but when its CONNECT is refused it asks for https URLs in
// absolute form and clear text. Such requests are sent on as the prefix URLs of packbase, /u/https/host/path.
// What any other program wants goes where it wants it to go, unless that is switched off.
//
// Whoever has an account on this machine can reach the proxy. So it answers those who show a secret, which is in the URL
// that the command gets: else they would have the token's powers, and this user's way into networks.
package localproxy

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"
	"unicode"
)

// Limits of the proxy.
const (
	dialTimeout = 30 * time.Second
	maxReasons  = 100
)

// A Proxy answers one command. Make one with Start.
type Proxy struct {
	URL string // for http_proxy and https_proxy, with the secret

	secret string // what Proxy-Authorization has to be
	remote *url.URL
	token  string
	others bool
	http   *http.Client
	pass   http.Handler // of what other programs ask for in clear text
	server *http.Server

	mu      sync.Mutex
	reasons []string
}

// Options are a proxy's settings.
type Options struct {
	Remote *url.URL     // the packbase that has the packages
	Token  string       // for it; "" for none
	Others bool         // what other programs than zig want goes where they want it to go
	HTTP   *http.Client // that asks Remote; it follows no redirects
}

// Start begins to listen on loopback. The proxy ends with ctx.
func Start(ctx context.Context, opt Options) (*Proxy, error) {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start proxy: %w", err)
	}
	who := url.UserPassword("packbase", rand.Text())
	p := &Proxy{
		URL:    (&url.URL{Scheme: "http", User: who, Host: ln.Addr().String()}).String(),
		secret: "Basic " + base64.StdEncoding.EncodeToString([]byte(who.String())),
		remote: opt.Remote, token: opt.Token, others: opt.Others, http: opt.HTTP,
	}
	direct := &http.Transport{DialContext: (&net.Dialer{Timeout: dialTimeout}).DialContext, DisableCompression: true}
	context.AfterFunc(ctx, direct.CloseIdleConnections)
	p.pass = &httputil.ReverseProxy{Rewrite: func(*httputil.ProxyRequest) {}, Transport: direct, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	p.server = &http.Server{
		Handler: p, ReadHeaderTimeout: dialTimeout, BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // a client that goes is no news
	}
	context.AfterFunc(ctx, func() { p.server.Close() })
	go p.server.Serve(ln) // ends with Close
	return p, nil
}

// Close ends the proxy and all its connections.
func (p *Proxy) Close() { p.server.Close() }

// Reasons returns what could not be answered, and why, each once.
func (p *Proxy) Reasons() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.reasons...)
}

func (p *Proxy) note(reason string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.reasons) < maxReasons {
		for _, r := range p.reasons {
			if r == reason {
				return
			}
		}
		p.reasons = append(p.reasons, reason)
	}
}

// ServeHTTP answers what a client of a proxy asks.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// Zig never retries on a connection that was closed while it was idle.
	w.Header().Set("Connection", "close")
	switch {
	case r.Method == http.MethodConnect && (isZig(r) || !p.others):
		// The only refusal after which every Zig goes on; see zig's std/http/Client.zig, connectProxied.
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(http.StatusMethodNotAllowed)
	case subtle.ConstantTimeCompare([]byte(r.Header.Get("Proxy-Authorization")), []byte(p.secret)) == 0:
		w.Header().Set("Proxy-Authenticate", `Basic realm="packbase run"`)
		http.Error(w, "this is the proxy of somebody's `packbase run`, for the command that it runs", http.StatusProxyAuthRequired)
	case r.Method == http.MethodConnect:
		p.tunnel(w, r)
	case r.URL.IsAbs() && p.others && !isZig(r):
		p.pass.ServeHTTP(w, r)
	case !r.URL.IsAbs():
		http.Error(w, "this is the proxy of `packbase run`: it answers absolute URLs only", http.StatusBadRequest)
	case !isRead(r):
		http.Error(w, "packages are read only", http.StatusMethodNotAllowed)
	default:
		p.forward(w, r)
	}
}

func isZig(r *http.Request) bool { return strings.HasPrefix(r.UserAgent(), "zig/") }

// isRead tells whether a request is one that Zig and Git fetch packages with. The token may do more, and a packbase takes a URL
// of its own for what it is.
func isRead(r *http.Request) bool {
	return r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/git-upload-pack")
}

// forward asks the remote packbase for what the client wants.
func (p *Proxy) forward(w http.ResponseWriter, r *http.Request) {
	target, err := p.target(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	req, err := http.NewRequestWithContext(r.Context(), r.Method, target, r.Body)
	if err != nil {
		http.Error(w, "the URL cannot be sent on", http.StatusBadRequest)
		return
	}
	req.ContentLength = r.ContentLength
	// Nothing else goes on: what is in Authorization is for upstream.
	for _, name := range []string{"User-Agent", "Git-Protocol", "Content-Type", "Content-Encoding"} {
		if v := r.Header.Get(name); v != "" {
			req.Header.Set(name, v)
		}
	}
	req.Header.Set("Accept-Encoding", "identity")
	if p.token != "" {
		req.Header.Set("Authorization", "Bearer "+p.token)
	}
	resp, err := p.http.Do(req)
	if err != nil {
		p.fail(w, r, fmt.Sprintf("%s does not answer: %v", p.remote, rootCause(err)))
		return
	}
	defer resp.Body.Close()
	if reason := resp.Header.Get("X-Packbase-Reason"); reason != "" {
		p.note(reason)
	}
	for _, name := range []string{"Content-Type", "Content-Disposition", "Cache-Control", "Etag", "X-Packbase-Reason", "X-Packbase-Error"} {
		if v := resp.Header.Get(name); v != "" {
			w.Header().Set(name, strings.Map(printable, v))
		}
	}
	if resp.ContentLength >= 0 {
		w.Header().Set("Content-Length", fmt.Sprint(resp.ContentLength))
	}
	w.WriteHeader(resp.StatusCode)
	if _, err := io.Copy(w, resp.Body); err != nil {
		panic(http.ErrAbortHandler) // half an answer must not look whole
	}
}

// target returns the prefix URL of what the client asks for, its path and query as they came.
func (p *Proxy) target(r *http.Request) (string, error) {
	scheme, rest, _ := strings.Cut(r.RequestURI, "://")
	scheme = strings.ToLower(scheme)
	host, path, _ := strings.Cut(rest, "/")
	if _, after, ok := strings.Cut(host, "@"); ok {
		host = after // Zig sends the user in the request line, too
	}
	if scheme != "http" && scheme != "https" || host == "" {
		return "", errors.New("only http and https URLs are answered")
	}
	return p.remote.String() + "/u/" + scheme + "/" + strings.ToLower(host) + "/" + path, nil
}

// fail tells the client that there is nothing to send, and why.
func (p *Proxy) fail(w http.ResponseWriter, r *http.Request, reason string) {
	p.note(reason)
	if isZig(r) && r.Method == http.MethodGet && !strings.Contains(r.URL.Path, "/info/refs") {
		// Every Zig prints an unknown type as it is, and nothing else of an answer.
		w.Header().Set("Content-Type", "packbase: "+strings.Map(printable, reason))
		w.WriteHeader(http.StatusOK)
		return
	}
	http.Error(w, reason, http.StatusBadGateway)
}

// printable keeps what a server sent fit for the terminal that Zig prints it on.
func printable(r rune) rune {
	if !unicode.IsPrint(r) {
		return ' '
	}
	return r
}

func rootCause(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

// tunnel connects another program to where it wants to go.
func (p *Proxy) tunnel(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), dialTimeout)
	defer cancel()
	up, err := (&net.Dialer{}).DialContext(ctx, "tcp", cmp.Or(r.Host, r.URL.Host))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer up.Close()
	w.Header().Del("Connection")
	down, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer down.Close()
	stop := context.AfterFunc(r.Context(), func() { up.Close(); down.Close() })
	defer stop()
	if _, err := io.WriteString(down, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(up, buffered)
		up.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(down, up)
	down.Close()
	<-done
}
