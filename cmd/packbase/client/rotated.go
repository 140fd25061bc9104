package client

import (
	"context"
	"fmt"

	"github.com/francescobianco/packbase/api/route"
	"github.com/francescobianco/packbase/storage/logbook"
)

// maxRotations is how many keys a log may have had since it was trusted.
const maxRotations = 100

// followKeys has the log trusted by the key that has taken the place of the one that was, as that one has signed. The tree in
// which it has is part of the log that is read then, or nothing is trusted.
func (l *provedLog) followKeys(ctx context.Context, signed []byte) error {
	policy := l.policy
	for range maxRotations {
		proof, err := l.c.get(ctx, route.Path(route.Log, logbook.KeyProofFile(logbook.PolicyKey(policy))), nil)
		if err != nil {
			return fmt.Errorf("and no other key took its place: %w", err)
		}
		next, tree, err := logbook.FollowKey(policy, proof)
		if err != nil {
			return err
		}
		policy = next
		if now, err := logbook.OpenCheckpoint(signed, policy); err == nil {
			l.policy = policy
			return l.goesOn(ctx, tree, now)
		}
	}
	return fmt.Errorf("and more than %d keys took its place", maxRotations)
}
