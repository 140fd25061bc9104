package pages

import (
	"strings"
	"testing"
	"time"

	"github.com/francescobianco/packbase/api/wire"
)

// Nothing is said of what upstream has before it was asked for all of it, and nothing good while it did not say.
func TestSurvival(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, tt := range []struct {
		name        string
		tree        wire.Tree
		level, says string
	}{
		{"not asked", wire.Tree{Nodes: 3}, "", ""},
		{"all there", wire.Tree{Nodes: 3, CheckedAt: &now}, "ok", "still has all of it"},
		{"one did not answer", wire.Tree{Nodes: 3, CheckedAt: &now, Untold: 1}, "warn", "did not say whether it still has 1\u00a0package"},
		{"one is gone, one did not answer", wire.Tree{Nodes: 3, CheckedAt: &now, Lost: 1, Untold: 1}, "warn", "would not build today"},
	} {
		if got := (treeView{tt.tree}).Survival(); got.Level != tt.level || !strings.Contains(got.Text, tt.says) || (tt.says == "") != (got.Text == "") {
			t.Errorf("%s: %+v, want %s: %q", tt.name, got, tt.level, tt.says)
		}
	}
}
