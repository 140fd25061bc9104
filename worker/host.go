package worker

import (
	"context"
	"errors"
	"time"
)

// Politeness towards one upstream host, over all workers.
const (
	hostSpacing  = 100 * time.Millisecond
	hostJobs     = 6
	hostPatience = 2 * time.Second
)

// queueAtHost waits for the host's turn, or has the job come back for it.
func (w *Worker) queueAtHost(ctx context.Context, cloneURL string) error {
	host := hostOf(cloneURL)
	if host == "" {
		return nil
	}
	running, err := w.db.RunningAt(ctx, host)
	if err != nil {
		return err
	}
	if running > hostJobs {
		return &later{jitter(time.Second)}
	}
	wait, err := w.db.ReserveHost(ctx, host, hostSpacing)
	if err != nil {
		return err
	}
	if wait > hostPatience {
		return &later{wait}
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(wait):
		return nil
	}
}

// pauseHost keeps all workers from a host that asked for a rest.
func (f *fetch) pauseHost(ctx context.Context, err error) error {
	var e *Error
	if errors.As(err, &e) && e.RetryAfter > 0 {
		return errors.Join(err, f.w.db.PauseHost(ctx, hostOf(f.pkg.CloneURL), e.RetryAfter))
	}
	return err
}
