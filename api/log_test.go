package api_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/francescobianco/packbase/storage/ledger"
)

// sequence gives what is published its numbers in the log.
func (g *registry) sequence() {
	g.t.Helper()
	_, err := ledger.NewSequencer(g.db.DB, ledger.Options{Folder: ledger.FolderBeside(g.dir), KeyFile: filepath.Join(g.dir, "log.key")}).Step(g.t.Context())
	g.must(err)
}

// The log is read from its files while the database is away, and from the database where there are no files; it is the same.
func TestLogFiles(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	g.publish("hello", tagged{tag: "v1.0.0", files: zon("hello", "1.0.0")})
	if a := g.get("/log/checkpoint"); a.StatusCode != 404 {
		t.Errorf("checkpoint of an empty log: status %d", a.StatusCode)
	}
	g.sequence()
	away := g.withoutPostgres()
	paths := []string{"/log/checkpoint", "/log/policy", "/log/tile/0/000.p/2", "/log/tile/entries/000.p/2"}
	files := map[string]string{}
	for _, path := range paths {
		a := away.get(path)
		if files[path] = string(a.body); a.StatusCode != 200 || len(a.body) == 0 {
			t.Errorf("%s without Postgres: status %d, %q", path, a.StatusCode, a.body)
		}
	}
	g.must(os.RemoveAll(filepath.Join(g.dir, "log")))
	for _, path := range paths {
		if a := g.get(path); a.StatusCode != 200 || string(a.body) != files[path] {
			t.Errorf("%s without files: status %d, %q, want %q", path, a.StatusCode, a.body, files[path])
		}
	}
}
