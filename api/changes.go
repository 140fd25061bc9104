package api

import (
	"context"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/francescobianco/packbase/api/answer"
	"github.com/francescobianco/packbase/api/stored"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/feed"
)

// getChanges serves GET /api/changes?since=&limit=&wait=: the feed that edges
// follow. With wait it answers when there is something new, after that many
// seconds, or when this server is about to end. With private=1 whoever does not
// see private packages is refused, and not given a feed with holes.
func (s *Server) getChanges(w http.ResponseWriter, r *http.Request) error {
	since, err := strconv.ParseInt("0"+r.URL.Query().Get("since"), 10, 64)
	if err != nil {
		return answer.New("invalid", "since: want the number of a change, 0 for the beginning")
	}
	limit, err := limitOf(r, 100, feed.MaxPage)
	if err != nil {
		return err
	}
	wait, err := waitOf(r, 0)
	if err != nil {
		return err
	}
	switch private := r.URL.Query().Get("private"); {
	case private == "":
	case private != "1":
		return answer.New("invalid", "private: want 1, or nothing")
	case !access.SeesPrivate(r.Context()):
		return unauthorized("private changes are for those who send a token of the scope read")
	}
	wait = min(wait, time.Minute)
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(wait + 30*time.Second))
	deadline := time.Now().Add(wait)
	for {
		changes, head, err := s.db.Feed.Changes(r.Context(), since, limit)
		if err != nil {
			return err
		}
		if len(changes) > 0 || head.Seq < since || time.Now().After(deadline) || s.draining.Load() {
			answer.JSON(w, http.StatusOK, feed.Page{Changes: append([]feed.Change{}, changes...), Head: head})
			return nil
		}
		if err := s.awaitChange(r.Context(), head.Seq, deadline); err != nil {
			return err
		}
	}
}

// feedAge is how late those who wait hear of a change, at most.
const feedAge = 500 * time.Millisecond

// awaitChange returns when the feed's head is not seq any more, at the
// deadline, or when this server is about to end. All who wait ask once.
func (s *Server) awaitChange(ctx context.Context, seq int64, deadline time.Time) error {
	tick := time.NewTicker(feedAge)
	defer tick.Stop()
	for head := seq; head == seq && time.Now().Before(deadline) && !s.draining.Load(); {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		var err error
		if head, err = s.feedHead.Within(ctx, feedAge, s.workOutFeedHead); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) workOutFeedHead(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), findTimeout)
	defer cancel()
	_, head, err := s.db.Feed.Changes(ctx, math.MaxInt64, 1)
	return head.Seq, err
}

// getBlob serves GET /api/blobs/{digest}: the bytes of a release.
func (s *Server) getBlob(w http.ResponseWriter, r *http.Request) error {
	digest := chi.URLParam(r, "digest")
	b, err := s.db.BlobByDigest(r.Context(), digest)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", stored.Cacheable(access.SeesPrivate(r.Context())))
	return s.promised.Serve(w, r, stored.File{Digest: b.Digest, Size: b.Size, ContentType: "application/octet-stream"})
}
