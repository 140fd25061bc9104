package ledger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"time"

	"filippo.io/torchwood"
	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/logbook"
	"github.com/francescobianco/packbase/storage/pg"
)

// A Sequencer gives entries their numbers, and signs and writes what is committed. Any number may be at work: one at a time
// does something.
type Sequencer struct {
	store *Store
	opt   Options
	key   *logbook.Signer // nil until it is read

	keyInfo fs.FileInfo // of its file then

	witnesses []*witness
	met       bool // since then nothing was said that speaks against adding to the log
}

// Options are a sequencer's settings.
type Options struct {
	Folder  Folder
	KeyFile string // the log's key; made, 0600, if this is a new log
	Name    string // of a new log: what a URL has behind https://; "" for one that is nobody's else

	Witnesses logbook.Witnesses
	HTTP      *http.Client // with which they are asked
}

// NewSequencer returns a sequencer that has not begun.
func NewSequencer(db *pg.DB, opt Options) *Sequencer {
	if opt.HTTP != nil {
		straight := *opt.HTTP // a redirect would turn POST into GET
		straight.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		opt.HTTP = &straight
	}
	return &Sequencer{store: New(db), opt: opt}
}

const (
	every     = 250 * time.Millisecond // how late a number is at most, if nothing else is to be done
	again     = 5 * time.Second        // after trouble
	batchSize = 10_000                 // entries of a transaction
)

// Run works until ctx ends. trouble is called for what it cannot do, when that changes; it is tried again.
func (q *Sequencer) Run(ctx context.Context, trouble func(error)) {
	said := ""
	for ctx.Err() == nil {
		more, err := q.Step(ctx)
		wait := every
		switch {
		case err != nil && ctx.Err() == nil:
			if wait = again; err.Error() != said {
				said = err.Error()
				trouble(err)
			}
		case more:
			wait = 0
		default:
			said = ""
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// Step does what is to be done, or a part of it: then more is true. The order is what keeps a log from forking: a tree is
// committed, then signed, then in the folder, and only then shown to anybody, by the rows, a witness or the checkpoint. Nothing
// is added before the rows are known to go on from what the folder has, and the witnesses have seen.
func (q *Sequencer) Step(ctx context.Context) (more bool, err error) {
	unlock, err := q.opt.Folder.lock()
	if errors.Is(err, errBusy) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("folder of the log: %w", err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	held, idle, err := q.survey(ctx)
	if err == nil {
		err = q.meet(ctx, held)
	}
	switch {
	case err != nil:
	case !idle:
		if more, err = q.add(ctx, held); err == nil {
			err = q.publish(ctx, held)
		}
	case q.due(held):
		err = q.cosignAgain(ctx, held)
	}
	if err == nil {
		left, bad := q.writeProofs(ctx)
		more, err = more || left, bad
	}
	if errors.Is(err, errBusy) {
		return false, nil
	}
	return more, err
}

// survey returns the largest tree that the folder has signed, and whether there is nothing to do.
func (q *Sequencer) survey(ctx context.Context) (held tlog.Tree, idle bool, err error) {
	st, err := q.store.State(ctx)
	if err != nil {
		return held, false, err
	}
	if q.key == nil || !slices.Contains(st.Keys, q.key.Public) || q.changed() {
		if err := q.open(ctx, st.Keys); err != nil {
			return held, false, err
		}
		st, err = q.store.State(ctx) // there may be a new key, and an entry that says so
	}
	if err == nil {
		held, err = q.signed(st.Keys)
	}
	if err != nil {
		return held, false, err
	}
	shown, err := q.opt.Folder.Checkpoint()
	return held, st.Pending == 0 && st.Tree.N == st.Signed &&
		(st.Tree == held && sizeOf(shown) == held.N || st.Tree.N == 0 && held.N == 0), err
}

// signed returns the largest tree that the folder has signed.
func (q *Sequencer) signed(known []string) (tree tlog.Tree, err error) {
	signed, err := q.opt.Folder.Signed()
	if err != nil || signed == nil {
		return tlog.Tree{}, err
	}
	for _, key := range slices.Concat([]string{q.key.Public}, q.key.Older, known) {
		if tree, err = logbook.OpenCheckpoint(signed, logbook.Policy(key)); err == nil {
			break
		}
	}
	if err != nil {
		return tree, fault.New("log_key", fmt.Sprintf("the log in %s is not signed by the key in %s (%v): nothing is added to it", q.opt.Folder.Dir, q.opt.KeyFile, err))
	}
	return tree, nil
}

// add gives numbers to pending entries, in a transaction that first holds the rows to what the folder has.
func (q *Sequencer) add(ctx context.Context, held tlog.Tree) (more bool, err error) {
	err = q.store.db.Tx(ctx, func(tx pgx.Tx) error {
		h, err := lockHead(ctx, tx)
		if err != nil {
			return err
		}
		if err := q.hold(ctx, h, held); err != nil {
			return err
		}
		entries, ids, err := h.pending(ctx, batchSize)
		if err != nil {
			return err
		}
		more = len(ids) == batchSize
		if err := h.append(ctx, entries); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `DELETE FROM log_pending WHERE id = ANY($1)`, ids)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("add to the log: %w", pg.Translate(err))
	}
	return more, nil
}

// hold sees to it that the rows have all that the folder has. A database that was restored to an earlier time gets what it
// does not have from the folder; one that contradicts it is refused.
func (q *Sequencer) hold(ctx context.Context, h *head, held tlog.Tree) error {
	if held.N > h.tree.N {
		return q.recover(ctx, h, held)
	}
	hash, err := h.hash(ctx, held.N)
	if err != nil {
		return err
	}
	if held.N > 0 && hash != held.Hash {
		return forked("the first %d entries of the database are not those that %s has", held.N, q.opt.Folder.Dir)
	}
	return nil
}

// recover adds to the rows what the folder has, each entry proved to be in the tree that was signed.
func (q *Sequencer) recover(ctx context.Context, h *head, held tlog.Tree) error {
	damaged := func(err error) error {
		return fault.New("log_damaged", fmt.Sprintf("the database has %d entries of the log, %s has %d and cannot be read (%v): nothing is signed until it can",
			h.tree.N, q.opt.Folder.Dir, held.N, err))
	}
	tiles, hash, err := q.opt.Folder.open(ctx, held, h.tree.N)
	if err != nil {
		return damaged(err)
	}
	if hash != h.tree.Hash {
		return forked("the %d entries of the database are not the first that %s has", h.tree.N, q.opt.Folder.Dir)
	}
	client, err := torchwood.NewClient(tiles)
	if err != nil {
		return err
	}
	var batch []numbered
	for _, entry := range client.AllEntries(ctx, held, h.tree.N) {
		key := logbook.Identity(entry)
		batch = append(batch, numbered{key[:], slices.Clone(entry)})
		if len(batch) == batchSize {
			if err := h.append(ctx, batch); err != nil {
				return err
			}
			batch = nil
		}
	}
	if err := client.Err(); err != nil {
		return damaged(err)
	}
	if err := h.append(ctx, batch); err != nil {
		return err
	}
	if h.tree != held {
		return damaged(fmt.Errorf("it ends with %d entries", h.tree.N))
	}
	return nil
}

// publish signs the committed tree, if the folder does not show it, and shows it.
func (q *Sequencer) publish(ctx context.Context, was tlog.Tree) error {
	var tree tlog.Tree
	var signed []byte
	err := q.store.db.Tx(ctx, func(tx pgx.Tx) error {
		h, err := lockHead(ctx, tx)
		if err != nil || h.tree.N == 0 {
			return err
		}
		tree = h.tree
		if signed, err = h.sign(ctx, *q.key); err != nil {
			return err
		}
		return q.keep(ctx, tx, was, tree, signed)
	})
	if err != nil {
		return fmt.Errorf("sign the log: %w", pg.Translate(err))
	}
	if signed == nil {
		return nil
	}
	shown, err := q.opt.Folder.Checkpoint()
	if err != nil {
		return err
	}
	if sizeOf(shown) == tree.N { // with the cosignatures that it got
		signed = shown
	}
	if signed, err = q.cosign(ctx, tree, signed); err != nil {
		return err
	}
	if err := q.writeKeyProofs(ctx); err != nil {
		return err
	}
	return q.opt.Folder.replace(logbook.CheckpointFile, signed)
}

// keep has the folder have a tree that is signed, before the rows say that it is.
func (q *Sequencer) keep(ctx context.Context, tx pgx.Tx, was, tree tlog.Tree, signed []byte) error {
	f := q.opt.Folder
	err := f.writeTiles(logbook.NewTiles(was.N, tree.N), func(t tlog.Tile) ([]byte, error) { return readTile(ctx, tx, t) })
	if err != nil {
		return fmt.Errorf("write the log: %w", err)
	}
	return f.replace(signedFile, signed)
}

// cosignAgain asks those witnesses that did not cosign what the folder shows.
func (q *Sequencer) cosignAgain(ctx context.Context, shown tlog.Tree) error {
	signed, err := q.opt.Folder.Checkpoint()
	if err != nil {
		return err
	}
	more, err := q.cosign(ctx, shown, signed)
	if err != nil || len(more) == len(signed) {
		return err
	}
	return q.opt.Folder.replace(logbook.CheckpointFile, more)
}

func forked(format string, args ...any) error {
	return fault.New("log_forked", fmt.Sprintf(format, args...)+": nothing is added or signed")
}
