package web

import (
	"net/http/httptest"
	"testing"
)

func TestRenderEmpty(t *testing.T) {
	t.Parallel()
	site := New()
	for _, p := range []Page{&Dashboard{}, &PackageList{}, &PackagePage{}, &JobList{}, &JobPage{}, &Problem{Status: 404}} {
		w := httptest.NewRecorder()
		if err := site.Render(w, 200, p); err != nil {
			t.Errorf("%T: %v", p, err)
		}
	}
}
