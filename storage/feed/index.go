package feed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/pg"
	"github.com/francescobianco/packbase/storage/userfile"
)

// An Index is the feed in files, in the folder index beside the blobs that it names: all that an edge needs which has no
// more than that folder. It says what strangers are told, and nothing of private packages.
//
//	index/0000000000.json    a Page: the changes 1 to MaxPage
//	index/0000000001.json    those that follow, and so on; all but the last are full
//
// A file is replaced as a whole: when changes are appended, and when a decision withholds what is older.
type Index struct{ dir string }

// IndexIn returns the index of the blobs in folder.
func IndexIn(folder string) Index { return Index{filepath.Join(folder, "index")} }

const (
	indexEvery  = 500 * time.Millisecond // how late the index is
	indexTurn   = 10 * time.Second       // until somebody else may write it
	maxIndexed  = 64 << 20               // bytes of a file
	indexSuffix = ".json"
)

func (x Index) file(n int64) string {
	return filepath.Join(x.dir, fmt.Sprintf("%010d%s", n, indexSuffix))
}

// last returns the number of the last file, -1 if there is none.
func (x Index) last() (int64, error) {
	last := int64(-1)
	entries, err := os.ReadDir(x.dir)
	for _, e := range entries {
		digits, ok := strings.CutSuffix(e.Name(), indexSuffix)
		if n, bad := strconv.ParseInt(digits, 10, 64); ok && bad == nil {
			last = max(last, n)
		}
	}
	return last, err
}

func (x Index) read(n int64) (page Page, err error) {
	raw, err := userfile.Read(x.file(n), maxIndexed)
	if err == nil {
		err = json.Unmarshal(raw, &page)
	}
	if err != nil {
		return page, fmt.Errorf("read %s: %w", x.file(n), err)
	}
	return page, nil
}

// Changes returns at most limit changes after since, and the newest there is, as the Store's method does. An index that
// was copied in part is an error. It is empty if there is none yet.
func (x Index) Changes(since int64, limit int) (page Page, err error) {
	page.Changes = List{}
	last, err := x.last()
	if last < 0 && since == 0 && (err == nil || errors.Is(err, fs.ErrNotExist)) {
		return page, nil
	}
	if last < 0 {
		return page, errors.Join(fmt.Errorf("there is no index in %s any more", x.dir), err)
	}
	newest, err := x.read(last)
	if err != nil {
		return page, err
	}
	page.Head = newest.Head
	from := newest
	if n := since / MaxPage; n < last {
		if from, err = x.read(n); err != nil {
			return page, err
		}
		if want := (n + 1) * MaxPage; from.Head.Seq != want {
			return page, fmt.Errorf("%s ends with change %d, not %d", x.file(n), from.Head.Seq, want)
		}
	}
	for _, c := range from.Changes {
		if c.Seq > since && len(page.Changes) < limit {
			page.Changes = append(page.Changes, c)
		}
	}
	return page, nil
}

// State returns something that is another one when the index has changed.
func (x Index) State() string {
	last, _ := x.last()
	info, err := os.Stat(x.file(last))
	if err != nil {
		return ""
	}
	return fmt.Sprint(last, info.Size(), info.ModTime().UnixNano())
}

// KeepIndex writes the feed into x until ctx ends. Of all that do so with one database only one is at work. trouble is
// called for what it cannot do; it is tried again.
func (s *Store) KeepIndex(ctx context.Context, x Index, trouble func(error)) {
	var written *Head // nil if somebody else may have written
	for ctx.Err() == nil {
		release, mine, err := s.lockIndex(ctx)
		if err == nil && mine {
			for end := time.Now().Add(indexTurn); err == nil && ctx.Err() == nil && time.Now().Before(end); pause(ctx, indexEvery) {
				written, err = s.writeIndex(ctx, x, written)
			}
			release()
		} else {
			written = nil
		}
		if err != nil && ctx.Err() == nil {
			trouble(fmt.Errorf("write index: %w", err))
		}
		if err != nil || !mine {
			pause(ctx, indexTurn)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (s *Store) lockIndex(ctx context.Context) (release func(), ok bool, err error) {
	conn, err := s.db.Connect(ctx)
	if err != nil {
		return nil, false, pg.Translate(err)
	}
	release = func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		conn.Close(ctx)
	}
	err = conn.QueryRow(ctx, `SELECT pg_try_advisory_lock(hashtext('packbase index ' || current_schema()))`).Scan(&ok)
	if err != nil || !ok {
		release()
		return nil, false, err
	}
	return release, true, nil
}

// writeIndex writes what has changed since written, and returns what it has written now: nil after an error.
func (s *Store) writeIndex(ctx context.Context, x Index, written *Head) (*Head, error) {
	var head Head
	err := s.db.Pool.QueryRow(ctx, `SELECT seq, chain FROM changes ORDER BY seq DESC LIMIT 1`).Scan(&head.Seq, &head.Chain)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return nil, pg.Translate(err)
	}
	if written != nil && *written == head {
		return written, nil
	}
	if err := os.MkdirAll(x.dir, 0o755); err != nil {
		return nil, err
	}
	if written == nil || written.Seq >= head.Seq {
		written = &Head{} // all of it anew
	}
	old := written.Seq / MaxPage
	n, decided := old, false
	for ; n*MaxPage < head.Seq; n++ {
		page, err := s.indexPage(ctx, x, n)
		if err != nil {
			return nil, err
		}
		decided = decided || page.decidesAfter(written.Seq)
		head = page.Head
	}
	for i := int64(0); decided && i < old; i++ {
		if _, err := s.indexPage(ctx, x, i); err != nil {
			return nil, err
		}
	}
	return &head, x.cut(n)
}

// indexPage writes the n-th file.
func (s *Store) indexPage(ctx context.Context, x Index, n int64) (page Page, err error) {
	if page.Changes, _, err = s.Changes(ctx, n*MaxPage, MaxPage); err != nil {
		return page, err
	}
	if len(page.Changes) == 0 {
		return page, fmt.Errorf("the feed has no changes after %d any more", n*MaxPage)
	}
	end := page.Changes[len(page.Changes)-1]
	page.Head = Head{Seq: end.Seq, Chain: end.Chain}
	return page, x.write(n, page)
}

// decidesAfter reports whether a change after since decides what strangers are told of older ones.
func (p *Page) decidesAfter(since int64) bool {
	return slices.ContainsFunc(p.Changes, func(c Change) bool {
		body, _, err := c.Open()
		var says Body
		return c.Seq > since && err == nil && body != nil && (json.Unmarshal(body, &says) != nil || says.Decision != "")
	})
}

// write writes a file, unless it is so already.
func (x Index) write(n int64, page Page) error {
	raw, err := json.Marshal(page)
	if err != nil {
		return err
	}
	if was, err := userfile.Read(x.file(n), maxIndexed); err == nil && bytes.Equal(was, raw) {
		return nil
	}
	f, err := os.CreateTemp(x.dir, ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(raw)
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), x.file(n))
}

// cut removes the files from the n-th on: the database was restored, and has fewer changes.
func (x Index) cut(n int64) error {
	last, err := x.last()
	for ; err == nil && last >= n; last-- {
		if err = os.Remove(x.file(last)); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	return err
}
