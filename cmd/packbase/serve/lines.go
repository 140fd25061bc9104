package serve

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"time"
)

const (
	linesEvery = 100 * time.Millisecond
	maxLines   = 64 << 10 // bytes that wait
)

// lines writes a log. A line that comes alone is written at once. When there are many, for every request one, those of
// linesEvery are written together: each by itself is a call that takes as long as all else that is done to log it.
// Warnings and errors do not wait, nor does anything after end.
type lines struct {
	w io.Writer

	mu      sync.Mutex
	waiting []byte
	last    time.Time // when something was written
	ended   bool
}

// logger returns the log of the settings.
func (l *lines) logger(cfg *Config) *slog.Logger { return slog.New(prompt{cfg.Logger(l).Handler(), l}) }

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = append(l.waiting, p...)
	switch {
	case l.ended, len(l.waiting) > maxLines, time.Since(l.last) >= linesEvery:
		return len(p), l.write()
	case len(l.waiting) == len(p): // the first that waits
		time.AfterFunc(linesEvery, func() { _ = l.flush() }) // nobody hears of an error of a log
	}
	return len(p), nil
}

func (l *lines) flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.write()
}

func (l *lines) write() error {
	if len(l.waiting) == 0 {
		return nil
	}
	_, err := l.w.Write(l.waiting)
	l.waiting, l.last = l.waiting[:0], time.Now()
	return err
}

// end writes what waits, and has what comes later wait no more.
func (l *lines) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	_ = l.write()
}

// prompt is a handler whose warnings and errors do not wait.
type prompt struct {
	slog.Handler
	lines *lines
}

func (h prompt) Handle(ctx context.Context, r slog.Record) error {
	err := h.Handler.Handle(ctx, r)
	if r.Level > slog.LevelInfo && err == nil {
		err = h.lines.flush()
	}
	return err
}

func (h prompt) WithAttrs(attrs []slog.Attr) slog.Handler {
	return prompt{h.Handler.WithAttrs(attrs), h.lines}
}
func (h prompt) WithGroup(name string) slog.Handler {
	return prompt{h.Handler.WithGroup(name), h.lines}
}
