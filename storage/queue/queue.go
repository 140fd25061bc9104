// Package queue tells workers, through Redis, that there is something to do,
// and keeps the short-lived locks that must hold across processes.
//
// It hides asynq and Redis. Nothing in Redis is the only copy of anything:
// a job is a row in Postgres, and the queue carries its id. A message may be
// lost, repeated or late; whoever receives one claims the row or drops it.
package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
)

// timeout bounds each call to Redis.
const timeout = 2 * time.Second

// Queues: short control jobs must not wait behind long fetches, nor those that an operator wants behind what strangers
// have pulled. A worker of an earlier release does not look at "pull", and is told again in time, by the reconciler.
var queues = map[string]int{"control": 9, "fetch": 6, pulls: 1}

const pulls = "pull"

func queueOf(kind string, pull bool) string {
	if pull {
		return pulls
	}
	if kind == "package:fetch" || kind == "archive:fetch" {
		return "fetch"
	}
	return "control"
}

// A Queue is packbase's Redis. It is safe for concurrent use.
type Queue struct {
	redis   redis.UniversalClient
	client  *asynq.Client
	inspect *asynq.Inspector
}

// Open prepares the connection to the Redis at rawURL. It does not dial:
// Redis may be away when packbase starts.
//
// URLs: redis://[:password@]host:port/db, rediss:// with TLS,
// unix:///path, redis-sentinel://host1,host2/db?master=name and
// redis-cluster://[:password@]host1,host2.
func Open(rawURL string) (*Queue, error) {
	opt, err := parse(rawURL)
	if err != nil {
		return nil, err
	}
	client, ok := opt.MakeRedisClient().(redis.UniversalClient)
	if !ok {
		return nil, errors.New("redis URL: not a form that is known")
	}
	return &Queue{redis: client, client: asynq.NewClientFromRedisClient(client), inspect: asynq.NewInspectorFromRedisClient(client)}, nil
}

// Quiet keeps the Redis client from printing to standard error, in this whole
// process. What it would say comes back as errors, too, for callers to log.
func Quiet() { redis.SetLogger(quiet{}) }

type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

func parse(rawURL string) (asynq.RedisConnOpt, error) {
	// Errors of url.Parse quote the URL, which may hold a password.
	unreadable := errors.New("redis URL: want redis://, rediss://, unix://, redis-sentinel:// or redis-cluster://")
	if rest, ok := strings.CutPrefix(rawURL, "redis-cluster://"); ok {
		u, err := url.Parse("redis://" + rest)
		if err != nil {
			return nil, unreadable
		}
		password, _ := u.User.Password()
		return asynq.RedisClusterClientOpt{
			Addrs: strings.Split(u.Host, ","), Username: u.User.Username(), Password: password,
			DialTimeout: timeout, ReadTimeout: timeout, WriteTimeout: timeout,
		}, nil
	}
	if path, ok := strings.CutPrefix(rawURL, "unix://"); ok {
		rawURL = "redis-socket://" + path
	}
	opt, err := asynq.ParseRedisURI(rawURL)
	if err != nil {
		return nil, unreadable
	}
	switch o := opt.(type) {
	case asynq.RedisClientOpt:
		o.DialTimeout, o.ReadTimeout, o.WriteTimeout = timeout, timeout, timeout
		return o, nil
	case asynq.RedisFailoverClientOpt:
		o.DialTimeout, o.ReadTimeout, o.WriteTimeout = timeout, timeout, timeout
		return o, nil
	}
	return opt, nil
}

// Close ends the connections.
func (q *Queue) Close() error { return q.redis.Close() }

// Ping reports whether Redis answers.
func (q *Queue) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return q.redis.Ping(ctx).Err()
}

type message struct {
	Job uuid.UUID `json:"job"`
}

// Enqueue says that the job is due. A pull has to wait for others.
func (q *Queue) Enqueue(ctx context.Context, kind string, job uuid.UUID, pull bool) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	payload, err := json.Marshal(message{job})
	if err != nil {
		return fmt.Errorf("tell of job %s: %w", job, err)
	}
	// Retries and time limits are the row's business.
	_, err = q.client.EnqueueContext(ctx, asynq.NewTask(kind, payload),
		asynq.Queue(queueOf(kind, pull)), asynq.MaxRetry(0), asynq.Timeout(24*time.Hour))
	if err != nil {
		return fmt.Errorf("tell of job %s: %w", job, err)
	}
	return nil
}

// Waiting returns the number of messages that no worker has taken yet.
func (q *Queue) Waiting() (int, error) {
	// A queue exists once something was told.
	names, err := q.inspect.Queues()
	if err != nil {
		return 0, fmt.Errorf("list queues: %w", err)
	}
	sum := 0
	for _, name := range names {
		info, err := q.inspect.GetQueueInfo(name)
		if err != nil {
			return 0, fmt.Errorf("look at queue %s: %w", name, err)
		}
		sum += info.Pending
	}
	return sum, nil
}

// Lock takes the named lock for ttl, atomically, and reports whether it did;
// if not, left is how long the lock is still held.
func (q *Queue) Lock(ctx context.Context, name string, ttl time.Duration) (ok bool, left time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	key := "packbase:lock:" + name
	ok, err = q.redis.SetNX(ctx, key, 1, ttl).Result()
	if err != nil || ok {
		return ok, 0, err
	}
	left, err = q.redis.PTTL(ctx, key).Result()
	return false, min(max(left, 0), ttl), err
}

// Unlock gives the named lock back before its time.
func (q *Queue) Unlock(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return q.redis.Del(ctx, "packbase:lock:"+name).Err()
}

// A Handler works on the job that a message names. It says how the job ended
// in the job's row, hence no result.
type Handler func(ctx context.Context, kind string, job uuid.UUID)

// Serve hands messages to at most concurrency handlers at once, until ctx
// ends; handlers get that end through their context and are waited for.
func (q *Queue) Serve(ctx context.Context, concurrency int, h Handler, log *slog.Logger) error {
	srv := asynq.NewServerFromRedisClient(q.redis, asynq.Config{
		Concurrency:       concurrency,
		Queues:            queues,
		BaseContext:       func() context.Context { return ctx },
		TaskCheckInterval: 100 * time.Millisecond,
		ShutdownTimeout:   30 * time.Second,
		Logger:            logger{log},
		LogLevel:          asynq.WarnLevel,
	})
	handle := func(ctx context.Context, t *asynq.Task) error {
		var m message
		if err := json.Unmarshal(t.Payload(), &m); err != nil || m.Job == uuid.Nil {
			log.WarnContext(ctx, "message dropped", "kind", t.Type(), "err", "not a job id")
			return nil
		}
		h(ctx, t.Type(), m.Job)
		return nil
	}
	if err := srv.Start(asynq.HandlerFunc(handle)); err != nil {
		return fmt.Errorf("serve queue: %w", err)
	}
	<-ctx.Done()
	srv.Shutdown()
	return nil
}

// logger lets asynq speak through slog.
type logger struct{ log *slog.Logger }

func (l logger) Debug(args ...any) { l.log.Debug("asynq", "says", fmt.Sprint(args...)) }
func (l logger) Info(args ...any)  { l.log.Info("asynq", "says", fmt.Sprint(args...)) }
func (l logger) Warn(args ...any)  { l.log.Warn("asynq", "says", fmt.Sprint(args...)) }
func (l logger) Error(args ...any) { l.log.Error("asynq", "says", fmt.Sprint(args...)) }
func (l logger) Fatal(args ...any) { l.log.Error("asynq", "says", fmt.Sprint(args...)) }
