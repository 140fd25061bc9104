package tests_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-chi/chi/v5/middleware"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/tests/harness"
)

// A catalogItem is one package as a catalog lists it.
type catalogItem struct {
	ID         string            `json:"id"`
	Title      string            `json:"title,omitempty"`
	Language   string            `json:"language,omitempty"`
	UpdatedAt  string            `json:"updated_at"`
	Repository map[string]string `json:"repository"`
	Policy     json.RawMessage   `json:"packbase,omitempty"`
}

// writeCatalog replaces the catalog's file.
func writeCatalog(t *testing.T, file string, items []catalogItem) {
	t.Helper()
	b, err := json.Marshal(map[string]any{"protocol": "v1", "packages": items})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

type updateResult struct {
	Status           string `json:"status"`
	SourceChanged    bool   `json:"source_changed"`
	SourcePackages   int    `json:"source_packages"`
	SourceAdded      int    `json:"source_added"`
	SourceUpdated    int    `json:"source_updated"`
	SourceRemoved    int    `json:"source_removed"`
	SourceSkipped    int    `json:"source_skipped"`
	SourceRepoFailed int    `json:"source_repo_failed"`
	ReposScanned     int    `json:"repos_scanned"`
	PackagesSynced   int    `json:"packages_synced"`
	TarballsCreated  int    `json:"tarballs_created"`
	TarballsPresent  int    `json:"tarballs_present"`
}

// update runs one update and returns its counters. The cooldown is awaited.
func update(t *testing.T, s *harness.Server) (r updateResult) {
	t.Helper()
	harness.Eventually(t, "an update ran", func() bool {
		answer := s.Do(http.MethodPost, "/api/update?wait=120", "", nil)
		answer.Into(t, &r)
		return r.Status == "ok"
	})
	return r
}

// listed makes repositories pkg-00, pkg-01 and so on with a release each, and their entries of a catalog, without dates.
func listed(up *harness.Upstream, n int) (repos []*harness.Repo, items []catalogItem) {
	for i := range n {
		name := fmt.Sprintf("pkg-%02d", i)
		repo := up.Repo(name)
		repo.Release("v1.0.0")
		repos = append(repos, repo)
		items = append(items, catalogItem{ID: name, Repository: map[string]string{"url": repo.URL}})
	}
	return repos, items
}

// The catalog drives the registry: sixty packages from nothing in one update,
// a second one that downloads nothing, and a third that says exactly what
// became of five upstreams that changed, moved, emptied, vanished and broke.
func TestCatalog(t *testing.T) {
	t.Parallel()
	const packages = 60
	up := harness.NewUpstream(t)
	repos, items := listed(up, packages)
	for i, repo := range repos {
		repo.Release("v1.1.0")
		items[i].UpdatedAt = "2026-01-01"
	}
	items[7].Title = "../escape"                                                                                          // not a name
	items = append(items, catalogItem{ID: "pkg-00"})                                                                      // a duplicate without a URL
	items = append(items, catalogItem{ID: "x", Title: "pkg-01", Repository: map[string]string{"url": up.URL + "/other"}}) // a name twice
	items[8].Repository = map[string]string{"url": "ssh://example.org/x"}
	source := filepath.Join(t.TempDir(), "catalog.json")
	writeCatalog(t, source, items)
	s := harness.Start(t, "PACKBASE_SOURCE=file://"+source, "PACKBASE_UPDATE_COOLDOWN=100ms", "PACKBASE_JOB_ATTEMPTS=1")

	s.AwaitWorker(s.AddWorker("second"))
	byHand := up.Repo("by-hand") // which no update looks at
	byHand.Release("v1.0.0")
	s.Fetch(byHand.URL)

	const usable = packages - 2
	first := update(t, s)
	want := updateResult{Status: "ok", SourceChanged: true, SourcePackages: packages + 2, SourceAdded: packages + 2, SourceSkipped: 4,
		ReposScanned: usable, PackagesSynced: usable, TarballsCreated: 2 * usable}
	if first != want {
		t.Fatalf("first update: got %+v, want %+v", first, want)
	}
	var list struct{ Packages, Local, Registered []string }
	answer := s.Do(http.MethodGet, "/api/list", "", nil)
	var body map[string][]string
	answer.Into(t, &body)
	list.Packages, list.Local, list.Registered = body["packages"], body["local_packages"], body["registered_packages"]
	if len(list.Packages) != usable+1 || !slices.Equal(list.Packages, list.Local) || len(list.Registered) != usable {
		t.Errorf("list: got %d packages, %d local, %d registered, want %d, of which %[4]d local and all but one registered",
			len(list.Packages), len(list.Local), len(list.Registered), usable+1)
	}
	var status struct {
		Total   int `json:"packages_total"`
		Healthy int `json:"packages_healthy"`
		Moved   int `json:"moved_tags"`
	}
	harness.Eventually(t, "all packages are healthy", func() bool {
		s.Do(http.MethodGet, "/api/status", "", nil).Into(t, &status)
		return status.Total == usable+1 && status.Healthy == usable+1
	})

	before := up.Requests()
	second := update(t, s)
	if second.SourceChanged || second.ReposScanned != 0 || second.TarballsCreated != 0 || second.SourceSkipped != 4+usable {
		t.Errorf("second update: got %+v, want everything fresh", second)
	}
	if got := up.Requests() - before; got != 0 {
		t.Errorf("second update: %d requests to upstream, want none", got)
	}

	repos[10].Release("v1.2.0")                                                         // changed
	repos[11].Tag("v1.1.0", repos[11].Commit(harness.Files{"moved.txt": "by force\n"})) // moved
	repos[12].DeleteTag("v1.0.0")                                                       // emptied, so frozen
	repos[12].DeleteTag("v1.1.0")
	if err := os.RemoveAll(repos[13].Dir); err != nil { // vanished
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(repos[14].Dir, "objects")); err != nil { // broke
		t.Fatal(err)
	}
	for i := 10; i < 16; i++ { // the last one is listed as updated and is not
		items[i].UpdatedAt = "2026-02-02"
	}
	items = slices.Delete(items, 20, 21)
	writeCatalog(t, source, items)
	before = up.Requests()
	third := update(t, s)
	want = updateResult{Status: "ok", SourceChanged: true, SourcePackages: packages + 1, SourceUpdated: 6, SourceRemoved: 1,
		SourceSkipped: packages + 1 - 6, SourceRepoFailed: 3, ReposScanned: 6, PackagesSynced: 3, TarballsCreated: 1, TarballsPresent: 6}
	if third != want {
		t.Errorf("third update: got %+v, want %+v", third, want)
	}
	// One list for each, and one pack for the one that has something new.
	if got := up.Requests() - before; got > 8 {
		t.Errorf("third update: %d requests to upstream, want at most 8", got)
	}
	checkRun(t, s, third)
	if info := s.Info("pkg-10"); info.LatestTag != "v1.2.0" {
		t.Errorf("changed: latest is %s, want v1.2.0", info.LatestTag)
	}
	checkFailed(t, s, "pkg-12", "package_frozen")
	checkFailed(t, s, "pkg-13", "upstream_not_found")
	s.Do(http.MethodGet, "/api/status", "", nil).Into(t, &status)
	// The one that was moved, and the two that were deleted.
	harness.Eventually(t, "moved tags are counted", func() bool {
		s.Do(http.MethodGet, "/api/status", "", nil).Into(t, &status)
		return status.Moved == 3
	})
	if got := string(s.Get("/p/pkg-13/tag/v1.1.0.tar.gz")); len(got) == 0 {
		t.Error("vanished: its tarball is gone")
	}
	// A failure is no freshness: the next update would try again.
	checkFailed(t, s, "pkg-14", "")
}

// An update asks upstream for one list of each package that may have changed, and has jobs for those alone that have.
func TestUnchangedUpdate(t *testing.T) {
	t.Parallel()
	const packages = 12
	up := harness.NewUpstream(t)
	repos, items := listed(up, packages)
	source := filepath.Join(t.TempDir(), "catalog.json")
	writeCatalog(t, source, items)
	s := harness.Start(t, "PACKBASE_SOURCE=file://"+source, "PACKBASE_UPDATE_COOLDOWN=100ms", "PACKBASE_JOB_ATTEMPTS=1")
	update(t, s)
	fetches := func() (n int) {
		t.Helper()
		var jobs struct{ Jobs []struct{ Kind string } }
		s.Do(http.MethodGet, "/api/jobs?limit=500", "", nil).Into(t, &jobs)
		for _, j := range jobs.Jobs {
			if j.Kind == "package:fetch" {
				n++
			}
		}
		return n
	}
	look := func(what string, jobs, most int, want updateResult) {
		t.Helper()
		want.Status, want.SourcePackages = "ok", packages
		had, before := fetches(), up.Requests()
		if got := update(t, s); got != want {
			t.Errorf("%s: got %+v, want %+v", what, got, want)
		}
		if n := fetches() - had; n != jobs {
			t.Errorf("%s: %d jobs, want %d", what, n, jobs)
		}
		if n := up.Requests() - before; n > most {
			t.Errorf("%s: %d requests to upstream, want at most %d", what, n, most)
		}
	}
	all := updateResult{ReposScanned: packages, PackagesSynced: packages, TarballsPresent: packages}
	look("nothing new", 0, packages, all)

	repos[3].Release("v1.1.0")
	repos[4].Git("update-ref", "refs/pull/1/head", "HEAD") // which nobody mirrors
	want := all
	want.TarballsCreated = 1
	look("one tag", 1, packages+2, want)
	all.TarballsPresent++
	look("nothing new again", 0, packages, all)

	repos[5].Tag("v1.0.0", repos[5].Commit(harness.Files{"moved.txt": "by force\n"}))
	repos[5].Release("v1.1.0")
	repos[5].Tag("v0.9.0", "HEAD~1")
	if err := os.RemoveAll(repos[6].Dir); err != nil {
		t.Fatal(err)
	}
	want = all
	want.SourceRepoFailed, want.PackagesSynced = 2, packages-2
	want.TarballsPresent = all.TarballsPresent - 2
	look("one is another, and one is gone", 2, packages+3, want)
	checkLast := func(pkg string, ok bool) {
		t.Helper()
		var info struct {
			LastSync struct{ OK bool } `json:"last_sync"`
		}
		if s.Do(http.MethodGet, "/api/info/"+pkg, "", nil).Into(t, &info); info.LastSync.OK != ok {
			t.Errorf("%s: its last sync was good: %v", pkg, !ok)
		}
	}
	checkLast("pkg-05", false)
	checkLast("pkg-06", false)
	checkLast("pkg-07", true)
}

// A forge that wants a rest gets it: what was not looked at is left to the updates after that, and no jobs wait for it.
func TestUpdateIsRefused(t *testing.T) {
	t.Parallel()
	const packages = 30
	up := harness.NewUpstream(t)
	_, items := listed(up, packages)
	source := filepath.Join(t.TempDir(), "catalog.json")
	writeCatalog(t, source, items)
	s := harness.Start(t, "PACKBASE_SOURCE=file://"+source, "PACKBASE_UPDATE_COOLDOWN=100ms")
	update(t, s)
	up.Answer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "5")
		w.WriteHeader(http.StatusTooManyRequests)
	}))
	before := up.Requests()
	for range 3 {
		if got, want := update(t, s), (updateResult{Status: "ok", SourcePackages: packages, SourceSkipped: packages}); got != want {
			t.Errorf("an update at a forge that wants a rest: got %+v, want %+v", got, want)
		}
	}
	if n := up.Requests() - before; n > 10 {
		t.Errorf("%d requests to a forge that wants a rest", n)
	}
	up.Answer(nil)
	harness.Eventually(t, "all are looked at after the rest", func() bool { return update(t, s).PackagesSynced == packages })
	var waiting struct{ Jobs []struct{ Kind string } }
	s.Do(http.MethodGet, "/api/jobs?state=queued&limit=500", "", nil).Into(t, &waiting)
	if len(waiting.Jobs) > 0 {
		t.Errorf("%d jobs wait", len(waiting.Jobs))
	}
}

// checkRun checks that the jobs of the last update are what it counted.
func checkRun(t *testing.T, s *harness.Server, got updateResult) {
	t.Helper()
	var jobs struct {
		Jobs []struct {
			Kind, State string
			RunID       int `json:"run_id"`
		}
	}
	s.Do(http.MethodGet, "/api/jobs?limit=500", "", nil).Into(t, &jobs)
	last, states := 0, map[string]int{}
	for _, j := range jobs.Jobs {
		if j.Kind == "catalog:update" {
			last = max(last, j.RunID)
		}
	}
	for _, j := range jobs.Jobs {
		if j.Kind == "package:fetch" && j.RunID == last {
			states[j.State]++
		}
	}
	if states["succeeded"] != got.PackagesSynced || states["failed"] != got.SourceRepoFailed || states["succeeded"]+states["failed"] != got.ReposScanned {
		t.Errorf("the update's jobs are %v, it counted %+v", states, got)
	}
}

// checkFailed checks that a package keeps its releases and says why its last
// sync failed and when the next one is due.
func checkFailed(t *testing.T, s *harness.Server, pkg, code string) {
	t.Helper()
	var info struct {
		Count    int `json:"tarball_count"`
		LastSync struct {
			OK    bool                  `json:"ok"`
			Error struct{ Code string } `json:"error"`
			Next  string                `json:"next_try_at"`
		} `json:"last_sync"`
	}
	s.Do(http.MethodGet, "/api/info/"+pkg, "", nil).Into(t, &info)
	tried := code != "package_frozen" // again, by a later update
	if info.Count != 2 || info.LastSync.OK || (info.LastSync.Next != "") != tried || code != "" && info.LastSync.Error.Code != code {
		t.Errorf("%s: got %+v, want two releases and the failure %q", pkg, info, code)
	}
}

// What a policy says is what updates mirror, and branches are followed: those
// that the catalog names and those that were asked for. What is here stays.
func TestCatalogPolicies(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	narrow, tagless, asked := up.Repo("narrow"), up.Repo("tagless"), up.Repo("asked")
	for _, tag := range []string{"v0.9.0", "v1.0.0", "v1.1.0", "v1.2.0-rc1", "nightly"} {
		narrow.Release(tag)
	}
	tagless.Commit(harness.Files{"a.zig": "one\n"})
	tagless.Git("branch", "stable")
	asked.Release("v1.0.0")
	asked.Commit(harness.Files{"b.zig": "one\n"})
	item := func(repo *harness.Repo, policy string) catalogItem {
		c := catalogItem{ID: filepath.Base(repo.URL), UpdatedAt: "2026-01-01", Repository: map[string]string{"url": repo.URL}}
		if policy != "" {
			c.Policy = json.RawMessage(policy)
		}
		return c
	}
	items := []catalogItem{item(narrow, `{"tags":["v1.*"],"retention":{"tags":2}}`), item(tagless, `{"branches":["sta*"]}`), item(asked, ""), item(up.Repo("typo"), `{"tag":"v1.*"}`)}
	source := filepath.Join(t.TempDir(), "catalog.json")
	writeCatalog(t, source, items)
	local := t.TempDir()
	s := harness.Start(t, "PACKBASE_SOURCE=file://"+source, "PACKBASE_UPDATE_COOLDOWN=100ms", "PACKBASE_FIXTURES="+local, "PACKBASE_NO_HELLO=true")
	s.Fetch(asked.GitURL("main"))
	if err := os.Mkdir(filepath.Join(local, "asked"), 0o755); err != nil { // the name is taken
		t.Fatal(err)
	}

	if r := update(t, s); r.SourceSkipped != 1 || r.SourceRepoFailed != 1 || r.PackagesSynced != 3 || r.TarballsCreated != 4 || r.TarballsPresent != 0 {
		t.Errorf("first update: %+v, want four tarballs of three packages, none that was there, and the one whose policy has a typo skipped", r)
	}
	if log := s.Worker.Log(); !strings.Contains(log, ` package=asked reason=`) {
		t.Errorf("the worker says nothing of the local package whose name is another's:\n%s", log)
	}
	if got := tagsOf(s.Info("narrow")); !slices.Equal(got, []string{"v1.0.0", "v1.1.0"}) {
		t.Errorf("tags %q, want the two latest that match", got)
	}
	at := func(pkg, branch string) string {
		a := s.Do(http.MethodGet, "/p/"+pkg+"/branch/"+branch+".tar.gz", "", nil)
		if a.Status != http.StatusOK {
			t.Errorf("branch %s of %s: status %d", branch, pkg, a.Status)
		}
		return a.Header.Get("X-Packbase-Commit")
	}
	tip := func(repo *harness.Repo, branch string) string { return repo.Git("rev-parse", branch) }
	if got, want := at("tagless", "stable"), tip(tagless, "stable"); got != want {
		t.Errorf("stable is at %s, want %s", got, want)
	}
	if a := s.Do(http.MethodGet, "/p/tagless/branch/main.tar.gz", "", nil); a.Status != http.StatusNotFound {
		t.Errorf("main, which nobody follows: status %d", a.Status)
	}

	tagless.Commit(harness.Files{"a.zig": "two\n"})
	tagless.Git("branch", "--force", "stable", "main")
	asked.Commit(harness.Files{"b.zig": "two\n"})
	narrow.Release("v1.3.0")
	items[0].UpdatedAt = "2026-01-02"
	writeCatalog(t, source, items)
	update(t, s)
	for repo, branch := range map[*harness.Repo]string{tagless: "stable", asked: "main"} {
		pkg := filepath.Base(repo.URL)
		if got, want := at(pkg, branch), tip(repo, branch); got != want {
			t.Errorf("%s of %s is at %s after an update, want %s", branch, pkg, got, want)
		}
	}
	if got := tagsOf(s.Info("narrow")); !slices.Equal(got, []string{"v1.0.0", "v1.1.0", "v1.3.0"}) {
		t.Errorf("tags %q, want the new one too, and none taken away", got)
	}
	s.Fetch(narrow.GitURL("nightly")) // by name, whatever the policy
	if got := tagsOf(s.Info("narrow")); !slices.Contains(got, "nightly") {
		t.Errorf("tags %q, want the one that was asked for", got)
	}

	// A tip that cannot be published leaves the branch where it was, and the
	// tags go on.
	before := at("asked", "main")
	asked.Release("v1.1.0")
	asked.Git("update-ref", "refs/heads/main", asked.CommitTree("120000 blob "+asked.Blob("/etc/passwd")+"\tlink"))
	update(t, s)
	if got := at("asked", "main"); got != before {
		t.Errorf("main is at %s, want %s", got, before)
	}
	if got := tagsOf(s.Info("asked")); !slices.Contains(got, "v1.1.0") {
		t.Errorf("tags %q, want the new one", got)
	}
	var list wire.Jobs
	s.Do(http.MethodGet, "/api/jobs?package=asked&state=succeeded&limit=1", "", nil).Into(t, &list)
	if len(list.Jobs) != 1 || !strings.Contains(string(list.Jobs[0].Result), `"code":"symlink_escape"`) {
		t.Errorf("the job says %+v, want why main is not followed", list.Jobs)
	}
}

func tagsOf(info harness.Info) (tags []string) {
	for _, r := range info.Tarballs {
		tags = append(tags, r.Tag)
	}
	slices.Sort(tags)
	return tags
}

// A catalog that cannot be had leaves the stored one in force, and the run
// says why.
// A catalog whose server names its bytes comes once, and counts as it would if it came again.
func TestCatalogByETag(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	repos, items := listed(up, 3)
	items[2].Title = "../escape" // not a name
	var mu sync.Mutex
	var list, etag string
	var statuses []int
	serve := func(n int, tag string) {
		mu.Lock()
		defer mu.Unlock()
		b, err := json.Marshal(map[string]any{"protocol": "v1", "packages": items[:n]})
		if err != nil {
			t.Fatal(err)
		}
		list, etag = string(b), tag
	}
	serve(3, `"one"`)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		ww := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		ww.Header().Set("ETag", etag)
		http.ServeContent(ww, r, "catalog.json", time.Time{}, strings.NewReader(list))
		statuses = append(statuses, ww.Status())
	}))
	defer server.Close()
	s := harness.Start(t, "PACKBASE_SOURCE="+server.URL+"/catalog.json", "PACKBASE_UPDATE_COOLDOWN=100ms", "PACKBASE_JOB_ATTEMPTS=1")
	first, second := update(t, s), update(t, s)
	if !first.SourceChanged || first.TarballsCreated != 2 || second.SourceChanged || second.SourcePackages != 3 || second.SourceSkipped != first.SourceSkipped {
		t.Errorf("first %+v, then %+v", first, second)
	}
	repos[1].Release("v2.0.0")
	serve(2, `"two"`)
	if third := update(t, s); !third.SourceChanged || third.SourceRemoved != 1 || third.TarballsCreated != 1 {
		t.Errorf("a changed catalog: %+v", third)
	}
	mu.Lock()
	defer mu.Unlock()
	if want := []int{200, 304, 200}; !slices.Equal(statuses, want) {
		t.Errorf("the server answered %v, want %v", statuses, want)
	}
}

func TestBadCatalog(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	repo := up.Repo("good")
	repo.Release("v1.0.0")
	source := filepath.Join(t.TempDir(), "catalog.json")
	writeCatalog(t, source, []catalogItem{{ID: "good", Repository: map[string]string{"url": repo.URL}}})
	s := harness.Start(t, "PACKBASE_SOURCE=file://"+source, "PACKBASE_UPDATE_COOLDOWN=0s", "PACKBASE_JOB_ATTEMPTS=1")
	update(t, s)
	for _, tt := range []struct{ name, body, code string }{
		{"html", "<!DOCTYPE html><html>maintenance</html>", "catalog_malformed"},
		{"half a file", `{"protocol":"v1","packages":[{"id":"good"`, "catalog_malformed"},
		{"other protocol", `{"protocol":"v2","packages":[{}]}`, "catalog_malformed"},
		{"empty", `{"protocol":"v1","packages":[]}`, "catalog_empty"},
		{"not there", "", "catalog_unreadable"},
	} {
		if err := os.WriteFile(source, []byte(tt.body), 0o644); err != nil {
			t.Fatal(err)
		}
		if tt.body == "" {
			if err := os.Remove(source); err != nil {
				t.Fatal(err)
			}
		}
		answer := s.Do(http.MethodPost, "/api/update?wait=300", "", nil)
		if got := answer.Code(); got != tt.code {
			t.Errorf("%s: code %q, want %q", tt.name, got, tt.code)
		}
		var list map[string][]string
		s.Do(http.MethodGet, "/api/list", "", nil).Into(t, &list)
		if !slices.Equal(list["registered_packages"], []string{"good"}) {
			t.Errorf("%s: registered %v, want [good]", tt.name, list["registered_packages"])
		}
	}
}

// Local folders are packages, and bare repositories keep their history.
func TestFixtures(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	plain := filepath.Join(folder, "plain")
	if err := os.MkdirAll(plain, 0o755); err != nil {
		t.Fatal(err)
	}
	manifest := ".{\n    .name = .plain,\n    .version = \"0.3.0\",\n    .fingerprint = 0x192062cf12345678,\n    .paths = .{\"\"},\n}\n"
	for name, body := range map[string]string{"build.zig.zon": manifest, "build.zig": "// nothing\n"} {
		if err := os.WriteFile(filepath.Join(plain, name), []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	up := harness.NewUpstream(t)
	repo := up.Repo("bare")
	repo.Release("v1.0.0")
	repo.Annotate("v1.1.0", repo.Commit(harness.Files{"more.txt": "more\n"}))
	repo.Release("v1.2.0")
	if _, err := harness.Git(t, folder, "", "clone", "-q", "--bare", repo.Dir, "bare.git"); err != nil {
		t.Fatal(err)
	}
	s := harness.Start(t, "PACKBASE_FIXTURES="+folder, "PACKBASE_UPDATE_COOLDOWN=0s")
	harness.Eventually(t, "the fixtures were imported at the start", func() bool {
		var st wire.Status
		s.Do(http.MethodGet, "/api/status", "", nil).Into(t, &st)
		return st.Releases == 4 && st.Queue.Pending+st.Queue.Active+st.Queue.Retry == 0
	})
	if got := update(t, s); got.TarballsPresent != 4 || got.TarballsCreated != 0 {
		t.Fatalf("update: %+v, want 4 tarballs that are there", got)
	}
	if info := s.Info("plain"); info.LatestTag != "v0.3.0" {
		t.Errorf("plain folder: tag %s, want v0.3.0", info.LatestTag)
	}
	for _, path := range []string{"/p/plain/tag/v0.3.0.json", "/p/bare/tag/v1.2.0.json", "/api/info/plain", "/api/info/bare", "/bare"} {
		if body := s.Get(path); bytes.Contains(body, []byte(folder)) {
			t.Errorf("%s says where the fixtures are:\n%s", path, body)
		}
	}
	for _, tt := range []struct{ name, smart, url, commits string }{
		{"dumb, with history", "0", s.URL + "/bare", "3"},
		{"smart, as all others", "1", s.URL + "/git/bare.git", "1"},
	} {
		clone := filepath.Join(t.TempDir(), "clone")
		cmd := exec.CommandContext(t.Context(), "git", "clone", "-q", tt.url, clone)
		cmd.Env = append(os.Environ(), "GIT_SMART_HTTP="+tt.smart)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", tt.name, err, out)
		}
		count, err := harness.Git(t, clone, "", "rev-list", "--count", "HEAD")
		if err != nil || count != tt.commits+"\n" {
			t.Errorf("%s: got %q commits, want %s (%v)", tt.name, count, tt.commits, err)
		}
		if out, err := harness.Git(t, clone, "", "fsck", "--strict"); err != nil {
			t.Errorf("%s: fsck: %v\n%s", tt.name, err, out)
		}
	}
}
