// Package ledgertest has what others made to check logs, built from the module tests/tools/log.
package ledgertest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Fsck has tessera's fsck read a whole log: each hash is worked out again from the entries, and compared with the tiles and
// the checkpoint. url is what is served below /log/, or file:// and the folder; public is the log's key.
func Fsck(t testing.TB, url, public string) {
	t.Helper()
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(public), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), Tool(t, "github.com/transparency-dev/tessera/cmd/fsck"),
		"-storage_url", strings.TrimSuffix(url, "/")+"/", "-public_key", key, "-ui=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("tessera's fsck of %s: %v\n%s", url, err, out)
	}
}

var tools sync.Map // from a tool's path to func() (string, error)

// Tool returns the program of a tool of the module tests/tools/log. The test is skipped where it cannot be built, and fails
// then if CI is set.
func Tool(t testing.TB, path string) string {
	t.Helper()
	build, _ := tools.LoadOrStore(path, sync.OnceValues(func() (string, error) { return buildTool(path) }))
	program, err := build.(func() (string, error))()
	switch {
	case err != nil && os.Getenv("CI") != "":
		t.Fatal(err)
	case err != nil:
		t.Skip(err)
	}
	return program
}

// buildTool has the go command build a tool, and say where it is in its cache.
func buildTool(path string) (string, error) {
	module, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "tool", "-n", path)
	cmd.Dir = filepath.Join(filepath.Dir(strings.TrimSpace(string(module))), "tests/tools/log")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", path, err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}
