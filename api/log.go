package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"time"

	"filippo.io/torchwood"
	"github.com/go-chi/chi/v5"

	"github.com/francescobianco/packbase/api/answer"
	"github.com/francescobianco/packbase/api/route"
	"github.com/francescobianco/packbase/api/stored"
	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/ledger"
	"github.com/francescobianco/packbase/storage/logbook"
	"github.com/francescobianco/packbase/storage/userfile"
	"github.com/francescobianco/packbase/storage/zigpkg"
)

// getLogFile serves GET /log/checkpoint, /log/policy and /log/tile/..., as c2sp.org/tlog-tiles has it. A server of static
// files in front may do so as well, from the folder log beside the blobs.
func (s *Server) getLogFile(w http.ResponseWriter, r *http.Request) error {
	path := chi.URLParam(r, "*")
	text := path == logbook.CheckpointFile || path == logbook.PolicyFile || strings.HasPrefix(path, "key/")
	if _, err := torchwood.ParseTilePath(path); err != nil && !text {
		return answer.New("not_found", "the log has the files checkpoint, policy, tile/... and tile/entries/..., as c2sp.org/tlog-tiles says")
	}
	data, err := s.logFile(r.Context(), path)
	if errors.Is(err, fs.ErrNotExist) {
		return answer.New("not_found", "the log has no such file, or not yet")
	}
	if err != nil {
		return err
	}
	if !text {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Cache-Control", stored.Cacheable(false))
	}
	sendText(w, r, data, false)
	return nil
}

// serveProof answers with the proof that a release, if it was found, is in the log.
func (s *Server) serveProof(w http.ResponseWriter, r *http.Request, rel storage.Release, err error) error {
	if err != nil {
		return err
	}
	text, err := s.ledger.ReleaseProof(r.Context(), rel.ID)
	return sendProof(w, r, text, rel.Private, err)
}

// showLog tells beside a manifest, whose bytes are older than its place in the log, where the release is in there. What may be
// cached for ever does not tell that it is pending.
func (s *Server) showLog(w http.ResponseWriter, r *http.Request, rel *storage.Release) {
	place, ok := s.placeOf(r.Context(), rel.ID)
	h := w.Header()
	switch {
	case !ok: // Postgres is away, and the manifest is not
	case place.Proved():
		h.Set("Link", "<"+route.Proof(rel.Called(), rel.Tag, rel.CommitOID)+`>; rel="https://c2sp.org/tlog-proof"`)
		h.Set("X-Packbase-Log", place.String())
	case strings.HasSuffix(h.Get("Cache-Control"), "no-cache") && place != ledger.Unlogged:
		h.Set("X-Packbase-Log", place.String())
	}
}

// placeTimeout is how long a manifest waits for what it can do without.
const placeTimeout = time.Second

// placeOf returns where in the log a release is, from memory if it has an index, which never changes.
func (s *Server) placeOf(ctx context.Context, id int64) (ledger.Place, bool) {
	if place, ok := s.places.Get(id); ok {
		return place, true
	}
	ctx, cancel := context.WithTimeout(ctx, placeTimeout)
	defer cancel()
	places, err := s.ledger.Places(ctx, []int64{id})
	if err != nil {
		return ledger.Unlogged, false
	}
	place, ok := places[id]
	if ok && place.Proved() {
		s.places.Add(id, place)
	}
	return place, ok
}

func sendProof(w http.ResponseWriter, r *http.Request, text []byte, private bool, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return answer.New("not_found", "it is not in the log yet, or never will be, as it is private")
	}
	if err != nil {
		return err
	}
	sendText(w, r, text, private)
	return nil
}

// maxProofs is how many packages are asked about at once.
const maxProofs = 1000

// postProofs serves POST /api/proofs: what the log says of packages.
func (s *Server) postProofs(w http.ResponseWriter, r *http.Request) error {
	var in wire.WantProofs
	free, err := s.readManifests(w, r, &in)
	defer free()
	if err != nil {
		return err
	}
	if n := len(in.Hashes); n == 0 || n > maxProofs {
		return answer.New("invalid", fmt.Sprintf("hashes: want 1 to %d Zig hashes, not %d", maxProofs, n))
	}
	for _, hash := range in.Hashes {
		if err := zigpkg.ValidHash(hash); err != nil {
			return answer.New("invalid", fmt.Sprintf("hashes: %v", err))
		}
	}
	raw, err := s.answers.make(r.Context(), func() (any, error) {
		checkpoint, said, err := s.ledger.Proofs(r.Context(), in.Hashes)
		out := wire.Proofs{Checkpoint: checkpoint, Proofs: []wire.Proof{}}
		for _, hash := range slices.Compact(slices.Sorted(slices.Values(in.Hashes))) {
			if one, ok := said[hash]; ok {
				out.Proofs = append(out.Proofs, wire.Proof{Hash: hash, Proof: one.Proof, Later: append([]string{}, one.Later...)})
			}
		}
		return out, err
	})
	if err == nil {
		err = s.answers.send(w, r, s.clientOf(r), raw)
	}
	return err
}

// sendText answers with bytes, which are text that may change if the header does not say otherwise. What is private stays
// out of caches that serve others.
func sendText(w http.ResponseWriter, r *http.Request, data []byte, private bool) {
	h := w.Header()
	if h.Get("Content-Type") == "" {
		h.Set("Content-Type", "text/plain; charset=utf-8")
		h.Set("Cache-Control", stored.Checked(private))
	}
	sum := sha256.Sum256(data)
	h.Set("ETag", `"`+hex.EncodeToString(sum[:])+`"`)
	h.Set("X-Content-Type-Options", "nosniff")
	http.ServeContent(stored.Uncached(w), r, "", time.Time{}, bytes.NewReader(data))
}

// logFile returns a file of the log: from the folder, or, where there is none, made from rows.
func (s *Server) logFile(ctx context.Context, path string) ([]byte, error) {
	if s.logFolder != "" {
		data, err := userfile.Folder{Dir: s.logFolder, Most: logbook.MaxFile}.ReadFile(path)
		if !errors.Is(err, fs.ErrNotExist) {
			return data, err
		}
	}
	return s.ledger.File(ctx, path)
}
