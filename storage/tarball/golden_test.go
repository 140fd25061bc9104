package tarball

import (
	"encoding/json"
	"flag"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden file")

// The bytes of a tarball must never change: not with a toolchain, nor with a version of the compressor.
// If this fails, do not update the file: find out what changed, and pin it. Published digests depend on it.
func TestGolden(t *testing.T) {
	t.Parallel()
	const file = "testdata/golden.json"
	got := map[string]Info{}
	b := NewBuilder(scratch(t), Limits{})
	for name, tr := range fixtures() {
		_, got[name] = build(t, b, Header{commitOID, when, ""}, tr.entries())
	}
	_, got["wrapped"] = build(t, b, Header{commitOID, when, "hello-v1.0.0/"}, fixtures()["one folder"].entries())

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
