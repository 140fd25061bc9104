package api

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/francescobianco/packbase/storage/access"
)

// A stalled client takes nothing of an answer until it is released.
type stalled struct {
	http.ResponseWriter
	asked, release chan struct{}
}

func (s *stalled) Write(b []byte) (int, error) {
	s.asked <- struct{}{}
	<-s.release
	return len(b), nil
}

// Clients that do not read large answers hold so much memory and no more, each
// its share; who asks for little is always answered.
func TestStalledReaders(t *testing.T) {
	t.Parallel()
	a, request := newAnswers(), httptest.NewRequest("GET", "/", nil)
	large, small := make([]byte, 5<<20), make([]byte, smallAnswer)
	asked, release, sent := make(chan struct{}), make(chan struct{}), make(chan error)
	stall := func(client string) {
		go func() { sent <- a.send(&stalled{httptest.NewRecorder(), asked, release}, request, client, large) }()
		<-asked
	}
	stall("a")
	stall("a")
	if err := a.send(httptest.NewRecorder(), request, "a", large); !errors.Is(err, errManyAnswers) {
		t.Errorf("a third answer for one client: %v, want %v", err, errManyAnswers)
	}
	for range 4 {
		stall("b" + string(rune('0'+a.held>>22)))
	}
	if err := a.send(httptest.NewRecorder(), request, "c", large); !errors.Is(err, errManyAnswers) {
		t.Errorf("more than may be held in all: %v, want %v", err, errManyAnswers)
	}
	for _, client := range []string{"a", "c"} {
		if err := a.send(httptest.NewRecorder(), request, client, small); err != nil {
			t.Errorf("a small answer for %s: %v", client, err)
		}
	}
	close(release)
	for range 6 {
		if err := <-sent; err != nil {
			t.Error(err)
		}
	}
	if err := a.send(httptest.NewRecorder(), request, "a", large); err != nil || a.held != 0 || len(a.clients) != 0 {
		t.Errorf("when all was read: %v, and %d bytes of %v are held", err, a.held, a.clients)
	}

	for range makeAtOnce {
		a.making <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.make(ctx, func() (any, error) { return 1, nil }); !errors.Is(err, errManyAnswers) {
		t.Errorf("made without a turn: %v", err)
	}
}

// What may have private packages in it is for no cache that others share.
func TestAnswersForOne(t *testing.T) {
	t.Parallel()
	request := httptest.NewRequest("GET", "/api/info/secret", nil)
	for want, r := range map[string]*http.Request{
		"no-cache":          request,
		"private, no-cache": request.WithContext(access.SeePrivate(t.Context())),
	} {
		w := httptest.NewRecorder()
		if err := newAnswers().send(w, r, "a", []byte("{}")); err != nil || w.Header().Get("Cache-Control") != want {
			t.Errorf("Cache-Control %q, want %q (%v)", w.Header().Get("Cache-Control"), want, err)
		}
	}
}
