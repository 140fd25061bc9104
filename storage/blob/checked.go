package blob

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"runtime"
	"syscall"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"
)

// A Checked is a Store that opens no blob whose bytes are not those of its
// digest. What it has read once it remembers, under the state that the file or
// object was in: a blob is read again when its size, times or inode changed.
// Damage that leaves all of these alone is for a scrub to find.
type Checked struct {
	Store
	remote  bool // a server has the blobs
	known   *lru.Cache[string, verdict]
	hot     *hot
	reading singleflight.Group // by digest: many who ask cost one reading
	turns   chan struct{}      // how many are read at once
}

// A verdict is what came of reading a blob, nil or ErrMismatch, in a state.
type verdict struct {
	state state
	err   error
	at    time.Time
}

// of reports whether the verdict is of a blob. That one is damaged does not hold for ever: a server or a disk that read wrong
// may read right again.
func (v verdict) of(b Blob) bool {
	return v.state == stateOf(b) && (v.err == nil || time.Since(v.at) < damagedFor)
}

// A state changes when somebody writes to a blob or puts another in its place.
type state struct {
	size, modified, changed int64
	inode                   uint64
}

func stateOf(b Blob) state {
	s := state{size: b.Size(), modified: b.ModTime().UnixNano()}
	if file, ok := b.(interface{ Stat() (fs.FileInfo, error) }); ok {
		if info, err := file.Stat(); err == nil {
			if sys, ok := info.Sys().(*syscall.Stat_t); ok {
				s.changed, s.inode = sys.Ctim.Nano(), sys.Ino
			}
		}
	}
	return s
}

const (
	maxVerdicts = 1 << 16          // about 250 bytes each
	damagedFor  = 20 * time.Second // after which a damaged blob is read again

	// streamed is the size from which a blob that is read from its beginning
	// to its end is checked meanwhile and not before, in bytes.
	streamed = 16 << 20

	// A reading goes on without who asked for it: it may take checkTimeout, and
	// wait stallTimeout for more bytes.
	checkTimeout = 15 * time.Minute
	stallTimeout = 30 * time.Second
)

// Check returns s with its blobs checked. Of a store that gives nothing for longer than patience, what is read ends with ErrUnavailable.
func Check(s Store, patience time.Duration) *Checked {
	server, remote := s.(*S3)
	if remote {
		hurried := *server
		hurried.patience = patience
		s = &hurried
	}
	known, _ := lru.New[string, verdict](maxVerdicts) // the error is about sizes below one
	return &Checked{Store: s, remote: remote, known: known, hot: newHot(), turns: make(chan struct{}, max(2, runtime.GOMAXPROCS(0)))}
}

// Hot is Open for a blob that is opened all the time, and nil for others. It never waits.
func (c *Checked) Hot(digest string) Blob { return c.hot.get(digest) }

// Open implements Store. It returns ErrMismatch for a blob whose bytes are not
// those of digest.
func (c *Checked) Open(ctx context.Context, digest string) (Blob, error) {
	if b := c.Hot(digest); b != nil {
		return b, nil
	}
	b, err := c.Store.Open(ctx, digest)
	if err != nil {
		return nil, err
	}
	return c.check(ctx, digest, b)
}

// check returns b, or one opened anew, once its bytes are known to be those of digest.
func (c *Checked) check(ctx context.Context, digest string, b Blob) (Blob, error) {
	for range attempts {
		v, ok := c.known.Get(digest)
		if ok && v.of(b) {
			if v.err == nil {
				return c.hot.offer(digest, b), nil
			}
			b.Close()
			return nil, v.err
		}
		b.Close()
		err := c.read(ctx, digest)
		if err != nil && !errors.Is(err, ErrMismatch) {
			return nil, err
		}
		if b, err = c.Store.Open(ctx, digest); err != nil {
			return nil, err
		}
	}
	b.Close()
	return nil, fmt.Errorf("open blob: %w: %s changes while it is read", ErrUnavailable, digest)
}

// read reads the blob and remembers what came of it.
func (c *Checked) read(ctx context.Context, digest string) error {
	done := c.reading.DoChan(digest, func() (any, error) {
		c.turns <- struct{}{}
		defer func() { <-c.turns }()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTimeout)
		defer cancel()
		stalled := time.AfterFunc(stallTimeout, cancel)
		defer stalled.Stop()
		b, err := c.Store.Open(ctx, digest)
		if err != nil {
			return nil, err
		}
		defer b.Close()
		return nil, c.remember(digest, stateOf(b), match(ctx, moving{b, stalled}, digest))
	})
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case r := <-done:
		return r.Err
	}
}

// moving puts off the end of a reading while bytes come.
type moving struct {
	r       io.Reader
	stalled *time.Timer
}

func (m moving) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if n > 0 {
		m.stalled.Reset(stallTimeout)
	}
	return n, err
}

// remember keeps a verdict; an error of another kind says nothing of the bytes.
func (c *Checked) remember(digest string, in state, err error) error {
	if err == nil || errors.Is(err, ErrMismatch) {
		c.known.Add(digest, verdict{in, err, time.Now()})
	}
	return err
}

// Stream is Open for who reads the blob once, from its beginning to its end:
// a large one that nobody has read yet, and each of a server, is checked on the way, and the last
// bytes are held back until all of them match. Reading ends with ErrMismatch
// if they do not.
func (c *Checked) Stream(ctx context.Context, digest string) (Blob, error) {
	if b := c.Hot(digest); b != nil {
		return b, nil
	}
	b, err := c.Store.Open(ctx, digest)
	if err != nil {
		return nil, err
	}
	if v, ok := c.known.Get(digest); b.Size() < streamed || ok && v.of(b) {
		// A server may give other bytes than it gave before, under the same length and time.
		if b, err = c.check(ctx, digest, b); err != nil || !c.remote {
			return b, err
		}
	}
	return &stream{Blob: b, by: c, digest: digest, sum: sha256.New()}, nil
}

// A stream hashes a blob while it is read.
type stream struct {
	Blob
	by     *Checked
	digest string
	sum    hash.Hash
	off    int64 // where the next Read begins
	hashed int64 // bytes in sum, from the beginning of the blob
	bad    error // ErrMismatch once that is known
}

// Damaged returns ErrMismatch if b came from Stream and its bytes turned out
// to be wrong.
func Damaged(b Blob) error {
	if s, ok := b.(*stream); ok {
		return s.bad
	}
	return nil
}

// Seek allows to look for the end and to come back, as http.ServeContent does.
func (s *stream) Seek(offset int64, whence int) (int64, error) {
	n, err := s.Blob.Seek(offset, whence)
	if err == nil {
		s.off = n
	}
	return n, err
}

func (s *stream) Read(p []byte) (int, error) {
	if s.off != s.hashed {
		return 0, fmt.Errorf("read blob %s: %w: a stream is read from its beginning", s.digest, fs.ErrInvalid)
	}
	n, err := s.Blob.Read(p)
	s.sum.Write(p[:n])
	s.off += int64(n)
	s.hashed = s.off
	if n == 0 || s.off < s.Size() {
		return n, err
	}
	if s.bad = s.by.remember(s.digest, stateOf(s.Blob), compare(s.sum.Sum(nil), s.digest)); s.bad != nil {
		return 0, s.bad
	}
	return n, err
}

// ReadAt would not be checked.
func (s *stream) ReadAt([]byte, int64) (int, error) {
	return 0, fmt.Errorf("read blob %s: %w: a stream is read from its beginning", s.digest, fs.ErrInvalid)
}
