package ingest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/worker/upstream"
)

// So many tags of one run may be at fault; with one more, upstream is.
func TestMostAside(t *testing.T) {
	t.Parallel()
	m := &mirror{}
	e := fault.New(upstream.CodeRefused, "no")
	for i := range maxAside {
		if err := m.setAside(want(fmt.Sprint(i), gitpack.OID{byte(i)}), e, true); err != nil {
			t.Fatalf("tag %d: %v", i, err)
		}
	}
	err := m.setAside(want("last", gitpack.OID{99}), e, true)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("nor can %d others", maxAside)) {
		t.Errorf("one more: %v", err)
	}
}

// What may be another's fault, or the connection's, is asked for again alone; what is its own is not.
func TestAskedAgain(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		code  string
		alone []bool // at each try
		tag   string
		tries int // in all
	}{
		{upstream.CodeNoSuchCommit, []bool{true}, "v1", 1},
		{upstream.CodeNoSuchCommit, []bool{false, true}, "v1", 2},
		{upstream.CodeIncomplete, []bool{true, true, true}, "v1", 3},
		{gitpack.CodeIncomplete, []bool{false, true, true}, "v1", 3},
		{upstream.CodeIncomplete, []bool{true}, "", 1}, // asked for by somebody, who is told
	} {
		m := &mirror{}
		w, tries := want(tt.tag, gitpack.OID{1}), 0
		for _, alone := range tt.alone {
			tries++
			if err := m.setAside(w, fault.New(tt.code, "no"), alone); err != nil {
				t.Fatal(err)
			}
			if len(m.again) == 0 {
				break
			}
			w, m.again = m.again[0], nil
		}
		if tries != tt.tries || len(m.aside) != 1 {
			t.Errorf("%s of %q: %d tries, %d aside, want %d and 1", tt.code, tt.tag, tries, len(m.aside), tt.tries)
		}
	}
}
