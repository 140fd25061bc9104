package worker

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/pktline"
	"github.com/francescobianco/packbase/storage/tree"
)

// CheckResult is what a tree:check found.
type CheckResult struct {
	Tree  string `json:"tree"`
	Nodes int    `json:"nodes"` // of which upstream was asked
}

const (
	refList    = "/info/refs?service=git-upload-pack"
	checkBatch = 100
	checkURLs  = 4 // of one node
)

// checkTree asks upstream whether it still has what a tree needs: one request for each URL of a file, of which no body is
// read, and two of a repository, of whose answers the beginning is. What it found is in the rows, so it may begin again anywhere.
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
			key += "#" + d.Ref
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

// checkURL asks for the headers of a URL, when it is the host's turn: whether a file has the type and length of what is
// stored. An archive that a forge makes anew each time has no length that says anything.
func (w *Worker) checkURL(ctx context.Context, d name.Dependency, hash string) (string, error) {
	at := strings.TrimPrefix(d.URL, "git+")
	if err := w.awaitHost(ctx, hostOf(at), 1, hostSpacing); err != nil {
		return "", err
	}
	if d.Git {
		return w.checkRepository(ctx, at, d.Ref, hash)
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
	return w.askUpstream(ctx, http.MethodHead, at, "", judge)
}

// checkRepository asks whether a repository still gives what Zig would ask it for: a commit, tip or not, or a tag or branch.
// A server that does not speak Git's protocol 2 tells of tips alone; of other commits nothing is known then.
func (w *Worker) checkRepository(ctx context.Context, at, ref, hash string) (string, error) {
	var says string
	state, err := w.askUpstream(ctx, http.MethodGet, at+refList, "", func(resp *http.Response) string {
		if !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/x-git-upload-pack-advertisement") {
			return tree.Gone
		}
		says = beginning(resp)
		at = strings.TrimSuffix(resp.Request.URL.String(), refList) // where redirects lead
		return tree.Same
	})
	switch {
	case err != nil || state != tree.Same || ref == "":
		return state, err
	case !strings.Contains(says, "version 2\n") && strings.Contains(says, ref):
		return tree.Same, nil
	case !strings.Contains(says, "version 2\n"):
		return tree.Away, nil
	}
	if name.ValidOID(ref) {
		return w.askUpstream(ctx, http.MethodPost, at+"/git-upload-pack", wantCommit(ref, strings.Contains(says, "filter")), hasCommit)
	}
	found, err := w.trees.Sources(ctx, []string{hash})
	if err != nil {
		return "", err
	}
	return w.askUpstream(ctx, http.MethodPost, at+"/git-upload-pack", wantRef(ref), func(resp *http.Response) string {
		return hasRef(beginning(resp), ref, found[hash].Commit)
	})
}

// beginning returns so much of an answer as a server's capabilities, or a few refs, take.
func beginning(resp *http.Response) string {
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	return string(raw)
}

// wantCommit asks for a commit alone: where the server can leave it, without what is in it.
// gitprotocol-v2(5), "fetch".
func wantCommit(oid string, filter bool) string {
	lines := []string{"command=fetch", pktline.Delim, "no-progress\n", "deepen 1\n"}
	if filter {
		lines = append(lines, "filter tree:0\n")
	}
	return pktline.Lines(append(lines, "want "+oid+"\n", "done\n", pktline.Flush)...)
}

func hasCommit(resp *http.Response) string {
	start := make([]byte, pktline.HeaderSize+len("ERR upload-pack: not our ref"))
	n, _ := io.ReadFull(resp.Body, start)
	switch first := string(start[:n]); {
	case strings.Contains(first, "not our ref"):
		return tree.Gone
	case strings.Contains(first, "shallow-info"), strings.Contains(first, "packfile"):
		return tree.Same
	}
	return tree.Away
}

// wantRef asks what a name stands for, as Zig does. gitprotocol-v2(5), "ls-refs".
func wantRef(ref string) string {
	return pktline.Lines("command=ls-refs", pktline.Delim, "peel\n", "ref-prefix refs/heads/"+ref+"\n", "ref-prefix refs/tags/"+ref+"\n", pktline.Flush)
}

// hasRef tells what became of a name that stood for commit; "" if that is not known.
func hasRef(list, ref, commit string) string {
	state := tree.Gone
	for line := range strings.Lines(list) {
		if len(line) < pktline.HeaderSize {
			continue
		}
		oid, rest, _ := strings.Cut(line[pktline.HeaderSize:], " ")
		of, peeled, _ := strings.Cut(strings.TrimSpace(rest), " peeled:")
		switch {
		case of != "refs/heads/"+ref && of != "refs/tags/"+ref:
		case commit == "" || oid == commit || peeled == commit:
			return tree.Same
		default:
			state = tree.Moved
		}
	}
	return state
}

func isHTML(contentType string) bool {
	return strings.HasPrefix(strings.ToLower(contentType), "text/html")
}

// askUpstream sends a request, of Git's protocol 2 if it has a body or asks for refs, and has an answer of success judged.
// Servers that know no HEAD are asked with GET, whose body is not read.
func (w *Worker) askUpstream(ctx context.Context, method, at, body string, judge func(*http.Response) string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, at, strings.NewReader(body))
	if err != nil {
		return tree.Away, nil
	}
	if strings.HasSuffix(at, refList) || body != "" {
		req.Header.Set("Git-Protocol", "version=2")
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/x-git-upload-pack-request")
	}
	resp, err := w.web.HTTP().Do(req)
	if err != nil {
		return tree.Away, ctx.Err()
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusOK:
		return judge(resp), nil
	case resp.StatusCode == http.StatusNotFound, resp.StatusCode == http.StatusGone:
		return tree.Gone, nil
	case method == http.MethodHead && (resp.StatusCode == http.StatusMethodNotAllowed || resp.StatusCode == http.StatusNotImplemented):
		return w.askUpstream(ctx, http.MethodGet, at, "", judge)
	}
	return tree.Away, nil
}
