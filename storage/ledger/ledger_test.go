package ledger_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/ledger"
	"github.com/francescobianco/packbase/storage/ledger/ledgertest"
	"github.com/francescobianco/packbase/storage/logbook"
	"github.com/francescobianco/packbase/storage/storagetest"
)

// A book is a registry's log, without the rest of the registry: what is published is written as rows.
type book struct {
	testing.TB
	owner, db *storage.DB
	dir       string
	seq       *ledger.Sequencer
	published int
}

func newBook(t testing.TB) *book {
	t.Helper()
	url := storagetest.NewURL(t)
	storagetest.Migrate(t, url)
	b := &book{TB: t, dir: t.TempDir()}
	for url, db := range map[string]**storage.DB{url: &b.owner, storagetest.AsServer(t, url): &b.db} {
		var err error
		*db, err = storage.Open(t.Context(), url)
		b.must(err)
		t.Cleanup((*db).Close)
	}
	b.start()
	b.exec(`INSERT INTO packages (name, upstream, clone_url) VALUES ('hello', 'https://git.example/o/hello', 'https://git.example/o/hello')`)
	b.exec(`INSERT INTO blobs (digest, size) VALUES (repeat('a', 64), 1)`)
	return b
}

func (b *book) start() {
	b.seq = ledger.NewSequencer(b.db.DB, ledger.Options{Folder: b.folder(), KeyFile: filepath.Join(b.dir, "log.key"), Name: "mirror.example/log"})
}

func (b *book) folder() ledger.Folder { return ledger.Folder{Dir: filepath.Join(b.dir, "log")} }

func (b *book) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (b *book) exec(sql string, args ...any) {
	b.Helper()
	_, err := b.owner.Pool.Exec(context.Background(), sql, args...)
	b.must(err)
}

// publish publishes n releases of a package.
func (b *book) publish(pkg string, n int) {
	b.Helper()
	b.exec(`
		INSERT INTO releases (package, tag, tag_oid, commit_oid, tree_oid, commit_time, digest, size, content_digest, md5, crc32, manifest_digest,
			zig_hash, zig_legacy_hash)
		SELECT $1, 'v' || i, NULL, lpad(to_hex(i), 40, '0'), lpad(to_hex(i + 1), 40, '0'), now(), repeat('a', 64), 1, repeat('b', 64), repeat('c', 32),
			repeat('d', 8), repeat('a', 64), 'hello-1.0.' || i || '-AAAA', '1220' || lpad(to_hex(i), 64, '0')
		FROM generate_series($2::int, $3::int) i`, pkg, b.published+1, b.published+n)
	b.published += n
}

// step has the sequencer do all that there is to do.
func (b *book) step() {
	b.Helper()
	for {
		more, err := b.seq.Step(b.Context())
		b.must(err)
		if !more {
			return
		}
	}
}

// read returns the entries that the folder shows, each proved, with nothing but the folder and the public key.
func (b *book) read() (tlog.Tree, []logbook.Entry) {
	b.Helper()
	policy, err := os.ReadFile(filepath.Join(b.folder().Dir, "policy"))
	b.must(err)
	signed, err := b.folder().Checkpoint()
	b.must(err)
	tree, err := logbook.OpenCheckpoint(signed, policy)
	b.must(err)
	tiles, err := torchwood.NewTileFS(os.DirFS(b.folder().Dir))
	b.must(err)
	client, err := torchwood.NewClient(tiles)
	b.must(err)
	var all []logbook.Entry
	for i, text := range client.AllEntries(b.Context(), tree, 0) {
		e, err := logbook.ParseEntry(text)
		if err != nil {
			b.Errorf("entry %d: %v", i, err)
		}
		all = append(all, e)
	}
	b.must(client.Err())
	if int64(len(all)) != tree.N {
		b.Fatalf("read %d of %d entries", len(all), tree.N)
	}
	return tree, all
}

// audit returns the codes of what is wrong with the log.
func (b *book) audit() (codes []string) {
	b.Helper()
	b.must(ledger.New(b.db.DB).Audit(b.Context(), b.folder(), func(f ledger.Finding) {
		if !slices.Contains(codes, f.Code) {
			b.Logf("%s  %s: %s", f.Code, f.Subject, f.Problem)
		}
		codes = append(codes, f.Code)
	}))
	slices.Sort(codes)
	return slices.Compact(codes)
}

// foreign has a program that is not ours read the log.
func (b *book) foreign() {
	b.Helper()
	st := must(ledger.New(b.db.DB).State(b.Context()))(b)
	ledgertest.Fsck(b, "file://"+b.folder().Dir, st.Keys[0])
}

func (b *book) sound() {
	b.Helper()
	if codes := b.audit(); codes != nil {
		b.Errorf("the log has %v", codes)
	}
}

// refused checks that a step fails with the code, and that nothing was signed.
func (b *book) refused(code string) {
	b.Helper()
	count := func() (n int) {
		b.must(b.db.Pool.QueryRow(b.Context(), `SELECT count(*) + (SELECT size FROM log_head) FROM log_checkpoints`).Scan(&n))
		return n
	}
	before, shown := count(), must(b.folder().Checkpoint())(b)
	_, err := b.seq.Step(b.Context())
	if e := fault.From(err); e == nil || e.Code != code {
		b.Errorf("step: %v, want %s", err, code)
	}
	if count() != before || string(must(b.folder().Checkpoint())(b)) != string(shown) {
		b.Error("something was added or signed")
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// Whatever is published is logged once, whoever publishes it.
func TestEveryRowIsLogged(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	b.publish("hello", 2)
	legacy, other := "1220"+strings.Repeat("e", 64), "1220"+strings.Repeat("f", 64)
	oid, digest := strings.Repeat("1", 40), strings.Repeat("a", 64)
	long := "https://files.example/" + strings.Repeat("x", 1500)
	b.exec(`INSERT INTO releases (package, tag, tag_oid, commit_oid, tree_oid, commit_time, digest, size, content_digest, md5, crc32, manifest_digest)
		VALUES ('hello', NULL, NULL, $1, $1, now(), $2, 1, $2, repeat('c', 32), repeat('d', 8), $2),
			('hello', 'v9', $1, $1, $1, now(), $2, 1, $2, repeat('c', 32), repeat('d', 8), $2)`, oid, digest)
	b.exec(`INSERT INTO archives (url, zig_hash, zig_legacy_hash, digest, size, content_type, format, tarball_digest, tarball_size, record_digest, created_at)
		VALUES ('https://files.example/a.tar.gz', 'a-1.0.0-AAAA', $1, $2, 1, '', 'tar.gz', $2, 1, $2, now()), ($3, '', $1, $2, 1, '', 'tar.gz', $2, 1, $2, now())`, legacy, digest, long)
	b.exec(`INSERT INTO moved_tags (package, tag, old_oid, new_oid) VALUES ('hello', 'v1', $1, $2), ('hello', 'v2', $1, '')`, oid, strings.Repeat("2", 40))
	b.exec(`INSERT INTO moved_archives (url, old_legacy_hash, new_legacy_hash) VALUES ('https://files.example/a.tar.gz', $1, $2)`, legacy, other)
	b.exec(`INSERT INTO tombstones (package, tag, commit_oid, reason) VALUES ('hello', 'v1', $1, 'why'), ('hello', NULL, $2, 'why')`, fmt.Sprintf("%040x", 1), oid)
	b.exec(`INSERT INTO archive_tombstones (url, reason, removed_at) VALUES ($1, 'why', now())`, long)
	b.exec(`INSERT INTO package_names (name, package) VALUES ('hi', 'hello')`)
	// Another package of the same upstream says the same.
	b.exec(`INSERT INTO packages (name, upstream, clone_url) VALUES ('twin', 'https://git.example/o/hello', 'https://git.example/o/hello')`)
	b.exec(`INSERT INTO releases (package, tag, commit_oid, tree_oid, commit_time, digest, size, content_digest, md5, crc32, manifest_digest, zig_hash, zig_legacy_hash)
		SELECT 'twin', tag, commit_oid, tree_oid, commit_time, digest, size, content_digest, md5, crc32, manifest_digest, zig_hash, zig_legacy_hash FROM releases WHERE tag = 'v1'`)
	b.step()
	_, entries := b.read()
	count := map[string]int{}
	for _, e := range entries {
		count[e.Kind()]++
	}
	want := map[string]int{"claim": 3, "release": 3, "snapshot": 1, "archive": 2, "moved": 2, "gone": 1, "withdrawn": 3}
	if fmt.Sprint(count) != fmt.Sprint(want) {
		t.Errorf("the log has %v, want %v", count, want)
	}
	i := slices.IndexFunc(entries, func(e logbook.Entry) bool { return e.Value("zig") == "hello-1.0.1-AAAA" })
	if e := entries[i]; e.Value("upstream") != "https://git.example/o/hello" || e.Value("ref") != "refs/tags/v1" || e.Value("commit") != fmt.Sprintf("%040x", 1) ||
		e.Value("tarball") != "sha256:"+digest+" 1" || e.Value("content") != "sha256:"+strings.Repeat("b", 64) {
		t.Errorf("the entry of a release is\n%s", e.Text())
	}
	sum := sha256.Sum256([]byte(long))
	if !slices.ContainsFunc(entries, func(e logbook.Entry) bool { return e.Value("url-sha256") == hex.EncodeToString(sum[:]) }) {
		t.Error("a long URL is not there as its digest")
	}
	b.sound()

	// What is said again, as by a rebuild, gets no number.
	b.exec(`SELECT log_add(body, package, private) FROM log_rows`)
	b.step()
	if tree, _ := b.read(); tree.N != int64(len(entries)) {
		t.Errorf("the log has %d entries, had %d", tree.N, len(entries))
	}
	b.sound()
}

// Numbers have no gaps, trees grow, and the files are those that the rows make.
func TestSequence(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	var last tlog.Tree
	for _, n := range []int{1, 1, 253, 1, 1, 300, 700, 2} {
		b.publish("hello", n)
		b.step()
		tree, _ := b.read()
		if tree.N <= last.N {
			t.Errorf("the log has %d entries, had %d", tree.N, last.N)
		}
		tiles := must(torchwood.NewTileFS(os.DirFS(b.folder().Dir)))(t)
		if last.N > 0 {
			hr := torchwood.TileHashReaderWithContext(t.Context(), tree, tiles)
			if err := tlog.CheckTree(must(tlog.ProveTree(tree.N, last.N, hr))(t), tree.N, tree.Hash, last.N, last.Hash); err != nil {
				t.Errorf("from %d to %d: %v", last.N, tree.N, err)
			}
		}
		last = tree
		b.foreign()
	}
	if last.N != int64(b.published)+1 {
		t.Errorf("the log has %d entries, want %d and a claim", last.N, b.published)
	}
	b.sound()
	store := ledger.New(b.db.DB)
	b.must(filepath.WalkDir(b.folder().Dir, func(path string, d fs.DirEntry, err error) error {
		if d.Name() == "proof" {
			return fs.SkipDir // TestProofFiles has it
		}
		if err != nil || d.IsDir() {
			return err
		}
		name := strings.TrimSuffix(strings.TrimPrefix(path, b.folder().Dir+"/"), ".signed")
		made, err := store.File(t.Context(), name)
		if err != nil || string(made) != string(must(os.ReadFile(path))(t)) {
			t.Errorf("%s is not what the rows make: %v", name, err)
		}
		return nil
	}))
	for _, name := range []string{"", "tile/0/005", "tile/0/004.p/255", "tile/entries/005", "tile/0/000.p/0", "../log.key", "tile/8/0/000"} {
		if data, err := store.File(t.Context(), name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q has %d bytes, %v", name, len(data), err)
		}
	}
	// Nobody takes anything back.
	for _, sql := range []string{`DELETE FROM log_entries WHERE idx = 1`, `UPDATE log_entries SET entry = '' WHERE idx = 1`, `UPDATE log_head SET size = size - 1`,
		`UPDATE log_tiles SET data = substr(data, 1, 32)`, `DELETE FROM log_tiles`, `DELETE FROM log_checkpoints`, `UPDATE log_checkpoints SET note = ''`, `DELETE FROM log_keys`,
		`TRUNCATE log_entries`, `DELETE FROM log_head`} {
		if _, err := b.owner.Pool.Exec(t.Context(), sql); err == nil {
			t.Errorf("%s is not refused", sql)
		}
	}
}

// What is private has no entry until it is public.
func TestPrivateIsNotLogged(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	b.exec(`INSERT INTO packages (name, upstream, clone_url, private) VALUES ('secret', 'https://git.example/o/secret', '', true)`)
	b.publish("secret", 3)
	b.publish("hello", 1)
	b.step()
	tree, _ := b.read()
	if tree.N != 2 {
		t.Errorf("the log has %d entries, want the claim and the release of hello", tree.N)
	}
	b.sound()
	b.must(b.db.SetVisibility(t.Context(), "hello", true))
	b.publish("hello", 1)
	b.step()
	if now, _ := b.read(); now != tree {
		t.Errorf("the log has %d entries, had %d", now.N, tree.N)
	}
	b.must(b.db.SetVisibility(access.SeePrivate(t.Context()), "hello", false))
	b.step()
	if now, _ := b.read(); now.N != 3 {
		t.Errorf("the log has %d entries once hello is public again, want 3", now.N)
	}
	b.sound()
}

// What was published before there was a log stands between two entries that say so.
func TestHistory(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	for _, table := range []string{"releases", "package_names", "archives", "moved_tags", "moved_archives", "tombstones", "archive_tombstones"} {
		b.exec(`ALTER TABLE ` + table + ` DISABLE TRIGGER ` + table + `_logged`)
	}
	b.publish("hello", 3)
	if codes := b.audit(); !slices.Equal(codes, []string{"log_entry_missing"}) {
		t.Errorf("fsck finds %v", codes)
	}
	step, err := os.ReadFile("../../migrations/0028_log.sql")
	b.must(err)
	b.exec(string(step[strings.LastIndex(string(step), "\nDO "):]))
	b.step()
	_, entries := b.read()
	if len(entries) != 6 || entries[0].Value("history") != "begin" || entries[1].Kind() != "claim" || entries[5].Value("history") != "end" {
		t.Errorf("the log has %v", entries)
	}
	b.sound()
}

// Whoever of many is at work, each entry gets one number.
func TestManySequencers(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	for i := range 4 {
		seq := ledger.NewSequencer(b.db.DB, ledger.Options{Folder: b.folder(), KeyFile: filepath.Join(b.dir, "log.key")})
		if i == 3 { // on a machine with another folder
			seq = ledger.NewSequencer(b.db.DB, ledger.Options{Folder: ledger.Folder{Dir: filepath.Join(t.TempDir(), "log")}, KeyFile: filepath.Join(b.dir, "log.key")})
		}
		go func() {
			defer func() { done <- struct{}{} }()
			seq.Run(ctx, func(err error) { t.Errorf("sequencer %d: %v", i, err) })
		}()
	}
	for range 40 {
		b.publish("hello", 5)
		time.Sleep(20 * time.Millisecond)
	}
	stop()
	for range 4 {
		<-done
	}
	// Postgres may keep the lock of one that was stopped for a moment.
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		b.step()
		tree, _ := b.read()
		if tree.N == 201 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the log has %d entries, want 201", tree.N)
		}
	}
	b.sound()
}

// Each entry has a proof that other people's code takes, under the checkpoint that is shown; what has none, has none.
func TestProofs(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	store := ledger.New(b.db.DB)
	if _, err := store.ReleaseProof(t.Context(), 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("proof of nothing: %v", err)
	}
	legacy, digest := "1220"+strings.Repeat("e", 64), strings.Repeat("a", 64)
	const url = "https://files.example/a.tar.gz"
	b.exec(`INSERT INTO archives (url, zig_legacy_hash, digest, size, content_type, format, tarball_digest, tarball_size, record_digest, created_at)
		VALUES ($3, $1, $2, 1, '', 'tar.gz', $2, 1, $2, now())`, legacy, digest, url)
	b.publish("hello", 700)
	if _, err := store.ReleaseProof(t.Context(), 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("proof of what is pending: %v", err)
	}
	b.step()
	policy := must(torchwood.ParsePolicy(must(store.File(t.Context(), "policy"))(t)))(t)
	holds := func(proof []byte, line string) {
		t.Helper()
		entry := must(torchwood.ProofExtraData(proof))(t)
		if err := torchwood.VerifyProof(policy, tlog.RecordHash(entry), proof); err != nil || !strings.Contains(string(entry), "\n"+line+"\n") {
			t.Errorf("%v: proof of\n%s\nwant one of %s", err, entry, line)
		}
		if torchwood.VerifyProof(policy, tlog.RecordHash(append(entry, 'x')), proof) == nil {
			t.Error("the proof is one of anything")
		}
	}
	holds(must(store.ArchiveProof(t.Context(), url, legacy))(t), "zig-legacy "+legacy)
	for id := int64(1); id <= 700; id += 33 {
		holds(must(store.ReleaseProof(t.Context(), id))(t), fmt.Sprintf("ref refs/tags/v%d", id))
	}
	if proof := must(store.ReleaseProof(t.Context(), 1))(t); len(proof) > 2048 {
		t.Errorf("a proof has %d bytes: a hundred are to fit into 200 KB", len(proof))
	}
	// Rows that are damaged prove nothing.
	b.exec(`ALTER TABLE log_tiles DISABLE TRIGGER USER; UPDATE log_tiles SET data = set_byte(data, 40, get_byte(data, 40) # 1) WHERE level = 0 AND n = 0; ALTER TABLE log_tiles ENABLE TRIGGER USER`)
	if _, err := store.ReleaseProof(t.Context(), 2); err == nil {
		t.Error("a proof is made of damaged hashes")
	}
}

// Proofs are files, beside the log, that need nothing else, written once for all of their names, and again where they are lost
// or the policy changes.
func TestProofFiles(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	at := func(name string) string { return filepath.Join(b.folder().Dir, "proof", name) }
	read := func(name string) string { return string(must(os.ReadFile(at(name)))(t)) }
	policy := func() []byte { return must(os.ReadFile(filepath.Join(b.folder().Dir, "policy")))(t) }
	holds := func(id int) string {
		t.Helper()
		text := read(fmt.Sprintf("p/hello/tag/v%d.tlog-proof", id))
		e, _, err := logbook.OpenProof([]byte(text), policy())
		if err != nil || e.Value("ref") != fmt.Sprintf("refs/tags/v%d", id) {
			t.Errorf("the file of v%d: %v, %v", id, e, err)
		}
		for _, name := range []string{fmt.Sprintf("z/hello-1.0.%d-AAAA", id), fmt.Sprintf("z/1220%064x", id)} {
			if read(name+".tlog-proof") != text {
				t.Errorf("%s is another proof", name)
			}
		}
		return text
	}
	b.publish("hello", 300)
	b.step()
	first := holds(7)
	b.exec(`INSERT INTO packages (name, upstream, clone_url, private) VALUES ('hidden', 'https://git.example/o/hello', 'https://git.example/o/hello', true)`)
	b.publish("hello", 800)
	b.step()
	for _, id := range []int{1, 255, 256, 299, 300, 301, 1000, 1001, 1100} {
		holds(id)
	}
	if holds(7) != first {
		t.Error("a proof was written twice")
	}
	if _, err := os.Stat(at("p/hidden")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a private package has a folder: %v", err)
	}
	b.exec(`UPDATE packages SET private = false WHERE name = 'hidden'`) // and has no files, as nothing new is logged of it
	b.sound()

	// What is damaged is found, and written again.
	b.must(os.WriteFile(at("p/hello/tag/v9.tlog-proof"), []byte(first[:100]), 0o644))
	b.must(os.Remove(at("z/hello-1.0.10-AAAA.tlog-proof")))
	b.must(os.Remove(at("p/hello/tag/v11.tlog-proof")))
	b.must(os.WriteFile(at("p/hello/tag/v11.tlog-proof"), []byte(first), 0o644))
	if codes := b.audit(); !slices.Equal(codes, []string{"log_proof"}) {
		t.Errorf("fsck finds %v", codes)
	}
	size := read("size")
	b.must(os.Remove(at("size")))
	b.step()
	for _, id := range []int{9, 10, 11} {
		holds(id)
	}
	b.sound()
	b.must(os.WriteFile(at("size"), []byte(size[:len(size)-3]+"00\n"), 0o644)) // as under another policy
	b.must(os.Remove(at("p/hello/tag/v9.tlog-proof")))
	b.step()
	holds(9)
	if read("size") != size {
		t.Errorf("size is %q, was %q", read("size"), size)
	}
}

// Tags that cannot be names of files beside each other, or lead out of the folder, hold nothing up.
func TestOddProofFiles(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	b.publish("hello", 9)
	for i, tag := range []string{"a", "a.tlog-proof/b", "c.tlog-proof/d", "c", "e/" + strings.Repeat("x", 250), "../../../escaped", "ü/ö"} {
		b.exec(`UPDATE log_pending SET entry = replace(entry, 'refs/tags/v' || $1::int || E'\n', 'refs/tags/' || $2 || E'\n')`, i+1, tag)
		b.exec(`UPDATE log_pending SET key = sha256(convert_to(regexp_replace(entry, 'seen .*\n$', ''), 'UTF8'))`)
	}
	b.step()
	for name, want := range map[string]bool{"p/hello/tag/a.tlog-proof": true, "p/hello/tag/a.tlog-proof/b.tlog-proof": false, "p/hello/tag/c.tlog-proof/d.tlog-proof": true,
		"p/hello/tag/ü/ö.tlog-proof": true, "p/hello/tag/v8.tlog-proof": true, "z/hello-1.0.4-AAAA.tlog-proof": true, "z/hello-1.0.5-AAAA.tlog-proof": true} {
		info, err := os.Stat(filepath.Join(b.folder().Dir, "proof", name))
		if (err == nil && info.Mode().IsRegular()) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, out := range []string{"escaped.tlog-proof", "../escaped.tlog-proof"} {
		if _, err := os.Lstat(filepath.Join(b.dir, out)); err == nil {
			t.Errorf("%s was written", out)
		}
	}
}

// A clock that jumps, ahead and back again, holds nothing up: what is logged keeps its date, and the state tells of it.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	ahead := func() time.Duration { return must(ledger.New(b.db.DB).State(t.Context()))(t).Ahead }
	b.publish("hello", 2)
	b.exec(`UPDATE log_pending SET entry = regexp_replace(entry, 'seen 20', 'seen 21')`)
	b.step()
	if d := ahead(); d < 1000*time.Hour {
		t.Errorf("the newest entry is %s ahead", d)
	}
	b.publish("hello", 2)
	b.step()
	if d := ahead(); d != 0 {
		t.Errorf("with the clock set right the newest entry is %s ahead", d)
	}
	_, entries := b.read()
	if len(entries) != 5 || entries[4].Value("seen") >= entries[0].Value("seen") {
		t.Errorf("the log has %d entries, the first is of %s, the last of %s", len(entries), entries[0].Value("seen"), entries[len(entries)-1].Value("seen"))
	}
	b.sound()
}
