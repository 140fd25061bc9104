package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"packbase/storage"
	"packbase/storage/blob"
	"packbase/worker/ingest"
)

// ingest runs the child process and publishes what it stages.
func (f *fetch) ingest(ctx context.Context) error {
	rejected, err := f.w.db.RejectedTags(ctx, f.pkg.Name)
	if err != nil {
		return err
	}
	input, err := json.Marshal(f.request(rejected))
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := f.w.opt.Ingest(ctx)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("start ingest: %w", err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start ingest: %w", err)
	}
	stderr := &tail{}
	cmd.Stderr = stderr
	// The death signal is sent when the thread that started the child ends,
	// so that thread must be there as long as the child is.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start ingest: %w", err)
	}
	// The pipe stays open: its end tells the child that nobody waits for it.
	_, werr := stdin.Write(input)
	done, err := f.follow(ctx, stdout)
	if err != nil {
		cancel()
	}
	stdin.Close()
	if exit := cmd.Wait(); err == nil && (exit != nil || !done || werr != nil) {
		return f.crashed(ctx, exit, stderr)
	}
	return err
}

// crashed explains why the child ended without a word.
func (f *fetch) crashed(ctx context.Context, exit error, stderr *tail) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	said := stderr.String()
	f.w.log.WarnContext(ctx, "ingest ended early", "package", f.pkg.Name, "exit", exit, "stderr", said)
	switch {
	case strings.Contains(said, syscall.ENOSPC.Error()), strings.Contains(said, syscall.EDQUOT.Error()):
		return fmt.Errorf("ingest: %w", blob.ErrFull)
	case strings.Contains(said, syscall.EFBIG.Error()):
		return &Error{Code: "too_large", Message: "mirroring needs a file larger than the limit allows", Final: true}
	case strings.Contains(said, "out of memory"), strings.Contains(said, "cannot allocate memory"):
		return &Error{Code: "out_of_memory", Message: "mirroring needs more memory than the limit allows", Final: true}
	}
	return &Error{Code: "ingest_failed", Message: "the process that reads upstream ended early; the worker's log has the details"}
}

// follow handles the child's events until it is done. Releases are made
// durable several at once, as that is mostly waiting for the disk, and made
// visible one by one in the child's order.
func (f *fetch) follow(ctx context.Context, out io.Reader) (done bool, err error) {
	g, ctx := errgroup.WithContext(ctx)
	publications := make(chan chan storage.Publication, 4)
	g.Go(func() error {
		for next := range publications {
			select {
			case pub := <-next:
				if err := f.publish(ctx, pub); err != nil {
					return err
				}
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
	stage := func(r *ingest.Release) error {
		ready := make(chan storage.Publication, 1)
		select {
		case publications <- ready:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		set, segments := f.set, f.segments
		g.Go(func() error {
			pub, err := f.store(ctx, r, set, segments)
			ready <- pub
			return err
		})
		return nil
	}
	done, err = f.events(ctx, json.NewDecoder(out), stage)
	close(publications)
	if werr := g.Wait(); werr != nil {
		return false, werr // what ended the others, if anything did
	}
	return done, err
}

func (f *fetch) events(ctx context.Context, dec *json.Decoder, stage func(*ingest.Release) error) (done bool, err error) {
	for {
		var ev ingest.Event
		if err := dec.Decode(&ev); err != nil {
			return false, nil // it ended, or talks nonsense: either way it crashed
		}
		switch {
		case ev.Done:
			return true, nil
		case ev.Error != nil:
			return true, &Error{Code: ev.Error.Code, Message: ev.Error.Message, Final: ev.Error.Final, RetryAfter: ev.Error.RetryAfter}
		case ev.Progress != nil:
			f.job.setProgress(*ev.Progress)
		case ev.Refs != nil:
			err = f.see(ctx, *ev.Refs)
		case ev.Rejected != nil:
			err = f.reject(ctx, *ev.Rejected)
		case ev.Segment != nil:
			err = f.appendSegment(ctx, *ev.Segment)
		case ev.History != nil:
			err = f.keepHistory(ctx, ev.History)
		case ev.Release != nil:
			err = stage(ev.Release)
		}
		if err != nil {
			return false, err
		}
	}
}

// A tail keeps the last of what is written to it.
type tail struct{ buf bytes.Buffer }

func (t *tail) Write(b []byte) (int, error) {
	const most = 8 << 10
	t.buf.Write(b)
	if over := t.buf.Len() - most; over > 0 {
		t.buf.Next(over)
	}
	return len(b), nil
}

func (t *tail) String() string { return t.buf.String() }
