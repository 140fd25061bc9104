package ledger_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/francescobianco/packbase/storage/ledger"
	"github.com/francescobianco/packbase/storage/ledger/ledgertest"
	"github.com/francescobianco/packbase/storage/logbook"
)

// A new key takes the place of the old one, which signs that: whoever trusts the old one follows, then and later.
func TestRotation(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	file := filepath.Join(b.dir, "log.key")
	b.publish("hello", 5)
	b.step()
	b.save("old_")
	policy := must(os.ReadFile(filepath.Join(b.folder().Dir, "policy")))(t)
	signedBy := func(policy []byte) bool {
		_, err := logbook.OpenCheckpoint(must(b.folder().Checkpoint())(t), policy)
		return err == nil
	}
	key := func() logbook.Signer { return must(ledger.ReadKey(file))(t) }
	rotate := func() {
		b.must(ledger.ReplaceKey(file, must(key().Next())(t)))
		if err := b.folder().FinishRotation(key()); err == nil {
			t.Error("the old key may go before the log tells of the new one")
		}
		b.step() // of a worker that runs
		b.must(b.folder().FinishRotation(key()))
	}
	first := key()
	rotate()
	second := key()
	if !signedBy(policy) || !signedBy(logbook.Policy(second.Public)) {
		t.Errorf("not both keys sign:\n%s", must(b.folder().Checkpoint())(t))
	}
	if got := string(must(os.ReadFile(filepath.Join(b.folder().Dir, "policy")))(t)); got != string(logbook.Policy(second.Public)) {
		t.Errorf("the policy is %s", got)
	}
	_, entries := b.read()
	if e := entries[len(entries)-1]; e.Kind() != "key" || e.Value("vkey") != second.Public {
		t.Errorf("the log ends with\n%s", e.Text())
	}
	ledgertest.Fsck(t, "file://"+b.folder().Dir, first.Public)
	b.sound()
	b.must(ledger.ReplaceKey(file, must(key().Alone())(t)))
	b.publish("hello", 5)
	b.step()
	if signedBy(policy) || !signedBy(logbook.Policy(second.Public)) {
		t.Errorf("the old key signs still:\n%s", must(b.folder().Checkpoint())(t))
	}
	ledgertest.Fsck(t, "file://"+b.folder().Dir, second.Public)
	rotate()
	b.must(ledger.ReplaceKey(file, must(key().Alone())(t)))
	b.publish("hello", 5)
	b.step()
	if tree, _ := b.read(); tree.N != 18 {
		t.Errorf("the log has %d entries, want 18", tree.N)
	}

	// Who comes late follows both.
	follow := func(read func(path string) ([]byte, error)) {
		t.Helper()
		policy := policy
		for range 2 {
			var err error
			policy, _, err = logbook.FollowKey(policy, must(read(logbook.KeyProofFile(logbook.PolicyKey(policy))))(t))
			b.must(err)
		}
		if !signedBy(policy) {
			t.Errorf("%s does not sign the log", policy)
		}
	}
	follow(func(path string) ([]byte, error) { return os.ReadFile(filepath.Join(b.folder().Dir, path)) })
	follow(func(path string) ([]byte, error) { return ledger.New(b.db.DB).File(t.Context(), path) })
	proof := must(os.ReadFile(filepath.Join(b.folder().Dir, logbook.KeyProofFile(first.Public))))(t)
	if _, _, err := logbook.FollowKey(logbook.Policy(second.Public), proof); err == nil {
		t.Error("a key is followed by a proof that it did not sign")
	}
	if _, _, err := logbook.FollowKey(policy, must(ledger.New(b.db.DB).ReleaseProof(t.Context(), 1))(t)); err == nil {
		t.Error("a release is followed as a key")
	}
	b.sound()

	// A database of before, and only the newest key, go on; another key does not.
	b.restore("old_")
	b.rebuild()
	b.step()
	if tree, _ := b.read(); tree.N != 18 {
		t.Errorf("the log has %d entries, want 18", tree.N)
	}
	b.sound()
	b.must(ledger.ReplaceKey(file, must(logbook.NewSigner("mirror.example/log"))(t)))
	b.publish("hello", 1)
	b.refused("log_key")
	b.start()
	b.refused("log_key")
}
