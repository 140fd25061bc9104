package api_test

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/francescobianco/packbase/api"
	"github.com/francescobianco/packbase/api/wire"
)

// Readiness, metrics and the dashboard say when jobs get nowhere, and packages
// are served all the same.
func TestPulse(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	s := newPageSite(t, func(o *api.Options) { o.Metrics = reg })
	s.exec(`INSERT INTO workers (id, concurrency, started_at) VALUES ('w', 2, now() - interval '1 hour')`)
	job := func(kind, pkg, state, due string) {
		t.Helper()
		s.exec(`
			INSERT INTO jobs (id, kind, package, state, run_at, lease, lease_until, started_at)
			SELECT gen_random_uuid(), $1, $2, $3, now() + $4::interval, l, now() + interval '1 minute', now()
			FROM (SELECT CASE WHEN $3 = 'running' THEN gen_random_uuid() END) l (l)`, kind, pkg, state, due)
	}
	for _, step := range []struct { // in order
		name             string
		change           func()
		reconciler, jobs string
		age, due         float64 // seconds, at least; -1 for no such metric
		page             string
	}{
		{"new", func() {}, "stalled", "ok", -1, 0, "Nobody looks after the jobs"},
		{"a round went well", func() { s.exec(`UPDATE watch SET reconciled_at = now() - interval '2 s'`) }, "ok", "ok", 2, 0, "Ready for the first package"},
		{"none for a while", func() { s.exec(`UPDATE watch SET reconciled_at = now() - interval '2 min'`) }, "stalled", "ok", 120, 0, "Nobody looks after the jobs"},
		{"a clock went back", func() { s.exec(`UPDATE watch SET reconciled_at = now() + interval '1 hour'`) }, "ok", "ok", 0, 0, ""},
		{"jobs that wait for others", func() {
			job("package:fetch", "busy", "running", "-2 h")
			job("package:probe", "busy", "queued", "-2 h")
			job("catalog:update", "", "running", "-2 h")
			job("catalog:update", "", "queued", "-2 h")
			job("package:fetch", "later", "queued", "2 h")
			job("package:fetch", "soon", "queued", "-1 min")
		}, "ok", "ok", 0, 60, ""},
		{"one that waits for a worker", func() { job("package:fetch", "forgotten", "queued", "-20 min") }, "ok", "overdue", 0, 1200, "Jobs wait too long"},
	} {
		step.change()
		var ready struct {
			Status       string
			Dependencies map[string]string
		}
		a := s.get("/readyz")
		a.into(t, &ready)
		if ready.Status != "ready" || ready.Dependencies["reconciler"] != step.reconciler || ready.Dependencies["jobs"] != step.jobs {
			t.Errorf("%s: /readyz says %s, want ready with reconciler %s, jobs %s", step.name, a.body, step.reconciler, step.jobs)
		}
		for name, least := range map[string]float64{"packbase_reconcile_age_seconds": step.age, "packbase_oldest_due_job_seconds": step.due} {
			if got := gaugeOf(t, reg, name); got < least || got > least+60 {
				t.Errorf("%s: %s = %v, want %v or a bit more", step.name, name, got, least)
			}
		}
		s.wantIn(s.again().page("/", 200), step.page)
	}
}

// gaugeOf returns the value of a metric without labels, -1 if there is none.
func gaugeOf(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range all {
		if family.GetName() == name {
			return family.GetMetric()[0].GetGauge().GetValue()
		}
	}
	return -1
}

// Readiness says when stored bytes have not been read for too long.
func TestScrubBehind(t *testing.T) {
	t.Parallel()
	s := newPageSite(t, func(o *api.Options) { o.Scrub = time.Hour })
	s.pkg("hello", "", "v1")
	for _, step := range []struct{ change, want string }{
		{`UPDATE blobs SET created_at = now() - interval '2 hours', checked_at = now()`, "ok"},
		{`UPDATE blobs SET checked_at = now() - interval '61 minutes'`, "behind"},
		{`UPDATE blobs SET damaged_at = now()`, "ok"},                                                                  // which is another matter
		{`INSERT INTO blobs (digest, size, created_at) VALUES (repeat('0', 64), 1, now() - interval '2 hours')`, "ok"}, // that nobody names
	} {
		s.exec(step.change)
		var ready struct{ Dependencies struct{ Scrub string } }
		a := s.get("/readyz")
		if a.into(t, &ready); a.StatusCode != 200 || ready.Dependencies.Scrub != step.want {
			t.Errorf("%s: %d %s, want 200 and scrub %s", step.change, a.StatusCode, a.body, step.want)
		}
	}
}

// What was an edge tells of its central until it is promoted.
func TestPromoted(t *testing.T) {
	t.Parallel()
	promoted := newRegistry(t)
	_, err := promoted.db.Feed.Follow(t.Context(), "https://central.example", false)
	promoted.must(err)
	edge := promoted.serve(func(o *api.Options) { o.ReadOnly = true })
	for g, want := range map[*registry]bool{edge: true, promoted: false} {
		var status wire.Status
		g.get("/api/status").into(t, &status)
		if told := status.Replication != nil; told != want {
			t.Errorf("of an edge %v: the status has replication: %v", want, told)
		}
	}
}
