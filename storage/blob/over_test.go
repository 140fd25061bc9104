package blob_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/blob/blobtest"
)

func openOver(t testing.TB, own, below string) blob.Store {
	t.Helper()
	b, err := blob.ReadDisk(below)
	if err != nil {
		t.Fatal(err)
	}
	return blob.Over(openDisk(t, own), b)
}

func TestOverContract(t *testing.T) {
	t.Parallel()
	blobtest.Run(t, func(t *testing.T) blobtest.Fixture {
		dir := t.TempDir()
		return blobtest.Fixture{Store: openOver(t, dir, t.TempDir()), Path: diskPath(dir), Big: 1 << 20}
	})
}

// What lies below is read where it is, and stays as it is; what is damaged or missing there is put on top of it.
func TestOver(t *testing.T) {
	t.Parallel()
	own, below := t.TempDir(), t.TempDir()
	s := openOver(t, own, below) // before anything is there
	theirs := openDisk(t, below)
	first, second := blobtest.Put(t, theirs, []byte("first")), blobtest.Put(t, theirs, []byte("second"))
	mine := blobtest.Put(t, s, []byte("mine"))

	blobtest.Put(t, s, []byte("first"))
	if _, err := os.Stat(diskPath(own)(first)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what lies below was put a second time: %v", err)
	}
	if got := string(blobtest.Read(t, s, first)); got != "first" {
		t.Errorf("read %q", got)
	}
	if infos := blobtest.List(t, s); len(infos) != 3 || infos[0].Digest >= infos[1].Digest || infos[1].Digest >= infos[2].Digest {
		t.Errorf("listed: %v, want three in order", infos)
	}

	path := diskPath(below)(second)
	if err := errors.Join(os.Chmod(path, 0o644), os.WriteFile(path, []byte("SECOND"), 0o644)); err != nil {
		t.Fatal(err)
	}
	if err := s.Quarantine(t.Context(), second); err != nil {
		t.Error(err)
	}
	blobtest.Put(t, s, []byte("second"))
	if got := string(blobtest.Read(t, s, second)); got != "second" {
		t.Errorf("read %q once it is mended", got)
	}
	if infos := blobtest.List(t, s); len(infos) != 3 {
		t.Errorf("listed: %v, want three", infos)
	}
	if info, err := s.Stat(t.Context(), first); err != nil || info.Size != 5 {
		t.Errorf("stat: %+v, %v", info, err)
	}

	if err := s.Delete(t.Context(), first); !errors.Is(err, blob.ErrUnavailable) {
		t.Errorf("delete of what lies below: %v", err)
	}
	if err := s.Delete(t.Context(), mine); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "SECOND" {
		t.Errorf("below there is %q now, %v", b, err)
	}
	if made, err := filepath.Glob(filepath.Join(below, "quarantine", "*")); err != nil || len(made) != 0 {
		t.Errorf("below there are %q", made)
	}
	if _, err := blob.ReadDisk(filepath.Join(below, "none")); err == nil {
		t.Error("a folder that is not there was opened")
	}
}
