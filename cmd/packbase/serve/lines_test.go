package serve

import (
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"
)

// Of a log no line is lost, and none waits for long, however many come at once.
func TestLines(t *testing.T) {
	t.Parallel()
	var out writes
	l := &lines{w: &out}
	log := l.logger(&Config{level: &slog.LevelVar{}})
	log.Info("first")
	if n, text := out.all(); n != 1 || !strings.Contains(text, "msg=first\n") {
		t.Errorf("a line alone: %d writes, %q", n, text)
	}
	const each = 1000
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			for range each {
				log.With("a", 1).WithGroup("b").Info("request", "c", 2)
			}
		})
	}
	all.Wait()
	if n, _ := out.all(); n > each {
		t.Errorf("%d lines at once: %d writes", 5*each, n)
	}
	log.Warn("early")
	if n, text := out.all(); strings.Count(text, "msg=request a=1 b.c=2\n") != 5*each || !strings.HasSuffix(text, "msg=early\n") {
		t.Errorf("after a warning: %d lines in %d writes, the end %q", strings.Count(text, "\n"), n, text[max(0, len(text)-100):])
	}
	log.Info("late")
	for until := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if _, text := out.all(); strings.HasSuffix(text, "msg=late\n") {
			break
		} else if time.Now().After(until) {
			t.Fatal("the last line is never written")
		}
	}
	log.Info("before the end")
	log.Info("at the end")
	l.end()
	if _, text := out.all(); !strings.HasSuffix(text, "msg=\"at the end\"\n") {
		t.Errorf("at the end: %q", text[max(0, len(text)-100):])
	}
	log.Info("after the end")
	log.Info("after that")
	if _, text := out.all(); !strings.HasSuffix(text, "msg=\"after that\"\n") {
		t.Errorf("after the end: %q", text[max(0, len(text)-100):])
	}
}

// writes keeps what is written.
type writes struct {
	mu   sync.Mutex
	n    int
	text strings.Builder
}

func (w *writes) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.n++
	return w.text.Write(p)
}

func (w *writes) all() (n int, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.n, w.text.String()
}
