// Package ledger is the log in Postgres, and its way from there into files: whoever publishes leaves a pending entry in the
// same transaction (triggers of the schema do), a Sequencer gives them their numbers, and signs and writes what is committed.
// docs/log.md says what comes of it.
package ledger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"filippo.io/torchwood"
	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/francescobianco/packbase/storage/logbook"
	"github.com/francescobianco/packbase/storage/pg"
)

// A Store reads the log, and adds to it. It is safe for concurrent use; each method is one transaction.
type Store struct {
	db *pg.DB
}

func New(db *pg.DB) *Store { return &Store{db} }

// State is how far the log is.
type State struct {
	Tree    tlog.Tree     // of all entries
	Signed  int64         // entries that are under the newest checkpoint
	Pending int           // entries without a number, without those that wait because they are private
	Oldest  time.Duration // how long the first of these waits; 0 if there are none
	Ahead   time.Duration // how far the newest entry is dated after now: a clock was, or is, wrong; 0 if it is not
	Keys    []string      // public keys that sign the log, the oldest first; none before the first start
}

// State returns how far the log is.
func (s *Store) State(ctx context.Context) (st State, err error) {
	var root []byte
	err = s.db.Pool.QueryRow(ctx, `
		SELECT h.size, h.root, COALESCE((SELECT max(size) FROM log_checkpoints), 0), p.n, COALESCE(GREATEST(now() - p.oldest, '0'), '0'),
			COALESCE(GREATEST((SELECT substring(entry FROM 'seen (\S+)\s*$')::timestamptz FROM log_entries ORDER BY idx DESC LIMIT 1) - now(), '0'), '0'),
			ARRAY(SELECT vkey FROM log_keys ORDER BY id)
		FROM log_head h, (SELECT count(*) AS n, min(created_at) AS oldest FROM log_pending WHERE NOT private) p`).
		Scan(&st.Tree.N, &root, &st.Signed, &st.Pending, &st.Oldest, &st.Ahead, &st.Keys)
	if err != nil {
		return State{}, fmt.Errorf("state of the log: %w", pg.Translate(err))
	}
	st.Tree.Hash = tlog.Hash(root)
	return st, nil
}

// newestSigned is the newest checkpoint, with the cosignatures that it has.
const newestSigned = `
	SELECT c.size, c.root, c.note || COALESCE((SELECT string_agg(w.cosignature, '' ORDER BY w.vkey) FROM log_witnesses w WHERE w.size = c.size), '') AS note
	FROM log_checkpoints c ORDER BY c.size DESC LIMIT 1`

// A Place says where in the log something is: its index, or that it has none.
type Place int64

const (
	Pending  Place = -1 - iota // it will have one
	Private                    // it will have none, until its package is public
	Unlogged                   // there is no log here
)

func (p Place) String() string {
	switch p {
	case Pending:
		return "pending"
	case Private:
		return "private"
	case Unlogged:
		return ""
	}
	return fmt.Sprintf("index %d", int64(p))
}

// Proved reports whether there is a proof.
func (p Place) Proved() bool { return p >= 0 }

// place is the SQL of a Place, where e is the entry, if there is one.
const place = `CASE
	WHEN e.idx < (SELECT max(size) FROM log_checkpoints) THEN e.idx
	WHEN NOT EXISTS (SELECT FROM log_keys) THEN -3
	WHEN private THEN -2 ELSE -1 END`

// Places returns where in the log releases and snapshots are, by id.
func (s *Store) Places(ctx context.Context, ids []int64) (map[int64]Place, error) {
	rows, _ := s.db.Pool.Query(ctx, `
		SELECT r.id, `+place+`
		FROM releases r JOIN packages p ON p.name = r.package LEFT JOIN log_entries e ON e.key = log_key(log_release(r, p.upstream))
		WHERE r.id = ANY($1)`, ids)
	places := make(map[int64]Place, len(ids))
	var id int64
	var p Place
	_, err := pgx.ForEachRow(rows, []any{&id, &p}, func() error {
		places[id] = p
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("places in the log: %w", pg.Translate(err))
	}
	return places, nil
}

// ArchivePlace returns where in the log it is what a URL answered.
func (s *Store) ArchivePlace(ctx context.Context, url, legacyHash string) (p Place, err error) {
	err = s.db.Pool.QueryRow(ctx, `
		SELECT `+place+` FROM archives a LEFT JOIN log_entries e ON e.key = log_key(log_archive(a))
		WHERE a.url = $1 AND a.zig_legacy_hash = $2`, url, legacyHash).Scan(&p)
	if err != nil {
		return Unlogged, fmt.Errorf("place in the log: %w", pg.Translate(err))
	}
	return p, nil
}

// Checkpoint returns the newest checkpoint, or fs.ErrNotExist if there is none yet.
func (s *Store) Checkpoint(ctx context.Context) (note []byte, err error) {
	err = s.db.Pool.QueryRow(ctx, `SELECT note FROM (`+newestSigned+`) c`).Scan(&note)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("checkpoint: %w", fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", pg.Translate(err))
	}
	return note, nil
}

// File returns the file of the log that is served at path below /log/, made from rows: the checkpoint, the policy, a tile or
// a bundle of entries. What is not signed yet is fs.ErrNotExist.
func (s *Store) File(ctx context.Context, path string) ([]byte, error) {
	switch path {
	case logbook.CheckpointFile:
		return s.Checkpoint(ctx)
	case logbook.PolicyFile:
		return s.policy(ctx)
	}
	if strings.HasPrefix(path, "key/") {
		return s.keyProof(ctx, path)
	}
	t, err := torchwood.ParseTilePath(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	}
	st, err := s.State(ctx)
	if err != nil {
		return nil, err
	}
	if !logbook.InTree(t, st.Signed) {
		return nil, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	}
	return readTile(ctx, s.db.Pool, t)
}

// policy returns the policy, or fs.ErrNotExist if nobody signs the log yet.
func (s *Store) policy(ctx context.Context) (policy []byte, err error) {
	err = s.db.Pool.QueryRow(ctx, `
		SELECT policy FROM log_policy UNION ALL
		(SELECT 'log ' || vkey || E'\nquorum none\n' FROM log_keys ORDER BY id DESC LIMIT 1) LIMIT 1`).Scan(&policy)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("policy: %w", fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("policy of the log: %w", pg.Translate(err))
	}
	return policy, nil
}

// readTile returns the data of a tile, or of a bundle of entries, of the committed tree.
func readTile(ctx context.Context, q pg.Querier, t tlog.Tile) (data []byte, err error) {
	if t.L >= 0 {
		err = q.QueryRow(ctx, `SELECT substr(data, 1, $3) FROM log_tiles WHERE level = $1 AND n = $2`, t.L, t.N, t.W*tlog.HashSize).Scan(&data)
		if err == nil && len(data) != t.W*tlog.HashSize {
			err = fmt.Errorf("it has %d bytes", len(data))
		}
	} else {
		data, err = bundle(ctx, q, t)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", torchwood.TilePath(t), pg.Translate(err))
	}
	return data, nil
}

func bundle(ctx context.Context, q pg.Querier, t tlog.Tile) (data []byte, err error) {
	first := t.N * torchwood.TileWidth
	rows, _ := q.Query(ctx, `SELECT entry FROM log_entries WHERE idx >= $1 AND idx < $2 ORDER BY idx`, first, first+int64(t.W))
	var entry []byte
	n := 0
	_, err = pgx.ForEachRow(rows, []any{&entry}, func() error {
		n++
		data, err = torchwood.AppendTileEntry(data, entry)
		return err
	})
	if err == nil && n != t.W {
		err = fmt.Errorf("there are %d entries", n)
	}
	return data, err
}
