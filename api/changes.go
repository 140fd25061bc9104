package api

import (
	"net/http"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"

	"packbase/storage"
)

// getChanges serves GET /api/changes?since=&limit=&wait=: the feed that edges
// follow. With wait it answers when there is something new, after that many
// seconds, or when this server is about to end.
func (s *Server) getChanges(w http.ResponseWriter, r *http.Request) error {
	since, err := strconv.ParseInt("0"+r.URL.Query().Get("since"), 10, 64)
	if err != nil {
		return &Error{Status: http.StatusBadRequest, Code: "invalid", Message: "since: want the number of a change, 0 for the beginning"}
	}
	limit, err := limitOf(r, 100, 1000)
	if err != nil {
		return err
	}
	wait, err := waitOf(r)
	if err != nil {
		return err
	}
	wait = min(wait, time.Minute)
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(wait + 30*time.Second))
	deadline := time.Now().Add(wait)
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		changes, head, err := s.db.Changes(r.Context(), since, limit)
		if err != nil {
			return err
		}
		if len(changes) > 0 || head.Seq < since || time.Now().After(deadline) || s.draining.Load() {
			writeJSON(w, http.StatusOK, map[string]any{
				"changes": orEmpty(changes), "head": map[string]any{"seq": head.Seq, "chain": head.Chain},
			})
			return nil
		}
		select {
		case <-r.Context().Done():
			return nil
		case <-tick.C:
		}
	}
}

// getBlob serves GET /api/blobs/{digest}: any stored bytes that a row names.
func (s *Server) getBlob(w http.ResponseWriter, r *http.Request) error {
	digest := chi.URLParam(r, "digest")
	b, err := s.db.BlobByDigest(r.Context(), digest)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", immutable)
	return s.serveBlob(w, r, storage.Release{Digest: b.Digest, Size: b.Size}, b.Digest, "application/octet-stream")
}
