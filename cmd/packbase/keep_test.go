package main

import (
	"context"
	"iter"
	"testing"

	"github.com/francescobianco/packbase/cmd/packbase/serve"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/worker/upkeep"
)

// A listed store does something when its blobs have been listed.
type listed struct {
	blob.Store
	then func()
}

func (l listed) List(ctx context.Context) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) {
		for info, err := range l.Store.List(ctx) {
			if !yield(info, err) {
				return
			}
		}
		l.then()
	}
}

// What is published while fsck looks is not found to be missing.
func TestFsckOfLiveSystem(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	s.work(t)
	listings := 0
	a := &upkeep.Auditor{
		DB: s.stores.DB,
		Blobs: listed{s.stores.Blobs, func() {
			listings++
			if err := serve.SeedHello(t.Context(), s.cfg, s.stores); err != nil {
				t.Fatal(err)
			}
		}},
		Report: func(f upkeep.Finding) { t.Errorf("fsck finds %+v, want nothing", f) },
	}
	if err := a.Fsck(t.Context()); err != nil {
		t.Error(err)
	}
	if p, err := s.stores.DB.PackageByName(t.Context(), "hello"); err != nil || p.ReleaseCount == 0 || listings != 1 {
		t.Errorf("%d listings, %d releases, %v; want something published in one", listings, p.ReleaseCount, err)
	}
}
