package worker

import (
	"context"
	"strconv"

	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/feed"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/ledger"
	"github.com/francescobianco/packbase/worker/upkeep"
)

// auditor looks after the bytes that are stored here.
func (w *Worker) auditor() upkeep.Auditor {
	return upkeep.Auditor{DB: w.db, Blobs: w.blobs, Staging: w.opt.Staging, Report: func(f upkeep.Finding) {
		w.damage.WithLabelValues(strconv.FormatBool(f.Mended)).Inc()
		w.log.Error("blob damaged", "code", f.Code, "digest", f.Subject, "problem", f.Problem, "mended", f.Mended)
	}}
}

// scrub reads all blobs again and mends what is damaged, until ctx ends.
func (w *Worker) scrub(ctx context.Context) {
	k := upkeep.Keeper{Auditor: w.auditor(), Period: w.opt.Scrub, Log: w.log, Probe: func(ctx context.Context, pkg string) {
		if _, err := w.probe.Probe(ctx, pkg); err != nil && ctx.Err() == nil {
			w.log.WarnContext(ctx, "package not probed", "package", pkg, "err", err)
		}
	}}
	k.Run(ctx)
}

// keepIndex writes what strangers are told of the feed beside the blobs, if those lie in a folder: for edges that can reach
// nothing else.
func (w *Worker) keepIndex(ctx context.Context) {
	folder := blob.Folder(w.blobs)
	if folder == "" {
		return
	}
	w.db.Feed.KeepIndex(ctx, feed.IndexIn(folder), func(err error) {
		w.log.WarnContext(ctx, "edges on the folder of blobs hear nothing new", "err", err)
	})
}

// sequence gives what is published its numbers in the log, until ctx ends.
func (w *Worker) sequence(ctx context.Context) {
	if w.opt.Log.Folder.Dir == "" {
		return
	}
	ledger.NewSequencer(w.db.DB, w.opt.Log).Run(ctx, func(err error) {
		w.log.ErrorContext(ctx, "the log stands still", "err", err)
	})
}

// mend mends the stored bytes of the job's package, and has it probed again if
// that helped. What cannot be mended is in its health. Before the jobs of an
// update, the update has looked at everything; see noticeDamage.
func (w *Worker) mend(ctx context.Context, j *job) error {
	if j.Job.RunID != nil {
		return nil
	}
	j.setProgress(jobs.Progress{Step: "check bytes"})
	a := w.auditor()
	mended, _, err := a.MendPackage(ctx, j.Job.Package)
	if err != nil || mended == 0 {
		return err
	}
	_, err = w.probe.Probe(ctx, j.Job.Package)
	return err
}

// noticeDamage has the blobs read and mended that the store does not have as
// they were stored.
func (w *Worker) noticeDamage(ctx context.Context) {
	a := w.auditor()
	suspects, err := a.Notice(ctx)
	if suspects > 0 || err != nil && ctx.Err() == nil {
		w.log.WarnContext(ctx, "stored blobs looked at", "to_be_read", suspects, "err", err)
	}
}
