package ingest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/worker/upstream"
)

// An aside is a tag that could not be fetched, or not whole.
type aside struct {
	wanted
	err *fault.Error
}

// all fetches wants and stages their releases. Tags at fault are reported, and
// the others go on, unless there are none. What upstream has no better answer for
// than when it is out of order is not: the others go on, and the run fails.
func (m *mirror) all(ctx context.Context, wants []wanted) error {
	if err := m.batches(ctx, wants, m.req.Batch); err != nil {
		return err
	}
	for len(m.again) > 0 {
		again := m.again
		m.again = nil
		if err := m.batches(ctx, again, 1); err != nil {
			return err
		}
	}
	if err := m.report(); err != nil {
		return err
	}
	if len(m.ungiven) > 0 {
		return m.ungiven[0].named()
	}
	return nil
}

// report tells of the tags at fault.
func (m *mirror) report() error {
	if len(m.aside) == 0 {
		return nil
	}
	first := m.aside[0]
	works := m.worked || len(m.req.Released) > 0 && first.err.Code != upstream.CodeIncomplete
	if !works || m.req.Target != "" {
		return first.named()
	}
	for _, a := range m.aside {
		if err := m.events.send(a.refused(a.err)); err != nil {
			return err
		}
	}
	return nil
}

// named returns the error with the tag's name.
func (a *aside) named() *fault.Error {
	e := *a.err
	switch {
	case a.Tag != "":
		e.Message = fmt.Sprintf("the tag %q cannot be fetched: %s", a.Tag, e.Message)
	case a.Branch != "":
		e.Message = fmt.Sprintf("the branch %q cannot be fetched: %s", a.Branch, e.Message)
	}
	return &e
}

// batches fetches wants, at most so many at once. When that fails for what may
// be the fault of one of them, they are asked for in smaller batches, down to
// single ones: nothing of a pack without history can be resumed, and upstream
// does not always say which object it is.
func (m *mirror) batches(ctx context.Context, wants []wanted, most int) error {
	size, found := most, false
	for len(wants) > 0 {
		batch := wants[:min(size, len(wants))]
		err := m.batch(ctx, batch)
		e := AsFault(err)
		switch {
		case err == nil:
			if wants = wants[len(batch):]; found {
				size, found = most, false
			}
			continue
		case e != nil && m.alone(e) && len(batch) > 1:
			size = (len(batch) + 15) / 16
			continue
		case e != nil && m.alone(e):
			if err := m.giveUp(batch[0], e); err != nil {
				return err
			}
			wants, found = wants[1:], e.Code != upstream.CodeTimeout // after one, many at once may cost another wait
			if !m.worked {
				slices.Reverse(wants) // from the other end: those at this one may all be so
			}
			continue
		case e == nil || !ofAll(e.Code):
			return err
		}
		if i := culprit(batch, e); i >= 0 {
			if err := m.setAside(batch[i], e, len(batch) == 1); err != nil {
				return err
			}
			wants = slices.Delete(wants, i, i+1)
			if e.Code != upstream.CodeIncomplete {
				size = most // it was this one
			}
		} else {
			size = (len(batch) + 3) / 4
		}
		if e.Code == upstream.CodeIncomplete {
			if err := pause(ctx, cutPause); err != nil {
				return err
			}
		}
	}
	return nil
}

// alone reports whether what upstream has no better answer for is to be asked for alone now, as there is no later attempt.
func (m *mirror) alone(e *fault.Error) bool {
	return ofAnswer(e) && (m.req.Last || e.Final) && m.req.Target == ""
}

// giveUp leaves a tag that was asked for alone to a later job, unless upstream gives nothing at all.
func (m *mirror) giveUp(w wanted, e *fault.Error) error {
	m.ungiven = append(m.ungiven, aside{w, e})
	if !m.worked && len(m.ungiven) == maxUngiven {
		return e
	}
	return m.tooMany(w, e)
}

var anOID = regexp.MustCompile(`\b[0-9a-f]{40}\b`)

// culprit returns which of the batch e is about, -1 if that is not told.
func culprit(batch []wanted, e *fault.Error) int {
	if len(batch) == 1 {
		return 0
	}
	named := anOID.FindString(e.Message)
	return slices.IndexFunc(batch, func(w wanted) bool { return w.OID.String() == named })
}

// setAside keeps a tag at fault for the end of the run. What was not asked for
// alone is asked for again then: of a commit that another tag calls a tree
// upstream says that it has none. So is what was cut or lacks something: a
// connection may have been at its end, twice.
func (m *mirror) setAside(w wanted, e *fault.Error, alone bool) error {
	incomplete := e.Code == upstream.CodeIncomplete || e.Code == gitpack.CodeIncomplete
	if (incomplete && w.tries < 2 || !alone) && !w.Targeted() {
		w.tries++
		m.again = append(m.again, w)
	} else {
		m.aside = append(m.aside, aside{w, e})
	}
	return m.tooMany(w, e)
}

// tooMany returns why upstream is at fault and not w, the last of those that it did not give, or nil.
func (m *mirror) tooMany(w wanted, e *fault.Error) error {
	if len(m.again)+len(m.aside)+len(m.ungiven) <= maxAside {
		return nil
	}
	last := (&aside{w, e}).named()
	last.Message += fmt.Sprintf("; nor can %d others", maxAside)
	return last
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// batch fetches some tags at once and stages what they lead to.
func (m *mirror) batch(ctx context.Context, wants []wanted) error {
	name, spool, err := m.stage(".objects")
	if err != nil {
		return err
	}
	defer spool.Close()
	oids := make([]gitpack.OID, len(wants))
	for i, w := range wants {
		oids[i] = w.OID
	}
	objects, err := m.src.objects(ctx, oids, spool)
	var roots []Root
	if err == nil {
		roots, err = m.check(ctx, objects, wants)
	}
	if err != nil || len(roots) == 0 {
		return errors.Join(err, os.Remove(spool.Name()))
	}
	layout, err := objects.MarshalBinary()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(m.req.Dir, name+".layout"), layout, 0o600); err != nil {
		return fmt.Errorf("write layout: %w", err)
	}
	// The worker takes no file that somebody may still write to.
	if err := spool.Close(); err != nil {
		return fmt.Errorf("write objects: %w", err)
	}
	return m.events.send(Event{Batch: &Batch{Spool: name, Layout: name + ".layout", Roots: roots}})
}
