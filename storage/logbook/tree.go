package logbook

import (
	"fmt"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"
)

// Names of the files beside the tiles.
const (
	CheckpointFile = "checkpoint"
	PolicyFile     = "policy"
)

// An Edge is the right edge of a tree: all that is needed to add to it. The zero Edge is that of the empty tree.
type Edge struct {
	size  int64
	tiles [][]byte // of each level the hashes of the tile that is not full yet
}

// OpenEdge returns the edge of a tree of that size. tile returns the data of a tile, or of a fuller one, as tlog has it.
func OpenEdge(size int64, tile func(tlog.Tile) ([]byte, error)) (*Edge, error) {
	e := &Edge{size: size}
	for level := 0; size > 0; level++ {
		var data []byte
		if w := int(size % torchwood.TileWidth); w > 0 {
			t := tlog.Tile{H: torchwood.TileHeight, L: level, N: size / torchwood.TileWidth, W: w}
			whole, err := tile(t)
			if err == nil && len(whole) < w*tlog.HashSize {
				err = fmt.Errorf("it has %d bytes", len(whole))
			}
			if err != nil {
				return nil, fmt.Errorf("tile %s: %w", torchwood.TilePath(t), err)
			}
			data = append(data, whole[:w*tlog.HashSize]...)
		}
		e.tiles = append(e.tiles, data)
		size /= torchwood.TileWidth
	}
	return e, nil
}

// Size returns how many leaves the tree has.
func (e *Edge) Size() int64 { return e.size }

// Append adds a leaf. full is called with each tile that became full.
func (e *Edge) Append(leaf tlog.Hash, full func(level int, n int64, data []byte)) {
	n := e.size
	e.size++
	for level := 0; ; level++ {
		if level == len(e.tiles) {
			e.tiles = append(e.tiles, nil)
		}
		data := append(e.tiles[level], leaf[:]...)
		e.tiles[level] = data
		n /= torchwood.TileWidth
		if len(data) < torchwood.TileWidth*tlog.HashSize {
			return
		}
		full(level, n, data)
		leaf = top(data)
		e.tiles[level] = nil
	}
}

// top returns the hash over a full tile.
func top(tile []byte) tlog.Hash {
	var row [torchwood.TileWidth]tlog.Hash
	for i := range row {
		row[i] = tlog.Hash(tile[i*tlog.HashSize:])
	}
	for w := len(row) / 2; w > 0; w /= 2 {
		for i := range w {
			row[i] = tlog.NodeHash(row[2*i], row[2*i+1])
		}
	}
	return row[0]
}

// Partial calls yield with each tile that is not full.
func (e *Edge) Partial(yield func(level int, n int64, data []byte)) {
	n := e.size
	for level, data := range e.tiles {
		n /= torchwood.TileWidth
		if len(data) > 0 {
			yield(level, n, data)
		}
	}
}

// Tree returns the size and the hash of the tree.
func (e *Edge) Tree() (tlog.Tree, error) {
	hash, err := tlog.TreeHash(e.size, tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		hashes := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			t := tlog.TileForIndex(torchwood.TileHeight, index)
			data := e.tiles[t.L]
			t.W = len(data) / tlog.HashSize
			var err error
			if hashes[i], err = tlog.HashFromTile(t, data, index); err != nil {
				return nil, err
			}
		}
		return hashes, nil
	}))
	return tlog.Tree{N: e.size, Hash: hash}, err
}

// NewTiles returns the tiles and the bundles of entries that a tree of the new size has and one of the old size has not.
func NewTiles(was, now int64) []tlog.Tile {
	var tiles []tlog.Tile
	for _, t := range tlog.NewTiles(torchwood.TileHeight, was, now) {
		if t.L == 0 {
			entries := t
			entries.L = -1
			tiles = append(tiles, entries)
		}
		tiles = append(tiles, t)
	}
	return tiles
}

// InTree reports whether a tree of that size has a tile, or a fuller one.
func InTree(t tlog.Tile, size int64) bool {
	level := max(t.L, 0)
	if level > 7 || t.N > size>>torchwood.TileHeight {
		return false
	}
	return t.N<<torchwood.TileHeight+int64(t.W) <= size>>(torchwood.TileHeight*level)
}
