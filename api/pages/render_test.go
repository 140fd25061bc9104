package pages

import (
	"net/http/httptest"
	"testing"
)

func TestRenderEmpty(t *testing.T) {
	t.Parallel()
	site := newRenderer()
	for _, p := range []view{&dashboard{}, &packageList{}, &packagePage{}, &jobList{}, &jobPage{}, &problem{Status: 404}} {
		w := httptest.NewRecorder()
		if err := site.render(w, 200, p); err != nil {
			t.Errorf("%T: %v", p, err)
		}
	}
}
