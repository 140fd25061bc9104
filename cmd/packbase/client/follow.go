package client

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/francescobianco/packbase/api/route"
	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/cmd/packbase/term"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/jobs"
)

// A job is a job as it came.
type job struct {
	wire.Job
	raw []byte // without a newline at its end
}

// name says whose job it is.
func (j *job) name() string {
	if j.Package == "" {
		return j.Kind
	}
	return j.Package
}

// step says what is being done.
func (j *job) step() string {
	switch {
	case j.State == jobs.Running && j.Progress.Step != "":
		return j.Progress.Step
	case j.State == jobs.Queued && j.NextTryAt != nil && j.Error.Code != "":
		return fmt.Sprintf("attempt %d failed, waiting for the next: %s", j.Attempts, j.Error.Message)
	}
	return j.State
}

// err returns how the job failed.
func (j *job) err() error {
	if j.State == jobs.Succeeded {
		return nil
	}
	return &jobEndError{ID: term.Printable(j.ID), State: j.State, Failure: j.Error}
}

// A jobEndError is a job that ended without success.
type jobEndError struct {
	ID, State string
	wire.Failure
}

func (e *jobEndError) Error() string {
	message := fmt.Sprintf("job %s %s", e.ID, e.State)
	if e.Message != "" {
		message += ": " + term.Printable(e.Message)
	}
	return withAdvice(message, e.advice())
}

func (e *jobEndError) advice() string {
	again := "`packbase jobs retry " + e.ID + "` tries again"
	if fault.Status(e.Code) == http.StatusInternalServerError {
		again = "The server's log says more; " + again
	}
	return cmp.Or(fault.Advice(e.Code), again+".")
}

// A GoingOnError says that we stopped waiting for what has not ended.
type GoingOnError struct {
	after time.Duration
	next  string // where to see it
}

func (e *GoingOnError) Error() string { return withAdvice("not done after "+e.after.String(), e.next) }

// Limits of following a job.
const (
	firstEvent   = 5 * time.Second  // it comes at once, unless something keeps it back
	eventSilence = 25 * time.Second // the server says something every 10 s
	maxEvent     = 1 << 20          // bytes of one line
	minPoll      = 200 * time.Millisecond
	maxPoll      = 5 * time.Second
	patience     = 30 * time.Second // with a server that has gone away
)

// A source tells seen of each state of a job. It returns the last one when
// that is the job's end; else it returns an error.
type source func(ctx context.Context, id string, seen func(job)) (job, error)

// follow tells seen of each state of a job until it ends, and returns its
// last state.
//
// Where the source breaks off, or something between us and the server keeps
// events back, the job is asked for, ever less often.
func (c *client) follow(ctx context.Context, id string, from source, seen func(job)) (job, error) {
	wait, contact := minPoll, time.Now()
	for {
		last, err := from(ctx, id, func(j job) {
			wait, contact = minPoll, time.Now()
			seen(j)
		})
		if err != nil {
			if last, err = c.job(ctx, id); err == nil {
				contact = time.Now()
				seen(last)
			}
		}
		var away *AwayError
		switch {
		case ctx.Err() != nil:
			return last, ctx.Err()
		case err == nil && !last.Open():
			return last, nil
		case err != nil && (!errors.As(err, &away) && !IsBusy(err) || time.Since(contact) > patience):
			return last, err
		}
		if err := pause(ctx, wait); err != nil {
			return last, err
		}
		wait = min(2*wait, maxPoll)
	}
}

// IsBusy reports whether the server, or what stands before it, only cannot
// answer now.
func IsBusy(err error) bool {
	var answer *AnswerError
	if !errors.As(err, &answer) || answer.JobID != "" {
		return false
	}
	switch answer.Status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// followFor follows a job for at most limit, showing its progress; 0 is for
// ever.
func (p *program) followFor(ctx context.Context, c *client, id string, limit time.Duration) (j job, err error) {
	err = within(ctx, limit, "The job goes on: `packbase jobs --follow "+id+"`.", func(ctx context.Context) (err error) {
		g := &progress{s: p.Screen(p.Stderr)}
		defer g.clear()
		j, err = c.follow(ctx, id, c.events, g.show)
		return err
	})
	return j, err
}

// within gives wait at most limit; 0 is for ever. What lasts longer goes on
// without us, and next says where to see it.
func within(ctx context.Context, limit time.Duration, next string, wait func(context.Context) error) error {
	if limit <= 0 {
		return wait(ctx)
	}
	short, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := wait(short)
	if err != nil && short.Err() != nil && ctx.Err() == nil {
		return &GoingOnError{limit, next}
	}
	return err
}

func (c *client) job(ctx context.Context, id string) (job, error) {
	raw, err := c.get(ctx, route.Path(route.Job, id), nil)
	if err != nil {
		return job{}, err
	}
	return readJob(raw)
}

func readJob(raw []byte) (job, error) {
	j, err := decode[wire.Job](raw)
	return job{j, bytes.TrimSpace(raw)}, err
}

// events is the source of what the server pushes.
// https://html.spec.whatwg.org/multipage/server-sent-events.html
func (c *client) events(ctx context.Context, id string, seen func(job)) (last job, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silence := time.AfterFunc(firstEvent, cancel)
	defer silence.Stop()
	res, err := c.send(ctx, http.MethodGet, route.Path(route.Events, id), nil, nil)
	if err != nil {
		return job{}, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return job{}, fmt.Errorf("events of job %s: status %d", id, res.StatusCode)
	}
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, maxEvent)
	for lines.Scan() {
		silence.Reset(eventSilence)
		// The server sends each event's data as one line.
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data:"))
		if !ok {
			continue
		}
		if last, err = readJob(bytes.Clone(data)); err != nil {
			return last, err
		}
		seen(last)
		if !last.Open() {
			return last, nil
		}
	}
	return last, fmt.Errorf("events of job %s broke off: %v", id, lines.Err())
}

// printJob writes a job as the server gave it.
func (p *program) printJob(j job) error {
	_, err := p.Stdout.Write(append(j.raw, '\n'))
	return err
}
