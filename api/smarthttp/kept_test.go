package smarthttp

import (
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage/gitpack"
)

// A pack that is kept goes out as one that is read meanwhile, to whoever may have it, also while its segment cannot be read.
func TestKeptPacks(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	m := newMirror(t, u)
	handler := func() (*Handler, string) {
		h := New(m, Options{}, slog.New(slog.DiscardHandler))
		return h, serveHandler(t, h) + "/pkg"
	}
	streaming, streamed := handler()
	streaming.kept.sending = maxSending // there is no room for more
	h, url := handler()
	for _, tag := range []string{"v1", "v2^{}", "v3"} { // tag objects and a commit
		body := zigFetch(u.git("rev-parse", tag), 0)
		_, want := exchange{version: "2", body: body}.post(t, streamed)
		for range 2 {
			if _, got := (exchange{version: "2", body: body}).post(t, url); got != want || !strings.Contains(got, "PACK") {
				t.Errorf("%s: %d bytes, want the %d as without what is kept", tag, len(got), len(want))
			}
		}
	}
	if h.kept.packs.Len() != 3 || streaming.kept.packs.Len() != 0 {
		t.Errorf("%d and %d packs are kept, want 3 and none", h.kept.packs.Len(), streaming.kept.packs.Len())
	}
	sending := func() int {
		h.kept.mu.Lock()
		defer h.kept.mu.Unlock()
		return h.kept.sending
	}
	for deadline := time.Now().Add(30 * time.Second); sending() > 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond) // a client has its answer before the server has ended it
	}
	if n := sending(); n != 0 {
		t.Errorf("%d bytes are being sent to nobody", n)
	}
	damaged := u.oid("v4^{}")
	right := m.packs[damaged]
	wrong := right
	wrong.Trailer[0]++
	m.packs[damaged] = wrong
	if resp, got := (exchange{version: "2", body: zigFetch(damaged.String(), 0)}).post(t, url); resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("X-Packbase-Error") != "damaged" {
		t.Errorf("bytes that are not what the trailer says: %s, %.100q", resp.Status, got)
	}
	m.packs[damaged] = right
	if resp, _ := (exchange{version: "2", body: zigFetch(damaged.String(), 0)}).post(t, url); resp.StatusCode != http.StatusOK {
		t.Errorf("the same once they are: %s", resp.Status)
	}
	m.unreadable = true
	known, other := zigFetch(u.git("rev-parse", "v1"), 0), zigFetch(u.git("rev-parse", "v4"), 0)
	if resp, got := (exchange{version: "2", body: known}).post(t, url); resp.StatusCode != http.StatusOK || !strings.Contains(got, "PACK") {
		t.Errorf("what is kept: %s", resp.Status)
	}
	if resp, _ := (exchange{version: "2", body: other}).post(t, url); resp.StatusCode != http.StatusInternalServerError {
		t.Errorf("what cannot be read: %s, want 500", resp.Status)
	}
	if _, got := (exchange{version: "2", body: zigFetch(strings.Repeat("1", 40), 0)}).post(t, url); strings.Contains(got, "PACK") {
		t.Error("a pack of what is not there")
	}
}

// Whatever is asked for, no more is kept than there is room for.
func TestKeptHasBounds(t *testing.T) {
	t.Parallel()
	k := newKept()
	for i := range 200 {
		key := packKey{pkg: "hello", trailer: gitpack.OID{byte(i)}}
		for range 2 {
			if _, err := k.get(key, func() ([]byte, error) { return make([]byte, maxKeptPack), nil }); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := k.packs.Len(); n != maxKept/maxKeptPack || k.size != n*maxKeptPack {
		t.Errorf("%d packs of %d bytes are kept, want %d", n, k.size, maxKept/maxKeptPack)
	}
	n := 0
	for ; n < 1000 && k.begin(maxKeptPack); n++ {
	}
	if n != maxSending/maxKeptPack || k.begin(maxKeptPack+1) {
		t.Errorf("%d packs are sent at once, want %d, and none that is too large", n, maxSending/maxKeptPack)
	}
	if k.end(maxKeptPack); !k.begin(maxKeptPack) {
		t.Error("there is no room where one has ended")
	}
}
