package api

import (
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"time"

	"github.com/go-chi/chi/v5/middleware"
)

// HTTPServer returns a server of all routes whose limits strangers cannot
// pass. Answers that take longer than its write timeout move that on.
func (s *Server) HTTPServer() *http.Server {
	return &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       60 * time.Second,
		WriteTimeout:      60 * time.Second,
		IdleTimeout:       120 * time.Second,
		MaxHeaderBytes:    64 << 10,
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
			return &Error{Status: http.StatusForbidden, Code: "cross_site", Message: "a page of another site must not write here"}
		}
		next.ServeHTTP(w, r)
		return nil
	})
}

// A countingBody counts what is read of a request's body.
type countingBody struct {
	io.ReadCloser
	n     int64
	ended bool // read to its end
}

func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	b.ended = b.ended || err == io.EOF
	return n, err
}

// leaveUnread lets an answer out although the request's body is not read, and
// closes the connection. Else net/http would read on first, and an endless
// body would hold the answer back.
func leaveUnread(w http.ResponseWriter, r *http.Request) {
	if b, ok := r.Body.(*countingBody); ok && r.ContentLength != 0 && !b.ended {
		w.Header().Set("Connection", "close")
	}
}
