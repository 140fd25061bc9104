package upkeep

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/cmd/packbase/serve"
	"github.com/francescobianco/packbase/cmd/packbase/term"
	"github.com/francescobianco/packbase/storage/blob"
)

func TestDoctorToken(t *testing.T) {
	t.Parallel()
	const token = "token-for-the-tests"
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "token"), []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		cfg  serve.Config
		want string
	}{
		{"set", serve.Config{Token: token}, "ok"},
		{"edge", serve.Config{ReadOnly: true}, "ok"},
		{"none wanted", serve.Config{AuthNone: true}, "warn"},
		{"none here", serve.Config{Addr: "127.0.0.1"}, "warn"},
		{"none for all", serve.Config{}, "warn"},
		{"made by packbase up", serve.Config{Root: root}, "ok"},
	}
	for _, tt := range tests {
		var out strings.Builder
		d := &doctor{cfg: &tt.cfg, s: (&term.Program{}).Screen(&out)}
		d.token(t.Context())
		if !strings.HasPrefix(out.String(), tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, out.String(), tt.want)
		}
	}
}

// The blob that doctor tries is not left behind.
func TestDoctorLeavesNothing(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	store, err := blob.Open("file://" + root)
	if err != nil {
		t.Fatal(err)
	}
	d := &doctor{cfg: &serve.Config{Root: root}, s: (&term.Program{}).Screen(&strings.Builder{})}
	if err := d.tryBlob(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	for info, err := range store.List(t.Context()) {
		t.Errorf("got the blob %s, %v, want none", info.Digest, err)
	}
}
