package edges

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/francescobianco/packbase/storage/engines"
	"github.com/francescobianco/packbase/tests/harness"
	"github.com/francescobianco/packbase/tests/harness/engine"
)

// tool runs a program and returns what it printed.
func tool(t *testing.T, stdin []byte, name string, args ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("there is no %s", name)
	}
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, errs.String())
	}
	return out.Bytes()
}

// OP-05. A dump of the database and then a copy of the blobs, both taken while
// packages are mirrored, are a whole registry on an empty host: nothing that
// was acknowledged before the dump is lost, and jobs that were open go on.
func TestBackup(t *testing.T) {
	t.Parallel()
	long(t)
	up := harness.NewUpstream(t)
	postgres := engine.New(t, engines.Options{NoRedis: true})
	s := harness.Start(t, postgres.Env()...)
	repos := make([]*harness.Repo, 4)
	for i := range repos {
		repos[i] = up.Repo(fmt.Sprintf("pkg%d", i))
		repos[i].Annotate("v1.0.0", repos[i].Release("v1.0.0"))
		s.Fetch(repos[i].URL)
	}
	stop, jobs := publishUntil(t, s, repos)
	harness.Eventually(t, "some releases are written", func() bool { return len(jobs()) > 6 })
	before, acknowledged := served(t, s), jobs()

	dump := tool(t, nil, "pg_dump", "--no-owner", s.DatabaseURL)
	root := filepath.Join(t.TempDir(), "restored")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	tool(t, nil, "cp", "-a", filepath.Join(s.Root, "blobs"), root)
	stop()

	other := engine.New(t, engines.Options{NoRedis: true})
	tool(t, dump, "psql", "--quiet", "--set", "ON_ERROR_STOP=1", other.DatabaseURL)
	env := append(other.Env(), "PACKBASE_ROOT="+root)
	for _, command := range []string{"fsck", "verify"} {
		if out, stderr, err := harness.Run(t, env, command); err != nil {
			t.Errorf("%v\n%s%s", err, out, stderr)
		}
	}
	restored := harness.Start(t, env...)
	within(t, before, served(t, restored))
	for _, id := range acknowledged {
		if j := restored.WaitJob(id); j.State != "succeeded" {
			t.Errorf("job %s = %s %+v, want succeeded", id, j.State, j.Error)
		}
	}
	for _, repo := range repos {
		s.Fetch(repo.URL)
		restored.Fetch(repo.URL)
	}
	here, there := served(t, restored), served(t, s)
	for key := range here {
		// Manifests say when a release was published, tarballs never differ.
		if here[key] != there[key] {
			t.Errorf("%s = %s where it was restored, %s where it was not", key, here[key], there[key])
		}
	}
	restored.Stop()
	clean(t, restored)
}

// publishUntil releases and mirrors until stop is called. jobs returns the ids
// of those acknowledged so far.
func publishUntil(t *testing.T, s *harness.Server, repos []*harness.Repo) (stop func(), jobs func() []string) {
	t.Helper()
	var mu sync.Mutex
	var ids []string
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; ; n++ {
			select {
			case <-quit:
				return
			default:
			}
			repo := repos[n%len(repos)]
			repo.Release(fmt.Sprintf("v2.%d.0", n))
			a, err := s.TryDo("POST", "/api/fetch", `{"url":"`+repo.URL+`"}`, nil)
			if err != nil || a.Status != 202 {
				t.Errorf("fetch: %v %+v", err, a)
				return
			}
			var job struct {
				ID string `json:"job_id"`
			}
			decode(t, a.Body, &job)
			mu.Lock()
			ids = append(ids, job.ID)
			mu.Unlock()
		}
	}()
	stop = sync.OnceFunc(func() {
		close(quit)
		<-done
	})
	t.Cleanup(stop)
	return stop, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return strings.Fields(strings.Join(ids, " "))
	}
}
