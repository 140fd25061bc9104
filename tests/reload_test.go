package tests

import (
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/francescobianco/packbase/tests/harness"
)

// SIGHUP has a server read its settings again: it takes what it can, names what needs a restart, and a mistake changes nothing.
func TestReload(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "packbase.toml")
	write := func(lines string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(lines), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("log = \"text,info\"\nmax-jobs = 100\n")
	s := harness.Start(t, "PACKBASE_LOG=", "PACKBASE_CONFIG="+file)
	again := func(lines, said string) {
		t.Helper()
		write(lines)
		s.API.Signal(syscall.SIGHUP)
		harness.Eventually(t, "the api says "+said, func() bool { return s.API.Said(said) })
	}
	ask := func(path string) { s.Do(http.MethodGet, path, "", nil) }
	again("log = \"text,warn\"\nmax-jobs = 100\n", `msg="settings read again" changed=log "need a restart"=""`)
	ask("/api/info/hushed")
	again("log = \"text,shout\"\n", "all stay as they are")
	ask("/api/info/hushed")
	again("log = \"text,info\"\nmax-jobs = 200\n", `changed=log "need a restart"=max-jobs`)
	ask("/api/info/loud")
	harness.Eventually(t, "requests are logged", func() bool { return s.API.Said("path=/api/info/loud") })
	if s.API.Said("path=/api/info/hushed") {
		t.Error("a request is logged although warnings alone were to be")
	}
}
