package logbook

import (
	"context"
	"fmt"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"
)

// maxRotations is how many keys a log may have had since it was looked at.
const maxRotations = 100

// Grew demands that the larger of two trees of a log has all that the smaller one has. The tiles are those of the larger.
func Grew(ctx context.Context, small, large tlog.Tree, tiles torchwood.TileReader) error {
	if small.N > large.N {
		small, large = large, small
	}
	switch {
	case small == large, small.N == 0:
		return nil
	case small.N == large.N:
		return fmt.Errorf("it was forked: two trees of %d entries are signed, and one log cannot have two trees of that size", small.N)
	}
	proof, err := tlog.ProveTree(large.N, small.N, torchwood.TileHashReaderWithContext(ctx, large, tiles))
	if err == nil {
		err = tlog.CheckTree(proof, large.N, large.Hash, small.N, small.Hash)
	}
	if err != nil {
		return fmt.Errorf("it cannot be proved to have with %d entries what it had with %d: it was forked, or this is not it: %w", large.N, small.N, err)
	}
	return nil
}

// FollowKeys returns the policy with the key that has taken the place of its own, maybe by way of others, and that signed a
// checkpoint, and the tree under which the last of them was logged: that of the checkpoint must have grown from it. file
// returns a file of the log by its path below /log/.
func FollowKeys(policy, signed []byte, file func(path string) ([]byte, error)) (next []byte, then tlog.Tree, err error) {
	for range maxRotations {
		proof, err := file(KeyProofFile(PolicyKey(policy)))
		if err != nil {
			return nil, then, fmt.Errorf("no other key took its place: %w", err)
		}
		if policy, then, err = FollowKey(policy, proof); err != nil {
			return nil, then, err
		}
		if _, err := OpenCheckpoint(signed, policy); err == nil {
			return policy, then, nil
		}
	}
	return nil, then, fmt.Errorf("more than %d keys took its place", maxRotations)
}
