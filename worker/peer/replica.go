// Package peer makes this registry an edge: it follows the feed of a
// central, copies blobs by digest, and publishes what it has checked.
//
// An edge trusts nothing: each blob must have the digest that the feed names,
// each tarball must hold the tree of upstream's commit, and each change must
// continue the chain of digests that the edge has followed so far. A central
// that contradicts itself or was rolled back stops replication, until an
// operator resumes it, and with a reason; what the edge has shown it goes on
// serving. What was damaged on the way is asked for again. One release that
// cannot be had, or is not what it says, is set aside with the reason and tried
// again later, and the feed goes on.
package peer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/feed"
	"github.com/francescobianco/packbase/storage/ledger"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/pg"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/strangejson"
	"github.com/francescobianco/packbase/worker/probe"
	"github.com/francescobianco/packbase/worker/upkeep"
)

// Limits of what an edge asks for, and of what it believes.
const (
	pageChanges = 200
	maxPage     = 16 << 20 // bytes of one page of the feed
	maxBody     = 16 << 10 // bytes of what one change says: thousands of them are in memory
	maxBlob     = 4 << 30  // bytes
	maxBatch    = 1 << 30  // bytes of tarballs that are published at once, but for the first
	asTarball   = 64       // bytes of one that each of a manifest counts for: manifests are in memory until all are published
	sameLie     = 3        // times in a row that the central must say it: damage on the way differs each time
	asideTries  = 3        // of a change, before it is set aside
	asideAtOnce = 5        // changes that are tried again between two looks at the feed
	pollWait    = 20 * time.Second
	blobTimeout = 30 * time.Minute
)

// A Replica follows one central.
type Replica struct {
	DB      *storage.DB
	Blobs   blob.Store
	Staging *blob.Staging
	Prober  *probe.Prober
	Central string // its URL, without a slash at the end
	Token   string // with which it shows private packages; "" for none
	HTTP    *http.Client
	Retry   time.Duration // wait after a failure, doubled up to 16 times as long
	Scrub   time.Duration // in which all blobs are read again; 0 for never
	Log     *slog.Logger

	Mirror *ledger.Mirror // of the central's log; nil for none

	alone    int64 // up to this change they are taken over one by one: one of them failed
	failing  int64 // the change that failed last
	failures int   // of it, one after the other
	ahead    lookout
	stuck    *feed.Replication // where the last step began that had something to take over; nil if it had not
}

// A contradiction proves that the central's history is not what it was.
type contradiction struct{ reason string }

func (c *contradiction) Error() string { return c.reason }

func contradict(format string, args ...any) error {
	return &contradiction{fmt.Sprintf(format, args...)}
}

// Run follows the central until ctx ends. It returns an error only if it
// cannot begin.
func (r *Replica) Run(ctx context.Context) error {
	ctx = access.SeePrivate(ctx)
	if _, err := r.DB.Feed.Follow(ctx, r.Central, r.Token != ""); err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	keeper := upkeep.Keeper{Auditor: r.auditor(), Period: r.Scrub, Probe: r.probe, Log: r.Log}
	wg.Go(func() { keeper.Run(ctx) })
	wg.Go(func() { r.probeRest(ctx) })
	wg.Go(func() { r.followLog(ctx) })
	if err := r.DB.Feed.RetrySetAside(ctx); err != nil { // this packbase may be a later one
		return err
	}
	wait, lie, times := r.Retry, "", 0
	for ctx.Err() == nil {
		err := r.step(ctx)
		if err == nil {
			if wait > r.Retry {
				r.probeRest(ctx) // a full disk fails probes, too
			}
			wait, times = r.Retry, 0
			continue
		}
		if ctx.Err() != nil {
			return nil
		}
		var c *contradiction
		if errors.As(err, &c) {
			if c.reason != lie {
				lie, times = c.reason, 0
			}
			if times++; times >= sameLie {
				r.Log.ErrorContext(ctx, "replication halted: the central contradicts itself", "reason", lie)
				err = errors.Join(err, r.DB.Feed.Halt(ctx, text(lie)))
			}
		}
		r.Log.WarnContext(ctx, "central not followed", "err", err)
		r.rest(ctx, wait/2+rand.N(wait/2+1))
		wait = min(2*wait, 16*r.Retry)
	}
	return nil
}

// rest pauses after a failure. If the central answers, and it is something of it that cannot be taken over, what it decides
// does not wait for that.
func (r *Replica) rest(ctx context.Context, d time.Duration) {
	if r.stuck == nil {
		pause(ctx, d)
		return
	}
	err := r.meanwhile(ctx, *r.stuck, func() error { pause(ctx, d); return nil })
	if err != nil && ctx.Err() == nil {
		r.Log.WarnContext(ctx, "decisions of the central not looked for", "err", err)
	}
}

// auditor checks what is published here, and mends it from the central.
func (r *Replica) auditor() upkeep.Auditor {
	return upkeep.Auditor{DB: r.DB, Blobs: r.Blobs, Staging: r.Staging, Peer: r.copy, Report: func(f upkeep.Finding) {
		r.Log.Error("blob damaged", "code", f.Code, "digest", f.Subject, "problem", f.Problem, "mended", f.Mended)
	}}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// step takes over the next page of changes, or waits for one.
func (r *Replica) step(ctx context.Context) error {
	r.stuck = nil
	at, err := r.DB.Feed.Replication(ctx)
	if err != nil {
		return err
	}
	if at.Halted != "" {
		r.Log.WarnContext(ctx, "replication is halted; --resume goes on once the cause is known", "reason", at.Halted)
		return r.meanwhile(ctx, at, func() error { pause(ctx, max(16*r.Retry, lookAfter)); return nil })
	}
	due, err := r.DB.Feed.DueSetAside(ctx, asideAtOnce)
	if err == nil && len(due) > 0 {
		err = r.meanwhile(ctx, at, func() error { return r.retryAside(ctx, due, at) })
	}
	if err != nil {
		return err
	}
	asked := time.Now()
	page, err := r.changes(ctx, at.Seq)
	if err != nil {
		return err
	}
	if err := checkPage(feed.Head{Seq: at.Seq, Chain: at.Chain}, page); err != nil {
		return err
	}
	if err := r.DB.Feed.Seen(ctx, page.Head.Seq); err != nil {
		return err
	}
	if len(page.Changes) == 0 {
		pause(ctx, r.Retry-time.Since(asked)) // the central did not wait
		return nil
	}
	r.stuck = &at
	return r.meanwhile(ctx, at, func() error {
		for from := 0; from < len(page.Changes); {
			n, err := r.apply(ctx, page.Changes[from:])
			if err != nil {
				return err
			}
			from += n
		}
		return nil
	})
}

func (r *Replica) changes(ctx context.Context, since int64) (feed.Page, error) {
	q := url.Values{"since": {strconv.FormatInt(since, 10)}, "limit": {strconv.Itoa(pageChanges)}, "wait": {strconv.Itoa(int(pollWait.Seconds()))}}
	if r.Token != "" {
		q.Set("private", "1")
	}
	ctx, cancel := context.WithTimeout(ctx, pollWait+time.Minute)
	defer cancel()
	var page feed.Page
	body, err := r.get(ctx, feed.ChangesPath+"?"+q.Encode())
	if err != nil {
		return page, err
	}
	defer body.Close()
	raw, err := io.ReadAll(io.LimitReader(body, maxPage+1))
	if err != nil {
		return page, fmt.Errorf("read changes: %w", err)
	}
	if len(raw) > maxPage {
		return page, fmt.Errorf("a page of the feed has more than %d bytes", maxPage)
	}
	if err := strangejson.Unmarshal(raw, &page); err != nil {
		return page, fmt.Errorf("read changes: %w", err)
	}
	return page, nil
}

// errAway says that the central did not answer.
var errAway = errors.New("the central does not answer")

// get asks the central; it tells an answer that says no from none.
func (r *Replica) get(ctx context.Context, target string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.Central+target, nil)
	if err != nil {
		return nil, fmt.Errorf("ask central: %w", err)
	}
	if r.Token != "" {
		req.Header.Set("Authorization", "Bearer "+r.Token)
	}
	resp, err := r.HTTP.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", errAway, err)
	}
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden:
		resp.Body.Close()
		return nil, fmt.Errorf("ask central for %s: %s; PACKBASE_CENTRAL_TOKEN must be a token of the central with the scope read", target, resp.Status)
	default:
		resp.Body.Close()
		return nil, fmt.Errorf("ask central for %s: %s", target, resp.Status)
	}
	return resp.Body, nil
}

// checkPage holds a page of the feed to what the edge knows.
func checkPage(at feed.Head, page feed.Page) error {
	head := page.Head
	switch {
	case head.Seq < at.Seq:
		return contradict("the central has %d changes, and showed %d before: it was rolled back", head.Seq, at.Seq)
	case head.Seq == at.Seq && head.Chain != at.Chain:
		return contradict("change %d of the central is not the one that it showed before", at.Seq)
	case len(page.Changes) > pageChanges:
		return fmt.Errorf("a page of the feed has %d changes, at most %d were asked for", len(page.Changes), pageChanges)
	case len(page.Changes) == 0 && head.Seq > at.Seq:
		return contradict("the central has %d changes, and shows none after change %d", head.Seq, at.Seq)
	}
	seq, chain := at.Seq, at.Chain
	for _, c := range page.Changes {
		if c.Seq != seq+1 {
			return contradict("the central's feed goes from change %d to %d", seq, c.Seq)
		}
		if want := feed.NextChain(chain, c.Body); c.Chain != want {
			return contradict("change %d does not continue the feed that the central showed before", c.Seq)
		}
		seq, chain = c.Seq, c.Chain
	}
	switch {
	case seq > head.Seq:
		return contradict("the central shows change %d, and says that it has %d", seq, head.Seq)
	case seq == head.Seq && chain != head.Chain:
		return contradict("the central's head %d is not the change of that number", seq)
	}
	return nil
}

// apply takes over the changes at the front that are of one package, and
// returns how many those were.
func (r *Replica) apply(ctx context.Context, changes []feed.Change) (n int, err error) {
	b, err := r.batch(ctx, changes)
	if err == nil {
		err = r.follow(ctx, b)
	}
	var c *contradiction
	switch {
	case err == nil:
		return b.changes, nil
	case errors.As(err, &c), ctx.Err() != nil, ownTrouble(err):
		return 0, err
	case b.changes > 1:
		r.alone = b.last.Seq // one of them: find out which
		return 0, nil
	}
	if r.failing != b.last.Seq {
		r.failing, r.failures = b.last.Seq, 0
	}
	if r.failures++; r.failures < asideTries {
		return 0, err
	}
	r.Log.ErrorContext(ctx, "change set aside", "seq", b.last.Seq, "package", b.pkg, "reason", err)
	aside := b.aside(err)
	aside.Private = aside.Private || r.privateByNow(aside.Package)
	return b.changes, r.DB.Feed.SetChangeAside(ctx, aside, b.last)
}

// ownTrouble reports whether err tells of this machine and not of a release.
func ownTrouble(err error) bool {
	var file *fs.PathError
	var errno syscall.Errno
	return errors.Is(err, blob.ErrFull) || errors.Is(err, blob.ErrUnavailable) || pg.IsAway(err) || errors.As(err, &file) || errors.As(err, &errno)
}

// follow does what the changes of a batch say.
func (r *Replica) follow(ctx context.Context, b batch) error {
	switch {
	case b.problem != nil:
		return b.problem
	case b.decision != nil:
		if err := r.decideInTurn(ctx, b.last.Seq, b.decision); err != nil {
			return err
		}
	case b.news != nil:
		if err := r.applyNews(ctx, b.last.Seq, b.news, b.private); err != nil {
			return err
		}
	case b.pkg != "":
		if err := r.publish(ctx, b); err != nil {
			return err
		}
	}
	return r.DB.Feed.Advance(ctx, b.last)
}

// publish publishes the releases of a batch, and keeps what is known of their package by then.
func (r *Replica) publish(ctx context.Context, b batch) error {
	if err := r.adopt(ctx, b); err != nil {
		return err
	}
	return r.storeRecord(ctx, b.pkg)
}

// adopt copies, checks and publishes the releases of a batch.
func (r *Replica) adopt(ctx context.Context, b batch) (err error) {
	defer func() {
		if p := recover(); p != nil {
			r.Log.ErrorContext(ctx, "release broke replication", "package", b.pkg, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("reading it failed in a way that was not foreseen: %v", p)
		}
	}()
	// While this is held, no blob is swept that is about to be named.
	unlock, err := r.DB.Scrub.Share(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	var copied []blob.Ref
	for _, body := range r.wanted(b.bodies) {
		copied = append(copied, body.Manifest)
		err := r.copyRelease(ctx, body)
		if err == nil {
			err = r.compare(ctx, body)
		}
		if err != nil {
			return errors.Join(err, r.forget(ctx, err, copied...))
		}
	}
	var manifests []blob.Ref
	for _, body := range r.wanted(b.bodies) {
		manifests = append(manifests, body.Manifest)
	}
	if len(manifests) == 0 {
		return nil
	}
	a := r.auditor()
	if err := a.Adopt(ctx, b.pkg, manifests, b.private || r.privateByNow(b.pkg)); err != nil {
		return errors.Join(err, r.forget(ctx, err, manifests...))
	}
	if err := r.decideAgain(ctx, b.pkg); err != nil {
		return err
	}
	r.Log.InfoContext(ctx, "releases replicated", "package", b.pkg, "count", len(manifests), "seq", b.last.Seq)
	r.probe(ctx, b.pkg)
	return nil
}

// forget removes the documents of what was refused, unless something that is published has the same: who rebuilds from the
// blobs would take them for those of what was published here.
func (r *Replica) forget(ctx context.Context, refusal error, documents ...blob.Ref) error {
	if ctx.Err() != nil || ownTrouble(refusal) {
		return nil
	}
	for _, d := range documents {
		uses, err := r.DB.Scrub.Uses(ctx, d.Digest)
		if err == nil && len(uses) == 0 {
			err = r.Blobs.Delete(ctx, d.Digest)
		}
		if err != nil && !errors.Is(err, blob.ErrOthers) {
			return fmt.Errorf("forget document %s: %w", d.Digest, err)
		}
	}
	return nil
}

// retryAside tries changes again that were set aside and are due. Of a central that does not answer, only its feed tells
// whether that is away, or has no answer for a blob: the latter holds up no other change.
func (r *Replica) retryAside(ctx context.Context, due []feed.SetAside, at feed.Replication) (err error) {
	heard := at.SyncedAt != nil && time.Since(*at.SyncedAt) < 2*pollWait
	for _, s := range due {
		if err != nil {
			break
		}
		err = r.publishAside(ctx, s)
		switch {
		case err == nil:
			r.Log.InfoContext(ctx, "change that was set aside is here", "seq", s.Seq, "package", s.Package)
			err = r.DB.Feed.SetAsideDone(ctx, s.Seq)
		case errors.Is(err, errAway) && !heard:
			return nil
		case ctx.Err() == nil && !ownTrouble(err):
			r.Log.WarnContext(ctx, "change stays aside", "seq", s.Seq, "package", s.Package, "reason", err)
			err = r.DB.Feed.SetAsideFailed(ctx, s.Seq, text(err.Error()))
		}
	}
	return err
}

func (r *Replica) publishAside(ctx context.Context, s feed.SetAside) error {
	body, err := readBody([]byte(s.Body))
	if err != nil {
		return err
	}
	switch {
	case body.Renamed != "":
		return r.rename(ctx, body.Package)
	case body.IsNews():
		return r.applyNews(ctx, s.Seq, body, s.Private)
	case body.Decision == feed.DecisionPublic && s.Private:
		return nil
	case body.Decision != "":
		return r.decideInTurn(ctx, s.Seq, body)
	}
	b := batch{pkg: body.Package, private: s.Private, bodies: []feed.Body{*body}, changes: 1}
	b.last.Seq = s.Seq
	return r.publish(ctx, b)
}

// decide does here what was decided at the central.
func (r *Replica) decide(ctx context.Context, c *feed.Body) error {
	var err error
	switch c.Decision {
	case feed.DecisionPrivate, feed.DecisionPublic:
		err = r.DB.SetVisibility(ctx, c.Package, c.Decision == feed.DecisionPrivate)
	case feed.DecisionRemoved:
		err = r.DB.FollowRemoval(ctx, storage.Removal{Package: c.Package, Tag: c.Tag, Commit: c.Commit, Reason: c.Reason})
	default:
		return contradict("the central decided %.20q about %s, which this packbase does not know; it may be older than the central", c.Decision, c.Package)
	}
	if errors.Is(err, fault.ErrNotFound) {
		err = nil // nothing of it is here
	}
	if err != nil {
		return err
	}
	return r.decideAside(ctx, c)
}

// storeRecord keeps what is known of a package among the blobs, too: who rebuilds from those of an edge must not get back what
// was removed, nor show what is private.
func (r *Replica) storeRecord(ctx context.Context, pkg string) error {
	a := r.auditor()
	return a.KeepRecord(ctx, pkg)
}

// decideAside holds to a decision what was set aside, too.
func (r *Replica) decideAside(ctx context.Context, c *feed.Body) error {
	if c.Decision != feed.DecisionRemoved {
		return r.DB.Feed.SetAsideVisibility(ctx, c.Package, c.Decision == feed.DecisionPrivate)
	}
	aside, err := r.DB.Feed.SetAsideOf(ctx, c.Package)
	for _, s := range aside {
		body, bad := readBody([]byte(s.Body))
		if err == nil && (c.Commit == "" || bad == nil && body.Tag == c.Tag && body.Commit == c.Commit) {
			err = r.DB.Feed.SetAsideDone(ctx, s.Seq)
		}
	}
	return err
}

// A batch is the changes at the front of a page that are taken over at once.
type batch struct {
	pkg      string
	private  bool
	changes  int         // how many they are
	last     feed.Change // the last of them
	bodies   []feed.Body // those whose releases are not here yet
	decision *feed.Body  // instead of releases
	news     *feed.Body  // the same
	problem  error       // why the one change cannot be taken over
}

// add adds a change.
func (b *batch) add(c feed.Change) { b.changes, b.last = b.changes+1, c }

// aside returns the batch's one change as it is set aside.
func (b *batch) aside(reason error) feed.SetAside {
	raw, private, err := b.last.Open()
	s := feed.SetAside{Seq: b.last.Seq, Private: private, Reason: text(reason.Error())}
	if err != nil || raw == nil {
		raw = b.last.Body
	}
	s.Body = text(string(raw[:min(len(raw), maxBody)]))
	var says feed.Body
	if len(raw) <= maxBody && json.Unmarshal(raw, &says) == nil {
		s.Package, s.Tag = text(says.Package), text(says.Tag)
	}
	return s
}

// text makes what a stranger wrote fit to be stored.
func text(s string) string { return strings.ReplaceAll(strings.ToValidUTF8(s, "\ufffd"), "\x00", "") }

// batch reads the changes at the front that are of one package, and compares
// them with what is here.
func (r *Replica) batch(ctx context.Context, changes []feed.Change) (b batch, err error) {
	var held map[string]*storage.Release
	size := int64(0)
	for _, c := range changes {
		body, private, err := parseBody(c)
		special := err != nil || body != nil && (body.Decision != "" || body.IsNews())
		if b.changes > 0 && (special || c.Seq <= r.alone) {
			break
		}
		if special {
			b.add(c)
			if b.private, b.problem = private, err; err == nil && body.IsNews() {
				b.news = body
			} else {
				b.decision = body
			}
			break
		}
		if body == nil {
			if b.pkg != "" {
				break
			}
			b.add(c)
			continue
		}
		size += body.Tarball.Size + asTarball*body.Manifest.Size
		if b.pkg != "" && (body.Package != b.pkg || size > maxBatch) {
			break
		}
		if held == nil {
			if held, err = r.held(ctx, body.Package); err != nil {
				return b, err
			}
		}
		b.pkg, b.private = body.Package, b.private || private
		b.add(c)
		was, ok := held[releaseKey(body.Tag, body.Commit)]
		if !ok {
			b.bodies = append(b.bodies, *body)
			held[releaseKey(body.Tag, body.Commit)] = &storage.Release{CommitOID: body.Commit, Digest: body.Tarball.Digest}
			continue
		}
		if was.CommitOID != body.Commit || was.Digest != body.Tarball.Digest {
			return b, contradict("change %d says that %s@%s is commit %s in tarball %s; it was commit %s in tarball %s before",
				c.Seq, body.Package, body.Tag, body.Commit, body.Tarball.Digest, was.CommitOID, was.Digest)
		}
	}
	return b, nil
}

// parseBody returns what a change says, and whether it is of a private
// package; nil if it is not for this edge.
func parseBody(c feed.Change) (body *feed.Body, private bool, err error) {
	raw, private, err := c.Open()
	if err != nil || raw == nil {
		return nil, private, err
	}
	if body, err = readBody(raw); err != nil {
		return nil, private, fmt.Errorf("change %d: %w", c.Seq, err)
	}
	if c.Withheld && body.Decision == "" {
		return nil, private, nil
	}
	if body.Decision == feed.DecisionPublic && (private || c.Withheld) {
		return nil, private, nil // that it is private again was decided later
	}
	return body, private, nil
}

// readBody reads and checks what a change says.
func readBody(raw []byte) (*feed.Body, error) {
	body := &feed.Body{}
	if len(raw) > maxBody {
		return body, fmt.Errorf("it has %d bytes, more than %d", len(raw), maxBody)
	}
	if err := json.Unmarshal(raw, body); err != nil {
		return nil, errors.New("it is not readable")
	}
	if body.Archive != nil {
		return body, checkArchive(body)
	}
	if body.Tree != nil {
		return body, checkTree(body)
	}
	err := name.ValidPackage(body.Package)
	if body.Renamed != "" {
		return body, errors.Join(err, name.ValidPackage(body.Renamed))
	}
	if err == nil && body.Tag != "" {
		err = name.ValidTag(body.Tag)
	}
	if whole := body.Decision != "" && body.Commit == ""; err == nil && !whole && !name.ValidOID(body.Commit) {
		err = fmt.Errorf("%.50q is no commit id", body.Commit)
	}
	if body.Decision != "" {
		return body, err
	}
	if body.Branch != "" {
		return body, errors.Join(err, name.ValidRef(body.Branch))
	}
	return body, errors.Join(err, checkBlobs(body.Manifest, body.Tarball))
}

func checkBlobs(blobs ...blob.Ref) (err error) {
	for _, b := range blobs {
		if b.Size <= 0 || b.Size > maxBlob || len(b.Digest) != 64 || strings.Trim(b.Digest, "0123456789abcdef") != "" {
			err = errors.Join(err, fmt.Errorf("no blob is called %.70q and has %d bytes", b.Digest, b.Size))
		}
	}
	return err
}

// held returns the releases and snapshots of pkg that are here, or set aside.
func (r *Replica) held(ctx context.Context, pkg string) (map[string]*storage.Release, error) {
	releases, err := r.DB.Releases(ctx, pkg)
	if err != nil {
		return nil, err
	}
	held := make(map[string]*storage.Release, len(releases))
	for i := range releases {
		held[releaseKey(releases[i].Tag, releases[i].CommitOID)] = &releases[i]
	}
	aside, err := r.DB.Feed.SetAsideOf(ctx, pkg)
	if err != nil {
		return nil, err
	}
	for _, s := range aside {
		if body, err := readBody([]byte(s.Body)); err == nil {
			held[releaseKey(body.Tag, body.Commit)] = &storage.Release{CommitOID: body.Commit, Digest: body.Tarball.Digest}
		}
	}
	return held, nil
}

// releaseKey returns what makes a release of a package unique: its tag, or the
// commit of a snapshot. No tag begins with a slash.
func releaseKey(tag, commit string) string {
	if tag == "" {
		return "/" + commit
	}
	return tag
}

// copyRelease fetches the blobs of a release.
func (r *Replica) copyRelease(ctx context.Context, body feed.Body) error {
	if body.Manifest.Size > release.MaxManifestSize {
		return fmt.Errorf("the manifest of %s@%s has %d bytes", body.Package, body.Tag, body.Manifest.Size)
	}
	if err := r.copy(ctx, body.Manifest); err != nil {
		return err
	}
	return r.copyFiles(ctx, body.Tarball)
}

// compare holds the manifest of a release to what the change says.
func (r *Replica) compare(ctx context.Context, body feed.Body) error {
	b, err := r.Blobs.Open(ctx, body.Manifest.Digest)
	if err != nil {
		return err
	}
	defer b.Close()
	raw, err := io.ReadAll(io.LimitReader(b, release.MaxManifestSize))
	if err != nil {
		return err
	}
	man, err := release.ParseManifest(raw)
	if err != nil {
		return fmt.Errorf("the manifest of %s@%s is none: %v", body.Package, body.Tag, err)
	}
	says := feed.Body{Nonce: body.Nonce, Package: man.Package, Tag: man.Tag, Commit: man.Commit, Manifest: body.Manifest,
		Tarball: blob.Ref{Digest: man.Tarball.Digest, Size: man.Tarball.Size}}
	if says != body {
		return fmt.Errorf("the manifest of %s@%s is of %s@%s, commit %s, tarball %s: not what the feed says",
			body.Package, body.Tag, man.Package, man.Tag, man.Commit, man.Tarball.Digest)
	}
	return nil
}

// copy fetches a blob that is not here yet.
func (r *Replica) copy(ctx context.Context, b blob.Ref) error { return r.fetch(ctx, b, true) }

// copyFiles is copy for what is no document: nobody would forget one that is refused as files.
func (r *Replica) copyFiles(ctx context.Context, b blob.Ref) error { return r.fetch(ctx, b, false) }

func (r *Replica) fetch(ctx context.Context, b blob.Ref, document bool) error {
	err := blob.Verify(ctx, r.Blobs, b.Digest)
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, blob.ErrMismatch) {
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
	body, err := r.get(ctx, feed.BlobsPath+b.Digest)
	if err != nil {
		return err
	}
	defer body.Close()
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, hash), io.LimitReader(body, b.Size+1))
	var file *fs.PathError
	switch {
	case errors.As(err, &file):
		return fmt.Errorf("copy blob %s: %w", b.Digest, err)
	case err != nil: // not our network's kind of trouble, but the blob's: %v
		return fmt.Errorf("copy blob %s: %v", b.Digest, err)
	}
	if sum := hex.EncodeToString(hash.Sum(nil)); n != b.Size || sum != b.Digest {
		return fmt.Errorf("the blob %s of %d bytes came as %d bytes with the digest %s", b.Digest, b.Size, n, sum)
	}
	start := make([]byte, min(b.Size, 16))
	if _, err := f.ReadAt(start, 0); err != nil {
		return fmt.Errorf("copy blob %s: %w", b.Digest, err)
	}
	if !document && release.IsDocument(start) {
		return fmt.Errorf("the blob %s is a document, and no files", b.Digest)
	}
	if err := r.Blobs.Put(ctx, b.Digest, f); err != nil {
		return fmt.Errorf("copy blob %s: %w", b.Digest, err)
	}
	return nil
}

// probeRest probes what was published and not fetched back.
func (r *Replica) probeRest(ctx context.Context) {
	names, err := r.DB.Unprobed(ctx)
	if err != nil {
		r.Log.WarnContext(ctx, "packages not probed", "err", err)
	}
	for _, name := range names {
		r.probe(ctx, name)
	}
}

// probe fetches the package back. What came of it is in its row.
func (r *Replica) probe(ctx context.Context, pkg string) {
	if _, err := r.Prober.Probe(ctx, pkg); err != nil && ctx.Err() == nil {
		r.Log.WarnContext(ctx, "package not probed", "package", pkg, "err", err)
	}
}
