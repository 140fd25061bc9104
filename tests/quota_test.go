package tests_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/tests/harness"
)

// What one package, and all of them, may take up has a limit, and what was
// published before it stays. What can be known is refused before the download.
func TestQuotas(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	noise := func(n int) string {
		b := make([]byte, n)
		random := rand.New(rand.NewPCG(1, 2))
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		return string(b)
	}
	// A megabyte that upstream sends once, under many names.
	many := up.Repo("many")
	commit := many.Commit(harness.Files{"noise": noise(1 << 20)})
	for i := range 40 {
		many.Tag(fmt.Sprintf("v1.%d.0", i), commit)
	}
	// fast-import makes each file a delta of the one before it, so Git has and sends 70 KB.
	bomb := up.Repo("bomb")
	bomb.Git("config", "fastimport.unpackLimit", "1")
	middle := strings.Repeat(noise(60<<10), 20)
	commit = bomb.Commit(harness.Files{"a": middle[:60<<10], "b": middle, "c": strings.Repeat(middle, 17)})
	for i := range 12 {
		bomb.Tag(fmt.Sprintf("v1.%d.0", i), commit)
	}
	// A message that upstream sends as 4 KB is in the manifest of each tag.
	told := up.Repo("told")
	told.Git("config", "fastimport.unpackLimit", "1")
	told.Commit(harness.Files{"a": "a", "b": "b"})
	commit = told.GitInput(strings.Repeat("m", 3<<20), "commit-tree", "-F", "-", "main^{tree}")
	for i := range 12 {
		told.Tag(fmt.Sprintf("v1.%d.0", i), commit)
	}
	few := up.Repo("few")
	for i := range 3 {
		few.Commit(harness.Files{fmt.Sprint("noise", i): noise(1<<18) + fmt.Sprint(i)})
		few.Release(fmt.Sprintf("v1.%d.0", i))
	}
	tests := []struct {
		env, repo, code string
		status, before  int // releases, at least
		early           bool
	}{
		{"PACKBASE_MAX_RELEASES=2", few.URL, "quota_releases", http.StatusUnprocessableEntity, 0, true},
		{"PACKBASE_MAX_PACKAGE_BYTES=1500KB", few.URL, "quota_package_bytes", http.StatusUnprocessableEntity, 1, false},
		{"PACKBASE_MAX_BYTES=1500KB", few.URL, "quota_bytes", http.StatusInsufficientStorage, 1, false},
		{"PACKBASE_MAX_RATIO=1B", many.URL, "quota_ratio", http.StatusUnprocessableEntity, 10, false},
		{"PACKBASE_MAX_RATIO=500B", bomb.URL, "quota_ratio", http.StatusUnprocessableEntity, 1, false},
		{"PACKBASE_MAX_RATIO=500B", told.URL, "quota_ratio", http.StatusUnprocessableEntity, 3, false},
		{"PACKBASE_MAX_PACKAGE_BYTES=10MB", told.URL, "quota_package_bytes", http.StatusUnprocessableEntity, 2, false},
		{"PACKBASE_MIN_FREE=1000TB", few.URL, "storage_full", http.StatusAccepted, 0, true},
	}
	for _, tt := range tests {
		s := harness.Start(t, tt.env)
		before := up.Requests()
		a := s.Do(http.MethodPost, "/api/fetch?wait=20", `{"url":"`+tt.repo+`"}`, nil)
		if tt.status == http.StatusAccepted { // it waits for room
			var jobs struct{ Jobs []wire.Job }
			(&harness.Answer{Body: s.Get("/api/jobs")}).Into(t, &jobs)
			if a.Status != tt.status || jobs.Jobs[0].Error.Code != tt.code {
				t.Errorf("%s: %d %s %+v", tt.env, a.Status, a.Body, jobs.Jobs)
			}
		} else if a.Status != tt.status || a.Code() != tt.code || !strings.Contains(string(a.Body), "PACKBASE_M") {
			t.Errorf("%s: %d %s, want %d %s", tt.env, a.Status, a.Body, tt.status, tt.code)
		}
		name := tt.repo[strings.LastIndex(tt.repo, "/")+1:]
		if n := s.Info(name).TarballCount; n < tt.before || n > max(2, tt.before*2) {
			t.Errorf("%s: %d releases, want at least %d and not all", tt.env, n, tt.before)
		}
		if n := up.Requests() - before; tt.early && tt.status != http.StatusAccepted && n != 1 {
			t.Errorf("%s: %d requests to upstream, want the list alone", tt.env, n)
		}
		s.Stop()
	}
}
