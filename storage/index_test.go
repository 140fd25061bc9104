package storage_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/feed"
)

// A follower reads an index as an edge does, and holds it to its chain.
func (f *fixture) readIndex(x feed.Index, limit int) (changes []feed.Change, head feed.Head) {
	f.t.Helper()
	chain := ""
	for {
		page, err := x.Changes(int64(len(changes)), limit)
		f.must(err)
		for _, c := range page.Changes {
			if chain = feed.NextChain(chain, c.Body); c.Seq != int64(len(changes))+1 || c.Chain != chain {
				f.t.Fatalf("change %d follows %d, chain %s, want %s", c.Seq, len(changes), c.Chain, chain)
			}
			changes = append(changes, c)
		}
		if len(page.Changes) == 0 {
			return changes, page.Head
		}
	}
}

// The index in files is what strangers are told, also after a decision about what is in its oldest file, and once the
// database has fewer changes than it.
func TestIndex(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.publish("hello", "v1", "v2")
	f.publish("secret", "v1")
	see := access.SeePrivate(f.ctx)
	f.must(f.SetVisibility(see, "secret", true))
	rename := func(n int) {
		t.Helper()
		f.must(f.Tx(f.ctx, func(tx pgx.Tx) error {
			for i := range n {
				if err := feed.AddNews(f.ctx, tx, feed.Body{Package: "hello", Renamed: fmt.Sprint("name", i)}, false); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	rename(2 * feed.MaxPage)

	folder := t.TempDir()
	x := feed.IndexIn(folder)
	if page, err := x.Changes(0, 10); err != nil || len(page.Changes) != 0 || page.Head.Seq != 0 {
		t.Errorf("before there is one: %+v, %v", page, err)
	}
	if _, err := x.Changes(1, 10); err == nil {
		t.Error("an index that is gone is no error for who has read it")
	}
	ctx, stop := context.WithCancel(f.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.Feed.KeepIndex(ctx, x, func(err error) { t.Error(err) })
	}()
	agrees := func() (changes []feed.Change) {
		t.Helper()
		want, head, err := f.Feed.Changes(f.ctx, 0, 10*feed.MaxPage)
		f.must(err)
		for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			if page, err := x.Changes(head.Seq, 1); err == nil && page.Head == head {
				break
			}
			if time.Now().After(end) {
				t.Fatal("the index is not written")
			}
		}
		// What is older is written after what is new.
		for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			changes, _ = f.readIndex(x, 300)
			differs := -1
			for i := range want {
				if i >= len(changes) || fmt.Sprint(changes[i]) != fmt.Sprint(want[i]) {
					differs = i
					break
				}
			}
			if differs < 0 && len(changes) == len(want) {
				return changes
			}
			if time.Now().After(end) {
				t.Fatalf("the index has %d changes, want %d, and not the same from %d on", len(changes), len(want), differs)
			}
		}
	}
	got := agrees()
	if !got[2].Withheld || got[0].Withheld || got[2].Secret != nil {
		t.Errorf("withheld: secret %v, hello %v", got[2].Withheld, got[0].Withheld)
	}
	rename(3)
	agrees()
	_, err := f.Remove(see, storage.Removal{Package: "hello", Tag: "v1", Reason: "holds a key"})
	f.must(err)
	if got := agrees(); !got[0].Withheld {
		t.Error("what was removed is not withheld in the oldest file")
	}
	stop()
	<-done

	if files, err := filepath.Glob(filepath.Join(folder, "index", "*")); err != nil || len(files) != 3 {
		t.Errorf("files: %q, want three", files)
	}
	oldest := filepath.Join(folder, "index", "0000000000.json")
	f.must(os.Rename(oldest, oldest+".away"))
	if _, err := x.Changes(0, 10); err == nil {
		t.Error("an index without its oldest file was read")
	}
	f.must(os.WriteFile(oldest, []byte(`{"changes":[],"head":{"seq":7}}`), 0o644))
	if _, err := x.Changes(0, 10); err == nil {
		t.Error("an index with half of its oldest file was read")
	}

	// Another database, of another history: files that it has not come to are gone.
	g := newFixture(t)
	g.publish("other", "v1")
	ctx, stop = context.WithCancel(g.ctx)
	done = make(chan struct{})
	go func() {
		defer close(done)
		g.Feed.KeepIndex(ctx, x, func(err error) { t.Error(err) })
	}()
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if page, err := x.Changes(0, 10); err == nil && page.Head.Seq == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the index is still that of the database before")
		}
	}
	stop()
	<-done
}

// A folder of somebody else's may have anything in the place of an index.
func TestIndexIsNoPipe(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "index", "0000000000.json")
	if err := errors.Join(os.Mkdir(filepath.Dir(file), 0o755), syscall.Mkfifo(file, 0o644)); err != nil {
		t.Fatal(err)
	}
	if _, err := feed.IndexIn(dir).Changes(0, 1); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("err = %v", err)
	}
	if err := errors.Join(os.Remove(file), os.WriteFile(file, nil, 0o644), os.Truncate(file, 1<<40)); err != nil {
		t.Fatal(err)
	}
	if _, err := feed.IndexIn(dir).Changes(0, 1); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("err = %v", err)
	}
}
