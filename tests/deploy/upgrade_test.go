package deploy_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/tests/harness"
)

// The release before goes on while the schema changes under it, does its work
// on the new one, and hands over to the new release; nothing that was served
// is another thing afterwards. It can be gone back to.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	old, source := previousRelease(t)
	const binary = "PACKBASE_TEST_BINARY="
	up := harness.NewUpstream(t)
	repo, other := up.Repo("hello"), up.Repo("other")
	repo.Release("v1.0.0")
	other.Release("v1.0.0")
	s := harness.Start(t, binary+old)
	s.Fetch(repo.URL)
	u := &upgrade{t, s, map[string]string{}}
	u.wantReleases("the old release", 1)

	if _, stderr, err := harness.Run(t, append(s.Env, binary+harness.Binary(t)), "migrate"); err != nil {
		t.Fatalf("%v\n%s", err, stderr)
	}
	u.wantReleases("the old release, on the new schema", 1)
	repo.Release("v1.1.0")
	s.Fetch(repo.URL)
	s.Fetch(other.URL)
	if a := s.Do("POST", "/api/update?wait=300", "", nil); a.Status != 200 {
		t.Errorf("update by the old release on the new schema: %d %s", a.Status, a.Body)
	}
	u.wantReleases("the old release, after work on the new schema", 2)

	s.Worker.Use(binary + harness.Binary(t))
	s.Worker.Restart()
	s.AwaitWorker(s.Worker)
	repo.Release("v1.2.0")
	s.Fetch(repo.URL)
	u.wantReleases("the old api beside the new worker", 3)
	s.API.Use(binary + harness.Binary(t))
	s.API.Restart()
	s.AwaitReady()
	u.wantReleases("the new release", 3)
	if stdout, stderr, err := harness.Run(t, append(s.Env, binary+harness.Binary(t)), "fsck"); err != nil {
		t.Errorf("%v\n%s%s", err, stdout, stderr)
	}

	// Releases before that step refused every newer schema.
	if _, err := os.Stat(filepath.Join(source, "migrations", "0012_needs.sql")); err != nil {
		t.Log("the old release is too old to start on a newer schema")
		return
	}
	s.Worker.Use(binary + old)
	s.API.Use(binary + old)
	s.Restart()
	repo.Release("v1.3.0")
	s.Fetch(repo.URL)
	u.wantReleases("the old release again", 4)
}

// An upgrade keeps what was served, by path.
type upgrade struct {
	t      *testing.T
	s      *harness.Server
	served map[string]string
}

// look checks that so many releases of hello are served, each with the bytes
// it always had, and that Git lists them.
func (u *upgrade) wantReleases(state string, releases int) {
	u.t.Helper()
	info := u.s.Info("hello")
	if len(info.Tarballs) != releases {
		u.t.Errorf("%s: %d releases, want %d", state, len(info.Tarballs), releases)
	}
	refs, err := harness.Git(u.t, u.t.TempDir(), "", "ls-remote", "--tags", u.s.URL+"/hello")
	if err != nil {
		u.t.Errorf("%s: %v", state, err)
	}
	for _, r := range info.Tarballs {
		sum := sha256.Sum256(u.s.Get(r.URL))
		got := fmt.Sprint(hex.EncodeToString(sum[:]), r.Commit, r.Zig.Hash)
		if was, ok := u.served[r.URL]; ok && was != got {
			u.t.Errorf("%s: %s is %s, was %s", state, r.URL, got, was)
		}
		u.served[r.URL] = got
		if !strings.Contains(refs, r.Commit+"\trefs/tags/"+r.Tag) {
			u.t.Errorf("%s: git lists %s, want %s at %s", state, refs, r.Tag, r.Commit)
		}
	}
}

// previousRelease builds the release before, and returns the program and its
// source: the last tag, or where there is none yet, what was there before the
// newest step of the schema. Without Git's history the test is skipped.
func previousRelease(t *testing.T) (binary, source string) {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	git := func(args ...string) string {
		out, err := exec.Command("git", append([]string{"-C", root}, args...)...).Output()
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(out))
	}
	commit := git("describe", "--tags", "--abbrev=0", "HEAD^")
	if commit == "" {
		steps, err := filepath.Glob(filepath.Join(root, "migrations", "*.sql"))
		if err != nil || len(steps) == 0 {
			t.Fatalf("no migrations: %v", err)
		}
		commit = "HEAD" // the newest step is not committed yet
		if added := git("log", "-1", "--diff-filter=A", "--format=%H", "--", slices.Max(steps)); added != "" {
			commit = added + "^"
		}
	}
	if commit = git("rev-parse", "--verify", "--quiet", commit+"^{commit}"); commit == "" {
		t.Skip("the release before cannot be had: no Git history that goes so far back")
	}
	dir := t.TempDir()
	source, binary = filepath.Join(dir, "source"), filepath.Join(dir, "packbase")
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // for tests that run it as another user
		t.Fatal(err)
	}
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("sh", "-ec", `git -C "$1" archive "$2" | tar -x -C "$3"; cd "$3"; go build -buildvcs=false -o "$4" ./cmd/packbase`,
		"sh", root, commit, source, binary)
	if out, err := build.CombinedOutput(); err != nil {
		if strings.Contains(string(out), "dial tcp") || strings.Contains(string(out), "module lookup disabled") {
			t.Skipf("the release before cannot be built here: its modules cannot be had\n%s", out)
		}
		t.Fatalf("build %s: %v\n%s", commit, err, out)
	}
	t.Logf("the release before is %s", commit)
	return binary, source
}
