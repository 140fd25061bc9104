package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/francescobianco/packbase/storage/logbook"
	"github.com/francescobianco/packbase/storage/otherlog"
	"github.com/francescobianco/packbase/storage/pg"
)

// A Mirror has the log of another packbase, in rows and files as that has it, and cosigns what it has checked: that what the
// entries tell of is here, and that the log only grew. It adds nothing of its own.
type Mirror struct {
	store *Store
	opt   Options // the key cosigns; of a new one the name is that of the mirror
	key   *logbook.Signer
}

// NewMirror returns a mirror that has not begun.
func NewMirror(db *pg.DB, opt Options) *Mirror { return &Mirror{store: New(db), opt: opt} }

// Memory returns what is known of the log.
func (m *Mirror) Memory(ctx context.Context) (seen otherlog.Memory, err error) {
	st, err := m.store.State(ctx)
	if err != nil || len(st.Keys) == 0 {
		return seen, err
	}
	seen.Policy = logbook.Policy(st.Keys[len(st.Keys)-1])
	err = m.store.db.Pool.QueryRow(ctx, `SELECT note FROM log_checkpoints ORDER BY size DESC LIMIT 1`).Scan(&seen.Checkpoint)
	if errors.Is(err, pgx.ErrNoRows) {
		err = nil
	}
	return seen, pg.Translate(err)
}

// Public returns the key by which cosignatures are checked; it is made if there is none.
func (m *Mirror) Public() (string, error) {
	if m.key == nil {
		seq := &Sequencer{store: m.store, opt: m.opt}
		key, _, err := seq.readKey(nil)
		if err != nil {
			return "", err
		}
		m.key = &key
	}
	return m.key.Cosigner()
}

// Follow takes over what the log has that is not here yet, and cosigns it, if all that it tells of is here. Otherwise it
// changes nothing, and missing is the first entry of which something is not here: all of it has to be durable first.
func (m *Mirror) Follow(ctx context.Context, l *otherlog.Log) (missing logbook.Entry, err error) {
	if _, err := m.Public(); err != nil {
		return nil, err
	}
	unlock, err := m.opt.Folder.lock()
	if errors.Is(err, errBusy) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("folder of the log: %w", err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	policy, err := l.ShownPolicy()
	if err != nil {
		return nil, err
	}
	line, err := m.key.Cosign(l.Checkpoint)
	if err != nil {
		return nil, err
	}
	err = m.store.db.Tx(ctx, func(tx pgx.Tx) error {
		h, err := lockHead(ctx, tx)
		if err != nil {
			return err
		}
		if missing, err = m.take(ctx, h, l); err != nil || missing != nil {
			return err
		}
		return m.keep(ctx, tx, l, policy, line)
	})
	switch {
	case errors.Is(err, errBusy):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("follow the log: %w", pg.Translate(err))
	case missing != nil:
		return missing, nil
	}
	return nil, m.show(ctx, l, policy, line)
}

// take adds the entries that are not here yet, if what they tell of is.
func (m *Mirror) take(ctx context.Context, h *head, l *otherlog.Log) (missing logbook.Entry, err error) {
	if h.tree.N > l.Tree.N {
		return nil, forked("there are %d entries here, and the log has %d", h.tree.N, l.Tree.N)
	}
	var entries []numbered
	var absent []logbook.Entry
	err = l.Entries(ctx, h.tree.N, func(_ int64, e logbook.Entry) error {
		key := logbook.Identity(e.Text())
		entries = append(entries, numbered{key[:], e.Text()})
		switch e.Kind() {
		case "release", "snapshot", "archive":
			var here bool
			if err := h.tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM log_pending WHERE key = $1)`, key[:]).Scan(&here); err != nil {
				return err
			}
			if !here {
				absent = append(absent, e)
			}
		case "withdrawn": // before it was here
			absent = slices.DeleteFunc(absent, func(a logbook.Entry) bool {
				return a.Value("commit") == e.Value("commit") && a.Value("upstream") == e.Value("upstream") && a.Value("url") == e.Value("url")
			})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(absent) > 0 {
		return absent[0], nil
	}
	for some := range slices.Chunk(entries, batchSize) {
		if err := h.append(ctx, some); err != nil {
			return nil, err
		}
	}
	if h.tree != l.Tree {
		return nil, forked("the entries that are here are not the first of the log")
	}
	return nil, nil
}

// keep notes what was cosigned.
func (m *Mirror) keep(ctx context.Context, tx pgx.Tx, l *otherlog.Log, policy []byte, line string) error {
	public, err := m.key.Cosigner()
	if err != nil {
		return err
	}
	batch := &pgx.Batch{}
	batch.Queue(`DELETE FROM log_pending p USING log_entries e WHERE p.key = e.key`)
	batch.Queue(`INSERT INTO log_checkpoints (size, root, note) VALUES ($1, $2, $3) ON CONFLICT (size) DO NOTHING`, l.Tree.N, l.Tree.Hash[:], string(l.Checkpoint))
	batch.Queue(`INSERT INTO log_keys (vkey) SELECT $1 WHERE NOT EXISTS (SELECT FROM log_keys WHERE vkey = $1)`, logbook.PolicyKey(l.Policy))
	batch.Queue(`INSERT INTO log_policy (policy) VALUES ($1) ON CONFLICT (one) DO UPDATE SET policy = EXCLUDED.policy`, string(policy))
	batch.Queue(`
		INSERT INTO log_witnesses (vkey, name, size, cosignature) VALUES ($1, $2, $3, $4)
		ON CONFLICT (vkey) DO UPDATE SET size = EXCLUDED.size, cosignature = EXCLUDED.cosignature, asked_at = now()`, public, m.key.Name(), l.Tree.N, line)
	return tx.SendBatch(ctx, batch).Close()
}

// show writes the files, the checkpoint last.
func (m *Mirror) show(ctx context.Context, l *otherlog.Log, policy []byte, line string) error {
	f := m.opt.Folder
	var shown int64
	if seen, err := otherlog.OpenFolder(ctx, f.Dir, otherlog.Memory{Policy: logbook.Policy(logbook.PolicyKey(l.Policy))}); err == nil {
		shown = min(seen.Tree.N, l.Tree.N)
	} // else all is written again
	err := f.writeTiles(logbook.NewTiles(shown, l.Tree.N), func(t tlog.Tile) ([]byte, error) { return readTile(ctx, m.store.db.Pool, t) })
	if err == nil {
		err = f.replace(logbook.PolicyFile, policy)
	}
	if err == nil {
		err = f.replace(logbook.CheckpointFile, slices.Concat(l.Checkpoint, []byte(line)))
	}
	if err != nil {
		return fmt.Errorf("write the log: %w", err)
	}
	return nil
}
