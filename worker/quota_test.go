package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/storagetest"
	"github.com/francescobianco/packbase/worker/ingest"
)

// A child under the control of upstream lets a staged file grow while it is
// counted: what is stored is what was counted, to the byte.
func TestStagedFileGrows(t *testing.T) {
	t.Parallel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	disk, err := blob.OpenDisk(t.TempDir())
	must(err)
	dir := t.TempDir()
	staged := filepath.Join(dir, "ingest")
	must(os.Mkdir(staged, 0o700))
	spool, err := os.Create(filepath.Join(dir, "spool"))
	must(err)
	defer spool.Close()
	objects := gitpack.NewObjects(spool)
	id, err := objects.Add(gitpack.Blob, 1, strings.NewReader("x"))
	must(err)
	grown, err := os.OpenFile(filepath.Join(staged, "pack"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	must(err)
	defer grown.Close()
	index, err := gitpack.WriteSegment(t.Context(), grown, objects, []gitpack.OID{id})
	must(err)
	raw, err := index.MarshalBinary()
	must(err)
	must(os.WriteFile(filepath.Join(staged, "index"), raw, 0o600))
	grow := func() {
		_, err := grown.Write(bytes.Repeat([]byte("more"), 1000))
		must(err)
	}

	f := &fetch{w: &Worker{db: storagetest.NewDB(t), blobs: asked{disk, grow}, opt: Options{Limits: ingest.DefaultLimits()}},
		job: &job{}, pkg: storage.Package{Name: "hello"}, dir: dir, staged: staged, segments: release.NewSegments(nil)}
	event, err := json.Marshal(ingest.Event{Segment: &ingest.Segment{File: "pack", Index: "index"}})
	must(err)
	_, err = f.events(t.Context(), bytes.NewReader(event), nil)
	if !errors.Is(err, fault.ErrNotFound) { // the package has no row: it came that far
		t.Fatalf("err = %v, want ErrNotFound", err)
	}
	var stored int64
	for info, err := range disk.List(t.Context()) {
		must(err)
		if b, err := disk.Open(t.Context(), info.Digest); err == nil {
			start, err := io.ReadAll(io.LimitReader(b, 4))
			must(errors.Join(err, b.Close()))
			if string(start) == "PACK" {
				stored += info.Size
			}
		}
	}
	if stored == 0 || f.usage.objects != stored || f.usage.total != stored {
		t.Errorf("%d bytes are stored, %d and %d are counted", stored, f.usage.objects, f.usage.total)
	}
}

// asked is a store in which something happens when it is asked for its room.
type asked struct {
	blob.Store
	meanwhile func()
}

func (a asked) Free(ctx context.Context) (int64, error) {
	a.meanwhile()
	return a.Store.Free(ctx)
}
