package api

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/francescobianco/packbase/api/answer"
	"github.com/francescobianco/packbase/api/directory"
	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/feed"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
)

// scrubAge is how old what is said of the scrub may be.
const scrubAge = 15 * time.Second

func (s *Server) workOutScrub(ctx context.Context) (wire.Blobs, error) {
	return s.scrub.Within(ctx, scrubAge, func(ctx context.Context) (wire.Blobs, error) {
		st, err := s.db.Scrub.State(ctx, s.opt.Scrub)
		return wire.Blobs{CheckedSince: st.Since, Behind: st.Behind, Damaged: st.Damaged}, err
	})
}

const listedAside = 20 // changes

// getStatus serves GET /api/status.
func (s *Server) getStatus(w http.ResponseWriter, r *http.Request) error {
	body, err := s.Status(r.Context())
	if err != nil {
		return err
	}
	answer.JSON(w, http.StatusOK, body)
	return nil
}

// Status returns how everything is, worked out at most once a second.
func (s *Server) Status(ctx context.Context) (*wire.Status, error) {
	return s.status.Of(ctx).Get(ctx, s.workOutStatus)
}

func (s *Server) workOutStatus(ctx context.Context) (*wire.Status, error) {
	// A client that goes away must not spoil the answer for the others.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	// First how far replication is: packages are then as new as that.
	replicated, err := s.workOutReplication(ctx)
	if err != nil {
		return nil, err
	}
	if replicated != nil && s.replicated.Swap(replicated.Seq) != replicated.Seq {
		s.news.Add(1)
	}
	v, err := s.directory.Current(ctx)
	if err != nil {
		return nil, err
	}
	t := v.Totals
	b := &wire.Status{
		Service: "packbase", Release: s.opt.Release, Auth: s.authWord(), Languages: t.Languages, MovedTags: t.MovedTags,
		PackagesTotal: t.Packages, PackagesHealthy: t.Healthy, PackagesUnhealthy: t.Unhealthy, PackagesFrozen: t.Frozen,
		PackagesStale: t.Stale, PackagesWaiting: t.Waiting,
		PackagesLocal: t.Local, Registered: t.Registered, Releases: t.Releases, Snapshots: t.Snapshots, Bytes: t.Bytes, Replication: replicated,
	}
	counts, err := s.db.Jobs.QueueCounts(ctx)
	if err != nil {
		return nil, err
	}
	workers, err := s.db.Jobs.Workers(ctx)
	if err != nil {
		return nil, err
	}
	b.Queue = wire.Queue{QueueCounts: wire.QueueCounts(counts), Workers: each(workers, newWorker)}
	if b.Update, err = s.workOutUpdate(ctx); err != nil {
		return nil, err
	}
	if b.Update.DiskFree, err = s.promised.Blobs.Free(ctx); err != nil {
		b.Update.DiskFree = -1
	}
	b.Update.DefaultSeeded = slices.ContainsFunc(v.Packages, func(p *directory.Listing) bool { return p.Upstream == name.FixtureScheme+"hello" })
	b.Blobs, err = s.workOutScrub(ctx)
	return b, err
}

func (s *Server) workOutReplication(ctx context.Context) (*wire.Replication, error) {
	if !s.opt.ReadOnly {
		return nil, nil // it may have been an edge, and follows nobody any more
	}
	r, err := s.db.Feed.Replication(ctx)
	if errors.Is(err, fault.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b := &wire.Replication{Central: r.Central, Seq: r.Seq, Head: r.Head, Halted: r.Halted, SyncedAt: r.SyncedAt}
	aside, n, err := s.db.Feed.AllSetAside(ctx, listedAside)
	b.SetAside, b.SetAsideFirst = n, each(aside, newSetAside)
	return b, err
}

func newWorker(w jobs.WorkerState) wire.Worker {
	return wire.Worker{ID: w.ID, Concurrency: w.Concurrency, Release: w.Release, StartedAt: w.StartedAt, SeenAt: w.SeenAt,
		Jobs: each(w.Jobs, func(d jobs.Doing) wire.Doing {
			return wire.Doing{Job: d.Job, Kind: d.Kind, Package: d.Package, Progress: wire.Progress(d.Progress), Since: d.Since}
		})}
}

func newSetAside(a feed.SetAside) wire.SetAside {
	return wire.SetAside{Seq: a.Seq, Package: a.Package, Tag: a.Tag, Reason: a.Reason, Tries: a.Tries, Since: a.Since, RetryAt: a.RetryAt}
}

func (s *Server) authWord() string {
	switch {
	case s.opt.ReadOnly:
		return "read_only"
	case s.opt.Token != "":
		return "token"
	}
	return "none"
}

func (s *Server) workOutUpdate(ctx context.Context) (wire.Update, error) {
	b := wire.Update{State: "idle"}
	run, err := s.db.Jobs.LastRun(ctx)
	if err != nil && !errors.Is(err, fault.ErrNotFound) {
		return b, err
	}
	if err == nil {
		b.StartedAt, b.UpdatedAt, b.EndedAt, b.Counters, b.LastState = run.StartedAt, &run.UpdatedAt, run.EndedAt, wire.Counters(run.Counters), run.State
		b.UpdatedUnix = run.UpdatedAt.Unix()
		if run.StartedAt != nil {
			b.StartedUnix = run.StartedAt.Unix()
		}
		if left, err := s.db.Jobs.Cooling(ctx, s.changing.Load().Cooldown); err != nil {
			return b, err
		} else if left > 0 {
			b.State, b.RetryAfter = "cooldown", answer.Seconds(left)
		}
	}
	update, err := s.db.Jobs.OpenUpdate(ctx)
	if errors.Is(err, fault.ErrNotFound) {
		return b, nil
	}
	if err != nil {
		return b, err
	}
	b.State, b.JobID = update.State, update.ID.String()
	if b.Queued, err = s.db.Jobs.UpdateQueued(ctx); err != nil {
		return b, err
	}
	if update.State == jobs.Running && update.RunID != nil {
		b.Done, b.Total, err = s.db.Jobs.RunProgress(ctx, *update.RunID)
	}
	return b, err
}
