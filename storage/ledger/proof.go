package ledger

import (
	"context"
	"fmt"
	"io/fs"
	"slices"

	"filippo.io/torchwood"
	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/francescobianco/packbase/storage/pg"
)

// ReleaseProof returns a proof that the release or snapshot with that id is in the log, under the newest checkpoint, as
// c2sp.org/tlog-proof has it; its extra data is the entry. What has no entry yet, or never will, is fs.ErrNotExist.
func (s *Store) ReleaseProof(ctx context.Context, id int64) ([]byte, error) {
	return s.proof(ctx, `SELECT log_release(r, p.upstream) FROM releases r JOIN packages p ON p.name = r.package WHERE r.id = $1`, id)
}

// ArchiveProof is ReleaseProof of what a URL answered.
func (s *Store) ArchiveProof(ctx context.Context, url, legacyHash string) ([]byte, error) {
	return s.proof(ctx, `SELECT log_archive(a) FROM archives a WHERE a.url = $1 AND a.zig_legacy_hash = $2`, url, legacyHash)
}

// proof proves the entry whose text without seen the query returns.
func (s *Store) proof(ctx context.Context, body string, args ...any) ([]byte, error) {
	all, err := s.proven(ctx, newestSigned, `e.key = log_key((`+body+`))`, args...)
	if err == nil && len(all) == 0 {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("proof: %w", err)
	}
	return all[0].text(), nil
}

// Said is what the log says of a package.
type Said struct {
	Proof string   // that its files were published, as c2sp.org/tlog-proof has it, but for the checkpoint, which is to be put behind it
	Later []string // such proofs of what was logged of that since: it was moved, is gone or was withdrawn; the newest, if these are many
}

// mostLater is how much is told that was logged of a package later.
const mostLater = 4

// Proofs returns what the log says of packages by their Zig hashes, of either form, and the checkpoint that all the proofs are
// under, the newest. What has no entry that is signed is left out.
func (s *Store) Proofs(ctx context.Context, hashes []string) (checkpoint string, said map[string]Said, err error) {
	about, err := s.about(ctx, hashes)
	if err != nil || len(about) == 0 {
		return "", nil, err
	}
	var indexes []int64
	for _, all := range about {
		indexes = append(indexes, all...)
	}
	all, err := s.proven(ctx, newestSigned, `e.idx = ANY($1)`, indexes)
	if err != nil {
		return "", nil, fmt.Errorf("proofs: %w", err)
	}
	proofs := make(map[int64]string, len(all))
	for _, p := range all {
		proofs[p.index], checkpoint = string(p.head), string(p.checkpoint)
	}
	said = make(map[string]Said, len(about))
	for hash, indexes := range about {
		one := Said{Proof: proofs[indexes[0]]}
		later := indexes[1:]
		for _, index := range later[max(0, len(later)-mostLater):] {
			one.Later = append(one.Later, proofs[index])
		}
		said[hash] = one
	}
	return checkpoint, said, nil
}

// about returns the indexes of the entries that tell of packages, by Zig hash: the first says what has it, rather something that
// was not removed, and the others what became of that.
func (s *Store) about(ctx context.Context, hashes []string) (map[string][]int64, error) {
	const pinned = ` (zig_hash = h.hash AND zig_hash <> '' OR zig_legacy_hash = h.hash AND zig_legacy_hash <> '') `
	rows, _ := s.db.Pool.Query(ctx, `
		WITH signed AS (SELECT COALESCE(max(size), 0) AS size FROM log_checkpoints),
		first AS (
			SELECT DISTINCT ON (h.hash) h.hash, c.release, c.archive, e.idx
			FROM unnest($1::text[]) AS h (hash) CROSS JOIN LATERAL (
				SELECT r.id AS release, 0 AS archive, log_release(r, p.upstream) AS body, EXISTS (
					SELECT FROM tombstones t
					WHERE t.package = r.package AND t.commit_oid = r.commit_oid AND COALESCE(t.tag, '') = COALESCE(r.tag, '')) AS removed
				FROM releases r JOIN packages p ON p.name = r.package
				WHERE `+pinned+` AND NOT p.private AND NOT EXISTS (SELECT FROM refuted_zig_hashes WHERE release_id = r.id)
				UNION ALL
				SELECT 0, a.id, log_archive(a), EXISTS (SELECT FROM archive_tombstones t WHERE t.url = a.url)
				FROM archives a WHERE `+pinned+` AND NOT a.private) c
			JOIN log_entries e ON e.key = log_key(c.body)
			WHERE e.idx < (SELECT size FROM signed)
			ORDER BY h.hash, c.removed, e.idx),
		later AS (
			SELECT f.hash, log_moved(m, p.upstream) AS body
			FROM first f JOIN releases r ON r.id = f.release JOIN packages p ON p.name = r.package JOIN moved_tags m ON m.package = r.package AND m.tag = r.tag
			UNION ALL
			SELECT f.hash, log_withdrawn(t, p.upstream)
			FROM first f JOIN releases r ON r.id = f.release JOIN packages p ON p.name = r.package
				JOIN tombstones t ON t.package = r.package AND t.commit_oid = r.commit_oid AND COALESCE(t.tag, '') = COALESCE(r.tag, '')
			UNION ALL
			SELECT f.hash, log_moved(m) FROM first f JOIN archives a ON a.id = f.archive JOIN moved_archives m ON m.url = a.url AND m.old_legacy_hash = a.zig_legacy_hash
			UNION ALL
			SELECT f.hash, log_withdrawn(t) FROM first f JOIN archives a ON a.id = f.archive JOIN archive_tombstones t ON t.url = a.url)
		SELECT hash, idx, true AS first FROM first
		UNION
		SELECT l.hash, e.idx, false FROM later l JOIN log_entries e ON e.key = log_key(l.body) WHERE e.idx < (SELECT size FROM signed)
		ORDER BY hash, first DESC, idx`, hashes)
	about := map[string][]int64{}
	var hash string
	var index int64
	_, err := pgx.ForEachRow(rows, []any{&hash, &index, nil}, func() error {
		about[hash] = append(about[hash], index)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("proofs of %d hashes: %w", len(hashes), pg.Translate(err))
	}
	return about, nil
}

// A proven is an entry with its proof.
type proven struct {
	index                   int64
	entry, head, checkpoint []byte // the proof is head and checkpoint
}

func (p proven) text() []byte { return slices.Concat(p.head, p.checkpoint) }

// proven proves the entries e that the condition selects and the checkpoint has, in their order.
func (s *Store) proven(ctx context.Context, checkpoint, where string, args ...any) (all []proven, err error) {
	rows, _ := s.db.Pool.Query(ctx, `
		SELECT e.idx, e.entry, c.size, c.root, c.note
		FROM log_entries e CROSS JOIN (`+checkpoint+`) c
		WHERE e.idx < c.size AND `+where+` ORDER BY e.idx`, args...)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[unproven])
	if err != nil {
		return nil, pg.Translate(err)
	}
	for some := range slices.Chunk(found, 1000) { // whose tiles are a few megabytes
		hashes := s.hashes(ctx)
		if err := readAhead(hashes, some); err != nil {
			return nil, err
		}
		for _, u := range some {
			p, err := u.prove(hashes)
			if err != nil {
				return nil, err
			}
			all = append(all, p)
		}
	}
	return all, nil
}

// readAhead has all hashes that proofs need read at once.
func readAhead(hashes tlog.HashReader, of []unproven) error {
	var all []int64
	for _, u := range of {
		_, err := tlog.ProveRecord(u.Size, u.Index, tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
			all = append(all, indexes...)
			return make([]tlog.Hash, len(indexes)), nil
		}))
		if err != nil {
			return fmt.Errorf("of entry %d: %w", u.Index, err)
		}
	}
	_, err := hashes.ReadHashes(all)
	return err
}

// An unproven is an entry, and a checkpoint that has it.
type unproven struct {
	Index            int64
	Entry            []byte
	Size             int64
	Root, Checkpoint []byte
}

func (u unproven) prove(hashes tlog.HashReader) (proven, error) {
	proof, err := tlog.ProveRecord(u.Size, u.Index, hashes)
	if err == nil {
		err = tlog.CheckRecord(proof, u.Size, tlog.Hash(u.Root), u.Index, tlog.RecordHash(u.Entry)) // rather none than a wrong one
	}
	if err != nil {
		return proven{}, fmt.Errorf("of entry %d: %w", u.Index, err)
	}
	return proven{u.Index, u.Entry, torchwood.FormatProofWithExtraData(u.Index, u.Entry, proof, nil), u.Checkpoint}, nil
}

// hashes reads hashes of the tree from the tiles that have them, each tile once.
func (s *Store) hashes(ctx context.Context) tlog.HashReader {
	tiles := map[tlog.Tile][]byte{} // without their width
	at := func(index int64) tlog.Tile {
		t := tlog.TileForIndex(torchwood.TileHeight, index)
		return tlog.Tile{L: t.L, N: t.N}
	}
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		var missing []tlog.Tile
		for _, index := range indexes {
			if _, ok := tiles[at(index)]; !ok {
				tiles[at(index)] = nil
				missing = append(missing, at(index))
			}
		}
		if err := s.readTiles(ctx, missing, tiles); err != nil {
			return nil, err
		}
		hashes := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			t, data := tlog.TileForIndex(torchwood.TileHeight, index), tiles[at(index)]
			t.W = len(data) / tlog.HashSize
			var err error
			if hashes[i], err = tlog.HashFromTile(t, data, index); err != nil {
				return nil, err
			}
		}
		return hashes, nil
	})
}

func (s *Store) readTiles(ctx context.Context, want []tlog.Tile, into map[tlog.Tile][]byte) error {
	if len(want) == 0 {
		return nil
	}
	levels, ns := make([]int64, len(want)), make([]int64, len(want))
	for i, t := range want {
		levels[i], ns[i] = int64(t.L), t.N
	}
	rows, _ := s.db.Pool.Query(ctx, `
		SELECT t.level, t.n, t.data FROM unnest($1::bigint[], $2::bigint[]) AS w (level, n) JOIN log_tiles t ON t.level = w.level AND t.n = w.n`, levels, ns)
	var t tlog.Tile
	var data []byte
	_, err := pgx.ForEachRow(rows, []any{&t.L, &t.N, &data}, func() error {
		into[t] = slices.Clone(data)
		return nil
	})
	return pg.Translate(err)
}
