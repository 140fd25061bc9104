package queue_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/francescobianco/packbase/storage/queue"
	"github.com/francescobianco/packbase/storage/queue/queuetest"
)

// A server hands out messages until it is stopped, and keeps what came.
type server struct {
	t    testing.TB
	stop context.CancelFunc
	done chan error
	log  *journal

	mu   sync.Mutex
	came map[string]int // by kind and id
}

// serve starts to hand out q's messages. do, unless nil, is done with each.
func serve(t testing.TB, q *queue.Queue, concurrency int, do func(context.Context, uuid.UUID)) *server {
	ctx, stop := context.WithCancel(context.Background())
	s := &server{t: t, stop: stop, done: make(chan error, 1), log: &journal{}, came: map[string]int{}}
	go func() {
		s.done <- q.Serve(ctx, concurrency, func(ctx context.Context, kind string, job uuid.UUID) {
			s.mu.Lock()
			s.came[kind+" "+job.String()]++
			s.mu.Unlock()
			if do != nil {
				do(ctx, job)
			}
		}, slog.New(slog.NewTextHandler(s.log, nil)))
	}()
	t.Cleanup(s.end)
	return s
}

// end stops the server and waits for it.
func (s *server) end() {
	s.stop()
	if err, ok := <-s.done; ok && err != nil {
		s.t.Errorf("serve: %v", err)
	}
	s.done = closed()
}

func closed() chan error {
	c := make(chan error)
	close(c)
	return c
}

func (s *server) times(kind string, job uuid.UUID) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.came[kind+" "+job.String()]
}

// A journal keeps what is logged.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(b)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}

// eventually polls until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
	}
}

func enqueue(t testing.TB, q *queue.Queue, kind string, jobs ...uuid.UUID) {
	t.Helper()
	for _, job := range jobs {
		if err := q.Enqueue(t.Context(), kind, job, false); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTellAndServe(t *testing.T) {
	t.Parallel()
	url := queuetest.NewURL(t)
	q, other := queuetest.Open(t, url), queuetest.Open(t, url)
	if n, err := q.Waiting(); err != nil || n != 0 {
		t.Errorf("waiting in a new queue: %d, %v; want 0", n, err)
	}
	jobs := []uuid.UUID{uuid.New(), uuid.New(), uuid.New()}
	enqueue(t, q, "package:fetch", jobs...) // before there is anybody to listen
	enqueue(t, q, "catalog:update", jobs[0])
	if n, err := other.Waiting(); err != nil || n != 4 {
		t.Errorf("waiting: %d, %v; want 4", n, err)
	}
	s := serve(t, other, 2, nil)
	eventually(t, "all have come", func() bool {
		return s.times("package:fetch", jobs[0])+s.times("package:fetch", jobs[1])+s.times("package:fetch", jobs[2])+s.times("catalog:update", jobs[0]) == 4
	})
	eventually(t, "nothing waits", func() bool { n, err := q.Waiting(); return err == nil && n == 0 })
}

// Being told twice is being called twice, at once if need be: the row decides
// (RQ-06). Nothing that came earlier keeps a message back (RQ-07).
func TestRepeatedMessages(t *testing.T) {
	t.Parallel()
	q := queuetest.New(t)
	job := uuid.New()
	meet := make(chan struct{})
	s := serve(t, q, 2, func(context.Context, uuid.UUID) {
		select { // two that are there at once, or none gets away
		case meet <- struct{}{}:
		case <-meet:
		}
	})
	for _, want := range []int{2, 4} {
		enqueue(t, q, "package:fetch", job, job)
		eventually(t, "both have come", func() bool { return s.times("package:fetch", job) == want })
	}
}

// Messages that are none are dropped, and told of in the log (RQ-19).
func TestGarbage(t *testing.T) {
	t.Parallel()
	url := queuetest.NewURL(t)
	q := queuetest.Open(t, url)
	opt, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	client := asynq.NewClient(asynq.RedisClientOpt{Network: opt.Network, Addr: opt.Addr, DB: opt.DB})
	defer client.Close()
	s := serve(t, q, 2, nil)
	garbage := []string{"", "null", "x", "[]", "{}", `{"job":1}`, `{"job":"../../etc/passwd"}`, `{"job":"00000000-0000-0000-0000-000000000000"}`,
		"\x00\xff", `{"job":"` + strings.Repeat("x", 1<<20) + `"}`, `{"version":2,"jobs":["a"]}`}
	for i, payload := range garbage {
		if _, err := client.Enqueue(asynq.NewTask("package:fetch", []byte(payload)), asynq.Queue([]string{"fetch", "control"}[i%2])); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all are dropped", func() bool { return strings.Count(s.log.String(), "message dropped") == len(garbage) })
	job := uuid.New()
	enqueue(t, q, "package:fetch", job)
	eventually(t, "the next message comes", func() bool { return s.times("package:fetch", job) == 1 })
	if len(s.came) != 1 {
		t.Errorf("came %v, want one job", s.came)
	}
}

// A handler that panics takes nothing down and blocks nothing.
func TestPanic(t *testing.T) {
	t.Parallel()
	q := queuetest.New(t)
	bad, good := uuid.New(), uuid.New()
	s := serve(t, q, 1, func(_ context.Context, job uuid.UUID) {
		if job == bad {
			panic("the test wants it so")
		}
	})
	enqueue(t, q, "package:fetch", bad, good)
	eventually(t, "the next message comes", func() bool { return s.times("package:fetch", good) == 1 })
	if n := s.times("package:fetch", bad); n != 1 {
		t.Errorf("%d times, want 1: when to try again is the row's business", n)
	}
}

// Handlers are told of the end and waited for.
func TestServeEnds(t *testing.T) {
	t.Parallel()
	q := queuetest.New(t)
	started, ended := make(chan struct{}), make(chan struct{})
	s := serve(t, q, 1, func(ctx context.Context, _ uuid.UUID) {
		close(started)
		<-ctx.Done()
		close(ended)
	})
	enqueue(t, q, "package:fetch", uuid.New())
	<-started
	s.end()
	select {
	case <-ended:
	default:
		t.Error("Serve returned before its handler did")
	}
}

// Fetches do not keep the short jobs waiting: there is always a turn for them.
func TestControlIsNotStarved(t *testing.T) {
	t.Parallel()
	q := queuetest.New(t)
	for range 200 {
		enqueue(t, q, "package:fetch", uuid.New())
	}
	probe := uuid.New()
	enqueue(t, q, "package:probe", probe)
	var mu sync.Mutex
	position, n := 0, 0
	s := serve(t, q, 1, func(_ context.Context, job uuid.UUID) {
		mu.Lock()
		defer mu.Unlock()
		if n++; job == probe {
			position = n
		}
	})
	eventually(t, "the probe comes", func() bool { return s.times("package:probe", probe) == 1 })
	mu.Lock()
	defer mu.Unlock()
	if position > 50 {
		t.Errorf("the probe came as number %d, want it among the first", position)
	}
}

// A lock is taken by one, for its time (RQ-14).
func TestLock(t *testing.T) {
	t.Parallel()
	url := queuetest.NewURL(t)
	const n = 100
	queues := []*queue.Queue{queuetest.Open(t, url), queuetest.Open(t, url)}
	var wg sync.WaitGroup
	var mu sync.Mutex
	winners := 0
	for i := range n {
		wg.Go(func() {
			ok, left, err := queues[i%2].Lock(t.Context(), "update", time.Minute)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				t.Error(err)
			case ok:
				winners++
			case left <= 0 || left > time.Minute:
				t.Errorf("left = %v, want up to a minute", left)
			}
		})
	}
	wg.Wait()
	if winners != 1 {
		t.Errorf("%d took the lock, want 1", winners)
	}
	q := queues[0]
	if ok, _, err := q.Lock(t.Context(), "another", time.Minute); err != nil || !ok {
		t.Errorf("another lock: %v, %v; want it free", ok, err)
	}
	if err := q.Unlock(t.Context(), "update"); err != nil {
		t.Fatal(err)
	}
	if ok, _, err := q.Lock(t.Context(), "update", 30*time.Millisecond); err != nil || !ok {
		t.Errorf("after unlock: %v, %v; want it free", ok, err)
	}
	eventually(t, "the lock ends by itself", func() bool {
		ok, left, err := q.Lock(t.Context(), "update", 30*time.Millisecond)
		return err == nil && ok && left == 0
	})
}

// Nobody waits long for a Redis that is away, and nobody is told that a lock
// was taken (RQ-15).
func TestRedisAway(t *testing.T) {
	t.Parallel()
	q := queuetest.Open(t, "redis://127.0.0.1:1/0")
	calls := map[string]func() error{
		"ping":    func() error { return q.Ping(t.Context()) },
		"tell":    func() error { return q.Enqueue(t.Context(), "package:fetch", uuid.New(), false) },
		"waiting": func() error { _, err := q.Waiting(); return err },
		"unlock":  func() error { return q.Unlock(t.Context(), "update") },
		"lock": func() error {
			ok, _, err := q.Lock(t.Context(), "update", time.Minute)
			if ok {
				return fmt.Errorf("the lock was taken: %v", err)
			}
			return err
		},
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			if err := call(); err == nil || strings.Contains(err.Error(), "was taken") {
				t.Errorf("err = %v, want one", err)
			}
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("took %v, want it soon", took)
			}
		})
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"redis://127.0.0.1:1", "redis://:pass@127.0.0.1:1/3", "rediss://127.0.0.1:1/0", "unix:///tmp/none.sock", "unix:///tmp/none.sock?db=2",
		"redis-sentinel://127.0.0.1:1,127.0.0.1:2/0?master=m", "redis-cluster://:pass@127.0.0.1:1,127.0.0.1:2"} {
		q, err := queue.Open(url)
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		q.Close()
	}
	for _, url := range []string{"", "127.0.0.1:6379", "http://s3cret@127.0.0.1", "redis://:s3cret@[::1", "redis://:s3cret@127.0.0.1:1/x", "redis-cluster://:s3cret@[::1"} {
		if _, err := queue.Open(url); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: err = %v, want one without the password", url, err)
		}
	}
}

// What was pulled does not keep others waiting, however much it is, and has its turn.
func TestPullsGoLast(t *testing.T) {
	q := queuetest.New(t)
	const each = 60
	pull := map[uuid.UUID]bool{}
	for i := range 2 * each {
		job := uuid.New()
		pull[job] = i < each // they came first
		if err := q.Enqueue(t.Context(), "archive:fetch", job, pull[job]); err != nil {
			t.Fatal(err)
		}
	}
	came := make(chan bool, 2*each)
	serve(t, q, 1, func(_ context.Context, job uuid.UUID) { came <- pull[job] })
	pulled, fetched := 0, 0
	for deadline := time.After(time.Minute); fetched+pulled < 2*each; {
		select {
		case isPull := <-came:
			if isPull {
				pulled++
			} else if fetched++; fetched == each && pulled > each/2 {
				t.Errorf("%d of %d pulls came before the last of the others", pulled, each)
			}
		case <-deadline:
			t.Fatalf("%d pulls and %d others came, want %d each", pulled, fetched, each)
		}
	}
}
