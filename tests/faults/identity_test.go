package faults

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"packbase/tests/harness"
)

// IM-01: whatever upstream does to a tag, the release stays as it was, and
// info shows what happened.
func TestRetag(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	s := harness.Start(t, quick...)
	c := newChecker(t, s)
	forms := []struct {
		name string
		do   func(repo *harness.Repo)
		// moved says whether the tag names another object after it.
		moved bool
	}{
		{"newer commit", func(r *harness.Repo) { r.Tag("v0.2.0", r.Commit(harness.Files{"new": "new"})) }, true},
		{"older commit", func(r *harness.Repo) { r.Tag("v0.2.0", r.Git("rev-parse", "v0.0.0^{commit}")) }, true},
		{"other commit of the same tree", func(r *harness.Repo) {
			r.Tag("v0.2.0", r.Git("commit-tree", "-m", "the same", "v0.2.0^{tree}"))
		}, true},
		{"annotated", func(r *harness.Repo) { r.Annotate("v0.2.0", r.Git("rev-parse", "v0.2.0^{commit}")) }, true},
		{"light", func(r *harness.Repo) { r.Tag("v0.1.0", r.Git("rev-parse", "v0.1.0^{commit}")) }, true},
		{"deleted", func(r *harness.Repo) { r.DeleteTag("v0.2.0") }, true},
		{"deleted and made again", func(r *harness.Repo) {
			oid := r.Git("rev-parse", "v0.2.0")
			r.DeleteTag("v0.2.0")
			r.Tag("v0.2.0", oid)
		}, false},
	}
	for n := range rounds(1, 10) {
		for i, form := range forms {
			name := fmt.Sprintf("retag-%d-%d", n, i)
			repo := up.Repo(name)
			release(t, repo, 0, 3, 1000)
			s.Fetch(repo.URL)
			c.tags(repo)
			form.do(repo)
			s.Fetch(repo.URL)
			s.Fetch(repo.URL)
			info := s.Info(name)
			for _, r := range info.Tarballs {
				c.see(r.SHA256+" "+r.Commit+" "+r.Tree+" "+r.TagObject+" "+r.Zig.Hash, "info", name, r.Tag)
				c.tarball(name, r)
			}
			want := 0
			if form.moved {
				want = 1
			}
			if len(info.Tarballs) != 3 || len(info.MovedTags) != want {
				t.Errorf("%s: %d releases and moves %+v, want 3 and %d", form.name, len(info.Tarballs), info.MovedTags, want)
			}
		}
	}
	c.clean()
}

// IM-03: of many upstreams that want one name at once, one gets it, for good.
func TestManyOwners(t *testing.T) {
	t.Parallel()
	const owners = 50
	up := harness.NewUpstream(t)
	s := harness.Start(t, quick...)
	c := newChecker(t, s)
	for n := range rounds(1, 10) {
		name := fmt.Sprintf("lib%d", n)
		var repos []*harness.Repo
		for i := range owners {
			repo := up.Repo(fmt.Sprintf("owner%d/%s", i, name))
			repo.Tag(fmt.Sprintf("v%d.0.0", i), repo.Commit(harness.Files{"owner": fmt.Sprint(i), "x/y": ""}))
			repos = append(repos, repo)
		}
		answers := make([]*harness.Answer, owners)
		var wg sync.WaitGroup
		for i, repo := range repos {
			wg.Go(func() {
				body := fmt.Sprintf(`{"url":%q}`, repo.URL)
				if i%2 == 1 { // the same name in another case
					body = fmt.Sprintf(`{"url":%q,"name":%q}`, repo.URL, strings.ToUpper(name))
				}
				var err error
				if answers[i], err = s.TryDo(http.MethodPost, "/api/fetch?wait=60", body, nil); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if t.Failed() {
			return
		}
		winner := slices.IndexFunc(answers, func(a *harness.Answer) bool { return a.Status == http.StatusOK })
		for i, a := range answers {
			if i != winner && (a.Status != http.StatusConflict || a.Code() != "name_conflict" || !strings.Contains(string(a.Body), repos[winner].URL)) {
				t.Errorf("owner %d: %d %s, want 409 that names the owner %d", i, a.Status, a.Body, winner)
			}
		}
		info := s.Info(name)
		if info.Upstream != repos[winner].URL || len(info.Tarballs) != 1 || info.Tarballs[0].Tag != fmt.Sprintf("v%d.0.0", winner) {
			t.Errorf("%s is %+v, want the release of owner %d alone", name, info, winner)
		}
	}
	c.clean()
}

// IM-07: an upstream that is replaced by another repository under the same
// URL is not followed until somebody decides.
func TestRepojack(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	s := harness.Start(t, quick...)
	c := newChecker(t, s)
	for _, decision := range []string{"accept", "keep"} {
		repo := up.Repo("jacked-" + decision)
		name := "jacked-" + decision
		release(t, repo, 0, 3, 1000)
		s.Fetch(repo.URL)
		c.tags(repo)
		before := s.Info(name)
		for _, tag := range []string{"v0.0.0", "v0.1.0", "v0.2.0", "v9.0.0"} {
			repo.Tag(tag, repo.CommitTree("100644 blob "+repo.Blob("evil "+tag)+"\tevil"))
		}
		frozen := func() {
			t.Helper()
			if a := s.TryFetch(repo.URL); a.Status != http.StatusConflict || a.Code() != "package_frozen" {
				t.Errorf("fetch: %d %s, want 409 package_frozen", a.Status, a.Body)
			}
			info := s.Info(name)
			if len(info.Tarballs) != len(before.Tarballs) {
				t.Errorf("%d releases, want %d", len(info.Tarballs), len(before.Tarballs))
			}
			for _, r := range info.Tarballs {
				c.see(r.SHA256+" "+r.Commit+" "+r.Tree+" "+r.TagObject+" "+r.Zig.Hash, "info", name, r.Tag)
				c.tarball(name, r)
			}
			c.git("", "clone", "--quiet", s.URL+"/"+name, t.TempDir())
		}
		frozen()
		frozen()
		review := s.Do(http.MethodPost, "/api/review/"+name, `{"decision":"`+decision+`"}`, nil)
		if review.Status != http.StatusOK {
			t.Errorf("review: %d %s, want 200", review.Status, review.Body)
		}
		if decision == "keep" {
			frozen()
			continue
		}
		s.Fetch(repo.URL)
		info := s.Info(name)
		if len(info.Tarballs) != 4 || info.LatestTag != "v9.0.0" {
			t.Errorf("after %s: %d releases, latest %s, want 4 and v9.0.0", decision, len(info.Tarballs), info.LatestTag)
		}
		for _, r := range before.Tarballs {
			now := info.Release(t, r.Tag)
			if now.SHA256 != r.SHA256 || now.Commit != r.Commit {
				t.Errorf("%s is %+v now, want %+v", r.Tag, now, r)
			}
		}
	}
	c.clean()
}
