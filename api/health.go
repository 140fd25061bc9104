package api

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"sync"
	"time"

	"github.com/francescobianco/packbase/api/answer"
	"github.com/francescobianco/packbase/api/health"
	"github.com/francescobianco/packbase/api/wire"
)

// getHealth serves GET /healthz: the process answers. It depends on nothing.
func (s *Server) getHealth(w http.ResponseWriter, _ *http.Request) error {
	answer.JSON(w, http.StatusOK, map[string]string{"status": "ok"})
	return nil
}

// getReady serves GET /readyz: each dependency with its state. Published
// packages can be served without Redis and workers, so these do not make us
// unready.
func (s *Server) getReady(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), 4*time.Second)
	defer cancel()
	deps := s.askStores(ctx)
	ready := deps["postgres"] == "ok" && deps["blobs"] == "ok"
	if deps["postgres"] == "ok" {
		s.askWork(ctx, deps)
	}
	if s.draining.Load() {
		deps["server"] = "shutting down"
		ready = false
	}
	status, word := http.StatusOK, "ready"
	if !ready {
		status, word = http.StatusServiceUnavailable, "not ready"
	}
	answer.JSON(w, status, wire.Ready{Dependencies: deps, Status: word})
	return nil
}

// askStores asks all at once, so that one that does not answer takes no time from others, and leaves some to what follows.
func (s *Server) askStores(ctx context.Context) map[string]string {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	var postgres, blobs, redis error
	var wg sync.WaitGroup
	wg.Go(func() { postgres = s.db.Ping(ctx) })
	wg.Go(func() { blobs = s.blobsReady(ctx) })
	if s.queue != nil {
		wg.Go(func() { redis = s.queue.Ping(ctx) })
	}
	wg.Wait()
	deps := map[string]string{"postgres": stateOf(postgres), "blobs": stateOf(blobs)}
	if s.queue != nil {
		deps["redis"] = stateOf(redis)
	}
	return deps
}

// askWork adds how the work gets on that goes by itself.
func (s *Server) askWork(ctx context.Context, deps map[string]string) {
	if s.queue != nil {
		deps["reconciler"], deps["jobs"] = health.OfWork(s.db.Jobs.Pulse(ctx))
	}
	switch all, quorum, err := s.ledger.Witnesses(ctx); {
	case err != nil:
		deps["witnesses"] = "unknown"
	case len(all) > 0 && quorum:
		deps["witnesses"] = "ok"
	case len(all) > 0:
		deps["witnesses"] = "missing"
	}
	if s.opt.Scrub > 0 {
		switch behind, err := s.db.Scrub.Behind(ctx, s.opt.Scrub); {
		case err != nil:
			deps["scrub"] = "unknown"
		case behind:
			deps["scrub"] = "behind"
		default:
			deps["scrub"] = "ok"
		}
	}
}

// blobsReady asks for space, which a folder has, and for a blob, which a
// bucket has or has not.
func (s *Server) blobsReady(ctx context.Context) error {
	if _, err := s.promised.Blobs.Free(ctx); err != nil {
		return err
	}
	const digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" // of nothing
	if _, err := s.promised.Blobs.Stat(ctx, digest); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func stateOf(err error) string {
	if err != nil {
		return "down"
	}
	return "ok"
}

// Drain makes readiness fail, so that balancers stop sending requests before
// the listener closes.
func (s *Server) Drain() { s.draining.Store(true) }
