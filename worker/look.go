package worker

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/francescobianco/packbase/storage/catalog"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/worker/ingest"
	"github.com/francescobianco/packbase/worker/upstream"
)

const (
	lookSpacing = 8 * time.Millisecond // between looks at one host: they are small, and few are under way at once
	lookHosts   = 4                    // hosts that are looked at at once
	lookTrouble = 5                    // looks in a row that fail: the rest is left to jobs, which say why
)

// seen returns what jobs.Sync keeps of a look that mirrored all: of what upstream listed, and what else decided.
func (w *Worker) seen(listed string, policy catalog.Policy) string {
	if listed == "" {
		return ""
	}
	b, err := json.Marshal(policy)
	if err != nil {
		panic(err) // texts and numbers only
	}
	sum := sha256.Sum256(append(b, w.rules+listed...))
	return hex.EncodeToString(sum[:])
}

// leaveUnchanged asks upstream what it lists, and returns the candidates for which that is not what it was: one small request
// for each package, and nothing for those that a job has to look at anyway. It ends with half of the time that the job has.
// What a host that wants to be asked less leaves no time for is left to the next update, which begins with it unless others
// change more often.
func (u *update) leaveUnchanged(ctx context.Context, all []catalog.Candidate) (rest []catalog.Candidate, err error) {
	hosts := map[string][]string{}            // clone URLs, of which each is in a catalog once
	waiting := map[string]catalog.Candidate{} // by clone URL, until they are looked at
	for _, cand := range all {
		at, err := url.Parse(cand.CloneURL)
		if err != nil || cand.Seen == "" {
			rest = append(rest, cand)
			continue
		}
		cand.Due *= 0.5 + rand.Float64() // else packages that are alike would all be due at once
		host := at.Scheme + "://" + at.Host
		hosts[host] = append(hosts[host], cand.CloneURL)
		waiting[cand.CloneURL] = cand
	}
	total := int64(len(waiting))
	look, cancel := context.WithTimeout(ctx, u.w.opt.JobTimeout/2)
	defer cancel()
	var mu sync.Mutex
	var same []catalog.Candidate
	heard := func(l ingest.Looked) {
		mu.Lock()
		defer mu.Unlock()
		if cand, ok := waiting[l.URL]; ok && l.Error == nil && u.w.seen(l.Digest, cand.Policy) == cand.Seen {
			same = append(same, cand)
		} else if ok {
			rest = append(rest, cand)
		}
		delete(waiting, l.URL)
		u.job.setProgress(jobs.Progress{Step: "look", Done: total - int64(len(waiting)), Total: total, Unit: "packages"})
	}
	g := errgroup.Group{}
	g.SetLimit(lookHosts)
	for _, urls := range hosts {
		slices.SortFunc(urls, func(a, b string) int { return cmp.Compare(waiting[b].Due, waiting[a].Due) })
	}
	for _, urls := range hosts {
		g.Go(func() error {
			err := u.w.lookAt(look, urls, heard)
			if !errors.As(err, new(*later)) && look.Err() == nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			before := len(waiting)
			for _, url := range urls {
				delete(waiting, url)
			}
			u.n.SourceSkipped += before - len(waiting)
			u.w.log.InfoContext(ctx, "upstream is to be asked less: the next update looks at what is left", "host", hostOf(urls[0]), "packages", before-len(waiting))
			return nil
		})
	}
	if err := g.Wait(); err != nil && ctx.Err() == nil {
		u.w.log.WarnContext(ctx, "upstream was not looked at before its jobs", "err", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	rest = slices.AppendSeq(rest, maps.Values(waiting))
	n, err := u.w.db.Catalog.Unchanged(ctx, same)
	if err != nil {
		return nil, err
	}
	u.n.ReposScanned, u.n.SourceRepoUpdated, u.n.PackagesSynced = n, n, n
	for _, cand := range same {
		u.n.TarballsPresent += cand.Releases
	}
	return rest, nil
}

// lookAt has a child look at repositories of one host, and calls heard with what comes of that. It returns a later once the
// host has no time for more.
func (w *Worker) lookAt(ctx context.Context, urls []string, heard func(ingest.Looked)) error {
	host := hostOf(urls[0])
	first, err := url.Parse(urls[0])
	if err != nil {
		return fmt.Errorf("look at upstream: %w", err)
	}
	broker, err := upstream.New(w.opt.Egress).Broker(first)
	if err != nil {
		return err
	}
	stage, err := w.opt.Staging.New()
	if err != nil {
		return err
	}
	defer stage.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The death signal is sent when the thread that started a child ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c, ask, said, err := w.downloader(ctx, broker, stage.Dir)
	if err != nil {
		return err
	}
	defer said.Close()
	if err := c.start(w.downloadRequest("", stage.Dir)); err != nil {
		return errors.Join(err, ask.Close())
	}
	defer c.end(cancel)
	asked := make(chan error, 1)
	go func() {
		defer ask.Close()
		wants := json.NewEncoder(ask)
		for _, repository := range urls {
			err := w.awaitHost(ctx, host, 1, lookSpacing)
			if err == nil {
				err = wants.Encode(repository)
			}
			if err != nil {
				asked <- err
				return
			}
		}
		asked <- nil
	}()
	failed := 0
	ingest.ReadLooks(said, func(l ingest.Looked) bool {
		if l.Error == nil {
			failed = 0
		} else if rest := restOf(l.Error); rest > 0 {
			err = cmp.Or(w.db.Jobs.PauseHost(ctx, host, rest), error(&later{rest}))
			return false
		} else {
			failed++
		}
		heard(l)
		return failed < lookTrouble
	})
	cancel()
	if werr := <-asked; err == nil && failed < lookTrouble && !errors.Is(werr, context.Canceled) {
		err = werr
	}
	return err
}
