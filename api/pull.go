package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/expirable"

	"github.com/francescobianco/packbase/api/answer"
	"github.com/francescobianco/packbase/api/proxy"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
)

// Limits of those who wait for a pull. Anybody may, so nobody gets all.
const (
	mostWaiting      = 4096
	clientsWaiting   = 1024 // of one client
	clientsPulls     = 64   // different ones of one client
	maxFailures      = 4096
	failureRemembers = 30 * time.Second // and the same is not tried again for as long
	longestJob       = 2 * time.Hour    // that a client is held to account for
)

// pulls are the clients that wait for something to be fetched, and what could not be lately.
type pulls struct {
	failed *expirable.LRU[string, *proxy.Refusal]

	mu      sync.Mutex
	waiting int
	clients map[string]map[string]int // how many wait, by client and what for
}

func newPulls() *pulls {
	return &pulls{failed: expirable.NewLRU[string, *proxy.Refusal](maxFailures, nil, failureRemembers), clients: map[string]map[string]int{}}
}

// enter gives a client a place to wait, until leave is called, or says that there is none. The place is free then; what
// was waited for counts as the client's until leave's open, if it is not nil, has returned.
func (p *pulls) enter(client, what string) (leave func(open func()), ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	own := p.clients[client]
	all := 0
	for _, n := range own {
		all += n
	}
	if p.waiting >= mostWaiting || all >= clientsWaiting || own[what] == 0 && len(own) >= clientsPulls {
		return nil, false
	}
	if own == nil {
		own = map[string]int{}
		p.clients[client] = own
	}
	own[what]++
	p.waiting++
	return func(open func()) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.waiting--
		if own[what] > 1 || open == nil {
			p.free(client, what)
			return
		}
		go func() {
			open()
			p.mu.Lock()
			defer p.mu.Unlock()
			p.free(client, what)
		}()
	}, true
}

// free takes back what enter gave. The caller has the lock.
func (p *pulls) free(client, what string) {
	own := p.clients[client]
	if own[what]--; own[what] == 0 {
		delete(own, what)
	}
	if len(own) == 0 {
		delete(p.clients, client)
	}
}

// mayPull tells whether the operator has opened the place that a dependency comes from (invariant 11). A page of
// another site may not have a browser ask for it.
func (m *mirror) mayPull(r *http.Request, d name.Dependency) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
		return false
	}
	u, err := url.Parse(strings.TrimPrefix(d.URL, "git+"))
	return err == nil && !m.opt.ReadOnly && m.queue != nil && slices.Contains(m.opt.Pull, u.Host)
}

// Pull implements proxy.Store. It joins the open job that fetches the same, and ends with the client's connection;
// the job does not. When it ends without error, there may be nothing that the client may see.
func (m *mirror) Pull(w http.ResponseWriter, r *http.Request, d name.Dependency) error {
	ctx := r.Context()
	if !m.mayPull(r, d) {
		return m.notOpened(r, d)
	}
	what := d.URL + "#" + d.Ref
	if reason, ok := m.pulls.failed.Get(what); ok {
		return reason
	}
	leave, ok := m.pulls.enter(m.clientOf(r), what)
	if !ok {
		return &proxy.Refusal{Status: http.StatusServiceUnavailable, Reason: "too many wait for what is being fetched; try again when some have it"}
	}
	var open func()
	defer func() { leave(open) }()
	job, err := m.requestPull(ctx, d)
	if err != nil {
		return refusal(err)
	}
	open = func() { m.outlive(job) }
	// The server's deadlines are for answers that come at once.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	// Whoever asks for it may know how it ends, if not what came: that may be private.
	job, err = m.waitFor(w, r.WithContext(access.SeePrivate(ctx)), job, m.changing.Load().PullWait)
	switch {
	case err != nil:
		return err
	case job.Open():
		return &proxy.Refusal{Status: http.StatusGatewayTimeout, Reason: fmt.Sprintf("%s is still being fetched after %s; job %s goes on: try again later", d.URL, m.changing.Load().PullWait, job.ID)}
	case job.State == jobs.Succeeded, !job.Pull && !access.SeesPrivate(ctx):
		// How a job ends that somebody with a token has, and that may have used credentials, is not for others: they have
		// what they may see of it.
		m.news.Add(1)
		return nil
	}
	e := answer.JobError(job)
	failed := &proxy.Refusal{Status: e.Status, Reason: fmt.Sprintf("%s could not be fetched: %s (%s)", d.URL, e.Message, e.Code)}
	if job.Pull { // else it is told to this client alone
		m.pulls.failed.Add(what, failed)
	}
	return failed
}

// outlive returns when a job has ended, though nobody waits for it: a client does not get rid of it by going.
func (m *mirror) outlive(job jobs.Job) {
	ctx, cancel := context.WithTimeout(context.Background(), longestJob)
	defer cancel()
	watch := m.watch.All
	now, done := watch.follow(job)
	defer done()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for now.Open() && !m.draining.Load() && ctx.Err() == nil {
		<-tick.C
		if next, err := watch.current(job.ID); err == nil {
			now = next
		} else if errors.Is(err, fault.ErrNotFound) {
			return
		}
	}
}

// notOpened says that nothing is fetched from there. Who may not see private packages is told no more; Git must be
// asked for a token to send one.
func (m *mirror) notOpened(r *http.Request, d name.Dependency) error {
	refused := proxy.NotOpened(d, m.why(r))
	if !d.Git || access.SeesPrivate(r.Context()) {
		return refused
	}
	if has, err := m.db.Access.HasPrivate(r.Context()); has || err != nil {
		return &proxy.Refusal{Status: http.StatusUnauthorized, Reason: refused.Reason + "; what is private is here for those with a token"}
	}
	return refused
}

// requestPull returns the open job that fetches a dependency, or a new one.
func (m *mirror) requestPull(ctx context.Context, d name.Dependency) (job jobs.Job, err error) {
	// The other half is for those who have a token.
	if err := m.roomFor(ctx, (m.changing.Load().MaxJobs+1)/2); err != nil {
		return job, err
	}
	var created bool
	if d.Git {
		job, created, err = m.requestRef(ctx, d)
	} else {
		job.Kind = jobs.FetchArchive
		job.ID, created, err = m.trees.RequestPull(ctx, d.URL)
		if err == nil {
			job, err = m.db.Jobs.ByID(access.SeePrivate(ctx), job.ID)
		}
	}
	if err != nil || !created {
		return job, err
	}
	m.enqueue(ctx, job)
	return job, nil
}

// requestRef returns the job that fetches a commit, a tag or a branch of a repository; all its tags if none is named.
func (m *mirror) requestRef(ctx context.Context, d name.Dependency) (job jobs.Job, created bool, err error) {
	up, err := name.ParseUpstream(d.Repository)
	if err != nil {
		return job, false, err
	}
	up.Target = d.Ref
	names := up.SureNames()
	switch pkg, err := m.bound(ctx, up.Canonical); {
	case err == nil:
		names = []string{pkg.Name}
	case !errors.Is(err, proxy.ErrMissing):
		return job, false, err
	case len(names) == 0:
		return job, false, &proxy.Refusal{Status: http.StatusNotFound, Reason: up.Canonical + " has no name that a package may have; an operator can mirror it under another"}
	}
	for _, pkg := range names {
		job, created, err = m.db.RequestPull(ctx, pkg, up)
		if !errors.Is(err, fault.ErrConflict) {
			break
		}
	}
	return job, created, err
}
