package logbook

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// A server that sends without end, or has its readers wait for years, is not obeyed.
func TestTilesAt(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) == 1 {
			w.Header().Set("Retry-After", "100000000")
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		for buf := make([]byte, 1<<16); ; {
			if _, err := w.Write(buf); err != nil {
				return
			}
		}
	}))
	t.Cleanup(s.Close)
	tiles, err := TilesAt(s.URL+"/log", s.Client())
	if err != nil {
		t.Fatal(err)
	}
	got, err := tiles.ReadTiles(t.Context(), []tlog.Tile{{H: 8, L: 0, N: 0, W: 256}})
	if err != nil || len(got) != 1 || len(got[0]) != MaxFile || asked.Load() != 2 {
		t.Errorf("after %d requests: %d tiles, %v; want one of %d bytes", asked.Load(), len(got), err, MaxFile)
	}
}
