package tests

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/tests/harness"
)

// SIGHUP has a server read its settings again: it takes what it can, names what needs a restart, and a mistake changes nothing.
func TestReload(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "packbase.toml")
	write := func(lines string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(lines), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("log = \"text,info\"\nmax-tags = 100\n")
	s := harness.Start(t, "PACKBASE_LOG=", "PACKBASE_CONFIG="+file)
	again := func(lines, said string) {
		t.Helper()
		write(lines)
		for _, p := range []*harness.Process{s.API, s.Worker} {
			p.Signal(syscall.SIGHUP)
			harness.Eventually(t, "both say "+said, func() bool { return p.Said(said) })
		}
	}
	ask := func(path string) { s.Do(http.MethodGet, path, "", nil) }
	again("log = \"text,warn\"\nmax-tags = 100\n", `msg="settings read again" changed=log "need a restart"=""`)
	ask("/api/info/hushed")
	again("log = \"text,shout\"\n", "all stay as they are")
	ask("/api/info/hushed")
	again("log = \"text,info\"\nmax-tags = 200\n", `changed=log "need a restart"=max-tags`)
	ask("/api/info/loud")
	harness.Eventually(t, "requests are logged", func() bool { return s.API.Said("path=/api/info/loud") })
	if s.API.Said("path=/api/info/hushed") {
		t.Error("a request is logged although warnings alone were to be")
	}

	// An update starts by itself once there is an interval, and the next one waits for the cooldown.
	again("log = \"text,info\"\nmax-tags = 200\nupdate-interval = \"1h\"\nupdate-cooldown = \"2h\"\n", `changed=update-cooldown,update-interval "need a restart"=max-tags`)
	harness.Eventually(t, "an update has ended", func() bool {
		var st wire.Status
		s.Do(http.MethodGet, "/api/status", "", nil).Into(t, &st)
		return st.Update.EndedAt != nil
	})
	var asked wire.Update
	if s.Do(http.MethodPost, "/api/update", "", nil).Into(t, &asked); asked.RetryAfter < 3600 {
		t.Errorf("the next update is to wait %d s, want most of two hours", asked.RetryAfter)
	}

	// A quota holds for what is asked from now on, and is raised as it is set.
	up := harness.NewUpstream(t)
	repo := up.Repo("grown")
	repo.Release("v0.1.0")
	repo.Release("v0.2.0")
	again("log = \"text,info\"\nmax-tags = 200\nmax-releases = 1\n", `changed=update-cooldown,update-interval,max-releases`)
	if a := s.TryFetch(up.URL + "/grown"); !strings.Contains(string(a.Body), "quota_releases") {
		t.Errorf("two releases where one is allowed: %d %s", a.Status, a.Body)
	}
	again("log = \"text,info\"\nmax-tags = 200\n", `changed=max-releases`)
	if n := s.Fetch(up.URL + "/grown").Created; n != 2 {
		t.Errorf("%d releases were mirrored when the quota was raised, want 2", n)
	}
}
