package api

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5/middleware"

	"github.com/francescobianco/packbase/api/answer"
	"github.com/francescobianco/packbase/api/pace"
)

// HTTPServer returns a server of all routes whose limits strangers cannot
// pass. Its read and write timeouts are for clients that say nothing: who moves
// enough has as long as it takes.
func (s *Server) HTTPServer() *http.Server {
	return &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       60 * time.Second,
		WriteTimeout:      60 * time.Second,
		IdleTimeout:       120 * time.Second,
		MaxHeaderBytes:    64 << 10,
		ConnContext:       pace.Conn,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

var plainRequestID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// identify gives the request its id: the one that a proxy in front gave it, if
// that is fit for logs, else a new one.
func identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("X-Request-Id")
		if !plainRequestID.MatchString(id) {
			id = rand.Text()
		}
		w.Header().Set("X-Request-Id", id)
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), middleware.RequestIDKey, id)))
	})
}

// clientOf returns who shares turns with whom: the address that the request
// comes from, or the network of an IPv6 address, which is one customer's. What
// X-Forwarded-For says is as good as who says it: from the right, proxies are
// believed up to the first address that is not one.
func (s *Server) clientOf(r *http.Request) string {
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)
	client := peer.Addr().Unmap()
	for i := len(hops) - 1; i >= 0 && s.isProxy(client); i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		client = hop.Unmap().WithZone("")
	}
	if client.Is6() {
		network, _ := client.Prefix(64) // cannot fail
		return network.String()
	}
	return client.String()
}

func (s *Server) isProxy(client netip.Addr) bool {
	return slices.ContainsFunc(s.opt.Proxies, func(p netip.Prefix) bool { return p.Contains(client) })
}

// closeChunked closes the connection after a chunked request. net/http
// hides a Content-Length that came with it: a proxy in front that went by that
// one would take the rest of the body for the next request. Of HTTP/1.0 it
// hides that a request is chunked.
func closeChunked(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TransferEncoding) > 0 || !r.ProtoAtLeast(1, 1) {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// sameSite refuses what a page of another site would have a browser send. A
// page needs no token where writes need none, on a loopback address.
func (s *Server) sameSite(next http.Handler) http.Handler {
	origins := http.NewCrossOriginProtection()
	return s.handle(func(w http.ResponseWriter, r *http.Request) error {
		if err := origins.Check(r); err != nil {
			return &answer.Error{Status: http.StatusForbidden, Code: "cross_site", Message: "a page of another site must not write here"}
		}
		next.ServeHTTP(w, r)
		return nil
	})
}
