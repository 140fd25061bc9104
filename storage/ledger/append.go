package ledger

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/francescobianco/packbase/storage/logbook"
)

// A head is the row of log_head in a transaction that holds it: nobody else adds to the log meanwhile.
type head struct {
	tx   pgx.Tx
	tree tlog.Tree
}

// errBusy says that another process adds to the log.
var errBusy = errors.New("another process adds to the log")

func lockHead(ctx context.Context, tx pgx.Tx) (*head, error) {
	h := &head{tx: tx}
	var root []byte
	err := tx.QueryRow(ctx, `SELECT size, root FROM log_head FOR UPDATE SKIP LOCKED`).Scan(&h.tree.N, &root)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, errBusy
	}
	if err != nil {
		return nil, err
	}
	h.tree.Hash = tlog.Hash(root)
	return h, nil
}

// A numbered is an entry that gets the next number.
type numbered struct {
	key, entry []byte
}

// pending returns the next entries, and the ids of their rows: more of these, as what is in the log already is said once.
func (h *head) pending(ctx context.Context, most int) (entries []numbered, ids []int64, err error) {
	rows, _ := h.tx.Query(ctx, `
		SELECT id, key, entry, EXISTS (SELECT FROM log_entries e WHERE e.key = p.key)
		FROM log_pending p WHERE NOT private ORDER BY id LIMIT $1`, most)
	var id int64
	var e numbered
	var known bool
	said := map[[32]byte]bool{}
	_, err = pgx.ForEachRow(rows, []any{&id, &e.key, &e.entry, &known}, func() error {
		ids = append(ids, id)
		if key := [32]byte(e.key); !known && !said[key] {
			said[key] = true
			entries = append(entries, e)
		}
		e = numbered{}
		return nil
	})
	return entries, ids, err
}

// append adds entries to the tree: rows, tiles and the head, all in the transaction.
func (h *head) append(ctx context.Context, entries []numbered) error {
	if len(entries) == 0 {
		return nil
	}
	edge, err := logbook.OpenEdge(h.tree.N, func(t tlog.Tile) ([]byte, error) { return readTile(ctx, h.tx, t) })
	if err != nil {
		return err
	}
	first := h.tree.N
	batch := &pgx.Batch{}
	put := func(level int, n int64, data []byte) {
		batch.Queue(`
			INSERT INTO log_tiles (level, n, data) VALUES ($1, $2, $3)
			ON CONFLICT (level, n) DO UPDATE SET data = EXCLUDED.data`, level, n, data)
	}
	for _, e := range entries {
		edge.Append(tlog.RecordHash(e.entry), put)
	}
	edge.Partial(put)
	tree, err := edge.Tree()
	if err != nil {
		return err
	}
	_, err = h.tx.CopyFrom(ctx, pgx.Identifier{"log_entries"}, []string{"idx", "key", "entry"}, pgx.CopyFromSlice(len(entries), func(i int) ([]any, error) {
		return []any{first + int64(i), entries[i].key, string(entries[i].entry)}, nil
	}))
	if err != nil {
		return fmt.Errorf("entries from %d: %w", first, err)
	}
	batch.Queue(`UPDATE log_head SET size = $1, root = $2`, tree.N, tree.Hash[:])
	if err := h.tx.SendBatch(ctx, batch).Close(); err != nil {
		return err
	}
	h.tree = tree
	return nil
}

// hash returns the hash of the tree as it was when it had so many entries.
func (h *head) hash(ctx context.Context, size int64) (tlog.Hash, error) {
	edge, err := logbook.OpenEdge(size, func(t tlog.Tile) ([]byte, error) { return readTile(ctx, h.tx, t) })
	if err != nil {
		return tlog.Hash{}, err
	}
	tree, err := edge.Tree()
	return tree.Hash, err
}

// sign stores a checkpoint of the committed tree, and returns it with its size. There is one of each size, whoever signs.
func (h *head) sign(ctx context.Context, key logbook.Signer) (note []byte, err error) {
	signed, err := key.Sign(h.tree)
	if err != nil {
		return nil, err
	}
	_, err = h.tx.Exec(ctx, `
		INSERT INTO log_checkpoints (size, root, note) VALUES ($1, $2, $3) ON CONFLICT (size) DO NOTHING`, h.tree.N, h.tree.Hash[:], string(signed))
	if err != nil {
		return nil, err
	}
	err = h.tx.QueryRow(ctx, `SELECT note FROM log_checkpoints WHERE size = $1 AND root = $2`, h.tree.N, h.tree.Hash[:]).Scan(&note)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, forked("another tree of %d entries was signed before", h.tree.N)
	}
	return note, err
}
