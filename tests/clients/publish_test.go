//go:build clients

package clients

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/francescobianco/packbase/tests/harness"
)

// Who clones while tags are published gets the package as it was at one
// moment: some number of tags, oldest first, and HEAD at the last.
func TestPublishWhileCloning(t *testing.T) {
	const clones = 100
	r := harness.NewUpstream(t).Repo("growing")
	s := harness.Start(t)
	var tags, commits []string // as published, oldest first
	publish := func() {
		for range 5 { // which packbase publishes one by one
			tag := fmt.Sprintf("v1.0.%d", len(tags))
			r.Commit(harness.Files{"untagged": tag})
			commit := r.Commit(harness.Files{"README.md": tag + "\n", "src/" + tag: tag})
			tags, commits = append(tags, tag), append(commits, commit)
			r.Annotate(tag, commit)
		}
		s.Fetch(r.URL)
	}
	publish()
	dir := t.TempDir()
	var next atomic.Int64
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for i := next.Add(1) - 1; i < clones; i = next.Add(1) - 1 {
				clone := filepath.Join(dir, strconv.FormatInt(i, 10))
				if out, err := git(t, versions[i%int64(len(versions))], "clone", "-q", s.URL+"/growing", clone); err != nil {
					t.Errorf("clone: %s %v", out, err)
				}
			}
		})
	}
	for next.Load() < clones {
		publish()
	}
	workers.Wait()
	seen := map[int]int{}
	for i := range clones {
		n := checkMoment(t, filepath.Join(dir, strconv.Itoa(i)), tags, commits)
		seen[n]++
	}
	t.Logf("%d tags were published; clones by how many they got: %v", len(tags), seen)
	if len(seen) < 2 {
		t.Errorf("all clones got the same tags: nothing was tested")
	}
}

// checkMoment checks that a clone has the first tags, HEAD at the last of
// them, and all objects. It returns how many.
func checkMoment(t testing.TB, dir string, tags, commits []string) int {
	t.Helper()
	out, err := git(t, "0", "-C", dir, "for-each-ref", "--format=%(refname:short) %(*objectname)", "refs/tags")
	if err != nil {
		t.Fatal(err)
	}
	n := strings.Count(out, "\n")
	for i := range n {
		if !strings.Contains(out, tags[i]+" "+commits[i]+"\n") {
			t.Errorf("a clone with %d tags lacks %s: %s", n, tags[i], out)
		}
	}
	if head, err := git(t, "0", "-C", dir, "rev-parse", "HEAD"); n == 0 || strings.TrimSpace(head) != commits[n-1] {
		t.Errorf("HEAD of a clone with %d tags = %s, %v", n, head, err)
	}
	if out, err := git(t, "0", "-C", dir, "fsck", "--strict", "--no-dangling"); out != "" || err != nil {
		t.Errorf("git fsck: %s, %v", out, err)
	}
	return n
}

// Every id that was ever advertised stays fetchable, however often HEAD and
// tags move on.
func TestOldIDs(t *testing.T) {
	const moves = 50
	r := harness.NewUpstream(t).Repo("moving")
	s := harness.Start(t)
	url := s.URL + "/moving"
	advertised := map[string]bool{}
	for i := range moves {
		r.Commit(harness.Files{"untagged": strconv.Itoa(i)})
		commit := r.Commit(harness.Files{"README.md": fmt.Sprintln(i)})
		if tag := fmt.Sprintf("v1.%d.0", i); i%2 == 0 {
			r.Tag(tag, commit)
		} else {
			r.Annotate(tag, commit)
		}
		if i%5 == 4 { // upstream moves a tag: ours stays
			r.Tag("v1.0.0", commit)
		}
		s.Fetch(r.URL)
		if i%10 == 9 { // a commit without a tag
			snapshot := r.Git("rev-parse", "main^")
			s.Fetch(r.URL + "#" + snapshot)
			advertised[snapshot] = true
		}
		out, err := git(t, versions[i%len(versions)], "ls-remote", url)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out) {
			advertised[line[:40]] = true
		}
	}
	if want := moves + moves/2 + moves/10; len(advertised) != want {
		t.Errorf("%d ids were advertised, want %d", len(advertised), want)
	}
	for _, v := range versions {
		fetchEach(t, v, url, advertised)
	}
}

// fetchEach fetches ids one by one into a repository.
func fetchEach(t *testing.T, version, url string, ids map[string]bool) {
	dir := filepath.Join(t.TempDir(), "clone")
	if out, err := git(t, version, "init", "-q", dir); err != nil {
		t.Fatal(out, err)
	}
	for id := range ids {
		if out, err := git(t, version, "-C", dir, "fetch", "-q", "--depth=1", url, id); err != nil {
			t.Errorf("protocol %s: fetch %s: %s %v", version, id, out, err)
		}
		if head, err := git(t, version, "-C", dir, "rev-parse", "FETCH_HEAD"); strings.TrimSpace(head) != id {
			t.Errorf("protocol %s: fetched %s, %v, want %s", version, head, err, id)
		}
	}
	if out, err := git(t, version, "-C", dir, "fsck", "--strict", "--no-dangling"); err != nil {
		t.Errorf("git fsck: %s, %v", out, err)
	}
}

// Two servers that publish the same five tags in all orders say the same of
// each tag.
func TestPublishOrders(t *testing.T) {
	up := harness.NewUpstream(t)
	base := up.Repo("base")
	tags := fiveTags(base)
	servers := []*harness.Server{harness.Start(t), harness.Start(t)}
	var mu sync.Mutex
	seen := map[string]bool{} // what was said of all tags
	var next atomic.Int64
	var workers sync.WaitGroup
	all := orders(len(tags))
	for range 4 {
		workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(all); i = int(next.Add(1)) - 1 {
				said := publishInOrder(t, servers[i%len(servers)], up.Repo(fmt.Sprintf("order-%d", i)), base, tags, all[i])
				mu.Lock()
				if seen[said] = true; len(seen) > 1 {
					t.Errorf("order %v differs from others: %s", all[i], said)
				}
				mu.Unlock()
			}
		})
	}
	workers.Wait()
}

// publishInOrder mirrors a repository each time that it got one more tag of
// base. It returns what packbase says of the tags in the end.
func publishInOrder(t *testing.T, s *harness.Server, r, base *harness.Repo, tags []string, order []int) string {
	alternates := filepath.Join(r.Dir, "objects/info/alternates")
	if err := os.WriteFile(alternates, []byte(filepath.Join(base.Dir, "objects")+"\n"), 0o644); err != nil {
		t.Error(err)
	}
	for _, i := range order {
		r.Tag(tags[i], base.Git("rev-parse", tags[i]))
		if a := s.TryFetch(r.URL); a.Status != http.StatusOK {
			t.Errorf("order %v: fetch: %d %s", order, a.Status, a.Body)
		}
	}
	name := filepath.Base(r.Dir)
	refs, err := git(t, "2", "ls-remote", s.URL+"/"+name)
	if err != nil {
		t.Error(err)
	}
	said := "refs:\n" + refs
	info := s.Info(name)
	for _, tag := range tags {
		release := info.Release(t, tag)
		release.URL = "" // has the package's name
		said += fmt.Sprintf("%+v\n", release)
	}
	return said
}
