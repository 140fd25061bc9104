// Package answer writes answers: JSON, and errors, whose one table from what went
// wrong to a status, a code and words is here.
package answer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5/middleware"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/pg"
)

// An Error is an answer that is not 2xx.
type Error struct {
	Status     int
	Code       string // for programs, snake_case
	Message    string // for people: what was wrong and what to do
	RetryAfter time.Duration
	JobID      string    // the job that failed, if one did
	Package    string    // that is not there, if that is what is wrong
	Basic      bool      // a 401 asks for what Git and browsers can send
	NotBefore  time.Time // when it is given: how long it took to find out tells nothing
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// New returns the answer of a code, with the status that is known of it.
func New(code, message string) *Error {
	return &Error{Status: fault.Status(code), Code: code, Message: message}
}

// ErrNotFound is the answer where nobody has better words.
var ErrNotFound = New("not_found", "there is no such thing here; /api/list names what is")

// FromError is the one table from errors to answers.
func FromError(err error) *Error {
	known := fault.From(err)
	var own *Error
	var bad *fault.InvalidError
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &own):
		return own
	case known != nil:
		return New(known.Code, known.Message)
	case errors.As(err, &bad):
		return New("invalid", bad.Error())
	case errors.As(err, &tooLarge):
		return &Error{Status: http.StatusRequestEntityTooLarge, Code: "too_large",
			Message: "the request body is larger than " + strconv.FormatInt(tooLarge.Limit, 10) + " bytes"}
	case errors.Is(err, fault.ErrNotFound):
		return ErrNotFound
	case errors.Is(err, fault.ErrConflict):
		return New("conflict", "the request does not fit the present state")
	case errors.Is(err, fault.ErrInvalid):
		return New("invalid", "the request holds text that cannot be stored")
	case errors.Is(err, blob.ErrUnavailable):
		return &Error{Status: http.StatusServiceUnavailable, Code: "storage_unavailable", RetryAfter: 5 * time.Second,
			Message: "the store that holds the tarballs cannot be read now; try again soon"}
	case errors.Is(err, context.DeadlineExceeded), pg.IsAway(err):
		return &Error{Status: http.StatusServiceUnavailable, Code: "unavailable", RetryAfter: 5 * time.Second,
			Message: "the database does not answer; try again soon"}
	}
	return New("internal", "something failed inside packbase; its log has the details under this request_id")
}

// JobError is the answer of a job that failed.
func JobError(job jobs.Job) *Error {
	e := New(job.ErrorCode, job.ErrorMessage)
	e.JobID = job.ID.String()
	return e
}

// Handler adapts a handler that returns an error. It alone writes error bodies
// and logs what is our fault.
func Handler(log *slog.Logger, h func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return HandlerWith(log, WriteError, h)
}

// HandlerWith is Handler with another way to write an error.
func HandlerWith(log *slog.Logger, write func(http.ResponseWriter, *http.Request, *Error), h func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		err := h(w, r)
		if err == nil {
			return
		}
		e := FromError(err)
		if e.Status >= 500 && r.Context().Err() != nil {
			// Silence would be an empty 200 to whoever still listens.
			e = &Error{Status: http.StatusRequestTimeout, Code: "client_gone", Message: "the client ended the connection before there was an answer"}
		}
		if e.Status >= 500 {
			log.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path,
				"status", e.Status, "request_id", middleware.GetReqID(r.Context()), slog.Any("err", err))
		}
		time.Sleep(time.Until(e.NotBefore))
		write(w, r, e)
	}
}

// WriteError answers with an error.
func WriteError(w http.ResponseWriter, r *http.Request, e *Error) {
	h := w.Header()
	for _, name := range []string{"ETag", "Last-Modified", "Content-Length", "Content-Type", "Content-Range", "Accept-Ranges"} {
		h.Del(name)
	}
	leaveUnread(w, r)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Packbase-Error", e.Code)
	switch {
	case e.Status == http.StatusUnauthorized && e.Basic:
		h.Set("WWW-Authenticate", `Basic realm="packbase"`)
	case e.Status == http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="packbase"`)
	}
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(Seconds(e.RetryAfter)))
	}
	body := wire.Error{Status: "error", Code: e.Code, Message: e.Message, Package: e.Package, JobID: e.JobID, RequestID: middleware.GetReqID(r.Context())}
	if e.Package != "" {
		body.Status = "not_found" // as the first packbase has it
	}
	JSON(w, e.Status, body)
}

// Seconds returns d in whole seconds, rounded up, as Retry-After has it.
func Seconds(d time.Duration) int { return int(math.Ceil(max(d, 0).Seconds())) }

// Cut returns at most so many bytes of what a client sent, to be told again.
func Cut(s string, most int) string { return strings.ToValidUTF8(s[:min(len(s), most)], "") }

// JSON answers with body.
func JSON(w http.ResponseWriter, status int, body any) {
	Head(w, status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(body) // the client may have gone
}

// Head writes the header of an answer that is JSON and in no cache, unless the
// header says otherwise already.
func Head(w http.ResponseWriter, status int) {
	h := w.Header()
	if h.Get("Content-Type") == "" {
		h.Set("Content-Type", "application/json")
	}
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-store")
	}
	w.WriteHeader(status)
}

// OrNotFound replaces ErrNotFound by words.
func OrNotFound(err error, words *Error) error {
	if FromError(err).Status == http.StatusNotFound {
		return words
	}
	return err
}

// NoPackage is the answer for a package that is not there.
func NoPackage(name string) *Error {
	e := New("not_found", fmt.Sprintf("there is no package %q here; /api/list names those there are", Cut(name, 200)))
	e.Package = Cut(name, 200)
	return e
}
