package engines

import (
	"os"
	"path/filepath"
)

// urlFile holds the URL of the private Postgres while it runs. No secret: the
// folder of the socket decides who may enter.
const urlFile = "postgres.url"

// Running returns the URL of the private Postgres that another process runs
// below root, and whether there is one.
func Running(root string) (databaseURL string, ok bool) {
	dir := filepath.Join(root, "engines")
	if _, err := os.Stat(filepath.Join(dir, "lock")); err != nil {
		return "", false
	}
	unlock, err := lock(filepath.Join(dir, "lock"))
	if err == nil {
		_ = unlock() // nobody runs it
		return "", false
	}
	url, err := os.ReadFile(filepath.Join(dir, urlFile))
	return string(url), err == nil && len(url) > 0
}
