package tests_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/tests/harness"
)

// TestCounts has packages and jobs of every state, and holds each count and each time of a next try to be the same
// wherever it is told: in the API, on pages, by the command and in the metrics.
func TestCounts(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	repos, items := listed(up, 4)
	for i := range items {
		items[i].UpdatedAt = "2026-01-01"
	}
	repos[3].Release("v1.1.0")
	items = append(items, catalogItem{ID: "nothing", Repository: map[string]string{"url": up.URL + "/nothing"}})
	source := filepath.Join(t.TempDir(), "catalog.json")
	writeCatalog(t, source, items)
	s := harness.Start(t, "PACKBASE_SOURCE=file://"+source, "PACKBASE_UPDATE_COOLDOWN=100ms", "PACKBASE_JOB_ATTEMPTS=100")
	admin := fmt.Sprintf("127.0.0.1:%d", harness.FreePort(t))
	s.AddAPI("metrics", "PACKBASE_ADMIN_ADDR="+admin)
	update(t, s)
	s.TryFetch(up.URL + "/late") // fails, and then there is something
	up.Repo("late").Release("v1.0.0")
	s.Fetch(up.URL + "/late")
	s.TryFetch(up.URL + "/typo")
	if err := os.RemoveAll(repos[1].Dir); err != nil { // gone upstream: stale
		t.Fatal(err)
	}
	repos[2].DeleteTag("v1.0.0") // frozen
	repos[3].Tag("v1.0.0", repos[3].Commit(harness.Files{"moved.txt": "by force\n"}))
	repos[3].Release("v2.0.0")
	// pkg-00, pkg-03 and late are healthy, pkg-01 is stale, pkg-02 frozen, and of nothing there is nothing.
	for i := range 4 {
		items[i].UpdatedAt = "2026-02-02"
	}
	writeCatalog(t, source, items)
	update(t, s)
	up.Answer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "60")
		w.WriteHeader(http.StatusTooManyRequests)
	}))
	paused := s.Ask(up.URL + "/paused")
	harness.Eventually(t, "a job waits for its next try", func() bool { return s.Job(paused).NextTryAt != nil })

	page := func(path string) string {
		return string(s.Do(http.MethodGet, path, "", http.Header{"Accept": {"text/html"}}).Body)
	}
	command := func(args ...string) string {
		stdout, stderr, err := harness.Run(t, append(slices.Clone(s.Env), "PACKBASE_URL="+s.URL), args...)
		if err != nil {
			t.Fatalf("%v\n%s", err, stderr)
		}
		return stdout
	}
	metrics := func() string {
		resp, err := http.Get("http://" + admin + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	// What is told where, as expressions whose first groups add up to the count. Spaces of numbers on pages do not break.
	places := []string{"/api/status", "/", "packbase status", "/metrics"}
	claims := map[string]struct {
		want   int
		told   [4]string // where nothing is told, nothing is expected
		filter string    // of the page of packages that lists them
	}{
		"packages":  {6, [4]string{`"packages_total":(\d+),"packages_healthy"`, `<a href="/packages">(\d+)</a>`, `packages +(\d+),`, ``}, " "},
		"releases":  {7, [4]string{`"releases_total":(\d+)`, `<dt>Releases</dt><dd>(\d+)<`, `with (\d+) releases`, `packbase_releases (\d+)`}, ""},
		"healthy":   {3, [4]string{`"packages_healthy":(\d+)`, `>(\d+) healthy<`, ` healthy +(\d+)`, `packbase_packages{health="healthy"} (\d+)`}, "healthy"},
		"unhealthy": {1, [4]string{`"packages_unhealthy":(\d+)`, `>(\d+) unhealthy<`, `unhealthy +(\d+)`, `packbase_packages{health="unhealthy"} (\d+)`}, "unhealthy"},
		"stale":     {1, [4]string{`"packages_stale":(\d+)`, `>(\d+) stale<`, `and (\d+) stale`, `packbase_packages{health="stale"} (\d+)`}, "stale"},
		"frozen":    {1, [4]string{`"packages_frozen":(\d+)`, `>(\d+).packages? frozen<`, `frozen +(\d+)`, `packbase_packages{health="frozen"} (\d+)`}, "frozen"},
		"failing":   {2, [4]string{``, `(\d+) packages could not be mirrored`, ``, ``}, "failing"},
		"moved":     {2, [4]string{`"moved_tags":(\d+)`, `>(\d+).tags? moved upstream<`, `moved tags +(\d+)`, `packbase_moved_tags (\d+)`}, ""},
		"retry":     {1, [4]string{`"retry":(\d+)`, `>(\d+) to try again<`, `to try again +(\d+)`, ``}, ""},
		"failed":    {5, [4]string{`"failed":(\d+)`, `>(\d+) failed in a day<`, `failed in a day +(\d+)`, `packbase_jobs{kind="[a-z:]+",state="failed"} (\d+)`}, ""},
		"update":    {3, [4]string{`"source_repo_failed":(\d+)`, `>(\d+) failed<`, `synced, (\d+) failed`, ``}, ""},
	}
	differences := func() (all []string) {
		texts := []string{string(s.Get("/api/status")), page("/"), command("status"), metrics()}
		for name, c := range claims {
			for i, told := range c.told {
				if told == "" {
					continue
				}
				got := 0
				for _, found := range regexp.MustCompile(told).FindAllStringSubmatch(texts[i], -1) {
					var n int
					fmt.Sscan(found[1], &n)
					got += n
				}
				if got != c.want {
					all = append(all, fmt.Sprintf("%s of %s: %d, want %d", name, places[i], got, c.want))
				}
			}
			if c.filter != "" {
				if want := fmt.Sprintf(`role="status">%d`, c.want); !strings.Contains(page("/packages?filter="+strings.TrimSpace(c.filter)), want) {
					all = append(all, fmt.Sprintf("the page of %s packages does not list %d", name, c.want))
				}
			}
		}
		return all
	}
	var last []string
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(300 * time.Millisecond) { // lists are up to a second old
		if last = differences(); len(last) == 0 || time.Now().After(deadline) {
			break
		}
	}
	for _, each := range last {
		t.Error(each)
	}
	if t.Failed() {
		t.Logf("%s\n%s\n%s", s.Get("/api/status"), command("status"), page("/"))
	}

	// The next try: of a package that updates look at, of one that none does, and of a job.
	at := func(when *time.Time) string { return when.UTC().Format("2006-01-02T15:04") }
	stale := s.Info("pkg-01")
	if next := stale.LastSync.NextTryAt; next == nil || !next.After(time.Now()) {
		t.Errorf("pkg-01: next try at %v, want it later", next)
	} else if told := page("/pkg-01"); !strings.Contains(told, "The next update tries again") || !strings.Contains(told, at(next)) {
		t.Errorf("the page of pkg-01 does not say that the next try is at %s:\n%s", at(next), told)
	} else if told := command("info", "pkg-01"); !strings.Contains(told, "an update tries again, at the earliest") {
		t.Errorf("packbase info pkg-01 does not say when the next try is:\n%s", told)
	}
	if next := s.Info("typo").LastSync.NextTryAt; next != nil {
		t.Errorf("typo: next try at %v, want none: no catalog lists it", next)
	}
	if told := page("/typo"); !strings.Contains(told, "nothing tries again by itself") {
		t.Errorf("the page of typo does not say that nothing tries again:\n%s", told)
	}
	job := s.Job(paused)
	if told := page("/jobs/" + paused); !strings.Contains(told, "The next try is") || !strings.Contains(told, at(job.NextTryAt)) {
		t.Errorf("the page of the job does not say that the next try is at %s:\n%s", at(job.NextTryAt), told)
	}
	var same wire.Jobs
	if err := json.Unmarshal([]byte(command("jobs", "--package", "paused", "--json")), &same); err != nil || len(same.Jobs) != 1 ||
		same.Jobs[0].NextTryAt == nil || !same.Jobs[0].NextTryAt.Equal(*job.NextTryAt) {
		t.Errorf("packbase jobs: %+v, %v, want %v", same, err, job.NextTryAt)
	}
}
