// Package otherlog reads the logs of others, and holds them to what they showed before, to each other and to themselves.
// What two logs contradict each other in is evidence that convinces who knows neither. docs/log.md is the specification.
package otherlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/francescobianco/packbase/storage/logbook"
	"github.com/francescobianco/packbase/storage/userfile"
)

// Limits of what is read of somebody else's log.
const (
	maxEntries = 10_000_000
	readTime   = 30 * time.Second
)

// A Memory is what is kept of a log between two looks at it. The zero Memory is that of a log that was never seen.
type Memory struct {
	Policy     []byte // by whom it is signed; nil for what it says itself
	Checkpoint []byte // the largest that was seen
}

// A Log is a log at the moment of a checkpoint.
type Log struct {
	Memory
	Where string // a URL, or a folder
	Tree  tlog.Tree
	tiles torchwood.TileReader
	file  func(path string) ([]byte, error)
}

// ShownPolicy returns the policy that the log shows. It is of the key that signs it.
func (l *Log) ShownPolicy() ([]byte, error) {
	policy, err := l.file(logbook.PolicyFile)
	if err == nil && logbook.PolicyKey(policy) != logbook.PolicyKey(l.Policy) {
		err = errors.New("it is of another key")
	}
	if err != nil {
		return nil, fmt.Errorf("policy of the log of %s: %w", l.Where, err)
	}
	return policy, nil
}

// Open reads the checkpoint of the log of a packbase at a URL. It must be signed as is remembered, and go on from what was
// seen. A key that has taken the place of the one that is remembered is followed.
func Open(ctx context.Context, client *http.Client, base string, seen Memory) (*Log, error) {
	base = strings.TrimRight(base, "/")
	// What a log is read from does not say where else this machine asks.
	straight := *client
	straight.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	tiles, err := logbook.TilesAt(base+"/log", &straight)
	if err != nil {
		return nil, err
	}
	return open(ctx, base, tiles, seen, func(path string) ([]byte, error) { return get(ctx, &straight, base+"/log/"+path) })
}

// OpenFolder reads the checkpoint of a log whose files are in a folder. Its error is fs.ErrNotExist if there is none yet.
func OpenFolder(ctx context.Context, dir string, seen Memory) (*Log, error) {
	files := userfile.Folder{Dir: dir, Most: logbook.MaxFile}
	tiles, err := torchwood.NewTileFS(files)
	if err != nil {
		return nil, err
	}
	l, err := open(ctx, dir, tiles, seen, files.ReadFile)
	if err == nil {
		l.Where, _, _ = strings.Cut(logbook.PolicyKey(l.Policy), "+") // no path of this machine
	}
	return l, err
}

func get(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", url, res.Status)
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, logbook.MaxFile+1))
	if err == nil && len(b) > logbook.MaxFile {
		err = fmt.Errorf("%s has more than %d bytes", url, logbook.MaxFile)
	}
	return b, err
}

func open(ctx context.Context, where string, tiles torchwood.TileReader, seen Memory, file func(path string) ([]byte, error)) (*Log, error) {
	l := &Log{Memory: seen, Where: where, tiles: tiles, file: file}
	var err error
	if l.Policy == nil {
		if l.Policy, err = file(logbook.PolicyFile); err != nil {
			return nil, fmt.Errorf("log of %s: %w", where, err)
		}
	}
	var before tlog.Tree
	if len(seen.Checkpoint) > 0 {
		if before, err = logbook.OpenCheckpoint(seen.Checkpoint, l.Policy); err != nil {
			return nil, fmt.Errorf("log of %s: what was seen of it: %w", where, err)
		}
	}
	if l.Checkpoint, err = file(logbook.CheckpointFile); err != nil {
		return nil, fmt.Errorf("log of %s: %w", where, err)
	}
	if l.Tree, err = l.signed(ctx); err != nil {
		return nil, fmt.Errorf("log of %s: %w", where, err)
	}
	switch {
	case l.Tree.N < before.N:
		return nil, fmt.Errorf("the log of %s has %d entries, and had %d: it was set back, or this is not it", where, l.Tree.N, before.N)
	case l.Tree.N > maxEntries:
		return nil, fmt.Errorf("the log of %s has %d entries, at most %d are read", where, l.Tree.N, int64(maxEntries))
	}
	if err := logbook.Grew(ctx, before, l.Tree, l.tiles); err != nil {
		return nil, fmt.Errorf("log of %s: %w", where, err)
	}
	return l, nil
}

// signed returns the tree of the checkpoint, if it is signed as is trusted, or by a key that has taken the place of that one.
func (l *Log) signed(ctx context.Context) (tlog.Tree, error) {
	tree, bad := logbook.OpenCheckpoint(l.Checkpoint, l.Policy)
	if bad == nil {
		return tree, nil
	}
	policy, then, err := logbook.FollowKeys(l.Policy, l.Checkpoint, l.file)
	if err != nil {
		return tree, fmt.Errorf("it is not signed by the key that it was signed by: %w; %w", bad, err)
	}
	l.Policy = policy
	if tree, err = logbook.OpenCheckpoint(l.Checkpoint, policy); err != nil {
		return tree, err
	}
	return tree, logbook.Grew(ctx, then, tree, l.tiles)
}

// Entries calls yield with each entry from one on, proved to be in the tree.
func (l *Log) Entries(ctx context.Context, from int64, yield func(index int64, e logbook.Entry) error) error {
	client, err := torchwood.NewClient(l.tiles)
	if err != nil {
		return err
	}
	for i, text := range client.AllEntries(ctx, l.Tree, from) {
		e, err := logbook.ParseEntry(text)
		if err == nil {
			err = yield(i, e)
		}
		if err != nil {
			return fmt.Errorf("log of %s: entry %d: %w", l.Where, i, err)
		}
	}
	if err := errors.Join(client.Err(), ctx.Err()); err != nil {
		return fmt.Errorf("log of %s: %w", l.Where, err)
	}
	return nil
}

// prove returns the proof of an entry, and the entry.
func (l *Log) prove(ctx context.Context, index int64) (proof []byte, e logbook.Entry, err error) {
	client, err := torchwood.NewClient(l.tiles)
	if err != nil {
		return nil, nil, err
	}
	text, path, err := client.Entry(ctx, l.Tree, index)
	if err == nil {
		e, err = logbook.ParseEntry(text)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("log of %s: entry %d: %w", l.Where, index, err)
	}
	return torchwood.FormatProofWithExtraData(index, text, path, l.Checkpoint), e, nil
}
