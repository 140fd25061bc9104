package probe

import (
	"strings"
	"testing"

	"github.com/francescobianco/packbase/storage/pktline"
)

// Of an answer the pack alone is written, whole or with an error.
func TestWritePack(t *testing.T) {
	t.Parallel()
	shallow := pktline.Lines("shallow-info\n", "shallow "+strings.Repeat("a", 40)+"\n", pktline.Delim, "packfile\n")
	for _, tt := range []struct{ name, answer, pack, err string }{
		{"whole", shallow + pktline.Lines("\x02counting\n", "\x01PA", "\x01CK", pktline.Flush), "PACK", ""},
		{"no other section", pktline.Lines("packfile\n", "\x01PACK", pktline.Flush), "PACK", ""},
		{"a flush before the pack", pktline.Lines("acknowledgments\n", pktline.Flush, "packfile\n", "\x01PACK", pktline.Flush), "PACK", ""},
		{"what is after it", pktline.Lines("packfile\n", "\x01PACK", pktline.Flush, "\x01more"), "PACK", ""},
		{"no flush", shallow + pktline.Lines("\x01PACK"), "PACK", "ends early"},
		{"cut", strings.TrimSuffix(shallow+pktline.Lines("\x01PACK"), "K"), "", "ends early"},
		{"no pack", pktline.Lines("shallow-info\n", pktline.Flush), "", "ends early"},
		{"error", shallow + pktline.Lines("\x01PA", "\x03out of memory\n"), "PA", `the server says "out of memory\n"`},
		{"no packets", "<!doctype html>", "", "not made of packets"},
	} {
		var pack strings.Builder
		said := ""
		if err := writePack(&pack, strings.NewReader(tt.answer)); err != nil {
			said = err.Error()
		}
		if pack.String() != tt.pack || !strings.Contains(said, tt.err) || (said == "") != (tt.err == "") {
			t.Errorf("%s: %q, %q, want %q and %q", tt.name, pack.String(), said, tt.pack, tt.err)
		}
	}
}
