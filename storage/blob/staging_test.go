package blob_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/francescobianco/packbase/storage/blob"
)

// A stage is its maker's from the first moment, however often others sweep.
func TestStageIsNotSwept(t *testing.T) {
	t.Parallel()
	store, err := blob.OpenDisk(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	staging, err := blob.OpenStaging(store, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	end, swept := make(chan struct{}), make(chan error, 2)
	for range 2 {
		go func() {
			for {
				select {
				case <-end:
					swept <- nil
					return
				default:
				}
				if err := staging.Sweep(t.Context(), 0); err != nil {
					swept <- err
					return
				}
			}
		}()
	}
	for n := range 300 {
		stage, err := staging.New()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(stage.Dir, "file"), nil, 0o600); err != nil {
			t.Fatalf("stage %d: %v", n, err)
		}
		if err := stage.Close(); err != nil {
			t.Fatal(err)
		}
	}
	close(end)
	for range 2 {
		if err := <-swept; err != nil {
			t.Error(err)
		}
	}
}
