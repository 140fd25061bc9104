package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/klauspost/compress/gzhttp"
	"github.com/klauspost/compress/gzip"

	"github.com/francescobianco/packbase/api/answer"
	"github.com/francescobianco/packbase/storage/access"
)

// What answers about packages take up, for all clients and for one of them:
// an answer is made in no time, and held until its client has read it.
const (
	makeAtOnce    = 4
	makeWait      = 10 * time.Second
	smallAnswer   = 64 << 10 // bytes; not counted
	heldAnswers   = 32 << 20 // bytes
	heldForClient = 12 << 20 // bytes
)

// Bounds of the answers that are kept.
const (
	maxKept    = 4096
	maxKeptURI = 512      // bytes
	keptBytes  = 32 << 20 // of them all
	keptFor    = 10 * time.Second
)

// answers bounds the memory of answers that are being made and read, and keeps some that may be asked for again.
type answers struct {
	making chan struct{}
	kept   *lru.Cache[string, kept]

	mu      sync.Mutex
	size    int // of those kept, in bytes
	held    int
	clients map[string]int // bytes held
}

// A made answer is ready to be sent.
type made struct {
	raw []byte
	tag string // the ETag: weak, as it may be compressed on the way
}

func newMade(raw []byte) made {
	sum := sha256.Sum256(raw)
	return made{raw, `W/"` + hex.EncodeToString(sum[:16]) + `"`}
}

// A kept answer is true while what it was made of is the same.
type kept struct {
	of any // small and comparable
	at time.Time
	made
}

func newAnswers() *answers {
	a := &answers{making: make(chan struct{}, makeAtOnce), clients: map[string]int{}}
	a.kept, _ = lru.NewWithEvict(maxKept, func(_ string, k kept) { a.size -= len(k.raw) }) // the error is about sizes below one
	return a
}

// keep is make, but for an answer to the same request that was made a short time ago, while of was the same. With nil
// nothing is kept.
func (a *answers) keep(r *http.Request, of any, body func() (any, error)) (made, error) {
	uri := r.URL.RequestURI()
	if of == nil || len(uri) > maxKeptURI {
		return a.make(r.Context(), body)
	}
	key := strconv.FormatBool(access.SeesPrivate(r.Context())) + uri
	if k, ok := a.kept.Get(key); ok && k.of == of && time.Since(k.at) < keptFor {
		return k.made, nil
	}
	began := time.Now()
	m, err := a.make(r.Context(), body)
	if err != nil {
		return made{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.kept.Remove(key)
	a.kept.Add(key, kept{of, began, m})
	for a.size += len(m.raw); a.size > keptBytes; {
		a.kept.RemoveOldest()
	}
	return m, nil
}

// make returns the JSON of what body returns, when there is a turn to make it.
func (a *answers) make(ctx context.Context, body func() (any, error)) (made, error) {
	return a.write(ctx, func(w io.Writer) error {
		v, err := body()
		if err != nil {
			return err
		}
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	})
}

// write returns what body writes, when there is a turn to make it.
func (a *answers) write(ctx context.Context, body func(io.Writer) error) (made, error) {
	wait, cancel := context.WithTimeout(ctx, makeWait)
	defer cancel()
	select {
	case a.making <- struct{}{}:
		defer func() { <-a.making }()
	case <-wait.Done():
		return made{}, errManyAnswers
	}
	var buf bytes.Buffer
	if err := body(&buf); err != nil {
		return made{}, err
	}
	return newMade(bytes.Clone(buf.Bytes())), nil // without what it grew too far
}

// send sends an answer to a client, unless that has it already or too much is being read.
func (a *answers) send(w http.ResponseWriter, r *http.Request, client string, m made) error {
	if h := w.Header(); h.Get("Content-Type") == "" && r.Method != http.MethodPost { // JSON of ours
		h.Set("ETag", m.tag)
		h.Set("Cache-Control", "no-cache")
		if access.SeesPrivate(r.Context()) {
			h.Set("Cache-Control", "private, no-cache")
		}
		h.Add("Vary", "Authorization")
		if known := r.Header.Get("If-None-Match"); known == "*" || slices.Contains(strings.Split(known, ", "), m.tag) {
			w.WriteHeader(http.StatusNotModified)
			return nil
		}
	}
	if len(m.raw) > smallAnswer {
		if !a.hold(client, len(m.raw)) {
			return errManyAnswers
		}
		defer a.hold(client, -len(m.raw))
	}
	answer.Head(w, http.StatusOK)
	_, _ = w.Write(m.raw) // the client may have gone
	return nil
}

// sendList sends a list as JSON.
func (s *Server) sendList(w http.ResponseWriter, r *http.Request, list any) error {
	return s.sendKept(w, r, nil, func() (any, error) { return list, nil })
}

// sendKept sends what keep returns.
func (s *Server) sendKept(w http.ResponseWriter, r *http.Request, of any, body func() (any, error)) error {
	raw, err := s.answers.keep(r, of, body)
	if err != nil {
		return err
	}
	return s.answers.send(w, r, s.clientOf(r), raw)
}

func (a *answers) hold(client string, n int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n > 0 && (a.held+n > heldAnswers || a.clients[client]+n > heldForClient) {
		return false
	}
	a.held += n
	if a.clients[client] += n; a.clients[client] == 0 {
		delete(a.clients, client)
	}
	return true
}

var errManyAnswers = &answer.Error{Status: http.StatusServiceUnavailable, Code: "busy", RetryAfter: 2 * time.Second,
	Message: "too many large answers at once: try again in a few seconds, or ask for a smaller page with ?limit="}

// compressed has a handler's JSON sent as gzip to those who take that.
func compressed() func(http.Handler) http.Handler {
	wrap, err := gzhttp.NewWrapper(gzhttp.ContentTypes([]string{"application/json"}), gzhttp.CompressionLevel(gzip.BestSpeed))
	if err != nil {
		panic(err) // of options that are written here
	}
	return func(next http.Handler) http.Handler { return wrap(next) }
}
