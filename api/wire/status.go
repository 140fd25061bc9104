package wire

import "time"

// Status is how a packbase is.
type Status struct {
	Service           string         `json:"service"`
	Release           string         `json:"release"`
	PackagesTotal     int            `json:"packages_total"`
	PackagesHealthy   int            `json:"packages_healthy"`
	PackagesUnhealthy int            `json:"packages_unhealthy"`
	PackagesFrozen    int            `json:"packages_frozen"`
	PackagesStale     int            `json:"packages_stale"`
	PackagesWaiting   int            `json:"packages_waiting"`
	PackagesLocal     int            `json:"packages_local"`
	Registered        int            `json:"packages_registered"`
	Releases          int            `json:"releases_total"`
	Snapshots         int            `json:"snapshots_total"`
	Bytes             int64          `json:"size_bytes"`
	Languages         map[string]int `json:"languages"`
	Update            Update         `json:"update"`
	Queue             Queue          `json:"queue"`
	MovedTags         int            `json:"moved_tags"`
	Auth              string         `json:"auth"` // what writes need: token, none; read_only if there are none
	Blobs             Blobs          `json:"blobs"`

	Replication *Replication `json:"replication,omitempty"` // of an edge
}

// Blobs says how the reading of all stored bytes stands.
type Blobs struct {
	CheckedSince *time.Time `json:"checked_since"` // everything was read since then; null without blobs
	Behind       int        `json:"behind"`        // blobs that nobody has read for longer than PACKBASE_SCRUB, counted up to 10,000
	Damaged      int        `json:"damaged"`       // blobs that are damaged or lost, and could not be mended yet
}

// Replication says how far an edge has followed its central.
type Replication struct {
	Central  string     `json:"central"`
	Seq      int64      `json:"seq"`       // the last change that is here
	Head     int64      `json:"head"`      // the last change that the central has
	Halted   string     `json:"halted"`    // why replication stopped for good; "" while all is well
	SyncedAt *time.Time `json:"synced_at"` // when the central last answered

	SetAside      int        `json:"set_aside"`         // changes that cannot be taken over for now
	SetAsideFirst []SetAside `json:"set_aside_changes"` // the first of them, with the reasons
}

// SetAside is a change of the central that cannot be taken over for now.
type SetAside struct {
	Seq     int64     `json:"seq"`
	Package string    `json:"package"` // "" if the change does not say
	Tag     string    `json:"tag"`
	Reason  string    `json:"reason"`
	Tries   int       `json:"tries"`
	Since   time.Time `json:"since"`
	RetryAt time.Time `json:"retry_at"`
}

// Update is the update of all packages that runs, or the last one.
type Update struct {
	State     string     `json:"state"` // idle, running, queued or cooldown
	StartedAt *time.Time `json:"started_at"`
	UpdatedAt *time.Time `json:"updated_at"`
	EndedAt   *time.Time `json:"ended_at"`

	// The same in seconds since 1970, as the first packbase has them; 0 for null.
	StartedUnix int64 `json:"started_at_unix"`
	UpdatedUnix int64 `json:"updated_at_unix"`

	JobID     string `json:"job_id,omitempty"` // "" if none is open
	Done      int    `json:"done"`             // packages of this run that have ended
	Total     int    `json:"total"`            // packages of this run
	LastState string `json:"last_state,omitempty"`
	Counters
	DefaultSeeded bool  `json:"default_seeded"` // hello is a local package: packbase's own, or of PACKBASE_FIXTURES
	RetryAfter    int   `json:"retry_after"`    // seconds of the cooldown that are left
	Queued        bool  `json:"queued"`         // an update waits for its turn
	DiskFree      int64 `json:"disk_free"`      // bytes; -1 if there is no limit to know of
}

// Queue is the jobs that are open, and who does them.
type Queue struct {
	QueueCounts
	Workers []Worker `json:"workers"`
}

// QueueCounts are the jobs by what becomes of them.
type QueueCounts struct {
	Pending   int `json:"pending"`   // due, and no worker has them yet
	Active    int `json:"active"`    // a worker has them
	Scheduled int `json:"scheduled"` // due later
	Retry     int `json:"retry"`     // tried, and due again later
	Failed    int `json:"failed"`    // ended without success within a day
}

// A Worker is a worker that is alive.
type Worker struct {
	ID          string    `json:"id"`
	Concurrency int       `json:"concurrency"`
	Release     string    `json:"release"`
	StartedAt   time.Time `json:"started_at"`
	SeenAt      time.Time `json:"seen_at"`
	Jobs        []Doing   `json:"jobs"`
}

// Doing is a job that a worker has.
type Doing struct {
	Job      string    `json:"job_id"`
	Kind     string    `json:"kind"`
	Package  string    `json:"package,omitempty"`
	Progress Progress  `json:"progress"`
	Since    time.Time `json:"since"`
}

// Ready is what the process depends on, each with its state.
type Ready struct {
	Dependencies map[string]string `json:"dependencies"`
	Status       string            `json:"status"` // ready or not ready
}
