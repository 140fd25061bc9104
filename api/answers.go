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
	"github.com/francescobianco/packbase/api/stored"
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
	maxKept    = 1 << 16
	maxKeptURI = 512      // bytes
	keptBytes  = 64 << 20 // of them all, as gzip
	keptCost   = 400      // bytes that one takes besides
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
	raw    []byte // nil of one that was kept
	packed []byte // the same as gzip; nil of one that is not kept
	tag    string // the ETag: weak, as it may be compressed on the way
}

func newMade(raw []byte) made {
	sum := sha256.Sum256(raw)
	return made{raw: raw, tag: `W/"` + hex.EncodeToString(sum[:16]) + `"`}
}

// A basis is what an answer was made of. The zero basis is not known: such an answer is not kept.
type basis struct {
	rows  stored.Mark
	view  uint64    // of the directory
	until time.Time // it may be used; zero for as long as it holds
}

// holds reports whether what was made of b is what would be made of now.
func (b basis) holds(now basis) bool {
	return b.view == now.view && (b.view > 0 || b.rows.Holds(now.rows)) && (b.until.IsZero() || time.Now().Before(b.until))
}

func (b basis) known() bool { return b.view > 0 || b.rows.Known() }

// A kept answer is true while what it was made of is the same.
type kept struct {
	of basis
	made
}

// cost is how many bytes it takes, about.
func (k *kept) cost(key string) int { return len(key) + len(k.packed) + keptCost }

func newAnswers() *answers {
	a := &answers{making: make(chan struct{}, makeAtOnce), clients: map[string]int{}}
	a.kept, _ = lru.NewWithEvict(maxKept, func(key string, k kept) { a.size -= k.cost(key) }) // the error is about sizes below one
	return a
}

// keep is make, but for an answer to the same request that was made before and still holds. Body may narrow what the basis says.
func (a *answers) keep(r *http.Request, of *basis, body func() (any, error)) (made, error) {
	uri := r.URL.RequestURI()
	if !of.known() || len(uri) > maxKeptURI {
		return a.make(r.Context(), body)
	}
	key := strconv.FormatBool(access.SeesPrivate(r.Context())) + uri
	if k, ok := a.kept.Get(key); ok && k.of.holds(*of) {
		return k.made, nil
	}
	m, err := a.write(r.Context(), asJSON(body), true)
	if err != nil {
		return made{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.kept.Remove(key)
	one := kept{*of, made{packed: m.packed, tag: m.tag}}
	a.kept.Add(key, one)
	for a.size += one.cost(key); a.size > keptBytes; {
		a.kept.RemoveOldest()
	}
	return m, nil
}

var packers = sync.Pool{New: func() any {
	w, err := gzip.NewWriterLevel(nil, gzip.BestSpeed)
	if err != nil {
		panic(err) // of a level that is written here
	}
	return w
}}

// pack returns raw as gzip.
func pack(raw []byte) []byte {
	var buf bytes.Buffer
	w := packers.Get().(*gzip.Writer)
	defer packers.Put(w)
	w.Reset(&buf)
	_, _ = w.Write(raw) // memory takes all
	_ = w.Close()
	return bytes.Clone(buf.Bytes()) // without what it grew too far
}

var unpackers = sync.Pool{New: func() any { return new(gzip.Reader) }}

// unpack writes what pack was given.
func unpack(w io.Writer, packed []byte) {
	z := unpackers.Get().(*gzip.Reader)
	defer unpackers.Put(z)
	if err := z.Reset(bytes.NewReader(packed)); err != nil {
		panic(err) // of what pack returned
	}
	_, _ = z.WriteTo(w) // the client may have gone
}

// make returns the JSON of what body returns, when there is a turn to make it.
func (a *answers) make(ctx context.Context, body func() (any, error)) (made, error) {
	return a.write(ctx, asJSON(body), false)
}

func asJSON(body func() (any, error)) func(io.Writer) error {
	return func(w io.Writer) error {
		v, err := body()
		if err != nil {
			return err
		}
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	}
}

// write returns what body writes, when there is a turn to make it, and as gzip, if it is to be kept.
func (a *answers) write(ctx context.Context, body func(io.Writer) error, keep bool) (made, error) {
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
	m := newMade(bytes.Clone(buf.Bytes())) // without what it grew too far
	if keep {
		m.packed = pack(m.raw)
	}
	return m, nil
}

// send sends an answer to a client, unless that has it already or too much is being read.
func (a *answers) send(w http.ResponseWriter, r *http.Request, client string, m made) error {
	if h := w.Header(); h.Get("Content-Type") == "" && r.Method != http.MethodPost { // JSON of ours
		h.Set("ETag", m.tag)
		h.Set("Cache-Control", stored.Checked(access.SeesPrivate(r.Context())))
		h.Add("Vary", "Authorization")
		if known := r.Header.Get("If-None-Match"); known == "*" || slices.Contains(strings.Split(known, ", "), m.tag) {
			w.WriteHeader(http.StatusNotModified)
			return nil
		}
	}
	body, inflate := m.raw, false
	switch {
	case m.packed != nil && takesGzip(w, r):
		w.Header().Set("Content-Encoding", "gzip")
		body = m.packed
	case body == nil:
		body, inflate = m.packed, true
	}
	if len(body) > smallAnswer {
		if !a.hold(client, len(body)) {
			return errManyAnswers
		}
		defer a.hold(client, -len(body))
	}
	answer.Head(w, http.StatusOK)
	if inflate {
		unpack(w, body)
	} else {
		_, _ = w.Write(body) // the client may have gone
	}
	return nil
}

// takesGzip reports whether gzip may be sent, of what compressed wraps: caches are told there that it depends on the client. Those
// that ask in other words are sent what it makes.
func takesGzip(w http.ResponseWriter, r *http.Request) bool {
	return slices.Contains(w.Header()["Vary"], "Accept-Encoding") &&
		slices.Contains(strings.Split(r.Header.Get("Accept-Encoding"), ", "), "gzip")
}

// sendList sends a list as JSON.
func (s *Server) sendList(w http.ResponseWriter, r *http.Request, list any) error {
	return s.sendKept(w, r, basis{}, func() (any, error) { return list, nil })
}

// sendKept sends what keep returns.
func (s *Server) sendKept(w http.ResponseWriter, r *http.Request, of basis, body func() (any, error)) error {
	raw, err := s.answers.keep(r, &of, body)
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
