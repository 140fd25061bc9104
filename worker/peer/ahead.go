package peer

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/francescobianco/packbase/storage/feed"
)

const (
	lookAfter  = time.Second // shorter work needs no look ahead
	maxDecided = 10_000      // decisions that are kept in mind
)

// A lookout reads the feed ahead of what is taken over, for decisions that must not wait for it.
type lookout struct {
	at feed.Head // as far as it has read

	mu      sync.Mutex // held while something is decided
	decided []decided  // since the edge read what it takes over now
}

type decided struct {
	seq int64
	feed.Body
}

// meanwhile runs do, which takes over what the edge has read after the change at. Until that ends, and be it in hours, what
// the central decides further on in the feed is done here at once: that a package is private, or what was removed.
func (r *Replica) meanwhile(ctx context.Context, at feed.Replication, do func() error) error {
	if at.Halted == "" && (r.ahead.at.Seq < at.Seq || at.Seq == 0) {
		r.ahead.at = feed.Head{Seq: at.Seq, Chain: at.Chain}
	}
	r.ahead.decided = nil
	looking, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var lie error
	wg.Go(func() { lie = r.lookAhead(looking, at.Halted != "") })
	err := do()
	stop()
	wg.Wait()
	return errors.Join(err, lie)
}

// lookAhead follows the feed until ctx ends. It returns an error only if the central contradicts itself; of one that is known
// to have, it follows whatever history it tells now: of that it takes nothing but what it is not to show any more.
func (r *Replica) lookAhead(ctx context.Context, halted bool) error {
	if !halted {
		pause(ctx, lookAfter)
	}
	for ctx.Err() == nil {
		asked := time.Now()
		seen, err := r.readAhead(ctx)
		var lie *contradiction
		if errors.As(err, &lie) {
			if !halted {
				return err
			}
			r.ahead.at = feed.Head{}
		}
		if err != nil && ctx.Err() == nil {
			r.Log.WarnContext(ctx, "decisions of the central not looked for", "err", err)
		}
		if seen == 0 {
			pause(ctx, max(r.Retry-time.Since(asked), 0))
		}
	}
	return nil
}

// readAhead does what the next page of the feed decides, or waits for one. It returns how many changes it has seen.
func (r *Replica) readAhead(ctx context.Context) (seen int, err error) {
	page, err := r.changes(ctx, r.ahead.at.Seq)
	if err != nil {
		return 0, err
	}
	if err := checkPage(r.ahead.at, page); err != nil {
		return 0, err
	}
	if err := r.DB.Feed.Seen(ctx, page.Head.Seq); err != nil {
		return 0, err
	}
	for i, c := range page.Changes {
		if len(r.ahead.decided) == maxDecided {
			return i, nil
		}
		if err := r.foresee(ctx, c); err != nil {
			return i, err
		}
		r.ahead.at = feed.Head{Seq: c.Seq, Chain: c.Chain}
	}
	return len(page.Changes), nil
}

// foresee does what a change decides, if that must not wait. What cannot be done now is met again in its place.
func (r *Replica) foresee(ctx context.Context, c feed.Change) error {
	body, private, err := parseBody(c)
	if err != nil || body == nil || body.Decision != feed.DecisionPrivate && body.Decision != feed.DecisionRemoved {
		return nil
	}
	if body.Decision == feed.DecisionPrivate && !body.IsNews() && !private && !c.Withheld {
		return nil // it is public again by now
	}
	if body.IsNews() {
		r.ahead.mu.Lock()
		r.ahead.decided = append(r.ahead.decided, decided{c.Seq, *body})
		r.ahead.mu.Unlock()
		err = r.applyNews(ctx, c.Seq, body, private)
	} else if err = r.decideFirst(ctx, decided{c.Seq, *body}); err == nil {
		err = r.storeRecord(ctx, body.Package)
	}
	if err != nil && ctx.Err() == nil && !ownTrouble(err) {
		r.Log.WarnContext(ctx, "decision is done later", "seq", c.Seq, "err", err)
		return nil
	}
	return err
}

func (r *Replica) decideFirst(ctx context.Context, d decided) error {
	r.ahead.mu.Lock()
	defer r.ahead.mu.Unlock()
	r.ahead.decided = append(r.ahead.decided, d)
	return r.decide(ctx, &d.Body)
}

// decideInTurn does what was decided, unless that was overtaken by what was decided later.
func (r *Replica) decideInTurn(ctx context.Context, seq int64, body *feed.Body) error {
	if err := r.decideUnlessOvertaken(ctx, seq, body); err != nil {
		return err
	}
	return r.storeRecord(ctx, body.Package)
}

func (r *Replica) decideUnlessOvertaken(ctx context.Context, seq int64, body *feed.Body) error {
	r.ahead.mu.Lock()
	defer r.ahead.mu.Unlock()
	if body.Decision == feed.DecisionPublic && slices.ContainsFunc(r.ahead.decided, func(d decided) bool {
		return d.seq > seq && d.Package == body.Package && d.Decision == feed.DecisionPrivate
	}) {
		return nil
	}
	return r.decide(ctx, body)
}

// decideAgain does what was decided of pkg while something of it was published.
func (r *Replica) decideAgain(ctx context.Context, pkg string) error {
	r.ahead.mu.Lock()
	defer r.ahead.mu.Unlock()
	for _, d := range r.ahead.decided {
		if d.Package == pkg {
			if err := r.decide(ctx, &d.Body); err != nil {
				return err
			}
		}
	}
	return nil
}

// privateByNow reports whether it was decided that pkg is private, although what is taken over does not say so yet.
func (r *Replica) privateByNow(pkg string) bool {
	return r.wasDecided(func(d *decided) bool { return d.Package == pkg && d.Decision == feed.DecisionPrivate })
}

// wanted returns those of bodies that may still be here.
func (r *Replica) wanted(bodies []feed.Body) (wanted []feed.Body) {
	for _, b := range bodies {
		if r.privateByNow(b.Package) && r.Token == "" || r.wasDecided(func(d *decided) bool {
			return d.Package == b.Package && d.Decision == feed.DecisionRemoved && (d.Commit == "" || d.Tag == b.Tag && d.Commit == b.Commit)
		}) {
			continue
		}
		wanted = append(wanted, b)
	}
	return wanted
}

func (r *Replica) wasDecided(that func(*decided) bool) bool {
	r.ahead.mu.Lock()
	defer r.ahead.mu.Unlock()
	return slices.ContainsFunc(r.ahead.decided, func(d decided) bool { return that(&d) })
}
