package release

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A tarball of an earlier build, whose manifest says no form, is made again as it was.
func TestWriteTarballForm(t *testing.T) {
	t.Parallel()
	objects, tree := listing(t, map[string]string{"a": strings.Repeat("text\n", 20_000)})
	written := func(form int) [sha256.Size]byte {
		f, err := os.Create(filepath.Join(t.TempDir(), "tarball"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		man := &Manifest{Commit: strings.Repeat("1", 40), Tree: tree.Trees[0].String(), CommitTime: time.Unix(1_700_000_000, 0)}
		man.Tarball.Form = form
		if err := WriteTarball(t.Context(), f, objects, man); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		return sha256.Sum256(b)
	}
	none, first, second := written(0), written(1), written(2)
	if none != first || first == second {
		t.Errorf("digests = %x without a form, %x in form 1, %x in form 2; want the first two alike", none, first, second)
	}
}
