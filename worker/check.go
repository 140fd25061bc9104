package worker

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/tree"
)

// CheckResult is what a tree:check found.
type CheckResult struct {
	Tree  string `json:"tree"`
	Nodes int    `json:"nodes"` // of which upstream was asked
}

const (
	checkBatch = 100
	checkURLs  = 4 // of one node
)

// checkTree asks upstream whether it still has what a tree needs, one request for each URL, of which no body is read.
// What it found is in the rows, so it may begin again anywhere.
func (w *Worker) checkTree(ctx context.Context, j *job) (any, error) {
	result := CheckResult{Tree: j.Job.Target}
	known := map[string]string{} // by URL
	for {
		nodes, err := w.trees.Unchecked(ctx, j.Job.Target, j.Job.CreatedAt, checkBatch)
		if err != nil || len(nodes) == 0 {
			return result, err
		}
		for _, n := range nodes {
			state, err := w.checkNode(ctx, n, known)
			if err != nil {
				return nil, err
			}
			if err := w.trees.Checked(ctx, n, state); err != nil {
				return nil, err
			}
			result.Nodes++
			j.setProgress(jobs.Progress{Step: "ask upstream", Done: int64(result.Nodes), Unit: "packages"})
		}
	}
}

// worst is the order of what upstream answers, the best first.
var worst = []string{tree.Same, tree.Away, tree.Moved, tree.Gone}

// checkNode returns the worst of what the node's URLs answer: any of them may be the one that a build asks.
func (w *Worker) checkNode(ctx context.Context, n tree.Node, known map[string]string) (string, error) {
	state := tree.Same
	for _, at := range n.URLs[:min(len(n.URLs), checkURLs)] {
		d, err := name.ParseDependency(at)
		if err != nil {
			state = tree.Away
			continue
		}
		key := d.URL + " " + n.Hash
		if d.Git {
			key = d.URL
		}
		got, ok := known[key]
		if !ok {
			if got, err = w.checkURL(ctx, d, n.Hash); err != nil {
				return "", err
			}
			known[key] = got
		}
		if slices.Index(worst, got) > slices.Index(worst, state) {
			state = got
		}
	}
	return state, nil
}

// checkURL asks for the headers of a URL, when it is the host's turn. Of a repository it is told whether it is there;
// of a file, whether it has the type and length of what is stored. An archive that a forge makes anew each time has no
// length that says anything.
func (w *Worker) checkURL(ctx context.Context, d name.Dependency, hash string) (string, error) {
	at := strings.TrimPrefix(d.URL, "git+")
	if err := w.awaitHost(ctx, hostOf(at)); err != nil {
		return "", err
	}
	if d.Git {
		return w.askUpstream(ctx, http.MethodGet, at+"/info/refs?service=git-upload-pack", func(resp *http.Response) string {
			if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/x-git-upload-pack-advertisement") {
				return tree.Same
			}
			return tree.Gone
		})
	}
	held, err := w.trees.ByURL(ctx, d.URL)
	if err != nil && !errors.Is(err, fault.ErrNotFound) && !errors.Is(err, fault.ErrGone) {
		return "", err
	}
	known := err == nil && (held.ZigHash == hash || held.ZigLegacyHash == hash)
	judge := func(resp *http.Response) string {
		if known && isHTML(resp.Header.Get("Content-Type")) && !isHTML(held.ContentType) {
			return tree.Moved
		}
		if known && d.Repository == "" && resp.ContentLength >= 0 && resp.ContentLength != held.Size {
			return tree.Moved
		}
		return tree.Same
	}
	return w.askUpstream(ctx, http.MethodHead, at, judge)
}

func isHTML(contentType string) bool {
	return strings.HasPrefix(strings.ToLower(contentType), "text/html")
}

// askUpstream sends a request and has an answer of success judged. Servers that know no HEAD are asked with GET, whose
// body is not read.
func (w *Worker) askUpstream(ctx context.Context, method, at string, judge func(*http.Response) string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, at, nil)
	if err != nil {
		return tree.Away, nil
	}
	resp, err := w.web.HTTP().Do(req)
	if err != nil {
		return tree.Away, ctx.Err()
	}
	resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusOK:
		return judge(resp), nil
	case resp.StatusCode == http.StatusNotFound, resp.StatusCode == http.StatusGone:
		return tree.Gone, nil
	case method == http.MethodHead && (resp.StatusCode == http.StatusMethodNotAllowed || resp.StatusCode == http.StatusNotImplemented):
		return w.askUpstream(ctx, http.MethodGet, at, judge)
	}
	return tree.Away, nil
}
