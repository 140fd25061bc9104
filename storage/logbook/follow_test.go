package logbook

import (
	"testing"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"
)

// The key of a log takes the place of another where a policy has it, and not where one speaks of it.
func TestFollowKeyBesideComments(t *testing.T) {
	t.Parallel()
	old, err := NewSigner("log")
	if err != nil {
		t.Fatal(err)
	}
	both, err := old.Next()
	if err != nil {
		t.Fatal(err)
	}
	entry := []byte("packbase/1 key\nvkey " + both.Public + "\nseen 2026-11-29T07:00:00Z\n")
	signed, err := both.Sign(tlog.Tree{N: 1, Hash: tlog.RecordHash(entry)})
	if err != nil {
		t.Fatal(err)
	}
	proof := torchwood.FormatProofWithExtraData(0, entry, nil, signed)
	for _, before := range []string{"", "# log " + old.Public + " is from the README\n", "\n\t"} {
		next, _, err := FollowKey([]byte(before+"log "+old.Public+"\nquorum none\n"), proof)
		if want := before + "log " + both.Public + "\nquorum none\n"; err != nil || string(next) != want {
			t.Errorf("%v, the policy is\n%swant\n%s", err, next, want)
		}
	}
}
