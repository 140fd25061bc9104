package faults

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/francescobianco/packbase/tests/harness"
)

// What upstream does to tags and names changes nothing that was published.
func TestUpstreamChanges(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	s := harness.Start(t, quick...)
	i := &identity{s: s, up: up}
	t.Run("IM-01 retag", i.retag)
	t.Run("IM-03 two owners", i.manyOwners)
	t.Run("IM-07 repojack", i.repojack)
	newChecker(t, s).clean()
}

type identity struct {
	s  *harness.Server
	up *harness.Upstream
}

// retag does all that can be done to a tag, to a tag each. The releases stay,
// and info shows what happened.
func (i *identity) retag(t *testing.T) {
	forms := []struct {
		name  string
		moved bool // the tag names another object after it
		do    func(repo *harness.Repo, tag string)
	}{
		{"nothing", false, func(*harness.Repo, string) {}},
		{"newer commit", true, func(r *harness.Repo, tag string) { r.Tag(tag, r.Commit(harness.Files{"new": "new"})) }},
		{"older commit", true, func(r *harness.Repo, tag string) { r.Tag(tag, r.Git("rev-parse", "v0.0.0^{commit}")) }},
		{"annotated tag of the same commit", true, func(r *harness.Repo, tag string) { r.Annotate(tag, r.Git("rev-parse", tag+"^{commit}")) }},
		{"other commit of the same tree", true, func(r *harness.Repo, tag string) {
			r.Tag(tag, r.Git("commit-tree", "-m", "the same", tag+"^{tree}"))
		}},
		{"light tag of the same commit", true, func(r *harness.Repo, tag string) { r.Tag(tag, r.Git("rev-parse", tag+"^{commit}")) }},
		{"deleted", true, func(r *harness.Repo, tag string) { r.DeleteTag(tag) }},
		{"deleted and made again", false, func(r *harness.Repo, tag string) {
			oid := r.Git("rev-parse", tag)
			r.DeleteTag(tag)
			r.Tag(tag, oid)
		}},
	}
	for n := range rounds(1, 10) {
		name := fmt.Sprintf("retag-%d", n)
		repo := i.up.Repo(name)
		tagReleases(t, repo, 0, len(forms), 1000) // light and annotated ones in turn
		c := newChecker(t, i.s)
		i.s.Fetch(repo.URL)
		c.tags(repo)
		want := map[string]bool{}
		for n, form := range forms {
			tag := fmt.Sprintf("v0.%d.0", n)
			form.do(repo, tag)
			if form.moved {
				want[tag] = true
			}
		}
		for range 2 {
			if f := i.s.Fetch(repo.URL); f.Created != 0 || f.Count != len(forms) {
				t.Errorf("fetched %+v, want nothing new", f)
			}
		}
		info := i.s.Info(name)
		c.releases(name, info)
		for _, m := range info.MovedTags {
			if !want[m.Tag] {
				t.Errorf("%s is said to have moved: %+v, want one move at most, and only if it did", m.Tag, m)
			}
			delete(want, m.Tag)
		}
		if len(want) > 0 || len(info.Tarballs) != len(forms) {
			t.Errorf("%d releases, and no moves of %v, want %d and none", len(info.Tarballs), want, len(forms))
		}
	}
}

// manyOwners lets many upstreams ask for one name at once: one gets it, for good.
func (i *identity) manyOwners(t *testing.T) {
	const owners = 50
	h := newHostile(t) // quite honest here
	for n := range rounds(1, 10) {
		name := fmt.Sprintf("lib%d", n)
		urls := make([]string, owners)
		for owner := range urls {
			p := newPacker()
			refs := list(fmt.Sprintf("refs/tags/v%d.0.0", owner), p.good())
			urls[owner] = h.add(fmt.Sprintf("owner-%d-%d", n, owner), answers{say(refs), sayPack(p.String())}) + "/" + name
		}
		got := make([]*harness.Answer, owners)
		var wg sync.WaitGroup
		for owner, url := range urls {
			wg.Go(func() {
				body := fmt.Sprintf(`{"url":%q}`, url)
				if owner%2 == 1 { // the same name in another case
					body = fmt.Sprintf(`{"url":%q,"name":%q}`, url, strings.ToUpper(name))
				}
				var err error
				if got[owner], err = i.s.TryDo(http.MethodPost, "/api/fetch?wait=300", body, nil); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if t.Failed() {
			return
		}
		winner := slices.IndexFunc(got, func(a *harness.Answer) bool { return a.Status == http.StatusOK })
		if winner < 0 {
			t.Fatalf("nobody got the name: %d %s", got[0].Status, got[0].Body)
		}
		for owner, a := range got {
			if owner != winner && (a.Status != http.StatusConflict || a.Code() != "name_conflict" || !strings.Contains(string(a.Body), urls[winner])) {
				t.Errorf("owner %d: %d %s, want 409 that names owner %d", owner, a.Status, a.Body, winner)
			}
		}
		info := i.s.Info(name)
		if info.Upstream != urls[winner] || len(info.Tarballs) != 1 || info.Tarballs[0].Tag != fmt.Sprintf("v%d.0.0", winner) {
			t.Errorf("%s is %+v, want the release of owner %d alone", name, info, winner)
		}
	}
}

// repojack replaces an upstream by another repository under the same URL,
// which is not followed until somebody decides.
func (i *identity) repojack(t *testing.T) {
	for _, decision := range []string{"accept", "keep"} {
		name := "jacked-" + decision
		repo := i.up.Repo(name)
		tagReleases(t, repo, 0, 3, 1000)
		c := newChecker(t, i.s)
		i.s.Fetch(repo.URL)
		c.tags(repo)
		before := i.s.Info(name)
		for _, tag := range []string{"v0.0.0", "v0.1.0", "v0.2.0", "v9.0.0"} {
			repo.Tag(tag, repo.CommitTree("100644 blob "+repo.Blob("evil "+tag)+"\tevil"))
		}
		i.frozen(c, repo, before)
		i.frozen(c, repo, before)
		review := i.s.Do(http.MethodPost, "/api/review/"+name, `{"decision":"`+decision+`"}`, nil)
		if review.Status != http.StatusOK {
			t.Errorf("review: %d %s, want 200", review.Status, review.Body)
		}
		if decision == "keep" {
			i.frozen(c, repo, before)
			continue
		}
		i.s.Fetch(repo.URL)
		info := i.s.Info(name)
		if len(info.Tarballs) != 4 || info.LatestTag != "v9.0.0" {
			t.Errorf("after %s: %d releases, latest %s, want 4 and v9.0.0", decision, len(info.Tarballs), info.LatestTag)
		}
		c.releases(name, info)
	}
}

// frozen checks that a package is served as it was, and not synced.
func (i *identity) frozen(c *checker, repo *harness.Repo, before harness.Info) {
	c.t.Helper()
	if a := i.s.TryFetch(repo.URL); a.Status != http.StatusConflict || a.Code() != "package_frozen" {
		c.t.Errorf("fetch: %d %s, want 409 package_frozen", a.Status, a.Body)
	}
	info := i.s.Info(before.Package)
	if len(info.Tarballs) != len(before.Tarballs) {
		c.t.Errorf("%d releases, want %d", len(info.Tarballs), len(before.Tarballs))
	}
	c.releases(before.Package, info)
	c.git("", "clone", "--quiet", i.s.URL+"/"+before.Package, c.t.TempDir())
}
