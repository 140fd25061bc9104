package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/francescobianco/packbase/api/answer"
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

// answers bounds the memory of answers that are being made and read.
type answers struct {
	making chan struct{}

	mu      sync.Mutex
	held    int
	clients map[string]int // bytes held
}

func newAnswers() *answers {
	return &answers{making: make(chan struct{}, makeAtOnce), clients: map[string]int{}}
}

// make returns the JSON of what body returns, when there is a turn to make it.
func (a *answers) make(ctx context.Context, body func() (any, error)) ([]byte, error) {
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
func (a *answers) write(ctx context.Context, body func(io.Writer) error) ([]byte, error) {
	wait, cancel := context.WithTimeout(ctx, makeWait)
	defer cancel()
	select {
	case a.making <- struct{}{}:
		defer func() { <-a.making }()
	case <-wait.Done():
		return nil, errManyAnswers
	}
	var buf bytes.Buffer
	if err := body(&buf); err != nil {
		return nil, err
	}
	return bytes.Clone(buf.Bytes()), nil // without what it grew too far
}

// send sends an answer to a client, unless too much is being read already.
func (a *answers) send(w http.ResponseWriter, client string, raw []byte) error {
	if len(raw) > smallAnswer {
		if !a.hold(client, len(raw)) {
			return errManyAnswers
		}
		defer a.hold(client, -len(raw))
	}
	answer.Head(w, http.StatusOK)
	_, _ = w.Write(raw) // the client may have gone
	return nil
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
