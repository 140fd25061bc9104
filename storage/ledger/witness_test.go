package ledger_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/francescobianco/packbase/storage/ledger"
	"github.com/francescobianco/packbase/storage/ledger/ledgertest"
	"github.com/francescobianco/packbase/storage/logbook"
)

// witnessed has the sequencer begin again, with those witnesses.
func (b *book) witnessed(policy string) {
	b.Helper()
	all := must(logbook.ParseWitnesses([]byte(policy)))(b)
	b.seq = ledger.NewSequencer(b.db.DB, ledger.Options{Folder: b.folder(), KeyFile: filepath.Join(b.dir, "log.key"), Name: "mirror.example/log",
		Witnesses: all, HTTP: &http.Client{}})
}

// key makes the log's key, as a witness has to know it before the log begins.
func (b *book) key() string {
	b.Helper()
	key := must(logbook.NewSigner("mirror.example/log"))(b)
	b.must(ledger.WriteKey(filepath.Join(b.dir, "log.key"), key))
	return key.Public
}

// quorum reports whether what the folder shows is signed as its policy wants; so must be what is made from rows.
func (b *book) quorum() bool {
	b.Helper()
	store := ledger.New(b.db.DB)
	_, met, err := store.Witnesses(b.Context())
	b.must(err)
	policy := must(os.ReadFile(filepath.Join(b.folder().Dir, "policy")))(b)
	_, err = logbook.OpenCheckpoint(must(b.folder().Checkpoint())(b), policy)
	if met != (err == nil) || string(must(store.File(b.Context(), "policy"))(b)) != string(policy) {
		b.Errorf("the folder is signed as its policy wants: %v; the rows: %v", err, met)
	}
	return met
}

// says checks what is known of a witness.
func (b *book) says(name, problem string) {
	b.Helper()
	all, _, err := ledger.New(b.db.DB).Witnesses(b.Context())
	b.must(err)
	for _, w := range all {
		if w.Name == name && (w.Problem == "") == (problem == "") && strings.Contains(w.Problem, problem) {
			return
		}
	}
	b.Errorf("the witnesses are %+v; want that %s says %q", all, name, problem)
}

// A foreign witness cosigns each checkpoint; the log goes on without it, and gets the cosignature when it is back.
func TestWitness(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	one, two := ledgertest.NewWitness(t, "one.example/w"), ledgertest.NewWitness(t, "two.example/w")
	policy := one.Line() + two.Line() + "group all all one.example/w two.example/w\nquorum all\n"
	public := b.key()
	b.witnessed(policy)
	b.publish("hello", 3)
	b.step() // nobody knows it yet
	if b.quorum() {
		t.Error("there is a quorum of witnesses that do not know the log")
	}
	b.says("one.example/w", "have its operator add "+public)
	one.Know("mirror.example/log", public)
	two.Know("mirror.example/log", public)
	b.witnessed(policy)
	b.step()
	if !b.quorum() {
		t.Error("who was told of the log cosigns nothing")
	}
	for range 3 {
		b.publish("hello", 200)
		b.step()
		if !b.quorum() {
			t.Error("a larger tree is not cosigned")
		}
	}
	b.says("one.example/w", "")
	proof := must(ledger.New(b.db.DB).ReleaseProof(t.Context(), 5))(t)
	if !bytes.Contains(proof, []byte("— one.example/w ")) {
		t.Errorf("a proof has no cosignature:\n%s", proof)
	}
	b.foreign()

	// Without one of them it goes on, and not slower than it takes to find that out.
	two.Hang()
	b.publish("hello", 1)
	begun := time.Now()
	b.step()
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("a witness that says nothing holds the log up for %s", took)
	}
	if tree, _ := b.read2(); b.quorum() || tree != 605 {
		t.Errorf("without a witness the log has %d entries, and a quorum: %v", tree, b.quorum())
	}
	b.says("one.example/w", "")
	b.says("two.example/w", "does not answer within 2s")
	begun = time.Now()
	b.publish("hello", 1)
	b.step()
	if took := time.Since(begun); took > 1500*time.Millisecond {
		t.Errorf("it is asked again at once: that took %s", took)
	}
	two.Resume()
	two.Stop()
	b.witnessed(policy)
	b.step()
	b.says("two.example/w", "does not answer: ")
	two.Start()
	b.witnessed(policy) // as after the rest that it is given
	b.step()
	if !b.quorum() {
		t.Error("who is back cosigns nothing")
	}
	b.sound()
}

// read2 returns the size that the folder shows, whatever it is signed by besides the log's key.
func (b *book) read2() (int64, string) {
	b.Helper()
	signed := must(b.folder().Checkpoint())(b)
	var origin string
	var size int64
	_, err := fmt.Sscanf(string(signed), "%s\n%d\n", &origin, &size)
	b.must(err)
	return size, origin
}

// newWitnessed returns a book that a witness has to cosign, the witness, and the policy that says so.
func newWitnessed(t *testing.T) (b *book, w *ledgertest.Witness, policy string) {
	t.Helper()
	b = newBook(t)
	w = ledgertest.NewWitness(t, "w.example/w")
	w.Know("mirror.example/log", b.key())
	policy = w.Line() + "quorum w.example/w\n"
	b.witnessed(policy)
	return b, w, policy
}

// A database that was restored together with the folder signs nothing: the witnesses have seen more.
func TestRestoredTogether(t *testing.T) {
	t.Parallel()
	b, _, policy := newWitnessed(t)
	b.publish("hello", 100)
	b.step()
	b.save("old_")
	dir := b.folder().Dir
	b.must(os.CopyFS(dir+".old", os.DirFS(dir)))
	b.publish("hello", 50)
	b.step()
	b.must(os.Rename(dir, dir+".new"))
	b.must(os.CopyFS(dir, os.DirFS(dir+".old")))
	b.restore("old_")
	b.publish("hello", 7)
	b.witnessed(policy)
	b.refused("log_behind")
	b.refused("log_behind") // nor at the second try
	b.says("w.example/w", "has seen 151 entries of the log mirror.example/log, and there are 101 here")

	// Nor does a log that begins anew with the old key.
	b.save("none_")
	for _, table := range tables {
		b.exec(`DELETE FROM none_` + table)
	}
	b.exec(`INSERT INTO none_log_head VALUES (true, 0, sha256(''))`)
	b.save("was_")
	b.restore("none_")
	b.must(os.RemoveAll(dir))
	b.publish("hello", 200)
	b.witnessed(policy)
	b.refused("log_behind")
	b.restore("was_")

	// The folder as it was last mends it.
	b.must(os.RemoveAll(dir))
	b.must(os.Rename(dir+".new", dir))
	b.rebuild()
	b.witnessed(policy)
	b.step()
	if !b.quorum() {
		t.Error("the log that is back is not cosigned")
	}
	b.sound()
}

// What a witness or a reader has seen of the log, its folder has: whoever is killed between, and finds a database of an
// earlier time, goes on from there.
func TestKilledBeforeShown(t *testing.T) {
	t.Parallel()
	b, _, policy := newWitnessed(t)
	b.publish("hello", 100)
	b.step()
	_, was := b.read()
	b.save("old_")
	dir := b.folder().Dir

	tile := filepath.Join(dir, "tile/0/000.p/151")
	b.must(os.MkdirAll(filepath.Join(tile, "in the way"), 0o755))
	b.publish("hello", 50)
	if _, err := b.seq.Step(t.Context()); err == nil {
		t.Fatal("a tile is written where a folder is")
	}
	if shown, err := ledger.New(b.db.DB).Checkpoint(t.Context()); err != nil || !strings.Contains(string(shown), "\n101\n") {
		t.Errorf("the rows show what the folder does not have: %v\n%s", err, shown)
	}
	b.must(os.RemoveAll(tile))
	b.restore("old_")
	b.witnessed(policy)
	b.publish("hello", 1) // instead of the fifty
	b.step()
	was = b.grows(was)

	checkpoint := filepath.Join(dir, "checkpoint")
	shown := must(os.ReadFile(checkpoint))(t)
	b.save("older_")
	b.publish("hello", 50)
	b.step()
	b.must(os.WriteFile(checkpoint, shown, 0o644)) // which is written last
	b.restore("older_")
	b.witnessed(policy)
	b.publish("hello", 7)
	b.step()
	if was = b.grows(was); len(was) != 102+50+7 || !b.quorum() {
		t.Errorf("the log has %d entries, want those fifty that the witness saw, too; its quorum: %v", len(was), b.quorum())
	}
	b.rebuild()
	b.step()
	b.sound()
}

// Two machines that sign another log with one key: the second is found out, and signs nothing more.
func TestSplitBrain(t *testing.T) {
	t.Parallel()
	b, w, policy := newWitnessed(t)
	b.publish("hello", 10)
	b.step()
	b.save("old_")
	dir := b.folder().Dir
	b.must(os.CopyFS(dir+".twin", os.DirFS(dir)))
	b.publish("hello", 5)
	b.step() // the witness has this one
	b.must(os.Rename(dir, dir+".first"))
	b.must(os.Rename(dir+".twin", dir))
	b.restore("old_")
	w.Stop() // so that nobody tells the twin
	b.witnessed(policy)
	b.publish("hello", 9)
	b.exec(`DELETE FROM log_pending WHERE id = (SELECT min(id) FROM log_pending)`)
	b.step()
	w.Start()
	b.publish("hello", 1)
	b.witnessed(policy)
	b.refused("log_forked")
	b.says("w.example/w", "has seen another log under the name mirror.example/log")
}

// What a witness that is wrong, or lies, says is told, and is never part of a checkpoint.
func TestBadWitness(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	other := must(logbook.NewSigner("w.example/w"))(t)
	var answer atomic.Pointer[func(http.ResponseWriter, []byte)]
	liar := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		(*answer.Load())(w, body)
	}))
	defer liar.Close()
	w := ledgertest.NewWitness(t, "w.example/w") // whose key it claims to have
	b.key()
	policy := fmt.Sprintf("witness w.example/w %s %s\nquorum none\n", w.Key, liar.URL)
	status := func(code int, body string) func(http.ResponseWriter, []byte) {
		return func(w http.ResponseWriter, _ []byte) {
			w.WriteHeader(code)
			_, _ = io.WriteString(w, body)
		}
	}
	n := 0
	for _, c := range []struct {
		want string
		says func(http.ResponseWriter, []byte)
	}{
		{"no cosignature of this checkpoint", status(200, "")},
		{"no cosignature of this checkpoint", status(200, strings.Repeat("x", 1<<20))},
		{"no cosignature of this checkpoint", func(w http.ResponseWriter, body []byte) { // by another key
			_, signed, _ := bytes.Cut(body, []byte("\n\n"))
			text, _, _ := bytes.Cut(signed, []byte("\n\n"))
			signer, _ := note.NewSigner(other.Secret)
			all, _ := note.Sign(&note.Note{Text: string(text) + "\n"}, signer)
			_, sig, _ := bytes.Cut(all, []byte("\n\n"))
			_, _ = w.Write(sig)
		}},
		{"does not say which", status(409, "many\n")},
		{"does not say which", status(409, "-1\n")},
		{"contradicts itself", func(w http.ResponseWriter, body []byte) {
			w.WriteHeader(409)
			if bytes.HasPrefix(body, []byte("old 0\n")) {
				_, _ = io.WriteString(w, "1\n")
			} else {
				_, _ = io.WriteString(w, "0\n")
			}
		}},
		{"add mirror.example/log+", status(404, "unknown log")},
		{"under another key", status(403, "")},
		{`answers 500: "sorry"`, status(500, "sorry")},
		{"bytes that are no text", status(500, "\x1b[31m")},
		{"answers 302", func(w http.ResponseWriter, _ []byte) {
			w.Header().Set("Location", "http://127.0.0.1:1/")
			w.WriteHeader(302)
		}},
		{"does not answer", func(w http.ResponseWriter, _ []byte) {
			conn, _, _ := w.(http.Hijacker).Hijack()
			_ = conn.(*net.TCPConn).SetLinger(0)
			_ = conn.Close()
		}},
	} {
		answer.Store(&c.says)
		n++
		b.publish("hello", 1)
		b.witnessed(policy)
		b.step()
		b.says("w.example/w", c.want)
		if size, _ := b.read2(); size != int64(n)+1 {
			t.Errorf("%s: the log has %d entries, want %d", c.want, size, n+1)
		}
		if signed := must(b.folder().Checkpoint())(t); bytes.Contains(signed, []byte("— w.example/w")) {
			t.Errorf("%s: the checkpoint is\n%s", c.want, signed)
		}
	}
	b.sound()

	// One that says without a proof that it has seen more: that cannot be told from the truth. Whoever runs the log can.
	says := status(409, "1000000\n")
	answer.Store(&says)
	b.publish("hello", 1)
	b.witnessed(policy)
	b.refused("log_behind")
	b.start()
	b.step()
	if all, _, err := ledger.New(b.db.DB).Witnesses(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("a witness that was taken out of the settings is still there: %v, %v", all, err)
	}
	b.sound()
}

// A log is no witness of its own: what would ask that is neither shown nor signed.
func TestLogIsNoWitnessOfItsOwn(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	public := b.key()
	key := must(ledger.ReadKey(filepath.Join(b.dir, "log.key")))(b)
	b.witnessed("witness me " + must(key.Cosigner())(b) + " https://me.example\nquorum me\n")
	b.publish("hello", 1)
	if _, err := b.seq.Step(t.Context()); err == nil || !strings.Contains(err.Error(), "the witness me has the key of the log") {
		t.Errorf("err = %v", err)
	}
	if _, err := os.Stat(filepath.Join(b.folder().Dir, "policy")); err == nil {
		t.Errorf("the policy of %s was shown", public)
	}
}
