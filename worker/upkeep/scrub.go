package upkeep

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/scrub"
)

// A Keeper reads all blobs again, each at least once in Period, mends what
// is damaged, as soon as anybody finds it, and writes records that are missing. Of many keepers of one registry one
// works at a time; how far it has come is in the rows.
type Keeper struct {
	Auditor
	Period time.Duration                         // 0: blobs are not read again, only mended
	Probe  func(ctx context.Context, pkg string) // called for packages with a mended blob
	Log    *slog.Logger
	pace   pace
}

// A pace says how fast to read.
type pace struct {
	rate   float64   // bytes a second
	worked time.Time // when rate was worked out
	next   time.Time // when the next blob may be read
}

const (
	idleWait     = 2 * time.Second // damage is looked for
	restEvery    = time.Minute     // another keeper is at work
	slowest      = 1 << 20         // bytes a second
	paceEvery    = 10 * time.Minute
	scrubbed     = 50 // blobs asked for at once
	mendedAtOnce = 20
)

// Run keeps the registry until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	for ctx.Err() == nil {
		wait := idleWait
		if k.Period > 0 {
			wait = min(wait, max(k.Period/20, 50*time.Millisecond))
		}
		unlock, mine, err := k.DB.Scrub.TryLock(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			k.Log.WarnContext(ctx, "blobs not scrubbed", "err", err)
		case err == nil && !mine:
			wait = restEvery
		case err == nil:
			k.turn(ctx, wait)
			unlock()
			continue
		}
		sleep(ctx, wait)
	}
}

// turn works for a while.
func (k *Keeper) turn(ctx context.Context, wait time.Duration) {
	for range 10 {
		err := k.mendDamaged(ctx)
		if err == nil {
			err = k.KeepRecords(ctx)
		}
		if err == nil && k.Period > 0 {
			err = k.scrub(ctx)
		}
		if err != nil && ctx.Err() == nil {
			k.Log.WarnContext(ctx, "blobs not scrubbed", "err", err)
		}
		sleep(ctx, wait)
		if ctx.Err() != nil {
			return
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// mendDamaged mends what is known as damaged and due, and has the packages
// that need it probed again.
func (k *Keeper) mendDamaged(ctx context.Context) error {
	damaged, err := k.DB.Scrub.Due(ctx, mendedAtOnce)
	if err != nil || len(damaged) == 0 {
		return err
	}
	// While this is held, no blob is swept that is about to be named.
	unlock, err := k.DB.Scrub.Share(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	for _, b := range damaged {
		right, _, err := k.Mend(ctx, b.Digest)
		if err != nil {
			return err
		}
		if !right {
			continue
		}
		uses, err := k.DB.Scrub.Uses(ctx, b.Digest)
		if err != nil {
			return err
		}
		for _, u := range uses {
			if u.Package != "" {
				k.Probe(ctx, u.Package)
			}
		}
	}
	return nil
}

// scrub reads what is due, as fast as the pace allows. What is older than half
// the period is due, and the other half is the time for reading all.
func (k *Keeper) scrub(ctx context.Context) error {
	now := time.Now()
	if now.Sub(k.pace.worked) > min(paceEvery, k.Period/10) {
		n, err := k.DB.Scrub.Bytes(ctx)
		if err != nil {
			return err
		}
		k.pace.rate, k.pace.worked = max(float64(n)/(k.Period/2).Seconds(), slowest), now
	}
	for until := now.Add(idleWait); time.Now().Before(until) && time.Now().After(k.pace.next); {
		due, err := k.DB.Scrub.Unchecked(ctx, k.Period/2, scrubbed)
		if err != nil || len(due) == 0 {
			return err
		}
		for _, b := range due {
			if wait := time.Until(k.pace.next); wait > idleWait {
				return nil
			} else if wait > 0 {
				sleep(ctx, wait)
			}
			if err := k.read(ctx, b); err != nil {
				return err
			}
			k.pace.next = time.Now().Add(time.Duration(float64(b.Size) / k.pace.rate * float64(time.Second)))
		}
	}
	return nil
}

// read reads one blob. What is damaged is mended next.
func (k *Keeper) read(ctx context.Context, b scrub.Blob) error {
	since, err := k.readWhole(ctx, b.Digest)
	switch {
	case err == nil:
		return k.DB.Scrub.Checked(ctx, b.Digest, since)
	case ctx.Err() != nil, errors.Is(err, blob.ErrUnavailable) && !blob.IsDamaged(err):
		return fmt.Errorf("read blob %s: %w", b.Digest, err)
	}
	k.Log.ErrorContext(ctx, "blob damaged", "digest", b.Digest, "err", err)
	return k.DB.Scrub.Suspect(ctx, b.Digest)
}

// suspicious reports whether what the store says of a blob does not go with
// its row, or somebody wrote to it since it was read: it is to be read then.
func suspicious(row scrub.Blob, info blob.Info, err error) bool {
	return row.DamagedAt != nil || err != nil || info.Size != row.Size || info.ModTime.After(row.CheckedAt)
}

// askedBytes is how much of one package is read when somebody asks for it.
const askedBytes = 256 << 20

// MendPackage mends the blobs of a package: all that can be read in little
// time, and of the others those that the store does not have as the rows say.
// It returns how many were mended and how many are still wrong.
func (a *Auditor) MendPackage(ctx context.Context, pkg string) (mended, wrong int, err error) {
	blobs, err := a.DB.Scrub.OfPackage(ctx, pkg)
	if err != nil {
		return 0, 0, err
	}
	budget := int64(askedBytes)
	for _, b := range blobs {
		if budget -= b.Size; budget < 0 {
			info, err := a.Blobs.Stat(ctx, b.Digest)
			if err != nil && !lost(err) {
				return mended, wrong, err
			}
			if !suspicious(b, info, err) {
				continue
			}
		}
		right, again, err := a.Mend(ctx, b.Digest)
		if err != nil {
			return mended, wrong, err
		}
		if again {
			mended++
		}
		if !right {
			wrong++
		}
	}
	return mended, wrong, nil
}

// Notice compares the store's list with the rows, and has what does not agree
// read: it returns how many blobs that are. It reads none itself.
func (a *Auditor) Notice(ctx context.Context) (suspects int, err error) {
	rows := &rowsInOrder{db: a.DB}
	suspect := func(row scrub.Blob) error {
		suspects++
		return a.DB.Scrub.Suspect(ctx, row.Digest)
	}
	for info, err := range a.Blobs.List(ctx) {
		if err != nil {
			return suspects, fmt.Errorf("list blobs: %w", err)
		}
		for {
			row, ok, err := rows.peek(ctx)
			if err != nil {
				return suspects, err
			}
			if !ok || row.Digest > info.Digest {
				break
			}
			rows.drop()
			var gone error
			if row.Digest < info.Digest {
				gone = fs.ErrNotExist
			}
			if suspicious(row, info, gone) {
				if err := suspect(row); err != nil {
					return suspects, err
				}
			}
		}
	}
	for {
		row, ok, err := rows.peek(ctx)
		if err != nil || !ok {
			return suspects, err
		}
		rows.drop()
		if err := suspect(row); err != nil {
			return suspects, err
		}
	}
}

// rowsInOrder reads the rows of named blobs, in the order of their digests.
type rowsInOrder struct {
	db    *storage.DB
	page  []scrub.Blob
	after string
	ended bool
}

func (r *rowsInOrder) peek(ctx context.Context) (row scrub.Blob, ok bool, err error) {
	const page = 1000
	if len(r.page) == 0 && !r.ended {
		if r.page, err = r.db.Scrub.After(ctx, r.after, page); err != nil {
			return row, false, err
		}
		r.ended = len(r.page) < page
	}
	if len(r.page) == 0 {
		return row, false, nil
	}
	return r.page[0], true, nil
}

func (r *rowsInOrder) drop() { r.after, r.page = r.page[0].Digest, r.page[1:] }
