package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/ledger"
)

// metrics are what the HTTP side counts. Labels come from the route table and
// from fixed lists, so that no client can make new series.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "packbase_http_requests_total", Help: "Answers, by route, method and status.",
		}, []string{"route", "method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "packbase_http_seconds", Help: "Time to answer, by route.",
			Buckets: []float64{.001, .005, .02, .1, .5, 2, 10, 60},
		}, []string{"route"}),
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.seconds)
	}
	return m
}

// observe counts one answer.
func (m *metrics) observe(r *http.Request, status int, took time.Duration) {
	route := chi.RouteContext(r.Context()).RoutePattern()
	if route == "" || status == http.StatusNotFound {
		route = "none"
	}
	method := r.Method
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost:
	default:
		method = "other"
	}
	m.requests.WithLabelValues(route, method, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(route).Observe(took.Seconds())
}

// A registryCollector asks for the state of the registry when it is scraped.
type registryCollector struct {
	s *Server

	packages, releases, snapshots, movedTags, blobBytes, jobs, up *prometheus.Desc
	reconciled, oldestDue                                         *prometheus.Desc // not of an edge
	behind, silent, halted, aside                                 *prometheus.Desc // of an edge
	unread, damaged                                               *prometheus.Desc // blobs
	lost                                                          *prometheus.Desc // trees
	logSize, logSigned, logPending, witnesses, quorum             *prometheus.Desc // not of an edge
	comparisons, differences                                      *prometheus.Desc // of logs, not of an edge
}

func newRegistryCollector(s *Server) *registryCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("packbase_"+name, help, labels, nil)
	}
	return &registryCollector{
		s:           s,
		packages:    desc("packages", "Packages, by health: healthy, unhealthy or frozen.", "health"),
		releases:    desc("releases", "Releases of all packages."),
		snapshots:   desc("snapshots", "Commits of all packages that are here without a tag."),
		movedTags:   desc("moved_tags", "Released tags that upstream moved or deleted."),
		blobBytes:   desc("tarball_bytes", "Bytes of all tarballs."),
		jobs:        desc("jobs", "Jobs, by state and kind: open ones, and those that ended within a day.", "state", "kind"),
		up:          desc("database_up", "1 if Postgres answered this scrape."),
		reconciled:  desc("reconcile_age_seconds", "Time since a worker looked after all jobs without an error."),
		oldestDue:   desc("oldest_due_job_seconds", "How long a job has waited for a worker and nothing else, at most."),
		lost:        desc("trees_lost", "Captured trees of which upstream has something no more, or other files."),
		unread:      desc("blobs_unread", "Blobs that nobody has read for longer than PACKBASE_SCRUB."),
		damaged:     desc("blobs_damaged", "Blobs that are damaged or lost, and could not be mended yet."),
		logSize:     desc("log_entries", "Entries of the log of what is published."),
		logSigned:   desc("log_signed_entries", "Entries of the log that are under its newest checkpoint."),
		logPending:  desc("log_pending_seconds", "How long what is published has waited for its entry in the log, at most."),
		witnesses:   desc("log_witnesses", "Witnesses of the log, by whether they cosigned when they were asked last.", "cosigned"),
		quorum:      desc("log_quorum", "1 if as many witnesses cosign the log as its policy wants."),
		comparisons: desc("log_comparisons", "Packbases with whose logs that of this one is compared, by whether they could be read at the last look.", "ok"),
		differences: desc("log_differences", "What logs contradict each other in."),
		behind:      desc("replication_behind", "Changes of the central that are not here yet."),
		silent:      desc("replication_silent_seconds", "How long ago the central last answered."),
		aside:       desc("replication_set_aside", "Changes of the central that cannot be taken over for now."),
		halted:      desc("replication_halted", "1 if the central contradicted itself, so that replication stopped."),
	}
}

// Describe implements prometheus.Collector.
func (c *registryCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.packages, c.releases, c.snapshots, c.movedTags, c.blobBytes, c.jobs, c.up, c.reconciled, c.oldestDue, c.lost, c.unread, c.damaged, c.logSize, c.logSigned, c.logPending, c.witnesses, c.quorum, c.comparisons, c.differences, c.behind, c.silent, c.aside, c.halted} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *registryCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(access.SeePrivate(context.Background()), 5*time.Second)
	defer cancel()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	v, err := c.s.directory.Current(ctx)
	var counts []jobs.Count
	if err == nil {
		counts, err = c.s.db.Jobs.Counts(ctx)
	}
	var pulse jobs.Pulse
	if err == nil && c.s.queue != nil {
		pulse, err = c.s.db.Jobs.Pulse(ctx)
	}
	var lost int
	if err == nil {
		lost, err = c.s.trees.LostTrees(ctx)
	}
	var blobs wire.Blobs
	if err == nil {
		blobs, err = c.s.workOutScrub(ctx)
	}
	var log ledger.State
	if err == nil {
		log, err = c.s.ledger.State(ctx)
	}
	var witnesses []ledger.WitnessState
	quorum := false
	if err == nil {
		witnesses, quorum, err = c.s.ledger.Witnesses(ctx)
	}
	var compared []ledger.Comparison
	differences := 0
	if err == nil {
		compared, err = c.s.ledger.Comparisons(ctx)
	}
	if err == nil {
		_, differences, err = c.s.ledger.Differences(ctx, 0)
	}
	var r *wire.Replication
	if err == nil {
		r, err = c.s.workOutReplication(ctx)
	}
	if err != nil {
		gauge(c.up, 0)
		return
	}
	gauge(c.up, 1)
	gauge(c.packages, float64(v.Totals.Healthy), "healthy")
	gauge(c.packages, float64(v.Totals.Unhealthy), "unhealthy")
	gauge(c.packages, float64(v.Totals.Frozen), "frozen")
	gauge(c.packages, float64(v.Totals.Stale), "stale")
	gauge(c.packages, float64(v.Totals.Waiting), "waiting")
	gauge(c.releases, float64(v.Totals.Releases))
	gauge(c.snapshots, float64(v.Totals.Snapshots))
	gauge(c.movedTags, float64(v.Totals.MovedTags))
	gauge(c.blobBytes, float64(v.Totals.Bytes))
	gauge(c.lost, float64(lost))
	gauge(c.unread, float64(blobs.Behind))
	gauge(c.damaged, float64(blobs.Damaged))
	for _, j := range counts {
		gauge(c.jobs, float64(j.Count), j.State, j.Kind)
	}
	if pulse.Reconciled != nil {
		gauge(c.reconciled, pulse.Reconciled.Seconds())
	}
	if c.s.queue != nil {
		gauge(c.oldestDue, pulse.OldestDue.Seconds())
		gauge(c.logSize, float64(log.Tree.N))
		gauge(c.logSigned, float64(log.Signed))
		gauge(c.logPending, log.Oldest.Seconds())
		failing := 0
		for _, w := range witnesses {
			if w.Problem != "" {
				failing++
			}
		}
		gauge(c.witnesses, float64(failing), "false")
		gauge(c.witnesses, float64(len(witnesses)-failing), "true")
		gauge(c.quorum, one(quorum))
		bad := 0
		for _, with := range compared {
			if with.Problem != "" {
				bad++
			}
		}
		gauge(c.comparisons, float64(bad), "false")
		gauge(c.comparisons, float64(len(compared)-bad), "true")
		gauge(c.differences, float64(differences))
	}
	if r != nil {
		gauge(c.behind, float64(max(r.Head-r.Seq, 0))) // one that was restored may have fewer
		if r.SyncedAt != nil {
			gauge(c.silent, time.Since(*r.SyncedAt).Seconds())
		}
		gauge(c.aside, float64(r.SetAside))
		gauge(c.halted, one(r.Halted != ""))
	}
}

func one(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
