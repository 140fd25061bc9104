package tarball

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files")

// The bytes of a form must never change: not with a toolchain, nor with a version of the compressor.
// If this fails, do not update the files: find out what changed, and pin it. Published digests depend on it.
func TestGolden(t *testing.T) {
	t.Parallel()
	for _, form := range []Form{Form1, Form2} {
		t.Run(fmt.Sprint("form ", form), func(t *testing.T) {
			t.Parallel()
			got := map[string]Info{}
			b := NewBuilder(scratch(t), form, Limits{})
			for name, tr := range fixtures() {
				_, got[name] = build(t, b, Header{commitOID, when, ""}, tr.entries())
			}
			_, got["wrapped"] = build(t, b, Header{commitOID, when, "hello-v1.0.0/"}, fixtures()["one folder"].entries())
			golden(t, fmt.Sprintf("testdata/form%d.json", form), got)
		})
	}
}

func golden(t *testing.T, file string, got map[string]Info) {
	t.Helper()
	if *update {
		text, err := json.MarshalIndent(got, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, append(text, '\n'), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]Info{}
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("digests (-want +got):\n%s", diff)
	}
}
