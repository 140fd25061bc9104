package catalog

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/storage/fault"
)

// Whatever a catalog lists, reading it takes no more memory than some times its
// length, and ends with a word that says what is wrong.
func TestDenseCatalog(t *testing.T) {
	const size = 8 << 20
	for name, tt := range map[string]struct{ doc, code string }{
		"numbers": {`{"protocol":"v1","packages":[` + strings.Repeat("0,", size/2) + `0]}`, "catalog_too_large"},
		"objects": {`{"protocol":"v1","packages":[` + strings.Repeat("{},", size/3) + `{}]}`, "catalog_too_large"},
		"an id":   {`{"protocol":"v1","packages":[{"id":[` + strings.Repeat("{},", size/3) + `{}]}]}`, ""},
		"no list": {`{"protocol":"v1","packages":{"a":1}}`, "catalog_malformed"},
		"null":    {`{"protocol":"v1","packages":null}`, "catalog_empty"},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Parse([]byte(tt.doc))
		runtime.ReadMemStats(&after)
		code := ""
		if e := (*fault.Error)(nil); errors.As(err, &e) {
			code = e.Code
		}
		if code != tt.code || err != nil && code == "" {
			t.Errorf("%s: %v, want %q", name, err, tt.code)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 8*size {
			t.Errorf("%s: %d bytes took %d", name, len(tt.doc), took)
		}
	}
	entries, err := Parse([]byte(`{"protocol":"v1","packages":[{"id":7,"repository":{"url":"https://git.example/a"}},{"id":"x","repository":{"url":"https://git.example/b"}},
		{"id":null},{"id":{}},7]}`))
	if err != nil || len(entries) < 3 || entries[0].ID != "7" || entries[1].ID != "x" || entries[0].Problem != "" || entries[2].Problem == "" {
		t.Errorf("entries: %+v, %v", entries, err)
	}
}
