package deploy_test

import (
	"bytes"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/storage/engines"
	"github.com/francescobianco/packbase/tests/harness"
	"github.com/francescobianco/packbase/tests/harness/engine"
)

// OP-05: the commands of docs/backup.md, as they stand there, bring back
// what was there, while the server that is backed up goes on.
func TestBackup(t *testing.T) {
	t.Parallel()
	eng := engine.New(t, engines.Options{NoRedis: true})
	up := harness.NewUpstream(t)
	repo := up.Repo("hello")
	repo.Release("v1.0.0")
	s := harness.Start(t, eng.Env()...)
	s.Fetch(repo.URL)
	repo.Release("v1.1.0")
	s.Fetch(repo.URL)
	want := s.Info("hello")

	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "backup"), 0o755); err != nil {
		t.Fatal(err)
	}
	shell(t, dir, "backup", s.Root, s.DatabaseURL)
	repo.Release("v1.2.0") // is not in the backup's rows
	s.Fetch(repo.URL)
	shell(t, dir, "backup", s.Root, s.DatabaseURL) // again, into the same folder
	repo.Release("v1.2.5")                         // of which no more than the log is saved
	s.Fetch(repo.URL)
	shown := s.Log(5)
	if err := errors.Join(os.RemoveAll(filepath.Join(dir, "backup/log")), os.CopyFS(filepath.Join(dir, "backup/log"), os.DirFS(filepath.Join(s.Root, "log")))); err != nil {
		t.Fatal(err)
	}
	s.Stop()

	command(t, dir, nil, "psql", "-qc", "CREATE DATABASE restored", s.DatabaseURL)
	u, err := url.Parse(s.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/restored"
	root := filepath.Join(dir, "root")
	shell(t, dir, "restore", root, u.String())
	restored := harness.Start(t, "PACKBASE_ROOT="+root, "PACKBASE_DATABASE_URL="+u.String())
	got := restored.Info("hello")
	if len(got.Tarballs) != 3 {
		t.Errorf("restored %d releases, want 3", len(got.Tarballs))
	}
	for _, tag := range []string{"v1.0.0", "v1.1.0"} {
		if got, want := got.Release(t, tag).SHA256, want.Release(t, tag).SHA256; got != want {
			t.Errorf("%s: digest = %s, want %s", tag, got, want)
		}
		restored.Get("/p/hello/tag/" + tag + ".tar.gz")
	}
	if out, errs, err := harness.Run(t, restored.Env, "verify"); err != nil {
		t.Errorf("verify: %v\n%s%s", err, out, errs)
	}
	repo.Release("v1.3.0")
	if f := restored.Fetch(repo.URL); f.Created != 2 {
		t.Errorf("fetched %+v, want two new", f)
	}
	now := restored.Log(6)
	for i, e := range shown {
		if string(e.Text()) != string(now[i].Text()) {
			t.Errorf("entry %d of the log was\n%s\nand is\n%s", i, e.Text(), now[i].Text())
		}
	}
	if len(now) != 6 || now[5].Value("ref") != "refs/tags/v1.3.0" {
		t.Errorf("the log has %d entries, the last is\n%s", len(now), now[len(now)-1].Text())
	}
	if out, errs, err := harness.Run(t, restored.Env, "fsck"); err != nil {
		t.Errorf("fsck: %v\n%s%s", err, out, errs)
	}
}

// shell runs the commands that docs/backup.md has after a mark.
func shell(t *testing.T, dir, mark, root, databaseURL string) {
	t.Helper()
	doc, err := os.ReadFile("../../docs/backup.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)<!-- " + mark + " -->\n```sh\n(.*?)```").FindSubmatch(doc)
	if block == nil {
		t.Fatalf("docs/backup.md has no commands marked %s", mark)
	}
	bin := filepath.Join(t.TempDir(), "packbase")
	if err := os.Symlink(harness.Binary(t), bin); err != nil {
		t.Fatal(err)
	}
	env := []string{"PATH=" + filepath.Dir(bin) + ":" + os.Getenv("PATH"), "PACKBASE_ROOT=" + root, "PACKBASE_DATABASE_URL=" + databaseURL}
	command(t, dir, env, "bash", "-euc", string(block[1]))
}

func command(t *testing.T, dir string, env []string, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir, cmd.Env = dir, env
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out.String())
	}
}
