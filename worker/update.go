package worker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/francescobianco/packbase/storage/catalog"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/userfile"
	"github.com/francescobianco/packbase/worker/ingest"
)

// catalogTimeout is how long a catalog may take to come.
const catalogTimeout = 2 * time.Minute

// updateCatalog downloads the catalog, has everything fetched that is not
// fresh, and leaves the rest to the children: the last of them to end closes
// the run.
func (w *Worker) updateCatalog(ctx context.Context, j *job) (any, error) {
	if err := w.db.Jobs.StartRun(ctx, j.Claim); err != nil {
		return nil, err
	}
	u := &update{w: w, job: j}
	if w.opt.Source != "" {
		if err := u.readCatalog(ctx); err != nil {
			return nil, err
		}
	}
	if err := u.fetchStale(ctx); err != nil {
		return nil, err
	}
	if err := u.importFixtures(ctx); err != nil {
		return nil, err
	}
	w.noticeDamage(ctx)
	if err := w.db.Jobs.ParkRun(ctx, j.Claim, u.n); err != nil {
		return nil, err
	}
	return nil, errParked
}

// An update is one run of updateCatalog.
type update struct {
	w   *Worker
	job *job
	n   jobs.Counters
}

// readCatalog stores the catalog if it changed. A catalog that cannot be had
// leaves the stored one as it is, and the run fails with the reason.
func (u *update) readCatalog(ctx context.Context) error {
	u.job.setProgress(jobs.Progress{Step: "download catalog"})
	source := u.w.opt.Source
	raw, err := u.w.download(ctx, source)
	var entries []catalog.Entry
	if err == nil {
		entries, err = catalog.Parse(raw)
	}
	if err != nil {
		e := verdict(err)
		return errors.Join(err, u.w.db.Catalog.Failed(ctx, source, e.Code, e.Message))
	}
	sum := sha256.Sum256(raw)
	digest := hex.EncodeToString(sum[:])
	known, err := u.w.db.Catalog.Digest(ctx, source)
	if err != nil {
		return err
	}
	diff, err := u.w.db.Catalog.Replace(ctx, source, digest, entries)
	if err != nil {
		return err
	}
	u.n.SourceChanged = digest != known
	u.n.SourcePackages = len(entries)
	u.n.SourceAdded, u.n.SourceUpdated, u.n.SourceRemoved = diff.Added, diff.Updated, diff.Removed
	for _, e := range entries {
		if e.Problem != "" {
			u.n.SourceSkipped++
			u.w.log.WarnContext(ctx, "catalog entry not used", "id", e.ID, "reason", e.Problem)
		}
	}
	return nil
}

// A heldCatalog is the bytes of a catalog that its server names by an ETag: they are asked for again only if there are others.
type heldCatalog struct {
	source, etag string
	raw          []byte
}

// mostHeld is how many bytes of a catalog are held.
const mostHeld = 16 << 20

// download returns the bytes at source: http, https or file.
func (w *Worker) download(ctx context.Context, source string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, catalogTimeout)
	defer cancel()
	var body io.Reader
	var etag string
	if name, ok := strings.CutPrefix(source, "file://"); ok {
		f, err := userfile.Open(name)
		if err != nil {
			return nil, fault.New("catalog_unreadable", "the catalog's file cannot be read: "+ingest.WithoutPath(err).Error())
		}
		defer f.Close()
		body = f
	} else {
		held := w.catalog.Load()
		if held == nil || held.source != source {
			held = &heldCatalog{}
		}
		resp, err := w.getCatalog(ctx, source, held.etag)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		if resp.StatusCode == http.StatusNotModified {
			return held.raw, nil
		}
		body, etag = resp.Body, resp.Header.Get("ETag")
	}
	raw, err := io.ReadAll(io.LimitReader(body, catalog.MaxSize+1))
	switch {
	case err != nil:
		return nil, fault.New("catalog_incomplete", "the catalog's download broke off; the stored one stays in force")
	case len(raw) > catalog.MaxSize:
		return nil, fault.New("catalog_too_large", fmt.Sprintf("the catalog has more than %d bytes; the stored one stays in force", catalog.MaxSize))
	}
	if etag != "" && len(raw) <= mostHeld {
		w.catalog.Store(&heldCatalog{source, etag, raw})
	}
	return raw, nil
}

// getCatalog asks for what is not the bytes that etag names, if there is one.
func (w *Worker) getCatalog(ctx context.Context, source, etag string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, source, nil)
	if err != nil {
		return nil, fault.New("catalog_url", "PACKBASE_SOURCE is not a URL")
	}
	if etag != "" {
		req.Header.Set("If-None-Match", etag)
	}
	resp, err := w.web.HTTP().Do(req)
	if err != nil {
		var up *fault.Error
		if errors.As(err, &up) {
			return nil, &fault.Error{Code: "catalog_unreachable", Message: "the catalog: " + up.Message, Final: up.Final, RetryAfter: up.RetryAfter}
		}
		return nil, fault.New("catalog_unreachable", "the catalog cannot be downloaded now")
	}
	if resp.StatusCode != http.StatusOK && (etag == "" || resp.StatusCode != http.StatusNotModified) {
		resp.Body.Close()
		return nil, fault.New("catalog_unreachable", "the catalog's server answers "+resp.Status)
	}
	return resp, nil
}

// fetchStale requests a fetch of every candidate that is not fresh.
func (u *update) fetchStale(ctx context.Context) error {
	all, err := u.w.db.Catalog.Candidates(ctx, u.w.rules)
	if err != nil {
		return err
	}
	u.n.PackagesTotal += len(all)
	var failing []string
	for _, c := range all {
		if c.Failing {
			failing = append(failing, c.Name)
		}
	}
	if err := u.w.db.Jobs.Inherit(ctx, *u.job.Job.RunID, failing); err != nil {
		return err
	}
	u.n.SourceRepoFailed += len(failing)
	stale := slices.DeleteFunc(all, func(c catalog.Candidate) bool { return c.Fresh || c.Waiting })
	u.n.SourceSkipped += u.n.PackagesTotal - len(stale) - len(failing)
	if stale, err = u.leaveUnchanged(ctx, stale); err != nil {
		return err
	}
	for i, cand := range stale {
		u.job.setProgress(jobs.Progress{Step: "plan", Done: int64(i), Total: int64(len(stale)), Unit: "packages"})
		if err := u.addChild(ctx, cand); err != nil {
			return err
		}
	}
	return nil
}

// addChild requests a fetch as part of the run.
func (u *update) addChild(ctx context.Context, cand catalog.Candidate) error {
	job, created, err := u.w.db.AddChild(ctx, *u.job.Job.RunID, cand)
	var bound *fault.BoundError
	if errors.As(err, &bound) {
		u.n.SourceRepoFailed++
		u.w.log.WarnContext(ctx, "package not mirrored", "package", cand.Name, "reason", bound.Error())
		return u.w.db.Catalog.Mark(ctx, cand.ID, bound.Error())
	}
	if err != nil {
		return err
	}
	u.n.ReposScanned++
	if created {
		// A queue that is away is the reconciler's business.
		_ = u.w.db.Jobs.Enqueue(ctx, u.w.queue, job.Kind, job.ID, false)
	}
	return nil
}

// importFixtures requests a fetch of each local package.
func (u *update) importFixtures(ctx context.Context) error {
	if u.w.opt.Fixtures == "" {
		return nil
	}
	fixtures, err := ingest.Fixtures(u.w.opt.Fixtures)
	if err != nil {
		return fault.New("fixtures_unreadable", "PACKBASE_FIXTURES: "+err.Error())
	}
	for _, folder := range fixtures {
		up, err := name.FixtureUpstream(folder)
		if err != nil {
			u.n.SourceSkipped++
			continue
		}
		u.n.PackagesTotal++
		err = u.addChild(ctx, catalog.Candidate{Name: up.Name, Upstream: up.Canonical, CloneURL: up.CloneURL})
		if err != nil {
			return err
		}
	}
	return nil
}

// hostOf returns the host and port of a clone URL, "" for a fixture.
func hostOf(cloneURL string) string {
	u, err := url.Parse(cloneURL)
	if err != nil || u.Scheme+":" == name.FixtureScheme {
		return ""
	}
	return u.Host
}
