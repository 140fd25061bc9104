package harness

import (
	"net/http"

	"filippo.io/torchwood"

	"github.com/francescobianco/packbase/storage/logbook"
)

// Log waits until the log of what is published has at least so many entries, and returns all of it, read over HTTP as
// anybody would, and each entry proved.
func (s *Server) Log(least int) []logbook.Entry {
	s.t.Helper()
	var entries []logbook.Entry
	Eventually(s.t, "the log has its entries", func() bool {
		if s.Do(http.MethodGet, "/log/checkpoint", "", nil).Status != http.StatusOK {
			return false
		}
		entries = s.readLog()
		return len(entries) >= least
	})
	return entries
}

func (s *Server) readLog() (entries []logbook.Entry) {
	s.t.Helper()
	tree, err := logbook.OpenCheckpoint(s.Get("/log/checkpoint"), s.Get("/log/policy"))
	if err != nil {
		s.t.Fatal(err)
	}
	tiles, err := torchwood.NewTileFetcher(s.URL + "/log")
	if err != nil {
		s.t.Fatal(err)
	}
	client, err := torchwood.NewClient(tiles)
	if err != nil {
		s.t.Fatal(err)
	}
	for i, text := range client.AllEntries(s.t.Context(), tree, 0) {
		e, err := logbook.ParseEntry(text)
		if err != nil {
			s.t.Fatalf("entry %d: %v", i, err)
		}
		entries = append(entries, e)
	}
	if err := client.Err(); err != nil {
		s.t.Fatal(err)
	}
	return entries
}
