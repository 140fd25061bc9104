// Package fresh has at hand what is dear to work out and may be a little old,
// but for news.
package fresh

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/francescobianco/packbase/storage/access"
)

// News counts what a server changed, and the ends of jobs that it told
// somebody of. What was worked out before is out of date.
type News = atomic.Uint64

// A Value is worked out again when it is too old, by one caller at a time,
// however many ask.
type Value[T any] struct {
	News     *News // nil for what may be as old as all that
	Failures bool  // a failure is as good as a value: it is not tried again sooner

	mu     sync.Mutex
	value  T
	failed error
	at     time.Time
	heard  uint64 // the news by then
}

// Get returns the value as it was at most a second ago, and after all news.
func (v *Value[T]) Get(ctx context.Context, work func(context.Context) (T, error)) (T, error) {
	return v.Within(ctx, time.Second, work)
}

// Within returns the value as it was at most age ago, and after all news.
func (v *Value[T]) Within(ctx context.Context, age time.Duration, work func(context.Context) (T, error)) (T, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var heard uint64
	if v.News != nil {
		heard = v.News.Load()
	}
	if time.Since(v.at) < age && heard == v.heard {
		return v.value, v.failed
	}
	value, err := work(ctx)
	if err == nil || v.Failures {
		v.value, v.failed, v.at, v.heard = value, err, time.Now(), heard
	}
	return value, err
}

// A PerReader value is one for those who see private packages, and one for all
// others.
type PerReader[T any] struct{ All, Public T }

// Of returns the value for the reader of ctx.
func (p *PerReader[T]) Of(ctx context.Context) *T {
	if access.SeesPrivate(ctx) {
		return &p.All
	}
	return &p.Public
}
