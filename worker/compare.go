package worker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/francescobianco/packbase/storage/ledger"
	"github.com/francescobianco/packbase/storage/otherlog"
	"github.com/francescobianco/packbase/worker/upstream"
)

// Comparing says with which other logs that of this packbase is compared.
type Comparing struct {
	Peers    []string // URLs of other packbases
	Every    time.Duration
	Evidence string // folder for what is found
	Egress   upstream.Options
}

const (
	compareTime = 30 * time.Minute // with one peer
	mostFound   = 100              // differences of one comparison
	mostEntries = 1_000_000        // of a peer's log, or twice as many as ours has: each takes 300 bytes of memory, for good
)

// A comparer holds the logs of others to this one, again and again.
type comparer struct {
	*Worker
	store    *ledger.Store
	own      otherlog.Memory
	readings map[string]*otherlog.Reading // of peers; "" is our own
	sizes    map[string]int64             // of both logs at the last comparison
	said     map[string]string            // problems that were logged
}

// compareLogs compares the log with those of others, until ctx ends.
func (w *Worker) compareLogs(ctx context.Context) {
	opt := w.opt.Comparing
	if len(opt.Peers) == 0 || w.opt.Log.Folder.Dir == "" {
		return
	}
	c := &comparer{Worker: w, store: ledger.New(w.db.DB), readings: map[string]*otherlog.Reading{"": {}}, sizes: map[string]int64{}, said: map[string]string{}}
	for ctx.Err() == nil {
		if err := c.round(ctx); err != nil && ctx.Err() == nil {
			w.log.WarnContext(ctx, "logs not compared", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(opt.Every):
		}
	}
}

// round compares with each peer once.
func (c *comparer) round(ctx context.Context) error {
	own, err := otherlog.OpenFolder(ctx, c.opt.Log.Folder.Dir, c.own)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // another machine signs it, or nobody does yet
	}
	if err == nil {
		c.own = own.Memory
		err = c.readings[""].Read(ctx, own)
	}
	if err == nil {
		err = c.store.ForgetComparisons(ctx, c.opt.Comparing.Peers)
	}
	if err != nil {
		return err
	}
	known, err := c.store.Comparisons(ctx)
	if err != nil {
		return err
	}
	for _, peer := range c.opt.Comparing.Peers {
		now := ledger.Comparison{Peer: peer}
		for _, k := range known {
			if k.Peer == peer {
				now.Policy, now.Checkpoint = k.Policy, k.Checkpoint
			}
		}
		if err := c.compare(ctx, own, &now); err != nil {
			now.Problem = err.Error()
		}
		if now.Problem != "" && now.Problem != c.said[peer] {
			c.log.ErrorContext(ctx, "log of another packbase not compared", "peer", peer, "err", now.Problem)
		}
		c.said[peer] = now.Problem
		if err := c.store.KeepComparison(ctx, now); err != nil {
			return err
		}
	}
	return nil
}

// compare compares the log with that of a peer, and keeps what it finds.
func (c *comparer) compare(ctx context.Context, own *otherlog.Log, with *ledger.Comparison) error {
	ctx, cancel := context.WithTimeout(ctx, compareTime)
	defer cancel()
	seen := otherlog.Memory{Checkpoint: with.Checkpoint}
	if len(with.Policy) > 0 {
		seen.Policy = with.Policy
	}
	client := upstream.New(c.opt.Comparing.Egress).HTTP()
	other, err := otherlog.Open(ctx, client, with.Peer, seen)
	if err != nil {
		return err
	}
	if most := max(mostEntries, 2*own.Tree.N); other.Tree.N > most {
		return fmt.Errorf("the log of %s has %d entries, and at most %d are compared: packbase compare may read more", with.Peer, other.Tree.N, most)
	}
	with.Policy, with.Checkpoint = other.Policy, other.Checkpoint
	if c.readings[with.Peer] == nil {
		c.readings[with.Peer] = &otherlog.Reading{}
	}
	if c.sizes[with.Peer] == own.Tree.N+other.Tree.N {
		return nil
	}
	if err := c.readings[with.Peer].Read(ctx, other); err != nil {
		return err
	}
	found, err := otherlog.Compare(ctx, c.readings[""], c.readings[with.Peer], mostFound)
	for _, e := range found {
		if err := c.keep(ctx, with.Peer, e); err != nil {
			return err
		}
	}
	if err == nil {
		c.sizes[with.Peer] = own.Tree.N + other.Tree.N
	}
	return err
}

func (c *comparer) keep(ctx context.Context, peer string, e otherlog.Evidence) error {
	f, err := e.Check()
	if err != nil {
		return err
	}
	name, raw := e.File()
	file := filepath.Join(c.opt.Comparing.Evidence, name)
	err = os.MkdirAll(c.opt.Comparing.Evidence, 0o755)
	if err == nil {
		err = os.WriteFile(file, raw, 0o644)
	}
	if err != nil {
		return err
	}
	fresh, err := c.store.KeepDifference(ctx, ledger.Difference{Name: name, Peer: peer, About: f.About, Evidence: raw})
	if fresh {
		c.log.ErrorContext(ctx, "logs contradict each other", "peer", peer, "about", f.About, "evidence", file)
	}
	return err
}
