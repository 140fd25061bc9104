package faults

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage/engines"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/queue"
	"github.com/francescobianco/packbase/tests/harness"
	"github.com/francescobianco/packbase/tests/harness/engine"
)

// recoveryTime is how long all work may take to end after a fault.
const recoveryTime = 30 * time.Second

// Redis is flushed, killed and frozen while jobs are under way.
func TestRedisFaults(t *testing.T) {
	t.Parallel()
	e := engine.New(t, engines.Options{NoPostgres: true, Ephemeral: true})
	up := harness.NewUpstream(t)
	s := harness.Start(t, append(quick, e.Env()...)...)
	rnd := random(t)
	f := &redisFaults{e: e, s: s, up: up, g: newGate(t, up), rnd: rnd}
	t.Run("RQ-01 flushall", f.flushAll)
	t.Run("RQ-02 redis_kill9", f.kill9)
	t.Run("RQ-05 relay_kill", f.relayKill)
	t.Run("RQ-19 bad_payload", f.badPayload)
}

type redisFaults struct {
	e   *engine.Set
	s   *harness.Server
	up  *harness.Upstream
	g   *gate
	rnd *rand.Rand
	n   int
}

// repos returns new repositories with one tag each.
func (f *redisFaults) repos(t *testing.T, count int) []*harness.Repo {
	t.Helper()
	var repos []*harness.Repo
	for range count {
		f.n++
		repo := f.up.Repo(fmt.Sprintf("r%d", f.n))
		tagReleases(t, repo, 0, 1, 1000)
		repos = append(repos, repo)
	}
	return repos
}

// mirrored checks that all jobs ended well, and that each package was fetched
// and published once.
func (f *redisFaults) mirrored(t *testing.T, repos []*harness.Repo, jobs []string) {
	t.Helper()
	c := newChecker(t, f.s)
	c.settled(recoveryTime, jobs...)
	for _, repo := range repos {
		name := filepath.Base(repo.Dir)
		if info := f.s.Info(name); info.TarballCount != 1 {
			t.Errorf("%s has %d releases, want 1", name, info.TarballCount)
		}
		if _, packs := f.g.requests(name); packs != 1 {
			t.Errorf("%s was downloaded %d times, want once", name, packs)
		}
	}
	c.clean()
}

func (f *redisFaults) client(t *testing.T) *redis.Client {
	t.Helper()
	opt, err := redis.ParseURL(f.e.RedisURL)
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(opt)
	t.Cleanup(func() { client.Close() })
	return client
}

func (f *redisFaults) flushAll(t *testing.T) {
	client := f.client(t)
	for range rounds(1, 50) {
		repos := f.repos(t, 20)
		var jobs []string
		flush := f.rnd.IntN(len(repos))
		for n, repo := range repos {
			jobs = append(jobs, f.s.Ask(f.g.of(repo)))
			if n == flush || n == len(repos)-1 {
				if err := client.FlushAll(t.Context()).Err(); err != nil {
					t.Fatal(err)
				}
			}
		}
		f.mirrored(t, repos, jobs)
	}
}

func (f *redisFaults) kill9(t *testing.T) {
	for range rounds(2, 50) {
		repos := f.repos(t, 6)
		jobs := []string{f.s.Ask(f.g.of(repos[0])), f.s.Ask(f.g.of(repos[1]))}
		f.e.Crash("redis")
		back := time.After(upTo(f.rnd, 3*time.Second))
		for _, repo := range repos[2:] {
			began := time.Now()
			a := f.s.Do(http.MethodPost, "/api/fetch", fmt.Sprintf(`{"url":%q}`, f.g.of(repo)), nil)
			if took := time.Since(began); took > harness.Slack(3500*time.Millisecond) {
				t.Errorf("POST without Redis took %v, want at most 3.5s", took)
			}
			if a.Status == http.StatusServiceUnavailable {
				repos = repos[:2]
				continue
			}
			var got wire.Fetched
			a.Into(t, &got)
			if a.Status != http.StatusAccepted || f.s.Job(got.JobID).ID != got.JobID {
				t.Errorf("POST without Redis: status = %d, want 202 and a job\n%s", a.Status, a.Body)
			}
			jobs = append(jobs, got.JobID)
		}
		f.without(t)
		<-back
		f.e.Start()
		f.mirrored(t, repos, jobs)
	}
}

// without checks what works while Redis is away.
func (f *redisFaults) without(t *testing.T) {
	t.Helper()
	a := f.s.Do(http.MethodGet, "/readyz", "", nil)
	var ready struct{ Dependencies map[string]string }
	a.Into(t, &ready)
	if a.Status != http.StatusOK || ready.Dependencies["redis"] != "down" {
		t.Errorf("readyz without Redis: %d %s, want 200, and redis down", a.Status, a.Body)
	}
	f.s.Get("/api/list")
	if r := f.s.Info("r1").Tarballs[0]; sum(f.s.Get(r.URL)) != r.SHA256 {
		t.Error("a tarball is not what it was")
	}
}

// A row that was committed is worked on, wherever its relay to the queue ends.
func (f *redisFaults) relayKill(t *testing.T) {
	for range rounds(2, 25) {
		// Claimed: the row is there, Redis does not take the message.
		repos := f.repos(t, 4)
		f.e.Signal("redis", syscall.SIGSTOP)
		asked := make(chan error)
		go func() {
			_, err := f.s.TryDo(http.MethodPost, "/api/fetch", fmt.Sprintf(`{"url":%q}`, f.g.of(repos[0])), nil)
			asked <- err
		}()
		name := filepath.Base(repos[0].Dir)
		harness.Within(t, settleTime, "the job's row is there", func() bool { return f.open(t, name) != "" })
		f.s.API.SignalGroup(syscall.SIGKILL)
		if err := <-asked; err == nil {
			t.Error("the api answered although Redis hangs")
		}
		f.e.Signal("redis", syscall.SIGCONT)
		f.s.API.Start()
		f.s.AwaitAPI()
		jobs := []string{f.job(t, name)}

		// Sent or acknowledged: at any moment around the answers.
		kill := time.After(upTo(f.rnd, 100*time.Millisecond))
		burst := make(chan []string)
		go func() {
			var jobs []string
			for _, repo := range repos[1:] {
				a, err := f.s.TryDo(http.MethodPost, "/api/fetch", fmt.Sprintf(`{"url":%q}`, f.g.of(repo)), nil)
				if err == nil {
					var got wire.Fetched
					a.Into(t, &got)
					jobs = append(jobs, got.JobID)
				}
			}
			burst <- jobs
		}()
		<-kill
		f.s.API.SignalGroup(syscall.SIGKILL)
		jobs = append(jobs, <-burst...)
		f.s.API.Start()
		f.s.AwaitAPI()
		c := newChecker(t, f.s)
		c.settled(recoveryTime, jobs...)
		for _, repo := range repos[1:] { // whoever got no answer asks again
			jobs = append(jobs, f.s.Ask(f.g.of(repo)))
		}
		f.mirrored(t, repos, jobs)
	}
}

// open returns the id of a package's open job, "" if there is none.
func (f *redisFaults) open(t *testing.T, pkg string) string {
	t.Helper()
	var list struct{ Jobs []wire.Job }
	if err := json.Unmarshal(f.s.Get("/api/jobs?package="+pkg), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Jobs) == 0 || !list.Jobs[0].Open() {
		return ""
	}
	return list.Jobs[0].ID
}

// job returns the id of a package's newest job.
func (f *redisFaults) job(t *testing.T, pkg string) string {
	t.Helper()
	var list struct{ Jobs []wire.Job }
	if err := json.Unmarshal(f.s.Get("/api/jobs?package="+pkg), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Jobs) == 0 {
		t.Fatalf("%s has no job", pkg)
	}
	return list.Jobs[0].ID
}

// Whatever stands in the queue, the worker lives and goes on.
func (f *redisFaults) badPayload(t *testing.T) {
	pid := f.s.Worker.PID()
	client := f.client(t)
	tasks := asynq.NewClientFromRedisClient(client)
	noise := noise("payload", 0)
	payloads := []string{
		"", "null", "{}", "[]", `"x"`, `{"job":null}`, `{"job":""}`, `{"job":"../../../etc/passwd"}`, `{"job":7}`,
		`{"job":"` + uuid.Nil.String() + `"}`, `{"job":"` + uuid.NewString() + `"}`, `{"v":99,"job":{"id":"x"}}`,
		`{"package":"hello","tag":"../../x"}`, strings.Repeat("[", 10_000), strings.Repeat("x", 1<<20),
		"\x00", "\xff\xfe", "{\"job\":\"\x00\"}",
	}
	for range rounds(50, 1000) {
		payloads = append(payloads, noise(200))
	}
	kinds := []string{jobs.FetchPackage, jobs.UpdateCatalog, "package:explode", "\x1b[2J", strings.Repeat("k", 1000)}
	for n, payload := range payloads {
		for _, q := range []string{"fetch", "control"} {
			_, err := tasks.Enqueue(asynq.NewTask(kinds[n%len(kinds)], []byte(payload)), asynq.Queue(q), asynq.MaxRetry(n%3))
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	// What asynq itself could not have written.
	for n, q := range []string{"fetch", "control"} {
		key := "asynq:{" + q + "}:"
		for _, err := range []error{
			client.LPush(t.Context(), key+"pending", "no such task", "").Err(),
			client.HSet(t.Context(), key+"t:broken", "msg", noise(100), "state", "pending").Err(),
			client.LPush(t.Context(), key+"pending", "broken").Err(),
			client.HSet(t.Context(), key+"t:empty", "state", n).Err(),
			client.ZAdd(t.Context(), key+"scheduled", redis.Z{Score: 1, Member: "empty"}, redis.Z{Score: 1, Member: "gone"}).Err(),
			client.ZAdd(t.Context(), key+"lease", redis.Z{Score: 1, Member: "gone"}).Err(),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	repos := f.repos(t, 2)
	f.mirrored(t, repos, []string{f.s.Ask(f.g.of(repos[0])), f.s.Ask(f.g.of(repos[1]))})
	if !f.s.Worker.Running() || f.s.Worker.PID() != pid {
		t.Error("the worker has ended")
	}
}

// RQ-06: whoever is told of a job, and how often, it is done once.
func TestDuplicateDelivery(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	s := harness.Start(t, quick...)
	for n := range 3 {
		s.AddWorker(fmt.Sprintf("worker-%d", n+2))
	}
	q, err := queue.Open(s.RedisURL)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	g := newGate(t, up)
	for n := range rounds(3, 100) {
		repo := up.Repo(fmt.Sprintf("again-%d", n))
		tagReleases(t, repo, 0, 2, 1000)
		arrived, open := g.hold()
		id := s.Ask(g.of(repo))
		deliver := func(times int) {
			for range times {
				if err := q.Enqueue(t.Context(), jobs.FetchPackage, uuid.MustParse(id), false); err != nil {
					t.Fatal(err)
				}
			}
		}
		deliver(30)
		<-arrived
		deliver(40)
		open()
		deliver(30)
		c := newChecker(t, s)
		c.settled(settleTime, id)
		harness.Within(t, settleTime, "all messages are taken", func() bool {
			waiting, err := q.Waiting()
			return err == nil && waiting == 0
		})
		name := filepath.Base(repo.Dir)
		if lists, packs := g.requests(name); lists != 1 || packs != 1 {
			t.Errorf("%s was listed %d times and downloaded %d times, want once each", name, lists, packs)
		}
		if job := s.Job(id); job.Attempts != 1 || job.Fetched().Created != 2 {
			t.Errorf("job = %+v, want one attempt that created 2", job)
		}
		c.know(repo)
		c.clean()
		c.tags(repo)
	}
}

// RQ-09: a worker that is killed in the middle of a job, with the usual
// settings, has its job done by another one in time.
func TestRecoveryTime(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	g := newGate(t, up)
	s := harness.Start(t, "PACKBASE_LEASE=15s", "PACKBASE_RECONCILE=2s", "PACKBASE_JOB_BACKOFF=2s")
	for n := range rounds(1, 20) {
		repo := up.Repo(fmt.Sprintf("late-%d", n))
		tagReleases(t, repo, 0, 2, 1000)
		arrived, open := g.hold()
		id := s.Ask(g.of(repo))
		<-arrived
		s.Worker.SignalGroup(syscall.SIGKILL)
		open()
		s.Worker.Start()
		var job wire.Job
		took := harness.Within(t, recoveryTime, "the job has ended", func() bool {
			job = s.Job(id)
			return !job.Open()
		})
		t.Logf("recovered after %v", took)
		if job.State != jobs.Succeeded || job.Attempts != 2 {
			t.Errorf("job = %+v, want success at the second attempt", job)
		}
		c := newChecker(t, s)
		c.clean()
		c.tags(repo)
	}
}

// Jobs that fail, whatever they take down with them, leave the way free for
// others and for the same again.
func TestFailingJobs(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	s := harness.Start(t, append(quick, "PACKBASE_JOB_BACKOFF=10ms")...)
	f := &failingJobs{s: s, up: up, g: newGate(t, up), worker: s.Worker.PID()}
	api := s.API.PID()
	t.Run("RQ-07 archived id", f.brokenUpstream)
	t.Run("CR-18 child dies", f.deadChild)
	t.Run("RQ-10 poison", f.poison)
	newChecker(t, s).clean()
	if s.API.PID() != api || !s.API.Running() {
		t.Error("the api has ended")
	}
}

type failingJobs struct {
	s      *harness.Server
	up     *harness.Upstream
	g      *gate
	worker int // pid
}

// brokenUpstream fails until it does not.
func (f *failingJobs) brokenUpstream(t *testing.T) {
	repo := f.up.Repo("broken")
	tagReleases(t, repo, 0, 1, 1000)
	for range rounds(1, 10) {
		for _, h := range []http.Handler{harness.Status(http.StatusNotFound), harness.Status(http.StatusInternalServerError), harness.Close()} {
			f.up.Answer(h)
			if a := f.s.TryFetch(repo.URL); a.Status != http.StatusBadGateway {
				t.Errorf("fetch from a broken upstream: %d %s, want 502", a.Status, a.Body)
			}
		}
		f.up.Answer(nil)
		began := time.Now()
		f.s.Fetch(repo.URL)
		if took := time.Since(began); took > harness.Slack(10*time.Second) {
			t.Errorf("first fetch after upstream healed took %v, want at most 10s", took)
		}
	}
}

// deadChild kills the process that reads upstream at each attempt, and it alone.
func (f *failingJobs) deadChild(t *testing.T) {
	for n := range rounds(1, 5) {
		repo := f.up.Repo(fmt.Sprintf("victim-%d", n))
		tagReleases(t, repo, 0, 1, 1000)
		f.g.onPack(func(*http.Request) {
			for _, pid := range f.s.Worker.Children() {
				_ = syscall.Kill(pid, syscall.SIGSEGV)
			}
		})
		a := f.s.TryFetch(f.g.of(repo))
		f.g.onPack(nil)
		if a.Status != http.StatusInternalServerError || a.Code() != "ingest_failed" {
			t.Errorf("fetch whose child dies: %d %s, want ingest_failed", a.Status, a.Body)
		}
		if f.s.Worker.PID() != f.worker || !f.s.Worker.Running() {
			t.Error("the worker ended with its child")
		}
		f.s.Fetch(f.g.of(repo))
	}
}

// poison kills the worker each time that it does one job.
func (f *failingJobs) poison(t *testing.T) {
	for n := range rounds(1, 5) {
		repo, good := f.up.Repo(fmt.Sprintf("poison-%d", n)), f.up.Repo(fmt.Sprintf("good-%d", n))
		tagReleases(t, repo, 0, 1, 1000)
		tagReleases(t, good, 0, 1, 1000)
		arrived, open := f.g.hold()
		id := f.s.Ask(f.g.of(repo))
		for range jobs.MaxCrashes {
			<-arrived
			f.s.Worker.SignalGroup(syscall.SIGKILL)
			f.s.Worker.Start()
		}
		job := f.s.WaitJob(id)
		open()
		if job.State != jobs.Failed || job.Error.Code != "quarantined" || job.Attempts != jobs.MaxCrashes {
			t.Errorf("job = %+v, want quarantine after %d attempts", job, jobs.MaxCrashes)
		}
		f.s.Fetch(good.URL)
		f.s.Fetch(f.g.of(repo)) // by hand, once the cause is gone
		newChecker(t, f.s).tags(repo, good)
	}
}
