package worker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/francescobianco/packbase/storage/catalog"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/worker/ingest"
)

// Limits of a catalog.
const (
	maxCatalog        = 64 << 20 // bytes
	maxCatalogEntries = 200_000
	catalogTimeout    = 2 * time.Minute
)

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
		entries, err = parseCatalog(raw)
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

// download returns the bytes at source: http, https or file.
func (w *Worker) download(ctx context.Context, source string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, catalogTimeout)
	defer cancel()
	var body io.Reader
	if name, ok := strings.CutPrefix(source, "file://"); ok {
		f, err := os.Open(name)
		if err != nil {
			return nil, fault.New("catalog_unreadable", "the catalog's file cannot be read: "+ingest.WithoutPath(err).Error())
		}
		defer f.Close()
		body = f
	} else {
		resp, err := w.getCatalog(ctx, source)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		body = resp.Body
	}
	raw, err := io.ReadAll(io.LimitReader(body, maxCatalog+1))
	switch {
	case err != nil:
		return nil, fault.New("catalog_incomplete", "the catalog's download broke off; the stored one stays in force")
	case len(raw) > maxCatalog:
		return nil, fault.New("catalog_too_large", fmt.Sprintf("the catalog has more than %d bytes; the stored one stays in force", maxCatalog))
	}
	return raw, nil
}

func (w *Worker) getCatalog(ctx context.Context, source string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, source, nil)
	if err != nil {
		return nil, fault.New("catalog_url", "PACKBASE_SOURCE is not a URL")
	}
	resp, err := w.web.HTTP().Do(req)
	if err != nil {
		var up *fault.Error
		if errors.As(err, &up) {
			return nil, &fault.Error{Code: "catalog_unreachable", Message: "the catalog: " + up.Message, Final: up.Final, RetryAfter: up.RetryAfter}
		}
		return nil, fault.New("catalog_unreachable", "the catalog cannot be downloaded now")
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fault.New("catalog_unreachable", "the catalog's server answers "+resp.Status)
	}
	return resp, nil
}

// catalogBody is the catalog's format. Unknown fields are ignored.
type catalogBody struct {
	Protocol string            `json:"protocol"`
	Packages []json.RawMessage `json:"packages"`
}

type catalogItem struct {
	ID          any    `json:"id"`
	Title       string `json:"title"`
	Description string `json:"description"`
	Language    string `json:"language"`
	UpdatedAt   string `json:"updated_at"`
	Repository  struct {
		URL string `json:"url"`
	} `json:"repository"`
	GitHub struct {
		Name string `json:"name"`
	} `json:"github"`
}

// parseCatalog reads a catalog. An entry that is not usable keeps its reason;
// only what is no catalog at all is an error.
func parseCatalog(raw []byte) ([]catalog.Entry, error) {
	var body catalogBody
	if err := json.Unmarshal(raw, &body); err != nil {
		return nil, fault.New("catalog_malformed", "what the catalog's URL answers is not the JSON of a catalog; the stored one stays in force")
	}
	switch {
	case body.Protocol != "v1":
		return nil, fault.New("catalog_malformed",
			fmt.Sprintf("the catalog has the protocol %.20q, want \"v1\"; the stored one stays in force", body.Protocol)).AsFinal()
	case len(body.Packages) == 0:
		return nil, fault.New("catalog_empty", "the catalog lists nothing; the stored one stays in force")
	case len(body.Packages) > maxCatalogEntries:
		return nil, fault.New("catalog_too_large",
			fmt.Sprintf("the catalog lists more than %d packages; the stored one stays in force", maxCatalogEntries))
	}
	entries := make([]catalog.Entry, 0, len(body.Packages))
	ids, names := map[string]bool{}, map[string]bool{}
	for _, item := range body.Packages {
		e := parseCatalogItem(item)
		if e.ID == "" || ids[e.ID] {
			if e.Problem == "" {
				e.Problem = "its id is missing, or another entry has it"
			}
			// The same entry keeps the same id, wherever it stands.
			sum := sha256.Sum256(item)
			e.ID = fmt.Sprintf("#%x", sum[:8])
			if ids[e.ID] {
				continue
			}
		}
		if folded := strings.ToLower(e.Name); e.Problem == "" && names[folded] {
			e.Problem = fmt.Sprintf("another entry has the name %q", e.Name)
		} else if e.Problem == "" {
			names[folded] = true
		}
		ids[e.ID] = true
		entries = append(entries, e)
	}
	return entries, nil
}

func parseCatalogItem(raw json.RawMessage) catalog.Entry {
	var item catalogItem
	if err := json.Unmarshal(raw, &item); err != nil {
		return catalog.Entry{Problem: "it is not an object of the catalog's form"}
	}
	e := catalog.Entry{
		Language: catalogText(item.Language, 40), Updated: catalogText(item.UpdatedAt, 100), Description: catalogText(item.Description, 500),
	}
	if e.Language == "" {
		e.Language = "shell" // the format's default
	}
	switch id := item.ID.(type) {
	case string:
		e.ID = catalogText(id, 200)
	case float64:
		e.ID = fmt.Sprint(int64(id))
	}
	up, err := name.ParseUpstream(item.Repository.URL)
	if err != nil {
		e.Problem = err.Error()
		return e
	}
	e.Upstream, e.CloneURL, e.Name = up.Canonical, up.CloneURL, up.Name
	if item.GitHub.Name != "" {
		e.Name = item.GitHub.Name
	}
	if item.Title != "" {
		e.Name = item.Title
	}
	if err := name.ValidPackage(e.Name); err != nil {
		e.Problem, e.Name = err.Error(), catalogText(e.Name, 100)
	}
	return e
}

// catalogText makes a stranger's text fit to be stored.
func catalogText(s string, most int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, ""), "\x00", "")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "")
	}
	return strings.TrimSpace(s)
}

// fetchStale requests a fetch of every candidate that is not fresh.
func (u *update) fetchStale(ctx context.Context) error {
	all, err := u.w.db.Catalog.Candidates(ctx, u.w.rules)
	if err != nil {
		return err
	}
	for i, cand := range all {
		u.job.setProgress(jobs.Progress{Step: "plan", Done: int64(i), Total: int64(len(all)), Unit: "packages"})
		u.n.PackagesTotal++
		if cand.Fresh || cand.Waiting {
			u.n.SourceSkipped++
			continue
		}
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
		return u.w.db.Catalog.Mark(ctx, cand.ID, bound.Error())
	}
	if err != nil {
		return err
	}
	u.n.ReposScanned++
	if !created {
		return nil
	}
	// A queue that is away is the reconciler's business.
	if u.w.queue.Enqueue(ctx, job.Kind, job.ID) == nil {
		return u.w.db.Jobs.MarkEnqueued(ctx, job.ID)
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
