package ledger_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/storage/ledger"
	"github.com/francescobianco/packbase/storage/logbook"
)

var tables = []string{"log_pending", "log_entries", "log_tiles", "log_head", "log_checkpoints", "log_keys"}

// save copies what the database has of the log, as a backup does.
func (b *book) save(name string) {
	b.Helper()
	for _, table := range tables {
		b.exec(`CREATE TABLE ` + name + table + ` AS SELECT * FROM ` + table)
	}
}

// restore brings it back: the database is that of an earlier time.
func (b *book) restore(name string) {
	b.Helper()
	tx, err := b.owner.Pool.Begin(b.Context())
	b.must(err)
	for _, table := range tables {
		_, err := tx.Exec(b.Context(), fmt.Sprintf(`
			ALTER TABLE %[1]s DISABLE TRIGGER USER;
			DELETE FROM %[1]s;
			INSERT INTO %[1]s OVERRIDING SYSTEM VALUE SELECT * FROM %[2]s%[1]s;
			ALTER TABLE %[1]s ENABLE TRIGGER USER`, table, name))
		b.must(err)
	}
	b.must(tx.Commit(b.Context()))
	b.start()
}

// rebuild publishes again all that is published, as packbase rebuild does after a restore.
func (b *book) rebuild() {
	b.Helper()
	b.exec(`SELECT log_add(body, package, private) FROM log_rows`)
}

// grows checks that the log has at least what it had, as a reader sees who kept a checkpoint.
func (b *book) grows(was []logbook.Entry) []logbook.Entry {
	b.Helper()
	_, now := b.read()
	if len(now) < len(was) {
		b.Fatalf("the log has %d entries, had %d", len(now), len(was))
	}
	for i, e := range was {
		if string(e.Text()) != string(now[i].Text()) {
			b.Fatalf("entry %d was\n%s\nand is\n%s", i, e.Text(), now[i].Text())
		}
	}
	return now
}

// A database that was restored to an earlier time gets its entries back from the folder before anything is added.
func TestRestoredDatabase(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	b.publish("hello", 200)
	b.step()
	b.save("old_")
	b.publish("hello", 400)
	b.step()
	_, was := b.read()
	b.restore("old_")
	if codes := b.audit(); !slices.Equal(codes, []string{"log_entry_missing"}) { // of the rows, which stayed
		t.Errorf("fsck of a database that is older than its folder finds %v", codes)
	}
	b.publish("hello", 50)
	b.step()
	was = b.grows(was)
	if len(was) != 651 {
		t.Errorf("the log has %d entries, want 651", len(was))
	}
	b.sound()

	// Also one of before there was a log, and with nothing to add.
	b.save("new_")
	for _, table := range tables {
		b.exec(`DELETE FROM old_` + table)
	}
	b.exec(`INSERT INTO old_log_head VALUES (true, 0, sha256(''))`)
	b.restore("old_")
	b.step()
	if len(b.grows(was)) != len(was) {
		t.Error("the log has more entries than before")
	}
	b.sound()
	b.restore("new_")
	b.step()
	b.sound()
}

// A crash or a restore between any two steps leaves a log that goes on.
func TestBetweenSteps(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	b.publish("hello", 300)
	b.step()
	_, was := b.read()
	whole := b.folder().Dir
	for name, cut := range map[string]func(){
		"committed, not signed": func() {
			b.exec(`ALTER TABLE log_checkpoints DISABLE TRIGGER USER; DELETE FROM log_checkpoints WHERE size = (SELECT size FROM log_head); ALTER TABLE log_checkpoints ENABLE TRIGGER USER`)
			b.must(os.WriteFile(filepath.Join(whole, "checkpoint"), must(os.ReadFile(whole+".checkpoint"))(t), 0o644))
		},
		"signed, not written": func() {
			b.must(os.RemoveAll(whole))
			b.must(os.CopyFS(whole, os.DirFS(whole+".before")))
		},
		"written, no checkpoint": func() {
			b.must(os.WriteFile(filepath.Join(whole, "checkpoint"), must(os.ReadFile(whole+".checkpoint"))(t), 0o644))
		},
		"no files at all": func() { b.must(os.RemoveAll(whole)) },
	} {
		b.must(os.RemoveAll(whole + ".before"))
		b.must(os.CopyFS(whole+".before", os.DirFS(whole)))
		b.must(os.WriteFile(whole+".checkpoint", must(os.ReadFile(filepath.Join(whole, "checkpoint")))(t), 0o644))
		b.publish("hello", 30)
		b.step()
		signed := must(b.folder().Checkpoint())(t)
		cut()
		b.start()
		b.step()
		was = b.grows(was)
		if again := must(b.folder().Checkpoint())(t); string(again) != string(signed) {
			t.Errorf("%s: the checkpoint is\n%s\nand was\n%s", name, again, signed)
		}
		b.sound()
	}
}

// What contradicts what was shown is neither added to nor signed.
func TestNoFork(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	b.publish("hello", 100)
	b.step()
	b.save("old_")
	dir := b.folder().Dir
	b.publish("hello", 100)
	b.step()
	b.must(os.Rename(dir, dir+".shown"))
	b.restore("old_") // with no folder that tells of more
	b.publish("hello", 20)
	b.step()

	b.must(os.Rename(dir, dir+".other")) // which has fewer than were shown
	b.must(os.CopyFS(dir, os.DirFS(dir+".shown")))
	b.refused("log_forked")
	b.must(os.RemoveAll(dir))
	b.must(os.Rename(dir+".other", dir))

	b.publish("hello", 280)
	b.step()
	b.rebuild()
	b.step()
	b.sound()

	for _, more := range []int{0, 3} { // behind what the database has, and with something to add
		b.must(os.RemoveAll(dir))
		b.must(os.CopyFS(dir, os.DirFS(dir+".shown")))
		b.publish("hello", more)
		b.refused("log_forked")
	}
	if codes := fmt.Sprint(b.audit()); !strings.Contains(codes, "log_file") {
		t.Errorf("fsck finds %s", codes)
	}
}

// A folder that cannot be read is not gone on from.
func TestDamagedFolder(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	b.publish("hello", 100)
	b.step()
	b.save("old_")
	b.publish("hello", 500)
	b.step()
	_, was := b.read()
	dir := b.folder().Dir
	damage := map[string]func(name string){
		"cut":     func(name string) { b.must(os.Truncate(name, 100)) },
		"gone":    func(name string) { b.must(os.Remove(name)) },
		"changed": func(name string) { b.must(os.WriteFile(name, append(must(os.ReadFile(name))(t), 'x')[1:], 0o644)) },
	}
	b.must(os.CopyFS(dir+".whole", os.DirFS(dir)))
	for what, do := range damage {
		for _, file := range []string{"tile/entries/001", "tile/0/001", "tile/1/000.p/2"} {
			b.restore("old_")
			do(filepath.Join(dir, file))
			t.Log(what, file)
			b.refused("log_damaged")
			b.must(os.RemoveAll(dir))
			b.must(os.CopyFS(dir, os.DirFS(dir+".whole")))
		}
	}
	b.step()
	b.grows(was)
	b.sound()
	// fsck finds it, too.
	for what, do := range damage {
		do(filepath.Join(dir, "tile/entries/000"))
		if codes := fmt.Sprint(b.audit()); codes != "[log_file]" {
			t.Errorf("%s: fsck finds %s", what, codes)
		}
		b.must(os.RemoveAll(dir))
		b.must(os.CopyFS(dir, os.DirFS(dir+".whole")))
	}
}

// Without its key nothing is added to a log, and no other key takes its place by itself.
func TestLogKey(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	file := filepath.Join(b.dir, "log.key")
	b.publish("hello", 1)
	b.step()
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("the key is %v, %v", info.Mode(), err)
	}
	key := must(os.ReadFile(file))(t)
	b.publish("hello", 1)

	again := func() { t.Helper(); b.start(); b.refused("log_key") }
	b.must(os.Remove(file))
	again()
	if _, err := os.Stat(file); err == nil {
		t.Error("another key was made")
	}
	elsewhere := t.TempDir() // a machine that has no folder, either
	_, err := ledger.NewSequencer(b.db.DB, ledger.Options{Folder: ledger.FolderBeside(elsewhere), KeyFile: filepath.Join(elsewhere, "log.key")}).Step(t.Context())
	if left, _ := filepath.Glob(filepath.Join(elsewhere, "*key*")); err == nil || !strings.Contains(err.Error(), "log_key") || len(left) > 0 {
		t.Errorf("on another machine: %v, and there is %q", err, left)
	}
	b.must(os.WriteFile(file, []byte("PRIVATE+KEY+x"), 0o600))
	again()
	other := must(logbook.NewSigner("mirror.example/log"))(t)
	b.must(os.WriteFile(file, []byte(other.Secret), 0o600))
	again()
	// Nor when the database knows nothing of a log.
	b.save("now_")
	for _, table := range tables {
		b.exec(`DELETE FROM now_` + table)
	}
	b.exec(`INSERT INTO now_log_head VALUES (true, 0, sha256(''))`)
	b.restore("now_")
	_, err = b.seq.Step(t.Context())
	if err == nil || !strings.Contains(err.Error(), "log_key") {
		t.Errorf("another key on an empty database: %v", err)
	}
	b.exec(`ALTER TABLE log_keys DISABLE TRIGGER USER; DELETE FROM log_keys; ALTER TABLE log_keys ENABLE TRIGGER USER`)
	b.must(os.Remove(file))
	again()

	b.must(os.WriteFile(file, key, 0o600))
	b.start()
	b.step()
	b.rebuild()
	b.step()
	if tree, _ := b.read(); tree.N != 3 {
		t.Errorf("the log has %d entries, want 3", tree.N)
	}
	b.sound()
}

// fsck finds what is wrong with the rows.
func TestAuditFinds(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	b.publish("hello", 300)
	b.step()
	b.save("good_")
	change := func(table, sql string) {
		b.Helper()
		b.exec(`ALTER TABLE ` + table + ` DISABLE TRIGGER USER; ` + sql + `; ALTER TABLE ` + table + ` ENABLE TRIGGER USER`)
	}
	for _, c := range []struct {
		want string
		do   func()
	}{
		{"log_checkpoint log_entry_missing log_file log_gap log_head log_tile", func() { change("log_entries", `DELETE FROM log_entries WHERE idx = 7`) }},
		{"log_checkpoint log_entry log_file log_head log_tile", func() {
			change("log_entries", `UPDATE log_entries SET entry = replace(entry, 'commit 0', 'commit f') WHERE idx = 7`)
		}},
		{"log_file log_tile", func() {
			change("log_tiles", `UPDATE log_tiles SET data = set_byte(data, 0, get_byte(data, 0) # 1) WHERE level = 0 AND n = 0`)
		}},
		{"log_head", func() { change("log_head", `UPDATE log_head SET root = sha256('x')`) }},
		{"log_checkpoint", func() { b.exec(`INSERT INTO log_checkpoints VALUES (100, sha256('x'), ''), (1000, sha256('x'), '')`) }},
		{"log_entry_missing log_row_missing", func() { change("releases", `UPDATE releases SET content_digest = repeat('f', 64) WHERE tag = 'v1'`) }},
	} {
		c.do()
		if got := strings.Join(b.audit(), " "); got != c.want {
			t.Errorf("fsck finds %s, want %s", got, c.want)
		}
		change("releases", `UPDATE releases SET content_digest = repeat('b', 64) WHERE tag = 'v1'`)
		b.restore("good_")
	}
	b.sound()

	// What was removed is not there any more once rows were rebuilt.
	remove := `INSERT INTO tombstones (package, tag, commit_oid, reason) SELECT package, tag, commit_oid, 'why' FROM releases WHERE tag = 'v2'`
	b.exec(remove)
	b.step()
	b.sound()
	change("tombstones", `DELETE FROM tombstones`)
	if got := strings.Join(b.audit(), " "); got != "log_withdrawn" {
		t.Errorf("when a removal is forgotten fsck finds %s", got)
	}
	b.exec(remove)
	change("releases", `DELETE FROM releases WHERE tag = 'v2'`)
	b.sound()
	change("releases", `DELETE FROM releases WHERE tag = 'v3'`)
	if got := strings.Join(b.audit(), " "); got != "log_row_missing" {
		t.Errorf("without a release fsck finds %s", got)
	}
}
