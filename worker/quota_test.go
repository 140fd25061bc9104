package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

// A child under the control of upstream goes on writing to what it staged: what
// is stored is what was counted, to the byte, and the objects are those that were taken.
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
	f := &fetch{w: &Worker{db: storagetest.NewDB(t), opt: Options{Limits: ingest.DefaultLimits()}}, job: &job{}, pkg: storage.Package{Name: "hello"},
		segments: release.NewSegments(nil)}
	batch, _, spool := stagedBatch(t, f)
	defer spool.Close()
	grow := func() {
		_, err := spool.WriteAt(bytes.Repeat([]byte("more"), 1000), 0)
		must(err)
	}
	f.w.blobs = asked{disk, grow}
	event, err := json.Marshal(ingest.Event{Batch: batch})
	must(err)
	_, err = f.events(t.Context(), bytes.NewReader(event))
	if !errors.Is(err, fault.ErrNotFound) { // the package has no row: it came that far
		t.Fatalf("err = %v, want ErrNotFound", err)
	}
	var stored int64
	for info, err := range disk.List(t.Context()) { // the segment and its index
		must(err)
		stored += info.Size
	}
	if u := &f.usage; stored == 0 || u.bytes != stored || u.added != stored || u.total != stored {
		t.Errorf("%d bytes are stored, %d, %d and %d are counted", stored, u.bytes, u.added, u.total)
	}
}

// stagedBatch stages a release v1.0.0 as the child of f does, and returns what the child says then, what the layout is, and the
// spool, still open for writing.
func stagedBatch(t *testing.T, f *fetch) (batch *ingest.Batch, layout []byte, spool *os.File) {
	t.Helper()
	f.dir = t.TempDir()
	f.staged = filepath.Join(f.dir, "ingest")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(f.staged, 0o700))
	spool, err := os.Create(filepath.Join(f.staged, "spool"))
	must(err)
	objects := gitpack.NewObjects(spool)
	add := func(typ gitpack.Type, content string) gitpack.OID {
		id, err := objects.Add(typ, int64(len(content)), strings.NewReader(content))
		must(err)
		return id
	}
	tree, err := objects.WriteTree([]gitpack.File{{Path: "a.txt", Mode: gitpack.ModeFile, OID: add(gitpack.Blob, "payload\n")}}, nil)
	must(err)
	who := "t <t@example.org> 1700000000 +0000"
	commit := add(gitpack.Commit, fmt.Sprintf("tree %s\nauthor %s\ncommitter %s\n\nx\n", tree, who, who))
	layout, err = objects.MarshalBinary()
	must(err)
	must(os.WriteFile(filepath.Join(f.staged, "layout"), layout, 0o600))
	f.refs.Tags = map[string]string{"v1.0.0": commit.String()}
	return &ingest.Batch{Spool: "spool", Layout: "layout", Roots: []ingest.Root{{Tag: "v1.0.0", OID: commit}}}, layout, spool
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
