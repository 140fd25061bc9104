package api

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/francescobianco/packbase/storage"
)

// statusBody is what GET /api/status answers.
type statusBody struct {
	Service           string         `json:"service"`
	Release           string         `json:"release"`
	PackagesTotal     int            `json:"packages_total"`
	PackagesHealthy   int            `json:"packages_healthy"`
	PackagesUnhealthy int            `json:"packages_unhealthy"`
	PackagesFrozen    int            `json:"packages_frozen"`
	PackagesLocal     int            `json:"packages_local"`
	Registered        int            `json:"packages_registered"`
	Releases          int            `json:"releases_total"`
	Bytes             int64          `json:"size_bytes"`
	Languages         map[string]int `json:"languages"`
	Update            updateBody     `json:"update"`
	Queue             queueBody      `json:"queue"`
	MovedTags         int            `json:"moved_tags"`
	Auth              string         `json:"auth"`
	Blobs             blobsBody      `json:"blobs"`

	Replication *replicationBody `json:"replication,omitempty"` // of an edge
}

// blobsBody says how the reading of all stored bytes stands.
type blobsBody struct {
	CheckedSince *time.Time `json:"checked_since"` // everything was read since then; null without blobs
	Behind       int        `json:"behind"`        // blobs that nobody has read for longer than PACKBASE_SCRUB
	Damaged      int        `json:"damaged"`       // blobs that are damaged or lost, and could not be mended yet
}

// scrubAge is how old what is said of the scrub may be.
const scrubAge = 15 * time.Second

func (s *Server) workOutScrub(ctx context.Context) (blobsBody, error) {
	return s.scrub.within(ctx, scrubAge, func(ctx context.Context) (blobsBody, error) {
		st, err := s.db.Scrub(ctx, s.opt.Scrub)
		return blobsBody{CheckedSince: st.Since, Behind: st.Behind, Damaged: st.Damaged}, err
	})
}

// replicationBody says how far an edge has followed its central.
type replicationBody struct {
	Central  string     `json:"central"`
	Seq      int64      `json:"seq"`       // the last change that is here
	Head     int64      `json:"head"`      // the last change that the central has
	Halted   string     `json:"halted"`    // why replication stopped for good; "" while all is well
	SyncedAt *time.Time `json:"synced_at"` // when the central last answered

	SetAside      int                `json:"set_aside"`         // changes that cannot be taken over for now
	SetAsideFirst []storage.SetAside `json:"set_aside_changes"` // the first of them, with the reasons
}

const listedAside = 20 // changes

type updateBody struct {
	State     string     `json:"state"` // idle, running, queued or cooldown
	StartedAt *time.Time `json:"started_at"`
	UpdatedAt *time.Time `json:"updated_at"`
	EndedAt   *time.Time `json:"ended_at"`
	JobID     string     `json:"job_id,omitempty"`
	Done      int        `json:"done"`  // packages of this run that have ended
	Total     int        `json:"total"` // packages of this run
	LastState string     `json:"last_state,omitempty"`
	storage.Counters
	DiskFree int64 `json:"disk_free"` // bytes; -1 if there is no limit to know of
}

type queueBody struct {
	storage.QueueCounts
	Workers []storage.WorkerState `json:"workers"`
}

// news counts what this server changed, and the ends of jobs that it told
// somebody of. Lists and status that were worked out before are out of date.
type news = atomic.Uint64

// A remembered value is worked out again when it is too old, by one caller at
// a time, however many ask.
type remembered[T any] struct {
	news  *news // nil for what may be as old as all that
	mu    sync.Mutex
	value T
	at    time.Time
	heard uint64 // the news by then
}

// get returns the value as it was at most a second ago, and after all news.
func (r *remembered[T]) get(ctx context.Context, work func(context.Context) (T, error)) (T, error) {
	return r.within(ctx, time.Second, work)
}

// within returns the value as it was at most age ago, and after all news.
func (r *remembered[T]) within(ctx context.Context, age time.Duration, work func(context.Context) (T, error)) (T, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var heard uint64
	if r.news != nil {
		heard = r.news.Load()
	}
	if time.Since(r.at) < age && heard == r.heard {
		return r.value, nil
	}
	value, err := work(ctx)
	if err == nil {
		r.value, r.at, r.heard = value, time.Now(), heard
	}
	return value, err
}

// A perReader value is one for those who see private packages, and one for all
// others.
type perReader[T any] struct{ all, public T }

func (p *perReader[T]) of(ctx context.Context) *T {
	if storage.SeesPrivate(ctx) {
		return &p.all
	}
	return &p.public
}

// getStatus serves GET /api/status.
func (s *Server) getStatus(w http.ResponseWriter, r *http.Request) error {
	body, err := s.status.of(r.Context()).get(r.Context(), s.workOutStatus)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, body)
	return nil
}

func (s *Server) workOutStatus(ctx context.Context) (*statusBody, error) {
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
	v, err := s.directory.look(ctx)
	if err != nil {
		return nil, err
	}
	t := v.totals
	b := &statusBody{
		Service: "packbase", Release: s.opt.Release, Auth: s.authWord(), Languages: t.Languages, MovedTags: t.MovedTags,
		PackagesTotal: t.Packages, PackagesHealthy: t.Healthy, PackagesUnhealthy: t.Unhealthy, PackagesFrozen: t.Frozen,
		PackagesLocal: t.Local, Registered: t.Registered, Releases: t.Releases, Bytes: t.Bytes, Replication: replicated,
	}
	if b.Queue.QueueCounts, err = s.db.QueueCounts(ctx); err != nil {
		return nil, err
	}
	if b.Queue.Workers, err = s.db.Workers(ctx); err != nil {
		return nil, err
	}
	b.Queue.Workers = orEmpty(b.Queue.Workers)
	if b.Update, err = s.workOutUpdate(ctx); err != nil {
		return nil, err
	}
	if b.Update.DiskFree, err = s.blobs.Free(ctx); err != nil {
		b.Update.DiskFree = -1
	}
	b.Blobs, err = s.workOutScrub(ctx)
	return b, err
}

func (s *Server) workOutReplication(ctx context.Context) (*replicationBody, error) {
	r, err := s.db.Replication(ctx)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b := &replicationBody{Central: r.Central, Seq: r.Seq, Head: r.Head, Halted: r.Halted, SyncedAt: r.SyncedAt}
	b.SetAsideFirst, b.SetAside, err = s.db.AllSetAside(ctx, listedAside)
	b.SetAsideFirst = orEmpty(b.SetAsideFirst)
	return b, err
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

func (s *Server) workOutUpdate(ctx context.Context) (updateBody, error) {
	b := updateBody{State: "idle"}
	run, err := s.db.LastRun(ctx)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return b, err
	}
	if err == nil {
		b.StartedAt, b.UpdatedAt, b.EndedAt, b.Counters, b.LastState = run.StartedAt, &run.UpdatedAt, run.EndedAt, run.Counters, run.State
		if left, err := s.db.Cooling(ctx, s.opt.Cooldown); err != nil {
			return b, err
		} else if left > 0 {
			b.State = "cooldown"
		}
	}
	update, err := s.db.OpenUpdate(ctx)
	if errors.Is(err, storage.ErrNotFound) {
		return b, nil
	}
	if err != nil {
		return b, err
	}
	b.State, b.JobID = update.State, update.ID.String()
	if update.State == storage.Running && update.RunID != nil {
		b.Done, b.Total, err = s.db.RunProgress(ctx, *update.RunID)
	}
	return b, err
}
