package blob_test

import (
	"path/filepath"
	"testing"

	"packbase/storage/blob"
	"packbase/storage/blob/blobtest"
)

func TestDisk(t *testing.T) {
	t.Parallel()
	blobtest.Run(t, func(t *testing.T) blobtest.Fixture {
		dir := t.TempDir()
		return blobtest.Fixture{Store: openDisk(t, dir), Path: diskPath(dir), Big: 1 << 20}
	})
}

func openDisk(t testing.TB, dir string) *blob.Disk {
	t.Helper()
	d, err := blob.OpenDisk(dir)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func diskPath(dir string) func(string) string {
	return func(digest string) string { return filepath.Join(dir, "blobs", digest[:2], digest) }
}

func putAsChild(dir string) int { return 0 }
