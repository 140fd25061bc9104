package blob

import (
	"bytes"
	"crypto/sha256"
	"io"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	// hotSize is the size up to which opening a blob takes longer than reading it, in bytes.
	hotSize = 64 << 10

	// A blob is hot that is opened more than hotOpens times within hotTime. Then it is opened in memory until that is over;
	// after it the store is asked again whether the blob is still there, and the same.
	hotOpens = 20
	hotTime  = 100 * time.Millisecond

	maxHot = 512 // blobs: 32 MiB
)

// hot keeps in memory the small blobs that are opened all the time. Nobody can tell but by the time it takes: they
// were checked, and damage or loss shows a hotTime later at most.
type hot struct{ cache *lru.Cache[string, *warmth] }

func newHot() *hot {
	cache, _ := lru.New[string, *warmth](maxHot) // the error is about sizes below one
	return &hot{cache}
}

// A warmth counts how often a blob is opened.
type warmth struct {
	mu       sync.Mutex
	since    time.Time // when the store was asked first in this hotTime
	opens    int       // since then
	body     []byte    // nil while it is not hot
	modified time.Time
}

// get returns a blob that is hot, or nil.
func (h *hot) get(digest string) Blob {
	w, ok := h.cache.Get(digest)
	if !ok {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.body == nil || time.Since(w.since) > hotTime {
		return nil
	}
	return memory{bytes.NewReader(w.body), w.modified}
}

// offer counts that b, which was checked, was opened in the store, and returns it.
func (h *hot) offer(digest string, b Blob) Blob {
	if b.Size() > hotSize {
		return b
	}
	w, ok := h.cache.Get(digest)
	if !ok {
		w = &warmth{}
		h.cache.Add(digest, w)
	}
	if !w.count() {
		return b
	}
	body := make([]byte, b.Size())
	if _, err := io.ReadFull(io.NewSectionReader(b, 0, b.Size()), body); err != nil {
		return b // whose reader meets the error
	}
	if sum := sha256.Sum256(body); compare(sum[:], digest) == nil {
		w.mu.Lock()
		w.body, w.modified = body, b.ModTime()
		w.mu.Unlock()
	}
	return b
}

// count counts an opening, and tells whether it is the one that makes the blob hot.
func (w *warmth) count() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.since) > hotTime {
		w.since, w.opens, w.body = time.Now(), 0, nil
	}
	w.opens++
	return w.opens == hotOpens+1
}

// A memory is a blob that is in memory.
type memory struct {
	*bytes.Reader
	modified time.Time
}

func (m memory) ModTime() time.Time { return m.modified }
func (m memory) Close() error       { return nil }
