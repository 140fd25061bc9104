package tests_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/tests/harness"
)

// All that is published is in the log, as a stranger reads it with other people's tools, and stays there: through kills, with
// another worker, and without its key.
func TestLog(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, "PACKBASE_NAMES=127.0.0.1,mirror.example", "PACKBASE_LOG_NAME=mirror.example/log")
	up := harness.NewUpstream(t)
	repo := up.Repo("hello")
	first := repo.Release("v1.0.0")
	repo.Release("v1.1.0")
	s.Fetch(repo.URL)
	info := s.Info("hello")
	entries := s.Log(3)
	if len(entries) != 3 || entries[0].Kind() != "claim" || entries[0].Value("name") != "hello" {
		t.Fatalf("the log has %d entries, the first is %v", len(entries), entries[0])
	}
	rel := info.Release(t, "v1.0.0")
	want := fmt.Sprintf("packbase/1 release\nupstream %s\nref refs/tags/v1.0.0\ncommit %s\ntree %s\ncontent sha256:%s\ntarball sha256:%s %d\n",
		info.Upstream, rel.Commit, rel.Tree, rel.ContentDigest, rel.SHA256, rel.Size)
	if got := string(entries[1].Text()); rel.Commit != first || !strings.HasPrefix(got, want) {
		t.Errorf("the entry is\n%s\nwant\n%s", got, want)
	}
	if !bytes.HasPrefix(s.Get("/log/checkpoint"), []byte("mirror.example/log\n3\n")) {
		t.Errorf("the checkpoint is\n%s", s.Get("/log/checkpoint"))
	}

	// What becomes of it is logged, too.
	repo.Tag("v1.0.0", repo.Commit(harness.Files{"b.zig": ""}))
	s.Fetch(repo.URL)
	if e := s.Log(4)[3]; e.Kind() != "moved" || e.Value("old") != rel.Commit {
		t.Errorf("after a tag was moved:\n%s", e.Text())
	}
	s.Do(http.MethodPost, "/api/remove", `{"package":"hello","tag":"v1.0.0","reason":"it held a key"}`, nil)
	if e := s.Log(5)[4]; e.Kind() != "withdrawn" || strings.Contains(string(e.Text()), "held") {
		t.Errorf("after a removal:\n%s", e.Text())
	}

	for i := range 3 { // nothing of it is lost, whenever the worker dies
		repo.Release(fmt.Sprintf("v2.0.%d", i))
		s.Fetch(repo.URL)
		s.Worker.Kill9()
		s.Worker.Start()
	}
	if all := s.Log(8); len(all) != 8 || all[7].Value("ref") != "refs/tags/v2.0.2" {
		t.Errorf("the log has %d entries, the last is\n%s", len(all), all[len(all)-1].Text())
	}
	out, errs, err := harness.Run(t, s.Env, "log", "key")
	if err != nil || "log "+out+"quorum none\n" != string(s.Get("/log/policy")) {
		t.Errorf("log key: %v\n%s%s", err, out, errs)
	}
	if out, errs, err := harness.Run(t, s.Env, "fsck"); err != nil {
		t.Errorf("fsck: %v\n%s%s", err, out, errs)
	}

	// Without its key the log stands still; everything else goes on, and it catches up.
	key := filepath.Join(s.Root, "log.key")
	if err := os.Rename(key, key+".away"); err != nil {
		t.Fatal(err)
	}
	s.Worker.Stop()
	s.Worker.Start()
	repo.Release("v3.0.0")
	s.Fetch(repo.URL)
	harness.Eventually(t, "the worker says that it has no key", func() bool { return s.Worker.Said("the log stands still") })
	if out, _, err := harness.Run(t, s.Env, "doctor"); err == nil || !strings.Contains(out, "bring that file back") {
		t.Errorf("doctor says nothing of the key: %v\n%s", err, out)
	}
	if n := len(s.Log(1)); n != 8 {
		t.Errorf("the log has %d entries, want the 8 that it had", n)
	}
	if err := os.Rename(key+".away", key); err != nil {
		t.Fatal(err)
	}
	if all := s.Log(9); all[8].Value("ref") != "refs/tags/v3.0.0" {
		t.Errorf("the last entry is\n%s", all[8].Text())
	}
}
