// Package replica makes this registry an edge: it follows the feed of a
// central, copies blobs by digest, and publishes what it has checked.
//
// An edge trusts nothing: each blob must have the digest that the feed names,
// each tarball must hold the tree of upstream's commit, and each change must
// continue the chain of digests that the edge has followed so far. A central
// that contradicts itself or was rolled back stops replication, for good and
// with a reason; what the edge has shown it goes on serving.
package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"packbase/storage"
	"packbase/storage/blob"
	"packbase/worker/audit"
)

// Limits of what an edge asks for at once.
const (
	pageChanges = 200
	maxPage     = 16 << 20 // bytes of one page of the feed
	maxBlob     = 4 << 30
	pollWait    = 20 * time.Second // how long the central may hold a request when nothing is new
	blobTimeout = 30 * time.Minute
)

// A Replica follows one central.
type Replica struct {
	DB      *storage.DB
	Blobs   blob.Store
	Staging *blob.Staging
	Central string // its URL, without a slash at the end
	HTTP    *http.Client
	Retry   time.Duration // wait after a failure, doubled up to a minute
	Log     *slog.Logger
}

// A contradiction is what no honest central does.
type contradiction struct{ reason string }

func (c *contradiction) Error() string { return c.reason }

func contradict(format string, args ...any) error {
	return &contradiction{fmt.Sprintf(format, args...)}
}

// Run follows the central until ctx ends. It returns an error only if it
// cannot begin.
func (r *Replica) Run(ctx context.Context) error {
	at, err := r.DB.Follow(ctx, r.Central)
	if err != nil {
		return err
	}
	wait := r.Retry
	for ctx.Err() == nil {
		err := r.step(ctx, &at)
		var lie *contradiction
		switch {
		case err == nil:
			wait = r.Retry
			continue
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &lie):
			r.Log.ErrorContext(ctx, "replication halted: the central contradicts itself", "reason", lie.reason, "seq", at.Seq)
			if err := r.DB.Halt(ctx, lie.reason); err != nil {
				r.Log.WarnContext(ctx, "halt not recorded", "err", err)
			}
		default:
			r.Log.WarnContext(ctx, "central not followed", "err", err, "seq", at.Seq)
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, time.Minute)
	}
	return nil
}

// step takes over the next page of changes, or waits for one.
func (r *Replica) step(ctx context.Context, at *storage.Replication) error {
	now, err := r.DB.Replication(ctx)
	if err != nil {
		return err
	}
	*at = now
	if at.Halted != "" {
		return fmt.Errorf("replication is halted: %s; `packbase replicate --resume` goes on once the cause is known", at.Halted)
	}
	page, err := r.changes(ctx, at.Seq)
	if err != nil {
		return err
	}
	if err := checkPage(*at, page); err != nil {
		return err
	}
	if err := r.DB.Seen(ctx, page.Head.Seq); err != nil {
		return err
	}
	for from := 0; from < len(page.Changes); {
		n, err := r.adopt(ctx, page.Changes[from:])
		if err != nil {
			return err
		}
		from += n
	}
	return nil
}

// A feedPage is what GET /api/changes answers.
type feedPage struct {
	Changes []storage.Change `json:"changes"`
	Head    struct {
		Seq   int64  `json:"seq"`
		Chain string `json:"chain"`
	} `json:"head"`
}

func (r *Replica) changes(ctx context.Context, since int64) (feedPage, error) {
	q := url.Values{"since": {strconv.FormatInt(since, 10)}, "limit": {strconv.Itoa(pageChanges)}, "wait": {strconv.Itoa(int(pollWait.Seconds()))}}
	ctx, cancel := context.WithTimeout(ctx, pollWait+time.Minute)
	defer cancel()
	var page feedPage
	body, err := r.get(ctx, "/api/changes?"+q.Encode())
	if err != nil {
		return page, err
	}
	defer body.Close()
	raw, err := io.ReadAll(io.LimitReader(body, maxPage))
	if err != nil {
		return page, fmt.Errorf("read changes: %w", err)
	}
	if err := json.Unmarshal(raw, &page); err != nil {
		return page, fmt.Errorf("read changes: %w", err)
	}
	return page, nil
}

// get asks the central; it tells an answer that says no from none.
func (r *Replica) get(ctx context.Context, target string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.Central+target, nil)
	if err != nil {
		return nil, fmt.Errorf("ask central: %w", err)
	}
	resp, err := r.HTTP.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask central: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("ask central for %s: %s", target, resp.Status)
	}
	return resp.Body, nil
}

// checkPage holds a page of the feed to what the edge knows.
func checkPage(at storage.Replication, page feedPage) error {
	switch {
	case page.Head.Seq < at.Seq:
		return contradict("the central has %d changes, and showed %d before: it was rolled back", page.Head.Seq, at.Seq)
	case page.Head.Seq == at.Seq && page.Head.Chain != at.Chain:
		return contradict("change %d of the central is not the one that it showed before", at.Seq)
	}
	seq, chain := at.Seq, at.Chain
	for _, c := range page.Changes {
		if c.Seq != seq+1 {
			return contradict("the central's feed goes from change %d to %d", seq, c.Seq)
		}
		if want := storage.NextChain(chain, c.Body); c.Chain != want {
			return contradict("change %d does not continue the feed that the central showed before", c.Seq)
		}
		seq, chain = c.Seq, c.Chain
	}
	if seq == page.Head.Seq && chain != page.Head.Chain {
		return contradict("the central's head %d is not the change of that number", seq)
	}
	return nil
}

// adopt takes over the changes at the front that are of one package, and
// returns how many those were.
func (r *Replica) adopt(ctx context.Context, changes []storage.Change) (n int, err error) {
	var pkg string
	var manifests []storage.Blob
	for _, c := range changes {
		var body storage.ChangeBody
		if err := json.Unmarshal(c.Body, &body); err != nil {
			return 0, contradict("change %d is not readable", c.Seq)
		}
		if err := storage.ValidPackage(body.Package); err != nil {
			return 0, contradict("change %d: %v", c.Seq, err)
		}
		if n > 0 && body.Package != pkg {
			break
		}
		pkg = body.Package
		for _, b := range []storage.Blob{body.Manifest, body.Tarball} {
			if err := r.copy(ctx, b); err != nil {
				return 0, err
			}
		}
		manifests = append(manifests, body.Manifest)
		n++
	}
	a := &audit.Auditor{DB: r.DB, Blobs: r.Blobs, Staging: r.Staging, Report: func(audit.Finding) {}}
	if err := a.Adopt(ctx, pkg, manifests, &changes[n-1]); err != nil {
		if ctx.Err() != nil || storage.IsAway(err) || errors.Is(err, blob.ErrFull) || errors.Is(err, blob.ErrUnavailable) {
			return 0, err
		}
		return 0, contradict("changes %d to %d of %s cannot be true: %v", changes[0].Seq, changes[n-1].Seq, pkg, err)
	}
	r.Log.InfoContext(ctx, "releases replicated", "package", pkg, "count", n, "seq", changes[n-1].Seq)
	return n, nil
}

// copy fetches a blob that is not here yet. The store checks its digest: what
// was damaged on the way is asked for again later.
func (r *Replica) copy(ctx context.Context, b storage.Blob) error {
	if b.Size <= 0 || b.Size > maxBlob || len(b.Digest) != 64 || strings.Trim(b.Digest, "0123456789abcdef") != "" {
		return contradict("the feed names a blob %.70q of %d bytes", b.Digest, b.Size)
	}
	if info, err := r.Blobs.Stat(ctx, b.Digest); err == nil && info.Size == b.Size {
		return nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, blobTimeout)
	defer cancel()
	stage, err := r.Staging.New()
	if err != nil {
		return err
	}
	defer stage.Close()
	f, err := os.Create(filepath.Join(stage.Dir, "blob"))
	if err != nil {
		return err
	}
	defer f.Close()
	body, err := r.get(ctx, "/api/blobs/"+b.Digest)
	if err != nil {
		return err
	}
	defer body.Close()
	n, err := io.Copy(f, io.LimitReader(body, b.Size+1))
	if err != nil {
		return fmt.Errorf("copy blob %s: %w", b.Digest, err)
	}
	if n != b.Size {
		return fmt.Errorf("copy blob %s: %d bytes, want %d", b.Digest, n, b.Size)
	}
	if err := r.Blobs.Put(ctx, b.Digest, f); err != nil {
		return fmt.Errorf("copy blob %s: %w", b.Digest, err)
	}
	return nil
}
