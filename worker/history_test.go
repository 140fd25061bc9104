package worker_test

import (
	"errors"
	"testing"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/worker/workertest"
)

// The history of a local repository is one pack: it neither brings back what
// was removed, nor shows a released tag where upstream moved it.
func TestHistoryHoldsToReleases(t *testing.T) {
	t.Parallel()
	r := workertest.New(t)
	defer r.Work()()
	r.Mirror("removed", "v1.0.0", "v1.1.0")
	first := r.Mirror("moved", "v1.0.0", "v1.1.0")[0]
	_, err := r.HistoryOf(t.Context(), "removed")
	r.Must(err)

	_, err = r.Remove(t.Context(), storage.Removal{Package: "removed", Tag: "v1.0.0", Reason: "it held a key"})
	r.Must(err)
	r.Mirror("removed", "v1.2.0")
	if h, err := r.HistoryOf(t.Context(), "removed"); !errors.Is(err, fault.ErrNotFound) {
		t.Errorf("after a removal: %v (%v), want no history", h.Refs, err)
	}

	r.Tag("moved", "v1.0.0", map[string]string{"evil": "evil"})
	r.Mirror("moved", "v1.2.0")
	h, err := r.HistoryOf(t.Context(), "moved")
	if err != nil || h.Refs["refs/tags/v1.0.0"] != first.OID() {
		t.Errorf("v1.0.0 is %v (%v), want %s as released", h.Refs["refs/tags/v1.0.0"], err, first.OID())
	}
}
