package engines

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// urlFile holds the URL of the private Postgres while it runs. No secret: the
// folder of the socket decides who may enter.
const urlFile = "postgres.url"

// Running returns the URL of the private Postgres that another process runs
// below root, and whether there is one.
func Running(root string) (databaseURL string, ok bool) {
	dir := filepath.Join(root, "engines")
	f, err := os.Open(filepath.Join(dir, "lock"))
	if err != nil {
		return "", false
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil {
		return "", false // nobody holds it
	}
	url, err := os.ReadFile(filepath.Join(dir, urlFile))
	return string(url), err == nil && len(url) > 0
}
