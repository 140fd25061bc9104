// Package ingest is the child processes in which upstream's bytes are parsed.
//
// The worker starts `packbase ingest`, writes one Request as JSON to its
// standard input and reads Events, one JSON object a line, from its standard
// output, while files appear in the folder that the request names. What comes
// from upstream reaches it through `packbase download`, see [Download]. Both
// confine themselves before they read the first byte of it, so whatever a
// hostile repository does to them, the worker reads about it in an exit code.
package ingest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"time"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/archive"
	"github.com/francescobianco/packbase/storage/catalog"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/tarball"
	"github.com/francescobianco/packbase/worker/confine"
	"github.com/francescobianco/packbase/worker/upstream"
)

// A Request says what to mirror.
type Request struct {
	Package  string            // name of the package
	Upstream string            // canonical, for the manifest
	CloneURL string            // what is dialled, or name.FixtureScheme and the name of a folder
	Fixtures string            // where that folder is; "" if there are none
	Target   string            // the one tag, branch or commit wanted; "" for all tags
	Released map[string]string // tags that are releases, with what upstream's refs named then
	Rejected map[string]string // tags that were refused, likewise
	Commits  []string          // of releases and snapshots
	Branches []string          // that are here
	Policy   catalog.Policy    // what of tags and branches is mirrored when there is no Target
	Batch    int               // tags to fetch at once
	Last     bool              // the job's last attempt: what fails for a passing reason is asked for alone
	Dir      string            // a folder for the child's files
	Limits   Limits
	MaxNew   *int         // releases that there is room for; nil for any number
	Refuse   *fault.Error // why nothing new may be mirrored; nil if it may
}

// Limits bound one run of the child. Sizes are bytes.
type Limits struct {
	Git     gitpack.Limits
	Tarball int64         // of one tarball
	Tags    int           // of one package
	Memory  int64         // address space of the child
	File    int64         // length of any file it writes
	CPU     time.Duration // processor time of the child
}

// MostTarball is the most that Limits.Tarball may be: what every packbase can
// read back.
const MostTarball = tarball.MaxSize

// DefaultLimits returns the limits of a service that mirrors strangers' code.
func DefaultLimits() Limits {
	return Limits{
		Git:     gitpack.DefaultLimits(),
		Tarball: 1 << 30,
		Tags:    20_000,
		Memory:  3 << 30,
		File:    8 << 30,
		CPU:     30 * time.Minute,
	}
}

// Steps of a job's progress in which it waits for upstream.
const (
	StepList     = "list refs"
	StepDownload = "download"
)

// An Event is one line of the child's output. One field is set.
type Event struct {
	Walls    *confine.Walls       `json:"walls,omitempty"` // comes first
	Refs     *Refs                `json:"refs,omitempty"`
	Progress *jobs.Progress       `json:"progress,omitempty"`
	Rejected *storage.RejectedTag `json:"rejected,omitempty"`
	Unfit    *Unfit               `json:"unfit,omitempty"`
	Batch    *Batch               `json:"batch,omitempty"`
	History  *History             `json:"history,omitempty"`
	Error    *fault.Error         `json:"error,omitempty"`
	Done     bool                 `json:"done,omitempty"`
}

// Refs is what upstream listed. It comes before all that is mirrored.
type Refs struct {
	Tags     map[string]string `json:"tags"`               // what each tag names: a tag object or a commit
	Misnamed []string          `json:"misnamed,omitempty"` // tags whose names cannot be published
	Branches map[string]string `json:"branches,omitempty"` // those that are mirrored, with their tips: the target, or all that are followed
	Commit   string            `json:"commit,omitempty"`   // the target: a commit, or a branch's tip

	Digest string `json:"digest,omitempty"` // of the list, as upstream.Session has it
}

// An Unfit is a branch that is followed, and whose tip cannot be published.
type Unfit struct {
	Branch string `json:"branch"`
	Code   string `json:"code"`
	Reason string `json:"reason"`
}

// A Batch is the objects of some releases: whole, and each with all that it leads to.
type Batch struct {
	Spool  string `json:"spool"`  // in the request's folder, see gitpack.ReadObjects
	Layout string `json:"layout"` // likewise
	Roots  []Root `json:"roots"`
}

// A Root is a tag to publish, or a commit without one.
type Root struct {
	Tag    string      `json:"tag,omitempty"`
	OID    gitpack.OID `json:"oid"`              // what upstream's ref names
	Branch string      `json:"branch,omitempty"` // that is followed, and which this commit is the tip of
}

// A History is the staged history of a local bare repository.
type History struct {
	Head  string            `json:"head"`
	Refs  map[string]string `json:"refs"`
	Name  string            `json:"name"` // the pack's own SHA-1
	File  string            `json:"file"` // in the request's folder
	Index string            `json:"index"`
}

// Main is the child process: it reads a Request from in and writes Events to
// out. Its error is about the machine or the parent; what upstream did wrong
// is an Event.
func Main(ctx context.Context, in io.Reader, out io.Writer) error {
	var req Request
	if err := json.NewDecoder(in).Decode(&req); err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	missing := copyFixture(req)
	if missing != nil && AsFault(missing) == nil {
		return missing
	}
	// The Go runtime collects garbage well before the address space runs out.
	debug.SetMemoryLimit(min(req.Limits.Memory/8, 160<<20))
	walls, err := req.Limits.room(req.Dir).Enter()
	if err != nil {
		return err
	}
	req.Dir = "."
	ctx, cancel := whileRead(ctx, in)
	defer cancel()

	events := &eventWriter{w: bufio.NewWriterSize(out, 64<<10)}
	if err := events.send(Event{Walls: &walls}); err != nil {
		return err
	}
	if err = missing; err == nil {
		err = run(ctx, req, events)
	}
	if err == nil {
		return events.send(Event{Done: true})
	}
	if e := AsFault(err); e != nil {
		return events.send(Event{Error: e})
	}
	return err
}

// whileRead returns a context that ends with in: the parent never writes
// again, so the end of its pipe is its death.
func whileRead(ctx context.Context, in io.Reader) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		_, _ = io.Copy(io.Discard, in)
		cancel()
	}()
	return ctx, cancel
}

// AsFault returns what upstream did wrong, nil if err is not about that.
func AsFault(err error) *fault.Error {
	var own *fault.Error
	var git *gitpack.Error
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &git):
		return fault.New(git.Code, git.Message)
	case errors.Is(err, tarball.ErrTooLarge):
		return fault.New("tarball_too_large", err.Error())
	case errors.Is(err, archive.ErrTooLarge):
		return fault.New(upstream.CodeFileTooLarge, err.Error())
	case errors.Is(err, archive.ErrUnfit):
		return fault.New("not_an_archive", err.Error())
	case errors.Is(err, tarball.ErrInvalid):
		return fault.New("tree_unfit", err.Error())
	}
	return nil
}

// An eventWriter writes events, from any goroutine.
type eventWriter struct {
	mu   sync.Mutex
	w    *bufio.Writer
	last time.Time // of the last progress
}

func (e *eventWriter) send(ev Event) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	b, err := json.Marshal(ev)
	if err != nil {
		return fmt.Errorf("encode event: %w", err)
	}
	if _, err := e.w.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("write event: %w", err)
	}
	if err := e.w.Flush(); err != nil {
		return fmt.Errorf("write event: %w", err)
	}
	return nil
}

// progress reports, at most every tenth of a second. A parent that is gone
// is noticed elsewhere.
func (e *eventWriter) progress(p jobs.Progress) {
	e.mu.Lock()
	due := time.Since(e.last) > 100*time.Millisecond
	if due {
		e.last = time.Now()
	}
	e.mu.Unlock()
	if due {
		_ = e.send(Event{Progress: &p})
	}
}
