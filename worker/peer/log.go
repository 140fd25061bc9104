package peer

import (
	"context"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/francescobianco/packbase/storage/otherlog"
)

// logEvery is how often the central's log is looked at.
const logEvery = 2 * time.Second

// followLog has the central's log here, and cosigns it once what it tells of is here, until ctx ends.
func (r *Replica) followLog(ctx context.Context) {
	if r.Mirror == nil {
		return
	}
	said := ""
	var done tlog.Tree
	for ctx.Err() == nil {
		problem := ""
		if missing, err := r.mirrorLog(ctx, &done); err != nil {
			problem = err.Error()
		} else if missing != "" {
			problem = "it is not here yet: " + missing
		}
		if problem != "" && problem != said && ctx.Err() == nil {
			r.Log.WarnContext(ctx, "log of the central not cosigned", "err", problem)
		}
		said = problem
		pause(ctx, logEvery)
	}
}

// mirrorLog takes over what the log has beyond what is done. It returns the first entry of which something is not here.
func (r *Replica) mirrorLog(ctx context.Context, done *tlog.Tree) (missing string, err error) {
	seen, err := r.Mirror.Memory(ctx)
	if err != nil {
		return "", err
	}
	var l *otherlog.Log
	if folder, ok := strings.CutPrefix(r.Central, "file://"); ok {
		l, err = otherlog.OpenFolder(ctx, filepath.Join(folder, "log"), seen)
	} else {
		l, err = otherlog.Open(ctx, r.HTTP, r.Central, seen)
	}
	if err != nil || l.Tree == *done {
		return "", err
	}
	e, err := r.Mirror.Follow(ctx, l)
	if err != nil || e != nil {
		return strings.ReplaceAll(strings.TrimSpace(string(e.Text())), "\n", ", "), err
	}
	*done = l.Tree
	r.Log.InfoContext(ctx, "log of the central cosigned", "entries", l.Tree.N)
	return "", nil
}
