package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"filippo.io/torchwood"
	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/francescobianco/packbase/storage/logbook"
	"github.com/francescobianco/packbase/storage/pg"
)

// A Finding is something in the log that is not as it should be.
type Finding struct{ Code, Subject, Problem string }

// An audit reads the whole log, at one moment.
type audit struct {
	store  *Store
	tx     pgx.Tx
	folder Folder
	report func(Finding)
	tree   tlog.Tree // of the entries
	found  bool
}

// mostFindings is how many of one kind are told.
const mostFindings = 100

// Audit reads the whole log and compares entries, hashes, checkpoints, the rows of what is published, and the files in
// folder with each other. Whatever is published meanwhile is no finding.
func (s *Store) Audit(ctx context.Context, folder Folder, report func(Finding)) error {
	// First: the rows of a later moment have all of it.
	shown, err := folder.Checkpoint()
	if err != nil {
		return fmt.Errorf("audit of the log: %w", err)
	}
	one := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err = pgx.BeginTxFunc(ctx, s.db.Pool, one, func(tx pgx.Tx) error {
		a := &audit{store: s, tx: tx, folder: folder, report: report}
		if err := a.entries(ctx); err != nil {
			return err
		}
		if err := a.rows(ctx); err != nil {
			return err
		}
		return a.files(ctx, shown)
	})
	if err != nil {
		return fmt.Errorf("audit of the log: %w", pg.Translate(err))
	}
	return nil
}

func (a *audit) find(code, subject, format string, args ...any) {
	a.found = true
	a.report(Finding{code, subject, fmt.Sprintf(format, args...)})
}

// entries builds the tree again, and holds the hashes and checkpoints that are stored to it.
func (a *audit) entries(ctx context.Context) error {
	signed, err := a.checkpoints(ctx)
	if err != nil {
		return err
	}
	edge, tiles := &logbook.Edge{}, map[string][]byte{}
	put := func(level int, n int64, data []byte) { tiles[fmt.Sprint(level, "/", n)] = bytes.Clone(data) }
	gaps := 0
	rows, _ := a.tx.Query(ctx, `SELECT idx, key, entry FROM log_entries ORDER BY idx`)
	var idx int64
	var key, entry []byte
	_, err = pgx.ForEachRow(rows, []any{&idx, &key, &entry}, func() error {
		subject := fmt.Sprintf("entry %d", idx)
		if idx != edge.Size() && gaps < mostFindings {
			gaps++
			a.find("log_gap", subject, "it stands where entry %d should", edge.Size())
		}
		if _, err := logbook.ParseEntry(entry); err != nil {
			a.find("log_entry", subject, "%v", err)
		}
		if identity := logbook.Identity(entry); !bytes.Equal(identity[:], key) {
			a.find("log_entry", subject, "its key is not that of its text")
		}
		edge.Append(tlog.RecordHash(entry), put)
		return a.signed(edge, signed)
	})
	if err != nil {
		return err
	}
	for size := range signed {
		a.find("log_checkpoint", fmt.Sprintf("checkpoint of %d", size), "the log has %d entries", edge.Size())
	}
	edge.Partial(put)
	return a.hashes(ctx, edge, tiles)
}

// checkpoints returns the roots that were signed, by size.
func (a *audit) checkpoints(ctx context.Context) (signed map[int64]tlog.Hash, err error) {
	signed = map[int64]tlog.Hash{}
	rows, _ := a.tx.Query(ctx, `SELECT size, root FROM log_checkpoints`)
	var size int64
	var root []byte
	_, err = pgx.ForEachRow(rows, []any{&size, &root}, func() error {
		signed[size] = tlog.Hash(root)
		return nil
	})
	return signed, err
}

// signed compares the tree with the checkpoint of its size, if there is one, and removes that from signed.
func (a *audit) signed(edge *logbook.Edge, signed map[int64]tlog.Hash) error {
	root, ok := signed[edge.Size()]
	if !ok {
		return nil
	}
	delete(signed, edge.Size())
	tree, err := edge.Tree()
	if err == nil && tree.Hash != root {
		a.find("log_checkpoint", fmt.Sprintf("checkpoint of %d", tree.N), "what was signed is not the hash of the entries")
	}
	return err
}

// hashes compares what is stored of the tree with the tree.
func (a *audit) hashes(ctx context.Context, edge *logbook.Edge, tiles map[string][]byte) error {
	tree, err := edge.Tree()
	if err != nil {
		return err
	}
	a.tree = tree
	var size int64
	var root []byte
	if err := a.tx.QueryRow(ctx, `SELECT size, root FROM log_head`).Scan(&size, &root); err != nil {
		return err
	}
	if size != tree.N || !bytes.Equal(root, tree.Hash[:]) {
		a.find("log_head", "head", "it says %d entries, there are %d, or its hash is not theirs", size, tree.N)
	}
	rows, _ := a.tx.Query(ctx, `SELECT level || '/' || n, data FROM log_tiles`)
	var name string
	var data []byte
	_, err = pgx.ForEachRow(rows, []any{&name, &data}, func() error {
		if !bytes.Equal(tiles[name], data) {
			a.find("log_tile", "tile "+name, "its hashes are not those of the entries")
		}
		delete(tiles, name)
		return nil
	})
	for name := range tiles {
		a.find("log_tile", "tile "+name, "it is not there")
	}
	return err
}

// rows looks for what is published and neither logged nor pending, for what is logged and was never published, and for what
// the log says was removed and no row does. What was removed need not be here, once rows were rebuilt from blobs, nor do
// records of what moved.
func (a *audit) rows(ctx context.Context) error {
	rows, _ := a.tx.Query(ctx, `
		(SELECT 'log_entry_missing', split_part(body, E'\n', 1) || ' of ' || COALESCE(NULLIF(package, ''), split_part(body, E'\n', 2)),
			'it is published, and neither in the log nor about to be'
		FROM (SELECT body, package, log_key(body) AS key FROM log_rows OFFSET 0) r
		WHERE NOT EXISTS (SELECT FROM log_entries e WHERE e.key = r.key) AND NOT EXISTS (SELECT FROM log_pending p WHERE p.key = r.key)
		LIMIT $1)
		UNION ALL
		(SELECT 'log_row_missing', 'entry ' || idx, 'nothing is published that it tells of: ' || replace(left(entry, 200), E'\n', ', ')
		FROM log_entries e
		WHERE NOT EXISTS (SELECT FROM (SELECT log_key(body) AS key FROM log_rows OFFSET 0) r WHERE r.key = e.key)
			AND split_part(split_part(entry, E'\n', 1), ' ', 2) IN ('release', 'snapshot', 'archive')
			AND NOT EXISTS (SELECT FROM tombstones t WHERE t.commit_oid = split_part(split_part(entry, E'\ncommit ', 2), E'\n', 1))
			AND NOT EXISTS (SELECT FROM archive_tombstones t WHERE log_line('url', t.url) = split_part(entry, E'\n', 2) || E'\n')
		ORDER BY idx LIMIT $1)
		UNION ALL
		(SELECT 'log_withdrawn', 'entry ' || idx, 'it was removed, and is published: ' || replace(left(entry, 200), E'\n', ', ')
		FROM log_entries e
		WHERE split_part(entry, E'\n', 1) = 'packbase/1 withdrawn'
			AND NOT EXISTS (SELECT FROM (SELECT log_key(body) AS key FROM log_rows OFFSET 0) r WHERE r.key = e.key)
			AND (EXISTS (SELECT FROM releases r JOIN packages p ON p.name = r.package
					WHERE r.commit_oid = split_part(split_part(entry, E'\ncommit ', 2), E'\n', 1)
						AND log_line('upstream', p.upstream) = split_part(entry, E'\n', 2) || E'\n')
				OR EXISTS (SELECT FROM archives a WHERE log_line('url', a.url) = split_part(entry, E'\n', 2) || E'\n'))
		ORDER BY idx LIMIT $1)`, mostFindings)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Finding])
	for _, f := range all {
		f.Subject = strings.TrimPrefix(f.Subject, logbook.Format+" ")
		a.report(f)
	}
	return err
}

// files compares what the folder shows with the rows.
func (a *audit) files(ctx context.Context, signed []byte) error {
	if signed == nil {
		return nil
	}
	var keys []string
	if err := a.tx.QueryRow(ctx, `SELECT COALESCE(array_agg(vkey), '{}') FROM log_keys`).Scan(&keys); err != nil {
		return err
	}
	var shown tlog.Tree
	err := errors.New("the log has no key")
	for _, key := range keys {
		if shown, err = logbook.OpenCheckpoint(signed, logbook.Policy(key)); err == nil {
			break
		}
	}
	if err != nil {
		a.find("log_file", filepath.Join(a.folder.Dir, logbook.CheckpointFile), "%v", err)
		return nil
	}
	if ok, err := a.agree(ctx, shown); err != nil || !ok {
		a.find("log_file", filepath.Join(a.folder.Dir, logbook.CheckpointFile), "its tree of %d entries is not that of the database: %v", shown.N, err)
		return nil
	}
	for _, t := range logbook.NewTiles(0, min(shown.N, a.tree.N)) {
		if shown.N > a.tree.N && t.W < torchwood.TileWidth {
			continue // the file is that of the larger tree
		}
		if err := a.file(ctx, t); err != nil {
			return err
		}
	}
	if a.found { // proofs cannot be made of what is wrong
		return nil
	}
	return a.proofs(ctx, keys)
}

// agree reports whether the tree of the folder and that of the database are one, at two times. That of a database that was
// restored may be the smaller one.
func (a *audit) agree(ctx context.Context, shown tlog.Tree) (bool, error) {
	if shown.N <= a.tree.N {
		hash, err := (&head{tx: a.tx}).hash(ctx, shown.N)
		return hash == shown.Hash, err
	}
	_, hash, err := a.folder.open(ctx, shown, a.tree.N)
	return hash == a.tree.Hash, err
}

// file compares the file of a tile with the rows. A tile that has become full meanwhile may have taken its place.
func (a *audit) file(ctx context.Context, t tlog.Tile) error {
	name := filepath.Join(a.folder.Dir, torchwood.TilePath(t))
	want, err := readTile(ctx, a.tx, t)
	if err != nil {
		a.find("log_file", name, "the database cannot make it: %v", err)
		return ctx.Err()
	}
	got, err := a.folder.files().ReadFile(torchwood.TilePath(t))
	if errors.Is(err, fs.ErrNotExist) && t.W < torchwood.TileWidth {
		whole := t
		whole.W = torchwood.TileWidth
		if got, err = a.folder.files().ReadFile(torchwood.TilePath(whole)); err == nil && len(got) > len(want) {
			got = got[:len(want)]
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		a.find("log_file", name, "it is not there")
	case err != nil:
		return err
	case !bytes.Equal(got, want):
		a.find("log_file", name, "it is not what the database has")
	}
	return nil
}
