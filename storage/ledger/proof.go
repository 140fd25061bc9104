package ledger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

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
	var index, size int64
	var entry, root, signed []byte
	err := s.db.Pool.QueryRow(ctx, `
		SELECT e.idx, e.entry, c.size, c.root, c.note
		FROM log_entries e, (`+newestSigned+`) c
		WHERE e.key = log_key((`+body+`)) AND e.idx < c.size`, args...).Scan(&index, &entry, &size, &root, &signed)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("proof: %w", fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("proof: %w", pg.Translate(err))
	}
	proof, err := tlog.ProveRecord(size, index, s.hashes(ctx))
	if err == nil {
		err = tlog.CheckRecord(proof, size, tlog.Hash(root), index, tlog.RecordHash(entry)) // rather none than a wrong one
	}
	if err != nil {
		return nil, fmt.Errorf("proof of entry %d: %w", index, err)
	}
	return torchwood.FormatProofWithExtraData(index, entry, proof, signed), nil
}

// hashes reads hashes of the tree from the tiles that have them.
func (s *Store) hashes(ctx context.Context) tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		tiles := map[tlog.Tile][]byte{} // without their width
		hashes := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			t := tlog.TileForIndex(torchwood.TileHeight, index)
			at := tlog.Tile{L: t.L, N: t.N}
			if tiles[at] == nil {
				var data []byte
				if err := s.db.Pool.QueryRow(ctx, `SELECT data FROM log_tiles WHERE level = $1 AND n = $2`, t.L, t.N).Scan(&data); err != nil {
					return nil, pg.Translate(err)
				}
				tiles[at] = data
			}
			t.W = len(tiles[at]) / tlog.HashSize
			var err error
			if hashes[i], err = tlog.HashFromTile(t, tiles[at], index); err != nil {
				return nil, err
			}
		}
		return hashes, nil
	})
}
