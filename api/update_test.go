package api_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/francescobianco/packbase/api"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/queue/queuetest"
)

// ask sends n requests for an update at once, and returns how many got each
// status and word.
func (g *registry) ask(n int, header func(i int) []string) map[string]int {
	g.t.Helper()
	answers := make([]*answer, n)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-start
			answers[i] = g.do(http.MethodPost, "/api/update", "", header(i)...)
		})
	}
	close(start)
	wg.Wait()
	got := map[string]int{}
	for _, a := range answers {
		var body struct {
			Status     string
			RetryAfter *int `json:"retry_after"`
		}
		a.into(g.t, &body)
		got[fmt.Sprint(a.StatusCode, " ", body.Status)]++
		if body.RetryAfter == nil {
			continue
		}
		if after, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || after != *body.RetryAfter || after < 0 || after > 60 {
			g.t.Errorf("retry_after %d, Retry-After %q; want the same, within the cooldown", *body.RetryAfter, a.Header.Get("Retry-After"))
		}
	}
	return got
}

// tooBusy is what a machine answers that cannot take so many at once.
const tooBusy = "503 error"

func noHeader(int) []string { return nil }

// runs returns how many updates there were so far.
func (g *registry) runs() int {
	g.t.Helper()
	jobs, err := g.db.Jobs.List(g.t.Context(), jobs.Filter{Limit: 500})
	g.must(err)
	return len(jobs)
}

// Of 500 requests at once, one starts an update; while it runs, 500 more have
// exactly one more follow; and nothing that a request says about its sender
// changes that (RQ-14, RQ-16).
func TestUpdateIsBounded(t *testing.T) {
	t.Parallel()
	const n = 500
	site := newPageSite(t)
	g := site.registry
	second := g.serve() // another process of the same packbase
	if got := g.ask(n/2, noHeader); got["202 started"] != 1 || got["200 cooldown"]+got[tooBusy] != n/2-1 {
		t.Errorf("answers %v, want one started, else cooldown", got)
	}
	got := second.ask(n/2, func(i int) []string {
		ip := fmt.Sprintf("203.0.113.%d", rand.IntN(256))
		return []string{"X-Forwarded-For", ip, "X-Real-IP", ip, "True-Client-IP", ip, "CF-Connecting-IP", ip, "Forwarded", "for=" + ip,
			"Host", fmt.Sprintf("h%d.example", i), "Authorization", "Bearer " + token, "X-Forwarded-Host", ip, "Via", ip}
	})
	if got["200 cooldown"]+got[tooBusy] != n/2 {
		t.Errorf("answers to spoofed requests %v, want all cooldown", got)
	}
	if got := g.runs(); got != 1 {
		t.Fatalf("%d updates, want 1", got)
	}

	job, err := g.db.Jobs.OpenUpdate(t.Context())
	g.must(err)
	c, err := g.db.Jobs.Claim(t.Context(), job.ID, "tests", time.Minute)
	g.must(err)
	g.must(g.db.Jobs.StartRun(t.Context(), c))
	if got := g.ask(n, noHeader); got["200 queued"]+got[tooBusy] != n || got["200 queued"] == 0 {
		t.Errorf("answers while one runs %v, want all queued", got)
	}
	if got := g.runs(); got != 2 {
		t.Fatalf("%d updates, want 1 more", got)
	}
	next, err := g.db.Jobs.OpenUpdate(t.Context())
	g.must(err)
	if next.ID != job.ID {
		t.Errorf("open update %s, want the running one first", next.ID)
	}

	g.must(g.db.Jobs.ParkRun(t.Context(), c, jobs.Counters{}))
	g.must(g.db.Jobs.CloseRuns(t.Context()))
	// A run that nobody's request has just started, as a follow-up, has its
	// window, too: there is no lock then.
	g.must(g.queue.Unlock(t.Context(), "update"))
	if got := g.ask(n/10, noHeader); got["200 cooldown"]+got[tooBusy] != n/10 || got["200 cooldown"] == 0 {
		t.Errorf("answers soon after a run began %v, want all cooldown", got)
	}
	site.exec(`UPDATE runs SET started_at = now() - interval '1 hour'`)
	site.exec(`UPDATE jobs SET run_at = now() WHERE state = 'queued'`) // the window ends
	if got := g.ask(n/10, noHeader); got["202 started"] != 1 || got["200 cooldown"]+got[tooBusy] != n/10-1 {
		t.Errorf("answers in the next window %v, want one started, else cooldown", got)
	}
	if got := g.runs(); got != 2 {
		t.Errorf("%d updates, want the one that waited and no more", got)
	}
}

// Who waits for an update that folds into the next one is told so.
func TestWaitForFoldedUpdate(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	answered := make(chan *answer, 1)
	go func() { answered <- g.do(http.MethodPost, "/api/update?wait=60", "") }()
	var job jobs.Job
	eventually(t, "the update is queued", func() bool {
		var err error
		job, err = g.db.Jobs.OpenUpdate(t.Context())
		return err == nil
	})
	c, err := g.db.Jobs.Claim(t.Context(), job.ID, "tests", time.Minute)
	g.must(err)
	next, _, err := g.db.Jobs.RequestUpdate(t.Context(), 0)
	g.must(err)
	g.must(g.db.Jobs.Requeue(t.Context(), c, 0, false, "", "")) // its worker stops
	a := <-answered
	var body struct{ Code, Message string }
	a.into(t, &body)
	if a.StatusCode != http.StatusServiceUnavailable || body.Code != "superseded" || !strings.Contains(body.Message, next.ID.String()) {
		t.Errorf("answer %d %+v, want 503 superseded, with the job %s", a.StatusCode, body, next.ID)
	}
}

// Without Redis nobody can tell updates apart: all are refused, and soon
// (RQ-15). What needs no lock goes on.
func TestUpdateWithoutRedis(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	addr := queuetest.Client(t, g.queueURL).Options()
	p := newGate(t, addr.Network, addr.Addr)
	behind := *g
	behind.queue = queuetest.Open(t, fmt.Sprintf("redis://%s/%d", p.addr(), addr.DB))
	for _, cooldown := range []time.Duration{time.Minute, 0} {
		s := behind.serve(func(o *api.Options) { o.Cooldown = cooldown })
		if cooldown > 0 {
			if got := s.ask(20, noHeader); got["202 started"] == 0 {
				t.Errorf("answers with Redis %v, want one started", got)
			}
			p.shut()
		}
		start := time.Now()
		if got := s.ask(50, noHeader); got[tooBusy] != 50 {
			t.Errorf("answers without Redis %v, want all 503", got)
		}
		if took := time.Since(start); took > 30*time.Second {
			t.Errorf("refused after %v, want it soon", took)
		}
		a := s.post("/api/fetch", `{"url":"https://git.example/owner/xx"}`)
		if a.StatusCode != http.StatusAccepted {
			t.Errorf("fetch: status %d, want 202, as the row is what counts", a.StatusCode)
		}
		if a := s.get("/readyz"); a.StatusCode != http.StatusOK {
			t.Errorf("/readyz: status %d, want 200", a.StatusCode)
		}
	}
	if got := g.runs(); got != 2 {
		t.Errorf("%d jobs, want 1 update and 1 fetch", got)
	}
}
