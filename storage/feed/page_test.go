package feed

import (
	"encoding/json"
	"runtime"
	"strings"
	"testing"
)

// A page of the feed takes no more memory than what was asked for, whatever a
// central sends.
func TestPageOfTooManyChanges(t *testing.T) {
	page := func(changes int) string {
		return `{"changes":[` + strings.Repeat("{},", changes-1) + `{}],"head":{"seq":7}}`
	}
	const many = 2 << 20
	doc := []byte(page(many))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var got Page
	err := json.Unmarshal(doc, &got)
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; err == nil || took > 4*uint64(len(doc)) {
		t.Errorf("%d changes took %d bytes, %v", many, took, err)
	}
	for _, n := range []int{1, MaxPage} {
		var got Page
		if err := json.Unmarshal([]byte(page(n)), &got); err != nil || len(got.Changes) != n || got.Head.Seq != 7 {
			t.Errorf("%d changes: %d, head %d, %v", n, len(got.Changes), got.Head.Seq, err)
		}
	}
	if err := json.Unmarshal([]byte(page(MaxPage+1)), new(Page)); err == nil {
		t.Errorf("%d changes were read", MaxPage+1)
	}
	for _, none := range []string{`{"changes":[]}`, `{"changes":null}`, `{}`} {
		var got Page
		if err := json.Unmarshal([]byte(none), &got); err != nil || len(got.Changes) != 0 {
			t.Errorf("%s: %d changes, %v", none, len(got.Changes), err)
		}
	}
	for _, bad := range []string{`{"changes":{"a":1}}`, `{"changes":[1]}`, `{"changes":"x"}`} {
		var got Page
		if err := json.Unmarshal([]byte(bad), &got); err == nil {
			t.Errorf("%s was read as %+v", bad, got)
		}
	}
}
