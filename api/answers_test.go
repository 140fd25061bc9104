package api

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/francescobianco/packbase/storage/access"
)

func init() { buildTime = time.Minute }

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
	large, small := newMade(make([]byte, 5<<20)), newMade(make([]byte, smallAnswer))
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
		if err := newAnswers().send(w, r, "a", newMade([]byte("{}"))); err != nil || w.Header().Get("Cache-Control") != want {
			t.Errorf("Cache-Control %q, want %q (%v)", w.Header().Get("Cache-Control"), want, err)
		}
	}
}

// An answer is made again when what it was made of is another, and for who sees more; and what is kept has a limit.
func TestKeptAnswers(t *testing.T) {
	t.Parallel()
	a, made := newAnswers(), 0
	ask := func(path string, private bool, view uint64, size int) {
		t.Helper()
		r := httptest.NewRequest("GET", path, nil)
		if private {
			r = r.WithContext(access.SeePrivate(r.Context()))
		}
		if m, err := a.keep(r, &basis{view: view}, func() (any, error) { made++; return text(size), nil }); err != nil || sent(a, r, m) != `"`+text(size)+"\"\n" {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, tt := range []struct {
		path    string
		private bool
		view    uint64
		made    int
	}{
		{"/a", false, 1, 1}, {"/a", false, 1, 1},
		{"/a", true, 1, 2}, {"/a?b", false, 1, 3},
		{"/a", false, 2, 4}, {"/a", false, 2, 4}, {"/a", false, 1, 5},
		{"/a", false, 0, 6}, {"/a", false, 0, 7},
		{"/" + strings.Repeat("a", maxKeptURI), false, 1, 8}, {"/" + strings.Repeat("a", maxKeptURI), false, 1, 9},
	} {
		if ask(tt.path, tt.private, tt.view, 1); made != tt.made {
			t.Errorf("%.20s private=%v of %v: made %d times, want %d", tt.path, tt.private, tt.view, made, tt.made)
		}
	}
	for i := range 30 {
		ask(fmt.Sprint("/", i%25), false, uint64(1+i/25), 4<<20)
	}
	sum := 0
	for _, key := range a.kept.Keys() {
		k, _ := a.kept.Peek(key)
		sum += k.cost(key)
	}
	if sum != a.size || sum > keptBytes || sum < keptBytes/2 {
		t.Errorf("%d bytes are kept, counted as %d; want at most %d", sum, a.size, keptBytes)
	}
	before := a.kept.Len()
	_, err := a.keep(httptest.NewRequest("GET", "/bad", nil), &basis{view: 1}, func() (any, error) { return nil, errManyAnswers })
	if err == nil || a.kept.Len() != before {
		t.Errorf("an answer that could not be made: %v, and %d are kept, want %d", err, a.kept.Len(), before)
	}
}

// text is not much smaller as gzip.
func text(size int) string {
	raw := make([]byte, size)
	rand.NewChaCha8([32]byte{}).Read(raw)
	return base64.RawURLEncoding.EncodeToString(raw)[:size]
}

// sent is what a client reads of an answer that has it as gzip, which must be what one has that has not.
func sent(a *answers, r *http.Request, m made) string {
	plain, packed := httptest.NewRecorder(), httptest.NewRecorder()
	packed.Header().Set("Vary", "Accept-Encoding")
	_ = a.send(plain, r, "a", m)
	r.Header.Set("Accept-Encoding", "gzip, deflate")
	_ = a.send(packed, r, "a", m)
	if packed.Header().Get("Content-Encoding") != "gzip" {
		return packed.Body.String()
	}
	z, err := gzip.NewReader(packed.Body)
	if err != nil {
		return err.Error()
	}
	if b, err := io.ReadAll(z); err != nil || string(b) != plain.Body.String() {
		return "another answer as gzip"
	}
	return plain.Body.String()
}
